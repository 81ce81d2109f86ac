"""The Frechet distance against closed forms, scipy, MONAI and torchmetrics, and the laws that it obeys."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gen3d.metrics.frechet import Moments, bootstrap_frechet, frechet_distance, frechet_from_moments
from gen3d.metrics.resampling import bootstrap

SIZES = [(40, 60, 8), (200, 12, 30), (12, 200, 30), (15, 25, 64), (9, 9, 9), (2, 2, 5)]  # n, m, d: every form


def features(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated features with a mean, float64."""
    dice = torch.Generator().manual_seed(1000 * seed + d)
    mix = torch.randn(d, d, generator=dice, dtype=torch.float64) / d**0.5 + torch.eye(d, dtype=torch.float64)
    return torch.randn(n, d, generator=dice, dtype=torch.float64) @ mix + seed


def pair(n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    return features(n, d, 1), features(m, d, 2)


def by_sqrtm(a: Tensor, b: Tensor) -> float:
    from scipy.linalg import sqrtm

    cov_a, cov_b = (np.atleast_2d(np.cov(x.numpy(), rowvar=False)) for x in (a, b))
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float(apart) + float(np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real))


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 8), (300, 200, 30), (90, 100, 64)])
def test_equals_sqrtm_where_that_is_well_conditioned(n: int, m: int, d: int) -> None:
    a, b = pair(n, m, d)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_all_forms_agree(n: int, m: int, d: int) -> None:
    """The nuclear norm of rows, the mixed form, and that of two covariances."""
    a, b = pair(n, m, d)
    moments = [Moments.from_covariance(len(x), x.mean(0), Moments.of(x).covariance) for x in (a, b)]
    expected = frechet_from_moments(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    for left in (a, moments[0]):
        for right in (b, moments[1]):
            assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-6)


def test_closed_form_of_commuting_gaussians() -> None:
    mean, spread = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([[1.0, 4.0, 9.0], [4.0, 1.0, 0.25]])
    expected = mean.square().sum() + (spread[0].sqrt() - spread[1].sqrt()).square().sum()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    covs = [turn @ torch.diag(s).double() @ turn.T for s in spread]
    assert frechet_from_moments(mean, covs[0], 2 * mean, covs[1]) == pytest.approx(float(expected), rel=1e-12)


def test_samples_of_gaussians_come_near_the_closed_form() -> None:
    dice = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200_000, 3, generator=dice) * s + t for s, t in ((1.0, 0.0), (2.0, 1.0)))
    assert frechet_distance(a, b) == pytest.approx(3 * 1 + 3 * 1, rel=0.01)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 8), (90, 100, 30)])
def test_equals_monai(n: int, m: int, d: int) -> None:
    from monai.metrics import FIDMetric

    a, b = pair(n, m, d)
    assert frechet_distance(a, b) == pytest.approx(float(FIDMetric()(a, b)), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 8), (30, 25, 40)])
def test_equals_torchmetrics(n: int, m: int, d: int) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = pair(n, m, d)
    network = nn.Identity()
    network.num_features = d  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=network)
    metric.set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 30), m=st.integers(2, 30), d=st.integers(1, 20), seed=st.integers(0, 99), scale=st.floats(0.1, 10)
)
def test_laws(n: int, m: int, d: int, seed: int, scale: float) -> None:
    a, b = features(n, d, seed) * scale, features(m, d, seed + 1) * scale
    size = float(a.var(0).sum() + b.var(0).sum() + (a.mean(0) - b.mean(0)).square().sum())
    value = frechet_distance(a, b)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    assert value >= 0
    assert frechet_distance(b, a) == pytest.approx(value, abs=1e-6 * size)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * size)
    assert frechet_distance(a[torch.randperm(n)], b) == pytest.approx(value, abs=1e-6 * size)
    assert frechet_distance(a @ turn + 5, b @ turn + 5) == pytest.approx(value, abs=1e-6 * size)
    assert frechet_distance(a + 3, a) == pytest.approx(9 * d, rel=1e-6, abs=1e-6 * size)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6), d=st.integers(1, 16), seed=st.integers(0, 99))
def test_moments_in_pieces_are_those_at_once(sizes: list[int], d: int, seed: int) -> None:
    rows = features(sum(sizes) + 2, d, seed)
    pieces = rows.split([*sizes, 2])
    streamed, merged, backwards = Moments(d), Moments(d), Moments(d)
    for piece in pieces:
        streamed.add(piece)
        merged.merge(Moments.of(piece))
    for piece in reversed(pieces):
        backwards.merge(Moments.of(piece))
    for moments in (streamed, merged, backwards):
        assert moments.count == len(rows)
        assert (moments.rows is not None) == (len(rows) <= d)
        torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(
            moments.covariance, torch.cov(rows.T).view(d, d), rtol=1e-10, atol=1e-10 * float(rows.abs().max()) ** 2
        )
    assert frechet_distance(streamed, merged) == pytest.approx(0, abs=1e-6 * float(streamed.covariance.trace()))


def test_moments_do_not_lose_a_small_spread_beside_a_large_mean() -> None:
    rows = torch.randn(500, 4, dtype=torch.float64) + 1e6
    parts = Moments.of(rows[:100])
    parts.merge(Moments.of(rows[100:]))
    torch.testing.assert_close(parts.covariance, torch.cov((rows - 1e6).T), rtol=1e-6, atol=1e-7)


def test_merging_leaves_the_other_alone() -> None:
    first, second = Moments.of(features(3, 8)), Moments.of(features(4, 8, 1))
    first.merge(second)
    first.add(features(2, 8))
    assert (first.count, second.count) == (9, 4)


def test_dead_features_are_harmless() -> None:
    """Half of a network's features may be 0 for every scan."""
    a, b = pair(100, 100, 10)
    zeros = torch.zeros(100, 30)
    padded = frechet_distance(torch.cat([a, zeros], 1), torch.cat([b, zeros], 1))
    assert padded == pytest.approx(frechet_distance(a, b), rel=1e-8)


@pytest.mark.parametrize(("n", "m", "d"), [(12, 20, 40), (20, 12, 17)])
def test_bootstrap_from_the_gram_matrix_equals_the_plain_one(n: int, m: int, d: int) -> None:
    a, b = pair(n, m, d)
    quick = bootstrap_frechet(a, b, resamples=20, seed=3)
    assert quick == pytest.approx(bootstrap(frechet_distance, a, b, resamples=20, seed=3), rel=1e-6)


def test_bootstrap_holds_the_estimate_and_narrows_with_n() -> None:
    widths = []
    for n in (20, 200):
        a, b = pair(n, n, 5)
        interval = bootstrap_frechet(a, b, resamples=200)
        assert 0 <= interval.low < frechet_distance(a, b) < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < 0.6 * widths[0]


def test_what_has_no_distance_is_refused() -> None:
    a, b = pair(10, 10, 4)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(a[:1], b)
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(a * float("nan"), b)
    with pytest.raises(ValueError, match="4 and 3 dimensions"):
        frechet_distance(a, b[:, :3])
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        frechet_distance(a[0], b)
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        Moments(4).add(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="same network"):
        Moments(4).merge(Moments(5))
    for empty in ("mean", "covariance", "scatter"):
        with pytest.raises(ValueError, match="at least"):
            getattr(Moments(4), empty)
    with pytest.raises(ValueError, match="level"):
        bootstrap_frechet(a, b, level=1.0)
