"""What an autoencoder is trained on: random crops that show something, and a window of raw values for CT."""

from dataclasses import dataclass

import numpy as np

from gen3d.core.volume import Triple
from gen3d.data.intensity import Intensity, Scale
from gen3d.data.patches import flipped, random_flips, random_start, whole_where_zero, window

TRIES = 8  # random crops that may show nothing before one is put around something


@dataclass(frozen=True)
class Window(Intensity):
    """A fixed window of raw values, such as Hounsfield units, that becomes ``to``; the same for every volume.

    Attributes:
        low: Becomes ``to[0]``, as does all below it.
        high: Becomes ``to[1]``.
    """

    low: float = -1000.0
    high: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise ValueError(f"intensity: low {self.low} and high {self.high}; expected low below high")

    def fit(self, voxels: np.ndarray) -> Scale:
        """Return the scale, which no volume changes."""
        gain = (self.to[1] - self.to[0]) / (self.high - self.low)
        return Scale(gain, self.to[0] - self.low * gain, self.low, self.high)


def random_crop(
    voxels: np.ndarray, scale: Scale | None, size: Triple, unit: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw a crop that is not of one grey value alone, if there is any.

    Args:
        voxels: A volume, (X, Y, Z).
        scale: Of its intensities; beyond the volume lies what is darkest on it.
        size: Of the crop; a 0 stands for the whole axis.
        unit: Its sides become multiples of.
        rng: Draws.
    """
    shape, fill = (voxels.shape[0], voxels.shape[1], voxels.shape[2]), darkest(scale)
    sides = lengthened(whole_where_zero(size, shape), unit)
    for _ in range(TRIES):
        crop = window(voxels, random_start(shape, sides, rng), sides, fill)
        if crop.max() > crop.min():
            return crop
    near = voxels != voxels.flat[0]
    return window(voxels, random_start(shape, sides, rng, near=near, bias=1.0), sides, fill)


def lengthened(size: Triple, unit: int) -> Triple:
    """Return a size rounded up to multiples of ``unit``."""
    x, y, z = (-(-n // unit) * unit for n in size)
    return x, y, z


def darkest(scale: Scale | None) -> float:
    """Return what the least value that a scale lets through became, 0 where it lets all through."""
    low = scale.low if scale and np.isfinite(scale.low) else 0.0
    return float(scale.apply(np.array([low], np.float32))[0]) if scale else 0.0


def mirrored(crop: np.ndarray, axes: str, rng: np.random.Generator) -> np.ndarray:
    """Mirror a crop (X, Y, Z) along random axes of a slice and, where these are equally long, half the time swap them.

    Args:
        crop: What is mirrored.
        axes: Axis codes; slices are across S or I.
        rng: Draws.
    """
    one, other = (axis for axis, code in enumerate(axes) if code not in "SI")
    crop = flipped(crop, random_flips(rng, (one, other)))
    if rng.random() < 0.5 and crop.shape[one] == crop.shape[other]:
        crop = np.ascontiguousarray(crop.swapaxes(one, other))
    return crop
