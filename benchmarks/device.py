"""What a device can do at most, what it is, and where the time of a computation goes on it."""

import platform
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import once
from gen3d.core.precision import on_this_cpu

KINDS = {
    "convolutions": ("conv", "gemm", "cudnn", "cutlass", "xmma", "wgrad", "dgrad", "fprop", "mm", "linear", "nvjet"),
    "norms": ("norm", "silu", "var_mean", "welford", "triton_red", "triton_per"),
    "copies": ("copy", "cat", "clone", "nchw", "nhwc", "transpose"),
}


def where(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return the shares of one run's time by kind of operation; on a GPU also the share in which it waits."""
    from torch.profiler import ProfilerActivity, profile

    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        seconds = once(work, device)
    shares: dict[str, float] = {}
    for event in profiler.key_averages():
        took = (event.self_device_time_total if gpu else event.self_cpu_time_total) * 1e-6
        kind = next((k for k, words in KINDS.items() if any(w in event.key.lower() for w in words)), "the rest")
        shares[kind] = shares.get(kind, 0.0) + took
    total = max(seconds, sum(shares.values())) if gpu else sum(shares.values())
    found = {kind: round(took / total, 3) for kind, took in sorted(shares.items(), key=lambda item: -item[1])}
    return found | ({"waiting": round(max(0.0, 1 - sum(found.values())), 3)} if gpu else {})


def matrix_peaks(device: torch.device, *, tiny: bool) -> dict[str, float]:
    """Measure the device: matrix products a second by number format, FLOP/s, and bytes copied a second."""
    n = 256 if tiny else 8192 if device.type == "cuda" else 2048
    found = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
    ):
        if device.type == "cpu" and (name in ("tf32", "float16") or not on_this_cpu(dtype)):
            continue
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        seconds = min(once(partial(torch.mm, a, b), device) for _ in range(12))
        found[name] = 2 * n**3 / seconds
    torch.backends.cuda.matmul.allow_tf32 = False
    one = torch.empty(2**22 if tiny else 2**28 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    other = torch.empty_like(one)
    found["bytes"] = 2 * one.numel() / min(once(partial(other.copy_, one), device) for _ in range(8))
    return found


def environment(device: torch.device) -> dict[str, Any]:
    """Say what the figures were measured on."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "python": platform.python_version(),
        "commit": asked.stdout.strip() or None,
    }


def processor() -> str:
    """Name the CPU and what it has for bf16."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}{', AMX' if torch.cpu._is_amx_tile_supported() else ''}"
