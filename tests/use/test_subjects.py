"""TorchIO subjects and MONAI dictionaries go in, come out with what was made, and mean the same as files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.error import UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.layout import read_case
from gen3d.interop.subjects import to_case
from gen3d.nn.unet import UNetConfig
from gen3d.segmentation.plain import Plain, PlainConfig
from gen3d.systems import load
from gen3d.tools.in_memory import filled_in, segmented
from gen3d.tools.synthesize import synthesize


def subject_of(case: Case) -> Any:
    torchio = pytest.importorskip("torchio", reason="torchio is not installed")
    images = {
        name: torchio.ScalarImage(tensor=torch.from_numpy(volume.voxels)[None], affine=volume.affine)
        for name, volume in case.volumes.items()
    }
    if case.lesion:
        mask = torch.from_numpy(case.lesion.voxels)[None]
        images["seg"] = torchio.LabelMap(tensor=mask, affine=case.lesion.affine)
    return torchio.Subject(**images, age=54)


def dictionary_of(case: Case) -> dict[str, Any]:
    from monai.data import MetaTensor

    lesion = {"seg": case.lesion} if case.lesion else {}
    tensors = {
        name: MetaTensor(torch.from_numpy(np.asarray(volume.voxels))[None], affine=torch.from_numpy(volume.affine))
        for name, volume in {**case.volumes, **lesion}.items()
    }
    return {**tensors, "age": 54}


def arrays_of(case: Case) -> dict[str, Any]:
    lesion = {"label": case.lesion} if case.lesion else {}
    found: dict[str, Any] = {"age": 54}
    for name, volume in {**case.volumes, **lesion}.items():
        found |= {name: np.asarray(volume.voxels), f"{name}_meta_dict": {"affine": volume.affine}}
    return found


def paths_of(case: Case) -> dict[str, Any]:
    return {**{name: str(volume.origin) for name, volume in case.volumes.items()}, "age": 54}


KINDS = {"torchio": subject_of, "monai": dictionary_of, "arrays": arrays_of, "paths": paths_of}


def voxels(image: Any) -> np.ndarray:
    return np.asarray(image.data if getattr(image, "type", None) else image)[0]


@pytest.fixture(params=KINDS)
def given(request: pytest.FixtureRequest, case: Path) -> Mapping[str, Any]:
    subject: Mapping[str, Any] = KINDS[request.param](read_case(case))
    return subject


def test_a_case_comes_out_of_each_kind(given: Mapping[str, Any], case: Path) -> None:
    true, found = read_case(case), to_case(given)
    assert set(found.volumes) == {"t1n", "t1c", "t2w"}
    for name, volume in found.volumes.items():
        assert volume.on_grid_of(true.volumes[name])
        np.testing.assert_array_equal(volume.voxels, true.volumes[name].voxels)


def test_filled_in_is_what_synthesize_writes(given: Mapping[str, Any], case: Path, tiny_model: Path, tmp_path: Path):
    (path,) = synthesize(case, tmp_path / "out", tiny_model, check=False, device="cpu")
    before = set(given)
    made = filled_in(given, tiny_model, device="cpu")
    assert type(made) is type(given)
    assert set(given) == before
    assert set(made) - before <= {"t2f", "t2f_meta_dict"}
    assert made["age"] == 54
    np.testing.assert_allclose(voxels(made["t2f"]), nib.load(path).get_fdata(dtype=np.float32), atol=1e-3)


def test_what_was_made_says_so_and_has_its_place(given: Mapping[str, Any], case: Path, tiny_model: Path) -> None:
    made = filled_in(given, tiny_model, mode="sample", steps=1, seed=3, device="cpu")
    image = made["t2f"]
    told = made.get("t2f_meta_dict") or getattr(image, "meta", None) or image
    assert (told["synthetic"], told["model"], told["seed"]) == (True, "tiny", 3)
    affine = told["affine"] if "t2f_meta_dict" in made else image.affine
    np.testing.assert_allclose(np.asarray(affine), read_case(case).volumes["t1n"].affine)


def test_torchio_transforms_take_what_was_made(case: Path, tiny_model: Path) -> None:
    torchio = pytest.importorskip("torchio", reason="torchio is not installed")
    made = filled_in(subject_of(read_case(case)), tiny_model, device="cpu")
    flipped = torchio.RandomFlip(axes=(0,), flip_probability=1.0)(made)
    np.testing.assert_allclose(flipped["t2f"].data.numpy(), made["t2f"].data.numpy()[:, ::-1])


def test_monai_transforms_take_what_was_made(case: Path, tiny_model: Path) -> None:
    from monai.transforms import Compose, FlipD, LoadImaged

    names = ("t1n", "t1c", "t2w")
    load_all = LoadImaged(names, ensure_channel_first=True, image_only=True)
    chain = Compose([load_all, lambda data: filled_in(data, tiny_model, device="cpu"), FlipD((*names, "t2f"), 0)])
    made = chain(paths_of(read_case(case)))
    assert made["t2f"].shape == made["t1n"].shape
    assert torch.equal(made["t2f"].affine, made["t1n"].affine)


def test_channels_of_one_image(case: Path) -> None:
    whole = read_case(case)
    stack = np.stack([volume.voxels for volume in whole.volumes.values()])
    given = {"image": stack, "image_meta_dict": {"affine": whole.volumes["t1n"].affine}}
    found = to_case(given, {"image": tuple(whole.volumes)})
    np.testing.assert_array_equal(found.volumes["t2w"].voxels, whole.volumes["t2w"].voxels)
    with pytest.raises(UserError, match="3 channels; expected 1"):
        to_case(given, {"image": "t1n"})


def test_an_affine_in_lps_is_turned(case: Path) -> None:
    given = dictionary_of(read_case(case))
    truth = to_case(given).volumes["t1n"].affine
    for image in ("t1n", "t1c", "t2w"):
        given[image].affine = torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64)) @ given[image].affine
        given[image].meta["space"] = "LPS"
    given.pop("seg", None)
    np.testing.assert_allclose(to_case(given).volumes["t1n"].affine, truth)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no image among no keys"),
        ({"age": 54}, "no image among age"),
        ({"t1": np.zeros((4, 4, 4))}, "t1: has no affine"),
        ({"a": np.zeros((4, 4, 4)), "b": np.zeros((4, 4, 4)), "c": np.zeros((4, 4, 4))}, "no image among a, b, c"),
    ],
)
def test_what_is_no_subject_is_told_in_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        to_case(given)
    assert "\n" not in str(caught.value)


def test_grids_that_differ_are_refused(case: Path) -> None:
    given = arrays_of(read_case(case))
    given["t1c_meta_dict"] = {"affine": np.diag([2.0, 1.0, 1.0, 1.0]) @ given["t1n_meta_dict"]["affine"]}
    with pytest.raises(UserError, match="grid"):
        to_case(given)


def test_a_case_is_given_back_as_a_case(case: Path, tiny_model: Path) -> None:
    made = filled_in(read_case(case), tiny_model, device="cpu")
    assert isinstance(made, Case)
    assert set(made.volumes) == {"t1n", "t1c", "t2w", "t2f"}


def test_a_complete_subject_is_given_back_as_it_is(phantoms: Path, tiny_model: Path) -> None:
    whole = arrays_of(read_case(next(phantoms.iterdir())))
    assert filled_in(whole, tiny_model, device="cpu") is whole


@pytest.mark.parametrize("kind", ["torchio", "monai", "arrays"])
def test_masks_are_predicted(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNetConfig(in_channels=4, out_channels=3, width=8, multipliers=(1, 2), blocks=1, groups=4)
    save_model(Plain(PlainConfig(labels=("head", "tail"), patch=(16, 16, 16), network=network)), tmp_path / "plain")
    affine = np.diag([-1.0, 2.0, 1.5, 1.0])
    scan = Volume(np.random.default_rng(0).random((20, 18, 16), dtype=np.float32), affine, "scan")
    given = KINDS[kind](Case("one", {"scan": scan}))
    made = segmented(given, tmp_path / "plain", device="cpu")
    assert type(made) is type(given)
    assert voxels(made["predicted"]).shape == (20, 18, 16)
    assert set(np.unique(voxels(made["predicted"]))) <= {0, 1, 2}
    assert 0 <= voxels(made["entropy"]).min() <= voxels(made["entropy"]).max() <= np.log(3) + 1e-4
    if kind == "torchio":
        assert made["predicted"].type == "label"


def test_a_subject_is_a_training_case(phantoms: Path, tiny_model: Path) -> None:
    given = arrays_of(read_case(next(phantoms.iterdir())))
    system = load(tiny_model)
    example = system.example(system.prepare(to_case(given)), "0/0/0")
    terms = system.objectives()[0].loss(example, ["0/0/0"])
    assert all(torch.isfinite(term).all() for term in terms.values())
