"""The picture of an evaluation of pairs: the figures of every pair, and the worst one in slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gen3d.metrics.pairs import FIXED, MATCHED
from gen3d.tools.evaluate.canvas import FAKE, REAL, chart, heading, slice_cell
from gen3d.tools.evaluate.pair_case import (
    CONSTANT,
    COPY,
    IMAGES,
    REGRESSION,
    SYNTHETIC,
    Pair,
    UnitsAsked,
    load,
)
from gen3d.tools.evaluate.pairing import BASELINE
from gen3d.tools.preview import FAINT, INK, SIGNS, bounding_box, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {SYNTHETIC: FAKE, BASELINE: "#d2a8ff", REGRESSION: "#3fb950", COPY: REAL, CONSTANT: FAINT}


@dataclass(frozen=True)
class Look:
    """One slice of the worst pair, in [0, 1], with the voxels' width and height in mm.

    Attributes:
        name: Of the pair.
        true: (X, Y).
        others: Images by name, each on the true one's scale, (X, Y).
        lesion: (X, Y) bool.
        aspect: Height of a voxel by its width.
    """

    name: str
    true: np.ndarray
    others: Mapping[str, np.ndarray]
    lesion: np.ndarray
    aspect: float


def look(pair: Pair, case: Mapping[str, Any], asked: UnitsAsked) -> Look:
    """Read the pair anew and take the slice with most of the lesion; without one, that with the largest error."""
    loaded = load(pair, asked)
    first = next(iter(loaded.regions.values()))
    inside = first if bool(first.any()) else torch.ones_like(first)
    wanted = FIXED if loaded.units == "HU" else MATCHED
    shown: dict[str, Tensor] = {}
    low, high = 0.0, 1.0
    for name, image in loaded.images.items():
        row = next(r for r in case["rows"][name] if r["normalisation"] == wanted)
        low, high = row["low"], row["high"]
        scaled = torch.where(inside, image.double() * row["gain"] + row["offset"], image.double())
        shown[name] = (scaled.clamp(low, high) - low) / (high - low)
    true = (loaded.true.double().clamp(low, high) - low) / (high - low)
    lesion = torch.zeros_like(inside) if loaded.lesion is None else loaded.lesion > 0
    weight = lesion.double() if bool(lesion.any()) else (true - shown[SYNTHETIC]).abs() * inside
    z = int(weight.sum((0, 1)).argmax())
    x, y = bounding_box(inside[:, :, z].numpy()[..., None])[:2]
    cut = {name: image[x, y, z].numpy() for name, image in shown.items()}
    aspect = loaded.spacing[1] / loaded.spacing[0]
    return Look(pair.name, true[x, y, z].numpy(), cut, lesion[x, y, z].numpy(), aspect)


def picture(figure: "Figure", cases: Mapping[str, Mapping[str, Any]], worst: Look) -> None:
    """Fill the figure."""
    heading(
        figure,
        "gen3d evaluate pairs",
        f"{len(cases)} pair{'' if len(cases) == 1 else 's'}. Synthetic images are not for diagnosis. "
        "Slices: the pair with the lowest PSNR, "
        f"{worst.name}, on the true image's scale and in its window.",
    )
    grid = figure.add_gridspec(2, 30, left=0.1, right=0.98, top=0.9, bottom=0.06, hspace=0.2, wspace=0.3)
    kept = list(cases.values())
    strips(figure.add_subplot(grid[0, :13]), "PSNR of every pair, dB", collected(kept, "psnr"), COLOURS)
    strips(figure.add_subplot(grid[0, 17:]), "SSIM of every pair", collected(kept, "ssim"), COLOURS)
    cells = iter(figure.add_subplot(grid[1, start : start + 6]) for start in range(0, 30, 6))
    slices(next(cells), worst, worst.true, "true", REAL)
    for name in [name for name in IMAGES if name in worst.others][:2]:
        image = worst.others[name]
        slices(next(cells), worst, image, name, COLOURS[name])
        slices(next(cells), worst, image - worst.true, f"{name} - true, -0.5 to 0.5\n{SIGNS}", INK, signed=True)


def collected(cases: Sequence[Mapping[str, Any]], figure: str) -> list[tuple[str, str, list[float]]]:
    """Return (region, image, figures of every pair) for the first region and the lesion, as ``headline`` reads them."""
    found: dict[tuple[str, str], list[float]] = {}
    for case in cases:
        wanted = FIXED if case["units"] == "HU" else MATCHED
        for image, rows in case["rows"].items():
            for row in rows:
                if row["normalisation"] == wanted and row["region"] in (rows[0]["region"], "lesion"):
                    found.setdefault((row["region"], image), []).append(row[figure])
    order = sorted(found, key=lambda key: (key[0] == "lesion", key[0], list(COLOURS).index(key[1])))
    return [(region, image, found[region, image]) for region, image in order]


def strips(
    cell: "Axes", title: str, sets: Sequence[tuple[str, str, Sequence[float]]], palette: Mapping[str, str]
) -> None:
    """Draw a line of dots for each set, (first word, second word, values), coloured by the second; bars are means."""
    chart(cell, title)
    for place, (_, what, values) in enumerate(reversed(sets)):
        colour = palette.get(what, INK)
        cell.scatter(values, [place] * len(values), color=colour, s=22, alpha=0.55)
        if len(values):
            cell.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.4)
    cell.set_yticks(range(len(sets)), [f"{what}, {where}" for where, what, _ in reversed(sets)])
    cell.set_ylim(-0.6, len(sets) - 0.4)
    cell.grid(axis="x", color="#21262d", linewidth=0.6)


def slices(cell: "Axes", worst: Look, image: np.ndarray, title: str, colour: str, *, signed: bool = False) -> None:
    """Draw one slice with the lesion's contour."""
    limits, cmap = ((-0.5, 0.5), colours("difference")) if signed else ((0.0, 1.0), "gray")
    slice_cell(cell, image, title, colour=colour, limits=limits, cmap=cmap)
    cell.set_aspect(worst.aspect)
    if worst.lesion.any() and not worst.lesion.all():
        cell.contour(worst.lesion[::-1].T.astype(float), levels=[0.5], colors=["#3fb950"], linewidths=0.7)
