"""The score of a synthesised MRI contrast against the true one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .ssim import blur, mean_ssim

__all__ = [
    "CompletionScore",
    "Rescaling",
    "blur",
    "fit_scale",
    "match_scale",
    "mean_ssim",
    "psnr",
    "quantiles",
    "score_completion",
    "window",
]


class CompletionScore(NamedTuple):
    """PSNR in dB for a range of 1; nan where there is no lesion to score."""

    brain: float
    lesion: float
    ssim: float
    whole: float


def score_completion(true: Tensor, synthetic: Tensor, lesion: Tensor | None = None) -> CompletionScore:
    r"""Score a synthetic contrast whose intensity scale is not known.

    The synthetic image is put on the true one's scale inside the brain (true > 0), by the median and the interquartile
    range, which a lesion cannot move: $b \leftarrow \frac{b - m_b}{r_b} r_a + m_a$. Both are then clipped to the true
    image's 0.1 and 99.9 percentile over the whole volume and scaled to [0, 1].

    Args:
        true: The acquired contrast, 0 outside the brain, (X, Y, Z).
        synthetic: Its estimate on the same grid, any scale, (X, Y, Z).
        lesion: Scored by itself where > 0, (X, Y, Z).

    Returns:
        PSNR in the brain; in the lesion; mean SSIM over the brain's voxels (Gaussian window of 1.5 voxels); PSNR over
        the whole volume.

    Raises:
        ValueError: The shapes differ, the true image has no voxel above 0, or the synthetic one is not finite.
    """
    if true.ndim != 3 or true.shape != synthetic.shape:
        raise ValueError(
            f"expected two volumes (X, Y, Z) of one shape, got {tuple(true.shape)} and {tuple(synthetic.shape)}"
        )
    if not bool(synthetic.isfinite().all()):
        raise ValueError("the synthetic image is not finite everywhere")
    a, b = true.double(), synthetic.double()
    brain = a > 0
    if not bool(brain.any()):
        raise ValueError("the true image has no voxel above 0: there is no brain to score")
    b = torch.where(brain, match_scale(b, a[brain], b[brain]), b)
    low, high = quantiles(a, [0.001, 0.999])
    a, b = window(a, low, high), window(b, low, high)
    inside = None if lesion is None else lesion > 0
    return CompletionScore(
        brain=psnr(a[brain], b[brain]),
        lesion=psnr(a[inside], b[inside]) if inside is not None and bool(inside.any()) else float("nan"),
        ssim=mean_ssim(a, b, brain),
        whole=psnr(a, b),
    )


class Rescaling(NamedTuple):
    """An affine map of intensities, v -> (v - origin) gain + target."""

    gain: float
    origin: float
    target: float

    @property
    def offset(self) -> float:
        """What a voxel of 0 becomes."""
        return self.target - self.gain * self.origin

    def apply(self, voxels: Tensor) -> Tensor:
        """Map the voxels."""
        return (voxels - self.origin) * self.gain + self.target


def fit_scale(wanted: Tensor, given: Tensor) -> Rescaling:
    """Return the map that gives ``given`` the median and interquartile range of ``wanted``; of a constant, gain 0."""
    (low_a, mid_a, high_a), (low_b, mid_b, high_b) = (quantiles(v, [0.25, 0.5, 0.75]) for v in (wanted, given))
    if bool((given == given.reshape(-1)[0]).all()):
        return Rescaling(0.0, mid_b, mid_a)
    return Rescaling(max(high_a - low_a, 1e-12) / max(high_b - low_b, 1e-12), mid_b, mid_a)


def match_scale(voxels: Tensor, wanted: Tensor, given: Tensor) -> Tensor:
    """Give voxels the median and interquartile range of ``wanted``, measured against ``given``."""
    return fit_scale(wanted, given).apply(voxels)


def quantiles(values: Tensor, shares: Sequence[float]) -> list[float]:
    """Return linearly interpolated quantiles of any number of values, any shape; torch.quantile stops at 16 million."""
    return [float(q) for q in np.quantile(values.detach().double().cpu().numpy(), shares)]


def window(voxels: Tensor, low: float, high: float) -> Tensor:
    """Clip voxels of any shape to [low, high] and scale to [0, 1]."""
    return (voxels.clamp(low, high) - low) / max(high - low, 1e-12)


def psnr(a: Tensor, b: Tensor) -> float:
    r"""Return the peak signal-to-noise ratio of two images of range 1 and any shape, in dB, at most 120.

    $-10 \log_{10}(E + 10^{-12})$ with the mean squared error $E$.
    """
    return float(-10 * torch.log10((a - b).square().mean() + 1e-12))
