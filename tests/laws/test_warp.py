"""Random turns, zooms and bends: none leaves all as it was, a slice stays a slice, masks move with their image."""

import numpy as np
import pytest
import torch

from gen3d.core.volume import Triple
from gen3d.data.warp import random_places, warped, warped_labels

SIZES = [(12, 14, 10), (16, 12, 1), (1, 9, 13)]


def ball(size: Triple, radius: float = 4.0) -> torch.Tensor:
    """(1, X, Y, Z): the distance into a ball off the middle, in voxels."""
    middle = [(n - 1) / 2 + (1 if n > 1 else 0) for n in size]
    axes = torch.meshgrid([torch.arange(float(n)) - m for n, m in zip(size, middle, strict=True)], indexing="ij")
    return (radius - torch.stack(axes).square().sum(0).sqrt())[None]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_asked_is_nothing_done(size: Triple) -> None:
    places = random_places(size, np.random.default_rng(0), turn=0, zoom=0, bend=0)
    image = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warped(image, places), image, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_masks_move_with_their_image_and_a_slice_stays_a_slice(size: Triple) -> None:
    image = ball(size)
    masks = torch.stack([image[0] > 0, image[0] > 2]).long()
    for seed in range(5):
        places = random_places(size, np.random.default_rng(seed), turn=20, zoom=0.1, bend=0.5)
        for axis, n in enumerate(size):
            assert n > 1 or (places[0, axis] == 0).all()
        moved, labels = warped(image[None], places)[0, 0], warped_labels(masks, places)[0]
        assert labels.shape == masks.shape
        for label, depth in zip(labels, (0.0, 2.0), strict=True):
            sure = (moved - depth).abs() > 1.0
            assert torch.equal((label == 1)[sure], (moved > depth)[sure])
        assert not torch.equal(labels, masks)


def test_a_turn_alone_keeps_distances_and_its_spread_is_what_was_asked() -> None:
    size = (9, 9, 1)
    angles = []
    for seed in range(400):
        places = random_places(size, np.random.default_rng(seed), turn=10, zoom=0, bend=0)[0, :2, :, :, 0]
        along = places[:, 8, 4] - places[:, 4, 4]
        assert along.norm() == pytest.approx(4, abs=1e-4)
        angles.append(float(torch.rad2deg(torch.atan2(along[1], along[0]))))
    assert np.std(angles) == pytest.approx(10, rel=0.12)
    assert abs(np.mean(angles)) < 2


def test_labels_of_several_kinds_keep_their_numbers() -> None:
    masks = torch.zeros(2, 8, 8, 1, dtype=torch.long)
    masks[0, 2:5], masks[1, 5:] = 3, 1
    labels = warped_labels(masks, random_places((8, 8, 1), np.random.default_rng(1), turn=30, zoom=0.2, bend=1))
    assert set(labels[0, 0].unique().tolist()) == {0, 3}
    assert set(labels[0, 1].unique().tolist()) == {0, 1}
