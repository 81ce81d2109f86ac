"""Random boxes of a volume, and flips: which one is a function of the generator alone."""

from collections.abc import Sequence

import numpy as np

from gen3d.core.volume import Triple, window

__all__ = ["centred_start", "flipped", "random_flips", "random_start", "window"]


def random_start(
    shape: Triple, size: Triple, rng: np.random.Generator, *, near: np.ndarray | None = None, bias: float = 0.0
) -> Triple:
    """Draw where a box of ``size`` starts; ``window(voxels, start, size, fill)`` then reads it.

    Along an axis shorter than the box it starts before the volume, which then lies at a random place in the padding.

    Args:
        shape: (X, Y, Z) of the volume.
        size: Of the box; a 0 stands for the whole axis.
        rng: For a key of training, ``np.random.default_rng(seed_of(key))``.
        near: Mask (X, Y, Z), such as the lesion: with probability ``bias`` the box holds one of its voxels, as near the
            middle as the volume's border allows.
        bias: Probability in 0..1.
    """
    size = whole_where_zero(size, shape)
    slack = [length - n for length, n in zip(shape, size, strict=True)]
    start = [int(rng.integers(min(s, 0), max(s, 0) + 1)) for s in slack]
    aim, pick = rng.random(), rng.random()  # drawn in any case, so that a mask changes nothing else
    if near is not None and aim < bias:
        inside = np.flatnonzero(near)
        if inside.size:
            target = np.unravel_index(inside[int(pick * inside.size)], near.shape)
            wanted = [int(t) - n // 2 for t, n in zip(target, size, strict=True)]
            start = [min(max(w, 0), s) if s >= 0 else x for w, s, x in zip(wanted, slack, start, strict=True)]
    x, y, z = start
    return x, y, z


def centred_start(shape: Triple, size: Triple) -> Triple:
    """Return where a centred box of ``size`` starts, negative where it is larger; an odd voxel is at the end."""
    x, y, z = (int((length - n) / 2) for length, n in zip(shape, whole_where_zero(size, shape), strict=True))
    return x, y, z


def whole_where_zero(size: Triple, shape: Triple) -> Triple:
    """Return ``size`` with each 0 replaced by the volume's own length."""
    x, y, z = (n or length for n, length in zip(size, shape, strict=True))
    return x, y, z


def random_flips(rng: np.random.Generator, axes: Sequence[int] = (0,), probability: float = 0.5) -> tuple[int, ...]:
    """Draw which of ``axes`` (0, 1, 2 for X, Y, Z) to flip; in RAS or LPS, 0 swaps left and right."""
    return tuple(axis for axis in axes if rng.random() < probability)


def flipped(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return (..., X, Y, Z) flipped along ``axes`` (0, 1, 2 for X, Y, Z), contiguous."""
    return np.ascontiguousarray(np.flip(array, tuple(axis - 3 for axis in axes)))
