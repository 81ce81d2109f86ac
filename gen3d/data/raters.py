"""Images of which several raters drew the masks: npz archives, and folders with ``labelsTr/CASE_raterN.nii.gz``."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Case, Naming, Volume
from gen3d.data import nnunet
from gen3d.data.aliases import Vocabulary
from gen3d.data.layout import on_one_grid
from gen3d.data.nifti import read, read_labels, without_ending
from gen3d.data.prepare import ABSENT
from gen3d.data.study import Study, distinct, images_in

IMAGE, MASKS = "_image", "_masks"
_RATER = re.compile(r"(.+)_rater(\d+)")
_EXPECTED = "expected CASE_image (X, Y) or (X, Y, Z) and CASE_masks (R, X, Y) or (R, X, Y, Z)"


@dataclass(frozen=True)
class RatedStudy(Study):
    """A study whose masks several raters drew.

    Attributes:
        masks: Number of each rater who drew, from 1, to the mask's file; none in an npz archive, which holds them.
        raters: How many raters there are in the data set.
    """

    masks: Mapping[int, Path] = field(default_factory=dict)
    raters: int = 0


def holds_raters(source: Path) -> bool:
    """Say whether a path is an npz archive, or a data set with masks called ``CASE_raterN`` in labelsTr."""
    return source.suffix.lower() == ".npz" or any(_RATER.fullmatch(without_ending(p)) for p in _labels(source))


def find_rater_cases(source: Path | str, contrast: str | None = None) -> list[RatedStudy]:
    """Return the cases of an npz archive, or of a folder with imagesTr and ``labelsTr/CASE_raterN.nii.gz``.

    Args:
        source: The archive, with arrays ``CASE_image`` and ``CASE_masks``, or the folder.
        contrast: What the images show, where their names don't say; "mri" unless told.

    Raises:
        UserError: There is none, the archive can't be read, or a mask is of no image.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(
            f"{source}: no such file or folder; expected an npz archive, or a folder with imagesTr and labelsTr"
        )
    return distinct_rated(_in_archive(source, contrast) if source.is_file() else _in_folder(source, contrast))


def read_rater_case(study: RatedStudy) -> Case:
    """Read an image and all its raters' masks; a rater who did not draw is None, one who saw nothing has an empty mask.

    Raises:
        UserError: A file can't be read, or masks and image differ in geometry, or nobody drew.
    """
    if study.problem:
        raise UserError(study.problem)
    if study.source.suffix.lower() == ".npz":
        return _read_archived(study)
    if not study.masks:
        raise UserError(
            f"{study.source}: no rater drew it; expected {study.name}_rater1.nii.gz or another's in labelsTr"
        )
    volumes = {contrast: read(path, contrast, flat=True) for contrast, path in study.files.items()}
    masks = {number: read_labels(path, flat=True) for number, path in study.masks.items()}
    on_one_grid([*volumes.values(), *masks.values()], "draw masks on the image's own grid")
    raters = tuple(masks.get(number) for number in range(1, study.raters + 1))
    return Case(study.name, volumes, None, study.patient, study.naming, raters)


def distinct_rated(studies: list[RatedStudy]) -> list[RatedStudy]:
    """Return the studies sorted by place, every place made unique."""
    return [study for study in distinct(studies) if isinstance(study, RatedStudy)]


def _in_archive(source: Path, contrast: str | None) -> list[RatedStudy]:
    with _archive(source) as archive:
        names = archive.files
    cases = sorted(name.removesuffix(IMAGE) for name in names if name.endswith(IMAGE))
    if not cases:
        raise UserError(f"{source}: no array whose name ends in {IMAGE}; {_EXPECTED}")
    lacking = sorted({f"{case}{MASKS}" for case in cases} - set(names))
    if lacking:
        raise UserError(f"{source}: lacks {', '.join(lacking[:3])}; {_EXPECTED} for every case")
    files = {contrast or "mri": source}
    return [RatedStudy(name, source, files, Path(name), name, Naming(f"{name}_")) for name in cases]


def _in_folder(source: Path, contrast: str | None) -> list[RatedStudy]:
    drawn: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in _labels(source):
        if match := _RATER.fullmatch(without_ending(path)):
            drawn[match[1]][int(match[2])] = path
    raters = max((number for masks in drawn.values() for number in masks), default=0)
    if not raters:
        raise UserError(f"{source / 'labelsTr'}: no mask of a rater; expected CASE_rater1.nii.gz and so on")
    if any(0 in masks for masks in drawn.values()):
        raise UserError(f"{source / 'labelsTr'}: has a rater 0; expected raters counted from 1; rename the masks")
    studies = nnunet.find(source / "imagesTr", Vocabulary())
    if alone := sorted(set(drawn) - {study.name for study in studies}):
        raise UserError(
            f"{drawn[alone[0]][min(drawn[alone[0]])]}: no image of {alone[0]} in imagesTr; rename or remove it"
        )
    return [_rated(study, drawn[study.name], raters, contrast) for study in studies]


def _rated(study: Study, masks: Mapping[int, Path], raters: int, contrast: str | None) -> RatedStudy:
    if contrast and len(study.files) == 1:
        study = replace(study, files={contrast: next(iter(study.files.values()))})
    known = {f.name: getattr(study, f.name) for f in fields(study)}
    return RatedStudy(**known | {"lesion": None}, masks=masks, raters=raters)


def _read_archived(study: RatedStudy) -> Case:
    source = study.source
    with _archive(source) as archive:
        image, masks = (np.asarray(archive[f"{study.name}{kind}"]) for kind in (IMAGE, MASKS))
    where = f"{source}: {study.name}"
    if image.ndim not in (2, 3) or masks.ndim != image.ndim + 1:
        raise UserError(f"{where}: image has shape {image.shape}, masks {masks.shape}; {_EXPECTED}")
    if masks.shape[1:] != image.shape:
        raise UserError(f"{where}: image has shape {image.shape}, each mask {masks.shape[1:]}; expected one grid")
    if not np.isfinite(image).all():
        raise UserError(f"{where}: the image holds NaN or infinite values; expected finite numbers; replace them")
    if image.min() == image.max():
        raise UserError(
            f"{where}: all voxels of the image are {image.flat[0]:g}; expected an image; leave the case out"
        )
    image, masks = np.atleast_3d(image).astype(np.float32), masks.reshape(len(masks), *np.atleast_3d(image).shape)
    raters = tuple(_mask(mask, where, number, source) for number, mask in enumerate(masks, 1))
    if not any(raters):
        raise UserError(f"{where}: no rater drew it; expected a mask of one at least; leave the case out")
    contrast = next(iter(study.files))
    return Case(
        study.name, {contrast: Volume(image, np.eye(4), contrast, source)}, None, study.patient, study.naming, raters
    )


def _mask(mask: np.ndarray, where: str, number: int, source: Path) -> Volume | None:
    """One rater's mask; NaN or 255 everywhere is a rater who did not draw."""
    if np.isnan(mask).all() if mask.dtype.kind == "f" else (mask == ABSENT).all():
        return None
    labels = np.rint(np.nan_to_num(mask.astype(np.float64), nan=-1.0))
    if (labels != mask).any() or labels.min() < 0 or labels.max() >= ABSENT:
        raise UserError(f"{where}: mask {number} is not a mask; expected whole numbers from 0 to {ABSENT - 1}")
    return Volume(labels.astype(np.int16), np.eye(4), None, source)


def _archive(source: Path) -> np.lib.npyio.NpzFile:
    try:
        found = np.load(source, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            return found
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{source}: can't be read as an npz archive ({error}); {_EXPECTED}") from None
    raise UserError(f"{source}: no npz archive; {_EXPECTED}")


def _labels(source: Path) -> list[Path]:
    return images_in(source / "labelsTr")
