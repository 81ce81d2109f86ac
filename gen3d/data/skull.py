"""Whether a scan still has its skull, and masks of the brain, as HD-BET, SynthStrip or people make them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.nifti import read_labels

_STEP_MM = 3.0  # enough to tell a head from a brain
_SKULL_MM = (6.0, 16.0)  # where bone lies below the skin, along a ray that need not be upright on it
_DARK, _BONE = 0.25, 0.15  # darker than this share of tissue; more often than this it is bone, not sulci
_MOST_LABELS = 100  # a mask may be a map of the brain's parts
_LARGEST_LITRES = 2.5  # of a brain with its fluid; a head has about 3 and more


def is_magnitude(volume: Volume) -> bool:
    """Say whether a scan may be a magnitude of MR: at most 1 % of it is negative, which resampling leaves at edges."""
    return float(np.mean(volume.voxels < 0)) <= 0.01


def is_stripped(volume: Volume) -> bool:
    """Say whether a scan has its skull removed: nothing but one value around what is no larger than a brain.

    Air that was set to 0 around a whole head does not count; bone below the skin and the size give it away. A crop with
    no background in it is not called stripped.
    """
    steps = [max(int(_STEP_MM / mm), 1) for mm in volume.spacing]
    x, y, z = (slice(None, None, step) for step in steps)
    voxels, spacing_mm = volume.voxels[x, y, z].astype(np.float32), np.array(volume.spacing) * steps
    low, high = (float(p) for p in np.percentile(voxels, (2, 98)))
    tissue = voxels > low + 0.1 * (high - low)
    if not tissue.any():
        return False
    level = float(np.median(voxels[tissue])) - low
    dark = voxels < low + _DARK * level
    filled, bone = _filled(tissue, dark, spacing_mm)
    around = voxels[~filled]
    flat = np.mean(np.abs(around - np.median(around)) <= 0.02 * level) if around.size else 0.0
    litres = filled.sum() * np.prod(spacing_mm) / 1e6
    return bool(flat > 0.9 and bone < _BONE and litres < _LARGEST_LITRES)


def read_mask(path: Path, like: Volume) -> np.ndarray:
    """Read a mask of the brain that lies on a scan's grid, (X, Y, Z) bool.

    Raises:
        UserError: It can't be read, is empty, is a scan or larger than a brain, or lies on another grid.
    """
    mask = read_labels(path)
    if not mask.on_grid_of(like):
        raise UserError(f"{path} and {like.origin} lie on different grids; expected one grid; resample the mask")
    if not mask.voxels.any():
        raise UserError(f"{path}: an empty mask; expected the brain's voxels above 0")
    if (values := np.unique(mask.voxels).size) > _MOST_LABELS:
        raise UserError(f"{path}: {values} different values, so a scan; expected a mask: the brain's voxels above 0")
    brain = mask.voxels > 0
    litres = brain.sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1e6
    if litres > _LARGEST_LITRES:
        raise UserError(f"{path}: a mask of {litres:.1f} litres; expected a brain's, at most {_LARGEST_LITRES} litres")
    return brain


def stripped(case: Case, mask: np.ndarray) -> Case:
    """Return the case with 0 outside a mask (X, Y, Z)."""
    volumes = {name: replace(v, voxels=np.where(mask, v.voxels, np.float32(0))) for name, v in case.volumes.items()}
    return replace(case, volumes=volumes)


def _filled(tissue: np.ndarray, dark: np.ndarray, spacing_mm: np.ndarray) -> tuple[np.ndarray, float]:
    """The tissue with all that it encloses along the axes, and how often it is dark where bone would be."""
    filled = np.ones(tissue.shape, dtype=bool)
    bone: list[float] = []
    for axis, step_mm in enumerate(spacing_mm):
        along = np.moveaxis(tissue, axis, 0)
        solid = along.copy()
        solid[:-1] &= along[1:]  # two in a row: one alone is noise
        solid[-1] = False
        depth = np.arange(len(along))[:, None, None]
        first = np.where(solid.any(axis=0), solid.argmax(axis=0), len(along))
        last = np.where(solid.any(axis=0), len(along) - solid[::-1].argmax(axis=0), -1)
        filled &= np.moveaxis((first <= depth) & (depth <= last), 0, axis)
        if step_mm > 1.5 * _STEP_MM:
            continue
        for below_mm in ((depth - first) * step_mm, (last - depth) * step_mm):
            band = (below_mm >= _SKULL_MM[0]) & (below_mm <= _SKULL_MM[1]) & ((last - first) * step_mm > 60)
            if band.any():
                bone.append(float(np.moveaxis(dark, axis, 0)[band].mean()))
    return filled, float(np.mean(bone)) if bone else 0.0
