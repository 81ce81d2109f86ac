"""Samples of a mask against the masks of several raters: distance of the two distributions, and collective insight.

Sets of masks are (n, X, Y, Z), binary; 2D is Z = 1, classes are scored one at a time. A mask that is nan everywhere is
a missing rater's.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .matching import Empty, Overlap, binary_pair, matched_iou, overlap

Spread = Literal["pixel", "dice"]
Insight = Literal["printed", "harmonic"]


class AmbiguousScores(NamedTuple):
    """Scores of one case.

    Attributes:
        ged: Squared generalised energy distance; lower is better; its expectation falls with n and m.
        ged_corrected: Without the bias of small n and m, so it may be negative; None where a single sample or rater
            leaves it undefined.
        hm_iou: Hungarian-matched IoU.
        d_max: Maximum Dice matching.
        s_c: Combined sensitivity.
        d_a: Diversity agreement.
        ci: Collective insight.
        samples: n.
        raters: m.
    """

    ged: float
    ged_corrected: float | None
    hm_iou: float
    d_max: float
    s_c: float
    d_a: float
    ci: float
    samples: int
    raters: int


def ambiguous_scores(
    samples: Tensor,
    raters: Tensor,
    *,
    empty: Empty = "agree",
    spread: Spread = "pixel",
    insight: Insight = "printed",
    deterministic: bool = False,
) -> AmbiguousScores:
    """Score the samples of one case against its raters, by every measure of this module.

    Args:
        samples: (n, X, Y, Z).
        raters: (m, X, Y, Z).
        empty: Convention for two empty masks, as in ``ged``.
        spread: Reading of "variance" in ``diversity_agreement``.
        insight: Reading of the mean in ``collective_insight``.
        deterministic: Whether the model gives always the same mask, as in ``ged``.

    Raises:
        ValueError: As ``ged`` and ``diversity_agreement`` do.
    """
    samples, raters = binary_pair(samples, raters)
    cross, within, between = overlap(samples, raters), overlap(samples, samples), overlap(raters, raters)
    tables = cross.iou(empty), within.iou(empty), between.iou(empty)
    forbid_several(len(samples), deterministic)
    defined = len(raters) > 1 and (len(samples) > 1 or deterministic)
    s_c, d_max = union_sensitivity(samples.any(0), raters.any(0)), float(cross.dice().amax(0).mean())
    d_a = agreement(extremes(within, spread), extremes(between, spread))
    return AmbiguousScores(
        ged=energy_distance(*tables),
        ged_corrected=energy_distance(*tables, corrected=True) if defined else None,
        hm_iou=matched_iou(tables[0]),
        d_max=d_max,
        s_c=s_c,
        d_a=d_a,
        ci=collective_insight(s_c, d_max, d_a, insight=insight),
        samples=len(samples),
        raters=len(raters),
    )


def ged(
    samples: Tensor, raters: Tensor, *, empty: Empty = "agree", corrected: bool = False, deterministic: bool = False
) -> float:
    r"""Return the squared generalised energy distance between samples and raters, with $d = 1 - IoU$.

    $2 E d(S, Y) - E d(S, S') - E d(Y, Y')$. Plain, as papers print it, each expectation is the mean over all pairs, a
    mask's pair with itself included: between n and m draws from one distribution it expects
    $(1/n + 1/m) E d(Y, Y')$, not 0. Corrected, the last two are means over pairs of distinct masks (U-statistics):
    unbiased, 0 in expectation if samples and raters come from one distribution, and negative now and then.

    Args:
        samples: (n, X, Y, Z).
        raters: (m, X, Y, Z).
        empty: Two empty masks "agree" (d = 0; with exactly one empty, d is always 1), are left out ("exclude"; a mean
            over no pair is 0, and the correction is then not exactly unbiased) or "disagree" (d = 1, even with itself).
        corrected: Whether the bias of small n and m is taken out.
        deterministic: Whether the single sample is all that the model ever gives, so that its distance within is 0
            and known.

    Raises:
        ValueError: Correction of one sample (unless deterministic) or one rater, which leaves no pair; several samples
            of a deterministic model; or as ``binary_pair`` does.

    References:
        Szekely and Rizzo (2013). https://doi.org/10.1016/j.jspi.2013.03.018
        Kohl et al. (2018), section 4. https://arxiv.org/abs/1806.05034
    """
    samples, raters = binary_pair(samples, raters)
    forbid_several(len(samples), deterministic)
    if corrected and (len(raters) < 2 or (len(samples) < 2 and not deterministic)):
        raise ValueError(
            f"corrected distance of {len(samples)} samples and {len(raters)} raters: expected 2 of each at least"
        )
    pairs = (samples, raters), (samples, samples), (raters, raters)
    return energy_distance(*(overlap(a, b).iou(empty) for a, b in pairs), corrected=corrected)


def forbid_several(samples: int, deterministic: bool) -> None:
    """Refuse several samples of a model that has but one."""
    if deterministic and samples > 1:
        raise ValueError(f"{samples} samples of a deterministic model; expected one")


def energy_distance(cross: Tensor, within: Tensor, between: Tensor, *, corrected: bool = False) -> float:
    """Return the squared energy distance from tables of IoU, (n, m), (n, n) and (m, m); nan is left out."""
    inner = mean_off_diagonal if corrected else mean_of
    return 2 * mean_of(1 - cross) - inner(1 - within) - inner(1 - between)


def mean_of(values: Tensor) -> float:
    """Return the mean of what is not nan, 0 of nothing."""
    there = values[~values.isnan()]
    return float(there.mean()) if len(there) else 0.0


def mean_off_diagonal(table: Tensor) -> float:
    """Return the mean of a square table without its diagonal, 0 of a single number."""
    return mean_of(off_diagonal(table))


def off_diagonal(table: Tensor) -> Tensor:
    """Return the n (n - 1) values of a square table that are not on its diagonal."""
    return table[~torch.eye(len(table), dtype=torch.bool, device=table.device)]


def combined_sensitivity(samples: Tensor, raters: Tensor) -> float:
    r"""Return the share of the raters' union that the samples' union covers: $S_c = TP / (TP + FN)$, in [0, 1].

    It is 1 if both unions are empty and 0 if exactly one is.

    Args:
        samples: (n, X, Y, Z).
        raters: (m, X, Y, Z).

    Raises:
        ValueError: As ``binary_pair`` does.

    References:
        Rahman et al. (2023), section 4.2; they leave open what a false alarm is worth where no rater draws anything.
        https://arxiv.org/abs/2304.04745
    """
    samples, raters = binary_pair(samples, raters)
    return union_sensitivity(samples.any(0), raters.any(0))


def union_sensitivity(found: Tensor, wanted: Tensor) -> float:
    """Return the sensitivity of one mask for another, (X, Y, Z)."""
    if not bool(wanted.any()):
        return float(not bool(found.any()))
    return int((found & wanted).count_nonzero()) / int(wanted.count_nonzero())


def diversity_agreement(samples: Tensor, raters: Tensor, *, spread: Spread = "pixel") -> float:
    r"""Compare how far apart the closest and the farthest pair of masks are, in samples and raters: $D_a$, in [0, 1].

    $1 - \frac{1}{2} (|V_{min}^Y - V_{min}^S| + |V_{max}^Y - V_{max}^S|)$, V over all pairs of distinct masks of a set;
    a single mask has V = 0. The paper calls V a "variance" and has no code, and readers have taken it in two ways.

    Args:
        samples: (n, X, Y, Z).
        raters: (m, X, Y, Z).
        spread: "pixel", the default because it is the word's own meaning: population variance over the volume's voxels
            of one mask minus the other. It shrinks with the background: where the structure is small, every model is
            near 1. "dice": 1 - Dice, which does not depend on the field of view.

    Raises:
        ValueError: Another reading, or as ``binary_pair`` does.

    References:
        Rahman et al. (2023), section 4.2. https://arxiv.org/abs/2304.04745
    """
    samples, raters = binary_pair(samples, raters)
    return agreement(extremes(overlap(samples, samples), spread), extremes(overlap(raters, raters), spread))


def extremes(within: Overlap, spread: Spread) -> tuple[float, float]:
    """Return the smallest and the largest V among the pairs of one set, (0, 0) of a single mask."""
    if spread not in ("pixel", "dice"):
        raise ValueError(f"spread '{spread}': expected pixel or dice")
    pairs = off_diagonal(within.difference_variance() if spread == "pixel" else 1 - within.dice())
    return (float(pairs.min()), float(pairs.max())) if len(pairs) else (0.0, 0.0)


def agreement(samples: tuple[float, float], raters: tuple[float, float]) -> float:
    """Return the diversity agreement of two (V_min, V_max)."""
    return 1 - (abs(raters[0] - samples[0]) + abs(raters[1] - samples[1])) / 2


def collective_insight(s_c: float, d_max: float, d_a: float, *, insight: Insight = "printed") -> float:
    r"""Join combined sensitivity, maximum Dice matching and diversity agreement into one number, in [0, 1].

    Args:
        s_c: Combined sensitivity.
        d_max: Maximum Dice matching.
        d_a: Diversity agreement.
        insight: "printed": $3 S_c D_{max} D_a / (S_c + D_{max} + D_a)$, the paper's formula, by which published values
            were made; "harmonic": $3 S_c D_{max} D_a / (S_c D_{max} + D_{max} D_a + S_c D_a)$, the true
            harmonic mean. Both are 1 for three ones, and 0 where the denominator is.

    Raises:
        ValueError: Another reading.

    References:
        Rahman et al. (2023), section 4.2. https://arxiv.org/abs/2304.04745
    """
    if insight not in ("printed", "harmonic"):
        raise ValueError(f"insight '{insight}': expected printed or harmonic")
    below = s_c + d_max + d_a if insight == "printed" else s_c * d_max + d_max * d_a + s_c * d_a
    return 3 * s_c * d_max * d_a / below if below > 0 else 0.0
