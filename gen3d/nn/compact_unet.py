"""A U-Net of ours with half the work at full size: no extra block on the way up, plain pooling between levels."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gen3d.nn.block import ResidualBlock, Stack
from gen3d.nn.conv import Conv, enlarge, halving, shrink, zeroed
from gen3d.nn.embedding import Embedding
from gen3d.nn.norm import norm_silu
from gen3d.nn.recompute import recomputed
from gen3d.nn.unet import UNetConfig


class CompactUNet(nn.Module):
    r"""(B, in_channels, X, Y, Z) and times (B,) -> (B, out_channels, X, Y, Z), called like ``UNet``.

    Each level has ``blocks`` residual blocks on the way down and as many on the way up; between levels it averages or
    repeats neighbours, and the two paths join as $(h + skip) / \sqrt{2}$. A linear map from all inputs straight to the
    outputs, zero at the start, carries what the norms inside take away. ``config.skips`` must be "add". The finest
    ``recompute`` levels are computed again in the backward pass.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        if config.skips != "add":
            raise ValueError(f"the compact U-Net's skips are 'add', not '{config.skips}'")
        self.config = config
        self.stride = 2 ** (len(config.multipliers) - 1)
        self.recompute = 0
        channels = config.channels

        def blocks(inputs: int, outputs: int) -> Stack[ResidualBlock]:
            sizes = [inputs, *[outputs] * config.blocks]
            return Stack(
                ResidualBlock(before, after, 4 * config.width, config.groups, config.dropout)
                for before, after in pairwise(sizes)
            )

        self.embedding = Embedding(config)
        self.stem = Conv(config.in_channels, config.width)
        self.down = Stack(blocks(before, c) for before, c in zip([config.width, *channels], channels, strict=False))
        self.narrow = Stack(Conv(c, before, kernel=1) for before, c in pairwise(channels))
        self.up = Stack(blocks(c, c) for c in channels)
        self.out_norm = norm_silu(channels[0], config.groups)
        self.out = zeroed(Conv(channels[0], config.out_channels))
        self.shortcut = zeroed(Conv(config.in_channels, config.out_channels, kernel=1))

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
        factor = halving(x)
        e = self.embedding(t, present, vector, label, latent)
        x = x if channels is None else torch.cat([x, channels], dim=1)
        h = self.stem(x)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            h = shrink(h, factor) if level else h
            for block in blocks:
                h = recomputed(level < self.recompute, block, h, e)
            skips.append(h)
        ups = list(self.up)
        for level in reversed(range(len(ups))):
            if level < len(self.narrow):
                h = (enlarge(self.narrow[level](h), factor) + skips[level]) / math.sqrt(2)
            for block in ups[level]:
                h = recomputed(level < self.recompute, block, h, e)
        return self.out(self.out_norm(h)) + self.shortcut(x)
