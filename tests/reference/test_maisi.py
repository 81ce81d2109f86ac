"""MAISI's autoencoder: a checkpoint in its official format answers as MONAI's own class does."""

import json
from pathlib import Path

import pytest
import torch

import gen3d
from gen3d.core.error import UsageError, UserError
from gen3d.interop.maisi import import_maisi_vae

pytest.importorskip("monai")
OFFICIAL = {
    "spatial_dims": 3,
    "image_channels": 1,
    "latent_channels": 2,
    "autoencoder_def": {
        "_target_": "monai.apps.generation.maisi.networks.autoencoderkl_maisi.AutoencoderKlMaisi",
        "spatial_dims": "@spatial_dims",
        "in_channels": "@image_channels",
        "out_channels": "@image_channels",
        "latent_channels": "@latent_channels",
        "num_channels": [8, 8, 16],
        "num_res_blocks": [1, 1, 1],
        "norm_num_groups": 4,
        "norm_eps": 1e-06,
        "attention_levels": [False, False, False],
        "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
        "use_checkpointing": False,
        "use_convtranspose": False,
        "norm_float16": True,
        "num_splits": 4,
        "dim_split": 1,
    },
}


def official_network(**changes: object) -> torch.nn.Module:
    """MONAI's own class as the release builds it, but for what is changed."""
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    shape = {k: v for k, v in OFFICIAL["autoencoder_def"].items() if k != "_target_"}
    shape |= {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "latent_channels": 2} | changes
    torch.manual_seed(0)
    return AutoencoderKlMaisi(**shape).eval()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint of random weights and its description."""
    torch.save(official_network().state_dict(), tmp_path / "autoencoder_v1.pt")
    (tmp_path / "config_network.json").write_text(json.dumps(OFFICIAL))
    return tmp_path / "autoencoder_v1.pt", tmp_path / "config_network.json"


def test_equal_to_monais_class(files: tuple[Path, Path], tmp_path: Path) -> None:
    """To rounding, whether its convolutions are split as in the release or not."""
    import_maisi_vae(*files, tmp_path / "model")
    system = gen3d.load(tmp_path / "model")
    volume = torch.rand(1, 1, 16, 64, 16, generator=torch.Generator().manual_seed(1))
    exact = official_network(num_splits=1, norm_float16=False)
    with torch.no_grad():
        for one, other in zip(system.network.moments(volume), exact.encode(volume), strict=True):
            assert torch.allclose(one, other, atol=1e-5)
        mean = exact.encode(volume)[0]
        assert torch.allclose(system.network.voxels(mean), exact.decode(mean), atol=1e-5)
        split = official_network(norm_float16=False).decode(mean)
        assert torch.allclose(system.network.voxels(mean), split, atol=1e-5)
    assert system.network.stride == 4
    assert system.name == "kl-ae"


def test_licence_and_grey_scale_are_kept(files: tuple[Path, Path], tmp_path: Path) -> None:
    import_maisi_vae(*files, tmp_path / "ct")
    import_maisi_vae(*files, tmp_path / "mr", modality="mri", licence="as stated")
    ct, mr = gen3d.load(tmp_path / "ct"), gen3d.load(tmp_path / "mr")
    assert "NVIDIA Open Model" in ct.provenance["licence"]
    assert "NVIDIA Open Model" in (tmp_path / "ct" / "README.md").read_text()
    assert mr.provenance["licence"] == "as stated"
    scale = ct.config.intensity.fit(torch.zeros(2, 2, 2).numpy())
    assert scale.apply(torch.tensor([-2000.0, -1000, 0, 1000, 3000]).numpy()).tolist() == [0, 0, 0.5, 1, 1]


def test_wrapped_and_half_precision_checkpoints(files: tuple[Path, Path], tmp_path: Path) -> None:
    state = {f"module.{name}": tensor.half() for name, tensor in torch.load(files[0]).items()}
    torch.save({"unet_state_dict": state, "epoch": 3}, tmp_path / "wrapped.pt")
    import_maisi_vae(tmp_path / "wrapped.pt", files[1], tmp_path / "model")
    assert next(gen3d.load(tmp_path / "model").network.parameters()).dtype == torch.float32


def test_mistakes_are_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, config = files
    with pytest.raises(UserError, match=r"does not fit MAISI's autoencoder.*--config"):
        import_maisi_vae(checkpoint, None, tmp_path / "model")
    with pytest.raises(UsageError, match="'pet'"):
        import_maisi_vae(checkpoint, config, tmp_path / "model", modality="pet")
    other = {**OFFICIAL, "autoencoder_def": {**OFFICIAL["autoencoder_def"], "_target_": "some.VQVAE"}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"some\.VQVAE"):
        import_maisi_vae(checkpoint, tmp_path / "other.json", tmp_path / "model")
    (tmp_path / "loose.json").write_text(json.dumps({"autoencoder_def": OFFICIAL["autoencoder_def"]}))
    with pytest.raises(UserError, match="@spatial_dims"):
        import_maisi_vae(checkpoint, tmp_path / "loose.json", tmp_path / "model")
    torch.save({"weights": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(UserError, match="refused"):
        import_maisi_vae(tmp_path / "code.pt", config, tmp_path / "model")
    assert not (tmp_path / "model").exists()
