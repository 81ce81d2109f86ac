"""Volumes as small NIfTI files in base64: cropped to what they show, in 256 grey values, CT in whole HU."""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from gen3d.core.volume import Volume
from gen3d.tools.preview import VIEW, bounding_box, limits
from gen3d.tools.report.images import Image, Kind

LARGE = 500_000  # voxels above which a volume is cropped
COARSEST = 4


@dataclass(frozen=True)
class Packed:
    """A volume as the page holds it.

    Attributes:
        content: A gzipped NIfTI file in base64.
        low: The value painted as the colours' lower end.
        high: As their upper end.
        units: "HU", or nothing.
    """

    content: str
    low: float
    high: float
    units: str = ""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where volumes that share a grid are cropped: (shape, affine), and the box in axes turned to VIEW."""

    like: Volume
    box: tuple[slice, ...]


def grids(volumes: Sequence[Volume]) -> list[Grid]:
    """Return each grid that occurs, with the box of what its volumes show."""
    found: list[tuple[Volume, list[Volume]]] = []
    for volume in volumes:
        same = next((members for like, members in found if like.on_grid_of(volume)), None)
        if same is None:
            found.append((volume, [volume]))
        else:
            same.append(volume)
    return [Grid(like, box_of(members)) for like, members in found]


def box_of(volumes: Sequence[Volume]) -> tuple[slice, ...]:
    """Return the box that holds all that differs from the background, of large volumes only."""
    shape = volumes[0].reoriented(VIEW).shape
    if np.prod(shape) <= LARGE:
        return tuple(slice(0, n) for n in shape)
    inside = np.zeros(volumes[0].shape, dtype=bool)
    for volume in volumes:
        inside |= volume.voxels != volume.voxels.flat[0]
    return tuple(bounding_box(Volume(inside, volumes[0].affine).reoriented(VIEW).voxels))


def packed(volume: Volume, kind: Kind, grid: Grid, step: int = 1) -> Packed:
    """Return a volume as the page holds it.

    Args:
        volume: In its own axes.
        kind: Decides how many grey values it needs.
        grid: Its own, with the box to show.
        step: Take every so many-th voxel along each axis.
    """
    turned = volume.reoriented(VIEW)
    every = tuple(slice(s.start, s.stop, step if s.stop - s.start > step else 1) for s in grid.box)
    voxels = turned.voxels[every]
    move = np.diag([float(s.step or 1) for s in every] + [1.0])
    move[:3, 3] = [s.start for s in every]
    numbers, slope, offset = quantised(voxels, kind)
    image: Any = nib.Nifti1Image(numbers, turned.affine @ move)
    image.header.set_slope_inter(slope, offset)
    image.header.set_xyzt_units("mm")
    low, high = ends(some(turned.voxels), kind)
    content = gzip.compress(image.to_bytes(), 6, mtime=0)
    return Packed(base64.b64encode(content).decode(), low, high, "HU" if is_hu(volume.voxels, kind) else "")


def some(voxels: np.ndarray) -> np.ndarray:
    """Return enough voxels of a volume to know its percentiles."""
    return voxels.ravel()[:: max(1, voxels.size // LARGE)]


def quantised(voxels: np.ndarray, kind: Kind) -> tuple[np.ndarray, float, float]:
    """Return whole numbers, and slope and offset that turn them back; 0 stays 0 exactly."""
    if kind == "mask":
        return voxels.astype(np.uint8 if voxels.max(initial=0) < 256 else np.int16), 1.0, 0.0
    if is_hu(voxels, kind):
        return np.rint(voxels).clip(-32768, 32767).astype(np.int16), 1.0, 0.0
    if kind == "difference":
        end = max(float(np.percentile(np.abs(some(voxels)), 99.99)), 1e-9)
        return np.rint(voxels * (127 / end)).clip(-127, 127).astype(np.int16), end / 127, 0.0
    if kind in ("std", "probability") or voxels.min(initial=0) >= 0:
        end = 1.0 if kind == "probability" else max(float(np.percentile(some(voxels), 99.99)), 1e-9)
        return np.rint(voxels * (255 / end)).clip(0, 255).astype(np.uint8), end / 255, 0.0
    low, high = (float(end) for end in np.percentile(some(voxels), (0.01, 99.99)))
    step = max(high - low, 1e-9) / 255
    low = np.floor(low / step) * step  # so that 0 is a whole number of steps away
    return np.rint((voxels - low) / step).clip(0, 255).astype(np.uint8), step, float(low)


def is_hu(voxels: np.ndarray, kind: Kind) -> bool:
    """Say whether an image looks like CT."""
    return kind == "image" and bool(voxels.size) and float(np.percentile(some(voxels), 5)) <= -500


def ends(voxels: np.ndarray, kind: Kind) -> tuple[float, float]:
    """Return the values at the two ends of the colours."""
    if kind == "mask":
        return 0.0, float(max(voxels.max(initial=0), 1))
    if kind == "probability":
        return 0.0, 1.0
    if is_hu(voxels, kind):
        return -1000.0, 400.0
    return limits(voxels, "std" if kind == "std" else "difference" if kind == "difference" else "image")


def focus(images: Sequence[tuple[Image, Volume]]) -> list[float]:
    """Return where in the world to look first, in mm: where samples differ most, a mask's middle, or the middle."""
    for image, _ in images:
        if (least := image.record.get("least_certain")) and isinstance(least, dict) and "centre_mm" in least:
            return [float(mm) for mm in least["centre_mm"]]
    for image, volume in images:
        if image.kind == "mask" and volume.voxels.any():
            middle = [float(at.mean()) for at in np.nonzero(volume.voxels)]
            return [float(mm) for mm in (volume.affine @ (*middle, 1.0))[:3]]
    volume = images[0][1]
    box = grids([volume])[0].box
    middle = [(s.start + s.stop - 1) / 2 for s in box]
    return [float(mm) for mm in (volume.reoriented(VIEW).affine @ (*middle, 1.0))[:3]]
