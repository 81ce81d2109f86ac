"""Heun's rule."""

from torch import Tensor

from .walk import Callback, Denoise, buffer, towards, transitions

CALLS_A_STEP = 2


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    r"""Second-order deterministic sampler, two calls a step and one in the last.

    Solves $dx/d\sigma = (x - D(x, \sigma)) / \sigma$ with Heun's rule; the last step, to $\sigma = 0$, is Euler's.

    Args:
        denoise: Estimate of the clean coordinates, (B, C, X, Y, Z) and () -> (B, C, X, Y, Z).
        x: Noise of standard deviation ``sigmas[0]``, (B, C, X, Y, Z).
        sigmas: Decreasing noise levels ending in zero, (steps + 1,).
        callback: Told (step, x, x0) after each step.

    Returns:
        Clean coordinates, (B, C, X, Y, Z).

    Raises:
        ValueError: The grid does not decrease strictly to 0.

    References:
        Karras et al. (2022), Algorithm 1. https://arxiv.org/abs/2206.00364
    """
    state, ahead = buffer(x), buffer(x)
    for step, sigma, sigma_next in transitions(sigmas):
        x0 = denoise(x, sigma)
        x_next = towards(x0, x, sigma_next / sigma, into=ahead)
        if sigma_next > 0:
            half = (sigma_next - sigma) / 2
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = towards(x0, x, 1 + half / sigma, into=state).add_(slope_next, alpha=float(half))
        x = x_next
        if callback:
            callback(step, x, x0)
    return x
