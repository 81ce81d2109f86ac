"""Whether a scan still has its skull, and a mask of the brain: one's own, or a simple one found in the scan."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.nifti import read_labels

STRIPPED = 0.3  # share of voxels of one value; the air around a whole head is noise, or a third of it has been cut to 0
LARGEST_LITRES = 2.1  # of a brain with its fluid; a head has more than 3
BRIDGE_MM = 4.0  # what is thinner, such as nerves and vessels, does not belong to the brain


def is_stripped(volume: Volume) -> bool:
    """Say whether all but the brain was removed: the background is one value, and the rest no larger than a brain.

    A slab of a head may be that small too, and passes for a brain.
    """
    from scipy.ndimage import binary_fill_holes

    step = max(1, round(2.0 / min(volume.spacing)))
    small = volume.voxels[::step, ::step, ::step]
    values, counts = np.unique(np.round(small, 3), return_counts=True)
    if counts.max() < STRIPPED * small.size:
        return False
    inside = binary_fill_holes(small > values[counts.argmax()])
    return bool(inside.sum() * np.prod(volume.spacing) * step**3 < LARGEST_LITRES * 1e6)


def brain_mask(volume: Volume) -> np.ndarray:
    """Find the brain in a whole head, (X, Y, Z) bool: what is bright, freed of thin bridges, the largest piece, filled.

    Crude: for T1-weighted heads without large pathology; a mask of one's own, or of HD-BET or SynthStrip, is better.

    Raises:
        UserError: Nothing of a brain's size is found.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, label

    def depth(mask: np.ndarray) -> np.ndarray:
        return np.asarray(distance_transform_edt(mask, sampling=volume.spacing))

    smooth = gaussian_filter(volume.voxels.astype(np.float32), 0.7 / np.array(volume.spacing))
    head = smooth > _otsu(smooth)
    below_air = depth(binary_fill_holes(head))
    tissue = (smooth > 0.6 * np.median(smooth[head])) & (below_air > 6.0)
    pieces, count = label(depth(tissue) > BRIDGE_MM)
    if not count:
        raise UserError(f"{volume.origin}: no brain found in it; give a mask with --mask FILE")
    core = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    grown = (depth(~core) <= BRIDGE_MM + 6.0) & (below_air > 4.0)
    brain = binary_fill_holes(depth(grown) > 5.0)
    litres = float(brain.sum() * np.prod(volume.spacing)) / 1e6
    if not 0.3 < litres < LARGEST_LITRES:
        raise UserError(
            f"{volume.origin}: what was found in it has {litres:.2f} l, no brain's size; give a mask with --mask FILE"
        )
    return np.asarray(brain)


def read_mask(path: Path, like: Volume) -> np.ndarray:
    """Read a mask of the brain that lies on a scan's grid, (X, Y, Z) bool.

    Raises:
        UserError: It can't be read, is empty, or lies on another grid.
    """
    mask = read_labels(path)
    if not mask.on_grid_of(like):
        raise UserError(f"{path} and {like.origin} lie on different grids; expected one grid; resample the mask")
    if not mask.voxels.any():
        raise UserError(f"{path}: an empty mask; expected the brain's voxels above 0")
    return mask.voxels > 0


def stripped(case: Case, mask: np.ndarray) -> Case:
    """Return the case with 0 outside a mask (X, Y, Z)."""
    volumes = {name: replace(v, voxels=np.where(mask, v.voxels, np.float32(0))) for name, v in case.volumes.items()}
    return replace(case, volumes=volumes)


def _otsu(voxels: np.ndarray) -> float:
    counts, edges = np.histogram(voxels, 256, (float(voxels.min()), float(np.percentile(voxels, 99.5))))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mean = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mean / below - (mean[-1] - mean) / above) ** 2
    return float(middles[np.nanargmax(between)])
