"""Undersampled Fourier measurements of axial slices, by masks with a fully sampled centre.

It serves measurements that are simulated from magnitude images: one coil, no phase, no motion. The spectrum of such an
image says at -k what it says at k, so masks are symmetric: nothing is won from that symmetry which a scanner would not
give.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UsageError, nearest
from gen3d.core.randomness import Key, normal, seed_of

Pattern = Literal["gaussian", "poisson"]
CENTRE = 0.32  # share of all samples that the fully sampled centre takes: 8 % of the lines at 4x, 4 % at 8x


@dataclass(frozen=True, eq=False)
class Undersampled:
    """The orthonormal Fourier transform of each axial slice where ``mask`` is true, 0 elsewhere, and its adjoint.

    Images are real, so the adjoint is that of $Re \\langle y, A v \\rangle$; with a symmetric mask A*A is a projection.

    Attributes:
        mask: (X, Y) bool, frequency 0 at [0, 0].

    Raises:
        UsageError: The mask is empty or not symmetric.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise UsageError("mask: samples nothing; expected at least the centre of Fourier space")
        mirrored = self.mask.flip(0, 1).roll((1, 1), (0, 1))
        if not torch.equal(self.mask, mirrored):
            raise UsageError("mask: samples k without -k somewhere; expected a symmetric mask, frequency 0 at [0, 0]")

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of a slice, (X, Y)."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def strength(self) -> float:
        """The largest eigenvalue of A*A."""
        return 1.0

    def forward(self, voxels: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> complex (B, C, X, Y, Z).

        Raises:
            UsageError: The slices have another size than the mask.
        """
        return torch.fft.fft2(voxels.float(), dim=(2, 3), norm="ortho") * self._placed(voxels)

    def adjoint(self, samples: Tensor) -> Tensor:
        """Complex (B, C, X, Y, Z) -> (B, C, X, Y, Z)."""
        return torch.fft.ifft2(samples * self._placed(samples), dim=(2, 3), norm="ortho").real

    def pseudo_inverse(self, samples: Tensor) -> Tensor:
        """Zero-filling: what is not sampled counts as 0, complex (B, C, X, Y, Z) -> (B, C, X, Y, Z)."""
        return self.adjoint(samples)

    def grain(self, key: Key, like: Tensor) -> Tensor:
        """Draw complex white noise of unit variance where something is sampled, (1, C, X, Y, Z)."""
        parts = normal([key], (*like.shape[1:], 2)).to(like.device) / math.sqrt(2)
        return torch.view_as_complex(parts) * self._placed(like)

    def _placed(self, x: Tensor) -> Tensor:
        if x.shape[2:4] != self.mask.shape:
            found, expected = tuple(x.shape[2:4]), tuple(self.mask.shape)
            raise UsageError(f"mask: made for slices of {expected}, the image has {found}; draw one for its size")
        return self.mask.to(x.device)[..., None]


@lru_cache(maxsize=64)
def draw_mask(size: tuple[int, int], acceleration: float, pattern: Pattern, key: Key) -> Undersampled:
    """Draw a symmetric mask that samples 1 / acceleration of a slice's frequencies, (X, Y) of ``size``.

    "gaussian": whole lines along Y, drawn without replacement with a probability that falls like a Gaussian of a sixth
    of the axis along X. "poisson": points that keep a distance which grows with that from the centre, as in variable
    density Poisson discs (Bridson 2007). The centre takes 32 % of the samples.

    Raises:
        UsageError: The acceleration is not above 1, leaves less than two samples, or the pattern is unknown.
    """
    if pattern not in get_args(Pattern):
        known = get_args(Pattern)
        raise UsageError(f"mask '{pattern}': expected {' or '.join(known)}{nearest(pattern, known)}")
    lines = size if pattern == "poisson" else (size[0], 1)
    wanted = math.prod(lines) / acceleration if acceleration > 0 else 0.0
    if acceleration <= 1 or wanted < 2:
        raise UsageError(
            f"acceleration {acceleration:g}: expected a number above 1, such as 4 or 8, for slices of {size}"
        )
    rng = np.random.default_rng(seed_of(key))
    kx, ky = (np.fft.fftfreq(n) for n in lines)
    radius = np.hypot(kx[:, None], ky[None])
    axes = 2 if pattern == "poisson" else 1
    reach = CENTRE / acceleration / (math.pi / 4 if axes == 2 else 1)
    centre = radius <= max(reach ** (1 / axes) / 2, 1e-9)
    chosen = poisson(radius, centre, wanted, rng) if axes == 2 else gaussian(radius, centre, wanted, rng)
    return Undersampled(torch.from_numpy(np.array(np.broadcast_to(chosen, size))))


def mirror(at: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return where -k lies."""
    return -at[0] % shape[0], -at[1] % shape[1]


def gaussian(radius: np.ndarray, centre: np.ndarray, wanted: float, rng: np.random.Generator) -> np.ndarray:
    """Add the likeliest lines, by Gumbel's trick, to the centre, each with its mirror image."""
    score = -0.5 * (radius / (1 / 6)) ** 2 + rng.gumbel(size=radius.shape)
    return filled(centre, score, wanted)


def filled(chosen: np.ndarray, score: np.ndarray, wanted: float) -> np.ndarray:
    """Add the best scored places with their mirror images until as many are chosen as wanted, to half a pair."""
    chosen = chosen.copy()
    order = np.argsort(-score, axis=None)
    for index in order:
        if chosen.sum() + 1 > wanted:
            break
        at = int(index) // score.shape[1], int(index) % score.shape[1]
        chosen[at] = chosen[mirror(at, score.shape)] = True
    return chosen


def poisson(radius: np.ndarray, centre: np.ndarray, wanted: float, rng: np.random.Generator) -> np.ndarray:
    """Throw darts that keep their distance, halving the range of the distance's scale until the number is right."""
    score = rng.random(radius.shape)
    order = np.argsort(-score, axis=None)
    low, high = 0.3, 12.0
    for _ in range(8):
        scale = math.sqrt(low * high)
        chosen = thrown(radius, centre, order, scale)
        low, high = (scale, high) if chosen.sum() > wanted else (low, scale)
    return filled(thrown(radius, centre, order, high), score, wanted)


def thrown(radius: np.ndarray, centre: np.ndarray, order: np.ndarray, scale: float) -> np.ndarray:
    """Choose places in order, none nearer to an earlier one than scale * (0.3 + 2 |k|) places."""
    shape = radius.shape
    chosen, taken = centre.copy(), centre.copy()
    for index in order.tolist():
        at = index // shape[1], index % shape[1]
        if taken[at]:
            continue
        distance = scale * (0.3 + 2 * radius[at])
        n = math.ceil(distance)
        offsets = np.arange(-n, n + 1)
        disc = np.hypot(offsets[:, None], offsets[None]) < max(distance, 0.5)
        for place in (at, mirror(at, shape)):
            chosen[place] = True
            rows, columns = (place[0] + offsets) % shape[0], (place[1] + offsets) % shape[1]
            taken[np.ix_(rows, columns)] |= disc
    return chosen
