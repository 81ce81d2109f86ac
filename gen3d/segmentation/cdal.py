"""cDAL: masks in two to four large steps of an adversarial denoiser (Hejrati et al. 2024), and its release."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.parameterization import VP, X0, Chain, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.wrap import Denoise, Window, tiled
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.segmentation.cases import Segmentation, SegmentationConfig
from gen3d.segmentation.discriminator import Discriminator, DiscriminatorConfig
from gen3d.segmentation.latents import shared_by
from gen3d.spaces.labels import Labels

NETWORKS = {"unet": UNet, "compact": CompactUNet}
Attention = Literal["training_and_sampling", "training_input", "none"]


@dataclass(frozen=True)
class CDALConfig(SegmentationConfig):
    """Configuration of a cDAL; the defaults follow the paper.

    Each ablation is one option.

    Attributes:
        code: How a mask becomes coordinates, -1 and 1, see ``Labels``.
        architecture: Of the generator: WDM's U-Net or our compact one.
        network: Its shape: given the noisy code and the image; ``latent`` is the length of z, 0 for none.
        mse: Weight of the squared error of x0.
        adversarial: Weight of the discriminator's say in the generator's loss; 0 as released.
        attention: Where the discriminator's attention map enters: it multiplies the image that the generator sees, in
            training and sampling (paper); or the true code before it is noised, in training (release); or nowhere.
        state: Whether the generator sees the noisy code; else it sees noise alone, and no diffusion is left.
        discriminator: Its shape and training.
        parameterization: The four coefficients and the chain, of two to four levels.
        sampling: How masks are drawn unless asked otherwise; its steps are the levels of the chain.
    """

    code: Literal["onehot", "bits"] = "onehot"
    architecture: Literal["unet", "compact"] = "compact"
    network: UNetConfig = UNetConfig(
        in_channels=3, out_channels=2, width=16, multipliers=(1, 2, 3, 4), blocks=1, groups=4, latent=50
    )
    mse: float = 1.0
    adversarial: float = 0.01
    attention: Attention = "training_and_sampling"
    state: bool = True
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    parameterization: Parameterization = X0(VP(4))
    sampling: Sampling = Sampling("ancestral", 4, "ddpm")

    def __post_init__(self) -> None:
        codes = Labels(1 + len(self.labels), self.code).channels()
        needed = codes + len(self.contrasts)
        if (self.network.in_channels, self.network.out_channels) != (needed, codes):
            raise ValueError(f"network: expected in_channels {needed}, code and image, and out_channels {codes}")
        if not isinstance(self.parameterization, X0) or not isinstance(self.parameterization.levels, Chain):
            raise ValueError("parameterization: expected X0 over a chain, such as VP")
        if self.sampling.steps > self.parameterization.levels.steps:
            raise ValueError(f"sampling.steps: expected at most the chain's {self.parameterization.levels.steps}")
        if self.mse <= 0 and self.adversarial <= 0:
            raise ValueError("mse, adversarial: expected one of them above 0")


class CDAL(Segmentation):
    r"""A generator of x0 that sees x_t, the image and a random z; x_{t-1} is drawn from $q(x_{t-1} | x_t, x_0)$.

    The walk is gen3d.samplers.ancestral's; a discriminator is shown $(x_{t-1}, x_t, t)$ and, in the paper, the image.

    $$L_G = \lambda\,|G - x_0|^2 + w\,softplus(-D(\hat x_{t-1}, x_t)), \qquad
      L_D = softplus(-D(x_{t-1}, x_t)) + softplus(D(\hat x_{t-1}, x_t)) + \tfrac{r_1}{2}|\nabla D|^2.$$

    Paper: the map of where the discriminator looks, of mean 1, multiplies the image, in training and sampling alike; it
    is made from the state that the generator sees, in the place of both states, so that both have it. The weights of
    the two terms are ours. Release: w = 0; the map, as it comes, multiplies the true code before that is noised, in
    training alone; the discriminator sees no image. z of unit mean square enters every block beside the time, drawn
    anew at each level of noise, one for a volume.

    Both publications segment slices; here everything is 3D, and slices are Z = 1.
    """

    name = "cdal"
    Config = CDALConfig
    components = ("network", "discriminator")
    config: CDALConfig

    def __init__(self, config: CDALConfig) -> None:
        super().__init__(config)
        self.space = Labels(self.classes, config.code)
        self.network = NETWORKS[config.architecture](config.network)
        self.denoiser = Denoiser(self.network, config.parameterization)
        asked = config.adversarial > 0 or config.attention != "none"
        images = len(config.contrasts)
        self.discriminator = (
            Discriminator(config.discriminator, self.space.channels(), images) if asked else nn.Identity()
        )

    @property
    def levels(self) -> Chain:
        """The chain of noise levels."""
        assert isinstance(self.config.parameterization.levels, Chain)
        return self.config.parameterization.levels

    def condition(self, example: Example) -> Condition:
        """Return the image."""
        return Condition(channels=example["image"].float())

    def objectives(self) -> list[Objective]:
        """The generator, and the discriminator where one is asked."""
        found = [Objective("generator", self.network.parameters(), self.loss, at=self.loss_at)]
        if isinstance(self.discriminator, Discriminator):
            averaged, rate = self.config.attention == "training_and_sampling", self.config.discriminator.rate
            parameters = list(self.discriminator.parameters())
            found.append(Objective("discriminator", parameters, self.judge_loss, ema=averaged, rate=rate))
        return found

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the generator's weighted squared error and what the discriminator says."""
        config, image = self.config, example["image"].float()
        x0, level = self.space.encode(example["labels"][:, None]), self.drawn_level(keys)
        _, x = self.noised(x0, level, keys, image, attended=True)
        guess = self.guess(x, self.levels.table[level], image, self.latent(keys, "latent"))
        terms = {"mse": config.mse * (guess - x0).square().mean()}
        if config.adversarial:
            answer, _ = self.judge(self.posterior(guess, x, level, keys), x, level, image)
            terms["adversarial"] = config.adversarial * nnf.softplus(-answer).mean()
        return terms

    def judge_loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the discriminator's loss; the generator is asked anew, without gradient and with another z."""
        image, level = example["image"].float(), self.drawn_level(keys)
        x0 = self.space.encode(example["labels"][:, None])
        with torch.no_grad():
            _, x = self.noised(x0, level, keys, image, attended=True)
            guess = self.guess(x, self.levels.table[level], image, self.latent(keys, "judged latent"))
            made = self.posterior(guess, x, level, keys)
        previous, later = self.noised(x0, level, keys, image, attended=False)
        told, false = self.judge(previous, later, level, image)[0], self.judge(made, x, level, image)[0]
        terms = {"real": nnf.softplus(-told).mean(), "made": nnf.softplus(false).mean()}
        if self.config.discriminator.r1 and self.step % self.config.discriminator.r1_every == 0:
            assert isinstance(self.discriminator, Discriminator)
            terms["r1"] = self.discriminator.penalty(*self.states(previous, later, level), image)
        return terms

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the squared error of each item, (B,), at the chain's level nearest to ``sigma`` (B,)."""
        image, x0 = example["image"].float(), self.space.encode(example["labels"][:, None])
        level = self.levels.embed(sigma).round().long()
        _, x = self.noised(x0, level, keys, image, attended=False)
        guess = self.guess(x, self.levels.table[level], image, self.latent(keys, "latent"))
        return (guess - x0).square().flatten(1).mean(1)

    def drawn_level(self, keys: Sequence[Key]) -> Tensor:
        """Draw the index of each item's noise level, (B,), all alike; the last where there is no state."""
        last = self.levels.steps - 1
        if not self.config.state:
            return torch.full((len(keys),), last)
        return (uniform([derive(key, "sigma") for key in keys]) * self.levels.steps).long().clamp(max=last)

    def sigmas(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise level of each index and the next lower one, (B,) float32; without a state that is 0."""
        table = torch.cat([torch.zeros(1, dtype=torch.float64), self.levels.table]).float()
        lower = table[level] if self.config.state else torch.zeros(len(level))
        return table[level + 1], lower

    def noised(
        self, x0: Tensor, level: Tensor, keys: Sequence[Key], image: Tensor, *, attended: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the states x_{t-1} and x_t of codes, x_t made from the attended code where the release asks for it."""
        sigma, lower = (broadcast(s, x0) for s in self.sigmas(level))
        little, more = (normal_on(x0.device, [derive(k, n) for k in keys], x0.shape[1:]) for n in ("noise", "step"))
        step = (sigma.square() - lower.square()).sqrt() * more
        if not self.config.state:
            return x0, step
        previous = x0 + lower * little
        if attended and self.config.attention == "training_input":
            assert isinstance(self.discriminator, Discriminator)
            with torch.no_grad():
                _, features = self.judge(previous, previous + step, level, image)
                seen = self.discriminator.attention(features, x0.shape[2:], normalised=False)
            previous = seen * x0 + lower * little
        return previous, previous + step

    def guess(self, x: Tensor, sigma: Tensor, image: Tensor, latent: Tensor | None) -> Tensor:
        """Return the generator's x0, in -1..1, of states x at noise levels sigma, (B,)."""
        if self.config.attention == "training_and_sampling":
            assert isinstance(self.discriminator, Discriminator)
            state, t = broadcast((1 + sigma.square()).rsqrt().float(), x) * x, sent(self.levels.embed(sigma), x.device)
            with torch.no_grad():
                _, features = self.discriminator(state, state, t, image)
                image = image * self.discriminator.attention(features, x.shape[2:], normalised=True)
        return self.denoiser(x, sigma, Condition(channels=image, latent=latent)).tanh()

    def posterior(self, guess: Tensor, x: Tensor, level: Tensor, keys: Sequence[Key]) -> Tensor:
        """Draw x_{t-1} from q(x_{t-1} | x_t, x0), see gen3d.samplers.ancestral."""
        sigma, lower = (broadcast(s, x) for s in self.sigmas(level))
        ratio = (lower / sigma).square()
        noise = normal_on(x.device, [derive(key, "posterior") for key in keys], x.shape[1:])
        return guess + ratio * (x - guess) + (ratio * (sigma.square() - lower.square())).sqrt() * noise

    def states(self, previous: Tensor, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both states at unit variance and the level, as the discriminator sees them."""
        sigma, lower = self.sigmas(level)
        scales = [broadcast((1 + s.square()).rsqrt(), x) for s in (lower, sigma)]
        return scales[0] * previous, scales[1] * x, sent(level.float(), x.device)

    def judge(self, previous: Tensor, x: Tensor, level: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what the discriminator answers to states in our coordinates, and its features."""
        answer: tuple[Tensor, list[Tensor]] = self.discriminator(*self.states(previous, x, level), image)
        return answer

    def latent(self, keys: Sequence[Key], name: object) -> Tensor | None:
        """Draw z of each key, of mean square 1 (Karras et al. 2018), (B, latent); None where there is none."""
        size = self.config.network.latent
        if not size:
            return None
        z = normal([derive(key, name) for key in keys], (size,))
        z = z / z.square().mean(1, keepdim=True).add(1e-8).sqrt()
        return z.to(next(self.network.parameters()).device)

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the code's shape, one key per item."""
        image = example["image"]
        return sigma * normal(keys, (self.space.channels(), *image.shape[2:])).to(image.device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the generator by windows; z of a key is drawn at each level, one for all windows of a volume."""
        told = shared_by(condition, len(keys))
        assert told.channels is not None
        size = told.channels.shape[2:]
        noise = [derive(key, "state") for key in keys] if not self.config.state else []
        blank = normal(noise, (self.space.channels(), *size)).to(told.channels) if noise else None

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            sigma = sigma.double().cpu().expand(len(x))
            if blank is not None:
                sigma = torch.full_like(sigma, self.levels.sigma_max)
                x = self.levels.sigma_max * blank[(..., *where)]
            image = told.window(where).channels
            assert image is not None
            level = round(float(self.levels.embed(sigma)[0]))
            return self.guess(x, sigma, image, self.latent(keys, f"latent/{level}"))

        return tiled(inside, self.config.windows)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the probabilities for which the coordinates are the expected code."""
        return self.space.probabilities(coords)

    @torch.no_grad()
    def expected(self, example: Example) -> Tensor:
        """Return the one-step prediction's probabilities, (B, classes, X, Y, Z): one call, from noise alone."""
        keys = ["expected"] * len(example["image"])
        top = torch.tensor(self.levels.sigma_max, dtype=torch.float64)
        denoise = self.denoise(self.condition(example), keys)
        return self.finish(denoise(self.start(example, keys, float(top)), top), example)
