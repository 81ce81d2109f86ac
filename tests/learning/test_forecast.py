"""The forecast model learns what the simulator does, and is the same after saving."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import load_system, save_model
from gen3d.core.draws import collate
from gen3d.core.footprint import blank_example, footprints
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Prepared, Scale
from gen3d.data.blur import blurred
from gen3d.data.simulated_change import Change
from gen3d.nn.unet import UNetConfig
from gen3d.sequence.forecast import Forecast, ForecastConfig

GROWTH = Change(shares=(0.0, 1.0, 0.0), speed=(0.8, 0.8), pause=0.0, sway=0.0, noise=0.5)
NETWORK = UNetConfig(in_channels=32, out_channels=8, width=8, multipliers=(1, 2), blocks=1, groups=4, vector=3)
SEGMENTER = UNetConfig(in_channels=1, out_channels=2, width=4, multipliers=(1, 2), blocks=1, groups=2)
CONFIG = ForecastConfig(
    patch=(16, 16, 16), width=8, network=NETWORK, change=GROWTH, labels=("ball",), segmenter=SEGMENTER
)


def case() -> Prepared:
    """A bright ball in a dark box with some noise."""
    x = np.stack(np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij"))
    ball = np.sqrt((x**2).sum(0)) < 5
    soft = blurred(torch.from_numpy(ball).float()[None, None], 0.8)[0, 0].numpy()
    voxels = (2 * soft - 1 + 0.1 * np.random.default_rng(0).normal(size=ball.shape)).astype(np.float32)
    mask = ball.astype(np.uint8)
    return Prepared("ball", "ball", voxels[None], np.ones(1, bool), mask, (1.0, 1.0, 1.0), (Scale(),))


def error(system: Forecast, count: int = 12) -> tuple[float, float]:
    """Return the squared error of expected forecasts and of copies."""
    example, _ = collate([(system.example(case(), f"test/{i}"), "") for i in range(count)])
    made, last = system.expected(example), system.last(example)
    return tuple(float((image - example["target"]).square().mean()) for image in (made, last))  # type: ignore[return-value]


def test_a_moving_border_is_carried_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = Forecast(CONFIG).measure([case()])
    before, copy = error(system)
    assert before == pytest.approx(copy, rel=1e-6)
    config = TrainConfig(steps=60, batch=4, lr=3e-3, precision="fp32", ema=0.0, log_every=20, checkpoint_every=60)
    reports = list(Trainer(system, [case()], config, tmp_path).train())
    after, copy = error(system)
    assert after < 0.75 * copy
    assert reports[-1]["segmenter/dice"] < reports[0]["segmenter/dice"]
    save_model(system, tmp_path / "saved")
    again = load_system(Forecast, tmp_path / "saved")
    assert error(again)[0] == pytest.approx(after, rel=1e-5)  # type: ignore[arg-type]
    assert again.config == system.config


def test_what_training_takes_is_planned() -> None:
    torch.manual_seed(0)
    system = Forecast(CONFIG)
    found = list(footprints(system, blank_example(system), torch.bfloat16, batch=2, ema=True))
    assert all(entry.flop > 0 and entry.passing > 0 for entry in found)
