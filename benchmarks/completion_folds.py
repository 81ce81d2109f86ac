"""Completion, leave one patient out over the six brain studies of ../shared/data, scored by its own script.

Usage: python benchmarks/completion_folds.py ROW [--steps N] [--folds CASE ...] [--runs FOLDER]

ROW is ``completion`` (the diffusion network, one call at x = 0 and sigma_max), ``regression`` (the same architecture
without sigma, trained by squared error alone), or ``table`` (all results beside both baselines, as
benchmarks/results/completion_folds.md). Every fold is a throw-away model on the same budget, printed in the table.
Results go to benchmarks/results/completion_folds_ROW.json, fold by fold; folds that are there already are kept.
"""

import argparse
import gc
import importlib.util
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import torch

import gen3d
from gen3d.core.system import System
from gen3d.core.volume import Case
from gen3d.data.layout import find_cases, read_case
from gen3d.data.prepare import foreground
from gen3d.tools.train import run_training

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
ROWS = {"completion": [], "regression": ["model.mean_share=1.0"]}


def scorer(data: Path) -> ModuleType:
    """Load the score script that stands beside the data."""
    path = data.parent / "tools" / "score_completion.py"
    spec = importlib.util.spec_from_file_location("score_completion", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.inference_mode()
def fill(system: System, case: Case, given: list[str]) -> dict[str, np.ndarray]:
    """Return every contrast that is not given, on the file's grid, one call with x = 0 at sigma_max."""
    hidden = Case(case.name, {name: case.volumes[name] for name in given}, patient=case.patient)
    example = system.example(hidden)
    condition = system.condition(example)
    sigma = torch.tensor(system.config.parameterization.levels.sigma_max, dtype=torch.float64)
    x = torch.zeros_like(system.start(example, ["0"], 0.0))
    voxels = system.finish(system.denoise(condition, ["0"])(x, sigma), example)[0].numpy()
    placement = example["prepared"].placement
    brain = foreground(hidden.volumes.values())
    filled = {}
    for channel, name in enumerate(CONTRASTS):
        if name not in given:
            low, high = system.window(name)
            native = placement.place(np.maximum(1000 * (voxels[channel] - low) / (high - low), 0))
            filled[name] = np.where(brain, native, 0)
    return filled


@dataclass(frozen=True)
class Truth:
    """A true contrast inside the brain, windowed as the script does it, and what matching another image to it needs."""

    brain: np.ndarray
    window: tuple[float, float]
    spread: tuple[float, float]
    voxels: np.ndarray

    @classmethod
    def of(cls, tool: ModuleType, path: Path) -> "Truth":
        """Read a true contrast."""
        true = np.asarray(nib.load(path).dataobj, dtype=np.float64)
        low, high = np.quantile(true, [0.001, 0.999])
        brain = true > 0
        return cls(brain, (low, high), tool.spread(true[brain]), tool.window(true[brain], low, high))

    def psnr(self, tool: ModuleType, guess: np.ndarray) -> tuple[float, float]:
        """Return the script's brain PSNR of a guess and of the constant image, the true brain's median."""
        (mid, iqr), (mid_guess, iqr_guess) = self.spread, tool.spread(guess[self.brain].astype(np.float64))
        matched = (guess[self.brain] - mid_guess) / iqr_guess * iqr + mid
        images = (matched, np.full_like(self.voxels, mid))
        of_guess, of_constant = (float(tool.psnr(self.voxels, tool.window(v, *self.window))) for v in images)
        return of_guess, of_constant


def score_fold(tool: ModuleType, system: System, folder: Path) -> dict[str, Any]:
    """Score each contrast from the other three by the script, and from one other beside a constant image."""
    case = read_case(folder)
    lesion = next((p for p in folder.glob("*.nii.gz") if "seg" in p.name or "lesion" in p.name), None)
    three: dict[str, list[float]] = {}
    one: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in CONTRASTS:
            path, origin = Path(temporary) / f"{name}.nii", case.volumes[name].origin
            filled = fill(system, case, [n for n in CONTRASTS if n != name])[name]
            nib.save(nib.Nifti1Image(filled, nib.load(origin).affine), path)
            three[name] = [float(v) for v in tool.score(origin, path, lesion)]
    truths = {name: Truth.of(tool, case.volumes[name].origin) for name in CONTRASTS}
    for name in CONTRASTS:
        for target, guess in fill(system, case, [name]).items():
            one[f"{name}->{target}"] = list(truths[target].psnr(tool, guess))
    return {"from_three": three, "from_one": one}


def table(results: dict[str, Any]) -> str:
    """Return every row and the means, as text."""
    lines = [f"{'fold':22s} {'contrast':8s} {'brain':>6s} {'lesion':>6s} {'SSIM':>7s} {'whole':>6s} {'papers':>6s}"]
    rows = []
    for fold, result in results["folds"].items():
        for name, row in result["from_three"].items():
            rows.append(row)
            lines.append(f"{fold:22s} {name:8s} {row[0]:6.2f} {row[1]:6.2f} {row[2]:7.4f} {row[3]:6.2f} {row[4]:6.2f}")
    mean = np.nanmean(rows, axis=0)
    lines.append(f"{'mean':31s} {mean[0]:6.2f} {mean[1]:6.2f} {mean[2]:7.4f} {mean[3]:6.2f} {mean[4]:6.2f}")
    single = np.array([pair for r in results["folds"].values() for pair in r["from_one"].values()])
    lines.append(f"one contrast given: brain {single[:, 0].mean():.2f} dB, constant image {single[:, 1].mean():.2f} dB")
    minutes = [r["cpu_minutes"] for r in results["folds"].values()]
    lines.append(
        f"budget: {results['steps']} steps a fold, {np.mean(minutes):.1f} CPU minutes (at most {max(minutes):.1f})"
    )
    return "\n".join(lines)


def every_row() -> str:
    """Return all patients and contrasts, both rows and both baselines side by side, as Markdown."""
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in ROWS:
        folds = json.loads((RESULTS / f"completion_folds_{row}.json").read_text())["folds"]
        rows[row] = {fold: result["from_three"] for fold, result in folds.items()}
    rows |= json.loads((RESULTS / "completion_baselines.json").read_text())["rows"]
    head = (
        "Brain PSNR (dB) / SSIM / lesion PSNR (dB), each contrast from the other three, the patient never trained on."
    )
    lines = [head, "", f"| patient | contrast | {' | '.join(rows)} |", "|---" * (2 + len(rows)) + "|"]

    def cell(scores: list[float]) -> str:
        return f"{scores[0]:.2f} / {scores[2]:.3f} / {scores[1]:.2f}"

    for fold, contrasts in rows["completion"].items():
        for name in contrasts:
            lines.append(f"| {fold} | {name} | {' | '.join(cell(folds[fold][name]) for folds in rows.values())} |")
    means = [np.nanmean([s for c in folds.values() for s in c.values()], axis=0) for folds in rows.values()]
    lines.append(f"| **mean** | | {' | '.join(cell(list(mean)) for mean in means)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the folds that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=[*ROWS, "table"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--folds", nargs="*")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "folds")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "completion_brain_small.yaml")
    options = parser.parse_args()
    if options.row == "table":
        (RESULTS / "completion_folds.md").write_text(every_row() + "\n")
        print(every_row())
        return
    data = Path(os.environ.setdefault("GEN3D_DATA", str(ROOT.parent / "shared" / "data")))
    tool = scorer(data)
    path = RESULTS / f"completion_folds_{options.row}.json"
    folders = {f.name: f for f in [*find_cases(data / "brats"), *find_cases(data / "ms")]}
    for fold in options.folds or folders:
        results = (
            json.loads(path.read_text()) if path.exists() else {"row": options.row, "steps": options.steps, "folds": {}}
        )
        if fold in results["folds"]:
            continue
        overrides = [
            f"train.steps={options.steps}",
            f"data.hold_out=[{fold}]",
            "data.use_test_cases=true",
            *ROWS[options.row],
        ]
        model = run_training(options.config, overrides, options.runs / options.row / fold, device="cpu")
        system = gen3d.load(model)
        begin = time.process_time()
        scored = score_fold(tool, system, folders[fold])
        training = system.provenance["training"]
        scored |= {"cpu_minutes": training["cpu_minutes"], "scoring_cpu_s": round(time.process_time() - begin, 1)}
        results = json.loads(path.read_text()) if path.exists() else results  # another fold may have ended meanwhile
        results["folds"][fold] = scored
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        del system
        gc.collect()
    print(table(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
