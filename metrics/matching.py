"""Overlap of every mask with every other, and the best matching of samples to raters.

Sets of masks are (n, X, Y, Z), binary; 2D is Z = 1, classes are scored one at a time.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Empty = Literal["agree", "exclude", "disagree"]
IOU_OF_NOTHING = {"agree": 1.0, "exclude": math.nan, "disagree": 0.0}
EXACT = 2**24  # the largest count that float32 holds to the last voxel


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of every mask of one set with every mask of another, float64.

    Attributes:
        common: Voxels in both masks, (n, m).
        first: Voxels of each mask of the first set, (n,).
        second: Voxels of each mask of the second set, (m,).
        voxels: Voxels of the whole volume.
    """

    common: Tensor
    first: Tensor
    second: Tensor
    voxels: int

    @property
    def sizes(self) -> Tensor:
        """Voxels of both masks added up, (n, m)."""
        return self.first[:, None] + self.second[None]

    def iou(self, empty: Empty = "agree") -> Tensor:
        r"""Return $|a \cap b| / |a \cup b|$, (n, m).

        Args:
            empty: What the overlap of two empty masks is. "agree": 1, as most papers have it; "exclude": nan, and such
                a pair is left out of every mean; "disagree": 0, which is what code that adds a small number to the
                denominator alone computes.

        Raises:
            ValueError: Another convention.
        """
        if empty not in IOU_OF_NOTHING:
            raise ValueError(f"empty masks '{empty}': expected one of {', '.join(IOU_OF_NOTHING)}")
        union = self.sizes - self.common
        return torch.where(union > 0, self.common / union.clamp_min(1), IOU_OF_NOTHING[empty])

    def dice(self) -> Tensor:
        r"""Return $2 |a \cap b| / (|a| + |b|)$, 1 where both masks are empty, (n, m)."""
        return torch.where(self.sizes > 0, 2 * self.common / self.sizes.clamp_min(1), 1.0)

    def difference_variance(self) -> Tensor:
        """Return the population variance, over all voxels, of one mask minus the other, (n, m)."""
        mean = (self.first[:, None] - self.second[None]) / self.voxels
        return (self.sizes - 2 * self.common) / self.voxels - mean.square()


def overlap(a: Tensor, b: Tensor) -> Overlap:
    """Count the common voxels of every pair by one matrix product, bool (n, X, Y, Z) and (m, X, Y, Z)."""
    first, second = a.flatten(1), b.flatten(1)
    shared = first.any(0) & second.any(0)
    exact = torch.float32 if int(shared.sum()) < EXACT else torch.float64
    common = first[:, shared].to(exact) @ second[:, shared].to(exact).T
    return Overlap(common.double(), sizes(first), sizes(second), first.shape[1])


def sizes(masks: Tensor) -> Tensor:
    """Count the voxels of each mask, (n, voxels) -> (n,); many times faster than a sum along an axis."""
    return torch.stack([mask.count_nonzero() for mask in masks]).double()


def binary_masks(masks: Tensor, what: str = "masks") -> Tensor:
    """Return a set of masks as booleans, without the missing ones, (n, X, Y, Z).

    A mask that is nan everywhere stands for a rater who did not draw this case and is left out.

    Args:
        masks: Numbers that are 0 or 1, (n, X, Y, Z).
        what: Their name in an error's text.

    Raises:
        ValueError: Another number of axes, no mask at all, a mask that is nan in places, or other numbers.
    """
    if masks.ndim != 4:
        raise ValueError(f"{what}: shape {tuple(masks.shape)}; expected (n, X, Y, Z), with Z = 1 in 2D")
    if masks.dtype == torch.bool:
        kept = masks
    else:
        missing = masks.isnan().flatten(1)
        there = masks[~missing.all(1)]
        if bool(there.isnan().any()):
            raise ValueError(f"{what}: nan in a part of a mask; expected 0 and 1, or nan everywhere if it is missing")
        kept = there == 1
        if not bool((kept | (there == 0)).all()):
            raise ValueError(f"{what}: not binary; expected 0 and 1; give one class at a time")
    if not kept.numel():
        raise ValueError(f"{what}: none is there; expected at least one mask with at least one voxel")
    return kept


def binary_pair(samples: Tensor, raters: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets through ``binary_masks``.

    Raises:
        ValueError: Their grids differ, or as ``binary_masks`` does.
    """
    samples, raters = binary_masks(samples, "samples"), binary_masks(raters, "raters")
    if samples.shape[1:] != raters.shape[1:]:
        sizes = ("x".join(map(str, masks.shape[1:])) for masks in (samples, raters))
        raise ValueError("samples of {} voxels, raters of {}; expected one grid".format(*sizes))
    return samples, raters


def hungarian_iou(samples: Tensor, raters: Tensor, *, empty: Empty = "agree") -> float:
    r"""Return the mean IoU under the best one-to-one matching of samples to raters (HM-IoU), in [0, 1].

    With $L$ the least common multiple of n and m, each sample is taken L/n times and each rater L/m times;
    $\max_\pi \frac{1}{L} \sum_i IoU(S_i, Y_{\pi(i)})$ over all permutations. It rises with n.

    Args:
        samples: (n, X, Y, Z).
        raters: (m, X, Y, Z).
        empty: Convention for two empty masks, as in ``Overlap.iou``. "exclude" matches them as if they agreed and
            leaves them out of the mean, which is 1 if nothing else remains.

    Raises:
        ValueError: As ``binary_pair`` does.

    References:
        Kohl et al. (2019), section 4.1. https://arxiv.org/abs/1905.13077
    """
    return matched_iou(overlap(*binary_pair(samples, raters)).iou(empty))


def matched_iou(iou: Tensor) -> float:
    """Return the mean of the best matching in a table of IoU, (n, m); -inf forbids a pair, nan is left out."""
    from scipy.optimize import linear_sum_assignment

    n, m = iou.shape
    size = math.lcm(n, m)
    square = iou.repeat_interleave(size // n, 0).repeat_interleave(size // m, 1)
    matched = square[linear_sum_assignment(square.nan_to_num(nan=1.0, neginf=-math.inf).cpu().numpy(), maximize=True)]
    matched = matched[~matched.isnan()]
    return float(matched.mean()) if len(matched) else 1.0


def maximum_dice_matching(samples: Tensor, raters: Tensor) -> float:
    r"""Return the best Dice of each rater over the samples, averaged over the raters: $D_{max}$, in [0, 1].

    $\frac{1}{m} \sum_j \max_i Dice(S_i, Y_j)$, Dice being 1 for two empty masks. It rises with n.

    Args:
        samples: (n, X, Y, Z).
        raters: (m, X, Y, Z).

    Raises:
        ValueError: As ``binary_pair`` does.

    References:
        Rahman et al. (2023), section 4.2. https://arxiv.org/abs/2304.04745
    """
    return float(overlap(*binary_pair(samples, raters)).dice().amax(0).mean())
