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
from gen3d.data.equalization import above_floor
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


@pytest.mark.parametrize(
    ("parameterization", "factor"),
    [(X0(Betas()), 0.5), (Velocity(Betas()), 0.7), (EDM(LogNormal()), 0.75), (Flow(), 0.6)],
)
def test_wdm_learns(parameterization: Parameterization, factor: float, tmp_path: Path) -> None:
    """All but X0 are also asked about noise that nobody can know, so their losses end above zero."""
    torch.manual_seed(0)
    network = UNetConfig(8, 8, **SMALL)
    system = WDM(WDMConfig(canvas=(16, 16, 16), pool=1, network=network, parameterization=parameterization))
    case = system.prepare(phantom(5, (16, 16, 16), 9.0))
    history = losses(system.measure([case]), [case], tmp_path, 90)
    assert history[-1] < factor * history[0]


def test_completion_learns_and_is_saved(tmp_path: Path) -> None:
    """Each contrast from the other three: less than 0.6 of its variance in the brain is left unexplained on average."""
    torch.manual_seed(0)
    system = Completion(
        CompletionConfig(
            network=UNetConfig(64, 32, present=4, **SMALL),
            parameterization=X0(LogNormal(time_scale=1000.0)),
            patch=(16, 16, 16),
            missing=(1.0,),
            mean_share=0.8,
        )
    )
    case = system.prepare(phantom(5, (24, 24, 24), 7.0))
    system = system.measure([case])
    history = losses(system, [case], tmp_path, 400)
    assert history[-2] < 0.6 * history[0]
    loaded = gen3d.load(tmp_path / "model")
    assert loaded.config == system.config
    example = loaded.example(case)
    brain = above_floor(example["voxels"], example["floors"], example["present"])[0, 0]
    unexplained = []
    for hidden in range(4):
        example["present"] = torch.arange(4)[None] != hidden
        with torch.inference_mode():
            denoise = loaded.denoise(loaded.condition(example), ["0"])
            filled = loaded.finish(denoise(torch.zeros(1, 32, 12, 12, 12), torch.tensor(80.0)), example)
        truth = example["voxels"][0, hidden][brain]
        unexplained.append(float((filled[0, hidden][brain] - truth).square().mean() / truth.var()))
    assert sum(unexplained) / 4 < 0.6
