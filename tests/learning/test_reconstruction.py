"""Learnt reconstruction: starts as total variation made consistent, gets better, keeps to the measurement."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.core.checkpoint import load_system, save_model
from gen3d.core.condition import Condition
from gen3d.core.error import UserError
from gen3d.core.volume import Prepared
from gen3d.data.measurement import Acquisition, Acquisitions, Measurement, Task, measure
from gen3d.nn.unet import UNetConfig
from gen3d.wavelet.reconstruction import Reconstruction, ReconstructionConfig


def made(task: Task, *, windows: tuple[int, int, int] = (64, 64, 64)) -> Reconstruction:
    torch.manual_seed(0)
    network = UNetConfig(in_channels=24, out_channels=8, width=8, multipliers=(1, 2), blocks=1, groups=4, vector=4)
    acquisitions = Acquisitions(task, views=(8, 12), accelerations=(3.0,), noise=(0.0, 0.01))
    return Reconstruction(
        ReconstructionConfig(
            acquisitions=acquisitions, network=network, patch=(24, 24, 4), windows=windows, iterations=20, pool=4
        )
    )


def case() -> Prepared:
    """Blobs in a round body, 2 and about, 0 outside."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5, np.arange(8), indexing="ij")
    voxels = np.where(np.hypot(x, y) < 14, 2.0, 0.0)
    for _ in range(12):
        a, b, c = *rng.uniform(-9, 9, 2).tolist(), rng.uniform(0, 8)
        voxels += rng.uniform(-0.5, 0.5) * ((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < rng.uniform(4, 16))
    return Prepared("case", "case", voxels.astype(np.float32)[None], np.array([True]), None, (1.0, 1.0, 1.0), (None,))


def told(system: Reconstruction) -> tuple[dict[str, Tensor], Measurement, Condition]:
    example = system.example(case())
    acquisition = Acquisition(system.config.acquisitions.task, views=10, acceleration=3, noise=0.0)
    measurement = measure(example["voxels"], acquisition, "key")
    return example, measurement, system.condition({"measurement": measurement})


@pytest.mark.parametrize("task", ["sparse-ct", "mri"])
def test_the_untrained_network_changes_nothing_but_the_misfit(task: Task) -> None:
    system = made(task)
    example, measurement, condition = told(system)
    assert condition.channels is not None
    x, sigma = torch.randn(1, 8, 16, 16, 4), torch.tensor(1.0, dtype=torch.float64)
    smooth = condition.channels[:, 8:]
    with torch.no_grad():
        assert torch.allclose(system.denoise(condition, [])(x, sigma), smooth, atol=1e-5)
        made_ = system.space.decode(system.estimate(measurement, condition), example["voxels"].shape[2:])

    def misfit(voxels: Tensor) -> float:
        return float((measurement.operator.forward(voxels) - measurement.measured).abs().square().sum())

    assert misfit(made_) < 0.5 * misfit(system.space.decode(smooth, example["voxels"].shape[2:]))


def test_windows_make_no_difference_to_an_untrained_network() -> None:
    whole, parts = made("mri"), made("mri", windows=(16, 16, 8))
    _, measurement, condition = told(whole)
    with torch.no_grad():
        answers = [s.estimate(measurement, condition) for s in (whole, parts)]
    assert torch.allclose(*answers, atol=1e-4)


def test_training_lowers_the_error(tmp_path: Path) -> None:
    system = made("mri")
    (objective,) = system.objectives()
    optimizer = torch.optim.Adam(list(objective.parameters), lr=5e-3)
    losses = []
    for step in range(48):
        key = f"0/{step}"
        terms = objective.loss(system.example(case(), key), [key])
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        losses.append(float(torch.stack(list(terms.values())).sum().detach()))
    assert np.mean(losses[-16:]) < 0.9 * np.mean(losses[:16])
    assert len(system.known) <= 4  # each patch of the pool is measured once
    save_model(system, tmp_path / "model")
    again = load_system(Reconstruction, tmp_path / "model")
    _, measurement, condition = told(system)
    with torch.no_grad():
        answers = [s.eval().estimate(measurement, condition) for s in (system, again)]
    assert torch.allclose(*answers, atol=1e-5)


def test_without_a_measurement_nothing_is_reconstructed() -> None:
    system = made("mri")
    with pytest.raises(UserError, match="starts from a measurement"):
        system.condition(system.example(case()))
    with pytest.raises(UserError, match="use gen3d reconstruct"):
        system.accept(["ct"], ["t1n"])
