"""Classifier-free guidance wraps two denoises and is one."""

from torch import Tensor

from .walk import Denoise


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    r"""Extrapolate from the unconditional guess through the conditional one: $D = D_u + w (D_c - D_u)$.

    Args:
        conditional: Told the condition.
        unconditional: Not told it, or a weaker model (autoguidance).
        scale: The guidance scale w; 1 is the conditional denoise itself, 0 the unconditional one, at one call each.

    References:
        Ho & Salimans (2022), equation 6, with w counted from 0. https://arxiv.org/abs/2207.12598
        Karras et al. (2024), equation 3. https://arxiv.org/abs/2406.02507
    """
    if scale == 1:
        return conditional
    if scale == 0:
        return unconditional

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = unconditional(x, sigma)
        return x0 + scale * (conditional(x, sigma) - x0)

    return denoise
