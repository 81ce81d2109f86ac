"""Do ControlNets on hippocampus-latent follow what leads them? Masks by Dice, undersampled spectra by PSNR.

Usage: python -m benchmarks.control segmenter          a plain U-Net that finds the two labels, into --segmenter
       python -m benchmarks.control mask MODEL         of configs/hippocampus_control.yaml
       python -m benchmarks.control mri MODEL          of configs/hippocampus_control_mri.yaml
       ... [--part validation]    on the cases that the ControlNet's training kept out, printed only
       ... [--segmenter FILE]     of the U-Net [runs/control_segmenter.pt]
mask and mri write benchmarks/results/control.json and control.md.

All on the first 16 of the 38 test hippocampi, on the models' grey scale. Masks lie on the models' canvas, scans are
measured whole. The segmenter learns from the training split. Measurements are simulated from magnitude images with
white noise of 0.5 %; every row answers to the same ones.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from benchmarks.hippocampus_sets import DATA
from gen3d.core.randomness import derive, normal, seed_of, uniform
from gen3d.core.system import Example
from gen3d.data.measurement import Acquisition, measure
from gen3d.data.splits import is_test
from gen3d.data.studies import find_studies, read_study
from gen3d.data.total_variation import tuned_total_variation
from gen3d.latent.control import Control
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNetConfig
from gen3d.systems import load
from gen3d.tools.reconstruct import CLASSICAL, made
from gen3d.tools.sampling import choose_walk, drawn

HERE = Path(__file__).parent
RESULTS, SEGMENTER = HERE / "results", Path("runs") / "control_segmenter.pt"
BASE, COUNT, LABELS = "hippocampus-latent", 16, (1, 2)
SHAPE = UNetConfig(in_channels=1, out_channels=3, width=8, multipliers=(1, 2, 4), blocks=1, groups=4)
STEPS, BATCH, RATE = 400, 4, 2e-3
SETTINGS = [Acquisition("mri", acceleration=times, mask="gaussian", noise=0.005) for times in (4.0, 8.0)]


def examples(system: Any, part: str, count: int) -> list[Example]:
    """Return cases with their masks as a model is given them: test, training, or kept out of its training."""
    found = []
    for study in find_studies(DATA / "hippocampus"):
        test, held = is_test("hippocampus", study.name), study.name in system.provenance["validation"]
        if {"test": test, "training": not test, "validation": held}[part]:
            found.append(study)
    cases = [system.example(read_study(study)) for study in found[:count]]
    return [{**case, "mask": torch.from_numpy(case["prepared"].lesion).long()[None, None]} for case in cases]


def train_segmenter(file: Path) -> None:
    """Train a plain U-Net on the training split, on images made brighter, darker, smoother and noisier at random."""
    cases = examples(load(BASE), "training", 1000)
    torch.manual_seed(0)
    network = CompactUNet(SHAPE).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    begin = time.process_time()
    for step in range(STEPS):
        picked = np.random.default_rng(seed_of(derive("segmenter", step))).integers(len(cases), size=BATCH)
        images = [varied(cases[i]["voxels"], derive("segmenter", step, slot)) for slot, i in enumerate(picked)]
        logits = network(torch.cat(images), torch.zeros(BATCH))
        truth = torch.cat([cases[i]["mask"][:, 0] for i in picked])
        shares, hot = logits.softmax(1)[:, 1:], nnf.one_hot(truth, 3).movedim(-1, 1)[:, 1:].float()
        soft = 2 * (shares * hot).sum((0, 2, 3, 4)) / (shares + hot).sum((0, 2, 3, 4)).clamp_min(1)
        loss = nnf.cross_entropy(logits, truth) + 1 - soft.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(
                f"step {step + 1}: loss {loss.item():.3f}, {(time.process_time() - begin) / 60:.1f} CPU minutes",
                flush=True,
            )
    file.parent.mkdir(exist_ok=True)
    minutes = (time.process_time() - begin) / 60
    torch.save({"weights": network.state_dict(), "cpu_minutes": minutes, "cases": len(cases)}, file)


def varied(image: Tensor, key: str) -> Tensor:
    """Change an image as the autoencoder and the sampler may: blur, contrast, brightness, noise."""
    smooth, gain, shift, noise = uniform([derive(key, name) for name in ("smooth", "gain", "shift", "noise")]).tolist()
    blurred = nnf.avg_pool3d(nnf.pad(image, (1,) * 6, mode="replicate"), 3, stride=1)
    mixed = torch.lerp(image, blurred, float(smooth))
    grain = 0.1 * noise * normal([derive(key, "grain")], image.shape[1:])
    return ((0.8 + 0.4 * gain) * mixed + 0.4 * (shift - 0.5) + grain).float()


def open_segmenter(file: Path) -> Callable[[Tensor], Tensor]:
    """Return the trained segmenter: (1, 1, X, Y, Z) on the grey scale -> labels of the same shape."""
    network = CompactUNet(SHAPE).eval()
    network.load_state_dict(torch.load(file, weights_only=True)["weights"])
    return lambda image: network(image, torch.zeros(1)).argmax(1, keepdim=True)


def dice(found: Tensor, mask: Tensor) -> float:
    """Return the mean Dice of both labels."""
    both = [(found == label, mask == label) for label in LABELS]
    return mean(float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp_min(1)) for a, b in both)


@torch.inference_mode()
def led_by_masks(model: str, part: str, file: Path) -> dict[str, Any]:
    """Segment real, generated and unconditional images and compare what is found with the masks."""
    system, base, segment = load(model), load(BASE), open_segmenter(file)
    cases = examples(system, part, COUNT)
    walk = choose_walk(system)
    masks = [case["mask"] for case in cases]
    real = [segment(case["voxels"]) for case in cases]
    coded = [segment(base.finish(base.space.normalise(base.moments(case)[0]), case)) for case in cases]  # type: ignore[operator]
    led, free = [], []
    for index, case in enumerate(cases):
        key = derive("control", index)
        led.append(segment(system.finish(drawn(system, case, system.condition(case), key, walk), case)))
        blank = base.blank()  # type: ignore[operator]
        free.append(segment(base.finish(drawn(base, blank, base.condition(blank), key, walk), blank)))
    others = [*masks[1:], masks[0]]
    rows = {
        "real images (ceiling)": (real, masks),
        "real images through the autoencoder": (coded, masks),
        "generated under the mask": (led, masks),
        "generated under the mask, against another case's": (led, others),
        "real images, against another case's mask": (real, others),
        "hippocampus-latent, led by nothing": (free, masks),
    }
    scores = {name: [dice(a, b) for a, b in zip(*pair, strict=True)] for name, pair in rows.items()}
    right, shuffled = scores["generated under the mask"], scores["generated under the mask, against another case's"]
    training = torch.load(file, weights_only=True)
    return {
        "cases": len(cases),
        "dice": {name: interval(values) for name, values in scores.items()},
        "right minus another's": interval([a - b for a, b in zip(right, shuffled, strict=True)]),
        "segmenter": {"cases": training["cases"], "cpu_minutes": round(training["cpu_minutes"], 1)},
        **about(system, walk.steps),
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return a mean with its 95 % interval, by bootstrap over cases."""
    rows = np.random.default_rng(0).integers(len(values), size=(10000, len(values)))
    low, high = np.percentile(np.asarray(values)[rows].mean(1), (2.5, 97.5))
    return {"mean": round(mean(values), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def about(system: Any, steps: int) -> dict[str, Any]:
    """Return what a reader must know of a model."""
    training = system.provenance["training"]
    return {"training_steps": training["steps"], "cpu_minutes": training["cpu_minutes"], "sampler_steps": steps}


@torch.inference_mode()
def led_by_spectra(model: str, part: str) -> dict[str, Any]:
    """Reconstruct each case from each kind of measurement in every way; mean PSNR in dB over the grey scale."""
    system = load(model)
    assert isinstance(system, Control)
    cases = examples(system, part, COUNT)
    rows: dict[str, dict[str, float]] = {}
    for acquisition in SETTINGS:
        found: dict[str, list[float]] = {}
        for index, case in enumerate(cases):
            for name, image in reconstructions(system, case, acquisition, derive("control", index)).items():
                found.setdefault(name, []).append(psnr(image, case["voxels"]))
        rows[acquisition.words()] = {name: round(mean(values), 2) for name, values in found.items()}
        print(acquisition.words(), rows[acquisition.words()], flush=True)
    return {"cases": len(cases), "psnr_db": rows, **about(system, choose_walk(system).steps)}


def reconstructions(system: Control, case: Example, acquisition: Acquisition, key: str) -> Mapping[str, Tensor]:
    """Return every way's image on the grey scale."""
    truth, air = case["voxels"], system.air
    measurement = measure(truth - air, acquisition, key)
    given = {**case, "measurement": measurement}
    coded = system.space.normalise(system.moments(case)[0])
    condition, walk = system.condition(given), choose_walk(system)
    return {
        "zero-filling": measurement.operator.pseudo_inverse(measurement.measured) + air,
        f"total variation, {CLASSICAL} iterations": tuned_total_variation(measurement, CLASSICAL) + air,
        "the truth through the autoencoder": system.finish(coded, case),
        "the same, held to the data": system.finish(coded, given),
        "control without consistency, sample": system.finish(drawn(system, case, condition, key, walk), case),
        "control with consistency, mean": system.finish(made(system, given, measurement, "mean", key), given),
        "control with consistency, sample": system.finish(made(system, given, measurement, "sample", key), given),
    }


def psnr(image: Tensor, truth: Tensor) -> float:
    """Return PSNR in dB; the grey scale is 2 wide."""
    return float(10 * (4 / (image - truth).double().square().mean()).log10())


def table(results: Mapping[str, Any]) -> str:
    """Return both results as Markdown."""
    lines: list[str] = []
    if masks := results.get("mask"):
        seen, gain = masks["segmenter"], masks["right minus another's"]
        lines += [
            f"## Masks: Dice of what a segmenter finds, {masks['cases']} test hippocampi",
            "",
            f"ControlNet: {masks['training_steps']} steps, {masks['cpu_minutes']} CPU minutes; one image a mask, in "
            f"{masks['sampler_steps']} steps. Segmenter: {seen['cases']} training cases, {seen['cpu_minutes']} CPU "
            "minutes. Mean over both labels and all cases, 95 % interval by bootstrap over cases.",
            "",
            "| images | Dice |",
            "|---|---|",
            *(f"| {name} | {shown(found)} |" for name, found in masks["dice"].items()),
            f"| that of the given mask minus another case's | {shown(gain)} |",
            "",
        ]
    if spectra := results.get("mri"):
        settings = spectra["psnr_db"]
        lines += [
            f"## Undersampled spectra: PSNR in dB, {spectra['cases']} test hippocampi",
            "",
            f"ControlNet: {spectra['training_steps']} steps, {spectra['cpu_minutes']} CPU minutes; samples are drawn "
            f"in {spectra['sampler_steps']} steps. Simulated from magnitude images.",
            "",
            f"| method | {' | '.join(settings)} |",
            "|---" * (1 + len(settings)) + "|",
        ]
        for name in next(iter(settings.values())):
            lines.append(f"| {name} | {' | '.join(f'{found[name]:.2f}' for found in settings.values())} |")
    return "\n".join(lines).rstrip() + "\n"


def shown(found: Mapping[str, float]) -> str:
    """Return a mean with its interval."""
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def main() -> None:
    """Train the segmenter, or score a model and write the table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("segmenter", "mask", "mri"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--segmenter", type=Path, default=SEGMENTER)
    options = parser.parse_args()
    if options.what == "segmenter":
        train_segmenter(options.segmenter)
        return
    if options.model is None:
        parser.error("a MODEL is needed")
    if options.what == "mask":
        found = led_by_masks(options.model, options.part, options.segmenter)
    else:
        found = led_by_spectra(options.model, options.part)
    if options.part != "test":
        print(table({options.what: found}).replace("test hippocampi", f"{options.part} hippocampi"))
        return
    file = RESULTS / "control.json"
    results = {**(json.loads(file.read_text()) if file.is_file() else {}), options.what: found}
    file.write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "control.md").write_text("# ControlNets on hippocampus-latent\n\n" + table(results))
    print(table(results))


if __name__ == "__main__":
    main()
