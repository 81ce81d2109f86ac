"""One study: which files make up a case, before any of them is read."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gen3d.core.volume import Naming
from gen3d.data.layout import CONTRASTS, is_lesion
from gen3d.data.nifti import ENDINGS, without_ending

ALIASES_HELP = "an aliases file can say which (--aliases)"
_LESIONS = ("lesion", "tumor", "tumour", "wmh", "gtv")


@dataclass(frozen=True)
class Study:
    """Which files make up one case.

    Attributes:
        name: "BraTS-GLI-00001-000", "sub-01_ses-2", nnU-Net's case id, the table's case column.
        source: What to name in messages: its folder, the table, or its first file.
        files: Contrast to file, in the order of CONTRASTS; of a DICOM series its folder, or its first file where others
            lie beside.
        place: Where its results go below the output folder; unique among all studies found together.
        patient: Whom the study is of.
        naming: How its files are named.
        lesion: Mask of what is ill.
        mask: Mask of the brain.
        problem: What is wrong with its files, if anything; told when it is read, so that one never stops the rest.
        notes: What was left out or could be understood in two ways.
        series: Contrast to all files of its DICOM series.
        left_out: Its scans that no contrast is known of, each with the reason.
    """

    name: str
    source: Path
    files: Mapping[str, Path]
    place: Path
    patient: str
    naming: Naming
    lesion: Path | None = None
    mask: Path | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    series: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = {contrast: self.files[contrast] for contrast in CONTRASTS if contrast in self.files}
        object.__setattr__(self, "files", known | dict(self.files))  # in the order of CONTRASTS, others behind


def distinct(studies: Iterable[Study]) -> list[Study]:
    """Return the studies sorted by place, every place made unique: "x", "x-2" (upper and lower case count as one)."""
    taken: set[str] = set()
    found = []
    for study in sorted(studies, key=lambda s: (str(s.place), str(s.source))):
        visible = Path(
            *(as_name(part) if not part or part.startswith(".") else part for part in study.place.parts or ("",))
        )
        place, count = visible, 1
        while str(place).casefold() in taken:
            count += 1
            place = visible.with_name(f"{visible.name}-{count}")
        taken.add(str(place).casefold())
        found.append(replace(study, place=place))
    return sorted(found, key=lambda s: str(s.place))


def few(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names and how many more there are: "a, b, c and 12 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def own_name(folder: Path) -> str:
    """Return a folder's name, a link's own name where it is one; "." has the name of where it is."""
    return Path(os.path.abspath(folder)).name or "study"


def as_name(text: str) -> str:
    """Return ``text`` as the name of one visible folder."""
    name = re.sub(r"[\x00-\x1f/\\:]+", "_", text.strip())
    return re.sub(r"^\.+", "_", name) or "study"


def images_in(folder: Path) -> list[Path]:
    """Return the visible NIfTI files of a folder, sorted; links to nothing too, as something is meant to be there."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    named = (p for p in paths if p.name.lower().endswith(ENDINGS) and not p.name.startswith("."))
    return [p for p in named if without_ending(p) and (p.is_file() or is_dangling(p))]


def is_dangling(path: Path) -> bool:
    """Say whether a path is a link to nothing, as in a dataset whose files are fetched on demand."""
    return path.is_symlink() and not path.exists()


def is_mask(path: Path) -> bool:
    """Say whether a file's name is that of a mask of any kind."""
    return is_lesion_mask(path) or _words(path)[-1] in ("mask", "brainmask", "roi", "dseg", "seg")


def is_lesion_mask(path: Path) -> bool:
    """Say whether a file's name is that of a lesion mask: ``seg``, ``lesion*``, ``tumor_mask``, ``lesion_roi``."""
    words = _words(path)
    named = any(word.startswith(_LESIONS) for word in words)
    return is_lesion(path) or (named and words[-1] in ("mask", "roi", "dseg", "seg"))


def masks_among(paths: Iterable[Path]) -> tuple[Path | None, Path | None, tuple[str, ...]]:
    """Return the lesion mask, the brain mask, and notes on masks of which one could not be chosen."""
    notes: list[str] = []
    found = [p for p in paths if is_mask(p)]
    lesions = [p for p in found if is_lesion_mask(p)]
    if len(lesions) > 1:
        notes.append(f"{len(lesions)} lesion masks: {few([p.name for p in lesions])}; none is used")
    brains = [p for p in found if not is_lesion_mask(p) and _words(p)[-1] in ("mask", "brainmask")]
    clearly = [p for p in brains if _words(p)[-1] == "brainmask" or "brain" in _words(p)] or brains
    if len(clearly) > 1:
        notes.append(f"{len(clearly)} brain masks: {few([p.name for p in clearly])}; none is used")
    return _single(lesions), _single(clearly), tuple(notes)


def _single(paths: list[Path]) -> Path | None:
    return paths[0] if len(paths) == 1 else None


def _words(path: Path) -> list[str]:
    return re.split(r"[-_. ]", without_ending(path).lower())
