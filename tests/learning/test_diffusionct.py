"""DiffusionCT's two phases and our flow: what is frozen, what each start begins at, and that errors fall."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import load_component, load_system, save_model
from gen3d.core.error import UserError
from gen3d.core.parameterization import Epsilon, Flow, Parameterization
from gen3d.core.system import System
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Case, Prepared, Volume
from gen3d.latent.diffusionct import STARTS, DiffusionCT, DiffusionCTConfig
from gen3d.latent.kernel_autoencoder import (
    DiffusionCTAutoencoder,
    DiffusionCTAutoencoderConfig,
    UNetAutoencoder,
    UNetAutoencoderConfig,
    folded,
    unfolded,
)
from gen3d.latent.kernel_flow import KernelFlow, KernelFlowConfig
from gen3d.latent.kernel_pairs import UNIT_HU, Simulation
from gen3d.latent.kernel_spectrum import content
from gen3d.latent.kernels import convert, kernel, reconstructions
from gen3d.nn.unet import UNetConfig

AUTOENCODER = UNetAutoencoderConfig(width=8, multipliers=(1, 2), blocks=1, latent_channels=4, groups=4)
FLAT = (16, 16, 1)


def network(channels: int) -> UNetConfig:
    return UNetConfig(
        in_channels=2 * channels, out_channels=channels, width=8, multipliers=(1, 2), blocks=1, groups=4,
        present=3, vector=3, classes=1,
    )  # fmt: skip


def latent(**changes: object) -> DiffusionCT:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "autoencoder": AUTOENCODER, "architecture": "compact", "network": network(4), "patch": FLAT,
        "starts": STARTS, "parameterization": Flow(),
    }  # fmt: skip
    return DiffusionCT(DiffusionCTConfig(**settings | changes))  # type: ignore[arg-type]


def wavelet(**changes: object) -> KernelFlow:
    torch.manual_seed(0)
    settings: dict[str, object] = {"network": network(16), "patch": FLAT, "starts": STARTS}
    return KernelFlow(KernelFlowConfig(**settings | changes))  # type: ignore[arg-type]


def scan(seed: int = 0, size: tuple[int, int, int] = (48, 44, 6)) -> Volume:
    """Blocks of air, fat, tissue and bone."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([-1000.0, -100.0, 40.0, 700.0], [-(-n // 6) for n in size], p=[0.2, 0.3, 0.4, 0.1])
    whole = coarse.repeat(6, 0).repeat(6, 1).repeat(6, 2)[: size[0], : size[1], : size[2]]
    return Volume(whole.astype(np.float32), np.diag([-0.7, -0.7, 2.0, 1.0]), "ct")


def cases(system: DiffusionCT | DiffusionCTAutoencoder, count: int = 2) -> list[Prepared]:
    return [system.prepare(Case(f"c{i}", {"ct": scan(i)})) for i in range(count)]


def train(system: System, made: list[Prepared], run: Path, steps: int, lr: float = 5e-3) -> list[float]:
    config = TrainConfig(steps=steps, batch=4, lr=lr, ema=0.0, log_every=1, checkpoint_every=1000, precision="fp32")
    totals = []
    for report in Trainer(system, made, config, run).train():
        totals.append(sum(value for name, value in report.items() if "/" in name))
    return totals


def test_the_autoencoder_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = DiffusionCTAutoencoder(DiffusionCTAutoencoderConfig(network=AUTOENCODER, patch=FLAT))
    totals = train(system, cases(system), tmp_path, 40)
    assert np.mean(totals[-5:]) < 0.6 * np.mean(totals[:5])
    again = load_system(DiffusionCTAutoencoder, tmp_path / "model")
    image = torch.randn(1, 1, 13, 18, 1)
    assert torch.equal(again.network(image), system.eval().network(image))


@pytest.mark.parametrize("size", [(13, 18, 1), (8, 9, 5)])
def test_any_size_comes_back(size: tuple[int, int, int]) -> None:
    plane = size[2] == 1
    config = UNetAutoencoderConfig(width=8, multipliers=(1, 2, 4), latent_channels=16 if plane else 64, groups=4,
                                   plane=plane, shortcut=True)  # fmt: skip
    network = UNetAutoencoder(config)
    image = torch.randn(2, 1, *size)
    assert torch.equal(network(image), image)  # as many numbers as voxels: the shortcut begins as the identity
    mean, deviation = network.moments(image)
    assert mean.shape == (2, config.latent_channels, *(-(-n // 4) for n in size))
    assert not deviation.any()
    torch.testing.assert_close(folded(unfolded(mean, 4), 4, config.latent_channels), mean)


def test_the_latent_is_all_that_the_decoder_sees() -> None:
    """No skip: with another image's latent the decoder gives that image, whatever was encoded before."""
    network = UNetAutoencoder(AUTOENCODER)
    one, other = torch.randn(2, 1, 1, 16, 16, 1)
    z = network.moments(other)[0]
    network.moments(one)
    assert torch.equal(network.voxels(z), network(other))


def test_phase_two_leaves_the_autoencoder_alone(tmp_path: Path) -> None:
    system = latent(starts=("flow",), patch=(32, 32, 1))
    made = cases(system)
    system = system.measure(made)
    before = {name: value.clone() for name, value in system.autoencoder.state_dict().items()}
    assert not torch.equal(system.space.scale, torch.ones(4))
    totals = train(system, made, tmp_path, 30)
    assert np.mean(totals[-5:]) < np.mean(totals[:5])
    for name, value in system.autoencoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = load_system(DiffusionCT, tmp_path / "model")
    assert torch.equal(again.space.scale, system.space.scale)
    fresh = UNetAutoencoder(AUTOENCODER)
    load_component(fresh, tmp_path / "model" / "autoencoder")
    assert torch.equal(fresh.stem.weight, before["stem.weight"])


@pytest.mark.parametrize(
    "system", [latent(), latent(parameterization=Epsilon()), wavelet()], ids=["flow", "eps", "ours"]
)
@torch.inference_mode()
def test_every_start_begins_where_it_says(system: DiffusionCT) -> None:
    levels = system.config.parameterization.levels
    whole = system.example(Case("c", {"ct": scan(size=(16, 16, 1))}))
    z = system.origin(whole)
    starts = {s: system.asked(whole, "B30", None, s) for s in STARTS}
    sigma = levels.sigma_max
    assert float(system.start(starts["noise"], ["k"], 1.0).std()) == pytest.approx(1, abs=0.2)
    torch.testing.assert_close(system.start(starts["flow"], ["k"], sigma) / sigma, z)
    noised = system.start(starts["source"], ["k"], system.config.t0) - z
    assert float(noised.std()) == pytest.approx(system.config.t0, rel=0.2)
    assert not system.condition(starts["source"]).channels.any()
    torch.testing.assert_close(system.condition(starts["flow"]).channels, system.space.encode(whole["source"]))


def test_an_untrained_flow_returns_the_source() -> None:
    """The network starts at nothing, so one step from the filtered source ends there."""
    system = wavelet()
    whole = system.asked(system.example(Case("c", {"ct": scan(size=(18, 22, 1))})), "B30", None, "flow")
    sigma = torch.tensor(1e4, dtype=torch.float64)
    x = system.start(whole, ["k"], 1e4)
    made = system.finish(system.denoise(system.condition(whole), ["k"])(x, sigma), whole)
    wanted = system.prefiltered(whole).clamp(*system.window("ct"))
    torch.testing.assert_close(made, wanted, atol=2e-3, rtol=0)


def test_our_flow_learns_and_is_saved(tmp_path: Path) -> None:
    told = Simulation(sources=("B60", "B70"), told=1.0)
    system = wavelet(starts=("flow",), patch=(32, 32, 1), simulation=told, prefilter=False)
    made = [system.prepare(Case("c", {"ct": scan(1, (64, 64, 2))}))]
    system = system.measure(made)
    totals = train(system, made, tmp_path, 40)
    assert np.mean(totals[-10:]) < 0.8 * np.mean(totals[:10])
    again = load_system(KernelFlow, tmp_path / "model")
    whole = again.asked(again.example(made[0]), "B30", "B70")
    assert torch.equal(again.prefiltered(whole), system.eval().prefiltered(whole))


def test_the_change_scales_what_the_network_says_of_a_flow_alone() -> None:
    said = {}
    for change in (1.0, 0.1):
        system = latent(change=change).eval()
        torch.nn.init.normal_(system.network.out.weight, std=0.05, generator=torch.Generator().manual_seed(0))
        whole = system.example(Case("c", {"ct": scan(size=(16, 16, 1))}))
        x, sigma = torch.ones(1, 4, 8, 8, 1), torch.tensor([0.5])
        for start in ("flow", "noise"):
            condition = system.condition(system.asked(whole, "B30", None, start))
            with torch.no_grad():
                said[start, change] = system.guess(x, sigma, condition) - x / 1.5  # c_skip of the flow at 0.5
    assert said["flow", 1.0].abs().max() > 1e-3
    torch.testing.assert_close(said["flow", 0.1], 0.1 * said["flow", 1.0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(said["noise", 0.1], said["noise", 1.0])


def test_an_unnamed_kernel_is_read_off_the_noise() -> None:
    system = wavelet()
    flat = torch.full((160, 160, 1), -260.0)
    flat[:20] = -1000
    for name in ("B50", "B70"):
        pair = reconstructions(flat, (0.7, 0.7), [kernel(name), kernel("B30")], noise_hu=10, key="k")
        source, target = (image.numpy() for image in pair)
        whole = system.example(Case("c", {"ct": Volume(source, np.diag([-0.7, -0.7, 1.0, 1.0]), "ct")}))
        made = system.prefiltered(system.asked(whole, "B30"))[0, 0].numpy() * UNIT_HU
        assert np.abs(made - target).mean() < 0.35 * np.abs(source - target).mean(), name
        named = system.prefiltered({**system.asked(whole, "B30"), "found": kernel(name)})
        assert torch.equal(named, system.prefiltered(system.asked(whole, "B30", name)))


def test_a_named_kernel_is_the_filter_between_two_with_the_noise_that_was_measured() -> None:
    system = wavelet()
    volume = scan(size=(60, 50, 1))
    whole = system.asked(system.example(Case("c", {"ct": volume})), "B30", "B50")
    made = system.prefiltered(whole)[0, 0] * UNIT_HU
    there = torch.from_numpy(volume.voxels)  # LPS as the model's axes
    measured = content(there, (0.7, 0.7), kernel("B50"))
    assert measured[0] > 0
    wanted = convert(there, (0.7, 0.7), kernel("B50"), kernel("B30"), *measured)
    torch.testing.assert_close(made, wanted, atol=0.1, rtol=0)
    assert (wanted - there).abs().max() > 50


@pytest.mark.parametrize("size", [(16, 16, 8), (16, 16, 1)])
def test_volumes_and_slices(size: tuple[int, int, int]) -> None:
    flat = size[2] == 1
    system = wavelet(network=network(16 if flat else 64), patch=size, plane=flat, prefilter=False)
    example = system.example(cases(system)[0], "k")
    assert example["source"].shape == (1, 1, *size)
    assert all(torch.isfinite(term) for term in system.loss(example, ["k"]).values())


def test_without_pairs_source_and_target_have_nothing_in_common() -> None:
    system = latent(starts=("source",), patch=(32, 32, 1), simulation=Simulation(paired=False))
    (case, _) = cases(system)
    example = system.example(case, "k")
    both = torch.stack([example["source"].flatten(), example["target"].flatten()])
    assert torch.corrcoef(both)[0, 1].abs() < 0.6
    pair = latent(patch=(32, 32, 1)).example(case, "k")
    assert torch.corrcoef(torch.stack([pair["source"].flatten(), pair["target"].flatten()]))[0, 1] > 0.8
    with pytest.raises(ValueError, match="without pairs only 'source'"):
        DiffusionCTConfig(starts=("flow",), simulation=Simulation(paired=False))


def test_what_a_model_was_not_trained_for() -> None:
    system = latent(starts=("flow",))
    whole = system.example(Case("c", {"ct": scan(size=(16, 16, 1))}))
    with pytest.raises(UserError, match="start 'noise': this model was trained for flow"):
        system.asked(whole, "B30", None, "noise")
    with pytest.raises(UserError, match="kernel 'B50': this model makes B30"):
        system.asked(whole, "B50")
    with pytest.raises(UserError, match="no CT in Hounsfield units"):
        system.prepare(Case("mri", {"ct": Volume(np.random.default_rng(0).random((8, 8, 2)) * 900, np.eye(4))}))


@pytest.mark.parametrize("parameterization", [Flow(), Epsilon()])
def test_seeds_decide_what_is_drawn(parameterization: Parameterization, tmp_path: Path) -> None:
    system = latent(parameterization=parameterization).eval()
    save_model(system, tmp_path / "m", dtype=torch.float16)
    whole = system.asked(system.example(Case("c", {"ct": scan(size=(16, 16, 1))})), "B30", None, "noise")
    one, same, other = (system.start(whole, [key], 1.0) for key in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
