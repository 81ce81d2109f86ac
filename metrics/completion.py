"""The score of a synthesised MRI contrast against the true one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # voxels; scipy's Gaussian truncated at 3.5 standard deviations
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for images of range 1


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


def match_scale(voxels: Tensor, wanted: Tensor, given: Tensor) -> Tensor:
    """Give voxels the median and interquartile range of ``wanted``, measured against ``given``."""
    (low_a, mid_a, high_a), (low_b, mid_b, high_b) = (quantiles(v, [0.25, 0.5, 0.75]) for v in (wanted, given))
    return (voxels - mid_b) * (max(high_a - low_a, 1e-12) / max(high_b - low_b, 1e-12)) + mid_a


def quantiles(values: Tensor, shares: Sequence[float]) -> list[float]:
    """Return linearly interpolated quantiles of any number of values (torch.quantile stops at 16 million)."""
    return [float(q) for q in np.quantile(values.detach().double().cpu().numpy(), shares)]


def window(voxels: Tensor, low: float, high: float) -> Tensor:
    """Clip to [low, high] and scale to [0, 1]."""
    return (voxels.clamp(low, high) - low) / max(high - low, 1e-12)


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio for a range of 1, in dB, at most 120."""
    return float(-10 * torch.log10((a - b).square().mean() + 1e-12))


def mean_ssim(a: Tensor, b: Tensor, where: Tensor) -> float:
    """Average the structural similarity of two images of range 1 over some voxels.

    References:
        Wang et al. (2004), equation 13. https://doi.org/10.1109/TIP.2003.819861
    """
    box = bounding_box(where, SSIM_RADIUS)  # what lies farther away cannot reach these voxels
    a, b = a[box].float(), b[box].float()
    mean_a, mean_b = blur(a), blur(b)
    both = mean_a * mean_b
    structure = (2 * (blur(a * b) - both) + SSIM_C2) * (2 * both + SSIM_C1)
    squares = mean_a.square() + mean_b.square()
    variances = blur(a.square() + b.square()) - squares
    return float((structure / ((squares + SSIM_C1) * (variances + SSIM_C2)))[where[box]].double().mean())


def bounding_box(where: Tensor, margin: int) -> tuple[slice, ...]:
    """Return the smallest box around the true voxels, grown by ``margin`` inside the volume."""
    box = []
    for axis in range(where.ndim):
        inside = where.any(dim=tuple(d for d in range(where.ndim) if d != axis)).nonzero()
        box.append(slice(max(int(inside[0]) - margin, 0), int(inside[-1]) + 1 + margin))
    return tuple(box)


def blur(voxels: Tensor) -> Tensor:
    """Smooth with a Gaussian along each axis, mirroring at the faces (the edge voxel is repeated), (X, Y, Z)."""
    for axis in range(voxels.ndim):
        rows = blur_rows(voxels.shape[axis]).to(voxels)
        voxels = torch.tensordot(rows, voxels, dims=([1], [axis])).movedim(0, axis)
    return voxels


def blur_rows(n: int) -> Tensor:
    """Return the Gaussian filter of an axis as a matrix, (n, n): a product is far faster than a convolution."""
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / SSIM_SIGMA) ** 2)
    reached = (torch.arange(n)[:, None] + offsets) % (2 * n)
    mirrored = torch.where(reached < n, reached, 2 * n - 1 - reached)
    rows = torch.zeros(n, n, dtype=torch.float64)
    return rows.scatter_add_(1, mirrored, (kernel / kernel.sum()).expand(n, -1).contiguous())
