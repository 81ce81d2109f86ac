"""The four coefficients are what each paper says, and a network that answers right makes a right denoiser."""

import pytest
import torch

from gen3d.core.denoiser import Denoiser
from gen3d.core.parameterization import (
    EDM,
    SIGMA_MAX,
    X0,
    Betas,
    Chain,
    Cosine,
    Epsilon,
    Flow,
    FlowTime,
    LogNormal,
    Velocity,
)
from gen3d.samplers import SAMPLERS, STOCHASTIC, ddpm

SIGMAS = torch.tensor([0.01, 0.3, 1.0, 7.0, 90.0], dtype=torch.float64)
x0, noise = torch.randn(2, len(SIGMAS), 1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
s = SIGMAS.reshape(-1, 1, 1, 1, 1)
alpha = (1 + s**2).rsqrt()
ANSWERS = {  # what a perfect network of each kind would say, and the state it would say it about
    X0(): (x0, alpha * (x0 + s * noise)),
    Epsilon(): (noise, alpha * (x0 + s * noise)),
    Velocity(): (alpha * noise - alpha * s * x0, alpha * (x0 + s * noise)),
    Flow(): (noise - x0, x0 / (1 + s) + noise * s / (1 + s)),
}


class Says(torch.nn.Module):
    """A network with one answer, which keeps what it was asked."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer.float()

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.asked = x
        return self.answer


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: type(kind).__name__)
def test_perfect_network_makes_perfect_denoiser(kind: X0 | Epsilon | Velocity | Flow) -> None:
    answer, state = ANSWERS[kind]
    network = Says(answer)
    guess = Denoiser(network, kind)((x0 + s * noise).float(), SIGMAS)
    assert torch.allclose(network.asked, state.float(), atol=1e-5)
    assert torch.allclose(guess, x0.float(), atol=2e-4)


def test_edm_keeps_unit_variance_of_input_and_target() -> None:
    kind = EDM(LogNormal(), sigma_data=0.5)
    c = kind.coefficients(SIGMAS)
    variance_in = c.c_in**2 * (0.25 + SIGMAS**2)
    residual = (1 - c.c_skip) ** 2 * 0.25 + c.c_skip**2 * SIGMAS**2  # of x0 - c_skip x
    assert torch.allclose(variance_in.float(), torch.ones(5), atol=1e-6)
    assert torch.allclose((residual / c.c_out**2).float(), torch.ones(5), atol=1e-5)
    assert torch.allclose(c.c_noise, (SIGMAS.log() / 4).float())


@pytest.mark.parametrize("kind", [X0(), Epsilon(), Velocity(), EDM(), Flow()], ids=lambda kind: type(kind).__name__)
def test_weight_is_the_loss_on_the_networks_own_output(kind: X0) -> None:
    assert torch.allclose(kind.weight(SIGMAS) * kind.coefficients(SIGMAS).c_out ** 2, torch.ones(5), rtol=1e-5)


@pytest.mark.parametrize("chain", [Betas(), Cosine()], ids=lambda chain: type(chain).__name__)
def test_discrete_time_is_the_integer_at_a_table_value_and_clamps(chain: Chain) -> None:
    assert torch.equal(chain.embed(chain.table), torch.arange(1000.0))
    between = chain.embed((chain.table[10] * chain.table[11]).sqrt()[None])
    assert between.item() == pytest.approx(10.5, abs=1e-4)
    outside = torch.tensor([1e-9, 1e9], dtype=torch.float64)
    assert chain.embed(outside).tolist() == [0.0, 999.0]


def test_betas_are_the_recorded_ones(reference_folder: object) -> None:
    import numpy as np

    recorded = np.load(f"{reference_folder}/wdm/schedule.npz")
    alpha_bar = np.cumprod(1 - recorded[recorded.files[0]].astype(np.float64))
    assert torch.allclose(Betas().table, torch.from_numpy(((1 - alpha_bar) / alpha_bar) ** 0.5), rtol=1e-6)


def test_cosine_betas_are_the_recorded_ones(reference_folder: object) -> None:
    import numpy as np

    recorded = np.load(f"{reference_folder}/meddiffusion/biflownet.npz")["cosine_betas_1000"]
    np.testing.assert_allclose(Cosine(largest=0.9999).betas().numpy(), recorded, rtol=0, atol=1e-15)


def test_cosine_chain_follows_its_equation_up_to_its_last_beta() -> None:
    """Equation 17 of Nichol & Dhariwal: alpha_bar is f(t + 1) / f(0) before the clipping, which the last beta alone
    meets."""
    chain = Cosine()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha_bar = (((t + 0.008) / 1.008 * torch.pi / 2).cos() / torch.tensor(0.008 / 1.008 * torch.pi / 2).cos()).square()
    assert torch.allclose((1 / (1 + chain.table**2))[:-1], alpha_bar[:-1], rtol=1e-6)
    assert chain.betas()[-1] == 0.999 > chain.betas()[-2]
    assert chain.sigma_max == pytest.approx(20_291.17, abs=0.01)
    assert Cosine(largest=0.9999).sigma_max == pytest.approx(64_166.31, abs=0.01)
    assert bool((chain.table.diff() > 0).all())


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_walks_the_cosine_chain_down_to_the_data(name: str) -> None:
    """The exact answer for data N(2, 0.1^2) is known; from sigma 64 166 the float32 walk must end at such data."""
    chain = Cosine(steps=1000, largest=0.9999)

    def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        share = 0.01 / (0.01 + sigma.double() ** 2)
        return (2 + share * (x.double() - 2)).float()

    generator = torch.Generator().manual_seed(3)

    def drawn(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator)

    x = chain.sigma_max * drawn(torch.empty(1, 1, 16, 16, 16)) + 2
    walked = SAMPLERS[name](exact, x, ddpm(250, chain.table), **({"noise": drawn} if name in STOCHASTIC else {}))
    assert walked.mean().item() == pytest.approx(2, abs=0.01)
    assert walked.std().item() == pytest.approx(0.1, abs=0.015)


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    table = Betas(zero_terminal_snr=True).table
    assert table[-1].item() == pytest.approx(SIGMA_MAX, rel=1e-6)
    assert table[0].item() == pytest.approx(Betas().table[0].item(), rel=1e-6)
    assert bool((table.diff() > 0).all())


def test_training_levels_have_their_distribution() -> None:
    u = (torch.arange(10_000) + 0.5) / 10_000
    log = LogNormal(mean=-0.5, std=0.8).draw(u).log()
    assert log.mean().item() == pytest.approx(-0.5, abs=0.01)
    assert log.std().item() == pytest.approx(0.8, abs=0.01)
    drawn = Betas().embed(Betas().draw(u)).long().bincount(minlength=1000)
    assert drawn.min() == drawn.max() == 10
    t = FlowTime().embed(FlowTime().draw(u)) / 1000
    assert torch.allclose(t[50:-50], u[50:-50].float(), atol=1e-4)
