"""The laws of forecasts: nothing learnt is the copy, dates matter, order does not, a missing visit was never there."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.core.error import UsageError, UserError
from gen3d.core.system import Example
from gen3d.core.volume import Case, Volume
from gen3d.latent.kl import KLConfig
from gen3d.nn.unet import UNetConfig
from gen3d.samplers import SAMPLERS, flow
from gen3d.sequence.change_space import ChangeSpace
from gen3d.sequence.forecast import Forecast, ForecastConfig
from gen3d.spaces.pixel import Pixel

DAYS = [0.0, 200.0, 500.0, 700.0]
NETWORK = UNetConfig(in_channels=32, out_channels=8, width=8, multipliers=(1, 2), groups=4, vector=3)
CONFIG = ForecastConfig(patch=(16, 16, 16), width=8, network=NETWORK)
IN_VOXELS = replace(CONFIG, space="pixel", network=replace(NETWORK, in_channels=11, out_channels=1))

IN_PHASE = replace(CONFIG, period=400.0)
IN_LATENTS = replace(
    CONFIG,
    space="latent",
    autoencoder=KLConfig(channels=(4, 8), groups=2, latent_channels=4),
    network=replace(NETWORK, in_channels=20, out_channels=4),
)


def model(config: ForecastConfig = CONFIG, *, learnt: bool = True) -> Forecast:
    """Build a model whose weights are random; one that has learnt nothing keeps the zeros that it starts with."""
    torch.manual_seed(0)
    system = Forecast(config).eval()
    if learnt:
        for part in [*system.network.parameters(), *system.encoder.parameters()]:
            if not part.any():
                nn.init.normal_(part, std=0.2)
    return system


def scans(size: tuple[int, int, int] = (13, 16, 11), count: int = 4) -> list[Volume]:
    rng = np.random.default_rng(0)
    return [Volume(rng.random(size).astype(np.float32), np.eye(4), "mri") for _ in range(count)]


def asked(system: Forecast, order: list[int] | None = None, days: list[float] = DAYS, query: float = 900.0) -> Example:
    visits, order = scans(), order or [0, 1, 2, 3]
    return system.ask(system.history([visits[i] for i in order], [days[i] for i in order]), query)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("config", [CONFIG, IN_VOXELS, IN_LATENTS])
def test_an_untrained_model_is_the_copied_last_visit_to_the_bit(config: ForecastConfig) -> None:
    system = model(config, learnt=False)
    example = asked(system)
    last = system.last(example)
    assert torch.equal(last[0, 0], example["visits"][0, 3])
    assert torch.equal(system.expected(example), last)
    denoise = system.denoise(system.condition(example), ["a"])
    with torch.no_grad():
        sigmas = flow(4)
        x = SAMPLERS["euler"](denoise, system.start(example, ["a"], float(sigmas[0])), sigmas)
    assert torch.equal(system.finish(x, example), last)


@pytest.mark.parametrize("config", [CONFIG, IN_VOXELS, IN_LATENTS, IN_PHASE])
def test_order_of_the_input_does_not_matter_and_dates_do(config: ForecastConfig) -> None:
    system = model(config)
    first = system.expected(asked(system))
    assert difference(first, system.last(asked(system))) > 1e-3
    for order in list(permutations(range(4)))[1:8]:
        assert torch.equal(system.expected(asked(system, list(order))), first)
    swapped = [200.0, 0.0, 500.0, 700.0]
    assert difference(system.expected(asked(system, days=swapped)), first) > 1e-4
    assert difference(system.expected(asked(system, query=1200.0)), first) > 1e-4


def test_a_missing_visit_was_never_there() -> None:
    system = model()
    visits, history = scans(), system.history(scans(), DAYS)
    for gone in range(4):
        kept = [i for i in range(4) if i != gone]
        without = system.ask(system.history([visits[i] for i in kept], [DAYS[i] for i in kept]), 900.0)
        marked = system.ask(history.without(gone), 900.0)
        assert torch.equal(system.expected(marked), system.expected(without))
        invalid = {**asked(system), "valid": torch.tensor([[i != gone for i in range(4)]])}
        assert torch.equal(system.expected(invalid), system.expected(without))


def test_a_missing_visit_in_a_padded_batch_was_never_there() -> None:
    system = model()
    whole = asked(system)
    few = asked(system, [0, 1])
    padded = {
        "visits": torch.cat([whole["visits"], torch.cat([few["visits"], torch.full((1, 2, 13, 16, 11), 7.0)], 1)]),
        "days": torch.cat([whole["days"], torch.tensor([[0.0, 200.0, 300.0, 880.0]], dtype=torch.float64)]),
        "valid": torch.tensor([[True] * 4, [True, True, False, False]]),
        "query": torch.cat([whole["query"], few["query"]]),
    }
    both = system.expected(padded)
    assert difference(both[:1], system.expected(whole)) < 1e-5
    assert difference(both[1:], system.expected(few)) < 1e-5


def test_a_day_between_visits_starts_from_the_visit_before_it() -> None:
    system = model()
    example = asked(system, query=600.0)
    assert torch.equal(system.last(example)[0, 0], example["visits"][0, 2])
    alone = system.ask(system.history(scans()[:3], DAYS[:3]), 600.0)
    assert difference(system.expected(example), system.expected(alone)) > 1e-4  # the later visit is told too


def test_zero_change_is_the_last_visit_in_an_approximate_space() -> None:
    class Lossy(Pixel):
        def decode(self, coords: Tensor, size: object = None) -> Tensor:
            return (4 * coords).round() / 4

    space, last = ChangeSpace(Lossy(), 1), torch.rand(2, 1, 4, 4, 4)
    assert torch.equal(space.applied(last, torch.zeros_like(last)), last)
    assert difference(space.applied(last, torch.ones_like(last)), last + 1) < 1e-6


def test_training_examples_ask_for_what_can_be_asked() -> None:
    system = model()
    prepared = system.prepare(Case("a", {"mri": scans()[0]}))
    examples = [system.example(prepared, f"k{i}") for i in range(40)]
    for example in examples:
        before = example["valid"] & (example["days"] < example["query"][:, None])
        assert before.any()
        assert example["visits"].shape == (1, 3, 16, 16, 16)
        assert not (example["days"] == example["query"][:, None]).any()
    present = [int(example["valid"].sum()) for example in examples]
    assert {1, 2, 3} == set(present)
    assert any((example["days"] > example["query"][:, None]).any() for example in examples)
    assert torch.equal(examples[0]["visits"], system.example(prepared, "k0")["visits"])


def test_what_cannot_be_forecast_is_one_clear_line() -> None:
    system = model()
    history = system.history(scans(), DAYS)
    with pytest.raises(UsageError, match=r"day 0: the first visit is of day 0; expected a day after"):
        system.ask(history, 0.0)
    with pytest.raises(UserError, match="both of day 200"):
        system.history(scans(), [0.0, 200.0, 200.0, 300.0])
    with pytest.raises(UserError, match="different grids"):
        system.history([scans()[0], scans((12, 16, 11))[0]], [0.0, 1.0])
    with pytest.raises(UserError, match="no visit: expected at least one"):
        system.history([], [])
    with pytest.raises(UserError, match="follows no structures"):
        system.structures(torch.zeros(1, 1, 8, 8, 8))
    for wrong, words in (({"contrasts": ("a", "b")}, "expected one"), ({"width": 9}, "in_channels 33")):
        with pytest.raises(ValueError, match=words):
            replace(CONFIG, **wrong)
    with pytest.raises(ValueError, match="at most 10"):
        replace(CONFIG, sampling=replace(CONFIG.sampling, steps=11))


def test_structures_are_measured_by_one_network() -> None:
    labels = ("anterior", "posterior")
    system = model(replace(CONFIG, labels=labels))
    found = system.structures(torch.randn(2, 1, 13, 16, 11))
    assert found.shape == (2, 13, 16, 11)
    assert set(found.unique().tolist()) <= {0, 1, 2}
    with pytest.raises(ValueError, match="out_channels 2"):
        replace(CONFIG, labels=("one",))
