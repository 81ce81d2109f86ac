"""DICOM series as volumes: what the slices' headers say, how they stack, their pixels."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume

Header = Mapping[str, Any]

INSTALL = "reading DICOM needs pydicom; pip install 'gen3d[dicom]'"
_CONVERT = "convert it first, as with dcm2niix"
_TAGS = [
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "StudyDate",
    "StudyTime",
    "Modality",
    "ImageType",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "ContrastBolusAgent",
    "NumberOfFrames",
    "SliceThickness",
    "PixelSpacing",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
]
_GROUPS = (  # where a file with many frames keeps what every slice says of itself
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
    ("PixelValueTransformationSequence", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept"),
)


def installed() -> bool:
    """Say whether DICOM can be read here."""
    return find_spec("pydicom") is not None


def read_header(path: Path) -> Header | None:
    """Return what a file's header says, None for what it doesn't; or None where it is broken or shows nothing."""
    header = _values(path, _TAGS)
    return header if header and header["SeriesInstanceUID"] and header["Rows"] else None


def _values(path: Path, tags: list[str]) -> Header | None:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on each value that the standard would not allow
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
        except Exception:  # whatever a broken file brings
            return None
        return {tag: _value(dataset, tag) for tag in tags}


def _value(dataset: Any, tag: str) -> Any:
    try:
        return dataset.get(tag)
    except Exception:  # a value is read when it is asked for
        return None


def text_of(header: Header, tag: str) -> str:
    """Return a value as one line of text, empty where it is absent."""
    return " ".join(str(header[tag] or "").split())


def number_of(value: Any, otherwise: float) -> float:
    """Return a value as a number, ``otherwise`` where it is none."""
    try:
        return float(value) if math.isfinite(float(value)) else otherwise
    except (TypeError, ValueError):
        return otherwise


def read(files: Sequence[Path], contrast: str, origin: Path) -> Volume:
    """Read a series as one volume, in the slices' own axes; values with the headers' slope and intercept applied.

    Args:
        files: One for each slice, in any order; or a single one with many frames.
        contrast: What it shows, kept in the volume.
        origin: What to name in messages, kept in the volume.

    Raises:
        UserError: if a file can't be read, or the slices are not one evenly spaced stack.
    """
    if not installed():
        raise UserError(f"{origin}: {INSTALL}")
    headers = {path: header for path in files if (header := read_header(path)) is not None}
    if not headers:
        raise UserError(f"{origin}: no DICOM image in it; expected the slices of a series; export it again")
    first, *others = headers
    if not others and number_of(headers[first]["NumberOfFrames"], 1) > 1:
        slices = _frames(first, origin)
        order, affine = _stack([_Plane.of(one, origin) for one in slices], origin)
        pixels = _pixels(first)
        if len(pixels) != len(slices):
            raise UserError(f"{origin}: {len(pixels)} frames, {len(slices)} positions; expected as many; {_CONVERT}")
        voxels = np.stack([_scaled(pixels[index], slices[index]) for index in order])
    else:
        paths = list(headers)
        order, affine = _stack([_Plane.of(headers[path], origin) for path in paths], origin)
        voxels = np.stack([_scaled(_pixels(paths[index])[0], headers[paths[index]]) for index in order])
    if not np.isfinite(voxels).all() or voxels.min() == voxels.max():
        raise UserError(
            f"{origin}: all voxels are the same, or some are not finite; expected an image; export it again"
        )
    return Volume(np.ascontiguousarray(voxels.transpose(2, 1, 0)), affine, contrast, origin)


@dataclass(frozen=True)
class _Plane:
    """Where one slice lies, in DICOM's millimetres, which grow to Left, Posterior, Superior."""

    position: np.ndarray  # (3,), of the first pixel
    along: np.ndarray  # (3, 2), unit vectors along a row and down a column
    spacing: np.ndarray  # (2,), between neighbours in a row, between neighbours in a column
    size: tuple[int, int]

    @classmethod
    def of(cls, header: Header, origin: Path) -> "_Plane":
        try:
            position = np.array([float(mm) for mm in header["ImagePositionPatient"]])
            along = np.array([float(v) for v in header["ImageOrientationPatient"]]).reshape(2, 3).T
            spacing = np.array([float(mm) for mm in header["PixelSpacing"]])[::-1]
            known = np.isfinite(position).all() and np.isfinite(along).all() and np.isfinite(spacing).all()
            if known and len(position) == 3 and len(spacing) == 2 and (spacing > 0).all():
                return cls(position, along, spacing, (int(header["Columns"]), int(header["Rows"])))
        except (TypeError, ValueError):
            pass
        raise UserError(f"{origin}: a slice does not say where it lies; expected position and spacing; {_CONVERT}")


def _stack(planes: Sequence[_Plane], origin: Path) -> tuple[list[int], np.ndarray]:
    """The order of the slices along their normal, and the affine of the stack in RAS."""
    first = planes[0]
    if len(planes) < 2:
        raise UserError(f"{origin}: a single slice; expected a 3D series; choose another")
    for plane in planes:
        if plane.size != first.size or np.abs(plane.along - first.along).max() > 1e-3:
            raise UserError(f"{origin}: its slices differ in size or direction; expected one stack; {_CONVERT}")
        if np.abs(plane.spacing - first.spacing).max() > 1e-3 * first.spacing.max():
            raise UserError(f"{origin}: its slices differ in pixel spacing; expected one stack; {_CONVERT}")
    normal = np.cross(first.along[:, 0], first.along[:, 1])
    heights = np.array([plane.position @ normal for plane in planes])
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    steps = np.diff(heights[order])
    if steps.min() < 1e-3:
        raise UserError(f"{origin}: several images in one place (times, echoes); expected one volume; {_CONVERT}")
    if steps.max() - steps.min() > 0.1 * np.median(steps):
        gap = f"steps of {steps.min():.3g} to {steps.max():.3g} mm"
        raise UserError(f"{origin}: slices are missing or uneven, {gap}; expected even steps; export it again")
    way = planes[order[-1]].position - planes[order[0]].position
    if np.linalg.norm(way - (way @ normal) * normal) > 0.5 * first.spacing.min():
        raise UserError(f"{origin}: a stack with tilted slices (gantry tilt); expected an upright one; {_CONVERT}")
    affine = np.eye(4)
    affine[:3, :2] = first.along * first.spacing
    affine[:3, 2] = way / (len(planes) - 1)
    affine[:3, 3] = planes[order[0]].position
    return order, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _frames(path: Path, origin: Path) -> list[Header]:
    """What each frame of a file with many says of itself (Enhanced MR), in stored order."""
    of_all = "SharedFunctionalGroupsSequence"
    of_each = "PerFrameFunctionalGroupsSequence"
    header = _values(path, ["Rows", "Columns", of_all, of_each]) or {}
    shared = next(iter(header.get(of_all) or ()), None)
    frames: list[Header] = []
    for frame in header.get(of_each) or ():
        groups = {group: _first(frame, group) or _first(shared, group) for group, _ in _GROUPS}
        own = {tag: _value(groups[group], tag) for group, tag in _GROUPS}
        frames.append({**header, **own})
    if not frames:
        raise UserError(f"{origin}: its frames do not say where they lie; expected a position for each; {_CONVERT}")
    return frames


def _first(dataset: Any, name: str) -> Any:
    return next(iter(_value(dataset, name) or ()), None)


def _pixels(path: Path) -> np.ndarray:
    """(frames, rows, columns) as stored, whatever the compression."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path)
            pixels: np.ndarray = dataset.pixel_array
        except Exception as error:  # whatever a broken file brings
            if "missing dependencies" in str(error):
                raise UserError(f"{path}: compressed, and no decoder; pip install 'gen3d[dicom]'") from None
            raise UserError(f"{path}: can't be read; expected a DICOM image; export the series again") from error
    if number_of(_value(dataset, "SamplesPerPixel"), 1) != 1:
        raise UserError(f"{path}: a colour image; expected one number per pixel; choose another series")
    return pixels if pixels.ndim == 3 else pixels[None]


def _scaled(pixels: np.ndarray, header: Header) -> np.ndarray:
    slope, intercept = number_of(header["RescaleSlope"], 1.0), number_of(header["RescaleIntercept"], 0.0)
    return (pixels * slope + intercept).astype(np.float32)
