"""CIMD: masks as a group of raters would draw them (Rahman et al. 2023, https://arxiv.org/abs/2304.04745), and ours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError
from gen3d.core.parameterization import X0, FlowTime, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.wrap import Denoise, Window, tiled
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.segmentation.cases import Segmentation, SegmentationConfig
from gen3d.segmentation.latents import (
    Features,
    Folded,
    Gaussian,
    GaussianEncoder,
    LatentConfig,
    cell,
    divergence,
    entropy,
    excess,
    one_hot,
    parts,
    sampled,
    several,
    shared_by,
    told_apart,
)
from gen3d.spaces.labels import Labels

NETWORKS = {"unet": UNet, "compact": CompactUNet}


@dataclass(frozen=True)
class CIMDConfig(SegmentationConfig):
    """Configuration of a CIMD; the defaults are ours, for one image and two classes.

    Attributes:
        code: How a mask becomes coordinates, see ``Labels``.
        scale: b, of the code: at the same sigma a smaller one leaves less of the mask to be seen (Christensen et al.
            2025, https://arxiv.org/abs/2504.05977).
        fold: Voxels of a cell along each axis that the networks see as channels: cheaper, and 1 for none.
        features: The network that sees the image once; without one the noisy mask is joined to the image itself. It
            and ``network`` count channels of folded voxels.
        architecture: Of the denoiser: WDM's U-Net or our compact one.
        network: Its shape: given the noisy code and the features or the image; ``latent``, where it is told it.
        latent: The shape of the two encoders.
        prior: What the second encoder sees besides the image: nothing, so that it is drawn from in sampling and the
            network is told the draw; or the denoiser's estimate of x0, as published, and the latent ends in the loss.
        target: The cross-entropy of the classes, the network's outputs being scores; or the squared error of what the
            parameterization predicts.
        beta: Weight of the KL divergence between the encoders, 1 being that of the evidence bound, where errors are
            summed over voxels and not averaged; reached linearly ...
        anneal: ... over so many steps.
        free: Nats of each dimension that cost nothing.
        blank: Share of the masks that are learnt from noise alone, where the latent is all that tells them apart.
        masks: Different raters' masks that are learnt from in one example.
        named: Whether a learnt offset for each rater is added to the latent, so that masks can be asked of one; where
            nobody is named one of them draws, by the sample's key.
        parameterization: The four coefficients and where sigma is drawn.
        sampling: How masks are drawn unless asked otherwise.
    """

    code: Literal["onehot", "bits"] = "onehot"
    scale: float = 0.05
    fold: int = 2
    features: UNetConfig | None = UNetConfig(
        in_channels=8, out_channels=64, width=20, multipliers=(1, 2, 3), blocks=1, groups=4
    )
    architecture: Literal["unet", "compact"] = "compact"
    network: UNetConfig = UNetConfig(
        in_channels=80, out_channels=16, width=16, multipliers=(1, 2), blocks=1, groups=4, latent=6
    )
    latent: LatentConfig = LatentConfig(coarse=1)
    prior: Literal["image", "estimate"] = "image"
    target: Literal["entropy", "mse"] = "entropy"
    beta: float = 1.0
    anneal: int = 100
    free: float = 0.5
    blank: float = 0.25
    masks: int = 4
    named: bool = False
    parameterization: Parameterization = X0(FlowTime(), sigma_data=0.05)
    sampling: Sampling = Sampling(sampler="euler", steps=6, grid="flow")

    def __post_init__(self) -> None:
        codes = self.cell * Labels(1 + len(self.labels), self.code).channels()
        told = self.features.out_channels if self.features else self.cell * len(self.contrasts)
        if (self.network.in_channels, self.network.out_channels) != (codes + told, codes):
            raise ValueError(f"network: expected in_channels {codes + told} and out_channels {codes}, as code says")
        if self.features and (self.features.in_channels != self.cell * len(self.contrasts) or told % self.cell):
            raise ValueError(
                f"features: expected in_channels {self.cell * len(self.contrasts)} and as out_channels a multiple of "
                f"{self.cell}, the voxels that are folded into one"
            )
        if self.network.latent != (self.latent.size if self.prior == "image" else 0):
            raise ValueError("network.latent: expected latent.size where prior is 'image', else 0")
        if self.network.classes or (self.named and (self.prior != "image" or not self.raters)):
            raise ValueError("network.classes: expected 0; named: expected prior 'image' and several raters")
        if self.target == "entropy" and (self.code != "onehot" or not isinstance(self.parameterization, X0)):
            raise ValueError("target: 'entropy' needs code 'onehot' and the parameterization X0")
        if self.blank and self.prior != "image":
            raise ValueError("blank: expected 0 where prior is 'estimate', since no latent is told")
        if self.masks < 1:
            raise ValueError("masks: expected at least 1")

    @property
    def cell(self) -> int:
        """Voxels that are folded into one."""
        return math.prod(cell(self.patch, self.fold))


class CIMD(Segmentation):
    r"""A denoiser of mask codes $x = b\,c(y_r) + \sigma n$, given the image, where y_r is a random rater's mask.

    Published: the noise is predicted in pixels joined to the image; $q(z \mid image, y_r)$ and
    $p(z \mid image, \hat x_0)$ are tied by $\beta\,KL(q \| p)$ and dropped in sampling, where the noise of the walk is
    what differs. Here both are trained and saved, p sees the estimate of x0 clamped to the code's range, and the
    variance is the chain's (the release learns it).

    Ours: $q(z \mid image, y_r)$ and $p(z \mid image)$; z, moved by the rater's own offset, enters every block and is
    drawn from p in sampling, once for a volume. q is told only what a mask has beyond the expected one and adds that to
    p's mean: the latent of a few training images must not learn their masks by heart. The network's scores give
    $E[x_0] = b(2\,softmax - 1)$ and the loss is their cross-entropy, which is the posterior's proper score; the image
    is looked at once for all draws.
    """

    name = "cimd"
    Config = CIMDConfig
    components = ("network", "features", "prior", "posterior", "excess", "offsets")
    config: CIMDConfig

    def __init__(self, config: CIMDConfig) -> None:
        super().__init__(config)
        images, codes = len(config.contrasts), self.classes
        self.space = Labels(self.classes, config.code, config.scale)
        self.network = Folded(NETWORKS[config.architecture](config.network), config.fold)
        self.denoiser = Denoiser(self.network, config.parameterization)
        self.features = Features(config.features, config.fold, config.windows) if config.features else nn.Identity()
        self.prior = GaussianEncoder(
            config.latent, images if config.prior == "image" else images + self.space.channels()
        )
        self.posterior = GaussianEncoder(config.latent, codes if config.prior == "image" else images + codes)
        seen = (codes - 1) * math.prod(parts(config.patch))
        self.excess = nn.Linear(seen, config.latent.size, bias=False)
        self.offsets = nn.Embedding(config.raters, config.latent.size) if config.named else nn.Identity()

    def condition(self, example: Example) -> Condition:
        """Return the image's features, p's mean and log deviation as ``latent``, and as ``label`` who shall draw.

        Raises:
            UserError: A rater is asked for whom the model does not know.
        """
        image = example["image"].float()
        latent = self.prior(image).packed() if self.config.prior == "image" else None
        return Condition(channels=self.features(image), label=self.asked(example), latent=latent)

    def asked(self, example: Example) -> Tensor | None:
        """Return whose masks are asked for, (B,), -1 for anybody's; None where raters have no names."""
        image, known = example["image"], self.config.raters
        if not self.config.named:
            return None
        rater: Tensor = example.get("rater", torch.full((len(image),), -1))
        if int(rater.max()) >= known:
            raise UserError(f"rater {int(rater.max()) + 1}: this model knows {known}; ask for one of these or for none")
        return rater.to(image.device)

    def shifted(self, z: Tensor, whose: Tensor) -> Tensor:
        """Return latents (B, size) moved by the offsets of these raters, (B,); those of -1 stay."""
        if not self.config.named:
            return z
        return z + self.offsets(whose.clamp(min=0)) * (whose >= 0).unsqueeze(1)

    def of_all(self, z: Tensor) -> Tensor:
        """Return latents (B, size) moved by the raters' mean offset."""
        return z + self.offsets.weight.mean(0) if isinstance(self.offsets, nn.Embedding) else z

    def objectives(self) -> list[Objective]:
        """One objective: denoiser, features and both encoders together."""
        parts = [getattr(self, name) for name in self.components]
        parameters = [parameter for part in parts for parameter in part.parameters()]
        return [Objective("cimd", parameters, self.loss, at=self.loss_at, told=("nats",))]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the denoiser's loss, the weighted KL, and, told only, the nats of the most telling dimension."""
        config, count = self.config, self.config.masks
        single = [derive(key, n) for key in keys for n in range(count)]
        levels: Any = config.parameterization.levels
        sigma = levels.draw(uniform([derive(key, "sigma") for key in single]))
        hidden = uniform([derive(key, "blank") for key in single]) < config.blank
        sigma = torch.where(hidden, levels.sigma_max, sigma)
        errors, q, p = self.errors(example, keys, sigma)
        weight = config.beta / math.prod(config.patch)
        if config.anneal:
            weight *= min(1.0, (self.step + 1) / config.anneal)
        return {
            config.target: errors.mean(),
            "kl": weight * told_apart(q, p, config.free),
            "nats": divergence(q, p).detach().mean(0).max(),
        }

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the loss of each item at ``sigma`` (B,), at most the highest there is, the latent being q's."""
        highest = self.config.parameterization.levels.sigma_max
        errors, _, _ = self.errors(example, keys, sigma.clamp(max=highest).repeat_interleave(self.config.masks))
        return errors.unflatten(0, (len(keys), -1)).mean(1)

    def errors(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> tuple[Tensor, Gaussian, Gaussian]:
        """Return the error of each mask at its own noise level, (B masks,), and q and p of each."""
        config, count = self.config, self.config.masks
        single = [derive(key, n) for key in keys for n in range(count)]
        labels, whose = several(example, keys, count)
        image = example["image"].float()
        images = image.repeat_interleave(count, 0)
        features = self.features(image)
        condition = Condition(channels=features.repeat_interleave(count, 0))
        drawn = one_hot(labels, self.classes)
        if config.prior == "image":
            p = self.prior(image)
            usual = self.usual(features.detach(), p.mean.detach(), keys).repeat_interleave(count, 0)
            p = Gaussian(*(part.repeat_interleave(count, 0) for part in p))
            beyond, log_std = self.posterior(drawn - usual)
            q = Gaussian(p.mean + beyond + self.excess(excess(drawn, usual)), log_std)
            condition = replace(condition, latent=self.shifted(sampled(q.packed(), single), whose))

        x0 = self.space.encode(labels)
        noise = normal_on(x0.device, [derive(key, "noise") for key in single], x0.shape[1:])
        output = self.denoiser(x0 + broadcast(sigma.float(), x0) * noise, sigma, condition)
        if config.target == "entropy":
            errors = entropy(output, labels)
        else:
            weight = sent(config.parameterization.weight(sigma), x0.device)
            errors = weight * (output - x0).square().flatten(1).mean(1)
        if config.prior == "estimate":
            q = self.posterior(torch.cat([images, drawn], dim=1))
            p = self.prior(torch.cat([images, self.estimate(output)], dim=1))
        return errors, q, p

    @torch.no_grad()
    def usual(self, features: Tensor, mean: Tensor, keys: Sequence[Key]) -> Tensor:
        """Return the probabilities (B, classes, X, Y, Z) that noise alone leads to, at the latent's mean."""
        top: float = self.config.parameterization.levels.sigma_max
        noise = normal_on(
            features.device, [derive(key, "usual") for key in keys], (self.space.channels(), *features.shape[2:])
        )
        sigma = torch.full((len(keys),), top, dtype=torch.float64)
        latent = self.of_all(mean)
        return self.space.probabilities(
            self.estimate(self.denoiser(top * noise, sigma, Condition(channels=features, latent=latent)))
        )

    def estimate(self, output: Tensor) -> Tensor:
        """Return the estimate of x0, inside the code's range, from what the denoiser says."""
        if self.config.target == "entropy":
            return self.config.scale * (2 * output.softmax(1) - 1)
        return output.clamp(-self.config.scale, self.config.scale)

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the code's shape, one key per item."""
        image = example["image"]
        return sigma * normal(keys, (self.space.channels(), *image.shape[2:])).to(image.device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser by windows, with one latent and one rater for each key's volume; one image serves all."""
        told = shared_by(condition, len(keys))
        if told.latent is not None:
            z = sampled(told.latent, keys)
            if told.label is not None:
                drawn = (uniform([derive(key, "rater") for key in keys]) * self.config.raters).long().to(z.device)
                z = self.shifted(z, torch.where(told.label < 0, drawn, told.label))
            told = replace(told, latent=z, label=None)

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            return self.estimate(self.denoiser(x, sigma, told.window(where)))

        return tiled(inside, self.config.windows)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the mask, one-hot, (B, classes, X, Y, Z)."""
        return one_hot(self.space.decode(coords, example["image"].shape[2:]), self.classes)

    @torch.no_grad()
    def expected(self, example: Example) -> Tensor:
        """Return (B, classes, X, Y, Z) probabilities by one call, from noise alone, at p's mean and the mean offset.

        Raises:
            UserError: The model's highest noise does not hide the mask, or its outputs are no scores.
        """
        if self.config.target != "entropy" or self.config.parameterization.levels.sigma_max < 1e4 * self.config.scale:
            raise UserError("this model has no probabilities by one call: take the mean of samples")
        told = self.condition(example)
        if told.latent is not None:
            mean = told.latent.chunk(2, dim=1)[0]
            told = replace(told, latent=self.of_all(mean), label=None)
        sigma = torch.tensor(self.config.parameterization.levels.sigma_max, dtype=torch.float64)

        def inside(x: Tensor, level: Tensor, where: Window) -> Tensor:
            return self.denoiser(x, level, told.window(where)).softmax(1)

        return tiled(inside, self.config.windows)(torch.zeros_like(self.start(example, ["expected"], 1.0)), sigma)
