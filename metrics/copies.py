"""Whether samples are copies of training scans, or of each other: what every other metric of generation rewards.

Scans are compared as thumbnails, so thousands need little memory, and thumbnails can be kept in a file.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from .resampling import Interval

THUMBNAIL = 32  # voxels along the longest axis
AXES = [[axis for axis, there in enumerate(which, 1) if there] for which in product((False, True), repeat=3)]
CENTRES = [[], [1, 2, 3]]
BLOCK = 128  # samples compared at a time
FAINT = 1e-3  # of a thumbnail's energy: where less is in both images' view, they have nothing to compare


class Nearest(NamedTuple):
    """Each scan's distance to its nearest reference, (n,), and which that is, (n,)."""

    distances: Tensor
    which: Tensor


class CopyRate(NamedTuple):
    """The share of samples closer to training than held-out scans are, beside the share to expect of new scans.

    Attributes:
        rate: The share of samples nearer than the threshold.
        interval: Where the rate would fall with other samples (Wilson, 95 %).
        expected: The share of new real scans that are nearer than the threshold: the quantile asked for, or
            1 / (k + 1) where k held-out scans are too few for it.
        threshold: That quantile of the held-out scans' distances to training.
        distances: Of each sample to its nearest training scan, from 0 (a copy) to sqrt(2) (nothing in common), (n,).
        nearest: Which training scan that is, (n,).
        unseen: Distances of the held-out scans, (k,).
    """

    rate: float
    interval: Interval
    expected: float
    threshold: float
    distances: Tensor
    nearest: Tensor
    unseen: Tensor


def thumbnails(volumes: Sequence[Tensor] | Tensor, *, longest: int = THUMBNAIL) -> Tensor:
    """Shrink volumes by averages over equal boxes, each to mean 0 and norm 1.

    Args:
        volumes: (X, Y, Z) each, on one grid. A sequence may read its items when asked.
        longest: The voxels of the longest axis; volumes that are smaller stay as they are.

    Returns:
        float32, (N, x, y, z), with the proportions of the volumes. A constant volume becomes all 0.

    Raises:
        ValueError: No volumes, shapes that differ, or NaN.
    """
    if len(volumes) == 0:
        raise ValueError("got no volumes; expected at least one")
    made: list[Tensor] = []
    shape: tuple[int, ...] = ()
    for index in range(len(volumes)):
        volume = volumes[index].detach().cpu().double()
        shape = shape or tuple(volume.shape)
        if volume.ndim != 3 or tuple(volume.shape) != shape:
            raise ValueError(
                f"volume {index} has shape {tuple(volume.shape)}, the first {shape}; pad or crop all to one (X, Y, Z)"
            )
        if not bool(volume.isfinite().all()):
            raise ValueError(f"volume {index} holds NaN or infinite voxels; replace or mask them")
        made.append(_unit(_shrunk(volume, longest)))
    return torch.stack(made)


def copy_rate(
    samples: Tensor,
    training: Tensor,
    held_out: Tensor | None,
    *,
    quantile: float = 0.05,
    shift: int = 2,
    candidates: int = 16,
) -> CopyRate:
    r"""Return the share of samples that are closer to a training scan than held-out real scans are.

    The threshold is a low quantile of the held-out scans' distances to their nearest training scans, so about that
    share of new, real scans would be called copies; a rate well above it tells of memorised scans. The distance is
    $\sqrt{2 (1 - \max r)}$ with r the correlation of two thumbnails where they overlap, over all flips of axes and all
    shifts by half voxels: it does not see the gain and offset of the grey scale. No held-out scan may be of a training
    patient: the threshold falls where many are, and copies hide below it.

    Args:
        samples: Thumbnails of the model's samples, (n, x, y, z).
        training: Thumbnails of the scans that it learnt from, (m, x, y, z).
        held_out: Thumbnails of real scans that it did not, (k, x, y, z). Without any, the training scans'
            distances to their nearest other training scan take their place: too small where patients have several.
        quantile: The share of held-out scans below the threshold.
        shift: The farthest shift along each axis, in voxels of the thumbnails, at most a quarter of the side.
        candidates: Training scans, flipped or not, that are compared at full resolution with each sample after a
            coarse search over all.

    Raises:
        ValueError: Empty sets, shapes that differ, NaN, or a quantile outside (0, 1).

    References:
        After Meehan et al. (2020), data-copying. https://arxiv.org/abs/2004.05675
    """
    if not 0 < quantile < 1:
        raise ValueError(f"got quantile {quantile}; expected one between 0 and 1")
    real, references = (training, None) if held_out is None else (held_out, training)
    unseen = nearest(real, references, shift=shift, candidates=candidates).distances
    threshold, expected = low_quantile(unseen, quantile)
    found = nearest(samples, training, shift=shift, candidates=candidates)
    close = int((found.distances < threshold).sum())
    interval = wilson(close, len(samples))
    return CopyRate(close / len(samples), interval, expected, threshold, found.distances, found.which, unseen)


def repeat_rate(samples: Tensor, threshold: float, *, shift: int = 2, candidates: int = 16) -> float:
    """Return the share of samples whose nearest other sample is closer than a threshold: a model that repeats itself.

    Args:
        samples: Thumbnails, (n, x, y, z).
        threshold: As ``copy_rate`` found it.
        shift: As for ``copy_rate``.
        candidates: As for ``copy_rate``.

    Raises:
        ValueError: Fewer than 2 samples, or NaN.
    """
    return float((nearest(samples, None, shift=shift, candidates=candidates).distances < threshold).double().mean())


def nearest(scans: Tensor, others: Tensor | None, *, shift: int = 2, candidates: int = 16) -> Nearest:
    """Find each scan's nearest reference, whatever its flips, small shifts and grey scale.

    Args:
        scans: Thumbnails, (n, x, y, z).
        others: The references, (m, x, y, z), or None for the scans themselves, each without itself.
        shift: As for ``copy_rate``.
        candidates: As for ``copy_rate``.

    Raises:
        ValueError: Empty sets, a single scan without references, shapes that differ, NaN, or no candidates.
    """
    references = scans if others is None else others
    if scans.ndim != 4 or references.ndim != 4 or scans.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"expected thumbnails (n, x, y, z) of one shape, got {tuple(scans.shape)} and {tuple(references.shape)}"
        )
    if len(scans) == 0 or len(references) < (2 if others is None else 1) or candidates < 1 or shift < 0:
        raise ValueError(f"got {len(scans)} scans, {len(references)} references and {candidates} candidates; too few")
    if not bool(scans.isfinite().all() and references.isfinite().all()):
        raise ValueError("thumbnails hold NaN or infinite voxels; make them anew")
    distances, index = [], []
    for scan, leading in zip(scans, _leading(scans, others, shift, candidates), strict=True):
        flipped = torch.stack([references[which].flip([axis - 1 for axis in flip]) for which, flip in leading])
        score, best = best_correlation(scan[None], flipped, shift, AXES)[0].max(0)
        distances.append(float((2 * (1 - score.double())).clamp(min=0).sqrt()))
        index.append(leading[int(best)][0])
    return Nearest(torch.tensor(distances, dtype=torch.float64), torch.tensor(index))


def _leading(
    scans: Tensor, others: Tensor | None, shift: int, candidates: int
) -> Iterator[list[tuple[int, Sequence[int]]]]:
    """Yield for each scan the references, with the flip of each, that are the likeliest at half the resolution."""
    coarse = _halved(scans)
    references = coarse if others is None else _halved(others)
    possible = len(AXES) * (len(references) - (others is None))
    for begin in range(0, len(scans), BLOCK):
        block = coarse[begin : begin + BLOCK]
        reach = -(-shift // 2)
        rough = torch.stack([best_correlation(block, references.flip(f), reach, CENTRES) for f in AXES], 2)
        if others is None:
            rows = torch.arange(len(block))
            rough[rows, rows + begin] = -torch.inf
        for found in rough.flatten(1).topk(min(candidates, possible)).indices.tolist():
            yield [(place // len(AXES), AXES[place % len(AXES)]) for place in found]


def best_correlation(a: Tensor, b: Tensor, shift: int, halves: Sequence[Sequence[int]]) -> Tensor:
    """Return the highest correlation of each a with each b over shifts, on the voxels that both see then, (n, m).

    Shifts are whole voxels, plus half a voxel along some axes: for each entry of ``halves``, those axes from 1 to 3. It
    is 0 where either is constant.
    """
    steps, inside = _shifts(tuple(a.shape[1:]), shift)
    a = torch.cat([_between(a, axes) for axes in halves])
    flat = b.flatten(1)
    counts = inside.sum(1)
    sums_a, sums_b = a.flatten(1) @ inside.flip(0).T, flat @ inside.T  # moved back, what a shares is what b shares
    spread_a = _inverse_norm(a.flatten(1).square() @ inside.flip(0).T - sums_a.square() / counts)
    spread_b = _inverse_norm(flat.square() @ inside.T - sums_b.square() / counts)
    best = a.new_full((len(a), len(b)), -1.0)
    for s, step in enumerate(steps):
        moved = nnf.pad(a, [p for along in reversed(step) for p in (along, -along)]).flatten(1)
        shared = moved @ flat.T - sums_a[:, s, None] * (sums_b[:, s] / counts[s])
        best = torch.maximum(best, shared * spread_a[:, s, None] * spread_b[:, s])
    return best.view(len(halves), -1, len(b)).amax(0).clamp(max=1.0)


@cache
def _shifts(sides: tuple[int, ...], farthest: int) -> tuple[list[tuple[int, ...]], Tensor]:
    """Return all shifts, and where the image still lies after each, (shifts, x * y * z); their order is symmetric."""
    steps = list(product(*(range(-r, r + 1) for r in (min(farthest, side // 4) for side in sides))))
    ones = torch.ones(sides)
    return steps, torch.stack(
        [nnf.pad(ones, [p for along in reversed(step) for p in (along, -along)]).flatten() for step in steps]
    )


def _inverse_norm(energy: Tensor) -> Tensor:
    """Return 1 / norm, or 0 where there is next to nothing."""
    return torch.where(energy > FAINT, energy.clamp(min=FAINT).rsqrt(), 0.0)


def _between(scans: Tensor, axes: Sequence[int]) -> Tensor:
    """Move scans by half a voxel along some axes, by averages of neighbours."""
    for axis in axes:
        rest = scans.shape[axis] - 1
        scans = (scans + torch.cat([scans.narrow(axis, min(rest, 1), rest), scans.narrow(axis, rest, 1)], axis)) / 2
    return scans


def wilson(hits: int, trials: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a share, (0, 1) where nothing was tried.

    References:
        Wilson (1927). https://doi.org/10.1080/01621459.1927.10502953
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = hits / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * (share * (1 - share) / trials + weight / (4 * trials)) ** 0.5
    return Interval(max(middle - reach, 0.0), min(middle + reach, 1.0))


def low_quantile(values: Tensor, quantile: float) -> tuple[float, float]:
    """Return what a new value of the same source is below with a probability, and that probability.

    A new value falls below the r-th smallest of k with probability r / (k + 1), whatever the distribution.
    """
    ordered, k = values.sort().values, len(values)
    rank = min(max(quantile * (k + 1), 1.0), float(k))
    below = int(rank)
    step = (ordered[min(below, k - 1)] - ordered[below - 1]) * (rank - below)
    return float(ordered[below - 1] + step), rank / (k + 1)


def _shrunk(volume: Tensor, longest: int) -> Tensor:
    factor = max(max(volume.shape) / longest, 1.0)
    for axis, side in enumerate(volume.shape):
        rows = _overlaps(side, max(round(side / factor), 1)).to(volume)
        volume = torch.tensordot(rows, volume, dims=([1], [axis])).movedim(0, axis)
    return volume


def _overlaps(side: int, wanted: int) -> Tensor:
    """Return the averages over equal parts of an axis as a matrix, (wanted, side)."""
    edges = torch.arange(wanted + 1, dtype=torch.float64) * side / wanted
    voxel = torch.arange(side, dtype=torch.float64)
    reach = torch.minimum(edges[1:, None], voxel + 1) - torch.maximum(edges[:-1, None], voxel)
    return reach.clamp(min=0) * wanted / side


def _unit(thumbnail: Tensor) -> Tensor:
    centred = thumbnail - thumbnail.mean()
    norm = centred.norm()
    flat = float(norm) <= 1e-9 * float(thumbnail.norm())
    return torch.zeros_like(centred).float() if flat else (centred / norm).float()


def _halved(scans: Tensor) -> Tensor:
    """Shrink thumbnails by two for the coarse search, each to norm 1."""
    return torch.stack([_unit(_shrunk(scan.double(), -(-max(scan.shape) // 2))) for scan in scans])
