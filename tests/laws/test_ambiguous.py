"""Energy distance, sensitivity, diversity and insight against sets of voxels in plain Python, and by their laws."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.ambiguous import collective_insight, combined_sensitivity, diversity_agreement, ged
from gen3d.metrics.matching import binary_masks, maximum_dice_matching, overlap

Mask = frozenset[int]
EXACT = 1e-12
quick = settings(max_examples=60, deadline=None)


def masks(n: int, seed: int, size: tuple[int, int, int] = (3, 2, 2)) -> Tensor:
    """Small masks of all densities; some are empty, some full."""
    g = torch.Generator().manual_seed(seed)
    density = torch.randint(0, 5, (n, 1, 1, 1), generator=g) / 4
    return torch.rand(n, *size, generator=g) < density


def discs(n: int, g: torch.Generator) -> Tensor:
    """Draws from one distribution: a disc of random radius and centre, (n, 9, 9, 1)."""
    x, y = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    centre, radius = 3.5 + torch.rand(2, n, 1, 1, generator=g), 1.5 + 2 * torch.rand(n, 1, 1, generator=g)
    return ((x - centre[0]).square() + (y - centre[1]).square() < radius.square())[..., None]


def as_sets(volumes: Tensor) -> list[Mask]:
    return [frozenset(v.flatten().nonzero()[:, 0].tolist()) for v in volumes]


def distance(a: Mask, b: Mask, empty: str) -> float | None:
    if not a | b:
        return {"agree": 0.0, "exclude": None, "disagree": 1.0}[empty]
    return 1 - len(a & b) / len(a | b)


def average(values: list[float | None]) -> float:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else 0.0


def ged_by_sets(samples: Tensor, raters: Tensor, empty: str, corrected: bool) -> float:
    s, y = as_sets(samples), as_sets(raters)

    def within(group: list[Mask]) -> float:
        pairs = [(i, j) for i in range(len(group)) for j in range(len(group)) if not corrected or i != j]
        return average([distance(group[i], group[j], empty) for i, j in pairs])

    return 2 * average([distance(a, b, empty) for a in s for b in y]) - within(s) - within(y)


several = st.integers(2, 5)
seeds = st.integers(0, 10_000)


@quick
@given(
    n=several, m=several, seed=seeds, empty=st.sampled_from(["agree", "exclude", "disagree"]), corrected=st.booleans()
)
def test_ged_equals_brute_force(n: int, m: int, seed: int, empty: str, corrected: bool) -> None:
    s, y = masks(n, seed), masks(m, seed + 1)
    expected = ged_by_sets(s, y, empty, corrected)
    assert ged(s, y, empty=empty, corrected=corrected) == pytest.approx(expected, abs=EXACT)


@quick
@given(n=several, m=several, seed=seeds)
def test_ged_laws(n: int, m: int, seed: int) -> None:
    s, y = masks(n, seed), masks(m, seed + 1)
    value = ged(s, y)
    assert ged(s, s) == pytest.approx(0, abs=EXACT)
    assert ged(s, s.repeat(3, 1, 1, 1)) == pytest.approx(0, abs=EXACT)
    assert ged(y, s) == pytest.approx(value, abs=EXACT)
    assert ged(s.flip(0), y.roll(1, 0)) == pytest.approx(value, abs=EXACT)
    assert value >= -EXACT  # 1 - IoU is of negative type
    assert ged(s, y, corrected=True) <= value + EXACT
    flipped_and_padded = (torch.cat([v.flip(2), torch.zeros_like(v)], 1) for v in (s, y))
    assert ged(*flipped_and_padded) == pytest.approx(value, abs=EXACT)


def test_ged_by_hand() -> None:
    """Masks {0, 1} and {1}: d = 1/2. One sample {1}, raters {0, 1} and {1}: 2 * 1/4 - 0 - 1/4."""
    y = torch.tensor([[1, 1, 0], [0, 1, 0]])[..., None, None]
    assert ged(y[1:], y) == pytest.approx(0.25)
    assert ged(y[1:], y, corrected=True, deterministic=True) == pytest.approx(2 * 0.25 - 0 - 0.5)


def test_corrected_ged_of_one_distribution_is_zero_on_average_and_the_plain_one_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    n, m = 3, 5
    drawn = [discs(n + m, g) for _ in range(1500)]
    corrected = torch.tensor([ged(v[:n], v[n:], corrected=True) for v in drawn])
    plain = torch.tensor([ged(v[:n], v[n:]) for v in drawn])
    spread = torch.tensor([average([distance(a, b, "agree") for a, b in combinations(as_sets(v), 2)]) for v in drawn])
    error = float(corrected.std()) / math.sqrt(len(drawn))
    assert error < 0.004
    assert abs(float(corrected.mean())) < 3 * error
    assert float((corrected < 0).float().mean()) > 0.2
    assert float(plain.mean()) == pytest.approx((1 / n + 1 / m) * float(spread.mean()), abs=3 * error)


def test_corrected_ged_of_a_deterministic_model_is_unbiased() -> None:
    g = torch.Generator().manual_seed(1)
    model, experts = discs(1, g), discs(400, g)
    truth = ged(model, experts)  # within 1/400 of that of the whole distribution
    few = [ged(model, experts[i : i + 4], corrected=True, deterministic=True) for i in range(0, 400, 4)]
    plain = [ged(model, experts[i : i + 4]) for i in range(0, 400, 4)]
    error = float(torch.tensor(few).std()) / 10
    assert sum(few) / 100 == pytest.approx(truth, abs=3 * error)
    assert sum(plain) / 100 > truth + 6 * error


NOTHING, SOMETHING = torch.zeros(2, 4, 4, 1, dtype=torch.bool), masks(3, 5, (4, 4, 1)) | torch.eye(4).bool()[..., None]


@pytest.mark.parametrize(("empty", "both", "one"), [("agree", 0.0, 2.0), ("exclude", 0.0, 2.0), ("disagree", 0.0, 1.0)])
def test_empty_masks_have_defined_values(empty: str, both: float, one: float) -> None:
    """All empty against all empty; all empty against one mask that isn't."""
    full = SOMETHING[:1]
    assert ged(NOTHING, NOTHING, empty=empty) == both
    assert ged(NOTHING, full, empty=empty) == one
    assert ged(full, NOTHING, empty=empty) == one
    assert math.isfinite(ged(NOTHING, SOMETHING, empty=empty, corrected=True))
    mixed = torch.cat([NOTHING, SOMETHING])
    assert ged(mixed, mixed, empty=empty) == pytest.approx(0, abs=EXACT)


def test_empty_masks_elsewhere() -> None:
    assert combined_sensitivity(NOTHING, NOTHING) == 1
    assert combined_sensitivity(NOTHING, SOMETHING) == 0
    assert combined_sensitivity(SOMETHING, NOTHING) == 0
    assert maximum_dice_matching(NOTHING, NOTHING) == 1
    assert maximum_dice_matching(NOTHING, SOMETHING) == 0
    assert maximum_dice_matching(torch.cat([NOTHING, SOMETHING]), NOTHING) == 1
    for spread in ("pixel", "dice"):
        assert diversity_agreement(NOTHING, NOTHING, spread=spread) == 1
    assert collective_insight(0, 0, 0) == collective_insight(0, 0, 0, insight="harmonic") == 0
    assert collective_insight(0, 0, 1, insight="harmonic") == 0


@quick
@given(n=several, m=several, seed=seeds)
def test_sensitivity_and_dice_equal_brute_force(n: int, m: int, seed: int) -> None:
    samples, raters = masks(n, seed), masks(m, seed + 1)
    s, y = as_sets(samples), as_sets(raters)
    all_s, all_y = frozenset().union(*s), frozenset().union(*y)
    sensitivity = len(all_s & all_y) / len(all_y) if all_y else float(not all_s)
    best = [max(2 * len(a & b) / (len(a) + len(b)) if a | b else 1.0 for a in s) for b in y]
    assert combined_sensitivity(samples, raters) == pytest.approx(sensitivity, abs=EXACT)
    assert maximum_dice_matching(samples, raters) == pytest.approx(sum(best) / m, abs=EXACT)
    assert maximum_dice_matching(raters, torch.cat([raters, samples])[:m]) == 1


@quick
@given(n=several, m=several, seed=seeds, spread=st.sampled_from(["pixel", "dice"]))
def test_diversity_equals_brute_force(n: int, m: int, seed: int, spread: str) -> None:
    samples, raters = masks(n, seed), masks(m, seed + 1)

    def gap(a: Tensor, b: Tensor) -> float:
        if spread == "pixel":
            return float((a.double() - b.double()).var(correction=0))
        return 1 - (float(2 * (a & b).sum() / (a.sum() + b.sum())) if (a | b).any() else 1.0)

    low_s, high_s, low_y, high_y = (
        pick([gap(a, b) for a, b in combinations(group, 2)]) for group in (samples, raters) for pick in (min, max)
    )
    expected = 1 - (abs(low_y - low_s) + abs(high_y - high_s)) / 2
    assert diversity_agreement(samples, raters, spread=spread) == pytest.approx(expected, abs=1e-6)
    assert diversity_agreement(samples, samples.flip(0), spread=spread) == pytest.approx(1, abs=EXACT)
    assert 0 <= diversity_agreement(samples, raters[:1], spread=spread) <= 1


def test_background_hides_diversity_in_pixels_but_not_in_dice() -> None:
    raters = discs(4, torch.Generator().manual_seed(2))
    framed = torch.nn.functional.pad(raters, (0, 0, 20, 20, 20, 20))
    consensus, framed_consensus = raters[:1], framed[:1]
    assert diversity_agreement(framed_consensus, framed) > 0.99 > diversity_agreement(consensus, raters) + 0.05
    assert diversity_agreement(framed_consensus, framed, spread="dice") == pytest.approx(
        diversity_agreement(consensus, raters, spread="dice"), abs=EXACT
    )


def test_insight_by_hand() -> None:
    assert collective_insight(1, 1, 1) == collective_insight(1, 1, 1, insight="harmonic") == 1
    assert collective_insight(0.5, 0.8, 0.2) == pytest.approx(3 * 0.08 / 1.5)
    assert collective_insight(0.5, 0.8, 0.2, insight="harmonic") == pytest.approx(3 / (1 / 0.5 + 1 / 0.8 + 1 / 0.2))


def test_a_missing_rater_is_left_out() -> None:
    s, y = masks(3, 7), masks(4, 8)
    holed = y.float()
    holed[1] = float("nan")
    assert ged(s, holed) == ged(s, y[[0, 2, 3]])
    assert ged(s.to(torch.uint8), y.double()) == ged(s, y)


def test_what_is_no_mask_is_refused() -> None:
    y = masks(3, 9)
    partly = y.float()
    partly[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="raters: nan in a part"):
        ged(y, partly)
    with pytest.raises(ValueError, match="samples: not binary"):
        ged(2 * y.int() - (~y).int(), y)
    with pytest.raises(ValueError, match="none is there"):
        ged(y, torch.full((2, 3, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="none is there"):
        ged(y[:0], y)
    with pytest.raises(ValueError, match=r"expected \(n, X, Y, Z\)"):
        binary_masks(y[0])
    with pytest.raises(ValueError, match="3x2x2 voxels, raters of 3x2x1"):
        ged(y, y[..., :1])
    with pytest.raises(ValueError, match="corrected distance of 1 samples"):
        ged(y[:1], y, corrected=True)
    with pytest.raises(ValueError, match="and 1 raters"):
        ged(y, y[:1], corrected=True)
    with pytest.raises(ValueError, match="2 samples of a deterministic model"):
        ged(y[:2], y, deterministic=True)
    with pytest.raises(ValueError, match="empty masks 'ignore'"):
        ged(y, y, empty="ignore")
    with pytest.raises(ValueError, match="spread 'iou'"):
        diversity_agreement(y, y, spread="iou")
    with pytest.raises(ValueError, match="insight 'mean'"):
        collective_insight(1, 1, 1, insight="mean")


def test_counts_are_exact_beyond_float32() -> None:
    """2 ** 24 + 1 common voxels, which float32 cannot hold."""
    whole = torch.ones(1, 2**24 + 1, 1, 1, dtype=torch.bool)
    assert overlap(whole, whole).common.item() == 2**24 + 1
