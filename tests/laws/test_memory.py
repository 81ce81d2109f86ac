"""What a computation takes, found on the meta device: as on a real one; and what computing again saves and keeps."""

import pytest
import torch
from torch import nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.memory import LiveBytes, Taken, taken, to_meta
from gen3d.core.parameterization import X0
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.recompute import recompute
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.nn.wavelet_unet import WaveletUNet

GB = 1e9
KINDS = {"unet": (UNet, "concat"), "wavelet": (WaveletUNet, "add"), "compact": (CompactUNet, "add")}


def network(kind: str, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    build, skips = KINDS[kind]
    made = build(UNetConfig(8, 8, width=8, multipliers=(1, 2, 2), groups=4, skips=skips))  # type: ignore[arg-type]
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def step(denoiser: Denoiser, x: torch.Tensor, condition: Condition | None = None) -> None:
    denoiser(x, torch.tensor([2.0]), condition).square().mean().backward()
    denoiser.zero_grad(set_to_none=True)


def test_live_bytes_are_what_is_alive() -> None:
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a.add(1)
        view = b[:10]
        assert live.now == 8000
        del a
        assert live.now == 4000
        del b
        assert live.now == 4000  # the view holds it
        view.add_(1)
        del view
    assert (live.now, live.peak) == (0, 8000)


@pytest.mark.parametrize("levels", [0, 1])
def test_the_meta_device_takes_what_a_real_one_takes(levels: int) -> None:
    peaks = []
    for device in ("cpu", "meta"):
        denoiser = Denoiser(network("unet"), X0()).to(device)
        recompute(denoiser, levels)
        x = torch.zeros(1, 8, 16, 16, 16, device=device)
        with LiveBytes() as live:
            step(denoiser, x)
        peaks.append(live.peak)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.06)  # a GPU's norm is made of plain operations


@pytest.mark.parametrize("kind", KINDS)
def test_computing_again_changes_no_bit_and_takes_less(kind: str) -> None:
    made, x, t = network(kind), torch.randn(1, 8, 16, 16, 16), torch.tensor([3.0])
    results, peaks = [], []
    for levels in (0, 1, 3):
        recompute(made, levels)
        made.zero_grad(set_to_none=True)
        with LiveBytes() as live:
            y = made(x, t)
            y.square().mean().backward()
        results.append([y.detach(), *(p.grad for p in made.parameters())])
        peaks.append(live.peak)
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))
    assert peaks[1] < 0.8 * peaks[0]
    assert peaks[2] < 0.9 * peaks[1]


def published() -> tuple[Denoiser, torch.Tensor, Condition]:
    """CWDM's network at a whole BraTS volume, 112 x 112 x 80."""
    with torch.device("meta"):
        denoiser = Denoiser(UNet(UNetConfig(32, 8, skips="concat")), X0())
        x, channels = torch.empty(1, 8, 112, 112, 80), torch.empty(1, 24, 112, 112, 80)
    to_meta(denoiser, torch.bfloat16)
    return denoiser, x, Condition(channels=channels)


def sampled(denoiser: Denoiser, x: torch.Tensor, condition: Condition) -> Taken:
    with torch.no_grad():
        return taken(lambda: denoiser(x, torch.tensor([2.0]), condition))


def test_the_published_network_samples_within_4_gb_and_trains_within_12() -> None:
    denoiser, x, condition = published()
    count = sum(p.numel() for p in denoiser.parameters())
    call = sampled(denoiser, x, condition)
    assert call.flop == pytest.approx(7.17e12, rel=0.002)  # facts: 7.17 TFLOP
    assert call.peak + 2 * count < 4 * GB
    held = 16 * count  # float32 weights, gradients and two moments of Adam
    whole = taken(lambda: step(denoiser, x, condition))
    assert whole.flop == pytest.approx(3 * call.flop, rel=0.01)
    assert whole.peak + held < 12 * GB
    recompute(denoiser, 1)
    again = taken(lambda: step(denoiser, x, condition))
    assert again.peak < 0.7 * whole.peak
    assert again.flop < 1.2 * whole.flop
