"""Several raters' masks as training data: npz archives and folders, raters missing, and what does not fit together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen3d.core.draws import collate
from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.nifti import write
from gen3d.data.prepare import ABSENT
from gen3d.data.raters import find_rater_cases, holds_raters, read_rater_case
from gen3d.segmentation.cases import Segmentation, SegmentationConfig
from gen3d.tools.training_cases import DataConfig, Source, gather

SIZE = (9, 7, 5)
LPS = np.diag([-1.0, -2.0, 3.0, 1.0])


class Drawer(Segmentation):
    name = "drawer"
    Config = SegmentationConfig


def image(size: tuple[int, ...] = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 100, size).astype(np.float32)


def mask(first: int, size: tuple[int, ...] = SIZE) -> np.ndarray:
    found = np.zeros(size, np.int16)
    found[first : first + 3, 2:5] = 1
    return found


def archive(path: Path, **changes: Any) -> Path:
    flat = (12, 10)
    arrays = {
        "case01_image": image(flat),
        "case01_masks": np.stack([mask(1, flat), mask(2, flat), mask(3, flat)]).astype(np.uint8),
        "case02_image": image(flat, 1),
        "case02_masks": np.stack([mask(1, flat), np.zeros(flat), np.full(flat, ABSENT)]).astype(np.uint8),
    }
    np.savez(path, **arrays | changes)
    return path


def folder(root: Path, drawn: dict[str, dict[int, np.ndarray]], affine: np.ndarray = LPS) -> Path:
    for seed, (case, masks) in enumerate(drawn.items()):
        write(Volume(image(seed=seed), affine), root / "imagesTr" / f"{case}.nii.gz")
        for number, voxels in masks.items():
            write(Volume(voxels, affine), root / "labelsTr" / f"{case}_rater{number}.nii.gz")
    return root


def gathered(path: Path, cache: Path, **changes: Any) -> tuple[Drawer, list[Any]]:
    system = Drawer(SegmentationConfig(**{"raters": 3, "patch": (8, 6, 4)} | changes))
    cases, _ = gather(DataConfig(sources=(Source(str(path)),), cache=str(cache)), system)
    return system, cases


def test_an_archive_of_slices_is_trained_on(tmp_path: Path) -> None:
    path = archive(tmp_path / "drawn.npz")
    assert holds_raters(path)
    system, cases = gathered(path, tmp_path / "cache", patch=(8, 8, 1))
    assert [case.name for case in cases] == ["case01", "case02"]
    assert cases[0].raters.shape == (3, 12, 10, 1)
    np.testing.assert_array_equal(cases[0].raters[1, :, :, 0], mask(2, (12, 10)))
    assert (cases[1].raters[2] == ABSENT).all()  # did not draw
    assert not cases[1].raters[1].any()  # drew nothing
    example, _ = collate([(system.example(cases[1], key), key) for key in (f"0/{n}" for n in range(20))])
    assert example["image"].shape == (20, 1, 8, 8, 1)
    assert example["masks"].shape == (20, 3, 8, 8, 1)
    assert example["drew"].tolist() == [[True, True, False]] * 20
    assert set(example["rater"].tolist()) == {0, 1}
    assert int(example["labels"].max()) == 1
    for labels, masks, rater in zip(example["labels"], example["masks"], example["rater"], strict=True):
        assert bool((labels == masks[rater]).all())


def test_a_folder_is_trained_on_and_remade_where_a_mask_changes(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", {"a": {1: mask(1), 2: mask(2), 3: mask(4)}, "b": {3: mask(0)}})
    assert holds_raters(path)
    assert not holds_raters(tmp_path)
    system, (first, second) = gathered(path, tmp_path / "cache")
    assert (first.name, second.name) == ("a", "b")
    turned = [first.placement.place(drawn) for drawn in first.raters]
    for got, drawn in zip(turned, (mask(1), mask(2), mask(4)), strict=True):
        np.testing.assert_array_equal(got, drawn)
    assert [bool((drawn == ABSENT).all()) for drawn in second.raters] == [True, True, False]
    assert {int(system.example(second, f"0/{n}")["rater"]) for n in range(5)} == {2}
    write(Volume(mask(5), LPS), path / "labelsTr" / "b_rater3.nii.gz")
    _, (_, again) = gathered(path, tmp_path / "cache")
    np.testing.assert_array_equal(again.placement.place(again.raters[2]), mask(5))


def test_no_foreground_in_any_mask_is_a_case_like_others(tmp_path: Path) -> None:
    nothing = np.zeros(SIZE, np.int16)
    system, (case,) = gathered(folder(tmp_path / "in", {"a": {1: nothing, 2: nothing}}), tmp_path / "cache")
    example = system.example(case, "0/0")
    assert not example["labels"].any()
    assert example["drew"].all()


def test_real_raters_are_read(data_folder: Path) -> None:
    studies = find_rater_cases(data_folder / "multirater" / "qubiq_brain_growth.npz")
    assert len(studies) == 29
    case = read_rater_case(studies[0])
    assert case.volumes["mri"].shape == (128, 128, 1)
    assert len(case.raters) == 7
    assert all(drawn is not None and drawn.voxels.any() for drawn in case.raters)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"case01_masks": np.zeros((3, 12, 9), np.uint8)}, r"case01: image has shape \(12, 10\), each mask \(12, 9\)"),
        ({"case01_masks": np.zeros((12, 10), np.uint8)}, r"masks \(12, 10\); expected CASE_image"),
        ({"case01_masks": np.full((3, 12, 10), 0.5)}, "mask 1 is not a mask"),
        ({"case01_masks": np.full((3, 12, 10), np.nan)}, "no rater drew it"),
        ({"case01_image": np.full((12, 10), np.nan)}, "NaN or infinite"),
        ({"case01_image": np.zeros((12, 10))}, "all voxels of the image are 0"),
        ({"case03_image": np.zeros((12, 10))}, "lacks case03_masks"),
        ({"case01_masks": np.full((3, 12, 10), 2, np.uint8)}, "holds label 2; this model knows 1 structure"),
    ],
)
def test_archives_that_do_not_fit_are_one_clear_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        gathered(archive(tmp_path / "drawn.npz", **changes), tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_files_that_are_no_such_archive_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK not really")
    np.savez(tmp_path / "other.npz", volume=np.zeros(3))
    for name, words in (("broken", "can't be read as an npz archive"), ("other", "no array whose name ends in _image")):
        with pytest.raises(UserError, match=words):
            find_rater_cases(tmp_path / f"{name}.npz")
    with pytest.raises(UserError, match="no such file or folder"):
        find_rater_cases(tmp_path / "none.npz")


def test_masks_of_other_shapes_or_places_and_unknown_cases_are_named(tmp_path: Path) -> None:
    other = folder(tmp_path / "shape", {"a": {1: mask(1), 2: mask(1, (8, 7, 5))}})
    with pytest.raises(
        UserError, match=r"a.nii.gz and .*a_rater2.nii.gz differ in shape, \(9, 7, 5\) against \(8, 7, 5\)"
    ):
        gathered(other, tmp_path / "cache")
    place = folder(tmp_path / "place", {"a": {1: mask(1)}})
    write(Volume(mask(1), LPS + np.eye(4, k=3)), place / "labelsTr" / "a_rater1.nii.gz")
    with pytest.raises(UserError, match=r"a_rater1.nii.gz differ in affine; expected one grid"):
        gathered(place, tmp_path / "cache")
    alone = folder(tmp_path / "alone", {"a": {1: mask(1)}})
    write(Volume(mask(1), LPS), alone / "labelsTr" / "c_rater1.nii.gz")
    with pytest.raises(UserError, match=r"c_rater1.nii.gz: no image of c in imagesTr"):
        gathered(alone, tmp_path / "cache")
    nobody = folder(tmp_path / "nobody", {"a": {1: mask(1)}, "b": {}})
    with pytest.raises(UserError, match=r"b.nii.gz: no rater drew it"):
        gathered(nobody, tmp_path / "cache")
    nought = folder(tmp_path / "nought", {"a": {0: mask(1), 1: mask(1)}})
    with pytest.raises(UserError, match="counted from 1"):
        gathered(nought, tmp_path / "cache")
