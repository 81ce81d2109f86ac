"""Asking a system for an image: where it computes, the grid it walks, the expected image and plausible ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gen3d.core.checkpoint import weights_sha256
from gen3d.core.condition import Condition
from gen3d.core.denoiser import compile_networks, replay
from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.parameterization import Chain, Levels
from gen3d.core.precision import NAMES, choose_precision, store_weights, use_precision
from gen3d.core.randomness import Key, derive, normal_on
from gen3d.core.system import Example, System
from gen3d.samplers import (
    CALLS_A_STEP,
    SAMPLERS,
    STOCHASTIC,
    Callback,
    Denoise,
    Noise,
    ddpm,
    exponential,
    flow,
    from_diffusers,
    karras,
)
from gen3d.samplers.diffusers import SCHEDULERS
from gen3d.systems import find_model, load

Mode = Literal["mean", "sample"]
Advance = Callable[[], None]

GRIDS: Mapping[str, Callable[[int, Levels], Tensor]] = {
    "karras": lambda steps, levels: karras(steps, levels.sigma_min, levels.sigma_max),
    "exponential": lambda steps, levels: exponential(steps, levels.sigma_min, levels.sigma_max),
    "flow": lambda steps, levels: flow(steps, sigma_max=levels.sigma_max),
    "ddpm": lambda steps, levels: ddpm(steps, chain(levels)),
}
PRECISIONS = ("auto", *NAMES)


def choose_device(asked: str = "auto") -> torch.device:
    """Choose where networks compute: a GPU where there is one, or what was asked for, such as ``cpu`` or ``cuda:1``.

    Raises:
        UsageError: There is no device of this name.
        UserError: The device is not there.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        known = ("auto", "cpu", "cuda", "mps")
        raise UsageError(f"device '{asked}': expected one of {', '.join(known)}{nearest(asked, known)}") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device '{asked}': not available on this machine; use --device auto") from None
    return device


@dataclass(frozen=True)
class OpenModel:
    """A saved model on its device, with what identifies it.

    Attributes:
        system: Ready to sample.
        name: What to call it in files: its shipped name, or its folder's.
        folder: Where it lies.
        sha256: Of its weights.
        device: Where it computes.
        computed_in: In which number format.
    """

    system: System
    name: str
    folder: Path
    sha256: str
    device: torch.device
    computed_in: str


def open_model(name: str | Path, device: str = "auto", precision: str = "auto", *, compiled: bool = False) -> OpenModel:
    """Load a model by folder, shipped name or hub id onto a device, to sample and no more.

    Its weights are kept in the number format that its networks compute in.

    Args:
        name: A folder, shipped name or hub id.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        compiled: Compile the networks at their first call of each size: minutes, which pay in hours of sampling.

    Raises:
        UserError: There is no such model or device, or its files are damaged.
    """
    folder = find_model(name)
    chosen = choose_device(device)
    system = load(name).to(chosen).eval()
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}': expected {', '.join(PRECISIONS)}{nearest(precision, PRECISIONS)}")
    dtype = choose_precision(chosen, precision).dtype
    use_precision(system, dtype)
    store_weights(system, dtype)
    replay(system)
    if compiled:
        compile_networks(system)
    return OpenModel(system, model_title(str(name), folder), folder, weights_sha256(folder), chosen, f"{dtype}"[6:])


def model_title(asked: str, folder: Path) -> str:
    """Return what to call a model: its hub id, or its folder's name; ``gen3d train`` writes RUN/model."""
    own = folder.resolve()
    if asked.count("/") == 1 and not Path(asked).exists():
        return asked
    return f"{own.parent.name}/{own.name}" if own.name == "model" else own.name


@dataclass(frozen=True)
class Walk:
    """How a model is sampled.

    Attributes:
        sampler: A name in gen3d.samplers.SAMPLERS, or a scheduler of diffusers.
        steps: Of the grid.
        run: (denoise, x, noise, callback) -> x0.
        sigma: Where the grid starts.
    """

    sampler: str
    steps: int
    run: Callable[[Denoise, Tensor, Noise, Callback], Tensor]
    sigma: float


def choose_walk(system: System, sampler: str | None = None, steps: int | None = None) -> Walk:
    """Settle on a sampler and its grid; what isn't asked for is as the model's ``config.sampling`` says.

    With another sampler and no ``steps``, as many are taken as cost no more network calls than the model's own would.

    Raises:
        UsageError: The sampler is unknown (the nearest is named) or the steps do not suit the model.
    """
    own, levels = system.config.sampling, system.config.parameterization.levels
    name = sampler or own.sampler
    if steps is None:
        a_step = CALLS_A_STEP.get(name, 1)
        steps = (network_calls(own.sampler, own.steps) + a_step - 1) // a_step
    if steps < 1:
        raise UsageError(f"steps {steps}: expected at least 1")
    try:
        if name in SAMPLERS:
            sigmas = noise_grid(own.grid, steps, levels)
            return Walk(name, steps, partial(walk_ours, name, sigmas), float(sigmas[0]))
        if name.removesuffix("Scheduler") + "Scheduler" in SCHEDULERS:
            sigmas, theirs = from_diffusers(name, steps, table=chain(levels))
            return Walk(name, steps, partial(walk_theirs, theirs, sigmas), float(sigmas[0]))
    except ImportError:
        raise UsageError(f"sampler '{name}': needs diffusers; install it with pip install 'gen3d[diffusers]'") from None
    except ValueError as error:
        raise UsageError(f"sampler '{name}' with {steps} steps: {error}") from None
    hint = nearest(name, (*SAMPLERS, *SCHEDULERS))
    raise UsageError(f"sampler '{name}': expected {', '.join(SAMPLERS)} or a scheduler of diffusers{hint}")


def network_calls(sampler: str, steps: int) -> int:
    """Return how often one of our samplers asks the network; the last step, to 0, always asks once."""
    return (steps - 1) * CALLS_A_STEP.get(sampler, 1) + 1


def noise_grid(name: str, steps: int, levels: Levels) -> Tensor:
    """Return ``steps`` noise levels of a model and the 0 behind them.

    Raises:
        UsageError: No grid has this name; the nearest is named.
    """
    if name not in GRIDS:
        raise UsageError(f"sampling.grid: '{name}' is none of {', '.join(GRIDS)}{nearest(name, GRIDS)}")
    return GRIDS[name](steps, levels)


def chain(levels: Levels) -> Tensor:
    """Return a DDPM chain's noise levels, ascending, (T,); continuous levels are spread over 1000 steps."""
    if isinstance(levels, Chain):
        return levels.table
    return karras(1000, levels.sigma_min, levels.sigma_max)[:-1].flip(0)


def walk_ours(name: str, sigmas: Tensor, denoise: Denoise, x: Tensor, noise: Noise, callback: Callback) -> Tensor:
    """Run one of gen3d.samplers; only stochastic ones take noise."""
    draws: dict[str, Any] = {"noise": noise} if name in STOCHASTIC else {}
    return SAMPLERS[name](denoise, x, sigmas, callback=callback, **draws)


def walk_theirs(sampler: Any, sigmas: Tensor, denoise: Denoise, x: Tensor, noise: Noise, callback: Callback) -> Tensor:
    """Run a scheduler of diffusers."""
    return sampler(denoise, x, sigmas, noise=noise, callback=callback)


def to_device(example: Example, device: torch.device) -> Example:
    """Move an example's tensors."""
    return {name: part.to(device) if isinstance(part, Tensor) else part for name, part in example.items()}


def expected(system: System, example: Example, condition: Condition) -> Tensor:
    """Return the expected coordinates: the denoiser called once with x = 0 at sigma_max, whatever the seed."""
    keys: Sequence[Key] = ["mean"]
    sigma = torch.tensor(system.config.parameterization.levels.sigma_max, dtype=torch.float64)
    x = torch.zeros_like(system.start(example, keys, 1.0))
    return system.denoise(condition, keys)(x, sigma)


def drawn(
    system: System, example: Example, condition: Condition, key: Key, walk: Walk, advance: Advance = lambda: None
) -> Tensor:
    """Draw plausible coordinates: from noise by ``key`` along the walk; ``advance`` is called after every step."""
    return drawn_together(system, example, condition, [key], walk, advance)


def drawn_together(
    system: System,
    example: Example,
    condition: Condition,
    keys: Sequence[Key],
    walk: Walk,
    advance: Advance = lambda: None,
) -> Tensor:
    """Draw one for each key, as ``drawn`` does, in one batch; the system shares one condition among them."""
    draws = 0

    def noise(x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return normal_on(x.device, [derive(key, "step", draws) for key in keys], x.shape[1:]).to(x.dtype)

    x = system.start(example, keys, walk.sigma)
    return walk.run(system.denoise(condition, keys), x, noise, lambda *_: advance())


def finite(image: np.ndarray, whose: str) -> np.ndarray:
    """Return an image that a model made.

    Raises:
        UserError: It is not finite.
    """
    if not np.isfinite(image).all():
        raise UserError(f"{whose}: the model's answer is not finite; its weights or these scans are damaged")
    return image
