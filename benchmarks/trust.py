"""Whether what gen3d says of its own trustworthiness is true, on cases that the model has not seen.

Usage: python -m benchmarks.trust [--runs FOLDER] [--samples 4] [--again]

For each kept-out study and each of its contrasts: the contrast is taken away, the model's reliability is measured on
what is left (each of the others hidden in turn, as ``gen3d synthesize`` does), the PSNR that this lets expect is
written down, and then the contrast is made and compared with the truth. Spearman's rank correlations over all pairs of
patient and contrast. The shipped model has two patients that it has not seen; ``--runs`` adds two throw-away models of
benchmarks/fine_tuning.py, one trained on multiple sclerosis and simulated brains and kept from all four tumour
patients, the other the other way round. What is usual of a model is measured on the patients it was trained on.

For the shipped model several samples are drawn as well: correlation over voxels between their standard deviation and
the error of their mean, and a calibration table: in each tenth of the voxels by standard deviation, the root mean
square of the error beside that of the standard deviation, both in percent of the window.

That the kin of a contrast is asked (reliability.WEIGHTING) was chosen on the shipped model's pairs, so theirs is no
test of it; those of the throw-away models are. ``--again`` works the correlations out anew from the rows in the file.

An archive holds worse studies than these six. So the shipped model's pairs are measured again with all given contrasts
spoilt in a way that happens: slices of 5 mm, each contrast moved by 3 voxels in a direction of its own, Rician noise of
8 % of the window. The truth is the contrast as it was. No rule was chosen on these; four of them are one pair, so their
p is too small.

Writes benchmarks/results/trust.json.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from gen3d.core.randomness import derive, seed_of
from gen3d.core.system import Example, System
from gen3d.core.volume import Case
from gen3d.data.layout import read_case
from gen3d.tools.reliability import Hidden, compared, expected_psnr, foreground, reliability, usual_psnr
from gen3d.tools.sampling import Walk, choose_walk, drawn, expected, open_model

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "trust.json"
DATA = Path(os.environ.get("GEN3D_DATA") or ROOT.parent / "shared" / "data")
SHIPPED = "brain-completion"
KEPT_OUT = ("brats/TCGA-DU-7294", "ms/patient19")
TUMOURS = ("BraTS-GLI-00001-000", "BraTS-MET-00110-000", "TCGA-DU-7294", "TCGA-FG-6692")
SCLEROSIS = ("patient07", "patient19")


def trials(runs: Path | None) -> dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return by name: a model, the cases that it has seen, and those that it has not."""
    tumours, sclerosis = (tuple(f"{s}/{n}" for n in names) for s, names in (("brats", TUMOURS), ("ms", SCLEROSIS)))
    seen = tuple(place for place in (*tumours, *sclerosis) if place not in KEPT_OUT)
    found = {SHIPPED: (SHIPPED, seen, KEPT_OUT)}
    if runs:
        found["saw sclerosis alone"] = (str(runs / "base_ms" / "model"), sclerosis, tumours)
        found["saw tumours alone"] = (str(runs / "base_brats" / "model"), tumours, sclerosis)
    return found


def case_at(place: str) -> Case:
    """Read a study of the data folder."""
    return read_case(DATA / place, with_lesion=False)


def spoilt(case: Case, how: str, contrast: str) -> Case:
    """Return a study all of whose contrasts but one are spoilt."""
    if how == "intact":
        return case
    rng = np.random.default_rng(seed_of(derive(0, case.name, contrast, how)))
    return replace(
        case,
        volumes={
            name: volume if name == contrast else replace(volume, voxels=SPOILS[how](volume.voxels, rng))
            for name, volume in case.volumes.items()
        },
    )


def thick(voxels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Average slices of 5 voxels along the last axis and interpolate between their middles."""
    count = voxels.shape[2] // 5
    slices = voxels[..., : 5 * count].reshape(*voxels.shape[:2], count, 5).mean(-1)
    places = np.clip((np.arange(voxels.shape[2]) - 2) / 5, 0, count - 1)
    low = np.minimum(places.astype(int), count - 2)
    share = (places - low).astype(np.float32)
    return np.where(voxels > 0, slices[..., low] * (1 - share) + slices[..., low + 1] * share, 0).astype(np.float32)


def moved(voxels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move by 3 voxels in a random direction."""
    direction = rng.normal(size=3)
    steps = np.rint(3 * direction / np.linalg.norm(direction)).astype(int)
    return np.roll(voxels, tuple(int(step) for step in steps), axis=(0, 1, 2))


def noisy(voxels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Rician noise of 8 % of the window inside the brain."""
    inside = voxels > 0
    sd = 0.08 * float(np.quantile(voxels[inside], 0.999))
    real, imaginary = rng.normal(scale=sd, size=(2, *voxels.shape))
    return np.where(inside, np.hypot(voxels + real, imaginary), 0).astype(np.float32)


SPOILS = {"slices of 5 mm": thick, "moved by 3 voxels": moved, "noise of 8 %": noisy}


def asked(example: Example, channel: int) -> Example:
    """Take a contrast away."""
    present = example["present"].clone()
    present[:, channel] = False
    left = replace(example["prepared"], present=present[0].numpy())
    return {**example, "present": present, "target": ~present, "prepared": left}


@torch.inference_mode()
def pair(system: System, example: Example, channel: int, usual: Mapping[str, float]) -> dict[str, Any]:
    """Return what the reliability says of a case without a contrast, and how well that contrast is made."""
    contrast, without = system.config.contrasts[channel], asked(example, channel)
    told = reliability(system, without)
    made = system.finish(expected(system, without, system.condition(without)), without)[0, channel]
    inside, scale = foreground(example), example["prepared"].scales[channel]
    true = compared(made[inside], example["voxels"][0, channel][inside], (scale.high - scale.low) * scale.gain)
    return {
        "told_explained": {name: round(h.explained, 4) for name, h in told.items()},
        "told_psnr": {name: round(h.psnr, 3) for name, h in told.items()},
        "expected_psnr": round(expected_psnr(told, usual, [contrast])[contrast], 3),
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
    """Return Spearman's correlations with the true PSNR: of the expected one, of the mean told, of the usual alone."""
    true = [row["true_psnr"] for row in rows]
    told = {
        "expected_psnr": [row["expected_psnr"] for row in rows],
        "told_psnr_mean": [float(np.mean(list(row["told_psnr"].values()))) for row in rows],
        "usual_psnr_alone": [row["usual_psnr"] for row in rows],
        "expected_minus_usual": [row["expected_psnr"] - row["usual_psnr"] for row in rows],
    }
    targets = dict.fromkeys(told, true) | {
        "expected_minus_usual": [row["true_psnr"] - row["usual_psnr"] for row in rows]
    }
    found: dict[str, Any] = {"n": len(rows)}
    for name, values in told.items():
        result = spearmanr(values, targets[name])
        found[name] = {"spearman": round(float(result.statistic), 3), "p": round(float(result.pvalue), 5)}
    gaps = np.array(told["expected_psnr"]) - true
    found["expected_minus_true_db"] = {"mean": round(float(gaps.mean()), 2), "sd": round(float(gaps.std(ddof=1)), 2)}
    return found


def measured(name: str, place: str, seen: Sequence[str], unseen: Sequence[str], samples: int) -> list[dict[str, Any]]:
    """Return all rows of a model."""
    model = open_model(place, "cpu")
    system, walk = model.system, choose_walk(model.system)
    usual = usual_psnr(system, map(case_at, seen))
    rows = []
    for place in unseen:
        case = case_at(place)
        states = ("intact", *SPOILS) if name == SHIPPED else ("intact",)
        for (channel, contrast), how in product(enumerate(system.config.contrasts), states):
            row = {"model": name, "case": place, "contrast": contrast, "given": how, "usual_psnr": usual[contrast]}
            example = system.example(spoilt(case, how, contrast))
            row |= pair(system, example, channel, usual)
            if name == SHIPPED and samples > 1 and how == "intact":
                row["uncertainty"] = uncertainty(system, example, channel, walk, samples)
            rows.append(row)
            print(json.dumps({key: value for key, value in row.items() if key != "uncertainty"}), flush=True)
    return rows


def grouped(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the correlations of each model, of both throw-away ones, and each of these with spoilt studies."""
    groups = {row["model"]: [r for r in rows if r["model"] == row["model"]] for row in rows}
    groups["both throw-away models"] = [row for row in rows if row["model"] != SHIPPED]
    intact = {name: [row for row in mine if row["given"] == "intact"] for name, mine in groups.items()}
    spoiled = {f"{SHIPPED}, intact and spoilt": groups.get(SHIPPED, [])}
    return {name: correlations(mine) for name, mine in {**intact, **spoiled}.items() if mine}


def again() -> None:
    """Work out what is expected, and the correlations, from the rows that were measured."""
    tree = json.loads(RESULT.read_text())
    usual: dict[str, dict[str, float]] = {}
    for row in tree["rows"]:
        usual.setdefault(row["model"], {})[row["contrast"]] = row["usual_psnr"]
    for row in tree["rows"]:
        told = {name: Hidden(psnr, row["told_explained"][name]) for name, psnr in row["told_psnr"].items()}
        row["expected_psnr"] = round(expected_psnr(told, usual[row["model"]], [row["contrast"]])[row["contrast"]], 3)
    tree["correlations"] = grouped(tree["rows"])
    RESULT.write_text(json.dumps(tree, indent=1) + "\n")
    print(json.dumps(tree["correlations"], indent=1))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    if options.again:
        again()
        return
    begin = time.monotonic()
    found = [measured(name, *trial, options.samples) for name, trial in trials(options.runs).items()]
    rows = [row for group in found for row in group]
    shipped = open_model(SHIPPED, "cpu")
    tree = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip(),
        "weights_sha256": shipped.sha256,
        "computed_in": shipped.computed_in,
        "samples": options.samples,
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "correlations": grouped(rows),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(tree, indent=1) + "\n")
    print(json.dumps(tree["correlations"], indent=1))


if __name__ == "__main__":
    main()
