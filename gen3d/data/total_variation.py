"""Reconstruction by total variation: the classical method that a learned one has to beat."""

import math

import torch
from torch import Tensor

from gen3d.core.linear import least_squares
from gen3d.data.measurement import Acquisition, Measurement

VIEWS = {20: 0.001, 50: 0.0005}  # weights for images of which 2 is water, chosen on the training scans
ACCELERATIONS = {(4.0, "gaussian"): 0.002, (8.0, "gaussian"): 0.008, (4.0, "poisson"): 0.001, (8.0, "poisson"): 0.002}
DEPTH = 0.5
RATIO = 15.0  # of the primal step to the dual one


def total_variation(
    measurement: Measurement, start: Tensor, weight: float, depth: float = DEPTH, iterations: int = 150
) -> Tensor:
    r"""Minimise $\frac{1}{2 s} |A v - y|^2 + \lambda \sum |\nabla v|$ over $v \ge 0$, s the largest eigenvalue of A*A.

    By the primal-dual method of Chambolle & Pock (2011), Algorithm 1, with both terms dualised; forward differences in
    three dimensions, isotropic.

    Args:
        measurement: Operator A and data y.
        start: Where the iterations begin, (B, C, X, Y, Z).
        weight: lambda, in units of v.
        depth: Factor on differences between slices: 0 treats each slice by itself.
        iterations: How many.

    Returns:
        (B, C, X, Y, Z).
    """
    operator, scale = measurement.operator, math.sqrt(measurement.operator.strength)
    measured = measurement.measured / scale
    step = 0.95 / math.sqrt(1.1 + 8 + 4 * depth**2)
    up, down = step / RATIO, step * RATIO
    v = ahead = start.clamp_min(0)
    lines = torch.zeros_like(measured)
    slopes = torch.zeros(3, *v.shape, device=v.device)
    for _ in range(iterations):
        lines = (lines + up * (operator.forward(ahead) / scale - measured)) / (1 + up)
        slopes += up * gradient(ahead, depth)
        slopes /= (slopes.square().sum(0).sqrt() / weight).clamp_min(1.0)
        before = v
        v = (v - down * (operator.adjoint(lines) / scale - divergence(slopes, depth))).clamp_min(0)
        ahead = 2 * v - before
    return v


def tuned_weight(acquisition: Acquisition) -> float:
    """Return the weight that was best on the training scans at the nearest setting."""
    if acquisition.task == "sparse-ct":
        return VIEWS[min(VIEWS, key=lambda views: abs(math.log(views / acquisition.views)))]
    alike = [setting for setting in ACCELERATIONS if setting[1] == acquisition.mask]
    return ACCELERATIONS[min(alike, key=lambda setting: abs(math.log(setting[0] / acquisition.acceleration)))]


def tuned_total_variation(measurement: Measurement, iterations: int = 200) -> Tensor:
    """Reconstruct by total variation from the smooth start, its weight from the training scans."""
    return total_variation(
        measurement, smooth_start(measurement, 5), tuned_weight(measurement.acquisition), DEPTH, iterations
    )


def gradient(v: Tensor, depth: float) -> Tensor:
    """Return forward differences along X, Y and Z, 0 at the far faces, (3, B, C, X, Y, Z)."""
    slopes = torch.zeros(3, *v.shape, device=v.device)
    for axis, factor in enumerate((1.0, 1.0, depth)):
        n = v.shape[2 + axis]
        slopes[axis].narrow(2 + axis, 0, n - 1).copy_(factor * v.diff(dim=2 + axis))
    return slopes


def divergence(slopes: Tensor, depth: float) -> Tensor:
    """Return minus the adjoint of ``gradient``."""
    total = torch.zeros_like(slopes[0])
    for axis, factor in enumerate((1.0, 1.0, depth)):
        n = total.shape[2 + axis]
        inner = factor * slopes[axis].narrow(2 + axis, 0, n - 1)
        total.narrow(2 + axis, 0, n - 1).add_(inner)
        total.narrow(2 + axis, 1, n - 1).sub_(inner)
    return total


def smooth_start(measurement: Measurement, steps: int = 10) -> Tensor:
    """Return what a few steps of conjugate gradients reach from nothing: smooth, since fine structure comes late."""
    nothing = torch.zeros_like(measurement.operator.adjoint(measurement.measured))
    return least_squares(measurement.operator, measurement.measured, nothing, 0.0, steps)
