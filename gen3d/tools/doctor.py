"""``gen3d doctor``: whether this installation, the device and the models are sound, and how to mend what is not."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gen3d import __version__
from gen3d.core.error import UserError
from gen3d.tools.installation import Finding, packages

DISK_GB, MEMORY_GB = 2.0, 3.0  # gen3d synthesize takes 2.3 GB for a whole brain with samples
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}  # of the answer's range; bf16 keeps 8 bits


def doctor(model: str | None = None, *, as_json: bool = False) -> bool:
    """Print what was found, a line for each check or JSON, and return whether all of it is sound."""
    findings = examined(model)
    faults = [finding for finding in findings if finding.mend]
    if as_json:
        checks = [{**asdict(finding), "sound": not finding.mend} for finding in findings]
        print(json.dumps({"sound": not faults, "gen3d": __version__, "checks": checks}, indent=1))
        return not faults
    wide = max(len(finding.check) for finding in findings)
    for finding in findings:
        state, mend = ("FAULT", f"; mend: {finding.mend}") if finding.mend else ("ok   ", "")
        print(f"{state} {finding.check:{wide}}  {finding.found}{mend}")
    print("all sound" if not faults else f"{len(faults)} fault{'s' if len(faults) > 1 else ''}")
    return not faults


def examined(model: str | None = None) -> list[Finding]:
    """Return what all checks find; what needs torch is not tried where torch does not work."""
    findings = [Finding("python", f"{sys.version.split()[0]}, {sys.executable}"), *packages(), *room(), extractors()]
    if not any(finding.check == "torch" and "can't be imported" in finding.found for finding in findings):
        findings += [*device(), *networks(), *models(model)]
    return findings


def device() -> list[Finding]:
    """Say where networks compute, and whether a GPU goes unused."""
    import torch

    build = torch.version.cuda or getattr(torch.version, "hip", None)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return [Finding("device", f"{', '.join(names)}; CUDA {build}")]
    gpu = nvidia_gpu()
    if gpu and not build:
        mend = "install torch's CUDA build, by the command that pytorch.org gives for this machine"
        return [Finding("device", f"{gpu} is there, but torch {torch.__version__} is a build for CPUs", mend)]
    if gpu and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return [Finding("device", f"CPU; {gpu} is hidden by CUDA_VISIBLE_DEVICES")]
    if gpu:
        mend = f"update NVIDIA's driver to one that knows CUDA {build}, or install a torch for an older CUDA"
        return [Finding("device", f"{gpu} is there, but torch can't use it", mend)]
    spare = f"; torch is a build for CUDA {build}, larger than need be" if build else ""
    return [Finding("device", f"CPU, {torch.get_num_threads()} threads{spare}")]


def nvidia_gpu() -> str:
    """Return the name of the GPU that NVIDIA's driver sees, or an empty string."""
    if not (command := shutil.which("nvidia-smi")):
        return ""
    asked = [command, "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.strip().partition("\n")[0]


def networks() -> list[Finding]:
    """Run a tiny network in float32 and bf16 on the device and compare with the same sums in NumPy."""
    from gen3d.core.precision import choose_precision
    from gen3d.tools.sampling import choose_device

    chosen = choose_device()
    right, findings = tiny_network("numpy", "fp32"), []
    for name, tolerance in TOLERANCE.items():
        try:
            choose_precision(chosen, name)
        except UserError:
            findings.append(Finding(name, f"not on this {chosen.type}, which computes in fp32"))
            continue
        try:
            error = float(np.abs(tiny_network(str(chosen), name) - right).max() / np.ptp(right))
        except Exception as problem:
            findings.append(Finding(name, f"a tiny network fails: {' '.join(str(problem).split())[:300]}", REINSTALL))
            continue
        found = f"a tiny network on {chosen.type} is {error:.0e} off"
        findings.append(Finding(name, found, "" if error <= tolerance else f"expected {tolerance:.0e}; {REINSTALL}"))
    return findings


REINSTALL = "install torch anew, for this device (pytorch.org says how); until then --device cpu --precision fp32"


def tiny_network(where: str, precision: str) -> np.ndarray:
    """Return norm(conv(silu(conv(x)))) of fixed numbers, (4, 6, 6, 6), by NumPy in float64 or by torch on a device."""
    rng = np.random.default_rng(0)
    x, first, second = rng.normal(size=(2, 8, 8, 8)), rng.normal(size=(4, 2, 3, 3, 3)), rng.normal(size=(4, 4, 1, 1, 1))
    if where == "numpy":
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3, 3), axis=(1, 2, 3))
        hidden = np.einsum("cxyzijk,ocijk->oxyz", windows, first)
        hidden = np.einsum("cxyz,oc->oxyz", hidden / (1 + np.exp(-hidden)), second[..., 0, 0, 0])
        return (hidden - hidden.mean()) / hidden.std()
    import torch
    from torch.nn import functional

    from gen3d.core.precision import NAMES, precision_context

    x32, w1, w2 = (torch.from_numpy(a).float().to(where) for a in (x[None], first, second))
    with torch.inference_mode(), precision_context(where, NAMES[precision]):
        x32 = x32.contiguous(memory_format=torch.channels_last_3d)
        hidden = functional.conv3d(functional.silu(functional.conv3d(x32, w1)), w2)
        return np.asarray(functional.group_norm(hidden, 1, eps=0).float().cpu()[0], dtype=np.float64)


def room() -> list[Finding]:
    """Say how much disk and memory are left."""
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    findings = [Finding("disk", f"{disk:.0f} GB free in {Path.cwd()}", "" if disk >= DISK_GB else few("disk", DISK_GB))]
    if (memory := free_memory() / 1e9) > 0:
        mend = "" if memory >= MEMORY_GB else few("memory", MEMORY_GB)
        findings.append(Finding("memory", f"{memory:.1f} GB free", mend))
    return findings


def extractors() -> Finding:
    """Say which tool finds the brain for --mask auto; to have none is no fault."""
    from gen3d.data.brain_extraction import EXTRACTORS, find_extractor

    try:
        tool, program = find_extractor()
    except UserError:
        names = ", ".join(tool.command for tool in EXTRACTORS)
        return Finding("brain masks", f"none of {names} is installed; --mask auto needs one, nothing else does")
    version = tool.version(program) or "of unknown version"
    return Finding("brain masks", f"{tool.name} {version}, {program}, for --mask auto")


def few(what: str, least: float) -> str:
    """Say how to mend what is short."""
    return f"free some {what}: a whole brain takes about {least:.0f} GB"


def free_memory() -> float:
    """Return the bytes that may still be taken, by the machine's count and the container's; 0 where none is told."""
    told = Path("/proc/meminfo")
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines()) if told.is_file() else {}
    free = 1024.0 * int(lines.get("MemAvailable", "0 kB").split()[0])
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if limit.is_file() and used.is_file() and (bound := limit.read_text().strip()).isdigit():
        free = min(free, int(bound) - int(used.read_text()))
    return free


def models(name: str | None = None) -> list[Finding]:
    """Say whether one model's files, or those of all that ship, are as they were written, and whether they load."""
    from gen3d.systems import shipped

    names = list(shipped()) if name is None else [name]
    wrong = [finding for each in names for finding in model_faults(each)]
    kept = f"{len(names)} in the box" if name is None else name
    return wrong or [Finding("models", f"{kept}: files as they were written, all load")]


def model_faults(name: str) -> list[Finding]:
    """Return what is wrong with a saved model: its index, the SHA-256 of its weights, numbers that are none."""
    from gen3d.core.checkpoint import check_files
    from gen3d.systems import find_model, load, shipped

    mend = "pip install --force-reinstall --no-deps gen3d" if name in shipped() else "copy, pull or train it anew"
    try:
        folder = find_model(name)
        check_files(folder)
        system = load(folder)
    except UserError as error:
        return [Finding("models", str(error), mend)]
    odd = [key for key, tensor in system.state_dict().items() if not bool(tensor.isfinite().all())]
    return [Finding("models", f"{folder}: {odd[0]} holds numbers that are not finite", mend)] if odd else []
