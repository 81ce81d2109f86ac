"""Vote calibration against loops over voxels, by its laws, and on perfect models."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.calibration import Calibration, calibration
from gen3d.metrics.raters import leave_one_out_calibration, majority, redrawn_calibration


def votes(n: int, share: Tensor, g: torch.Generator) -> Tensor:
    """Draw n masks, each voxel on its own with its share, (n, *share.shape)."""
    return torch.rand(n, *share.shape, generator=g) < share


def by_loops(samples: Tensor, raters: Tensor, bins: int, where: str) -> tuple[list[list[tuple[float, float]]], float]:
    found: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    squares: list[float] = []
    for s, y in zip(samples.flatten(1).T.tolist(), raters.flatten(1).T.tolist(), strict=True):
        if not (len(set(s + y)) > 1 if where == "either" else len(set(s)) > 1):
            continue
        p, o = sum(s) / len(s), sum(y) / len(y)
        place = next(b for b in range(bins) if b == bins - 1 or sum(s) * bins < (b + 1) * len(s))
        found[place].append((p, o))
        squares.append(sum((p - vote) ** 2 for vote in y) / len(y))
    return found, sum(squares)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 6),
    m=st.integers(1, 5),
    bins=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    where=st.sampled_from(["either", "samples"]),
)
def test_equals_loops(n: int, m: int, bins: int, seed: int, where: str) -> None:
    g = torch.Generator().manual_seed(seed)
    share = torch.rand(4, 3, 2, generator=g).mul(1.6).sub(0.3)
    s, y = votes(n, share, g), votes(m, share.flip(0), g)
    found, squares = by_loops(s, y, bins, where)
    ours = calibration(s, y, bins=bins, where=where)
    total = sum(map(len, found))
    assert [b.voxels for b in ours.bins] == [len(pairs) for pairs in found]
    assert ours.voxels == total
    if not total:
        assert ours.ece is None
        assert ours.brier is None
        assert "nobody disagrees" in str(ours.reason)
        return
    gaps = [abs(sum(p - o for p, o in pairs)) for pairs in found]
    assert ours.reason is None
    assert ours.ece == pytest.approx(sum(gaps) / total, abs=1e-12)
    assert ours.brier == pytest.approx(squares / total, abs=1e-12)
    for b, pairs in zip(ours.bins, found, strict=True):
        if pairs:
            assert b.predicted == pytest.approx(sum(p for p, _ in pairs) / len(pairs))
            assert b.observed == pytest.approx(sum(o for _, o in pairs) / len(pairs))
            assert b.low - 1e-12 <= b.predicted <= b.high + 1e-12


def test_by_hand() -> None:
    """Voxels: all agree; samples 1/2, raters 1/2; samples 1, raters 0 (counted: one set is against the other)."""
    samples = torch.tensor([[0, 1, 1], [0, 0, 1]])[..., None, None]
    raters = torch.tensor([[0, 1, 0], [0, 0, 0]])[..., None, None]
    ours = calibration(samples, raters, bins=4)
    assert [(b.predicted, b.observed, b.voxels) for b in ours.bins[2:]] == [(0.5, 0.5, 1), (1.0, 0.0, 1)]
    assert ours.bins[0].predicted is None
    assert ours.ece == 0.5
    assert ours.brier == pytest.approx((0.25 + 1) / 2)
    assert calibration(samples, raters, where="samples").voxels == 1


def test_cases_add_up() -> None:
    g = torch.Generator().manual_seed(3)
    share = torch.rand(2, 6, 5, 1, generator=g)
    first, second = ((votes(5, half, g), votes(4, half, g)) for half in share)
    joined = calibration(*(torch.cat(pair, 1) for pair in zip(first, second, strict=True)))
    added = calibration(*first) + calibration(*second)
    assert added.count == joined.count
    assert added.predicted == pytest.approx(joined.predicted)
    assert added.squares == pytest.approx(joined.squares)
    with pytest.raises(ValueError, match="10 bins cannot be pooled with 5"):
        _ = added + calibration(*first, bins=5)


def test_orders_and_background_do_not_matter() -> None:
    g = torch.Generator().manual_seed(4)
    share = torch.rand(6, 5, 2, generator=g)
    s, y = votes(6, share, g), votes(3, share, g)
    ours = calibration(s, y)
    assert calibration(s.flip(0), y.roll(1, 0)) == ours
    pad = (3, 3, 3, 3, 3, 3)
    assert calibration(torch.nn.functional.pad(s, pad), torch.nn.functional.pad(y, pad)) == ours


def test_many_samples_of_the_right_shares_are_calibrated_and_of_wrong_ones_not() -> None:
    g = torch.Generator().manual_seed(5)
    share = 0.15 + 0.7 * torch.rand(30, 30, 20, generator=g)
    s, y = votes(200, share, g), votes(5, share, g)
    right, sure = calibration(s, y, where="samples"), calibration(majority(s), y)
    assert right.ece is not None
    assert sure.ece is not None
    assert right.ece < 0.01
    assert sure.ece > 0.2
    assert sure.brier is not None
    assert right.brier is not None
    assert sure.brier > right.brier


def test_left_out_raters_are_predicted_without_looking_at_them() -> None:
    """Independent voters: whatever the others say, the one left out follows the voxel's own share."""
    g = torch.Generator().manual_seed(6)
    y = votes(7, torch.full((40, 40, 30), 0.5), g)
    pooled = leave_one_out_calibration(y)
    for b in pooled.bins:
        if b.voxels > 2000:  # a voxel is in a bin up to seven times
            assert b.observed == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(b.voxels / 7))
    assert 0 < pooled.voxels < 7 * y[0].numel()
    outer = leave_one_out_calibration(y[:2])
    assert outer.voxels == 0
    assert outer.ece is None
    hard = leave_one_out_calibration(y, ties="foreground")
    assert hard.voxels == pooled.voxels
    assert {b.predicted for b in hard.bins if b.voxels} == {0.0, 1.0}


@pytest.mark.parametrize("n", [1, 4, 16])
def test_redrawn_is_the_expectation_of_real_draws(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    y = votes(5, torch.rand(20, 20, 10, generator=g), g)
    expected = redrawn_calibration(y, n)
    share = y.float().mean(0)
    counted = (share > 0) & (share < 1)
    total = Calibration((0,) * 10, (0.0,) * 10, (0.0,) * 10, 0.0)
    rounds = 40
    for _ in range(rounds):
        total += calibration(votes(n, share, g)[:, counted][..., None, None], y[:, counted][..., None, None])
    assert expected.voxels == pytest.approx(total.voxels / rounds)
    assert total.brier == pytest.approx(expected.brier, abs=0.005)
    assert total.ece == pytest.approx(expected.ece, abs=0.005)
    for ours, seen in zip(expected.count, total.count, strict=True):
        assert seen / rounds == pytest.approx(ours, abs=6 * math.sqrt(ours / rounds) + 1e-9)


def test_what_makes_no_sense_is_refused() -> None:
    y = torch.ones(2, 2, 2, 1, dtype=torch.bool)
    for wrong in (lambda: calibration(y, y, bins=0), lambda: leave_one_out_calibration(y, bins=0)):
        with pytest.raises(ValueError, match="0 bins"):
            wrong()
    with pytest.raises(ValueError, match="where 'raters'"):
        calibration(y, y, where="raters")
    with pytest.raises(ValueError, match="one rater"):
        leave_one_out_calibration(y[:1])
    with pytest.raises(ValueError, match="0 samples"):
        redrawn_calibration(y, 0)
