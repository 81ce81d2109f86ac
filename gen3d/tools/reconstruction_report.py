"""What a reconstruction is worth: PSNR and SSIM against the image that was measured in simulation, and a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gen3d.core.volume import Volume
from gen3d.data.measurement import SIMULATED, Acquisition
from gen3d.metrics.ssim import ssim_map
from gen3d.tools.preview import Panel, draw

CT_RANGE = 2000.0  # HU that PSNR and SSIM take as the range of a CT


class Scores(dict[str, tuple[float, float]]):
    """PSNR in dB and SSIM against the given image, by method."""


@dataclass(frozen=True)
class Reconstructed:
    """What became of one scan.

    Attributes:
        name: Of the scan.
        file: What was written.
        scores: PSNR in dB and SSIM over the whole volume against the given image, by method, ours last.
    """

    name: str
    file: Path
    scores: Scores


def score(volume: Volume, scan: Volume, acquisition: Acquisition) -> tuple[float, float]:
    """Return PSNR and SSIM over the whole volume; the range is 2000 HU, or the given image's 99.9 percentile."""
    span = CT_RANGE if acquisition.task == "sparse-ct" else float(np.percentile(scan.voxels, 99.9))
    ours, given = (torch.from_numpy(v.voxels / np.float32(span)) for v in (volume, scan))
    psnr = -10 * float((ours - given).double().square().mean().clamp_min(1e-12).log10())
    return psnr, float(ssim_map(ours, given).double().mean())


def show(
    path: Path, scan: Volume, volumes: Mapping[str, Volume], ours: str, acquisition: Acquisition, scores: Scores
) -> None:
    """Draw the given image, the rough one, ours, and the difference."""
    rough = next(iter(volumes))
    low, high = (-160.0, 240.0) if acquisition.task == "sparse-ct" else (0.0, float(np.percentile(scan.voxels, 99.5)))
    difference = replace(scan, voxels=volumes[ours].voxels - scan.voxels)
    panels = [Panel(scan, "given", limits=(low, high))]
    panels += [
        Panel(volumes[method], f"{method}\n{scores[method][0]:.1f} dB", synthetic=True, limits=(low, high))
        for method in (rough, ours)
    ]
    span = (high - low) / 2
    panels.append(Panel(difference, "ours - given", kind="difference", synthetic=True, limits=(-span, span)))
    title = f"{scan.origin.name if scan.origin else 'scan'}: {acquisition.words()}"
    draw(path, panels, title, f"{SIMULATED[0].upper()}{SIMULATED[1:]}.\nNot for diagnosis.", np.ones(scan.shape, bool))


def table_lines(rows: Sequence[Reconstructed], acquisition: Acquisition) -> list[str]:
    """Return what is printed: PSNR and SSIM of every scan by method."""
    lines = [f"{acquisition.words()}; {SIMULATED}"]
    for row in rows:
        found = ", ".join(f"{method} {psnr:.2f} dB / {ssim:.3f}" for method, (psnr, ssim) in row.scores.items())
        lines.append(f"{row.file}: {found}")
    return lines


def table(rows: Sequence[Reconstructed]) -> str:
    """Return PSNR and SSIM of every scan as CSV."""
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(["scan", "method", "psnr_db", "ssim", "measurements"])
    for row in rows:
        for method, (psnr, ssim) in row.scores.items():
            lines.writerow([row.name, method, f"{psnr:.2f}", f"{ssim:.4f}", "simulated"])
    return stream.getvalue()
