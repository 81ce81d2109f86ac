"""What training-side changes are worth on hippocampi, at equal CPU time.

Usage: python -m benchmarks.training_trials calibrate|train|evaluate|table [TRIAL ...]

Each trial is configs/wdm_hippocampus.yaml with a few keys changed, trained on one thread on the training cases less a
fixed validation fifth (hippocampus_sets.held_for_choosing), in runs/trials/TRIAL. ``calibrate`` times a training step
and a call of every trial in turn and counts FLOP; ``train`` gives each as many steps as fit into 2 CPU minutes by these
times (5 for those named so, which confirm what the short ones found); ``evaluate`` draws as many volumes as there are
validation scans, three times, at few and at 20 calls. Results:
benchmarks/results/training_trials.json and .md.
"""

import argparse
import json
import time
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import gen3d
from benchmarks.hippocampus_sets import BATCH, ROOT, Set, calls, cases, drawn, figures, real, real_against_real
from gen3d.core.config import build
from gen3d.core.precision import use_precision
from gen3d.core.system import Sampling, System
from gen3d.core.training import Trainer
from gen3d.data.nifti import without_ending
from gen3d.systems import system_class
from gen3d.tools.evaluate.report import Table, markdown
from gen3d.tools.train import make_system, read_experiment, run_training
from gen3d.tools.training_cases import gather

CONFIG = ROOT / "configs" / "wdm_hippocampus.yaml"
RUNS = ROOT / "runs" / "trials"
RESULT = ROOT / "benchmarks" / "results" / "training_trials.json"
SCREENING, CONFIRMATION = 2.0, 5.0  # CPU minutes
LOGNORMAL = "{kind: LogNormal, mean: -0.5, std: 1.4, sigma_min: 0.01, sigma_max: 80.0, time_scale: 1000.0}"
TWO_LEVELS = ["model.space.levels=2", "model.network.in_channels=64", "model.network.out_channels=64"]
TRIALS = {
    "shipped recipe": [],
    "EDM, log-normal sigma": [f"model.parameterization={{kind: EDM, levels: {LOGNORMAL}}}"],
    "X0, log-normal sigma": [f"model.parameterization={{kind: X0, levels: {LOGNORMAL}}}"],
    "zero terminal SNR": ["model.parameterization.levels.zero_terminal_snr=true"],
    "scale of WDM": ["model.space.scale=wdm"],
    "two levels": [*TWO_LEVELS, "model.network.width=20"],
    "two levels, wider": [*TWO_LEVELS, "model.network.width=72"],
    "shipped recipe, seed 1": ["train.seed=1"],
    "shipped recipe, 5 minutes": [],
    "EDM, log-normal sigma, 5 minutes": [f"model.parameterization={{kind: EDM, levels: {LOGNORMAL}}}"],
}
SAMPLINGS = [Sampling("dpmpp_2m", 6, "ddpm"), Sampling("dpmpp_2m", 8), Sampling("dpmpp_2m", 20)]
SHOWN = ("fd_radiomic", "kernel, fd_radiomic", "coverage, fd_radiomic", "fd_random3d", "MS-SSIM", "copy rate")
SEEDS = 3
ROUNDS, WARM, TIMED = 3, 3, 12


def folder(trial: str) -> Path:
    """Return where a trial's run lies."""
    return RUNS / trial.replace(",", "").replace(" ", "_")


def overrides(trial: str) -> list[str]:
    """Return the keys that a trial changes; the validation cases are held out of all."""
    held = ", ".join(without_ending(path) for path in cases("validation"))
    return [f"data.hold_out=[{held}]", *TRIALS[trial]]


def calibrate() -> None:
    """Time every trial's training step and call, one after the other in several rounds, and count FLOP."""
    trainers, found = {}, {}
    for trial in TRIALS:
        experiment = read_experiment(CONFIG, overrides(trial))
        kind = system_class(experiment.system)
        prepared, weights = gather(experiment.data, kind(build(kind.Config, experiment.model, "model")))
        system = make_system(experiment, prepared)
        trainers[trial] = Trainer(system, prepared, experiment.train, folder(trial), weights=weights)
        found[trial] = {"parameters": sum(p.numel() for p in system.parameters()), "gflop": gflop(system)}
    steps: dict[str, list[float]] = {trial: [] for trial in TRIALS}
    asked: dict[str, list[float]] = {trial: [] for trial in TRIALS}
    for _ in range(ROUNDS):
        for trial, trainer in trainers.items():
            steps[trial] += step_seconds(trainer)
            asked[trial] += call_seconds(trainer.system)
    for trial in TRIALS:  # networks of one shape cost the same: what their times differ by is noise
        alike = [other for other in TRIALS if found[other]["gflop"] == found[trial]["gflop"]]
        step, call = (median(v for other in alike for v in times[other]) for times in (steps, asked))
        found[trial] |= {"step_seconds": step, "call_seconds": call}
        print(trial, found[trial], flush=True)
    merge("calibration", found)


def step_seconds(trainer: Trainer) -> list[float]:
    """Return CPU seconds of some training steps after a few untimed ones; their examples are part of them."""
    seconds = []
    before = time.process_time()
    for step, batches in enumerate(trainer.batches()):
        trainer.optimizations[0].update(batches, step)
        now = time.process_time()
        seconds.append(now - before)
        before = now
        if step == WARM + TIMED - 1:
            break
    return seconds[WARM:]


@torch.inference_mode()
def call_seconds(system: System) -> list[float]:
    """Return CPU seconds of a call for each volume of a batch, in fp32 as on any CPU."""
    denoiser: Any = system.denoiser
    x = system.start(system.blank(), ["0"] * BATCH, 1.0)  # type: ignore[operator]
    trained_in, denoiser.compute_dtype = denoiser.compute_dtype, torch.float32
    seconds = []
    for _ in range(WARM + TIMED):
        before = time.process_time()
        denoiser(x, torch.ones((), dtype=torch.float64))
        seconds.append((time.process_time() - before) / BATCH)
    denoiser.compute_dtype = trained_in
    return seconds[WARM:]


def gflop(system: System) -> float:
    """Count the floating point operations of a call for one volume, in units of 1e9, on tensors without content."""
    denoiser = deepcopy(system.denoiser).to("meta")  # type: ignore[operator]
    x = torch.empty_like(system.start(system.blank(), ["0"], 1.0), device="meta")  # type: ignore[operator]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(x, torch.ones((), dtype=torch.float64))
    return counter.get_total_flops() / 1e9


def train(trial: str) -> None:
    """Train a trial for its share of CPU time."""
    minutes = CONFIRMATION if trial.endswith("5 minutes") else SCREENING
    steps = round(60 * minutes / json.loads(RESULT.read_text())["calibration"][trial]["step_seconds"] / 50) * 50
    run_training(CONFIG, [*overrides(trial), f"train.steps={steps}"], folder(trial), device="cpu")


def evaluate(trial: str, sets: dict[str, Set]) -> None:
    """Draw a trial's volumes, in bf16 as in quality_curves.py, and compare them with the validation scans."""
    system = gen3d.load(folder(trial) / "model").eval()
    use_precision(system, torch.bfloat16)
    count = len(sets["validation"].volumes)
    rows = []
    for sampling in SAMPLINGS:
        for seed in range(SEEDS):
            fake = drawn(system, sampling, count, seed)
            row = figures(fake, sets["validation"], sets["learning"])
            rows.append({"sampler": sampling.sampler, "grid": sampling.grid, "calls": calls(sampling), **row})
        distances = [round(row["fd_radiomic"], 1) for row in rows[-SEEDS:]]
        print(trial, sampling, distances, flush=True)
    training = system.provenance["training"]
    merge("rows", {trial: {"steps": training["steps"], "cpu_minutes": training["cpu_minutes"], "rows": rows}})


def merge(key: str, found: dict[str, Any]) -> None:
    """Add to the results file."""
    tree = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    tree[key] = {**tree.get(key, {}), **found}
    RESULT.write_text(json.dumps(tree, indent=1) + "\n")


def table(tree: dict[str, Any]) -> str:
    """Return the trials side by side, means over the seeds of sampling; the best row of each at few and at 20 calls."""
    columns = ("trial", "GFLOP a call", "ms a call", "ms a step", "steps", "CPU minutes", "calls", *SHOWN)
    lines = []
    for trial, found in tree["rows"].items():
        cost = tree["calibration"][trial]
        head = (
            trial,
            *(f"{cost[n]:.3g}" for n in ("gflop",)),
            *(f"{1000 * cost[n]:.3g}" for n in ("call_seconds", "step_seconds")),
        )
        for sampling in SAMPLINGS:
            rows = [row for row in found["rows"] if (row["grid"], row["calls"]) == (sampling.grid, calls(sampling))]
            values = [[row[name] for row in rows] for name in SHOWN]
            cells = [f"{np.mean(v):.4g} ± {np.std(v, ddof=1):.2g}" for v in values]
            lines.append(
                (*head, str(found["steps"]), str(found["cpu_minutes"]), f"{calls(sampling)}, {sampling.grid}", *cells)
            )
            head = ("", "", "", "")
    real_scans = [
        f"{tree['real'][name]['mean']:.4g} ± {tree['real'][name]['std']:.2g}" if name in tree["real"] else ""
        for name in SHOWN
    ]
    lines.append(("real scans", *[""] * 6, *real_scans))
    return markdown(Table("", columns, lines)) + "\n"


def main() -> None:
    """Do one stage for the trials named, or for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("calibrate", "train", "evaluate", "table"))
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)} [all]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "calibrate":
        calibrate()
    trials = options.trials or list(TRIALS)
    if options.stage == "train":
        for trial in trials:
            train(trial)
    if options.stage == "evaluate":
        sets = {part: real(part) for part in ("validation", "learning")}
        merge("real", real_against_real(sets["validation"], sets["learning"], len(sets["validation"].volumes)))
        for trial in trials:
            evaluate(trial, sets)
    if options.stage == "table":
        text = table(json.loads(RESULT.read_text()))
        RESULT.with_suffix(".md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
