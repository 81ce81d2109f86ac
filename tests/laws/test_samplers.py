"""Samplers on Gaussian data, where the exact denoiser is known: order, variance, and what holds for all of them."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gen3d.samplers import SAMPLERS, STOCHASTIC, Sampler, Variance, ancestral, ddim, euler, exponential, guided, karras

STD = 0.5
SHAPE = (2, 1, 3, 4, 5)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of data ~ N(0, STD^2)."""
    return x * STD**2 / (STD**2 + sigma**2)


def start(sigma: Tensor, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def error_above_the_last_step(sampler: Sampler, steps: int) -> float:
    """Relative error at a sigma above 0, where the truth is x times a ratio of standard deviations."""
    sigmas = exponential(steps, 0.05, 20.0)[:-1]
    x = start(sigmas[0])
    truth = x * ((STD**2 + sigmas[-1] ** 2) / (STD**2 + sigmas[0] ** 2)).sqrt()
    return float((sampler(gaussian, x, sigmas) - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_error_falls_at_the_order_of_the_sampler(name: str, order: int) -> None:
    errors = [error_above_the_last_step(SAMPLERS[name], steps) for steps in (64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - STOCHASTIC | {"ddim"}))
def test_whole_walks_reach_the_data(name: str) -> None:
    sigmas = karras(100)
    x = start(sigmas[0])
    truth = x * STD / (STD**2 + sigmas[0] ** 2).sqrt()
    tolerance = 0.03 if name in ("euler", "ddim") else 2e-3
    assert torch.allclose(SAMPLERS[name](gaussian, x, sigmas), truth, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_standard_deviation_of_samples_is_that_of_the_data(name: str) -> None:
    sigmas = exponential(300, 0.01, 30.0)
    x = start(sigmas[0], (1, 1, 40, 40, 40))
    options = {"noise": seeded(1)} if name in STOCHASTIC else {}
    assert float(SAMPLERS[name](gaussian, x, sigmas, **options).std()) == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_variances_are_exact_for_the_data_they_are_made_for(variance: Variance) -> None:
    """One transition: small is exact for a single point, large for unit variance, however far it jumps."""
    std = 0.0 if variance == "small" else 1.0
    sigmas = torch.tensor([3.0, 1.0], dtype=torch.float64)
    x = start((std**2 + sigmas[0] ** 2).sqrt(), (1, 1, 100, 100, 50))

    def exact(x: Tensor, sigma: Tensor) -> Tensor:
        return x * std**2 / (std**2 + sigma**2)

    after = ancestral(exact, x, sigmas, variance=variance, noise=seeded(2))
    assert float(after.var()) == pytest.approx(std**2 + 1.0, rel=0.01)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_the_step_to_zero_returns_the_guess_to_the_bit(name: str) -> None:
    guesses = []
    x = start(torch.tensor(80.0)).float()
    end = SAMPLERS[name](
        lambda x, sigma: gaussian(x, sigma).cos(), x, karras(5), callback=lambda step, x, x0: guesses.append(x0)
    )
    assert end.dtype == torch.float32
    assert torch.equal(end, guesses[-1])
    assert len(guesses) == 5


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_permuting_a_batch_permutes_its_samples(name: str) -> None:
    order = torch.tensor([2, 0, 1])
    x = start(torch.tensor(10.0), (3, 1, 2, 3, 4)).float()
    draws = start(torch.tensor(1.0), (3, 1, 2, 3, 4), seed=3).float()
    sigmas = karras(6, sigma_max=10.0)

    def sample(x: Tensor, draws: Tensor) -> Tensor:
        options = {"noise": lambda x: draws} if name in STOCHASTIC else {}
        return SAMPLERS[name](lambda x, sigma: gaussian(x, sigma).sin(), x, sigmas, **options)

    assert torch.equal(sample(x, draws)[order], sample(x[order], draws[order]))


def test_ddim_runs_from_euler_to_ancestral() -> None:
    sigmas = karras(7)
    x = start(sigmas[0])
    assert torch.equal(ddim(gaussian, x, sigmas), euler(gaussian, x, sigmas))
    full = ddim(gaussian, x, sigmas, eta=1.0, noise=seeded(4))
    assert torch.allclose(full, ancestral(gaussian, x, sigmas, noise=seeded(4)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, -1.0]])
def test_grids_that_do_not_decrease_to_zero_are_refused(sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match="decreases strictly"):
        euler(gaussian, torch.zeros(SHAPE), torch.tensor(sigmas))


def test_unknown_variance_is_refused() -> None:
    with pytest.raises(ValueError, match="small or large"):
        ancestral(gaussian, torch.zeros(SHAPE), karras(2), variance="learned")  # type: ignore[arg-type]


def test_guidance_is_linear_in_its_scale() -> None:
    calls = []

    def answering(value: float) -> Callable[[Tensor, Tensor], Tensor]:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            calls.append(value)
            return torch.full_like(x, value)

        return denoise

    conditional, unconditional = answering(3.0), answering(1.0)
    x, sigma = torch.zeros(SHAPE), torch.tensor(1.0)
    expected = {0.0: (1.0, 1), 0.5: (2.0, 2), 1.0: (3.0, 1), 2.0: (5.0, 2)}
    for scale, (value, count) in expected.items():
        calls.clear()
        assert torch.equal(guided(conditional, unconditional, scale)(x, sigma), torch.full_like(x, value))
        assert len(calls) == count


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_the_noise_it_starts_from_stays_as_it_is(name: str) -> None:
    sigmas = karras(6)
    x = start(sigmas[0])
    before = x.clone()
    SAMPLERS[name](gaussian, x, sigmas, **({"noise": seeded(1)} if name in STOCHASTIC else {}))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - STOCHASTIC))
def test_gradients_flow_through_a_walk(name: str) -> None:
    sigmas = exponential(5, 0.1, 5.0)
    x = start(sigmas[0]).requires_grad_()
    end = SAMPLERS[name](gaussian, x, sigmas)
    with torch.no_grad():
        assert torch.allclose(SAMPLERS[name](gaussian, x, sigmas), end)
    (gradient,) = torch.autograd.grad(end.sum(), x)
    assert torch.allclose(gradient, (end / x).detach(), rtol=1e-8)  # a linear denoise makes a linear walk
