"""On a GPU: bf16 near float32, layouts kept, nothing waits, graphs and compiled networks alike, memory as said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser, compile_networks, replay
from gen3d.core.draws import collate
from gen3d.core.footprint import blank_example, footprints
from gen3d.core.parameterization import X0
from gen3d.core.precision import choose_precision, store_weights, use_precision
from gen3d.core.training import Optimization, TrainConfig, make_ready
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.conv import Conv
from gen3d.nn.norm import GroupNormSiLU
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.nn.wavelet_unet import WaveletUNet
from gen3d.samplers import SAMPLERS, STOCHASTIC, karras
from gen3d.wavelet.wdm import WDM, WDMConfig

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
KINDS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNet(UNetConfig(8, 8, width=32, multipliers=(1, 2, 2))),
    "concat": lambda: UNet(UNetConfig(8, 8, width=32, multipliers=(1, 2, 2), skips="concat")),
    "compact": lambda: CompactUNet(UNetConfig(8, 8, width=32, multipliers=(1, 2, 2))),
    "wavelet": lambda: WaveletUNet(UNetConfig(8, 8, width=32, multipliers=(1, 2, 2))),
}
SIGMA = torch.tensor(2.0, dtype=torch.float64)


def denoiser(kind: str, dtype: torch.dtype = torch.float32) -> Denoiser:
    torch.manual_seed(0)
    made = Denoiser(KINDS[kind](), X0())
    for parameter in made.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    use_precision(made, dtype)
    return made.to(GPU).eval()


def noise(*size: int) -> Tensor:
    return torch.randn(1, 8, *size, generator=torch.Generator().manual_seed(1)).to(GPU)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@contextmanager
def strict() -> Iterator[None]:
    """Float32 means float32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_gpu_answers_as_the_cpu_and_bf16_within_a_hundredth(kind: str) -> None:
    x = noise(32, 24, 16)
    with strict():
        truth = denoiser(kind).cpu()(x.cpu(), SIGMA)
        assert apart(denoiser(kind)(x, SIGMA).cpu(), truth) < 1e-4
    narrow = denoiser(kind, choose_precision(GPU).dtype)
    assert apart(narrow(x, SIGMA).cpu(), truth) < 1e-2
    store_weights(narrow, narrow.compute_dtype)
    assert apart(narrow(x, SIGMA).cpu(), truth) < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_survives_to_the_last_layer_and_back(kind: str) -> None:
    made, odd = denoiser(kind, choose_precision(GPU).dtype), []

    def note(name: str, tensors: tuple[object, ...]) -> None:
        odd.extend(name for x in tensors if isinstance(x, Tensor) and x.ndim == 5 and x.stride(1) != 1)

    for name, part in made.named_modules():
        if isinstance(part, Conv | GroupNormSiLU):
            part.register_forward_hook(lambda _, i, o, name=name: note(name, (*i, o)))
            part.register_full_backward_hook(lambda _, i, o, name=name: note(f"gradient of {name}", i))
    made(noise(32, 24, 16).requires_grad_(), SIGMA).square().sum().backward()
    assert odd == []


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_graphs_and_compiled_networks_answer_alike(kind: str) -> None:
    made = denoiser(kind, choose_precision(GPU).dtype)
    inputs = [
        (noise(*size) * scale, torch.tensor(s))
        for size in ((32, 24, 16), (16, 24, 16))
        for scale, s in ((1, 1.0), (3, 0.1), (2, 9.0))
    ]
    plain = [made(x, s).clone() for x, s in inputs]
    replay(made)
    for _ in range(2):
        assert all(apart(made(x, s), y) < 1e-3 for (x, s), y in zip(inputs, plain, strict=True))
    assert made.replayed is not None
    assert sum(recording is not None for recording in made.replayed.recordings.values()) == 2
    compile_networks(made)
    made.replayed = None
    assert apart(made(*inputs[0]), plain[0]) < 1e-2


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@torch.inference_mode()
def test_walks_do_not_wait(sampler: str) -> None:
    made, x, sigmas = denoiser("compact", choose_precision(GPU).dtype), noise(16, 16, 16), karras(6)
    replay(made)
    draws = {"noise": torch.randn_like} if sampler in STOCHASTIC else {}
    SAMPLERS[sampler](made, x, sigmas, **draws)
    with no_waiting():
        SAMPLERS[sampler](made, x, sigmas, **draws)


def trained(**settings: object) -> tuple[list[float], WDM]:
    """Losses of a few steps on one example."""
    torch.manual_seed(0)
    network = UNetConfig(8, 8, width=32, multipliers=(1, 2, 2))
    system = WDM(WDMConfig(canvas=(64, 64, 64), pool=1, network=network))
    config = TrainConfig(**{"steps": 4, "batch": 2, "lr": 1e-3, "compile": "no", **settings})  # type: ignore[arg-type]
    dtype = make_ready(system, config, GPU, lambda: blank_example(system)).dtype
    optimization = Optimization(system.objectives()[0], config, dtype)
    voxels = torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(2))
    example, keys = collate([({"voxels": voxels}, "a"), ({"voxels": voxels}, "b")])
    batch = {name: part.to(GPU) for name, part in example.items()}, keys
    losses = [optimization.update([batch], step)["wdm/mse"] for step in range(2)]
    with no_waiting():
        losses += [optimization.update([batch], step)["wdm/mse"] for step in range(2, 4)]
    return [float(loss) for loss in losses], system


def test_training_steps_do_not_wait_and_bf16_learns_as_float32() -> None:
    with strict():
        truth, _ = trained(precision="fp32")
    narrow, _ = trained(precision="auto")
    assert narrow == pytest.approx(truth, rel=2e-2)
    again, _ = trained(precision="auto", recompute=2)
    assert again == pytest.approx(narrow, rel=1e-2)


@pytest.mark.slow
def test_compiled_training_learns_alike_in_the_memory_that_was_said() -> None:
    narrow, system = trained(precision="auto")
    torch.cuda.reset_peak_memory_stats()
    compiled, _ = trained(precision="auto", compile="yes")
    assert compiled == pytest.approx(narrow, rel=1e-2)
    said = next(footprints(system.cpu(), blank_example(system), torch.bfloat16, batch=2, ema=True))
    assert torch.cuda.max_memory_allocated() < said.memory


def test_the_published_network_samples_a_brats_volume_within_4_gb(tmp_path: Path) -> None:
    with torch.device("meta"):
        made = Denoiser(UNet(UNetConfig(32, 8, skips="concat")), X0())
    made = made.to_empty(device=GPU).eval()
    dtype = choose_precision(GPU).dtype
    use_precision(made, dtype)
    store_weights(made, dtype)
    condition = Condition(channels=torch.zeros(1, 24, 112, 112, 80, device=GPU))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        made(torch.zeros(1, 8, 112, 112, 80, device=GPU), SIGMA, condition)
    assert torch.cuda.max_memory_allocated() < 4e9
