"""The Frechet distance of radiomic features, by the conventions of the published package frd-score."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .frechet import frechet_distance

Convention = Literal["frd-v1", "frd-v0", "plain"]
V0_RANGE = 7.45670747756958  # frd-score's upper end, which puts its values where those of Inception features lie


def radiomic_frechet(real: Tensor, fake: Tensor, *, convention: Convention = "frd-v1") -> float:
    r"""Compare two sets of radiomic features by the Frechet distance of their normalised values.

    $d^2 = |\mu_r - \mu_f|^2 + \mathrm{tr}(C_r + C_f - 2 (C_r C_f)^{1/2})$ after ``normalised``. "frd-v0" and "plain"
    return $d^2$; "frd-v1" returns $\log d^2$, which is -inf where $d^2$ is 0. The order matters in "frd-v1".

    It equals frd-score's value on the same features (it takes some 460 of filtered images; ``radiomic_features`` gives
    39, so its distances compare only with one another).

    Args:
        real: Features of the real images, (n, d).
        fake: Features of the synthetic images, (m, d).

    Raises:
        ValueError: Fewer than two usable rows in a set, different d, an unknown convention, or no usable column.

    References:
        Konz, Osuala et al. (2026), Fréchet radiomic distance, Medical Image Analysis, https://arxiv.org/abs/2412.01496;
        frd-score 1.0.1.
    """
    distance = frechet_distance(*normalised(real, fake, convention))
    if convention != "frd-v1":
        return distance
    return math.log(distance) if distance > 0 else -math.inf


def normalised(real: Tensor, fake: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    r"""Put two sets of features on a common scale, float64, (n, d) and (m, d).

    - "frd-v1": $(x - \mu_r) / \sigma_r$ by the mean and standard deviation (over n) of the real set, in float32 as the
      package does. First rows with a NaN are dropped; afterwards columns that are not finite in either set, such as
      those that are constant in the real set.
    - "frd-v0": to [0, 7.45670747756958] by minimum and maximum of both sets together. A constant column becomes the
      middle of that range, and so does a NaN.
    - "plain": as they are.

    A column whose real values are all equal is always dropped by "frd-v1"; the package keeps it where the float32 mean
    misses the value by rounding, and then divides by that error.

    Raises:
        ValueError: See ``radiomic_frechet``.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"expected features (n, d) and (m, d) of one d, got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}: choose one of {', '.join(CONVENTIONS)}")
    if not (len(real) and len(fake)):
        raise ValueError(f"a Frechet distance needs features of both sets, got {len(real)} real and {len(fake)} fake")
    a, b = (side.detach().cpu().double().numpy() for side in (real, fake))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a, b = CONVENTIONS[convention](a, b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"the features are not finite, and the convention {convention!r} does not drop them")
    return torch.from_numpy(a).double(), torch.from_numpy(b).double()


def by_real_set(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop images with NaN, scale by the real set's mean and deviation, and drop features that are not finite then.

    Raises:
        ValueError: Fewer than two images of a set or no feature are left.
    """
    real, fake = (side[~np.isnan(side).any(1)].astype(np.float32) for side in (real, fake))
    if len(real) < 2 or len(fake) < 2:
        raise ValueError(
            f"frd-v1 needs two images of each set whose features have no NaN, got {len(real)} real and {len(fake)} fake"
        )
    mean, std = real.mean(0), real.std(0)
    std[(real == real[0]).all(0)] = 0
    real, fake = (real - mean) / std, (fake - mean) / std
    kept = np.isfinite(real).all(0) & np.isfinite(fake).all(0)
    if not kept.any():
        raise ValueError("every feature is constant in the real set or not finite: nothing is left for frd-v1")
    return real[:, kept], fake[:, kept]


def by_joint_range(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring each feature to [0, V0_RANGE] by its range over both sets; constant ones and NaN become the middle."""
    both = np.concatenate([real, fake])
    low, high = np.fmin.reduce(both), np.fmax.reduce(both)  # not the NaN
    scaled = np.where(high > low, (both - low) / (high - low) * V0_RANGE, V0_RANGE / 2)
    scaled[np.isnan(scaled)] = V0_RANGE / 2
    return scaled[: len(real)], scaled[len(real) :]


def as_they_are(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets unchanged."""
    return real, fake


CONVENTIONS: dict[Convention, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "frd-v1": by_real_set,
    "frd-v0": by_joint_range,
    "plain": as_they_are,
}
