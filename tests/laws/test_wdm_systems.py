"""WDM and cWDM as systems: the published preprocessing, the way back, the loss, and which network learns what."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.error import UserError
from gen3d.core.parameterization import X0, Betas
from gen3d.core.randomness import derive, normal, uniform
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Case, Volume, axcodes
from gen3d.nn.haar import haar
from gen3d.nn.unet import UNetConfig
from gen3d.samplers import ancestral, ddpm
from gen3d.wavelet.cwdm import CWDM, CWDMConfig
from gen3d.wavelet.wdm import WDM, WDMConfig, coordinate_loss

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TINY: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "groups": 4}
CHAIN = X0(Betas(steps=10, start=0.01, end=0.5))


def study(*size: int, contrasts: tuple[str, ...] = CONTRASTS, seed: int = 0) -> Case:
    """A brain-like study: positive inside an ellipsoid, 0 outside."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    inside = sum(a**2 for a in axes) < 0.8
    volumes = {
        name: Volume((inside * rng.gamma(4.0, 100.0, size)).astype(np.float32), LPS.copy(), name) for name in contrasts
    }
    return Case("study", volumes)


def randomized(system: Any) -> Any:
    torch.manual_seed(0)
    for parameter in system.parameters():
        nn.init.normal_(parameter, std=0.1)
    return system.eval()


def tiny_cwdm(**changes: Any) -> CWDM:
    network = UNetConfig(32, 8, skips="concat", **TINY)
    config = {"size": (16, 16, 8), "network": network, "parameterization": CHAIN, **changes}
    system = randomized(CWDM(CWDMConfig(**config)))
    for network in system.networks.values():
        network.out.bias.data[0] += 0.5  # answers around the middle of the grey scale
    return system


def tiny_wdm(**changes: Any) -> WDM:
    config = {"canvas": (16, 16, 16), "pool": 1, "network": UNetConfig(8, 8, **TINY), "parameterization": CHAIN}
    return randomized(WDM(WDMConfig(**{**config, **changes})))


def minmax(volume: np.ndarray) -> np.ndarray:
    """The published grey scale: cut at two quantiles of the whole volume, then to 0..1."""
    low, high = np.quantile(volume, [0.001, 0.999])
    return (np.clip(volume, low, high) - low) / (high - low)


@pytest.mark.parametrize(("pool", "side"), [(1, 256), (2, 128)])
def test_wdm_prepares_brats_as_published(pool: int, side: int) -> None:
    case = study(240, 240, 155, contrasts=("t1n",))
    with torch.device("meta"):
        system = WDM(WDMConfig(pool=pool))
    prepared = system.prepare(case)
    expected = np.pad(minmax(case.volumes["t1n"].voxels), [(8, 8), (8, 8), (50, 51)])
    expected = expected.reshape(side, pool, side, pool, side, pool).mean((1, 3, 5)) * 2 - 1
    assert prepared.voxels.shape == (1, side, side, side)
    assert prepared.spacing == (pool, pool, pool)
    np.testing.assert_allclose(prepared.voxels[0], expected, atol=2e-6)


def test_cwdm_prepares_brats_as_published_and_puts_it_back() -> None:
    case = study(240, 240, 155)
    with torch.device("meta"):
        system = CWDM(CWDMConfig())
    prepared = system.prepare(case)
    expected = np.stack(
        [np.pad(minmax(case.volumes[c].voxels), [(0, 0), (0, 0), (0, 5)])[8:-8, 8:-8] for c in CONTRASTS]
    )
    assert prepared.voxels.shape == (4, 224, 224, 160)
    np.testing.assert_allclose(prepared.voxels, expected, atol=2e-6)
    assert prepared.placement is not None
    back = prepared.placement.place(prepared.voxels[0])
    assert back.shape == (240, 240, 155)
    np.testing.assert_allclose(back[8:-8, 8:-8], minmax(case.volumes["t1n"].voxels)[8:-8, 8:-8], atol=2e-6)
    assert not back[:8].any()


@torch.no_grad()
def completed(system: CWDM, case: Case) -> tuple[Tensor, Any]:
    example = system.example(case)
    sigmas = ddpm(10, CHAIN.levels.table)  # type: ignore[union-attr]
    noise = iter(normal([f"step{i}" for i in range(10)], (1, 8, 8, 8, 4)))
    x = system.start(example, ["noise"], float(sigmas[0]))
    denoise = system.denoise(system.condition(example), ["noise"])
    coords = ancestral(denoise, x, sigmas, variance="large", noise=lambda _: next(noise))
    return system.finish(coords, example), example


def without(case: Case, name: str) -> Case:
    return replace(case, volumes={n: v for n, v in case.volumes.items() if n != name})


@pytest.mark.parametrize("missing", ["t1n", "t2w"])
def test_cwdm_makes_the_missing_contrast_and_keeps_the_others(missing: str) -> None:
    system, case = tiny_cwdm(targets=("t1n", "t2w")), study(16, 16, 8)
    voxels, example = completed(system, without(case, missing))
    channel = CONTRASTS.index(missing)
    given = [c for c in range(4) if c != channel]
    assert torch.equal(voxels[:, given], example["voxels"][:, given])
    made, outside = voxels[0, channel], example["voxels"][0, given[0]] == 0
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert not made[outside].any()
    assert float(made[~outside].std()) > 0.01


def test_turning_the_input_turns_the_output() -> None:
    system, case = tiny_cwdm(), without(study(16, 16, 8), "t1n")
    turned = replace(case, volumes={name: volume.reoriented("SRA") for name, volume in case.volumes.items()})
    (one, a), (other, b) = completed(system, case), completed(system, turned)
    assert torch.equal(one, other)
    assert float(one[0, 0].std()) > 0.01
    volume = Volume(b["prepared"].placement.place(other[0, 0].numpy()), turned.volumes["t1c"].affine)
    np.testing.assert_array_equal(volume.reoriented("LPS").voxels, a["prepared"].placement.place(one[0, 0].numpy()))


def test_cwdm_condition_is_the_other_contrasts_in_order() -> None:
    system, case = tiny_cwdm(), without(study(16, 16, 8), "t1c")
    example = system.example(case)
    channels = system.condition(example).channels
    assert channels is not None
    expected = [haar(example["voxels"][:, [c]]) for c in (0, 2, 3)]
    torch.testing.assert_close(channels[:, ::8] * 3, torch.cat([e[:, :1] for e in expected], 1))
    torch.testing.assert_close(channels[:, 1:8], expected[0][:, 1:])


def test_cwdm_says_what_it_needs() -> None:
    system = tiny_cwdm(targets=("t1n", "t2f"))
    system.accept(["t1c", "t2w", "t2f"], ["t1n"])
    for given, missing, message in [
        (["t1n", "t2w", "t2f"], ["t1c"], "makes t1n, t2f"),
        (["t1c", "t2w"], ["t1n", "t2f"], "one contrast from all the others"),
        (["t1c", "t2f"], ["t1n"], "t1n, t2w"),
        (list(CONTRASTS), [], "none"),
    ]:
        with pytest.raises(UserError, match=message):
            system.accept(given, missing)
    with pytest.raises(UserError, match="gen3d generate"):
        tiny_wdm().accept([], ["t1n"])


def test_loss_weighs_every_subband_alike() -> None:
    system = tiny_wdm()
    x0, keys = torch.randn(2, 8, 8, 8, 8), ["a", "b"]
    sigma = CHAIN.levels.draw(uniform([derive(k, "sigma") for k in keys]))
    noisy = x0 + sigma.float().view(2, 1, 1, 1, 1) * normal([derive(k, "noise") for k in keys], (8, 8, 8, 8))
    error = (system.denoiser(noisy, sigma) - x0).square().mean((0, 2, 3, 4))
    loss = coordinate_loss(system.denoiser, x0, system.condition({}), keys)
    torch.testing.assert_close(loss, sum(error) / 8)


@torch.no_grad()
def test_wdm_generates_within_its_grey_scale_in_any_size() -> None:
    system = tiny_wdm(canvas=(18, 15, 12))
    example = system.blank()
    sigmas = ddpm(4, CHAIN.levels.table)  # type: ignore[union-attr]
    x = system.start(example, ["a", "b"], float(sigmas[0]))
    assert torch.equal(x[1:], system.start(example, ["b"], float(sigmas[0])))
    voxels = system.finish(ancestral(system.denoise(system.condition(example), ["a", "b"]), x, sigmas), example)
    assert voxels.shape == (2, 1, 18, 15, 12)
    assert float(voxels.abs().max()) <= 1


def test_wdm_places_what_it_generates_in_the_middle_of_the_world() -> None:
    system = tiny_wdm(canvas=(16, 32, 8), pool=2, spacing=(1.0, 0.5, 3.0))
    assert axcodes(system.affine) == "LPS"
    assert np.linalg.norm(system.affine[:3, :3], axis=0).tolist() == [2.0, 1.0, 6.0]
    np.testing.assert_allclose(system.affine @ [3.5, 7.5, 1.5, 1], [0, 0, 0, 1])


def test_wdm_measures_spacing_and_statistics() -> None:
    affine = np.diag([-2.0, -1.0, 0.5, 1.0])
    cases = [Case(str(i), {"t1n": replace(study(16, 16, 16, seed=i).volumes["t1n"], affine=affine)}) for i in range(3)]
    system = tiny_wdm(space=replace(WDMConfig().space, scale="statistics"))
    prepared = [system.prepare(case) for case in cases]
    measured = system.measure(prepared)
    assert measured.config.spacing == (2.0, 1.0, 0.5)
    coords = torch.cat([measured.space.encode(system.example(p)["voxels"]) for p in prepared])
    torch.testing.assert_close(coords.std((0, 2, 3, 4), correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_each_target_trains_its_own_network(tmp_path: Path) -> None:
    system = CWDM(replace(tiny_cwdm().config, targets=("t1n", "t2f")))
    cases = [system.prepare(study(16, 16, 8, seed=i)) for i in range(2)]
    one, other = system.objectives()
    assert {id(p) for p in one.parameters}.isdisjoint({id(p) for p in other.parameters})
    terms = one.loss(system.example(cases[0], "key"), ["key"])
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None for p in other.parameters)
    reports = list(Trainer(system, cases, TrainConfig(steps=2, log_every=1, ema=0), tmp_path / "run").train())
    assert {"t1n/mse", "t2f/mse"} <= set(reports[-1])


def test_incomplete_studies_are_refused_in_training() -> None:
    with pytest.raises(UserError, match="lacks the contrast t2w"):
        tiny_cwdm().example(without(study(16, 16, 8), "t2w"), "key")
    with pytest.raises(UserError, match="expected at least one of t1n"):
        tiny_wdm().prepare(study(16, 16, 16, contrasts=("t2w",)))


def test_training_lowers_the_loss_of_a_wdm(tmp_path: Path) -> None:
    system = WDM(tiny_wdm().config)
    smooth = nnf.interpolate(torch.randn(1, 1, 4, 4, 4), size=(16, 16, 16), mode="trilinear")[0, 0].numpy()
    cases = [system.prepare(Case("one", {"t1n": Volume(smooth, LPS)}))]
    config = TrainConfig(steps=60, lr=3e-3, log_every=20, ema=0)
    losses = [report["wdm/mse"] for report in Trainer(system, cases, config, tmp_path / "run").train()]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WDMConfig(canvas=(9, 8, 8)), "multiple of pool"),
        (lambda: WDMConfig(network=UNetConfig(16, 8)), "expected in_channels"),
        (lambda: CWDMConfig(targets=("t1",)), "did you mean 't1"),
        (lambda: CWDMConfig(network=UNetConfig(24, 8)), "in_channels 32"),
    ],
)
def test_impossible_configurations_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
