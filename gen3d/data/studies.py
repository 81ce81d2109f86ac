"""Any study in: what lies at a place, in whichever layout, and how it is read."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gen3d.core.error import UserError
from gen3d.core.volume import Case, Naming, Volume
from gen3d.data import bids, dicom, dicom_stack, folders, nnunet, table
from gen3d.data.aliases import Vocabulary, read_aliases
from gen3d.data.layout import is_lesion, on_one_grid
from gen3d.data.nifti import ENDINGS, read, read_labels, without_ending
from gen3d.data.study import ALIASES_HELP, Study, distinct, few, is_dangling

__all__ = ["Study", "find_studies", "read_aliases", "read_study"]

_EXPECTED = (
    "expected a study such as CASE/t1.nii.gz, CASE/flair.nii.gz; a BIDS or nnU-Net dataset; DICOM series; a CSV table; "
    "names of one's own go into an aliases file (--aliases)"
)
_NAMED = "if it is one of these, name it such as CASE_t1.nii.gz or CASE/t1.nii.gz"


def find_studies(
    source: Path,
    aliases: Mapping[str, Sequence[str]] | None = None,
    note: Callable[[str], None] = lambda words: None,
) -> list[Study]:
    """Return the studies at ``source``, sorted by place; nothing but names and DICOM headers is read.

    Args:
        source: A case's folder, or a folder of these; a folder with several cases' files side by side; a BIDS, nnU-Net
            or Decathlon dataset; folders of DICOM series; a CSV or TSV table; one scan. Links are followed;
            hidden files are left alone.
        aliases: One's own names of contrasts, as ``read_aliases`` returns them.
        note: Told of folders with scans from which nothing is taken.

    Raises:
        UserError: if there is none.
    """
    source, vocabulary = Path(source), Vocabulary(aliases or {})
    if source.name in ("", ".."):  # "." has the name of where it is
        source = Path(os.path.abspath(source))
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    found = _in_file(source, vocabulary) if source.is_file() else _in_folder(source, vocabulary, note)
    if not found:
        raise UserError(f"{source}: no study in it; {_EXPECTED}")
    return distinct(found)


def scans_of(folder: Path, contrast: str) -> list[Study]:
    """Return every NIfTI file that lies right in a folder as a study of one contrast, whatever it is called.

    Segmentations, by their names, are left out.

    Raises:
        UserError: if there is none.
    """
    paths = [path for ending in ENDINGS for path in Path(folder).glob(f"[!.]*{ending}") if not is_lesion(path)]
    if not paths:
        raise UserError(f"{folder}: no scan in it; expected NIfTI files, such as case1.nii.gz")
    names = [(without_ending(path), path) for path in paths]
    return distinct(Study(name, path, {contrast: path}, Path(name), name, Naming("")) for name, path in names)


def read_study(study: Study, *, any_grid: bool = False, with_lesion: bool = True) -> Case:
    """Read all contrasts of a study, and its lesion mask; a DICOM series is converted on the way.

    Args:
        study: As found by ``find_studies``.
        any_grid: Whether its files may lie on different grids, to be aligned later.
        with_lesion: Whether the mask is read.

    Raises:
        UserError: if something is wrong with its files, one can't be read, or they lie on different grids.
    """
    if study.problem:
        raise UserError(study.problem)
    volumes = {contrast: _read(study, contrast) for contrast in study.files}
    lesion = read_labels(_there(study.lesion)) if with_lesion and study.lesion else None
    if not any_grid:
        on_one_grid([*volumes.values(), *([lesion] if lesion else [])], "add --align")
    return Case(study.name, volumes, lesion, study.patient, study.naming)


def _in_file(source: Path, vocabulary: Vocabulary) -> list[Study]:
    if source.suffix.lower() in table.ENDINGS_OF_TABLES:
        return table.find(source, vocabulary)
    if dicom.is_dicom(source):
        raise UserError(f"{source}: one file of a DICOM series; give the folder of the series")
    if not source.name.lower().endswith(ENDINGS):
        raise UserError(f"{source}: neither a NIfTI file nor a CSV or TSV table; {_EXPECTED}")
    if source.parent.name in nnunet.FOLDERS:
        return nnunet.find(source, vocabulary)
    if found := folders.single_file(source, vocabulary):
        return found
    raise UserError(f"{source}: {vocabulary.unknown(without_ending(source))}; {_NAMED}; {ALIASES_HELP}")


def _in_folder(source: Path, vocabulary: Vocabulary, note: Callable[[str], None]) -> list[Study]:
    if root := bids.root_of(source):
        return bids.find(source, root, vocabulary)
    if nnunet.is_dataset(source):
        return nnunet.find(source, vocabulary)
    here = folders.studies_in(source, source, vocabulary)
    if any(study.files for study in here):
        return here
    below = [folder for folder in folders.folders_below(source) if folder != source]
    found = here + [study for folder in below for study in folders.studies_in(folder, source, vocabulary)]
    with_scans = {study.source if study.source.is_dir() else study.source.parent for study in found}
    others = [folder for folder in (source, *below) if folder not in with_scans]
    found += dicom.find(others, source, vocabulary)
    if untaken := [words for folder in others if (words := folders.strangers(folder))]:
        words = f"{source}: nothing is taken from {few(untaken)}: no name says a known contrast; {ALIASES_HELP}"
        if not found:
            raise UserError(f"{source}: no study in it; {words.removeprefix(f'{source}: ')}")
        note(words)
    return found


def _read(study: Study, contrast: str) -> Volume:
    path = _there(study.files[contrast])
    if contrast in study.series:
        return dicom_stack.read(study.series[contrast], contrast, path)
    if path.is_dir() or dicom.is_dicom(path):
        return dicom.read_place(path, contrast)
    return read(path, contrast)


def _there(path: Path) -> Path:
    if is_dangling(path):
        raise UserError(f"{path}: a link to a file that is not there; expected the scan; fetch it, as with datalad get")
    return path
