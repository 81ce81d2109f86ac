"""Multi-scale structural similarity in 2D and 3D: of pairs, and the mean over all pairs of a set."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from .resampling import jackknife_over_pairs

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. (2003), fine to coarse
SIGMA, WIDEST = 1.5, 11  # voxels
K1, K2 = 0.01, 0.03
CHUNK = 2**19  # voxels compared at a time: they stay in a core's cache


class Level(NamedTuple):
    """One scale of some volumes less their mean: voxels, window means and window variances, (n, x, y, z) each."""

    image: Tensor
    mean: Tensor
    variance: Tensor


class Pyramid(NamedTuple):
    """Volumes at each scale, and the mean that each was freed of, (n,)."""

    levels: list[Level]
    offset: Tensor


class MeanPairwise(NamedTuple):
    """A mean over pairs; the standard error is None where leaving out one volume leaves no pair."""

    value: float
    std_error: float | None
    pairs: int
    kernel: int
    scales: int


def kernel_for(sides: Sequence[int], scales: int = 5) -> tuple[int, int]:
    """Return the window's side and the number of scales for volumes of some size.

    The widest odd window, at most 11, that fits into the coarsest scale of the shortest side, which has
    side // 2^(scales - 1) voxels; sides of 1 do not count. Scales are given up only where not even 3 voxels fit.
    Values under different windows cannot be compared: print both.

    Raises:
        ValueError: A side of 2, no side above 1, or no scale.
    """
    real = [side for side in sides if side != 1]
    if not real or min(real) < 3 or not 1 <= scales <= len(BETAS):
        raise ValueError(
            f"MS-SSIM of {tuple(sides)} voxels at {scales} scales; expected sides of 1 or at least 3 voxels, one of "
            f"them above 1, and 1 to {len(BETAS)} scales"
        )
    fitting = next(s for s in range(scales, 0, -1) if min(real) >> (s - 1) >= 3)
    room = min(real) >> (fitting - 1)
    return min(WIDEST, room - 1 + room % 2), fitting


def ms_ssim(
    a: Tensor, b: Tensor, *, data_range: float = 1.0, kernel: int | None = None, scales: int | None = None
) -> Tensor:
    r"""Return the multi-scale structural similarity of each pair of volumes, from 0 to 1, (N,).

    $\max(l_S, 0)^{\beta_S} \prod_{s=1}^{S-1} \max(c_s, 0)^{\beta_s}$, where $c_s$ is the mean over voxels of
    $(2 \sigma_{ab} + C_2) / (\sigma_a^2 + \sigma_b^2 + C_2)$ and $l_S$, at the coarsest scale, that of the same times
    $(2 \mu_a \mu_b + C_1) / (\mu_a^2 + \mu_b^2 + C_1)$, under a Gaussian window of 1.5 voxels at places where it lies
    wholly inside; each scale halves the last by averages of 2 voxels along axes longer than 1. A negative mean counts
    as 0, and so does the value then. With fewer than five scales the first betas are used, divided by their sum.

    Args:
        a: Volumes, (N, X, Y, Z).
        b: What each is compared with, (N, X, Y, Z).
        data_range: The span of the intensity scale that both share.
        kernel: The window's side, odd; by the rule of ``kernel_for`` where not given, as are the scales.
        scales: How many; as many as the kernel leaves room for where not given.

    Raises:
        ValueError: Shapes that differ or are too small, NaN, or a data range not above 0.

    References:
        Wang, Simoncelli and Bovik (2003), equation 7. https://doi.org/10.1109/ACSSC.2003.1292216
    """
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"expected two sets (N, X, Y, Z) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    window, count = _settled(a.shape[1:], kernel, scales, data_range)
    values = [torch.zeros(0, dtype=torch.float64)]
    for x, y in zip(_checked(a), _checked(b), strict=True):
        one, other = (_pyramid(volume[None], window, count) for volume in (x, y))
        values.append(_similarity(one, 0, other, torch.tensor([0]), window, data_range))
    return torch.cat(values)


def mean_pairwise_ms_ssim(
    volumes: Sequence[Tensor] | Tensor,
    *,
    pairs: int | None = None,
    seed: int = 0,
    data_range: float = 1.0,
    kernel: int | None = None,
    scales: int | None = None,
    memory_gb: float = 4.0,
) -> MeanPairwise:
    r"""Return the mean MS-SSIM over the unordered pairs of a set: the higher, the less diverse its volumes.

    Window means and variances are taken once for each volume, so that a pair costs one blur of the product for each
    scale. The standard error is for another set of this size from the same source: it leaves out one volume, hence all
    its pairs, at a time, $\frac{N - 1}{N} \sum_i (m_{-i} - \bar m)^2$, since pairs share volumes. With a sample of
    pairs it holds that sampling too, which it then overstates.

    Args:
        volumes: The set, each (X, Y, Z). A sequence may read its items when asked; it is asked once for each while
            the set fits into ``memory_gb``, and about once for each block of volumes that do otherwise.
        pairs: How many pairs to draw without replacement; all by default, and where there are fewer.
        seed: Two calls with one seed draw the same pairs.
        data_range: The span of the intensity scale.
        kernel: As for ``ms_ssim``; the one used is in the result, as are the scales.
        scales: As for ``ms_ssim``.
        memory_gb: What may be kept of the volumes: about 14 bytes for each voxel, at most 16.

    Raises:
        ValueError: Fewer than 2 volumes, shapes that differ or are too small, NaN, or no pairs asked for.
    """
    if len(volumes) < 2 or (pairs is not None and pairs < 1):
        raise ValueError(
            f"got {len(volumes)} volumes and {pairs or 'no'} pairs; a mean over pairs needs at least 2 and 1"
        )
    first, second = chosen_pairs(len(volumes), pairs, seed)
    used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    reader = Reader(volumes, used.tolist())
    window, count = _settled(reader.shape, kernel, scales, data_range)
    fitting = int(memory_gb * 2**30 / (16 * int(np.prod(reader.shape))))
    per_block = len(reader) if fitting >= len(reader) else max(fitting // 2, 1)
    values = np.zeros(len(first))
    left_of, right_of = np.split(places, 2)
    for where, left, i, right, js in _by_blocks(reader, left_of, right_of, per_block, window, count):
        values[where] = _similarity(left, i, right, js, window, data_range).numpy()
    error = jackknife_over_pairs(first, second, values, len(volumes))
    return MeanPairwise(float(values.mean()), error, len(values), len(window), count)


class Reader:
    """Asks a set for its volumes, and holds them to the first one's shape."""

    def __init__(self, volumes: Sequence[Tensor] | Tensor, used: Sequence[int]) -> None:
        self.volumes = volumes
        self.used = used
        self.ahead: Tensor | None = volumes[used[0]]
        self.shape = tuple(self.ahead.shape)
        if len(self.shape) != 3:
            raise ValueError(f"expected volumes (X, Y, Z), got one of shape {self.shape}")

    def __len__(self) -> int:
        """Return how many of the volumes are used."""
        return len(self.used)

    def __call__(self, place: int) -> Tensor:
        """Return one of the volumes used, (1, X, Y, Z)."""
        volume = self.volumes[self.used[place]] if place or self.ahead is None else self.ahead
        self.ahead = None
        shape = tuple(volume.shape)
        if shape != self.shape:
            raise ValueError(f"volume {self.used[place]} has shape {shape}, another {self.shape}; put all on one grid")
        return _checked(volume[None]).float()


def chosen_pairs(n: int, pairs: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two sides of all unordered pairs of n items, or of a sample, ordered by first, then second."""
    first, second = np.triu_indices(n, 1)
    if pairs is None or pairs >= len(first):
        return first, second
    drawn = np.sort(np.random.default_rng(seed).choice(len(first), pairs, replace=False))
    return first[drawn], second[drawn]


def _settled(sides: Sequence[int], kernel: int | None, scales: int | None, data_range: float) -> tuple[Tensor, int]:
    """Return the window, (k,), and the number of scales."""
    if not data_range > 0:
        raise ValueError(f"got data range {data_range}; expected the span of the intensity scale, above 0")
    rule, most = kernel_for(sides, 5 if scales is None else scales)
    if kernel is None:
        kernel, count = rule, most
    else:
        shortest = min(side for side in sides if side != 1)
        fits = [s for s in range(1, 6) if shortest >> (s - 1) >= kernel]
        count = max(fits, default=0) if scales is None else scales
        if kernel < 3 or kernel % 2 == 0 or count not in fits:
            raise ValueError(
                f"a window of {kernel} voxels at {count or 'any'} scales does not fit {tuple(sides)} voxels; expected "
                f"an odd one of at least 3, say {rule} at {most} scales"
            )
    offsets = torch.arange(kernel, dtype=torch.float64) - (kernel - 1) / 2
    window = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    return window / window.sum(), count


def _checked(volume: Tensor) -> Tensor:
    volume = volume.detach() if volume.dtype == torch.float64 else volume.detach().float()
    if not bool(volume.isfinite().all()):
        raise ValueError("a volume holds NaN or infinite voxels; expected finite numbers; replace or mask them")
    return volume


def _pyramid(volume: Tensor, window: Tensor, scales: int) -> Pyramid:
    """Measure one volume, (1, X, Y, Z), at each scale."""
    halves = [1 if side == 1 else 2 for side in volume.shape[1:]]
    offset = volume.mean(dim=(1, 2, 3))
    image = volume - offset
    levels = []
    for scale in range(scales):
        if scale:
            image = nnf.avg_pool3d(image[None], halves)[0]
        mean = _blur(image, window)
        levels.append(Level(image, mean, _blur(image.square(), window) - mean.square()))
    return Pyramid(levels, offset)


def _blur(volumes: Tensor, window: Tensor) -> Tensor:
    """Average under the window, at places where it lies inside, along axes longer than 1, (n, x, y, z)."""
    weights = window.tolist()
    for axis in (3, 2, 1):
        if volumes.shape[axis] == 1:
            continue
        side = volumes.shape[axis] - len(weights) + 1
        blurred = volumes.narrow(axis, 0, side) * weights[0]
        for step, weight in enumerate(weights[1:], 1):
            blurred.add_(volumes.narrow(axis, step, side), alpha=weight)
        volumes = blurred
    return volumes


def _similarity(left: Pyramid, i: int, right: Pyramid, js: Tensor, window: Tensor, data_range: float) -> Tensor:
    """Compare volume i with others, js (m,), in float64, (m,)."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    betas = torch.tensor(BETAS[: len(left.levels)], dtype=torch.float64)
    betas = betas if len(betas) == len(BETAS) else betas / betas.sum()  # theirs sum to 1.0001
    terms = []
    for scale, (many, level) in enumerate(zip(right.levels, left.levels, strict=True), 1):
        one, parts = Level(*(t[i : i + 1] for t in level)), []
        for some in js.split(max(CHUNK // one.image.numel(), 1)):
            others = Level(*(t[_where(some)] for t in many))
            seen = _contrast(one, others, window, c2)
            if scale == len(betas):
                means = one.mean + left.offset[i], others.mean + right.offset[some][:, None, None, None]
                seen *= (2 * means[0] * means[1] + c1) / (means[0].square() + means[1].square() + c1)
            parts.append(seen.mean(dim=(1, 2, 3)))
        terms.append(torch.cat(parts).double().cpu().clamp(min=0))
    return (torch.stack(terms, 1) ** betas).prod(1)


def _contrast(one: Level, many: Level, window: Tensor, c2: float) -> Tensor:
    covariance = _blur(one.image * many.image, window).addcmul_(one.mean, many.mean, value=-1)
    return covariance.mul_(2).add_(c2).div_(many.variance + (one.variance + c2))


def _where(rows: Tensor) -> slice | Tensor:
    """Return rows that follow one another as a slice, which copies nothing."""
    begin, end = int(rows[0]), int(rows[-1]) + 1
    return slice(begin, end) if end - begin == len(rows) else rows


def _by_blocks(
    reader: Reader, first: np.ndarray, second: np.ndarray, per_block: int, window: Tensor, scales: int
) -> Iterator[tuple[slice, Pyramid, int, Pyramid, Tensor]]:
    """Yield the pairs of one volume in two blocks: their places, the first's block and row, the others' and rows."""
    rows = np.searchsorted(first, np.arange(len(reader) + 1))
    blocks = [range(at, min(at + per_block, len(reader))) for at in range(0, len(reader), per_block)]
    for number, block in enumerate(blocks):
        left = _held(reader, block, window, scales)
        for other in blocks[number:]:
            found = []
            for i in block:
                places = slice(*(rows[i] + np.searchsorted(second[rows[i] : rows[i + 1]], (other.start, other.stop))))
                if places.start < places.stop:
                    found.append((places, i - block.start, torch.from_numpy(second[places] - other.start)))
            right = left if other == block or not found else _held(reader, other, window, scales)
            yield from ((places, left, i, right, js) for places, i, js in found)


def _held(reader: Reader, block: range, window: Tensor, scales: int) -> Pyramid:
    """Read and measure a block of volumes, each asked for once."""
    held: Pyramid | None = None
    for row, index in enumerate(block):
        one = _pyramid(reader(index), window, scales)
        if held is None:
            held = Pyramid(
                [Level(*(t.new_empty(len(block), *t.shape[1:]) for t in level)) for level in one.levels],
                one.offset.new_empty(len(block)),
            )
        held.offset[row] = one.offset[0]
        for into, level in zip(held.levels, one.levels, strict=True):
            for whole, part in zip(into, level, strict=True):
                whole[row] = part[0]
    assert held is not None
    return held
