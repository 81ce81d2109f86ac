"""What the figures of a pair must say: laws, closed forms, and what papers' figures miss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.blur import blur_index
from gen3d.metrics.pairs import PairRow, body_mask, closest, nrmse, pair_rows, regions_of

FIXED, MATCHED = "fixed window", "scale matched"


def noise(seed: int, size: tuple[int, ...] = (24, 20, 22)) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brain(seed: int = 0, size: tuple[int, int, int] = (24, 20, 22)) -> Tensor:
    """Positive noise in a box of zeros."""
    voxels = torch.zeros(size, dtype=torch.float64)
    voxels[3:-3, 2:-4, 4:-2] = 100 + 900 * noise(seed, size)[3:-3, 2:-4, 4:-2]
    return voxels


def lesion() -> Tensor:
    mask = torch.zeros(24, 20, 22, dtype=torch.int16)
    mask[8:13, 8:12, 9:14] = 2
    return mask


def by_name(rows: list[PairRow]) -> dict[tuple[str, str], PairRow]:
    return {(row.region, row.normalisation): row for row in rows}


def score(true: Tensor, fake: Tensor, mask: Tensor | None = None) -> dict[tuple[str, str], PairRow]:
    return by_name(pair_rows(true, fake, regions=regions_of(true, lesion=mask)))


def test_brain_first_whole_last_and_each_row_says_what_it_is() -> None:
    true = brain()
    rows = pair_rows(true, brain(1), regions=regions_of(true, lesion=lesion()))
    names = ["brain", "lesion", "healthy", "whole"]
    assert [(r.region, r.normalisation) for r in rows] == [(n, w) for n in names for w in (FIXED, MATCHED)]
    sizes = {r.region: r.voxels for r in rows}
    assert sizes["lesion"] == 5 * 4 * 5
    assert sizes["brain"] == int((true > 0).sum()) == sizes["lesion"] + sizes["healthy"]
    assert sizes["whole"] == true.numel()
    assert len({(r.low, r.high) for r in rows}) == 1
    assert all((r.gain, r.offset) == (1.0, 0.0) for r in rows if r.normalisation == FIXED)
    assert all(math.isfinite(v) for r in rows for v in vars(r).values() if isinstance(v, float))


def test_the_true_image_itself_scores_full_marks() -> None:
    for row in score(brain(), brain(), lesion()).values():
        assert (row.psnr, row.mae, row.rmse, row.nrmse) == pytest.approx((120, 0, 0, 0), abs=1e-9)
        assert row.ssim == pytest.approx(1, abs=1e-6)
        assert row.blur == pytest.approx(1, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 20), st.floats(-500, 500))
def test_the_matched_scale_undoes_gain_and_offset_and_names_them(gain: float, offset: float) -> None:
    true = brain()
    fake = torch.where(true > 0, true * gain + offset, true)
    row = score(true, fake)["brain", MATCHED]
    assert row.psnr == pytest.approx(120, abs=1e-3)
    assert row.gain == pytest.approx(1 / gain, rel=1e-6)
    assert row.offset == pytest.approx(-offset / gain, rel=1e-6, abs=1e-6)


def test_halved_intensities_are_bad_in_the_fixed_window_only() -> None:
    rows = score(brain(), brain() / 2)
    assert rows["brain", FIXED].psnr < 15
    assert rows["brain", MATCHED].psnr > 100
    assert rows["brain", MATCHED].gain == pytest.approx(2)
    assert rows["brain", FIXED].blur == pytest.approx(0.25, rel=0.05)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6), st.permutations([0, 1, 2]))
def test_the_order_of_axes_and_mirroring_change_nothing(seed: int, order: list[int]) -> None:
    true, fake, mask = brain(seed), brain(seed + 1), lesion()
    turned = [v.flip(1).permute(order).contiguous() for v in (true, fake, mask)]
    straight = score(true, fake, mask)
    for key, row in score(*turned).items():
        other = straight[key]
        assert (row.psnr, row.blur, row.mae) == pytest.approx((other.psnr, other.blur, other.mae), rel=1e-9)
        assert row.ssim == pytest.approx(other.ssim, abs=1e-5)


def test_a_slice_is_a_volume_of_one_slice() -> None:
    """Repeating a slice along Z changes no figure."""
    flat = [brain(seed)[:, :, 10:11] for seed in (0, 1)]
    thick = [v.expand(-1, -1, 3) for v in flat]
    slices, volumes = (
        pair_rows(true, fake, regions=regions_of(true), window=(100, 900)) for true, fake in (flat, thick)
    )
    for row, other in zip(slices[::2], volumes[::2], strict=True):
        assert (row.psnr, row.mae, row.blur) == pytest.approx((other.psnr, other.mae, other.blur), rel=1e-9)
        assert row.ssim == pytest.approx(other.ssim, abs=1e-5)
        assert row.ms_ssim is not None


def test_hounsfield_units() -> None:
    true = torch.full((20, 20, 20), -1000.0)
    true[4:16, 4:16, 2:18] = 40 + 60 * noise(0, (12, 12, 16)).float()
    fake = true.clone()
    fake[4:16, 4:16, 2:18] += 25
    rows = by_name(pair_rows(true, fake, regions=regions_of(true, units="HU"), units="HU"))
    body = rows["body", FIXED]
    assert (body.low, body.high, body.units) == (-1000, 1000, "HU")
    assert body.mae == pytest.approx(25, abs=1e-4)
    assert body.rmse == pytest.approx(25, abs=1e-4)
    assert body.psnr == pytest.approx(20 * math.log10(2000 / 25), abs=1e-4)
    assert rows["whole", FIXED].mae == pytest.approx(25 * 12 * 12 * 16 / 20**3, abs=1e-4)
    soft = by_name(pair_rows(true, fake, regions=regions_of(true, units="HU"), units="HU", window=(-160, 240)))
    assert soft["body", FIXED].psnr == pytest.approx(20 * math.log10(400 / 25), abs=1e-4)


def test_the_body_is_the_largest_part_with_its_lungs() -> None:
    hu = torch.full((30, 30, 8), -1000.0)
    hu[5:25, 8:26] = 30
    hu[8:12, 12:20] = -850  # a lung that reaches the first and the last slice
    hu[2:28, 2:4] = 100  # the table
    expected = torch.zeros_like(hu, dtype=torch.bool)
    expected[5:25, 8:26] = True
    assert torch.equal(body_mask(hu), expected)
    assert torch.equal(body_mask(hu[:, :, :1]), expected[:, :, :1])
    assert not body_mask(torch.full((4, 4, 4), -1000.0)).any()


def test_a_mask_replaces_the_brain() -> None:
    true = brain() + 5
    mask = torch.zeros_like(true)
    mask[6:18, 6:14, 6:16] = 3
    regions = regions_of(true, mask=mask, lesion=lesion())
    assert torch.equal(regions["brain"], mask > 0)
    assert torch.equal(regions["healthy"], (mask > 0) & (lesion() == 0))


def test_empty_regions_get_no_row() -> None:
    rows = score(brain(), brain(1), torch.zeros_like(lesion()))
    assert {name for name, _ in rows} == {"brain", "healthy", "whole"}
    regions = {"brain": torch.zeros(24, 20, 22), "lesion": lesion()}
    fitted = by_name(pair_rows(brain(), brain(1), regions=regions))["lesion", MATCHED]
    everywhere = {"whole": torch.ones(24, 20, 22), "lesion": lesion()}
    assert fitted.gain == by_name(pair_rows(brain(), brain(1), regions=everywhere))["lesion", MATCHED].gain


def test_a_constant_image_has_defined_figures() -> None:
    rows = score(brain(), torch.full_like(brain(), 7.0), lesion())
    matched = rows["brain", MATCHED]
    assert matched.gain == 0
    assert matched.offset == pytest.approx(float(brain()[brain() > 0].quantile(0.5)))
    assert matched.psnr > rows["brain", FIXED].psnr
    assert matched.blur == pytest.approx(0, abs=1e-9)
    assert all(math.isfinite(v) for row in rows.values() for v in vars(row).values() if isinstance(v, float))


def test_a_region_without_contrast_has_no_range_and_no_detail() -> None:
    true = brain()
    true[8:13, 8:12, 9:14] = 500
    row = score(true, brain(1), lesion())["lesion", FIXED]
    assert row.nrmse is None
    assert row.blur is None
    assert row.psnr > 0


def test_a_lesion_of_one_voxel() -> None:
    mask = torch.zeros_like(lesion())
    mask[10, 10, 10] = 1
    row = score(brain(), brain(1), mask)["lesion", FIXED]
    assert (row.voxels, row.ms_ssim, row.ms_ssim_kernel, row.nrmse) == (1, None, None, None)
    assert row.blur is not None


def test_what_cannot_be_scored_is_refused() -> None:
    true, nan = brain(), brain()
    nan[0, 0, 0] = float("nan")
    regions = regions_of(true)
    with pytest.raises(ValueError, match="one shape"):
        pair_rows(true, true[1:], regions=regions)
    with pytest.raises(ValueError, match="synthetic image is not finite"):
        pair_rows(true, nan, regions=regions)
    with pytest.raises(ValueError, match="true image is not finite"):
        pair_rows(nan, true, regions=regions)
    with pytest.raises(ValueError, match=r"region brain: shape \(23, 20, 22\)"):
        pair_rows(true, true, regions={"brain": regions["brain"][1:]})
    with pytest.raises(ValueError, match=r"window \[3, 3\] is empty"):
        pair_rows(torch.full_like(true, 3), true, regions=regions)
    with pytest.raises(ValueError, match="constant within the window"):
        pair_rows(torch.full_like(true, 3), true, regions=regions, units="HU")
    with pytest.raises(ValueError, match="no voxel in any region"):
        pair_rows(true, true, regions={"lesion": torch.zeros_like(true)})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_nrmse_of_a_shift_is_the_shift(seed: int, shift: float) -> None:
    a = noise(seed)
    expected = {
        "range": a.max() - a.min(),
        "mean": a.mean(),
        "euclidean": (a**2).mean().sqrt(),
        "std": ((a - a.mean()) ** 2).mean().sqrt(),
    }
    for norm, by in expected.items():
        assert nrmse(a, a + shift, norm=norm) == pytest.approx(shift / float(by), rel=1e-9)  # type: ignore[arg-type]
    assert nrmse(a, a) == 0


def test_nrmse_refuses() -> None:
    a = noise(0)
    with pytest.raises(ValueError, match="range in the region is 0"):
        nrmse(torch.ones(4), torch.zeros(4))
    with pytest.raises(ValueError, match="expected one of range, mean"):
        nrmse(a, a, norm="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no voxel"):
        nrmse(a, a, torch.zeros_like(a, dtype=torch.bool))
    with pytest.raises(ValueError, match="finite"):
        nrmse(a, a * float("nan"))
    with pytest.raises(ValueError, match="one shape"):
        nrmse(a, a[1:])


def smooth(voxels: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool3d(voxels[None, None], 3, stride=1, padding=1)[0, 0]


def test_blur_index_orders_images_by_sharpness() -> None:
    true = smooth(noise(0, (30, 30, 30)))
    where = torch.zeros(30, 30, 30, dtype=torch.bool)
    where[4:-4, 4:-4, 4:-4] = True
    rough = true + 0.1 * noise(1, (30, 30, 30))
    once, twice = smooth(true), smooth(smooth(true))
    found = [blur_index(true, v, where) for v in (twice, once, true, rough)]
    assert found[2] == 1
    assert found == sorted(found)  # type: ignore[type-var]
    assert found[1] is not None
    assert found[1] < 0.3


def test_blur_index_of_a_wave_is_its_amplitude_squared() -> None:
    wave = torch.sin(torch.arange(32, dtype=torch.float64) * 0.7)[:, None, None].expand(32, 8, 8)
    everywhere = torch.ones(32, 8, 8, dtype=torch.bool)
    assert blur_index(wave, 0.6 * wave + 3, everywhere) == pytest.approx(0.36, rel=1e-9)
    assert blur_index(torch.ones(4, 4, 4), noise(0, (4, 4, 4)), torch.ones(4, 4, 4, dtype=torch.bool)) is None


def test_blur_index_does_not_see_the_border_of_the_brain() -> None:
    true, outside = brain(), brain()
    outside[true == 0] = 5000
    assert blur_index(true, outside, true > 0) == 1


def test_closest_is_the_one_that_a_change_of_scale_makes_equal() -> None:
    true = brain()
    given_images = {"noise": brain(1), "scaled": true * 7 - 20, "near": true + 50 * noise(3)}
    assert closest(true, given_images, true > 0) == "scaled"
