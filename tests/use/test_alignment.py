"""Studies whose contrasts are not in register: found, brought onto one grid, and back."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.alignment import Aligned, align, back, finest, register, resample, save_transform
from gen3d.data.layout import read_case
from gen3d.data.phantom import phantom

sitk = pytest.importorskip("SimpleITK")
SIZE, SPACING_MM = (72, 88, 72), 2.2


def rigid(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float], centre: np.ndarray) -> np.ndarray:
    """Turn about the world's axes through ``centre``, then shift."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(4)
        i, j = (a for a in range(3) if a != axis)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift_mm
    return matrix


def brain_mm(volume: Volume) -> np.ndarray:
    """Where the brain's voxels are, (N, 4), every third along each axis."""
    index = 3 * np.argwhere(volume.voxels[::3, ::3, ::3] != 0)
    return np.c_[index, np.ones(len(index))] @ volume.affine.T


def apart_mm(a: np.ndarray, b: np.ndarray, volume: Volume) -> float:
    """How far two transforms put a point of the brain apart, at most."""
    return float(np.linalg.norm(brain_mm(volume) @ (a - b).T, axis=1).max())


def moved(volume: Volume, transform: np.ndarray, slice_mm: float = 0.0) -> Volume:
    """The head after it moved, p_moving = transform @ p, in slices of ``slice_mm`` along the last axis."""
    shape, affine = list(volume.shape), volume.affine.copy()
    if slice_mm:
        ratio = slice_mm / volume.spacing[2]
        shape[2] = int(shape[2] / ratio)
        affine[:3, 3] += affine[:3, 2] * (ratio - 1) / 2
        affine[:3, 2] *= ratio
    x, y, z = shape
    voxels = resample(volume, (x, y, z), affine, np.linalg.inv(transform))
    return Volume(voxels, affine, volume.contrast, volume.origin)


def middle(volume: Volume) -> np.ndarray:
    return brain_mm(volume).mean(axis=0)[:3]


@pytest.fixture(scope="module")
def study() -> Case:
    return phantom(5, SIZE, SPACING_MM, ("t1n", "t2w"), "tumour")


@pytest.fixture(scope="module")
def movement(study: Case) -> np.ndarray:
    return rigid((3.0, -3.0, 2.6), (4.0, -3.0, 5.0), middle(study.volumes["t1n"]))


@pytest.fixture(scope="module")
def shaken(study: Case, movement: np.ndarray) -> Case:
    """T2 turned by 5 degrees and shifted by 7 mm, in slices of 5 mm."""
    volumes = {"t2w": moved(study.volumes["t2w"], movement, 5.0), "t1n": study.volumes["t1n"]}
    return replace(study, volumes=volumes)


@pytest.fixture(scope="module")
def aligned(shaken: Case) -> Aligned:
    return align(shaken)


def test_movement_is_found_and_undone(study: Case, shaken: Case, aligned: Aligned, movement: np.ndarray) -> None:
    t1, t2 = aligned.case.volumes["t1n"], aligned.case.volumes["t2w"]
    assert aligned.reference == "t1n" == finest(shaken)
    assert apart_mm(aligned.transforms["t2w"], movement, t1) < 0.5
    assert t1 is shaken.volumes["t1n"]
    np.testing.assert_array_equal(aligned.transforms["t1n"], np.eye(4))
    assert aligned.moved_mm["t1n"] == 0
    assert aligned.moved_mm["t2w"] == pytest.approx(apart_mm(movement, np.eye(4), t1), rel=0.1)
    assert t2.on_grid_of(t1)
    assert t2.voxels.dtype == np.float32
    assert t2.contrast == "t2w"
    assert aligned.case.lesion is study.lesion
    truth = study.volumes["t2w"].voxels
    before = resample(shaken.volumes["t2w"], t1.shape, t1.affine)
    after_error, before_error = (float(np.abs(voxels - truth).mean()) for voxels in (t2.voxels, before))
    assert after_error < 0.5 * before_error


def test_same_study_same_bytes(shaken: Case, aligned: Aligned) -> None:
    again = align(shaken)
    assert aligned.transforms["t2w"].tobytes() == again.transforms["t2w"].tobytes()
    assert aligned.case.volumes["t2w"].voxels.tobytes() == again.case.volumes["t2w"].voxels.tobytes()


def test_contrasts_in_register_are_left_alone(study: Case) -> None:
    aligned = align(study, "t2w")
    assert all(aligned.case.volumes[name] is volume for name, volume in study.volumes.items())
    assert aligned.moved_mm == {"t1n": 0.0, "t2w": 0.0}


def test_inverted_contrast(study: Case, movement: np.ndarray) -> None:
    t1 = study.volumes["t1n"]
    turned = moved(t1, movement)
    inverted = replace(turned, voxels=np.where(turned.voxels > 0, 2 * turned.voxels.max() - turned.voxels, 0))
    assert apart_mm(register(t1, inverted), movement, t1) < 0.5


def test_large_rotation_and_a_header_that_lost_its_place(study: Case) -> None:
    t1 = study.volumes["t1n"]
    movement = rigid((20.0, -15.0, 15.0), (10.0, -5.0, 10.0), middle(t1))
    turned = moved(study.volumes["t2w"], movement)
    lost = np.eye(4)
    lost[:3, 3] = (150.0, 120.0, -90.0)
    assert apart_mm(register(t1, replace(turned, affine=lost @ turned.affine)), lost @ movement, t1) < 0.5


def test_oblique_and_flipped_axes(study: Case, movement: np.ndarray) -> None:
    t1, t2 = study.volumes["t1n"], study.volumes["t2w"]
    tilted = rigid((0.0, 25.0, 10.0), (0.0, 0.0, 0.0), middle(t1)) @ t2.affine
    scan = Volume(resample(t2, t2.shape, tilted, np.linalg.inv(movement)), tilted).reoriented("SAL")
    assert apart_mm(register(t1, scan), movement, t1) < 0.5


def test_a_slab_of_the_head(study: Case, movement: np.ndarray) -> None:
    t1 = study.volumes["t1n"]
    whole = moved(study.volumes["t2w"], movement)
    affine = whole.affine.copy()
    affine[:3, 3] += 28 * affine[:3, 2]
    slab = Volume(np.ascontiguousarray(whole.voxels[:, :, 28:52]), affine)
    assert apart_mm(register(t1, slab), movement, t1) < 1.0


def test_result_goes_back_to_the_native_grid(shaken: Case, aligned: Aligned, movement: np.ndarray) -> None:
    native = shaken.volumes["t2w"]
    returned = back(aligned.case.volumes["t2w"], aligned.transforms["t2w"], native)
    assert returned.on_grid_of(native)
    assert np.corrcoef(returned.voxels.ravel(), native.voxels.ravel())[0, 1] > 0.95
    assert shaken.lesion is not None
    labels = back(shaken.lesion, movement, native)
    assert labels.voxels.dtype == shaken.lesion.voxels.dtype
    assert set(np.unique(labels.voxels)) <= set(np.unique(shaken.lesion.voxels))
    there = np.c_[np.argwhere(labels.voxels > 0), np.ones((labels.voxels > 0).sum())] @ native.affine.T
    expected = np.c_[np.argwhere(shaken.lesion.voxels > 0), np.ones((shaken.lesion.voxels > 0).sum())]
    np.testing.assert_allclose(
        there.mean(axis=0), (expected @ shaken.lesion.affine.T @ movement.T).mean(axis=0), atol=0.5
    )


def test_lesion_follows_the_contrast_that_it_was_drawn_on(shaken: Case, movement: np.ndarray) -> None:
    assert shaken.lesion is not None
    drawn = replace(shaken, lesion=back(shaken.lesion, movement, shaken.volumes["t2w"]))
    lesion = align(drawn).case.lesion
    assert lesion is not None
    assert lesion.on_grid_of(shaken.volumes["t1n"])
    both = (lesion.voxels > 0) & (shaken.lesion.voxels > 0)
    assert 2 * both.sum() / ((lesion.voxels > 0).sum() + (shaken.lesion.voxels > 0).sum()) > 0.75


def test_saved_transform_reads_in_itk(tmp_path: Path, movement: np.ndarray) -> None:
    save_transform(movement, tmp_path / "new" / "t2w.tfm")
    read = sitk.ReadTransform(str(tmp_path / "new" / "t2w.tfm"))
    point = np.array([12.0, -30.0, 44.0, 1.0])
    flip = np.array([-1.0, -1.0, 1.0])
    moved_to = np.array(read.TransformPoint((flip * point[:3]).tolist())) * flip
    np.testing.assert_allclose(moved_to, (movement @ point)[:3], atol=1e-9)


def test_resampling_averages_thick_slices_and_knows_its_borders() -> None:
    ramp = Volume(np.broadcast_to(np.arange(12, dtype=np.float32), (4, 5, 12)) + 1, np.eye(4))
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[2, 3] = 1.5
    np.testing.assert_allclose(resample(ramp, (4, 5, 3), affine)[2, 2], [2.5, 6.5, 10.5], rtol=1e-6)
    np.testing.assert_array_equal(resample(ramp, (4, 5, 12), np.eye(4)), ramp.voxels)
    outside = np.eye(4)
    outside[0, 3] = 2
    np.testing.assert_array_equal(resample(ramp, (4, 5, 12), outside)[2:], 0)


def test_another_thing_is_refused_in_one_line(study: Case, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    scans = {
        "t1n": replace(study.volumes["t1n"], origin=tmp_path / "t1.nii"),
        "t2w": Volume(noise, np.diag([4.0, 4.0, 4.0, 1.0]), "t2w", tmp_path / "t2.nii"),
    }
    with pytest.raises(UserError, match=r"t1\.nii.*t2\.nii|t2\.nii.*t1\.nii") as raised:
        align(Case("two", scans))
    assert "\n" not in str(raised.value)


def test_unknown_reference_is_a_usage_error(study: Case) -> None:
    with pytest.raises(UsageError, match="no contrast 't1c'"):
        align(study, "t1c")


def test_finest_is_the_first_of_equals() -> None:
    voxels = np.zeros((2, 2, 2), dtype=np.float32)
    sizes = {"t1n": (1.0, 1.0, 3.0), "t1c": (1.0, 1.0, 1.00001), "t2w": (1.0, 1.0, 1.0)}
    assert finest(Case("x", {name: Volume(voxels, np.diag([*mm, 1.0])) for name, mm in sizes.items()})) == "t1c"


def test_missing_library_is_named(study: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        align(study)
    assert raised.value.name == "SimpleITK"


def test_real_contrasts_return_to_where_they_were(data_folder: Path) -> None:
    """The scans' own registration is no better than some tenths of a millimetre: the bound is not on ours alone."""
    case = read_case(data_folder / "brats" / "TCGA-FG-6692", with_lesion=False)
    t1 = case.volumes["t1n"]
    movement = rigid((3.0, -3.0, 2.6), (4.0, -3.0, 5.0), middle(t1))
    found = register(t1, moved(case.volumes["t2f"], movement))
    assert apart_mm(found, movement, t1) < 1.0
