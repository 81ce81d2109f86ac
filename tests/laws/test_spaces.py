"""Spaces: there and back for every size, level and scale, and coordinates of the promised shape and scale."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3d.spaces.pixel import Pixel
from gen3d.spaces.wavelet import Wavelet

Size = tuple[int, int, int]
sizes = st.tuples(*[st.integers(1, 11)] * 3)
scales = st.sampled_from(["wdm", "orthonormal", "sqrt8", "statistics"])


def volume(size: Size, channels: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(seed))


def space(levels: int, scale: str, size: Size) -> Wavelet:
    made = Wavelet(levels, scale)  # type: ignore[arg-type]
    if scale == "statistics":
        made.measure([volume(size, seed=1) * 3 + 5, volume(size, seed=2)])
    return made


@settings(deadline=None, max_examples=150)
@given(size=sizes, levels=st.sampled_from([1, 2]), scale=scales, channels=st.integers(1, 3))
def test_decode_undoes_encode(size: Size, levels: int, scale: str, channels: int) -> None:
    x, wavelet = volume(size, channels), space(levels, scale, size)
    coords = wavelet.encode(x)
    assert coords.shape[1] == wavelet.channels(channels, size)
    assert tuple(coords.shape[2:]) == wavelet.shape(size)
    torch.testing.assert_close(wavelet.decode(coords, size), x, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=60)
@given(size=sizes, levels=st.sampled_from([1, 2]), scale=scales)
def test_encode_undoes_decode_without_being_told_the_size(size: Size, levels: int, scale: str) -> None:
    wavelet = space(levels, scale, size)
    coords = torch.randn(1, wavelet.channels(1, size), *wavelet.shape(size))
    torch.testing.assert_close(wavelet.encode(wavelet.decode(coords)), coords, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("scale", "levels", "low"),
    [("wdm", 1, 8**0.5 / 3), ("orthonormal", 1, 8**0.5), ("sqrt8", 1, 1.0), ("wdm", 2, 8 / 9), ("sqrt8", 2, 1.0)],
)
def test_a_constant_volume_has_one_subband_at_the_published_scale(scale: str, levels: int, low: float) -> None:
    coords = space(levels, scale, (8, 8, 8)).encode(torch.ones(1, 1, 8, 8, 8))
    torch.testing.assert_close(coords[:, 0], torch.full_like(coords[:, 0], low))
    assert float(coords[:, 1:].abs().max()) == 0


def test_wdm_divides_the_low_subband_alone() -> None:
    x = volume((6, 8, 4), channels=1)
    ratio = Wavelet(1, "orthonormal").encode(x) / Wavelet(1, "wdm").encode(x)
    expected = torch.tensor([3.0, 1, 1, 1, 1, 1, 1, 1]).view(1, 8, 1, 1, 1).expand_as(ratio)
    torch.testing.assert_close(ratio, expected)


def test_two_levels_are_one_level_twice() -> None:
    x, one = volume((8, 12, 16)), Wavelet(1, "wdm")
    torch.testing.assert_close(Wavelet(2, "wdm").encode(x), one.encode(one.encode(x)))


@pytest.mark.parametrize("size", [(8, 8, 8), (8, 12, 1), (1, 8, 4)])
@pytest.mark.parametrize("levels", [1, 2])
def test_statistics_give_every_subband_mean_0_and_std_1(size: Size, levels: int) -> None:
    smooth = torch.cumsum(volume(size, seed=3), dim=-2) + 2
    wavelet = Wavelet(levels, "statistics")
    wavelet.measure([smooth[:1], smooth[1:]])
    coords = wavelet.encode(smooth).unflatten(1, (2, -1)).transpose(0, 2).flatten(1)
    torch.testing.assert_close(coords.mean(1), torch.zeros(len(coords)), atol=1e-4, rtol=0)
    torch.testing.assert_close(coords.std(1, correction=0), torch.ones(len(coords)), atol=1e-4, rtol=0)


def test_statistics_of_flat_volumes_stand_with_the_low_half_of_the_missing_axis() -> None:
    wavelet = Wavelet(1, "statistics")
    wavelet.measure([volume((8, 8, 1)) * 5])
    measured = wavelet.std != 1
    assert measured.tolist() == [True, False, True, False, True, False, True, False]


def test_statistics_travel_with_the_weights() -> None:
    wavelet, other = space(1, "statistics", (8, 8, 8)), Wavelet(1, "statistics")
    other.load_state_dict(wavelet.state_dict())
    x = volume((8, 8, 8))
    assert torch.equal(other.encode(x), wavelet.encode(x))


def test_odd_sizes_repeat_the_edge() -> None:
    x = volume((5, 4, 4))
    longer = torch.cat([x, x[:, :, -1:]], dim=2)
    assert torch.equal(Wavelet().encode(x), Wavelet().encode(longer))


def test_half_precision_input_is_transformed_in_float32() -> None:
    assert Wavelet().encode(volume((4, 4, 4)).half()).dtype == torch.float32


@pytest.mark.parametrize(("levels", "scale"), [(3, "wdm"), (1, "wmd")])
def test_unknown_levels_and_scales_are_refused(levels: int, scale: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Wavelet(levels, scale)  # type: ignore[arg-type]


def test_only_statistics_are_measured() -> None:
    with pytest.raises(ValueError, match="nothing to measure"):
        Wavelet(1, "wdm").measure([volume((4, 4, 4))])
    with pytest.raises(ValueError, match="no volume"):
        Wavelet(1, "statistics").measure([])


def test_pixels_are_voxels() -> None:
    x, pixel = volume((3, 5, 1)), Pixel()
    assert torch.equal(pixel.decode(pixel.encode(x)), x)
    assert pixel.decode(x, (2, 4, 1)).shape[2:] == (2, 4, 1)
    assert (pixel.channels(2), pixel.shape((3, 5, 1)), pixel.stride) == (2, (3, 5, 1), 1)
