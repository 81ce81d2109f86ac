"""Phase 1 of DiffusionCT: an autoencoder of CT in any kernel (Selim et al. 2023, https://arxiv.org/abs/2301.08815)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import pad_to_stride
from gen3d.core.error import UserError
from gen3d.core.parameterization import X0, Parameterization
from gen3d.core.precision import precision_context
from gen3d.core.randomness import Key, derive, uniform
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.core.wrap import Denoise
from gen3d.latent.ct import CT
from gen3d.latent.kernel_pairs import UNIT_HU, Simulation
from gen3d.latent.plane import planar
from gen3d.nn.block import Stack
from gen3d.nn.conv import Conv, enlarge, halving, shrink, zeroed
from gen3d.nn.norm import norm_silu


@dataclass(frozen=True)
class UNetAutoencoderConfig:
    """The shape of DiffusionCT's autoencoder; level i has ``width * multipliers[i]`` channels at 1 / 2**i of the size.

    Attributes:
        width: Channels at full size.
        multipliers: Of the levels.
        blocks: Residual blocks a level and way.
        latent_channels: Of the bottleneck.
        groups: At most so many in a norm.
        plane: Whether convolutions stay within the slice: no weights across slices, for 2D models.
        shortcut: Whether pixels also go straight into the latent and back, stride x stride of them side by side as
            channels (averaged in groups where they outnumber the latent's): what is learnt is a departure from that.
            Ours, after Chen et al. 2025 (https://arxiv.org/abs/2410.10733); few steps of training then suffice.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    latent_channels: int = 16
    groups: int = 32
    plane: bool = True
    shortcut: bool = False
    kind: Literal["unet"] = "unet"

    @property
    def channels(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.width * m for m in self.multipliers]


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), (B, C, X, Y, Z) both."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm_silu(channels, groups),
            Conv(channels, channels),
            norm_silu(channels, groups),
            Conv(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = x + self.body(x)
        return h


class UNetAutoencoder(nn.Module):
    """(B, 1, X, Y, Z) -> latent (B, c, x, y, z) at 1 / stride of the size -> (B, 1, X, Y, Z).

    The two ways of a U-Net without its skips. The paper calls its encoder-decoder U-Net-based and puts the diffusion at
    the bottleneck; a skip would carry the source's kernel past the diffusion to the decoder, so that here the latent is
    all that the decoder is given. It has about as many numbers as the slice has pixels: noise texture is to survive.
    """

    def __init__(self, config: UNetAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = 2 ** (len(config.multipliers) - 1)
        self.latent_channels = config.latent_channels
        self.compute_dtype = torch.float32
        channels = config.channels

        def level(c: int) -> Stack[Block]:
            return Stack(Block(c, config.groups) for _ in range(config.blocks))

        self.stem = Conv(1, channels[0])
        self.down = Stack(level(c) for c in channels)
        self.widen = Stack(Conv(before, after, kernel=1) for before, after in pairwise(channels))
        self.to_latent = Conv(channels[-1], config.latent_channels, kernel=1)
        self.from_latent = Conv(config.latent_channels, channels[-1], kernel=1)
        self.up = Stack(level(c) for c in channels)
        self.narrow = Stack(Conv(after, before, kernel=1) for before, after in pairwise(channels))
        self.out_norm = norm_silu(channels[0], config.groups)
        self.out = Conv(channels[0], 1)
        if config.plane:
            planar(self)
        if config.shortcut:
            zeroed(self.to_latent)
            zeroed(self.out)

    def moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the latent of (B, 1, X, Y, Z), padded to whole strides; deviations are 0."""
        with precision_context(volume.device, self.compute_dtype):
            x = pad_to_stride(volume, self.stride)
            factor = halving(x)
            h = self.stem(x)
            for i, blocks in enumerate(self.down):
                if i:
                    h = self.widen[i - 1](shrink(h, factor))
                for block in blocks:
                    h = block(h)
            latent = self.to_latent(h).float()
        if self.config.shortcut:
            latent = latent + folded(x.float(), self.stride, self.latent_channels)
        return latent, torch.zeros_like(latent)

    def voxels(self, latent: Tensor) -> Tensor:
        """Decode (B, c, x, y, z) -> (B, 1, X, Y, Z), whole strides."""
        with precision_context(latent.device, self.compute_dtype):
            factor = halving(latent)
            h = self.from_latent(latent)
            for i, blocks in reversed(list(enumerate(self.up))):
                for block in blocks:
                    h = block(h)
                if i:
                    h = enlarge(self.narrow[i - 1](h), factor)
            volume = self.out(self.out_norm(h)).float()
        return volume + unfolded(latent.float(), self.stride) if self.config.shortcut else volume

    def forward(self, volume: Tensor) -> Tensor:
        """Encode and decode, (B, 1, X, Y, Z) both."""
        x, y, z = volume.shape[2:]
        return self.voxels(self.moments(volume)[0])[..., :x, :y, :z]


def folded(volume: Tensor, stride: int, channels: int) -> Tensor:
    """Put the voxels of each block side by side as channels, means of groups where there are more than ``channels``.

    (B, 1, X, Y, Z) -> (B, channels, x, y, z); blocks have length 1 along an axis of length 1.
    """
    x, y, z = (1 if n == 1 else stride for n in volume.shape[2:])
    h = volume[:, 0].unflatten(3, (-1, z)).unflatten(2, (-1, y)).unflatten(1, (-1, x))
    h = h.permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)
    if h.shape[1] % channels:
        raise ValueError(f"shortcut: {h.shape[1]} voxels of a block can't be shared by {channels} latent channels")
    return h.unflatten(1, (channels, -1)).mean(2)


def unfolded(latent: Tensor, stride: int) -> Tensor:
    """Undo ``folded``, (B, c, x, y, z) -> (B, 1, X, Y, Z); each voxel takes the mean of its group."""
    x, y, z = (1 if n == 1 else stride for n in latent.shape[2:])
    h = latent.repeat_interleave(x * y * z // latent.shape[1], dim=1).unflatten(1, (x, y, z))
    return h.permute(0, 4, 1, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, None]


@dataclass(frozen=True)
class DiffusionCTAutoencoderConfig:
    """Configuration of phase 1.

    Attributes:
        contrasts: One, "ct".
        axes: Axis codes of the arrays; kernels act in the plane of the first two.
        offset_hu: What is added to the files' voxels to make Hounsfield units: -1024 where they are stored above 0.
        network: The autoencoder's shape.
        patch: Voxels of a training patch, (X, Y, Z); Z = 1 is 2D, as in the paper.
        simulation: How images are drawn; the autoencoder sees sources and targets alike.
        parameterization: Not used: an autoencoder has no noise levels.
        sampling: Not used.
    """

    contrasts: tuple[str, ...] = ("ct",)
    axes: str = "LPS"
    offset_hu: float = 0.0
    network: UNetAutoencoderConfig = UNetAutoencoderConfig()
    patch: Triple = (128, 128, 1)
    simulation: Simulation = Simulation()
    parameterization: Parameterization = X0()
    sampling: Sampling = Sampling()


class DiffusionCTAutoencoder(CT):
    """Phase 1: the mean absolute error between an image in any kernel and what comes back of it."""

    name = "diffusionct-ae"
    Config = DiffusionCTAutoencoderConfig
    components = ("network",)
    config: DiffusionCTAutoencoderConfig

    def __init__(self, config: DiffusionCTAutoencoderConfig) -> None:
        super().__init__(config)
        self.network = UNetAutoencoder(config.network)

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return ``voxels`` (1, 1, X, Y, Z): a source or target patch by chance, or the whole volume."""
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        if key is None:
            return {"voxels": torch.from_numpy(np.array(prepared.voxels, np.float32))[None], "prepared": prepared}
        pair = self.config.simulation.draw(prepared, self.config.patch, key)
        which = "target" if float(uniform([derive(key, "which")])) < 0.3 else "source"
        return {"voxels": pair[which][None]}

    def objectives(self) -> list[Objective]:
        """One objective: the network."""
        return [Objective("autoencoder", list(self.network.parameters()), self.loss)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the mean absolute error in hundreds of HU."""
        return {"error": (self.network(example["voxels"]) - example["voxels"]).abs().mean() * (UNIT_HU / 100)}

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: an autoencoder makes nothing."""
        raise UserError("this model is an autoencoder and makes no scans: train diffusionct on it")

    def condition(self, example: Example) -> Condition:
        """Return nothing."""
        return Condition()

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return the image's latent: there is no noise."""
        return self.network.moments(example["voxels"])[0]

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return what changes nothing."""
        return lambda x, sigma: x

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the reconstruction, (B, 1, X, Y, Z)."""
        x, y, z = example["voxels"].shape[2:]
        return self.network.voxels(coords)[..., :x, :y, :z]
