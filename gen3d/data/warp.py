"""Images and masks as seen from other places: a field that is given, or a random turn, zoom and bend."""

import math

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.volume import Triple

COARSE = 4  # points of a random bend along each axis


def random_places(size: Triple, rng: np.random.Generator, *, turn: float, zoom: float, bend: float) -> Tensor:
    r"""Draw from where each voxel comes, $c + R\,diag(e^{s})(v - c) + u(v)$, in voxels: (1, 3, X, Y, Z).

    Args:
        size: (X, Y, Z); an axis of length 1 stays, and what has one turns in its plane alone.
        rng: Where all of it comes from.
        turn: Standard deviation of the rotation R in degrees, about each axis.
        zoom: Standard deviation of s along each axis.
        bend: Standard deviation of u at the points of a coarse grid, in voxels.
    """
    flat = [n == 1 for n in size]
    angles = math.radians(turn) * rng.normal(size=3)
    x, y, z = (0.0 if any(flat[:axis] + flat[axis + 1 :]) else float(angle) for axis, angle in enumerate(angles))
    rotation = torch.linalg.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
    scale = torch.from_numpy(np.exp(zoom * rng.normal(size=3)).astype(np.float32))
    middle = torch.tensor([(n - 1) / 2 for n in size]).view(3, 1, 1, 1)
    voxels = torch.stack(torch.meshgrid([torch.arange(float(n)) for n in size], indexing="ij"))
    places = middle + torch.einsum("ij,jxyz->ixyz", rotation * scale, voxels - middle)
    coarse = torch.from_numpy((bend * rng.normal(size=(1, 3, COARSE, COARSE, COARSE))).astype(np.float32))
    places = places + nnf.interpolate(coarse, tuple(size), mode="trilinear", align_corners=True)[0]
    still = torch.tensor(flat).view(3, 1, 1, 1)
    return torch.where(still, voxels, places)[None]


def warped(image: Tensor, places: Tensor) -> Tensor:
    """Return an image (1, C, X, Y, Z) as seen from ``places`` (V, 3, X, Y, Z), trilinear: (V, C, X, Y, Z)."""
    ends = torch.tensor([n - 1.0 for n in image.shape[2:]]).view(1, 3, 1, 1, 1)
    return sampled(image, places, ends)


def warped_labels(masks: Tensor, places: Tensor) -> Tensor:
    """Return the likeliest labels of masks (R, X, Y, Z) at ``places`` (V, 3, X, Y, Z), (V, R, X, Y, Z) uint8."""
    shares = [warped((masks == label).float()[None], places) for label in range(int(masks.max()) + 1)]
    return torch.stack(shares).argmax(0).to(torch.uint8)


def sampled(image: Tensor, places: Tensor, ends: Tensor) -> Tensor:
    """Sample (1, C, x, y, z), which spans voxels 0 to ``ends``, at (V, 3, X, Y, Z) of these voxels."""
    grid = (2 * places / ends.clamp_min(1) - 1).flip(1).movedim(1, -1)
    return nnf.grid_sample(
        image.expand(len(places), -1, -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
