"""Overlap and surface distances against MONAI, where it is right, and a note of where it isn't."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.metrics.segmentation import SegmentationScore, segmentation_scores

pytest.importorskip("scipy")
monai = pytest.importorskip("monai.metrics")


def blobs(seed: int, size: tuple[int, ...]) -> Tensor:
    """A smooth mask of a few parts."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(size), 2)
    return torch.from_numpy(noise > 0.5 * noise.std())


def theirs(a: Tensor, b: Tensor, spacing: tuple[float, ...], tolerance: float) -> tuple[float, ...]:
    true, fake = (m[None, None].float() for m in (a, b))
    found = (
        monai.compute_dice(fake, true),
        monai.compute_iou(fake, true),
        monai.compute_hausdorff_distance(fake, true, include_background=True, percentile=95, spacing=spacing),
        monai.compute_average_surface_distance(fake, true, include_background=True, symmetric=True, spacing=spacing),
        monai.compute_surface_dice(fake, true, [tolerance], include_background=True, spacing=spacing),
    )
    return tuple(float(v) for v in found)


def ours(row: SegmentationScore) -> tuple[float, ...]:
    return row.dice, row.iou, row.hd95, row.assd, row.surface_dice


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_volumes_against_monai(seed: int, spacing: tuple[float, float, float]) -> None:
    a, b = (blobs(seed + k, (24, 30, 18)) for k in (0, 100))
    (row,) = segmentation_scores(a, b, spacing=spacing, tolerance_mm=1.5)
    assert ours(row) == pytest.approx(theirs(a, b, spacing, 1.5), abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_slices_against_monai(seed: int) -> None:
    a, b = (blobs(seed + k, (40, 36)) for k in (0, 100))
    (row,) = segmentation_scores(a[..., None], b[..., None], spacing=(0.7, 1.2, 5), tolerance_mm=1.5)
    assert ours(row) == pytest.approx(theirs(a, b, (0.7, 1.2), 1.5), abs=1e-5)


def test_real_labels_against_monai(data_folder: object) -> None:
    """Hippocampus labels against a neighbour's: two anatomies, two labels."""
    from pathlib import Path

    nib = pytest.importorskip("nibabel")
    files = sorted(Path(str(data_folder), "hippocampus", "labelsTr").glob("*.nii.gz"))[:2]
    a, b = (torch.from_numpy(np.asarray(nib.load(file).dataobj, dtype=np.int16)) for file in files)
    size = [min(sides) for sides in zip(a.shape, b.shape, strict=True)]
    a, b = (v[: size[0], : size[1], : size[2]].contiguous() for v in (a, b))
    for row in segmentation_scores(a, b, spacing=(1, 1, 1)):
        expected = theirs(a == row.label, b == row.label, (1, 1, 1), 1)
        assert ours(row) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*(all 0|nan/inf|nan).*")
def test_why_the_distances_are_not_monais() -> None:
    """One empty mask gives inf or nan there, and a slice as Z = 1 is all surface: here a defined, 2D value."""
    a, b = (blobs(k, (20, 20, 1)) for k in (0, 100))
    none = torch.zeros_like(a)
    assert not np.isfinite(theirs(a, none, (1, 1, 1), 1)[2])
    (row,) = segmentation_scores(a, none, spacing=(1, 1, 1))
    assert row.hd95 == pytest.approx(np.hypot(19, 19))
    (flat,) = segmentation_scores(a, b, spacing=(1, 1, 1))
    assert abs(flat.assd - theirs(a, b, (1, 1, 1), 1)[3]) > 0.1
    assert flat.assd == pytest.approx(theirs(a[..., 0], b[..., 0], (1, 1), 1)[3], abs=1e-5)
