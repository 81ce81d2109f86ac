"""Scans that stand alone, for tools that take one image at a time: NIfTI files, or DICOM series at any depth."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data import dicom, dicom_stack, nifti
from gen3d.data.dicom_stack import text_of
from gen3d.data.folders import folders_below
from gen3d.data.study import as_name, own_name

Modality = Literal["CT", "MR"]


@dataclass(frozen=True)
class LoneScan:
    """One scan.

    Attributes:
        place: A NIfTI file; of a DICOM series its folder, or its first file where others lie beside.
        name: What its results are called; unique among scans that were found together.
        series: The files of a DICOM series.
    """

    place: Path
    name: str
    series: tuple[Path, ...] = ()

    def read(self, contrast: str | None = None, *, flat: bool = False) -> Volume:
        """Read it; ``flat``: a NIfTI file may hold a single slice.

        Raises:
            UserError: It can't be read.
        """
        if self.series:
            return dicom_stack.read(self.series, contrast or "image", self.place)
        return nifti.read(self.place, contrast, flat=flat)

    def kernel(self) -> str:
        r"""Return the name of its reconstruction kernel, (0018,1210), "I30f\3" of two values; empty where none is told.

        Of a file with many frames it stands in the CT Reconstruction Sequence that all frames share.
        """
        if not self.series:
            return ""
        import pydicom

        tags = ["ConvolutionKernel", "SharedFunctionalGroupsSequence"]
        header: Any = pydicom.dcmread(self.series[0], stop_before_pixels=True, specific_tags=tags)
        for group in header.get("SharedFunctionalGroupsSequence") or ():
            header = next(iter(group.get("CTReconstructionSequence") or ()), header)
        said = header.get("ConvolutionKernel") or ""
        return "\\".join([said] if isinstance(said, str) else map(str, said)).strip()


def find_lone_scans(source: Path, modality: Modality) -> tuple[list[LoneScan], list[str]]:
    """Return the scans at a place, and what was left out there, in words.

    Args:
        source: A NIfTI file; a file of a DICOM series; a folder of NIfTI files; or a folder with DICOM series in or
            below it, of which each is a scan.
        modality: Of the DICOM series that are wanted; localizers and single images are left out.

    Raises:
        UserError: There is none.
    """
    if source.is_file():
        if not dicom.is_dicom(source):
            return [LoneScan(source, nifti.without_ending(source))], []
        return [_named(series) for series in dicom.series_among(dicom.series_at(source))], []
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder; expected a scan as NIfTI or DICOM")
    inside = sorted(source.iterdir())
    files = [p for p in inside if p.name.lower().endswith(nifti.ENDINGS) and p.name[0] != "."]
    if files:
        return [LoneScan(path, nifti.without_ending(path)) for path in files], []
    found, left = _series_below(source, modality)
    if not found:
        rest = f"; left out: {', '.join(left)}" if left else ""
        kind = f"{modality} series in DICOM, in it or below"
        raise UserError(f"{source}: no scan in it; expected NIfTI files (.nii, .nii.gz) right in it, or {kind}{rest}")
    return _distinct(found), left


def _series_below(source: Path, modality: Modality) -> tuple[list[LoneScan], list[str]]:
    files = [path for folder in folders_below(source) for path in dicom.dicom_files(folder)]
    if files and not dicom_stack.installed():
        raise UserError(f"{source}: {dicom_stack.INSTALL}")
    found, left = [], []
    for series in dicom.series_among(files):
        if why := _unwanted(series, modality):
            what = series.description or text_of(series.header, "SeriesNumber")
            left.append(f"series '{what}' ({why})")
        else:
            found.append(_named(series))
    return found, left


def _unwanted(series: dicom.Series, modality: Modality) -> str:
    """Why a series is no scan of this modality; nothing if it is one."""
    if series.modality != modality:
        return f"modality {series.modality or 'not told'}, expected {modality}"
    if "LOCALIZER" in series.image_type:
        return "a localizer"
    return "a single image" if series.slices < 2 else ""


def _named(series: dicom.Series) -> LoneScan:
    """A series by the name of its folder, with the series' number where others lie beside it."""
    place, name = series.place, as_name(own_name(series.files[0].parent))
    if place.is_file():
        name = f"{name}_{as_name(text_of(series.header, 'SeriesNumber') or place.stem)}"
    return LoneScan(place, name, series.files)


def _distinct(scans: list[LoneScan]) -> list[LoneScan]:
    """The scans, every name made unique: "x", "x-2" (upper and lower case count as one)."""
    taken: set[str] = set()
    found = []
    for scan in scans:
        name, count = scan.name, 1
        while name.casefold() in taken:
            count += 1
            name = f"{scan.name}-{count}"
        taken.add(name.casefold())
        found.append(replace(scan, name=name))
    return found
