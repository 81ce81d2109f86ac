"""BiFlowNet: a U-Net over the whole latent and small transformers inside its patches (3D MedDiffusion, Wang et al.
2025, https://arxiv.org/abs/2412.13059, section III-C)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gen3d.latent.biflow_encoder import (
    BiFlowEncoder,
    BiFlowNetConfig,
    Encoded,
    Level,
    to_voxels,
    transformer,
    volume,
)
from gen3d.nn.block import Stack
from gen3d.nn.conv import Conv
from gen3d.nn.film import FiLMBlock
from gen3d.nn.recompute import recomputed

__all__ = ["BiFlowEncoder", "BiFlowNet", "BiFlowNetConfig"]


class BiFlowNet(nn.Module):
    """(B, channels, x, y, z) and times (B,) -> (B, channels, x, y, z); x, y and z are multiples of ``stride``.

    Called as published, ``network(x, t, y, resolution)``, or with the parts of a Condition: ``label`` is y, ``vector``
    the resolution (3 numbers: the latent's size over 64) and, where ``config.spacing``, the spacing in mm behind it,
    ``channels`` what is known besides, concatenated behind x. The finest ``recompute`` levels are computed again in the
    backward pass.

    ``residuals`` are added to the encoder's features, one to each, in their order: the stem's output, the two of each
    level from the finest on, the middle's (``encoder.feature_channels`` has their channels). The first is what the last
    block sees beside the decoder's output, those behind it are the skips, the last is what the decoder starts from.
    """

    def __init__(self, config: BiFlowNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride
        levels, width = config.levels, config.width
        self.encoder = BiFlowEncoder(config)
        self.middle = Stack(transformer(config) for _ in range(config.middle))
        self.flow = Stack(transformer(config, joined=True) for _ in range(config.fused))
        self.fuse = Stack(to_voxels(config) for _ in range(config.fused))
        finer = [width, *levels[:-1]]
        self.up = Stack(
            Level(config, [(2 * c, c), (2 * c, out)], attention=a)
            for c, out, a in reversed(list(zip(levels, finer, config.attention, strict=True)))
        )
        self.enlarge = Stack(nn.ConvTranspose3d(c, c, 4, stride=2, padding=1) for c in reversed(finer[config.fused :]))
        self.last = FiLMBlock(2 * width, width, 0, config.groups)
        self.out = Conv(width, config.channels, kernel=1)

    @property
    def recompute(self) -> int:
        """How many of the finest levels are computed again in the backward pass."""
        return self.encoder.recompute

    @recompute.setter
    def recompute(self, levels: int) -> None:
        self.encoder.recompute = levels

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        resolution: Tensor | None = None,
        *,
        label: Tensor | None = None,
        vector: Tensor | None = None,
        channels: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
    ) -> Tensor:
        x = x if channels is None else torch.cat([x, channels], dim=1)
        label, vector = (y if label is None else label), (resolution if vector is None else vector)
        encoded = self.encoder(x, t, label, vector)
        features = encoded.features
        if residuals is not None:
            features = [h + r for h, r in zip(features, residuals, strict=True)]
        maps = self.transformed(encoded, (x.shape[2], x.shape[3], x.shape[4]))
        h, e = features.pop(), encoded.embedding
        for number, level in enumerate(self.up):
            finer = len(self.up) - 1 - number
            if finer < self.config.fused:
                h = h + maps[self.config.fused - 1 - finer]
            for block in range(2):
                h = recomputed(finer < self.recompute, level.step, block, torch.cat([h, features.pop()], dim=1), e)
            if number < len(self.enlarge):
                h = self.enlarge[number](h)
        out: Tensor = self.out(self.last(torch.cat([h, features.pop()], dim=1)))
        return out

    def transformed(self, encoded: Encoded, size: tuple[int, int, int]) -> list[Tensor]:
        """Return what the transformers add on the way up, the coarser level's first, (B, width, x, y, z) each."""
        tokens, e, skips = encoded.tokens, encoded.embedding, list(encoded.skips)
        again = self.recompute > 0
        for block in self.middle:
            tokens = recomputed(again, block, tokens, e)
        maps = []
        for block, fuse in zip(self.flow, self.fuse, strict=True):
            tokens = recomputed(again, block, tokens, e, skips.pop())
            maps.append(volume(fuse(tokens, e), size, self.config))
        return maps
