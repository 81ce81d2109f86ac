"""``gen3d plan``: what of a configuration fits a GPU, and how long it will take."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gen3d.core.config import build
from gen3d.core.draws import collate
from gen3d.core.error import UsageError
from gen3d.core.footprint import Footprint, blank_example, decoding_memory, footprints, sampling_memory
from gen3d.core.precision import NAMES
from gen3d.core.system import System
from gen3d.core.training import Optimization, TrainConfig, make_ready
from gen3d.systems import system_class
from gen3d.tools.sampling import choose_device
from gen3d.tools.train import Experiment, read_experiment


@dataclass(frozen=True)
class Rate:
    """FLOP a second that a device reaches in training steps of at least so many, and where that is from."""

    device: str
    flops: float
    least: float
    source: str


RATES = (
    Rate("A100 40 GB, TF32, published code", 44e12, 1e12, "0.72 s a step of 10 at 128 cubed, pfriedri/wdm-3d issue 5"),
    Rate("2 CPU cores with AMX, bf16", 0.43e12, 1e11, "WDM at 64 cubed, python -m benchmarks.networks --device cpu"),
)


@dataclass(frozen=True)
class Choice:
    """A way to train that fits, or the thriftiest there is."""

    fits: bool
    batch: int
    accumulate: int
    size: tuple[int, int, int]
    whole: bool
    precision: str
    step: Footprint
    sampling: int
    decoding: int | None

    @property
    def flop(self) -> float:
        """Floating-point operations of one optimizer step."""
        return self.step.flop * self.accumulate


def parse_memory(asked: str, option: str = "--gpu") -> float:
    """Read ``12GB``, ``12 GiB`` or ``12`` of an option as bytes.

    Raises:
        UsageError: It is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|GiB|G|)\s*", asked, re.IGNORECASE)
    if not found or not float(found[1]):
        raise UsageError(f"{option} '{asked}': expected gigabytes, such as 12GB")
    return float(found[1]) * (2**30 if found[2].lower() == "gib" else 1e9)


def plan(config: Path, overrides: Sequence[str] = (), *, memory: float) -> tuple[Experiment, Choice]:
    """Find how a configuration trains within ``memory`` bytes: the least computed again, then the largest batch.

    A system that learns from patches gets smaller ones where nothing else fits.

    Raises:
        UsageError: The configuration says something unknown.
    """
    experiment = read_experiment(config, overrides)
    thriftiest: Choice | None = None
    for system, whole in systems(experiment):
        found = choose(system, experiment.train, memory, whole=whole)
        if found.fits:
            return experiment, found
        thriftiest = found
    assert thriftiest is not None
    return experiment, thriftiest


def systems(experiment: Experiment) -> Iterator[tuple[System, bool]]:
    """Yield the system as configured, without weights, then with ever smaller patches where it learns from patches."""
    kind = system_class(experiment.system)
    config: Any = build(kind.Config, experiment.model, "model")
    whole = True
    while True:
        with torch.device("meta"):
            system = kind(config)
        yield system, whole
        if not hasattr(config, "patch") or min(config.patch) < 64:
            return
        config, whole = replace(config, patch=tuple(max(32, n * 3 // 4 // 16 * 16) for n in config.patch)), False


def choose(system: System, train: TrainConfig, memory: float, *, whole: bool) -> Choice:
    """Return what fits, with the fewest levels computed again and then the largest batch; or the thriftiest."""
    precision = "bf16" if train.precision == "auto" else train.precision
    dtype = NAMES[precision]
    example = blank_example(system)
    items = train.batch * train.accumulate
    batches = [n for n in range(train.batch, 0, -1) if items % n == 0]
    found = {n: list(footprints(system, example, dtype, batch=n, ema=train.ema > 0)) for n in {batches[0], batches[-1]}}
    steps = [
        (n, between(found[batches[-1]][level], found[batches[0]][level], n, batches[0]))
        for level in range(len(found[batches[0]]))
        for n in batches
    ]
    batch, step = next(((n, s) for n, s in steps if s.memory <= memory), min(steps, key=lambda pair: pair[1].memory))
    x, y, z = system.training_size
    return Choice(
        fits=step.memory <= memory,
        batch=batch,
        accumulate=items // batch,
        size=(x, y, z),
        whole=whole,
        precision=precision,
        step=step,
        sampling=sampling_memory(system, example, torch.bfloat16),
        decoding=decoding_memory(system, example, torch.bfloat16) if hasattr(system, "autoencoder") else None,
    )


def between(one: Footprint, most: Footprint, batch: int, largest: int) -> Footprint:
    """Return the footprint of a batch between 1 and the largest: linear in the batch."""
    share = (batch - 1) / max(largest - 1, 1)
    passing = one.passing + share * (most.passing - one.passing)
    return replace(one, passing=int(passing), flop=one.flop * batch)


def measured_step(experiment: Experiment, choice: Choice, device: str = "auto") -> float:
    """Take real training steps on zeros on this machine's device and return the seconds of one."""
    chosen = choose_device(device)
    kind = system_class(experiment.system)
    config: Any = build(kind.Config, experiment.model, "model")
    if not choice.whole:
        config = replace(config, patch=choice.size)
    train = replace(experiment.train, batch=choice.batch, accumulate=choice.accumulate, recompute=choice.step.levels)
    system = kind(config)
    dtype = make_ready(system, train, chosen, lambda: blank_example(system)).dtype
    optimizations = [Optimization(objective, train, dtype) for objective in system.objectives()]
    key = str(chosen)
    example, keys = collate([(blank_example(system), key)] * choice.batch)
    batches = [({name: part.to(chosen) for name, part in example.items()}, keys)] * choice.accumulate
    seconds = []
    for step in range(5):
        begin = time.perf_counter()
        for optimization in optimizations:
            optimization.update(batches, step)
        if chosen.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds[2:])[1]


def described(experiment: Experiment, choice: Choice, memory: float, seconds: float | None) -> list[str]:
    """Return the plan in words, line by line."""
    train, step = experiment.train, choice.step
    size = "x".join(map(str, choice.size))
    what = f"{'patches' if 'patch' in experiment.model else 'whole volumes'} of {size} voxels"
    patch = "" if choice.whole else f" 'model.patch=[{','.join(map(str, choice.size))}]'"
    verdict = (
        f"fits {memory / 1e9:.3g} GB" if choice.fits else f"does not fit {memory / 1e9:.3g} GB; the thriftiest way"
    )
    settings = f"train.batch={choice.batch} train.accumulate={choice.accumulate} train.recompute={step.levels}{patch}"
    items = train.batch * train.accumulate
    samples = train.steps * items
    lines = [
        f"{experiment.system}: {what}, {choice.precision}: {verdict}",
        f"  settings  {settings}",
        f"  training  {step.memory / 1e9:.1f} GB: weights and moments {step.held / 1e9:.1f}, activations and gradients "
        f"{step.passing / 1e9:.1f}, and 10 % + 0.5 GB allowed for libraries",
        f"  sampling  {choice.sampling / 1e9:.1f} GB in bf16",
        *([] if choice.decoding is None else [f"  decoding  {choice.decoding / 1e9:.1f} GB at once; less by --memory"]),
        f"  a step    {choice.flop / 1e12:.3g} TFLOP; {train.steps:,} steps of {items}: {samples:,} samples",
    ]
    rates = [(rate.device, choice.flop / rate.flops, rate.source) for rate in RATES if choice.flop > rate.least]
    if seconds is not None:
        rates.append(("this machine", seconds, "measured now"))
    for device, s, source in rates:
        hours = s * train.steps / 3600
        lines.append(f"  time      {device}: {s:.3g} s a step, {hours:,.3g} hours ({source})")
    return lines
