"""Everything that changes an answer wraps a denoise, (x, sigma) -> x0, and is one."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from gen3d.core.linear import Linear, least_squares
from gen3d.core.space import Space

Denoise = Callable[[Tensor, Tensor], Tensor]
Window = tuple[slice, slice, slice]


def clipped(denoise: Denoise, space: Space, low: float, high: float, size: Sequence[int] | None = None) -> Denoise:
    """Clamp every guess to the range of real voxels: encode(decode(x0).clamp(low, high)).

    Args:
        denoise: What to wrap.
        space: Where the coordinates come from.
        low: Smallest voxel value.
        high: Largest voxel value.
        size: Voxel size (X, Y, Z) of the volume, when the space padded it.
    """

    def wrapped(x: Tensor, sigma: Tensor) -> Tensor:
        return space.encode(space.decode(denoise(x, sigma), size).clamp(low, high))

    return wrapped


def keep(denoise: Denoise, known: Tensor, where: Tensor) -> Denoise:
    """Answer ``known`` where ``where`` is true, so that known coordinates stay known.

    Args:
        denoise: What to wrap.
        known: Clean coordinates, (B, c, x, y, z).
        where: Which of them are known, bool, broadcastable to ``known``.
    """

    def wrapped(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(where, known, denoise(x, sigma))

    return wrapped


def consistent(
    denoise: Denoise,
    space: Space,
    operator: Linear,
    measured: Tensor,
    weight: float = 0.0,
    steps: int = 1,
    size: Sequence[int] | None = None,
) -> Denoise:
    r"""Bring every guess to agreement with a measurement y: $argmin_v |A v - y|^2 + \lambda |v - v_0|^2$ in voxels.

    $v_0$ is the decoded guess; the minimum is approached by conjugate gradients (Chung, Lee & Ye 2024, decomposed
    diffusion sampling, https://arxiv.org/abs/2303.05754). For undersampled Fourier transforms one step with weight 0
    replaces the measured frequencies exactly.

    Args:
        denoise: What to wrap.
        space: Where the coordinates come from.
        operator: A, from voxels (B, C, X, Y, Z) to measurements.
        measured: y.
        weight: lambda in units of ``operator.strength``: noise of y against error of the guess.
        steps: Of conjugate gradients.
        size: Voxel size (X, Y, Z) of the volume, when the space padded it.
    """

    def wrapped(x: Tensor, sigma: Tensor) -> Tensor:
        guess = space.decode(denoise(x, sigma), size)
        return space.encode(least_squares(operator, measured, guess, weight, steps))

    return wrapped


def tiled(denoise: Callable[[Tensor, Tensor, Window], Tensor], size: Sequence[int], overlap: float = 0.25) -> Denoise:
    """Denoise a volume by windows and blend them; noise and sampler state belong to the volume: no seams.

    Args:
        denoise: (window of x, sigma, where it is) -> x0 of that window.
        size: Window size (x, y, z) in coordinates; an axis shorter than that is taken whole.
        overlap: Share of a window that its neighbour sees too, 0 <= overlap < 1.
    """

    shares: dict[object, list[Tensor]] = {}

    def wrapped(x: Tensor, sigma: Tensor) -> Tensor:
        windows = windows_over(x.shape[2:], size, overlap)
        if len(windows) == 1:
            return denoise(x, sigma, windows[0])
        kind = (x.shape[2:], x.device, x.dtype)
        if kind not in shares:
            shares[kind] = [share.to(x) for share in blending(x.shape[2:], windows, overlap)]
        total = torch.zeros_like(x)
        for window, share in zip(windows, shares[kind], strict=True):
            inside = (..., *window)
            total[inside].addcmul_(share, denoise(x[inside], sigma, window))
        return total

    return wrapped


def windows_over(shape: Sequence[int], size: Sequence[int], overlap: float) -> list[Window]:
    """List evenly spread windows of at most ``size`` that cover ``shape`` with at least ``overlap``."""

    def starts(n: int, w: int) -> list[int]:
        if n <= w:
            return [0]
        count = -(-(n - w) // max(1, int(w * (1 - overlap)))) + 1
        return [round(i * (n - w) / (count - 1)) for i in range(count)]

    axes = [[slice(s, s + min(n, w)) for s in starts(n, w)] for n, w in zip(shape, size, strict=True)]
    return [(a, b, c) for a, b, c in product(*axes)]


def blending(shape: Sequence[int], windows: Sequence[Window], overlap: float) -> list[Tensor]:
    """Return each window's share of the volume, (x, y, z) each: everywhere they sum to 1."""
    weights = [ramp([s.stop - s.start for s in window], overlap) for window in windows]
    total = torch.zeros(tuple(shape))
    for window, weight in zip(windows, weights, strict=True):
        total[window] += weight
    return [weight / total[window] for window, weight in zip(windows, weights, strict=True)]


def ramp(size: Sequence[int], overlap: float) -> Tensor:
    """Return blending weights that fall linearly over the overlap towards a window's faces, (x, y, z), all > 0."""
    weight = torch.ones(1)
    for n in size:
        edge = max(1.0, n * overlap)
        to_face = torch.minimum(torch.arange(n) + 0.5, n - torch.arange(n) - 0.5)
        weight = weight.unsqueeze(-1) * (to_face / edge).clamp(max=1.0)
    return weight[0]
