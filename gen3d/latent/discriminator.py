"""The PatchGAN that judges reconstructions (Isola et al. 2017; feature matching: Wang et al. 2018, pix2pixHD)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.error import UserError
from gen3d.core.precision import precision_context


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The judge and its say; the defaults are those of 3D MedDiffusion's autoencoder.

    Attributes:
        weight: Of the adversarial loss; 0 builds no discriminator.
        features: Weight of feature matching.
        start: First step at which it is trained; reconstructions are judged from the next step on.
        width: Channels of its first layer, doubled by each of the others.
        layers: Layers after the first; all but the last of them halve the size too.
    """

    weight: float = 2.0
    features: float = 4.0
    start: int = 0
    width: int = 32
    layers: int = 3


class Discriminator(nn.Module):
    """Tells of every patch of a volume whether it is real.

    MONAI's has another last layer (padding 1) than the published one, and its hinge loss first squashes the answer by
    tanh; this one also trains where there is torch and no more.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [min(config.width * 2**layer, 512) for layer in range(config.layers + 1)]
        blocks = [nn.Sequential(nn.Conv3d(1, widths[0], 4, stride=2, padding=2), nn.LeakyReLU(0.2))]
        for layer, (before, after) in enumerate(pairwise(widths)):
            stride = 1 if layer == config.layers - 1 else 2
            convolution = nn.Conv3d(before, after, 4, stride=stride, padding=2)
            blocks.append(nn.Sequential(convolution, nn.BatchNorm3d(after), nn.LeakyReLU(0.2)))
        self.blocks = nn.ModuleList([*blocks, nn.Conv3d(widths[-1], 1, 4, padding=2)])
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.compute_dtype = torch.float32

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Judge a volume (B, 1, X, Y, Z): return the features of every layer, float32, the last of them the answer."""
        features = []
        with precision_context(volume.device, self.compute_dtype):
            volume = volume.to(memory_format=torch.channels_last_3d)
            for block in self.blocks:
                volume = block(volume)
                features.append(volume.float())
        return features


class NoDiscriminator(nn.Module):
    """Stands where no reconstruction is judged."""

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Refuse."""
        raise UserError("this autoencoder has no discriminator; train with model.discriminator.weight above 0")


def build_discriminator(config: DiscriminatorConfig) -> nn.Module:
    """Return the discriminator, if its judgement has a weight."""
    return Discriminator(config) if config.weight else NoDiscriminator()


def hinge(real: Tensor, made: Tensor) -> Tensor:
    r"""Return $\frac12 E[\max(0, 1 - D(x))] + \frac12 E[\max(0, 1 + D(\hat x))]$, what the discriminator minimises."""
    return 0.5 * (nnf.relu(1 - real).mean() + nnf.relu(1 + made).mean())


def matching(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Return the sum of mean absolute differences of the features of all layers but the last."""
    differences = [nnf.l1_loss(b, a.detach()) for a, b in zip(real[:-1], made[:-1], strict=True)]
    total = differences[0]
    for difference in differences[1:]:
        total = total + difference
    return total
