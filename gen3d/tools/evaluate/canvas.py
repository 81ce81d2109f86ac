"""The common look of the evaluations' pictures: dark cells, slices, histograms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gen3d.tools.preview import ALARM, BACKGROUND, FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL, FAKE, EDGE = "#58a6ff", ALARM, "#30363d"


def heading(figure: "Figure", title: str, words: str) -> None:
    """Write the title, and below all what a reader must know."""
    figure.suptitle(title, color=INK, fontsize=14, x=0.02, y=0.985, ha="left", va="top")
    figure.text(0.02, 0.012, words, color=FAINT, fontsize=8, ha="left", va="bottom")


def chart(cell: "Axes", title: str, x: str = "", y: str = "") -> "Axes":
    """Make a cell ready for a diagram."""
    cell.set_facecolor(BACKGROUND)
    cell.set_title(title, color=INK, fontsize=10, loc="left")
    cell.set_xlabel(x, color=FAINT, fontsize=8)
    cell.set_ylabel(y, color=FAINT, fontsize=8)
    cell.tick_params(colors=FAINT, labelsize=7)
    for edge in cell.spines.values():
        edge.set_color(EDGE)
    return cell


def legend(cell: "Axes") -> None:
    """Show what the colours stand for."""
    cell.legend(fontsize=7, facecolor=BACKGROUND, edgecolor=EDGE, labelcolor=INK, loc="best")


def slice_cell(
    cell: "Axes",
    image: np.ndarray,
    title: str = "",
    *,
    colour: str = INK,
    limits: tuple[float, float] | None = None,
    cmap: Any = "gray",
) -> None:
    """Draw a slice, (X, Y) with axes Right and Anterior; the patient's right is on the left, as radiologists look."""
    low, high = limits or (float(image.min()), float(image.max()) or 1.0)
    cell.imshow(image[::-1].T, cmap=cmap, vmin=low, vmax=high, origin="lower", interpolation="nearest")
    cell.set_title(title, color=colour, fontsize=7.5, pad=3)
    cell.set_xticks([])
    cell.set_yticks([])
    cell.set_facecolor("black")
    for edge in cell.spines.values():
        edge.set_color(colour if colour != INK else EDGE)


def histogram(cell: "Axes", sets: Sequence[tuple[str, Sequence[float], str]]) -> None:
    """Draw histograms of several sets of figures, (label, values, colour), over common bins."""
    everything = np.concatenate([np.asarray(values, dtype=float) for _, values, _ in sets])
    if not everything.size:
        return
    bins = np.linspace(everything.min(), everything.max() + 1e-9, 24)
    for label, values, colour in sets:
        cell.hist(values, bins=bins.tolist(), color=colour, alpha=0.55, label=label, density=True)
    legend(cell)
