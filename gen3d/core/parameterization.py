r"""From a network's output to a denoiser's: four coefficients and their training half.

Coordinates are variance exploding, $x = x_0 + \sigma n$ (Karras et al. 2022, https://arxiv.org/abs/2206.00364). A
network $F$ becomes a denoiser by

$$D(x, \sigma) = c_{skip}(\sigma)\, x + c_{out}(\sigma)\, F(c_{in}(\sigma)\, x,\; c_{noise}(\sigma)).$$

Training takes the squared error of $F$ itself, the published loss of each prediction type; in terms of $x_0$ that is
the weight $1 / c_{out}^2$. Where sigma is drawn is the business of the noise levels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

SIGMA_MAX = 1e4  # stands for an infinite noise level: zero terminal SNR, flow at t = 1


@dataclass(frozen=True)
class Chain:
    r"""A discrete DDPM chain (Ho et al. 2020), $\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$.

    Attributes:
        steps: Length of the chain; the network is told t = 0 ... steps - 1.
    """

    steps: int = 1000

    def betas(self) -> Tensor:
        """Return the beta of each t, (steps,) float64."""
        raise TypeError(f"{type(self).__name__} has no betas: use Betas or Cosine")

    def alpha_bar(self) -> Tensor:
        r"""Return $\bar\alpha_t$, (steps,) float64."""
        return torch.cumprod(1 - self.betas(), 0)

    def levels(self) -> Tensor:
        """Return the noise level of each t, (steps,) float64."""
        alpha_bar = self.alpha_bar()
        return ((1 - alpha_bar) / alpha_bar).sqrt()

    @cached_property
    def table(self) -> Tensor:
        """The noise level of each t, ascending, (steps,) float64."""
        return self.levels()

    @property
    def sigma_min(self) -> float:
        """The lowest noise level, that of t = 0."""
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        """The highest noise level, that of the last t."""
        return float(self.table[-1])

    def draw(self, u: Tensor) -> Tensor:
        """Map uniform numbers to noise levels, every t equally likely, (B,) -> (B,)."""
        return self.table[(u * self.steps).long().clamp(0, self.steps - 1)]

    def embed(self, sigma: Tensor) -> Tensor:
        """Return t, (B,) -> (B,): linear in log sigma, the integer itself at a table value, clamped at both ends."""
        if self.steps == 1:
            return torch.zeros_like(sigma, dtype=torch.float32)
        table = self.table.to(sigma.device)
        sigma = sigma.double().clamp(table[0], table[-1])
        low = (torch.searchsorted(table, sigma, right=True) - 1).clamp(0, self.steps - 2)
        log = table.log()
        return (low + (sigma.log() - log[low]) / (log[low + 1] - log[low])).float()


@dataclass(frozen=True)
class Betas(Chain):
    r"""A chain of linear betas (Ho et al. 2020).

    Attributes:
        steps: Length of the chain; the network is told t = 0 ... steps - 1.
        start: First beta.
        end: Last beta.
        zero_terminal_snr: Rescale so that the last step is pure noise (Lin et al. 2024, Algorithm 1); its sigma is
            1e4.
    """

    start: float = 1e-4
    end: float = 0.02
    zero_terminal_snr: bool = False

    def betas(self) -> Tensor:
        """Return the beta of each t before any rescaling, (steps,) float64."""
        return torch.linspace(self.start, self.end, self.steps, dtype=torch.float64)

    def alpha_bar(self) -> Tensor:
        r"""Return $\bar\alpha_t$, rescaled where asked for, (steps,) float64."""
        alpha_bar = super().alpha_bar()
        if not self.zero_terminal_snr:
            return alpha_bar
        root = alpha_bar.sqrt()
        return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()

    def levels(self) -> Tensor:
        """Return the noise level of each t, (steps,) float64."""
        table = super().levels()
        if self.zero_terminal_snr:  # the last is infinite, those before it may pass 1e4: end there, still ascending
            table = torch.minimum(table, SIGMA_MAX * (1 - 1e-3 * torch.arange(self.steps).flip(0)).clamp_min(0.9))
        return table


@dataclass(frozen=True)
class Cosine(Chain):
    r"""A chain whose $\bar\alpha$ falls as a squared cosine (Nichol & Dhariwal 2021, equation 17).

    $$\beta_t = \min\left(1 - \frac{f(t + 1)}{f(t)}, largest\right), \qquad
      f(t) = \cos^2\left(\frac{t / steps + offset}{1 + offset} \cdot \frac{\pi}{2}\right).$$

    The last beta is ``largest``, which makes the highest sigma: 20 291 as published, 64 166 at 0.9999.

    Attributes:
        steps: Length of the chain; the network is told t = 0 ... steps - 1.
        offset: Keeps the first betas from being too small.
        largest: Limit of the betas; 3D MedDiffusion has 0.9999.
    """

    offset: float = 0.008
    largest: float = 0.999

    def betas(self) -> Tensor:
        """Return the beta of each t, (steps,) float64."""
        t = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        f = ((t + self.offset) / (1 + self.offset) * (torch.pi / 2)).cos().square()
        return (1 - f[1:] / f[:-1]).clamp(max=self.largest)


@dataclass(frozen=True)
class VP(Chain):
    r"""Few, large steps: equidistant times of the variance-preserving process (Song et al. 2021, equation 11).

    $$\bar\alpha(t) = \exp(-low\, t - \tfrac12 (high - low)\, t^2), \qquad t = 1 / steps, ..., 1$$

    as denoising diffusion GANs walk (Xiao et al. 2022, https://arxiv.org/abs/2112.07804), from sigma 152 with these
    defaults.

    Attributes:
        steps: Length of the chain; the network is told t = 0 ... steps - 1.
        low: Rate of noise at the beginning.
        high: Rate at the end.
    """

    steps: int = 4
    low: float = 0.1
    high: float = 20.0

    def alpha_bar(self) -> Tensor:
        r"""Return $\bar\alpha$ of each time, (steps,) float64."""
        t = torch.arange(1, self.steps + 1, dtype=torch.float64) / self.steps
        return (-self.low * t - 0.5 * (self.high - self.low) * t.square()).exp()

    def betas(self) -> Tensor:
        """Return the beta of each step, (steps,) float64."""
        alpha_bar = self.alpha_bar()
        return 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])


@dataclass(frozen=True)
class LogNormal:
    r"""Continuous noise levels, $\ln\sigma \sim N(mean, std^2)$ in training (Karras et al. 2022, table 1).

    The network is told $c_{noise} = time\_scale \ln(\sigma) / 4$.

    Attributes:
        mean: Mean of ln sigma.
        std: Standard deviation of ln sigma.
        sigma_min: Lowest level of a sampling grid.
        sigma_max: Highest level of a sampling grid.
        time_scale: 1 as published; 1000 suits networks whose embedding expects t = 0 ... 999.
    """

    mean: float = -1.2
    std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    time_scale: float = 1.0

    def draw(self, u: Tensor) -> Tensor:
        """Map uniform numbers to noise levels by the inverse distribution function, (B,) -> (B,)."""
        normal = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))
        return (self.mean + self.std * normal).exp().clamp(self.sigma_min, self.sigma_max)

    def embed(self, sigma: Tensor) -> Tensor:
        """Return the scaled logarithm of sigma, (B,) -> (B,)."""
        return (self.time_scale * sigma.double().clamp_min(self.sigma_min).log() / 4).float()


@dataclass(frozen=True)
class FlowTime:
    r"""Noise levels of rectified flow, $\sigma = t / (1 - t)$ with t uniform in training (Liu et al. 2023).

    The network is told 1000 t.

    Attributes:
        sigma_min: Lowest level of a sampling grid.
    """

    sigma_min: float = 0.002

    @property
    def sigma_max(self) -> float:
        """The level that stands for the infinite one of t = 1."""
        return SIGMA_MAX

    def draw(self, u: Tensor) -> Tensor:
        """Map uniform t to noise levels, (B,) -> (B,)."""
        return (u.double() / (1 - u.double())).clamp(self.sigma_min, SIGMA_MAX)

    def embed(self, sigma: Tensor) -> Tensor:
        """Return 1000 t, (B,) -> (B,)."""
        return (1000 * sigma.double() / (1 + sigma.double())).float()


Levels = Betas | Cosine | VP | LogNormal | FlowTime


class Coefficients(NamedTuple):
    """The four numbers of each item, (B,) float32."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor


@dataclass(frozen=True)
class Prediction:
    """What every parameterization shares.

    Attributes:
        levels: Where noise levels come from and how the network is told them.
        sigma_data: Standard deviation of the clean coordinates.
    """

    levels: Levels = Betas()
    sigma_data: float = 1.0

    def curve(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (c_in, c_skip, c_out) in float64 for noise levels s, (B,)."""
        raise TypeError(f"{type(self).__name__} is no parameterization: use X0, Epsilon, Velocity, EDM or Flow")

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients at noise levels sigma, (B,)."""
        c_in, c_skip, c_out = self.curve(sigma.double())
        return Coefficients(c_in.float(), c_skip.float(), c_out.float(), self.levels.embed(sigma))

    def weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of the squared error of x0, (B,) -> (B,): the published loss on the network's output."""
        return self.curve(sigma.double())[2].square().reciprocal().float()


@dataclass(frozen=True)
class X0(Prediction):
    """The network predicts the clean coordinates (WDM, cWDM): c_skip 0, c_out 1."""

    def curve(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return $1 / \sqrt{s^2 + \sigma_{data}^2}$, 0, 1."""
        return (s**2 + self.sigma_data**2).rsqrt(), torch.zeros_like(s), torch.ones_like(s)


@dataclass(frozen=True)
class Epsilon(Prediction):
    """The network predicts the noise (Ho et al. 2020): c_skip 1, c_out -sigma."""

    def curve(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return $1 / \sqrt{s^2 + 1}$, 1, $-s$."""
        return (s**2 + 1).rsqrt(), torch.ones_like(s), -s


@dataclass(frozen=True)
class Velocity(Prediction):
    """The network predicts alpha noise - sigma x0 of the variance-preserving state (Salimans & Ho 2022)."""

    def curve(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return $1 / \sqrt{s^2 + 1}$, $1 / (s^2 + 1)$, $-s / \sqrt{s^2 + 1}$."""
        return (s**2 + 1).rsqrt(), 1 / (s**2 + 1), -s * (s**2 + 1).rsqrt()


@dataclass(frozen=True)
class EDM(Prediction):
    """The preconditioning of Karras et al. 2022, table 1."""

    def curve(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return $1 / \sqrt T$, $\sigma_{data}^2 / T$, $s \sigma_{data} / \sqrt T$, $T = s^2 + \sigma_{data}^2$."""
        total = s**2 + self.sigma_data**2
        return total.rsqrt(), self.sigma_data**2 / total, s * self.sigma_data * total.rsqrt()


@dataclass(frozen=True)
class Flow(Prediction):
    """The network predicts noise - x0 along straight paths (Liu et al. 2023); its state is x / (1 + sigma)."""

    levels: Levels = FlowTime()

    def curve(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return $1 / (1 + s)$, $1 / (1 + s)$, $-s / (1 + s)$."""
        return 1 / (1 + s), 1 / (1 + s), -s / (1 + s)


Parameterization = X0 | Epsilon | Velocity | EDM | Flow


def broadcast(coefficient: Tensor, like: Tensor) -> Tensor:
    """Give a (B,) tensor the trailing axes of ``like``."""
    return sent(coefficient, like.device).reshape(-1, *[1] * (like.ndim - 1))


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy a few numbers to where a network computes, without waiting for it."""
    return numbers.to(device, non_blocking=True)
