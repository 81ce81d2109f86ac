"""Which file is which: BraTS folders with new and old names, plain folders, Medical Segmentation Decathlon."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.volume import Case, Naming, Volume
from gen3d.data.nifti import ENDINGS, read, read_labels, without_ending

ALIASES: Mapping[str, tuple[str, ...]] = {
    "t1n": ("t1n", "t1", "t1w"),
    "t1c": ("t1c", "t1ce", "t1gd", "t1post", "t1ca"),
    "t2w": ("t2w", "t2"),
    "t2f": ("t2f", "flair", "fla"),
}
CONTRASTS = tuple(ALIASES)
TITLES = {"t1n": "T1", "t1c": "T1c", "t2w": "T2", "t2f": "FLAIR"}
_CANONICAL = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_VOCABULARIES = (  # words that occur together, in the order of CONTRASTS
    ("t1n", "t1c", "t2w", "t2f"),
    ("t1", "t1ce", "t2", "flair"),
    ("t1", "t1post", "t2", "flair"),
    ("t1", "t1gd", "t2", "flair"),
    ("t1", "t1c", "t2", "flair"),
    ("t1", "t1ca", "t2", "fla"),
    ("t1w", "t1ce", "t2w", "flair"),
)
_BRATS_TIMEPOINT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d{3}")
_MSD_IMAGES = ("imagesTr", "imagesTs")


def titled(contrast: str) -> str:
    """Return a contrast's name as people know it."""
    return TITLES.get(contrast, contrast)


def canonical(name: str) -> str:
    """Return the canonical name of a contrast: "flair" -> "t2f", "t1post" -> "t1c".

    Raises:
        UsageError: if the name is not known; it names the nearest.
    """
    known = _CANONICAL.get(name.lower())
    if known is None:
        raise UsageError(
            f"contrast '{name}': expected one of {', '.join(CONTRASTS)} or their aliases{nearest(name, _CANONICAL)}"
        )
    return known


def contrast_of(path: Path) -> str | None:
    """Return the contrast that a file's name ends in, or None if it ends in no contrast's name."""
    return _CANONICAL.get(_word(path).lower())


def is_lesion(path: Path) -> bool:
    """Say whether a file's name is that of a lesion mask: ``seg``, ``*_seg``, ``lesion*``."""
    words = _words(path)
    return words[-1] == "seg" or any(word.startswith("lesion") for word in words)


def find_cases(path: Path | str) -> list[Path]:
    """Return the cases at ``path``, for ``read_case``: itself, or the case folders below it, sorted by name.

    In a folder with ``imagesTr`` (Medical Segmentation Decathlon) every image is a case.

    Raises:
        UserError: if there is none.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder; expected a case folder or a folder of case folders")
    if path.is_file():
        return [path]
    if (path / _MSD_IMAGES[0]).is_dir():
        return _images(path / _MSD_IMAGES[0])
    if path.name in _MSD_IMAGES:
        return _images(path)
    if any(contrast_of(p) for p in _images(path)):
        return [path]
    found = sorted({p.parent for p in path.rglob("*.nii*") if not _is_hidden(p, path) and _has_contrast(p)})
    if not found:
        raise UserError(f"{path}: no case in it; {_expectation()}")
    return found


def read_case(path: Path | str, *, with_lesion: bool = True) -> Case:
    """Read all contrasts of a case, and its lesion mask.

    Args:
        path: A case's folder; or an image in ``imagesTr``, whose single contrast is then called "mri" and whose labels,
            from ``labelsTr``, are the mask.
        with_lesion: Whether the mask is read.

    Raises:
        UserError: if a file cannot be read, files disagree in shape or affine, two are the same contrast, or none is
            any.
    """
    path = Path(path)
    if path.is_file() and path.parent.name in _MSD_IMAGES:
        return _read_msd(path, with_lesion=with_lesion)
    if not path.is_dir():
        problem = "not a folder" if path.exists() else "no such folder"
        raise UserError(f"{path}: {problem}; expected a case's folder")
    files = _contrast_files(path)
    volumes = {name: read(file, name) for name, file in files.items()}
    masks = [p for p in _images(path) if is_lesion(p)] if with_lesion else []
    _one_at_most(masks, "lesion masks")
    lesion = read_labels(masks[0]) if masks else None
    on_one_grid([*volumes.values(), *([lesion] if lesion else [])])
    name = path.resolve().name
    return Case(name, volumes, lesion, patient_of(name), _naming(files))


def on_one_grid(volumes: Iterable[Volume], remedy: str = "resample one") -> None:
    """Check that all volumes lie on the grid of the first.

    Raises:
        UserError: if one does not; it names both files and ends in ``remedy``.
    """
    first, *others = volumes
    for other in others:
        if not first.on_grid_of(other):
            what = f"shape, {first.shape} against {other.shape}" if first.shape != other.shape else "affine"
            raise UserError(f"{first.origin} and {other.origin} differ in {what}; expected one grid; {remedy}")


def patient_of(name: str) -> str:
    """Return whom a case of this name is of: "BraTS-GLI-00017-001" is of "BraTS-GLI-00017"."""
    match = _BRATS_TIMEPOINT.fullmatch(name)
    return match[1] if match else name


def naming_like(own: Mapping[str, tuple[str, str]], ending: str) -> Naming:
    """Return the naming of a case, so that a new file is named as the others are.

    Args:
        own: Contrast to the two parts of its file's name: what stands before the contrast, and the contrast's word.
        ending: ``.nii`` or ``.nii.gz``.
    """
    words = {name: word for name, (_, word) in own.items()}
    used = {word.lower() for word in words.values()}
    vocabulary = max(_VOCABULARIES, key=lambda vocabulary: len(used & set(vocabulary)))
    shout = all(word.isupper() for word in words.values())
    others = {name: word.upper() if shout else word for name, word in zip(CONTRASTS, vocabulary, strict=True)}
    prefix = Counter(prefix for prefix, _ in own.values()).most_common(1)[0][0]
    return Naming(prefix, others | words, ending)


def _words(path: Path) -> list[str]:
    return re.split(r"[-_. ]", without_ending(path).lower())


def _word(path: Path) -> str:
    return re.split(r"[-_. ]", without_ending(path))[-1]


def _has_contrast(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ENDINGS) and contrast_of(path) is not None


def _is_hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _images(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.name.lower().endswith(ENDINGS) and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())


def _expectation() -> str:
    return "expected files such as t1.nii.gz, t1ce.nii.gz, t2.nii.gz, flair.nii.gz, or CASE-t1n.nii.gz and so on"


def _one_at_most(files: list[Path], what: str) -> None:
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise UserError(f"{files[0].parent}: {len(files)} {what}: {names}; expected one; move the other elsewhere")


def _contrast_files(folder: Path) -> dict[str, Path]:
    files = [p for p in _images(folder) if not is_lesion(p)]
    found = {name: [p for p in files if contrast_of(p) == name] for name in CONTRASTS}
    for name, paths in found.items():
        _one_at_most(paths, f"files for contrast {name}")
    if not any(found.values()):
        raise UserError(f"{folder}: no known contrast in it; {_expectation()}")
    return {name: paths[0] for name, paths in found.items() if paths}


def _naming(files: Mapping[str, Path]) -> Naming:
    words = {name: _word(path) for name, path in files.items()}
    own = {name: (without_ending(path)[: -len(words[name])], words[name]) for name, path in files.items()}
    first = next(iter(files.values()))
    return naming_like(own, first.name[len(without_ending(first)) :].lower())


def _read_msd(path: Path, *, with_lesion: bool) -> Case:
    image = read(path, "mri")
    labels = path.parent.parent / path.parent.name.replace("images", "labels") / path.name
    lesion = read_labels(labels) if with_lesion and labels.is_file() else None
    on_one_grid([image, *([lesion] if lesion else [])])
    return Case(without_ending(path), {"mri": image}, lesion, naming=Naming("", {"mri": without_ending(path)}))
