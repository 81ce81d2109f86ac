"""cDAL: large steps and their posterior, where attention enters, each ablation by one option, and that it learns."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.core.checkpoint import load_system, save_model
from gen3d.core.draws import collate
from gen3d.core.parameterization import VP, X0
from gen3d.core.randomness import Key, normal
from gen3d.core.system import Example, Sampling
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Prepared, Scale
from gen3d.nn.unet import UNetConfig
from gen3d.samplers import ancestral, ddpm
from gen3d.segmentation.cdal import CDAL, CDALConfig
from gen3d.segmentation.discriminator import Discriminator, DiscriminatorConfig

NETWORK = UNetConfig(4, 3, width=8, multipliers=(1, 2), blocks=1, groups=4, latent=6)
RELEASED: dict[str, Any] = {"adversarial": 0.0, "attention": "training_input"}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": RELEASED,
    "no attention": {"attention": "none"},
    "regression": {"attention": "none", "adversarial": 0.0},
    "adversarial alone": {"mse": 0.0},
    "no latent": {"network": replace(NETWORK, latent=0)},
    "no state": {"state": False},
    "bits": {"code": "bits", "network": replace(NETWORK, in_channels=3, out_channels=2)},
    "two steps": {"parameterization": X0(VP(2)), "sampling": Sampling("ancestral", 2, "ddpm")},
    "unet": {"architecture": "unet"},
}


def made(*, trained: bool = True, **changes: Any) -> CDAL:
    """A small model; ``trained`` stands for weights that say something."""
    settings: dict[str, Any] = {
        "labels": ("a", "b"),
        "patch": (8, 8, 4),
        "network": NETWORK,
        "discriminator": DiscriminatorConfig(width=4, multipliers=(1, 2)),
    }
    torch.manual_seed(0)
    system = CDAL(CDALConfig(**settings | changes))
    if trained:
        with torch.no_grad():
            for parameter in system.network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return system.eval()


def example(size: tuple[int, int, int] = (8, 8, 4), count: int = 2) -> Example:
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(count, 1, *size, generator=draw)
    return {"image": image, "labels": torch.randint(0, 3, (count, *size), generator=draw)}


def keys(count: int = 2) -> list[Key]:
    return [f"0/{item}" for item in range(count)]


@torch.no_grad()
def sampled(system: CDAL, given: Example, names: list[Key]) -> Tensor:
    sigmas = ddpm(system.config.sampling.steps, system.levels.table)
    steps = iter(range(len(sigmas)))

    def noise(x: Tensor) -> Tensor:
        step = next(steps)
        return normal([f"{name}/{step}" for name in names], x.shape[1:])

    x = system.start(given, names, float(sigmas[0]))
    x = ancestral(system.denoise(system.condition(given), names), x, sigmas, noise=noise)
    return system.finish(x, given)


def test_the_chain_takes_the_published_steps() -> None:
    for steps, published in ((2, (0.079, 4e-5)), (4, (0.522, 0.079, 0.0034, 4e-5))):
        chain = VP(steps)
        assert chain.alpha_bar().tolist() == pytest.approx(published, rel=0.08)
        torch.testing.assert_close(torch.cumprod(1 - chain.betas(), 0), chain.alpha_bar())
        assert chain.embed(chain.table).tolist() == list(range(steps))
    assert VP(1).embed(VP(1).table).tolist() == [0]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_segments(name: str) -> None:
    system, given = made(**VARIANTS[name]), example()
    objectives = system.objectives()
    assert len(objectives) == (1 if name == "regression" else 2)
    for objective in objectives:
        parameters, terms = list(objective.parameters), objective.loss(given, keys())
        objective.summed(terms).backward()
        assert all(bool(term.isfinite()) for term in terms.values())
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)
        assert any(p.grad is not None and bool(p.grad.any()) for p in parameters)
        for parameter in system.parameters():
            parameter.grad = None
    assert objectives[0].at is not None
    assert objectives[0].at(given, keys(), torch.tensor([1.0, 152.0])).shape == (2,)
    for size in ((8, 8, 4), (7, 9, 5), (8, 8, 1)):
        for found in (sampled(system, example(size), keys()), system.expected(example(size))):
            assert found.shape == (2, 3, *size)
            torch.testing.assert_close(found.sum(1), torch.ones(2, *size))
            assert float(found.min()) >= 0


@pytest.mark.parametrize("steps", [2, 4])
def test_states_in_training_are_those_of_the_walk(steps: int) -> None:
    system = made(
        **VARIANTS["regression"], parameterization=X0(VP(steps)), sampling=Sampling("ancestral", steps, "ddpm")
    )
    table = [0.0, *system.levels.table.tolist()]
    still = torch.zeros(steps, 3, 20, 20, 20)
    level, names = torch.arange(steps), keys(steps)
    previous, x = system.noised(still, level, names, still, attended=False)
    for item, (lower, sigma) in enumerate(pairwise(table)):
        assert float(previous[item].std()) == pytest.approx(lower, rel=0.03)
        assert float(x[item].std()) == pytest.approx(sigma, rel=0.03)
        assert float((x - previous)[item].std()) == pytest.approx((sigma**2 - lower**2) ** 0.5, rel=0.03)
    guess, walked = torch.full_like(x, 0.5), []
    drawn = system.posterior(guess, x, level, names)
    noise = normal([f"{name}/posterior" for name in names], x.shape[1:])
    for item in range(steps):
        sigmas = torch.tensor([table[item + 1], table[item], 0.0][: 3 if item else 2], dtype=torch.float64)
        states: list[Tensor] = []
        ancestral(
            lambda x, sigma: torch.full_like(x, 0.5),
            x[item : item + 1],
            sigmas,
            noise=lambda _, item=item: noise[item : item + 1],
            callback=lambda step, x, x0, states=states: states.append(x.clone()),
        )
        walked.append(states[0])
    torch.testing.assert_close(drawn, torch.cat(walked), rtol=1e-4, atol=1e-4)


def shaken(system: CDAL) -> CDAL:
    """The same model with another discriminator."""
    with torch.no_grad():
        for parameter in system.discriminator.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return system


@torch.no_grad()
def test_attention_enters_where_paper_and_release_say() -> None:
    given = example()
    for name, training, sampling in (("paper", True, True), ("released", True, False), ("no attention", False, False)):
        one, other = made(**VARIANTS[name]), shaken(made(**VARIANTS[name]))
        losses = [system.loss(given, keys())["mse"] for system in (one, other)]
        assert torch.equal(*losses) != training
        assert torch.equal(sampled(one, given, keys()), sampled(other, given, keys())) != sampling
    system = made()
    assert isinstance(system.discriminator, Discriminator)
    state = torch.randn(2, 3, 7, 9, 5)
    _, features = system.judge(state, state, torch.tensor([0, 3]), torch.randn(2, 1, 7, 9, 5))
    normal_map = system.discriminator.attention(features, (7, 9, 5), normalised=True)
    as_it_comes = system.discriminator.attention(features, (7, 9, 5), normalised=False)
    assert normal_map.shape == as_it_comes.shape == (2, 1, 7, 9, 5)
    torch.testing.assert_close(normal_map.mean((1, 2, 3, 4)), torch.ones(2))
    assert float(normal_map.min()) >= 0 > float(as_it_comes.min())
    assert float(normal_map.std()) > 0.01


def test_the_discriminator_is_heard_as_paper_and_release_say() -> None:
    given = example()
    other = {**given, "image": given["image"].flip(2)}
    for image in (True, False):
        judge = DiscriminatorConfig(width=4, multipliers=(1, 2), image=image)
        system = made(attention="none", discriminator=judge)
        x = torch.randn(2, 3, 8, 8, 4)
        answers = [system.judge(x, x, torch.tensor([0, 3]), e["image"])[0] for e in (given, other)]
        assert torch.equal(*answers) != image
    assert "adversarial" in made().loss(given, keys())
    assert set(made(**RELEASED).loss(given, keys())) == {"mse"}
    generator, discriminator = made().objectives()
    assert (generator.rate, discriminator.rate) == (1.0, 0.8)


def test_the_penalty_is_the_squared_slope_and_comes_every_tenth_step() -> None:
    system, given = made(), example()
    assert isinstance(system.discriminator, Discriminator)
    for step, there in ((0, True), (1, False), (9, False), (10, True)):
        system.step = step
        assert ("r1" in system.judge_loss(given, keys())) == there
    x, t = torch.randn(1, 3, 4, 4, 2), torch.tensor([1.0])
    image = torch.randn(1, 1, 4, 4, 2)
    penalty = system.discriminator.penalty(x, x, t, image)
    double, step = system.discriminator.double(), 1e-6
    slopes = []
    for place in range(x.numel()):
        nudge = torch.zeros_like(x, dtype=torch.float64)
        nudge.view(-1)[place] = step
        ends = [double.judged(x + sign * nudge, x.double(), t, image.double())[0].sum() for sign in (1, -1)]
        slopes.append((ends[0] - ends[1]).item() / (2 * step))
    patches = 2 * 2 * 1
    assert penalty.item() == pytest.approx(0.5 * sum(slope**2 for slope in slopes) / patches, rel=1e-3)


def test_z_is_one_for_a_volume_and_changes_the_mask() -> None:
    given, system = example((12, 8, 4)), made(windows=(8, 8, 4), attention="none")
    told: list[Tensor] = []
    inner = system.denoiser.forward

    def heard(x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        told.append(condition.latent)
        return inner(x, sigma, condition)

    system.denoiser.forward = heard  # type: ignore[method-assign]
    sampled(system, given, keys())
    windows = len(told) // 4
    assert windows > 1
    for level in range(4):
        first, *others = told[level * windows : (level + 1) * windows]
        assert all(torch.equal(first, other) for other in others)
        assert not torch.equal(first[0], first[1])
        torch.testing.assert_close(first.square().mean(1), torch.ones(2))
    assert not torch.equal(told[0], told[-1])  # anew at each level
    whole, x = made(attention="none"), torch.randn(1, 3, 12, 8, 4)
    one = {"image": given["image"][:1]}
    with torch.no_grad():
        draws = [whole.denoise(whole.condition(one), [key])(x, whole.levels.table[1]) for key in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2], atol=1e-3)


def test_without_a_state_the_noisy_code_says_nothing() -> None:
    for state in (True, False):
        system, given = made(state=state), example()
        with torch.no_grad():
            denoise = system.denoise(system.condition(given), keys())
            ends = [denoise(torch.randn(2, 3, 8, 8, 4), torch.tensor(3.4, dtype=torch.float64)) for _ in range(2)]
        assert torch.equal(*ends) != state


def toy(item: int) -> Example:
    """A slice with two structures: bright is 1, brighter is 2; noise hides single voxels."""
    draw = torch.Generator().manual_seed(item)
    smooth = nn.functional.interpolate(torch.randn(1, 1, 4, 4, generator=draw), (16, 16), mode="bicubic")[0, 0]
    labels = (smooth > 0.2).long() + (smooth > 0.8).long()
    image = labels.float() - 0.7 + 0.2 * torch.randn(16, 16, generator=draw)
    return {"image": image[None, None, :, :, None], "labels": labels[None, :, :, None]}


@pytest.mark.parametrize("name", ["paper", "released"])
def test_it_learns_to_segment_in_two_steps(name: str, tmp_path: Path) -> None:
    system = made(trained=False, **VARIANTS["two steps"] | VARIANTS[name] | {"patch": (16, 16, 1)})
    objectives = system.objectives()
    optimizers = [torch.optim.Adam(list(o.parameters), lr=1e-2, betas=(0.9, 0.99)) for o in objectives]
    first = last = 0.0
    for step in range(60):
        given, names = collate([(toy(4 * step + item), f"{step}/{item}") for item in range(4)])
        system.step = step
        for objective, optimizer in zip(objectives, optimizers, strict=True):
            terms = objective.loss(given, names)
            system.zero_grad()
            objective.summed(terms).backward()
            optimizer.step()
            if "mse" in terms:
                first, last = first or terms["mse"].item(), terms["mse"].item()
    assert last < 0.3 * first
    given, names = collate([(toy(1000 + item), f"test/{item}") for item in range(8)])
    found = sampled(system.eval(), given, names).argmax(1)
    for label in (1, 2):
        both = (found == label) & (given["labels"] == label)
        assert 2 * both.sum() / ((found == label).sum() + (given["labels"] == label).sum()) > 0.85
    save_model(system, tmp_path / "model")
    assert torch.equal(sampled(load_system(CDAL, tmp_path / "model").eval(), given, names).argmax(1), found)


def test_resumed_training_ends_as_uninterrupted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels, lesion = (
        rng.uniform(-1, 1, (1, 12, 12, 8)).astype(np.float32),
        rng.integers(0, 3, (12, 12, 8)).astype(np.uint8),
    )
    case = Prepared("a", "a", voxels, np.array([True]), lesion, (1.0, 1.0, 1.0), (Scale(low=-1.0, high=1.0),))
    config = TrainConfig(steps=5, batch=2, lr=1e-3, checkpoint_every=3, log_every=1, precision="fp32")
    ends = []
    for name, stops in (("whole", ()), ("parts", (4,))):
        for stop in (*stops, 0):
            trainer = Trainer(made(trained=False), [case], config, tmp_path / name, device=torch.device("cpu"))
            for report in trainer.train():
                if report["step"] == stop:
                    break
        rates = [o.optimizer.param_groups[0]["lr"] for o in trainer.optimizations]
        assert rates == pytest.approx([1e-3, 0.8e-3])
        ends.append(trainer.system.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_what_does_not_fit_is_said() -> None:
    for changes, words in (
        ({"network": replace(NETWORK, in_channels=3)}, "expected in_channels 4"),
        ({"parameterization": X0()}, None),
        ({"sampling": Sampling("ancestral", 5, "ddpm")}, "at most the chain's 4"),
        ({"mse": 0.0, "adversarial": 0.0}, "one of them above 0"),
    ):
        if words is None:
            assert made(**changes).levels.steps == 1000
        else:
            with pytest.raises(ValueError, match=words):
                made(**changes)
    with pytest.raises(ValueError, match="a level from 0 to 1"):
        DiscriminatorConfig(multipliers=(1, 2), attention=2)
