"""Volumes as DICOM slices: which way they are cut, their grey values as whole numbers, where each one lies."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's world grows to Left and Posterior, ours to Right and Anterior
_SHOWN = {"S": "LPS", "A": "LIP", "R": "PIR"}  # along a row, down a column, across, as radiologists look at them
_SHEAR = 1e-3
_GREYS = 65535


@dataclass(frozen=True, eq=False)
class Slices:
    """A volume as slices.

    Attributes:
        pixels: (slices, rows, columns) uint16.
        affine: (4, 4), from column, row, slice to DICOM's millimetres.
        slope: What a grey step is worth, in all slices.
        intercept: What grey 0 is worth.
        window: The lowest and the highest value that a viewer should show.
    """

    pixels: np.ndarray
    affine: np.ndarray
    slope: float
    intercept: float
    window: tuple[float, float]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the grey values and of where they lie."""
        return hashlib.sha256(self.pixels.tobytes() + self.affine.tobytes()).hexdigest()

    @property
    def spacing(self) -> np.ndarray:
        """Along a row, down a column, from slice to slice, in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def along(self) -> np.ndarray:
        """Unit vectors along a row and down a column, (3, 2)."""
        return self.affine[:3, :2] / self.spacing[:2]

    @property
    def normal(self) -> np.ndarray:
        """Unit vector upright on the slices, (3,)."""
        return np.cross(self.along[:, 0], self.along[:, 1])

    def position(self, index: int) -> np.ndarray:
        """Return where the first pixel of a slice lies, (3,)."""
        return self.affine[:3, 3] + index * self.affine[:3, 2]


def cut(volume: Volume, native: Volume | None = None) -> Slices:
    """Cut a volume into slices.

    Args:
        volume: Not constant.
        native: The series on whose grid it lies, as gen3d reads it; its slices are kept. By default they are cut across
            the widest spacing.

    Raises:
        UserError: if the grid is sheared.
    """
    laid = Volume(volume.voxels, native.affine) if native else volume.reoriented(shown_axes(volume))
    unit = laid.affine[:3, :3] / np.array(laid.spacing)
    if np.abs(unit.T @ unit - np.eye(3)).max() > _SHEAR:
        raise UserError(f"{volume.origin}: a sheared grid; expected axes at right angles, as DICOM needs; resample it")
    voxels = laid.voxels.astype(np.float64)
    low, high = float(voxels.min()), float(voxels.max())
    slope, intercept = float(decimal((high - low) / _GREYS)), float(decimal(low))
    greys = np.clip(np.rint((voxels - intercept) / slope), 0, _GREYS).astype(np.uint16)
    dark, bright = (float(p) for p in np.percentile(voxels[voxels != 0], (0.5, 99.5)))
    pixels = np.ascontiguousarray(greys.transpose(2, 1, 0))
    return Slices(pixels, _LPS @ laid.affine, slope, intercept, (min(dark, 0.0), max(bright, dark + slope)))


def shown_axes(volume: Volume) -> str:
    """Return axis codes along a row, down a column and across the slices.

    These are cut across the axis of the widest spacing, or across the third where it is as wide, to a hundredth.
    """
    spacing = np.array(volume.spacing)
    widest = np.flatnonzero(spacing > 0.99 * spacing.max())
    code = volume.axcodes[2 if 2 in widest else int(widest[-1])]
    return _SHOWN[{"I": "S", "P": "A", "L": "R"}.get(code, code)]


def decimal(value: float) -> str:
    """Return a number as DICOM writes it, in at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))
