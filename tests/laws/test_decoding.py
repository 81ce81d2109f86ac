"""Decoding in bounded memory: the answer of decoding whole, whatever fits; never more than was allowed."""

import tempfile
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen3d.core.error import UserError
from gen3d.core.memory import LiveBytes
from gen3d.latent.decoding import decode_bounded, tile_edge
from gen3d.latent.diagnostics import seam_index
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.kl import KL, KLConfig
from gen3d.latent.patch_volume import PatchVolume
from gen3d.latent.planes import Planes, Room


def autoencoder(**changes: Any) -> PatchVolume:
    torch.manual_seed(0)
    config = PatchVolumeConfig(**{"width": 8, "groups": 4, "codes": 64, "patch": 16, "head_width": 2, **changes})
    return PatchVolume(config).eval()


def quantised(network: PatchVolume, *size: int, batch: int = 1) -> Tensor:
    return network.codebook.lookup(torch.randint(0, 64, (batch, *size), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("stride", [2, 4, 8])
@torch.no_grad()
def test_bounded_equals_whole_and_keeps_to_its_memory(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = autoencoder(stride=stride)
    latent = quantised(network, 48 // stride, 16 // stride, 24 // stride)
    whole = network.decoder(latent)
    files, temporary = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: files.append(temporary()) or files[-1])
    used = []
    for memory in (6_000_000, 3_000_000, 1_000_000):
        with LiveBytes() as live:
            bounded = decode_bounded(network.decoder, latent, memory)
        assert float((bounded - whole).abs().max()) < 1e-4
        assert live.peak <= memory
        used.append(len(files))
    assert used[0] == 0
    assert used[-1] > 0  # what did not fit was in files


@pytest.mark.parametrize("changes", [{}, {"architecture": "maisi"}, {"transposed": True}, {"middle": (True, True)}])
@torch.no_grad()
def test_kl_decoders_are_bounded_too(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = KL(KLConfig(**{"channels": (4, 8, 8), "groups": 2, **changes})).eval()
    for norm in (part for part in network.modules() if isinstance(part, nn.GroupNorm)):
        nn.init.normal_(norm.bias)
    latent = torch.randn(2, 4, 11, 5, 6)
    whole = network.voxels(latent)
    for memory in (4_000_000, 1_500_000):
        network.memory = memory
        with LiveBytes() as live:
            bounded = network.voxels(latent)
        assert float((bounded - whole).abs().max()) < 1e-4
        assert live.peak <= memory


def test_a_kl_decoder_that_attends_in_its_levels_decodes_at_once() -> None:
    network = KL(KLConfig(channels=(4, 8), groups=2, attention=(False, True)))
    network.memory = 10**9
    with pytest.raises(UserError, match="--memory: this autoencoder attends in its levels"), torch.no_grad():
        network.voxels(torch.randn(1, 4, 4, 4, 4))


@torch.no_grad()
def test_128_cubed_equals_whole() -> None:
    network = autoencoder(width=2, groups=2)
    latent = quantised(network, 16, 16, 16)
    bounded = decode_bounded(network.decoder, latent, 60_000_000)
    assert float((bounded - network.decoder(latent)).abs().max()) < 1e-4


@torch.no_grad()
def test_tiles_cover_the_volume_and_are_exact_where_there_is_one() -> None:
    network = autoencoder(stride=4)
    latent = quantised(network, 5, 3, 4)
    whole = network.decoder(latent)
    for edge in (5, 8):
        assert torch.allclose(decode_bounded(network.decoder, latent, 10**9, "tile", edge), whole, atol=1e-5)
    for edge in (1, 2, 3):
        memory = 10**9
        tiled = decode_bounded(network.decoder, latent, memory, "tile", edge)
        assert tiled.shape == whole.shape
        assert tiled.isfinite().all()
        assert 1e-3 < float((tiled - whole).abs().mean()) < float(whole.std())
    memory = 1_500_000
    assert 1 <= tile_edge(network.decoder, latent.shape[2:], memory) < 5
    with LiveBytes() as live:
        decode_bounded(network.decoder, latent, memory + whole.nbytes, "tile")
    assert live.peak <= memory + whole.nbytes


@torch.no_grad()
def test_statistics_of_the_whole_volume_leave_no_seams() -> None:
    network = autoencoder(stride=4)
    latent = quantised(network, 8, 8, 8)
    latent *= torch.linspace(0.2, 3, 8)  # so that the statistics of tiles differ
    exact = decode_bounded(network.decoder, latent, 10**9)
    tiled = decode_bounded(network.decoder, latent, 10**9, "tile", 4)
    assert float(seam_index(tiled - exact, 16)) > 1.5
    assert float((exact - network.decoder(latent)).abs().max()) < 1e-4


@torch.no_grad()
def test_network_decodes_within_its_memory_where_no_gradient_is_asked() -> None:
    network = autoencoder(stride=4)
    latent = quantised(network, 4, 4, 4)
    whole = network.decode(latent)
    network.memory = 3_000_000
    assert torch.allclose(network.decode(latent), whole, atol=1e-4)
    assert torch.allclose(network.voxels(latent), whole, atol=1e-4)
    network.memory, network.statistics = 1_000_000, "tile"
    assert float((network.decode(latent) - whole).abs().max()) > 1e-3
    with torch.enable_grad():
        assert network.decode(latent).requires_grad


@torch.no_grad()
def test_too_little_memory_for_one_tile_is_told() -> None:
    network = autoencoder(stride=4)
    latent = quantised(network, 8, 8, 8)
    for statistics in ("volume", "tile"):
        with pytest.raises(UserError, match=r"decoding 32 x 32 x 32 voxels.*give more memory") as failure:
            decode_bounded(network.decoder, latent, 100_000, statistics)
        assert "\n" not in str(failure.value)


def test_planes_come_back_from_memory_and_from_a_file() -> None:
    volume = torch.randn(1, 3, 7, 4, 5)
    for dtype in (torch.float32, torch.bfloat16):
        for left in (0, 10**6):
            room = Room(left)
            planes = Planes((7, 4, 5), 3, dtype, torch.device("cpu"), room)
            assert (planes.file is None) == bool(left)
            for start in (4, 0, 2, 6):
                planes.write(start, volume[:, :, start : start + 2].to(dtype))
            assert torch.equal(planes.read(1, 6), volume[:, :, 1:6].to(dtype))
            planes.close()
            assert room.left == left


def test_a_full_disk_is_told() -> None:
    planes = Planes((7, 4, 5), 3, torch.float32, torch.device("cpu"), Room(0))
    with open("/dev/full", "wb+", buffering=0) as planes.file, pytest.raises(UserError, match="set TMPDIR"):
        planes.write(0, torch.zeros(1, 3, 2, 4, 5))
