"""The tables of brain_growth: means, paired differences and the reliability diagram of what its store holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.metrics.calibration import Calibration
from gen3d.tools.evaluate.ambiguous_rows import CEILING, MEASURES, REDRAWN, mean_interval, pool, signed
from gen3d.tools.evaluate.report import Table, markdown

CONSENSUS = "consensus"
FEWEST = 500  # voxels in a bin whose gap is counted
TITLES = {
    "ours": "ours (cimd_raters)",
    "ours, z = 0": "ours, z = 0",
    "ours, one z": "ours, one z for all samples: the prior's mean and the mean rater",
    "ours, one call": "ours, one call instead of a walk",
    "majority": "majority-vote U-Net",
    "majority, thresholds": "majority-vote U-Net, its probability at n thresholds",
    "dropout": "dropout U-Net",
    "probunet": "probabilistic U-Net",
    "cimd_paper": "cimd_paper, small network, ddim 20",
    CEILING: "raters against raters, leave one out",
    CONSENSUS: "majority vote of the raters themselves",
}


def read_store(path: Path) -> dict[str, Any]:
    """Return what was measured before."""
    return json.loads(path.read_text()) if path.exists() else {"rows": {}, "training": {}}  # type: ignore[no-any-return]


def ece_difference(ours: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """Return the difference of the calibration errors with its 95 % interval, cases drawn again."""
    drawn_again = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
    both = []
    for cases in (ours, {name: other[name] for name in ours}):
        sums = [[c["calibration"][key] for key in ("count", "predicted", "observed")] for c in cases.values()]
        picked = np.concatenate([np.array(sums).sum(0)[None], np.array(sums)[drawn_again].sum(1)])
        both.append(np.abs(picked[:, 1] - picked[:, 2]).sum(-1) / picked[:, 0].sum(-1))
    mean, *draws = both[0] - both[1]
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def pooled(cases: Mapping[str, Any]) -> Calibration:
    """Add up the reliability diagrams of a row."""
    return pool([{"": case["calibration"]} for case in cases.values()])[""]


def widest(cases: Mapping[str, Any]) -> float:
    """Return the widest gap of a bin with at least FEWEST voxels."""
    return max(abs((b.predicted or 0) - (b.observed or 0)) for b in pooled(cases).bins if b.voxels >= FEWEST)


def scores_of(cases: Mapping[str, Any], measure: str) -> dict[str, float]:
    """Return one figure of the cases that have it."""
    return {name: c["scores"][measure] for name, c in cases.items() if c["scores"][measure] is not None}


def line(row: str, cases: Mapping[str, Any], training: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a row of the table of means."""
    folds, samples = list(training.values()), next(iter(cases.values()))["scores"]["samples"]
    means = [float(np.mean([*values])) if (values := scores_of(cases, m).values()) else None for m in MEASURES]
    spent = sum(fold["cpu_minutes"] for fold in folds) if folds else None
    steps = round(np.mean([fold["steps"] for fold in folds])) if folds else None
    size = folds[0]["parameters"] if folds else None
    return TITLES[row], samples, *means, pooled(cases).ece, widest(cases), spent, steps, size


def difference(row: str, ours: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a row of the table of paired differences."""
    cells = []
    for measure in MEASURES:
        a, b = scores_of(ours, measure), scores_of(other, measure)
        cells.append(signed(mean_interval([a[name] - b[name] for name in a if name in b])))
    return TITLES[row], *cells, signed(ece_difference(ours, other))


def write_table(path: Path) -> None:
    """Write the results of complete rows as Markdown."""
    stored = read_store(path)
    rows, training = stored["rows"], stored["training"]
    names = rows[CEILING]
    complete = [row for row in TITLES if len(rows.get(row, {})) == len(names)]
    heads = ("", "n", *MEASURES.values(), "ECE", f"widest gap, bins of {FEWEST}", "CPU minutes", "steps", "parameters")
    lines = [line(row, rows[row], training.get(row, {})) for row in complete]
    title = f"Masks of {len(names)} cases of QUBIQ brain growth, seven raters, five folds, means over cases"
    ideal = pooled(rows[REDRAWN]).ece
    parts = ["# What raters would draw", f"{title}:", markdown(Table(title, heads, lines))]
    parts += [f"As many samples drawn from the raters themselves have an ECE of {ideal:.4f}. Conventions: raters.md."]
    if "ours" in complete:
        compared = [difference(row, rows["ours"], rows[row]) for row in complete if row not in ("ours", CONSENSUS)]
        title = "Ours minus each row, paired over cases [95 % interval, cases drawn again]"
        parts += [f"{title}:", markdown(Table(title, ("ours minus", *MEASURES.values(), "ECE"), compared))]
        bins = [(f"{b.low:.1f} to {b.high:.1f}", int(b.voxels), b[2], b[3]) for b in pooled(rows["ours"]).bins]
        heads = ("share of samples", "voxels", "mean share of samples", "mean share of raters")
        parts += ["Reliability of ours:", markdown(Table("", heads, bins))]
    text = "\n\n".join(parts) + "\n"
    path.with_suffix(".md").write_text(text)
    print(text)
