"""Precision, recall, density and coverage against loops, and whether each sees what it is for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.manifold import Manifold, manifold


def features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def by_loops(real: Tensor, fake: Tensor, k: int) -> Manifold:
    def reach(points: Tensor, i: int) -> float:
        return sorted(math.dist(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    def inside(centres: Tensor, points: Tensor) -> list[list[bool]]:
        radii = [reach(centres, i) for i in range(len(centres))]
        return [[math.dist(c, p) <= r for p in points] for c, r in zip(centres, radii, strict=True)]

    in_real, in_fake = inside(real, fake), inside(fake, real)
    n, m = len(real), len(fake)
    return Manifold(
        sum(any(row[j] for row in in_real) for j in range(m)) / m,
        sum(any(row[i] for row in in_fake) for i in range(n)) / n,
        sum(map(sum, in_real)) / (k * m),
        sum(map(any, in_real)) / n,
        k,
    )


@settings(max_examples=25, deadline=None)
@given(n=st.integers(4, 14), m=st.integers(4, 14), d=st.integers(1, 5), k=st.integers(1, 3), seed=st.integers(0, 99))
def test_equals_loops(n: int, m: int, d: int, k: int, seed: int) -> None:
    real, fake = features(n, d, seed), features(m, d, seed + 1, 0.5)
    assert manifold(real, fake, k=k) == pytest.approx(by_loops(real, fake, k), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 20), m=st.integers(2, 20), d=st.integers(1, 8), seed=st.integers(0, 99))
def test_laws(n: int, m: int, d: int, seed: int) -> None:
    real, fake = features(n, d, seed), features(m, d, seed + 1, 0.5)
    found, back = manifold(real, fake), manifold(fake, real)
    assert (found.precision, found.recall) == (back.recall, back.precision)
    assert found.k == min(5, n - 1, m - 1)
    assert manifold(real[torch.randperm(n)], fake[torch.randperm(m)]) == found
    assert manifold(3 * real + 7, 3 * fake + 7) == found
    same = manifold(real, real)
    assert same[:2] == (1, 1)
    assert same.coverage == 1


def test_one_distribution_gives_the_expected_density_and_coverage() -> None:
    n, m, k = 120, 80, 5
    found = torch.tensor([manifold(features(n, 4, 2 * s), features(m, 4, 2 * s + 1)) for s in range(40)]).double()
    error = found.std(0) / len(found) ** 0.5
    expected = 1 - math.comb(n - 1, k) / math.comb(n + m - 1, k)
    assert found[:, 2].mean() == pytest.approx(1, abs=4 * float(error[2]))
    assert found[:, 3].mean() == pytest.approx(expected, abs=4 * float(error[3]))
    assert float(error[3]) < 0.01


def test_a_dropped_mode_lowers_recall_and_coverage_alone() -> None:
    modes = [features(100, 4, s, shift) for s, shift in ((0, 0.0), (1, 40.0), (2, 0.0), (3, 0.0))]
    found = manifold(torch.cat(modes[:2]), torch.cat(modes[2:]))
    assert found.precision > 0.9
    assert found.density > 0.9
    assert found.recall < 0.55
    assert found.coverage < 0.55


def test_noise_lowers_precision_and_density() -> None:
    real = features(200, 4)
    found = manifold(real, features(200, 4, 1) * 4)
    assert found.precision < 0.6
    assert found.density < 0.5
    assert found.recall > 0.9


def test_equal_scans_are_inside_each_other() -> None:
    """All features the same: balls of radius 0 that hold everything."""
    assert manifold(torch.ones(6, 3), torch.ones(4, 3)) == Manifold(1, 1, 6 / 3, 1, 3)


def test_what_has_no_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        manifold(features(1, 3), features(5, 3))
    with pytest.raises(ValueError, match="at least 1"):
        manifold(features(5, 3), features(5, 3), k=0)
    with pytest.raises(ValueError, match="NaN"):
        manifold(features(5, 3), features(5, 3) * float("nan"))
