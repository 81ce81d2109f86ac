"""Our samplers against diffusers' own schedulers, and every scheduler through from_diffusers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gen3d.samplers import ancestral, ddim, dpmpp_2m, euler, from_diffusers, heun, karras
from gen3d.samplers.diffusers import SCHEDULERS, generators

diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 3, 4, 5, 6)
STEPS = 12
NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
MEAN = torch.linspace(-1, 1, SHAPE[1]).reshape(1, -1, 1, 1, 1)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """Exact for Gaussian data of standard deviation 0.5, then bent so that nothing is linear."""
    x0 = MEAN + 0.25 / (0.25 + sigma**2) * (x - MEAN)
    return (x0 + 0.3 * (2 * x0).sin()).to(x.dtype)


def chain_sigma(scheduler: Any, t: Tensor) -> Tensor:
    keep = scheduler.alphas_cumprod.double()[t]
    return ((1 - keep) / keep).sqrt()


def preserving_walk(scheduler: Any, x: Tensor, sigmas: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Run a scheduler that was told ``prediction_type=sample`` in its own coordinates."""
    state = x / (1 + sigmas[0] ** 2).sqrt()
    extra = {} if generator is None else {"generator": generator}
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        x0 = denoise(state * (1 + sigma**2).sqrt(), sigma)
        state = scheduler.step(x0, t, state, **extra).prev_sample
    return state


def same_noise(seed: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def close(a: Tensor, b: Tensor) -> bool:
    assert a.dtype == b.dtype
    return bool((a - b).abs().max() < 1e-5)


def test_euler() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="sample", use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    x = scheduler.sigmas[0] * NOISE
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(denoise(x, sigma), t, x).prev_sample
    assert close(euler(denoise, scheduler.sigmas[0] * NOISE, scheduler.sigmas), x)


def test_heun() -> None:
    scheduler = diffusers.HeunDiscreteScheduler(prediction_type="epsilon", use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    x = scheduler.sigmas[0] * NOISE
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        eps = (x - denoise(x, sigma)) / sigma
        x = scheduler.step(eps, t, x).prev_sample
    sigmas = scheduler.sigmas.unique().flip(0)
    assert len(sigmas) == STEPS + 1
    assert close(heun(denoise, sigmas[0] * NOISE, sigmas), x)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}])
def test_dpm_solver_2m(options: dict[str, Any]) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="sample", **options)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas
    assert sigmas[-1] == 0
    assert close(dpmpp_2m(denoise, sigmas[0] * NOISE, sigmas), preserving_walk(scheduler, sigmas[0] * NOISE, sigmas))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(STEPS)
    sigmas = torch.cat([chain_sigma(scheduler, scheduler.timesteps), torch.zeros(1)])
    state = sigmas[0] * NOISE / (1 + sigmas[0] ** 2).sqrt()
    generator = torch.Generator().manual_seed(5)
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        x0 = denoise(state * (1 + sigma**2).sqrt(), sigma)
        state = scheduler.step(x0, t, state, eta=eta, generator=generator).prev_sample
    assert close(ddim(denoise, sigmas[0] * NOISE, sigmas, eta=eta, noise=same_noise(5)), state)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [STEPS, 1000])
def test_ddpm(variance: Any, steps: int) -> None:
    scheduler = diffusers.DDPMScheduler(
        prediction_type="sample", clip_sample=False, variance_type=f"fixed_{variance}", timestep_spacing="leading"
    )
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()  # its float32 betas are off by 1e-3 in 1000 steps
    sigmas = torch.cat([chain_sigma(scheduler, scheduler.timesteps), torch.zeros(1)])
    x = sigmas[0] * (NOISE.double() if steps == 1000 else NOISE)  # a thousand float32 roundings add up to 2e-5
    walked = preserving_walk(scheduler, x, sigmas, torch.Generator().manual_seed(6))
    assert close(ancestral(denoise, x, sigmas, variance=variance, noise=same_noise(6)), walked)


PAIRS = [
    ("EulerDiscrete", euler, {"use_karras_sigmas": True}),
    ("HeunDiscrete", heun, {}),
    ("DPMSolverMultistep", dpmpp_2m, {}),
    ("DDIM", ddim, {}),
    ("EDMEuler", euler, {}),
    ("FlowMatchEulerDiscrete", euler, {"shift": 3.0}),
]


@pytest.mark.parametrize(("name", "ours", "options"), PAIRS)
def test_from_diffusers_equals_ours(name: str, ours: Any, options: dict[str, Any]) -> None:
    sigmas, sampler = from_diffusers(name, STEPS, options=options)
    x = sigmas[0].float() * NOISE
    assert (sampler(denoise, x, sigmas) - ours(denoise, x, sigmas)).abs().max() < 1e-4


def shrunk(x: Tensor, sigma: Tensor) -> Tensor:
    """Exact for Gaussian data of standard deviation 0.5."""
    return x * 0.25 / (0.25 + sigma**2)


def expected_std(name: str, sigmas: Tensor) -> float:
    """What a perfect solver gives, or what is known of a scheduler that is not meant to be one."""
    if name == "LCMScheduler":  # jumps to the guess and back; exact only for a distilled network
        variance = torch.tensor(0.25)
        for sigma in sigmas[:-1]:
            variance = (variance + sigma**2) * (0.25 / (0.25 + sigma**2)) ** 2
        return float(variance.sqrt())
    if name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler"):
        x = sigmas[0] * torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(3))
        return float(ancestral(shrunk, x, sigmas, noise=same_noise(4)).std())
    return 0.5


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_scheduler_samples_gaussian_data(name: str) -> None:
    sigmas, sampler = from_diffusers(name, 50)
    assert sigmas[-1] == 0
    assert (sigmas[1:] < sigmas[:-1]).all()
    seen: list[int] = []
    x = sigmas[0].float() * torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    end = sampler(shrunk, x, sigmas, noise=same_noise(2), callback=lambda step, x, x0: seen.append(step))
    tolerance = 0.12 if name == "TCDScheduler" else 0.06
    assert float(end.std()) == pytest.approx(expected_std(name, sigmas), rel=tolerance)
    assert seen == list(range(len(seen)))


def test_from_diffusers_uses_the_models_own_chain() -> None:
    table = torch.linspace(0.02, 50, 200, dtype=torch.float64)
    sigmas, sampler = from_diffusers("DDIM", 10, table=table, options={"timestep_spacing": "trailing"})
    assert torch.equal(sigmas[:-1], table[torch.arange(199, 0, -20)])
    x = sigmas[0].float() * NOISE
    assert (sampler(denoise, x, sigmas) - ddim(denoise, x, sigmas)).abs().max() < 1e-4


def test_an_items_sample_does_not_depend_on_its_batch() -> None:
    sigmas, sampler = from_diffusers("EulerAncestralDiscrete", 5)
    draws = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    x = sigmas[0].float() * NOISE
    both = sampler(denoise, x, sigmas, noise=lambda x: draws)
    alone = sampler(denoise, x[1:], sigmas, noise=lambda x: draws[1:])
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert generators(draws)[0].initial_seed() != generators(draws)[1].initial_seed()


def test_what_it_cannot_walk_is_refused() -> None:
    with pytest.raises(ValueError, match="scheduler must be one of"):
        from_diffusers("RePaint", 5)
    _, sampler = from_diffusers("HeunDiscrete", 5)
    with pytest.raises(ValueError, match="walks its own noise levels"):
        sampler(denoise, NOISE, karras(5, sigma_max=3.0))
