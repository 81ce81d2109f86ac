"""Whether what gen3d says of its own trustworthiness is true, on cases that the model has not seen.

Usage: python -m benchmarks.trust [--phantoms 6] [--samples 4]

For each kept-out study and each of its contrasts: the contrast is taken away, the model's reliability is measured on
what is left (each of the others hidden in turn, as ``gen3d synthesize`` does), and then the contrast is made and
compared with the truth. Spearman's rank correlation between the two over all pairs, and within each contrast's own.

For the real studies several samples are drawn as well: correlation over voxels between their standard deviation and the
error of their mean, and a calibration table: in each tenth of the voxels by standard deviation, the root mean square
of the error beside that of the standard deviation, both in percent of the window.

Writes benchmarks/results/trust.json.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from gen3d.core.randomness import derive
from gen3d.core.system import Example, System
from gen3d.core.volume import Case
from gen3d.data.layout import read_case
from gen3d.data.phantom import phantom
from gen3d.tools.reliability import compared, foreground, reliability
from gen3d.tools.sampling import Walk, choose_walk, drawn, expected, open_model

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "trust.json"
DATA = Path(os.environ.get("GEN3D_DATA") or ROOT.parent / "shared" / "data")
KEPT_OUT = ("brats/TCGA-DU-7294", "ms/patient19")
FIRST_SEED = 9000  # of phantoms; those that the model was trained on are 1000 to 1011


def cases(phantoms: int) -> Iterator[tuple[str, Case]]:
    """Yield kept-out studies, real ones first, with their kind."""
    for place in KEPT_OUT:
        yield "real", read_case(DATA / place, with_lesion=False)
    for seed in range(FIRST_SEED, FIRST_SEED + phantoms):
        yield "simulated", phantom(seed, (182, 218, 182), 1.0, lesion="tumour" if seed % 2 else None)


def asked(example: Example, channel: int) -> Example:
    """Take a contrast away."""
    present = example["present"].clone()
    present[:, channel] = False
    left = replace(example["prepared"], present=present[0].numpy())
    return {**example, "present": present, "target": ~present, "prepared": left}


@torch.inference_mode()
def pair(system: System, example: Example, channel: int) -> dict[str, Any]:
    """Return what the reliability says of a case without a contrast, and how well that contrast is made."""
    without = asked(example, channel)
    told = reliability(system, without)
    made = system.finish(expected(system, without, system.condition(without)), without)[0, channel]
    inside, scale = foreground(example), example["prepared"].scales[channel]
    true = compared(made[inside], example["voxels"][0, channel][inside], (scale.high - scale.low) * scale.gain)
    return {
        "told_explained": {name: round(h.explained, 4) for name, h in told.items()},
        "told_psnr": {name: round(h.psnr, 3) for name, h in told.items()},
        "true_explained": round(true.explained, 4),
        "true_psnr": round(true.psnr, 3),
    }


@torch.inference_mode()
def uncertainty(system: System, example: Example, channel: int, walk: Walk, samples: int) -> dict[str, Any]:
    """Return how the standard deviation of samples goes with the error of their mean, over the foreground's voxels."""
    without, inside = asked(example, channel), foreground(example)
    condition, scale = system.condition(without), example["prepared"].scales[channel]
    images: list[Tensor] = []
    for index in range(samples):
        key = derive(0, example["prepared"].name, index)
        images.append(system.finish(drawn(system, without, condition, key, walk), without)[0, channel][inside])
    stack = torch.stack(images).double() / ((scale.high - scale.low) * scale.gain)
    true = example["voxels"][0, channel][inside].double() / ((scale.high - scale.low) * scale.gain)
    spread, error = stack.std(0).numpy(), (stack.mean(0) - true).abs().numpy()
    bins = []
    for part in np.array_split(np.argsort(spread, kind="stable"), 10):
        both = (np.sqrt((spread[part] ** 2).mean()), np.sqrt((error[part] ** 2).mean()))
        bins.append([round(100 * float(value), 3) for value in both])
    return {
        "spearman": round(float(spearmanr(spread, error).statistic), 4),
        "voxels": int(spread.size),
        "spread_and_error_percent": bins,
        "spread_over_error": round(float(np.sqrt((spread**2).mean() / (error**2).mean())), 3),
    }


def correlations(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return Spearman's correlations of the told with the true, over all rows and with each contrast's mean removed."""
    found: dict[str, Any] = {"n": len(rows)}
    for kind in ("explained", "psnr"):
        true = np.array([row[f"true_{kind}"] for row in rows])
        for name, fold in (("mean", np.mean), ("least", np.min)):
            told = np.array([fold(list(row[f"told_{kind}"].values())) for row in rows])
            result = spearmanr(told, true)
            found[f"{kind}_{name}"] = [round(float(result.statistic), 3), round(float(result.pvalue), 4)]
            own = np.zeros((2, len(rows)))
            for contrast in {row["contrast"] for row in rows}:
                mine = [row["contrast"] == contrast for row in rows]
                own[:, mine] = told[mine] - told[mine].mean(), true[mine] - true[mine].mean()
            found[f"{kind}_{name}_within_contrast"] = round(float(spearmanr(*own).statistic), 3)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=6)
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    begin = time.monotonic()
    model = open_model("brain-completion", "cpu")
    system, walk = model.system, choose_walk(model.system)
    rows = []
    for kind, case in cases(options.phantoms):
        example = system.example(case)
        for channel, contrast in enumerate(system.config.contrasts):
            row = {"case": case.name, "kind": kind, "contrast": contrast, **pair(system, example, channel)}
            if kind == "real" and options.samples > 1:
                row["uncertainty"] = uncertainty(system, example, channel, walk, options.samples)
            rows.append(row)
            print(json.dumps({key: value for key, value in row.items() if key != "uncertainty"}), flush=True)
    groups = {"all": rows} | {kind: [row for row in rows if row["kind"] == kind] for kind in ("real", "simulated")}
    tree = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip(),
        "weights_sha256": model.sha256,
        "computed_in": model.computed_in,
        "samples": options.samples,
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "correlations": {name: correlations(group) for name, group in groups.items() if len(group) > 2},
        "rows": rows,
    }
    RESULT.write_text(json.dumps(tree, indent=1) + "\n")
    print(json.dumps(tree["correlations"], indent=1))


if __name__ == "__main__":
    main()
