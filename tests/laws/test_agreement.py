"""Segmentation agreement with networks whose answers are known."""

import pytest
import torch
from torch import Tensor

from gen3d.metrics.agreement import segmentation_agreement
from gen3d.metrics.segmentation import segmentation_scores


def bands(voxels: Tensor) -> Tensor:
    """A network that calls what is above 0.3 label 1 and what is above 0.7 label 2."""
    return (voxels > 0.3).long() + (voxels > 0.7).long()


def image(seed: int) -> Tensor:
    return torch.rand(8, 9, 7, generator=torch.Generator().manual_seed(seed))


def test_equal_images_agree() -> None:
    rows = segmentation_agreement(bands, image(0), image(0).clone())
    assert [(row.label, row.between, row.real, row.fake, row.drop) for row in rows] == [
        (1, 1.0, None, None, None),
        (2, 1.0, None, None, None),
    ]


def test_it_is_the_dice_of_both_answers() -> None:
    real, fake = image(0), image(1)
    scores = segmentation_scores(bands(real), bands(fake), spacing=(1, 1, 1))
    rows = segmentation_agreement(bands, real, fake)
    assert [row.between for row in rows] == pytest.approx([score.dice for score in scores])
    assert [row.real_voxels for row in rows] == [int((bands(real) == label).sum()) for label in (1, 2)]


def test_a_reference_shows_the_drop() -> None:
    """Without its bright part the image loses label 2, which the network finds in the real one."""
    real = image(0)
    fake = real.clamp(max=0.6)
    one, two = segmentation_agreement(bands, real, fake, reference=bands(real))
    assert (two.between, two.real, two.fake, two.drop, two.fake_voxels) == (0.0, 1.0, 0.0, 1.0, 0)
    assert one.drop is not None
    assert one.drop > 0


def test_a_label_that_nobody_has_counts_as_agreement() -> None:
    (row,) = segmentation_agreement(bands, image(0), image(1), labels=[5], reference=bands(image(0)))
    assert (row.between, row.real, row.fake, row.real_voxels) == (1.0, 1.0, 1.0, 0)


def test_no_gradients_are_kept() -> None:
    weight = torch.ones((), requires_grad=True)

    def network(voxels: Tensor) -> Tensor:
        answer = voxels * weight
        assert not answer.requires_grad
        return bands(answer)

    segmentation_agreement(network, image(0), image(1))


def test_what_is_no_segmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one label per voxel"):
        segmentation_agreement(lambda v: torch.stack([v, v]), image(0), image(1))
    with pytest.raises(ValueError, match="no whole numbers"):
        segmentation_agreement(lambda v: v, image(0), image(1))
    with pytest.raises(ValueError, match="synthetic image has shape"):
        segmentation_agreement(bands, image(0), image(1)[1:])
    with pytest.raises(ValueError, match="reference has shape"):
        segmentation_agreement(bands, image(0), image(1), reference=image(0)[1:])
