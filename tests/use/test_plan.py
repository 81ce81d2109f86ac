"""gen3d plan: what fits, with which settings, and what can't be read."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch

from gen3d.core.config import build
from gen3d.core.footprint import blank_example, fewest_levels, footprints
from gen3d.core.training import TrainConfig, make_ready
from gen3d.nn.unet import UNetConfig
from gen3d.tools.plan import parse_memory, plan
from gen3d.tools.train import packaged_config
from gen3d.wavelet.wdm import WDM, WDMConfig

Run = Callable[..., tuple[int, str, str]]


def wdm() -> WDM:
    network = UNetConfig(8, 8, width=16, multipliers=(1, 2, 2), groups=4)
    return WDM(WDMConfig(canvas=(64, 64, 64), pool=1, network=network))


def test_whole_brats_volumes_train_within_12_gb_and_sample_within_4() -> None:
    _, choice = plan(packaged_config("cwdm_brats"), ["train.precision=bf16"], memory=12e9)
    assert (choice.fits, choice.whole, choice.batch, choice.size) == (True, True, 1, (224, 224, 160))
    assert choice.step.memory < 12e9
    assert choice.sampling < 4e9
    assert choice.flop == pytest.approx((3 + (choice.step.levels > 0)) * 7.17e12, rel=0.2)


def test_less_memory_is_met_by_computing_again_then_by_smaller_patches() -> None:
    config, small = packaged_config("completion_brats"), ["model.network.width=32", "model.network.multipliers=[1,2]"]
    small += ["model.patch=[96,96,96]", "model.network.blocks=1"]
    choices = [plan(config, small, memory=gb * 1e9)[1] for gb in (12, 0.8, 0.7)]
    assert all(choice.fits for choice in choices)
    assert [choice.whole for choice in choices] == [True, True, False]
    assert choices[0].step.levels == 0 < choices[1].step.levels
    assert choices[2].size < choices[1].size
    assert all(choice.batch * choice.accumulate == 2 for choice in choices)


def test_each_level_computed_again_takes_less_and_costs_more() -> None:
    system = wdm()
    found = list(footprints(system, blank_example(system), torch.bfloat16, batch=2, ema=True))
    assert [f.levels for f in found] == [0, 1, 2, 3]
    assert all(a.passing > b.passing and a.flop < b.flop for a, b in pairwise(found))
    budget = found[2].memory
    assert fewest_levels(system, blank_example(system), torch.bfloat16, batch=2, ema=True, budget=budget) == 2
    assert fewest_levels(system, blank_example(system), torch.bfloat16, batch=2, ema=True, budget=1) == 3


def test_training_takes_the_levels_that_are_asked_for() -> None:
    for asked, levels in ((2, 2), ("auto", 0)):  # a CPU computes nothing again
        system = wdm()
        config = build(TrainConfig, {"recompute": asked, "precision": "fp32"})
        made = make_ready(system, config, torch.device("cpu"), partial(blank_example, system))
        assert (system.network.recompute, made.dtype) == (levels, torch.float32)


def test_the_command_says_settings_memory_and_time(gen3d: Run) -> None:
    status, said, _ = gen3d("plan", "smoke_wdm", "--gpu", "8GB", "--measure", "--device", "cpu")
    assert status == 0
    for word in ("fits 8 GB", "train.recompute=0", "sampling", "this machine", "hours"):
        assert word in said


def test_decoding_is_planned_for_what_decodes() -> None:
    _, latent = plan(packaged_config("ct_60_24gb"), memory=24e9)
    assert latent.fits
    assert latent.decoding is not None
    assert latent.decoding > latent.sampling
    assert plan(packaged_config("smoke_wdm"), memory=24e9)[1].decoding is None


@pytest.mark.parametrize("asked", ["lots", "0", "-3GB", "12MB"])
def test_a_strange_amount_of_memory_is_one_line(gen3d: Run, asked: str) -> None:
    words = f"gen3d: --gpu '{asked}': expected gigabytes, such as 12GB\n"
    assert gen3d("plan", "smoke_wdm", f"--gpu={asked}") == (2, "", words)


def test_what_fits_nowhere_fails_with_the_least_it_takes(gen3d: Run) -> None:
    status, _, told = gen3d("plan", "smoke_wdm", "--gpu", "0.1GB")
    assert status == 1
    assert "nothing of smoke_wdm fits 0.1GB; the thriftiest way takes" in told


def test_gigabytes() -> None:
    assert parse_memory("12GB") == parse_memory("12") == 12e9
    assert parse_memory("8 GiB") == 8 * 2**30
