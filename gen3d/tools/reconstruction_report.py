"""What a reconstruction is worth: PSNR and SSIM against the image that was measured in simulation, and a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.volume import Volume
from gen3d.data.measurement import SIMULATED, Acquisition
from gen3d.metrics.ssim import ssim_map
from gen3d.tools.preview import Panel, draw

CT_RANGE = 2000.0  # HU that PSNR and SSIM take as the range of a CT


class Scores(dict[str, tuple[float, float]]):
    """PSNR in dB and SSIM against the given image, by method."""


def score(volume: Volume, scan: Volume, acquisition: Acquisition) -> tuple[float, float]:
    """Return PSNR and SSIM over the whole volume; the range is 2000 HU, or the given image's 99.9 percentile."""
    span = CT_RANGE if acquisition.task == "sparse-ct" else float(np.percentile(scan.voxels, 99.9))
    ours, given = (torch.from_numpy(v.voxels / np.float32(span)) for v in (volume, scan))
    psnr = -10 * float((ours - given).double().square().mean().clamp_min(1e-12).log10())
    return psnr, float(ssim_map(ours, given).double().mean())


def show(
    path: Path, scan: Volume, volumes: Mapping[str, Volume], ours: str, acquisition: Acquisition, scores: Scores
) -> None:
    """Draw the given image, each method's, ours last, and the difference of ours."""
    low, high = (-160.0, 240.0) if acquisition.task == "sparse-ct" else (0.0, float(np.percentile(scan.voxels, 99.5)))
    difference = replace(scan, voxels=volumes[ours].voxels - scan.voxels)
    panels = [Panel(scan, "given", limits=(low, high))]
    panels += [
        Panel(volume, f"{method.split(',')[0]}\n{scores[method][0]:.1f} dB", synthetic=True, limits=(low, high))
        for method, volume in volumes.items()
    ]
    span = (high - low) / 2
    panels.append(Panel(difference, "ours - given", kind="difference", synthetic=True, limits=(-span, span)))
    title = f"{scan.origin.name if scan.origin else 'scan'}: {acquisition.words()}"
    draw(path, panels, title, f"{SIMULATED[0].upper()}{SIMULATED[1:]}.\nNot for diagnosis.", np.ones(scan.shape, bool))


def summary(row: Mapping[str, Any]) -> list[str]:
    """Return what is printed of a scan: PSNR and SSIM by method."""
    if row["status"] == "checked":
        return [f"{row['case']}: would be reconstructed from simulated measurements ({row['measured']})"]
    scores = (
        f"  {name}: PSNR {found['psnr_db']:.2f} dB, SSIM {found['ssim']:.3f}" for name, found in row["scores"].items()
    )
    return [f"{row['case']}: from simulated measurements ({row['measured']})", *scores]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return PSNR and SSIM of every scan as CSV."""
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(["scan", "method", "psnr_db", "ssim", "measurements"])
    for row in rows:
        for method, found in row["scores"].items():
            figures = f"{found['psnr_db']:.2f}", f"{found['ssim']:.4f}"
            lines.writerow([row["case"], method, *figures, "simulated"])
    return stream.getvalue()
