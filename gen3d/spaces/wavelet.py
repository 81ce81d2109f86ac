"""The Haar space of WDM: subbands as channels at half (or a quarter) of the size, exactly invertible."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.nn.haar import haar, inverse_haar, split_axes

Size = tuple[int, int, int]
Scale = Literal["wdm", "orthonormal", "sqrt8", "statistics"]


@dataclass(frozen=True)
class WaveletConfig:
    """How many times subbands are split, 1 or 2, and what they are divided by (see ``Wavelet``)."""

    levels: int = 1
    scale: Scale = "wdm"


class Wavelet(nn.Module):
    """coords = (subbands - mean) / std: (B, C, X, Y, Z) -> (B, C * 8**levels, X / 2**levels, ...).

    Two levels are a wavelet packet: every subband is split again. In 2D (Z = 1) there are 4**levels subbands.

    ``scale`` sets the std of each subband (mean 0): "wdm" 3 for LLL, 1 for details (Friedrich et al. 2024); "sqrt8"
    sqrt(8) for all; "orthonormal" 1, so that white noise stays white; with two levels, the products. "statistics":
    mean and std of each subband over the training set, shared by the image's channels, set by ``measure``.
    """

    def __init__(self, levels: int = 1, scale: Scale = "wdm") -> None:
        super().__init__()
        if levels not in (1, 2):
            raise ValueError(f"levels must be 1 or 2, not {levels}")
        if scale not in get_args(Scale):
            raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, not '{scale}'")
        self.levels, self.scale, self.stride = levels, scale, 2**levels
        self.register_buffer("mean", torch.zeros(8**levels))
        self.register_buffer("std", _std(scale, levels))

    mean: Tensor
    std: Tensor

    def encode(self, voxels: Tensor) -> Tensor:
        """Pad by repeating the edge, transform, scale; float32."""
        bands, mean, std = self._by_band(self._subbands(voxels))
        return (bands - mean).div_(std).flatten(1, 2)

    def decode(self, coords: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Undo ``encode``, cropped to ``size`` (X, Y, Z)."""
        axes = split_axes(coords.shape)
        bands, mean, std = self._by_band(coords.float())
        x = (bands * std).add_(mean).flatten(1, 2)
        for _ in range(self.levels):
            x = inverse_haar(x, axes)
        return x if size is None else x[..., : size[0], : size[1], : size[2]]

    def channels(self, count: int, size: Sequence[int] | None = None) -> int:
        """Return the channels that ``count`` image channels become; ``size`` matters where an axis has length 1."""
        axes = 3 if size is None else len(split_axes(size))
        return count * 2 ** (axes * self.levels)

    def shape(self, size: Sequence[int]) -> Size:
        """Return the grid of the coordinates of a volume of ``size``."""
        grid = [1 if n == 1 else max(2, -(-n // self.stride)) for n in size]
        return grid[0], grid[1], grid[2]

    @torch.no_grad()
    def measure(self, volumes: Iterable[Tensor]) -> None:
        """Set mean and std of each subband from voxels (B, C, X, Y, Z) of the training set (scale "statistics").

        Raises:
            ValueError: The space has another scale, or there is no volume.
        """
        if self.scale != "statistics":
            raise ValueError(f"a space of scale '{self.scale}' has nothing to measure")
        count, total, squares, slots = 0, torch.zeros(()), torch.zeros(()), [0]
        for voxels in volumes:
            coefficients = self._subbands(voxels)
            slots = self._slots(coefficients)
            bands = coefficients.unflatten(1, (-1, len(slots))).transpose(0, 2).flatten(1).double()
            count, total, squares = count + bands.shape[1], total + bands.sum(1), squares + bands.square().sum(1)
        if not count:
            raise ValueError("no volume to measure")
        mean = total / count
        self.mean[slots] = mean.to(self.mean)
        self.std[slots] = (squares / count - mean.square()).clamp(min=1e-8).sqrt().to(self.std)

    def _subbands(self, voxels: Tensor) -> Tensor:
        axes = split_axes(voxels.shape)
        x = self._padded(voxels.float())
        for _ in range(self.levels):
            x = haar(x, axes)
        return x

    def _padded(self, voxels: Tensor) -> Tensor:
        """Repeat the edge, to two coordinates at least: then an axis of length 1 in coordinates was 1 in voxels."""
        size = voxels.shape[-3:]
        extra = [0 if n == 1 else g * self.stride - n for n, g in zip(size, self.shape(size), strict=True)]
        if not any(extra):
            return voxels
        return nnf.pad(voxels, (0, extra[2], 0, extra[1], 0, extra[0]), mode="replicate")

    def _by_band(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slots, mean, std = self._slots(coefficients), self.mean, self.std
        if len(slots) < len(mean):
            mean, std = mean[slots], std[slots]
        mean, std = mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)
        return coefficients.unflatten(1, (-1, len(slots))), mean, std

    def _slots(self, coefficients: Tensor) -> list[int]:
        """Where the subbands stand among all 8**levels: low along each axis of length 1, which was not split."""
        flat = sum(4 >> axis for axis in range(3) if coefficients.shape[2 + axis] == 1)
        one = [band for band in range(8) if not band & flat]
        return one if self.levels == 1 else [8 * a + b for a in one for b in one]


def _std(scale: str, levels: int) -> Tensor:
    one = torch.ones(8)
    if scale == "wdm":
        one[0] = 3.0
    elif scale == "sqrt8":
        one[:] = 8**0.5
    return one if levels == 1 else torch.outer(one, one).flatten()
