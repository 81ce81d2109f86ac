"""The cache, the patches read from it, and who is trained on."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Placement, Prepared, Scale
from gen3d.data import cache
from gen3d.data.patches import centred_start, flipped, random_flips, random_start, window
from gen3d.data.splits import is_test, split_by_patient


def prepared(name: str, seed: int = 0, *, lesion: bool = True) -> Prepared:
    rng = np.random.default_rng(seed)
    return Prepared(
        name,
        f"patient of {name}",
        rng.random((2, 12, 11, 10), dtype=np.float32),
        np.array([True, False]),
        rng.integers(0, 3, (12, 11, 10)).astype(np.uint8) if lesion else None,
        (1.0, 1.0, 2.5),
        (Scale(0.5, -1.0, 3.0, np.inf), None),
        Placement((10, 11, 12), np.diag([1.0, 2.0, 3.0, 1.0]), "LPS", (-1, 0, 2), (12, 11, 10)) if lesion else None,
    )


@pytest.mark.parametrize("lesion", [True, False])
def test_what_goes_in_comes_out_as_a_memory_map(lesion: bool, tmp_path: Path) -> None:
    case = prepared("a", lesion=lesion)
    (got,) = cache.build([case], tmp_path, dtype=np.float32)
    assert isinstance(got.voxels, np.memmap)
    np.testing.assert_array_equal(got.voxels, case.voxels)
    assert (got.name, got.patient, got.spacing, got.scales) == (case.name, case.patient, case.spacing, case.scales)
    np.testing.assert_array_equal(got.present, case.present)
    assert (got.lesion is None) == (case.lesion is None)
    if case.lesion is not None and case.placement is not None and got.placement is not None:
        np.testing.assert_array_equal(got.lesion, case.lesion)
        np.testing.assert_array_equal(got.placement.affine, case.placement.affine)
        np.testing.assert_array_equal(got.placement.place(case.voxels[0]), case.placement.place(case.voxels[0]))


def test_raters_masks_are_kept(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 12, 11, 10)).astype(np.uint8)
    case = replace(prepared("a", lesion=False), raters=masks)
    got, without = cache.build([case, prepared("b")], tmp_path)
    assert got.raters is not None
    np.testing.assert_array_equal(got.raters, masks)
    assert without.raters is None


def test_half_precision_by_default_and_sorted_by_name(tmp_path: Path) -> None:
    cache.build((prepared(name) for name in ("b", "c", "a")), tmp_path)
    cases = cache.load(tmp_path)
    assert [case.name for case in cases] == ["a", "b", "c"]
    assert cases[0].voxels.dtype == np.float16
    np.testing.assert_allclose(cases[0].voxels, prepared("a").voxels, atol=5e-4)


def test_two_cases_of_one_name_and_an_empty_cache_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two cases are called a"):
        cache.build([prepared("a"), prepared("a")], tmp_path)
    with pytest.raises(UserError, match="no cached case"):
        cache.load(tmp_path / "empty")


def test_a_case_of_an_older_version_is_an_error(tmp_path: Path) -> None:
    (case,) = cache.build([prepared("a")], tmp_path)
    record = json.loads((tmp_path / "a" / "case.json").read_text())
    (tmp_path / "a" / "case.json").write_text(json.dumps({k: v for k, v in record.items() if k != "quantiles"}))
    with pytest.raises(UserError, match="build the cache again"):
        cache.load(tmp_path)
    assert cache.store(case, tmp_path).name == "a"


def test_interrupted_case_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.build([prepared("a", 1)], tmp_path, dtype=np.float32)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.json, "dumps", full)
    for name in ("a", "b"):
        with pytest.raises(UserError, match="no space left"):
            cache.store(prepared(name, 2), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    np.testing.assert_array_equal(cache.load(tmp_path)[0].voxels, prepared("a", 1).voxels)


def test_only_stale_cases_are_made_again(tmp_path: Path) -> None:
    made: list[str] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scan").write_text("voxels")

    def make(key: str) -> Prepared:
        made.append(key)
        return prepared(key, len(made))

    def refresh(settings: str, names: Sequence[str] = ("a", "b")) -> list[Prepared]:
        made.clear()
        return cache.refresh({name: [tmp_path / name] for name in names}, tmp_path / "cache", settings, make)

    assert [case.name for case in refresh("one")] == made == ["a", "b"]
    assert [case.name for case in refresh("one")] == ["a", "b"]
    assert made == []
    (tmp_path / "b" / "scan").write_text("other voxels")
    refresh("one")
    assert made == ["b"]
    os.utime(tmp_path / "a" / "scan", ns=(1, 1))
    refresh("one")
    assert made == ["a"]
    refresh("two")
    assert made == ["a", "b"]
    assert len(cache.load(tmp_path / "cache")) == 2


@pytest.mark.parametrize("size", [(4, 5, 6), (12, 11, 10), (0, 4, 0), (20, 4, 13)])
def test_random_boxes_stay_as_far_inside_as_they_can(size: tuple[int, int, int]) -> None:
    shape, rng = (12, 11, 10), np.random.default_rng(0)
    starts = np.array([random_start(shape, size, rng) for _ in range(500)])
    whole = [n or length for n, length in zip(size, shape, strict=True)]
    for axis in range(3):
        slack = shape[axis] - whole[axis]
        assert set(starts[:, axis]) == set(range(min(slack, 0), max(slack, 0) + 1))


def test_biased_boxes_hold_a_marked_voxel_and_the_rest_is_unchanged() -> None:
    shape, size = (30, 30, 30), (8, 8, 8)
    near = np.zeros(shape, dtype=bool)
    near[0, 29, 15] = near[20, 3, 4] = True
    for seed in range(50):
        start = random_start(shape, size, np.random.default_rng(seed), near=near, bias=1.0)
        assert window(near, start, size).any()
        assert all(0 <= s <= 22 for s in start)
        plain = random_start(shape, size, np.random.default_rng(seed))
        assert plain == random_start(shape, size, np.random.default_rng(seed), near=near, bias=0.0)
    empty = np.zeros(shape, dtype=bool)
    assert random_start(shape, size, np.random.default_rng(1), near=empty, bias=1.0) == random_start(
        shape, size, np.random.default_rng(1)
    )


def test_patch_of_a_memory_map_is_the_patch_of_the_array(tmp_path: Path) -> None:
    case = prepared("a")
    (got,) = cache.build([case], tmp_path, dtype=np.float32)
    start, size = (-2, 3, 1), (20, 5, 4)
    np.testing.assert_array_equal(window(got.voxels, start, size, -1), window(case.voxels, start, size, -1))


def test_centred_box_pads_and_crops_evenly() -> None:
    assert centred_start((240, 240, 155), (224, 0, 256)) == (8, 0, -50)


def test_flips_are_their_own_inverse_and_come_half_the_time() -> None:
    voxels = np.random.default_rng(0).random((2, 3, 4, 5))
    np.testing.assert_array_equal(flipped(voxels, (0,)), voxels[:, ::-1])
    np.testing.assert_array_equal(flipped(flipped(voxels, (0, 2)), (0, 2)), voxels)
    rng = np.random.default_rng(0)
    assert sum(random_flips(rng) == (0,) for _ in range(1000)) == pytest.approx(500, abs=60)


@dataclass(frozen=True)
class Visit:
    patient: str
    number: int


def test_nobody_is_on_both_sides_whatever_the_order() -> None:
    visits = [Visit(f"p{i}", n) for i in range(20) for n in range(1 + i % 3)]
    train, test = split_by_patient(visits, 0.25, seed=3)
    assert len({v.patient for v in test}) == 5
    assert not {v.patient for v in train} & {v.patient for v in test}
    assert sorted(map(repr, train + test)) == sorted(map(repr, visits))
    assert set(split_by_patient(visits[::-1], 0.25, seed=3)[1]) == set(test)
    assert set(split_by_patient(visits, 0.25, seed=4)[1]) != set(test)
    assert all(split_by_patient([Visit("a", 0), Visit("b", 0)], 0.01))


def test_the_projects_split() -> None:
    for dataset, name in (("brats", "TCGA-DU-7294"), ("ms", "patient19"), ("ct", "aorta_crop")):
        assert is_test(dataset, name)
    for dataset, name in (("brats", "TCGA-FG-6692"), ("ms", "patient07"), ("ct", "spleen2")):
        assert not is_test(dataset, name)
    assert is_test("longitudinal", "ms_patient01")
    assert is_test("ct_kernels", "slice1")
    for name in ("hippocampus_001", "hippocampus_003", "hippocampus_367"):
        assert is_test("hippocampus", name) == (int(hashlib.sha256(name.encode()).hexdigest(), 16) % 5 == 0)
    with pytest.raises(UsageError, match="did you mean 'brats'"):
        is_test("brast", "TCGA-DU-7294")


def test_a_fifth_of_hippocampus_is_tested_on(data_folder: Path) -> None:
    names = [p.name.removesuffix(".nii.gz") for p in (data_folder / "hippocampus" / "imagesTr").glob("*.nii.gz")]
    assert len(names) == 217
    assert 0.12 < np.mean([is_test("hippocampus", name) for name in names]) < 0.28
