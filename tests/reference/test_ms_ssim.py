"""MS-SSIM against MONAI and torchmetrics, and its mean over pairs against a loop that takes each pair by itself."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.ms_ssim import BETAS, MeanPairwise, kernel_for, mean_pairwise_ms_ssim, ms_ssim

SIZES = [  # sides, kernel, scales
    ((64, 64, 64), 3, 5),
    ((66, 83, 71), 3, 5),
    ((48, 40, 57), 7, 3),
    ((80, 80, 80), 5, 5),
    ((96, 80, 1), 5, 5),
    ((180, 1, 177), 11, 5),
]


def smooth(shape: tuple[int, ...], seed: int) -> Tensor:
    """Something like an image, on [0, 1], with a dark border."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for axis in range(1, len(shape)):
        noise = (noise + noise.roll(1, axis) + noise.roll(-1, axis)) / 3
    axes = [torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in shape[1:]]
    ball = sum(g.square() for g in torch.meshgrid(*axes, indexing="ij")) < 0.8
    return noise * ball


def weights(scales: int) -> list[float]:
    """The paper's five as they are; of fewer, the first."""
    return list(BETAS) if scales == 5 else [beta / sum(BETAS[:scales]) for beta in BETAS[:scales]]


@pytest.mark.parametrize(("sides", "kernel", "scales"), SIZES)
@pytest.mark.parametrize("data_range", [1.0, 3.0])
def test_equals_monai(sides: tuple[int, ...], kernel: int, scales: int, data_range: float) -> None:
    from monai.metrics import MultiScaleSSIMMetric

    a = smooth((2, *sides), 0)
    b = torch.stack([(0.7 * a[0] + 0.3 * smooth((1, *sides), 1)[0]), smooth((1, *sides), 2)[0]])
    flat = [axis for axis, side in enumerate(sides, 2) if side == 1]
    x, y = (v[:, None].float().squeeze(flat[0]) if flat else v[:, None].float() for v in (a, b))
    metric = MultiScaleSSIMMetric(
        3 - len(flat), data_range=data_range, kernel_size=kernel, weights=weights(scales), reduction="none"
    )
    ours = ms_ssim(a, b, data_range=data_range, kernel=kernel, scales=scales)
    torch.testing.assert_close(ours.float(), metric(x, y)[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ms_ssim(a.float(), b.float(), data_range=data_range, kernel=kernel, scales=scales), ours, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("sides", "scales"), [((192, 176, 1), 5), ((24, 26, 30), 2)])
def test_equals_torchmetrics(sides: tuple[int, ...], scales: int) -> None:
    """It mirrors the coarsest scale at the faces, so the images are made equal there and differ at all finer ones."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    a, change = smooth((1, *sides), 0), smooth((1, *sides), 1)
    block = [2 ** (scales - 1) if side > 1 else 1 for side in sides]
    even = torch.nn.functional.avg_pool3d(change[:, None], block)[:, 0]
    for axis, side in enumerate(block, 1):
        even = even.repeat_interleave(side, axis)
    b = a + 2 * (change - even)
    x, y = (v[:, None].squeeze(-1) if sides[2] == 1 else v[:, None] for v in (a, b))
    expected = theirs(x, y, reduction="none", data_range=1.0, betas=tuple(weights(scales)), normalize="relu")
    ours = ms_ssim(a, b, kernel=11, scales=scales)
    assert ours.max() < 0.99
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("sides", [(32, 33, 40), (64, 65, 1)])
def test_an_opposite_counts_as_nothing(sides: tuple[int, ...]) -> None:
    """Contrast and inverse have a negative covariance: MONAI and torchmetrics clamp its mean at 0, and so the value."""
    from monai.metrics import MultiScaleSSIMMetric

    a = smooth((1, *sides), 0)
    x = a[:, None].float().squeeze(-1) if sides[2] == 1 else a[:, None].float()
    kernel, scales = kernel_for(sides)
    metric = MultiScaleSSIMMetric(x.ndim - 2, kernel_size=kernel, weights=weights(scales))
    assert float(metric(x, 1 - x)) == 0
    assert ms_ssim(a, 1 - a).tolist() == [0]


def test_constant_volumes_have_a_value() -> None:
    """Two constants have all contrast terms 1, so that the brightness at the coarsest scale is left."""
    a, b = (torch.full((1, 64, 64, 64), v) for v in (0.5, 0.25))
    brightness = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert float(ms_ssim(a, a)) == pytest.approx(1, abs=1e-7)
    assert float(ms_ssim(a * 0, a * 0)) == 1
    assert float(ms_ssim(a, b)) == pytest.approx(brightness ** BETAS[4], rel=1e-5)
    assert 0 < float(ms_ssim(a, smooth((1, 64, 64, 64), 0))) < 0.5


@settings(max_examples=60, deadline=None)
@given(sides=st.lists(st.integers(1, 300).filter(lambda s: s != 2), min_size=3, max_size=3), scales=st.integers(1, 5))
def test_kernel_is_the_widest_that_fits(sides: list[int], scales: int) -> None:
    if max(sides) == 1:
        with pytest.raises(ValueError, match="above 1"):
            kernel_for(sides, scales)
        return
    kernel, used = kernel_for(sides, scales)
    coarsest = min(s for s in sides if s > 1) // 2 ** (used - 1)
    assert kernel in (3, 5, 7, 9, 11)
    assert kernel <= coarsest
    assert kernel == 11 or kernel + 2 > coarsest
    assert used == scales or coarsest // 2 < 3


def test_known_kernels() -> None:
    """(k - 1) 16 below the smallest side at five scales, as MONAI and torchmetrics ask."""
    assert [kernel_for([side] * 3) for side in (176, 160, 128, 96, 64, 32, 3)] == [
        (11, 5),
        (9, 5),
        (7, 5),
        (5, 5),
        (3, 5),
        (3, 4),
        (3, 1),
    ]
    assert kernel_for((240, 240, 155)) == (9, 5)
    assert kernel_for((64, 64, 1)) == kernel_for((64, 64))


@settings(max_examples=15, deadline=None)
@given(
    sides=st.tuples(st.integers(12, 20), st.integers(12, 20), st.sampled_from([1, 13])),
    seed=st.integers(0, 99),
    gain=st.sampled_from([0.01, 700.0]),
)
def test_laws(sides: tuple[int, int, int], seed: int, gain: float) -> None:
    a, b = smooth((3, *sides), seed), smooth((3, *sides), seed + 1)
    value = ms_ssim(a, b)
    assert value.min() >= 0
    assert value.max() <= 1
    torch.testing.assert_close(ms_ssim(b, a), value)
    torch.testing.assert_close(ms_ssim(a, a), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(ms_ssim(a * gain, b * gain, data_range=gain), value)
    torch.testing.assert_close(ms_ssim(a[[2, 0, 1]], b[[2, 0, 1]]), value[[2, 0, 1]])
    torch.testing.assert_close(ms_ssim(a.transpose(1, 2), b.transpose(1, 2)), value)
    assert ms_ssim(a[:0], b[:0]).shape == (0,)


class Asked(list):
    """A list of volumes that counts how often each is asked for."""

    def __init__(self, volumes: Tensor) -> None:
        super().__init__(volumes)
        self.times = [0] * len(volumes)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        self.times[index] += 1
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def volumes() -> Tensor:
    return smooth((7, 20, 24, 17), 3)


def by_pairs(volumes: Tensor) -> dict[tuple[int, int], float]:
    return {
        (i, j): float(ms_ssim(volumes[i : i + 1], volumes[j : j + 1]))
        for i, j in itertools.combinations(range(len(volumes)), 2)
    }


def test_mean_over_all_pairs_reads_each_volume_once(volumes: Tensor) -> None:
    asked = Asked(volumes)
    found, values = mean_pairwise_ms_ssim(asked), by_pairs(volumes)
    assert asked.times == [1] * 7
    assert found.value == pytest.approx(sum(values.values()) / 21, abs=1e-5)
    assert found[2:] == (21, *kernel_for((20, 24, 17)))
    left = torch.tensor([[v for pair, v in values.items() if i not in pair] for i in range(7)]).double().mean(1)
    assert found.std_error == pytest.approx(float((6 / 7 * (left - left.mean()).square().sum()).sqrt()), rel=1e-3)
    assert mean_pairwise_ms_ssim(volumes.flip(0)) == pytest.approx(found, rel=1e-5)


def test_equals_monai_over_ordered_pairs(volumes: Tensor) -> None:
    from monai.metrics import MultiScaleSSIMMetric

    few = volumes[:4, :, :, :16]
    found = mean_pairwise_ms_ssim(few)
    metric = MultiScaleSSIMMetric(3, kernel_size=found.kernel, weights=weights(found.scales))
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    theirs = torch.tensor([float(metric(few[i][None, None], few[j][None, None])) for i, j in pairs])
    assert found.value == pytest.approx(float(theirs.mean()), abs=1e-5)


@pytest.mark.parametrize("pairs", [None, 9])
def test_blocks_change_nothing(volumes: Tensor, pairs: int | None) -> None:
    whole = mean_pairwise_ms_ssim(volumes, pairs=pairs, seed=1)
    for held in (1, 2, 3):
        asked = Asked(volumes)
        memory = 2.5 * held * 16 * volumes[0].numel() / 2**30
        assert mean_pairwise_ms_ssim(asked, pairs=pairs, seed=1, memory_gb=memory) == pytest.approx(whole, rel=1e-6)
        assert max(asked.times) <= -(-7 // held)


def test_a_sample_of_pairs_is_seeded_and_reads_only_its_volumes(volumes: Tensor) -> None:
    values = by_pairs(volumes)
    asked = Asked(volumes)
    found = mean_pairwise_ms_ssim(asked, pairs=2, seed=5)
    assert max(asked.times) == 1
    assert sum(asked.times) in (3, 4)
    means = [(a + b) / 2 for a, b in itertools.combinations(values.values(), 2)]
    assert min(abs(found.value - mean) for mean in means) < 1e-5
    assert mean_pairwise_ms_ssim(volumes, pairs=2, seed=5) == found
    assert len({mean_pairwise_ms_ssim(volumes, pairs=2, seed=seed).value for seed in range(8)}) > 2
    assert mean_pairwise_ms_ssim(volumes, pairs=500) == mean_pairwise_ms_ssim(volumes)


@pytest.mark.parametrize(("pairs", "largest"), [(None, 1.2), (15, 1.7)])
def test_standard_error_is_the_spread_over_new_sets(pairs: int | None, largest: float) -> None:
    """Volumes that share a pattern to a random degree; with a sample of pairs the error is an overstatement."""
    common = smooth((1, 12, 12, 12), 7)
    found: list[MeanPairwise] = []
    for seed in range(120):
        share = torch.rand(12, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
        noise = smooth((12, 12, 12, 12), seed)
        found.append(mean_pairwise_ms_ssim(share * common + (1 - share) * noise, pairs=pairs, seed=seed))
    spread = torch.tensor([f.value for f in found]).std()
    error = torch.tensor([f.std_error or 0.0 for f in found]).square().mean().sqrt()
    assert 0.85 < float(error / spread) < largest


def test_two_volumes_have_a_mean_without_an_error(volumes: Tensor) -> None:
    found = mean_pairwise_ms_ssim(volumes[:2])
    assert found.value == pytest.approx(by_pairs(volumes[:2])[0, 1], abs=1e-5)
    assert found.std_error is None


def test_what_cannot_be_compared_is_refused(volumes: Tensor) -> None:
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(volumes, volumes[:, 1:])
    with pytest.raises(ValueError, match="NaN"):
        ms_ssim(volumes, volumes * float("nan"))
    with pytest.raises(ValueError, match="at least 3 voxels"):
        ms_ssim(volumes[:, :2], volumes[:, :2])
    with pytest.raises(ValueError, match="does not fit"):
        ms_ssim(volumes, volumes, kernel=7, scales=3)
    with pytest.raises(ValueError, match="does not fit"):
        ms_ssim(volumes, volumes, kernel=4)
    with pytest.raises(ValueError, match="data range"):
        ms_ssim(volumes, volumes, data_range=0.0)
    with pytest.raises(ValueError, match="at least 2"):
        mean_pairwise_ms_ssim(volumes[:1])
    with pytest.raises(ValueError, match="at least 2"):
        mean_pairwise_ms_ssim(volumes, pairs=0)
    with pytest.raises(ValueError, match="volume 1 has shape"):
        mean_pairwise_ms_ssim([volumes[0], volumes[1, 1:]])
    with pytest.raises(ValueError, match=r"\(X, Y, Z\)"):
        mean_pairwise_ms_ssim(volumes[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        mean_pairwise_ms_ssim([volumes[0], volumes[1] * float("nan")])
