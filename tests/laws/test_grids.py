"""Grids of noise levels equal their formulas."""

import pytest
import torch

from gen3d.samplers import ddpm, exponential, flow, karras

TABLE = torch.linspace(0.01, 150, 1000, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 18])
@pytest.mark.parametrize("grid", [karras, exponential, flow, lambda steps: ddpm(steps, TABLE)])
def test_grids_fall_strictly_to_zero(grid, steps: int) -> None:
    sigmas = grid(steps)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float64
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert sigmas[-1] == 0


def test_karras_is_equation_5() -> None:
    sigmas = karras(18, 0.002, 80.0)
    for i in range(18):
        expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert float(sigmas[i]) == pytest.approx(expected, rel=1e-12)


def test_exponential_has_a_constant_ratio() -> None:
    sigmas = exponential(11, 0.01, 100.0)[:-1]
    assert torch.allclose(sigmas[:-1] / sigmas[1:], torch.tensor(10.0**0.4, dtype=torch.float64), rtol=1e-12)
    assert [float(sigmas[0]), float(sigmas[-1])] == pytest.approx([100.0, 0.01])


def test_ddpm_picks_table_values() -> None:
    assert torch.equal(ddpm(1000, TABLE)[:-1], TABLE.flip(0))
    assert torch.equal(ddpm(4, TABLE)[:-1], TABLE[[999, 666, 333, 0]])
    assert torch.equal(ddpm(4, TABLE, spacing="leading")[:-1], TABLE[[750, 500, 250, 0]])
    assert torch.equal(ddpm(4, TABLE, spacing="trailing")[:-1], TABLE[[999, 749, 499, 249]])


def test_flow_is_t_over_one_minus_t_shifted() -> None:
    assert torch.allclose(flow(4), torch.tensor([1e4, 3.0, 1.0, 1 / 3, 0.0], dtype=torch.float64))
    shifted = flow(4, shift=3.0)
    assert torch.allclose(shifted, torch.tensor([1e4, 9.0, 3.0, 1.0, 0.0], dtype=torch.float64))


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        karras(0)
    with pytest.raises(ValueError, match="at most the chain's 1000"):
        ddpm(1001, TABLE)
    with pytest.raises(ValueError, match="linspace, leading or trailing"):
        ddpm(10, TABLE, spacing="even")  # type: ignore[arg-type]
