"""What a distance between two sets owes to their sizes: real against real at the same N, bootstrap intervals."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ENOUGH = 10  # scans per feature dimension; below, the bias of a Frechet distance is worth a line

Statistic = Callable[[Tensor, Tensor], float]


class Interval(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


class SameSize(NamedTuple):
    """A statistic at one set size: n real scans against n others, and n fake ones against n real; mean and spread."""

    n: int
    real: float
    real_std: float
    fake: float
    fake_std: float


def two_sets(a: Tensor, b: Tensor, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """Return two sets of features, (n, d) and (m, d), as float64.

    Raises:
        ValueError: Either is not two-dimensional, not finite, or has fewer than ``least`` rows; d differs.
    """
    for x in (a, b):
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"expected features (n, d), got a tensor of shape {tuple(x.shape)}; flatten each scan's")
        if len(x) < least:
            raise ValueError(f"got {len(x)} rows of features; expected at least {least}; give more scans")
        if not bool(x.isfinite().all()):
            raise ValueError("features hold NaN or infinite values; check the scans and the network that read them")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features have {a.shape[1]} and {b.shape[1]} dimensions; take both from the same network")
    return a.detach().double(), b.detach().double()


def same_size(statistic: Statistic, real: Tensor, fake: Tensor, *, splits: int = 10, seed: int = 0) -> SameSize:
    """Measure one statistic of two sets at equal size, (N, ...) and (M, ...); see ``same_sizes``.

    Raises:
        ValueError: As there.
    """
    return same_sizes(lambda a, b: (statistic(a, b),), real, fake, splits=splits, seed=seed)[0]


def same_sizes(
    statistics: Callable[[Tensor, Tensor], Sequence[float]],
    real: Tensor,
    fake: Tensor,
    *,
    splits: int = 10,
    seed: int = 0,
) -> list[SameSize]:
    r"""Measure statistics of two sets where both have $n = \min(\lfloor N_{real} / 2 \rfloor, N_{fake})$ items.

    Each split draws two disjoint sets of n real scans, $R_1$ and $R_2$, and n fake ones, $F$, without replacement, and
    takes $s(R_1, R_2)$ and $s(R_1, F)$. The first is what a perfect model would score at this n; a biased statistic,
    such as the Frechet distance, is far from 0 there.

    Args:
        statistics: Takes (real, fake), returns numbers.
        real: One item per row, (N, ...).
        fake: One item per row, (M, ...).
        splits: How many splits; the standard deviations (n - 1) are over them.
        seed: Two calls with one seed draw the same splits.

    Raises:
        ValueError: Fewer than 4 real or 2 fake items, or fewer than 2 splits.
    """
    if len(real) < 4 or len(fake) < 2:
        raise ValueError(
            f"got {len(real)} real and {len(fake)} fake scans; real against real needs at least 4 real and 2 fake ones"
        )
    if splits < 2:
        raise ValueError(f"got {splits} split; a spread needs at least 2")
    n = min(len(real) // 2, len(fake))
    dice = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(splits):
        drawn = torch.randperm(len(real), generator=dice)
        first, second = real[drawn[:n]], real[drawn[n : 2 * n]]
        third = fake[torch.randperm(len(fake), generator=dice)[:n]]
        values.append((statistics(first, second), statistics(first, third)))
    deviation, mean = torch.std_mean(torch.tensor(values, dtype=torch.float64), dim=0)
    columns = zip(*mean.tolist(), *deviation.tolist(), strict=True)
    return [SameSize(n, of_real, real_std, of_fake, fake_std) for of_real, of_fake, real_std, fake_std in columns]


def bootstrap(
    statistic: Statistic, a: Tensor, b: Tensor, *, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> Interval:
    """Estimate the sampling spread of a statistic of two sets at their present sizes.

    Both sets are drawn anew with replacement. A redrawn set repeats rows, which moves most distances upwards, so the
    percentile interval is shifted to have its median at the statistic of the sets themselves: it tells how far another
    sample of this size would fall, and removes no bias.

    Args:
        statistic: Takes (a, b), returns a number.
        a: One item per row, (n, ...).
        b: One item per row, (m, ...).
        resamples: How many times both are drawn.
        level: The share of the draws that the interval holds.
        seed: Two calls with one seed draw the same rows.

    Raises:
        ValueError: A level outside (0, 1), or fewer than 2 resamples.

    References:
        Efron and Tibshirani, An introduction to the bootstrap (1993), chapter 13.
    """
    values = [statistic(a[i], b[j]) for i, j in draws(len(a), len(b), resamples, seed)]
    return centred_interval(values, statistic(a, b), level)


def draws(n: int, m: int, resamples: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of each redrawn pair of sets, (n,) and (m,)."""
    dice = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        yield torch.randint(n, (n,), generator=dice), torch.randint(m, (m,), generator=dice)


def centred_interval(values: list[float], estimate: float, level: float) -> Interval:
    """Return the percentile interval of the redrawn values, shifted so that its median is the estimate.

    Raises:
        ValueError: A level outside (0, 1), or fewer than 2 values.
    """
    if not 0 < level < 1 or len(values) < 2:
        raise ValueError(f"got level {level} of {len(values)} resamples; expected one between 0 and 1, of at least 2")
    shares = torch.tensor([(1 - level) / 2, 0.5, (1 + level) / 2], dtype=torch.float64)
    low, middle, high = torch.tensor(values, dtype=torch.float64).quantile(shares).tolist()
    return Interval(estimate + low - middle, estimate + high - middle)


def jackknife_over_pairs(first: np.ndarray, second: np.ndarray, values: np.ndarray, n: int) -> float | None:
    """Return the standard error of a mean over pairs of n items, or None where all pairs share one."""
    sums = np.bincount(first, values, n) + np.bincount(second, values, n)
    left = len(values) - np.bincount(first, minlength=n) - np.bincount(second, minlength=n)
    if not left.all():
        return None
    without = (values.sum() - sums) / left
    return float(np.sqrt((n - 1) * without.var()))


def small_sample_warning(n_real: int, n_fake: int, d: int, same: SameSize) -> str | None:
    """Say in one line how far a Frechet distance is biased by few scans or unequal numbers of them.

    Args:
        n_real: Real scans.
        n_fake: Fake scans.
        d: Feature dimensions.
        same: What ``same_size`` measured with these features.

    Returns:
        The line, or None with equal numbers of at least ten scans per dimension.
    """
    few, unequal = min(n_real, n_fake) < ENOUGH * d, n_real != n_fake
    if not few and not unequal:
        return None
    numbers = f"{n_real} real and {n_fake} fake scans" if unequal else f"{n_real} scans in each set"
    why = " and ".join(word for word, true in (("few", few), ("unequal numbers", unequal)) if true)
    return (
        f"{numbers} for {d} features ({why}): the Frechet distance is biased upwards; real scans against other real "
        f"scans score {same.real:.4g} at n = {same.n}, where fake ones score {same.fake:.4g}; compare at equal n only"
    )
