"""Overlap and surface distances: laws, closed forms, brute force, and what empty masks give."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.segmentation import SegmentationScore, dice, segmentation_scores, surface, surface_distances

pytest.importorskip("scipy")


def random_mask(seed: int, size: tuple[int, int, int], share: float = 0.4) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < share


def brute_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels with a face neighbour that isn't in the mask, looked up one by one."""
    found = []
    for at in zip(*(axis.tolist() for axis in mask.nonzero()), strict=True):
        for axis, step in product(range(3), (-1, 1)):
            beside = list(at)
            beside[axis] += step
            outside = not 0 <= beside[axis] < mask.shape[axis]
            if mask.shape[axis] > 1 and (outside or not mask[tuple(beside)]):
                found.append(tuple(at))
                break
    return found


def brute(a: Tensor, b: Tensor, spacing: tuple[float, ...], tolerance: float) -> tuple[float, float, float]:
    one, other = (np.array(brute_surface(m.numpy())) * spacing for m in (a, b))
    apart = np.linalg.norm(one[:, None] - other[None], axis=-1)
    forth, back = apart.min(1), apart.min(0)
    both = np.concatenate([forth, back])
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    return float(hd95), float(both.mean()), float((both <= tolerance).mean())


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(2, 7), st.integers(2, 7), st.sampled_from([1, 2, 5])),
    st.tuples(*[st.sampled_from([0.5, 1.0, 2.4])] * 3),
)
def test_distances_equal_brute_force(
    seed: int, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    a, b = random_mask(seed, size), random_mask(seed + 1, size)
    a[0, 0, 0] = b[-1, -1, -1] = True
    (row,) = segmentation_scores(a, b, spacing=spacing, tolerance_mm=1.1)
    assert (row.hd95, row.assd, row.surface_dice) == pytest.approx(brute(a, b, spacing, 1.1), abs=1e-9)
    both, either = int((a & b).sum()), int((a | b).sum())
    assert row.iou == pytest.approx(both / either, abs=1e-12)
    assert row.dice == pytest.approx(2 * both / int(a.sum() + b.sum()), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_symmetry_identity_and_growth_of_the_tolerance(seed: int) -> None:
    size = (6, 7, 5)
    a, b = random_mask(seed, size).long(), random_mask(seed + 1, size).long()
    (forth,) = segmentation_scores(a, b, spacing=(1, 2, 3), labels=[1])
    (back,) = segmentation_scores(b, a, spacing=(1, 2, 3), labels=[1])
    assert forth[1:6] == pytest.approx(back[1:6], abs=1e-12)
    (same,) = segmentation_scores(a, a, spacing=(1, 2, 3), labels=[1])
    assert same[1:7] == (1, 1, 0, 0, 1, 0)
    by_tolerance = [
        segmentation_scores(a, b, spacing=(1, 2, 3), labels=[1], tolerance_mm=t)[0].surface_dice for t in (0, 1, 2, 99)
    ]
    assert by_tolerance == sorted(by_tolerance)
    assert by_tolerance[-1] == 1


@pytest.mark.parametrize("shift", [1, 3, 6])
def test_shifted_cubes(shift: int) -> None:
    a, b = torch.zeros(40, 24, 24), torch.zeros(40, 24, 24)
    a[8:18, 6:16, 6:16] = 1
    b[8 + shift : 18 + shift, 6:16, 6:16] = 1
    (row,) = segmentation_scores(a, b, spacing=(1.5, 1, 1))
    assert row.hd95 == pytest.approx(1.5 * shift)
    assert row.dice == pytest.approx(1 - shift / 10)
    assert row.iou == pytest.approx((10 - shift) / (10 + shift))
    assert (row.true_ml, row.volume_error, row.empty) == (1.5, 0.0, None)


def ball(radius: float, spacing: tuple[float, float, float], half: float = 16) -> Tensor:
    axes = [torch.arange(-half, half + mm / 2, mm) for mm in spacing]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x**2 + y**2 + z**2 <= radius**2).long()


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.5, 0.5, 1.0)])
def test_concentric_balls(spacing: tuple[float, float, float]) -> None:
    """Radii 8 and 12 mm: surfaces 4 mm apart to the size of a voxel, volumes (8 / 12)^3."""
    (row,) = segmentation_scores(ball(12, spacing), ball(8, spacing), spacing=spacing, tolerance_mm=2)
    assert row.assd == pytest.approx(4, abs=0.25)
    assert row.hd95 == pytest.approx(4, abs=0.6)
    assert row.surface_dice == 0
    assert row.true_ml == pytest.approx(4 / 3 * math.pi * 1.2**3, rel=0.02)
    assert row.volume_error == pytest.approx(100 * ((8 / 12) ** 3 - 1), abs=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(0, 3)] * 6))
def test_what_lies_around_changes_nothing(seed: int, margins: tuple[int, ...]) -> None:
    """The masks are cut out before distances are taken; faces of the box then stand for a free surface."""
    size = (5, 6, 4)
    a, b = random_mask(seed, size).float(), random_mask(seed + 9, size).float()
    (tight,) = segmentation_scores(a, b, spacing=(1, 1, 2), labels=[1])
    (wide,) = segmentation_scores(*(torch.nn.functional.pad(m, margins) for m in (a, b)), spacing=(1, 1, 2), labels=[1])
    assert tight == wide


def test_labels() -> None:
    true, fake = torch.zeros(6, 6, 6), torch.zeros(6, 6, 6)
    true[1:3], fake[1:3] = 1, 1
    true[4, 2:5, 2:4] = 3
    fake[0, :2, :2] = 7
    found = {row.label: row for row in segmentation_scores(true.int(), fake.short(), spacing=(1, 1, 1))}
    assert list(found) == [1, 3, 7]
    assert found[1].dice == 1
    assert (found[3].empty, found[7].empty, found[1].empty) == ("fake", "true", None)
    assert [row.label for row in segmentation_scores(true, fake, spacing=(1, 1, 1), labels=[7, 9])] == [7, 9]
    assert segmentation_scores(true * 0, fake * 0, spacing=(1, 1, 1)) == []


def test_empty_masks_have_defined_values() -> None:
    none, some = torch.zeros(5, 9, 13), torch.zeros(5, 9, 13)
    some[1, 2, 3] = 1
    diagonal = math.hypot(4 * 1, 8 * 2, 12 * 3)

    def row(a: Tensor, b: Tensor) -> SegmentationScore:
        return segmentation_scores(a, b, spacing=(1, 2, 3), labels=[1])[0]

    assert row(none, none) == (1, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, "both")
    assert row(some, none) == (1, 0.0, 0.0, diagonal, diagonal, 0.0, -100.0, 0.006, 0.0, "fake")
    assert row(none, some) == (1, 0.0, 0.0, diagonal, diagonal, 0.0, None, 0.0, 0.006, "true")


def test_a_slice_is_2d() -> None:
    disc = ball(9, (1, 1, 1))[:, :, 16:17].bool()
    edge = surface(disc)
    assert 0 < edge.sum() < disc.sum() / 3
    thick = disc.expand(-1, -1, 5)
    assert torch.equal(surface(thick)[:, :, 2:3], edge)


@pytest.mark.parametrize("at", [(2, 3, 1), (0, 0, 0), (4, 4, 3)])
def test_what_is_flat_in_a_volume_is_all_surface(at: tuple[int, int, int]) -> None:
    voxel = torch.zeros(5, 5, 4, dtype=torch.long)
    voxel[at] = 1
    plate = torch.zeros_like(voxel)
    plate[1:4, 1:4, 1] = 1
    assert segmentation_scores(voxel, voxel, spacing=(1, 2, 3), labels=[1])[0].hd95 == 0
    row = segmentation_scores(plate, voxel, spacing=(1, 2, 3), labels=[1])[0]
    assert (row.hd95, row.assd) == pytest.approx(brute(plate == 1, voxel == 1, (1, 2, 3), 1.0)[:2])


def test_what_cannot_be_scored_is_refused() -> None:
    a = torch.zeros(3, 3, 3)
    with pytest.raises(ValueError, match="one shape"):
        segmentation_scores(a, a[1:], spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="2D is Z = 1"):
        segmentation_scores(a[0], a[0], spacing=(1, 1))
    with pytest.raises(ValueError, match="spacing"):
        segmentation_scores(a, a, spacing=(1, 0, 1))
    with pytest.raises(ValueError, match="no whole numbers"):
        segmentation_scores(a, a + 0.5, spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="no whole numbers"):
        segmentation_scores(a, a * float("nan"), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="tolerance"):
        segmentation_scores(a, a, spacing=(1, 1, 1), tolerance_mm=-1)
    with pytest.raises(ValueError, match="empty"):
        surface_distances(a.bool(), ~a.bool(), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="one shape"):
        dice(a, a[1:])
