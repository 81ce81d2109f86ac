"""Contact sheets: a PNG picture of each case that a page shows, for those who have no browser at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gen3d import __version__
from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.atomic import appearing
from gen3d.data.study import as_name
from gen3d.tools.preview import ALARM, INK, VIEW, Panel, View, layout, limits, show, view_of
from gen3d.tools.report.images import Image
from gen3d.tools.report.panels import Ready
from gen3d.tools.report.voxels import focus

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 10  # columns
FOOTER = "Framed columns are synthetic, computed by a generative model. Not for diagnosis."


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
    columns: list[tuple[str, Image, Volume, Volume | None]] = []
    for panel in ready.panels:
        image = ready.images[panel.images[0]]
        try:
            volume = image.volume()
            under = None if panel.under is None else ready.images[panel.under].volume()
        except UserError:
            continue
        if not columns or volume.on_grid_of(columns[0][2]):
            columns.append((f"{panel.role}\n{wrapped(panel.title)}", image, volume, under))
    columns = columns[:MOST]
    first = columns[0][2]
    inside = np.zeros(first.shape, dtype=bool)
    inside[tuple(nearest(first, focus([(image, volume) for _, image, volume, _ in columns])))] = True
    foreground = np.any([volume.voxels != volume.voxels.flat[0] for _, _, volume, _ in columns], axis=0)
    view = view_of(foreground if foreground.any() else ~foreground, inside, first.affine)
    planes = (0, 1, 2) if min(first.shape) > 1 else (2 - int(np.argmin(first.reoriented(VIEW).shape)),)
    figure, cells = layout(len(columns), view, 2, planes)
    for column, (title, image, volume, under) in enumerate(columns):
        for row, plane in enumerate(planes):
            paint(cells[row][column], image, volume, under, plane, view)
        colour = ALARM if image.synthetic else INK
        cells[0][column].set_title(title, color=colour, fontsize=8, pad=4)
    figure.suptitle(f"{ready.case.name}: gen3d {ready.case.tool}", color=INK, fontsize=13, x=0.02, y=0.99, ha="left")
    figure.text(0.02, 0.012, FOOTER, color=ALARM, fontsize=8, ha="left", va="bottom")
    about = {"Software": f"gen3d {__version__}", "Description": "synthetic images; not for diagnosis"}
    figure.savefig(path, dpi=110, facecolor=figure.get_facecolor(), metadata=about, format="png")


def paint(cell: "Axes", image: Image, volume: Volume, under: Volume | None, plane: int, view: View) -> None:
    """Draw one plane of one panel; a mask as an outline on what lies under it."""
    kind = "std" if image.kind in ("std", "probability") else "difference" if image.kind == "difference" else "image"
    base = under if image.kind == "mask" and under is not None else volume
    voxels = base.reoriented(VIEW).voxels
    low, high = (
        (0.0, max(float(voxels.max()), 1.0)) if base is volume and image.kind == "mask" else limits(voxels, kind)
    )
    show(cell, voxels, plane, view, Panel(base, "", image.synthetic, kind), low, high)  # type: ignore[arg-type]
    if base is volume:
        return
    across = 2 - plane
    index: list[slice | int] = list(view.box)
    index[across] = view.cut[across]
    cut = volume.reoriented(VIEW).voxels[tuple(index)].T > 0
    if cut.any() and not cut.all():
        wide, high_mm = (mm for axis, mm in enumerate(view.extent_mm) if axis != across)
        x, y = ((np.arange(n) + 0.5) * mm / n for n, mm in zip(cut.shape[::-1], (wide, high_mm), strict=True))
        cell.contour(x, y, cut, levels=[0.5], colors=["#ff6347"], linewidths=1.0)


def nearest(volume: Volume, mm: Sequence[float]) -> list[int]:
    """Return the voxel at a place, held inside the volume."""
    at = np.linalg.inv(volume.affine) @ np.array([*mm, 1.0])
    return [int(np.clip(round(v), 0, n - 1)) for v, n in zip(at[:3], volume.shape, strict=True)]


def wrapped(title: str) -> str:
    """Return a title in lines that fit a column."""
    from textwrap import wrap

    return "\n".join(wrap(title, 26)[:3])
