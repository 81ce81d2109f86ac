"""The latent space of an autoencoder: approximate, with the latents' shift and scale saved beside the networks."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

NOISY = 0.1  # share of the latents' variance that is the encoder's noise, from which measuring warns


class Autoencoder(Protocol):
    """What an autoencoder offers: ``stride`` voxels for a latent voxel, ``latent_channels``, and two maps."""

    stride: int
    latent_channels: int

    def moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, X, Y, Z) -> mean and standard deviation of the latent, (B, c, x, y, z) each."""

    def voxels(self, latent: Tensor) -> Tensor:
        """(B, c, x, y, z) -> (B, 1, X, Y, Z)."""


class Latent(nn.Module):
    """coords = (mean - shift) / scale: (B, C, X, Y, Z) -> (B, C * c, x, y, z), each image channel encoded by itself.

    The autoencoder is not part of this module: whoever builds both saves and moves both.

    Attributes:
        shift: Of each latent channel, (c,).
        scale: Of each latent channel, (c,).

    Args:
        autoencoder: Any module with ``moments`` and ``voxels``.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.held = (autoencoder,)  # in a tuple, so that its weights are not saved twice
        self.stride = autoencoder.stride
        self.register_buffer("shift", torch.zeros(autoencoder.latent_channels))
        self.register_buffer("scale", torch.ones(autoencoder.latent_channels))

    shift: Tensor
    scale: Tensor

    def encode(self, voxels: Tensor) -> Tensor:
        """Return the normalised mean of the latent; the autoencoder pads to whole latent voxels or patches."""
        mean, _ = self.held[0].moments(voxels.float().flatten(0, 1)[:, None])
        return self.normalise(mean).unflatten(0, voxels.shape[:2]).flatten(1, 2)

    def decode(self, coords: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Undo ``encode`` as well as the autoencoder can, cropped to ``size`` (X, Y, Z)."""
        latent = coords.float().unflatten(1, (-1, len(self.shift)))
        shift, scale = self._statistics()
        voxels = self.held[0].voxels(latent.flatten(0, 1) * scale + shift)
        voxels = voxels.unflatten(0, latent.shape[:2]).flatten(1, 2)
        return voxels if size is None else voxels[..., : size[0], : size[1], : size[2]]

    def normalise(self, mean: Tensor) -> Tensor:
        """Return latents of one image channel, such as cached means, as coordinates, (B, c, x, y, z) both."""
        shift, scale = self._statistics()
        return (mean - shift) / scale

    def channels(self, count: int, size: Sequence[int] | None = None) -> int:
        """Return the channels that ``count`` image channels become."""
        return count * len(self.shift)

    def shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return the grid of the coordinates of a volume of ``size``, padded to whole patches where there are any."""
        step = int(getattr(getattr(self.held[0], "config", None), "patch", self.stride))
        x, y, z = (-(-n // step) * step // self.stride for n in size)
        return x, y, z

    @torch.no_grad()
    def measure(self, moments: Iterable[tuple[Tensor, Tensor]]) -> float:
        r"""Set shift and scale of each channel to mean and deviation of the latents of the training set.

        By the law of total variance $scale^2 = Var[\mu] + E[\sigma^2]$: what a sample $\mu + \sigma n$ would have.

        Args:
            moments: Mean and standard deviation, (B, c, x, y, z) each.

        Returns:
            The share of the variance that is noise, $E[\sigma^2] / scale^2$, mean over the channels. A warning is given
            from 10 % on: no model of samples could learn it (of MAISI's released CT latents it is 27.5 %).

        Raises:
            ValueError: There are none.
        """
        count, sums = 0, torch.zeros(3, len(self.shift), dtype=torch.float64)
        for mean, deviation in moments:
            rows = mean.double().transpose(0, 1).flatten(1).cpu()
            noise = deviation.double().transpose(0, 1).flatten(1).cpu()
            count += rows.shape[1]
            sums += torch.stack([rows.sum(1), rows.square().sum(1), noise.square().sum(1)])
        if not count:
            raise ValueError("no latents to measure")
        shift, square, noise = sums / count
        variance = (square - shift.square()).clamp_min(0) + noise
        self.shift.copy_(shift)
        self.scale.copy_(variance.clamp_min(1e-12).sqrt())
        share = float((noise / variance.clamp_min(1e-12)).mean())
        if share >= NOISY:
            warnings.warn(
                f"{share:.1%} of the latents' variance is the autoencoder's own noise, which nothing can learn; "
                "train it with a smaller weight of its KL term",
                stacklevel=2,
            )
        return share

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.shift.view(-1, 1, 1, 1), self.scale.view(-1, 1, 1, 1)
