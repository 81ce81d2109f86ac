"""Pairs: what is told shows in image and mask; a given mask comes back; copies and volumes are on record."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.core.checkpoint import load_system, save_model
from gen3d.core.draws import collate
from gen3d.core.error import UsageError, UserError
from gen3d.core.system import Example, Sampling
from gen3d.core.volume import Prepared, Scale
from gen3d.nn.unet import UNetConfig
from gen3d.tools.generate import generate
from gen3d.tools.sampling import choose_walk, drawn_together
from gen3d.wavelet.labelled import PairsConfig
from gen3d.wavelet.pairs import Pairs

SIZE = (12, 12, 12)
STEPS = 300


def ball(radius: float, spacing: float = 1.0, shift: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    axes = np.meshgrid(
        *[spacing * (np.arange(n) - (n - 1) / 2) - s for n, s in zip(SIZE, shift, strict=True)], indexing="ij"
    )
    inside: np.ndarray = sum(axis**2 for axis in axes) <= radius**2
    return inside


def case(seed: int) -> Prepared:
    """A bright ball, 2 to 4.5 mm in radius, in voxels of 0.8 to 1.2 mm; the dark around it is lighter on one side."""
    rng = np.random.default_rng(seed)
    spacing = float(rng.uniform(0.8, 1.2))
    mask = ball(rng.uniform(2, 4.5), spacing, rng.uniform(-1, 1, 3))
    half = np.where(np.arange(SIZE[0]) < SIZE[0] // 2, -0.35, 0.35)[:, None, None]
    image = np.where(mask, 0.7, -0.5 + half * rng.choice([-1, 1])) + 0.05 * rng.normal(size=SIZE)
    voxels = image[None].astype(np.float32)
    return Prepared(f"c{seed}", f"c{seed}", voxels, np.array([True]), mask.astype(np.uint8), (spacing,) * 3, (Scale(),))


def made(**changes: Any) -> Pairs:
    settings: dict[str, Any] = {
        "canvas": SIZE,
        "labels": ("ball",),
        "told_spacing": True,
        "network": UNetConfig(24, 16, width=16, multipliers=(1, 2), blocks=1, groups=4, present=1, vector=8),
        "dropped": 0.15,
        "sampling": Sampling("dpmpp_2m", 8),
    }
    return Pairs(PairsConfig(**settings | changes))


@pytest.fixture(scope="module")
def system() -> Pairs:
    """A small model of balls, trained for seconds."""
    cases = [case(seed) for seed in range(60)]
    torch.manual_seed(0)
    model = made().measure(cases)
    (objective,) = model.objectives()
    optimizer = torch.optim.AdamW(list(objective.parameters), lr=4e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    model.train()
    for step in range(STEPS):
        keys = [f"{step}/{item}" for item in range(8)]
        items = [(model.example(cases[(8 * step + i) % len(cases)], key), key) for i, key in enumerate(keys)]
        loss = objective.loss(collate(items)[0], keys)["mse"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return model.eval()


@torch.inference_mode()
def draw(system: Pairs, example: Example, count: int = 12) -> tuple[Tensor, Tensor]:
    """Return images (count, X, Y, Z) and masks, bool."""
    keys = [f"draw/{n}" for n in range(count)]
    walk = choose_walk(system)
    finished = system.finish(drawn_together(system, example, system.condition(example), keys, walk), example)
    assert finished.shape == (count, 2, *SIZE)
    assert torch.equal(finished[:, 1], finished[:, 1].round())
    return finished[:, 0], finished[:, 1] > 0


def agreement(images: Tensor, masks: Tensor) -> Tensor:
    """Return the Dice of where each image is bright with its mask."""
    bright = images > 0.25
    return 2 * (bright & masks).flatten(1).sum(1) / (bright.flatten(1).sum(1) + masks.flatten(1).sum(1)).clamp_min(1)


def lean(images: Tensor, masks: Tensor) -> Tensor:
    """Return how much darker the left half of what surrounds each ball is."""
    dark = (images * ~masks).split(SIZE[0] // 2, dim=1)
    left, right = (half.flatten(1).sum(1) / SIZE[0] / SIZE[1] / (SIZE[2] // 2) for half in dark)
    return right - left


def told(system: Pairs, ml: float, spacing: float = 1.0) -> float:
    """Return the median volume in mL of balls drawn when one is told."""
    _, masks = draw(system, system.blank(volumes=[ml], spacing=(spacing,) * 3))
    return float(masks.flatten(1).sum(1).float().median()) * spacing**3 / 1000


def test_image_and_mask_agree_and_vary(system: Pairs) -> None:
    images, masks = draw(system, system.blank())
    own = agreement(images, masks).mean()
    assert own > 0.8
    assert own > agreement(images, masks.roll(1, 0)).mean() + 0.1
    assert masks.flatten(1).sum(1).unique().numel() > 6
    leans = lean(images, masks)
    assert leans.min() < -0.2 < 0.2 < leans.max()
    again, _ = draw(system, system.blank(), 2)
    assert (again - images[:2]).abs().max() < 1e-3, "an item depends on its key alone"


def test_a_told_volume_and_spacing_are_drawn(system: Pairs) -> None:
    small, middle, large = (told(system, ml) for ml in (0.06, 0.14, 0.3))
    assert small < 0.7 * middle < 0.7**2 * large
    voxels = [told(system, 0.15, spacing) / spacing**3 for spacing in (0.8, 1.2)]
    assert voxels[0] > 2 * voxels[1], "the same volume takes fewer voxels where they are larger: 3.4 times, to be exact"


def test_guidance_goes_further_towards_what_is_told(system: Pairs) -> None:
    config, gaps = system.config, {}
    for guidance in (0.0, 1.0, 2.0):
        system.config = replace(config, guidance=guidance)
        gaps[guidance] = math.log(told(system, 0.25) / told(system, 0.08))
    system.config = config
    assert gaps[0.0] == 0
    assert 0.5 < gaps[1.0] < gaps[2.0]


def test_a_given_mask_comes_back_and_the_image_follows_it(system: Pairs) -> None:
    for radius, shift in ((2.5, (0, -1, 1)), (4.0, (0, 1, 1))):
        mask = torch.from_numpy(ball(radius, 1.0, shift))[None, None]
        images, masks = draw(system, system.blank(mask))
        assert torch.equal(masks, mask[0].expand_as(masks))
        assert agreement(images, masks).min() > 0.9
        assert images.std(0).mean() > 0.005, "images of one mask differ with their keys"


def test_what_is_told_is_withheld_as_often_as_configured() -> None:
    model = made(given=0.3, dropped=0.2).measure([case(0), case(1)])
    example = collate([(model.example(case(0)), "a")] * 500)[0]
    condition = model.condition(model.withheld(example, [str(n) for n in range(500)]))
    assert condition.present is not None
    assert condition.vector is not None
    shares = torch.cat([condition.present.float(), condition.vector[:, 4:]], dim=1).mean(0)
    assert shares.tolist() == pytest.approx([0.3, *[0.8**2] * 4], abs=0.07)
    nothing = (condition.vector[:, 4:] == 0).all(1)
    assert 0.15 < float(nothing.float().mean()) < 0.27
    assert not condition.vector[nothing].any()
    shown = condition.channels.flatten(1).abs().amax(1) > 0  # type: ignore[union-attr]
    assert torch.equal(shown, condition.present[:, 0])


def test_record_of_the_training_set(system: Pairs) -> None:
    new, seen = (model_case(system, seed) for seed in (1000, 7))
    noisy = seen + 0.1 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))
    for copy in (seen, noisy, seen.flip(2)):
        assert (system.fingerprints.float() @ system.fingerprint(copy)[0]).max() > system.closest.max()
    assert (system.fingerprints.float() @ system.fingerprint(new)[0]).max() <= system.closest.max()
    facts = system.label_facts([case(7), case(8)])
    assert facts["volumes_ml"][0] == pytest.approx(system.example(case(7))["volumes"].tolist()[0], rel=1e-3)
    assert (facts["components"], facts["holes"]) == ([[1], [1]], [[0], [0]])


def model_case(system: Pairs, seed: int) -> Tensor:
    """Return the image of a case."""
    image: Tensor = system.example(case(seed))["voxels"]
    return image


def test_saved_and_asked_for_files(system: Pairs, tmp_path: Path) -> None:
    save_model(system, tmp_path / "model", dtype=torch.float16)
    loaded = load_system(Pairs, tmp_path / "model")
    assert torch.equal(loaded.fingerprints, system.fingerprints)
    assert loaded.config == system.config

    affine = np.diag([-1.0, 1, -1, 1])
    mask = np.zeros((14, 10, 12), np.uint8)
    mask[5:9, 3:8, 4:9] = 1
    box = tmp_path / "masks" / "box.nii.gz"
    box.parent.mkdir()
    nib.save(nib.Nifti1Image(mask, affine), box)
    made = generate(tmp_path / "model", tmp_path / "led", mask=box, device="cpu")
    assert [path.name for path in made] == ["box_0001.nii.gz", "box_0001_labels.nii.gz"]
    image, labels = (nib.load(path) for path in made)
    assert np.array_equal(labels.get_fdata(), mask)
    assert np.array_equal(image.affine, affine)
    grey = image.get_fdata()
    assert grey[mask > 0].mean() > grey[mask == 0].mean() + 200

    made = generate(tmp_path / "model", tmp_path / "new", 2, spacing=(1.0, 1.0, 1.1), device="cpu")
    assert [path.name for path in made[:2]] == ["sample_0001.nii.gz", "sample_0001_labels.nii.gz"]
    labels = nib.load(made[1])
    assert (labels.get_data_dtype(), labels.header.get_zooms()[2]) == (np.uint8, pytest.approx(1.1))
    assert set(np.unique(labels.get_fdata())) == {0, 1}
    with pytest.raises(UsageError, match="own size"):
        generate(tmp_path / "model", tmp_path / "large", size=(24, 24, 24))


def test_what_cannot_be_told_is_refused(system: Pairs) -> None:
    mask = torch.zeros(1, 1, *SIZE, dtype=torch.int64)
    for words, wish in {
        "has shape": {"mask": mask[0]},
        "label 2": {"mask": mask + 2},
        "has its own": {"mask": mask, "volumes": [1.0]},
        "mL above 0": {"volumes": [-1.0]},
        "for ball": {"volumes": [1.0, 1.0]},
    }.items():
        with pytest.raises(UserError, match=words):
            system.blank(**wish)  # type: ignore[arg-type]
    plain = UNetConfig(16, 16, width=8, multipliers=(1, 2), blocks=1, groups=4)
    untold = made(network=plain, given=0.0, volumes=False, told_spacing=False)
    for wish in ({"mask": mask}, {"volumes": [1.0]}, {"spacing": (1.0, 1.0, 1.0)}):
        with pytest.raises(UserError, match="model"):
            untold.blank(**wish)  # type: ignore[arg-type]
    assert untold.condition(untold.blank()).parts() == {}
    with pytest.raises(ValueError, match="guidance"):
        made(network=plain, given=0.0, volumes=False, told_spacing=False, guidance=2.0)
    with pytest.raises(ValueError, match="in_channels 24"):
        made(network=plain)


def test_a_class_is_told_by_the_name_of_a_case() -> None:
    network = UNetConfig(16, 16, width=8, multipliers=(1, 2), blocks=1, groups=4, classes=2)
    changes = {"volumes": False, "told_spacing": False, "classes": ("few", "ten"), "belongs": {"c1?": "ten"}}
    model = made(network=network, given=0.0, **changes)
    assert [int(model.example(case(seed))["label"]) for seed in (3, 12)] == [-1, 1]
    assert model.adjustable == ("label", "guidance")
    model.config = replace(model.config, label="few")
    assert model.condition(model.blank()).label.tolist() == [0]  # type: ignore[union-attr]
    assert torch.isfinite(model.loss(model.example(case(12), "k"), ["k"])["mse"])
