"""Random changes of the contrasts that a network is given, as another scanner might have shown them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gen3d.core.randomness import Key, derive, normal_on
from gen3d.data.patches import random_flips


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the given contrasts, so that a network from few scanners meets many; targets stay as they are.

    Attributes:
        gain: Standard deviation of the logarithm of a factor on each contrast.
        shift: Standard deviation of what is added, in interquartile ranges of the brain.
        bend: Standard deviation of a quadratic change of the grey scale.
        ramp: Standard deviation of a linear field across the patch.
        noise: Largest standard deviation of white noise.
        mix: Standard deviation of the share of every other given contrast that bleeds into one, as with another
            weighting.
        flip: Probability of swapping left and right.
    """

    gain: float = 0.0
    shift: float = 0.0
    bend: float = 0.0
    ramp: float = 0.0
    noise: float = 0.0
    mix: float = 0.0
    flip: float = 0.5

    def draw(
        self, given: np.ndarray, left_right: int, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """Draw one change of the given contrasts, and which axes of the patch to flip.

        Args:
            given: Which contrasts there are, (C,) bool.
            left_right: The axis of the arrays that runs from side to side.
            rng: Where all but the noise comes from.

        Returns:
            ``gain``, ``shift``, ``bend`` and ``noise`` (C,), ``slopes`` (C, 3) of the linear field from the middle of
            the flipped patch to its end along each axis, ``mixing`` (C, C): how much of contrast j enters contrast i,
            rows of unit length; then the axes.
        """
        count = len(given)
        change = {
            "gain": np.exp(self.gain * rng.normal(size=count)),
            "shift": self.shift * rng.normal(size=count),
            "bend": self.bend * rng.normal(size=count),
            "slopes": self.ramp * rng.normal(size=(count, 3)),
            "noise": self.noise * rng.random(count),
        }
        mixing = np.eye(count) + self.mix * rng.normal(size=(count, count)) * given
        change["mixing"] = mixing / np.linalg.norm(mixing, axis=1, keepdims=True)
        flips = random_flips(rng, (left_right,), self.flip)
        change["slopes"][:, list(flips)] *= -1
        return {name: torch.from_numpy(part.astype(np.float32)) for name, part in change.items()}, flips

    def spread(self, voxels: Tensor, change: Mapping[str, Tensor], keys: Sequence[Key]) -> Tensor:
        """Return what depends on where a voxel is, or on the other contrasts: field, noise and mixing.

        Args:
            voxels: (B, C, X, Y, Z), which may be written into.
            change: What ``draw`` returned, with a batch axis.
            keys: Of the noise, one per item.

        Returns:
            (B, C, X, Y, Z); contrasts that are not given hold anything.
        """
        if self.ramp:
            for axis, slopes in enumerate(change["slopes"].unbind(-1)):
                line = torch.linspace(-1, 1, voxels.shape[2 + axis], device=voxels.device)
                voxels += slopes[..., None, None, None] * line.view([-1 if a == axis else 1 for a in range(3)])
        if self.noise:
            grain = normal_on(voxels.device, [derive(key, "grain") for key in keys], voxels.shape[1:])
            voxels += change["noise"][..., None, None, None] * grain
        if self.mix:
            rows = change["mixing"][..., None, None, None].unbind(1)
            voxels = torch.stack([(row * voxels).sum(1) for row in rows], dim=1)
        return voxels


def toned(voxels: Tensor, change: Mapping[str, Tensor]) -> Tensor:
    """Return (B, C, N) voxels v on another grey scale, w + b w |w| where w = g v + s."""
    w = torch.addcmul(change["shift"][..., None], change["gain"][..., None], voxels)
    return w + change["bend"][..., None] * w * w.abs()
