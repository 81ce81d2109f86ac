"""Precision, recall, density and coverage: whether fakes look real, and whether all that is real is among them."""

from typing import NamedTuple

import torch
from torch import Tensor

from .resampling import two_sets


class Manifold(NamedTuple):
    """Four shares (density may exceed 1), and the number of neighbours that they rest on."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def manifold(real: Tensor, fake: Tensor, *, k: int = 5) -> Manifold:
    r"""Compare two sets of features by their k nearest neighbours.

    With $B(x)$ the closed ball around x that reaches its k-th nearest neighbour in its own set:
    precision, the share of fakes in any real ball; recall, the share of real scans in any fake ball;
    density, $\frac{1}{k M} \sum_{j} \sum_{i} [y_j \in B(x_i)]$ over M fakes and the real balls;
    coverage, the share of real balls that hold a fake. Two sets of one distribution: density is 1 in the mean,
    and coverage $1 - \binom{N - 1}{k} / \binom{N + M - 1}{k}$, 0.97 at k = 5 and many scans.

    Args:
        real: Features, (N, d).
        fake: Features, (M, d).
        k: Neighbours; at most one less than the smaller set has. The one used is in the result.

    Raises:
        ValueError: Fewer than 2 rows, NaN, another d, or k below 1.

    References:
        Kynkaanniemi et al. (2019), equations 1 and 2. https://arxiv.org/abs/1904.06991
        Naeem et al. (2020), equations 4 and 5. https://arxiv.org/abs/2002.09797
    """
    real, fake = two_sets(real, fake)
    if k < 1:
        raise ValueError(f"got {k} neighbours; expected at least 1")
    k = min(k, len(real) - 1, len(fake) - 1)
    between = distances(real, fake)
    in_real = between <= radii(real, k)[:, None]
    in_fake = between <= radii(fake, k)
    return Manifold(
        precision=_share(in_real.any(0)),
        recall=_share(in_fake.any(1)),
        density=float(in_real.sum()) / (k * len(fake)),
        coverage=_share(in_real.any(1)),
        k=k,
    )


def radii(features: Tensor, k: int) -> Tensor:
    """Return each row's distance to its k-th nearest other row, (n,)."""
    return distances(features, features).fill_diagonal_(torch.inf).kthvalue(k, dim=1).values


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances that are exactly 0 between equal rows, (n, m)."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _share(which: Tensor) -> float:
    return float(which.double().mean())
