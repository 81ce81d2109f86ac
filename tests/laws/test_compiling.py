"""Every network is one graph for torch.compile, without a break, and answers as it does eagerly."""

import pytest
import torch

from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.nn.wavelet_unet import WaveletUNet


@pytest.mark.parametrize(
    ("kind", "skips"), [(UNet, "add"), (UNet, "concat"), (WaveletUNet, "add"), (CompactUNet, "add")]
)
def test_a_network_is_one_graph(kind: type[UNet], skips: str) -> None:
    torch.manual_seed(0)
    config = UNetConfig(4, 2, width=8, multipliers=(1, 2), blocks=2, groups=4, skips=skips, present=4)  # type: ignore[arg-type]
    network = kind(config).to(memory_format=torch.channels_last_3d)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t, present = torch.randn(2, 4, 8, 8, 8), torch.tensor([3.0, 500.0]), torch.ones(2, 4)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    expected, got = network(x, t, present=present), compiled(x, t, present=present)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    got.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
