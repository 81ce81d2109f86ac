"""Latents of masks: Gaussian encoders of image and mask, one draw for a volume, features made once for all draws."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import pad_to_stride
from gen3d.core.precision import precision_context
from gen3d.core.randomness import Key, derive, normal, uniform
from gen3d.core.system import Example
from gen3d.core.volume import Triple
from gen3d.core.wrap import blending, windows_over
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.conv import Conv, halving, shrink
from gen3d.nn.norm import norm_silu
from gen3d.nn.unet import UNetConfig

NARROWEST, WIDEST = -5.0, 2.0  # of the logarithm of a standard deviation
OVERLAP = 0.25
PARTS = 4  # of the grid of ``excess``, along an axis
MOST = 4.0  # of its values


@dataclass(frozen=True)
class LatentConfig:
    """The shape of a pair of Gaussian encoders.

    Attributes:
        size: Numbers of the latent.
        filters: Channels of each level, finest first.
        convolutions: Of each level.
        coarse: How often what they see is halved before the first.
    """

    size: int = 6
    filters: tuple[int, ...] = (8, 16, 24, 32)
    convolutions: int = 1
    coarse: int = 0


class Gaussian(NamedTuple):
    """Diagonal normal distributions: mean and logarithm of the standard deviation, (B, size) each."""

    mean: Tensor
    log_std: Tensor

    def packed(self) -> Tensor:
        """Return both in one tensor, as ``Condition.latent`` carries what is yet to be drawn, (B, 2 size)."""
        return torch.cat(self, dim=1)


class GaussianEncoder(nn.Module):
    """(B, inputs, X, Y, Z) of any size -> a Gaussian: convolutions, halved between levels, and their mean over space.

    Kohl et al. (2018), section 3. https://arxiv.org/abs/1806.05034
    """

    def __init__(self, config: LatentConfig, inputs: int) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
        self.coarse = config.coarse
        self.stride = 2 ** (config.coarse + len(config.filters) - 1)
        self.levels = nn.ModuleList(
            nn.Sequential(*(part for i, o in pairwise(sizes) for part in (Conv(i, o), norm_silu(o, 4))))
            for before, after in pairwise([inputs, *config.filters])
            for sizes in [[before, *[after] * config.convolutions]]
        )
        self.out = nn.Linear(config.filters[-1], 2 * config.size)

    def forward(self, x: Tensor) -> Gaussian:
        h = pad_to_stride(x, self.stride).to(self.compute_dtype, memory_format=torch.channels_last_3d)
        for _ in range(self.coarse):
            h = shrink(h, halving(h))
        with precision_context(x.device, self.compute_dtype):
            for level, layers in enumerate(self.levels):
                h = layers(shrink(h, halving(h)) if level else h)
            mean, log_std = self.out(h.mean((2, 3, 4))).float().chunk(2, dim=1)
        return Gaussian(mean, log_std.clamp(NARROWEST, WIDEST))


class Folded(nn.Module):
    """A network that is given cells of neighbouring voxels as channels, and answers for each voxel of a cell.

    Called like ``network``; an axis of length 1 is not folded, and ``factor`` 1 folds none.
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor
        self.stride = factor * int(network.stride)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, *, channels: Tensor | None = None, **told: Tensor) -> Tensor:
        x = x if channels is None else torch.cat([x, channels], dim=1)
        if self.factor == 1:
            return self.network(x, t, **told)
        sides = cell(x.shape[2:], self.factor)
        return unfolded(self.network(folded(x, sides), t, **told), sides)


def cell(size: Sequence[int], factor: int) -> Triple:
    """Return the voxels of a cell along each axis: ``factor``, and 1 along an axis of length 1."""
    x, y, z = (factor if n > 1 else 1 for n in size)
    return x, y, z


def folded(x: Tensor, sides: Triple) -> Tensor:
    """Turn the voxels of each cell into channels, (B, C, X, Y, Z) -> (B, C i j k, X / i, Y / j, Z / k)."""
    i, j, k = sides
    x = x.unflatten(4, (-1, k)).unflatten(3, (-1, j)).unflatten(2, (-1, i))  # B C X i Y j Z k
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    return x.contiguous(memory_format=torch.channels_last_3d)


def unfolded(x: Tensor, sides: Triple) -> Tensor:
    """Do the inverse of ``folded``."""
    x = x.unflatten(1, (-1, *sides))  # B C i j k X Y Z
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class Features(nn.Module):
    """A network that sees the image alone, and therefore once, whatever is drawn: (B, C, X, Y, Z) -> (B, k, X, Y, Z).

    Args:
        config: Its shape, of folded voxels.
        fold: See ``Folded``.
        windows: Largest window that is seen at once.
    """

    def __init__(self, config: UNetConfig, fold: int, windows: Triple) -> None:
        super().__init__()
        self.network = Folded(CompactUNet(config), fold)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.windows = windows
        self.compute_dtype = torch.float32

    def forward(self, image: Tensor) -> Tensor:
        windows = windows_over(image.shape[2:], self.windows, OVERLAP)
        if len(windows) == 1:
            return self.seen(image)
        total: Tensor | None = None
        for window, share in zip(windows, blending(image.shape[2:], windows, OVERLAP), strict=True):
            part = share.to(image) * self.seen(image[(..., *window)])
            total = part.new_zeros(*part.shape[:2], *image.shape[2:]) if total is None else total
            total[(..., *window)] += part
        assert total is not None
        return total

    def seen(self, image: Tensor) -> Tensor:
        """Return the features of one window."""
        x = pad_to_stride(image, self.network.stride).to(self.compute_dtype, memory_format=torch.channels_last_3d)
        with precision_context(x.device, self.compute_dtype):
            h = self.network(x, image.new_zeros(len(image)))
        return h[..., : image.shape[2], : image.shape[3], : image.shape[4]].float()


def divergence(q: Gaussian, p: Gaussian) -> Tensor:
    r"""Return $KL(q \| p)$ of each item and dimension in nats, (B, size)."""
    squares = (2 * q.log_std).exp() + (q.mean - p.mean).square()
    return p.log_std - q.log_std + squares / (2 * (2 * p.log_std).exp()) - 0.5


def at_least(nats: Tensor, free: float) -> Tensor:
    """Return the KL that is paid for, (B, size) -> (): of each dimension's mean, ``free`` nats cost nothing.

    Kingma et al. (2016), section 4.2. https://arxiv.org/abs/1606.04934
    """
    return nats.mean(0).clamp_min(free).sum()


def told_apart(q: Gaussian, p: Gaussian, free: float) -> Tensor:
    """Return ``at_least`` of the KL, whose floor holds for q alone: p follows q in every dimension, also below it."""
    fixed = Gaussian(*(part.detach() for part in p))
    following = divergence(Gaussian(*(part.detach() for part in q)), p).mean(0).sum()
    return at_least(divergence(q, fixed), free) + following - following.detach()


def excess(drawn: Tensor, expected: Tensor) -> Tensor:
    """Return how much more of each structure is drawn than expected, in each part of a coarse grid, (B, parts).

    Args:
        drawn: Masks, one-hot, (B, classes, X, Y, Z).
        expected: Their probabilities, alike.

    Returns:
        The difference as a share of the structure's expected size in a part, on average over parts; within -4 to 4,
        since a network that has learnt little yet expects next to nothing.
    """
    more = (drawn - expected)[:, 1:]
    usual = expected[:, 1:].mean((2, 3, 4), keepdim=True).clamp_min(1e-3)
    return (nnf.adaptive_avg_pool3d(more, parts(drawn.shape[2:])) / usual).flatten(1).clamp(-MOST, MOST)


def parts(size: Sequence[int]) -> Triple:
    """Return the coarse grid of ``excess``: 4 along each axis that is not of length 1."""
    x, y, z = (min(PARTS, n) for n in size)
    return x, y, z


def sampled(packed: Tensor, keys: Sequence[Key]) -> Tensor:
    """Draw the latent of each item by its key, whatever the windows, (B, 2 size) -> (B, size)."""
    mean, log_std = packed.chunk(2, dim=1)
    noise = normal([derive(key, "latent") for key in keys], mean.shape[1:])
    return mean + log_std.exp() * noise.to(mean)


def shared_by(condition: Condition, count: int) -> Condition:
    """Return the condition of one image for so many draws, or as it is if it has as many already."""
    parts = condition.parts()
    if all(len(part) == count for part in parts.values()):
        return condition
    return replace(condition, **{name: part.expand(count, *part.shape[1:]) for name, part in parts.items()})


def several(example: Example, keys: Sequence[Key], count: int) -> tuple[Tensor, Tensor]:
    """Draw masks of each item: different raters' as far as they go, and none of a rater who did not draw.

    Args:
        example: ``masks`` (B, R, X, Y, Z), ``drew`` (B, R) and ``rater`` (B,), see ``Segmentation.example``.
        keys: Of the items.
        count: n.

    Returns:
        Labels (B n, 1, X, Y, Z) int64, and whose they are, (B n,), -1 where there is one mask.
    """
    masks, drew = example["masks"], example["drew"]
    order = uniform([derive(key, "raters") for key in keys], drew.shape[1:]).to(drew.device)
    order = torch.where(drew, order, 2.0).argsort(1)
    place = torch.arange(count, device=drew.device) % drew.sum(1, keepdim=True)
    chosen = order.gather(1, place)
    rows = torch.arange(len(masks), device=drew.device)[:, None]
    whose = torch.where(example["rater"][:, None] < 0, -1, chosen)
    return masks[rows, chosen].flatten(0, 1)[:, None], whose.flatten()


def entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return each item's mean cross-entropy, (B, classes, X, Y, Z) and (B, 1, X, Y, Z) -> (B,)."""
    return nnf.cross_entropy(scores, labels[:, 0], reduction="none").flatten(1).mean(1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return (B, 1, X, Y, Z) labels as (B, classes, X, Y, Z) float32."""
    return nnf.one_hot(labels[:, 0], classes).movedim(-1, 1).float()
