"""What synthetic DICOM takes over from the series that a study came as: whose it is, which slices it stands on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data import dicom, dicom_stack
from gen3d.data.finished import Finished, Synthetic
from gen3d.data.study import Study

PATIENT = [
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
]
STUDY = [
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
]
_FRAME = [
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PatientPosition",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
]
_PLACE = ["SOPClassUID", "SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"]
_STEP = 0.5  # of the way to the next slice: the one that is meant is nearer than this


@dataclass(frozen=True)
class Slice:
    """A slice of a source series: what names it, and where it lies.

    Attributes:
        uids: Of its SOP class and its instance.
        position: (3,), of the first pixel, in DICOM's millimetres; None where a file holds many frames.
        normal: (3,), unit vector; None likewise.
    """

    uids: tuple[str, str]
    position: np.ndarray | None
    normal: np.ndarray | None


@dataclass(frozen=True)
class Series:
    """A series that a synthetic image was made from.

    Attributes:
        header: Of one of its files, without pixels.
        slices: All of them.
        moved: Whether it was brought into register with the image's grid.
    """

    header: Any
    slices: tuple[Slice, ...]
    moved: bool

    def near(self, position: np.ndarray, normal: np.ndarray, step: float) -> list[Slice]:
        """Return the slice that lies where one of the image does; all of them where the stacks are not parallel.

        Args:
            position: (3,), of the image's slice, in DICOM's millimetres.
            normal: (3,), of the image's slices.
            step: From one of these to the next, in mm.
        """
        placed = [s for s in self.slices if s.position is not None and s.normal is not None]
        if self.moved or len(placed) < len(self.slices) or any(abs(s.normal @ normal) < 0.999 for s in placed):
            return list(self.slices)
        away = [abs(float((s.position - position) @ normal)) for s in placed]
        least = min(away)
        return [s for s, mm in zip(placed, away, strict=True) if mm <= max(_STEP * step, least + 1e-3)]


def series_of(case: Finished, image: Synthetic) -> dict[str, Series]:
    """Return the DICOM series that an image was made from, by contrast; none where the study did not come as DICOM."""
    found = {}
    for contrast in case.sources(image):
        if files := files_of(case.study, contrast):
            moved = case.transform(image, contrast) is not None
            found[contrast] = Series(_header(files), tuple(map(_slice, files)), moved)
    return found


def grid_of(case: Finished, series: Iterable[str], image: Volume) -> tuple[str, Volume] | None:
    """Return the series on whose grid an image lies, by its contrast, as read; None where it is on none's."""
    for contrast in series:
        files = files_of(case.study, contrast)
        volume = dicom_stack.read(files, contrast, case.study.files[contrast])
        if volume.on_grid_of(image):
            return contrast, volume
    return None


def files_of(study: Study, contrast: str) -> Sequence[Path]:
    """Return the files of a contrast's DICOM series; none where it is no DICOM."""
    place = study.files[contrast]
    if contrast in study.series:
        return study.series[contrast]
    if place.is_dir() or dicom.is_dicom(place):
        return dicom.series_at(place)
    return ()


def _header(files: Sequence[Path]) -> Any:
    return _read(files[0], ["SpecificCharacterSet", *PATIENT, *STUDY, *_FRAME])


def _slice(path: Path) -> Slice:
    header = _read(path, _PLACE)
    uids = str(header.SOPClassUID), str(header.SOPInstanceUID)
    try:
        along = np.array([float(v) for v in header.ImageOrientationPatient]).reshape(2, 3)
        position = np.array([float(v) for v in header.ImagePositionPatient])
    except (AttributeError, TypeError, ValueError):
        return Slice(uids, None, None)
    return Slice(uids, position, np.cross(along[0], along[1]))


def _read(path: Path, tags: Sequence[str]) -> Any:
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except Exception as error:  # whatever a broken file brings
        raise UserError(f"{path}: can't be read; expected the DICOM image that was there; fetch it again") from error
