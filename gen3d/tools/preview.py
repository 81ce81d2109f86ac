"""Pictures of volumes: three planes side by side, synthetic ones marked so that nobody can miss it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gen3d.core.volume import Triple, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND, INK, FAINT, ALARM = "#0d1117", "#e6edf3", "#7d8590", "#ffb000"
RING, RING_MM = "#39d5ff", 8.0
SIGNS = "blue: darker, red: brighter"  # of a difference A - B: what A is where it is so coloured
VIEW = "LPS"  # arrays turned to these codes show the patient's right on the left, as radiologists look at them
PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Panel:
    """One column of a picture.

    Attributes:
        volume: All columns' volumes share one grid.
        title: Above it.
        synthetic: Whether it is marked as such.
        kind: An image, a standard deviation (hot colours) or a signed difference (blue to red).
        limits: Grey values shown as black and white; by default the 0.5 and 99.5 percentiles of what isn't 0.
        ring: A voxel, in the volume's own axes, that is ringed in the planes that pass near it.
    """

    volume: Volume
    title: str
    synthetic: bool = False
    kind: Literal["image", "std", "difference"] = "image"
    limits: tuple[float, float] | None = None
    ring: Triple | None = None


@dataclass(frozen=True)
class View:
    """What is shown of arrays turned to ``VIEW``: a box, its voxels' size in mm, and where the three planes cut it."""

    box: tuple[slice, ...]
    spacing: tuple[float, float, float]
    cut: tuple[int, ...]

    @property
    def extent_mm(self) -> tuple[float, ...]:
        """Size of the box along each axis."""
        return tuple((s.stop - s.start) * d for s, d in zip(self.box, self.spacing, strict=True))


def draw(
    path: Path,
    panels: Sequence[Panel],
    title: str,
    footer: str = "",
    mask: np.ndarray | None = None,
    focus: np.ndarray | None = None,
    alarm: str = "",
) -> None:
    """Write a PNG of all panels, one column each, in three planes.

    Pixels keep the proportions of the voxels' spacing; axial and coronal views have the patient's right on the left.

    Args:
        path: Of the PNG.
        panels: Columns.
        title: Of the whole picture.
        footer: Small print below.
        mask: Foreground, (X, Y, Z) in the volumes' own axes, that the picture is cropped to; by default where the first
            volume isn't 0.
        focus: A mask, such as a lesion's, whose centre the planes cut; by default the middle of the foreground.
        alarm: What nobody must miss, below the title.
    """
    from gen3d import __version__

    first = panels[0].volume
    view = view_of(first.voxels != 0 if mask is None else mask, focus, first.affine)
    sides = ("Radiological view: R is the patient's right, shown on the left;", "sagittal: anterior on the left.")
    note = f"{footer}\n" + (" " if len(panels) > 1 else "\n").join(sides)
    figure, cells = layout(len(panels), view, len(note.strip().splitlines()))
    for column, panel in enumerate(panels):
        voxels = panel.volume.reoriented(VIEW).voxels
        low, high = panel.limits or limits(voxels, panel.kind)
        for plane in range(3):
            show(cells[plane][column], voxels, plane, view, panel, low, high)
            if panel.ring is not None:
                mark(cells[plane][column], plane, view, turned_voxel(panel.volume, panel.ring))
        head(cells[0][column], panel, low, high)
    for plane in range(3):
        cells[plane][0].set_ylabel(PLANES[plane], color=FAINT, fontsize=9, labelpad=12)
    figure.suptitle(title, color=INK, fontsize=13, x=0.02, y=0.985, ha="left", va="top")
    below = 1 - 0.3 / figure.get_figheight()
    figure.text(0.02, below, alarm, color=ALARM, fontsize=11, fontweight="bold", ha="left", va="top")
    figure.text(0.02, 0.012, note.strip(), color=FAINT, fontsize=7.5, ha="left", va="bottom")
    about = {"Software": f"gen3d {__version__}", "Title": title, "Description": "synthetic images; not for diagnosis"}
    about |= {"Warning": alarm} if alarm else {}
    figure.savefig(path, dpi=110, facecolor=BACKGROUND, metadata=about, format="png")


def view_of(mask: np.ndarray, focus: np.ndarray | None, affine: np.ndarray) -> View:
    """Return the box around a mask and the planes through the middle of it, or of ``focus`` where that isn't empty."""
    inside = Volume(mask, affine).reoriented(VIEW)
    box = bounding_box(inside.voxels)
    cut = [(s.start + s.stop) // 2 for s in box]
    if focus is not None and focus.any():
        cut = [round(float(at.mean())) for at in np.nonzero(Volume(focus, affine).reoriented(VIEW).voxels)]
    return View(tuple(box), inside.spacing, tuple(cut))


def bounding_box(mask: np.ndarray) -> list[slice]:
    """Return the box around a mask, with a margin of 3 voxels."""
    box = []
    for axis, n in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (int(hit[0]), int(hit[-1])) if hit.size else (0, n - 1)
        box.append(slice(max(0, low - 3), min(n, high + 4)))
    return box


def layout(
    columns: int, view: View, lines: int, planes: Sequence[int] = (0, 1, 2)
) -> tuple["Figure", list[list["Axes"]]]:
    """Make a dark figure: a row of cells as high as the foreground is in each plane, lines of print below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y, z = view.extent_mm
    widest, heights = max(x, y), tuple((y, z, z)[plane] for plane in planes)
    inch, below = 2.3 / widest, 0.2 + 0.15 * max(lines, 2)
    size = max(4.6, inch * widest * columns * 1.06 + 0.5), inch * sum(heights) * 1.03 + 0.85 + below
    figure = Figure(figsize=size, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    edges: dict[str, Any] = {"left": 0.42 / size[0], "right": 1 - 0.08 / size[0], "wspace": 0.05, "hspace": 0.03}
    grid = figure.add_gridspec(
        len(planes), columns, height_ratios=heights, bottom=below / size[1], top=1 - 0.85 / size[1], **edges
    )
    return figure, [[figure.add_subplot(grid[row, column]) for column in range(columns)] for row in range(len(planes))]


def limits(voxels: np.ndarray, kind: str) -> tuple[float, float]:
    """Return the values shown as the colours' two ends."""
    there = voxels[voxels != 0]
    if not there.size:
        return 0.0, 1.0
    if kind == "difference":
        end = max(float(np.percentile(np.abs(there), 99)), 1e-9)
        return -end, end
    low, high = (float(p) for p in np.percentile(there, (0.5, 99.5)))
    low = 0.0 if kind == "std" else min(low, float(np.median(there)))
    return (low, high) if high > low else (low, low + 1)


def show(cell: "Axes", voxels: np.ndarray, plane: int, view: View, panel: Panel, low: float, high: float) -> None:
    """Draw one plane: axial, coronal or sagittal."""
    across = 2 - plane
    index: list[Any] = list(view.box)
    index[across] = view.cut[across]
    columns_mm, rows_mm = (mm for axis, mm in enumerate(view.extent_mm) if axis != across)
    cell.imshow(
        voxels[tuple(index)].T,
        cmap=colours(panel.kind),
        vmin=low,
        vmax=high,
        origin="upper" if plane == 0 else "lower",
        extent=(0, columns_mm, rows_mm, 0) if plane == 0 else (0, columns_mm, 0, rows_mm),
        interpolation="nearest",
    )
    cell.set_xticks([])
    cell.set_yticks([])
    cell.set_facecolor("black")
    for edge in cell.spines.values():
        edge.set_color(ALARM if panel.synthetic else "#30363d")
        edge.set_linewidth(1.4 if panel.synthetic else 0.8)
    if plane < 2:
        cell.text(-0.02, 0.5, "R", color=FAINT, fontsize=8, ha="right", va="center", transform=cell.transAxes)
    if panel.synthetic and plane == 0:
        box = {"facecolor": BACKGROUND, "edgecolor": ALARM, "alpha": 0.85, "boxstyle": "round,pad=0.25"}
        words: dict[str, Any] = {"fontsize": 13, "fontweight": "bold", "ha": "center", "va": "bottom", "bbox": box}
        cell.text(0.5, 0.04, "SYNTHETIC", color=ALARM, transform=cell.transAxes, **words)


def turned_voxel(volume: Volume, voxel: Triple) -> np.ndarray:
    """Return where a voxel of a volume lies in its array turned to ``VIEW``, (3,)."""
    there = np.linalg.inv(volume.reoriented(VIEW).affine) @ volume.affine @ (*voxel, 1.0)
    return np.rint(there[:3])


def mark(cell: "Axes", plane: int, view: View, voxel: np.ndarray) -> None:
    """Ring a voxel of the turned array where the plane passes near it."""
    from matplotlib.patches import Circle

    across = 2 - plane
    if abs(voxel[across] - view.cut[across]) * view.spacing[across] > RING_MM:
        return
    low = np.array([span.start for span in view.box])
    x, y = np.delete((voxel - low + 0.5) * view.spacing, across)
    cell.add_patch(Circle((x, y), RING_MM, fill=False, edgecolor=RING, linewidth=1.4))


def colours(kind: str) -> Any:
    """Return the colours of a kind of panel; a difference is black where there is none."""
    from matplotlib.colors import LinearSegmentedColormap

    if kind == "difference":
        return LinearSegmentedColormap.from_list(kind, ["#9ad0ff", "#2f81f7", "black", "#f0563a", "#ffc2a8"])
    return {"image": "gray", "std": "inferno"}[kind]


def head(cell: "Axes", panel: Panel, low: float, high: float) -> None:
    """Write a column's title, with the scale where colours stand for numbers."""
    scale = "" if panel.kind == "image" else f"\n{low:.3g} to {high:.3g}"
    scale += f"\n{SIGNS}" if panel.kind == "difference" else ""
    cell.set_title(panel.title + scale, color=ALARM if panel.synthetic else INK, fontsize=10, pad=5)
