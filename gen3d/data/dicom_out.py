"""Synthetic images as DICOM series, one classic MR image a slice."""

from functools import partial
from pathlib import Path

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.dicom_header import About, of_all, sources
from gen3d.data.dicom_slices import Slices, cut, decimal
from gen3d.data.dicom_source import grid_of, series_of
from gen3d.data.finished import Finished, Output, told
from gen3d.data.nifti import read


def outputs(case: Finished, name: str, warning: str) -> tuple[list[Output], list[str]]:
    """Return a series for each of a case's images, and notes on them.

    Args:
        case: What was made.
        name: Of its folder.
        warning: What must be read before an image is used.

    Raises:
        UserError: An image is no MR, its grid is sheared, or the source series can't be read.
    """
    found = []
    reference: tuple[str, Volume] | None = None
    for image in case.images:
        if image.contrast == "ct":
            raise UserError(f"{image.path}: a CT; expected a contrast of MR, which alone is written as DICOM so far")
        volume, series = read(image.path, image.contrast), series_of(case, image)
        if reference is None or not reference[1].on_grid_of(volume):
            reference = grid_of(case, series, volume)
        about = About(case, image, warning, series, reference[0] if reference else None)
        slices = cut(volume, reference[1] if reference else None)
        path = f"{name}/{image.contrast}{'_' if image.label else ''}{image.label}"
        whose = "copied from the source series" if series else "made from the case's name"
        uid = about.uid(slices, "series")
        facts = {**told(case, image), "patient": whose, "series_instance_uid": uid, "slices": len(slices.pixels)}
        found.append(Output(path, partial(write, about, slices), facts, synthetic=True))
    return found, []


def write(about: About, slices: Slices, folder: Path) -> None:
    """Write a series: 0001.dcm and so on."""
    folder.mkdir(parents=True)
    dataset = of_all(about, slices)
    for index, pixels in enumerate(slices.pixels):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = about.uid(slices, index)
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [decimal(mm) for mm in slices.position(index)]
        if about.series:
            dataset.SourceImageSequence = sources(about, slices, index)
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.save_as(folder / f"{index + 1:04d}.dcm", enforce_file_format=True)
