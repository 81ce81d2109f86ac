"""Datasets of the Brain Imaging Data Structure, https://bids.neuroimaging.io: sub-01/[ses-1/]anat/sub-01_T1w.nii."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gen3d.core.volume import Naming
from gen3d.data.aliases import Vocabulary, is_without_contrast, says_contrast_agent
from gen3d.data.nifti import without_ending
from gen3d.data.study import ALIASES_HELP, Study, few, images_in, is_mask, masks_among

_SUFFIXES = {"t1w": "t1n", "t2w": "t2w", "flair": "t2f"}
NAMES = {"t1n": "T1w", "t1c": "ce-gadolinium_T1w", "t2w": "T2w", "t2f": "FLAIR"}
_NO_IMAGE = {"phase", "real", "imag"}


@dataclass(frozen=True)
class _Scan:
    path: Path
    entities: dict[str, str]
    suffix: str

    @classmethod
    def of(cls, path: Path) -> "_Scan":
        *parts, suffix = without_ending(path).split("_")
        return cls(path, {k.lower(): v for k, dash, v in (part.partition("-") for part in parts) if dash}, suffix)

    @property
    def rank(self) -> tuple[bool, bool, float, float, int, int, str]:
        """The best sorts first: not moved to an atlas, thinnest slices, finest, fewest marks, first run."""
        moved = self.entities.get("space", "orig").lower() not in ("orig", "individual", "t1w")
        enhanced = "ce" in self.entities and self.suffix.lower() != "t1w"
        spacing = _spacing(self.path)
        marks = len(self.entities.keys() - {"sub", "ses", "ce", "run"})
        run = re.sub(r"\D", "", self.entities.get("run", "")) or "0"
        fineness = round(max(spacing), 1), round(math.prod(spacing), 1)
        return moved, enhanced, *fineness, marks, int(run), self.path.name


def root_of(source: Path) -> Path | None:
    """Return the dataset's folder where ``source`` is a BIDS dataset, or a subject's or a session's folder of one."""
    told = (source / "dataset_description.json").is_file() and _folders(source, "sub-")
    if told or any(True for _ in _anatomies(source)):
        return source
    above = [parent for parent in (source.parent, source.parent.parent) if source.name.startswith(("sub-", "ses-"))]
    return next((parent for parent in above if (parent / "dataset_description.json").is_file()), None)


def find(source: Path, root: Path, vocabulary: Vocabulary) -> list[Study]:
    """Return a study for each visit with an ``anat`` folder; ``derivatives`` and hidden folders are left alone.

    ``ce-`` on a T1w makes it a t1c. Of several scans of one contrast, that with the thinnest slices is taken, then the
    finest, the one with the fewest entities, the lowest run; the notes say which were left out.
    """
    if source == root:
        return [_study(anat, root, vocabulary) for anat in _anatomies(root)]
    visits = [source, *_folders(source, "ses-")]
    return [_study(anat, root, vocabulary) for visit in visits if (anat := visit / "anat").is_dir()]


def _anatomies(root: Path) -> Iterator[Path]:
    for subject in _folders(root, "sub-"):
        for visit in (subject, *_folders(subject, "ses-")):
            if (visit / "anat").is_dir():
                yield visit / "anat"


def _folders(folder: Path, prefix: str) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.name.startswith(prefix) and p.is_dir())
    except OSError:
        return []


def _study(anat: Path, root: Path, vocabulary: Vocabulary) -> Study:
    place = anat.parent.relative_to(root)
    name = "_".join(place.parts)
    images = images_in(anat)
    notes: list[str] = []
    unknown: list[str] = []
    candidates: dict[str, list[_Scan]] = defaultdict(list)
    for scan in (_Scan.of(path) for path in images if not is_mask(path)):
        meanings = _contrasts(scan, vocabulary)
        if len(meanings) == 1:
            candidates[meanings[0]].append(scan)
        elif meanings:
            notes.append(f"{scan.path.name}: may be {' or '.join(meanings)}; left out; {ALIASES_HELP}")
        else:
            unknown.append(f"{scan.path.name}: {_unknown(scan, vocabulary)}")
    files: dict[str, Path] = {}
    for contrast, scans in sorted(candidates.items()):
        best, *others = sorted(scans, key=lambda scan: scan.rank) if len(scans) > 1 else scans
        files[contrast] = best.path
        if others:
            rest = few([other.path.name for other in others])
            notes.append(f"{contrast}: {best.path.name} is taken; {rest}: left out")
    lesion, mask, about_masks = masks_among(images)
    problem = "" if files else f"{anat}: no known contrast in it; expected files such as {name}_T1w.nii.gz"
    naming = _naming(name, files)
    told = (*notes, *about_masks)
    patient = place.parts[0]
    return Study(name, anat.parent, files, place, patient, naming, lesion, mask, problem, told, left_out=tuple(unknown))


def _unknown(scan: _Scan, vocabulary: Vocabulary) -> str:
    if scan.suffix.lower() in _SUFFIXES:
        return f"part-{scan.entities.get('part')} is no image of magnitude"
    return vocabulary.unknown(scan.suffix)


def _contrasts(scan: _Scan, vocabulary: Vocabulary) -> tuple[str, ...]:
    if mine := vocabulary.own_meanings(without_ending(scan.path)):
        return mine
    contrast = _SUFFIXES.get(scan.suffix.lower())
    if contrast is None or scan.entities.get("part", "").lower() in _NO_IMAGE:
        return ()
    if contrast != "t1n":
        return (contrast,)
    agent, acquired = scan.entities.get("ce", ""), scan.entities.get("acq", "")
    if agent:
        return ("t1n",) if is_without_contrast(agent) else ("t1c",)
    if says_contrast_agent(acquired):
        return ("t1c",)
    return ("t1c", "t1n") if acquired.lower().startswith("post") else ("t1n",)


def _spacing(path: Path) -> tuple[float, ...]:
    """In mm, from the header alone; infinite where it can't be read, which is told when the file is."""
    import nibabel as nib

    try:
        return tuple(float(mm) for mm in nib.load(path).header.get_zooms()[:3])
    except Exception:  # whatever a broken header brings
        return (math.inf,) * 3


def _naming(name: str, files: dict[str, Path]) -> Naming:
    own = {c: stem for c, p in files.items() if (stem := without_ending(p)).startswith(f"{name}_")}
    first = next(iter(files.values()), Path("_.nii.gz"))
    words = NAMES | {contrast: stem[len(name) + 1 :] for contrast, stem in own.items()}
    return Naming(f"{name}_", words, first.name[len(without_ending(first)) :].lower())
