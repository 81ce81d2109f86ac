"""Every configuration loads; the smoke ones train two steps; names and mistakes are understood."""

from pathlib import Path

import pytest

import gen3d
from gen3d.core.error import UsageError
from gen3d.tools.train import packaged_config, read_experiment, run_training

CONFIGS = sorted(p for p in (Path(__file__).parents[2] / "configs").glob("*.yaml") if p.stem != "splits")
PUBLISHED = {
    "wdm_brats128": 57.91,
    "wdm_brats256": 83.16,
    "cwdm_brats": 81.51,
    "meddiffusion_ct_8x": 157.62 + 34.82,  # its autoencoder included
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_configuration_loads(config: Path) -> None:
    assert read_experiment(config).train.steps > 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_have_the_published_size(name: str) -> None:
    """Millions of parameters as shared/facts/wavelet.md section 7 lists them."""
    import torch

    from gen3d.core.config import build
    from gen3d.systems import system_class

    experiment = read_experiment(packaged_config(name))
    kind = system_class(experiment.system)
    with torch.device("meta"):
        system = kind(build(kind.Config, experiment.model))
    assert sum(p.numel() for p in system.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.005)


@pytest.mark.parametrize("config", [p for p in CONFIGS if p.stem.startswith("smoke")], ids=lambda p: p.stem)
def test_smoke_configuration_trains(config: Path, tmp_path: Path) -> None:
    model = run_training(config, [f"data.cache={tmp_path / 'cache'}"], tmp_path / "run", device="cpu")
    system = gen3d.load(model)
    assert system.provenance["phantoms"] == 2
    assert system.provenance["patients"] == 0
    card = (model / "README.md").read_text()
    assert "0 patients" in card
    assert "synthetic" in card
    resumed = run_training(config, [f"data.cache={tmp_path / 'cache'}"], tmp_path / "run", device="cpu")
    assert resumed == model
    carried = [f"data.prepared={tmp_path / 'cache'}", "data.phantoms.count=0"]
    assert run_training(config, carried, tmp_path / "carried", device="cpu").is_dir()
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        read_experiment(config, ["train.stepz=3"])
