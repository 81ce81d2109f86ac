"""Real against real at one size, bootstrap intervals, and the warning of small sets."""

import pytest
import torch
from torch import Tensor

from gen3d.metrics.frechet import frechet_distance
from gen3d.metrics.resampling import bootstrap, same_size, same_sizes, small_sample_warning


def features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def apart(a: Tensor, b: Tensor) -> float:
    return float((a.mean(0) - b.mean(0)).norm())


@pytest.mark.parametrize(("real", "fake", "n"), [(40, 50, 20), (41, 12, 12), (4, 2, 2)])
def test_sets_have_one_size_and_no_scan_in_common(real: int, fake: int, n: int) -> None:
    seen = []

    def statistic(a: Tensor, b: Tensor) -> float:
        seen.append((a.flatten().tolist(), b.flatten().tolist()))
        return 0.0

    found = same_size(statistic, torch.arange(real)[:, None], torch.arange(fake)[:, None] + 1000, splits=3)
    assert found == (n, 0, 0, 0, 0)
    assert len(seen) == 6
    for (first, second), (again, drawn) in zip(seen[::2], seen[1::2], strict=True):
        assert first == again
        assert len(set(first)) == len(set(second)) == len(set(drawn)) == n
        assert not set(first) & set(second)
        assert min(drawn) >= 1000


def test_mean_and_spread_are_those_of_the_splits() -> None:
    values: list[float] = []

    def statistic(a: Tensor, b: Tensor) -> float:
        values.append(apart(a, b))
        return values[-1]

    found = same_size(statistic, features(30, 3), features(20, 3, 1, 1.0), splits=5, seed=2)
    real, fake = torch.tensor(values, dtype=torch.float64).view(5, 2).T
    expected = (15.0, *(float(v) for v in (real.mean(), real.std(), fake.mean(), fake.std())))
    assert found == pytest.approx(expected, rel=1e-9)
    assert same_size(apart, features(30, 3), features(20, 3, 1, 1.0), splits=5, seed=2) == found
    assert same_size(apart, features(30, 3), features(20, 3, 1, 1.0), splits=5, seed=3) != found


def test_real_against_real_shows_the_bias_of_the_frechet_distance() -> None:
    """A perfect model scores what real scans score against real scans; neither is 0."""
    found = same_size(frechet_distance, features(40, 20), features(20, 20, 1))
    assert found.real > 5
    assert abs(found.fake - found.real) < 4 * (found.real_std + found.fake_std)


def test_interval_has_the_spread_of_new_samples() -> None:
    """The mean difference of two sets of 50 has a known sampling spread, and the interval is as wide."""
    shift = 3.0

    def signed(a: Tensor, b: Tensor) -> float:
        return float((a - b.mean()).mean())

    interval = bootstrap(signed, features(50, 1, 5), features(50, 1, 6, shift), resamples=2000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (2 / 50) ** 0.5, rel=0.2)
    estimate = signed(features(50, 1, 5), features(50, 1, 6, shift))
    assert interval.low < estimate < interval.high
    narrow = bootstrap(signed, features(50, 1, 5), features(50, 1, 6, shift), resamples=2000, level=0.5)
    assert interval.low < narrow.low < estimate < narrow.high < interval.high


def test_interval_is_centred_though_repeated_rows_move_the_statistic() -> None:
    a, b = features(15, 12), features(15, 12, 1)
    interval, estimate = bootstrap(frechet_distance, a, b, resamples=60), frechet_distance(a, b)
    assert interval.low < estimate < interval.high


def test_warning_says_the_size_of_the_bias() -> None:
    same = same_size(frechet_distance, features(40, 20), features(20, 20, 1))
    few = small_sample_warning(40, 40, 20, same)
    assert few is not None
    assert "\n" not in few
    assert f"{same.real:.4g} at n = 20" in few
    assert "unequal" not in few
    unequal = small_sample_warning(300, 250, 20, same)
    assert unequal is not None
    assert "300 real and 250 fake" in unequal
    assert "few" not in unequal
    assert small_sample_warning(200, 200, 20, same) is None


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="4 real"):
        same_size(apart, features(3, 2), features(3, 2))
    with pytest.raises(ValueError, match="2 fake"):
        same_size(apart, features(5, 2), features(1, 2))
    with pytest.raises(ValueError, match="at least 2"):
        same_size(apart, features(5, 2), features(5, 2), splits=1)
    with pytest.raises(ValueError, match="level"):
        bootstrap(apart, features(5, 2), features(5, 2), level=0.0)


def test_several_statistics_share_their_splits() -> None:
    real, fake = features(21, 3), features(12, 3, seed=1, shift=0.5)
    both = same_sizes(lambda a, b: (apart(a, b), frechet_distance(a, b)), real, fake, seed=4)
    assert both == [same_size(apart, real, fake, seed=4), same_size(frechet_distance, real, fake, seed=4)]
