"""Paired differences: how much better one method is than another on the same cases, and how sure that is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_T = (  # 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Paired(NamedTuple):
    """A mean difference with its 95 % interval over n pairs; the interval of a single pair is infinite."""

    mean: float
    low: float
    high: float
    n: int


def paired_interval(differences: Sequence[float]) -> Paired:
    r"""Return the mean $m$ of paired differences and $m \pm t_{0.975, n-1} s / \sqrt n$ (Student's t).

    Args:
        differences: One for each pair; pairs are taken as independent, so those of one patient are too few of a kind.

    Raises:
        ValueError: There is none.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.size:
        raise ValueError("no pairs; expected at least one")
    mean, n = float(values.mean()), values.size
    if n == 1:
        return Paired(mean, -math.inf, math.inf, 1)
    t = _T[n - 2] if n - 2 < len(_T) else 1.96 + 2.5 / (n - 1)
    half = t * float(values.std(ddof=1)) / math.sqrt(n)
    return Paired(mean, mean - half, mean + half, n)
