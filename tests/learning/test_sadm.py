"""SADM: what it is told of the earlier frames, how it is guided, and that it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.core.checkpoint import load_system, save_model
from gen3d.core.draws import collate
from gen3d.core.error import UsageError, UserError
from gen3d.core.parameterization import Betas, Epsilon
from gen3d.core.system import Example, Sampling
from gen3d.core.volume import Placement, Prepared, Scale
from gen3d.data.simulated_change import Change
from gen3d.nn.unet import UNetConfig
from gen3d.sequence.frames import FramesConfig
from gen3d.sequence.history import History
from gen3d.sequence.sadm import SADM, SADMConfig
from gen3d.tools.sampling import choose_walk, drawn

SIZE = (9, 8, 6)


def made(*, trained: bool = True, **changes: Any) -> SADM:
    """A small model; ``trained`` stands for weights that say something."""
    settings: dict[str, Any] = {
        "patch": (8, 8, 8),
        "frames": 4,
        "change": Change(visits=4),
        "encoder": FramesConfig(patch=(4, 4, 4), width=16, heads=2, depth=1, channels=2),
        "architecture": "compact",
        "network": UNetConfig(3, 1, width=8, multipliers=(1, 2), blocks=1, groups=4),
        "sampling": Sampling("ddim", 3, "ddpm"),
    }
    torch.manual_seed(0)
    system = SADM(SADMConfig(**settings | changes))
    if trained:
        with torch.no_grad():
            for parameter in system.network.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return system.eval()


def patient(count: int = 3, size: tuple[int, int, int] = SIZE) -> History:
    rng = np.random.default_rng(0)
    placement = Placement(size, np.eye(4), "RAS", (0, 0, 0), size)
    voxels = rng.uniform(-1, 1, (count, *size)).astype(np.float32)
    return History(
        voxels, 100.0 * np.arange(count), np.ones(count, bool), (1.0, 1.0, 1.0), placement, Scale(low=-1.0, high=1.0)
    )


def scan() -> Prepared:
    voxels = np.random.default_rng(1).uniform(-1, 1, (1, 12, 12, 12)).astype(np.float32)
    return Prepared("scan", "scan", voxels, np.array([True]), None, (1.0, 1.0, 1.0), (Scale(low=-1.0, high=1.0),))


def told(system: SADM, history: History, day: float = 1000.0) -> Tensor:
    with torch.no_grad():
        channels = system.condition(system.ask(history, day)).channels
    assert channels is not None
    return channels


def test_the_map_has_the_frames_shape_whatever_it_is() -> None:
    system = made()
    for size in ((8, 8, 8), SIZE, (3, 13, 4)):
        assert told(system, patient(2, size)).shape == (1, 2, *size)


def test_a_missing_frame_is_a_frame_of_zeros_and_keeps_its_place() -> None:
    system, history = made(), patient()
    black = replace(history, voxels=history.voxels * np.array([1, 0, 1], np.float32)[:, None, None, None])
    gone = replace(history, voxels=history.voxels[[0, 2]], days=history.days[[0, 2]], valid=history.valid[:2])
    assert torch.equal(told(system, history.without(1)), told(system, black))
    assert not torch.allclose(told(system, history.without(1)), told(system, gone))
    assert not torch.allclose(told(system, history.without(1)), told(system, history))
    assert torch.equal(
        told(system, patient(2)), told(system, history.without(2))
    )  # as if it had not been, as published


def test_times_are_not_told_and_later_frames_not_looked_at() -> None:
    system, history = made(), patient()
    assert torch.equal(told(system, history), told(system, replace(history, days=np.array([0.0, 7.0, 900.0]))))
    assert torch.equal(told(system, history, day=150.0), told(system, patient(2)))


def test_of_many_frames_the_latest_count() -> None:
    system, history = made(), patient(5)
    latest = replace(history, voxels=history.voxels[2:], days=history.days[2:], valid=history.valid[2:])
    assert torch.equal(told(system, history), told(system, latest))


def test_training_withholds_frames_as_released() -> None:
    system = made()
    items = [(system.example(scan(), key), key) for key in (f"0/{n}" for n in range(60))]
    example, _ = collate(items)
    assert example["visits"].shape == (60, 3, 8, 8, 8)
    earlier = example["days"] < example["query"][:, None]
    targets = earlier.sum(1)
    assert set(targets.tolist()) == {1, 2, 3}
    assert not (example["valid"] & ~earlier).any()
    assert example["valid"][:, 0].all()
    assert example["valid"][torch.arange(60), targets - 1].all()
    between = example["valid"][targets == 3, 1].double().mean()
    assert 0.2 < between < 0.8
    frames = system.frames(example)
    assert not frames[~example["valid"]].any()
    assert torch.equal(frames[example["valid"]], example["visits"][example["valid"]])
    kept = made(full=1.0)
    assert all(
        bool(e["valid"].sum() == (e["days"] < e["query"]).sum()) for e in (kept.example(scan(), k) for _, k in items)
    )


def test_guidance_extrapolates_from_the_guess_without_a_map() -> None:
    sigma, x = torch.tensor(0.7, dtype=torch.float64), 0.3 * torch.randn(1, 1, *SIZE)
    other = replace(patient(), voxels=patient().voxels[::-1].copy())
    guesses = {}
    for scale in (0.0, 1.0, 1.2):
        system = made(guidance=scale, intensity=replace(made().config.intensity, to=(-100.0, 100.0)))
        with torch.no_grad():
            guesses[scale], elsewhere = (
                system.denoise(system.condition(system.ask(history, 1000)), ["k"])(x, sigma)
                for history in (patient(), other)
            )
        assert torch.equal(guesses[scale], elsewhere) == (scale == 0)
    released = 1.2 * guesses[1.0] - 0.2 * guesses[0.0]
    assert torch.allclose(guesses[1.2], released, atol=1e-6)
    assert not torch.allclose(guesses[1.0], guesses[0.0], atol=1e-4)


def test_a_dropped_map_says_nothing_in_training() -> None:
    for drop, same in ((1.0, True), (0.0, False)):
        system = made(drop=drop, guidance=1.0)
        example = system.example(scan(), "0/0")
        (objective,) = system.objectives()
        losses = [objective.loss(e, ["0/0"])["mse"] for e in (example, {**example, "visits": -example["visits"]})]
        assert torch.equal(*losses) == same
    assert objective.at is not None
    ends = [
        objective.at(example, ["0/0"], torch.tensor([s])) for s in (torch.inf, Epsilon(Betas(400)).levels.sigma_max)
    ]
    assert torch.equal(*ends)


def toy(item: int) -> Example:
    """A pattern of -1 and 1 at random, the same in all three frames."""
    pattern = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(item)).sign()
    visits = torch.cat([pattern, pattern, torch.zeros(1, 8, 8, 8)])
    days, valid = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64), torch.tensor([[True, True, False]])
    query = torch.tensor([2.0], dtype=torch.float64)
    return {"visits": visits[None], "days": days, "valid": valid, "query": query, "target": pattern[None]}


def test_it_learns_to_look_at_the_frames(tmp_path: Path) -> None:
    system = made(trained=False, encoder=FramesConfig(patch=(2, 2, 2), width=16, heads=2, depth=1, channels=2))
    (objective,) = system.objectives()
    optimizer = torch.optim.Adam(list(objective.parameters), lr=5e-3)

    def batch(step: int) -> tuple[Example, list[str]]:
        return collate([(toy(4 * step + item), f"{step}/{item}") for item in range(4)])

    for step in range(90):
        loss = objective.loss(*batch(step))["mse"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert objective.at is not None
    example, keys = batch(1000)
    sigma = torch.ones(4)
    with torch.no_grad():
        own = float(objective.at(example, keys, sigma).mean())
        others = float(objective.at({**example, "visits": example["visits"].roll(1, 0)}, keys, sigma).mean())
    assert own < 0.25 < 0.5 < others  # at this noise a pattern can't be guessed better than to about 0.4 without frames
    save_model(system, tmp_path / "model")
    again = load_system(SADM, tmp_path / "model")
    ask = toy(0)
    with torch.no_grad():
        maps = [s.condition(ask).channels for s in (system, again)]
    assert torch.equal(*maps)  # type: ignore[arg-type]


def test_frames_are_interpolated_in_space_and_forecasts_back() -> None:
    system = made(resample=(8, 8, 8))
    history = patient(2)
    with torch.no_grad():
        example = system.ask(history, 1000)
        assert system.frames(example).shape == (1, 3, 8, 8, 8)
        assert system.start(example, ["k"], 1.0).shape == (1, 1, 8, 8, 8)
    coords = drawn(system, example, system.condition(example), "k", choose_walk(system))
    assert system.finish(coords, example).shape == (1, 1, *SIZE)
    assert system.example(scan(), "0/0")["target"].shape == (1, 1, 8, 8, 8)


def test_what_it_cannot_do_is_said() -> None:
    system, history = made(), patient()
    with pytest.raises(UserError, match="mean of samples"):
        system.expected(system.ask(history, 1000))
    with pytest.raises(UserError, match="no segmenter"):
        system.structures(torch.zeros(1, 1, *SIZE))
    with pytest.raises(UserError, match="use gen3d forecast"):
        system.accept(["t1n"], ["t2w"])
    with pytest.raises(UsageError, match="day -5: the first visit is of day 0"):
        system.ask(history, -5)
    for changes, words in (
        ({"frames": 1}, "expected at least 2"),
        ({"between": 0.2}, "earlier frames only"),
        ({"drop": 0.0}, "learns no unconditional guess"),
        ({"resample": (8, 8, 4)}, r"expected \(8, 8, 4\)"),
        ({"encoder": FramesConfig(channels=3)}, "expected in_channels 4"),
    ):
        with pytest.raises(ValueError, match=words):
            made(**changes)
