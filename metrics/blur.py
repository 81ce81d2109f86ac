"""Whether a synthetic image is as sharp as the true one."""

import torch
from torch import Tensor

from .ssim import bounding_box


def blur_index(true: Tensor, fake: Tensor, where: Tensor) -> float | None:
    r"""Compare the high frequencies of two images: 1 is as sharp, below 1 smoother, above 1 sharper or noisier.

    $B = \frac{\sum_{v \in R} (\nabla^2 b)_v^2}{\sum_{v \in R} (\nabla^2 a)_v^2}$ with the discrete Laplacian
    $(\nabla^2 a)_v = \sum_{axes} a_{v-1} - 2 a_v + a_{v+1}$ in steps of voxels, for which the outermost voxels of the
    volume are repeated (0 along an axis of length 1). $R$ is the region's voxels whose neighbours along all axes are in
    it too, so that the border of a skull-stripped brain does not count; all of its voxels where none has.

    Noise is high frequency, so an image without the true one's noise is smoother: that is meant. A gain g shows as g^2.

    Args:
        true: Image a, (X, Y, Z).
        fake: Image b on the same scale, (X, Y, Z).
        where: The region, at least one voxel is True, (X, Y, Z).

    Returns:
        B, or None where the true image is constant or linear in the region, so that there is nothing to compare with.
    """
    box = bounding_box(where, 1)
    core = interior(where[box])
    sharp, other = (float(laplacian(v[box].double())[core].square().sum()) for v in (true, fake))
    return other / sharp if sharp > 0 else None


def laplacian(voxels: Tensor) -> Tensor:
    """Sum the second differences along all axes, repeating the outermost voxels, (X, Y, Z)."""
    total = torch.zeros_like(voxels)
    for axis, n in enumerate(voxels.shape):
        steps = voxels.diff(dim=axis)
        total.narrow(axis, 0, n - 1).add_(steps)
        total.narrow(axis, 1, n - 1).sub_(steps)
    return total


def interior(where: Tensor) -> Tensor:
    """Keep the voxels whose neighbours are in the mask; all of it where none has, (X, Y, Z) bool."""
    inner = where
    for axis in range(where.ndim):
        before, after = neighbours(where, axis)
        inner = inner & before & after
    return inner if bool(inner.any()) else where


def neighbours(voxels: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return each voxel's neighbours before and after it along an axis; the outermost are their own."""
    n = voxels.shape[axis]
    first, last = voxels.narrow(axis, 0, 1), voxels.narrow(axis, n - 1, 1)
    before = torch.cat([first, voxels.narrow(axis, 0, n - 1)], axis)
    return before, torch.cat([voxels.narrow(axis, 1, n - 1), last], axis)
