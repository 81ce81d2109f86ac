"""The Haar wavelet: one orthonormal, separable level, as a reshape and butterflies (Haar 1910; Mallat 1989)."""

from collections.abc import Sequence

import torch
from torch import Tensor

SPATIAL = (-3, -2, -1)


def split_axes(size: Sequence[int]) -> tuple[int, ...]:
    """Return the spatial axes, out of -3, -2 and -1, that are longer than 1: those a wavelet level halves."""
    return tuple(axis for axis in SPATIAL if size[axis] > 1)


def haar(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Transform (B, C, X, Y, Z) into (B, C * 2**k, ...), with each of the k ``axes`` halved.

    low = (a + b) / sqrt(2), high = (a - b) / sqrt(2) for the voxels a (even) and b (odd) along an axis. Channel
    ``c * 2**k + band``; bands LLL LLH LHL LHH HLL HLH HHL HHH, letters in the order of the axes. By default the axes
    longer than 1 are split (four bands in 2D). Raises ValueError where one of them is odd.
    """
    axes = split_axes(x.shape) if axes is None else axes
    odd = [axis for axis in axes if x.shape[axis] % 2]
    if odd:
        raise ValueError(f"the Haar transform needs even sizes, got {tuple(x.shape[-3:])}: pad axis {odd[0]} first")
    bands = [x]
    for axis in axes:
        bands = [band for pair in (_butterfly(x, axis) for x in bands) for band in pair]
    return torch.stack(bands, dim=2).mul_(2.0 ** (-len(axes) / 2)).flatten(1, 2)


def inverse_haar(y: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Undo ``haar``: (B, C * 2**k, X, Y, Z) becomes (B, C, ...), with each of the k ``axes`` doubled.

    By default the axes longer than 1; name them where a volume of two voxels was split along an axis.
    Raises ValueError where the channels are no multiple of 2**k.
    """
    axes = split_axes(y.shape) if axes is None else axes
    count = 2 ** len(axes)
    if y.shape[1] % count:
        raise ValueError(f"{y.shape[1]} channels are not a whole number of {count} subbands")
    bands = list((y * count**-0.5).unflatten(1, (-1, count)).unbind(2))
    for axis in reversed(axes):
        bands = [_interleave(low, high, axis) for low, high in zip(bands[::2], bands[1::2], strict=True)]
    return bands[0]


def _butterfly(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    a, b = x.unflatten(axis, (-1, 2)).unbind(axis)
    return a + b, a - b


def _interleave(low: Tensor, high: Tensor, axis: int) -> Tensor:
    return torch.stack((low + high, low - high), dim=axis).flatten(axis - 1, axis)
