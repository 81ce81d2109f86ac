"""The plain segmenter: its losses, what it learns of several raters, dropout by key, and that it learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.core.draws import collate
from gen3d.core.system import Example
from gen3d.core.volume import Prepared, Scale
from gen3d.data.prepare import ABSENT
from gen3d.nn.unet import UNetConfig
from gen3d.samplers import euler
from gen3d.segmentation.plain import Plain, PlainConfig, dice_loss, majority

NETWORK = UNetConfig(4, 3, width=8, multipliers=(1, 2), blocks=1, groups=4)


def made(**changes: Any) -> Plain:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"labels": ("a", "b"), "patch": (8, 8, 4), "network": NETWORK}
    system = Plain(PlainConfig(**settings | changes))
    with torch.no_grad():
        for parameter in system.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return system.eval()


def toy(item: int, size: tuple[int, int, int] = (16, 16, 1)) -> Example:
    """Two structures at random places: bright is 1, brighter is 2. Two raters of three drew, the first 1 for 2."""
    draw = torch.Generator().manual_seed(item)
    labels = torch.randint(0, 3, size, generator=draw)
    image = labels.float() - 0.7 + 0.1 * torch.randn(size, generator=draw)
    masks = torch.stack([labels.clamp(max=1), labels, torch.zeros_like(labels)])
    return {
        "image": image[None, None],
        "labels": labels[None],
        "masks": masks[None],
        "drew": torch.tensor([[True, True, False]]),
    }


def probabilities(system: Plain, given: Example, keys: list[str]) -> Tensor:
    with torch.no_grad():
        x = system.start(given, keys, 7.0)
        return system.finish(
            euler(system.denoise(system.condition(given), keys), x, torch.tensor([7.0, 2.0, 0.0])), given
        )


def test_the_losses_are_what_they_say() -> None:
    labels = torch.tensor([0, 1, 1, 0, 2, 0]).view(1, 6, 1, 1)
    certain = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    assert float(dice_loss(certain, labels)) == pytest.approx(0)
    half = torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, 6, 1, 1)
    first, second = (2 * 0.5 * 2 + 1) / (3 + 2 + 1), 1 / (0 + 1 + 1)
    assert float(dice_loss(half, labels)) == pytest.approx(1 - (first + second) / 2)
    nothing = torch.zeros_like(labels)
    assert float(dice_loss(torch.eye(3)[0].view(1, 3, 1, 1, 1).expand(1, 3, 6, 1, 1), nothing)) == pytest.approx(0)


def test_the_majority_is_of_those_who_drew_and_the_lower_label_of_equals() -> None:
    masks = torch.tensor([[0, 1, 2, 1], [1, 1, 2, 2], [1, 0, 2, 0], [2, 2, 0, 0]]).view(1, 4, 4, 1, 1)
    everybody = torch.ones(1, 4, dtype=torch.bool)
    assert majority(masks, everybody).flatten().tolist() == [1, 1, 2, 0]
    assert majority(masks, torch.tensor([[True, True, False, False]])).flatten().tolist() == [0, 1, 2, 1]
    system, given = made(target="majority"), toy(0)
    given["labels"] = torch.zeros_like(given["labels"])  # what a rater who is asked alone would say
    expected = made(target="rater").loss({**given, "labels": majority(given["masks"], given["drew"])}, ["0/0"])
    assert torch.equal(system.loss(given, ["0/0"])["entropy"], expected["entropy"])


def test_one_call_is_the_answer_whatever_the_walk_and_the_windows() -> None:
    given, _ = collate([(toy(n, (9, 8, 5)), "") for n in range(2)])
    system = made()
    found = probabilities(system, given, ["a", "b"])
    assert found.shape == (2, 3, 9, 8, 5)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 9, 8, 5))
    assert torch.equal(found, system.expected(given))
    assert torch.equal(found[1], probabilities(system, given, ["c", "d"])[1])
    tiled = probabilities(made(windows=(8, 8, 4)), given, ["a", "b"])
    torch.testing.assert_close(tiled.sum(1), torch.ones(2, 9, 8, 5))
    one = {"image": given["image"][:1]}
    assert probabilities(system, one, ["a", "b", "c"]).shape[0] == 3  # one image, several draws


def test_dropout_is_on_in_sampling_by_key() -> None:
    given = {"image": toy(0)["image"].expand(3, -1, -1, -1, -1)}
    system = made(network=replace(NETWORK, dropout=0.3))
    before = torch.random.get_rng_state()
    one, same, other = probabilities(system, given, ["a", "a", "b"])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.equal(one, probabilities(system, {"image": given["image"][:1]}, ["a"])[0])
    assert not torch.allclose(one, system.expected(given)[0], atol=1e-3)
    assert not system.network.training
    system.train()
    losses = [system.loss(toy(0), [key])["entropy"] for key in ("a", "a", "b")]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_it_learns_to_segment() -> None:
    system = made()
    (objective,) = system.objectives()
    optimizer = torch.optim.Adam(list(objective.parameters), lr=1e-2)
    for step in range(40):
        given, names = collate([(toy(4 * step + item), f"{step}/{item}") for item in range(4)])
        loss = objective.summed(objective.loss(given, names))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = toy(1000)
    found = probabilities(system, test, ["a"]).argmax(1)
    assert (found == test["labels"]).float().mean() > 0.9


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="expected in_channels 5"):
        made(contrasts=("t1n", "t2w"))


def test_examples_are_turned_bent_and_toned_by_their_key_alone_masks_with_them() -> None:
    size = (24, 20, 1)
    x, y = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    mask = ((x - 13).square() + (y - 8).square()).sqrt() < 5
    image = (2.0 * mask - 1).numpy()[None, :, :, None].astype("float32")
    masks = torch.stack([mask, mask, torch.full_like(mask, False)]).numpy().astype("uint8")[..., None]
    masks[2] = ABSENT
    prepared = Prepared("a", "a", image, np.array([True]), None, (1.0, 1.0, 1.0), (Scale(),), raters=masks)
    changes = {"turn": 20.0, "zoom": 0.1, "bend": 1.0, "gamma": 0.5, "gain": 0.0, "shift": 0.0, "noise": 0.0}
    network = UNetConfig(3, 2, width=8, multipliers=(1, 2), blocks=1, groups=4)
    system = made(labels=("a",), patch=size, network=network, raters=3, **changes)
    first, again, other = (system.example(prepared, key) for key in ("0", "0", "1"))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["masks"], again["masks"])
    assert not torch.equal(first["masks"], other["masks"])
    for example in (first, other):
        assert example["drew"].tolist() == [[True, True, False]]
        grey = example["image"][0, 0]
        for drawn in example["masks"][0, :2]:
            assert float(grey[drawn == 1].mean()) > 0.6
            assert float(grey[drawn == 0].mean()) < -0.8
