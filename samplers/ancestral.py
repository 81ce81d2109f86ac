"""The ancestral sampler of DDPM, in variance-exploding coordinates."""

from typing import Literal

import torch
from torch import Tensor

from .walk import Callback, Denoise, Noise, buffer, towards, transitions

Variance = Literal["small", "large"]


def ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    variance: Variance = "small",
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    r"""Draw from the posterior of each transition of a (re-spaced) DDPM chain, one call a step.

    With $\bar\alpha = 1 / (1 + \sigma^2)$ and DDPM's state $x / \sqrt{1 + \sigma^2}$, the posterior of one transition
    becomes

    $$x \leftarrow x_0 + \frac{\sigma'^2}{\sigma^2}(x - x_0) + s\, n, \qquad
      s^2_{small} = \frac{\sigma'^2}{\sigma^2}(\sigma^2 - \sigma'^2), \qquad
      s^2_{large} = \frac{1 + \sigma'^2}{1 + \sigma^2}(\sigma^2 - \sigma'^2).$$

    Large is DDPM's beta of the transition; as there, the last step adds no noise, so it returns x0 itself.

    Args:
        denoise: Estimate of the clean coordinates, (B, C, X, Y, Z) and () -> (B, C, X, Y, Z).
        x: Noise of standard deviation ``sigmas[0]``, (B, C, X, Y, Z).
        sigmas: Decreasing noise levels ending in zero, (steps + 1,).
        variance: ``small`` suits data of no variance, ``large`` (WDM, cWDM) data of unit variance.
        noise: Draws n; asked once in every step but the last.
        callback: Told (step, x, x0) after each step.

    Returns:
        Clean coordinates, (B, C, X, Y, Z).

    Raises:
        ValueError: The variance is unknown, or the grid does not decrease strictly to 0.

    References:
        Ho et al. (2020), equations 6-7 and section 3.2. https://arxiv.org/abs/2006.11239
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be small or large, got {variance!r}")
    state = buffer(x)
    for step, sigma, sigma_next in transitions(sigmas):
        x0 = denoise(x, sigma)
        ratio = (sigma_next / sigma) ** 2
        x = towards(x0, x, ratio, into=state)
        if sigma_next > 0:
            share = ratio if variance == "small" else (1 + sigma_next**2) / (1 + sigma**2)
            x = x.add_(noise(x), alpha=float((share * (sigma**2 - sigma_next**2)).sqrt()))
        if callback:
            callback(step, x, x0)
    return x
