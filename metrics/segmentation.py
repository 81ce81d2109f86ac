"""Overlap and surface distances of two segmentations, label by label, in mm.

A surface is the voxels of a mask with a neighbour outside of it along an axis (beyond the volume is outside; an axis of
length 1 has no neighbours, so 2D is Z = 1), distances go from voxel centre to voxel centre. MONAI's surfaces and values
are the same where neither mask is empty and the arrays are truly 2D or 3D; with one empty it gives inf or nan, with
Z = 1 it takes every voxel for surface. So the distances here are a search tree's, of scipy.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .blur import neighbours
from .ssim import bounding_box

Empty = Literal["both", "true", "fake"]


class SegmentationScore(NamedTuple):
    """Scores of one label.

    Attributes:
        label: Its number.
        dice: 2 |A ∩ B| / (|A| + |B|); 1 where both are empty.
        iou: |A ∩ B| / |A ∪ B|; 1 where both are empty.
        hd95: mm; see ``surface_distances``. 0 where both are empty, the volume's diagonal where one is.
        assd: mm, likewise.
        surface_dice: Share of all surface voxels, of both, within the tolerance of the other surface; 1 where both are
            empty, 0 where one is.
        volume_error: (|B| - |A|) / |A| in percent; None where only the true mask is empty.
        true_ml: Volume of the true mask.
        fake_ml: Volume of the other.
        empty: Which masks are: "both", "true", "fake"; None if neither.
    """

    label: int
    dice: float
    iou: float
    hd95: float
    assd: float
    surface_dice: float
    volume_error: float | None
    true_ml: float
    fake_ml: float
    empty: Empty | None


class SurfaceDistances(NamedTuple):
    """Distances in mm of two surfaces' voxels to the other surface.

    Attributes:
        forth: Of each surface voxel of a to the nearest of b, (n,) float64.
        back: Of each surface voxel of b to the nearest of a, (m,) float64.
    """

    forth: Tensor
    back: Tensor

    @property
    def hd95(self) -> float:
        """The larger of both directions' 95th percentiles (linear between ranks)."""
        return max(float(np.percentile(side.numpy(), 95)) for side in self)

    @property
    def assd(self) -> float:
        """Mean over the voxels of both surfaces together."""
        return float(torch.cat(self).mean())

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces' voxels that are at most the tolerance away from the other surface."""
        return float((torch.cat(self) <= tolerance_mm + 1e-9).double().mean())


def segmentation_scores(
    true: Tensor,
    fake: Tensor,
    *,
    spacing: Sequence[float],
    labels: Sequence[int] | None = None,
    tolerance_mm: float = 1.0,
) -> list[SegmentationScore]:
    """Score a segmentation against the true one, label by label.

    References:
        Dice (1945), https://doi.org/10.2307/1932409; Nikolov et al. (2021), surface Dice,
        https://doi.org/10.2196/26151 (there by surface area, here by surface voxels); Maier-Hein et al. (2024),
        Metrics reloaded, https://doi.org/10.1038/s41592-023-02151-z.

    Args:
        true: Whole numbers, 0 is background, (X, Y, Z); 2D is Z = 1.
        fake: Likewise.
        spacing: Of the voxels, in mm, one for each axis.
        labels: To score; by default all that occur in either, but 0.
        tolerance_mm: Of the surface Dice.

    Returns:
        One score for each label; a label that neither has counts as right, one that only one has as fully wrong, and
        ``empty`` says so.

    Raises:
        ValueError: Shapes differ, labels aren't whole numbers, or spacing or tolerance can't be.
    """
    a, b = _checked(true, fake, spacing, tolerance_mm)
    if labels is None:
        labels = sorted({int(v) for labelled in (a, b) for v in labelled.unique()} - {0})
    return [_score(label, a == label, b == label, spacing, tolerance_mm) for label in labels]


def dice(a: Tensor, b: Tensor) -> float:
    """Return the overlap 2 |A ∩ B| / (|A| + |B|) of two masks, 1 where both are empty.

    Raises:
        ValueError: Shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"expected masks of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    both = int(a.count_nonzero()) + int(b.count_nonzero())
    return 2 * int(((a != 0) & (b != 0)).count_nonzero()) / both if both else 1.0


def surface_distances(a: Tensor, b: Tensor, *, spacing: Sequence[float]) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks, both ways.

    Needs scipy.

    Args:
        a: Mask, (X, Y, Z) bool, not empty.
        b: Likewise.
        spacing: Of the voxels, in mm.

    Raises:
        ValueError: A mask is empty.
    """
    from scipy.spatial import KDTree

    if not bool(a.any()) or not bool(b.any()):
        raise ValueError("a mask is empty: it has no surface to measure a distance to")
    one, other = (surface(mask).nonzero().double().cpu().numpy() * np.asarray(spacing) for mask in (a, b))
    return SurfaceDistances(
        torch.from_numpy(KDTree(other).query(one)[0]), torch.from_numpy(KDTree(one).query(other)[0])
    )


def surface(mask: Tensor) -> Tensor:
    """Return the voxels of a mask with a neighbour outside of it along an axis, (X, Y, Z) bool."""
    inner = mask.clone()
    for axis, n in enumerate(mask.shape):
        if n == 1:
            continue
        before, after = neighbours(mask, axis)
        inner &= before & after
        for face in (0, n - 1):
            inner.narrow(axis, face, 1).zero_()
    return mask & ~inner


def _score(label: int, a: Tensor, b: Tensor, spacing: Sequence[float], tolerance_mm: float) -> SegmentationScore:
    millilitres = math.prod(spacing) / 1000
    size_a, size_b = int(a.count_nonzero()), int(b.count_nonzero())
    overlap = dice(a, b)
    empty = _empty(size_a, size_b)
    if empty is None:
        box = bounding_box(a | b, 1)  # so that what is flat in a volume is no slice
        distances = surface_distances(a[box], b[box], spacing=spacing)
        hd95, assd, near = distances.hd95, distances.assd, distances.surface_dice(tolerance_mm)
    else:
        far = 0.0 if empty == "both" else _diagonal(a.shape, spacing)
        hd95, assd, near = far, far, overlap
    return SegmentationScore(
        label=label,
        dice=overlap,
        iou=overlap / (2 - overlap),
        hd95=hd95,
        assd=assd,
        surface_dice=near,
        volume_error=100 * (size_b - size_a) / size_a if size_a else None if size_b else 0.0,
        true_ml=size_a * millilitres,
        fake_ml=size_b * millilitres,
        empty=empty,
    )


def _empty(size_a: int, size_b: int) -> Empty | None:
    if size_a and size_b:
        return None
    return "true" if size_b else "fake" if size_a else "both"


def _diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """The largest distance that two voxel centres can have."""
    return math.hypot(*((n - 1) * mm for n, mm in zip(shape, spacing, strict=True)))


def _checked(true: Tensor, fake: Tensor, spacing: Sequence[float], tolerance_mm: float) -> tuple[Tensor, Tensor]:
    if true.ndim != 3 or true.shape != fake.shape:
        shapes = f"{tuple(true.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"expected two segmentations (X, Y, Z) of one shape, got {shapes}; 2D is Z = 1")
    if len(spacing) != 3 or not all(mm > 0 and math.isfinite(mm) for mm in spacing):
        raise ValueError(f"spacing {tuple(spacing)}: expected three distances in mm above 0")
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance {tolerance_mm} mm: expected 0 or more")
    for what, labels in (("true", true), ("other", fake)):
        if labels.is_floating_point() and not bool((labels == labels.round()).all()):
            raise ValueError(f"the {what} segmentation holds values that are no whole numbers")
    return true.long(), fake.long()
