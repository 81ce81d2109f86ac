"""A case brought to a model's axes, box and intensity scale, with the way back."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Case, Placement, Prepared, Scale, Triple, Volume, turned
from gen3d.data.intensity import Intensity
from gen3d.data.layout import on_one_grid
from gen3d.data.patches import centred_start

ABSENT = 255  # in every voxel of the mask of a rater who did not draw
Crop = Literal["none", "foreground"] | Triple


def prepare(
    case: Case,
    contrasts: Sequence[str],
    axes: str = "LPS",
    intensity: Intensity | None = None,
    crop: Crop = "none",
    margin: int = 0,
    *,
    pad: Literal["both", "end"] = "both",
) -> Prepared:
    """Turn a case to the model's axes, scale each contrast by its own whole volume, and crop or pad.

    Args:
        case: Raw volumes on one grid; contrasts that it lacks become zeros with ``present`` false.
        contrasts: What the model knows, in the order of its channels.
        axes: The model's axis codes; official WDM and cWDM were trained on "LPS".
        intensity: How each contrast's scale is found; by default cWDM's, percentiles 0.1 and 99.9 onto (0, 1).
        crop: "none": the whole volume; "foreground": the box around v > 0 of any contrast; a size (X, Y, Z): cropped or
            padded to it, centred.
        margin: Voxels kept around the foreground, as far as the volume goes.
        pad: Where a size pads: on "both" sides, the odd voxel at the end (WDM: 240x240x155 to 256^3 by (8, 8), (8, 8),
            (50, 51)), or at the "end" (cWDM: 155 to 160 by (0, 5)). Padding is 0 in raw intensities, or the
            darkest voxel of a volume that is not cut out of its background.

    Raises:
        UserError: if the case has none of the contrasts, or a mask does not fit its image.
    """
    intensity = intensity or Intensity()
    volumes = {name: case.volumes[name] for name in contrasts if name in case.volumes}
    if not volumes:
        wanted, there = ", ".join(contrasts), ", ".join(case.volumes) or "none"
        raise UserError(f"{case.name}: has {there}; expected at least one of {wanted}; add one or use another model")
    placement = place_case(next(iter(volumes.values())), volumes.values(), axes, crop, margin, pad=pad)
    voxels = np.zeros((len(contrasts), *placement.size), dtype=np.float32)
    scales: list[Scale | None] = [None] * len(contrasts)
    for channel, name in enumerate(contrasts):
        if name in volumes:
            scale = intensity.fit(volumes[name].voxels)
            nothing = 0.0 if is_cut_out(volumes[name]) else float(volumes[name].voxels.min())
            voxels[channel] = scale.apply(placement.take(volumes[name].voxels, nothing))
            scales[channel] = scale
    lesion = None if case.lesion is None else placement.take(_bytes(case.lesion))
    present = np.array([name in volumes for name in contrasts])
    spacing = Volume(voxels[0], placement.model_affine).spacing
    raters = raters_masks(case, placement)
    return Prepared(case.name, case.patient, voxels, present, lesion, spacing, tuple(scales), placement, raters=raters)


def raters_masks(case: Case, placement: Placement) -> np.ndarray | None:
    """Return each rater's mask on the model's grid, (R, X, Y, Z) uint8, 255 everywhere for one who did not draw.

    Raises:
        UserError: A mask lies on another grid than the image, or has labels above 254.
    """
    if not case.raters:
        return None
    image = next(iter(case.volumes.values()))
    masks = np.full((len(case.raters), *placement.size), ABSENT, dtype=np.uint8)
    for number, mask in enumerate(case.raters):
        if mask is None:
            continue
        on_one_grid([image, mask], "draw it on the image's own grid")
        if mask.voxels.max() >= ABSENT:
            raise UserError(
                f"{mask.origin}: holds label {mask.voxels.max()}; expected at most {ABSENT - 1}; renumber it"
            )
        masks[number] = placement.take(_bytes(mask))
    return masks


def place_case(
    volume: Volume,
    volumes: Iterable[Volume],
    axes: str,
    crop: Crop = "none",
    margin: int = 0,
    *,
    pad: Literal["both", "end"] = "both",
) -> Placement:
    """Return where a model's array lies in the grid of ``volume``; ``volumes`` give the foreground.

    See ``prepare``.
    """
    whole = Placement(volume.shape, volume.affine, axes, (0, 0, 0), volume.shape)
    shape = whole.turned_shape
    if crop == "none":
        start, size = (0, 0, 0), shape
    elif crop == "foreground":
        start, size = _box(turned(foreground(volumes), whole.file_axes, axes), margin)
    elif isinstance(crop, str) or len(crop) != 3 or min(crop) < 1:
        raise UsageError(f"crop '{crop}': expected 'none', 'foreground' or a size such as (224, 224, 160)")
    else:
        start, size = _centred(shape, crop, pad), (int(crop[0]), int(crop[1]), int(crop[2]))
    return Placement(volume.shape, volume.affine, axes, start, size)


def over_labels(mask: Volume, axes: str, canvas: Triple | None = None) -> Placement:
    """Return where a canvas lies in a mask's grid: in its middle, moved as far as its labels ask for.

    Raises:
        UserError: The mask has no label, or labels wider than the canvas.
    """
    whole = Placement(mask.shape, mask.affine, axes, (0, 0, 0), mask.shape)
    labels = turned(mask.voxels, whole.file_axes, axes)
    if not labels.any():
        raise UserError(f"{mask.origin}: nothing is labelled in it; expected a mask with labels above 0")
    size = canvas or whole.turned_shape
    start = []
    for middle, wide, hit in zip(centred_start(labels.shape, size), size, np.nonzero(labels), strict=True):
        first, last = int(hit.min()), int(hit.max())
        if last - first >= wide:
            room = f"{' x '.join(map(str, size))} ({axes})"
            raise UserError(
                f"{mask.origin}: its labels are {last - first + 1} voxels wide where the model's canvas of {room} "
                f"has {wide}; crop or resample it"
            )
        start.append(min(max(middle, last + 1 - wide), first))
    x, y, z = start
    return replace(whole, start=(x, y, z), size=size)


def foreground(volumes: Iterable[Volume]) -> np.ndarray:
    """Return the mask (X, Y, Z) of v > 0 in any volume; all of it where one is not cut out of its background."""
    masks = [v.voxels > 0 if is_cut_out(v) else np.ones(v.shape, dtype=bool) for v in volumes]
    mask = np.logical_or.reduce(masks)
    return mask if mask.any() else ~mask


def is_cut_out(volume: Volume) -> bool:
    """Say whether 0 means nothing there, as after skull stripping: at least 5 % of the voxels are exactly 0."""
    return float(np.mean(volume.voxels == 0)) >= 0.05


def _box(mask: np.ndarray, margin: int) -> tuple[Triple, Triple]:
    spans = []
    for axis, length in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append((max(int(hit[0]) - margin, 0), min(int(hit[-1]) + 1 + margin, length)))
    (x, x1), (y, y1), (z, z1) = spans
    return (x, y, z), (x1 - x, y1 - y, z1 - z)


def _centred(shape: Triple, size: Triple, pad: str) -> Triple:
    x, y, z = centred_start(shape, size)
    return (x, y, z) if pad == "both" else (max(x, 0), max(y, 0), max(z, 0))


def _bytes(mask: Volume) -> np.ndarray:
    if mask.voxels.max() > 255:
        raise UserError(f"{mask.origin}: labels up to {mask.voxels.max()}; expected at most 255; renumber them")
    return mask.voxels.astype(np.uint8)
