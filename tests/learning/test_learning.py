"""Each system learns one tiny volume in seconds: the loss falls by a stated factor."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import gen3d
from gen3d.core.parameterization import EDM, X0, Betas, Flow, LogNormal, Parameterization, Velocity
from gen3d.core.system import System
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Prepared
from gen3d.data.phantom import phantom
from gen3d.nn.unet import UNetConfig
from gen3d.wavelet.completion import Completion, CompletionConfig
from gen3d.wavelet.wdm import WDM, WDMConfig

SMALL = {"width": 16, "multipliers": (1, 2), "blocks": 1, "groups": 4}


def losses(system: System, cases: Sequence[Prepared], run: Path, steps: int) -> list[float]:
    """Train and return the sum of the terms of every line of the log."""
    config = TrainConfig(steps=steps, batch=2, lr=3e-3, warmup=5, ema=0.9, log_every=steps // 6, precision="fp32")
    reports = Trainer(system, cases, config, run).train()
    return [sum(value for name, value in report.items() if "/" in name) for report in reports]


@pytest.mark.parametrize("parameterization", [X0(Betas()), Velocity(Betas()), EDM(LogNormal()), Flow()])
def test_wdm_learns(parameterization: Parameterization, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNetConfig(8, 8, **SMALL)
    system = WDM(WDMConfig(canvas=(16, 16, 16), pool=1, network=network, parameterization=parameterization))
    case = system.prepare(phantom(5, (16, 16, 16), 9.0))
    history = losses(system.measure([case]), [case], tmp_path, 90)
    assert history[-1] < 0.5 * history[0]


def test_completion_learns_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = Completion(
        CompletionConfig(
            network=UNetConfig(64, 32, present=4, **SMALL),
            parameterization=X0(LogNormal(time_scale=1000.0)),
            patch=(16, 16, 16),
            missing=(1.0,),
        )
    )
    case = system.prepare(phantom(5, (24, 24, 24), 7.0))
    system = system.measure([case])
    history = losses(system, [case], tmp_path, 150)
    assert history[-1] < 0.35 * history[0]
    loaded = gen3d.load(tmp_path / "model")
    assert loaded.config == system.config
    example = loaded.example(case)
    example["present"] = torch.tensor([[True, True, True, False]])
    with torch.inference_mode():
        condition = loaded.condition(example)
        guess = loaded.denoise(condition, ["0"])(torch.zeros(1, 32, 12, 12, 12), torch.tensor(80.0))
    truth, filled = example["voxels"][0, 3], loaded.finish(guess, example)[0, 3]
    assert (filled - truth).square().mean() < 0.35 * truth.var()
