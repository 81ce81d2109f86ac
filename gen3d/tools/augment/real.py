"""Real cases beside synthetic ones: copied as they are, and the only ones that validate."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gen3d.core.error import UsageError, UserError
from gen3d.data.nifti import read, read_labels, write
from gen3d.data.nnunet_out import case_names
from gen3d.data.studies import find_studies
from gen3d.data.study import Study
from gen3d.tools.augment.layouts import ENDING, image_paths, label_path

FOLDS = 5


def check_real(settings: Mapping[str, Any]) -> list[Study]:
    """Return the real cases that a run asks for, by place; nothing where it asks for none.

    Raises:
        UserError: One lacks an image or a mask, or the layout takes none.
    """
    if settings["real"] is None:
        return []
    if settings["layout"] == "bids":
        raise UsageError("--real: a BIDS data set says nothing of folds; take --layout nnunet or msd")
    found = sorted(find_studies(Path(settings["real"])), key=lambda study: str(study.place))
    for study in found:
        lacking = [name for name in images_of(settings) if name not in study.files]
        if study.problem or lacking or study.lesion is None:
            what = study.problem or (f"lacks {', '.join(lacking)}" if lacking else "has no mask")
            raise UserError(f"--real: {study.source}: {what}; expected images and masks of every case; leave it out")
    return found


def images_of(settings: Mapping[str, Any]) -> Sequence[str]:
    """Return the contrasts of the model, as real cases have them."""
    return settings["drawn"]


def folds(studies: Sequence[Study]) -> dict[str, int]:
    """Return the name of each real case in the data set and the fold in which it validates, patients whole."""
    names = case_names([study.place for study in studies])
    order = sorted({study.patient for study in studies}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    fold = {patient: place % FOLDS for place, patient in enumerate(order)}
    return {names[study.place]: fold[study.patient] for study in studies}


def copy_real(studies: Sequence[Study], settings: Mapping[str, Any], folder: Path) -> None:
    """Copy real cases into a folder laid out like the synthetic ones.

    Raises:
        UserError: A file can't be read, or a mask holds a label that the model does not know.
    """
    layout, names = settings["layout"], case_names([study.place for study in studies])
    for study in studies:
        assert study.lesion is not None
        most = int((mask := read_labels(study.lesion)).voxels.max())
        if most > len(settings["labels"]):
            known = ", ".join(f"{number} {name}" for number, name in enumerate(settings["labels"], 1))
            raise UserError(f"--real: {study.lesion}: holds label {most}; this model knows {known}; renumber it")
        paths = image_paths(layout, names[study.place], settings["contrasts"])
        for contrast, path in zip(images_of(settings), paths, strict=True):
            copied(study.files[contrast], folder / path)
        target = folder / label_path(layout, names[study.place])
        target.parent.mkdir(parents=True, exist_ok=True)
        write(mask, target)


def copied(source: Path, target: Path) -> None:
    """Copy an image, compressed where it is not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.name.endswith(ENDING):
        shutil.copyfile(source, target)
    else:
        write(read(source), target)
