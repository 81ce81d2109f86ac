"""Completion: any subset from any other; what is known stays known, what is hidden is never seen."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from gen3d.core.condition import Condition
from gen3d.core.error import UserError
from gen3d.core.volume import Case, Prepared
from gen3d.data.augmentation import Augmentation
from gen3d.data.equalization import above_floor, floors, knots
from gen3d.data.phantom import phantom
from gen3d.nn.unet import UNetConfig
from gen3d.wavelet.completion import Completion, CompletionConfig

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
NETWORK = UNetConfig(64, 32, width=8, multipliers=(1, 2), blocks=1, groups=4, present=4)
SIGMA = torch.tensor(80.0, dtype=torch.float64)


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom(3, (40, 44, 36), 4.5)


@pytest.fixture(scope="module")
def system(case: Case) -> Completion:
    """A network whose weights are random everywhere, so that everything it is told changes its answer."""
    torch.manual_seed(0)
    config = CompletionConfig(
        network=NETWORK, patch=(16, 16, 16), augmentation=Augmentation(0.2, 0.2, 0.05, 0.1, 0.1, 0.2)
    )
    made = Completion(config)
    made = made.measure([made.prepare(case)])
    for parameter in made.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def given(case: Case, names: tuple[str, ...]) -> Case:
    return replace(case, volumes={name: case.volumes[name] for name in names})


PATTERNS = [names for count in (1, 2, 3) for names in combinations(CONTRASTS, count)]


@pytest.mark.parametrize("names", PATTERNS, ids="+".join)
@torch.inference_mode()
def test_all_fourteen_patterns(system: Completion, case: Case, names: tuple[str, ...]) -> None:
    example = system.example(given(case, names))
    condition = system.condition(example)
    x = system.start(example, ["7"], 80.0)
    coords = system.denoise(condition, ["7"])(x, SIGMA)
    voxels, given_ones = system.finish(coords, example)[0], system.known(example)[0]
    assert voxels.shape == example["voxels"].shape[1:]
    assert torch.isfinite(voxels).all()
    for channel, name in enumerate(CONTRASTS):
        known = torch.allclose(voxels[channel], given_ones[channel], atol=1e-4)
        assert known == (name in names), name
        assert voxels[channel].std() > 0


def test_patterns_are_fourteen() -> None:
    assert len(PATTERNS) == 14


@torch.inference_mode()
def test_what_stands_in_place_of_known_contrasts_is_never_seen(system: Completion, case: Case) -> None:
    example = system.example(given(case, ("t1n", "t2w")))
    denoise = system.denoise(system.condition(example), ["0"])
    x = system.start(example, ["0"], 80.0)
    other = x.clone()
    other[:, :8] = 123.0  # t1n's coordinates
    assert torch.equal(denoise(x, SIGMA), denoise(other, SIGMA))
    other = x.clone()
    other[:, 8:16] += 1.0  # t1c's, which are missing
    assert not torch.equal(denoise(x, SIGMA), denoise(other, SIGMA))


@torch.inference_mode()
def test_absent_is_told_from_black(system: Completion) -> None:
    channels = torch.zeros(1, 32, 8, 8, 8)
    x = torch.randn(1, 32, 8, 8, 8)
    here = system.denoiser(x, SIGMA, Condition(channels, torch.tensor([[True, True, False, False]])))
    gone = system.denoiser(x, SIGMA, Condition(channels, torch.tensor([[True, False, False, False]])))
    assert not torch.allclose(here, gone)


@torch.inference_mode()
def test_batch_order_does_not_matter(system: Completion) -> None:
    g = torch.Generator().manual_seed(0)
    x, channels = torch.randn(3, 32, 8, 12, 8, generator=g), torch.randn(3, 32, 8, 12, 8, generator=g)
    present = torch.tensor([[True, False, True, False], [True, True, True, False], [False, False, False, True]])
    sigma = torch.tensor([0.1, 1.0, 30.0])
    order = [2, 0, 1]
    together = system.denoiser(x, sigma, Condition(channels, present))
    permuted = system.denoiser(x[order], sigma[order], Condition(channels[order], present[order]))
    assert torch.allclose(together[order], permuted, atol=1e-5)


@torch.inference_mode()
def test_odd_sizes_are_padded_and_cropped(system: Completion) -> None:
    x = torch.randn(1, 32, 5, 7, 9)
    present = torch.tensor([[True, False, False, False]])
    assert system.denoiser(x, SIGMA, Condition(torch.zeros_like(x), present)).shape == x.shape


def test_training_examples_hide_and_leave_something(system: Completion, case: Case) -> None:
    prepared = system.prepare(case)
    seen = set()
    for i in range(60):
        example = system.example(prepared, f"0/{i}/0")
        present, target = example["present"][0], example["target"][0]
        assert present.any()
        assert target.any()
        assert not (present & target).any()
        assert example["voxels"].shape == (1, 4, 16, 16, 16)
        seen.add(int(target.sum()))
    assert seen == {1, 2, 3}


def test_a_lesions_weight_multiplies_its_loss_and_nothing_else(system: Completion) -> None:
    ill = system.prepare(phantom(3, (40, 44, 36), 4.5, lesion="tumour"))
    heavy = Completion(replace(system.config, lesion=2.0, lesion_patches=1.0))
    plain = Completion(replace(heavy.config, lesion=1.0))
    one, other = (made.example(ill, "0/1/0") for made in (heavy, plain))
    inside, asked = one["lesion"].expand(1, 4, 16, 16, 16), one["target"][..., None, None, None]
    assert "lesion" not in other
    assert (inside & asked).any()
    assert torch.equal(one["voxels"], other["voxels"])
    ratio = heavy.weight(one) / plain.weight(other)
    assert (ratio[inside & asked] == 2).all()
    assert (ratio[~inside & asked] == 1).all()
    assert not heavy.weight(one)[~asked.expand_as(inside)].any()


def test_lesion_patches_hold_a_lesion_and_change_no_other_draw(system: Completion) -> None:
    ill = system.prepare(phantom(3, (40, 44, 36), 4.5, lesion="plaques"))
    assert ill.lesion is not None
    marked = replace(ill, lesion=np.zeros_like(ill.lesion))
    marked.lesion[tuple(np.argwhere(ill.lesion)[0])] = 1  # one voxel, so that few patches hold it by chance
    hits = {}
    for share in (0.0, 0.5, 1.0):
        made = Completion(replace(system.config, lesion=2.0, lesion_patches=share))
        examples = [made.example(marked, f"0/{i}/0") for i in range(40)]
        hits[share] = [bool(example["lesion"].any()) for example in examples]
        without = [made.example(replace(ill, lesion=None), f"0/{i}/0") for i in range(40)]
        plain = [system.example(ill, f"0/{i}/0") for i in range(40)]
        assert all(torch.equal(a["voxels"], b["voxels"]) for a, b in zip(without, plain, strict=True))
        assert all(torch.equal(a["target"], b["target"]) for a, b in zip(examples, plain, strict=True))
    assert all(hits[1.0])
    assert sum(hits[0.0]) < sum(hits[0.5]) < 40
    with pytest.raises(ValueError, match="lesion_patches from 0 to 1"):
        replace(system.config, lesion_patches=1.5)


def test_examples_are_functions_of_their_key(system: Completion, case: Case) -> None:
    prepared = system.prepare(case)
    one, same, other = (system.example(prepared, key) for key in ("0/1/0", "0/1/0", "0/2/0"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["voxels"], other["voxels"])


def test_augmentation_leaves_targets_alone(system: Completion, case: Case) -> None:
    prepared = system.prepare(case)
    plain = Completion(replace(system.config, augmentation=Augmentation(flip=0.5)))
    augmented, left = system.example(prepared, "0/5/0"), plain.example(prepared, "0/5/0")
    assert torch.equal(augmented["target"], left["target"])
    assert torch.equal(augmented["voxels"], left["voxels"])
    assert not torch.equal(system.changed(augmented, ["0/5/0"]), plain.changed(left, ["0/5/0"]))


def test_ranks_do_not_change_with_a_scanners_grey_scale(system: Completion, case: Case) -> None:
    prepared = system.prepare(case)
    bent = replace(prepared, voxels=np.sign(prepared.voxels) * np.abs(prepared.voxels) ** 1.5, name="bent")
    scales = tuple(replace(s, offset=float(np.sign(s.offset) * abs(s.offset) ** 1.5)) for s in prepared.scales if s)
    bent = replace(bent, scales=scales)
    assert knots(prepared).shape == (4, 65)
    one, other = (system.known(system.example(p)) for p in (prepared, bent))
    assert (one - other).abs().max() < 0.06  # what straight lines between 65 quantiles leave


def test_half_precision_caches_keep_the_background(system: Completion, case: Case) -> None:
    prepared = system.prepare(case)
    stored = replace(prepared, voxels=prepared.voxels.astype(np.float16))
    here = torch.ones(1, 4, dtype=torch.bool)
    whole, half = (
        above_floor(torch.from_numpy(p.voxels)[None], torch.from_numpy(floors(p))[None], here)
        for p in (prepared, stored)
    )
    assert 0.1 < whole.float().mean() < 0.9
    assert torch.equal(whole, half)
    difference = system.known(system.example(prepared)) - system.known(system.example(stored))
    assert difference.abs().max() < 0.05


def test_refusals_name_what_the_model_makes(system: Completion) -> None:
    with pytest.raises(UserError, match="did you mean 't2f'"):
        system.accept(["t1n"], ["t2ff"])
    with pytest.raises(UserError, match="at least one of t1n"):
        system.accept(["ct"], ["t2f"])


def test_translation_hides_only_its_target(case: Case) -> None:
    network = replace(NETWORK, in_channels=32, out_channels=16, present=2)
    config = CompletionConfig(contrasts=("t1n", "t2w"), targets=("t2w",), network=network, patch=(16, 16, 16))
    system = Completion(config)
    prepared: Prepared = system.prepare(case)
    for i in range(10):
        assert system.example(prepared, f"0/{i}/0")["target"].tolist() == [[False, True]]
