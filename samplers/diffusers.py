"""Any scheduler of diffusers as a grid and a sampler; diffusers is imported when asked for."""

from collections.abc import Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .walk import Callback, Denoise, Noise, Sampler

PRESERVING = "variance preserving"  # state x / sqrt(1 + sigma^2), told x0
NOISY = "variance preserving, told eps"
EXPLODING = "variance exploding"  # state x, told eps
PRECONDITIONED = "EDM"  # state x, told the raw output of an EDM network
STRAIGHT = "flow"  # state x / (1 + sigma), told the velocity

SCHEDULERS = {
    "DDIMScheduler": PRESERVING,
    "DDPMScheduler": PRESERVING,
    "DEISMultistepScheduler": PRESERVING,
    "DPMSolverMultistepScheduler": PRESERVING,
    "DPMSolverSinglestepScheduler": PRESERVING,
    "LCMScheduler": PRESERVING,
    "TCDScheduler": PRESERVING,
    "UniPCMultistepScheduler": PRESERVING,
    "PNDMScheduler": NOISY,
    "EulerAncestralDiscreteScheduler": EXPLODING,
    "EulerDiscreteScheduler": EXPLODING,
    "HeunDiscreteScheduler": EXPLODING,
    "LMSDiscreteScheduler": EXPLODING,
    "EDMDPMSolverMultistepScheduler": PRECONDITIONED,
    "EDMEulerScheduler": PRECONDITIONED,
    "FlowMatchEulerDiscreteScheduler": STRAIGHT,
    "FlowMatchHeunDiscreteScheduler": STRAIGHT,
}
SIGMA_MAX = 1e4  # stands for the infinite level of flow at t = 1


def from_diffusers(
    name: str, steps: int, *, table: Tensor | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Tensor, Sampler]:
    """Turn a diffusers scheduler into a grid and the sampler that walks it.

    Clipping is off: wrap the denoise instead. Stochastic schedulers draw from generators seeded by ``noise``, one for
    each item of the batch, so that an item's result does not depend on its batch.

    Args:
        name: A class of diffusers, with or without its ending: ``UniPCMultistepScheduler``, ``UniPCMultistep``.
        steps: Inference steps, as diffusers counts them.
        table: Noise level of each t of the model's DDPM chain, ascending, (T,); without it, diffusers' own betas.
        options: Settings of the scheduler's constructor, ``{"use_karras_sigmas": True}``.

    Returns:
        Decreasing noise levels ending in zero; and a sampler for exactly these, which also takes ``noise``.

    Raises:
        ValueError: The scheduler is not among those whose coordinates are known.
    """
    name = name.removesuffix("Scheduler") + "Scheduler"
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}, got {name}")
    scheduler = build(name, table, options or {})
    scheduler.set_timesteps(steps)
    if SCHEDULERS[name] == STRAIGHT:
        scheduler.sigmas = scheduler.sigmas.clamp(max=SIGMA_MAX / (1 + SIGMA_MAX))
    levels = noise_levels(scheduler, table)
    sigmas = torch.cat([levels.unique().flip(0), levels.new_zeros(1)])

    def sampler(
        denoise: Denoise,
        x: Tensor,
        sigmas: Tensor = sigmas,
        *,
        noise: Noise = torch.randn_like,
        callback: Callback | None = None,
    ) -> Tensor:
        if sigmas.shape[0] < 2 or not torch.isclose(sigmas[0].double().cpu(), levels[0]):
            raise ValueError(f"a {name} walks its own noise levels from {float(levels[0]):g}, got {sigmas}")
        return walk(deepcopy(scheduler), SCHEDULERS[name], levels, denoise, x, noise, callback)

    return sigmas, sampler


def build(name: str, table: Tensor | None, options: Mapping[str, Any]) -> Any:
    """Make the scheduler with what this module relies on; options of the caller come last."""
    import diffusers

    kind = getattr(diffusers, name)
    wanted: dict[str, Any] = {"clip_sample": False}
    if SCHEDULERS[name] != STRAIGHT:
        wanted["prediction_type"] = "sample" if SCHEDULERS[name] == PRESERVING else "epsilon"
    if table is not None:
        keep = 1 / (1 + table.double().cpu() ** 2)
        betas = 1 - keep / torch.cat([keep.new_ones(1), keep[:-1]])
        wanted |= {"trained_betas": betas.numpy(), "num_train_timesteps": len(table)}
    known = signature(kind.__init__).parameters
    return kind(**{key: value for key, value in wanted.items() if key in known} | dict(options))


def noise_levels(scheduler: Any, table: Tensor | None) -> Tensor:
    """Return the sigma of every call that the scheduler makes, float64."""
    kind = SCHEDULERS[type(scheduler).__name__]
    calls = len(scheduler.timesteps)
    if kind == STRAIGHT:
        t = scheduler.sigmas[:calls].double()
        return t / (1 - t)
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas[:calls].double()
    if table is None:
        keep = torch.cumprod(1 - scheduler.betas.double(), 0)
        table = ((1 - keep) / keep).sqrt()
    return table.double().cpu()[scheduler.timesteps]


def walk(
    scheduler: Any, kind: str, levels: Tensor, denoise: Denoise, x: Tensor, noise: Noise, callback: Callback | None
) -> Tensor:
    """Let the scheduler take its steps, handing it x0 in the terms it was made for."""
    draws = {"generator": generators(noise(x))} if "generator" in signature(scheduler.step).parameters else {}
    state = x / scale(kind, levels[0])
    for step, (t, sigma) in enumerate(zip(scheduler.timesteps, levels, strict=True)):
        factor = scale(kind, sigma)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(state, t)  # some refuse to step before this was asked
        x0 = denoise(state * factor, sigma)
        told = output(scheduler, kind, x0, state * factor, sigma)
        state = scheduler.step(told, t, state, **draws, return_dict=False)[0]
        if callback:
            following = levels[step + 1] if step + 1 < len(levels) else torch.zeros(())
            callback(step, state * scale(kind, following), x0)
    return state


def scale(kind: str, sigma: Tensor) -> Tensor:
    """Return what turns the scheduler's state into x."""
    if kind in (PRESERVING, NOISY):
        return (1 + sigma**2).sqrt()
    return 1 + sigma if kind == STRAIGHT else torch.ones(())


def output(scheduler: Any, kind: str, x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Say x0 as the model output that the scheduler was made for."""
    if kind == PRESERVING:
        return x0
    eps = (x - x0) / sigma
    if kind == STRAIGHT:
        return eps - x0
    if kind == PRECONDITIONED:
        data = scheduler.config.sigma_data
        total = sigma**2 + data**2
        return (x0 - data**2 / total * x) * total.sqrt() / (sigma * data)
    return eps


def generators(noise: Tensor) -> list[torch.Generator]:
    """Seed a CPU generator for each item from the bits of its first two draws, so that equal draws give equal seeds."""
    bits = noise.flatten(1)[:, :2].float().contiguous().cpu().view(torch.int64)
    return [torch.Generator().manual_seed(int(seed)) for seed in bits[:, 0]]
