"""Measurement operators: adjoints, agreement with scikit-image, accelerations, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.core.error import UsageError
from gen3d.core.linear import least_squares
from gen3d.data.measurement import Acquisition, measure
from gen3d.data.projection import ParallelBeam, to_attenuation, to_hounsfield
from gen3d.data.total_variation import divergence, gradient, total_variation
from gen3d.data.undersampling import Pattern, Undersampled, draw_mask


def draw(*shape: int, seed: int = 0, complex_: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.complex64 if complex_ else torch.float32)


def disc(n: int, radius: float) -> Tensor:
    at = torch.arange(n) - (n - 1) / 2
    return (at[:, None] ** 2 + at**2 < radius**2).float()[None, None, ..., None]


def inner(a: Tensor, b: Tensor) -> float:
    return float((a.to(torch.complex128) * b.to(torch.complex128).conj()).sum().real)


@settings(max_examples=15, deadline=None)
@given(x=st.integers(1, 24), y=st.integers(1, 24), views=st.integers(1, 9), side=st.floats(1, 2.5))
def test_back_projection_is_the_adjoint_of_projection(x: int, y: int, views: int, side: float) -> None:
    beam = ParallelBeam((x, y), views, (1.0, side))
    v, lines = draw(2, 1, x, y, 3), draw(2, 1, views, beam.bins, 3, seed=1)
    assert inner(beam.forward(v), lines) == pytest.approx(inner(v, beam.adjoint(lines)), abs=1e-3, rel=1e-4)


@pytest.mark.parametrize("pattern", ["gaussian", "poisson"])
@pytest.mark.parametrize("size", [(24, 31), (32, 32)])
def test_zero_filling_is_the_adjoint_of_undersampling(pattern: Pattern, size: tuple[int, int]) -> None:
    operator = draw_mask(size, 3, pattern, "key")
    v, samples = draw(2, 1, *size, 3), draw(2, 1, *size, 3, seed=1, complex_=True)
    assert inner(operator.forward(v), samples) == pytest.approx(inner(v, operator.adjoint(samples)), rel=1e-4)
    again = operator.forward(operator.adjoint(operator.forward(v)))
    assert torch.allclose(again, operator.forward(v), atol=1e-5)


def test_every_view_holds_the_whole_mass() -> None:
    v = draw(1, 1, 13, 9, 2).abs()
    mass = ParallelBeam((13, 9), 7).forward(v).sum(3)
    assert torch.allclose(mass, v.sum((2, 3), keepdim=True)[:, :, 0].expand_as(mass), rtol=1e-5)


def test_the_middle_of_a_disc_is_as_thick_as_it_is() -> None:
    lines = ParallelBeam((64, 64), 12).forward(disc(64, 20))[0, 0, :, :, 0]
    assert torch.allclose(lines.max(1).values, torch.tensor(40.0), atol=1.0)


def test_projection_agrees_with_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform", reason="needs scikit-image")
    image = disc(65, 20)[0, 0, :, :, 0].numpy() + 2 * disc(65, 7)[0, 0, :, :, 0].numpy()
    theta = np.arange(30) * 6.0
    theirs = transform.radon(image, theta, circle=True)
    beam = ParallelBeam((65, 65), 30)
    ours = beam.forward(torch.from_numpy(image)[None, None, ..., None])[0, 0, :, :, 0].T.numpy()
    # a symmetric object looks alike from everywhere; of an odd size both turn it about the middle of a pixel
    margin = (beam.bins - 65) / 2
    at = np.arange(65) + margin
    resampled = np.array([np.interp(at, np.arange(beam.bins), line) for line in ours.T]).T
    assert np.abs(resampled - theirs).mean() < 0.01 * theirs.max()


def test_filtered_back_projection_of_a_disc_is_as_good_as_scikit_images() -> None:
    transform = pytest.importorskip("skimage.transform", reason="needs scikit-image")
    given = disc(65, 20)
    beam = ParallelBeam((65, 65), 90)
    ours = beam.pseudo_inverse(beam.forward(given))[0, 0, :, :, 0]
    theta = np.arange(90) * 2.0
    image = given[0, 0, :, :, 0].numpy()
    theirs = transform.iradon(transform.radon(image, theta, circle=True), theta, circle=True)
    inside = disc(65, 17)[0, 0, :, :, 0].bool().numpy()
    assert np.abs(ours.numpy()[inside] - 1).mean() < 0.01
    assert np.abs(ours.numpy()[inside] - theirs[inside]).mean() < 0.02
    assert ours.sub(given[0, 0, :, :, 0]).square().mean() < 1.1 * np.square(theirs - image).mean()


def test_gradients_pass_a_projection() -> None:
    beam = ParallelBeam((6, 5), 4)
    v = draw(1, 1, 6, 5, 2).requires_grad_()
    (0.5 * beam.forward(v).square().sum()).backward()
    assert v.grad is not None
    assert torch.allclose(v.grad, beam.adjoint(beam.forward(v.detach())), atol=1e-4)


@pytest.mark.parametrize("pattern", ["gaussian", "poisson"])
@pytest.mark.parametrize("acceleration", [4, 8])
def test_masks_are_as_sparse_as_asked_symmetric_and_full_in_the_middle(pattern: Pattern, acceleration: int) -> None:
    mask = draw_mask((96, 80), acceleration, pattern, "key").mask
    assert float(1 / mask.float().mean()) == pytest.approx(acceleration, rel=0.09 if pattern == "gaussian" else 0.01)
    assert torch.equal(mask, mask.flip(0, 1).roll((1, 1), (0, 1)))
    assert mask[:2, :3].all()
    assert mask[-1:, -2:].all()
    assert torch.equal(mask, draw_mask.__wrapped__((96, 80), acceleration, pattern, "key").mask)
    assert not torch.equal(mask, draw_mask((96, 80), acceleration, pattern, "other").mask)
    if pattern == "gaussian":
        assert (mask.all(1) == mask.any(1)).all()


def test_white_noise_has_the_stated_level() -> None:
    v = 1 + draw(1, 1, 32, 32, 8).abs()
    for acquisition in (Acquisition("sparse-ct", views=20, noise=0.1), Acquisition("mri", noise=0.1)):
        clean = measure(v, Acquisition(**{**vars(acquisition), "noise": 0.0}), "key")
        noisy = measure(v, acquisition, "key")
        grain = (noisy.measured - clean.measured)[clean.measured.abs() > 0]
        whole = v if acquisition.task == "mri" else clean.measured
        assert float(grain.abs().square().mean().sqrt()) == pytest.approx(
            0.1 * float(whole.square().mean().sqrt()), rel=0.05
        )
        assert torch.equal(noisy.measured, measure(v, acquisition, "key").measured)


def test_hounsfield_units_come_back_from_attenuation() -> None:
    hounsfield = torch.tensor([-1000.0, 0.0, 1500.0])
    assert torch.allclose(to_hounsfield(to_attenuation(hounsfield)), hounsfield, atol=1e-3)
    assert to_attenuation(torch.tensor(-2000.0)) == 0


def test_least_squares_reaches_the_minimum() -> None:
    beam = ParallelBeam((5, 4), 6)
    v0, y = draw(1, 1, 5, 4, 1), draw(1, 1, 6, beam.bins, 1, seed=1)
    rows = torch.stack([beam.forward(e.reshape(1, 1, 5, 4, 1)).flatten() for e in torch.eye(20)], dim=1).double()
    penalty = 0.1 * beam.strength
    exact = torch.linalg.solve(
        rows.T @ rows + penalty * torch.eye(20), rows.T @ y.flatten().double() + penalty * v0.flatten().double()
    )
    assert torch.allclose(least_squares(beam, y, v0, 0.1, 30).flatten().double(), exact, atol=1e-4)


def test_more_conjugate_gradients_than_needed_change_nothing() -> None:
    v = draw(1, 1, 16, 16, 2)
    found = measure(v, Acquisition("mri", noise=0.0), "key")
    once, often = (least_squares(found.operator, found.measured, 0 * v, 0.0, steps) for steps in (1, 20))
    assert torch.allclose(once, often, atol=1e-5)


def test_total_variation_removes_noise_and_keeps_edges() -> None:
    given = disc(32, 9).expand(1, 1, 32, 32, 4)
    found = measure(given, Acquisition("mri", acceleration=2, mask="poisson", noise=0.2), "key")
    rough = found.operator.pseudo_inverse(found.measured)
    made = total_variation(found, rough, 0.02, iterations=60)
    assert (made - given).square().mean() < 0.5 * (rough - given).square().mean()
    v, slopes = draw(1, 1, 5, 4, 3), draw(3, 1, 1, 5, 4, 3, seed=1)
    assert inner(gradient(v, 0.5), slopes) == pytest.approx(-inner(v, divergence(slopes, 0.5)), rel=1e-4)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda: ParallelBeam((8, 8), 0), "views 0: expected at least 1"),
        (lambda: Acquisition("sparse-ct", views=0), "views 0: expected at least 1"),
        (lambda: Acquisition("mri", noise=-1.0), "noise -1: expected from 0 to 1"),
        (lambda: draw_mask((8, 8), 1, "gaussian", "k"), "acceleration 1: expected a number above 1"),
        (lambda: draw_mask((8, 8), 4, "poison", "k"), "did you mean 'poisson'"),  # type: ignore[arg-type]
        (lambda: Undersampled(torch.zeros(4, 4, dtype=torch.bool)), "samples nothing"),
        (lambda: Undersampled(torch.eye(4) > 0).forward(torch.zeros(1, 1, 5, 4, 1)), r"made for slices of \(4, 4\)"),
        (lambda: Undersampled(torch.arange(16).reshape(4, 4) == 1), "samples k without -k"),
    ],
)
def test_what_makes_no_sense_is_refused(what: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        what()  # type: ignore[operator]
