"""Earlier frames to one map by attention in space and in time (after ViViT, Arnab et al. 2021, model 3)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.precision import precision_context
from gen3d.core.volume import Triple
from gen3d.nn.attention import Attention
from gen3d.nn.block import Stack


@dataclass(frozen=True)
class FramesConfig:
    """Shape of the attention module.

    Attributes:
        patch: Voxels of a token along each axis, (X, Y, Z).
        width: Channels of a token, a multiple of ``heads``.
        heads: Of each attention.
        depth: Blocks of attention in space, then in time, then two layers.
        channels: Of the map.
    """

    patch: Triple = (4, 4, 4)
    width: int = 64
    heads: int = 4
    depth: int = 2
    channels: int = 4

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"encoder.width: expected a multiple of its {self.heads} heads, found {self.width}")


class FramesEncoder(nn.Module):
    """(B, frames, X, Y, Z) -> map (B, channels, X, Y, Z), float32.

    A token is a patch of one frame, told its place and the number of its frame by learnt vectors. The tokens of all
    frames at a place are joined, and each gives back the voxels of its patch. Volumes of another size than ``size`` get
    the vectors of places interpolated; the last patch is filled up by repeating the edge.

    Args:
        config: Its shape.
        frames: How many there are, zeros where one is not known.
        size: Voxels of a training volume, (X, Y, Z).
    """

    def __init__(self, config: FramesConfig, frames: int, size: Triple) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        voxels = math.prod(config.patch)
        grid = [-(-n // p) for n, p in zip(size, config.patch, strict=True)]
        self.enter = nn.Linear(voxels, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(config.width, *grid))
        self.frame = nn.Parameter(0.02 * torch.randn(frames, config.width))
        self.blocks = Stack(FramesBlock(config.width, config.heads) for _ in range(config.depth))
        self.join = nn.Linear(frames * config.width, config.width)
        self.out = nn.Linear(config.width, config.channels * voxels)

    def forward(self, frames: Tensor) -> Tensor:
        size, patch = frames.shape[2:], self.config.patch
        widths = [n for length, p in zip(reversed(size), reversed(patch), strict=True) for n in (0, -length % p)]
        x = nnf.pad(frames, widths, mode="replicate") if any(widths) else frames
        x = x.unflatten(4, (-1, patch[2])).unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
        grid = x.shape[2], x.shape[4], x.shape[6]
        tokens = x.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5).flatten(2, 4)
        with precision_context(frames.device, self.compute_dtype):
            h = self.enter(tokens.to(self.compute_dtype)) + self.places(grid) + self.frame[:, None]
            for block in self.blocks:
                h = block(h)
            voxels = self.out(self.join(h.transpose(1, 2).flatten(2)))
        parts = voxels.float().unflatten(2, (self.config.channels, *patch)).unflatten(1, grid)
        whole = parts.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(2, 3)
        return whole[..., : size[0], : size[1], : size[2]]

    def places(self, grid: Triple) -> Tensor:
        """Return the vector of each place of a grid of patches, (places, width)."""
        place: Tensor = self.place
        if place.shape[1:] != grid:
            place = nnf.interpolate(place[None], grid, mode="trilinear", align_corners=False)[0]
        return place.flatten(1).T


class FramesBlock(nn.Module):
    """x + attention within each frame, then x + attention over frames at each place, then x + mlp; (B, F, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.space, self.time = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        x = x + self.space(normed(x).flatten(0, 1)).unflatten(0, (count, -1))
        x = x + self.time(normed(x).transpose(1, 2).flatten(0, 1)).unflatten(0, (count, -1)).transpose(1, 2)
        out: Tensor = x + self.mlp(normed(x))
        return out


def normed(x: Tensor) -> Tensor:
    """Standardise each token's channels; the linear maps that follow scale and shift them."""
    return nnf.layer_norm(x, x.shape[-1:])
