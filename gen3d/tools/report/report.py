"""``gen3d report``: one HTML page of what a tool wrote, to look at in any browser, and contact sheets without one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gen3d.core.error import UsageError, UserError
from gen3d.tools.outcomes import put
from gen3d.tools.report.found import Found, find
from gen3d.tools.report.niivue import niivue
from gen3d.tools.report.originals import Originals, complete
from gen3d.tools.report.page import GENERATOR, page
from gen3d.tools.report.panels import Ready, ready

PAGE = "report.html"
LARGEST = 60_000_000  # bytes of a page; browsers get slow above
TEXT = 1_000_000  # bytes that all but images and the 3D viewer take at most


@dataclass(frozen=True, eq=False)
class Reported:
    """What came of a report.

    Attributes:
        path: The page.
        sheets: The contact sheets.
        found: All that is in the folder.
        shown: The cases on the page, worst first.
        bytes: How large the page is.
    """

    path: Path
    sheets: tuple[Path, ...]
    found: Found
    shown: tuple[Ready, ...]
    bytes: int

    def lines(self, *, dry_run: bool) -> list[str]:
        """Return what is printed."""
        cases = [f"{one.case.name} ({one.case.tool}): {len(one.panels)} panels" for one in self.shown]
        if not dry_run:
            return [str(self.path), *map(str, self.sheets)]
        return [*cases, f"{self.path}: would be written, {self.bytes / 1e6:.1f} MB"]


def report(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    source: Path | str | None = None,
    count: int = 6,
    sheet: bool = False,
    dry_run: bool = False,
    largest: int = LARGEST,
    advance: Callable[[float, str], None] = lambda share, words: None,
    note: Callable[[str], None] = lambda words: None,
) -> Reported:
    """Write one self-contained page of all that a tool wrote into a folder; worst cases first, results untouched.

    Args:
        folder: What any tool was given by -o.
        out: The page; by default ``report.html`` in the folder.
        source: What the tool was given by -i: results name the original scans, but don't hold them.
        count: How many cases are shown.
        sheet: Whether a PNG contact sheet of each of them is written beside the page.
        dry_run: Whether everything is read and nothing is written.
        largest: Bytes of the page; cases, samples and voxels beyond it are left out, and the page says so.
        advance: Told the share done and what is being done.
        note: Told in words what a user should know.

    Raises:
        UserError: The folder is absent, empty or holds nothing of gen3d's, or the page can't be written there.
    """
    folder = Path(folder)
    out = Path(out) if out is not None else folder / PAGE
    if count < 1:
        raise UsageError(f"--cases {count}: expected at least 1")
    found = find(folder)
    protect(out)
    originals = None if source is None else Originals(Path(source))
    viewer, missing = niivue()
    notes = [missing] if missing else []
    room = largest - len(viewer or "") - TEXT
    seen = [case for case in found.cases if case.images][:count]
    shown: list[Ready] = []
    for index, case in enumerate(seen):
        advance(index / len(seen), case.name)
        one = ready(case, complete(case, originals), room, coarse=not shown)
        if one is None:
            break
        room -= one.size
        shown.append(one)
    if not shown:
        shown = [Ready(case) for case in found.cases[:count]]
    left = sum(bool(case.images) for case in found.cases) - sum(bool(one.panels) for one in shown)
    if left > 0:
        why = f"--cases {count}" if len(shown) == count else f"the page would be larger than {largest // 1_000_000} MB"
        notes.append(f"{left} more case{'' if left == 1 else 's'} not shown ({why}); the worst are shown first")
    if originals is None and any("sources" in one.case.facts or "source" in one.case.facts for one in shown):
        notes.append("The scans that these were made from are not shown: name them by -i, as the tool was given them")
    for words in notes:
        note(words)
    text = page(found, shown, notes, viewer)
    sheets: tuple[Path, ...] = ()
    if not dry_run:
        put(out, text, "part")
        if sheet:
            from gen3d.tools.report.sheet import contact_sheets

            sheets = contact_sheets(out, shown)
            if not sheets:
                note(f"{folder}: holds no images, so there is no contact sheet")
    advance(1.0, "")
    return Reported(out, sheets, found, tuple(shown), len(text.encode()))


def protect(out: Path) -> None:
    """Check that a page may be written.

    Raises:
        UserError: There is a folder or another's file, or it would not be HTML.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {out}: expected a file name that ends in .html")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; expected a file name such as report.html")
    if out.is_file() and GENERATOR.split()[0] not in out.read_text(errors="replace")[:200]:
        raise UserError(f"{out}: exists, and gen3d did not write it; it is left alone; choose another -o")
