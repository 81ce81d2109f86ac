"""The picture of an evaluation of masks: the figures of every case, and the worst one in slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gen3d.tools.evaluate.canvas import FAKE, REAL, heading, slice_cell
from gen3d.tools.evaluate.pairing import BASELINE, MASKS, Match, read_masks
from gen3d.tools.evaluate.pairs_picture import strips
from gen3d.tools.preview import INK, bounding_box, colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {MASKS: FAKE, BASELINE: "#d2a8ff"}


@dataclass(frozen=True)
class Look:
    """One slice of the worst case: labels (X, Y) on both sides."""

    name: str
    dice: float
    true: np.ndarray
    fake: np.ndarray
    aspect: float


def look(match: Match, case: Mapping[str, Any]) -> Look:
    """Read the case anew and take the slice where most voxels differ."""
    volumes = read_masks(match.real, match.fake)
    true, fake = (volume.voxels for volume in volumes)
    z = int((true != fake).sum((0, 1)).argmax())
    x, y = bounding_box(((true > 0) | (fake > 0))[:, :, z : z + 1])[:2]
    dice = float(np.mean([row["dice"] for row in case["rows"][MASKS]]))
    aspect = volumes[0].spacing[1] / volumes[0].spacing[0]
    return Look(match.name, dice, true[x, y, z], fake[x, y, z], aspect)


def picture(figure: "Figure", cases: Mapping[str, Mapping[str, Any]], worst: Look) -> None:
    """Fill the figure."""
    words = (
        f"{len(cases)} cases. Slices: the case with the lowest Dice, {worst.name}, mean over labels {worst.dice:.3f}."
    )
    heading(figure, "gen3d evaluate segmentation", words)
    grid = figure.add_gridspec(2, 12, left=0.09, right=0.98, top=0.9, bottom=0.06, hspace=0.25, wspace=0.3)
    kept = list(cases.values())
    strips(figure.add_subplot(grid[0, :5]), "Dice of every case", collected(kept, "dice"), COLOURS)
    strips(figure.add_subplot(grid[0, 7:]), "HD95 of every case, mm", collected(kept, "hd95"), COLOURS)
    wrong = (worst.fake > 0).astype(int) - (worst.true > 0)
    top = max(int(worst.true.max()), int(worst.fake.max()), 1)
    cells = [figure.add_subplot(grid[1, start : start + 4]) for start in (0, 4, 8)]
    slice_cell(cells[0], worst.true, "true labels", colour=REAL, limits=(0, top), cmap="viridis")
    slice_cell(cells[1], worst.fake, "masks", colour=FAKE, limits=(0, top), cmap="viridis")
    slice_cell(cells[2], wrong, "invented (red), missed (blue)", colour=INK, limits=(-2, 2), cmap=colours("difference"))
    for cell in cells:
        cell.set_aspect(worst.aspect)


def collected(cases: Sequence[Mapping[str, Any]], figure: str) -> list[tuple[str, str, list[float]]]:
    """Return (label, set of masks, figures of every case)."""
    found: dict[tuple[str, str], list[float]] = {}
    for case in cases:
        for name, rows in case["rows"].items():
            for row in rows:
                if row["empty"] != "both":
                    found.setdefault((row["label"], name), []).append(row[figure])
    order = sorted(found, key=lambda key: (len(key[0]), key[0], key[1] == BASELINE))
    return [(f"label {label}", name, found[label, name]) for label, name in order]
