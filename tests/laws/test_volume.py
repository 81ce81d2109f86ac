"""Axes, boxes and the way back: nothing moves in the world."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Case, Placement, Volume, axcodes, turned, window
from gen3d.data.intensity import Intensity
from gen3d.data.prepare import prepare

ALL_CODES = ["".join(c) for p in permutations(("RL", "AP", "SI")) for c in product(*p)]


def rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    a, b, c = np.deg2rad(rng.uniform(-degrees, degrees, 3))
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def directions(codes: str) -> np.ndarray:
    """World direction of each voxel axis, one per column."""
    return np.stack([np.eye(3)["RAS".index(c)] if c in "RAS" else -np.eye(3)["LPI".index(c)] for c in codes], axis=1)


def oblique(codes: str, seed: int, degrees: float = 20.0) -> np.ndarray:
    """An affine with the given codes: anisotropic, rotated, shifted."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = rotation(rng, degrees) @ directions(codes) @ np.diag(rng.uniform(0.5, 4, 3))
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def some_volume(codes: str, seed: int = 0, shape: tuple[int, int, int] = (5, 6, 7)) -> Volume:
    voxels = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return Volume(voxels, oblique(codes, seed))


def test_there_are_48_orientations() -> None:
    assert len(set(ALL_CODES)) == 48


@pytest.mark.parametrize("codes", ALL_CODES)
def test_axcodes_equal_nibabel(codes: str) -> None:
    for seed in range(5):
        affine = oblique(codes, seed, 15)
        assert axcodes(affine) == "".join(nib.aff2axcodes(affine)) == codes


def test_axcodes_equal_nibabel_at_any_angle_and_shear() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        affine = np.eye(4)
        shear = np.eye(3) + np.triu(rng.uniform(-0.4, 0.4, (3, 3)), 1)
        affine[:3, :3] = rotation(rng, 180) @ shear @ np.diag(rng.uniform(0.3, 5, 3))
        assert axcodes(affine) == "".join(nib.aff2axcodes(affine))


@pytest.mark.parametrize("source", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("target", ALL_CODES)
def test_reorientation_equals_nibabel(source: str, target: str) -> None:
    volume = some_volume(source)
    image = nib.Nifti1Image(volume.voxels, volume.affine)
    change = ornt_transform(nib.io_orientation(volume.affine), axcodes2ornt(target))
    expected = image.as_reoriented(change)
    got = volume.reoriented(target)
    assert got.axcodes == target
    np.testing.assert_array_equal(got.voxels, np.asarray(expected.dataobj))
    np.testing.assert_allclose(got.affine, expected.affine, atol=1e-12)


@pytest.mark.parametrize("target", ALL_CODES)
def test_reorientation_and_back_is_nothing(target: str) -> None:
    volume = some_volume("LPS")
    back = volume.reoriented(target).reoriented("LPS")
    assert back.on_grid_of(volume)
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    np.testing.assert_array_equal(turned(turned(volume.voxels, "LPS", target), target, "LPS"), volume.voxels)


@pytest.mark.parametrize("codes", ["LPX", "LRS", "LP", "LPSI", "lps"])
def test_impossible_axis_codes_are_a_usage_error(codes: str) -> None:
    with pytest.raises(UsageError, match="axis codes"):
        some_volume("RAS").reoriented(codes)


def test_same_grid_tells_a_hundredth_of_a_millimetre() -> None:
    volume = some_volume("LPS")
    moved = volume.affine.copy()
    moved[0, 3] += 0.01
    assert volume.on_grid_of(Volume(volume.voxels, volume.affine + 1e-7))
    assert not volume.on_grid_of(Volume(volume.voxels, moved))
    assert not volume.on_grid_of(Volume(volume.voxels[1:], volume.affine))


@pytest.mark.parametrize(
    ("start", "size"),
    [((0, 0, 0), (5, 6, 7)), ((1, 2, 3), (3, 2, 1)), ((-2, -3, -1), (9, 11, 10)), ((3, -4, 6), (8, 5, 3))],
)
def test_window_equals_padding_then_slicing(start: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).random((2, 5, 6, 7), dtype=np.float32)
    padded = np.pad(array, [(0, 0)] + [(20, 20)] * 3, constant_values=-7)
    box = tuple(slice(s + 20, s + 20 + n) for s, n in zip(start, size, strict=True))
    np.testing.assert_array_equal(window(array, start, size, -7), padded[(slice(None), *box)])


def test_window_beyond_the_array_is_fill_of_each_channel() -> None:
    box = window(np.zeros((2, 4, 4, 4), np.float32), (10, -9, 0), (3, 3, 3), [1.0, 2.0])
    assert (box[0] == 1).all()
    assert (box[1] == 2).all()


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SPL"])
@pytest.mark.parametrize("codes", ALL_CODES)
def test_place_undoes_take_and_the_world_stays(codes: str, axes: str) -> None:
    volume = some_volume(codes, seed=3)
    placement = Placement(volume.shape, volume.affine, axes, (-2, 1, -1), (12, 4, 10))
    model = placement.take(volume.voxels, -1.0)
    assert model.shape == placement.size
    assert axcodes(placement.model_affine) == axes
    inside = placement.place(np.ones(placement.size, np.float32)) == 1
    back = placement.place(model, fill=-5.0)
    np.testing.assert_array_equal(back[inside], volume.voxels[inside])
    assert (back[~inside] == -5).all()
    to_file = np.linalg.inv(volume.affine) @ placement.model_affine
    index = np.argwhere(model >= 0)
    there = np.rint(index @ to_file[:3, :3].T + to_file[:3, 3]).astype(int)
    np.testing.assert_array_equal(model[tuple(index.T)], volume.voxels[tuple(there.T)])


def test_place_refuses_another_shape() -> None:
    placement = Placement((5, 6, 7), np.eye(4), "LPS", (0, 0, 0), (4, 4, 4))
    with pytest.raises(ValueError, match="model's shape"):
        placement.place(np.zeros((5, 6, 7)))
    with pytest.raises(ValueError, match="file's shape"):
        placement.take(np.zeros((4, 4, 4)))


def brats_like(codes: str = "LPS") -> Case:
    voxels = np.zeros((240, 240, 155), np.float32)
    voxels[40:200, 30:210, 10:150] = np.random.default_rng(0).uniform(1, 500, (160, 180, 140))
    volume = Volume(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]), "t1n").reoriented(codes)
    return Case("case", {"t1n": volume}, Volume((volume.voxels > 250).astype(np.int16), volume.affine))


def test_official_cwdm_preprocessing() -> None:
    case = brats_like("RSA")
    prepared = prepare(case, ["t1n", "t2f"], "LPS", Intensity(), (224, 224, 160), pad="end")
    raw = brats_like().volumes["t1n"].voxels.astype(np.float64)
    low, high = np.quantile(raw, [0.001, 0.999])
    expected = np.pad((np.clip(raw, low, high) - low) / (high - low), [(0, 0), (0, 0), (0, 5)])[8:-8, 8:-8]
    np.testing.assert_allclose(prepared.voxels[0], expected, atol=1e-6)
    assert prepared.present.tolist() == [True, False]
    assert not prepared.voxels[1].any()
    assert prepared.placement is not None
    back = prepared.placement.place(prepared.voxels[0])
    assert back.shape == case.volumes["t1n"].shape
    raw_back = prepared.scales[0].invert(back)  # type: ignore[union-attr]
    np.testing.assert_allclose(raw_back, np.clip(case.volumes["t1n"].voxels, low, high), atol=1e-3)


def test_official_wdm_preprocessing() -> None:
    prepared = prepare(brats_like(), ["t1n"], "LPS", Intensity(to=(-1, 1)), (256, 256, 256))
    raw = brats_like().volumes["t1n"].voxels.astype(np.float64)
    low, high = np.quantile(raw, [0.001, 0.999])
    unit = np.pad((np.clip(raw, low, high) - low) / (high - low), [(8, 8), (8, 8), (50, 51)])
    np.testing.assert_allclose(prepared.voxels[0], 2 * unit - 1, atol=1e-6)


@pytest.mark.parametrize("margin", [0, 4, 60])
def test_foreground_box_holds_all_of_it_with_the_margin(margin: int) -> None:
    case = brats_like("SRA")
    prepared = prepare(case, ["t1n"], "LPS", crop="foreground", margin=margin)
    z = 155 - max(10 - margin, 0) - max(5 - margin, 0)
    assert prepared.voxels.shape == (1, min(160 + 2 * margin, 240), min(180 + 2 * margin, 240), z)
    assert prepared.placement is not None
    assert prepared.lesion is not None
    assert case.lesion is not None
    np.testing.assert_array_equal(prepared.placement.place(prepared.lesion), case.lesion.voxels)


def test_volume_with_its_background_is_kept_whole() -> None:
    voxels = np.random.default_rng(0).normal(0, 100, (9, 8, 7)).astype(np.float32)
    voxels[:3] = -1000
    prepared = prepare(Case("ct", {"ct": Volume(voxels, np.eye(4))}), ["ct"], "RAS", crop="foreground")
    assert prepared.voxels.shape[1:] == (9, 8, 7)


def test_case_without_the_models_contrasts_is_an_error() -> None:
    with pytest.raises(UserError, match="expected at least one of t2w"):
        prepare(brats_like(), ["t2w"])
    with pytest.raises(UsageError, match="crop"):
        prepare(brats_like(), ["t1n"], crop="brain")  # type: ignore[arg-type]
