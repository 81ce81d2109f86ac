"""Raters that are simulated: each moves the border of a known mask smoothly, by known amounts, alike across slices."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gen3d.core.error import UserError
from gen3d.core.randomness import Key, derive, normal, uniform
from gen3d.core.volume import Case, Volume
from gen3d.data.blur import blurred
from gen3d.data.nifti import read_labels, without_ending, write
from gen3d.data.study import images_in


@dataclass(frozen=True)
class Disagreement:
    """How simulated raters differ.

    Fixed before the first model was trained.

    On hippocampi at 1 mm the defaults make pairs of raters agree to a mean Dice of 0.85.

    Attributes:
        habits: How far each rater draws the border outwards of where it is, in mm, in every case alike.
        moods: Standard deviation of how far all of the border is moved in one case, in mm, anew for every rater.
        wander: Root mean square of a smooth random shift of each place of the border, in mm, anew likewise.
        reach: Distance over which that shift is alike, in mm: standard deviation of the Gaussian that smooths it.
        smooth: Standard deviation of the Gaussian that rounds the corners of voxels off, in mm.
        absent: Probability that a rater does not draw a case; one of them always does.
    """

    habits: tuple[float, ...] = (-0.5, -0.2, 0.2, 0.5)
    moods: float = 0.2
    wander: float = 0.3
    reach: float = 5.0
    smooth: float = 0.6
    absent: float = 0.0

    def __post_init__(self) -> None:
        if not self.habits:
            raise ValueError("habits: expected one number for each rater")


@dataclass(frozen=True, eq=False)
class Simulated:
    """What simulated raters drew.

    Attributes:
        masks: (R, X, Y, Z) uint8.
        shifts: How far each place of the border was moved outwards, in mm, (R, X, Y, Z).
        drew: (R,) bool.
    """

    masks: np.ndarray
    shifts: np.ndarray
    drew: np.ndarray


def simulate_raters(
    mask: np.ndarray, spacing: tuple[float, float, float], disagreement: Disagreement, key: Key
) -> Simulated:
    r"""Draw every rater's mask: where the signed distance $\phi$ to the border, positive inside, exceeds minus a shift.

    $$m_r = [\phi + s_r > 0], \qquad s_r(x) = habit_r + mood_r + wander_r(x).$$

    What is added has the label of the nearest labelled voxel. An empty mask stays empty. All follows from the key.

    Args:
        mask: Labels, (X, Y, Z).
        spacing: Of the voxels, in mm.
        disagreement: How the raters differ.
        key: Of the case.
    """
    distance, nearest = signed_distance(mask, spacing, disagreement.smooth)
    keys = [derive(key, "rater", number) for number in range(len(disagreement.habits))]
    shifts = np.stack(
        [
            _shift(habit, mask.shape, spacing, disagreement, k)
            for habit, k in zip(disagreement.habits, keys, strict=True)
        ]
    )
    masks = np.where(distance + shifts > 0, nearest, 0).astype(np.uint8)
    chances = uniform([derive(k, "drew") for k in keys]).numpy()
    drew = chances >= min(disagreement.absent, float(chances.max()))
    return Simulated(masks, shifts, drew)


def signed_distance(
    mask: np.ndarray, spacing: tuple[float, float, float], smooth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the border of all labels in mm, positive inside, and the nearest label, (X, Y, Z) each.

    The border lies between voxels, nearer than half a voxel on average, as the nearest one of the other side is seldom
    straight ahead. The border of a ball of radius 10 then moves by what it is told to 0.2 voxels. An empty mask is
    infinitely far away.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    inside = mask > 0
    if not inside.any():
        return np.full(mask.shape, -np.inf), mask
    outer, places = distance_transform_edt(~inside, sampling=spacing, return_indices=True)
    signed = (distance_transform_edt(inside, sampling=spacing) if not inside.all() else np.inf) - outer
    flat = [n == 1 for n in mask.shape]
    within = 0.35 * float(np.mean([s for s, f in zip(spacing, flat, strict=True) if not f] or [1.0]))
    signed = signed - within * np.sign(signed)
    sigmas = [0 if f else smooth / s for s, f in zip(spacing, flat, strict=True)]
    return gaussian_filter(signed, sigmas, mode="nearest"), mask[tuple(places)]


def with_raters(case: Case, disagreement: Disagreement, key: Key) -> Case:
    """Return a case with simulated raters in the place of its one mask.

    Raises:
        UserError: It has no mask.
    """
    if case.lesion is None:
        raise UserError(f"{case.name}: has no mask; expected one to simulate raters from; choose another case")
    found = simulate_raters(case.lesion.voxels, case.lesion.spacing, disagreement, key)
    drawn = zip(found.masks, found.drew, strict=True)
    raters = tuple(Volume(mask, case.lesion.affine) if drew else None for mask, drew in drawn)
    return replace(case, lesion=None, raters=raters)


def write_raters(source: Path, out: Path, disagreement: Disagreement, seed: int = 0) -> Path:
    """Write labelsTr with simulated raters' masks for every image of a data set, beside a link to its images.

    Args:
        source: With imagesTr and labelsTr, one mask a case.
        out: Becomes a data set as gen3d.data.raters reads it.
        disagreement: How the raters differ.
        seed: The key of a case is ``seed/raters/CASE``.

    Raises:
        UserError: There is no mask, or a file can't be written.
    """
    masks = images_in(source / "labelsTr")
    if not masks:
        raise UserError(f"{source / 'labelsTr'}: no mask in it; expected one for each image of imagesTr")
    for path in masks:
        name, mask = without_ending(path), read_labels(path)
        found = simulate_raters(mask.voxels, mask.spacing, disagreement, derive(seed, "raters", name))
        for number, (drawn, drew) in enumerate(zip(found.masks, found.drew, strict=True), 1):
            if drew:
                write(replace(mask, voxels=drawn), out / "labelsTr" / f"{name}_rater{number}.nii.gz")
    images = out / "imagesTr"
    if not images.exists():
        images.symlink_to((source / "imagesTr").resolve(), target_is_directory=True)
    return out


def _shift(
    habit: float, size: tuple[int, ...], spacing: tuple[float, float, float], disagreement: Disagreement, key: Key
) -> np.ndarray:
    """One rater's shift of every place, in mm; the random part is smoothed on voxels as long as half the reach."""
    mood = disagreement.moods * float(normal([derive(key, "mood")], ())[0])
    coarse = [
        max(4, round(n * s / disagreement.reach * 2) + 1) if n > 1 else 1 for n, s in zip(size, spacing, strict=True)
    ]
    field = blurred(normal([derive(key, "wander")], coarse)[:, None], 2.0)
    field = torch.nn.functional.interpolate(field, tuple(size), mode="trilinear", align_corners=True)[0, 0]
    rough = field.square().mean().sqrt().clamp_min(1e-6)
    return (habit + mood + disagreement.wander * field / rough).numpy()
