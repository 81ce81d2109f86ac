"""Parallel-beam projection of axial slices and filtered back-projection.

It serves measurements that are simulated from magnitude images: nothing here models a scanner's fan or cone beam,
scatter, beam hardening or detector.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.error import UsageError
from gen3d.core.randomness import Key, normal

WATER_PER_MM = 0.0193  # attenuation of water at 70 keV (NIST XCOM, 0.193 per cm)


@dataclass(frozen=True)
class ParallelBeam:
    r"""Line integrals of each axial slice at ``views`` angles $\theta_v = \pi v / views$, and their adjoint.

    The matrix is exact for square pixels and bins of finite width: $A_{rp}$ is the area that pixel p shares with the
    strip r of the rays that end in one bin, divided by the bin's width (the strip model; Kak & Slaney 1988, section
    7.1). Lengths are in units of the smaller pixel side, which is also the width of a bin; there are as many bins as
    cover the slice's diagonal.

    Attributes:
        size: Pixels of a slice, (X, Y).
        views: Number of angles.
        pixel: Sides of a pixel along X and Y; only their ratio matters.

    Raises:
        UsageError: There is no view.
    """

    size: tuple[int, int]
    views: int
    pixel: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.views < 1:
            raise UsageError(f"views {self.views}: expected at least 1; 20 or 50 are usual for sparse-view CT")
        least = min(self.pixel)
        object.__setattr__(self, "pixel", (round(self.pixel[0] / least, 4), round(self.pixel[1] / least, 4)))

    @property
    def bins(self) -> int:
        """Bins of the detector."""
        return math.ceil(math.hypot(*(n * d for n, d in zip(self.size, self.pixel, strict=True)))) + 3

    @property
    def strength(self) -> float:
        """The largest eigenvalue of A*A, to a few percent: views times the longer side of the slice."""
        return self.views * max(n * d for n, d in zip(self.size, self.pixel, strict=True)) * math.prod(self.pixel)

    def forward(self, voxels: Tensor) -> Tensor:
        """Project, (B, C, X, Y, Z) -> (B, C, views, bins, Z)."""
        return self._times(0, voxels, (self.views, self.bins))

    def adjoint(self, lines: Tensor) -> Tensor:
        """Project back without a filter, (B, C, views, bins, Z) -> (B, C, X, Y, Z)."""
        return self._times(1, lines, self.size)

    def pseudo_inverse(self, lines: Tensor) -> Tensor:
        r"""Filtered back-projection with the ramp filter, (B, C, views, bins, Z) -> (B, C, X, Y, Z).

        $v = \frac{\pi}{views} A^* (h * y)$ with $h_0 = 1/4$, $h_n = -1 / (\pi n)^2$ for odd n, else 0 (Kak & Slaney
        1988, equation 61), zero-padded so that nothing wraps around.
        """
        n = 2 ** math.ceil(math.log2(2 * self.bins))
        at = torch.arange(n, device=lines.device)
        distance = torch.minimum(at, n - at).float()
        ramp = torch.where(distance % 2 == 1, -1 / (math.pi * distance.clamp_min(1)) ** 2, 0.0)
        ramp[0] = 0.25
        spectrum = torch.fft.rfft(ramp).real[:, None]
        filtered = torch.fft.irfft(torch.fft.rfft(lines, n, dim=3) * spectrum, n, dim=3)[:, :, :, : self.bins]
        return self.adjoint(filtered) * (math.pi / self.views / math.prod(self.pixel))

    def grain(self, key: Key, like: Tensor) -> Tensor:
        """Draw white noise of unit variance, (1, C, views, bins, Z)."""
        return normal([key], like.shape[1:]).to(like.device)

    def _times(self, which: int, x: Tensor, shape: Sequence[int]) -> Tensor:
        there, back = matrices(self, x.device)
        columns = x.float().flatten(2, 3).permute(2, 0, 1, 3)
        pair = (back, there) if which else (there, back)
        product: Tensor = _Product.apply(columns.flatten(1), *pair)
        return product.unflatten(1, columns.shape[1:]).permute(1, 2, 0, 3).unflatten(2, tuple(shape))


class _Product(torch.autograd.Function):
    """A sparse matrix times columns; the gradient takes the transpose, which is there already."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.pair = matrix, transposed
        return matrix @ columns

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        matrix, transposed = ctx.pair
        return _Product.apply(gradient, transposed, matrix), None, None


@lru_cache(maxsize=24)
def matrices(beam: ParallelBeam, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return A, (views * bins, X * Y), and its transpose, as sparse rows on a device."""
    first, weights = footprints(beam)
    pixels, views, width = weights.shape
    columns = (first + torch.arange(views) * beam.bins)[..., None] + torch.arange(width)
    ends = torch.arange(pixels + 1) * (views * width)
    parts = ends.int(), columns.flatten().int(), weights.flatten().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that sparse rows are in beta
        back = torch.sparse_csr_tensor(*parts, size=(pixels, views * beam.bins), check_invariants=False)
        there = torch.sparse_csc_tensor(*parts, size=(views * beam.bins, pixels), check_invariants=False)
        return there.to_sparse_csr().to(device), back.to(device)


def footprints(beam: ParallelBeam) -> tuple[Tensor, Tensor]:
    """Return, for each pixel and view, the first bin that it reaches and its share in that and the following ones."""
    theta = torch.arange(beam.views, dtype=torch.float64) * (math.pi / beam.views)
    along_x, along_y = (
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * d for n, d in zip(beam.size, beam.pixel, strict=True)
    )
    centre = (along_x[:, None, None] * theta.cos() + along_y[:, None] * theta.sin()).flatten(0, 1) + beam.bins / 2
    a, b = (d * part.abs().clamp_min(1e-6) for d, part in zip(beam.pixel, (theta.cos(), theta.sin()), strict=True))
    width = math.ceil(math.hypot(*beam.pixel)) + 1
    first = (centre - (a + b) / 2).floor()
    edges = first[..., None] + torch.arange(width + 1) - centre[..., None]
    return first.long(), shadow(edges, a[:, None], b[:, None]).diff() * math.prod(beam.pixel)


def shadow(s: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the share of a pixel's trapezoid shadow, the convolution of boxes of widths a and b, that lies below s."""
    corners = (((a + b) / 2, 1), ((a - b) / 2, -1), ((b - a) / 2, -1), (-(a + b) / 2, 1))
    parts = [sign * (s + offset).clamp_min(0).square() for offset, sign in corners]
    return torch.stack(parts).sum(0) / (2 * a * b)


def to_attenuation(hounsfield: Tensor) -> Tensor:
    """Turn Hounsfield units into attenuation per mm at 70 keV; less than air's counts as none."""
    return WATER_PER_MM * nnf.relu(1 + hounsfield / 1000)


def to_hounsfield(attenuation: Tensor) -> Tensor:
    """Turn attenuation per mm at 70 keV into Hounsfield units."""
    return 1000 * (attenuation / WATER_PER_MM - 1)
