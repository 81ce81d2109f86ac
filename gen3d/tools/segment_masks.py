"""Asking a model for masks of one image: samples, their mean, their spread, and how many different ones there are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.core.randomness import Key
from gen3d.core.system import Example, System
from gen3d.tools.sampling import choose_walk, drawn_together

SAME = 0.95  # Dice from which two samples count as one and the same mask
TOGETHER, VOXELS = 8, 2**17  # samples of a batch at most, and their voxels: small images alone waste half the time


@dataclass(frozen=True, eq=False)
class Masks:
    """What a model says of one image, on its own grid.

    Attributes:
        probability: Of the rest and of each label, (classes, X, Y, Z) float32: the mean over samples, or one call's.
        std: (X, Y, Z), see ``spread``; None of fewer than two samples.
        samples: Labels, (n, X, Y, Z) uint8.
    """

    probability: Tensor
    std: Tensor | None
    samples: np.ndarray

    @property
    def likely(self) -> np.ndarray:
        """The most likely label, the lower one of equals, (X, Y, Z) uint8."""
        return self.probability.numpy().argmax(0).astype(np.uint8)

    @property
    def entropy(self) -> Tensor:
        r"""$-\sum_k p_k \ln p_k$ in nats, (X, Y, Z)."""
        return -(self.probability * self.probability.clamp(min=1e-12).log()).sum(0)


def one_call(system: System, example: Example) -> Masks:
    """Return the probabilities by a single call.

    Raises:
        UserError: The model has none.
    """
    ask: Callable[[Example], Tensor] | None = getattr(system, "expected", None)
    if ask is None:
        raise UserError("this model has no probabilities by one call: ask for --samples 1 or more")
    probability = finite(ask(example)[0])
    return Masks(probability, None, np.zeros((0, *probability.shape[1:]), np.uint8))


def sampled_masks(
    system: System, example: Example, keys: Sequence[Key], advance: Callable[[float], None] = lambda share: None
) -> Masks:
    r"""Draw a mask by each key; the image is looked at once.

    The standard deviation is $\sqrt{\frac{1}{2} \sum_k s_k^2}$ of the classes' variances $s_k^2$ over samples, n - 1 in
    the denominator: of one label, that of its probability.
    """
    walk, condition = choose_walk(system), system.condition(example)
    size = min(TOGETHER, max(1, VOXELS // math.prod(example["image"].shape[2:])))
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    steps, done = walk.steps * len(batches), 0

    def stepped() -> None:
        nonlocal done
        done += 1
        advance(done / steps)

    labels: list[np.ndarray] = []
    total = squares = torch.zeros(())  # Welford's sums: exact totals of ones and zeros, so that ties are ties
    for batch in batches:
        made = system.finish(drawn_together(system, example, condition, batch, walk, stepped), example)
        for found in map(finite, made):
            labels.append(found.argmax(0).to(torch.uint8).numpy())
            before = found - total / max(len(labels) - 1, 1)
            total = total + found
            squares = squares + before * (found - total / len(labels))
    std = (squares.sum(0) / (2 * (len(keys) - 1))).clamp(min=0).sqrt() if len(keys) > 1 else None
    return Masks(total / len(keys), std, np.stack(labels))


def finite(probabilities: Tensor) -> Tensor:
    """Return probabilities (classes, X, Y, Z) as float32 on the CPU.

    Raises:
        UserError: It isn't finite.
    """
    found = probabilities.float().cpu()
    if not found.isfinite().all():
        raise UserError("the model's answer is not finite; try --precision fp32, or another model")
    return found


def modes(samples: np.ndarray, labels: int, same: float = SAME) -> list[list[int]]:
    """Group samples so that all pairs in a group have a Dice of at least ``same``; the largest group first.

    A group begins with the sample that is like most of those left; then others join, those most like it first.

    Args:
        samples: (n, X, Y, Z) labels.
        labels: How many there are besides the rest.
        same: Mean Dice over labels.

    Returns:
        Indices of each group's samples, the one that it began with first.
    """
    dice = pairwise_dice(samples, labels)
    left, groups = list(range(len(samples))), []
    while left:
        alike = (dice[np.ix_(left, left)] >= same).sum(1)
        first = left[int(alike.argmax())]
        group = [first]
        for other in sorted(left, key=lambda index: -dice[first, index]):
            if other != first and all(dice[other, member] >= same for member in group):
                group.append(other)
        groups.append(group)
        left = [index for index in left if index not in group]
    return sorted(groups, key=lambda group: -len(group))


def pairwise_dice(samples: np.ndarray, labels: int) -> np.ndarray:
    """Return the Dice of each pair of samples, (n, n), mean over labels; 1 for a label that neither has."""
    flat = samples[:, (samples > 0).any(0)]
    total: Any = np.zeros((len(samples), len(samples)))
    for label in range(1, labels + 1):
        mask = (flat == label).astype(np.float32)
        size = mask.sum(1, dtype=np.float64)
        both = size[:, None] + size
        total += np.where(both > 0, 2 * (mask @ mask.T) / np.maximum(both, 1), 1.0)
    return np.asarray(total / labels)
