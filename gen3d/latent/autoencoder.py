"""The autoencoders of the latent family as systems: 3D MedDiffusion's, trained in two stages, and KL autoencoders.

3D MedDiffusion: Wang et al. 2025, https://arxiv.org/abs/2412.13059.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gen3d.core.randomness import Key, derive, normal_on
from gen3d.core.system import Objective
from gen3d.latent.adversarial import Autoencoder, AutoencoderConfig
from gen3d.latent.diagnostics import FEW_CODES, seam_index, use_of_codes
from gen3d.latent.discriminator import DiscriminatorConfig
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.kl import KL, KLConfig
from gen3d.latent.patch_volume import PatchVolume

LOOK = 1000  # steps between looks at how many codes are in use


@dataclass(frozen=True)
class PatchVolumeAutoencoderConfig(AutoencoderConfig):
    """3D MedDiffusion's autoencoder; the defaults are the published 8x one, first stage.

    Attributes:
        l1: Weight of the mean absolute error.
        network: Its shape.
        stage: "patches" trains all of it on patches; "volume" the decoder alone on larger crops or whole volumes, which
            removes the seams: encoder and codebook then stay as they are, bit for bit.
    """

    l1: float = 4.0
    network: PatchVolumeConfig = PatchVolumeConfig()
    stage: Literal["patches", "volume"] = "patches"


@dataclass(frozen=True)
class KLAutoencoderConfig(AutoencoderConfig):
    """A KL autoencoder; the weights are those that MAISI was trained with.

    Attributes:
        perceptual: The perceptual loss, if there are weights for it.
        discriminator: The judge.
        network: Its shape.
        kl: Weight of the KL term, which is summed over the latent.
    """

    discriminator: DiscriminatorConfig = DiscriminatorConfig(weight=0.1, features=0.0)
    network: KLConfig = KLConfig()
    kl: float = 1e-7


class PatchVolumeAutoencoder(Autoencoder):
    """3D MedDiffusion's autoencoder: patches are encoded one by one, quantised, and decoded together.

    Stage "patches" minimises 4 L1 + commitment + 2 perceptual + 2 adversarial + 4 feature matching over everything;
    stage "volume" the same without commitment over the decoder. Unlike the release every step trains both sides. The
    first stage is saved without averaging: its codebook belongs to the encoder of the moment.
    """

    name = "meddiffusion-ae"
    Config = PatchVolumeAutoencoderConfig
    config: PatchVolumeAutoencoderConfig

    def __init__(self, config: PatchVolumeAutoencoderConfig) -> None:
        super().__init__(config, PatchVolume(config.network))
        self.averaged, self.unit = config.stage == "volume", config.network.patch

    def objectives(self) -> list[Objective]:
        """The autoencoder or its decoder, and the discriminator; the second stage freezes the codebook."""
        codebook = self.network.codebook
        codebook.freeze(self.config.stage == "volume")
        if self.config.stage == "volume" and not codebook.initialised.is_meta and not bool(codebook.initialised):
            warnings.warn(
                "stage 'volume' trains the decoder of an encoder that was never trained; start it with init: RUN/model "
                "of stage 'patches'",
                stacklevel=2,
            )
        return super().objectives()

    def trained(self) -> list[nn.Parameter]:
        """Return all parameters, or in the second stage those of what follows the codebook."""
        if self.config.stage == "patches":
            return list(self.network.parameters())
        return list(self.network.decoder.parameters())

    def passed(self, real: Tensor, keys: Sequence[Key]) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode, quantise and decode; the first stage learns the codebook in passing."""
        network = self.network
        if self.config.stage == "volume":
            with torch.no_grad():
                quantised = network.quantise(network.encode(real))[1]
            made = network.decode(quantised)
            return made, {"seams": seam_index(made.detach() - real, network.config.patch)}
        if real.is_meta:  # a codebook learns from what it sees, and counts it
            network.codebook.eval()
        found = network(real)
        terms = {"commitment": found.commitment}
        if not real.is_meta:
            terms["perplexity"] = network.codebook.perplexity(found.codes)
            if self.training and torch.is_grad_enabled() and self.step % LOOK == LOOK - 1:
                self.look(found.codes)
        return found.voxels, terms

    def look(self, codes: Tensor) -> None:
        """Warn where few codes are in use."""
        share = use_of_codes(self.network.codebook, codes)
        if share < FEW_CODES:
            warnings.warn(
                f"step {self.step}: the codebook is used as if it had {share:.1%} of its codes; "
                "it has collapsed: lower train.lr, or let the discriminator start later",
                stacklevel=2,
            )


class KLAutoencoder(Autoencoder):
    r"""A KL autoencoder: L1 + 1e-7 KL + perceptual + adversarial, decoded from a sample $\mu + \sigma n$."""

    name = "kl-ae"
    Config = KLAutoencoderConfig
    config: KLAutoencoderConfig

    def __init__(self, config: KLAutoencoderConfig) -> None:
        super().__init__(config, KL(config.network))

    def passed(self, real: Tensor, keys: Sequence[Key]) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode, draw a latent by the items' keys, decode."""
        mean, deviation = self.network.moments(real)
        noise = normal_on(mean.device, [derive(key, "latent") for key in keys], mean.shape[1:])
        x, y, z = real.shape[2:]
        made = self.network.voxels(mean + deviation * noise)[..., :x, :y, :z]
        variance = deviation.square()
        kl = 0.5 * (mean.square() + variance - variance.clamp_min(1e-30).log() - 1).flatten(1).sum(1).mean()
        return made, {"kl": self.config.kl * kl}
