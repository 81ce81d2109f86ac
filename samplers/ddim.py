"""DDIM, with a share of fresh noise."""

import torch
from torch import Tensor

from .walk import Callback, Denoise, Noise, buffer, towards, transitions


def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float = 0.0,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    r"""Follow the guess, replacing a share of the old noise by new, one call a step.

    $$x \leftarrow x_0 + \frac{\sqrt{\sigma'^2 - s^2}}{\sigma}(x - x_0) + s\, n, \qquad
      s = \eta\, \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}.$$

    ``eta`` 0 is Euler's rule, in these coordinates exactly; ``eta`` 1 is the ancestral sampler of small variance.

    Args:
        denoise: Estimate of the clean coordinates, (B, C, X, Y, Z) and () -> (B, C, X, Y, Z).
        x: Noise of standard deviation ``sigmas[0]``, (B, C, X, Y, Z).
        sigmas: Decreasing noise levels ending in zero, (steps + 1,).
        eta: Share of new noise, 0 to 1.
        noise: Draws n; not asked when ``eta`` is 0, nor in the last step.
        callback: Told (step, x, x0) after each step.

    Returns:
        Clean coordinates, (B, C, X, Y, Z).

    Raises:
        ValueError: The grid does not decrease strictly to 0.

    References:
        Song et al. (2021), equations 12 and 16. https://arxiv.org/abs/2010.02502
    """
    state = buffer(x)
    for step, sigma, sigma_next in transitions(sigmas):
        x0 = denoise(x, sigma)
        fresh = eta * sigma_next * (1 - (sigma_next / sigma) ** 2).sqrt()
        left = (sigma_next**2 - fresh**2).sqrt() / sigma if eta else sigma_next / sigma
        x = towards(x0, x, left, into=state)
        if fresh > 0:
            x = x.add_(noise(x), alpha=float(fresh))
        if callback:
            callback(step, x, x0)
    return x
