"""CIMD: it draws what its raters drew, as often as they did; its encoders learn; one latent for a whole volume."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.core.checkpoint import load_system, save_model
from gen3d.core.condition import Condition
from gen3d.core.draws import collate
from gen3d.core.error import UserError
from gen3d.core.parameterization import Betas, Epsilon
from gen3d.core.system import Example, Sampling, System
from gen3d.core.volume import Prepared, Scale
from gen3d.nn.unet import UNetConfig
from gen3d.segmentation.cimd import CIMD, CIMDConfig
from gen3d.segmentation.latents import LatentConfig, folded, several, unfolded
from gen3d.tools.sampling import choose_walk

SMALL, LARGE = 3.0, 6.0  # radii that the raters see
RATERS = (SMALL, SMALL, LARGE)


def made(*, size: Sequence[int] = (16, 16, 1), **changes: Any) -> CIMD:
    """A small model of ours."""
    cell = 4 if size[2] == 1 else 8
    settings: dict[str, Any] = {
        "patch": tuple(size),
        "features": UNetConfig(cell, 4 * cell, width=8, multipliers=(1, 2), blocks=1, groups=4),
        "network": UNetConfig(6 * cell, 2 * cell, width=8, multipliers=(1, 2), blocks=1, groups=4, latent=2),
        "latent": LatentConfig(2, (4, 8, 8)),
        "raters": 3,
        "masks": 3,
        "anneal": 50,
        "sampling": Sampling("euler", 4, "flow"),
    }
    torch.manual_seed(0)
    return CIMD(CIMDConfig(**settings | changes))


def as_published(**changes: Any) -> CIMD:
    """A small model with the published loss: the noise, in the image's pixels, and encoders that end in the loss."""
    settings: dict[str, Any] = {
        "code": "bits",
        "scale": 1.0,
        "fold": 1,
        "features": None,
        "network": UNetConfig(2, 1, width=8, multipliers=(1, 2), blocks=1, groups=4),
        "prior": "estimate",
        "blank": 0.0,
        "target": "mse",
        "masks": 1,
        "parameterization": Epsilon(Betas()),
        "sampling": Sampling("ddim", 3, "ddpm"),
    }
    return made(**settings | changes)


def told_something(system: CIMD) -> CIMD:
    """Give weights to what starts at zero."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return system.eval()


def disc(radius: float, size: Sequence[int], shift: Sequence[float]) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 - s for n, s in zip(size, shift, strict=True)], indexing="ij")
    inside: np.ndarray = sum(axis**2 for axis in axes) <= radius**2
    return inside


def case(seed: int = 0, size: Sequence[int] = (16, 16, 1), radii: Sequence[float | None] = RATERS) -> Prepared:
    """A blurred disc whose border is a matter of opinion; a radius of None is a rater who did not draw."""
    rng = np.random.default_rng(seed)
    shift = [0.0 if n == 1 else float(rng.uniform(-2, 2)) for n in size]
    image = -1 + 2 * np.mean([disc(r, size, shift) for r in np.arange(2, 8)], 0) + 0.05 * rng.normal(size=size)
    masks = [np.full(size, 255) if r is None else disc(r, size, shift) for r in radii]
    stack = np.stack(masks).astype(np.uint8)
    scale = (Scale(),)
    return Prepared(
        f"c{seed}", f"c{seed}", image[None].astype(np.float32), np.array([True]), None, (1, 1, 1), scale, raters=stack
    )


def trained(system: System, steps: int, lr: float = 1e-2, items: int = 4) -> dict[str, float]:
    """Train on new cases all the time and return the mean of the last losses."""
    (objective,) = system.objectives()
    optimizer = torch.optim.AdamW(list(objective.parameters), lr=lr)
    told: dict[str, list[float]] = {}
    system.train()
    for step in range(steps):
        system.step = step
        keys = [f"{step}/{item}" for item in range(items)]
        example, _ = collate([(system.example(case(items * step + i), key), key) for i, key in enumerate(keys)])
        terms = objective.loss(example, keys)
        optimizer.zero_grad()
        objective.summed(terms).backward()
        optimizer.step()
        for name, term in terms.items():
            told.setdefault(name, []).append(float(term.detach()))
    system.eval()
    return {name: float(np.mean(values[-20:])) for name, values in told.items()}


@torch.inference_mode()
def masks(system: Any, example: Example, latents: Sequence[str], noises: Sequence[str]) -> Tensor:
    """Return samples with latents and noise by keys of their own, bool (n, X, Y, Z)."""
    walk = choose_walk(system)
    denoise = system.denoise(system.condition(example), list(latents))
    coords = walk.run(denoise, system.start(example, list(noises), walk.sigma), torch.randn_like, lambda *_: None)
    found: Tensor = system.finish(coords, example)
    assert found.shape[:2] == (len(latents), system.classes)
    assert torch.equal(found.sum(1), torch.ones_like(found[:, 0]))
    return found.argmax(1) > 0


def dice(a: Tensor, b: Tensor) -> Tensor:
    """Return the Dice of each mask with one."""
    return 2 * (a & b).flatten(1).sum(1) / (a.flatten(1).sum(1) + b.sum()).clamp_min(1)


def follows_the_raters(system: Any, whole: float = 0.8) -> None:
    """Check that most samples are a rater's mask, both opinions in about their shares, and that the latent decides.

    Args:
        system: Trained on RATERS.
        whole: Share of samples that must have a Dice above 0.85 with either opinion; others lie between both.
    """
    new, keys = case(9999), [str(n) for n in range(48)]
    example = system.example(new)
    assert new.raters is not None
    small, large = (torch.from_numpy(new.raters[r] > 0) for r in (0, 2))
    found = masks(system, example, keys, keys)
    near = torch.stack([dice(found, small), dice(found, large)])
    assert float((near.amax(0) > 0.85).float().mean()) > whole
    share = float((near[1] > near[0]).float().mean())
    assert 0.13 < share < 0.53  # a third of the raters see it large
    redrawn = masks(system, example, keys[:16], ["one"] * 16)
    assert len({mask.numpy().tobytes() for mask in redrawn}) > 1
    assert torch.equal(redrawn, masks(system, example, keys[:16], ["one"] * 16))


def test_it_draws_what_its_raters_drew_as_often_as_they_did(tmp_path: Path) -> None:
    system = made()
    before = {name: parameter.clone() for name, parameter in system.state_dict().items()}
    told = trained(system, 150)
    assert told["nats"] > 0.1
    follows_the_raters(system)
    with torch.no_grad():
        chance = system.expected(system.example(case(9999)))
    assert torch.allclose(chance.sum(1), torch.ones_like(chance[:, 0]), atol=1e-5)
    assert 0.1 < float(chance[0, 1][torch.from_numpy(disc(4.5, (16, 16, 1), (0, 0, 0)))].mean()) < 0.95

    save_model(system, tmp_path / "model")
    loaded = load_system(CIMD, tmp_path / "model").state_dict()
    for name in ("prior", "posterior", "features", "network"):
        weights = [key for key in before if key.startswith(f"{name}.") and key.endswith("weight")]
        assert weights
        assert any(not torch.equal(before[key], loaded[key]) for key in weights), name
        assert all(torch.equal(system.state_dict()[key], loaded[key]) for key in weights), name


def test_as_published_both_encoders_learn_and_are_saved_and_none_is_asked_in_sampling(tmp_path: Path) -> None:
    system = as_published(beta=1.0, anneal=0)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    first = trained(system, 2)
    last = trained(system, 30)
    assert last["mse"] < first["mse"]
    save_model(system, tmp_path / "model")
    loaded = load_system(CIMD, tmp_path / "model")
    for name in ("prior.out.weight", "posterior.out.weight", "posterior.levels.0.0.weight"):
        assert not torch.equal(before[name], loaded.state_dict()[name])
        assert torch.equal(system.state_dict()[name], loaded.state_dict()[name])
    example = system.example(case(1))
    loaded.posterior = loaded.prior = None  # type: ignore[assignment]
    assert torch.equal(masks(system, example, ["a", "b"], ["c", "d"]), masks(loaded, example, ["e", "f"], ["c", "d"]))
    with pytest.raises(UserError, match="mean of samples"):
        system.expected(example)


def test_as_published_the_second_encoder_sees_the_estimate_of_the_mask() -> None:
    system, seen = as_published(), []
    system.prior.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    example, keys = collate([(system.example(case(0), "0/0"), "0/0")])
    system.errors(example, keys, torch.tensor([1e-2], dtype=torch.float64))
    mask = system.space.encode(several(example, keys, 1)[0])
    (given,) = [x.detach() for x in seen]
    assert torch.equal(given[:, :1], example["image"])
    assert float((given[:, 1:] - mask).abs().max()) < 0.1  # at so little noise, and clamped to the code's range
    assert float(given[:, 1:].abs().max()) <= 1


def test_a_rater_who_did_not_draw_is_never_drawn() -> None:
    system = made()
    absent = case(0, radii=(SMALL, None, LARGE))
    keys = [f"{n}/0" for n in range(40)]
    example, _ = collate([(system.example(absent, key), key) for key in keys])
    labels, whose = several(example, keys, 3)
    assert set(whose.tolist()) == {0, 2}
    areas = {tuple(sorted({int((mask > 0).sum()) for mask in labels[whose == rater]})) for rater in (0, 2)}
    assert len(areas) == 2
    assert all(0 < area < 200 for group in areas for area in group)
    own = [set(row) for row in whose.unflatten(0, (-1, 3)).tolist()]
    assert all(len(raters) == 2 for raters in own)  # different raters' as far as they go


@pytest.mark.parametrize("size", [(16, 12, 1), (12, 16, 8)])
@torch.no_grad()
def test_a_volume_has_one_latent_under_all_its_windows(size: tuple[int, int, int]) -> None:
    system = told_something(made(size=size, windows=(8, 8, 8)))
    asked: list[Condition] = []
    denoiser = system.denoiser
    forward = denoiser.forward
    denoiser.forward = lambda x, sigma, told: (asked.append(told), forward(x, sigma, told))[1]  # type: ignore[method-assign]
    example = system.example(case(0, size))
    condition = system.condition(example)
    x = system.start(example, ["a", "b"], 1.0)
    y = system.denoise(condition, ["a", "b"])(x, torch.tensor(1.0, dtype=torch.float64))
    assert y.shape == (2, 2, *size)
    assert float(y.abs().max()) <= system.config.scale + 1e-6
    latents = [told.latent for told in asked]
    assert len(latents) > 3
    assert all(torch.equal(latent, latents[0]) for latent in latents)  # type: ignore[arg-type]
    assert not torch.equal(latents[0][0], latents[0][1])  # type: ignore[index]
    assert masks(system, example, ["a"], ["a"]).shape == (1, *size)


@torch.no_grad()
def test_a_named_rater_is_told_and_one_unknown_refused() -> None:
    system = told_something(made(named=True))
    example = system.example(case(0))
    sigma = torch.tensor(1.0, dtype=torch.float64)
    x = system.start(example, ["a"], 1.0)

    def answer(rater: int | None, key: str) -> Tensor:
        asked = example if rater is None else {**example, "rater": torch.tensor([rater])}
        return system.denoise(system.condition(asked), [key])(x, sigma)

    assert not torch.equal(answer(0, "k"), answer(2, "k"))
    assert any(torch.equal(answer(None, "k"), answer(rater, "k")) for rater in range(3))  # one of them, by the key
    with pytest.raises(UserError, match="rater 4: this model knows 3"):
        answer(3, "k")


@pytest.mark.parametrize("sides", [(2, 2, 1), (2, 2, 2), (1, 1, 1)])
def test_folding_is_exactly_undone_and_keeps_neighbours_together(sides: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, 4, 6, 2)
    y = folded(x, sides)
    assert torch.equal(unfolded(y, sides), x)
    assert torch.equal(
        y[:, : y.shape[1] // 3, 0, 1, 0].flatten(), x[:, 0, : sides[0], sides[1] : 2 * sides[1], : sides[2]].flatten()
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": "bits"}, "expected in_channels"),
        ({"named": True, "raters": 0}, "expected prior .image. and several raters"),
        ({"latent": LatentConfig(3)}, r"expected latent.size"),
        ({"parameterization": Epsilon(Betas())}, "needs code 'onehot'"),
        ({"features": UNetConfig(1, 16, width=8)}, "features: expected in_channels 4"),
        ({"masks": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_together_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**changes)
