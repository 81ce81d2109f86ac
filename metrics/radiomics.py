"""Radiomic features of a volume: first order and grey-level co-occurrence, named as pyradiomics names them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

UNIT_WINDOW = (0.0, 1.0)

FIRST_ORDER = (
    *("Energy", "Entropy", "Minimum", "10Percentile", "90Percentile", "Maximum", "Mean", "Median"),
    *("InterquartileRange", "Range", "MeanAbsoluteDeviation", "RobustMeanAbsoluteDeviation", "RootMeanSquared"),
    *("Skewness", "Kurtosis", "Variance", "Uniformity"),
)
CO_OCCURRENCE = (
    *("Autocorrelation", "JointAverage", "ClusterProminence", "ClusterShade", "ClusterTendency", "Contrast"),
    *("Correlation", "DifferenceAverage", "DifferenceEntropy", "DifferenceVariance", "JointEnergy", "JointEntropy"),
    *("Imc1", "Imc2", "Idm", "Idmn", "Id", "Idn", "InverseVariance", "MaximumProbability", "SumEntropy", "SumSquares"),
)
# One of each pair of opposite neighbours: the first axis that moves moves forward.
DIRECTIONS = tuple(
    (x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)
)  # fmt: skip


class Levels(NamedTuple):
    """Grey levels 0 .. count - 1 of the voxels of a mask."""

    levels: Tensor
    bins: int


def feature_names(*, spacing: bool = False) -> tuple[str, ...]:
    """Name the features in the order of ``radiomic_features``; ``spacing``: those of a call that gives one."""
    total = ("firstorder_TotalEnergy",) if spacing else ()
    return (*(f"firstorder_{name}" for name in FIRST_ORDER), *total, *(f"glcm_{name}" for name in CO_OCCURRENCE))


def radiomic_features(
    voxels: Tensor,
    *,
    mask: Tensor | None = None,
    bins: int = 32,
    window: tuple[float, float] | None = UNIT_WINDOW,
    bin_width: float | None = None,
    spacing: Sequence[float] | None = None,
) -> dict[str, float]:
    r"""Measure first-order statistics of the voxels x and co-occurrences of their grey levels inside a mask.

    First order is taken from the voxels themselves, but Entropy and Uniformity from the grey levels. Co-occurrence: for
    each of the 13 directions at distance 1 (4 where one axis has length 1) the symmetric matrix $p(i, j)$ of levels of
    neighbours that are both in the mask; a feature is its mean over the directions that have such neighbours.

    Grey levels 1, 2, ... are ``bins`` equal parts of ``window``, values beyond it falling into the outer parts, so that
    they mean the same in every image; with ``window=None`` parts of the image's own range in the mask (pyradiomics'
    binCount); with ``bin_width`` parts of that width, counted from 0 (pyradiomics' binWidth).

    A constant image has Skewness, Kurtosis, Entropy, Imc1 and Imc2 of 0, Uniformity and Correlation of 1.

    Args:
        voxels: Any real type, (X, Y, Z).
        mask: Where to measure, where > 0, (X, Y, Z); everywhere if None.
        spacing: Voxel size in mm; adds firstorder_TotalEnergy.

    Returns:
        A value for each of ``feature_names``.

    Raises:
        ValueError: The shapes do not fit, the mask has no two neighbouring voxels, or a voxel in it is not finite.

    References:
        Zwanenburg et al. (2020), the IBSI reference manual, https://arxiv.org/abs/1612.07003; van Griethuysen et al.
        (2017), pyradiomics 3.0.1 (Kurtosis is not reduced by 3, levels and percentiles as there).
    """
    if voxels.ndim != 3:
        raise ValueError(f"radiomic features need a volume (X, Y, Z), got {tuple(voxels.shape)}")
    inside = torch.ones_like(voxels, dtype=torch.bool) if mask is None else mask.to(voxels.device) > 0
    if inside.shape != voxels.shape:
        raise ValueError(f"the mask has shape {tuple(inside.shape)}, the volume {tuple(voxels.shape)}")
    values = voxels[inside].double()
    if not values.numel():
        raise ValueError("the mask of the radiomic features is empty")
    if not bool(values.isfinite().all()):
        raise ValueError("the volume has voxels that are not finite where radiomic features are measured")
    levels = grey_levels(values, bins=bins, window=window, bin_width=bin_width)
    found = {f"firstorder_{name}": value for name, value in first_order(values, levels).items()}
    if spacing is not None:
        found["firstorder_TotalEnergy"] = found["firstorder_Energy"] * float(torch.tensor(spacing).double().prod())
    matrices = co_occurrences(inside, levels)
    if not len(matrices):
        raise ValueError("the mask of the radiomic features has no two neighbouring voxels")
    found |= {f"glcm_{name}": float(value.mean()) for name, value in co_occurrence_features(matrices).items()}
    return {name: found[name] for name in feature_names(spacing=spacing is not None)}


def grey_levels(values: Tensor, *, bins: int, window: tuple[float, float] | None, bin_width: float | None) -> Levels:
    """Sort values into half-open bins by the edges between them, (n,)."""
    low, high = float(values.min()), float(values.max())
    if bin_width is not None:
        if bin_width <= 0:
            raise ValueError(f"bin_width must be above 0, got {bin_width}")
        first = low - low % bin_width
        edges = torch.arange(first + bin_width, high + 2 * bin_width, bin_width, dtype=torch.float64)
        levels = torch.bucketize(values, edges.to(values.device), right=True)
        return Levels(levels, int(levels.max()) + 1)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if window is not None:
        low, high = window
        if not low < high:
            raise ValueError(f"the window of the grey levels must rise, got {window}")
    elif low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)[1:-1]
    return Levels(torch.bucketize(values, edges.to(values.device), right=True), bins)


def first_order(values: Tensor, levels: Levels) -> dict[str, float]:
    """Compute the first-order features of values, (n,)."""
    ranks = np.percentile(values.cpu().numpy(), (0, 10, 25, 50, 75, 90, 100))
    minimum, p10, p25, p50, p75, p90, maximum = (float(rank) for rank in ranks)
    core = values[(values >= p10) & (values <= p90)]
    energy = float(values.square().sum())
    mean = float(values.mean()) if minimum < maximum else minimum  # the mean of equal values can miss them by an ulp
    off = values - mean
    variance = float(off.square().mean())
    spread = variance or 1.0
    shares = torch.bincount(levels.levels, minlength=levels.bins).double() / len(values)
    return {
        "Energy": energy,
        "Entropy": float(entropy(shares)),
        "Minimum": minimum,
        "10Percentile": p10,
        "90Percentile": p90,
        "Maximum": maximum,
        "Mean": mean,
        "Median": p50,
        "InterquartileRange": p75 - p25,
        "Range": maximum - minimum,
        "MeanAbsoluteDeviation": float(off.abs().mean()),
        "RobustMeanAbsoluteDeviation": float((core - core.mean()).abs().mean()),
        "RootMeanSquared": (energy / len(values)) ** 0.5,
        "Skewness": float(off.pow(3).mean()) / spread**1.5,
        "Kurtosis": float(off.pow(4).mean()) / spread**2,
        "Variance": variance,
        "Uniformity": float(shares.square().sum()),
    }


def entropy(shares: Tensor) -> Tensor:
    """Return the Shannon entropy along the last axis, in bits."""
    return torch.special.entr(shares).sum(-1) / math.log(2)


def co_occurrences(inside: Tensor, levels: Levels) -> Tensor:
    """Count neighbouring grey levels in each direction that has any, as shares, (directions, levels, levels)."""
    n = levels.bins
    volume = torch.full(inside.shape, n, device=inside.device)
    volume[inside] = levels.levels  # level n stands for what is outside and is cut off below
    counts = []
    for direction in DIRECTIONS:
        here, there = (volume[shifted(volume.shape, direction, sign)] for sign in (1, -1))
        pairs = torch.bincount((here * (n + 1) + there).flatten(), minlength=(n + 1) ** 2)
        counts.append(pairs.view(n + 1, n + 1)[:n, :n])
    matrices = torch.stack(counts).double()
    matrices = matrices + matrices.mT
    totals = matrices.sum((1, 2), keepdim=True)
    return (matrices / totals.clamp(min=1))[totals.flatten() > 0]


def shifted(shape: Sequence[int], direction: Sequence[int], sign: int) -> tuple[slice, ...]:
    """Cut out the voxels that have a neighbour in a direction (sign 1), or in the opposite one (sign -1)."""
    steps = (sign * step for step in direction)
    return tuple(slice(max(-step, 0), n - max(step, 0)) for n, step in zip(shape, steps, strict=True))


def co_occurrence_features(p: Tensor) -> dict[str, Tensor]:
    """Compute the features of co-occurrence matrices, one value for each, (directions, levels, levels)."""
    n = p.shape[-1]
    level = torch.arange(1, n + 1, device=p.device, dtype=p.dtype)
    i, j = level[:, None], level[None, :]
    marginal = p.sum(-1)  # of rows and of columns: the matrices are symmetric
    mean = (marginal * level).sum(-1)
    off = level - mean[:, None]
    around = (i + j) - 2 * mean[:, None, None]
    variance = (marginal * off.square()).sum(-1)
    product = (p * off[:, :, None] * off[:, None, :]).sum((1, 2))
    steps = torch.arange(n, device=p.device, dtype=p.dtype)
    difference = gather((i - j).abs().long(), p, n)
    difference_mean = (difference * steps).sum(-1)
    return {
        "Autocorrelation": (p * i * j).sum((1, 2)),
        "JointAverage": mean,
        "ClusterProminence": (p * around.pow(4)).sum((1, 2)),
        "ClusterShade": (p * around.pow(3)).sum((1, 2)),
        "ClusterTendency": (p * around.square()).sum((1, 2)),
        "Contrast": (difference * steps.square()).sum(-1),
        "Correlation": torch.where(variance > 0, product / torch.where(variance > 0, variance, 1.0), 1.0),
        "DifferenceAverage": difference_mean,
        "DifferenceEntropy": entropy(difference),
        "DifferenceVariance": (difference * (steps - difference_mean[:, None]).square()).sum(-1),
        "JointEnergy": p.square().sum((1, 2)),
        "JointEntropy": entropy(p.flatten(1)),
        **information_correlations(p, marginal),
        "Idm": (difference / (1 + steps.square())).sum(-1),
        "Idmn": (difference / (1 + (steps / n).square())).sum(-1),
        "Id": (difference / (1 + steps)).sum(-1),
        "Idn": (difference / (1 + steps / n)).sum(-1),
        "InverseVariance": (difference[:, 1:] / steps[1:].square()).sum(-1),
        "MaximumProbability": p.amax((1, 2)),
        "SumEntropy": entropy(gather((i + j).long() - 2, p, 2 * n - 1)),
        "SumSquares": variance,
    }


def gather(place: Tensor, p: Tensor, n: int) -> Tensor:
    """Add up the entries of each matrix that share a place 0 .. n - 1, (directions, n)."""
    return p.new_zeros(len(p), n).index_add_(1, place.flatten(), p.flatten(1))


def information_correlations(p: Tensor, marginal: Tensor) -> dict[str, Tensor]:
    """Compute the two informational measures of correlation, 0 where a direction knows only one level."""
    independent = marginal[:, :, None] * marginal[:, None, :]
    joint, single = entropy(p.flatten(1)), entropy(marginal)
    crossed = -torch.xlogy(p, independent).sum((1, 2)) / math.log(2)
    gained = (entropy(independent.flatten(1)) - joint).clamp(min=0)
    return {
        "Imc1": torch.where(single > 0, (joint - crossed) / torch.where(single > 0, single, 1.0), 0.0),
        "Imc2": (1 - (-2 * gained).exp()).sqrt(),
    }
