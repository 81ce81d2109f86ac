"""DPM-Solver++ 2M."""

from torch import Tensor

from .walk import Callback, Denoise, buffer, towards, transitions


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: Callback | None = None) -> Tensor:
    r"""Second-order multistep sampler in data prediction, one call a step.

    With $\lambda = -\ln \sigma$, $h_i = \lambda_{i+1} - \lambda_i$ and $r = h_{i-1} / h_i$, the guess is carried on by
    a line, $D = x_0 + \frac{1}{2r}(x_0 - x_0^{previous})$, and $x \leftarrow D + \frac{\sigma'}{\sigma}(x - D)$. The
    first step and the step to 0 take the guess as it is.

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
        Lu et al. (2022), Algorithm 2. https://arxiv.org/abs/2211.01095
    """
    state = buffer(x)
    previous: tuple[Tensor, Tensor] | None = None
    for step, sigma, sigma_next in transitions(sigmas):
        x0 = guess = denoise(x, sigma)
        h = (sigma / sigma_next).log()
        if previous is not None and sigma_next > 0:
            x0_previous, h_previous = previous
            guess = towards(x0, x0_previous, -h / (2 * h_previous))
        x, previous = towards(guess, x, sigma_next / sigma, into=state), (x0, h)
        if callback:
            callback(step, x, x0)
    return x
