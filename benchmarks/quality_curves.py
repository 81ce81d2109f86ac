"""Quality against network calls, of the shipped models: what their default samplers and steps follow from.

Usage: python -m benchmarks.quality_curves hippocampus|completion [--most-calls N]

``hippocampus``: sets of 38 volumes of hippocampus-wdm, as ``gen3d generate --seed 0``, 1 and 2 draw them, against the
38 test scans, at 1 to 1000 calls; every row from the same noise.
``completion``: brain-completion on 96-cubed crops of the two test patients, each contrast hidden in turn, four samples
of each, at 1 to 20 calls, beside the expected image, the voxel-wise regression and the best copy (completion_crops.py).

Results: benchmarks/results/quality_hippocampus.json and quality_completion.json, row by row; rows that are there are
kept. Networks compute in bf16, which takes a CPU with AMX a third of the time; control rows in fp32 stand beside.
``python -m benchmarks.quality_figures`` draws the curves and applies the rule by which defaults are chosen.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import gen3d
from benchmarks import completion_crops as crops
from benchmarks import hippocampus_sets as sets
from gen3d.core.checkpoint import weights_sha256
from gen3d.core.precision import choose_precision, use_precision
from gen3d.core.system import Sampling, System
from gen3d.systems import find_model

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS, COUNT = 3, 38
LONG = 100  # calls beyond which one seed has to do, as it does for Euler's rule
STEPS = {  # sampler and grid -> steps; Heun asks twice a step but once in its last
    ("dpmpp_2m", "karras"): (1, 2, 4, 5, 6, 8, 10, 16, 20, 30, 50, 100),
    ("heun", "karras"): (1, 2, 3, 5, 8, 10, 15, 20, 50),
    ("euler", "karras"): (1, 2, 4, 8, 10, 16, 20, 30, 50),
    ("ancestral_large", "ddpm"): (2, 4, 8, 10, 16, 20, 30, 50, 100, 250, 1000),
    ("dpmpp_2m", "exponential"): (4, 8, 16),
    ("dpmpp_2m", "ddpm"): (3, 4, 5, 6, 8, 10, 16),
}
FEW = {
    ("dpmpp_2m", "karras"): (1, 2, 3, 4, 5, 6, 8, 10, 20),
    ("euler", "karras"): (4, 10),
    ("heun", "karras"): (2, 3, 5),
    ("dpmpp_2m", "exponential"): (5,),
    ("dpmpp_2m", "flow"): (2, 3, 4, 5, 8, 10),
}
CONTROLS = {"hippocampus": [Sampling("dpmpp_2m", 10), Sampling("heun", 20)], "completion": [Sampling("dpmpp_2m", 5)]}


def rows_of(table: dict[tuple[str, str], tuple[int, ...]], which: str) -> list[tuple[str, Sampling]]:
    """List the rows, cheapest first, each with its precision."""
    rows = [Sampling(name, steps, grid) for (name, grid), several in table.items() for steps in several]
    return [
        *(("bf16", row) for row in sorted(rows, key=sets.calls)),
        *(("fp32", row) for row in CONTROLS[which]),
    ]


def about(precision: str, sampling: Sampling) -> dict[str, Any]:
    """Return what identifies a row."""
    return {
        "sampler": sampling.sampler,
        "grid": sampling.grid,
        "steps": sampling.steps,
        "calls": sets.calls(sampling),
        "precision": precision,
    }


def compute_in(system: System, precision: str) -> None:
    """Set the number format of the networks."""
    use_precision(system, choose_precision("cpu", precision).dtype)


def hippocampus(most: int) -> Iterator[dict[str, Any]]:
    """Draw and compare, one sampling and seed after the other."""
    system = gen3d.load("hippocampus-wdm").eval()
    test, training = sets.real("test"), sets.real("training")
    done = yield {
        "model": {"name": "hippocampus-wdm", "weights_sha256": weights_sha256(find_model("hippocampus-wdm"))},
        "n": COUNT,
        "real against real": sets.real_against_real(test, training, COUNT),
    }
    for seed in range(SEEDS):
        for precision, sampling in rows_of(STEPS, "hippocampus"):
            row = {**about(precision, sampling), "seed": seed}
            once = row["calls"] > LONG or sampling.sampler == "euler" or precision == "fp32"
            if row in done or row["calls"] > most or (seed and once):
                continue
            compute_in(system, precision)
            start = time.process_time()
            fake = sets.drawn(system, sampling, COUNT, seed)
            seconds = (time.process_time() - start) / COUNT
            yield {**row, "cpu_seconds": seconds, **sets.figures(fake, test, training)}


def completion(most: int) -> Iterator[dict[str, Any]]:
    """Fill every crop in, one sampling after the other."""
    system = gen3d.load("brain-completion").eval()
    units = crops.units(system)
    done = yield {
        "model": {"name": "brain-completion", "weights_sha256": weights_sha256(find_model("brain-completion"))},
        "crops": [unit.about() for unit in units],
        "samples": crops.SAMPLES,
        "baselines": crops.baselines(system, units),
    }
    for precision, sampling in rows_of(FEW, "completion"):
        row = about(precision, sampling)
        if row in done or row["calls"] > most:
            continue
        compute_in(system, precision)
        start = time.process_time()
        found = [crops.sampled(system, unit, sampling) for unit in units]
        seconds = (time.process_time() - start) / len(units) / crops.SAMPLES
        yield {**row, "cpu_seconds": seconds, "crops": found}


def main() -> None:
    """Measure what is missing, writing after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("hippocampus", "completion"))
    parser.add_argument("--most-calls", type=int, default=1000, help="leave out what asks more often [1000]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"quality_{options.which}.json"
    tree = json.loads(path.read_text()) if path.exists() else {}
    rows = tree.get("rows", [])
    keys = ("sampler", "grid", "steps", "calls", "precision", "seed")
    measured = (hippocampus if options.which == "hippocampus" else completion)(options.most_calls)
    head = next(measured)
    done = [{key: row[key] for key in keys if key in row} for row in rows]
    try:
        row = measured.send(done)  # type: ignore[attr-defined]
        while True:
            rows.append(row)
            path.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
            print({key: row[key] for key in (*keys, "cpu_seconds", "fd_radiomic") if key in row}, flush=True)
            row = next(measured)
    except StopIteration:
        print(f"{path}: complete")


if __name__ == "__main__":
    main()
