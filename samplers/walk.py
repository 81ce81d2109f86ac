"""What every sampler shares: the types, the pairs of noise levels, and the one step that all of them take."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x, sigma) -> x0: the expected clean coordinates of x = x0 + sigma * noise; sigma is a tensor of shape ()."""

Noise = Callable[[Tensor], Tensor]
"""x -> standard normal numbers of x's shape, type and device."""

Callback = Callable[[int, Tensor, Tensor], None]
"""(step, x, x0), called after each step with the new x, which lasts until the next step, and the guess behind it."""


class Sampler(Protocol):
    """Walks from noise x of standard deviation sigmas[0] to clean coordinates at sigmas[-1] = 0."""

    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor: ...


def transitions(sigmas: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number the pairs (sigma, sigma_next) of a grid.

    Raises:
        ValueError: The grid has fewer than two levels, does not decrease strictly, or falls below 0.
    """
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] < sigmas[:-1]).all()) or sigmas[-1] < 0:
        raise ValueError(f"sigmas must be a one-dimensional grid that decreases strictly to 0, got {sigmas}")
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        yield step, sigma, sigma_next


def towards(x0: Tensor, x: Tensor, ratio: Tensor, *, into: Tensor | None = None) -> Tensor:
    """Move x towards x0 until ``ratio`` of the distance is left; a ratio of 0 returns x0 to the bit.

    The answer is written over ``into``, a tensor of the walk's own, unless a gradient is to flow through it.
    """
    kept = torch.is_grad_enabled() and (x0.requires_grad or x.requires_grad)
    return torch.lerp(x0, x, float(ratio), out=None if kept else into)


def buffer(x: Tensor) -> Tensor:
    """Return a tensor that a walk may write its states into: the caller's noise stays as it is."""
    return torch.empty_like(x)
