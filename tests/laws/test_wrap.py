"""Wrappers: windows cover and leave no seams, known coordinates stay known, clamping happens in voxels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.core.wrap import Window, clipped, consistent, keep, ramp, tiled, windows_over
from gen3d.data.projection import ParallelBeam
from gen3d.data.undersampling import draw_mask
from gen3d.spaces.pixel import Pixel
from gen3d.spaces.wavelet import Wavelet

lengths = st.tuples(*[st.integers(1, 40)] * 3)
sizes = st.tuples(*[st.integers(2, 24)] * 3)


@settings(max_examples=60, deadline=None)
@given(shape=lengths, size=sizes, overlap=st.sampled_from([0.0, 0.25, 0.5]))
def test_windows_cover_everything(shape: tuple[int, ...], size: tuple[int, ...], overlap: float) -> None:
    seen = torch.zeros(shape)
    for window in windows_over(shape, size, overlap):
        assert all(
            0 <= w.start < w.stop <= n and w.stop - w.start <= m for w, n, m in zip(window, shape, size, strict=True)
        )
        seen[window] += 1
    assert seen.min() >= 1


@settings(max_examples=30, deadline=None)
@given(shape=lengths, size=sizes)
def test_a_pointwise_denoiser_does_not_notice_windows(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))

    def pointwise(x: Tensor, sigma: Tensor, window: Window) -> Tensor:
        return x.tanh() * sigma

    assert torch.allclose(tiled(pointwise, size)(x, torch.tensor(0.7)), x.tanh() * 0.7, atol=1e-6)


def test_blending_weights_are_positive_and_symmetric() -> None:
    weight = ramp((8, 5, 1), 0.25)
    assert weight.shape == (8, 5, 1)
    assert weight.min() > 0
    assert torch.equal(weight, weight.flip(0))


def test_known_coordinates_stay_known() -> None:
    known = torch.randn(1, 4, 2, 2, 2)
    where = torch.tensor([True, False, True, False]).reshape(1, 4, 1, 1, 1)
    guess = keep(lambda x, sigma: x * 0, known, where)(torch.ones_like(known), torch.tensor(1.0))
    assert torch.equal(guess[:, [0, 2]], known[:, [0, 2]])
    assert guess[:, [1, 3]].abs().max() == 0


@pytest.mark.parametrize("size", [(6, 8, 4), (7, 5, 9)])
def test_clipped_guesses_lie_in_the_range_of_voxels(size: tuple[int, int, int]) -> None:
    space = Wavelet(1, "wdm")
    coords = space.encode(3 * torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(2)))
    guess = clipped(lambda x, sigma: x, space, -1, 1, size)(coords, torch.tensor(1.0))
    voxels = space.decode(guess, size)
    assert voxels.min() >= -1 - 1e-6
    assert voxels.max() <= 1 + 1e-6
    assert torch.allclose(voxels, space.decode(coords, size).clamp(-1, 1), atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(size=st.tuples(st.integers(6, 20), st.integers(6, 20), st.integers(1, 4)), levels=st.booleans())
def test_guesses_take_over_the_measured_frequencies_exactly(size: tuple[int, int, int], levels: bool) -> None:
    space = Wavelet(1, "sqrt8") if levels else Pixel()
    truth, guess = (torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    operator = draw_mask(size[:2], 2, "poisson", "key")
    measured = operator.forward(truth)
    true = consistent(lambda x, sigma: x, space, operator, measured, size=size)
    voxels = space.decode(true(space.encode(guess), torch.tensor(1.0)), size)
    spectrum = torch.fft.fft2(voxels, dim=(2, 3), norm="ortho")
    replaced = torch.where(operator.mask[..., None], measured, torch.fft.fft2(guess, dim=(2, 3), norm="ortho"))
    assert torch.allclose(spectrum, replaced, atol=1e-5)


def test_guesses_move_towards_the_projections_as_far_as_these_are_trusted() -> None:
    truth, guess = (torch.rand(1, 1, 12, 10, 2, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    beam = ParallelBeam((12, 10), 5)
    measured = beam.forward(truth)

    def made(weight: float, steps: int) -> Tensor:
        wrapped = consistent(lambda x, sigma: x, Pixel(), beam, measured, weight, steps)
        return wrapped(guess, torch.tensor(1.0))

    def misfit(voxels: Tensor) -> float:
        return float((beam.forward(voxels) - measured).square().sum())

    falling = [misfit(guess), misfit(made(0.0, 1)), misfit(made(0.0, 3)), misfit(made(0.0, 40))]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 1e-4 * falling[0]
    assert misfit(made(0.0, 40)) < misfit(made(0.1, 40)) < misfit(made(1.0, 40)) < misfit(guess)
    assert torch.allclose(made(1e8, 5), guess, atol=1e-5)
    assert made(0.0, 40).sub(guess).square().sum() <= truth.sub(guess).square().sum()  # the least change of all


def test_items_of_a_batch_are_made_consistent_each_by_itself() -> None:
    truth = torch.rand(2, 1, 12, 10, 2, generator=torch.Generator().manual_seed(3)) * torch.tensor([1.0, 50.0]).view(
        2, 1, 1, 1, 1
    )
    beam = ParallelBeam((12, 10), 5)
    both = consistent(lambda x, sigma: 0 * x, Pixel(), beam, beam.forward(truth), 0.01, 3)(truth, torch.tensor(1.0))
    alone = consistent(lambda x, sigma: 0 * x, Pixel(), beam, beam.forward(truth[:1]), 0.01, 3)
    assert torch.allclose(both[:1], alone(truth[:1], torch.tensor(1.0)), atol=1e-5)
