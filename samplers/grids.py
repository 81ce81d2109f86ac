"""Noise levels to walk: float64, strictly decreasing, the last one 0; ``steps`` levels and the 0 behind them.

Every grid raises ValueError for fewer than one step.
"""

from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["linspace", "leading", "trailing"]


def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, rho: float = 7.0) -> Tensor:
    r"""Spread $\sigma^{1/\rho}$ evenly.

    $$\sigma_i = (\sigma_{max}^{1/\rho} + \frac{i}{n-1}(\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho}))^\rho$$

    Returns:
        Noise levels, (steps + 1,).

    References:
        Karras et al. (2022), equation 5. https://arxiv.org/abs/2206.00364
    """
    return ending_in_zero(ramp(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps) ** rho)


def exponential(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    r"""Spread $\ln \sigma$ evenly from sigma_max to sigma_min, (steps + 1,)."""
    log_max, log_min = torch.tensor([sigma_max, sigma_min], dtype=torch.float64).log().tolist()
    return ending_in_zero(ramp(log_max, log_min, steps).exp())


def ddpm(steps: int, table: Tensor, *, spacing: Spacing = "linspace") -> Tensor:
    """Pick levels from a DDPM chain, evenly spaced in t.

    Args:
        steps: How many levels to pick, at most the length of the chain.
        table: Noise level of each t, ascending, (T,).
        spacing: ``linspace`` takes both ends of the chain, ``leading`` starts below its end, ``trailing`` ends above
            its start.

    Returns:
        Noise levels, (steps + 1,).

    Raises:
        ValueError: ``steps`` is below 1 or above the length of the chain, or the spacing is unknown.

    References:
        Nichol & Dhariwal (2021), section 4 (linspace). https://arxiv.org/abs/2102.09672
        Lin et al. (2024), table 2. https://arxiv.org/abs/2305.08891
    """
    return ending_in_zero(table.double().cpu()[ddpm_times(steps, len(table), spacing)])


def ddpm_times(steps: int, length: int, spacing: Spacing) -> Tensor:
    """Return the descending integer times that ``ddpm`` picks, (steps,)."""
    if steps > length:
        raise ValueError(f"steps must be at most the chain's {length}, got {steps}")
    if spacing == "linspace":
        return ramp(length - 1, 0, steps).round().long()
    if spacing == "leading":
        return torch.arange(steps - 1, -1, -1) * (length // steps)
    if spacing == "trailing":
        return ramp(length, length / steps, steps).round().long() - 1
    raise ValueError(f"spacing must be linspace, leading or trailing, got {spacing!r}")


def flow(steps: int, *, shift: float = 1.0, sigma_max: float = 1e4) -> Tensor:
    r"""Spread the time of rectified flow evenly and shift it.

    $$t' = \frac{s t}{1 + (s - 1) t}, \qquad \sigma = \frac{t'}{1 - t'}$$

    Args:
        steps: Number of levels above 0.
        shift: Above 1 spends more steps at high noise, as large volumes want.
        sigma_max: Stands for the infinite level of t = 1.

    Returns:
        Noise levels, (steps + 1,).

    References:
        Esser et al. (2024), equation 23. https://arxiv.org/abs/2403.03206
    """
    t = ramp(1.0, 1.0 / steps, steps)
    t = shift * t / (1 + (shift - 1) * t)
    return ending_in_zero((t / (1 - t)).clamp(max=sigma_max))


def ramp(start: float, end: float, steps: int) -> Tensor:
    """Return evenly spaced float64 numbers, (steps,)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(start, end, steps, dtype=torch.float64)


def ending_in_zero(levels: Tensor) -> Tensor:
    """Append the level 0."""
    return torch.cat([levels, levels.new_zeros(1)])
