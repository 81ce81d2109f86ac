"""The two halves of the Patch-Volume autoencoder, each a whole network for which precision is entered once."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.precision import precision_context
from gen3d.nn.block import Stack
from gen3d.nn.conv import Conv, slow_on_cpu
from gen3d.nn.norm import GroupNormSiLU, known_channels_last
from gen3d.nn.recompute import recomputed


@dataclass(frozen=True)
class PatchVolumeConfig:
    """Shape of a Patch-Volume autoencoder; the defaults are the official 8x release, ``stride=4`` is the 4x one.

    Level i of log2(stride) + 1 has ``width * 2**i`` channels at 1 / 2**i of the size, the coarsest as many as the one
    before. ``patch``: voxels along each axis of what is encoded by itself. ``groups``: at most this many in a norm.
    ``codes``, ``decay``, ``restart``, ``commitment``: see ``Codebook``.
    """

    kind: Literal["patch_volume"] = "patch_volume"
    image_channels: int = 1
    width: int = 48
    stride: int = 8
    latent_channels: int = 8
    codes: int = 8192
    patch: int = 64
    groups: int = 24
    heads: int = 4
    head_width: int = 32
    decay: float = 0.99
    restart: float = 1.0
    commitment: float = 0.25

    def __post_init__(self) -> None:
        if self.stride < 2 or self.stride & (self.stride - 1):
            raise ValueError(f"stride must be a power of 2, such as 4 or 8, not {self.stride}")
        if self.patch < self.stride or self.patch % self.stride:
            raise ValueError(f"patch must be a multiple of stride ({self.stride}), not {self.patch}")
        if self.restart <= 0:
            raise ValueError(f"restart must be above 0, not {self.restart}")

    @property
    def channels(self) -> list[int]:
        """Channels of each level, finest first."""
        widths = [self.width * 2**i for i in range(int(math.log2(self.stride)))]
        return [*widths, widths[-1]]


class Encoder(nn.Module):
    """(B, C, X, Y, Z) -> (B, c, X / stride, ...), float32: down the levels, then attention, then to c channels."""

    def __init__(self, config: PatchVolumeConfig) -> None:
        super().__init__()
        self.compute_dtype, self.recompute = torch.float32, 0
        channels = config.channels
        self.stem = Conv(config.image_channels, channels[0])
        self.levels = _levels([channels[0], *channels], config)
        self.shrink = Stack(Halve(c, c, 4, stride=2, padding=1) for c in channels[:-1])
        self.middle = _middle(channels[-1], config)
        self.out_norm = _norm_silu(channels[-1], config)
        self.out = Conv(channels[-1], config.latent_channels)
        self.pre = Conv(config.latent_channels, config.latent_channels, kernel=1)

    def forward(self, volume: Tensor) -> Tensor:
        with precision_context(volume.device, self.compute_dtype):
            h = self.stem(_entering(volume, self.compute_dtype))
            for level, blocks in enumerate(self.levels):
                h = self.shrink[level - 1](h) if level else h
                for block in blocks:
                    h = recomputed(level < self.recompute, block, h)
            h = self.pre(self.out(self.out_norm(self.middle(h))))
        return h.float()


class Decoder(nn.Module):
    """(B, c, x, y, z) -> (B, C, stride * x, ...), float32: attention at the coarsest level, then up the levels.

    ``head`` needs the whole latent; all that follows it looks at neighbours and at the norms' statistics only.

    Attributes:
        stride: Voxels per latent voxel along an axis.
        channels: Channels of each level, coarsest first.
        inner: Channels of queries, keys and values each.
        silu_last: Whether SiLU stands between the last norm and the last convolution.
        reach: Input planes beside its own that a plane of an enlarged volume depends on.
    """

    silu_last, reach = True, 1

    def __init__(self, config: PatchVolumeConfig) -> None:
        super().__init__()
        self.compute_dtype, self.recompute = torch.float32, 0
        self.stride, self.inner = config.stride, config.heads * config.head_width
        self.channels = channels = config.channels[::-1]
        self.post = Conv(config.latent_channels, config.latent_channels, kernel=1)
        self.stem = Conv(config.latent_channels, channels[0])
        self.middle = _middle(channels[0], config)
        self.levels = _levels([channels[0], *channels], config)
        self.enlarge = Stack(nn.ConvTranspose3d(c, c, 4, stride=2, padding=1) for c in channels[:-1])
        self.out_norm = _norm_silu(channels[-1], config)
        self.out = Conv(channels[-1], config.image_channels)

    def forward(self, quantised: Tensor) -> Tensor:
        with precision_context(quantised.device, self.compute_dtype):
            return self.tail(self.head(quantised)).float()

    def head(self, quantised: Tensor) -> Tensor:
        """Do what comes before the levels; called within the precision context."""
        return self.middle(self.stem(self.post(_entering(quantised, self.compute_dtype))))

    def tail(self, h: Tensor) -> Tensor:
        """Do what comes after ``head``; called within the precision context."""
        for level, blocks in enumerate(self.levels):
            h = self.enlarge[level - 1](h) if level else h
            for block in blocks:
                h = recomputed(len(self.levels) - 1 - level < self.recompute, block, h)
        return self.out(self.out_norm(h))


class ResidualBlock(nn.Module):
    """skip(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))): (B, inputs, X, Y, Z) -> (B, outputs, X, Y, Z)."""

    def __init__(self, inputs: int, outputs: int, config: PatchVolumeConfig) -> None:
        super().__init__()
        self.norm1 = _norm_silu(inputs, config)
        self.conv1 = Conv(inputs, outputs)
        self.norm2 = _norm_silu(outputs, config)
        self.conv2 = Conv(outputs, outputs)
        self.skip = nn.Identity() if inputs == outputs else Conv(inputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return known_channels_last(self.skip(x) + self.conv2(self.norm2(self.conv1(self.norm1(x)))))


class Attention(nn.Module):
    r"""Attention between all voxels, $x + W_{out}\, softmax(q^T k / \sqrt d)\, v$: (B, C, X, Y, Z) both.

    No matrix of all pairs is kept.
    """

    def __init__(self, channels: int, config: PatchVolumeConfig) -> None:
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_width
        self.norm = nn.GroupNorm(math.gcd(config.groups, channels), channels, eps=1e-6)
        self.qkv = nn.Linear(channels, 3 * inner, bias=False)
        self.out = Conv(inner, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        voxels = self.norm(x).movedim(1, -1).flatten(1, -2)
        q, k, v = self.qkv(voxels).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = nnf.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return known_channels_last(x + self.out(y.unflatten(1, x.shape[2:]).movedim(-1, 1)))


class Halve(nn.Conv3d):
    """A strided convolution that keeps channels last on CPUs too."""

    def forward(self, x: Tensor) -> Tensor:
        if slow_on_cpu(x):
            return torch.mkldnn_convolution(x, self.weight, self.bias, (1, 1, 1), (2, 2, 2), (1, 1, 1), 1)
        return super().forward(x)


def _levels(channels: list[int], config: PatchVolumeConfig) -> Stack[Stack[ResidualBlock]]:
    return Stack(
        Stack(ResidualBlock(i, o, config) for i, o in ((before, after), (after, after)))
        for before, after in pairwise(channels)
    )


def _middle(channels: int, config: PatchVolumeConfig) -> nn.Sequential:
    def block() -> ResidualBlock:
        return ResidualBlock(channels, channels, config)

    return nn.Sequential(block(), Attention(channels, config), block())


def _norm_silu(channels: int, config: PatchVolumeConfig) -> GroupNormSiLU:
    return GroupNormSiLU(math.gcd(config.groups, channels), channels, eps=1e-6)


def _entering(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype, memory_format=torch.channels_last_3d)
