"""``gen3d generate --mask``: a mask's own grid comes back, its copy beside; masks that can't lead are one line each."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.system import Sampling
from gen3d.data.intensity import Intensity
from gen3d.latent.biflownet import BiFlowNetConfig
from gen3d.latent.control import Control, ControlConfig
from gen3d.latent.halves import PatchVolumeConfig

Run = Callable[..., tuple[int, str, str]]
AFFINE = np.array([[-1.0, 0, 0, 12], [0, 0, 1.5, -7], [0, 2, 0, 3], [0, 0, 0, 1]])  # codes LSA, voxels 1 x 2 x 1.5 mm


def control(task: str) -> Control:
    """An untrained ControlNet whose answer depends on everything that it is given."""
    torch.manual_seed(0)
    autoencoder = PatchVolumeConfig(
        width=4, stride=4, latent_channels=2, codes=16, patch=8, groups=2, heads=1, head_width=4
    )
    network = BiFlowNetConfig(
        channels=2,
        width=8,
        multipliers=(1, 2),
        attention=(False, False),
        heads=1,
        head_width=4,
        groups=2,
        patch=2,
        transformer_heads=1,
        classes=0,
    )
    system = Control(
        ControlConfig(
            task=task,  # type: ignore[arg-type]
            contrasts=("t1n",),
            axes="RAS",
            intensity=Intensity(percentiles=(0, 100), to=(-1.0, 1.0)),
            canvas=(24, 24, 16),
            classes=(),
            autoencoder=autoencoder,
            scaling="statistics",
            network=network,
            size=(24, 24, 16),
            sampling=Sampling(steps=2),
        )
    )
    for parameter in system.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return system


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "led"
    save_model(control("mask"), folder)
    return folder


def box(path: Path, shape: tuple[int, ...], corner: tuple[int, ...], size: tuple[int, ...], label: int = 1) -> Path:
    voxels = np.zeros(shape, np.uint8)
    voxels[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] = label
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    return path


def test_scans_lie_on_the_grid_of_their_mask_which_is_copied_beside(gen3d: Run, model: Path, tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    box(masks / "a.nii.gz", (30, 12, 20), (8, 3, 5), (9, 6, 10))  # R-L 30 is wider than the canvas, I-S 12 is narrower
    box(masks / "b.nii", (20, 14, 22), (2, 2, 3), (6, 8, 10))
    (masks / "._a.nii.gz").write_bytes(b"what a Mac leaves")
    command = ("generate", "--model", model, "--mask", masks, "-o", out, "-n", 2, "--sampler", "euler", "--steps", 2)
    status, said, noted = gen3d(*command)
    assert status == 0, noted
    assert said.split() == [str(out / f"{name}_{i:04d}.nii.gz") for name in "ab" for i in (1, 2)]
    assert {p.name for p in out.glob("*_mask*")} == {"a_mask.nii.gz", "b_mask.nii.gz"}
    given, copy, image = (nib.load(p) for p in (masks / "a.nii.gz", out / "a_mask.nii.gz", out / "a_0001.nii.gz"))
    assert (image.shape, copy.shape) == (given.shape, given.shape)
    assert np.array_equal(image.affine, given.affine)
    assert np.array_equal(copy.get_fdata(), given.get_fdata())
    voxels = image.get_fdata()
    assert not voxels[:3].any()  # beyond the canvas, 24 of the 30 in the middle
    assert not voxels[-3:].any()
    assert voxels[3:-3].std() > 1
    about = json.loads((out / "a_0002.json").read_text())
    assert (about["mask"]["source"], about["mask"]["file"], about["sample"]) == ("a.nii.gz", "a_mask.nii.gz", 2)
    assert about["canvas"] == {"axes": "RAS", "start": [3, -2, -2], "size": [24, 24, 16]}
    first = (out / "a_0001.nii.gz").read_bytes()
    assert first != (out / "a_0002.nii.gz").read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*.nii.gz")}
    assert gen3d(*command)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.nii.gz")} == stamps


def test_another_mask_is_another_image_from_the_same_noise(gen3d: Run, model: Path, tmp_path: Path) -> None:
    images = []
    for folder, corner in (("one", (3, 2, 2)), ("two", (12, 5, 8))):
        mask = box(tmp_path / folder / "m.nii.gz", (24, 16, 24), corner, (8, 6, 8))
        out = tmp_path / f"{folder}-out"
        assert (
            gen3d("generate", "--model", model, "--mask", mask, "-o", out, "--sampler", "euler", "--steps", 2)[0] == 0
        )
        images.append(nib.load(out / "m_0001.nii.gz").get_fdata())
    assert np.abs(images[0] - images[1]).max() > 1


def test_the_canvas_moves_where_labels_would_be_cut(model: Path, tmp_path: Path) -> None:
    from gen3d.data.nifti import read_labels

    mask = read_labels(box(tmp_path / "m" / "edge.nii.gz", (40, 12, 20), (0, 3, 5), (5, 6, 10)))
    example = control("mask").led(mask)
    assert int(example["mask"].sum()) == 5 * 6 * 10
    assert np.array_equal(example["placement"].place(example["mask"][0, 0].numpy()), mask.voxels)


@pytest.mark.parametrize(
    ("options", "label", "size", "said"),
    [
        ((), 2, (4, 4, 4), "holds label 2; this model knows 0 to 1"),
        ((), 1, (28, 4, 4), "28 voxels wide where the model's canvas of 24 x 24 x 16 (RAS) has 24"),
        ((), 0, (4, 4, 4), "nothing is labelled"),
        (("--size", 16, 16, 16), 1, (4, 4, 4), "scans are as large as their mask"),
        (("--model", "hippocampus-latent"), 1, (4, 4, 4), "meddiffusion model is led by none"),
    ],
)
def test_what_can_not_lead_is_refused_in_one_line(
    gen3d: Run, model: Path, tmp_path: Path, options: tuple[object, ...], label: int, size: tuple[int, ...], said: str
) -> None:
    mask = box(tmp_path / "m" / "m.nii.gz", (30, 12, 20), (1, 1, 1), size, label)
    chosen = options if "--model" in options else ("--model", model, *options)
    status, _, noted = gen3d("generate", *chosen, "--mask", mask, "-o", tmp_path / "out")
    assert (status in (1, 2), said in noted, noted.count("\n")) == (True, True, 1), noted
    assert not (tmp_path / "out").exists()


def test_no_mask_and_empty_folders_are_refused_in_one_line(gen3d: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for options, said in (((), "give one or a folder of them by --mask"), (("--mask", tmp_path / "none"), "no NIfTI")):
        status, _, noted = gen3d("generate", "--model", model, *options, "-o", tmp_path / "out")
        assert (status, said in noted, noted.count("\n")) == (1, True, 1), noted
    save_model(control("mri"), tmp_path / "mri")
    status, _, noted = gen3d("generate", "--model", tmp_path / "mri", "-o", tmp_path / "out")
    assert (status, "use gen3d reconstruct" in noted, noted.count("\n")) == (1, True, 1)


def test_one_bad_mask_does_not_stop_the_rest(gen3d: Run, model: Path, tmp_path: Path) -> None:
    box(tmp_path / "m" / "a.nii.gz", (24, 12, 20), (1, 1, 1), (4, 4, 4), 5)
    box(tmp_path / "m" / "b.nii.gz", (24, 12, 20), (1, 1, 1), (4, 4, 4))
    status, _, noted = gen3d(
        *("generate", "--model", model, "--mask", tmp_path / "m", "-o", tmp_path / "out"),
        *("--sampler", "euler", "--steps", 1),
    )
    assert (status, "a.nii.gz: " in noted, "2 masks, 1 failed" in noted) == (1, True, True), noted
    assert (tmp_path / "out" / "b_0001.nii.gz").is_file()
    for name in "ab":
        box(tmp_path / "m" / f"{name}.nii.gz", (24, 12, 20), (1, 1, 1), (4, 4, 4), 5)
    status, _, noted = gen3d("generate", "--model", model, "--mask", tmp_path / "m", "-o", tmp_path / "none")
    assert (status, "2 masks, 2 failed; nothing was written" in noted, (tmp_path / "none").exists()) == (1, True, False)
