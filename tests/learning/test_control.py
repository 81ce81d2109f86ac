"""A ControlNet: at the start the frozen model's answer to the bit, then only the ControlNet learns, from its hint."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import load_system, save_model
from gen3d.core.error import UserError
from gen3d.core.volume import Prepared
from gen3d.data.intensity import Intensity
from gen3d.data.measurement import Acquisition, measure
from gen3d.latent.biflownet import BiFlowNetConfig
from gen3d.latent.control import Control, ControlConfig
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.meddiffusion import MedDiffusion, MedDiffusionConfig

Task = Literal["mask", "sparse-ct", "mri"]
TASKS: tuple[Task, ...] = ("mask", "sparse-ct", "mri")
SHAPE = {
    "autoencoder": PatchVolumeConfig(
        width=4, stride=4, latent_channels=2, codes=16, patch=8, groups=2, heads=1, head_width=4
    ),
    "network": BiFlowNetConfig(
        channels=2,
        width=8,
        multipliers=(1, 2),
        attention=(False, False),
        heads=1,
        head_width=4,
        groups=2,
        patch=2,
        transformer_heads=1,
        classes=2,
    ),
    "classes": ("a", "b"),
    "scaling": "statistics",
    "intensity": Intensity(percentiles=(0, 100), to=(-1.0, 1.0)),
    "size": (16, 16, 8),
}


def base() -> MedDiffusion:
    """A model whose answer depends on everything that it is given."""
    torch.manual_seed(0)
    system = MedDiffusion(MedDiffusionConfig(**SHAPE))
    for parameter in system.network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return system.eval()


def control(task: Task) -> Control:
    return Control(ControlConfig(**SHAPE, task=task)).stand_on(base()).eval()


def case() -> Prepared:
    rng = np.random.default_rng(0)
    mask = np.zeros((16, 16, 8), np.uint8)
    mask[4:12, 4:12, 2:6] = 1
    voxels = (mask - 0.5 + 0.1 * rng.random(mask.shape)).astype(np.float32)[None]
    return Prepared("case", "case", voxels, np.array([True]), mask, (1.0, 1.0, 1.0), (None,))


def led(system: Control) -> dict[str, object]:
    """The example of the whole case, measured where the task asks for it."""
    example = system.example(case())
    if system.config.task == "mask":
        return example
    acquisition = Acquisition(system.config.task, views=6, acceleration=2)
    return {**example, "measurement": measure(example["voxels"] - system.air, acquisition, "key")}


@pytest.mark.parametrize("task", TASKS)
def test_before_training_the_frozen_model_answers_to_the_bit(task: Task) -> None:
    frozen, system = base(), control(task)
    example = led(system)
    x = system.start(example, ["key"], 3.0)
    sigma = torch.tensor(3.0, dtype=torch.float64)
    answer = system.denoise(system.condition(example), ["key"])(x, sigma)
    plain = frozen.denoise(frozen.condition(example), ["key"])(x, sigma)
    assert torch.equal(answer, plain)
    assert answer.abs().max() > 0


@pytest.mark.parametrize("task", TASKS)
def test_only_the_controlnet_learns_and_then_it_follows_its_hint(task: Task) -> None:
    system = control(task)
    frozen = {name: value.clone() for name, value in system.network.state_dict().items()}
    (objective,) = system.objectives()
    optimizer = torch.optim.Adam(list(objective.parameters), lr=0.02)
    losses = []
    for step in range(30):
        terms = objective.loss(system.example(case(), f"0/{step}"), ["fixed"])
        optimizer.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        losses.append(float(sum(terms.values()).detach()))  # type: ignore[union-attr]
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(value, frozen[name]) for name, value in system.network.state_dict().items())
    assert all(parameter.grad is None for parameter in system.network.parameters())
    example = led(system)
    x, sigma = system.start(example, ["key"], 3.0), torch.tensor(3.0, dtype=torch.float64)
    condition = system.condition(example)
    assert condition.channels is not None
    other = type(condition)(**{**condition.parts(), "channels": condition.channels.flip(2) + 1})
    with torch.no_grad():
        moved = system.denoise(condition, [])(x, sigma) - system.denoise(other, [])(x, sigma)
    assert moved.abs().max() > 1e-4


def test_a_saved_one_answers_alike(tmp_path: Path) -> None:
    system = control("mri")
    torch.nn.init.normal_(system.control.out[0].weight, std=0.1)  # type: ignore[arg-type]
    save_model(system, tmp_path / "model")
    again = load_system(Control, tmp_path / "model")
    example = led(system)
    x, sigma = system.start(example, ["key"], 3.0), torch.tensor(3.0, dtype=torch.float64)
    with torch.no_grad():
        answers = [s.denoise(s.condition(example), [])(x, sigma) for s in (system, again)]
    assert torch.equal(*answers)


def test_a_measurement_trusted_not_at_all_changes_nothing_but_the_way_through_the_autoencoder() -> None:
    system = control("mri")
    example = led(system)
    x, sigma = system.start(example, ["key"], 3.0), torch.tensor(3.0, dtype=torch.float64)
    condition, measurement = system.condition(example), example["measurement"]
    with torch.no_grad():
        guess = system.space.decode(system.denoise(condition, [])(x, sigma), (16, 16, 8))
        through = system.space.normalise(system.moments({"voxels": guess})[0])
        trusted = system.denoise(condition, [], measurement)(x, sigma)  # type: ignore[arg-type]
        system.config = replace(system.config, error=1e-6)
        untrusted = system.denoise(condition, [], measurement)(x, sigma)  # type: ignore[arg-type]
    assert torch.allclose(untrusted, through, atol=1e-4)
    assert not torch.allclose(trusted, through, atol=1e-2)


def test_masks_that_do_not_match_are_refused() -> None:
    system = control("mask")
    example = system.example(case())
    with pytest.raises(UserError, match=r"mask: has size \(16, 16, 4\), the image \(16, 16, 8\)"):
        system.condition({**example, "mask": example["mask"][..., :4]})
    prepared = case()
    assert prepared.lesion is not None
    prepared.lesion[0, 0, 0] = 7
    with pytest.raises(UserError, match="label 7; this model knows 0 to 1"):
        system.example(prepared)
    with pytest.raises(UserError, match="has no mask"):
        system.example(Prepared("c", "c", prepared.voxels, prepared.present, None, (1.0, 1.0, 1.0), (None,)))
    with pytest.raises(UserError, match="led by a measurement"):
        control("mri").condition(example)
