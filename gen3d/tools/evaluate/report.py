"""What an evaluation says: tables on the terminal, ``results.json`` and ``summary.png`` in its folder."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gen3d import __version__
from gen3d.core.checkpoint import read_json
from gen3d.core.error import UserError
from gen3d.data.atomic import appearing
from gen3d.tools.preview import BACKGROUND

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS, SUMMARY = "results.json", "summary.png"
UNDEFINED = "–"
Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of figures under a title; a cell that is None has no defined value and is shown as a dash.

    Attributes:
        title: What is measured.
        columns: Their heads.
        rows: As wide as the columns.
        notes: Conventions and reservations, printed below.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that an evaluation found.

    Attributes:
        command: "generation", "pairs", "segmentation", "ambiguous".
        settings: What was asked and how it was measured.
        tables: What is printed.
        facts: Everything measured, as a JSON tree; an undefined value is null.
        warnings: What a reader must know first, one line each.
        draw: Fills the picture's empty figure.
        files: Contents of other files of the folder, by name.
        details: Further tables, too long for a terminal.
    """

    command: str
    settings: Mapping[str, Any]
    tables: Sequence[Table]
    facts: Mapping[str, Any]
    draw: "Callable[[Figure], None]"
    warnings: Sequence[str] = field(default_factory=list)
    files: Mapping[str, bytes] = field(default_factory=dict)
    details: Sequence[Table] = ()


def deliver(report: Report, out: Path) -> None:
    """Write ``results.json``, ``summary.png`` and what belongs to them into a folder, all or nothing.

    Raises:
        UserError: The folder holds files of these names that no evaluation wrote, or can't be written.
    """
    protect(out, *report.files)
    with ExitStack() as stack:
        results, summary = (stack.enter_context(appearing(out / name)) for name in (RESULTS, SUMMARY))
        for name, content in report.files.items():
            stack.enter_context(appearing(out / name)).write_bytes(content)
        results.write_text(json.dumps(as_tree(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        draw(report, summary)


def protect(out: Path, *names: str) -> None:
    """Check that an evaluation may write into a folder, before the long work.

    Args:
        out: The folder.
        names: Of files that go beside results and picture.

    Raises:
        UserError: The folder is a file, or holds a file of one of our names that no evaluation wrote.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write into; choose another -o")
    if (out / RESULTS).exists() and not is_ours(out / RESULTS):
        raise UserError(f"{out / RESULTS}: exists, and gen3d did not write it; it is left alone; choose another -o")
    for name in (SUMMARY, *names):
        if (out / name).exists() and not (out / RESULTS).exists():
            raise UserError(f"{out / name}: exists without {RESULTS}, so gen3d did not write it; choose another -o")


def forbid_none(found: Mapping[str, Any], failed: Mapping[str, str], what: str) -> None:
    """Check that something could be scored.

    Args:
        found: What was, by name.
        failed: Why not, by name.
        what: Each is, in the plural.

    Raises:
        UserError: Nothing was.
    """
    if not found:
        first = next(iter(failed.values()))
        said = f"none of {len(failed)} {what} can be scored; the first: {first}"
        raise UserError(first if len(failed) == 1 else said)


def is_ours(path: Path) -> bool:
    """Tell whether a JSON file is an evaluation's."""
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and "gen3d" in tree and "evaluation" in tree


def is_results(path: Path) -> bool:
    """Tell whether a path is an earlier evaluation, a ``results.json`` or its folder, rather than images."""
    return path.suffix == ".json" or (path / RESULTS).is_file()


def read_results(path: Path, command: str) -> dict[str, Any]:
    """Read an earlier evaluation, a ``results.json`` or its folder.

    Raises:
        UserError: It is no evaluation of this kind.
    """
    path = path / RESULTS if path.is_dir() else path
    tree = read_json(path)
    if tree.get("evaluation") != command:
        found = tree.get("evaluation", "no evaluation")
        raise UserError(f"{path}: {found}; expected the {RESULTS} of an earlier gen3d evaluate {command}")
    return tree


def as_tree(report: Report) -> dict[str, Any]:
    """Return what ``results.json`` holds."""
    return {
        "gen3d": __version__,
        "evaluation": report.command,
        "settings": plain(report.settings),
        "warnings": list(report.warnings),
        "tables": plain([*report.tables, *report.details]),
        **plain(report.facts),
    }


def plain(value: Any) -> Any:
    """Turn tensors, arrays, paths, named tuples and dataclasses into a JSON tree; what isn't finite becomes null."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def show(report: Report) -> None:
    """Print tables and warnings."""
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # nothing is cut off in a file or a pipe
    for table in report.tables:
        grid = Grid(title=table.title, title_justify="left", title_style="bold")
        for index, column in enumerate(table.columns):
            numbers = index > 0 and not any(isinstance(row[index], str) for row in table.rows)
            grid.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in table.rows:
            grid.add_row(*(cell(value) for value in row))
        console.print(grid)
        for note in table.notes:
            console.print(f"  {note}", style="dim", highlight=False, markup=False)
    for table in report.details:
        words = f"{table.title} ({len(table.rows)} rows): in {RESULTS}; gen3d report shows it as a table"
        console.print(words, highlight=False, markup=False)
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)


def cell(value: Cell) -> str:
    """Write a figure with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else UNDEFINED
    return UNDEFINED if value is None else str(value)


def markdown(table: Table) -> str:
    """Write a table for a README."""
    lines = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in table.rows]
    return "\n".join(lines)


def draw(report: Report, path: Path) -> None:
    """Draw the picture on a dark ground."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    report.draw(figure)
    about = {"Software": f"gen3d {__version__}", "Title": f"gen3d evaluate {report.command}"}
    figure.savefig(path, dpi=100, facecolor=BACKGROUND, metadata=about, format="png")
