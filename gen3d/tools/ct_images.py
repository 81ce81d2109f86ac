"""The CTs that a command is given: files in HU, with the truth and the mask that belong to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data import dicom
from gen3d.data.lone_scans import LoneScan
from gen3d.data.nifti import read, read_labels
from gen3d.latent.ct import accept_hu


@dataclass(frozen=True)
class Job:
    """One image with what belongs to it.

    Attributes:
        name: What its results are called.
        source: The CT.
        truth: The same scan in the target kernel, if there is one.
        mask: Of the body, if one is given.
        integers: The number format of the file if that is one of signed integers, int16 for others without a fraction.
        notes: What a user should know.
    """

    name: str
    source: Volume
    truth: Volume | None
    mask: np.ndarray | None
    integers: np.dtype[Any] | None
    notes: tuple[str, ...] = ()


def beside(companion: Path | None, file: Path, what: str) -> Path | None:
    """Return the companion of an image: the file that was named, or that of the same name in a folder.

    Raises:
        UserError: The folder has none.
    """
    if companion is None or not companion.is_dir():
        return companion
    if not (companion / file.name).exists():
        raise UserError(f"{companion}: no {what} called {file.name} in it; expected the images' own names")
    return companion / file.name


def read_ct(path: Path) -> Volume:
    """Read a CT, NIfTI or DICOM, and check that it is in HU."""
    series = path.is_dir() or dicom.is_dicom(path)
    volume = dicom.read_place(path, "ct") if series else read(path, "ct", flat=True)
    accept_hu(volume)
    return volume


def read_job(scan: LoneScan, truth: Path | None, mask: Path | None, *, has_spacing: bool = False) -> Job:
    """Read an image with its truth and mask; ``has_spacing``: somebody says what its pixels measure.

    Raises:
        UserError: They do not match, or are no CT.
    """
    source = scan.read("ct", flat=True)
    accept_hu(source)
    notes: list[str] = []
    pixel = source.spacing
    if not has_spacing and pixel[0] == pixel[1] == 1.0:
        notes.append("pixels of exactly 1 mm: kernels depend on it; give --pixel-size if the file has lost its own")
    true = read_ct(truth) if truth else None
    if true is not None and true.shape != source.shape:
        raise UserError(f"{truth}: shape {true.shape} against the image's {source.shape}; expected the same scan")
    if true is not None and not true.on_grid_of(source):
        if true.spacing != (1.0,) * 3 and source.spacing != (1.0,) * 3:
            raise UserError(f"{truth}: lies elsewhere than the image; expected the same scan on the same grid")
        notes.append(f"{truth} and the image differ in spacing, one has lost it: compared pixel by pixel")
    inside = read_labels(mask, flat=True).voxels > 0 if mask else None
    if inside is not None and inside.shape != source.shape:
        raise UserError(f"{mask}: shape {inside.shape} against the image's {source.shape}; expected a mask of it")
    return Job(scan.name, source, true, inside, integers_of(source), tuple(notes))


def integers_of(volume: Volume) -> np.dtype[Any] | None:
    """Return the integers that HU are written in: the file's own if signed, int16 if all are whole, None for floats."""
    stored = volume.header.get_data_dtype() if hasattr(volume.header, "get_data_dtype") else np.dtype(np.int16)
    if stored.kind == "i" and stored.itemsize > 1:
        return stored.newbyteorder("=")
    return np.dtype(np.int16) if stored.kind in "iu" else None
