"""Channels last from the first layer to the last, on the CPU and a GPU not there; wide sums in narrow formats."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.parameterization import X0
from gen3d.core.precision import on_this_cpu
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.conv import Conv, enlarge, shrink
from gen3d.nn.norm import GroupNormSiLU, group_norm_silu
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.nn.wavelet_unet import WaveletUNet
from tests.fake_gpu import fake_gpu, on_gpu

KINDS = {
    "unet add": (UNet, "add"),
    "unet concat": (UNet, "concat"),
    "wavelet": (WaveletUNet, "add"),
    "compact": (CompactUNet, "add"),
}
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
bf16_on_cpu = pytest.mark.skipif(not on_this_cpu(torch.bfloat16), reason="needs a CPU that computes in bf16")
each = pytest.mark.parametrize("name", KINDS)


def denoiser(name: str, dtype: torch.dtype) -> Denoiser:
    kind, skips = KINDS[name]
    made = Denoiser(kind(UNetConfig(5, 2, width=8, multipliers=(1, 2, 2), groups=4, skips=skips)), X0())  # type: ignore[arg-type]
    made.compute_dtype = dtype
    return made


@contextmanager
def watched(net: nn.Module) -> Iterator[list[str]]:
    """List what goes into and comes out of a convolution or norm, gradients too, and isn't channels last."""
    odd: list[str] = []

    def note(name: str, tensors: tuple[object, ...]) -> None:
        for x in tensors:
            if isinstance(x, Tensor) and x.ndim == 5 and x.shape[1] > 1 and x.stride(1) != 1:
                odd.append(f"{name} {tuple(x.shape)} {x.stride()}")

    for name, part in net.named_modules():
        if isinstance(part, Conv | GroupNormSiLU):
            part.register_forward_hook(lambda _, i, o, name=name: note(name, (*i, o)))
            part.register_full_backward_hook(lambda _, i, o, name=name: note(f"gradient of {name}", i))
    yield odd


@each
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=bf16_on_cpu)])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_layout_survives_to_the_last_layer_and_back(name: str, dtype: torch.dtype, batch: int) -> None:
    made, x = denoiser(name, dtype), torch.randn(batch, 2, 16, 24, 8, requires_grad=True)
    with watched(made.network) as odd:
        y = made(x, torch.tensor(2.0), Condition(channels=torch.randn(batch, 3, 16, 24, 8)))
        (y * torch.randn_like(y)).sum().backward()
    assert (y.dtype, y.is_contiguous()) == (torch.float32, True)
    if (batch, dtype) == (1, torch.float32):  # the CPU's slow path for small volumes, which gradients still take
        odd = [line for line in odd if not line.startswith("gradient")]
    assert odd == [], odd[:6]


@each
@both
def test_and_on_a_gpu_without_waiting_for_it(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    made = denoiser(name, dtype)
    with fake_gpu(monkeypatch) as gpu:
        on_gpu(made)
        x, channels = torch.ones(2, 2, 16, 24, 8, device=gpu), torch.ones(2, 3, 16, 24, 8, device=gpu)
        with watched(made.network) as odd:
            y = made(x, torch.tensor(2.0, dtype=torch.float64), Condition(channels=channels))
        assert (y.dtype, y.device) == (torch.float32, gpu)
    assert odd == [], odd[:6]


@pytest.mark.parametrize("size", [(8, 4, 6), (8, 4, 1)])
def test_shrinking_and_enlarging_are_pooling_and_nearest_neighbours(size: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *size)
    factor = (2, 2, 2 if size[2] > 1 else 1)
    torch.testing.assert_close(shrink(x, factor), nnf.avg_pool3d(x, factor))
    assert torch.equal(enlarge(x, factor), nnf.interpolate(x, scale_factor=[float(f) for f in factor], mode="nearest"))


@pytest.mark.parametrize("size", [(8, 4, 6), (8, 4, 1)])
def test_the_plain_norm_of_gpus_is_the_norm_and_its_gradient(size: tuple[int, int, int]) -> None:
    norm = GroupNormSiLU(4, 12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 12, *size, requires_grad=True)
    leaves = (x, norm.weight, norm.bias)
    truth = nnf.silu(nnf.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))
    pull = torch.randn_like(x)
    gradients = torch.autograd.grad(truth, leaves, pull)
    for ours in (norm(x), group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps)):
        torch.testing.assert_close(ours, truth)
        for mine, true in zip(torch.autograd.grad(ours, leaves, pull), gradients, strict=True):
            torch.testing.assert_close(mine, true, atol=1e-5, rtol=1e-5)


def test_statistics_are_float32_in_bf16() -> None:
    x = (1000 + torch.randn(1, 4, 16, 16, 16)).bfloat16()  # bf16 has steps of 4 here: a mean in it would be far off
    norm = GroupNormSiLU(2, 4)
    truth = nnf.silu(nnf.group_norm(x.float(), 2, norm.weight, norm.bias, norm.eps))
    for y in (norm(x), group_norm_silu(x, 2, norm.weight, norm.bias, norm.eps)):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), truth, atol=2e-2, rtol=1e-2)


def test_the_norm_is_exact_on_large_volumes() -> None:
    x = (1 + torch.randn(1, 4, 64, 64, 64)).to(memory_format=torch.channels_last_3d)
    norm = GroupNormSiLU(2, 4)
    truth = nnf.silu(nnf.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), norm.eps))
    assert float((norm(x) - truth).abs().max()) < 1e-5  # PyTorch's own on channels last: 3e-4
