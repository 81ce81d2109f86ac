"""WDM's second network: a U-Net whose levels are joined by wavelet subbands (Friedrich et al. 2024, ``use_freq``)."""

from functools import partial

import torch
from torch import Tensor, nn

from gen3d.nn.block import ResidualBlock, Stack
from gen3d.nn.conv import Conv
from gen3d.nn.embedding import Embedding
from gen3d.nn.haar import haar, inverse_haar, split_axes
from gen3d.nn.norm import known_channels_last, norm_silu
from gen3d.nn.recompute import recomputed
from gen3d.nn.unet import UNetConfig

LOW = 3.0


class WaveletUNet(nn.Module):
    """(B, in_channels, X, Y, Z) and times (B,) -> (B, out_channels, X, Y, Z).

    Each level ends in a Haar transform: LLL / 3 goes down, the details of the main branch wait for the inverse
    transform on the way up. The input comes along as a pyramid, transformed and convolved at every level. As
    published, the last two residual blocks before each inverse transform are one block, called twice.
    X, Y and Z are multiples of ``stride`` or 1; an axis of length 1 is never split. The finest ``recompute`` levels are
    computed again in the backward pass.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        if config.blocks < 2:
            raise ValueError("a wavelet U-Net needs at least two blocks per level: the last one is called twice")
        self.config = config
        self.stride = 2 ** len(config.multipliers)
        self.recompute = 0
        channels = config.channels
        block = partial(ResidualBlock, embedding=4 * config.width, groups=config.groups, dropout=config.dropout)
        before = [config.width, *channels]

        self.embedding = Embedding(config)
        self.stem = Conv(config.in_channels, config.width)
        self.down = Stack(
            Stack(block(c if i else b, c) for i in range(config.blocks)) for b, c in zip(before, channels, strict=False)
        )
        self.shrink = Stack(block(c, c) for c in channels)
        self.pyramid = Stack(Conv(8 * p, c) for p, c in zip([config.in_channels, *channels], channels, strict=False))
        self.middle = Stack(block(channels[-1], channels[-1]) for _ in range(2))
        self.up = Stack(
            Stack(block(c if i else b, c) for i in range(config.blocks))
            for b, c in zip([channels[-1], *channels[:0:-1]], channels[::-1], strict=True)
        )
        self.enlarge = Stack(block(c, c) for c in reversed(channels))
        self.last = Stack(block(channels[0], channels[0]) for _ in range(config.blocks))
        self.out_norm = norm_silu(channels[0], config.groups)
        self.out = Conv(channels[0], config.out_channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        channels: Tensor | None = None,
        present: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        e = self.embedding(t, present, vector, label, latent)
        pyramid = x if channels is None else torch.cat([x, channels], dim=1)
        axes = split_axes(x.shape)
        h, details = self.stem(pyramid), []
        levels = range(len(self.down))
        for level, blocks, shrink, conv in zip(levels, self.down, self.shrink, self.pyramid, strict=True):
            for block in blocks:
                h = recomputed(level < self.recompute, block, h, e)
            h, detail = _shrunk(shrink, h, e, axes)
            details.append(detail)
            h = pyramid = h + conv(_channels_last(_all_bands(haar(pyramid, axes), axes) / LOW))
        for block in self.middle:
            h = block(h, e)
        for level, blocks, enlarge in zip(reversed(levels), self.up, self.enlarge, strict=True):
            for block in [*blocks, blocks[-1]]:
                h = recomputed(level + 1 < self.recompute, block, h, e)
            h = _enlarged(enlarge, h, details.pop(), e, axes)
        for block in self.last:
            h = recomputed(self.recompute > 0, block, h, e)
        return self.out(self.out_norm(h))


def _shrunk(block: ResidualBlock, x: Tensor, e: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Run a block that halves: LLL / 3 of its two branches, and the details of the main one."""
    h_low, details = _split(block.conv1(block.norm1(x)), axes)
    return block.finish(_split(x, axes)[0], h_low, e), details


def _enlarged(block: ResidualBlock, x: Tensor, details: Tensor, e: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Run a block that doubles: both branches take the same details."""
    h = block.conv1(block.norm1(x))
    return block.finish(_joined(x, details, axes), _joined(h, details, axes), e)


def _split(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    bands = haar(x, axes).unflatten(1, (-1, 2 ** len(axes)))
    return _channels_last(bands[:, :, 0] / LOW), bands[:, :, 1:]


def _joined(low: Tensor, details: Tensor, axes: tuple[int, ...]) -> Tensor:
    return _channels_last(inverse_haar(torch.cat([LOW * low.unsqueeze(2), details], dim=2).flatten(1, 2), axes))


def _channels_last(x: Tensor) -> Tensor:
    return known_channels_last(x.to(memory_format=torch.channels_last_3d))


def _all_bands(y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Put the subbands of a volume with flat axes in their places among all eight, zeros in the others."""
    if len(axes) == 3:
        return y
    flat = sum(4 >> (axis + 3) for axis in (-3, -2, -1) if axis not in axes)
    bands = y.unflatten(1, (-1, 2 ** len(axes)))
    full = bands.new_zeros(bands.shape[0], bands.shape[1], 8, *bands.shape[3:])
    full[:, :, [band for band in range(8) if not band & flat]] = bands
    return full.flatten(1, 2)
