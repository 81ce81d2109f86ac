"""TorchIO subjects and MONAI dictionaries in and out; neither library is imported until a given one asks for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.layout import canonical, on_one_grid
from gen3d.data.nifti import read, read_labels

MASKS = ("seg", "label", "labels", "lesion", "mask")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Names = Mapping[str, str | Sequence[str]]


def to_case(given: Mapping[str, Any] | Case, names: Names | None = None) -> Case:
    """Return the case that a TorchIO subject or a MONAI dictionary holds: what prepares, trains and is filled in.

    An image is a TorchIO image, a MetaTensor, an array or tensor with its affine in ``KEY_meta_dict``, or the path of a
    NIfTI file; all lie on one grid. What else the mapping holds is left alone.

    Args:
        given: The subject or dictionary; a case is returned as it is.
        names: Key to contrast, or to one contrast for each channel: ``{"image": ("t1n", "t1c", "t2w", "t2f")}``. By
            default keys that are contrasts (t1, flair, ...) are images; ``seg``, ``label``, ``lesion``, ``mask`` and
            TorchIO's label maps are the mask; a single other image keeps its key's name. A value ``name`` names the
            case, on which samples depend besides the seed.

    Raises:
        UserError: No image is found, one has no affine or another number of channels, or their grids differ.
    """
    if isinstance(given, Case):
        return given
    name = str(given.get("name", "subject"))
    volumes: dict[str, Volume] = {}
    lesion: Volume | None = None
    images = {key: value for key, value in given.items() if is_image(value)}
    unknown = [key for key in images if contrasts_of(key, names) is None and not is_mask(key, images[key])]
    for key, value in images.items():
        if is_mask(key, value) and not (names and key in names):
            lesion = labels(key, value, given)
            continue
        called = contrasts_of(key, names) or ((key,) if unknown == [key] and len(images) <= 2 else ())
        if called:
            volumes |= channels(key, value, given, called)
    if not volumes:
        there = ", ".join(map(str, given)) or "no keys"
        raise UserError(f"{name}: no image among {there}; expected contrasts such as t1, or names=")
    on_one_grid([*volumes.values(), *([lesion] if lesion else [])], "resample to one of them first")
    return Case(name, volumes, lesion)


def contrasts_of(key: str, names: Names | None) -> tuple[str, ...] | None:
    """Return the contrast of each channel of an image, None where its key says none."""
    if names is not None:
        told = names.get(key)
        return None if told is None else (told,) if isinstance(told, str) else tuple(told)
    try:
        return (canonical(str(key)),)
    except UserError:
        return None


def is_image(value: Any) -> bool:
    """Tell whether a value is an image: four axes with an affine, an array of three or four axes, or a file's path."""
    if isinstance(value, str | Path):
        return str(value).endswith((".nii", ".nii.gz"))
    return len(getattr(value, "shape", ())) in (3, 4)


def is_mask(key: str, value: Any) -> bool:
    """Tell whether an image is a mask, by its type in TorchIO, else by its key."""
    return getattr(value, "type", None) == "label" or str(key).lower() in MASKS


def channels(key: str, value: Any, given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Volume]:
    """Return an image's channels as volumes, by contrast."""
    if isinstance(value, str | Path):
        if len(names) != 1:
            raise UserError(f"{key}: {value} has one channel, but names gives {len(names)}; name one")
        return {names[0]: read(value, names[0])}
    voxels, affine = parts(key, value, given)
    if len(voxels) != len(names):
        raise UserError(f"{key}: has {len(voxels)} channels; expected {len(names)} ({', '.join(names)}); see names=")
    return {name: Volume(v.astype(np.float32), affine, name) for name, v in zip(names, voxels, strict=True)}


def labels(key: str, value: Any, given: Mapping[str, Any]) -> Volume:
    """Return a mask."""
    if isinstance(value, str | Path):
        return read_labels(value)
    voxels, affine = parts(key, value, given)
    if len(voxels) != 1:
        raise UserError(f"{key}: has {len(voxels)} channels; expected one with labels 0, 1, ...: take its argmax")
    return Volume(voxels[0].astype(np.int16), affine)


def parts(key: str, value: Any, given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return an image's array (C, X, Y, Z) and its affine to Right, Anterior, Superior, in mm.

    Raises:
        UserError: It has no affine.
    """
    meta = getattr(value, "meta", None) or given.get(f"{key}_meta_dict") or {}
    affine = getattr(value, "affine", None)
    if affine is None:
        affine = meta.get("affine")
    if affine is None:
        raise UserError(f"{key}: has no affine; expected a MetaTensor, a TorchIO image, or {key}_meta_dict beside it")
    data = value.data if getattr(value, "type", None) in ("intensity", "label") else value  # a TorchIO image
    voxels = np.asarray(data.cpu() if hasattr(data, "cpu") else data)
    matrix = np.asarray(affine.cpu() if hasattr(affine, "cpu") else affine, dtype=np.float64)
    if str(meta.get("space", "RAS")).upper().endswith("LPS"):
        matrix = LPS_TO_RAS @ matrix
    return voxels if voxels.ndim == 4 else voxels[None], matrix


def given_back(given: Any, made: Mapping[str, Volume], facts: Mapping[str, Any], masks: Sequence[str] = ()) -> Any:
    """Return what was given with volumes added, each in the kind of image that the given ones are.

    Args:
        given: A TorchIO subject, a MONAI dictionary, or a case; not changed.
        made: What is added, by key.
        facts: What each says of itself: in a TorchIO image's own keys, in a MetaTensor's ``meta``.
        masks: Keys of those that are masks.
    """
    if isinstance(given, Case):
        return Case(given.name, {**given.volumes, **made}, given.lesion, given.patient, given.naming, given.raters)
    if hasattr(given, "add_image"):
        import torch
        import torchio

        subject = given.__class__(given)
        for key, volume in made.items():
            kind = torchio.LabelMap if key in masks else torchio.ScalarImage
            tensor = torch.from_numpy(np.ascontiguousarray(volume.voxels))[None]
            subject.add_image(kind(tensor=tensor, affine=volume.affine, **facts), key)
        return subject
    if any(hasattr(value, "meta") for value in given.values()):
        import torch
        from monai.data import MetaTensor

        about = {key: {**facts, "space": "RAS", "affine": torch.from_numpy(v.affine)} for key, v in made.items()}
        return {**given, **{key: MetaTensor(v.voxels[None], meta=about[key]) for key, v in made.items()}}
    arrays = {key: volume.voxels[None] for key, volume in made.items()}
    metas = {f"{key}_meta_dict": {**facts, "affine": volume.affine} for key, volume in made.items()}
    return {**given, **arrays, **metas}
