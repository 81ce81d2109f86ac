"""A contrast's grey scale by rank among the brain's voxels, and the table by which a patch is mapped fast."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gen3d.core.volume import Prepared

Curve = Callable[[np.ndarray], np.ndarray]  # pointwise, of float32 voxels
KNOTS = 65
LOWEST, OUTSIDE = -1.7, -2.5
with np.errstate(invalid="ignore"):
    HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


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
        inside = sample[sample > floor + 1e-3]
        rows.append(np.quantile(inside if inside.size else sample, np.linspace(0, 1, KNOTS)))
    return np.stack(rows)


def floors(prepared: Prepared) -> np.ndarray:
    """Return what an intensity of 0 became in each contrast, rounded as the voxels are, (C,) float32."""
    zeros = [s.apply(np.zeros(1, np.float32))[0] if s else 0.0 for s in prepared.scales]
    return np.array(zeros, dtype=np.float32).astype(prepared.voxels.dtype).astype(np.float32)


def above_floor(voxels: Tensor, prepared: Prepared) -> Tensor:
    """Return where any present contrast of (C, X, Y, Z) is above zero intensity, (X, Y, Z) bool."""
    inside = np.zeros((2, *voxels.shape[1:]), dtype=bool)
    for v, floor, present in zip(voxels.numpy(), floors(prepared), prepared.present, strict=True):
        if present:
            _above(v, floor + 1e-3, out=inside[1])
            inside[0] |= inside[1]
    return torch.from_numpy(inside[0])


def curves(prepared: Prepared) -> list[Curve]:
    """Return what turns each contrast into ranks: -1.7 for the brain's darkest, 1.7 for its brightest, -2.5 outside."""
    quantiles = prepared.quantiles if isinstance(prepared, Measured) else knots(prepared)
    return [partial(_ranked, floor=f, quantiles=q) for f, q in zip(floors(prepared), quantiles, strict=True)]


def tabulated(curve: Curve, voxels: np.ndarray, out: np.ndarray) -> None:
    """Write ``curve(voxels)`` into ``out``, (X, Y, Z); float16 voxels by a table of all 65,536 that there are."""
    if voxels.dtype != np.float16 or voxels.size < len(HALVES):
        out[...] = curve(voxels.astype(np.float32))
        return
    with np.errstate(all="ignore"):  # of the infinite and what is no number
        table = curve(HALVES)
    # by slabs, since numpy widens the indices to 64 bits; "clip", since the other modes write through a copy
    for slab, bits in zip(out, voxels.view(np.uint16), strict=True):
        np.take(table, bits, out=slab, mode="clip")


def _above(voxels: np.ndarray, level: np.float32, out: np.ndarray) -> None:
    if voxels.dtype != np.float16:
        np.greater(voxels, level, out=out)
        return
    limit = np.float16(level)
    if limit > level:
        limit = np.nextafter(limit, np.float16(-np.inf))
    # numbers of one sign are ordered as their bits are, by magnitude; numpy compares integers 20 times as fast
    if level < 0:
        np.less(voxels.view(np.uint16), limit.view(np.uint16), out=out)
    else:
        np.greater(voxels.view(np.int16), limit.view(np.int16), out=out)


def _ranked(voxels: np.ndarray, floor: np.float32, quantiles: np.ndarray) -> np.ndarray:
    ranks = np.interp(voxels, quantiles, np.linspace(LOWEST, -LOWEST, KNOTS))
    return np.where(voxels > floor + 1e-3, ranks, OUTSIDE).astype(np.float32)
