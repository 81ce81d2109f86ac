"""The picture of an evaluation of ambiguous segmentation: reliability, GED of every case, votes of the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gen3d.metrics.calibration import Calibration
from gen3d.tools.evaluate.ambiguous_rows import CEILING, EARLIER, FLOOR, MODEL, REDRAWN, values_of
from gen3d.tools.evaluate.canvas import FAKE, REAL, chart, heading, legend, slice_cell
from gen3d.tools.preview import FAINT, INK, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {MODEL: FAKE, EARLIER: "#d2a8ff", CEILING: REAL, FLOOR: FAINT, REDRAWN: "#3fb950"}
NAMES = {
    MODEL: "model",
    EARLIER: "earlier model",
    CEILING: "raters, one left out",
    FLOOR: "majority vote",
    REDRAWN: "drawn from these raters",
}
MARGIN = 4  # voxels around what is shown


@dataclass(frozen=True)
class Shown:
    """What is drawn.

    Attributes:
        cases: Their trees.
        pooled: Calibration by row.
        worst: Name, raters' masks (m, X, Y, Z) and samples (n, X, Y, Z) of the worst cases.
    """

    cases: Mapping[str, Mapping[str, Any]]
    pooled: Mapping[str, Calibration]
    worst: Sequence[tuple[str, np.ndarray, np.ndarray]]


def picture(figure: "Figure", shown: Shown) -> None:
    """Fill the figure."""
    words = "Samples are drawn by a model; not for diagnosis. Right: highest GED; thin lines are the raters' contours."
    heading(figure, "gen3d evaluate ambiguous", f"{len(shown.cases)} cases. {words}")
    charts = figure.add_gridspec(2, 1, left=0.1, right=0.47, top=0.9, bottom=0.1, hspace=0.28)
    reliability(figure.add_subplot(charts[0]), shown.pooled)
    distances(figure.add_subplot(charts[1]), shown)
    grid = figure.add_gridspec(len(shown.worst), 3, left=0.5, right=0.985, top=0.9, bottom=0.06, wspace=0.06)
    for index, (name, raters, samples) in enumerate(shown.worst):
        ged = shown.cases[name]["rows"][MODEL]["ged"]
        votes(
            [figure.add_subplot(grid[index, column]) for column in range(3)], f"{name}, GED {ged:.3f}", raters, samples
        )


def reliability(cell: "Axes", pooled: Mapping[str, Calibration]) -> None:
    """Draw the share of raters over the share of samples, bin by bin, and how many voxels a bin holds."""
    chart(cell, "Reliability, voxels on which raters or samples disagree", "share of samples", "share of raters")
    cell.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":")
    cell.set_xlim(-0.02, 1.02)
    cell.set_ylim(-0.02, 1.02)
    for row, name in NAMES.items():
        if row not in pooled or pooled[row].ece is None:
            continue
        points = [(b.predicted, b.observed, b.voxels) for b in pooled[row].bins if b.voxels]
        x, y, count = (np.array(values, dtype=float) for values in zip(*points, strict=True))
        label = f"{name}, ECE {pooled[row].ece:.3f}"
        cell.plot(x, y, color=COLOURS[row], linewidth=1.2, label=label, alpha=0.9)
        cell.scatter(x, y, color=COLOURS[row], s=8 + 60 * np.sqrt(count / count.max()), alpha=0.7)
    if cell.get_legend_handles_labels()[0]:
        legend(cell)
    else:
        cell.text(0.5, 0.5, "nobody disagrees", color=INK, ha="center")


def distances(cell: "Axes", shown: Shown) -> None:
    """Draw the plain GED of every case, one line of dots for each row, the mean as a bar."""
    chart(cell, "GED of every case (plain; lower is better)", "GED")
    rows = [row for row in (MODEL, EARLIER, CEILING, FLOOR) if any(c["rows"].get(row) for c in shown.cases.values())]
    for place, row in enumerate(reversed(rows)):
        values = [v for v in values_of([c["rows"] for c in shown.cases.values()], row, "ged") if v is not None]
        cell.scatter(values, [place] * len(values), color=COLOURS[row], s=26, alpha=0.55)
        cell.plot([np.mean(values)] * 2, [place - 0.25, place + 0.25], color=INK, linewidth=1.5)
    cell.set_yticks(range(len(rows)), [NAMES[row] for row in reversed(rows)])
    cell.set_ylim(-0.6, len(rows) - 0.4)


def votes(cells: Sequence["Axes"], title: str, raters: np.ndarray, samples: np.ndarray) -> None:
    """Draw one slice of a case: share of raters; of samples, with the raters' contours; the difference."""
    y, s = cut(raters, samples)
    shares = y.mean(0), s.mean(0)
    slice_cell(cells[0], shares[0], f"{title}\nshare of {len(y)} raters", colour=REAL, limits=(0, 1), cmap="magma")
    slice_cell(cells[1], shares[1], f"share of {len(s)} samples", colour=FAKE, limits=(0, 1), cmap="magma")
    slice_cell(
        cells[2],
        shares[1] - shares[0],
        "samples - raters: blue less, red more",
        limits=(-1, 1),
        cmap=colours("difference"),
    )
    for mask in y:
        if mask.any() and not mask.all():
            cells[1].contour(mask[::-1].T.astype(float), levels=[0.5], colors=[REAL], linewidths=0.5, alpha=0.7)


def cut(raters: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slice with the widest gap between both shares, around what is drawn there, (masks, X, Y)."""
    gap = np.abs(raters.mean(0) - samples.mean(0)).sum((0, 1))
    z = int(gap.argmax()) if gap.any() else int(raters.any(0).sum((0, 1)).argmax())
    drawn = np.concatenate([raters[..., z], samples[..., z]]).max(axis=0)
    box: list[slice] = [slice(None)]
    for axis in range(2):
        hit = np.flatnonzero(drawn.any(1 - axis))
        low, high = (int(hit[0]), int(hit[-1])) if hit.size else (0, drawn.shape[axis] - 1)
        box.append(slice(max(low - MARGIN, 0), high + 1 + MARGIN))
    return raters[..., z][tuple(box)], samples[..., z][tuple(box)]
