"""``make bench``: seconds, calls and peak memory of the pieces and of the whole command, with ratios.

Each row runs in a process of its own, so that its peak memory is its own; seconds are the median of the repeats after
one warm-up (none for what takes minutes). Rows of one group do the same work; the ratio is to the group's first row.
Writes benchmarks/results/bench.json.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
THREADS = int(os.environ.get("GEN3D_BENCH_THREADS", os.cpu_count() or 1))
ROWS = {  # group -> rows; the first is what the others are compared with
    "Haar forward and back, 96 cubed": ["haar_pywavelets 96", "haar_gen3d 96"],
    "U-Net forward, 64 cubed": ["forward unet fp32 64", "forward compact fp32 64", "forward compact bf16 64"],
    "U-Net training step, 64 cubed": ["step unet fp32 64", "step compact fp32 64", "step compact bf16 64"],
    "U-Net forward, 96 cubed": ["forward unet fp32 96", "forward compact fp32 96", "forward compact bf16 96"],
    "U-Net training step, 96 cubed": ["step unet fp32 96", "step compact fp32 96", "step compact bf16 96"],
    "gen3d synthesize, 240x240x155 phantom": ["synthesize mean", "synthesize sample"],
    "mean MS-SSIM of 64 volumes, 64 cubed, from nii.gz": [
        "ms_ssim_monai 64 (50 of 4032 pairs, scaled)",
        "ms_ssim_gen3d 64",
    ],
    "Frechet distance, N = 200, d = 2048": ["frechet_torchmetrics 200", "frechet_gen3d 200"],
}
MEASURED, ORDERED = 50, 64 * 63  # pairs of MONAI's row: each is read from disk, as papers' scripts do
SCALED = {"ms_ssim_monai": ORDERED / MEASURED}
COLD = ("synthesize", "ms_ssim_monai", "frechet_torchmetrics")  # long enough to be measured without a warm-up


def haar_pywavelets(size: int) -> tuple[Callable[[], object], int]:
    """One orthonormal level there and back by PyWavelets."""
    import numpy as np
    import pywt

    x = np.random.default_rng(0).normal(size=(size,) * 3).astype(np.float32)
    return lambda: pywt.idwtn(pywt.dwtn(x, "haar"), "haar"), 5


def haar_gen3d(size: int) -> tuple[Callable[[], object], int]:
    """The same by gen3d."""
    import torch

    from gen3d.nn.haar import haar, inverse_haar

    x = torch.randn(1, 1, size, size, size)
    return lambda: inverse_haar(haar(x)), 5


def network(kind: str, precision: str, size: int, *, train: bool) -> tuple[Callable[[], object], int]:
    """One call of the shipped completion model's network, or a call with its gradient."""
    import torch

    from gen3d.core.precision import choose_precision, precision_context
    from gen3d.nn.unet import UNetConfig
    from gen3d.wavelet.completion import NETWORKS

    config = UNetConfig(64, 32, width=32, multipliers=(1, 2, 4), blocks=1, groups=8, present=4)
    net = NETWORKS[kind](config).to(memory_format=torch.channels_last_3d)
    x = torch.randn(1, 64, *[size // 2] * 3).contiguous(memory_format=torch.channels_last_3d)
    t, present = torch.zeros(1), torch.ones(1, 4)
    dtype = choose_precision("cpu", precision).dtype

    def run() -> object:
        with torch.set_grad_enabled(train), precision_context("cpu", dtype):
            y = net(x, t, present=present)
        if train:
            y.float().square().mean().backward()
        return y

    return run, 3


def synthesize(mode: str) -> tuple[Callable[[], object], int]:
    """The whole command: read, normalise, denoise, write, preview."""
    from gen3d.data.phantom import write_phantom

    folder = Path(tempfile.mkdtemp())
    case = write_phantom(folder / "in", 4242, size=(240, 240, 155), spacing_mm=1.0)
    command = [sys.executable, "-m", "gen3d.cli", "synthesize", "-i", str(case), "-o", str(folder / "out")]
    command += ["--missing", "t2f", "--mode", mode, "--no-check"]  # a check is a call for each given contrast
    return lambda: subprocess.run(command, check=True, capture_output=True), 1


def volumes_on_disk(size: int) -> list[Path]:
    """Write 64 volumes on [0, 1] that compress about as scans do."""
    import nibabel as nib
    import torch
    from torch.nn.functional import avg_pool3d

    folder = Path(tempfile.mkdtemp())
    ball = torch.linspace(-1, 1, size).square()
    inside = ball[:, None, None] + ball[:, None] + ball < 0.9
    for index in range(64):
        noise = torch.rand(1, size + 2, size + 2, size + 2, generator=torch.Generator().manual_seed(index))
        voxels = avg_pool3d(noise, 3, stride=1)[0] * inside
        nib.save(nib.Nifti1Image(voxels.numpy(), torch.eye(4).numpy()), folder / f"{index:02d}.nii.gz")
    return sorted(folder.iterdir())


def ms_ssim_monai(size: int) -> tuple[Callable[[], object], int]:
    """Ordered pairs by MONAI, both volumes read from disk for each, as papers' scripts do."""
    import nibabel as nib
    import torch
    from monai.metrics import MultiScaleSSIMMetric

    from gen3d.metrics.ms_ssim import kernel_for

    files = volumes_on_disk(size)
    metric = MultiScaleSSIMMetric(3, kernel_size=kernel_for((size,) * 3)[0])
    pairs = [(i, j) for i in range(64) for j in range(64) if i != j][:: ORDERED // MEASURED][:MEASURED]

    def read(index: int) -> torch.Tensor:
        return torch.from_numpy(nib.load(files[index]).get_fdata(dtype="float32"))[None, None]

    return lambda: [float(metric(read(i), read(j))) for i, j in pairs], 1


def ms_ssim_gen3d(size: int) -> tuple[Callable[[], object], int]:
    """All unordered pairs by gen3d, each volume read from disk once."""
    from collections import UserList

    import nibabel as nib
    import torch

    from gen3d.metrics.ms_ssim import mean_pairwise_ms_ssim

    class Read(UserList[Path]):
        def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
            return torch.from_numpy(nib.load(self.data[index]).get_fdata(dtype="float32"))

    volumes = Read(volumes_on_disk(size))
    return lambda: mean_pairwise_ms_ssim(volumes), 3  # type: ignore[arg-type]


def features(n: int) -> list[Any]:
    """Two sets of features as a ResNet-50 gives them, float32, (n, 2048)."""
    import torch

    return [torch.randn(n, 2048, generator=torch.Generator().manual_seed(s)).relu() for s in (0, 1)]


def frechet_torchmetrics(n: int) -> tuple[Callable[[], object], int]:
    """By torchmetrics, features passed through."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = torch.nn.Identity()
    network.num_features = 2048  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=network)
    for real, rows in zip((True, False), features(n), strict=True):
        metric.update(rows, real=real)
    return metric.compute, 1


def frechet_gen3d(n: int) -> tuple[Callable[[], object], int]:
    """By gen3d, from the features."""
    from gen3d.metrics.frechet import frechet_distance

    a, b = features(n)
    return lambda: frechet_distance(a, b), 5


def one_row(row: str) -> None:
    """Run one row in this process and print its figures as JSON."""
    import torch

    torch.set_num_threads(THREADS)
    name, *arguments = row.split()
    if name in ("forward", "step"):
        work, repeats = network(arguments[0], arguments[1], int(arguments[2]), train=name == "step")
    elif name == "synthesize":
        work, repeats = synthesize(arguments[0])
    else:
        work, repeats = globals()[name](int(arguments[0]))
    if name not in COLD:
        work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    who = resource.RUSAGE_CHILDREN if name == "synthesize" else resource.RUSAGE_SELF
    peak = resource.getrusage(who).ru_maxrss / 2**20
    calls = {"synthesize mean": 1, "synthesize sample": 6}.get(row, 1)
    taken = median(seconds) * SCALED.get(name, 1)
    print(json.dumps({"seconds": taken, "runs": repeats, "calls": calls, "peak_gib": round(peak, 2)}))


def main() -> None:
    """Run every row and print the table."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'':44s} {'seconds':>9s} {'ratio':>6s} {'calls':>5s} {'peak GiB':>8s}")
    for group, rows in ROWS.items():
        print(group)
        for row in rows:
            done = subprocess.run([sys.executable, "-m", "benchmarks", row], check=True, capture_output=True, text=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            first = results.setdefault(group, {}).setdefault(rows[0], figures)
            figures["ratio"] = round(figures["seconds"] / first["seconds"], 3)
            results[group][row] = figures
            cells = (
                f"{figures['seconds']:9.4f} {figures['ratio']:6.3g} {figures['calls']:5d} {figures['peak_gib']:8.2f}"
            )
            print(f"  {row:42s} {cells}", flush=True)
    import torch

    machine = {"threads": THREADS, "processor": platform.machine(), "torch": torch.__version__}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps({"machine": machine, "groups": results}, indent=1) + "\n")


if __name__ == "__main__":
    one_row(" ".join(sys.argv[1:])) if len(sys.argv) > 1 else main()
