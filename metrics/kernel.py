"""The kernel distance between two sets of features, as in KID: unbiased whatever the number of scans."""

from typing import NamedTuple

import torch
from torch import Tensor

from .resampling import two_sets

BLOCK = 1024  # rows of the kernel matrix held at a time


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy; the standard error is None where a set has only two scans."""

    value: float
    std_error: float | None


class SubsetDistance(NamedTuple):
    """The mean and standard deviation over subsets, as papers print KID."""

    mean: float
    std: float


def kernel_distance(
    a: Tensor, b: Tensor, *, degree: int = 3, gamma: float | None = None, coefficient: float = 1.0
) -> KernelDistance:
    r"""Return the unbiased squared maximum mean discrepancy of two sets under a polynomial kernel.

    $\frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(y_i, y_j) -
    \frac{2}{n m} \sum_{i, j} k(x_i, y_j)$ with $k(x, y) = (\gamma x^T y + c)^{degree}$, over all scans: its mean is 0
    for two sets of one distribution, so it is below 0 about as often as above. The standard error leaves out one scan
    at a time (the jackknife), each set by itself; for two sets of one distribution it is the root of 2 too large.

    Args:
        a: Features, (n, d).
        b: Features, (m, d).
        degree: The kernel's power.
        gamma: The kernel's scale; 1 / d by default.
        coefficient: The kernel's constant, c.

    Raises:
        ValueError: Fewer than 2 rows, NaN, or another d.

    References:
        Gretton et al. (2012), lemma 6. https://jmlr.org/papers/v13/gretton12a.html
        Binkowski et al. (2018), section 4.3 and appendix. https://arxiv.org/abs/1801.01401
    """
    a, b = two_sets(a, b)
    n, m = len(a), len(b)
    scale = 1 / a.shape[1] if gamma is None else gamma
    own_a, own_b = (_sums(x, x, degree, scale, coefficient) - _self(x, degree, scale, coefficient) for x in (a, b))
    to_b, to_a = _sums(a, b, degree, scale, coefficient), _sums(b, a, degree, scale, coefficient)
    within_a, within_b, between = own_a.sum(), own_b.sum(), to_b.sum()
    value = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)
    if min(n, m) < 3:
        return KernelDistance(float(value), None)
    without_a = (within_a - 2 * own_a) / ((n - 1) * (n - 2)) - 2 * (between - to_b) / ((n - 1) * m)
    without_b = (within_b - 2 * own_b) / ((m - 1) * (m - 2)) - 2 * (between - to_a) / (n * (m - 1))
    return KernelDistance(float(value), float((_jackknife(without_a) + _jackknife(without_b)).sqrt()))


def kernel_distance_subsets(
    a: Tensor, b: Tensor, *, size: int, subsets: int = 100, seed: int = 0, degree: int = 3
) -> SubsetDistance:
    """Return the mean and standard deviation of the kernel distance over random subsets of one size.

    The form that papers print. Its spread is that of a subset, not the error of the mean: for that take
    ``kernel_distance``.

    Args:
        a: Features, (n, d).
        b: Features, (m, d).
        size: Scans in each subset, drawn without replacement.
        subsets: How many are drawn.
        seed: Two calls with one seed draw the same subsets.
        degree: The kernel's power.

    Raises:
        ValueError: Fewer than ``size`` rows, a size below 2, no subsets, NaN, or another d.
    """
    a, b = two_sets(a, b)
    if not 2 <= size <= min(len(a), len(b)) or subsets < 1:
        raise ValueError(
            f"got {subsets} subsets of {size} from {len(a)} and {len(b)} scans; expected at least one, of 2 scans or "
            "more and no more than either set has"
        )
    dice = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        i, j = (torch.randperm(len(x), generator=dice)[:size] for x in (a, b))
        values.append(kernel_distance(a[i], b[j], degree=degree).value)
    std, mean = torch.std_mean(torch.tensor(values, dtype=torch.float64), correction=0)
    return SubsetDistance(float(mean), float(std))


def _kernel(products: Tensor, degree: int, scale: float, coefficient: float) -> Tensor:
    return (products * scale + coefficient) ** degree


def _sums(a: Tensor, b: Tensor, degree: int, scale: float, coefficient: float) -> Tensor:
    """Return the sum of each row of the kernel matrix, (n,)."""
    return torch.cat([_kernel(rows @ b.T, degree, scale, coefficient).sum(1) for rows in a.split(BLOCK)])


def _self(a: Tensor, degree: int, scale: float, coefficient: float) -> Tensor:
    return _kernel(a.square().sum(1), degree, scale, coefficient)


def _jackknife(without: Tensor) -> Tensor:
    """Return the variance of a statistic from its values with one scan left out."""
    return (len(without) - 1) * without.var(correction=0)
