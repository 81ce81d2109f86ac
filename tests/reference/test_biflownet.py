"""BiFlowNet answers as the official one does, however it is called, and what we added changes nothing by itself."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gen3d
from gen3d.core.checkpoint import save_model
from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.parameterization import Cosine, Epsilon
from gen3d.interop.biflownet import official_config
from gen3d.interop.meddiffusion import import_meddiffusion
from gen3d.latent.biflownet import BiFlowNet, BiFlowNetConfig
from gen3d.latent.meddiffusion import MedDiffusionConfig
from gen3d.nn.transformer import cut, joined

TINY = BiFlowNetConfig(
    channels=3,
    width=12,
    multipliers=(1, 1, 2),
    attention=(False, False, True),
    heads=2,
    head_width=4,
    groups=4,
    patch=4,
    token=2,
    transformer_heads=2,
    classes=2,
    spacing=True,
)


@pytest.fixture(scope="module")
def known(reference_folder: Path) -> dict[str, Tensor]:
    arrays = np.load(reference_folder / "meddiffusion" / "biflownet.npz")
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


@pytest.fixture(scope="module")
def network(reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BiFlowNet:
    """Imported, loaded, saved again and loaded again."""
    files, folder = reference_folder / "meddiffusion" / "biflownet", tmp_path_factory.mktemp("models")
    import_meddiffusion(files.with_suffix(".pt"), files.with_suffix(".json"), None, folder / "imported")
    save_model(gen3d.load(folder / "imported"), folder / "saved")
    loaded: Any = gen3d.load(folder / "saved")
    return loaded.network


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def tiny(**changes: Any) -> tuple[BiFlowNet, dict[str, Tensor]]:
    """A network without a zero in it, and what to ask it."""
    torch.manual_seed(1)
    net = BiFlowNet(replace(TINY, **changes)).eval()
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    asked = {
        "x": torch.randn(2, 3, 8, 4, 12),
        "t": torch.tensor([3.0, 700.0]),
        "label": torch.tensor([0, 1]),
        "vector": torch.tensor([[0.1, 0.1, 0.2, 1.0, 1.0, 2.0]]).repeat(2, 1),
    }
    return net, asked


@torch.no_grad()
def test_network_answers_as_the_official_one(
    network: BiFlowNet, known: dict[str, Tensor], reference_folder: Path
) -> None:
    assert apart(network(known["x"], known["t"], known["y"], known["resolution"]), known["out"]) < 2e-5
    weights = torch.load(reference_folder / "meddiffusion" / "biflownet.pt", weights_only=True)
    assert sum(t.numel() for t in network.state_dict().values()) == sum(t.numel() for t in weights.values())


@torch.no_grad()
def test_a_denoiser_asks_the_same_network(network: BiFlowNet, known: dict[str, Tensor]) -> None:
    """With x = sqrt(1 + sigma^2) times the recorded input the network sees that input; the answer is x - sigma eps."""
    chain = Cosine(largest=0.9999)
    sigma = chain.table[known["t"]]
    scale = (1 + sigma**2).sqrt().reshape(-1, 1, 1, 1, 1).float()
    condition = Condition(label=known["y"], vector=known["resolution"])
    guess = Denoiser(network, Epsilon(chain))(known["x"] * scale, sigma, condition)
    expected = known["x"] * scale - sigma.reshape(-1, 1, 1, 1, 1).float() * known["out"]
    assert float(((guess - expected) / scale).abs().max()) < 2e-5


@torch.no_grad()
def test_spacing_is_not_seen_before_it_is_learnt(network: BiFlowNet, known: dict[str, Tensor]) -> None:
    told = BiFlowNet(replace(network.config, spacing=True)).eval()
    missing, unexpected = told.load_state_dict(network.state_dict(), strict=False)
    assert (unexpected, {name.split(".")[2] for name in missing}) == ([], {"spacing"})
    vector = torch.cat([known["resolution"], torch.tensor([[1.0, 0.5, 3.0], [0.7, 0.7, 1.0]])], dim=1)
    assert apart(told(known["x"], known["t"], label=known["y"], vector=vector), known["out"]) < 2e-5
    torch.nn.init.normal_(told.encoder.told.spacing[2].weight, std=0.1)  # type: ignore[index, arg-type]
    assert apart(told(known["x"], known["t"], label=known["y"], vector=vector), known["out"]) > 1e-3


@torch.no_grad()
def test_everything_told_matters_and_batches_do_not() -> None:
    net, asked = tiny()
    answer = net(**asked)
    for name, other in {
        "t": torch.tensor([4.0, 100.0]),
        "label": torch.tensor([-1, 0]),
        "vector": asked["vector"] * 1.5,
    }.items():
        assert apart(net(**{**asked, name: other}), answer) > 1e-3
    alone = net(**{name: part[1:] for name, part in asked.items()})
    assert apart(alone, answer[1:]) < 1e-5


@torch.no_grad()
def test_without_a_class_is_without_its_embedding() -> None:
    net, asked = tiny()
    answer = net(**{**asked, "label": torch.tensor([-1, -1])})
    assert net.encoder.told.label is not None
    net.encoder.told.label.weight.zero_()
    assert apart(net(**asked), answer) < 1e-6


@torch.no_grad()
def test_known_channels_come_behind_x() -> None:
    net, asked = tiny(known=2)
    other = torch.randn(2, 2, 8, 4, 12)
    beside = net(**asked, channels=other)
    together = net(**{**asked, "x": torch.cat([asked["x"], other], dim=1)})
    assert beside.shape == asked["x"].shape
    assert torch.equal(beside, together)


@torch.no_grad()
def test_residuals_are_added_in_the_order_of_the_features() -> None:
    net, asked = tiny()
    answer, encoded = net(**asked), net.encoder(**asked)
    assert [h.shape[1] for h in encoded.features] == net.encoder.feature_channels == [12, 12, 12, 12, 12, 24, 24, 24]
    assert [h.shape[2] for h in encoded.features] == [8, 8, 8, 8, 8, 4, 4, 4]
    zeros = [torch.zeros_like(h) for h in encoded.features]
    assert torch.equal(net(**asked, residuals=zeros), answer)
    for number, zero in enumerate(zeros):
        one = [*zeros[:number], zero + 0.5, *zeros[number + 1 :]]
        assert apart(net(**asked, residuals=one), answer) > 1e-4, f"residual {number}"
    with pytest.raises(ValueError, match="shorter"):
        net(**asked, residuals=zeros[:-1])


@torch.no_grad()
def test_an_encoder_half_is_whole_in_itself() -> None:
    """A ControlNet is a copy of it: its hint enters behind the stem, so a zero hint changes nothing."""
    net, asked = tiny()
    plain = net.encoder(**asked).features
    hint = torch.zeros(2, 12, 8, 4, 12)
    assert all(torch.equal(a, b) for a, b in zip(net.encoder(**asked, hint=hint).features, plain, strict=True))
    hinted = net.encoder(**asked, hint=hint + 0.5).features
    assert all(apart(a, b) > 1e-4 for a, b in zip(hinted, plain, strict=True))


def test_cubes_are_put_together_as_they_were_cut() -> None:
    x = torch.randn(2, 3, 8, 4, 12)
    voxels = cut(x, 4)
    assert voxels.shape == (2, 6, 64, 3)
    assert torch.equal(voxels[1, 2, 5], x[1, :, 0, 1, 9])  # third cube along z, then y = 1, z = 1 in it
    assert torch.equal(joined(voxels, (8, 4, 12), 4, 1), x)
    tokens = torch.randn(2, 6, 8, 8 * 3)  # tokens of 2 voxels a side: 8 voxels, 3 channels of each
    whole = joined(tokens, (8, 4, 12), 2, 2)
    assert torch.equal(whole[0, :, 1, 0, 5], tokens[0, 1, 0, 15:18])  # second cube, first token, its voxel (1, 0, 1)


def test_recomputed_levels_change_no_gradient() -> None:
    net, asked = tiny()
    gradients = []
    for levels in (0, 3):
        net.recompute = levels
        net.zero_grad()
        net(**asked).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert apart(*gradients) < 1e-6


def test_it_is_one_graph_and_every_parameter_learns() -> None:
    """Without a break for torch.compile, and with nothing left out, which several processes could not train."""
    net, asked = tiny(multipliers=(1, 2), attention=(False, True))
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    answer = compiled(**asked)
    assert apart(answer, net(**asked)) < 1e-5
    answer.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_new_network_begins_as_a_unet() -> None:
    """The transformers' maps and gates are zero at first, as published."""
    torch.manual_seed(0)
    net, (_, asked) = BiFlowNet(TINY), tiny()
    encoded = net.encoder(**asked)
    assert not any(map_.any() for map_ in net.transformed(encoded, (8, 4, 12)))
    assert all(torch.equal(skip, encoded.tokens) for skip in encoded.skips)


@pytest.mark.parametrize(("token", "millions"), [(1, 157.62), (2, 157.77)])
def test_published_sizes(token: int, millions: float) -> None:
    with torch.device("meta"):
        net = BiFlowNet(BiFlowNetConfig(token=token))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert net.stride == 8


def test_default_configuration_is_the_official_release() -> None:
    official = official_config(None, {})
    assert official.network == BiFlowNetConfig() == MedDiffusionConfig().network
    assert Epsilon(Cosine(steps=official.steps, largest=0.9999)) == MedDiffusionConfig().parameterization


@torch.no_grad()
def test_a_training_checkpoint_gives_its_averaged_weights_and_its_options(
    reference_folder: Path, known: dict[str, Tensor], tmp_path: Path
) -> None:
    """As the official script writes it: model, ema, scaler, opt, an argparse.Namespace, epoch."""
    files = reference_folder / "meddiffusion" / "biflownet"
    ema = torch.load(files.with_suffix(".pt"), weights_only=True)
    told = json.loads(files.with_suffix(".json").read_text())
    options = argparse.Namespace(
        model_dim=told["dim"],
        dim_mults=told["dim_mults"],
        volume_channels=8,
        num_classes=told["cond_classes"],
        use_attn=told["use_sparse_linear_attn"],
        patch_size=2,
        num_dit=1,
        vq_size=64,
        timesteps=1000,
        data_path="/secret",
    )
    content = {
        "model": {name: tensor + 1 for name, tensor in ema.items()},
        "ema": ema,
        "scaler": {},
        "opt": {"state": {}, "param_groups": []},
        "args": options,
        "epoch": 7,
    }
    torch.save(content, tmp_path / "0453500.pt")
    (tmp_path / "heads.json").write_text(
        json.dumps({k: told[k] for k in ("attn_heads", "resnet_groups", "DiT_num_heads")})
    )
    import_meddiffusion(tmp_path / "0453500.pt", tmp_path / "heads.json", None, tmp_path / "model")
    network: Any = gen3d.load(tmp_path / "model").network
    assert apart(network(known["x"], known["t"], known["y"], known["resolution"]), known["out"]) < 2e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": (True,)}, "attention: expected 3 values"),
        ({"multipliers": (2, 2, 2)}, "multipliers"),
        ({"multipliers": (1, 2, 1)}, "multipliers"),
        ({"token": 3}, "token: 3 does not divide"),
        ({"transformer_heads": 5}, "transformer_heads: 5"),
        ({"kernel": 4}, "odd"),
    ],
)
def test_a_shape_that_can_not_be_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_what_is_asked_wrongly_is_said() -> None:
    net, asked = tiny()
    for changes, message in (
        ({"label": None}, "needs a class"),
        ({"vector": None}, "resolution"),
        ({"vector": torch.ones(2, 4)}, "resolution"),
        ({"x": torch.zeros(2, 3, 8, 6, 12)}, "multiples of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            net(**{**asked, **changes})
