"""The rows of an evaluation of ambiguous segmentation: the raters' own beside the model's, and their tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gen3d.metrics.ambiguous import AmbiguousScores, Spread, ambiguous_scores, collective_insight
from gen3d.metrics.calibration import Calibration, calibration
from gen3d.metrics.matching import Empty
from gen3d.metrics.raters import (
    leave_one_out,
    leave_one_out_calibration,
    majority,
    majority_of_others,
    redrawn_calibration,
    single_rater,
)
from gen3d.tools.evaluate.report import Cell, Table

MODEL, EARLIER, CEILING, FLOOR, BLIND, SINGLE, REDRAWN = (
    "model",
    "earlier",
    "raters",
    "majority",
    "majority_of_others",
    "single_rater",
    "redrawn",
)
TITLES = {
    MODEL: "model",
    EARLIER: "model of the earlier run",
    CEILING: "raters against raters, leave one out",
    FLOOR: "majority vote against all",
    BLIND: "majority of the others against the one left out",
    SINGLE: "single rater against the others",
}
MEASURES = {
    "ged": "GED",
    "ged_corrected": "GED corrected",
    "hm_iou": "HM-IoU",
    "d_max": "D_max",
    "s_c": "S_c",
    "d_a": "D_a",
    "ci": "CI",
}
CONVENTIONS = {
    "agree": "two empty masks agree (d = 0), exactly one empty: d = 1",
    "exclude": "pairs of two empty masks are left out, exactly one empty: d = 1",
    "disagree": "two empty masks disagree (d = 1), as does exactly one",
}
BINS, RESAMPLES = 10, 2000
Tree = Mapping[str, Any]


def rater_rows(raters: Tensor, samples: int, empty: Empty, spread: Spread) -> dict[str, AmbiguousScores | None]:
    """Score what raters make of each other, for a model of so many samples; None where one rater is all."""
    several = len(raters) > 1
    return {
        CEILING: leave_one_out(raters, samples=samples, empty=empty, spread=spread) if several else None,
        SINGLE: single_rater(raters, empty=empty, spread=spread) if several else None,
        BLIND: majority_of_others(raters, empty=empty, spread=spread) if several else None,
        FLOOR: ambiguous_scores(majority(raters), raters, empty=empty, spread=spread, deterministic=True),
    }


def rater_calibrations(raters: Tensor, samples: int) -> dict[str, Calibration]:
    """Count how raters predict each other, and what so many samples drawn from them would."""
    found = {FLOOR: calibration(majority(raters), raters, bins=BINS)}
    found[REDRAWN] = redrawn_calibration(raters, samples, bins=BINS)
    if len(raters) > 1:
        found[CEILING] = leave_one_out_calibration(raters, bins=BINS)
        found[BLIND] = leave_one_out_calibration(raters, bins=BINS, ties="foreground")
    return found


def both_readings(
    pixel: Mapping[str, AmbiguousScores | None], dice: Mapping[str, AmbiguousScores | None]
) -> dict[str, Any]:
    """Join the scores with the other readings of diversity agreement and collective insight."""
    rows: dict[str, Any] = {}
    for name, scores in pixel.items():
        other = dice[name]
        if scores is None or other is None:
            rows[name] = None
            continue
        harmonic = collective_insight(scores.s_c, scores.d_max, scores.d_a, insight="harmonic")
        rows[name] = {**scores._asdict(), "d_a_dice": other.d_a, "ci_dice": other.ci, "ci_harmonic": harmonic}
    return rows


def pool(cases: Sequence[Tree]) -> dict[str, Calibration]:
    """Add up the calibrations of cases, by row."""
    pooled: dict[str, Calibration] = {}
    for case in cases:
        for name, sums in case.items():
            count, predicted, observed = (tuple(sums[key]) for key in ("count", "predicted", "observed"))
            one = Calibration(count, predicted, observed, sums["squares"])
            pooled[name] = pooled[name] + one if name in pooled else one
    return pooled


def reliability_tree(sums: Calibration) -> dict[str, Any]:
    """Return a reliability diagram and its figures."""
    return {"bins": sums.bins, "ece": sums.ece, "brier": sums.brier, "voxels": sums.voxels, "reason": sums.reason}


def values_of(cases: Sequence[Tree], row: str, measure: str) -> list[float | None]:
    """Return one figure of every case, None where the case has none."""
    return [case[row][measure] if case.get(row) else None for case in cases]


def summary(cases: Sequence[Tree]) -> dict[str, Any]:
    """Return the mean of every figure of every row over the cases that have it, with its 95 % interval."""
    rows: dict[str, Any] = {}
    for row in TITLES:
        there = [case[row] for case in cases if case.get(row)]
        if there:
            named = [name for name in there[0] if name not in ("samples", "raters")]
            rows[row] = {name: mean_interval([one[name] for one in there if one[name] is not None]) for name in named}
            rows[row] |= {name: sorted({one[name] for one in there}) for name in ("samples", "raters")}
            rows[row]["cases"] = len(there)
    return rows


def paired(cases: Sequence[Tree]) -> dict[str, Any]:
    """Return the mean difference of the model to every other row over cases that have both, with its 95 % interval."""
    found: dict[str, Any] = {}
    for row in TITLES:
        if row == MODEL or not any(case.get(row) for case in cases):
            continue
        found[row] = {}
        for measure in MEASURES:
            pairs = zip(values_of(cases, MODEL, measure), values_of(cases, row, measure), strict=True)
            found[row][measure] = mean_interval([a - b for a, b in pairs if a is not None and b is not None])
    return found


def mean_interval(values: Sequence[float]) -> dict[str, float] | None:
    """Return mean and 95 % percentile interval over cases drawn again (seeded); None of none."""
    if not values:
        return None
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.asarray(values)[drawn].mean(1), (0.025, 0.975))
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def score_table(rows: Tree, pooled: Mapping[str, Calibration], empty: Empty, title: str) -> Table:
    """Lay out the means."""
    lines: list[tuple[Cell, ...]] = []
    for name, row in rows.items():
        means = (row[measure]["mean"] if row[measure] else None for measure in MEASURES)
        ece = pooled[name].ece if name in pooled else None
        lines.append((TITLES[name], spelled(row["samples"]), *means, ece, row["cases"]))
    return Table(title, ("", "n", *MEASURES.values(), "ECE", "cases"), lines, notes(rows, pooled, empty))


def spelled(counts: Sequence[int]) -> str:
    """Write how many there were of something, "16" or "8-16"."""
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def notes(rows: Tree, pooled: Mapping[str, Calibration], empty: Empty) -> tuple[str, ...]:
    """State the conventions of the table."""
    said = [
        f"GED: 2 E d(S,Y) - E d(S,S') - E d(Y,Y'), d = 1 - IoU, lower is better; {CONVENTIONS[empty]}.",
        "Plain GED falls with n: the ceiling is what n further draws from the raters expect, (1/n + 1/m) E d(Y,Y'). "
        "Corrected: no such bias, 0 at the ceiling, negative by chance.",
        "HM-IoU, D_max, S_c: higher is better and they rise with n. A consensus mask may score above the raters in "
        "HM-IoU and D_max: the ceiling there is that of a drawing expert, not a bound.",
        "D_a: V is the pixel variance of the difference, the word's plain sense; near 1 for any model where the "
        "structure is small in the image. CI: the printed formula. Other readings: d_a_dice, ci_dice, ci_harmonic "
        "in results.json.",
        "ECE: voxels pooled over cases on which raters or samples disagree, or one set with the other; in the rows "
        "that leave one out, on which the others disagree.",
    ]
    if MODEL in rows and REDRAWN in pooled and pooled[REDRAWN].ece is not None:
        said.append(f"n samples drawn from the raters themselves would have an ECE of {pooled[REDRAWN].ece:.4f}.")
    if not pooled or all(sums.ece is None for sums in pooled.values()):
        said.append("ECE: nobody disagrees anywhere, so there is no voxel to count.")
    return tuple(said)


def paired_table(differences: Tree) -> Table:
    """Lay out the differences."""
    lines = [(TITLES[row], *(signed(found) for found in measures.values())) for row, measures in differences.items()]
    title = "Model minus each row, paired over cases [95 % interval over cases]"
    return Table(title, ("model minus", *MEASURES.values()), lines)


def signed(found: Tree | None) -> str | None:
    """Write a difference and its interval."""
    return None if found is None else f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
