"""Turn finished runs into the models that ship: fp16 weights, a card with scores, the voxel-wise baseline.

Usage: python benchmarks/ship_models.py NAME RUN
       python benchmarks/ship_models.py NAME --envelope   (measured anew, the rest stays)

``brain-completion`` takes its scores from benchmarks/results/completion_folds_*.json: throw-away models of the same
configuration, each tested on the patient that it had not seen. ``baseline.json`` gets the coefficients of the
voxel-wise regression on the model's own training patients, and the folds' scores of the network trained by squared
error alone, for the demo's table.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import gen3d
from gen3d.core.checkpoint import save_model
from gen3d.data.envelope import envelope
from gen3d.data.studies import read_study
from gen3d.metrics import QuadraticFit, unit_window
from gen3d.tools.card import model_card
from gen3d.tools.reliability import usual_psnr
from gen3d.tools.train import read_experiment
from gen3d.tools.training_cases import real_cases

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHIPPED = {  # configuration, and the results file that goes onto the card
    "brain-growth-raters": ("cimd_raters", "brain_growth.md"),
    "hippocampus-segment": ("hippocampus_cimd", "hippocampus_segment.md"),
    "brain-completion": ("completion_brain_small", ""),
    "hippocampus-pairs": ("augment_hippocampus", "hippocampus_pairs.md"),
    "hippocampus-wdm": ("wdm_hippocampus", "hippocampus_wdm.md"),
    "hippocampus-latent": ("hippocampus_latent", "hippocampus_latent.md"),
    "ct-kernel": ("ct_kernel", "ct_kernels.md"),
    "ct-recon": ("ct_recon", "reconstruction.md"),
    "hippocampus-forecast": ("hippocampus_forecast", "hippocampus_forecast.md"),
    "mri-recon": ("mri_recon", "reconstruction.md"),
}
BASELINES = {"quadratic": "voxel-wise quadratic regression", "copy": "best copy of a given contrast"}


def fold_scores() -> str:
    """Return the cross-validation as a Markdown table with its baselines and budget."""
    lines = [
        "Leave one patient out over six studies, each contrast from the other three, scored by",
        "shared/tools/score_completion.py; throw-away models of the same configuration.",
        "",
        "| | brain PSNR, dB | SSIM | lesion PSNR, dB | CPU minutes a fold |",
        "|---|---|---|---|---|",
    ]
    names = {"completion": "this configuration, one call", "regression": "the same network, squared error alone"}
    for row, name in names.items():
        folds = json.loads((RESULTS / f"completion_folds_{row}.json").read_text())["folds"].values()
        mean = np.nanmean([scores for fold in folds for scores in fold["from_three"].values()], axis=0)
        minutes = np.mean([fold["cpu_minutes"] for fold in folds])
        lines.append(f"| {name} | {mean[0]:.2f} | {mean[2]:.3f} | {mean[1]:.2f} | {minutes:.1f} |")
    baselines = json.loads((RESULTS / "completion_baselines.json").read_text())["rows"]
    for row, name in BASELINES.items():
        mean = np.nanmean([scores for case in baselines[row].values() for scores in case.values()], axis=0)
        lines.append(f"| {name} | {mean[0]:.2f} | {mean[2]:.3f} | {mean[1]:.2f} | |")
    return "\n".join(lines)


def baseline(config: Path) -> dict[str, dict[str, object]]:
    """Fit the voxel-wise regression of each contrast from the other three on the training patients."""
    data = read_experiment(config).data
    cases = [read_study(study) for source in data.sources for study in real_cases(source, data)]
    fits = {}
    for target in ("t1n", "t1c", "t2w", "t2f"):
        given = [name for name in ("t1n", "t1c", "t2w", "t2f") if name != target]
        fit = QuadraticFit()
        for case in cases:
            images = {name: unit_window(torch.from_numpy(case.volumes[name].voxels)) for name in (*given, target)}
            fit.add([images[name] for name in given], images[target])
        fits[target] = {"given": given, "coefficients": list(fit.solve().coefficients)}
    return fits


def recorded() -> dict[str, dict[str, dict[str, float]]]:
    """Return the fold's scores of the network trained by squared error alone, by case and contrast."""
    folds = json.loads((RESULTS / "completion_folds_regression.json").read_text())["folds"]
    names = ("brain", "lesion", "ssim", "whole")
    return {
        case: {contrast: dict(zip(names, row, strict=False)) for contrast, row in fold["from_three"].items()}
        for case, fold in folds.items()
    }


def main() -> None:
    """Write gen3d/pretrained/NAME."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SHIPPED)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--envelope", action="store_true")
    options = parser.parse_args()
    folder = ROOT / "gen3d" / "pretrained" / options.name
    brain = options.name == "brain-completion"
    name, table = SHIPPED[options.name]
    config = ROOT / "configs" / f"{name}.yaml"
    system = gen3d.load(folder if options.envelope else options.run / "model")
    if options.envelope:
        data = read_experiment(config).data
        studies = [study for source in data.sources for study in real_cases(source, data)]
        cases = [system.prepare(read_study(study)) for study in studies]
        if (names := sorted(case.name for case in cases)) != system.provenance["names"]:
            raise SystemExit(f"{options.name} was trained on other cases than {', '.join(names)}")
        system.provenance["envelope"] = envelope(cases, system.config.contrasts)
        if brain:
            system.provenance["usual_psnr"] = usual_psnr(system, cases)
    scores = fold_scores() if brain else (RESULTS / table).read_text()
    card = model_card(system, Path(options.name), scores)
    save_model(system, folder, dtype=torch.float16, card=card)
    if brain:
        fits = {**baseline(config), "recorded": recorded()}
        (folder / "baseline.json").write_text(json.dumps(fits, indent=1) + "\n")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{folder}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
