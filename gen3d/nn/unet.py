"""The 3D U-Net of WDM and cWDM: ADM's without attention (Dhariwal & Nichol 2021; Friedrich et al. 2024)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gen3d.nn.block import ResidualBlock, Stack
from gen3d.nn.conv import Conv, Factor, enlarge, halving, shrink, zeroed
from gen3d.nn.embedding import Embedding
from gen3d.nn.norm import known_channels_last, norm_silu
from gen3d.nn.recompute import recomputed


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net's shape; level i has ``width * multipliers[i]`` channels at 1 / 2**i of the size.

    ``skips``: "add" takes the mean of the two paths (Bieder et al. 2023), "concat" puts one behind the other.
    ``groups``: at most this many groups in a norm. ``present``, ``vector``, ``classes``, ``latent``: how many flags,
    numbers, classes and numbers of a random draw the network is told, besides the time.
    """

    in_channels: int
    out_channels: int
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    blocks: int = 2
    skips: Literal["add", "concat"] = "add"
    groups: int = 32
    dropout: float = 0.0
    present: int = 0
    vector: int = 0
    classes: int = 0
    latent: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if self.skips not in ("add", "concat"):
            raise ValueError(f"skips must be 'add' or 'concat', not '{self.skips}'")

    @property
    def channels(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.width * m for m in self.multipliers]


class UNet(nn.Module):
    """(B, in_channels, X, Y, Z) and times (B,) -> (B, out_channels, X, Y, Z).

    X, Y and Z are multiples of ``stride`` or 1; an axis of length 1 is never shrunk. ``channels``, where given, is
    concatenated behind x, so that the network may be called with one tensor or with the noisy part and the known part.
    The finest ``recompute`` levels are computed again in the backward pass.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = 2 ** (len(config.multipliers) - 1)
        self.recompute = 0
        channels = config.channels
        block = partial(ResidualBlock, embedding=4 * config.width, groups=config.groups, dropout=config.dropout)

        self.embedding = Embedding(config)
        self.stem = Conv(config.in_channels, config.width)
        self.down = Stack(
            Stack(block(c if i else before, c) for i in range(config.blocks))
            for before, c in zip([config.width, *channels], channels, strict=False)
        )
        self.shrink = Stack(block(c, c) for c in channels[:-1])
        self.middle = Stack(block(channels[-1], channels[-1]) for _ in range(2))

        plan = channels_up(config)
        self.up = Stack(Stack(block(i, o) for i, o in level) for level in plan)
        self.enlarge = Stack(block(level[-1][1], level[-1][1]) for level in plan[:-1])
        last = plan[-1][-1][1]
        self.out_norm = norm_silu(last, config.groups)
        self.out = zeroed(Conv(last, config.out_channels))

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
        h = self.stem(x if channels is None else torch.cat([x, channels], dim=1))
        h, skips = self._descend(h, e, factor)
        for block in self.middle:
            h = block(h, e)
        h = self._ascend(h, skips, e, factor)
        return self.out(self.out_norm(h))

    def _descend(self, h: Tensor, e: Tensor, factor: Factor) -> tuple[Tensor, list[Tensor]]:
        skips = [h]
        for level, blocks in enumerate(self.down):
            again = level < self.recompute
            for block in blocks:
                skips.append(h := recomputed(again, block, h, e))
            if level < len(self.shrink):
                skips.append(h := recomputed(again, self.shrink[level], h, e, partial(shrink, factor=factor)))
        return h, skips

    def _ascend(self, h: Tensor, skips: list[Tensor], e: Tensor, factor: Factor) -> Tensor:
        for level, blocks in enumerate(self.up):
            finer = len(self.up) - 1 - level
            for block in blocks:
                h = recomputed(finer < self.recompute, self._joined, block, h, skips.pop(), e)
            if level < len(self.enlarge):
                again = finer - 1 < self.recompute  # what it enlarges belongs to the level above
                h = recomputed(again, self.enlarge[level], h, e, partial(enlarge, factor=factor))
        return h

    def _joined(self, block: ResidualBlock, h: Tensor, skip: Tensor, e: Tensor) -> Tensor:
        if self.config.skips == "add":
            return block(torch.lerp(h, skip, 0.5), e)
        return block(torch.cat([known_channels_last(h), known_channels_last(skip)], dim=1), e)


def channels_up(config: UNetConfig) -> list[list[tuple[int, int]]]:
    """List the channels before and after each block of the way up, by level, coarsest first.

    A concatenated skip widens the block's input; an added one must find as many channels as it has itself, so the
    block before it makes them.
    """
    per_level = config.blocks + 1
    skips = [config.width]
    for level, c in enumerate(config.channels):
        skips += [c] * (per_level if level < len(config.multipliers) - 1 else config.blocks)
    skips.reverse()
    h, plan = config.channels[-1], []
    for i, skip in enumerate(skips):
        if config.skips == "concat":
            before, h = h + skip, config.channels[-1 - i // per_level]
        else:
            before, h = skip, [*skips, config.width][i + 1]
        plan.append((before, h))
    return [plan[i : i + per_level] for i in range(0, len(plan), per_level)]
