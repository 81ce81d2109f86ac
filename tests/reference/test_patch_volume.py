"""Official 3D MedDiffusion autoencoders: ours answers as theirs did; what surrounds the weights in their files."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.core.precision import use_precision
from gen3d.interop.patch_volume import official_config, read_autoencoder
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.patch_volume import PatchVolume
from gen3d.nn.recompute import recompute


def recorded(reference: Path) -> dict[str, Tensor]:
    return {key: torch.from_numpy(v) for key, v in np.load(files(reference).with_suffix(".npz")).items()}


def files(reference: Path) -> Path:
    return reference / "meddiffusion" / "patch_volume_ae"


def imported(reference: Path) -> PatchVolume:
    return read_autoencoder(files(reference).with_suffix(".pt"), files(reference).with_suffix(".json"))


def small(**changes: Any) -> PatchVolume:
    torch.manual_seed(0)
    config = {"width": 4, "groups": 4, "codes": 16, "patch": 16, "stride": 4, "heads": 2, "head_width": 4}
    return PatchVolume(PatchVolumeConfig(**{**config, **changes}))


@torch.no_grad()
def test_autoencoder_answers_as_the_official_one(reference_folder: Path) -> None:
    network, known = imported(reference_folder), recorded(reference_folder)
    latent = network.encode(known["volume"])
    codes, quantised = network.quantise(latent)
    assert float((latent - known["latent"]).abs().max()) < 1e-4
    assert torch.equal(codes.int(), known["codes"])
    assert float((quantised - known["quantised"]).abs().max()) < 1e-4
    assert float((network.decode(quantised) - known["decoded"]).abs().max()) < 1e-4
    mean, deviation = network.moments(known["volume"])
    assert torch.equal(mean, latent)
    assert not deviation.any()
    assert float((network.voxels(mean) - known["decoded"]).abs().max()) < 1e-4
    voxels = network(known["volume"]).voxels
    assert float((voxels - known["decoded"]).abs().max()) < 1e-4


def test_imported_codebook_is_frozen(reference_folder: Path) -> None:
    network, known = imported(reference_folder), recorded(reference_folder)
    before = {name: buffer.clone() for name, buffer in network.codebook.state_dict().items()}
    assert before["initialised"]
    network.train()(known["volume"]).voxels.sum().backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in network.codebook.state_dict().items())


@torch.no_grad()
def test_lightning_checkpoint_brings_its_own_configuration(reference_folder: Path, tmp_path: Path) -> None:
    weights = torch.load(files(reference_folder).with_suffix(".pt"), weights_only=True)["state_dict"]
    told = json.loads(files(reference_folder).with_suffix(".json").read_text())
    model = {**told, "norm_type": "group", "lr": 3e-4, "some_forks_own": "x"}
    patch = model.pop("patch_size")
    around = {"perceptual_loss.perceptual_model.net.0.weight": torch.ones(3), "volume_discriminator.model0.0.bias": 1}
    content = {
        "state_dict": {**weights, **around},
        "hyper_parameters": {"cfg": argparse.Namespace(model=model, dataset={"patch_size": patch})},
        "optimizer_states": [argparse.Namespace(step=3)],
    }
    torch.save(content, tmp_path / "PatchVolume.ckpt")
    network, known = read_autoencoder(tmp_path / "PatchVolume.ckpt"), recorded(reference_folder)
    assert network.config.patch == 32
    assert float((network.encode(known["volume"]) - known["latent"]).abs().max()) < 1e-4


def test_default_configuration_is_the_official_release() -> None:
    release = {"embedding_dim": 8, "n_codes": 8192, "n_hiddens": 48, "downsample": [8, 8, 8], "num_groups": 24}
    assert (
        official_config({"model": release, "dataset": {"image_channels": 1, "patch_size": 64}}) == PatchVolumeConfig()
    )
    with torch.device("meta"):
        network = PatchVolume(PatchVolumeConfig())
    counts = [sum(p.numel() for p in half.parameters()) for half in (network.encoder, network.decoder)]
    assert [round(count / 1e6, 1) for count in counts] == [15.8, 19.0]
    assert PatchVolumeConfig(stride=4).channels == [48, 96, 96]


def test_what_does_not_fit_is_one_clear_line(reference_folder: Path, tmp_path: Path) -> None:
    checkpoint, config = files(reference_folder).with_suffix(".pt"), files(reference_folder).with_suffix(".json")
    weights, told = torch.load(checkpoint, weights_only=True)["state_dict"], json.loads(config.read_text())

    def saved(content: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.pt"
        torch.save(content, path)
        return path

    def changed(**changes: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({**told, **changes}))
        return path

    missing = {name: tensor for name, tensor in weights.items() if name != "decoder.final_block.2.bias"}
    attempts = [
        (tmp_path / "none.pt", config, "no such checkpoint"),
        (checkpoint, tmp_path / "none.json", "none.json"),
        (checkpoint, None, "--config"),  # the release is wider
        (saved(missing), config, "no tensor 'decoder.final_block.2.bias'"),
        (saved({**weights, "encoder.extra": torch.ones(1)}), config, "'encoder.extra' has no place"),
        (saved([1, 2]), config, "expected a dict of tensors"),
        (saved({"state_dict": [1]}), config, "no dict of tensors"),
        (checkpoint, changed(n_hiddens=16), "has the shape"),
        (checkpoint, changed(downsample=[8, 8, 8]), "--config"),
        (checkpoint, changed(downsample=[4, 4, 2]), "equal factors"),
        (checkpoint, changed(downsample=[3, 3, 3]), "power of 2"),
        (checkpoint, changed(patch_size=30), "multiple of stride"),
        (checkpoint, changed(norm_type="batch"), "not supported"),
        (checkpoint, changed(n_hidens=8), "did you mean 'n_hiddens'"),
        (checkpoint, changed(n_codes="x"), "wrong kind"),
    ]
    for path, configuration, message in attempts:
        with pytest.raises(UserError) as failure:
            read_autoencoder(path, configuration)
        assert message in str(failure.value)
        assert "\n" not in str(failure.value)


@torch.no_grad()
def test_patches_are_encoded_by_themselves() -> None:
    network = small().eval()
    volume = torch.randn(2, 1, 32, 16, 48)
    latent = network.encode(volume)
    assert latent.shape == (2, 8, 8, 4, 12)
    for x in (0, 1):
        for z in (0, 1, 2):
            alone = network.encoder(volume[:, :, 16 * x : 16 * x + 16, :, 16 * z : 16 * z + 16])
            assert torch.allclose(latent[:, :, 4 * x : 4 * x + 4, :, 4 * z : 4 * z + 4], alone, atol=1e-5)


@torch.no_grad()
def test_any_size_from_a_patch_up_and_no_smaller() -> None:
    network = small().eval()
    mean, deviation = network.moments(torch.randn(1, 1, 20, 16, 33))
    assert mean.shape == deviation.shape == (1, 8, 8, 4, 12)
    assert network.voxels(mean).shape == (1, 1, 32, 16, 48)
    for smaller in (network.moments, network.encode):
        with pytest.raises(UserError, match="20 x 15 x 33 voxels is smaller than a patch of 16 x 16 x 16"):
            smaller(torch.zeros(1, 1, 20, 15, 33))
    with pytest.raises(UserError, match="no whole number of patches"):
        network.encode(torch.zeros(1, 1, 20, 16, 32))


def test_gradients_reach_everything_and_recomputing_leaves_them() -> None:
    gradients = []
    for levels in (0, 2):
        network = small().train()
        recompute(network, levels)
        made = network(torch.randn(1, 1, 32, 16, 16, generator=torch.Generator().manual_seed(1)))
        (made.voxels.square().mean() + made.commitment).backward()
        gradients.append([p.grad for p in network.parameters()])
        assert network.codebook.initialised
        assert int(network.codebook.updates) == 1
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert torch.allclose(one, other, atol=1e-6)


@torch.no_grad()
def test_precision_is_entered_at_the_halves() -> None:
    network, volume = small().eval(), torch.randn(1, 1, 16, 16, 16)
    exact = network(volume)
    use_precision(network, torch.bfloat16)
    latent = network.encode(volume)
    assert latent.dtype == network.decode(latent).dtype == torch.float32
    assert 0 < float((latent - small().eval().encode(volume)).abs().max()) < 0.1
    assert exact.voxels.dtype == torch.float32
