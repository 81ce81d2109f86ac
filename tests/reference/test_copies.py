"""The copy rate on the real hippocampi with planted copies, and its distance against a search by loops."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.copies import copy_rate, low_quantile, nearest, repeat_rate, thumbnails, wilson

GRID = (44, 60, 48)


@pytest.fixture(scope="module")
def scans(data_folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Training and test hippocampi, padded to one grid."""
    pytest.importorskip("nibabel")
    from gen3d.data.nifti import read
    from gen3d.data.splits import is_test

    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for path in sorted((data_folder / "hippocampus" / "imagesTr").glob("*.nii.gz")):
        voxels = torch.from_numpy(read(path).voxels)
        padded = torch.full(GRID, float(voxels.min()))
        begin = [(grid - side) // 2 for grid, side in zip(GRID, voxels.shape, strict=True)]
        padded[tuple(slice(b, b + side) for b, side in zip(begin, voxels.shape, strict=True))] = voxels
        sides[is_test("hippocampus", path.name.removesuffix(".nii.gz"))].append(padded)
    return sides


@pytest.fixture(scope="module")
def small(scans: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, Tensor]:
    return thumbnails(scans[0]), thumbnails(scans[1])


def noisy(voxels: Tensor, seed: int) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return voxels + 0.05 * (voxels.max() - voxels.min()) * torch.randn(voxels.shape, generator=dice)


def blurred(voxels: Tensor, seed: int) -> Tensor:
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(voxels.numpy(), 1.0))


def moved(voxels: Tensor, seed: int) -> Tensor:
    return voxels.roll([*product((-1, 1, 2, -3), (1, 2, 3), (-3, -2, 0))][5 * seed % 36], (0, 1, 2))


def flipped(voxels: Tensor, seed: int) -> Tensor:
    return voxels.flip([axis for axis in range(3) if (seed % 7 + 1) >> axis & 1])


PLANTED = {
    "exact": lambda v, seed: v,
    "flipped": flipped,
    "moved": moved,
    "moved 1 voxel": lambda v, seed: v.roll((1, 1, -1), (0, 1, 2)),
    "moved 2 voxels": lambda v, seed: v.roll((-2, 2, 2), (0, 1, 2)),
    "moved 3 voxels": lambda v, seed: v.roll((3, -3, -3), (0, 1, 2)),
    "rescaled": lambda v, seed: 3.7 * v - 200,
    "gamma": lambda v, seed: ((v - v.min()) / (v.max() - v.min())) ** 0.8,
    "noisy": noisy,
    "blurred": blurred,
    "all at once": lambda v, seed: 2 * moved(flipped(noisy(v, seed), seed), seed) + 5,
}


def test_planted_copies_are_found(scans: tuple[list[Tensor], list[Tensor]], small: tuple[Tensor, Tensor]) -> None:
    training, held_out = small
    source = range(3, len(training), 36)
    kinds = [thumbnails([change(scans[0][i], n) for n, i in enumerate(source)]) for change in PLANTED.values()]
    found = copy_rate(torch.cat(kinds), training, held_out)
    for kind, distances in zip(PLANTED, found.distances.split(len(source)), strict=True):
        print(f"{kind}: farthest copy {distances.max():.3f}, threshold {found.threshold:.3f}")
    assert found.nearest.tolist() == list(source) * len(kinds)
    assert found.rate == 1
    assert found.interval.low > 0.9


def test_unseen_scans_are_no_copies(small: tuple[Tensor, Tensor]) -> None:
    """With the threshold from the other half of the held-out scans, over many ways to halve them."""
    training, held_out = small
    found = copy_rate(held_out[::2], training, held_out[1::2])
    distances = torch.cat([found.distances, found.unseen])
    rates = []
    for seed in range(400):
        order = distances[torch.randperm(len(distances), generator=torch.Generator().manual_seed(seed))]
        unseen, new = order.tensor_split(2)
        rates.append(float((new < low_quantile(unseen, 0.05)[0]).double().mean()))
    rate = sum(rates) / len(rates)
    print(f"{found.rate:.3f} of the unseen scans; {rate:.3f} over 400 halvings; expected {found.expected:.3f}")
    assert found.expected == pytest.approx(0.05)
    assert rate == pytest.approx(0.05, abs=0.015)
    assert found.interval.low < 0.05


def test_copies_among_new_scans_are_counted(
    scans: tuple[list[Tensor], list[Tensor]], small: tuple[Tensor, Tensor]
) -> None:
    training, held_out = small
    samples = torch.cat([held_out[:15], thumbnails([moved(scans[0][i], i) for i in range(5)])])
    found = copy_rate(samples, training[:60], held_out[15:])
    assert found.nearest[15:].tolist() == [0, 1, 2, 3, 4]
    assert (found.distances[15:] < found.threshold).all()
    assert 0.25 <= found.rate <= 0.45
    assert repeat_rate(torch.cat([held_out[:4], samples[15:], samples[15:17]]), 0.2) == pytest.approx(4 / 11)


def test_coarse_search_misses_nothing_on_real_scans(small: tuple[Tensor, Tensor]) -> None:
    training, held_out = small
    few, many = (nearest(held_out[:6], training, candidates=c) for c in (16, 100))
    assert torch.equal(few.which, many.which)
    assert torch.equal(few.distances, many.distances)


def by_loops(a: Tensor, b: Tensor, shift: int) -> float:
    """The distance of two thumbnails by the definition, in float64: all flips, all shifts by half voxels."""
    a, b = a.double(), b.double()
    reach = [min(shift, side // 4) for side in a.shape]
    highest = 0.0
    for flip in product((False, True), repeat=3):
        other = b.flip([axis for axis in range(3) if flip[axis]])
        for halves in product((0, 1), repeat=3):
            seen = a
            for axis, half in enumerate(halves):
                index = torch.arange(a.shape[axis])
                after = (index + half).clamp(max=a.shape[axis] - 1)
                seen = (seen.index_select(axis, index) + seen.index_select(axis, after)) / 2
            for steps in product(*(range(-r, r + 1) for r in reach)):
                mine = seen[tuple(slice(max(-s, 0), side - max(s, 0)) for s, side in zip(steps, a.shape, strict=True))]
                its = other[tuple(slice(max(s, 0), side - max(-s, 0)) for s, side in zip(steps, a.shape, strict=True))]
                x, y = mine - mine.mean(), its - its.mean()
                if x.square().sum() > 1e-3 and y.square().sum() > 1e-3:
                    highest = max(highest, float((x * y).sum() / (x.norm() * y.norm())))
    return math.sqrt(max(2 * (1 - highest), 0.0))


@pytest.mark.parametrize(("sides", "shift"), [((5, 4, 6), 1), ((9, 8, 1), 2), ((3, 5, 4), 2)])
def test_equals_loops(sides: tuple[int, int, int], shift: int) -> None:
    volumes = torch.rand(5, *sides, generator=torch.Generator().manual_seed(0))
    scans, references = thumbnails(volumes[:2]), thumbnails(volumes[2:])
    expected = torch.tensor([[by_loops(a, b, shift) for b in references] for a in scans], dtype=torch.float64)
    found = nearest(scans, references, shift=shift, candidates=32)  # all: no choice is left to the coarse search
    torch.testing.assert_close(found.distances, expected.min(1).values, rtol=0, atol=1e-5)
    assert found.which.tolist() == expected.argmin(1).tolist()
    among = nearest(scans, None, shift=shift, candidates=32)
    own = torch.tensor(
        [[by_loops(scans[i], scans[j], shift) if i != j else 9.0 for j in range(2)] for i in range(2)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(among.distances, own.min(1).values, rtol=0, atol=1e-5)
    assert among.which.tolist() == own.argmin(1).tolist()


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 99),
    flip=st.sets(st.sampled_from([1, 2, 3])),
    gain=st.floats(0.01, 1000),
    offset=st.floats(-1000, 1000),
)
def test_neither_flips_nor_grey_scale_matter(seed: int, flip: set[int], gain: float, offset: float) -> None:
    volumes = torch.rand(6, 8, 10, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    changed = thumbnails((gain * volumes + offset).flip(sorted(flip)))
    original = thumbnails(volumes)
    found = nearest(changed[:3], original[3:], candidates=24)
    torch.testing.assert_close(nearest(changed, original).distances, torch.zeros(6).double(), rtol=0, atol=1e-2)
    assert nearest(changed, original).which.tolist() == list(range(6))
    assert found.distances.max() <= math.sqrt(2)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        nearest(changed[:3][order], original[3:], candidates=24).distances, found.distances[order]
    )


@pytest.mark.parametrize("sides", [(64, 40, 7), (33, 32, 1), (20, 30, 10), (100, 1, 50)])
def test_thumbnails_are_averages_of_norm_one(sides: tuple[int, int, int]) -> None:
    volume = torch.rand(2, *sides, generator=torch.Generator().manual_seed(0))
    small = thumbnails(volume)
    factor = max(max(sides) / 32, 1)
    assert small.shape[1:] == tuple(max(round(side / factor), 1) for side in sides)
    torch.testing.assert_close(small.mean((1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(small.flatten(1).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(thumbnails(volume.flip(1, 2, 3)), small.flip(1, 2, 3))
    if sides == (64, 40, 7):
        even = thumbnails(volume[:, :, :, :6])
        pooled = torch.nn.functional.avg_pool3d(volume[:, None, :, :, :6], 2)[:, 0]
        pooled = pooled - pooled.mean((1, 2, 3), keepdim=True)
        torch.testing.assert_close(even, pooled / pooled.flatten(1).norm(dim=1)[:, None, None, None])


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 40), (40, 40), (500, 1000)])
def test_interval_equals_scipy(hits: int, trials: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("k", "quantile"), [(39, 0.05), (60, 0.1), (9, 0.05)])
def test_threshold_holds_what_it_promises(k: int, quantile: float) -> None:
    """New values of any distribution fall below it as often as it says."""
    dice = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, k, generator=dice, dtype=torch.float64)
    found = [low_quantile(row, quantile) for row in draws]
    expected = max(quantile, 1 / (k + 1))
    assert all(share == pytest.approx(expected) for _, share in found)
    assert sum(threshold for threshold, _ in found) / 4000 == pytest.approx(expected, rel=0.06)


def test_constant_volumes_resemble_nothing() -> None:
    volumes = torch.rand(4, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    volumes[0] = 7.3
    found = nearest(thumbnails(volumes), thumbnails(volumes[1:]))
    assert float(found.distances[0]) == pytest.approx(math.sqrt(2))
    assert found.distances[1:].max() < 1e-2


def test_without_held_out_scans_training_is_its_own_measure(small: tuple[Tensor, Tensor]) -> None:
    training, held_out = small[0][:12], small[1][:5]
    found = copy_rate(held_out, training, None)
    assert torch.equal(found.unseen, nearest(training, None).distances)
    assert found.unseen.min() > 0.1
    assert found.rate < 0.6


def test_what_cannot_be_compared_is_refused() -> None:
    volumes = torch.rand(4, 6, 6, 6)
    small = thumbnails(volumes)
    with pytest.raises(ValueError, match="volume 1 has shape"):
        thumbnails([volumes[0], volumes[1, 1:]])
    with pytest.raises(ValueError, match="no volumes"):
        thumbnails([])
    with pytest.raises(ValueError, match="volume 0 holds NaN"):
        thumbnails(volumes * float("nan"))
    with pytest.raises(ValueError, match="one shape"):
        nearest(small, small[:, 1:])
    with pytest.raises(ValueError, match="too few"):
        nearest(small[:0], small)
    with pytest.raises(ValueError, match="too few"):
        nearest(small[:1], None)
    with pytest.raises(ValueError, match="NaN"):
        nearest(small, small * float("nan"))
    with pytest.raises(ValueError, match="quantile"):
        copy_rate(small, small, small, quantile=1.0)
