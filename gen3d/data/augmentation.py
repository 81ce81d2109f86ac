"""Random changes of the contrasts that a network is given, as another scanner might have shown them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gen3d.data.equalization import Curve, tabulated
from gen3d.data.patches import random_flips

# Equally likely values of the normal distribution: a draw costs two random bytes and a look into a table.
NORMAL = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16).float().numpy()


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


@dataclass(frozen=True)
class Change:
    """One draw of an ``Augmentation``, by contrast.

    Attributes:
        gain: Factors, (C,).
        shift: What is added, (C,).
        bend: Factor of the quadratic term, (C,).
        slopes: Of the linear field, from the middle of the patch to its end along each axis, (C, 3).
        noise: Standard deviations, (C,).
        shares: How much of contrast j enters contrast i, (C, C).
        flips: The axes that are flipped, of 0, 1, 2 for X, Y, Z.
    """

    gain: np.ndarray
    shift: np.ndarray
    bend: np.ndarray
    slopes: np.ndarray
    noise: np.ndarray
    shares: np.ndarray
    flips: tuple[int, ...]

    @classmethod
    def draw(cls, a: Augmentation, count: int, left_right: int, rng: np.random.Generator) -> "Change":
        """Draw the change of ``count`` contrasts on arrays whose axis ``left_right`` runs from side to side."""
        return cls(
            gain=np.exp(a.gain * rng.normal(size=count)),
            shift=a.shift * rng.normal(size=count),
            bend=a.bend * rng.normal(size=count),
            slopes=a.ramp * rng.normal(size=(count, 3)),
            noise=a.noise * rng.random(count),
            shares=a.mix * rng.normal(size=(count, count)),
            flips=random_flips(rng, (left_right,), a.flip),
        )

    def applied(
        self, patch: np.ndarray, curves: Sequence[Curve], given: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the given contrasts changed and the others 0, (C, X, Y, Z), rounded as the patch is.

        Args:
            patch: Stored voxels, (C, X, Y, Z), flipped already.
            curves: Pointwise functions that each contrast goes through first.
            given: Which contrasts there are, (C,) bool.
            rng: Of the noise.
        """
        mixes = self.shares.any()
        result = np.zeros(patch.shape, dtype=np.float32 if mixes else patch.dtype)
        changed = np.empty(patch.shape[1:], dtype=np.float32)
        for c in map(int, np.flatnonzero(given)):
            tabulated(partial(self.shaded, c, curves[c]), patch[c], out=changed)
            self.add_field(c, changed)
            self.add_noise(c, changed, rng)
            result[c] = changed
        return self.mixed(result, given).astype(patch.dtype) if mixes else result

    def shaded(self, contrast: int, curve: Curve, voxels: np.ndarray) -> np.ndarray:
        """Return voxels v on another grey scale, w + b w |w| where w = g curve(v) + s."""
        w = float(self.gain[contrast]) * curve(voxels) + float(self.shift[contrast])
        return w + float(self.bend[contrast]) * w * np.abs(w)

    def add_field(self, contrast: int, voxels: np.ndarray) -> None:
        """Add the linear field to (X, Y, Z), in place."""
        slopes = self.slopes[contrast]
        if not slopes.any():
            return
        lines = [slope * np.linspace(-1, 1, n) for slope, n in zip(slopes, voxels.shape, strict=True)]
        x, y, z = (line[:: -1 if axis in self.flips else 1].astype(np.float32) for axis, line in enumerate(lines))
        plane = y[:, None] + z
        for slab, level in zip(voxels, x, strict=True):
            slab += plane + level

    def add_noise(self, contrast: int, voxels: np.ndarray, rng: np.random.Generator) -> None:
        """Add white noise to (X, Y, Z), in place."""
        if not self.noise[contrast]:
            return
        table = np.float32(self.noise[contrast]) * NORMAL
        grain = np.empty(voxels.shape[1:], dtype=np.float32)
        for slab in voxels:
            bits = rng.bit_generator.random_raw(-(-slab.size // 4)).view(np.uint16)[: slab.size]
            np.take(table, bits.reshape(slab.shape), out=grain, mode="clip")
            slab += grain

    def mixed(self, voxels: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Return (C, X, Y, Z) with the shares of the other given contrasts in each, its row of unit length."""
        mixing = np.eye(len(given)) + self.shares * given
        mixing *= given[:, None] / np.linalg.norm(mixing, axis=1, keepdims=True)
        return (mixing.astype(np.float32) @ voxels.reshape(len(given), -1)).reshape(voxels.shape)
