"""How well measurements agree, such as radiomic features of one scan in two renderings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor


@dataclass(frozen=True)
class RadiomicAgreement:
    """How well radiomic features of true and synthetic images agree over pairs.

    Attributes:
        median: The median concordance over the features that are not constant.
        share_above: The share of them whose concordance is at least ``threshold``.
        threshold: See there.
        per_feature: The concordance of every feature, constant ones included.
        constant: Features with one and the same value in all images, left out of ``median`` and ``share_above`` (which
            are 1 if nothing else is left).
    """

    median: float
    share_above: float
    threshold: float
    per_feature: Mapping[str, float]
    constant: tuple[str, ...]


def concordance(a: Tensor, b: Tensor, *, correction: int = 0) -> float:
    r"""Return Lin's concordance correlation coefficient, in [-1, 1].

    $\rho_c = \frac{2 s_{ab}}{s_a^2 + s_b^2 + (\bar a - \bar b)^2}$: 1 only where a equals b. With two sets constant at
    the same value it is 1, with one constant set 0.

    Args:
        a: Measurements, (n,).
        b: The same ones measured otherwise, (n,).
        correction: Variances are divided by n - correction: 0 as Lin printed it, 1 as some packages have it.

    Raises:
        ValueError: Another shape, fewer than two measurements, or some that are not finite.

    References:
        Lin (1989), A concordance correlation coefficient to evaluate reproducibility, Biometrics 45, 255-268.
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"concordance compares two rows (n,) of one length, got {tuple(a.shape)} and {tuple(b.shape)}")
    if len(a) < 2:
        raise ValueError(f"concordance needs at least two measurements, got {len(a)}")
    a, b = a.detach().double(), b.detach().double()
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise ValueError("concordance needs finite measurements")
    if bool((a == b).all()):
        return 1.0
    if bool((a == a[0]).all() or (b == b[0]).all()):
        return 0.0
    off_a, off_b = a - a.mean(), b - b.mean()
    n = len(a) - correction
    spread = (off_a.square().sum() + off_b.square().sum()) / n + (a.mean() - b.mean()).square()
    return float(2 * (off_a * off_b).sum() / n / spread)


def radiomic_agreement(
    real: Tensor, fake: Tensor, names: Sequence[str], *, threshold: float = 0.85, correction: int = 0
) -> RadiomicAgreement:
    """Measure the concordance of each feature over pairs of images.

    Args:
        real: Features of the true images, (n, d).
        fake: Features of the synthetic ones in the same order, (n, d).
        names: What the d features are called.
        threshold: From which concordance on a feature counts as reproducible; 0.85 is a common cut.
        correction: See ``concordance``.

    Raises:
        ValueError: The shapes do not fit, there are fewer than two pairs, or a feature is not finite.

    References:
        Choe et al. (2019), Deep learning-based image conversion of CT reconstruction kernels improves radiomics
        reproducibility, Radiology 292, 365-373 (concordance of at least 0.85).
    """
    if real.ndim != 2 or real.shape != fake.shape or real.shape[1] != len(names):
        raise ValueError(
            f"expected features (n, {len(names)}) of the same n pairs, got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    found = {name: concordance(real[:, k], fake[:, k], correction=correction) for k, name in enumerate(names)}
    both = torch.cat([real, fake])
    constant = tuple(name for k, name in enumerate(names) if bool((both[:, k] == both[0, k]).all()))
    kept = [value for name, value in found.items() if name not in constant] or [1.0]
    share = sum(value >= threshold for value in kept) / len(kept)
    return RadiomicAgreement(median(kept), share, threshold, found, constant)
