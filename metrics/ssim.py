"""Structural similarity of two images of range 1, averaged over any set of voxels."""

import torch
from torch import Tensor

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # voxels; scipy's Gaussian truncated at 3.5 standard deviations
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for images of range 1


def mean_ssim(a: Tensor, b: Tensor, where: Tensor) -> float:
    """Average the structural similarity of two images of range 1 over some voxels.

    Args:
        a: Image, (X, Y, Z).
        b: Image, (X, Y, Z).
        where: At least one voxel is True, (X, Y, Z); the windows around these see the image beyond them too.

    References:
        Wang et al. (2004), equation 13. https://doi.org/10.1109/TIP.2003.819861
    """
    box = bounding_box(where, SSIM_RADIUS)  # what lies farther away cannot reach these voxels
    return float(ssim_map(a[box], b[box])[where[box]].double().mean())


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the structural similarity around each voxel of two images of range 1, (X, Y, Z) float32.

    $\frac{(2 \mu_a \mu_b + C_1)(2 \sigma_{ab} + C_2)}{(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}$ with a
    Gaussian window of 1.5 voxels, 11 voxels wide (1 along an axis of length 1), $C_1 = 0.01^2$, $C_2 = 0.03^2$; at the
    faces the image is mirrored.

    References:
        Wang et al. (2004), equation 13. https://doi.org/10.1109/TIP.2003.819861
    """
    a, b = a.float(), b.float()
    mean_a, mean_b = blur(a), blur(b)
    both = mean_a * mean_b
    structure = (2 * (blur(a * b) - both) + SSIM_C2) * (2 * both + SSIM_C1)
    squares = mean_a.square() + mean_b.square()
    variances = blur(a.square() + b.square()) - squares
    return structure / ((squares + SSIM_C1) * (variances + SSIM_C2))


def bounding_box(where: Tensor, margin: int = 0) -> tuple[slice, ...]:
    """Return the smallest box around the true voxels, grown by ``margin`` inside the volume."""
    box = []
    for axis in range(where.ndim):
        inside = where.any(dim=tuple(d for d in range(where.ndim) if d != axis)).nonzero()
        box.append(slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, where.shape[axis])))
    return tuple(box)


def blur(voxels: Tensor) -> Tensor:
    """Smooth with a Gaussian along each axis, mirroring at the faces (the edge voxel is repeated), (X, Y, Z)."""
    for axis in range(voxels.ndim):
        rows = blur_rows(voxels.shape[axis]).to(voxels)
        voxels = torch.tensordot(rows, voxels, dims=([1], [axis])).movedim(0, axis)
    return voxels


def blur_rows(n: int) -> Tensor:
    """Return the Gaussian filter of an axis as a matrix, (n, n): a product is far faster than a convolution."""
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / SSIM_SIGMA) ** 2)
    reached = (torch.arange(n)[:, None] + offsets) % (2 * n)
    mirrored = torch.where(reached < n, reached, 2 * n - 1 - reached)
    rows = torch.zeros(n, n, dtype=torch.float64)
    return rows.scatter_add_(1, mirrored, (kernel / kernel.sum()).expand(n, -1).contiguous())
