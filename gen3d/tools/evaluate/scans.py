"""Sets of scans, brought to one grid and one grey scale before they are compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Triple, Volume, window
from gen3d.data.layout import canonical, contrast_of, is_lesion
from gen3d.data.nifti import ENDINGS, read, without_ending

AXES = "RAS"
PERCENTILES = (0.1, 99.9)
DERIVED = ("_std", "_error", "_confidence")  # maps that gen3d writes beside scans


@dataclass(frozen=True)
class Scan:
    """One image file and its name within its set."""

    name: str
    path: Path


@dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes an array in [0, 1].

    Attributes:
        size: Voxels (X, Y, Z), axes Right, Anterior, Superior; centred, cropped, or padded with the scan's minimum.
        window: The grey values that become 0 and 1, the same for all scans; None: each scan's own 0.1 and 99.9
            percentile, as WDM does, after which a gain of the whole scan can't be seen.
    """

    size: Triple
    window: tuple[float, float] | None = None

    def __str__(self) -> str:
        scale = "own 0.1 to 99.9 percentile" if self.window is None else f"{self.window[0]:g} to {self.window[1]:g}"
        return f"{AXES}, {'x'.join(map(str, self.size))} voxels centred, {scale} to [0, 1]"

    def apply(self, volume: Volume) -> Tensor:
        """Return the array, (X, Y, Z) float32.

        Raises:
            ValueError: The part on the grid is constant.
        """
        voxels = volume.reoriented(AXES).voxels
        start = [(n - wanted) // 2 for n, wanted in zip(voxels.shape, self.size, strict=True)]
        box = window(voxels, (start[0], start[1], start[2]), self.size, float(voxels.min()))
        low, high = self.window or (float(q) for q in np.percentile(box, PERCENTILES))
        if high <= low:
            low, high = float(box.min()), float(box.max())
        if high <= low:
            raise ValueError(f"constant inside {'x'.join(map(str, self.size))} voxels: nothing to measure")
        return torch.from_numpy((np.clip(box, low, high) - low) / (high - low)).float()


class Prepared(Sequence[Tensor]):
    """Scans as arrays in [0, 1], each read when it is asked for."""

    def __init__(self, scans: Sequence[Scan], preprocessing: Preprocessing) -> None:
        self.scans, self.preprocessing = scans, preprocessing

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: Any) -> Any:
        scan = self.scans[index]
        try:
            return self.preprocessing.apply(read(scan.path, flat=True))
        except ValueError as error:
            raise UserError(f"{scan.path}: {error}") from None

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))


def find_scans(path: Path, contrast: str | None = None) -> list[Scan]:
    """Return the images at a path, sorted by name; masks and maps beside them are left out.

    Args:
        path: A folder: flat, of cases, or in Medical Segmentation Decathlon layout (its ``imagesTr``).
        contrast: Take only images whose name says this.

    Raises:
        UserError: There is none, or there are several contrasts and none is named.
    """
    if not path.is_dir():
        raise UserError(f"{path}: {'is a file' if path.exists() else 'no such folder'}; expected a folder of scans")
    root = path / "imagesTr" if (path / "imagesTr").is_dir() else path
    files = sorted(p for p in root.rglob("*.nii*") if is_image(p, root))
    wanted = canonical(contrast) if contrast else None
    if wanted:
        files = [p for p in files if contrast_of(p) == wanted]
    if not files:
        what = f"scan of contrast {wanted}" if wanted else "scan"
        raise UserError(f"{path}: no {what} in it; expected NIfTI files (.nii or .nii.gz)")
    found = sorted({c for p in files if (c := contrast_of(p)) is not None})
    if len(found) > 1:
        raise UsageError(f"{path}: holds {', '.join(found)}; name one with --contrast")
    return [Scan(str(p.relative_to(root)), p) for p in files]


def is_image(path: Path, root: Path) -> bool:
    """Tell whether a file is a scan: no hidden file, no mask, no map of deviations."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    stem = without_ending(path)
    return (
        path.is_file()
        and path.name.lower().endswith(ENDINGS)
        and not hidden
        and not is_lesion(path)
        and not stem.endswith(DERIVED)
    )


@dataclass(frozen=True)
class Grid:
    """Size and spacing of a set of scans, from their headers: the largest along each axis, and the median spacing."""

    largest: Triple
    smallest: Triple
    spacing_mm: tuple[float, float, float]


def grid_of(scans: Sequence[Scan]) -> Grid:
    """Read the headers of scans.

    Raises:
        UserError: One can't be read.
    """
    shapes, spacings = zip(*(header(scan.path) for scan in scans), strict=True)
    large, small = (tuple(int(n) for n in reduce(shapes, axis=0)) for reduce in (np.max, np.min))
    x, y, z = (float(mm) for mm in np.median(spacings, axis=0))
    return Grid((large[0], large[1], large[2]), (small[0], small[1], small[2]), (x, y, z))


def header(path: Path) -> tuple[Triple, tuple[float, float, float]]:
    """Return a scan's shape and spacing in mm along Right, Anterior, Superior, without reading its voxels."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nib.load(path)
        shape = (*image.shape, 1, 1)[:3]
        axes = nib.io_orientation(image.affine)[:, 0].astype(int)
        spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    except (ImageFileError, OSError, ValueError, EOFError):
        volume = read(path, flat=True)  # says in one line what is wrong
        return volume.reoriented(AXES).shape, volume.reoriented(AXES).spacing
    order = np.argsort(axes)
    x, y, z = (int(shape[a]) for a in order)
    mm = [float(spacing[a]) for a in order]
    return (x, y, z), (mm[0], mm[1], mm[2])
