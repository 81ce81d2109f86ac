"""What a generator keeps of its training set so that copies of it are noticed: a few numbers for each scan."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.randomness import normal
from gen3d.core.volume import Triple

POOLED, NUMBERS = 1024, 96  # cells of a coarse image at most, and how many numbers a fingerprint keeps of them


class Fingerprints(nn.Module):
    r"""Fingerprints of training scans and of their mirror images, and how alike different scans are.

    A fingerprint is $P u / |P u|$, where u is the image averaged over at most 1024 cells less its mean and P a random
    projection, the same everywhere: inner products are about the correlations of coarse images, from which the images
    can't be drawn again.

    Args:
        cases: Training scans.
        flips: Axes along which training mirrors them: 0, 1, 2.
    """

    fingerprints: Tensor
    closest: Tensor

    def __init__(self, cases: int, flips: Sequence[int] = ()) -> None:
        super().__init__()
        self.mirrors = [axes for count in range(len(flips) + 1) for axes in combinations(flips, count)]
        shape = (cases, len(self.mirrors), NUMBERS)
        self.register_buffer("fingerprints", torch.zeros(shape, dtype=torch.float16))
        self.register_buffer("closest", torch.ones(cases))  # to another case; a lone one can't be told from a copy

    @torch.no_grad()
    def measure(self, images: Iterable[Tensor]) -> None:
        """Take the fingerprints of the training scans, (1, C, X, Y, Z) each, in their order."""
        for place, image in enumerate(images):
            for number, axes in enumerate(self.mirrors):
                self.fingerprints[place, number] = fingerprint(image.flip([2 + axis for axis in axes]))[0]
        rows = self.fingerprints.flatten(0, 1).float()
        for place in range(len(self.fingerprints) if len(self.fingerprints) > 1 else 0):
            alike = (rows @ self.fingerprints[place, 0].float()).unflatten(0, (-1, len(self.mirrors))).amax(1)
            alike[place] = -1
            self.closest[place] = alike.max()


def fingerprint(images: Tensor) -> Tensor:
    """Return the fingerprint of images (B, C, X, Y, Z), (B, 96) float32 of norm 1; constant images have zeros."""
    x, y, z = images.shape[2:]
    coarse = nnf.adaptive_avg_pool3d(images.float(), cells((x, y, z))).flatten(1)
    coarse = coarse - coarse.mean(1, keepdim=True)
    projection = normal(["fingerprint"], (coarse.shape[1], NUMBERS))[0].to(coarse)
    return nnf.normalize(coarse @ projection, dim=1)


def cells(size: Triple) -> Triple:
    """Return the finest grid of at most 1024 about cubic cells."""
    step = 1
    while math.prod(-(-n // step) for n in size) > POOLED:
        step += 1
    x, y, z = (-(-n // step) for n in size)
    return x, y, z
