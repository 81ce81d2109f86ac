"""``make bench-gpu``: the published networks at their published sizes, our path beside PyTorch's own, in one run.

Usage: python -m benchmarks.networks [--device cuda] [--only WORD ...] [--minutes 7] [--out FOLDER] [--tiny]

Same weights and inputs in every row: one call, one training step (loss, gradients, AdamW), 20 sampling steps scaled to
1000 and marked so; seconds (medians after a warm-up), most bytes alive, TFLOP/s, the share of the device's measured
matrix peak in the row's number format, where the time goes, the relative difference from strict float32. What a kernel
of our own for norm and SiLU could win at most is measured by leaving them out. Needs torch (and Triton for what
is compiled), numpy, safetensors and PyYAML; MONAI's DiffusionModelUNet is a row where it is installed, the whole
command is timed where nibabel is.
Writes networks_DEVICE.json, and networks_DEVICE.png where matplotlib is there; ``--draw`` draws a JSON file.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from benchmarks.contrast import whole_contrast
from benchmarks.device import environment, matrix_peaks, where
from benchmarks.networks_figure import draw_networks
from benchmarks.timing import once
from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser, pad_to_stride
from gen3d.core.graphs import Replayed
from gen3d.core.memory import LiveBytes, taken
from gen3d.core.parameterization import X0
from gen3d.core.precision import on_this_cpu, store_weights, use_precision
from gen3d.nn.conv import Conv
from gen3d.nn.norm import GroupNormSiLU
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.samplers import dpmpp_2m, karras

RESULTS = Path(__file__).parent / "results"
STEPS, PUBLISHED = 20, 1000


@dataclass(frozen=True)
class Case:
    """A network and the size of its coordinates; the first ``known`` of its input channels are a condition."""

    name: str
    config: UNetConfig
    size: tuple[int, int, int]
    known: int = 0


WDM, CWDM = UNetConfig(8, 8), UNetConfig(32, 8, skips="concat")
CASES = {
    "cuda": [
        Case("cWDM 81.5 M, 224x224x160", CWDM, (112, 112, 80), 24),
        Case("WDM 57.9 M, 128 cubed", WDM, (64, 64, 64)),
        Case("WDM 83.2 M, 256 cubed", replace(WDM, multipliers=(1, 2, 2, 4, 4, 4)), (128, 128, 128)),
        Case("hippocampus-wdm, 32x48x32", UNetConfig(8, 8, width=28, multipliers=(1, 2, 2), groups=4), (16, 24, 16)),
    ],
    "cpu": [
        Case("WDM 57.9 M, 64 cubed", WDM, (32, 32, 32)),
        Case("WDM 57.9 M, 96 cubed", WDM, (48, 48, 48)),
    ],
    "tiny": [Case("tiny", UNetConfig(8, 4, width=8, multipliers=(1, 2), blocks=1, groups=4), (8, 8, 8), 4)],
}


@dataclass(frozen=True)
class Way:
    """A way to compute: what a row is called, its number format, and what it uses."""

    name: str
    dtype: torch.dtype
    plain: bool = False
    tf32: bool = False
    graphs: bool = False
    compiled: bool = False


STRICT = Way("PyTorch, strict float32", torch.float32, plain=True)
DEFAULT = Way("PyTorch's default, TF32 in convolutions", torch.float32, plain=True, tf32=True)
OURS = Way("gen3d, float32", torch.float32)


def ways(device: torch.device, *, compiling: bool) -> list[Way]:
    """List the rows of a case, the reference first, what is compiled last: it takes the longest."""
    bf16 = Way("gen3d, bf16", torch.bfloat16)
    compiled = replace(bf16, name="gen3d, bf16, compiled", compiled=True)
    if device.type == "cpu":
        if not on_this_cpu(torch.bfloat16):
            bf16, compiled = OURS, replace(OURS, name="gen3d, float32, compiled", compiled=True)
        return list(dict.fromkeys([STRICT, OURS, bf16, *([compiled] if compiling else [])]))
    graph = replace(bf16, name="gen3d, bf16, graph", graphs=True)
    half = replace(graph, name="gen3d, fp16, graph", dtype=torch.float16)
    return [STRICT, DEFAULT, bf16, graph, half, replace(compiled, name="gen3d, bf16, compiled, graph", graphs=True)]


@contextmanager
def computing(way: Way) -> Iterator[None]:
    """Compute as a row says; the plain rows by PyTorch's own operations, contiguous, as the published code does."""
    with ExitStack() as stack:
        for backend, value in ((torch.backends.cudnn, way.tf32), (torch.backends.cuda.matmul, False)):
            stack.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
            backend.allow_tf32 = value
        if way.plain:
            stack.enter_context(
                patch.object(GroupNormSiLU, "forward", lambda m, x: nnf.silu(nn.GroupNorm.forward(m, x)))
            )
            stack.enter_context(patch.object(Conv, "forward", nn.Conv3d.forward))
            stack.enter_context(patch("gen3d.nn.unet.shrink", lambda x, factor: nnf.avg_pool3d(x, factor)))
            stack.enter_context(patch("gen3d.nn.unet.enlarge", lambda x, factor: nnf.interpolate(x, scale_factor=2.0)))
            stack.enter_context(patch.object(Denoiser, "entering", lambda d, x: pad_to_stride(x, d.network.stride)))
        yield


class Bench:
    """One case on one device: its network, its inputs, its reference answer."""

    def __init__(self, case: Case, device: torch.device, repeats: int) -> None:
        self.case, self.device, self.repeats = case, device, repeats
        own = case.config.in_channels - case.known
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
        self.x = draw((1, own, *case.size)).to(device)
        self.condition = Condition(draw((1, case.known, *case.size)).to(device)) if case.known else None
        self.reference: Tensor | None = None
        with torch.device("meta"):
            network = UNet(case.config)
            inputs = torch.empty(1, case.config.in_channels, *case.size), torch.zeros(1)
        with torch.no_grad():
            self.flop = taken(lambda: network(*inputs)).flop

    def denoiser(self, way: Way) -> Denoiser:
        """Make the network with the weights that every row has."""
        torch.manual_seed(0)
        made = Denoiser(UNet(self.case.config), X0())
        with torch.no_grad():  # as built it answers zero
            for p in made.parameters():
                if p.ndim > 1 and not p.any():
                    nn.init.normal_(p, std=0.02)
        if way.plain:
            made.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        use_precision(made, way.dtype)
        self.weights = sum(p.numel() * p.element_size() for p in made.parameters())
        return made.to(self.device)

    def row(self, way: Way, peaks: dict[str, float]) -> dict[str, Any]:
        """Measure one row."""
        out: dict[str, Any] = {}
        with computing(way):
            out |= self.calls(way)
            torch.compiler.reset()
            out |= self.training(way)
            torch.compiler.reset()
        kind = "tf32" if way.tf32 else str(way.dtype).removeprefix("torch.")
        rate = self.flop / out["forward_s"]
        out |= {
            "tflops": rate / 1e12,
            "share_of_peak": rate / peaks[kind],
            "step_tflops": 3 * self.flop / out["step_s"] / 1e12,
        }
        return out

    def calls(self, way: Way) -> dict[str, Any]:
        """Measure one call and a walk of 20, without gradients."""
        model = self.denoiser(way).eval()
        store_weights(model, way.dtype)
        sigma = torch.tensor(2.0, dtype=torch.float64)

        def call() -> Tensor:
            return model(self.x, sigma, self.condition)

        out: dict[str, Any] = {}
        with torch.inference_mode():
            if way.compiled:
                model.network.compile()
                out["cold_start_s"] = once(call, self.device)
            if way.graphs:
                model.replayed = Replayed(model.network)
            out["forward_s"], out["forward_gb"] = self.measured(call)
            y = call().float()
            if self.reference is None:
                self.reference = y.clone()
            out["difference"] = float((y - self.reference).norm() / self.reference.norm())
            out["where"] = where(call, self.device)
            sigmas = karras(STEPS, 0.01, 50.0)
            walk = lambda: dpmpp_2m(lambda x, s: model(x, s, self.condition), self.x, sigmas)  # noqa: E731
            walk_s = once(walk, self.device)
        return {**out, "steps_20_s": walk_s, "scaled_to_1000_s": walk_s * PUBLISHED / STEPS}

    def training(self, way: Way) -> dict[str, Any]:
        """Measure one training step: loss, gradients, AdamW."""
        model = self.denoiser(way).train()
        fused = self.device.type == "cuda" and not way.plain
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused or None)
        sigma = torch.tensor([2.0])

        def step() -> None:
            (model(self.x, sigma, self.condition) - self.x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        out: dict[str, Any] = {}
        if way.compiled:
            model.network.compile()
            out["step_cold_start_s"] = once(step, self.device)
        out["step_s"], out["step_gb"] = self.measured(step)
        return out

    def measured(self, work: Callable[[], object]) -> tuple[float, float]:
        """Return the median seconds after a warm-up, and the most gigabytes alive in a run, weights included."""
        once(work, self.device)
        if self.device.type == "cuda":
            once(work, self.device)
            torch.cuda.reset_peak_memory_stats()
            seconds = [once(work, self.device) for _ in range(self.repeats)]
            return median(seconds), torch.cuda.max_memory_allocated() / 1e9
        seconds = [once(work, self.device) for _ in range(self.repeats)]
        with LiveBytes() as live:
            work()
        return median(seconds), (live.peak + self.weights) / 1e9


def norm_bound(bench: Bench, way: Way) -> dict[str, float]:
    """Return the time of a call in which norm and SiLU cost nothing, and the share that a kernel could win at most."""
    model = bench.denoiser(way).eval()
    store_weights(model, way.dtype)
    sigma = torch.tensor(2.0, dtype=torch.float64)
    seconds = {}
    with torch.inference_mode(), computing(way):
        for name, forward in (("with", GroupNormSiLU.forward), ("without", lambda _, x: x)):
            with patch.object(GroupNormSiLU, "forward", forward):
                torch.compiler.reset()
                if way.compiled:
                    model.network.compile()
                seconds[name] = bench.measured(lambda: model(bench.x, sigma, bench.condition))[0]
    return {
        "forward_s": seconds["without"],
        "with_norms_s": seconds["with"],
        "could_win": seconds["with"] / seconds["without"] - 1,
    }


def monai(bench: Bench) -> dict[str, Any] | None:
    """MONAI's DiffusionModelUNet of equal widths and blocks, as its users call it, where it is installed."""
    config = bench.case.config
    widths = config.channels
    try:
        from monai.networks.nets import DiffusionModelUNet

        net = DiffusionModelUNet(
            3,
            config.in_channels,
            config.out_channels,
            num_res_blocks=config.blocks,
            channels=widths,
            attention_levels=[False] * len(widths),
            norm_num_groups=config.groups,
        )
    except ImportError:
        return None
    net = net.to(bench.device).eval()
    parts = [bench.x, *([bench.condition.channels] if bench.condition else [])]
    x, t = torch.cat(parts, 1), torch.zeros(1, device=bench.device)  # type: ignore[arg-type]
    with torch.inference_mode(), computing(replace(DEFAULT, plain=False)):
        seconds, gb = bench.measured(lambda: net(x, t))
    return {"forward_s": seconds, "forward_gb": gb, "parameters": sum(p.numel() for p in net.parameters())}


def run(device: torch.device, *, tiny: bool, only: list[str], minutes: float, compiling: bool) -> dict[str, Any]:
    """Measure every row that is begun in time, those that compile last; the others are named."""
    begin = time.monotonic()
    torch.backends.cudnn.benchmark = True
    peaks = matrix_peaks(device, tiny=tiny)
    tree: dict[str, Any] = {"environment": environment(device), "peaks": peaks, "cases": {}, "left_out_for_time": []}
    cases = [c for c in CASES["tiny" if tiny else device.type] if not only or any(word in c.name for word in only)]
    benches = [Bench(case, device, 10 if device.type == "cuda" else 2) for case in cases]
    work: list[tuple[str, Bench, Callable[[], dict[str, Any] | None]]] = []
    for compiled in (False, True):
        for bench in benches:
            for way in ways(device, compiling=compiling):
                if way.compiled == compiled:
                    work.append((way.name, bench, partial(bench.row, way, peaks)))
            if not compiled:
                work.append((MONAI, bench, partial(monai, bench)))
    work += [
        (FREE_NORM, bench, partial(norm_bound, bench, ways(device, compiling=compiling)[-1])) for bench in benches[:1]
    ]
    for name, bench, measure in work:
        known = tree["cases"].setdefault(bench.case.name, {"flop": bench.flop, "rows": {}})
        slow = device.type == "cuda" and ("compiled" in name or name == FREE_NORM)
        if time.monotonic() - begin > 60 * minutes * (0.6 if slow else 1):
            tree["left_out_for_time"].append(f"{bench.case.name}: {name}")
            continue
        try:
            found = measure()
        except Exception as error:  # out of memory, no compiler: the other rows stand
            found = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
        if found:
            known["rows"][name] = found
            print(f"{bench.case.name:28s} {line(name, found)}", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if not tiny and not only:
        tree["contrast_240x240x155"] = found = whole_contrast(device)
        print(f"240x240x155 contrast, mean mode, seconds: {found}", flush=True)
    return tree | {"minutes": round((time.monotonic() - begin) / 60, 2)}


MONAI, FREE_NORM = "MONAI DiffusionModelUNet", "a call if norm and SiLU were free"
COLUMNS = {
    "forward_s": "call s",
    "step_s": "step s",
    "scaled_to_1000_s": "1000 s*",
    "forward_gb": "call GB",
    "step_gb": "step GB",
    "tflops": "TFLOP/s",
    "share_of_peak": "of peak",
    "difference": "error",
}
HEAD = (
    f"{'':28s} {'':38s} " + " ".join(f"{title:>8s}" for title in COLUMNS.values()) + "  where the time of a call goes"
)


def line(name: str, row: dict[str, Any]) -> str:
    """Return one row as text."""
    cells = [f"{row[key]:8.3g}" if key in row else " " * 8 for key in COLUMNS]
    shares = list(row.get("where", {}).items())[:3]
    if "failed" in row:
        return f"{name:38s} failed: {row['failed']}"
    return f"{name:38s} " + " ".join(cells) + "  " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name holds one of these words")
    parser.add_argument(
        "--minutes", type=float, default=7.0, help="no row is begun later, none that compiles after 60 %% of it"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true", help="seconds, to see that the script stands")
    parser.add_argument("--compiled", action="store_true", help="compile on a CPU too, where it takes minutes")
    parser.add_argument("--draw", type=Path, help="draw this JSON file and measure nothing")
    options = parser.parse_args()
    if options.draw:
        draw_networks(json.loads(options.draw.read_text()), options.draw.with_suffix(".png"))
        return
    device = torch.device(options.device)
    print(HEAD)
    tree = run(
        device,
        tiny=options.tiny,
        only=options.only,
        minutes=options.minutes,
        compiling=options.compiled or options.tiny,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    place = options.out / f"networks_{device.type}.json"
    place.write_text(json.dumps(tree, indent=1) + "\n")
    print(f"* {STEPS} steps measured, scaled to {PUBLISHED}\n{place}")
    try:
        draw_networks(tree, place.with_suffix(".png"))
    except ImportError:
        print(f"matplotlib is not installed here: draw the figure elsewhere by --draw {place.name}")


if __name__ == "__main__":
    main()
