"""CT kernels: a scan's slices brought to B30, on simulated pairs of a scan kept out and on one real slice.

``python -m benchmarks.ct_kernels [MODEL ...]`` writes benchmarks/results/ct_kernels.{json,md}. Everything is chosen and
fitted on pairs simulated from the training scan or from the scan kept out for choosing; the real pair is a test only,
one slice of one patient. The last row, a blur fitted to the test slice itself, is the ceiling of that kind of filter.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.volume import Case
from gen3d.data.nifti import read
from gen3d.latent.diffusionct import DiffusionCT
from gen3d.latent.kernels import blurred, convert, fitted_blur, kernel, reconstructions
from gen3d.tools.kernel_report import against_truth, body
from gen3d.tools.kernel_walk import Request, recognised_source, standardised
from gen3d.tools.sampling import OpenModel, open_model

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
TRAINING, KEPT_OUT = "example_ct", "spleen2"
SOURCES, TARGET = ("B50", "B70"), "B30"
PIXEL_MM = 0.693359  # of the real pair; two of its files have lost it
STEPS = 10  # of starts that are not the model's own
NOISE_HU = (6.0, 12.0, 24.0)  # in B30, of the simulated pairs


@dataclass(frozen=True)
class Pair:
    """One image in two kernels, HU, (X, Y, Z)."""

    source: np.ndarray
    target: np.ndarray


def simulated(name: str, source: str, slices: int) -> Pair:
    """Simulate pairs from evenly spaced slices of a scan whose pixels are taken as those of the real pair."""
    voxels = torch.from_numpy(read(DATA / "ct" / f"{name}.nii.gz").voxels)
    chosen = np.linspace(0, voxels.shape[2] - 1, slices).round().astype(int)
    parts = []
    for number, z in enumerate(chosen):
        wanted, noise = [kernel(source), kernel(TARGET)], NOISE_HU[number % len(NOISE_HU)]
        scene = voxels[:, :, int(z) : int(z) + 1]
        made = reconstructions(scene, (PIXEL_MM,) * 2, wanted, noise_hu=noise, key=f"{name}/{source}/{z}")
        parts.append([image[8:-8, 8:-8] for image in made])
    both = [torch.cat([part[i] for part in parts], -1).numpy() for i in (0, 1)]
    return Pair(*both)


def real(source: str) -> Pair:
    """Read the real slice in two kernels."""
    folder = DATA / "ct_kernels" / "slice1"
    return Pair(*(read(folder / f"{name}.nii.gz", flat=True).voxels for name in (source, TARGET)))


def fit(pairs: Sequence[Pair]) -> float:
    """Return the sigma in mm of the Gaussian blur that brings sources nearest to targets."""
    told = [(torch.from_numpy(p.source), torch.from_numpy(p.target), (PIXEL_MM,) * 2) for p in pairs]
    return fitted_blur(told)


def blur(image: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Blur a slice in its plane."""
    done: np.ndarray = blurred(torch.from_numpy(image), (PIXEL_MM,) * 2, sigma_mm).numpy()
    return done


def filtered(image: np.ndarray, source: str) -> np.ndarray:
    """Convert by the simulated kernels' ratio alone, as if no noise had folded back."""
    done: np.ndarray = convert(torch.from_numpy(image), (PIXEL_MM,) * 2, kernel(source), kernel(TARGET)).numpy()
    return done


def by_model(model: OpenModel, image: np.ndarray, request: Request) -> tuple[np.ndarray, str]:
    """Standardise slices as ``gen3d standardize`` does; return them and the source's kernel, told or read off."""
    from gen3d.core.volume import Volume
    from gen3d.latent.kernel_pairs import SCALE

    assert isinstance(model.system, DiffusionCT)
    affine = np.diag([-PIXEL_MM, -PIXEL_MM, 1.0, 1.0])
    prepared = model.system.prepare(Case("slice", {"ct": Volume(image.astype(np.float32), affine, "ct")}))
    found = recognised_source(prepared, request)
    with torch.inference_mode():
        made = standardised(model, prepared, request, "slice", lambda share: None, found)
    return np.rint(np.clip(SCALE.invert(made), -1024, 3071)), found.name if found else str(request.source)


def rows(models: Mapping[str, OpenModel], source: str, pair: Pair, sigma: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Make every row of the table for one pair."""
    found = {
        "untouched": pair.source,
        f"Gaussian blur fitted to simulated training pairs ({sigma[source]} mm)": blur(pair.source, sigma[source]),
        "ratio of the simulated MTFs": filtered(pair.source, source),
    }
    for name, model in models.items():
        assert isinstance(model.system, DiffusionCT)
        for number, start in enumerate(model.system.config.starts):
            steps = STEPS if number else None
            for told in (None, source) if number == 0 else (None,):
                image, taken = by_model(model, pair.source, Request(TARGET, told, start, steps))
                known = "named" if told else f"not named ({taken})"
                found[f"{name}, start {start}, source {known}"] = image
    own = fit([pair])
    found[f"Gaussian blur fitted to the test pair itself ({own} mm): ceiling of blurs"] = blur(pair.source, own)
    return found


def training_blurs() -> dict[str, float]:
    """Fit the blur of each source kernel, and one for all, on simulated pairs of the training scan."""
    pairs = {source: simulated(TRAINING, source, 12) for source in SOURCES}
    return {**{source: fit([pair]) for source, pair in pairs.items()}, "all": fit(list(pairs.values()))}


def measure(models: Mapping[str, OpenModel], *, with_real: bool = True) -> dict[str, Any]:
    """Measure every row on simulated pairs of the scan kept out, and on the real slice."""
    sigma = training_blurs()
    sets: dict[str, Any] = {}
    for source in SOURCES:
        pairs = {f"simulated, {KEPT_OUT}": simulated(KEPT_OUT, source, 9)}
        if with_real:
            pairs["real slice"] = real(source)
        for name, pair in pairs.items():
            images = rows(models, source, pair, sigma)
            sets[f"{source} to {TARGET}, {name}"] = against_truth(pair.target, images, body(pair.target))
    return {"blur_sigma_mm": sigma, "sets": sets}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tables as Markdown."""
    for name, table in found["sets"].items():
        yield from (f"**{name}** ({table['regions']} regions of 32 x 32 pixels in the body)", "")
        yield "| row | error, HU | in the body | bone | air | median concordance | features from 0.85 |"
        yield "|---|---|---|---|---|---|---|"
        for row, values in table["rows"].items():
            mae, agreed = values["mae_hu"], values["concordance"] or {}
            cells = [f"{mae[k]:.2f}" if k in mae else "" for k in ("all", "body", "bone", "air")]
            cells += [f"{agreed[k]:.3f}" if k in agreed else "" for k in ("median", "share_from_0.85")]
            yield f"| {row} | {' | '.join(cells)} |"
        yield ""


HEAD = """Mean absolute error and Lin's concordance of 39 radiomic features (first order and co-occurrence, 25 HU bins).
Simulated pairs stand for kernels that nobody knows exactly; the real slice is one slice of one patient, seen by no
training or fit; docs/latent.md tells how often it was scored. Written by `python -m benchmarks.ct_kernels`.
"""


def budgets(models: Mapping[str, OpenModel]) -> Iterator[str]:
    """Yield a sentence on the training of each model."""
    for name, model in models.items():
        told = model.system.provenance["training"]
        if any(value.any() for part, value in model.system.network.named_parameters() if part.startswith("out.")):
            yield f"{name}: {told['steps']} steps of {told['batch']} in {told['cpu_minutes']:.1f} CPU minutes.  "
        else:
            yield f"{name}: the filter between simulated kernels that errs least; nothing is trained.  "


def main(names: Sequence[str], *, with_real: bool = True) -> None:
    """Measure models by folder or shipped name and write the tables."""
    torch.set_num_threads(1)
    models = {Path(name).name: open_model(name, "cpu") for name in names}
    found = measure(models, with_real=with_real)
    text = "\n".join((HEAD, *budgets(models), "", *lines(found)))
    print(text)
    if with_real:
        (RESULTS / "ct_kernels.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "ct_kernels.md").write_text(text)


if __name__ == "__main__":
    asked = [name for name in sys.argv[1:] if name != "--simulated"]
    main(asked or ["ct-kernel"], with_real="--simulated" not in sys.argv)
