"""Voxels as they are: the space in which nothing is transformed."""

from collections.abc import Sequence

from torch import Tensor, nn


class Pixel(nn.Module):
    """coords = voxels, (B, C, X, Y, Z) both: exact, any size."""

    stride = 1

    def encode(self, voxels: Tensor) -> Tensor:
        """Return the voxels as float32."""
        return voxels.float()

    def decode(self, coords: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Return the coordinates, cropped to ``size`` (X, Y, Z)."""
        if size is None:
            return coords
        return coords[..., : size[0], : size[1], : size[2]]

    def channels(self, count: int, size: Sequence[int] | None = None) -> int:
        """Return the channels that ``count`` image channels become."""
        return count

    def shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return the grid of the coordinates of a volume of ``size``."""
        return size[0], size[1], size[2]
