"""The U-Nets: flat axes, symmetry, independence of items, what they are told, and the published sizes."""

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gen3d.nn.conv import Conv
from gen3d.nn.embedding import sinusoid
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.nn.wavelet_unet import WaveletUNet

Network = type[UNet] | type[WaveletUNet]
both = pytest.mark.parametrize("kind", [UNet, WaveletUNet])
TINY = {"width": 8, "multipliers": (1, 2), "blocks": 2, "groups": 4}


def network(kind: Network = UNet, **changes: object) -> nn.Module:
    """A small network with every weight at random: as built, it answers 0."""
    torch.manual_seed(0)
    made = kind(UNetConfig(**{"in_channels": 3, "out_channels": 2, **TINY, **changes}))  # type: ignore[arg-type]
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.eval()


def inputs(*size: int, channels: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *size, generator=generator), torch.tensor([3.0, 700.0])[:batch]


@settings(deadline=None, max_examples=40)
@given(size=st.tuples(*[st.sampled_from([1, 1, 2, 5])] * 3), kernel=st.sampled_from([1, 3]))
def test_central_kernel_slice_equals_the_zero_padded_convolution(size: tuple[int, int, int], kernel: int) -> None:
    conv = Conv(3, 4, kernel)
    x = torch.randn(2, 3, *size)
    whole = nnf.conv3d(x, conv.weight, conv.bias, padding=kernel // 2)
    torch.testing.assert_close(conv(x), whole, atol=1e-6, rtol=1e-5)


@both
@pytest.mark.parametrize("size", [(8, 12, 4), (8, 12, 1), (1, 8, 4), (1, 1, 8), (4, 4, 4)])
@pytest.mark.parametrize("skips", ["add", "concat"])
@torch.no_grad()
def test_size_is_kept_and_items_do_not_meet(kind: Network, size: tuple[int, int, int], skips: str) -> None:
    made = network(kind, skips=skips)
    x, t = inputs(*size)
    y = made(x, t)
    assert y.shape == (2, 2, *size)
    torch.testing.assert_close(made(x[1:], t[1:]), y[1:], atol=1e-5, rtol=1e-5)
    assert float((made(x, t.flip(0)) - y).abs().max()) > 1e-3  # the time matters


@pytest.mark.parametrize("size", [(8, 12, 4), (8, 12, 1)])
@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (2, 1, 0)])
@torch.no_grad()
def test_turning_the_kernels_turns_the_answer(size: tuple[int, int, int], axes: tuple[int, int, int]) -> None:
    made, order = network(), (0, 1, *(2 + a for a in axes))
    x, t = inputs(*size)
    y = made(x, t)
    for conv in (m for m in made.modules() if isinstance(m, Conv)):
        conv.weight.data = conv.weight.permute(order)
    torch.testing.assert_close(made(x.permute(order), t), y.permute(order), atol=1e-4, rtol=1e-4)


@both
@torch.no_grad()
def test_known_channels_are_concatenated_behind(kind: Network) -> None:
    made, (x, t) = network(kind), inputs(8, 8, 8)
    assert torch.equal(made(x[:, :1], t, channels=x[:, 1:]), made(x, t))


@torch.no_grad()
def test_what_is_present_is_not_read_from_the_channels() -> None:
    made, (x, t) = network(present=2), inputs(8, 8, 8)
    nothing, something = torch.tensor([[False, False]] * 2), torch.tensor([[False, True]] * 2)
    assert float((made(x, t, present=nothing) - made(x, t, present=something)).abs().max()) > 1e-3


@torch.no_grad()
def test_numbers_and_classes_matter_and_minus_one_is_no_class() -> None:
    made, (x, t) = network(vector=3, classes=2), inputs(4, 4, 4)
    vector = torch.ones(2, 3)
    answers = [made(x, t, vector=vector, label=torch.tensor([label] * 2)) for label in (-1, 0, 1)]
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in [(answers[0], answers[1]), (answers[1], answers[2])])
    assert float((made(x, t, vector=0 * vector, label=torch.tensor([-1] * 2)) - answers[0]).abs().max()) > 1e-3
    nn.init.zeros_(made.get_submodule("embedding.label").weight)  # type: ignore[arg-type]
    assert torch.equal(made(x, t, vector=vector, label=torch.tensor([1] * 2)), answers[0])


@both
@torch.no_grad()
def test_a_random_draw_matters(kind: Network) -> None:
    made, (x, t) = network(kind, latent=3), inputs(8, 8, 8)
    one, other = (made(x, t, latent=torch.full((2, 3), value)) for value in (-1.0, 1.0))
    assert float((one - other).abs().max()) > 1e-3


def test_what_a_network_needs_and_what_it_was_not_built_for() -> None:
    x, t = inputs(4, 4, 4)
    with pytest.raises(ValueError, match="needs 'present'"):
        network(present=2)(x, t)
    with pytest.raises(ValueError, match="not built for 'label'"):
        network()(x, t, label=torch.zeros(2, dtype=torch.int64))


def test_sinusoid_is_cosines_then_sines() -> None:
    e = sinusoid(torch.tensor([0.0, 2.0]), 7)
    assert e.shape == (2, 7)
    assert e[0].tolist() == [1, 1, 1, 0, 0, 0, 0]
    angle = torch.tensor(2 * 10_000 ** (-1 / 3))
    torch.testing.assert_close(e[1, [1, 4]], torch.stack([angle.cos(), angle.sin()]))


@pytest.mark.parametrize("skips", ["add", "concat"])
def test_a_new_network_answers_zero(skips: str) -> None:
    x, t = inputs(8, 8, 8)
    made = UNet(UNetConfig(3, 2, skips=skips, **TINY))  # type: ignore[arg-type]
    assert torch.equal(made(x, t), torch.zeros(2, 2, 8, 8, 8))


@both
def test_gradients_reach_every_parameter(kind: Network) -> None:
    made, (x, t) = network(kind, present=1, vector=1, classes=2, latent=1), inputs(8, 8, 8)
    told = {name: torch.ones(2, 1) for name in ("present", "vector", "latent")}
    made(x, t, **told, label=torch.tensor([0, 1])).square().sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("kind", "config", "millions"),
    [
        (UNet, UNetConfig(8, 8), 57.91),  # WDM at 128
        (UNet, UNetConfig(8, 8, multipliers=(1, 2, 2, 4, 4, 4)), 83.16),  # WDM at 256
        (UNet, UNetConfig(32, 8, skips="concat"), 81.51),  # cWDM; four are 326.0
        (UNet, UNetConfig(32, 8), 57.96),
        (WaveletUNet, UNetConfig(8, 8), 89.71),
        (WaveletUNet, UNetConfig(8, 8, multipliers=(1, 2, 2, 4, 4, 4)), 125.50),
    ],
)
def test_published_configurations_have_the_published_size(kind: Network, config: UNetConfig, millions: float) -> None:
    with torch.device("meta"):
        made = kind(config)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_strides_say_what_sizes_must_divide() -> None:
    assert network(multipliers=(1, 2, 2)).stride == 4
    assert network(WaveletUNet, multipliers=(1, 2, 2)).stride == 8


def test_groups_divide_channels() -> None:
    made = network(width=12, groups=32)
    assert {m.num_groups for m in made.modules() if isinstance(m, nn.GroupNorm)} == {4, 8}


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="two blocks"):
        WaveletUNet(UNetConfig(8, 8, blocks=1))
    with pytest.raises(ValueError, match="'add' or 'concat'"):
        UNetConfig(8, 8, skips="append")  # type: ignore[arg-type]
