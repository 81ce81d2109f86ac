"""Autoencoders: both learn, stage 2 leaves encoder and codebook alone, a resumed stage 1 starts nothing anew."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gen3d
from gen3d.core.config import build
from gen3d.core.error import UserError
from gen3d.core.footprint import blank_example, footprints
from gen3d.core.system import Objective, System
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Prepared
from gen3d.data.phantom import phantom
from gen3d.latent import perceptual
from gen3d.latent.adversarial import Autoencoder
from gen3d.latent.autoencoder import (
    KLAutoencoder,
    KLAutoencoderConfig,
    PatchVolumeAutoencoder,
    PatchVolumeAutoencoderConfig,
)
from gen3d.latent.diagnostics import examined
from gen3d.latent.discriminator import DiscriminatorConfig
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.kl import KLConfig
from gen3d.latent.patches import Window, mirrored
from gen3d.latent.perceptual import PerceptualConfig, TriPlane, build_perceptual
from gen3d.metrics.feature_networks import medicalnet_network
from gen3d.tools.train import packaged_config, read_experiment

JUDGE = DiscriminatorConfig(width=4, layers=2)
SMALL = PatchVolumeConfig(width=8, stride=4, latent_channels=4, codes=32, patch=8, groups=4, heads=1, head_width=8)
PATCHES = PatchVolumeAutoencoderConfig(contrasts=("t1n",), crop=(8, 8, 8), network=SMALL, discriminator=JUDGE)
KL_CONFIG = KLAutoencoderConfig(
    contrasts=("t1n",),
    crop=(16, 16, 16),
    network=KLConfig(channels=(8, 16), latent_channels=4, blocks=1, groups=4),
    discriminator=replace(JUDGE, weight=0.0),
)


@pytest.fixture(scope="module")
def case() -> Prepared:
    """A phantom of 20 voxels a side, on the models' scale."""
    return PatchVolumeAutoencoder(PATCHES).prepare(phantom(5, (20, 20, 20), 7.0, ("t1n",)))


def system(config: PatchVolumeAutoencoderConfig | KLAutoencoderConfig = PATCHES) -> System:
    """An untrained system, the same every time."""
    torch.manual_seed(0)
    return (PatchVolumeAutoencoder if isinstance(config, PatchVolumeAutoencoderConfig) else KLAutoencoder)(config)


def trained(
    made: System, case: Prepared, run: Path, steps: int, stop: int | None = None, **changes: object
) -> list[dict[str, float]]:
    """Train, to be stopped after a step perhaps, and return the log."""
    settings = {"steps": steps, "batch": 4, "lr": 3e-3, "ema": 0.0, "log_every": 1, "checkpoint_every": 2}
    config = TrainConfig(**settings | {"precision": "fp32"} | changes)  # type: ignore[arg-type]
    rows = []
    for report in Trainer(made, [case], config, run).train():
        rows.append(report)
        if report["step"] == stop:
            break
    return rows


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """Return the names of the tensors that are equal bit for bit."""
    return {name for name, tensor in one.items() if torch.equal(tensor, other[name])}


def test_patch_volume_learns(case: Prepared, tmp_path: Path) -> None:
    """The error of patches falls below 0.6; what is saved loads, reconstructs whole cases, and generates nothing."""
    network = replace(SMALL, stride=2, codes=128, decay=0.9, restart=0.1)
    config = replace(PATCHES, discriminator=replace(JUDGE, weight=0.0), network=network)
    rows = trained(system(config), case, tmp_path, 80)
    assert np.mean([row["generator/l1"] for row in rows[-5:]]) < 0.6 * rows[0]["generator/l1"]
    assert 1 < rows[-1]["generator/perplexity"] <= 128
    loaded = gen3d.load(tmp_path / "model")
    assert isinstance(loaded, PatchVolumeAutoencoder)
    assert structure(loaded, case) < 0.8
    whole = loaded.example(case)["voxels"]
    error = (loaded.reconstruct(whole) - whole).square().mean()
    found = examined(loaded, [case])
    assert found["psnr"] == pytest.approx(float(10 * (4 / error).log10()), abs=1e-3)
    assert found["noise"] == 0
    assert 0 < found["codes"] <= 1
    assert found["seams"] > 0
    with pytest.raises(UserError, match="an autoencoder: it makes no new scans"):
        loaded.accept(["t1n"], ["t2w"])
    assert not hasattr(loaded, "blank"), "what gen3d generate asks for"


def test_kl_learns(case: Prepared, tmp_path: Path) -> None:
    """The error of patches falls by more than half, and what was learnt is their structure, not their mean alone."""
    rows = trained(system(replace(KL_CONFIG, crop=(8, 8, 8))), case, tmp_path, 100, lr=3e-3)
    assert np.mean([row["generator/l1"] for row in rows[-5:]]) < 0.55 * rows[0]["generator/l1"]
    loaded = gen3d.load(tmp_path / "model")
    assert isinstance(loaded, KLAutoencoder)
    assert structure(loaded, case) < 0.75


def structure(made: System, case: Prepared) -> float:
    """Return the error of reconstructed crops relative to that of their mean grey values."""
    crops = torch.cat([made.example(case, f"other/{item}")["voxels"] for item in range(16)])
    spread = (crops - crops.mean((1, 2, 3, 4), keepdim=True)).abs().mean()
    assert isinstance(made, Autoencoder)
    return float((made.reconstruct(crops) - crops).abs().mean() / spread)


def test_second_stage_leaves_encoder_and_codebook_alone(case: Prepared, tmp_path: Path) -> None:
    """Bit for bit, after a resumption too, although the trainer puts everything into training mode."""
    first = system()
    trained(first, case, tmp_path / "one", 3)
    before = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    config = replace(PATCHES, stage="volume", crop=(16, 16, 16))
    for stop in (2, None):
        second = system(config)
        second.load_state_dict(first.state_dict())
        rows = trained(second, case, tmp_path / "two", 5, stop, batch=1)
    after = second.network.state_dict()
    kept = {name for name in after if name.startswith(("encoder.", "codebook."))} - {"codebook.frozen"}
    assert {"codebook.vectors", "codebook.counts", "codebook.updates"} < kept
    assert kept <= same(before, after)
    assert bool(after["codebook.frozen"])
    assert not bool(before["codebook.frozen"])
    decoder = {name for name in after if name.startswith("decoder.")}
    assert len(decoder & same(before, after)) < 0.1 * len(decoder)
    assert "generator/commitment" not in rows[-1]
    assert rows[-1]["generator/seams"] > 0


def test_second_stage_of_nothing_is_warned_of(case: Prepared) -> None:
    with pytest.warns(UserWarning, match="never trained; start it with init"):
        system(replace(PATCHES, stage="volume")).objectives()


def test_resumed_first_stage_does_not_begin_its_codebook_anew(case: Prepared, tmp_path: Path) -> None:
    """Stopped and resumed is the same, bit for bit, as not stopped: codebook, networks and discriminator."""
    whole = system()
    trained(whole, case, tmp_path / "whole", 6)
    trained(system(), case, tmp_path / "broken", 6, stop=5)
    resumed = system()
    rows = trained(resumed, case, tmp_path / "broken", 6)
    assert [row["step"] for row in rows] == [5, 6], "from the checkpoint of step 4"
    one, other = whole.state_dict(), resumed.state_dict()
    assert same(one, other) == set(one)
    assert int(one["network.codebook.updates"]) == 6, "once a step: the discriminator's pass learns no codes"


def test_the_judge_enters_after_its_first_step(case: Prepared, tmp_path: Path) -> None:
    config = replace(PATCHES, discriminator=replace(JUDGE, start=2))
    rows = trained(system(config), case, tmp_path, 4)
    judged = [
        ("discriminator/hinge" in row, "generator/adversarial" in row, "generator/features" in row) for row in rows
    ]
    assert judged == [(False,) * 3, (False,) * 3, (True, False, False), (True,) * 3]


def test_told_terms_are_not_minimised() -> None:
    terms = {"l1": torch.tensor(2.0), "perplexity": torch.tensor(500.0), "commitment": torch.tensor(1.0)}
    objective = Objective("generator", [], lambda example, keys: terms, told=("perplexity",))
    assert float(objective.summed(terms)) == 3


def test_patches_show_something_and_follow_their_keys(case: Prepared) -> None:
    """A volume with one small bright box: no patch misses it, however rarely chance would hit."""
    voxels = np.full((1, 64, 64, 64), -1, np.float16)
    voxels[0, 40:43, 9:12, 50:53] = 1
    lonely = replace(case, voxels=voxels)
    made = system()
    for item in range(20):
        patch = made.example(lonely, f"0/{item}")["voxels"]
        assert patch.shape == (1, 1, 8, 8, 8)
        assert patch.max() == 1
        assert torch.equal(patch, made.example(lonely, f"0/{item}")["voxels"])
    empty = replace(case, voxels=np.full((1, 16, 16, 16), -1, np.float16))
    assert made.example(empty, "0/0")["voxels"].unique().tolist() == [-1]
    short = system(replace(PATCHES, crop=(0, 8, 22), flips=False)).example(case, "0/0")["voxels"]
    assert short.shape == (1, 1, 24, 8, 24)
    assert short.min() == -1


def test_patches_are_mirrored_within_slices() -> None:
    """All eight ways of laying a square slice appear, and slices keep their order."""
    patch = np.zeros((2, 3, 3), np.float32)
    patch[:, 0, 1], patch[1] = 1, patch[1] + 10
    patch[:, 0, 0] += 5
    seen = {mirrored(patch, "SRA", np.random.default_rng(seed)).tobytes() for seed in range(64)}
    assert len(seen) == 8
    assert all(
        np.frombuffer(one, np.float32).reshape(2, 9).mean(1).tolist() == patch.reshape(2, 9).mean(1).tolist()
        for one in seen
    )


def test_a_window_keeps_hounsfield_units() -> None:
    rule = Window(low=-1000, high=1000, to=(-1, 1))
    scale = rule.fit(np.zeros((2, 2, 2)))
    values = np.array([-3000, -1000, 0, 500, 1000, 4000], np.float32)
    assert scale.apply(values).tolist() == [-1, -1, 0, 0.5, 1, 1]
    assert np.allclose(scale.invert(scale.apply(values[1:5])), values[1:5], atol=1e-3)
    with pytest.raises(ValueError, match="low below high"):
        Window(low=5, high=5)


def test_a_collapsed_codebook_is_warned_of(case: Prepared) -> None:
    made = system(replace(PATCHES, network=replace(SMALL, codes=4096)))
    made.step = 1999
    with pytest.warns(UserWarning, match=r"step 1999: .* it has collapsed"):
        made.look(torch.zeros(10, 10, 10, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.look(torch.arange(1000))


def vgg(path: Path, widths: Sequence[int]) -> dict[str, Tensor]:
    """Write random weights under the names of torchvision's VGG-16."""
    state, before, place = {}, 3, 0
    for width in widths:
        if width:
            state |= {
                f"features.{place}.weight": torch.randn(width, before, 3, 3) / before,
                f"features.{place}.bias": torch.zeros(width),
            }
            before = width
        place += 2 if width else 1
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, path)
    return state


def test_perceptual_loss_from_given_weights(case: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 0 for equal volumes, grows with the difference, has a gradient, and is no part of what is saved."""
    monkeypatch.setattr(perceptual, "WIDTHS", tuple(width // 16 for width in perceptual.WIDTHS))
    torch.manual_seed(0)
    state = vgg(tmp_path / "vgg.pth", perceptual.WIDTHS)
    config = PerceptualConfig(weight=2.0, vgg=str(tmp_path / "vgg.pth"))
    network = TriPlane(config)
    assert torch.equal(network.features[0].weight, state["features.0.weight"])
    assert torch.equal(network.features[-1].weight, state["features.28.weight"])
    real, noise = torch.randn(2, 1, 8, 8, 8), torch.randn(2, 1, 8, 8, 8, requires_grad=True)
    assert float(network(real, real, ["k", "l"])) == 0
    near, far = network(real + 0.1 * noise, real, ["k", "l"]), network(real + noise, real, ["k", "l"])
    assert 0 < near.item() < far.item()
    far.backward()
    assert noise.grad is not None
    assert noise.grad.abs().sum() > 0
    made = system(replace(PATCHES, perceptual=config))
    rows = trained(made, case, tmp_path / "run", 2)
    assert rows[-1]["generator/perceptual"] > 0
    (tmp_path / "vgg.pth").unlink()
    assert isinstance(gen3d.load(tmp_path / "run" / "model"), PatchVolumeAutoencoder)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    with pytest.raises(UserError, match="13 convolutions of VGG-16, found 1"):
        TriPlane(config)


def test_perceptual_loss_in_3d_is_monais_from_given_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its oracle is MONAI's, whose download is replaced by the same network."""
    from monai.losses.perceptual import MedicalNetPerceptualSimilarity

    torch.manual_seed(0)
    network = medicalnet_network(10).to_empty(device="cpu")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    for norm in (part for part in network.modules() if isinstance(part, torch.nn.BatchNorm3d)):
        norm.reset_running_stats()
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "net.pth")
    loss = build_perceptual(PerceptualConfig(weight=2.0, medicalnet=str(tmp_path / "net.pth")))
    monkeypatch.setattr(torch.hub, "load", lambda *told, **more: loss.features)
    real, made = torch.randn(2, 1, 24, 24, 24), torch.randn(2, 1, 24, 24, 24, requires_grad=True)
    found = loss(made, real, ["k", "l"])
    assert found.item() == pytest.approx(MedicalNetPerceptualSimilarity()(made, real).mean().item(), rel=1e-4)
    assert float(loss(real, real, ["k", "l"])) == 0
    found.backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    with pytest.raises(UserError, match=r"perceptual\.medicalnet: .*none\.pth"):
        build_perceptual(PerceptualConfig(weight=2.0, medicalnet=str(tmp_path / "none.pth")))
    with pytest.raises(ValueError, match="one of them"):
        PerceptualConfig(weight=2.0, vgg="a", medicalnet="b")


@pytest.mark.parametrize("config", [PATCHES, replace(PATCHES, stage="volume", crop=(16, 8, 8)), KL_CONFIG])
def test_what_training_takes_is_planned(config: PatchVolumeAutoencoderConfig | KLAutoencoderConfig) -> None:
    made = system(config)
    found = list(footprints(made, blank_example(made), torch.bfloat16, batch=2, ema=False))
    assert all(entry.flop > 0 and entry.passing > 0 for entry in found)


@pytest.mark.parametrize(("name", "millions"), [("8x", 15.8 + 19.0), ("4x", 3.9 + 4.6)])
def test_published_configurations_have_the_published_size(name: str, millions: float) -> None:
    """Encoder and decoder as shared/facts/latent.md section 1.1 lists them; both stages are of one shape."""
    one, two = (read_experiment(packaged_config(f"meddiffusion_ae_{name}{stage}")) for stage in ("", "_stage2"))
    first, second = (build(PatchVolumeAutoencoderConfig, experiment.model) for experiment in (one, two))
    assert (first.stage, second.stage) == ("patches", "volume")
    assert replace(second, stage="patches", crop=first.crop, discriminator=first.discriminator) == first
    with torch.device("meta"):
        made = PatchVolumeAutoencoder(first)
    assert sum(p.numel() for p in made.network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
