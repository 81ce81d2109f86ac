"""Gaussian blur of volumes, on any device."""

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Return (B, C, X, Y, Z) smoothed by a Gaussian of ``sigma`` voxels, edges repeated; an axis of length 1 is not."""
    if not sigma:
        return image
    reach = math.ceil(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / sigma).square()).to(image.dtype)
    line = line / line.sum()
    volumes = image.flatten(0, 1)[:, None]
    for axis in range(3):
        if volumes.shape[2 + axis] == 1:
            continue
        kernel = line.view([-1 if a == axis else 1 for a in range(3)])[None, None]
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = reach
        volumes = nnf.conv3d(nnf.pad(volumes, pad, mode="replicate"), kernel)
    return volumes.view(image.shape)
