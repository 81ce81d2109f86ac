"""Sparse-view CT and accelerated MRI on kept-out scans: ours beside filtered back-projection, zero-filling and TV.

Usage: python -m benchmarks.reconstruction tune TASK             total variation's weight, on training scans
       python -m benchmarks.reconstruction score TASK MODEL      a saved model on the test scans of configs/splits.yaml;
                                     [--slices N]                N middle slices instead of all
       python -m benchmarks.reconstruction table                 benchmarks/results/reconstruction.md
TASK is sparse-ct or mri.

All measurements are simulated from magnitude images with white noise of 0.5 %; each volume is all there is. Every row
answers to the same measurements. Total variation runs for 600 iterations, its weight chosen on training scans by PSNR.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.randomness import derive
from gen3d.core.volume import Case, Prepared, Volume
from gen3d.data.measurement import Acquisition, Acquisitions, Measurement, Task, measure
from gen3d.data.nifti import read
from gen3d.data.total_variation import smooth_start, total_variation
from gen3d.metrics.ssim import ssim_map
from gen3d.systems import find_model, load
from gen3d.tools.reconstruct import ROUGH
from gen3d.tools.reconstruction_report import CT_RANGE
from gen3d.wavelet.reconstruction import Reconstruction, ReconstructionConfig

DATA = Path(os.environ.get("GEN3D_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"sparse-ct": ROOT / "configs" / "ct_recon.yaml", "mri": ROOT / "configs" / "mri_recon.yaml"}
NOISE, ITERATIONS, TUNED_ITERATIONS, TUNED_SLICES = 0.005, 600, 600, 6
SETTINGS: dict[Task, list[Acquisition]] = {
    "sparse-ct": [Acquisition("sparse-ct", views=views, noise=NOISE) for views in (20, 50)],
    "mri": [
        Acquisition("mri", acceleration=acceleration, mask=mask, noise=NOISE)  # type: ignore[arg-type]
        for mask in ("gaussian", "poisson")
        for acceleration in (4.0, 8.0)
    ],
}
WEIGHTS: dict[Task, tuple[float, ...]] = {
    "sparse-ct": (0.00025, 0.0005, 0.001, 0.002),
    "mri": (0.00012, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008),
}
TRAINING = {
    "sparse-ct": ["ct/example_ct.nii.gz", "ct/spleen2.nii.gz"],
    "mri": ["brats/BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2w.nii.gz", "ms/patient07/t1.nii.gz"],
}
TEST = {
    "sparse-ct": ["ct/aorta_crop.nii.gz"],
    "mri": [
        *(f"brats/TCGA-DU-7294/TCGA-DU-7294_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")),
        *(f"ms/patient19/{name}.nii.gz" for name in ("t1", "t1post", "t2", "flair")),
    ],
}


def prepared(task: Task, name: str, slices: int) -> tuple[Prepared, Tensor, Volume]:
    """Read a scan and take its middle axial slices (0: all), (1, 1, X, Y, Z) on the models' scale."""
    volume = read(DATA / name)
    contrast = "ct" if task == "sparse-ct" else "t1n"
    config = ReconstructionConfig(acquisitions=Acquisitions(task), contrasts=(contrast,))
    case = Reconstruction.prepare(bare(config), Case(name, {contrast: volume}))
    voxels = torch.from_numpy(case.voxels)[None]
    start = (voxels.shape[4] - slices) // 2 if slices else 0
    return case, voxels[..., start : start + slices] if slices else voxels, volume


def bare(config: ReconstructionConfig) -> Reconstruction:
    """Return a model of which nothing but its preparation is asked."""
    return Reconstruction(config)


def measured(task: Task, names: list[str], slices: int) -> Iterator[tuple[str, Prepared, Tensor, Measurement]]:
    """Yield every scan under every setting."""
    for name in names:
        case, voxels, _ = prepared(task, name, slices)
        for acquisition in SETTINGS[task]:
            key = derive("benchmark", name)
            yield name, case, voxels, measure(voxels, acquisition, key, (case.spacing[0], case.spacing[1]))


def score(image: Tensor, voxels: Tensor, task: Task) -> dict[str, float]:
    """Return PSNR, SSIM, and PSNR where the given image isn't 0; range 2000 HU or the image's 99.9 percentile."""
    span = CT_RANGE / 500 if task == "sparse-ct" else float(np.percentile(voxels.numpy(), 99.9))
    error = (image - voxels).double().square()
    inside = voxels > 0

    def psnr(squares: Tensor) -> float:
        return float(10 * torch.log10(span**2 / squares.mean()))

    ssim = float(ssim_map(image[0, 0] / span, voxels[0, 0] / span).double().mean())
    return {"psnr_db": psnr(error), "ssim": ssim, "psnr_db_inside": psnr(error[inside])}


@torch.inference_mode()
def tune(task: Task) -> None:
    """Find total variation's best weight of each setting on training scans."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, _, voxels, measurement in measured(task, TRAINING[task], TUNED_SLICES):
        start = smooth_start(measurement, 5)
        row = found.setdefault(measurement.acquisition.words(), {})
        for weight in WEIGHTS[task]:
            made = total_variation(measurement, start, weight, iterations=TUNED_ITERATIONS)
            row.setdefault(str(weight), []).append(score(made, voxels, task)["psnr_db"])
        print(name, measurement.acquisition.words(), {w: round(v[-1], 2) for w, v in row.items()}, flush=True)
    best = {words: max(row, key=lambda w: mean(row[w])) for words, row in found.items()}
    print(best)
    about = {"scans": TRAINING[task], "slices": TUNED_SLICES, "iterations": TUNED_ITERATIONS, "noise": NOISE}
    save(f"reconstruction_tv_{task}.json", {**about, "psnr_db": found, "best": best})


@torch.inference_mode()
def compare(task: Task, model: str, slices: int) -> None:
    """Score every method on the test scans."""
    system: Any = load(find_model(model))
    tuned = json.loads((RESULTS / f"reconstruction_tv_{task}.json").read_text())["best"]
    rows: list[dict[str, Any]] = []
    for name, case, voxels, measurement in measured(task, TEST[task], slices):
        images = {ROUGH[task]: measurement.operator.pseudo_inverse(measurement.measured)}
        weight = float(tuned[measurement.acquisition.words()])
        images["total variation"] = total_variation(
            measurement, smooth_start(measurement, 5), weight, iterations=ITERATIONS
        )
        example = {"voxels": voxels, "prepared": case, "measurement": measurement}
        condition = system.condition(example)
        images["ours"] = system.finish(system.estimate(measurement, condition), example)
        scores = {method: score(image, voxels, task) for method, image in images.items()}
        rows.append({"scan": name, **measurement.acquisition.facts(), "scores": scores})
        print(name, measurement.acquisition.words(), {m: round(s["psnr_db"], 2) for m, s in scores.items()}, flush=True)
        training = system.provenance.get("training", {})
        about = {name: training.get(name) for name in ("steps", "cpu_minutes")}
        about |= {"slices": slices or "all", "tv_iterations": ITERATIONS}
        save(f"reconstruction_{task}.json", {**about, "threads": 1, "rows": rows})


def table() -> None:
    """Write all scores as Markdown, means over the scans of a setting."""
    lines = ["# Reconstruction of kept-out scans", "", (__doc__ or "").rpartition("\n\n")[2].strip(), ""]
    for task in ("sparse-ct", "mri"):
        path = RESULTS / f"reconstruction_{task}.json"
        if not path.is_file():
            continue
        tree = json.loads(path.read_text())
        slices = "all slices" if tree["slices"] == "all" else f"the middle {tree['slices']} axial slices"
        lines += [
            f"## {task}",
            "",
            f"{slices} of each test scan; ours trained for {tree['cpu_minutes']} CPU minutes "
            f"({tree['steps']} steps) on one thread, on the "
            "training scans alone.",
            "",
            "| setting | scans | method | PSNR, dB | SSIM | PSNR where the scan isn't 0, dB |",
            "|---|---|---|---|---|---|",
        ]
        settings = dict.fromkeys((r.get("views"), r.get("acceleration"), r.get("mask")) for r in tree["rows"])
        for setting in settings:
            mine = [r for r in tree["rows"] if (r.get("views"), r.get("acceleration"), r.get("mask")) == setting]
            words = f"{setting[0]} views" if setting[0] else f"{setting[1]:g}x {setting[2]}"
            for method in mine[0]["scores"]:
                m = {k: mean(r["scores"][method][k] for r in mine) for k in mine[0]["scores"][method]}
                lines.append(
                    f"| {words} | {len(mine)} | {method} | {m['psnr_db']:.2f} | {m['ssim']:.4f} "
                    f"| {m['psnr_db_inside']:.2f} |"
                )
        lines.append("")
    (RESULTS / "reconstruction.md").write_text("\n".join(lines))


def save(name: str, tree: dict[str, Any]) -> None:
    """Write results."""
    (RESULTS / name).write_text(json.dumps(tree, indent=1) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tune", "score", "table"])
    parser.add_argument("task", nargs="?", choices=["sparse-ct", "mri"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--slices", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "tune":
        tune(arguments.task)
    elif arguments.what == "score":
        compare(arguments.task, arguments.model, arguments.slices)
    else:
        table()


if __name__ == "__main__":
    main()
