"""Replaying a network: which calls run it, which record it and which replay, with a stand-in for CUDA's graphs."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from gen3d.core import graphs
from gen3d.core.denoiser import Denoiser, replay
from gen3d.core.graphs import KEPT, Replayed
from gen3d.core.parameterization import X0
from gen3d.nn.unet import UNet, UNetConfig


class StandIn:
    """A graph that does again what was done while it was recorded, on the tensors of then."""

    recording: "StandIn | None" = None

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch.inference_mode():
            self.output.copy_(self.network(**self.inputs))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """What is recorded, on a CPU that is taken for a GPU."""
    made: list[StandIn] = []

    @contextmanager
    def record(graph: StandIn, pool: object) -> Iterator[None]:
        StandIn.recording = graph
        yield
        StandIn.recording = None
        made.append(graph)

    monkeypatch.setattr(graphs, "records", lambda device: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")
    return made


def doubling(x: Tensor, t: Tensor, **parts: Tensor) -> Tensor:
    y = 2 * x + t[:, None, None, None, None] + sum(part.sum() for part in parts.values())
    if graph := StandIn.recording:
        graph.network, graph.inputs, graph.output = doubling, {"x": x, "t": t, **parts}, y
        StandIn.recording = None
    return y


def test_the_first_call_runs_the_second_records_the_others_replay(recorded: list[StandIn]) -> None:
    replayed = Replayed(doubling)
    for call in range(5):
        x, t, channels = torch.randn(1, 2, 4, 4, 4), torch.tensor([float(call)]), torch.randn(1, 1, 4, 4, 4)
        torch.testing.assert_close(replayed(x, t, channels=channels), doubling(x, t, channels=channels))
        assert [graph.replays for graph in recorded] == ([] if call == 0 else [call])


def test_each_shape_has_its_recording_and_the_oldest_goes(recorded: list[StandIn]) -> None:
    replayed, t = Replayed(doubling), torch.zeros(1)
    sizes = range(2, 3 + KEPT)
    for n in sizes:
        for _ in range(2):
            x = torch.randn(1, 1, n, n, n)
            torch.testing.assert_close(replayed(x, t), 2 * x)
    assert len(recorded) == len(sizes)
    assert len(replayed.recordings) == KEPT
    replayed(torch.randn(1, 1, 6, 6, 6), t)
    assert (len(recorded), recorded[4].replays) == (len(sizes), 2)  # 6 is kept
    replayed(torch.randn(1, 1, 2, 2, 2), t)
    assert replayed.recordings[next(reversed(replayed.recordings))] is None  # 2 is not, and starts anew


def test_layouts_and_formats_are_not_mixed_up(recorded: list[StandIn]) -> None:
    replayed, t, x = Replayed(doubling), torch.zeros(1), torch.randn(1, 2, 4, 4, 4)
    for y in (x, x.to(memory_format=torch.channels_last_3d), x.double()):
        for _ in range(2):
            torch.testing.assert_close(replayed(y, t), 2 * y)
    assert len(recorded) == 3


def test_with_gradients_nothing_is_replayed(recorded: list[StandIn]) -> None:
    denoiser = Denoiser(UNet(UNetConfig(2, 2, width=8, multipliers=(1, 2), blocks=1, groups=4)), X0())
    replay(denoiser)
    assert denoiser.replayed is not None
    assert set(denoiser.state_dict()) == {f"network.{key}" for key in denoiser.network.state_dict()}
    x = torch.randn(1, 2, 8, 8, 8)
    for _ in range(3):
        denoiser(x, torch.tensor(1.0)).sum().backward()
    assert not denoiser.replayed.recordings
