"""The encoder half of BiFlowNet, which a ControlNet copies: what it is told, its transformers and levels.

3D MedDiffusion (Wang et al. 2025, https://arxiv.org/abs/2412.13059), section III-C.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.nn.attention import VolumeAttention
from gen3d.nn.block import Stack
from gen3d.nn.conv import Conv
from gen3d.nn.film import FiLMBlock
from gen3d.nn.recompute import recomputed
from gen3d.nn.transformer import DiTBlock, TokensToVoxels, cut, joined, positions, zeroed


@dataclass(frozen=True)
class BiFlowNetConfig:
    """A BiFlowNet's shape; the defaults are the official release for 8x latents, ``token`` 2 is that for 4x.

    The levels whose multiplier is 1 (they come first) keep the latent's full size and take what the transformers add;
    each level behind them has half the size of the one before it.

    Attributes:
        channels: Of the latent.
        known: Channels that are given besides, such as another image's latent.
        width: Channels of the transformers, and of level i times ``multipliers[i]``.
        multipliers: One for each level, finest first.
        attention: Which levels have attention over all voxels; the middle always does.
        heads: Of that attention.
        head_width: Channels of one of them.
        groups: At most this many groups in a norm.
        kernel: Of the first convolution, odd.
        patch: Latent voxels along each side of the cubes that transformers see.
        token: Latent voxels along each side of a token.
        middle: Transformer blocks between the way down and the way up.
        transformer_heads: Of the transformers.
        classes: How many classes there are; 0 for a network that is told none.
        spacing: Whether the network may be told the voxel spacing; official ones are not.
    """

    channels: int = 8
    known: int = 0
    width: int = 72
    multipliers: tuple[int, ...] = (1, 1, 2, 4, 8)
    attention: tuple[bool, ...] = (False, False, False, True, True)
    heads: int = 8
    head_width: int = 32
    groups: int = 24
    kernel: int = 3
    patch: int = 8
    token: int = 1
    middle: int = 1
    transformer_heads: int = 8
    classes: int = 7
    spacing: bool = False

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.multipliers):
            raise ValueError(f"attention: expected {len(self.multipliers)} values, one for each level")
        if not self.fused or 1 in self.multipliers[self.fused :]:
            raise ValueError(f"multipliers: expected one or more 1 and then greater ones, found {self.multipliers}")
        if self.patch % self.token:
            raise ValueError(f"token: {self.token} does not divide patch = {self.patch}")
        if self.width % self.transformer_heads:
            raise ValueError(f"transformer_heads: {self.transformer_heads} does not divide width = {self.width}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, found {self.kernel}")

    @property
    def fused(self) -> int:
        """How many levels have the latent's full size and take what the transformers add."""
        return next((i for i, m in enumerate(self.multipliers) if m != 1), len(self.multipliers))

    @property
    def levels(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.width * m for m in self.multipliers]

    @property
    def embedding(self) -> int:
        """Length of what blocks are told: time and class, then resolution and spacing."""
        return 8 * self.width

    @property
    def stride(self) -> int:
        """Every axis of the latent is a multiple of this."""
        return math.lcm(self.patch, 2 ** (len(self.multipliers) - self.fused))


class Encoded(NamedTuple):
    """What the encoder half hands on.

    Attributes:
        features: The stem's output, the two of each level from the finest on, the middle's: 2 * levels + 2 volumes.
        embedding: What every block is told, (B, embedding).
        tokens: After the transformers' way down, (B, windows, tokens, width).
        skips: After each of its blocks, first to last.
    """

    features: list[Tensor]
    embedding: Tensor
    tokens: Tensor
    skips: list[Tensor]


class Told(nn.Module):
    """Everything that is not an image, as one vector (B, 8 * width).

    Time and class in one half, resolution and spacing in the other; a class of -1 and a spacing that is not given add
    nothing.
    """

    def __init__(self, config: BiFlowNetConfig) -> None:
        super().__init__()
        inner, self.width = 4 * config.width, config.width
        self.time = nn.Sequential(nn.Linear(config.width, inner), nn.GELU(), nn.Linear(inner, inner))
        self.label = nn.Embedding(config.classes, inner) if config.classes else None
        self.resolution = nn.Sequential(nn.Linear(3, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.spacing = (
            nn.Sequential(nn.Linear(3, inner), nn.SiLU(), zeroed(nn.Linear(inner, inner))) if config.spacing else None
        )

    def forward(self, t: Tensor, label: Tensor | None, vector: Tensor | None) -> Tensor:
        if (label is None) != (self.label is None):
            raise ValueError(f"this network {'needs' if label is None else 'was not built for'} a class")
        if vector is None or vector.shape[-1] not in ((3, 6) if self.spacing else (3,)):
            raise ValueError(
                f"this network needs the resolution{' (and may be told the spacing)' * bool(self.spacing)}"
            )
        time = self.time(sine(t, self.width))
        if self.label is not None and label is not None:
            time = time + self.label(label.clamp(min=0)) * (label >= 0)[:, None]
        vector = vector.expand(t.shape[0], -1)
        grid = self.resolution(vector[:, :3])
        if self.spacing is not None and vector.shape[1] == 6:
            grid = grid + self.spacing(vector[:, 3:].log())
        return torch.cat([time, grid], dim=1)


class Level(nn.Module):
    """Two blocks at one size, each with attention behind it where the level has any."""

    def __init__(self, config: BiFlowNetConfig, plan: Sequence[tuple[int, int]], *, attention: bool) -> None:
        super().__init__()
        self.blocks = Stack(FiLMBlock(i, o, config.embedding, config.groups) for i, o in plan)
        self.attention = Stack(attend(config, o) if attention else nn.Identity() for _, o in plan)

    def step(self, number: int, x: Tensor, e: Tensor) -> Tensor:
        """Run one of the blocks, its attention included."""
        out: Tensor = self.attention[number](self.blocks[number](x, e))
        return out


class BiFlowEncoder(nn.Module):
    """The encoder half, whole in itself: a ControlNet is a copy of it.

    Args of ``forward``:
        x: (B, channels + known, x, y, z).
        t: Times, (B,).
        label: Classes, (B,) int64; -1 is unconditional.
        vector: Resolution, and where the network may be told it spacing in mm, (B, 3) or (B, 6).
        hint: Added to the stem's output, (B, width, x, y, z).
    """

    def __init__(self, config: BiFlowNetConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = 0
        inputs, levels = config.channels + config.known, config.levels
        self.told = Told(config)
        self.stem = Conv(inputs, config.width, config.kernel)
        self.tokens = nn.Conv3d(inputs, config.width, config.token, stride=config.token)
        self.register_buffer("positions", positions(config.width, config.patch // config.token))
        self.positions: Tensor
        self.flow = Stack(transformer(config) for _ in range(config.fused))
        self.fuse = Stack(to_voxels(config) for _ in range(config.fused))
        self.down = Stack(
            Level(config, [(before, c), (c, c)], attention=a)
            for before, c, a in zip([config.width, *levels], levels, config.attention, strict=False)
        )
        self.shrink = Stack(nn.Conv3d(c, c, 4, stride=2, padding=1) for c in levels[config.fused - 1 : -1])
        self.middle = Stack(FiLMBlock(levels[-1], levels[-1], config.embedding, config.groups) for _ in range(2))
        self.middle_attention = attend(config, levels[-1])

    @property
    def feature_channels(self) -> list[int]:
        """Channels of each of ``Encoded.features``."""
        levels = self.config.levels
        return [self.config.width, *(c for c in levels for _ in range(2)), levels[-1]]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        vector: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Encoded:
        config, size = self.config, (x.shape[2], x.shape[3], x.shape[4])
        if any(n % config.stride for n in size):
            raise ValueError(f"a latent of {size}: expected multiples of {config.stride} along every axis")
        e = self.told(t, label, vector)
        tokens = cut(self.tokens(x), config.patch // config.token) + self.positions
        h = self.stem(x) if hint is None else self.stem(x) + hint
        features, skips = [h], []
        for number, level in enumerate(self.down):
            again = number < self.recompute
            if number < config.fused:
                tokens = recomputed(again, self.flow[number], tokens, e)
                skips.append(tokens)
                h = h + volume(self.fuse[number](tokens, e), size, config)
            for block in range(2):
                h = recomputed(again, level.step, block, h, e)
                features.append(h)
            if config.fused - 1 <= number < len(self.down) - 1:
                h = self.shrink[number - config.fused + 1](h)
        h = self.middle[1](self.middle_attention(self.middle[0](h, e)), e)
        return Encoded([*features, h], e, tokens, skips)


def attend(config: BiFlowNetConfig, channels: int) -> VolumeAttention:
    """Return attention over all voxels."""
    return VolumeAttention(channels, config.heads, config.head_width)


def transformer(config: BiFlowNetConfig, *, joined: bool = False) -> DiTBlock:
    """Return a transformer block; a ``joined`` one takes a skip besides."""
    return DiTBlock(config.width, config.transformer_heads, config.embedding, joined=joined)


def to_voxels(config: BiFlowNetConfig) -> TokensToVoxels:
    """Return what turns tokens into the voxels of their cubes."""
    return TokensToVoxels(config.width, config.token**3 * config.width, config.embedding)


def volume(tokens: Tensor, size: tuple[int, int, int], config: BiFlowNetConfig) -> Tensor:
    """Put the cubes of a latent of ``size`` together."""
    return joined(tokens, size, config.patch // config.token, config.token)


def sine(t: Tensor, width: int, period: float = 10_000.0) -> Tensor:
    """Return sin(t w_i), then cos(t w_i), with w_i = period**(-i / (n - 1)) and n = width // 2: (B,) -> (B, width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1))
    angles = t[:, None].float() * frequencies
    return nnf.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))
