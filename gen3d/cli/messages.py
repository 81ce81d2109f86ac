"""What commands say: progress, results, and one line for each thing that went wrong."""

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen3d.core.error import UserError

if TYPE_CHECKING:
    from gen3d.tools.evaluate.report import Report

EXTRAS = {
    "monai": "metrics",
    "scipy": "metrics",
    "SimpleITK": "align",
    "torchmetrics": "metrics",
    "diffusers": "diffusers",
    "huggingface_hub": "hub",
    "nilearn": "phantom",
    "pydicom": "dicom",
}
Advance = Callable[[float, str], None]


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Show a bar; yields a function that takes the share done and a few words."""
    from gen3d.tools.progress import progress_bar

    with progress_bar(what, 1000) as advance:
        yield lambda share, words: advance(round(1000 * share), words)


def note(words: str) -> None:
    """Say something beside the results."""
    print(words, file=sys.stderr)


def wrote(place: object, *, dry_run: bool) -> None:
    """Print what was written, or would be."""
    print(f"would write {place}" if dry_run else str(place))


@contextmanager
def telling(
    what: str, summary: Callable[[Mapping[str, Any]], list[str]], out: Path, *, dry_run: bool, debug: bool
) -> Iterator[dict[str, Any]]:
    """Yield what a tool that serves several cases is given to tell of them by: advance, done, failed, note.

    Args:
        what: The tool.
        summary: What is printed of a finished case.
        out: The output folder.
        dry_run: Nothing lies there.
        debug: Show the traceback of each error.
    """

    def done(row: Mapping[str, Any]) -> None:
        print("\n".join([*summary(row), *([] if dry_run else [f"  in {out / row['place']}"])]))

    with progress(what) as advance:
        yield {"advance": advance, "done": done, "failed": warned(debug=debug), "note": note}


def warned(*, debug: bool) -> Callable[[str, Exception], None]:
    """Return what tells of a case that failed."""

    def failed(case: str, error: Exception) -> None:
        print(f"gen3d: {case}: {one_line(error)}", file=sys.stderr)
        if debug:
            traceback.print_exception(error)

    return failed


def one_line(error: BaseException) -> str:
    """Return an error as one line; where it is not the user's, with its kind."""
    if hasattr(error, "format_message"):  # typer's own: an unknown option, a missing argument
        context = getattr(error, "ctx", None)
        return f"{' '.join(error.format_message().split())} (see {context.command_path if context else 'gen3d'} --help)"
    said = " ".join(str(error).split())
    if isinstance(error, UserError):
        return said
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"needs the package {error.name}: pip install 'gen3d[{EXTRAS[error.name]}]'"
    kind = type(error).__name__
    return f"{kind}: {said[:300]} (--debug shows where)" if said else f"{kind} (--debug shows where)"


def present(evaluated: "Callable[[Advance], Report | str]", out: Path) -> None:
    """Evaluate with a progress bar, write the report into its folder, then print it; or print what is to be done."""
    from gen3d.tools.evaluate.cache import gone_if_failed
    from gen3d.tools.evaluate.report import RESULTS, SUMMARY, deliver, show

    with progress("evaluate") as advance, gone_if_failed(out):
        report = evaluated(advance)
        if not isinstance(report, str):
            deliver(report, out)
    if isinstance(report, str):
        print(report)
        return
    show(report)
    print(f"{out / RESULTS}\n{out / SUMMARY}")
