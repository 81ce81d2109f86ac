"""Which synthetic file belongs to which true one: by place, by case and contrast, or by name."""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.layout import contrast_of, is_lesion
from gen3d.data.nifti import ENDINGS, read_labels, without_ending
from gen3d.tools.evaluate.scans import AXES, is_image

MASK = "mask"
MASKS, BASELINE = "masks", "baseline"
_LEFT_OUT = re.compile(r"(_sample-?\d+|_on-\w+-grid)$")
_MASK_WORDS = {
    MASK,
    "seg",
    "dseg",
    "label",
    "labels",
    "lesion",
    "lesions",
    "gold",
    "brain",
    "body",
    "brainmask",
    "pred",
}
_FOLDERS = {"image": ("imagesTr",), MASK: ("labelsTr",)}


@dataclass(frozen=True)
class File:
    """A file of one side.

    Attributes:
        path: Where it is.
        root: What the user named.
        kind: Its contrast, or "mask"; "" where the name doesn't say.
    """

    path: Path
    root: Path
    kind: str

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return without_ending(self.path)

    @property
    def is_top(self) -> bool:
        """Whether the file is directly in the root."""
        return self.path.parent == self.root

    @property
    def is_bare(self) -> bool:
        """Whether the name says nothing of a case, as that of ``t1.nii.gz`` or ``lesion_gold.nii.gz``."""
        return all(_says_nothing(word) for word in re.split(r"[-_. ]", self.stem))


@dataclass(frozen=True)
class Match:
    """A pair of files, and what to call it."""

    name: str
    real: Path
    fake: Path


@dataclass(frozen=True)
class Matches:
    """What was paired, and what was left over on both sides."""

    pairs: Sequence[Match]
    real_alone: Sequence[Path]
    fake_alone: Sequence[Path]


def match_images(real: Path, fake: Path) -> Matches:
    """Pair images: two files; folders of cases, by case and contrast; or flat folders, by name.

    Maps of deviations, single samples, results on other contrasts' grids and masks are left out of FAKE.

    Raises:
        UserError: A path doesn't exist, holds no image, or nothing belongs together.
    """
    return _match(_images(real), [f for f in _images(fake) if not _LEFT_OUT.search(f.stem)], real, fake, "image")


def match_masks(real: Path, fake: Path) -> Matches:
    """Pair masks, likewise; of folders that hold images too, the files called seg or lesion are taken.

    Raises:
        UserError: As ``match_images`` does.
    """
    return _match(_masks(real), [f for f in _masks(fake) if not _LEFT_OUT.search(f.stem)], real, fake, MASK)


def masks_for(folder: Path, images: Iterable[Path]) -> dict[Path, Path]:
    """Find the mask of each image in another folder, by the case's name; or give the one file to all.

    Raises:
        UserError: There is none, or a case has several.
    """
    images = list(images)
    if folder.is_file():
        return dict.fromkeys(images, folder)
    masks = _masks(folder)
    found: dict[Path, Path] = {}
    for image in images:
        own = [f.path for f in masks if subject(f.path) == subject(image)]
        if len(own) > 1:
            raise UserError(f"{folder}: {own[0].name} and {own[1].name} are both masks of {image.name}; expected one")
        if own:
            found[image] = own[0]
    if not found:
        raise UserError(f"{folder}: no mask of any case; expected names such as {subject(images[0])}.nii.gz")
    return found


def subject(path: Path) -> str:
    """Return whose a file is: its name without contrast and mask words, or its folder's if nothing else is left."""
    words = re.split(r"([-_. ])", without_ending(path))
    while words and _says_nothing(words[-1]):
        words = words[:-2]
    return "".join(words) or path.resolve().parent.name


def turned(volume: Volume) -> Volume:
    """Bring a volume to the axes in which pairs are compared."""
    return volume.reoriented(AXES)


def read_masks(real: Path, fake: Path) -> tuple[Volume, Volume]:
    """Read two masks on one grid.

    Raises:
        UserError: One can't be read, is no mask, or they lie on different grids.
    """
    true, other = (turned(read_labels(path, flat=True)) for path in (real, fake))
    check_grid(true, other)
    return true, other


def check_grid(first: Volume, other: Volume) -> None:
    """Check that two volumes with the same axes have the same voxels.

    Raises:
        UserError: They don't.
    """
    if other.on_grid_of(first):
        return
    shapes = f"shape {other.shape} against {first.shape}"
    what = shapes if first.shape != other.shape else "the same shape at another place or spacing (affine)"
    raise UserError(f"{other.origin}: another grid than {first.origin}: {what}; expected one grid; resample one")


def names_of(paths: Sequence[Path], most: int = 5) -> str:
    """Write some files' names on one line."""
    names = [f"{p.parent.name}/{p.name}" for p in paths[:most]]
    return ", ".join(names) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _says_nothing(word: str) -> bool:
    return word.lower() in _MASK_WORDS or contrast_of(Path(word)) is not None


def _images(root: Path) -> list[File]:
    if root.is_file():
        return [File(root, root, contrast_of(root) or "")]
    return [File(p, folder, contrast_of(p) or "") for folder, p in _files(root, "image") if is_image(p, folder)]


def _masks(root: Path) -> list[File]:
    if root.is_file():
        return [File(root, root, MASK)]
    files = _files(root, MASK)
    named = [(folder, p) for folder, p in files if is_lesion(p)]
    return [File(p, folder, MASK) for folder, p in named or files if named or contrast_of(p) is None]


def _files(root: Path, kind: str) -> list[tuple[Path, Path]]:
    """The NIfTI files below a folder that aren't hidden, each with the folder that its place counts from."""
    if not root.is_dir():
        raise UserError(f"{root}: no such file or folder; expected NIfTI files or a folder of them")
    folder = next((root / name for name in _FOLDERS[kind] if (root / name).is_dir()), root)
    paths = sorted(p for p in folder.rglob("*.nii*") if p.is_file() and p.name.lower().endswith(ENDINGS))
    return [(folder, p) for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def _match(reals: list[File], fakes: list[File], real: Path, fake: Path, what: str) -> Matches:
    for side, files in ((real, reals), (fake, fakes)):
        if not files:
            raise UserError(f"{side}: no {what} in it; expected NIfTI files (.nii or .nii.gz)")
    if real.is_file() != fake.is_file():
        raise UserError(f"{real} and {fake}: one is a file, one a folder; expected two files or two folders")
    if real.is_file():
        return Matches([Match(_name(reals[0]), real, fake)], [], [])
    found: list[tuple[File, File]] = []
    for key in _KEYS:
        theirs, ours = _by_key(reals, key), _by_key(fakes, key)
        new = [(theirs[k], ours[k]) for k in ours if k in theirs]
        found += new
        reals = [f for f in reals if all(f is not pair[0] for pair in new)]
        fakes = [f for f in fakes if all(f is not pair[1] for pair in new)]
    if not found:
        raise UserError(
            f"{fake}: no {what} belongs to one in {real}; expected equal file names, or equal case folders and "
            f"contrasts, such as {names_of([reals[0].path])} on both sides, not {names_of([fakes[0].path])}"
        )
    made = {pair[1].kind for pair in found} | {f.kind for f in fakes}
    found.sort(key=lambda pair: str(pair[0].path))
    alone = [f.path for f in reals if f.kind in made]
    return Matches(_named(found), alone, [f.path for f in fakes])


def _by_key(files: list[File], key: Callable[[File], Hashable]) -> dict[Hashable, File]:
    """Files by a key, without those that have none and those that share theirs."""
    keys = [key(f) for f in files]
    counts = Counter(keys)
    return {k: f for k, f in zip(keys, files, strict=True) if k is not None and counts[k] == 1}


def _in_place(file: File) -> Hashable:
    return str((file.path.parent / file.stem).relative_to(file.root))


def _in_folder(file: File) -> Hashable:
    return (file.path.parent.relative_to(file.root), file.kind) if file.kind and not file.is_top else None


def _in_named_folder(file: File) -> Hashable:
    return (file.path.parent.name, file.kind) if file.kind and not file.is_top else None


def _of_subject(file: File) -> Hashable:
    """Below different folders, a file must say whose it is: "x/scan.nii.gz" doesn't, "x/s01.nii.gz" does."""
    whose = subject(file.path)
    says = file.is_top or whose == file.path.parent.name or any(letter.isdigit() for letter in whose)
    return (whose, file.kind) if says else None


def _in_one_case(file: File) -> Hashable:
    """For two case folders, whatever they are called."""
    return file.kind if file.kind and file.is_top and file.is_bare else None


_KEYS = (_in_place, _in_folder, _in_named_folder, _of_subject, _in_one_case)


def _named(found: list[tuple[File, File]]) -> list[Match]:
    names = [_name(real) for real, _ in found]
    if len(set(names)) < len(names):
        names = [str(_in_place(real)) for real, _ in found]
    return [Match(name, real.path, fake.path) for name, (real, fake) in zip(names, found, strict=True)]


def _name(file: File) -> str:
    return f"{file.path.resolve().parent.name}/{file.stem}" if file.is_bare else file.stem
