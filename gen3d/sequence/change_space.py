"""Coordinates of what changes between two visits: nothing is zero, whatever the space."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ChangeSpace(nn.Module):
    r"""$(E(x) - E(last)) / scale$ and back, $last + D(E(last) + scale \cdot coords) - D(E(last))$.

    So zero coordinates are the last visit to the bit, even where D and E are an autoencoder that is only
    approximate. ``scale`` is the root mean square of each channel over the training set.

    Args:
        space: Encodes (B, 1, X, Y, Z) to (B, c, x, y, z) and decodes.
        channels: c.
    """

    def __init__(self, space: Any, channels: int) -> None:
        super().__init__()
        self.held = (space,)  # whoever builds the space saves it
        self.register_buffer("scale", torch.ones(channels))

    scale: Tensor

    @property
    def space(self) -> Any:
        """The space of visits."""
        return self.held[0]

    def visit(self, voxels: Tensor) -> Tensor:
        """Return coordinates of visits, (B, 1, X, Y, Z) -> (B, c, x, y, z)."""
        coords: Tensor = self.space.encode(voxels)
        return coords

    def change(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the scaled change from ``one`` to ``other``, coordinates of visits (..., c, x, y, z)."""
        return (other - one) / self.scale[:, None, None, None]

    def applied(self, last: Tensor, coords: Tensor) -> Tensor:
        """Return the last visit (B, 1, X, Y, Z) with a change put onto it."""
        size = last.shape[2:]
        before = self.visit(last)
        after = before + coords * self.scale[:, None, None, None]
        change: Tensor = self.space.decode(after, size) - self.space.decode(before, size)
        return torch.where((coords == 0).flatten(1).all(1)[:, None, None, None, None], last, last + change)

    @torch.no_grad()
    def measure(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the scale from pairs of visits (B, 1, X, Y, Z) of the training set."""
        squares, count = torch.zeros(len(self.scale), dtype=torch.float64), 0
        for one, other in pairs:
            change = (self.visit(other) - self.visit(one)).double()
            squares += change.square().mean((0, 2, 3, 4)).cpu()
            count += 1
        self.scale.copy_((squares / max(count, 1)).clamp_min(1e-8).sqrt())

    def shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return the grid of the coordinates of a volume."""
        grid: tuple[int, int, int] = self.space.shape(size)
        return grid
