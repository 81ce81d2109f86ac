"""The Patch-Volume autoencoder of 3D MedDiffusion (Wang et al. 2025): encodes patches, decodes volumes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gen3d.core.denoiser import pad_to_stride
from gen3d.core.error import UserError
from gen3d.latent.codebook import Codebook
from gen3d.latent.decoding import Statistics, decode_bounded
from gen3d.latent.halves import Decoder, Encoder, PatchVolumeConfig


class Reconstruction(NamedTuple):
    """What training an autoencoder needs of one pass.

    Attributes:
        voxels: (B, C, X, Y, Z).
        codes: (B, x, y, z).
        commitment: What draws the latent to its codes, already weighted.
    """

    voxels: Tensor
    codes: Tensor
    commitment: Tensor


class PatchVolume(nn.Module):
    """Voxels (B, C, X, Y, Z) to a latent (B, c, X / stride, ...) patch by patch, and back as one volume.

    Attributes:
        stride: Voxels per latent voxel along an axis.
        latent_channels: c.
        memory: Bytes that decoding without a gradient may take besides the weights; None: the whole volume at once.
        statistics: Whose the norms' statistics are where ``memory`` bounds decoding: see ``decode_bounded``.
    """

    def __init__(self, config: PatchVolumeConfig) -> None:
        super().__init__()
        self.config = config
        self.stride, self.latent_channels = config.stride, config.latent_channels
        self.memory: int | None = None
        self.statistics: Statistics = "volume"
        self.encoder = Encoder(config)
        self.codebook = Codebook(
            config.codes,
            config.latent_channels,
            decay=config.decay,
            restart=config.restart,
            commitment=config.commitment,
        )
        self.decoder = Decoder(config)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def encode(self, volume: Tensor) -> Tensor:
        """Return the latent before quantisation, every patch of ``config.patch`` voxels encoded by itself.

        Raises:
            UserError: The volume is smaller than a patch, or no whole number of patches; ``moments`` pads.
        """
        patch, size = self.config.patch, volume.shape[2:]
        _hold_a_patch(size, patch)
        if any(n % patch for n in size):
            raise UserError(f"a volume of {_by(size)} voxels is no whole number of patches of {_by([patch] * 3)}")
        counts = [n // patch for n in size]
        patches = volume.reshape(*volume.shape[:2], counts[0], patch, counts[1], patch, counts[2], patch)
        patches = patches.permute(2, 4, 6, 0, 1, 3, 5, 7).flatten(0, 3)
        latents = torch.cat([self.encoder(part) for part in patches.split(volume.shape[0])])
        latents = latents.unflatten(0, (*counts, volume.shape[0])).permute(3, 4, 0, 5, 1, 6, 2, 7)
        return latents.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def quantise(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of the nearest codes (B, x, y, z) and the codes themselves (B, c, x, y, z)."""
        codes = self.codebook.nearest(latent)
        return codes, self.codebook.lookup(codes)

    def decode(self, quantised: Tensor) -> Tensor:
        """Return the volume (B, C, X, Y, Z) of a quantised latent of any size.

        Raises:
            UserError: ``memory`` is too little for one tile.
        """
        if self.memory is None or torch.is_grad_enabled():
            return self.decoder(quantised)
        return decode_bounded(self.decoder, quantised, self.memory, self.statistics)

    def forward(self, volume: Tensor) -> Reconstruction:
        """Encode, quantise (in training the codebook learns, if it is not frozen) and decode whole patches."""
        vectors, codes, commitment = self.codebook(self.encode(volume))
        return Reconstruction(self.decode(vectors), codes, commitment)

    def moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent and its deviation, which is 0, of a volume of any size from one patch up.

        The far ends are lengthened to whole patches by repeating the edge.

        Raises:
            UserError: The volume is smaller than a patch.
        """
        _hold_a_patch(volume.shape[2:], self.config.patch)
        mean = self.encode(pad_to_stride(volume, self.config.patch))
        return mean, torch.zeros_like(mean)

    def voxels(self, latent: Tensor) -> Tensor:
        """Return the volume of a latent: quantise it, then decode."""
        return self.decode(self.quantise(latent)[1])


def _hold_a_patch(size: Sequence[int], patch: int) -> None:
    if min(size) < patch:
        raise UserError(
            f"a volume of {_by(size)} voxels is smaller than a patch of {_by([patch] * 3)}, which this autoencoder "
            "encodes at once; pad the volume, resample it finer, or train one with a smaller patch"
        )


def _by(size: Sequence[int]) -> str:
    return " x ".join(str(n) for n in size)
