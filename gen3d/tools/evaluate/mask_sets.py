"""Sets of masks of one case: several raters' or several samples, as NIfTI files or arrays of an npz file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.core.volume import Volume, same_grid
from gen3d.data.nifti import ENDINGS, read_labels, without_ending
from gen3d.metrics.matching import binary_masks
from gen3d.tools.evaluate.scans import AXES

RATERS, SAMPLES = "rater", "sample"
ARRAYS = {RATERS: ("raters", "masks"), SAMPLES: ("samples", "masks")}  # names in an npz, the first found is taken
EXPECTED = {
    RATERS: "CASE_rater1.nii.gz, CASE_rater2.nii.gz ..., or an npz with CASE_masks",
    SAMPLES: "CASE/CASE_sample-01.nii.gz ..., or an npz with CASE_samples or CASE_masks",
}


@dataclass(frozen=True)
class MaskSet:
    """Where the masks of one case are.

    Attributes:
        name: The case's.
        files: One NIfTI file each, or one npz file for all.
        key: Of the array in the npz file.
    """

    name: str
    files: tuple[Path, ...]
    key: str | None = None


@dataclass(frozen=True)
class Masks:
    """The masks of one case, bool (n, X, Y, Z), and, if files said so, where they lie."""

    voxels: Tensor
    affine: np.ndarray | None = None


def find_masks(path: Path, kind: str) -> dict[str, MaskSet]:
    """Return the sets at a path by their case's name, in order.

    Args:
        path: A folder with NIfTI files, at any depth, or with npz files; or an npz file.
        kind: "rater" or "sample".

    Raises:
        UserError: There is none, or one case's mask is there twice.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder; expected {EXPECTED[kind]}")
    packed = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if path.is_file() and path.suffix != ".npz":
        raise UserError(f"{path}: is a file, but no npz; expected {EXPECTED[kind]}")
    found = {} if path.is_file() else in_folder(path, kind)
    for file in packed:
        for name, masks in in_npz(file, kind).items():
            if name in found:
                raise UserError(f"{file}: case {name} is also in {found[name].files[0]}; expected each case once")
            found[name] = masks
    if not found:
        raise UserError(f"{path}: no masks in it; expected {EXPECTED[kind]}")
    return dict(sorted(found.items()))


def in_folder(folder: Path, kind: str) -> dict[str, MaskSet]:
    """Group the NIfTI files of a folder by case, each group in the order of its numbers."""
    numbered: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.rglob("*.nii*")):
        match = re.fullmatch(rf"(.+)_{kind}-?(\d+)", without_ending(path))
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if match is None or hidden or not path.name.lower().endswith(ENDINGS):
            continue
        others = numbered.setdefault(match[1], {})
        if int(match[2]) in others:
            raise UserError(f"{path}: the same case and number as {others[int(match[2])]}; expected each mask once")
        others[int(match[2])] = path
    return {name: MaskSet(name, tuple(p for _, p in sorted(files.items()))) for name, files in numbered.items()}


def in_npz(path: Path, kind: str) -> dict[str, MaskSet]:
    """Find the arrays of masks in an npz file; one whose name has no case is called after the file."""
    keys = list(arrays_of(path))
    found: dict[str, MaskSet] = {}
    for word in ARRAYS[kind]:
        for key in keys:
            name = path.stem if key == word else key.removesuffix(f"_{word}") if key.endswith(f"_{word}") else None
            if name and name not in found:
                found[name] = MaskSet(name, (path,), key)
    return found


def arrays_of(path: Path) -> Mapping[str, np.ndarray]:
    """Open an npz file; arrays are read when asked for.

    Raises:
        UserError: It is none.
    """
    try:
        arrays: Mapping[str, np.ndarray] = np.load(path, allow_pickle=False)
        list(arrays)
    except (OSError, ValueError, EOFError, TypeError, BadZipFile) as error:
        raise UserError(f"{path}: truncated or no npz file at all; expected {EXPECTED[RATERS]}") from error
    return arrays


def common_cases(real: dict[str, MaskSet], fake: dict[str, MaskSet]) -> list[str]:
    """Return the names of the cases on both sides; a nameless set in an npz fits the only case of the other side.

    Raises:
        UserError: There is none.
    """
    names = [name for name in real if name in fake]
    if not names and len(real) == len(fake) == 1:
        (ours,), (theirs,) = real.values(), fake.values()
        if ours.key in ARRAYS[RATERS] and theirs.key in ARRAYS[SAMPLES]:
            fake[ours.name] = fake.pop(theirs.name)
            names = [ours.name]
    if not names:
        some = [", ".join(list(side)[:3]) + (" ..." if len(side) > 3 else "") for side in (real, fake)]
        raise UserError(f"no case has both raters and samples: raters of {some[0]}; samples of {some[1]}; rename one")
    return names


def read_pair(real: MaskSet, fake: MaskSet, samples: int | None, label: int | None) -> tuple[Masks, Masks]:
    """Read raters and samples of a case.

    Args:
        real: Where the raters' masks are.
        fake: Where the samples are.
        samples: Read only so many, in order.
        label: Take this class as foreground; by default the masks must be 0 and 1.

    Raises:
        UserError: As ``read_masks`` does, or raters and samples lie on different grids.
    """
    axes = AXES if real.key is None and fake.key is None else None  # an npz knows no axes: both stay as they are
    pair = read_masks(real, None, label, axes), read_masks(fake, samples, label, axes)
    check_grids(*pair, real.name)
    return pair


def read_masks(masks: MaskSet, first: int | None, label: int | None, axes: str | None) -> Masks:
    """Read a set.

    Args:
        masks: Where it is.
        first: Read only so many, in order.
        label: Take this class as foreground.
        axes: Turn the masks of NIfTI files to these codes; by default to those of the first.

    Raises:
        UserError: A file can't be read, files differ in their grid, there are fewer masks than ``first``, or they
            aren't binary and no class was chosen.
    """
    affine = None
    if masks.key is None:
        volumes = on_one_grid([read_labels(path, flat=True) for path in masks.files[:first]], axes)
        voxels, affine = np.stack([volume.voxels for volume in volumes]), volumes[0].affine
    else:
        voxels = from_npz(masks)[:first]
    if first is not None and len(voxels) < first:
        raise UserError(f"{masks.files[0]}: case {masks.name} has {len(voxels)} masks; expected {first}")
    try:
        return Masks(binary_masks(torch.from_numpy(foreground(voxels, label))), affine)
    except ValueError as error:
        hint = " with --structure" if "binary" in str(error) else ""
        raise UserError(f"{masks.files[0]}: case {masks.name}: {error}{hint}") from None


def foreground(voxels: np.ndarray, label: int | None) -> np.ndarray:
    """Return masks of one class as 0 and 1, nan kept; without a class, what is neither 0 nor 1 stays neither."""
    if voxels.dtype.kind == "f":
        return voxels if label is None else np.where(np.isnan(voxels), np.nan, voxels == label)
    return (
        np.clip(voxels, 0 if voxels.dtype.kind in "bu" else -1, 2).astype(np.int8) if label is None else voxels == label
    )


def from_npz(masks: MaskSet) -> np.ndarray:
    """Read an array (n, X, Y), whose masks become (X, Y, 1), or (n, X, Y, Z)."""
    path, key = masks.files[0], str(masks.key)
    try:
        voxels = np.asarray(arrays_of(path)[key])
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: array {key} can't be read; expected numbers; save it again") from error
    if voxels.dtype.kind not in "biuf" or voxels.ndim not in (3, 4):
        shape = "x".join(map(str, voxels.shape))
        raise UserError(f"{path}: array {key} is {shape} {voxels.dtype}; expected numbers, (masks, X, Y[, Z])")
    return voxels[..., None] if voxels.ndim == 3 else voxels


def on_one_grid(volumes: list[Volume], axes: str | None) -> list[Volume]:
    """Turn volumes to the same axes and check that they then share a grid."""
    turned = [volume.reoriented(axes or volumes[0].axcodes) for volume in volumes]
    for volume in turned:
        if not volume.on_grid_of(turned[0]):
            raise UserError(f"{volume.origin}: another grid than {turned[0].origin}; expected one; resample one")
    return turned


def check_grids(real: Masks, fake: Masks, name: str) -> None:
    """Check that samples lie where the raters' masks do; an npz says nothing of where, so its size must do.

    Raises:
        UserError: They don't.
    """
    sizes = ["x".join(map(str, masks.voxels.shape[1:])) for masks in (real, fake)]
    if sizes[0] != sizes[1]:
        raise UserError(f"case {name}: raters of {sizes[0]} voxels, samples of {sizes[1]}; expected one grid")
    if real.affine is None or fake.affine is None:
        return
    if not same_grid(tuple(real.voxels.shape[1:]), real.affine, fake.affine):
        raise UserError(f"case {name}: raters and samples lie in different places (affines differ); expected one grid")
