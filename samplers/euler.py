"""Euler's rule."""

from torch import Tensor

from .walk import Callback, Denoise, buffer, towards, transitions


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    r"""First-order deterministic sampler, one call a step.

    Solves $dx/d\sigma = (x - D(x, \sigma)) / \sigma$ by $x \leftarrow x_0 + \frac{\sigma'}{\sigma}(x - x_0)$; the step
    to 0 is x0 itself.

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
        Karras et al. (2022), section 3. https://arxiv.org/abs/2206.00364
    """
    state = buffer(x)
    for step, sigma, sigma_next in transitions(sigmas):
        x0 = denoise(x, sigma)
        x = towards(x0, x, sigma_next / sigma, into=state)
        if callback:
            callback(step, x, x0)
    return x
