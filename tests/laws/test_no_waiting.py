"""Inside a sampling or training step nothing waits for the device: a number read back, or a copy that blocks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gen3d.core.condition import Condition
from gen3d.core.graphs import Replayed
from gen3d.core.parameterization import X0, LogNormal
from gen3d.core.system import System
from gen3d.data.augmentation import Augmentation
from gen3d.nn.unet import UNetConfig
from gen3d.samplers import SAMPLERS, STOCHASTIC, karras
from gen3d.spaces.wavelet import WaveletConfig
from gen3d.wavelet.completion import Completion, CompletionConfig
from gen3d.wavelet.cwdm import CWDM, CWDMConfig
from gen3d.wavelet.wdm import WDM, WDMConfig
from tests.fake_gpu import fake_gpu, on_gpu

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}


def wdm() -> WDM:
    return WDM(WDMConfig(canvas=(16, 16, 16), pool=1, network=UNetConfig(8, 8, **SMALL)))  # type: ignore[arg-type]


def cwdm() -> CWDM:
    network = UNetConfig(32, 8, skips="concat", **SMALL)  # type: ignore[arg-type]
    return CWDM(CWDMConfig(size=(16, 16, 16), targets=("t2f",), network=network))


def completion() -> Completion:
    network = UNetConfig(64, 32, present=4, **SMALL)  # type: ignore[arg-type]
    changes = Augmentation(gain=0.1, shift=0.1, bend=0.1, ramp=0.1, noise=0.1, mix=0.1)
    space = WaveletConfig(scale="sqrt8")
    return Completion(CompletionConfig(network=network, windows=(16, 16, 16), space=space, augmentation=changes))


def asked(system: System, device: torch.device | str, size: tuple[int, int, int]) -> Condition:
    """What each system is told of an example of ``size`` voxels, made where it is needed."""
    if isinstance(system, WDM):
        return Condition()
    grid = tuple(n // 2 for n in size)
    channels = 24 if isinstance(system, CWDM) else 32
    present = torch.tensor([[True, True, True, False]])
    present = present if isinstance(system, CWDM) else present.to(device, non_blocking=True)
    return Condition(torch.ones(1, channels, *grid, device=device), present)


@pytest.mark.parametrize("make", [wdm, cwdm, completion])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_sampling_steps_do_not_wait(make: Callable[[], System], sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system, size = make(), (24, 16, 16) if make is completion else (16, 16, 16)  # two windows
    draws = {"noise": torch.ones_like} if sampler in STOCHASTIC else {}
    with fake_gpu(monkeypatch) as gpu:
        on_gpu(system)
        if isinstance(system, CWDM):
            monkeypatch.setattr(system, "target", lambda present: "t2f")  # asked once, before the walk
        denoise = system.denoise(asked(system, gpu, size), ["0"])
        x = torch.ones(1, 32 if make is completion else 8, *(n // 2 for n in size), device=gpu)
        if make is completion:  # the windows' shares are sent once, at the first call
            shares = [torch.ones(8, 8, 8, device=gpu)] * 2
            monkeypatch.setattr("gen3d.core.wrap.blending", lambda shape, windows, overlap: shares)
        made = SAMPLERS[sampler](denoise, x, karras(4), **draws)
        assert (made.device, made.shape) == (gpu, x.shape)


class Unread(TorchDispatchMode):
    """Refuse to read a number off a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number was read back inside a training step"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("make", [wdm, cwdm, completion])
def test_losses_and_their_gradients_read_nothing_back(make: Callable[[], System]) -> None:
    system = make()
    voxels = torch.rand(2, 1 if make is wdm else 4, 16, 16, 16)
    present = torch.tensor([[True, True, False, True]] * 2)
    example = {"voxels": voxels, "present": present, "target": ~present, "width": torch.ones(2, 4)}
    example |= {"floors": torch.zeros(2, 4), "quantiles": torch.linspace(0, 1, 65).expand(2, 4, 65).contiguous()}
    example |= {name: torch.ones(2, 4) for name in ("gain", "shift", "bend", "noise")}
    example |= {"slopes": torch.ones(2, 4, 3), "mixing": torch.ones(2, 4, 4)}
    for objective in system.objectives():
        with Unread():
            terms = objective.loss(example, ["a", "b"])
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters, 1.0)


def test_reading_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="read back"), Unread():
        float(torch.ones(()))
    with fake_gpu(monkeypatch) as gpu:
        with pytest.raises(Exception, match=r"_local_scalar_dense|not linked"):
            float(torch.ones((), device=gpu).sum())
        with pytest.raises(AssertionError, match="waits"):
            torch.ones(3).to(gpu)


def test_without_a_gpu_replaying_is_calling() -> None:
    calls: list[Tensor] = []

    def network(x: Tensor, t: Tensor, **parts: Tensor) -> Tensor:
        calls.append(t)
        return 2 * x

    replayed, x = Replayed(network), torch.randn(1, 2, 4, 4, 4)
    assert all(torch.equal(replayed(x, torch.full((1,), float(i))), 2 * x) for i in range(3))
    assert [float(t) for t in calls] == [0, 1, 2]


def test_continuous_levels_are_told_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch) as gpu:
        c = X0(LogNormal()).coefficients(torch.ones(2, device=gpu))
        assert {part.device for part in c} == {gpu}
