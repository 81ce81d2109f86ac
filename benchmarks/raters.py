"""What seven raters score against each other on 29 newborns' brains: the ceiling and the floor of every model there.

Usage: python benchmarks/raters.py

Raters against raters (leave one out), a single rater, and the majority vote, on ../shared/data's
multirater/qubiq_brain_growth.npz. Nothing is trained. Writes benchmarks/results/raters.json and .md.
"""

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from gen3d.metrics.raters import redrawn_calibration
from gen3d.tools.evaluate.ambiguous_rows import (
    BINS,
    CEILING,
    both_readings,
    pool,
    rater_calibrations,
    rater_rows,
    reliability_tree,
    score_table,
    summary,
)
from gen3d.tools.evaluate.mask_sets import RATERS, find_masks, read_masks
from gen3d.tools.evaluate.report import Table, markdown, plain

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SOURCE = Path("multirater") / "qubiq_brain_growth.npz"
SAMPLES = 16  # of the model that is read against the table
NUMBERS = (1, 4, 7, 16, 32, 64)
FEWEST = 500  # voxels in a bin whose gap is counted


def measure(raters: Tensor) -> dict[str, Any]:
    """Score one case."""
    pixel, dice = (rater_rows(raters, SAMPLES, "agree", spread) for spread in ("pixel", "dice"))
    return {"rows": both_readings(pixel, dice), "calibration": plain(rater_calibrations(raters, SAMPLES))}


def perfect(cases: dict[str, Tensor], ceiling: float, samples: int) -> dict[str, float | None]:
    """Return what a model that draws as the raters do expects of so many samples.

    Args:
        cases: The raters' masks.
        ceiling: Their plain GED at ``SAMPLES``.
        samples: n.
    """
    raters = len(next(iter(cases.values())))
    sums = pool([{"": plain(redrawn_calibration(masks, samples, bins=BINS))} for masks in cases.values()])[""]
    full = [b for b in sums.bins if b.voxels >= FEWEST]
    return {
        "samples": samples,
        "ged": ceiling * (1 / samples + 1 / raters) / (1 / SAMPLES + 1 / raters),
        "ece": sums.ece,
        "brier": sums.brier,
        "widest_gap": max(abs((b.predicted or 0) - (b.observed or 0)) for b in full),
    }


def main() -> None:
    """Measure and write the tables."""
    data = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
    found = find_masks(data / SOURCE, RATERS)
    cases = {name: read_masks(where, None, None, None).voxels for name, where in found.items()}
    measured = {name: measure(masks) for name, masks in cases.items()}
    rows = summary([case["rows"] for case in measured.values()])
    pooled = pool([case["calibration"] for case in measured.values()])
    expected = [perfect(cases, rows[CEILING]["ged"]["mean"], n) for n in NUMBERS]
    title = f"Seven raters against each other, {len(cases)} cases of QUBIQ brain growth, means over cases"
    scores = score_table(rows, pooled, "agree", title)
    heads = ("n", "plain GED", "ECE", "Brier", f"widest gap of a bin of {FEWEST} voxels")
    drawn = Table("What n samples of a model expect that draws as these raters do", heads,
                  [tuple(row.values()) for row in expected])  # fmt: skip
    parts = [f"{scores.title}:", markdown(scores), *scores.notes, f"{drawn.title}:", markdown(drawn)]
    reliability = {name: reliability_tree(sums) for name, sums in pooled.items()}
    each = {name: case["rows"] for name, case in measured.items()}
    results = {"source": SOURCE.name, "rows": rows, "expected": expected, "reliability": reliability, "cases": each}
    (RESULTS / "raters.md").write_text("\n\n".join(parts) + "\n")
    (RESULTS / "raters.json").write_text(json.dumps(plain(results), indent=1) + "\n")
    print((RESULTS / "raters.md").read_text())


if __name__ == "__main__":
    main()
