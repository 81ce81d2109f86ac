"""Saved models and training states: whole or not at all, the same after loading, and never code."""

import json
import os
from pathlib import Path

import pytest
import torch

import gen3d
from gen3d.core.checkpoint import load_state, save_model, save_state, weights_sha256, whole_folder
from gen3d.core.error import UserError
from gen3d.core.parameterization import X0, Betas, Velocity
from gen3d.nn.unet import UNetConfig
from gen3d.wavelet.completion import Completion, CompletionConfig
from gen3d.wavelet.wdm import WDM, WDMConfig


@pytest.fixture
def system() -> WDM:
    torch.manual_seed(1)
    network = UNetConfig(8, 8, width=8, multipliers=(1, 2), blocks=1, groups=4)
    made = WDM(WDMConfig(canvas=(16, 16, 16), pool=1, network=network, parameterization=Velocity(Betas(steps=100))))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.provenance = {"patients": 3}
    return made.eval()


def test_round_trip_is_exact(system: WDM, tmp_path: Path) -> None:
    save_model(system, tmp_path / "m", card="a card")
    loaded = gen3d.load(tmp_path / "m")
    x, t = torch.randn(1, 8, 8, 8, 8), torch.tensor([7.0])
    assert torch.equal(loaded.network(x, t), system.network(x, t))
    assert loaded.config == system.config
    assert loaded.provenance == {"patients": 3}
    assert (tmp_path / "m" / "README.md").read_text() == "a card"
    assert not loaded.training


def test_half_precision_is_stored_and_computed_in_float32(system: WDM, tmp_path: Path) -> None:
    save_model(system, tmp_path / "whole")
    save_model(system, tmp_path / "half", dtype=torch.float16)
    sizes = [sum(p.stat().st_size for p in (tmp_path / m).rglob("*.safetensors")) for m in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = gen3d.load(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    for a, b in zip(loaded.network.parameters(), system.network.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)
    assert weights_sha256(tmp_path / "half") != weights_sha256(tmp_path / "whole")


def test_layout_is_the_one_diffusers_users_know(system: WDM, tmp_path: Path) -> None:
    save_model(system, tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model_index.json").read_text())
    assert index["system"] == "wdm"
    assert index["network"] == ["gen3d", "UNet"]
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert json.loads((tmp_path / "m" / "network" / "config.json").read_text())["width"] == 8


def test_diffusers_loads_the_scheduler(system: WDM, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    save_model(system, tmp_path / "m")
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "m", subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    alpha_bar = 1 / (1 + Betas(steps=100).table.square())
    assert torch.allclose(scheduler.alphas_cumprod.double(), alpha_bar, rtol=1e-5)


def test_damaged_models_are_refused_in_one_line(system: WDM, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save_model(system, folder)
    config = folder / "network" / "config.json"
    config.write_text(config.read_text().replace('"width": 8', '"width": 16'))
    with pytest.raises(UserError, match="does not fit config") as caught:
        gen3d.load(folder)
    assert "\n" not in str(caught.value)
    save_model(system, folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        gen3d.load(folder)
    save_model(system, folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"wdm"', '"os:system"'))
    with pytest.raises(UserError, match="system 'os:system': unknown"):
        gen3d.load(folder)


def test_a_failed_write_leaves_the_old_folder(system: WDM, tmp_path: Path) -> None:
    save_model(system, tmp_path / "m")
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()}

    def fail_half_way() -> None:
        with whole_folder(tmp_path / "m") as temporary:
            (temporary / "half").write_text("half")
            raise OSError(28, "no space left on device")

    with pytest.raises(UserError, match="no space"):
        fail_half_way()
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_failed_checkpoint_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_state({"step": 1}, path)

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the one before it is untouched"):
        save_state({"step": 2}, path)
    assert load_state(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_models_parts_are_all_there_is(tmp_path: Path) -> None:
    network = UNetConfig(64, 32, width=8, multipliers=(1,), blocks=1, groups=4, present=4)
    system = Completion(CompletionConfig(network=network, parameterization=X0(), ranges=((-3.0, 2.0),) * 4))
    save_model(system, tmp_path / "m")
    names = {p.name for p in (tmp_path / "m").iterdir()}
    assert names == {"model_index.json", "network", "space", "scheduler"}
    assert not list((tmp_path / "m").rglob("*.pt")) + list((tmp_path / "m").rglob("*.py"))
