"""How well autoencoders give hippocampi back that they have not seen: PSNR, SSIM, seams, codes in use, latent noise.

Usage: python -m benchmarks.hippocampus_autoencoders NAME=MODEL ...

Every model on all test cases, on its own grey scale (percentiles 0.5 and 99.5, clipped) and canvas; beside them what
keeping block means alone gives, enlarged trilinearly: of 2 voxels a side an eighth of the numbers, as many as a 4x
latent of 8 channels holds; of 4 a sixty-fourth. Writes benchmarks/results/hippocampus_autoencoders.{json,md}.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

import gen3d
from gen3d.core.volume import Prepared
from gen3d.data.splits import is_test
from gen3d.data.studies import find_studies, read_study
from gen3d.latent.diagnostics import examined
from gen3d.metrics.ssim import ssim_map

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"


def scored(system: Any, cases: Sequence[Prepared], back: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return mean PSNR in dB and mean SSIM over cases, both on the model's grey scale."""
    low, high = system.config.intensity.to
    rows = []
    for case in cases:
        real = system.example(case)["voxels"]
        made = back(real)
        psnr = 10 * float(((high - low) ** 2 / (made - real).square().mean()).log10())
        unit = [(v[0, 0] - low) / (high - low) for v in (made, real)]
        rows.append((psnr, float(ssim_map(*unit).mean())))
    psnr, ssim = np.mean(rows, axis=0)
    return {"psnr": round(float(psnr), 2), "ssim": round(float(ssim), 3)}


def block_means(side: int) -> Callable[[Tensor], Tensor]:
    """Return the map to block means and back."""
    return lambda v: nnf.interpolate(nnf.avg_pool3d(v, side), size=v.shape[2:], mode="trilinear")


def row(model: str, cases: Sequence[Any]) -> dict[str, Any]:
    """Return all figures of a saved model."""
    system: Any = gen3d.load(model)
    prepared = [system.prepare(case) for case in cases]
    training = system.provenance["training"]
    minutes = training["cpu_minutes"] + system.provenance.get("base", {}).get("cpu_minutes", 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = examined(system, prepared)
    return {
        "parameters": sum(p.numel() for p in system.network.parameters()),
        "steps": training["steps"],
        "cpu_minutes": minutes,
        **scored(system, prepared, system.reconstruct),
        **{name: round(value, 3) for name, value in found.items() if name != "psnr"},
        "warnings": [str(w.message) for w in caught],
        "block_means_2": scored(system, prepared, block_means(2)),
        "block_means_4": scored(system, prepared, block_means(4)),
    }


def main() -> None:
    """Score the models and write the table."""
    torch.set_num_threads(1)
    studies = [s for s in find_studies(DATA / "hippocampus") if is_test("hippocampus", s.name)]
    cases = [read_study(study) for study in studies]
    rows = {name: row(model, cases) for name, _, model in (argument.partition("=") for argument in sys.argv[1:])}
    (RESULTS / "hippocampus_autoencoders.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = [
        f"{len(cases)} test hippocampi, whole, on the model's grey scale.",
        "",
        "| autoencoder | parameters | steps | CPU minutes | PSNR, dB | SSIM | codes used | seam index | latent noise |",
        "|---" * 9 + "|",
    ]
    for name, r in rows.items():
        rest = [f"{r[key]}" if key in r else "" for key in ("codes", "seams", "noise")]
        head = [name, f"{r['parameters'] / 1e6:.2f} M", r["steps"], r["cpu_minutes"], r["psnr"], r["ssim"]]
        lines.append(f"| {' | '.join(map(str, [*head, *rest]))} |")
    first = next(iter(rows.values()))
    for side in (2, 4):
        mean = first[f"block_means_{side}"]
        lines.append(
            f"| means of {side} x {side} x {side} voxels, enlarged | | | | {mean['psnr']} | {mean['ssim']} | | | |"
        )
    (RESULTS / "hippocampus_autoencoders.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
