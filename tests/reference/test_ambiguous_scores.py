"""Matching against every permutation, and what raters score against each other against loops over them."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.ambiguous import AmbiguousScores, ambiguous_scores, collective_insight, diversity_agreement, ged
from gen3d.metrics.matching import hungarian_iou, maximum_dice_matching
from gen3d.metrics.raters import leave_one_out, majority, majority_of_others, single_rater

pytest.importorskip("scipy")

EXACT = 1e-12
quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10_000)


def masks(n: int, seed: int, size: tuple[int, int, int] = (3, 2, 2)) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    density = torch.randint(0, 5, (n, 1, 1, 1), generator=g) / 4
    return torch.rand(n, *size, generator=g) < density


def iou(a: Tensor, b: Tensor) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def dice(a: Tensor, b: Tensor) -> float:
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def best_permutation(samples: list[Tensor], raters: list[Tensor]) -> float:
    table = [[iou(s, y) for y in raters] for s in samples]
    n = len(samples)
    return max(sum(table[i][p[i]] for i in range(n)) for p in permutations(range(n))) / n


@quick
@given(sizes=st.sampled_from([(1, 1), (3, 3), (2, 4), (6, 2), (2, 3), (1, 5), (6, 6)]), seed=seeds)
def test_matching_equals_every_permutation(sizes: tuple[int, int], seed: int) -> None:
    n, m = sizes
    size = int(np.lcm(n, m))
    s, y = masks(n, seed), masks(m, seed + 1)
    expected = best_permutation(list(s) * (size // n), list(y) * (size // m))
    assert hungarian_iou(s, y) == pytest.approx(expected, abs=EXACT)
    assert hungarian_iou(y, s) == pytest.approx(expected, abs=EXACT)
    assert hungarian_iou(s.flip(0), y.roll(1, 0)) == pytest.approx(expected, abs=EXACT)
    assert hungarian_iou(s, s.flip(0).repeat(2, 1, 1, 1)) == pytest.approx(1, abs=EXACT)


def test_matching_by_hand() -> None:
    """Greedy would take 1 and 0; the best is 2/3 and 1/2... of rows a = {0,1,2}, b = {0,1} on columns {0,1}, {0}."""
    s = torch.tensor([[1, 1, 1], [1, 1, 0]])[..., None, None]
    y = torch.tensor([[1, 1, 0], [1, 0, 0]])[..., None, None]
    assert hungarian_iou(s, y) == pytest.approx(max((2 / 3 + 1 / 2) / 2, (1 / 3 + 1) / 2))


def test_matching_of_empty_masks() -> None:
    empty, full = torch.zeros(1, 2, 2, 1), torch.ones(1, 2, 2, 1)
    mixed = torch.cat([empty, full])
    assert hungarian_iou(empty, empty) == 1
    assert hungarian_iou(empty, empty, empty="exclude") == 1
    assert hungarian_iou(empty, empty, empty="disagree") == 0
    assert hungarian_iou(empty, full) == hungarian_iou(full, empty, empty="exclude") == 0
    assert hungarian_iou(mixed, mixed.flip(0)) == hungarian_iou(mixed, mixed, empty="exclude") == 1
    assert hungarian_iou(mixed, mixed, empty="disagree") == 0.5


@quick
@given(n=st.integers(1, 5), m=st.integers(1, 5), seed=seeds, empty=st.sampled_from(["agree", "exclude", "disagree"]))
def test_all_at_once_is_one_by_one(n: int, m: int, seed: int, empty: str) -> None:
    s, y = masks(n, seed), masks(m, seed + 1)
    scores = ambiguous_scores(s, y, empty=empty, spread="dice", insight="harmonic")
    assert scores.ged == ged(s, y, empty=empty)
    assert (scores.ged_corrected is None) == (min(n, m) < 2)
    if scores.ged_corrected is not None:
        assert scores.ged_corrected == ged(s, y, empty=empty, corrected=True)
    assert scores.hm_iou == hungarian_iou(s, y, empty=empty)
    assert scores.d_max == maximum_dice_matching(s, y)
    assert scores.d_a == diversity_agreement(s, y, spread="dice")
    assert scores.ci == collective_insight(scores.s_c, scores.d_max, scores.d_a, insight="harmonic")
    assert (scores.samples, scores.raters) == (n, m)
    assert all(np.isfinite(v) for v in scores if v is not None)


def test_a_deterministic_model_has_a_corrected_distance() -> None:
    y = masks(4, 3)
    assert ambiguous_scores(y[:1], y).ged_corrected is None
    scores = ambiguous_scores(y[:1], y, deterministic=True)
    assert scores.ged_corrected == ged(y[:1], y, corrected=True, deterministic=True)


@pytest.mark.parametrize(("m", "ties"), [(3, 2), (4, 2), (7, 4)])
def test_majority_counts_votes(m: int, ties: int) -> None:
    y = masks(m, m, (5, 4, 3))
    assert torch.equal(majority(y)[0], y.sum(0) >= ties)
    assert torch.equal(majority(y, ties="background")[0], y.sum(0) >= m // 2 + 1)
    assert majority(y).shape == (1, 5, 4, 3)
    with pytest.raises(ValueError, match="ties 'random'"):
        majority(y, ties="random")


def others(y: Tensor, i: int) -> Tensor:
    return y[[j for j in range(len(y)) if j != i]]


@quick
@given(m=st.integers(2, 5), n=st.integers(1, 20), seed=seeds)
def test_raters_against_raters(m: int, n: int, seed: int) -> None:
    y = masks(m, seed)
    scores = leave_one_out(y, samples=n)
    distances = [1 - iou(y[i], y[j]) for i in range(m) for j in range(m) if i != j]
    assert scores.ged == pytest.approx(sum(distances) / len(distances) * (1 / n + 1 / m), abs=EXACT)
    assert scores.ged_corrected == 0
    free = [p for p in permutations(range(m)) if all(i != p[i] for i in range(m))]
    matched = max(sum(iou(y[i], y[p[i]]) for i in range(m)) / m for p in free)
    assert scores.hm_iou == pytest.approx(matched, abs=EXACT)
    best = [max(dice(y[j], y[i]) for j in range(m) if j != i) for i in range(m)]
    assert scores.d_max == pytest.approx(sum(best) / m, abs=EXACT)
    each = [ambiguous_scores(others(y, i), y) for i in range(m)]
    assert scores.s_c == pytest.approx(sum(one.s_c for one in each) / m, abs=EXACT)
    assert scores.d_a == pytest.approx(sum(one.d_a for one in each) / m, abs=EXACT)
    assert scores.ci == pytest.approx(collective_insight(scores.s_c, scores.d_max, scores.d_a))
    assert leave_one_out(y.flip(0), samples=n) == pytest.approx(scores, abs=EXACT)


@quick
@given(m=st.integers(2, 5), seed=seeds)
def test_majority_of_others_and_single_rater(m: int, seed: int) -> None:
    y = masks(m, seed)
    left = [(majority(others(y, i))[0], y[i]) for i in range(m)]
    scores = majority_of_others(y)
    within = [1 - iou(y[i], y[j]) for i in range(m) for j in range(m)]
    cross = 1 - sum(iou(a, b) for a, b in left) / m
    assert scores.ged == pytest.approx(2 * cross - sum(within) / m**2, abs=EXACT)
    assert scores.ged_corrected == pytest.approx(2 * cross - sum(within) / (m * (m - 1)), abs=EXACT)
    assert scores.hm_iou == pytest.approx(1 - cross, abs=EXACT)
    assert scores.d_max == pytest.approx(sum(dice(a, b) for a, b in left) / m, abs=EXACT)
    kind = ambiguous_scores(majority(y), y, deterministic=True)
    assert scores.d_a == kind.d_a
    alone = single_rater(y)
    each = [ambiguous_scores(y[i : i + 1], others(y, i)) for i in range(m)]
    for name in ("ged", "hm_iou", "d_max", "s_c", "d_a", "ci"):
        assert getattr(alone, name) == pytest.approx(sum(getattr(one, name) for one in each) / m, abs=EXACT)
    assert alone.ged_corrected is None
    assert (alone.samples, alone.raters) == (1, m - 1)
    assert alone.ged == pytest.approx(sum(within) / (m * (m - 1)) * (1 + 1 / (m - 1)), abs=EXACT)


def test_raters_who_all_agree_are_perfect() -> None:
    for y in (torch.ones(3, 2, 2, 1), torch.zeros(3, 2, 2, 1)):
        perfect = AmbiguousScores(0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3, 3)
        assert leave_one_out(y) == perfect
        assert majority_of_others(y) == perfect._replace(samples=1)
        assert ambiguous_scores(majority(y), y, deterministic=True) == perfect._replace(samples=1)


def test_one_rater_has_nobody_to_be_compared_with() -> None:
    y = torch.stack([torch.ones(2, 2, 1), torch.full((2, 2, 1), float("nan"))])
    for score in (leave_one_out, majority_of_others, single_rater):
        with pytest.raises(ValueError, match="one rater"):
            score(y)
    with pytest.raises(ValueError, match="0 samples"):
        leave_one_out(torch.ones(2, 2, 2, 1), samples=0)


def test_the_ceiling_is_what_further_draws_from_the_experts_expect() -> None:
    """Simulated experts: discs of random radius; n further discs against m of them, many times."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    radius = 1.5 + 2.5 * torch.rand(600, 9, 1, 1, generator=g)
    discs = ((x - 4).square() + (y - 4).square() < radius.square())[..., None]
    real = torch.tensor([ged(group[:5], group[5:]) for group in discs])
    told = torch.tensor([leave_one_out(group[5:], samples=5).ged for group in discs])
    error = float((real - told).std()) / 600**0.5
    assert error < 0.01
    assert float(real.mean()) == pytest.approx(float(told.mean()), abs=3 * error)


def test_on_seven_real_raters_only_distance_and_calibration_reward_diversity(data_folder: Path) -> None:
    """The consensus mask beats a drawing expert in matched IoU and Dice, and loses in GED, sensitivity and insight."""
    with np.load(data_folder / "multirater" / "qubiq_brain_growth.npz") as arrays:
        cases = [torch.from_numpy(arrays[key])[..., None] for key in arrays if key.endswith("_masks")]
    assert len(cases) == 29
    ceiling, floor = (
        np.mean([score(y)[:7] for y in cases], axis=0)
        for score in (
            lambda y: leave_one_out(y, samples=16),
            lambda y: ambiguous_scores(majority(y), y, deterministic=True),
        )
    )
    names = AmbiguousScores._fields[:7]
    better = {name for name, a, b in zip(names, ceiling, floor, strict=True) if (a < b if "ged" in name else a > b)}
    assert better == {"ged", "ged_corrected", "s_c", "d_a", "ci"}
    assert ceiling[0] == pytest.approx(0.0503, abs=1e-4)
    assert floor[0] == pytest.approx(0.1085, abs=1e-4)
