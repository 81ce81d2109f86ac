"""What turns voxels into the coordinates that diffuse."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Space(Protocol):
    """An invertible change of coordinates between voxels and what diffuses; scales live inside."""

    def encode(self, voxels: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, c, x, y, z); pads to the space's own stride."""

    def decode(self, coords: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, c, x, y, z) -> (B, C, X, Y, Z), cropped to ``size``."""
