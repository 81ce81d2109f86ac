"""Masks as seven raters drew them on slices of 29 newborns' brains: what models draw for cases that they never saw.

Usage: python -m benchmarks.brain_growth run [ROW ...] [--minutes 4] [--samples 32] [--folds 0 1 2 3 4]
       python -m benchmarks.brain_growth table

Five folds, a case's by SHA-256 of its name modulo 5; every row trains a model on the other four for so many CPU minutes
(a constant number of steps, timed beforehand) and is thrown away. Rows: ours, majority, dropout, probunet, cimd_paper.
Writes benchmarks/results/brain_growth.json fold by fold, so that it can be stopped and goes on where it was, and .md.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gen3d
from benchmarks.brain_growth_table import CONSENSUS, read_store, write_table
from gen3d.core.condition import Condition
from gen3d.core.precision import choose_precision, use_precision
from gen3d.core.randomness import derive
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Case
from gen3d.data.raters import find_rater_cases, read_rater_case
from gen3d.metrics.ambiguous import ambiguous_scores
from gen3d.metrics.calibration import calibration
from gen3d.tools.evaluate.ambiguous_rows import (
    BINS,
    CEILING,
    FLOOR,
    MODEL,
    REDRAWN,
    both_readings,
    rater_calibrations,
    rater_rows,
)
from gen3d.tools.evaluate.report import plain
from gen3d.tools.sampling import choose_walk
from gen3d.tools.train import Experiment, make_system, packaged_config, read_experiment

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data")) / "multirater" / "qubiq_brain_growth.npz"
STORE = ROOT / "benchmarks" / "results" / "brain_growth.json"
FOLDS, TIMED = 5, 8

AUGMENTED = tuple(
    f"model.{change}" for change in ("turn=12", "zoom=0.1", "bend=3", "gamma=0.3", "gain=0.15", "flips=[0,1]")
)
SMALL = (  # the published networks are 90 times as large as the others here
    "model.architecture=compact",
    "model.network={in_channels: 2, out_channels: 1, width: 16, multipliers: [1, 2, 3, 4], blocks: 1, groups: 4}",
    "model.latent={coarse: 1}",
    "model.anneal=100",
    *AUGMENTED,
    "model.sampling={sampler: ddim, steps: 20, grid: ddpm}",
    "train={batch: 4, lr: 3.0e-3, schedule: cosine, warmup: 20, betas: [0.9, 0.99], ema: 0.99}",
)
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ours": ("cimd_raters", ()),
    "majority": ("raters_majority", ()),
    "dropout": ("raters_dropout", ()),
    "probunet": ("probunet_raters", ()),
    "cimd_paper": ("cimd_paper", SMALL),
}


def fold_of(name: str) -> int:
    """Return the fold in which a case is kept out."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % FOLDS


def all_cases() -> dict[str, Case]:
    """Read the 29 cases."""
    return {study.name: read_rater_case(study) for study in find_rater_cases(DATA)}


def trained(experiment: Experiment, cases: Sequence[Case], minutes: float) -> tuple[Any, dict[str, Any]]:
    """Train a throw-away model for so many CPU minutes and return it with what that was."""
    system = make_system(experiment, [])
    prepared = [system.prepare(case) for case in cases]
    with tempfile.TemporaryDirectory() as folder:

        def train(steps: int) -> tuple[Path, float]:
            config: TrainConfig = replace(experiment.train, steps=steps, checkpoint_every=10**9, log_every=50)
            trainer = Trainer(make_system(experiment, []), prepared, config, Path(folder) / str(steps))
            reports = list(trainer.train())
            losses = {key: round(value, 4) for key, value in reports[-1].items() if "/" in key}
            print(f"  {steps} steps, {trainer.cpu_seconds / 60:.2f} CPU minutes, {losses}", flush=True)
            return trainer.run / "model", trainer.cpu_seconds

        step = train(TIMED)[1] / TIMED
        steps = max(TIMED + 1, round(60 * minutes / step))
        model, seconds = train(steps)
        system = gen3d.load(model).eval()
    use_precision(system, choose_precision("cpu").dtype)
    size = sum(parameter.numel() for parameter in system.parameters())
    return system, {"steps": steps, "cpu_minutes": round(seconds / 60, 2), "cases": len(cases), "parameters": size}


@torch.inference_mode()
def drawn(system: Any, case: Case, count: int, change: Callable[[Condition], Condition], steps: int | None) -> Tensor:
    """Return sampled masks of a case, bool (n, X, Y, Z)."""
    example = system.example(case)
    keys = [derive("brain_growth", case.name, number) for number in range(count)]
    walk = choose_walk(system, steps=steps)
    condition = change(system.condition(example))
    coords = walk.run(
        system.denoise(condition, keys), system.start(example, keys, walk.sigma), no_noise, lambda *_: None
    )
    found: Tensor = system.finish(coords, example).argmax(1) > 0
    return found


def no_noise(x: Tensor) -> Tensor:
    """Refuse: every walk here is deterministic after its start."""
    raise AssertionError("a walk asked for noise")


def without_latent(condition: Condition) -> Condition:
    """Put z = 0 in the place of a draw, and of any rater's offset."""
    return with_latent(condition, torch.zeros(()), named=False)


def mean_of(condition: Condition) -> Tensor:
    """Return the prior's mean, (1, size)."""
    assert condition.latent is not None
    return condition.latent.chunk(2, dim=1)[0]


def with_latent(condition: Condition, z: Tensor, *, named: bool) -> Condition:
    """Put a latent in the place of a draw; where ``named``, raters' offsets are still added."""
    assert condition.latent is not None
    mean, log_std = condition.latent.chunk(2, dim=1)
    fixed = torch.cat([z.expand_as(mean), torch.full_like(log_std, -torch.inf)], dim=1)
    return replace(condition, latent=fixed, label=condition.label if named else None)


def variants(row: str, system: Any, case: Case, count: int) -> dict[str, Tensor]:
    """Return the samples of a row, and those of its ablations, which need no training of their own."""
    if row == "majority":
        with torch.inference_mode():
            probability = system.expected(system.example(case))[0, 1:].sum(0)
        levels = (torch.arange(count) + 0.5) / count
        return {row: probability[None] > 0.5, f"{row}, thresholds": probability[None] > levels.view(-1, 1, 1, 1)}
    found = {row: drawn(system, case, count, lambda condition: condition, None)}
    if row == "ours":
        found["ours, z = 0"] = drawn(system, case, count, without_latent, None)
        found["ours, one call"] = drawn(system, case, count, lambda condition: condition, 1)
        middle = system.offsets.weight.mean(0)
        found["ours, one z"] = drawn(
            system, case, count, lambda told: with_latent(told, mean_of(told) + middle, named=False), None
        )
    return found


def masks_of(case: Case) -> Tensor:
    """Return the raters' masks, bool (7, X, Y, Z)."""
    return torch.stack([torch.from_numpy(np.asarray(mask.voxels)) > 0 for mask in case.raters if mask is not None])


def measured(samples: Tensor, raters: Tensor) -> dict[str, Any]:
    """Score the samples of a case."""
    single = len(samples) == 1
    pixel, dice = (
        {MODEL: ambiguous_scores(samples, raters, spread=spread, deterministic=single)} for spread in ("pixel", "dice")
    )
    counted = plain(calibration(samples, raters, bins=BINS))
    return {"scores": both_readings(pixel, dice)[MODEL], "calibration": counted}


def measured_raters(raters: Tensor, count: int) -> dict[str, dict[str, Any]]:
    """Score the raters of a case against each other."""
    pixel, dice = (rater_rows(raters, count, "agree", spread) for spread in ("pixel", "dice"))
    scores, counted = both_readings(pixel, dice), plain(rater_calibrations(raters, count))
    redrawn = {REDRAWN: {"scores": None, "calibration": counted[REDRAWN]}}
    return {
        name: {"scores": scores[row], "calibration": counted[row]}
        for name, row in ((CEILING, CEILING), (CONSENSUS, FLOOR))
    } | redrawn


def add(path: Path, found: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any] | None = None) -> None:
    """Add cases to rows, and what training was to a fold."""
    stored = read_store(path)
    for row, cases in found.items():
        stored["rows"].setdefault(row, {}).update(cases)
    for row, folds in (facts or {}).items():
        stored["training"].setdefault(row, {}).update(folds)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(plain(stored), separators=(",", ":")) + "\n")
    part.replace(path)


def run(options: argparse.Namespace) -> None:
    """Train and measure what is not in the store yet."""
    cases, path = all_cases(), Path(options.store)
    if CEILING not in read_store(path)["rows"]:
        found: dict[str, dict[str, Any]] = {}
        for name, case in cases.items():
            for row, scores in measured_raters(masks_of(case), options.samples).items():
                found.setdefault(row, {})[name] = scores
        add(path, found)
    for row in options.rows or ROWS:
        config, changes = ROWS[row]
        experiment = read_experiment(packaged_config(config), changes)
        for fold in options.folds:
            if str(fold) in read_store(path)["training"].get(row, {}):
                continue
            print(f"{row}, fold {fold}", flush=True)
            training = [case for name, case in cases.items() if fold_of(name) != fold]
            system, facts = trained(experiment, training, options.minutes)
            found = {}
            begin, clock = time.process_time(), time.monotonic()
            for name, case in cases.items():
                if fold_of(name) == fold:
                    for variant, samples in variants(row, system, case, options.samples).items():
                        found.setdefault(variant, {})[name] = measured(samples, masks_of(case))
            facts |= {"scoring_cpu_seconds": time.process_time() - begin, "scoring_seconds": time.monotonic() - clock}
            add(path, found, {row: {str(fold): facts}})
            for variant, scored in found.items():
                print(f"  {variant}: GED {np.mean([c['scores']['ged'] for c in scored.values()]):.4f}", flush=True)


def main() -> None:
    """Run or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("run", "table"))
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(FOLDS)))
    parser.add_argument("--store", default=str(STORE))
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"rows {', '.join(sorted(unknown))}: expected some of {', '.join(ROWS)}")
    run(options) if options.task == "run" else write_table(Path(options.store))


if __name__ == "__main__":
    main()
