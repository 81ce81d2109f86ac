"""What a folder of results holds: images with their records, tables and pictures, by case, worst first."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen3d.core.error import UserError
from gen3d.data.nifti import ENDINGS, without_ending
from gen3d.tools.delivery import read_sidecar
from gen3d.tools.outcomes import RECORDS, TABLE, Outcome, read_outcome
from gen3d.tools.report.images import Image, Tree, written
from gen3d.tools.report.tables import Table, augmented, evaluated, listed, methods

EXPECTED = "expected a folder that gen3d wrote: a JSON file beside each image, cases.csv or results.json"
WORST = ("failed", "given up", "refused", "outside", "made", "accepted", "complete")


@dataclass(frozen=True, eq=False)
class Case:
    """All that was written of one case.

    Attributes:
        name: What it is called.
        tool: The command that wrote it.
        folder: Where its images are.
        images: With their records.
        outcome: What cases/CASE.json says of it, if it is there.
        pictures: PNG files that are no mere preview of the images.
        records: JSON files that belong to no image.
    """

    name: str
    tool: str
    folder: Path
    images: tuple[Image, ...]
    outcome: Outcome | None = None
    pictures: tuple[Path, ...] = ()
    records: tuple[Tree, ...] = ()

    @property
    def facts(self) -> Tree:
        """What the record of its main image says, or of anything."""
        first = [image.record for image in self.images if image.role == "output" and not image.group]
        return next(iter([*first, *(image.record for image in self.images), *self.records]), {})

    @property
    def status(self) -> str:
        """What became of it, in a word; empty where nothing says."""
        if self.outcome is not None:
            return self.outcome.status
        if "status" in self.facts:
            return str(self.facts["status"])
        return "outside" if self.facts.get("outside_training") else ""

    @property
    def rank(self) -> tuple[int, float, str]:
        """What sorts cases worst first: by status, then as cases.csv does where there is one."""
        place = WORST.index(self.status) if self.status in WORST else WORST.index("made")
        return place, self.outcome.rank[1] if self.outcome else 0.0, self.name


@dataclass(frozen=True, eq=False)
class Found:
    """A folder of results.

    Attributes:
        folder: Which.
        cases: Those that have images, or of which a record tells; worst first.
        tables: Of all of them, evaluations', data sets'.
        pictures: Of all of them.
        warnings: What a reader must know first.
        settings: What evaluations and data sets were asked, by title.
    """

    folder: Path
    cases: tuple[Case, ...]
    tables: tuple[Table, ...] = ()
    pictures: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: dict[str, Tree] = field(default_factory=dict)

    @property
    def tools(self) -> list[str]:
        """The commands that wrote it."""
        return list(dict.fromkeys([*(case.tool for case in self.cases), *self.settings]))


def find(folder: Path) -> Found:
    """Read what a folder holds.

    Raises:
        UserError: It is absent, no folder, empty, or holds nothing of gen3d's.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; {EXPECTED}")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; {EXPECTED}")
    if next(folder.iterdir(), None) is None:
        raise UserError(f"{folder}: is empty; {EXPECTED}")
    trees = dict(records(folder))
    if not trees and not (folder / TABLE).is_file():
        raise UserError(f"{folder}: holds nothing that gen3d wrote; {EXPECTED}")
    return with_the_rest(Found(folder, tuple(sorted(cases(folder, trees), key=lambda case: case.rank))), trees)


def records(folder: Path) -> Iterator[tuple[Path, Tree]]:
    """Yield the JSON files below a folder that gen3d wrote."""
    for path in sorted(folder.rglob("*.json")):
        inside = path.relative_to(folder).parts
        if any(part.startswith(".") or part == "cache" for part in inside):
            continue
        try:
            tree = read_sidecar(path) or json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(tree, dict) and (tree.get("synthetic") is True or {"evaluation", "gen3d"} <= tree.keys()):
            yield path, tree


def cases(folder: Path, trees: dict[Path, Tree]) -> list[Case]:
    """Group records by case."""
    outcomes = {folder / told.place: told for told in outcomes_of(folder)}
    gathered: dict[tuple[Path, str], tuple[str, list[Image], list[Tree]]] = {}
    for path, tree in trees.items():
        if "results" in tree or "evaluation" in tree:
            continue
        home = path.parent.parent if "attempts" in tree else path.parent
        _, made, others = gathered.setdefault((home, case_of(path, tree)), (tool_of(tree), [], []))
        file = home / Path(str(tree.get("file"))).name
        if "attempts" in tree:
            made += pair(home, tree)
            others.append(tree)
        elif "report_of" not in tree and file.is_file() and file.name.endswith(ENDINGS):
            made.append(written(file, tree))
        else:
            others.append(tree)
    found = [
        Case(name, tool, home, tuple(made), outcomes.pop(home, None), pictures(others, home), tuple(others))
        for (home, name), (tool, made, others) in gathered.items()
    ]
    return [*found, *(Case(told.case, "synthesize", place, (), told) for place, told in outcomes.items())]


def outcomes_of(folder: Path) -> list[Outcome]:
    """Return what became of the cases of an archive."""
    found = (read_outcome(path) for path in sorted((folder / RECORDS).rglob("*.json")))
    return [outcome for outcome in found if outcome is not None]


def tool_of(tree: Tree) -> str:
    """Return the command that wrote a record."""
    marks = {
        "attempts": "augment",
        "segmented": "segment",
        "patient": "forecast",
        "kernel": "standardize",
        "against_given_image": "reconstruct",
        "sources": "synthesize",
    }
    return next((tool for mark, tool in marks.items() if mark in tree), "generate")


def case_of(path: Path, tree: Tree) -> str:
    """Return the name of the case that a record is of."""
    tool = tool_of(tree)
    if tool == "augment":
        return str(tree["case"])
    if tool == "synthesize":
        return path.parent.name
    if tool == "generate":
        stem, contrast = without_ending(Path(str(tree.get("file", path.stem)))), f"_{tree.get('contrast')}"
        return stem.removesuffix(contrast)
    if tool == "standardize":
        return without_ending(Path(str(next(iter(tree.get("sources") or [path.stem])))))
    key = {"segment": "segmented", "forecast": "patient", "reconstruct": "contrast"}[tool]
    return str(tree[key])


def pair(home: Path, tree: Tree) -> list[Image]:
    """Return image and mask of a case of a data set."""
    made = []
    for name in tree.get("sha256", {}):
        mask = "labels" in Path(name).parent.as_posix()
        if (home / name).is_file():
            title = "mask" if mask else without_ending(Path(name))
            made.append(Image(title, "output", "mask" if mask else "image", True, home / name, "", tree))
    return made


def pictures(trees: list[Tree], folder: Path) -> tuple[Path, ...]:
    """Return the PNG files that records of no image name."""
    named = (folder / str(tree["file"]) for tree in trees if str(tree.get("file", "")).endswith(".png"))
    return tuple(path for path in named if path.is_file())


def with_the_rest(found: Found, trees: dict[Path, Tree]) -> Found:
    """Add tables and pictures of all cases."""
    tables: list[Table] = []
    shots: list[Path] = []
    warnings: list[str] = []
    settings: dict[str, Any] = dict(found.settings)
    if (found.folder / TABLE).is_file():
        rows = list(csv.reader((found.folder / TABLE).read_text().splitlines()))
        if len(rows) > 2:  # a single case's figures stand at the case
            tables.append(listed("Cases, worst first", rows))
    tables += methods(found.folder)
    for path, tree in trees.items():
        if "evaluation" in tree:
            tables += evaluated(tree)
            warnings += map(str, tree.get("warnings", []))
            settings[f"evaluate {tree['evaluation']}"] = tree.get("settings", {})
            shots += [path.parent / "summary.png"]
        elif "results" in tree:
            tables.append(outcomes_table(tree))
    for run in sorted(found.folder.rglob("run.json")):
        if (run.parent / "provenance").is_dir():
            tables += augmented(run.parent)
            settings["augment"] = json.loads(run.read_text())
    shots += sorted(found.folder.rglob("contact-sheet.png"))
    there = tuple(path for path in dict.fromkeys(shots) if path.is_file())
    return Found(found.folder, found.cases, tuple(tables), there, tuple(warnings), settings)


def outcomes_table(tree: Tree) -> Table:
    """Return the table of a --report of several cases."""
    rows = [row for row in tree["results"] if isinstance(row, dict)]
    rank = {status: index for index, status in enumerate(WORST)}
    rows.sort(key=lambda row: rank.get(str(row.get("status")), len(WORST)))
    names = [name for name in ("case", "patient", "status", "reason", "place") if any(name in row for row in rows)]
    cells = [tuple(str(row.get(name, "")) for name in names) for row in rows]
    return Table("Cases, worst first", tuple(names), cells)
