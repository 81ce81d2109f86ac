"""Linear operators with their adjoints, and least squares by conjugate gradients."""

from typing import Protocol

import torch
from torch import Tensor


class Linear(Protocol):
    """A linear map A from volumes (B, C, X, Y, Z) to measurements, real or complex, with its adjoint A*."""

    @property
    def strength(self) -> float:
        """The largest eigenvalue of A*A, roughly."""

    def forward(self, voxels: Tensor) -> Tensor:
        """A v."""

    def adjoint(self, measured: Tensor) -> Tensor:
        """A* y, with Re <A v, y> = <v, A* y>."""


def least_squares(operator: Linear, measured: Tensor, start: Tensor, weight: float, steps: int) -> Tensor:
    r"""Move from $v_0$ towards the minimum of $|A v - y|^2 + \lambda |v - v_0|^2$.

    Conjugate gradients on the normal equations (Hestenes & Stiefel 1952), each item by itself. Where A*A is a multiple
    of a projection, as for undersampled Fourier transforms, the first step is exact.

    Args:
        operator: A.
        measured: y.
        start: v0, (B, C, X, Y, Z).
        weight: lambda in units of ``operator.strength``; 0 follows the measurement alone.
        steps: Of conjugate gradients.

    Returns:
        (B, C, X, Y, Z).
    """
    penalty = weight * operator.strength
    v = start
    residual = operator.adjoint(measured - operator.forward(v))
    direction, energy = residual, squared(residual)
    enough = 1e-10 * energy  # what follows is rounding, whose directions A may not see at all
    for step in range(steps):
        curved = operator.adjoint(operator.forward(direction)) + penalty * direction
        length = energy / (direction * curved).flatten(1).sum(1).clamp_min(1e-30)
        length = torch.where(energy > enough, length, 0.0)
        v = v + spread(length, v) * direction
        if step + 1 == steps:
            break
        residual = residual - spread(length, v) * curved
        before, energy = energy, squared(residual)
        direction = residual + spread(energy / before.clamp_min(1e-30), v) * direction
    return v


def squared(x: Tensor) -> Tensor:
    """Return the squared norm of each item, (B,)."""
    return x.flatten(1).square().sum(1)


def spread(numbers: Tensor, like: Tensor) -> Tensor:
    """Give (B,) numbers the axes of ``like``."""
    return numbers.reshape(-1, *[1] * (like.ndim - 1))
