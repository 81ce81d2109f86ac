"""The judge of cDAL: whether a less noisy state of a mask is real, given the noisier state, the time and the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.denoiser import pad_to_stride
from gen3d.core.precision import precision_context
from gen3d.nn.block import Stack
from gen3d.nn.conv import Conv, halving, shrink
from gen3d.nn.embedding import sinusoid


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Its shape and how it is trained.

    Attributes:
        width: Channels at full size.
        multipliers: Of the width, at each level; every level halves the size.
        image: Whether it sees the image too.
        attention: Level whose features make the attention map, 0 being the full size.
        r1: Weight of the penalty on its gradient at real states (Mescheder et al. 2018).
        r1_every: Steps between penalties.
        rate: Its learning rate, as a share of the generator's.
    """

    width: int = 8
    multipliers: tuple[int, ...] = (1, 2, 4, 6)
    image: bool = True
    attention: int = 1
    r1: float = 1.0
    r1_every: int = 10
    rate: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.attention < len(self.multipliers):
            raise ValueError(f"attention: expected a level from 0 to {len(self.multipliers) - 1}, not {self.attention}")
        if self.r1_every < 1:
            raise ValueError("r1_every: expected at least 1")


class Discriminator(nn.Module):
    """Judges every patch of a pair of states, and has features that say where it looks.

    The published one gives one answer for a slice, from a mean over space; patches keep it telling in 3D.

    Args:
        config: Its shape.
        codes: Channels of a state.
        images: Channels of the image.
    """

    def __init__(self, config: DiscriminatorConfig, codes: int, images: int) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        self.config, self.stride = config, 2 ** (len(widths) - 1)
        inner = 4 * config.width
        self.time = nn.Sequential(nn.Linear(config.width, inner), nn.LeakyReLU(0.2), nn.Linear(inner, inner))
        self.stem = Conv(2 * codes + (images if config.image else 0), widths[0])
        self.levels = Stack(Level(before, after, inner) for before, after in pairwise([widths[0], *widths]))
        self.out = Conv(widths[-1], 1)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.compute_dtype = torch.float32

    def forward(self, previous: Tensor, x: Tensor, t: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge states of unit variance and return the answers and the features of every level, float32.

        Args:
            previous: The less noisy state, (B, codes, X, Y, Z).
            x: The noisier one, alike.
            t: Index of the noisier one's level, (B,).
            image: (B, images, X, Y, Z).

        Returns:
            Answers for patches (B, 1, x, y, z), above 0 for real, and features (B, c, x, y, z), finest first.
        """
        with precision_context(x.device, self.compute_dtype):
            answer, features = self.judged(previous, x, t, image)
        return answer.float(), [feature.float() for feature in features]

    def judged(self, previous: Tensor, x: Tensor, t: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Do the same in the number format of the inputs: float32, where the answer is differentiated twice."""
        seen = [previous, x, image] if self.config.image else [previous, x]
        h = pad_to_stride(torch.cat(seen, dim=1), self.stride).contiguous(memory_format=torch.channels_last_3d)
        factor, e = halving(h), self.time(sinusoid(t, self.config.width).to(h.dtype))
        h, features = self.stem(h), []
        for number, level in enumerate(self.levels):
            h = level(shrink(h, factor) if number else h, e)
            features.append(h)
        return self.out(nnf.leaky_relu(h, 0.2)), features

    def penalty(self, previous: Tensor, x: Tensor, t: Tensor, image: Tensor) -> Tensor:
        r"""Return $\frac{r_1}{2} E |\nabla_{previous} \sum_p D_p|^2 / P$ at real pairs, (), in float32.

        For P patches apart from each other that is the mean of the penalties of their own answers.
        """
        with torch.enable_grad():
            previous = previous.detach().requires_grad_()
            answer, _ = self.judged(previous, x, t, image)
            (slope,) = torch.autograd.grad(answer.sum(), previous, create_graph=True)
        return 0.5 * self.config.r1 * slope.square().flatten(1).sum(1).mean() / answer[0].numel()

    def attention(self, features: Sequence[Tensor], size: Sequence[int], *, normalised: bool) -> Tensor:
        """Return where the judge looks, (B, 1, X, Y, Z), from its features at the level of attention.

        Args:
            features: As ``forward`` returns them.
            size: Of the map.
            normalised: The mean absolute feature over its mean in space; else the mean feature, of any size and sign,
                as in the release.
        """
        level = features[self.config.attention]
        seen = (level.abs() if normalised else level).mean(1, keepdim=True)
        flat = [1 if n == 1 else 2**self.config.attention for n in size]
        seen = nnf.interpolate(
            seen, [n * f for n, f in zip(seen.shape[2:], flat, strict=True)], mode="trilinear", align_corners=False
        )[..., : size[0], : size[1], : size[2]]
        return seen / seen.mean((2, 3, 4), keepdim=True).clamp_min(1e-6) if normalised else seen


class Level(nn.Module):
    """A residual block without norms, told the time: (B, inputs, X, Y, Z) and (B, embedding) -> (B, outputs, ...)."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(inputs, outputs), Conv(outputs, outputs)
        self.embed = nn.Linear(embedding, outputs)
        self.skip = nn.Identity() if inputs == outputs else Conv(inputs, outputs, kernel=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(nnf.leaky_relu(x, 0.2)) + self.embed(nnf.leaky_relu(embedding, 0.2))[..., None, None, None]
        return (self.skip(x) + self.conv2(nnf.leaky_relu(h, 0.2))) / 2**0.5
