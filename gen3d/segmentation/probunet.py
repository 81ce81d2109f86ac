"""The probabilistic U-Net (Kohl et al. 2018, https://arxiv.org/abs/1806.05034), a baseline without diffusion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.parameterization import X0, FlowTime, Parameterization
from gen3d.core.randomness import Key, derive, normal
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.wrap import Denoise
from gen3d.nn.conv import Conv
from gen3d.nn.unet import UNetConfig
from gen3d.segmentation.cases import Segmentation, SegmentationConfig
from gen3d.segmentation.latents import (
    Features,
    GaussianEncoder,
    LatentConfig,
    at_least,
    cell,
    divergence,
    entropy,
    one_hot,
    sampled,
    several,
    shared_by,
)
from gen3d.spaces.labels import Labels


@dataclass(frozen=True)
class ProbUNetConfig(SegmentationConfig):
    """Configuration of a probabilistic U-Net.

    Attributes:
        fold: See ``CIMDConfig``.
        features: The U-Net, which sees the image; its channels are those of folded voxels.
        width: Channels of the 1 x 1 x 1 convolutions that join its features and the latent.
        latent: The shape of the two encoders.
        beta: Weight of the KL divergence, 1 being that of the evidence bound, as published.
        free: Nats of each dimension that cost nothing.
        masks: Different raters' masks that are learnt from in one example.
        parameterization: Says only where a sampler's grid begins and ends; one step is all there is to walk.
        sampling: One call.
    """

    fold: int = 2
    features: UNetConfig = UNetConfig(
        in_channels=8, out_channels=64, width=20, multipliers=(1, 2, 3), blocks=1, groups=4
    )
    width: int = 16
    latent: LatentConfig = LatentConfig(coarse=1)
    beta: float = 1.0
    free: float = 0.0
    masks: int = 4
    parameterization: Parameterization = X0(FlowTime())
    sampling: Sampling = Sampling(sampler="euler", steps=1, grid="flow")

    def __post_init__(self) -> None:
        needed = self.cell * len(self.contrasts)
        if self.features.in_channels != needed or self.features.out_channels % self.cell:
            raise ValueError(f"features: expected in_channels {needed} and as out_channels a multiple of {self.cell}")

    @property
    def cell(self) -> int:
        """Voxels that are folded into one."""
        return math.prod(cell(self.patch, self.fold))


class Head(nn.Module):
    """Features (B, k, X, Y, Z) and a latent (B, size), the same everywhere -> scores (B, classes, X, Y, Z)."""

    def __init__(self, features: int, latent: int, width: int, classes: int) -> None:
        super().__init__()
        sizes = (features + latent, width, width)
        self.layers = nn.Sequential(
            *(part for i, o in pairwise(sizes) for part in (Conv(i, o, kernel=1), nn.SiLU())),
            Conv(width, classes, kernel=1),
        )

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        z = latent[..., None, None, None].expand(-1, -1, *features.shape[2:])
        scores: Tensor = self.layers(torch.cat([features, z], dim=1))
        return scores


class ProbUNet(Segmentation):
    r"""Scores from a U-Net's features and a latent that is the same everywhere.

    Trained on $CE(y_r, s(image, z)) + \beta\,KL(q(z \mid image, y_r) \| p(z \mid image))$ with z from q, sampled with
    z from p.
    """

    name = "probunet"
    Config = ProbUNetConfig
    components = ("features", "head", "prior", "posterior")
    config: ProbUNetConfig

    def __init__(self, config: ProbUNetConfig) -> None:
        super().__init__(config)
        images = len(config.contrasts)
        self.space = Labels(self.classes)
        self.features = Features(config.features, config.fold, config.windows)
        self.head = Head(config.features.out_channels // config.cell, config.latent.size, config.width, self.classes)
        self.prior = GaussianEncoder(config.latent, images)
        self.posterior = GaussianEncoder(config.latent, images + self.classes)

    def condition(self, example: Example) -> Condition:
        """Return the image's features, and the prior's mean and log deviation as ``latent``."""
        image = example["image"].float()
        return Condition(channels=self.features(image), latent=self.prior(image).packed())

    def objectives(self) -> list[Objective]:
        """One objective for all of it."""
        parameters = [parameter for name in self.components for parameter in getattr(self, name).parameters()]
        return [Objective("probunet", parameters, self.loss, told=("nats",))]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return cross-entropy, weighted KL, and, told only, the nats of the most telling dimension."""
        count, image = self.config.masks, example["image"].float()
        labels, _ = several(example, keys, count)
        images = image.repeat_interleave(count, 0)
        q = self.posterior(torch.cat([images, one_hot(labels, self.classes)], dim=1))
        p = self.prior(image)
        nats = divergence(q, type(p)(*(part.repeat_interleave(count, 0) for part in p)))
        z = sampled(q.packed(), [derive(key, n) for key in keys for n in range(count)])
        scores = self.head(self.features(image).repeat_interleave(count, 0), z)
        return {
            "entropy": entropy(scores, labels).mean(),
            "kl": self.config.beta / math.prod(self.config.patch) * at_least(nats, self.config.free),
            "nats": nats.detach().mean(0).max(),
        }

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the code's shape, which nothing looks at."""
        image = example["image"]
        return sigma * normal(keys, (self.classes, *image.shape[2:])).to(image.device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the answer, whatever is asked: the code of the probabilities with each key's latent."""
        told = shared_by(condition, len(keys))
        assert told.channels is not None
        assert told.latent is not None
        features, z = told.channels, sampled(told.latent, keys)
        return lambda x, sigma: self.code(features, z)

    def code(self, features: Tensor, z: Tensor) -> Tensor:
        """Return 2 softmax - 1."""
        return 2 * self.head(features, z).softmax(1) - 1

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the mask, one-hot, (B, classes, X, Y, Z)."""
        return one_hot(self.space.decode(coords, example["image"].shape[2:]), self.classes)

    @torch.no_grad()
    def expected(self, example: Example) -> Tensor:
        """Return the probabilities at the prior's mean, (B, classes, X, Y, Z)."""
        told = self.condition(example)
        assert told.channels is not None
        assert told.latent is not None
        return self.head(told.channels, told.latent.chunk(2, dim=1)[0]).softmax(1)
