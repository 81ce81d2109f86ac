"""Whole sequences by roll-out: each forecast becomes a visit that the next one is made from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UsageError, UserError
from gen3d.core.parameterization import Chain, Levels
from gen3d.core.randomness import Key, derive, normal_on
from gen3d.core.system import Sampling
from gen3d.samplers import SAMPLERS, STOCHASTIC, ddpm, exponential, flow, karras
from gen3d.sequence.history import History, Longitudinal


def roll_out(
    system: Longitudinal, history: History, days: Sequence[float], key: Key, sampling: Sampling | None = None
) -> History:
    """Forecast each of several days, earliest first, from the history and all forecasts before it.

    Args:
        system: A trained model of sequences, on its device.
        history: As ``system.history`` returns it.
        days: In any order; a visit that is missing at one of them is replaced.
        key: Of the whole sequence; each day's noise follows from it and the day's turn.
        sampling: By default the model's own.

    Returns:
        The history with a visit, there, at each of ``days``.

    Raises:
        UsageError: A day is asked for twice, has a visit already, or has none before it.
        UserError: The model is sampled in a way that is not known.
    """
    ordered = sorted(float(day) for day in days)
    given = set(history.days[history.valid].tolist())
    for turn, day in enumerate(ordered):
        if day in given or day in ordered[:turn]:
            raise UsageError(f"day {day:g}: there is a visit already; expected days without one, each once")
    for turn, day in enumerate(ordered):
        history = extended(history, day, forecast(system, history, day, derive(key, turn), sampling))
    return history


@torch.no_grad()
def forecast(
    system: Longitudinal, history: History, day: float, key: Key, sampling: Sampling | None = None
) -> np.ndarray:
    """Draw a forecast of one day by key, (X, Y, Z) float32 on the history's grid and grey scale."""
    sampling = sampling or system.config.sampling
    sigmas = noise_levels(sampling, system.config.parameterization.levels)
    device = next(system.parameters()).device
    asked = system.ask(history, day)
    example = {name: part.to(device) if isinstance(part, Tensor) else part for name, part in asked.items()}
    draws = 0

    def noise(x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return normal_on(x.device, [derive(key, "step", draws)], x.shape[1:]).to(x.dtype)

    options: dict[str, Any] = {"noise": noise} if sampling.sampler in STOCHASTIC else {}
    denoise = system.denoise(system.condition(example), [key])
    x = system.start(example, [key], float(sigmas[0]))
    coords = SAMPLERS[sampling.sampler](denoise, x, sigmas, **options)
    return system.finish(coords, example)[0, 0].float().cpu().numpy()


def extended(history: History, day: float, voxels: np.ndarray) -> History:
    """Return the history with a visit (X, Y, Z) more, or with one that was missing at that day."""
    others = history.days != day
    place = int((history.days[others] < day).sum())
    return replace(
        history,
        voxels=np.insert(history.voxels[others], place, voxels, axis=0),
        days=np.insert(history.days[others], place, day),
        valid=np.insert(history.valid[others], place, True),
    )


def noise_levels(sampling: Sampling, levels: Levels) -> Tensor:
    """Return a model's grid, (steps + 1,).

    Raises:
        UserError: There is no such sampler or grid, or the grid wants a chain.
    """
    if sampling.sampler not in SAMPLERS:
        raise UserError(f"sampling.sampler: '{sampling.sampler}' is none of {', '.join(SAMPLERS)}")
    if sampling.grid == "ddpm" and isinstance(levels, Chain):
        return ddpm(sampling.steps, levels.table)
    if sampling.grid == "flow":
        return flow(sampling.steps, sigma_max=levels.sigma_max)
    if sampling.grid in ("karras", "exponential"):
        spread = karras if sampling.grid == "karras" else exponential
        return spread(sampling.steps, levels.sigma_min, levels.sigma_max)
    raise UserError(f"sampling.grid: '{sampling.grid}' does not suit {type(levels).__name__}")
