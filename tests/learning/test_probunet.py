"""The probabilistic U-Net: it draws what its raters drew, and answers the same whatever it is walked from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gen3d.core.checkpoint import load_system, save_model
from gen3d.nn.unet import UNetConfig
from gen3d.segmentation.latents import LatentConfig
from gen3d.segmentation.probunet import ProbUNet, ProbUNetConfig
from tests.learning.test_cimd import case, follows_the_raters, trained


def made(*, size: tuple[int, int, int] = (16, 16, 1), **changes: Any) -> ProbUNet:
    """A small one."""
    cell = 4 if size[2] == 1 else 8
    settings: dict[str, Any] = {
        "patch": size,
        "features": UNetConfig(cell, 8 * cell, width=8, multipliers=(1, 2), blocks=1, groups=4),
        "width": 8,
        "latent": LatentConfig(2, (4, 8, 8)),
        "raters": 3,
        "masks": 3,
    }
    torch.manual_seed(0)
    return ProbUNet(ProbUNetConfig(**settings | changes))


def test_it_draws_what_its_raters_drew_as_often_as_they_did(tmp_path: Path) -> None:
    system = made()
    told = trained(system, 150)
    assert told["nats"] > 0.1
    follows_the_raters(system, whole=0.3)  # without a walk from noise, a latent between two opinions is a mask between
    save_model(system, tmp_path / "model")
    again = load_system(ProbUNet, tmp_path / "model")
    example = system.example(case(1))
    chance = system.expected(example)
    assert torch.equal(chance, again.expected(example))
    assert torch.allclose(chance.sum(1), torch.ones_like(chance[:, 0]), atol=1e-5)


@pytest.mark.parametrize("size", [(16, 12, 1), (12, 16, 8)])
@torch.no_grad()
def test_the_answer_is_the_latent_s_alone(size: tuple[int, int, int]) -> None:
    system = made(size=size).eval()
    example = system.example(case(0, size))
    denoise = system.denoise(system.condition(example), ["a", "b"])
    x, sigma = system.start(example, ["a", "b"], 1.0), torch.tensor(1.0)
    assert x.shape == (2, 2, *size)
    first = denoise(x, sigma)
    assert torch.equal(first, denoise(2 * x, 3 * sigma))
    assert not torch.equal(first[0], first[1])
    assert system.finish(first, example).shape == (2, 2, *size)
