"""Whether a fixed segmentation network sees the same in a synthetic image as in the real one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .segmentation import dice

Segment = Callable[[Tensor], Tensor]


class Agreement(NamedTuple):
    """Dice of one label; 1 where both masks are empty.

    Attributes:
        label: Its number.
        between: The network's answer to the real image against that to the synthetic one.
        real: Its answer to the real image against the reference, the ceiling; None without a reference.
        fake: Its answer to the synthetic image against the reference; None without one.
        real_voxels: Of its answer to the real image.
        fake_voxels: Of its answer to the synthetic image.
    """

    label: int
    between: float
    real: float | None
    fake: float | None
    real_voxels: int
    fake_voxels: int

    @property
    def drop(self) -> float | None:
        """How much of the Dice is lost on the synthetic image; None without a reference."""
        return None if self.real is None or self.fake is None else self.real - self.fake


def segmentation_agreement(
    segment: Segment,
    real: Tensor,
    fake: Tensor,
    *,
    labels: Sequence[int] | None = None,
    reference: Tensor | None = None,
) -> list[Agreement]:
    """Compare one network's answers to a real and to a synthetic image of the same patient.

    The network must be the same, and not trained on either image: with ``between`` high, the synthetic image serves it
    as the real one does. A network that finds nothing in both agrees too, so its voxels are reported.

    Args:
        segment: From an image (X, Y, Z) to labels (X, Y, Z), whole numbers, 0 is background; called twice, without
            gradients.
        real: The acquired image, (X, Y, Z).
        fake: The synthetic one on the same grid, (X, Y, Z).
        labels: To compare; by default all but 0 that occur in an answer or in the reference.
        reference: The true labels, (X, Y, Z): then both answers are scored against them, so that the drop is shown.

    Raises:
        ValueError: Shapes differ, or the network's answer isn't labels on the image's grid.
    """
    for what, voxels in (("the synthetic image", fake), ("the reference", reference)):
        if voxels is not None and voxels.shape != real.shape:
            raise ValueError(f"{what} has shape {tuple(voxels.shape)}, expected the real one's {tuple(real.shape)}")
    with torch.no_grad():
        of_real, of_fake = _labels(segment, real), _labels(segment, fake)
    known = [of_real, of_fake] if reference is None else [of_real, of_fake, reference]
    if labels is None:
        labels = sorted({int(v) for labelled in known for v in labelled.unique()} - {0})
    return [_agreement(label, of_real, of_fake, reference) for label in labels]


def _labels(segment: Segment, voxels: Tensor) -> Tensor:
    labels = segment(voxels)
    if labels.shape != voxels.shape:
        shapes = f"{tuple(labels.shape)} for an image of {tuple(voxels.shape)}"
        raise ValueError(f"the segmentation network gave {shapes}; expected one label per voxel: take its argmax")
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise ValueError("the segmentation network gave no whole numbers; expected labels: take its argmax")
    return labels.long()


def _agreement(label: int, of_real: Tensor, of_fake: Tensor, reference: Tensor | None) -> Agreement:
    real, fake = of_real == label, of_fake == label
    true = None if reference is None else reference == label
    return Agreement(
        label=label,
        between=dice(real, fake),
        real=None if true is None else dice(true, real),
        fake=None if true is None else dice(true, fake),
        real_voxels=int(real.count_nonzero()),
        fake_voxels=int(fake.count_nonzero()),
    )
