"""Cached latents: moments of the autoencoder's present weights and the case's present voxels, made once, no samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gen3d.core.error import UserError
from gen3d.core.volume import Prepared, Scale
from gen3d.latent.autoencoder import KLAutoencoder, KLAutoencoderConfig
from gen3d.latent.discriminator import DiscriminatorConfig
from gen3d.latent.kl import KLConfig
from gen3d.latent.latent_cache import cached_moments


def prepared(name: str, seed: int) -> Prepared:
    """A case of two contrasts of noise."""
    voxels = np.random.default_rng(seed).normal(size=(2, 8, 6, 9)).astype(np.float16)
    return Prepared(name, name, voxels, np.array([True, True]), None, (1, 1, 1), (Scale(), Scale()))


@pytest.fixture
def system() -> KLAutoencoder:
    torch.manual_seed(0)
    network = KLConfig(channels=(8, 8), latent_channels=2, blocks=1, groups=4)
    return KLAutoencoder(KLAutoencoderConfig(network=network, discriminator=DiscriminatorConfig(weight=0)))


def counted(system: KLAutoencoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls of the encoder."""
    calls: list[int] = []
    real = system.network.moments

    def moments(volume: torch.Tensor) -> Any:
        calls.append(1)
        return real(volume)

    monkeypatch.setattr(system.network, "moments", moments)
    return calls


def test_moments_are_stored_and_read(system: KLAutoencoder, tmp_path: Path) -> None:
    cases = [prepared("a", 0), prepared("b/ä", 1)]
    found = cached_moments(system, cases, tmp_path)
    assert len(found) == len(list(found)) == 2
    assert [len(found[:1]), len(found[1:])] == [1, 1]
    for case, (mean, deviation) in zip(cases, found, strict=True):
        voxels = torch.from_numpy(case.voxels.astype(np.float32))[:, None]
        with torch.no_grad():
            expected = system.network.eval().moments(voxels)
        assert mean.shape == (2, 2, 4, 3, 5)
        assert torch.allclose(mean, expected[0], atol=2e-3)
        assert torch.allclose(deviation, expected[1], rtol=2e-3)
    assert {tensor.dtype for tensor in load_file(found.paths[0]).values()} == {torch.float16}


def test_made_once_for_weights_name_and_voxels(
    system: KLAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, cases = counted(system, monkeypatch), [prepared("a", 0), prepared("b", 1)]
    first = cached_moments(system, cases, tmp_path)
    again = cached_moments(system.network, cases, tmp_path)
    assert (again.paths, len(calls)) == (first.paths, 2)
    cached_moments(system, [cases[0], prepared("b", 2)], tmp_path)
    assert len(calls) == 3, "other voxels under the same name"
    first.paths[0].write_bytes(b"damaged")
    cached_moments(system, cases[:1], tmp_path)
    assert len(calls) == 4
    with torch.no_grad():
        next(system.network.parameters()).add_(0.1)
    moved = cached_moments(system, cases, tmp_path)
    assert len(calls) == 6
    assert not set(moved.paths) & set(first.paths)


def test_mistakes_are_told(system: KLAutoencoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two cases are called a"):
        cached_moments(system, [prepared("a", 0), prepared("a", 1)], tmp_path)
    with torch.no_grad():
        next(system.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        cached_moments(system, [prepared("a", 0)], tmp_path)
    assert list(tmp_path.rglob("*.safetensors")) == []
