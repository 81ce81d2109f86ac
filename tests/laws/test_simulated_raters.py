"""Simulated raters: borders move as far as they are said to, smoothly, alike across slices, all by key."""

from pathlib import Path

import numpy as np
import pytest

from gen3d.core.error import UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.nifti import write
from gen3d.data.raters import find_rater_cases, read_rater_case
from gen3d.data.simulated_raters import Disagreement, simulate_raters, with_raters, write_raters

SIZE, SPACING = (40, 44, 36), (1.0, 1.0, 1.0)
STILL = Disagreement(habits=(0.0,), moods=0.0, wander=0.0)


def ball(radius: float = 10.0, spacing: tuple[float, float, float] = SPACING) -> np.ndarray:
    axes = np.meshgrid(*[s * (np.arange(n) - (n - 1) / 2) for n, s in zip(SIZE, spacing, strict=True)], indexing="ij")
    inside = np.sqrt(sum(a**2 for a in axes)) <= radius
    return np.where(inside, np.where(axes[1] > 0, 2, 1), 0).astype(np.int16)


def equal_radius(mask: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> float:
    return float((0.75 / np.pi * (mask > 0).sum() * np.prod(spacing)) ** (1 / 3))


@pytest.mark.parametrize("spacing", [SPACING, (1.0, 0.8, 1.4)])
def test_the_border_moves_as_far_as_it_is_said_to(spacing: tuple[float, float, float]) -> None:
    habits = (-2.0, -0.8, 0.0, 0.8, 2.0)
    found = simulate_raters(ball(10.0, spacing), spacing, Disagreement(habits, moods=0, wander=0), "key")
    for mask, habit in zip(found.masks, habits, strict=True):
        assert equal_radius(mask, spacing) == pytest.approx(10 + habit, abs=0.2)
    smallest = found.masks[0] > 0
    assert all((mask[smallest] > 0).all() for mask in found.masks)  # one within the other


def test_labels_keep_their_places() -> None:
    found = simulate_raters(ball(), SPACING, Disagreement((1.5,), moods=0, wander=0), "key")
    half = found.masks[0, :, SIZE[1] // 2 + 1 :], found.masks[0, :, : SIZE[1] // 2]
    assert set(np.unique(half[0])) == {0, 2}
    assert set(np.unique(half[1])) == {0, 1}


def test_shifts_are_smooth_of_the_size_that_is_asked_for_and_reach_across_slices() -> None:
    many = Disagreement(habits=(0.0,) * 24, moods=0.0, wander=0.5, reach=5.0)
    found = simulate_raters(ball(), SPACING, many, "key")
    assert np.sqrt((found.shifts**2).mean()) == pytest.approx(0.5, abs=0.01)
    for axis, size in enumerate(SIZE, 1):
        line = np.moveaxis(found.shifts, axis, 0)
        near, far = (float((line[step:] * line[:-step]).mean() / (line**2).mean()) for step in (1, size // 2))
        assert near > 0.95
        assert abs(far) < 0.35
    slices = (found.masks > 0).sum((1, 2)).astype(float)  # (R, Z)
    together, apart = slices.sum(1).var(), slices.var(0).sum()
    assert together > 2.5 * apart  # independent slices would make them equal


def test_all_follows_from_the_key() -> None:
    first, again, other = (simulate_raters(ball(), SPACING, Disagreement(), key) for key in ("a", "a", "b"))
    np.testing.assert_array_equal(first.masks, again.masks)
    assert (first.masks != other.masks).any()
    volumes = (first.masks > 0).sum((1, 2, 3))
    assert len(set(volumes.tolist())) == len(Disagreement().habits)
    assert first.drew.all()


def test_empty_full_and_flat_masks_are_masks() -> None:
    nothing, everything = np.zeros(SIZE, np.int16), np.ones(SIZE, np.int16)
    assert not simulate_raters(nothing, SPACING, Disagreement(), "key").masks.any()
    assert simulate_raters(everything, SPACING, STILL, "key").masks.all()
    flat = ball()[:, :, SIZE[2] // 2 : SIZE[2] // 2 + 1]
    grown = simulate_raters(flat, SPACING, Disagreement((1.0,), moods=0, wander=0), "key").masks[0]
    area = float(np.sqrt((grown > 0).sum() / np.pi))
    assert area == pytest.approx(np.sqrt((flat > 0).sum() / np.pi) + 1, abs=0.2)


def test_somebody_always_draws() -> None:
    cases = [simulate_raters(ball(), SPACING, Disagreement((0.0, 0.0), 0, 0, absent=0.9), f"{n}") for n in range(30)]
    drawn = np.array([case.drew for case in cases])
    assert drawn.any(1).all()
    assert 0.4 < drawn.mean() < 0.7


def test_a_data_set_of_simulated_raters_is_read_back(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    write(Volume(np.random.default_rng(0).random(SIZE, np.float32), affine), tmp_path / "in/imagesTr/a.nii.gz")
    write(Volume(ball(), affine), tmp_path / "in/labelsTr/a.nii.gz")
    (study,) = find_rater_cases(write_raters(tmp_path / "in", tmp_path / "out", Disagreement()))
    case = read_rater_case(study)
    expected = simulate_raters(ball(), SPACING, Disagreement(), "0/raters/a").masks
    assert len(case.raters) == len(expected)
    for got, mask in zip(case.raters, expected, strict=True):
        assert got is not None
        np.testing.assert_array_equal(got.voxels, mask)
    same = with_raters(Case("a", case.volumes, Volume(ball(), affine)), Disagreement(), "0/raters/a")
    assert same.lesion is None
    assert same.raters[2] is not None
    np.testing.assert_array_equal(same.raters[2].voxels, expected[2])
    with pytest.raises(UserError, match="has no mask"):
        with_raters(Case("a", case.volumes), Disagreement(), "key")
