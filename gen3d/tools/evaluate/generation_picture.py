"""The picture of an evaluation of generated scans: features, nearest training scans, slices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from gen3d.tools.evaluate.canvas import FAKE, REAL, chart, heading, histogram, legend, slice_cell
from gen3d.tools.evaluate.distances import flat
from gen3d.tools.preview import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gen3d.tools.evaluate.distances import Found
    from gen3d.tools.evaluate.scans import Prepared

COLUMNS = 8


def picture(figure: "Figure", found: "Found", scans: Mapping[str, "Prepared"]) -> None:
    """Fill the figure."""
    counts = ", ".join(f"{len(side)} {name}" for name, side in found.sets.items())
    heading(figure, "gen3d evaluate generation", f"{counts} scans. Generated scans are synthetic; not for diagnosis.")
    grid = figure.add_gridspec(4, COLUMNS, left=0.05, right=0.98, top=0.9, bottom=0.05, hspace=0.35, wspace=0.08)
    grid.set_height_ratios([1.9, 1, 1, 1])
    components(figure.add_subplot(grid[0, :3]), found)
    nearest(figure.add_subplot(grid[0, 4:]), found)
    outliers, copies = worst(found)
    fake, real = found.sets["fake"], found.sets["real"]
    for column in range(COLUMNS):
        cells = [figure.add_subplot(grid[row, column]) for row in (1, 2, 3)]
        put(cells[0], "real", column if column < len(real) else None, found, scans, "")
        put(cells[1], "fake", column if column < len(fake) else None, found, scans, "")
        half = COLUMNS // 2
        if column < half:
            put(cells[2], "fake", outliers[column] if column < len(outliers) else None, found, scans, "unlike any real")
        else:
            rank, side = divmod(column - half, 2)
            index = copies[rank] if rank < len(copies) else None
            if side and index is not None:
                put(cells[2], found.searched, int(found.copies.nearest[index]), found, scans, "its nearest")
            else:
                put(cells[2], "fake", index, found, scans, "most like a copy")


def components(cell: "Axes", found: "Found") -> None:
    """Draw both sets along the first principal components of their features."""
    key = found.spaces[0].about["key"]
    real, fake = (found.sets[name].features[key] for name in ("real", "fake"))
    scale = real.std(0) + 1e-12
    x, y = flat(torch.cat([real, fake]) / scale).T.numpy()
    chart(cell, f"Features ({key}), first two principal components")
    cell.scatter(x[: len(real)], y[: len(real)], s=14, color=REAL, label="real", alpha=0.8)
    cell.scatter(x[len(real) :], y[len(real) :], s=14, color=FAKE, label="generated", alpha=0.8)
    legend(cell)


def nearest(cell: "Axes", found: "Found") -> None:
    """Draw how near the generated scans are to the nearest training scan, and unseen real ones."""
    copies = found.copies
    chart(cell, f"Distance to the nearest {found.searched} scan: left of the line is a copy", "distance")
    histogram(
        cell,
        [
            ("generated", copies.distances.tolist(), FAKE),
            ("unseen real", copies.unseen.tolist(), REAL),
        ],
    )
    cell.axvline(copies.threshold, color=INK, linewidth=1)


def worst(found: "Found") -> tuple[list[int], list[int]]:
    """Return the generated scans farthest from all real ones in feature space, and those nearest to a training scan."""
    key = found.spaces[0].about["key"]
    real, fake = (found.sets[name].features[key].double() for name in ("real", "fake"))
    scale = real.std(0) + 1e-12
    far = torch.cdist(fake / scale, real / scale).min(1).values.argsort(descending=True)
    return far.tolist(), found.copies.distances.argsort().tolist()


def put(
    cell: "Axes", side: str, index: int | None, found: "Found", scans: Mapping[str, "Prepared"], words: str
) -> None:
    """Draw the middle slice of a scan; of one that is only in a reference, its thumbnail."""
    if index is None:
        cell.axis("off")
        return
    image = middle(scans[side][index] if side in scans else found.sets[side].thumbnails[index])
    name = found.sets[side].names[index].removesuffix(".nii.gz")[-18:]
    colour = FAKE if side == "fake" else FAINT
    slice_cell(cell, image, f"{words}\n{name}" if words else f"{side}: {name}", colour=colour)


def middle(voxels: torch.Tensor) -> np.ndarray:
    """Return the middle axial slice."""
    return voxels[:, :, voxels.shape[2] // 2].numpy()
