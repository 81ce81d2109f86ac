"""What training a system takes, found on the meta device: memory by how many levels are computed again, and FLOP."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.memory import taken, to_meta
from gen3d.core.system import Example, System
from gen3d.core.volume import Prepared, Scale
from gen3d.nn.recompute import recompute


@dataclass(frozen=True)
class Footprint:
    """What one training step takes.

    Attributes:
        levels: Finest levels that are computed again in the backward pass.
        held: Bytes of weights, gradients, AdamW's moments and averaged weights.
        passing: Most bytes of one backward pass alive at once, besides.
        flop: Floating-point operations of one backward pass, its forward pass included.
    """

    levels: int
    held: int
    passing: int
    flop: float

    @property
    def memory(self) -> int:
        """Bytes of GPU memory: 10 % and 0.5 GB are added for libraries' workspaces and fragments, an assumption."""
        return int(1.1 * (self.held + self.passing) + 0.5e9)


def blank_example(system: System) -> Example:
    """Return a training example of a system made of zeros."""
    count = len(system.config.contrasts)
    voxels = np.zeros((count, *system.training_size), dtype=np.float16)
    scales = (Scale(low=-3.0, high=3.0),) * count
    mask = np.zeros(system.training_size, dtype=np.uint8) if getattr(system.config, "labels", ()) else None
    case = Prepared("blank", "blank", voxels, np.ones(count, dtype=bool), mask, (1.0, 1.0, 1.0), scales)
    return system.example(case, "blank")


def footprints(system: System, example: Example, dtype: torch.dtype, *, batch: int, ema: bool) -> Iterator[Footprint]:
    """Yield what a step takes with no level computed again, then with one more each, as far as there are levels.

    Norms are counted as a compiler fuses them, every objective as if it were the only one.

    Args:
        system: What is trained; it is not touched.
        example: One training example, batch axis 1, any device.
        dtype: Number format that networks compute in.
        batch: Items in a backward pass.
        ema: Whether averaged weights are kept.
    """
    with torch.device("meta"):
        twin = type(system)(system.config)
    parameters = sum(p.numel() for p in twin.parameters())
    to_meta(twin, dtype)
    parts = {name: part for name, part in example.items() if isinstance(part, Tensor)}
    tensors = {name: part[:1].expand(batch, *part.shape[1:]).to("meta") for name, part in parts.items()}
    keys = [str(item) for item in range(batch)]
    width = torch.finfo(dtype).bits // 8
    copies = 0 if dtype == torch.float32 else width  # autocast's
    wider = 4 - width  # gradients are float32 in training, in dtype below
    held = parameters * (4 + 8 + wider + copies + (4 if ema else 0))

    twin.step = 10**9  # terms that begin late count too

    def step() -> None:
        for objective in twin.objectives():
            objective.summed(objective.loss(tensors, keys)).backward()
            for parameter in objective.parameters:
                parameter.grad = None

    networks: list[Any] = [part for part in twin.modules() if hasattr(part, "recompute")]
    depths = [depth(network) for network in networks]
    for levels in range(max(depths, default=0) + 1):
        recompute(twin, levels)
        found = taken(step)
        yield Footprint(levels, held, found.peak, found.flop / len(twin.objectives()))


def depth(network: Any) -> int:
    """Return how many levels a network has."""
    config: Any = getattr(network, "config", None)
    return len(config.multipliers if hasattr(config, "multipliers") else getattr(network, "levels", ()))


def sampling_memory(system: System, example: Example, dtype: torch.dtype) -> int:
    """Return the bytes of one call of the networks without gradients, weights included, on the volume of an example."""
    with torch.device("meta"):
        twin = type(system)(system.config)
    to_meta(twin, dtype)
    tensors = {name: part.to("meta") for name, part in example.items() if isinstance(part, Tensor)}
    weights = sum(p.numel() * p.element_size() for p in twin.parameters())

    def call() -> None:
        with torch.no_grad():
            for objective in twin.objectives():
                objective.loss(tensors, ["0"])

    return int(1.1 * (weights + taken(call).peak) + 0.5e9)


def decoding_memory(system: System, example: Example, dtype: torch.dtype) -> int:
    """Return the bytes of decoding the volume of an example at once, weights included."""
    with torch.device("meta"):
        twin = type(system)(system.config)
    to_meta(twin, dtype)
    tensors = {name: part.to("meta") for name, part in example.items() if isinstance(part, Tensor)}
    coords = twin.start(tensors, ["0"], 1.0).to("meta")
    weights = sum(p.numel() * p.element_size() for p in twin.parameters())

    def decode() -> None:
        with torch.no_grad():
            twin.finish(coords, tensors)

    return int(1.1 * (weights + taken(decode).peak) + 0.5e9)


def fewest_levels(system: System, example: Example, dtype: torch.dtype, *, batch: int, ema: bool, budget: float) -> int:
    """Return the fewest levels to compute again so that training fits ``budget`` bytes, else the thriftiest."""
    best, least = 0, math.inf
    for found in footprints(system, example, dtype, batch=batch, ema=ema):
        if found.memory <= budget:
            return found.levels
        if found.memory < least:
            best, least = found.levels, found.memory
    return best
