"""Scans as numbers: volumes, cases, the way from a model's arrays back to the file's own grid.

Needs numpy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UsageError

Triple = tuple[int, int, int]

_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_CODES = {direction: code for code, direction in _DIRECTIONS.items()}


def axcodes(affine: np.ndarray) -> str:
    """Return the axis codes, e.g. ``"LPS"``: the world direction that each voxel axis comes closest to.

    The rotation nearest to the affine (its polar factor) decides, clearest axis first, so oblique and sheared
    affines get the same codes as in nibabel.
    """
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    left, _, right = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0))
    rotation = left @ right
    codes = [""] * 3
    for axis in np.argsort(-np.abs(rotation).max(axis=0), kind="stable"):
        world = int(np.abs(rotation[:, axis]).argmax())
        codes[axis] = _CODES[world, 1 if rotation[world, axis] > 0 else -1]
        rotation[world] = 0
    return "".join(codes)


def _parsed(codes: str) -> list[tuple[int, int]]:
    if len(codes) != 3 or sorted(_DIRECTIONS.get(c, (9, 0))[0] for c in codes) != [0, 1, 2]:
        raise UsageError(f"axis codes '{codes}': expected one of R/L, A/P and S/I each, such as 'RAS' or 'LPS'")
    return [_DIRECTIONS[c] for c in codes]


def _moves(source: str, target: str) -> list[tuple[int, bool]]:
    """For each target axis: the source axis that it comes from, and whether it runs backwards."""
    there = _parsed(source)
    worlds = [world for world, _ in there]
    return [(worlds.index(world), there[worlds.index(world)][1] != sign) for world, sign in _parsed(target)]


def turned(voxels: np.ndarray, source: str, target: str) -> np.ndarray:
    """Return ``voxels`` (X, Y, Z) with the axes permuted and flipped from axis codes ``source`` to ``target``."""
    moves = _moves(source, target)
    backwards = tuple(axis for axis, (_, flip) in enumerate(moves) if flip)
    return np.ascontiguousarray(np.flip(voxels.transpose([axis for axis, _ in moves]), backwards))


def _turned_affine(affine: np.ndarray, shape: tuple[int, ...], source: str, target: str) -> np.ndarray:
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (came_from, flip) in enumerate(_moves(source, target)):
        step[came_from, axis] = -1 if flip else 1
        step[came_from, 3] = shape[came_from] - 1 if flip else 0
    return affine @ step


def _corner_distance(shape: tuple[int, ...], a: np.ndarray, b: np.ndarray) -> float:
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in shape[:3]))], dtype=np.float64)
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).max())


def same_grid(shape: tuple[int, ...], a: np.ndarray, b: np.ndarray, tolerance_mm: float = 1e-3) -> bool:
    """Say whether two affines put the corners of an array of ``shape`` in the same place, to ``tolerance_mm``."""
    return _corner_distance(shape, a, b) <= tolerance_mm


def window(array: np.ndarray, start: Triple, size: Triple, fill: Any = 0.0) -> np.ndarray:
    """Return the box of ``size`` at ``start`` of the last three axes; outside the array it is ``fill``.

    Args:
        array: (..., X, Y, Z), may be a memory map: only the box is read.
        start: First voxel of the box, may be negative.
        size: Voxels of the box along each axis.
        fill: A number, or one for each channel of a (C, X, Y, Z) array.
    """
    fill = np.asarray(fill, dtype=array.dtype)
    box = np.empty((*array.shape[:-3], *size), dtype=array.dtype)
    box[...] = fill.reshape(*fill.shape, 1, 1, 1) if fill.ndim else fill
    shape = array.shape[-3:]
    low = [min(max(s, 0), length) for s, length in zip(start, shape, strict=True)]
    high = [max(min(s + n, length), lo) for s, n, length, lo in zip(start, size, shape, low, strict=True)]
    if all(lo < hi for lo, hi in zip(low, high, strict=True)):
        x, y, z = (slice(lo, hi) for lo, hi in zip(low, high, strict=True))
        i, j, k = (slice(lo - s, hi - s) for lo, hi, s in zip(low, high, start, strict=True))
        box[..., i, j, k] = array[..., x, y, z]
    return box


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place in the world.

    Attributes:
        voxels: (X, Y, Z) float32 with the header's scaling applied; integers for a mask.
        affine: (4, 4) float64, from voxel indices to world millimetres; the world grows to Right, Anterior, Superior.
        contrast: What was measured, if known: "t1n", "t2f", ...
        origin: The file it was read from.
        header: That file's header, so that what goes in comes out: qform, sform, their codes, units.
    """

    voxels: np.ndarray
    affine: np.ndarray
    contrast: str | None = None
    origin: Path | None = None
    header: Any = None

    @property
    def shape(self) -> Triple:
        """Number of voxels along each axis."""
        x, y, z = self.voxels.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def axcodes(self) -> str:
        """World direction nearest to each voxel axis, e.g. "LPS"."""
        return axcodes(self.affine)

    def reoriented(self, codes: str) -> "Volume":
        """Return the volume with axes flipped and permuted to ``codes``; every voxel stays where it is in the world.

        Raises:
            UsageError: if ``codes`` does not name three different axes.
        """
        own = self.axcodes
        if own == codes:
            return self
        affine = _turned_affine(self.affine, self.shape, own, codes)
        return replace(self, voxels=turned(self.voxels, own, codes), affine=affine)

    def on_grid_of(self, other: "Volume") -> bool:
        """Say whether both have the same shape and, to 1e-3 mm at the corners, the same affine."""
        return self.shape == other.shape and same_grid(self.shape, self.affine, other.affine)


@dataclass(frozen=True)
class Naming:
    """How a case names its files: ``prefix`` + one word per contrast + ``ending``."""

    prefix: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    ending: str = ".nii.gz"

    def of(self, contrast: str) -> str:
        """Return the file name for ``contrast``, e.g. "TCGA-DU-7294_flair.nii.gz" for "t2f"."""
        return f"{self.prefix}{self.words.get(contrast, contrast)}{self.ending}"


@dataclass(frozen=True, eq=False)
class Case:
    """One study of one patient: raw volumes on one grid, in the files' own axes.

    Attributes:
        name: The case's name, e.g. its folder's.
        volumes: Canonical contrast name to Volume.
        lesion: Integer mask, if there is one.
        patient: Whom the study is of, where patients have several; the name if not known.
        naming: How its files are named.
        raters: The mask that each rater drew, None for one who did not, where several drew the same structures.
    """

    name: str
    volumes: Mapping[str, Volume]
    lesion: Volume | None = None
    patient: str = ""
    naming: Naming | None = None
    raters: tuple[Volume | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.patient:
            object.__setattr__(self, "patient", self.name)

    def output_name(self, contrast: str) -> str:
        """Return a file name for ``contrast`` in the case's own naming."""
        return (self.naming or Naming(f"{self.name}-")).of(contrast)


@dataclass(frozen=True)
class Scale:
    """An affine map of intensities, u = clip(v, low, high) * gain + offset, and its inverse."""

    gain: float = 1.0
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def apply(self, voxels: np.ndarray) -> np.ndarray:
        """Map raw intensities to the model's, float32."""
        clipped = np.clip(voxels, np.float32(self.low), np.float32(self.high)).astype(np.float32, copy=False)
        return clipped * np.float32(self.gain) + np.float32(self.offset)

    def invert(self, voxels: np.ndarray) -> np.ndarray:
        """Map the model's intensities back to raw ones, float32; what was clipped stays at the border."""
        if self.gain == 0:
            return np.full_like(voxels, self.low, dtype=np.float32)
        return (np.asarray(voxels, dtype=np.float32) - np.float32(self.offset)) / np.float32(self.gain)


@dataclass(frozen=True, eq=False)
class Placement:
    """The way from a model's arrays back to the file's grid: turned axes, then a box of that (cropped or padded).

    Attributes:
        shape: Of the file.
        affine: Of the file.
        axes: Axis codes of the model's arrays.
        start: Where the first voxel of the model's array lies in the turned file; negative where it is padding.
        size: Of the model's arrays, in their axes.
    """

    shape: Triple
    affine: np.ndarray
    axes: str
    start: Triple
    size: Triple

    @property
    def file_axes(self) -> str:
        """Axis codes of the file."""
        return axcodes(self.affine)

    @property
    def turned_shape(self) -> Triple:
        """Shape of the whole file in the model's axes."""
        x, y, z = (self.shape[axis] for axis, _ in _moves(self.file_axes, self.axes))
        return x, y, z

    @property
    def model_affine(self) -> np.ndarray:
        """Affine of the model's arrays: from their voxel indices to world millimetres."""
        shift = np.eye(4)
        shift[:3, 3] = self.start
        return _turned_affine(self.affine, self.shape, self.file_axes, self.axes) @ shift

    def take(self, voxels: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Bring an array on the file's grid to the model's: file shape -> ``size``; padding is ``fill``.

        Raises:
            ValueError: The array has another shape than the file.
        """
        if voxels.shape != self.shape:
            raise ValueError(f"expected an array of the file's shape {self.shape}, got {voxels.shape}")
        return window(turned(voxels, self.file_axes, self.axes), self.start, self.size, fill)

    def place(self, voxels: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Bring a model's array to the file's grid: ``size`` -> file shape; what the model never saw is ``fill``.

        Raises:
            ValueError: The array has another shape than ``size``.
        """
        if voxels.shape != self.size:
            raise ValueError(f"expected an array of the model's shape {self.size}, got {voxels.shape}")
        x, y, z = self.start
        whole = window(voxels, (-x, -y, -z), self.turned_shape, fill)
        return turned(whole, self.axes, self.file_axes)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on a model's axes and intensity scale: what the cache stores and a system's ``example`` reads.

    Attributes:
        name: Of the case.
        patient: Whose it is.
        voxels: (C, X, Y, Z) float32 or float16, may be a memory map; 0 where a contrast is absent. Where there are
            ``days``, C are the visits of a patient in one contrast.
        present: (C,) bool, which contrasts are there.
        lesion: (X, Y, Z) uint8, if there is a mask.
        spacing: In mm, along the array's axes.
        scales: The intensity map of each contrast, None where absent.
        placement: The way back to the file's grid, if there is a file.
        days: Of a patient's visits, rising.
        raters: (R, X, Y, Z) uint8, each rater's mask, 255 everywhere for one who did not draw.
    """

    name: str
    patient: str
    voxels: np.ndarray
    present: np.ndarray
    lesion: np.ndarray | None
    spacing: tuple[float, float, float]
    scales: tuple[Scale | None, ...]
    placement: Placement | None = None
    days: np.ndarray | None = None
    raters: np.ndarray | None = None


def centred_affine(axes: str, size: Triple, spacing: tuple[float, float, float]) -> np.ndarray:
    """Return the affine (4, 4) of a volume with these axis codes, the world's origin in its middle."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, code in enumerate(axes):
        row, sign = ("RAS".index(code), 1) if code in "RAS" else ("LPI".index(code), -1)
        affine[row, axis] = sign * spacing[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return affine
