"""Do samples of a volume move together across slices, as raters' masks do? Ours on hippocampi with simulated raters.

Usage: python -m benchmarks.coherent_raters [--minutes 6] [--samples 16] [--cases 16]

Four raters are simulated on every hippocampus, training and test (gen3d/data/simulated_raters.py); configs/
hippocampus_cimd.yaml learns from all of them, and draws the test cases. Of each case: the variance of the volume over
samples, and that of independent slices, the sum over slices of the slices' own variances, along each axis; their ratio
is 1 for slices that know nothing of each other. The same of fresh simulated raters, as many as samples, and of ours
with z = 0. Writes benchmarks/results/coherent_raters.json and .md.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.brain_growth import drawn, trained, without_latent
from benchmarks.hippocampus_segment import DATA
from gen3d.core.randomness import derive
from gen3d.core.volume import Case
from gen3d.data.simulated_raters import Disagreement, simulate_raters, with_raters
from gen3d.data.splits import is_test
from gen3d.data.studies import find_studies, read_study
from gen3d.metrics import ambiguous_scores
from gen3d.tools.evaluate.ambiguous_rows import mean_interval
from gen3d.tools.evaluate.report import Table, markdown
from gen3d.tools.train import packaged_config, read_experiment

STORE = Path(__file__).resolve().parent / "results" / "coherent_raters.json"
AXES = ("sagittal", "coronal", "axial")
CHANGES = ("model.raters=4", "model.masks=3")
RATERS, OURS, STILL = "simulated raters", "ours", "ours, z = 0"
MEASURES = ("std of the volume, %", *(f"ratio, {axis} slices" for axis in AXES), "pairs' Dice", "GED")


def labelled(split: str) -> dict[str, Case]:
    """Read the cases of a split of the hippocampi, their one mask as it is."""
    studies = find_studies(DATA / "hippocampus")
    return {s.name: read_study(s) for s in studies if is_test("hippocampus", s.name) == (split == "test")}


def on_model_axes(system: Any, case: Case) -> np.ndarray:
    """Return a case's true mask as the model sees it, (X, Y, Z)."""
    return np.asarray(system.prepare(case).lesion)


def fresh_raters(mask: np.ndarray, name: str, count: int) -> torch.Tensor:
    """Draw ``count`` raters whose moods nobody has seen, each habit as often as the others, bool (n, X, Y, Z)."""
    habits = Disagreement().habits
    asked = Disagreement(habits=habits * -(-count // len(habits)))
    found = simulate_raters(mask, (1.0, 1.0, 1.0), asked, derive("coherent raters", name))
    return torch.from_numpy(found.masks[:count] > 0)


def measured(samples: torch.Tensor, raters: torch.Tensor) -> dict[str, float]:
    """Measure masks of a volume, bool (n, X, Y, Z): their volumes' spread, its ratio to that of slices, and GED."""
    volumes = samples.flatten(1).sum(1).double()
    sizes = [samples.sum([a for a in (1, 2, 3) if a != axis]).double() for axis in (1, 2, 3)]
    ratios = [float(volumes.var() / size.var(0).sum()) for size in sizes]
    scores = ambiguous_scores(samples, raters)
    flat = samples.flatten(1).double()
    both, whole = flat @ flat.T, volumes[:, None] + volumes
    apart = ~torch.eye(len(samples), dtype=torch.bool)
    dice = float((2 * both / whole)[apart].mean())
    return dict(zip(MEASURES, (100 * float(volumes.std() / volumes.mean()), *ratios, dice, scores.ged), strict=True))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train, draw and measure."""
    experiment = read_experiment(packaged_config("hippocampus_cimd"), CHANGES)
    training = [with_raters(case, Disagreement(), derive("raters", n)) for n, case in labelled("training").items()]
    system, facts = trained(experiment, training, options.minutes)
    rows: dict[str, dict[str, dict[str, float]]] = {RATERS: {}, OURS: {}, STILL: {}}
    for name, case in list(labelled("test").items())[: options.cases]:
        raters = fresh_raters(on_model_axes(system, case), name, options.samples)
        rows[RATERS][name] = measured(raters, raters)
        rows[OURS][name] = measured(drawn(system, case, options.samples, lambda told: told, None), raters)
        rows[STILL][name] = measured(drawn(system, case, options.samples, without_latent, None), raters)
        print(name, {row: [round(v, 3) for v in found[name].values()] for row, found in rows.items()}, flush=True)
    return {"training": facts, "samples": options.samples, "rows": rows}


def in_words(values: list[float]) -> str:
    """Return a mean and its interval, cases drawn again."""
    found = mean_interval(values)
    assert found is not None
    return f"{found['mean']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def table(found: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    cases, facts = len(found["rows"][OURS]), found["training"]
    lines = [
        (row, *(in_words([one[m] for one in scores.values()]) for m in MEASURES))
        for row, scores in found["rows"].items()
    ]
    title = (
        f"{cases} test hippocampi, {found['samples']} masks each, mean over cases [95 % interval]; "
        f"{facts['cpu_minutes']} CPU minutes of training, {facts['steps']} steps"
    )
    ratio = (
        "The ratio: the variance of the volume over that of slices which know nothing of each other, whose own is 1."
    )
    return (
        "\n\n".join(
            [
                "# Masks that are coherent across slices",
                f"{title}:",
                markdown(Table(title, ("", *MEASURES), lines)),
                ratio,
            ]
        )
        + "\n"
    )


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--store", type=Path, default=STORE)
    options = parser.parse_args()
    found = run(options)
    options.store.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    options.store.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
