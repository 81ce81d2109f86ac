"""Connected parts of a mask and the cavities in it, counted without a library."""

from collections.abc import Sequence
from itertools import product

import numpy as np

Step = tuple[int, ...]
AROUND = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]  # each pair of 26 neighbours once
FACES = [(0, 0, 1), (0, 1, 0), (1, 0, 0)]  # each pair of 6 neighbours once


def components(mask: np.ndarray) -> int:
    """Count the parts of a mask (X, Y, Z) that are connected by faces, edges or corners."""
    return len(np.unique(connected(mask)))


def holes(mask: np.ndarray) -> int:
    """Count the cavities of a mask (X, Y, Z): parts of the rest, connected by faces, that do not reach its outside."""
    if not mask.any():
        return 0
    spans = tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.nonzero(mask))
    return len(np.unique(connected(~np.pad(mask[spans], 1), FACES))) - 1


def connected(mask: np.ndarray, steps: Sequence[Step] = AROUND) -> np.ndarray:
    """Return a label for each voxel of a mask, as ``np.argwhere`` lists them: equal where neighbours lead there.

    Args:
        mask: (X, Y, Z) bool.
        steps: To the neighbours, each pair once: ``AROUND`` or ``FACES``.
    """
    places = np.argwhere(mask) + 1
    number = np.full([n + 2 for n in mask.shape], -1)
    number[tuple(places.T)] = label = np.arange(len(places))
    near = [number[tuple((places + step).T)] for step in steps]
    one, other = (np.concatenate(ends) for ends in zip(*pairs(near), strict=True))
    while True:
        ends = label[one], label[other]
        if np.array_equal(*ends):
            return label
        low = np.minimum(*ends)
        label = label.copy()
        for end in ends:
            np.minimum.at(label, end, low)
        while not np.array_equal(label, label[label]):
            label = label[label]


def pairs(near: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return which voxels are neighbours, from the number of each voxel's neighbour in some directions, -1 for none."""
    return [(np.flatnonzero(there >= 0), there[there >= 0]) for there in near]
