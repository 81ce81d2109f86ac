"""Crops of the test patients' brains with a contrast hidden, and what samples of it are worth, for quality_curves.py.

A missing contrast has no grey scale of its own, so all rows are put on the true one's in the brain, by median and
interquartile range: each image by itself for PSNR and SSIM (``score_completion``), the samples of one crop together, by
their mean, for CRPS, sharpness and spread, which are in units of the true contrast's window.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.hippocampus_sets import DATA
from gen3d.core.randomness import derive, normal
from gen3d.core.system import Example, Sampling, System
from gen3d.data.layout import read_case
from gen3d.metrics import Quadratic, blur_index, score_completion, unit_window
from gen3d.metrics.completion import fit_scale
from gen3d.systems import find_model
from gen3d.tools.sampling import choose_walk, expected

PATIENTS = ("brats/TCGA-DU-7294", "ms/patient19")  # all test patients with four contrasts, see configs/splits.yaml
EDGE, PER_PATIENT, SAMPLES = 96, 1, 4


@dataclass(frozen=True)
class Unit:
    """One crop with one contrast hidden.

    Attributes:
        patient: Whose brain.
        start: First voxel of the crop in the brain's box, on the model's axes.
        hidden: The contrast.
        channel: Its number.
        example: What the model is given, cropped.
        true: The hidden contrast, raw, (X, Y, Z).
        lesion: Mask of the lesion, (X, Y, Z).
        windows: Each contrast of the crop on [0, 1] by the whole scan's window, which the regression expects.
        scale: (floor, width) of the true contrast's window on the model's scale.
    """

    patient: str
    start: tuple[int, int, int]
    hidden: str
    channel: int
    example: Example
    true: Tensor
    lesion: Tensor
    windows: dict[str, Tensor]
    scale: tuple[float, float]

    def about(self) -> dict[str, Any]:
        """Return what identifies the unit."""
        return {"patient": self.patient, "start": list(self.start), "hidden": self.hidden}

    @property
    def brain(self) -> Tensor:
        """Where the true contrast is above 0."""
        return self.true > 0

    @property
    def truth(self) -> Tensor:
        """The true contrast on [0, 1]."""
        return self.windows[self.hidden]


def starts(size: Sequence[int]) -> list[tuple[int, int, int]]:
    """Place the crops: at even shares of the brain box's play from front to back, in the middle of the other axes."""
    x, y, z = (n - EDGE for n in size)
    return [(x // 2, round(y * (i + 0.5) / PER_PATIENT), z // 2) for i in range(PER_PATIENT)]


def units(system: System) -> list[Unit]:
    """Read the patients and cut the crops."""
    found = []
    for patient in PATIENTS:
        case = read_case(DATA / patient)
        prepared = system.prepare(case)  # type: ignore[operator]
        whole = system.example(prepared)
        place = prepared.placement
        raw = {name: torch.from_numpy(place.take(v.voxels).copy()).float() for name, v in case.volumes.items()}
        windows = {name: unit_window(torch.from_numpy(v.voxels)) for name, v in case.volumes.items()}
        unit = {name: torch.from_numpy(place.take(v.numpy()).copy()) for name, v in windows.items()}
        for start in starts(whole["voxels"].shape[2:]):
            box = tuple(slice(s, s + EDGE) for s in start)
            for channel, name in enumerate(system.config.contrasts):
                scale = prepared.scales[channel]
                present = torch.tensor([[other != name for other in system.config.contrasts]])
                low, high = np.quantile(case.volumes[name].voxels, [0.001, 0.999])
                found.append(
                    Unit(
                        patient,
                        start,
                        name,
                        channel,
                        {
                            "voxels": whole["voxels"][(..., *box)] * present[..., None, None, None],
                            "floors": whole["floors"],
                            "quantiles": whole["quantiles"],
                            "present": present,
                        },
                        raw[name][box],
                        torch.from_numpy(prepared.lesion[box] > 0),
                        {other: v[box] for other, v in unit.items()},
                        (float(low * scale.gain + scale.offset), float((high - low) * scale.gain)),
                    )
                )
    return found


def windowed(unit: Unit, voxels: Tensor) -> Tensor:
    """Put the model's voxels on [0, 1] by the true contrast's window, not clipped."""
    return (voxels - unit.scale[0]) / unit.scale[1]


@torch.inference_mode()
def sampled(system: System, unit: Unit, sampling: Sampling) -> dict[str, float]:
    """Draw the hidden contrast several times and score the samples, their mean and their spread."""
    system.config = replace(system.config, sampling=sampling)
    walk, condition = choose_walk(system), system.condition(unit.example)
    samples = []
    for sample in range(SAMPLES):
        keys, draws = [derive(0, unit.patient, unit.start, sample)], 0

        def noise(x: Tensor, keys: list[str] = keys) -> Tensor:
            nonlocal draws
            draws += 1
            return normal([derive(keys[0], "step", draws)], x.shape[1:]).to(x)

        x = system.start(unit.example, keys, walk.sigma)
        coords = walk.run(system.denoise(condition, keys), x, noise, lambda *_: None)
        samples.append(windowed(unit, system.finish(coords, unit.example)[0, unit.channel]))
    return scores(unit, torch.stack(samples))


def scores(unit: Unit, samples: Tensor) -> dict[str, float]:
    """Score samples on [0, 1], (n, X, Y, Z), n >= 2; a sample's figures are means over the samples."""
    each = [score_completion(unit.true, sample, unit.lesion) for sample in samples]
    of_mean = score_completion(unit.true, samples.mean(0), unit.lesion)
    samples = matched(unit, samples)
    x, y, n = samples[:, unit.brain].double(), unit.truth[unit.brain].double(), len(samples)
    variance = x.var(0).mean()
    return {
        "PSNR of a sample": float(np.mean([score.brain for score in each])),
        "SSIM of a sample": float(np.mean([score.ssim for score in each])),
        "PSNR of the mean": of_mean.brain,
        "SSIM of the mean": of_mean.ssim,
        "lesion PSNR of the mean": of_mean.lesion,
        "CRPS": float(fair_crps(x, y).mean()),
        "sharpness": float(np.mean([blur_index(unit.truth, sample, unit.brain) for sample in samples])),
        "spread / error": float(((1 + 1 / n) * variance).sqrt() / (x.mean(0) - y).square().mean().sqrt()),
    }


def matched(unit: Unit, images: Tensor) -> Tensor:
    """Put images together on the true contrast's scale, clipped to [0, 1], (n, X, Y, Z)."""
    scale = fit_scale(unit.truth[unit.brain], images.mean(0)[unit.brain])
    return scale.apply(images).clamp(0, 1)


def fair_crps(samples: Tensor, truth: Tensor) -> Tensor:
    r"""Return the continuous ranked probability score of n samples, unbiased in n, (n, v) and (v,) -> (v,).

    $\frac{1}{n} \sum_i |x_i - y| - \frac{1}{2 n (n - 1)} \sum_{i, j} |x_i - x_j|$: of one certain answer, its absolute
    error (Ferro 2014, https://doi.org/10.1002/qj.2270).
    """
    n = len(samples)
    between = sum((samples[i] - samples[j]).abs() for i in range(n) for j in range(i))
    return (samples - truth).abs().mean(0) - between / (n * (n - 1))


def certain(unit: Unit, image: Tensor) -> dict[str, float]:
    """Score one image on [0, 1] that claims no doubt; its CRPS is its absolute error."""
    score = score_completion(unit.true, image, unit.lesion)
    image = matched(unit, image[None])[0]
    error = (image - unit.truth)[unit.brain].double().abs().mean()
    sharpness = blur_index(unit.truth, image, unit.brain)
    assert sharpness is not None
    figures = {"PSNR": score.brain, "SSIM": score.ssim, "lesion PSNR": score.lesion}
    return {**figures, "CRPS": float(error), "sharpness": sharpness}


@torch.inference_mode()
def baselines(system: System, crops: Sequence[Unit]) -> dict[str, list[dict[str, float]]]:
    """Score the expected image (one call), the voxel-wise regression and the best copy on every crop."""
    fits = json.loads((find_model("brain-completion") / "baseline.json").read_text())
    rows: dict[str, list[dict[str, float]]] = {"expected image": [], "regression": [], "best copy": []}
    for unit in crops:
        coords = expected(system, unit.example, system.condition(unit.example))
        image = windowed(unit, system.finish(coords, unit.example)[0, unit.channel])
        rows["expected image"].append(certain(unit, image))
        fit = fits[unit.hidden]
        guess = Quadratic(tuple(fit["coefficients"])).predict([unit.windows[name] for name in fit["given"]])
        rows["regression"].append(certain(unit, guess))
        copies = [certain(unit, unit.windows[name]) for name in fit["given"]]
        rows["best copy"].append(max(copies, key=lambda row: row["PSNR"]))
    return rows
