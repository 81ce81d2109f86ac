"""What a scanner would have measured of a volume, sparsely and with noise: simulated from magnitude images."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from gen3d.core.error import UsageError
from gen3d.core.linear import Linear
from gen3d.core.randomness import Key, derive, seed_of
from gen3d.data.projection import ParallelBeam
from gen3d.data.undersampling import Pattern, draw_mask

Task = Literal["sparse-ct", "mri"]
MASKS = 6  # of each kind in training: Poisson discs take a second to draw
TASKS: tuple[Task, ...] = ("sparse-ct", "mri")
SIMULATED = (
    "simulated measurements: computed from a magnitude image, slice by slice, with white noise; "
    "no scanner measured them"
)


class Invertible(Linear, Protocol):
    """A linear map of slices with the usual rough inverse: filtered back-projection, zero-filling."""

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of a slice, (X, Y)."""

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Return an image, (B, C, X, Y, Z)."""

    def grain(self, key: Key, like: Tensor) -> Tensor:
        """Return white noise of unit variance wherever something is measured."""


@dataclass(frozen=True)
class Acquisition:
    """How a volume is measured; everything else about it follows from a key.

    Attributes:
        task: "sparse-ct": parallel-beam projections; "mri": undersampled Fourier transforms.
        views: Angles over 180 degrees, for CT.
        acceleration: Ratio of all frequencies to those sampled, for MRI.
        mask: "gaussian": random lines; "poisson": scattered points; for MRI.
        draw: Which of the masks drawn at random.
        noise: Standard deviation of white noise in units of the root mean square of the noiseless line integrals, or of
            the whole spectrum (which is that of the image); a complex sample has it in both parts together.

    Raises:
        UsageError: A number makes no sense.
    """

    task: Task
    views: int = 20
    acceleration: float = 4.0
    mask: Pattern = "gaussian"
    draw: int = 0
    noise: float = 0.005

    def __post_init__(self) -> None:
        if self.task == "sparse-ct" and self.views < 1:
            raise UsageError(f"views {self.views}: expected at least 1; 20 or 50 are usual for sparse-view CT")
        if not 0 <= self.noise < 1:
            raise UsageError(f"noise {self.noise:g}: expected from 0 to 1, such as 0.005 for half a percent")

    def operator(self, size: tuple[int, int], pixel: tuple[float, float] = (1.0, 1.0)) -> Invertible:
        """Return the operator for slices of ``size``."""
        if self.task == "sparse-ct":
            return ParallelBeam(size, self.views, pixel)
        return draw_mask(size, self.acceleration, self.mask, derive("mask", self.draw))

    def scarcity(self, size: tuple[int, int]) -> float:
        r"""Return how many times too few the measurements are: $\pi n / 2 views$ for CT of n pixels, acceleration."""
        return math.pi / 2 * max(size) / self.views if self.task == "sparse-ct" else self.acceleration

    def facts(self) -> dict[str, object]:
        """Return what a report must say."""
        if self.task == "sparse-ct":
            return {"task": self.task, "views": self.views, "noise": self.noise, "measurements": SIMULATED}
        masked = {"acceleration": self.acceleration, "mask": self.mask, "draw": self.draw}
        return {"task": self.task, **masked, "noise": self.noise, "measurements": SIMULATED}

    def words(self) -> str:
        """Say it in a few words."""
        if self.task == "sparse-ct":
            return f"{self.views} views, noise {100 * self.noise:g} %"
        return f"{self.acceleration:g}x, {self.mask} mask, noise {100 * self.noise:g} %"


@dataclass(frozen=True)
class Acquisitions:
    """What training draws acquisitions from.

    Attributes:
        task: What is measured.
        views: Numbers of views, for CT.
        accelerations: For MRI.
        masks: Kinds of masks, for MRI.
        noise: Lowest and highest noise level.
    """

    task: Task = "sparse-ct"
    views: tuple[int, ...] = (12, 16, 20, 25, 32, 40, 50, 64, 80)
    accelerations: tuple[float, ...] = (3.0, 4.0, 6.0, 8.0, 10.0)
    masks: tuple[Pattern, ...] = ("gaussian", "poisson")
    noise: tuple[float, float] = (0.0, 0.01)

    def draw(self, key: Key) -> Acquisition:
        """Draw how an item of training is measured."""
        rng = np.random.default_rng(seed_of(derive(key, "acquisition")))
        return Acquisition(
            self.task,
            views=int(rng.choice(self.views)),
            acceleration=float(rng.choice(self.accelerations)),
            mask=self.masks[int(rng.integers(len(self.masks)))],
            draw=int(rng.integers(MASKS)),
            noise=float(rng.uniform(*self.noise)),
        )


@dataclass(frozen=True, eq=False)
class Measurement:
    """Simulated data of one volume.

    Attributes:
        acquisition: How it was measured.
        operator: A.
        measured: y = A v + noise.
        level: Standard deviation of the noise.
    """

    acquisition: Acquisition
    operator: Invertible
    measured: Tensor
    level: float


def measure(voxels: Tensor, acquisition: Acquisition, key: Key, pixel: tuple[float, float] = (1.0, 1.0)) -> Measurement:
    """Simulate the measurement of one volume, (1, C, X, Y, Z), where outside of it there is nothing, as where it is 0.

    Args:
        voxels: In any linear units, 0 for nothing.
        acquisition: How.
        key: Of the noise.
        pixel: Sides of a voxel along X and Y; only their ratio matters.
    """
    operator = acquisition.operator((voxels.shape[2], voxels.shape[3]), pixel)
    clean = operator.forward(voxels)
    level = acquisition.noise * float((voxels if clean.is_complex() else clean).square().mean().sqrt())
    grain = operator.grain(derive(key, "measured"), clean)
    return Measurement(acquisition, operator, clean + level * grain, level)
