"""Contact sheets: a PNG picture of each case that a page shows, for those who have no browser at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from gen3d import __version__
from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.atomic import appearing
from gen3d.data.study import as_name
from gen3d.tools.preview import ALARM, INK, SIGNS, VIEW, Panel, View, layout, limits, show, view_of
from gen3d.tools.report.images import Image
from gen3d.tools.report.panels import Ready
from gen3d.tools.report.voxels import focus
from gen3d.tools.segment_picture import COLOURS, outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 10  # columns
FOOTER = "Not for diagnosis. Framed columns are synthetic, computed by a generative model."
LETTER, LINE = 0.066, 0.15  # inches that a letter of the small print takes on average, and a line of it


@dataclass(frozen=True, eq=False)
class Column:
    """One panel of the sheet: its volume, or the outlines of its masks on what lies under them, if anything."""

    title: str
    image: Image
    volumes: Sequence[Volume]
    under: Volume | None


def contact_sheets(page: Path, cases: Sequence[Ready]) -> tuple[Path, ...]:
    """Draw each case that has images into ``PAGE-CASE.png`` beside the page and return the files.

    Raises:
        UserError: One can't be written.
    """
    made = []
    for ready in cases:
        if ready.panels:
            path = page.with_name(f"{page.stem}-{as_name(ready.case.name)}.png")
            with appearing(path) as temporary:
                sheet(temporary, ready)
            made.append(path)
    return tuple(made)


def sheet(path: Path, ready: Ready) -> None:
    """Draw one case: a column for each panel on the first one's grid, a row for each plane."""
    columns: list[Column] = []
    for panel in ready.panels:
        images = [ready.images[number] for number in panel.images]
        try:
            volumes = [image.volume() for image in (images if panel.kind == "mask" else images[:1])]
            under = None if panel.under is None else ready.images[panel.under].volume()
        except UserError:
            continue
        if not columns or volumes[0].on_grid_of(columns[0].volumes[0]):
            signs = [SIGNS] if panel.kind == "difference" else []
            title = "\n".join([panel.heading, *wrap(panel.title.partition(";")[0], 26)[:3], *signs])
            columns.append(Column(title, images[0], volumes, under))
    columns = columns[:MOST]
    first = columns[0].volumes[0]
    inside = np.zeros(first.shape, dtype=bool)
    inside[tuple(nearest(first, focus([(column.image, column.volumes[0]) for column in columns])))] = True
    foreground = np.any([v.voxels != v.voxels.flat[0] for v in (column.volumes[0] for column in columns)], axis=0)
    view = view_of(foreground if foreground.any() else ~foreground, inside, first.affine)
    planes = (0, 1, 2) if min(first.shape) > 1 else (2 - int(np.argmin(first.reoriented(VIEW).shape)),)
    names = next((labels(column) for column in columns if column.image.kind == "mask"), {})
    figure, cells = layout(len(columns), view, 3 if names else 2, planes)
    for place, column in enumerate(columns):
        for row, plane in enumerate(planes):
            paint(cells[row][place], column, plane, view)
        cells[0][place].set_title(column.title, color=ALARM if column.image.synthetic else INK, fontsize=8, pad=4)
    figure.suptitle(f"{ready.case.name}: gen3d {ready.case.tool}", color=INK, fontsize=13, x=0.02, y=0.99, ha="left")
    small_print(figure, names)
    about = {"Software": f"gen3d {__version__}", "Description": "synthetic images; not for diagnosis"}
    figure.savefig(path, dpi=110, facecolor=figure.get_facecolor(), metadata=about, format="png")


def small_print(figure: "Figure", names: Mapping[int, str]) -> None:
    """Write the footer, in as many lines as the figure's width asks for, and above it the labels in their colours."""
    wide, high = figure.get_size_inches()
    lines = wrap(FOOTER, int((wide - 0.2) / LETTER))
    figure.text(0.1 / wide, 0.08 / high, "\n".join(lines), color=ALARM, fontsize=8, ha="left", va="bottom")
    x, y = 0.1, 0.08 + LINE * len(lines) + 0.03
    for number, name in names.items():
        words = f"— {name}"
        if x + LETTER * len(words) > wide:
            break
        colour = COLOURS[(number - 1) % len(COLOURS)]
        figure.text(x / wide, y / high, words, color=colour, fontsize=8, ha="left", va="bottom")
        x += LETTER * (len(words) + 3)


def labels(column: Column) -> dict[int, str]:
    """Return the labels that a column's masks hold, each with its name where the record tells it."""
    record = column.image.record
    told, sizes = record.get("labels"), record.get("volumes_ml")
    named = {str(number): name for number, name in enumerate(sizes, 1)} if isinstance(sizes, Mapping) else {}
    named |= {str(number): str(name) for number, name in told.items()} if isinstance(told, Mapping) else {}
    found = sorted({int(number) for volume in column.volumes for number in np.unique(volume.voxels)} - {0})
    return {number: named.get(str(number), f"label {number}") for number in found}


def paint(cell: "Axes", column: Column, plane: int, view: View) -> None:
    """Draw one plane of one column."""
    image = column.image
    kind = "std" if image.kind in ("std", "probability") else "difference" if image.kind == "difference" else "image"
    base = column.under if image.kind == "mask" and column.under is not None else column.volumes[0]
    voxels = base.reoriented(VIEW).voxels
    alone = image.kind == "mask" and column.under is None
    low, high = (0.0, max(float(voxels.max()), 1.0)) if alone else limits(voxels, kind)
    show(cell, voxels, plane, view, Panel(base, "", image.synthetic, kind), low, high)  # type: ignore[arg-type]
    if image.kind == "mask":
        masks = [volume.reoriented(VIEW).voxels for volume in column.volumes]
        outline(cell, masks, plane, view, max(labels(column), default=0))


def nearest(volume: Volume, mm: Sequence[float]) -> list[int]:
    """Return the voxel at a place, held inside the volume."""
    at = np.linalg.inv(volume.affine) @ np.array([*mm, 1.0])
    return [int(np.clip(round(v), 0, n - 1)) for v, n in zip(at[:3], volume.shape, strict=True)]
