"""What raters score against each other: the ceiling, the floor and one rater alone, that every model is read against.

No rater is compared with itself. Raters are (m, X, Y, Z), binary; a mask that is nan everywhere is a missing rater's.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .ambiguous import (
    AmbiguousScores,
    Insight,
    Spread,
    agreement,
    ambiguous_scores,
    collective_insight,
    energy_distance,
    extremes,
    mean_of,
    mean_off_diagonal,
    union_sensitivity,
)
from .calibration import Calibration, divided, reliability, tally
from .matching import Empty, binary_masks, matched_iou, overlap

Ties = Literal["foreground", "background"]


def majority(raters: Tensor, *, ties: Ties = "foreground") -> Tensor:
    """Return the majority vote, bool (1, X, Y, Z): the one mask that a good network without samples gives.

    Args:
        raters: (m, X, Y, Z).
        ties: What a voxel is that half of an even number of raters drew. "foreground": at least half of the votes are
            enough, as in the 50 % consensus that is usual for the four raters of LIDC; "background": it takes more.

    Raises:
        ValueError: As ``binary_masks`` does.
    """
    raters = binary_masks(raters, "raters")
    return consensus(tally(raters), len(raters), ties)[None]


def consensus(votes: Tensor, voters: int, ties: Ties) -> Tensor:
    """Return where enough of the voters are for it."""
    if ties not in ("foreground", "background"):
        raise ValueError(f"ties '{ties}': expected foreground or background")
    return 2 * votes >= voters if ties == "foreground" else 2 * votes > voters


def leave_one_out(
    raters: Tensor,
    *,
    samples: int | None = None,
    empty: Empty = "agree",
    spread: Spread = "pixel",
    insight: Insight = "printed",
) -> AmbiguousScores:
    r"""Score raters against raters: what a model would get that draws as the experts do, the ceiling.

    - GED: what n further draws from the same experts expect against these m, $(1/n + 1/m) \delta$, with $\delta$ the
      mean distance of two distinct raters; corrected: 0, by its definition.
    - HM-IoU: raters matched to raters, the diagonal forbidden.
    - D_max: each rater's best Dice among the others; a model with n > m - 1 samples has more tries.
    - S_c: the union of the others against the union of all; D_a: the others against all; mean over who is left out.
      The left-out rater is on one side only, but the others are on both: these two say how much one rater matters.
    - CI: of the three above.

    Args:
        raters: (m, X, Y, Z), m at least 2.
        samples: n of the model that is read against this, for the plain GED; by default m.
        empty: As in ``ambiguous_scores``; so are ``spread`` and ``insight``.
        spread: Reading of "variance".
        insight: Reading of the mean.

    Raises:
        ValueError: A single rater, no sample, or as ``binary_masks`` does.
    """
    raters = several(raters)
    m = len(raters)
    n = m if samples is None else samples
    if n < 1:
        raise ValueError(f"{n} samples; expected at least 1")
    pairs = overlap(raters, raters)
    iou, dice = pairs.iou(empty), pairs.dice()
    s_c = mean([union_sensitivity(others.any(0), raters.any(0)) for others, _ in splits(raters)])
    d_max = float(forbidden(dice).amax(0).mean())
    whole = extremes(pairs, spread)
    d_a = mean([agreement(extremes(overlap(others, others), spread), whole) for others, _ in splits(raters)])
    return AmbiguousScores(
        ged=(1 / n + 1 / m) * mean_off_diagonal(1 - iou),
        ged_corrected=0.0,
        hm_iou=matched_iou(forbidden(iou)),
        d_max=d_max,
        s_c=s_c,
        d_a=d_a,
        ci=collective_insight(s_c, d_max, d_a, insight=insight),
        samples=n,
        raters=m,
    )


def majority_of_others(
    raters: Tensor,
    *,
    empty: Empty = "agree",
    spread: Spread = "pixel",
    insight: Insight = "printed",
    ties: Ties = "foreground",
) -> AmbiguousScores:
    """Score the majority vote of the others against the rater left out: a floor that has not seen its judge.

    ``ambiguous_scores(majority(raters), raters, deterministic=True)`` is the same without leaving out, and kinder.

    - GED: its first term is the mean over raters of the distance to the majority of the others; one mask has no
      distance within; the raters' own is that of all of them, plain or corrected.
    - HM-IoU and D_max: mean IoU and Dice with the rater left out.
    - S_c: the majority of the others against the union of all; D_a: one mask's V = 0 against all raters.

    Args:
        raters: (m, X, Y, Z), m at least 2.
        empty: As in ``ambiguous_scores``; so are ``spread`` and ``insight``.
        spread: Reading of "variance".
        insight: Reading of the mean.
        ties: As in ``majority``.

    Raises:
        ValueError: A single rater, or as ``binary_masks`` does.
    """
    raters = several(raters)
    crossed = [overlap(majority(others, ties=ties), left[None]) for others, left in splits(raters)]
    iou = torch.stack([pair.iou(empty)[0, 0] for pair in crossed])
    pairs, one = overlap(raters, raters), torch.ones(1, 1)
    tables = iou[None], one, pairs.iou(empty)
    d_max = mean([float(pair.dice()) for pair in crossed])
    s_c = mean([union_sensitivity(majority(others, ties=ties)[0], raters.any(0)) for others, _ in splits(raters)])
    d_a = agreement((0.0, 0.0), extremes(pairs, spread))
    return AmbiguousScores(
        ged=energy_distance(*tables),
        ged_corrected=energy_distance(*tables, corrected=True),
        hm_iou=mean_of(iou) if bool((~iou.isnan()).any()) else 1.0,
        d_max=d_max,
        s_c=s_c,
        d_a=d_a,
        ci=collective_insight(s_c, d_max, d_a, insight=insight),
        samples=1,
        raters=len(raters),
    )


def single_rater(
    raters: Tensor, *, empty: Empty = "agree", spread: Spread = "pixel", insight: Insight = "printed"
) -> AmbiguousScores:
    """Score each rater alone against all others, averaged over raters: one expert in the model's place.

    Args:
        raters: (m, X, Y, Z), m at least 2.
        empty: As in ``ambiguous_scores``; so are ``spread`` and ``insight``.
        spread: Reading of "variance".
        insight: Reading of the mean.

    Returns:
        Means; the corrected GED is None, as of any single draw; ``raters`` is how many each is judged by, m - 1.

    Raises:
        ValueError: A single rater, or as ``binary_masks`` does.
    """
    each = [
        ambiguous_scores(left[None], others, empty=empty, spread=spread, insight=insight)
        for others, left in splits(several(raters))
    ]
    ged, hm_iou, d_max, s_c, d_a, ci = (
        mean([getattr(scores, name) for scores in each]) for name in ("ged", "hm_iou", "d_max", "s_c", "d_a", "ci")
    )
    return AmbiguousScores(ged, None, hm_iou, d_max, s_c, d_a, ci, 1, len(each) - 1)


def leave_one_out_calibration(raters: Tensor, *, bins: int = 10, ties: Ties | None = None) -> Calibration:
    """Let the votes of the others predict the one left out, where the others disagree; pooled over who is left out.

    The left-out vote does not choose the voxels: if it did, a voxel on which the others agree would count only if it
    is against them. Where two raters are all, the others are one and never disagree: nothing is counted.

    Args:
        raters: (m, X, Y, Z), m at least 2.
        bins: Of the predicted share.
        ties: If given, the majority of the others predicts, 0 or 1, at the same voxels; as in ``majority``.

    Raises:
        ValueError: A single rater, no bin, or as ``binary_masks`` does.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins; expected at least 1")
    pooled = Calibration((0,) * bins, (0.0,) * bins, (0.0,) * bins, 0.0)
    for others, left in splits(several(raters)):
        votes, voters = tally(others), len(others)
        counted = divided(votes, voters)
        if ties is not None:
            votes, voters = consensus(votes, voters, ties), 1
        pooled += reliability(votes[counted], voters, left[counted], 1, bins)
    return pooled


def redrawn_calibration(raters: Tensor, samples: int, *, bins: int = 10) -> Calibration:
    r"""Return what ``calibration`` expects of n samples that are drawn from these raters themselves, with replacement.

    At a voxel that a of m raters drew, the votes follow $Bin(n, a/m)$. Even such a model is not at 0:
    shares of n samples scatter, and the raters' dissent chose the voxels. What exceeds this is the model's fault.

    Args:
        raters: (m, X, Y, Z).
        samples: n.
        bins: Of the predicted share.

    Raises:
        ValueError: No sample, no bin, or as ``binary_masks`` does.
    """
    if samples < 1 or bins < 1:
        raise ValueError(f"{samples} samples in {bins} bins; expected at least 1 of each")
    raters = binary_masks(raters, "raters")
    m = len(raters)
    voxels = torch.bincount(tally(raters).flatten(), minlength=m + 1).tolist()
    count, predicted, observed = ([0.0] * bins for _ in range(3))
    squares = 0.0
    for ayes in range(1, m):
        share = ayes / m
        for votes in range(samples + 1):
            expected = voxels[ayes] * math.comb(samples, votes) * share**votes * (1 - share) ** (samples - votes)
            place = min(votes * bins // samples, bins - 1)
            count[place] += expected
            predicted[place] += expected * votes / samples
            observed[place] += expected * share
            squares += expected * ((votes / samples - share) ** 2 + share * (1 - share))
    return Calibration(tuple(count), tuple(predicted), tuple(observed), squares)


def several(raters: Tensor) -> Tensor:
    """Return the raters that are there, at least two."""
    raters = binary_masks(raters, "raters")
    if len(raters) < 2:
        raise ValueError("one rater; expected at least 2 to leave one out")
    return raters


def splits(raters: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (the others, the one left out) for each rater."""
    return [(torch.cat([raters[:i], raters[i + 1 :]]), raters[i]) for i in range(len(raters))]


def forbidden(table: Tensor) -> Tensor:
    """Return a square table with -inf on its diagonal."""
    return table.masked_fill(torch.eye(len(table), dtype=torch.bool, device=table.device), -torch.inf)


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    return sum(values) / len(values)
