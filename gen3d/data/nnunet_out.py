"""Cases for nnU-Net: every channel of each, on one grid, where some were never acquired."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.alignment import resample
from gen3d.data.finished import Finished, Output, Synthetic, restricted, told, unique
from gen3d.data.layout import on_one_grid, titled
from gen3d.data.nifti import read, write
from gen3d.data.skull import is_magnitude, is_stripped
from gen3d.data.studies import read_study

FOLDER, ENDING = "imagesTs", ".nii.gz"


def case_names(places: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each place: letters, digits, "_", "-" and ".", no two alike."""
    taken: set[str] = set()
    plain = {place: re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(place.parts)).strip("-._") for place in places}
    return {place: unique(plain[place] or "case", taken) for place in sorted(places, key=str)}


def outputs(case: Finished, name: str, channels: Sequence[str]) -> tuple[list[Output], list[str]]:
    """Return a case's channels, and notes on them.

    A contrast that is there as well as made is taken as acquired, but for the last run's, which was told to hide it.
    An original on another grid is resampled onto that of the synthetic images, the way the model saw it; one on their
    grid is copied where it is a ``.nii.gz``, else converted.

    Raises:
        UserError: A channel is neither there nor made, or the case has no single grid.
    """
    hidden = [c for c in channels if c in case.main and c in case.study.files and c in case.made]
    made = {c: case.main[c] for c in channels if c in hidden or (c in case.main and c not in case.study.files)}
    if lost := [c for c in channels if c not in made and c not in case.study.files]:
        raise UserError(
            f"{case.study.source}: has no {', '.join(lost)}, neither acquired nor synthetic; expected all channels; "
            "synthesize it too, or give --channels without it"
        )
    wanted = restricted(case.study, [c for c in channels if c not in made])
    given = dict(read_study(wanted, any_grid=True, with_lesion=False).volumes) if wanted.files else {}
    images = {c: read(image.path, c) for c, image in made.items()}
    on_one_grid(images.values() if images else given.values(), "synthesize its contrasts in one run, with --align")
    grid = next(iter((images or given).values()))
    found = []
    for number, contrast in enumerate(channels):
        path = f"{FOLDER}/{name}_{number:04d}{ENDING}"
        if contrast in made:
            found.append(_made(path, case, made[contrast], images[contrast], grid))
        else:
            found.append(_given(path, case, given[contrast], contrast, grid))
    anew = [f"{c}: the synthetic one is taken, as it was made anew; {case.study.files[c].name} is not" for c in hidden]
    return found, [*anew, *_skulls(images, given)]


def front(channels: Sequence[str]) -> dict[str, str]:
    """Return the files of the dataset itself, by path."""
    tree = {
        "channel_names": {str(number): titled(name) for number, name in enumerate(channels)},
        "labels": {"background": 0},
        "numTraining": 0,
        "file_ending": ENDING,
        "description": "Some channels are synthetic, not for diagnosis; synthetic.json says which.",
    }
    return {"dataset.json": json.dumps(tree, indent=2) + "\n"}


def _made(path: str, case: Finished, image: Synthetic, volume: Volume, grid: Volume) -> Output:
    return Output(path, _writer(image.path, volume, grid, ""), told(case, image), synthetic=True)


def _given(path: str, case: Finished, volume: Volume, contrast: str, grid: Volume) -> Output:
    origin = case.study.files[contrast]
    facts = {"case": case.study.name, "contrast": contrast, "from": origin.name, "resampled": False}
    if volume.on_grid_of(grid):
        return Output(path, _writer(origin, volume, grid, contrast), facts, synthetic=False)
    image = next(iter(case.main.values()))
    if contrast not in case.sources(image):
        raise UserError(f"{origin}: lies on another grid, and was not brought into register; synthesize with --align")
    moved = resample(volume, grid.shape, grid.affine, case.transform(image, contrast))
    facts["resampled"] = True
    return Output(path, _writer(None, Volume(moved, grid.affine, contrast), grid, contrast), facts, synthetic=False)


def _writer(origin: Path | None, volume: Volume, grid: Volume, contrast: str) -> Callable[[Path], object]:
    """Copies the file where that gives the channel as it must be, else writes the voxels on the common grid."""
    if origin and origin.name.endswith(ENDING) and _says_the_same(volume, grid):
        return lambda path: shutil.copyfile(origin, path)
    words = f"{contrast} as acquired, converted by gen3d" if contrast else ""
    return lambda path: write(Volume(volume.voxels, grid.affine), path, like=grid, description=words)


def _says_the_same(volume: Volume, grid: Volume) -> bool:
    """Whether every reader gets one grid of both headers, whichever of the header's matrices it takes."""
    if grid.header is None:
        return False
    fields = ("dim", "qform_code", "sform_code", "pixdim")
    alike = all(np.array_equal(np.ravel(volume.header[f])[:4], np.ravel(grid.header[f])[:4]) for f in fields)
    return alike and np.array_equal(volume.affine, grid.affine)


def _skulls(images: Mapping[str, Volume], given: Mapping[str, Volume]) -> list[str]:
    if not images or not is_stripped(next(iter(images.values()))):
        return []
    on = [name for name, volume in given.items() if is_magnitude(volume) and not is_stripped(volume)]
    if not on:
        return []
    return [f"{', '.join(on)}: the skull seems to be on, but {', '.join(images)} shows the brain alone"]
