"""Whether a scan still has its skull, and masks of the brain, as HD-BET, SynthStrip or people make them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.nifti import read_labels

STRIPPED = 0.3  # share of voxels of one value; the air around a whole head is noise, or a third of it has been cut to 0
LARGEST_LITRES = 2.5  # of a brain with its fluid; a head has about 3 and more


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
