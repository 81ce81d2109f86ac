"""A contrast's grey scale by rank among the brain's voxels, and the table by which stored voxels are mapped fast."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gen3d.core.volume import Prepared

KNOTS = 65
LOWEST, OUTSIDE = -1.7, -2.5
TINY = 1e-3  # above the floor by less than this is still no brain


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured(Prepared):
    """A prepared case whose quantiles are known, so that a patch of it needs no look at the whole volume.

    Attributes:
        quantiles: What ``knots`` returns for the voxels, (C, KNOTS).
    """

    quantiles: np.ndarray


def knots(prepared: Prepared) -> np.ndarray:
    """Return evenly spaced quantiles of each contrast above zero intensity, (C, KNOTS) float64."""
    rows = []
    for v, floor in zip(prepared.voxels, floors(prepared), strict=True):
        sample = np.asarray(v[::2, ::2, ::2], dtype=np.float32)
        inside = sample[sample > floor + TINY]
        rows.append(np.quantile(inside if inside.size else sample, np.linspace(0, 1, KNOTS)))
    return np.stack(rows)


def quantiles(prepared: Prepared) -> np.ndarray:
    """Return the knots, from the cache where they were stored, (C, KNOTS) float32."""
    return (prepared.quantiles if isinstance(prepared, Measured) else knots(prepared)).astype(np.float32)


def floors(prepared: Prepared) -> np.ndarray:
    """Return what an intensity of 0 became in each contrast, rounded as the voxels are, (C,) float32."""
    zeros = [s.apply(np.zeros(1, np.float32))[0] if s else 0.0 for s in prepared.scales]
    return np.array(zeros, dtype=np.float32).astype(prepared.voxels.dtype).astype(np.float32)


def above_floor(voxels: Tensor, floors: Tensor, present: Tensor) -> Tensor:
    """Return where any present contrast is above zero intensity.

    Args:
        voxels: (B, C, X, Y, Z).
        floors: What an intensity of 0 became, (B, C).
        present: Which contrasts to look at, (B, C) bool.

    Returns:
        (B, 1, X, Y, Z) bool.
    """
    inside = [
        (v.float() > (floor + TINY)[:, None, None, None]) & here[:, None, None, None]
        for v, floor, here in zip(voxels.unbind(1), floors.unbind(1), present.unbind(1), strict=True)
    ]
    return torch.stack(inside).any(0)[:, None]


def ranked(voxels: Tensor, floors: Tensor, quantiles: Tensor) -> Tensor:
    """Return each contrast's ranks: -1.7 for the brain's darkest, 1.7 for its brightest, -2.5 outside.

    Straight lines between the quantiles; beyond them the first and last rank.

    Args:
        voxels: (B, C, ...) float32.
        floors: What an intensity of 0 became, (B, C).
        quantiles: Evenly spaced ones of the brain's voxels, (B, C, K), ascending.

    Returns:
        (B, C, ...) float32.
    """
    parts = zip(voxels.flatten(2).unbind(1), floors.unbind(1), quantiles.unbind(1), strict=True)
    return torch.stack([_ranked(*part) for part in parts], dim=1).view(voxels.shape)


def tabulated(curve: Callable[[Tensor], Tensor], voxels: Tensor) -> Tensor:
    """Return ``curve(voxels)``, float16 voxels by a table of all 65,536 numbers that there are.

    Args:
        curve: Pointwise, one for each item and contrast, (B, C, N) float32 to the same.
        voxels: (B, C, X, Y, Z) float16 or float32.

    Returns:
        (B, C, X, Y, Z) float32.
    """
    flat = voxels.flatten(2)
    if flat.dtype != torch.float16 or flat.shape[2] < 2**16:
        return curve(flat.float()).view(voxels.shape)
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=voxels.device)
    table = curve(bits.view(torch.float16).float().expand(*flat.shape[:2], -1).contiguous())
    pairs = zip(table.unbind(1), flat.view(torch.int16).unbind(1), strict=True)
    return torch.stack([row.gather(1, bits.long() + 2**15) for row, bits in pairs], dim=1).view(voxels.shape)


def _ranked(voxels: Tensor, floor: Tensor, quantiles: Tensor) -> Tensor:
    left = (torch.searchsorted(quantiles.contiguous(), voxels.contiguous(), right=True) - 1).clamp_(min=0)
    slopes = pad(1 / quantiles.diff(dim=1), (0, 1))
    share = ((voxels - quantiles.gather(1, left)) * slopes.gather(1, left)).clamp_(0, 1)
    ranks = LOWEST - 2 * LOWEST * (left + share) / (KNOTS - 1)
    return torch.where(voxels > floor[:, None] + TINY, ranks, OUTSIDE)
