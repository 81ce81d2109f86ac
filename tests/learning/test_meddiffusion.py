"""3D MedDiffusion on a frozen autoencoder learns classes, sizes and spacings in seconds, and is saved whole."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gen3d
from gen3d.core.config import build, to_tree
from gen3d.core.error import UsageError, UserError
from gen3d.core.parameterization import EDM, Cosine, Epsilon, LogNormal
from gen3d.core.randomness import generator
from gen3d.core.system import Sampling
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Prepared, Scale, Triple
from gen3d.latent.biflownet import BiFlowNetConfig
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.meddiffusion import MedDiffusion, MedDiffusionConfig
from gen3d.latent.patch_volume import PatchVolume
from gen3d.samplers import SAMPLERS, karras

AUTOENCODER = PatchVolumeConfig(
    width=8, stride=4, codes=32, patch=8, groups=4, heads=2, head_width=4, latent_channels=4
)
NETWORK = BiFlowNetConfig(
    channels=4,
    width=24,
    multipliers=(1, 2),
    attention=(False, True),
    heads=2,
    head_width=8,
    groups=8,
    patch=2,
    token=1,
    transformer_heads=2,
    classes=2,
    spacing=True,
)
TINY = MedDiffusionConfig(
    axes="RAS",
    classes=("dark", "light"),
    labels={"dark*": "dark", "light*": "light"},
    label_dropout=0.2,
    autoencoder=AUTOENCODER,
    scaling="statistics",
    network=NETWORK,
    parameterization=EDM(LogNormal(mean=-0.4, std=1.2), sigma_data=1.0),
    loss="l2",
    clamp=False,
    sampling=Sampling(steps=8),
    size=(16, 16, 8),
)


def case(name: str, size: Triple, spacing: float = 1.0) -> Prepared:
    """A blob that is dark or light on the other."""
    sign = -0.8 if name.startswith("dark") else 0.8
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    voxels = sign * np.cos(2 * grid).prod(0)[None]
    return Prepared(name, name, voxels.astype(np.float16), np.ones(1, bool), None, (spacing,) * 3, (Scale(),))


def drawn(system: MedDiffusion, keys: Sequence[str] = ("k",)) -> Tensor:
    """Draw as ``gen3d generate`` does."""
    levels = system.config.parameterization.levels
    sigmas = karras(8, levels.sigma_min, levels.sigma_max)
    example = system.blank()
    with torch.inference_mode():
        denoise = system.denoise(system.condition(example), keys)
        coords = SAMPLERS["dpmpp_2m"](denoise, system.start(example, keys, float(sigmas[0])), sigmas)
        return system.finish(coords, example)


def asked(system: MedDiffusion, **changes: Any) -> MedDiffusion:
    """The system with another wish, which it keeps."""
    system.config = replace(system.config, **changes)
    return system


def encoded(system: MedDiffusion, of: Prepared) -> dict[str, Any]:
    """A training example as of a cached latent."""
    example = system.example(of, "k")
    mean, deviation = system.moments(example)
    return {**example, "mean": mean, "deviation": deviation}


CASES = [case("dark1", (16, 16, 8)), case("light1", (16, 16, 8)), case("light2", (13, 8, 8), 2.0)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Where two classes and two sizes were learnt in one run, and its losses."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    system = MedDiffusion(TINY)
    system.adopt(PatchVolume(AUTOENCODER))
    cases = system.cached(CASES, run / "latents")
    config = TrainConfig(steps=60, accumulate=3, lr=6e-3, warmup=5, ema=0.9, log_every=15, precision="fp32")
    reports = list(Trainer(system.measure(cases), cases, config, run).train())
    return run / "model", [float(report["meddiffusion/l2"]) for report in reports]


@pytest.fixture
def model(trained: tuple[Path, list[float]]) -> MedDiffusion:
    loaded = gen3d.load(trained[0])
    assert isinstance(loaded, MedDiffusion)
    return loaded


def test_loss_falls(trained: tuple[Path, list[float]]) -> None:
    history = trained[1]
    assert history[-1] < 0.6 * history[0]


def test_loaded_twice_draws_the_same_and_carries_everything(trained: tuple[Path, list[float]]) -> None:
    one, other = gen3d.load(trained[0]), gen3d.load(trained[0])
    assert isinstance(one, MedDiffusion)
    assert isinstance(other, MedDiffusion)
    assert one.config == other.config == replace(TINY, spacing=(1.0, 1.0, 1.0))
    volume = drawn(asked(one, label="dark"))
    assert volume.shape == (1, 1, 16, 16, 8)
    assert torch.equal(volume, drawn(asked(other, label="dark")))
    assert one.space.scale.std() > 0
    assert not any(p.requires_grad for p in one.autoencoder.parameters())


def test_latents_come_out_by_class(model: MedDiffusion) -> None:
    """The mean latent that is drawn lies nearer to that of its own class than to that of the other."""
    latents = {
        name: model.space.normalise(model.moments(model.example(c, "k"))[0])
        for name, c in zip("dl", CASES, strict=False)
    }
    for name, label in (("d", "dark"), ("l", "light")):
        example = asked(model, label=label).blank()
        sigma = torch.tensor(model.config.parameterization.levels.sigma_max, dtype=torch.float64)
        with torch.inference_mode():
            guess = model.denoise(model.condition(example), ["k"])(model.start(example, ["k"], float(sigma)), sigma)
        errors = {n: float((guess - latent).square().mean()) for n, latent in latents.items()}
        assert min(errors, key=lambda n: errors[n]) == name


def test_guidance_of_one_is_none_and_more_is_more(model: MedDiffusion) -> None:
    x, sigma = torch.randn(1, 4, 4, 4, 2, generator=generator("x")), torch.tensor(1.0, dtype=torch.float64)
    guesses = {}
    with torch.inference_mode():
        for scale in (1.0, 3.0):
            condition = asked(model, label="dark", guidance=scale).condition(model.blank())
            guesses[scale] = model.denoise(condition, ["k"])(x, sigma)
        told, untold = (model.denoiser(x, sigma, replace(condition, label=torch.tensor([label]))) for label in (0, -1))
    assert torch.equal(guesses[1.0], told)
    assert torch.allclose(guesses[3.0], untold + 3 * (told - untold), atol=1e-5)
    assert not torch.allclose(guesses[3.0], told, atol=1e-3)


@pytest.mark.parametrize("size", [(9, 12, 5), (16, 24, 8), (4, 4, 4)])
def test_any_size(model: MedDiffusion, size: Triple) -> None:
    """Padded to the autoencoder's patches of 8 voxels, cropped in the end."""
    volume = drawn(asked(model, size=size, label="light"))
    assert volume.shape == (1, 1, *size)
    assert volume.isfinite().all()
    assert abs(float(volume.min())) <= 1


def test_size_and_spacing_are_told(model: MedDiffusion) -> None:
    small = model.condition(asked(model, size=(8, 8, 8)).blank())
    assert small.vector is not None
    assert small.vector.tolist() == [[2 / 64, 2 / 64, 2 / 64, 1, 1, 1]]
    example = model.example(CASES[2])
    told = model.condition(example)
    assert told.vector is not None
    assert told.label is not None
    assert told.vector.tolist() == [[4 / 64, 2 / 64, 2 / 64, 2, 2, 2]]  # 13 voxels: 16, 4 in the latent
    assert told.label.tolist() == [1]


def test_a_cached_latent_trains_as_its_voxels_do(model: MedDiffusion, tmp_path: Path) -> None:
    """But for the cache's float16; a small volume is lengthened to a patch in both."""
    small = case("light3", (5, 12, 8))
    cached = model.cached([CASES[0], small], tmp_path)
    for plain, stored in zip((CASES[0], small), cached, strict=True):
        example = model.example(stored, "k")
        assert "voxels" not in example
        losses = [model.loss(e, ["k"])["l2"].item() for e in (example, model.example(plain, "k"))]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert model.example(cached[0])["voxels"].shape == (1, 1, 16, 16, 8)


def test_a_latent_with_a_deviation_is_drawn_by_key(model: MedDiffusion) -> None:
    example = encoded(model, CASES[0])
    sure = model.loss(example, ["k"])["l2"].item()
    example["deviation"] = example["deviation"] + 0.5
    first, again, other = (model.loss(example, [key])["l2"].item() for key in ("k", "k", "j"))
    assert sure != first == again != other


def test_a_class_is_withheld_by_key(model: MedDiffusion) -> None:
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
            seen.extend(condition.label.tolist())
            return x

    model.denoiser = Spy()  # type: ignore[assignment]
    example = encoded(model, CASES[1])
    for index in range(100):
        model.loss(example, [f"{index}"])
    assert 10 < seen.count(-1) < 32
    assert seen.count(1) == 100 - seen.count(-1)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_loss_is_on_the_noise_as_published(loss: str) -> None:
    """Epsilon on the cosine chain: the mean error of the noise itself, here told by a network that answers zero."""
    torch.manual_seed(0)
    config = replace(TINY, parameterization=Epsilon(Cosine(largest=0.9999)), loss=loss, clamp=True)
    system = MedDiffusion(config).measure(CASES)
    torch.nn.init.zeros_(system.network.out.weight)
    torch.nn.init.zeros_(system.network.out.bias)  # type: ignore[arg-type]
    example = encoded(system, CASES[0])
    with torch.no_grad():
        found = [float(system.loss(example, [f"{i}"])[loss]) for i in range(40)]
    expected = (2 / torch.pi) ** 0.5 if loss == "l1" else 1.0
    assert np.mean(found) == pytest.approx(expected, abs=0.02)
    with torch.no_grad():
        guess = system.denoise(system.condition(system.example(CASES[0])), ["k"])(
            torch.full((1, 4, 4, 4, 2), 9.0), torch.tensor(5.0)
        )
    assert float(guess.max()) == 1.0


def test_codebook_scaling_takes_the_codes_to_one() -> None:
    autoencoder = PatchVolume(AUTOENCODER)
    system = MedDiffusion(replace(TINY, scaling="codebook"))
    system.adopt(autoencoder)
    codes = system.space.normalise(autoencoder.codebook.vectors.T.reshape(1, 4, 32, 1, 1))
    assert float(codes.min()) == pytest.approx(-1, abs=1e-6)
    assert float(codes.max()) == pytest.approx(1, abs=1e-6)
    loaded = MedDiffusion(system.config)  # as training does: the weights, then measuring
    loaded.autoencoder.load_state_dict(autoencoder.state_dict())
    measured = loaded.measure(CASES)
    assert torch.equal(measured.space.scale, system.space.scale)
    assert torch.equal(measured.space.shift, system.space.shift)
    assert torch.equal(measured.autoencoder.codebook.vectors, autoencoder.codebook.vectors)


def test_configuration_survives_yaml_and_says_what_is_wrong() -> None:
    assert build(MedDiffusionConfig, to_tree(TINY)) == TINY
    tree = to_tree(TINY)
    for changes, message in (
        ({"autoencoder": {"kind": "patch_vol"}}, "did you mean 'patch_volume'"),
        ({"autoencoder": {"kind": "patch_volume", "widht": 8}}, "did you mean 'width'"),
        ({"classes": ["dark"]}, "expected classes 1"),
        ({"labels": {"*": "drak"}}, "did you mean 'dark'"),
        ({"contrasts": ["a", "b"]}, "expected one"),
        ({"label_dropout": 0.0, "guidance": 2.0, "label": "dark"}, "without label_dropout"),
        ({"guidance": 2.0}, "needs a class"),
        ({"network": {**tree["network"], "channels": 8}}, "expected channels 4"),
    ):
        with pytest.raises(UsageError, match=message):
            build(MedDiffusionConfig, {**tree, **changes})


def test_what_does_not_fit_is_said() -> None:
    system = MedDiffusion(TINY)
    with pytest.raises(UserError, match="of another shape"):
        system.adopt(PatchVolume(replace(AUTOENCODER, width=16)))
    with pytest.raises(UserError, match="no case is called dark"):
        system.measure([case("other", (8, 8, 8))])
    with pytest.raises(UserError, match="use gen3d generate"):
        system.accept(["image"], ["image"])
