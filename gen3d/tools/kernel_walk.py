"""Asking a model for a CT in another kernel: what is asked, and the walk from one of three starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UsageError
from gen3d.core.randomness import derive, normal_on
from gen3d.core.system import Example
from gen3d.core.volume import Prepared
from gen3d.latent.diffusionct import DiffusionCT
from gen3d.latent.kernel_pairs import UNIT_HU
from gen3d.latent.kernel_spectrum import recognised
from gen3d.latent.kernels import Kernel
from gen3d.samplers import SAMPLERS, STOCHASTIC, karras
from gen3d.tools.sampling import OpenModel, noise_grid, to_device

OTHER_STEPS = 20  # of a start that is not the model's own
SLICES = 8  # of a 2D model at a time


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    Attributes:
        to: The standard kernel.
        source: The images' kernel; None where it is not known, see ``recognised_source``.
        start: Where the walk begins; by default the model's own.
        steps: Of the walk; by default the model's own, 20 for another start.
        spacing_mm: In-plane, where the files have lost it.
        seed: Of all randomness.
    """

    to: str = "B30"
    source: str | None = None
    start: str | None = None
    steps: int | None = None
    spacing_mm: float | None = None
    seed: int = 0


def chosen_steps(system: DiffusionCT, request: Request) -> int:
    """Return how many steps a walk takes."""
    own = request.start in (None, system.config.starts[0])
    return request.steps or (system.config.sampling.steps if own else max(OTHER_STEPS, system.config.sampling.steps))


def recognised_source(prepared: Prepared, request: Request) -> Kernel | None:
    """Return the kernel that an image seems to be made by, judged by all its slices; None where it is told."""
    hu = torch.from_numpy(np.array(prepared.voxels[0], np.float32)) * UNIT_HU
    return None if request.source else recognised(hu, prepared.spacing[:2])


def standardised(
    model: OpenModel,
    prepared: Prepared,
    request: Request,
    name: str,
    advance: Callable[[float], None],
    found: Kernel | None = None,
) -> np.ndarray:
    """Return the image in the target kernel on the model's axes and scale, (X, Y, Z); 2D models take slice by slice.

    Args:
        model: Which.
        prepared: The image.
        request: What is asked.
        name: Of the image, for its keys.
        advance: Told the share done.
        found: See ``recognised_source``; without it each slice is judged by itself.
    """
    system = model.system
    assert isinstance(system, DiffusionCT)
    whole = torch.from_numpy(np.array(prepared.voxels, np.float32))[None]
    shared = {"prepared": prepared, "found": found}
    if system.config.patch[2] > 1:
        example = to_device({"source": whole, **shared}, model.device)
        return walked(system, example, request, [derive(request.seed, name)])[0, 0].cpu().numpy()
    slices = whole[0].permute(3, 0, 1, 2)[..., None]
    parts = []
    for first in range(0, len(slices), SLICES):
        some = slices[first : first + SLICES]
        keys = [derive(request.seed, name, "slice", first + i) for i in range(len(some))]
        example = to_device({"source": some, **shared}, model.device)
        parts.append(walked(system, example, request, keys).cpu())
        advance(0.8 * (first + len(some)) / len(slices))
    return torch.cat(parts)[:, 0, :, :, 0].permute(1, 2, 0).numpy()


def walked(system: DiffusionCT, example: Example, request: Request, keys: list[str]) -> Tensor:
    """Walk from the asked start to the target kernel, (B, 1, X, Y, Z) on the model's scale."""
    example = system.asked(example, request.to, request.source, request.start)
    start = request.start or system.config.starts[0]
    own, levels, steps = system.config.sampling, system.config.parameterization.levels, chosen_steps(system, request)
    if start == "source":
        sigmas = karras(steps, min(levels.sigma_min, system.config.t0 / 2), system.config.t0)
    else:
        sigmas = noise_grid(own.grid, steps, levels)
    condition = system.condition(example)
    draws = 0

    def noise(x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return normal_on(x.device, [derive(key, "step", draws) for key in keys], x.shape[1:]).to(x.dtype)

    if own.sampler not in SAMPLERS:
        raise UsageError(f"sampling.sampler '{own.sampler}': expected one of {', '.join(SAMPLERS)}")
    random: dict[str, Any] = {"noise": noise} if own.sampler in STOCHASTIC else {}
    x = system.start(example, keys, float(sigmas[0]))
    coords = SAMPLERS[own.sampler](system.denoise(condition, keys), x, sigmas, **random)
    return system.finish(coords, example).float()
