"""The region where samples differ most: found by what it holds, in its place in the world."""

import numpy as np
import pytest

from gen3d.data.topology import connected
from gen3d.tools.least_certain import apart, least_certain

AFFINE = np.array([[0, -2.0, 0, 10], [1.0, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


@pytest.fixture
def spread() -> np.ndarray:
    """Little everywhere; a blob of 4 x 5 x 4 voxels, two smaller ones as high, one voxel that is far higher."""
    voxels = np.random.default_rng(0).uniform(1, 2, (40, 44, 36)).astype(np.float32)
    voxels[10:14, 20:25, 16:20] = 50
    voxels[30:33, 6:9, 6:9] = 50
    voxels[25:28, 36:39, 6:9] = 50
    voxels[4, 4, 4] = 400
    return voxels


def test_the_largest_integral_wins_and_no_single_voxel(spread: np.ndarray) -> None:
    mask = np.ones(spread.shape, dtype=bool)
    mask[:, :, 30:] = False
    spread[:, :, 30:] = 500
    region = least_certain(spread, mask, AFFINE, 1000.0)
    assert region is not None
    x, y, z = region.voxel
    assert (10 <= x < 14, 20 <= y < 25, 16 <= z < 20) == (True, True, True)
    np.testing.assert_allclose(region.centre_mm, (AFFINE @ (x, y, z, 1))[:3])
    assert region.volume_ml == pytest.approx(
        6 * 7 * 6 * 0.006, abs=0.01
    )  # the blob and, as it is smoothed, its surface
    assert 1.5 < region.std_percent < 2


def test_its_place_on_another_grid_in_another_world(spread: np.ndarray) -> None:
    region = least_certain(spread, np.ones(spread.shape, dtype=bool), AFFINE, 1000.0)
    assert region is not None
    shift = np.eye(4)
    shift[:3, 3] = (7, -3, 11)
    facts = region.facts(shift @ AFFINE, shift)
    assert facts["centre_voxel"] == list(region.voxel)
    np.testing.assert_allclose(facts["centre_mm"], np.add(region.centre_mm, (7, -3, 11)))


def test_a_bent_region_has_its_middle_inside_it() -> None:
    spread = np.zeros((40, 40, 40), dtype=np.float32)
    spread[8:32, 8:32, 20] = 9
    spread[12:28, 12:28, 20] = 0
    region = least_certain(spread, np.ones(spread.shape, dtype=bool), np.eye(4), 100.0)
    assert region is not None
    assert spread[region.voxel] == 9


def test_nothing_where_nothing_differs() -> None:
    voxels = np.zeros((6, 7, 1), dtype=np.float32)
    assert least_certain(voxels, voxels == 0, np.eye(4), 1.0) is None
    assert least_certain(voxels + 1, voxels != 0, np.eye(4), 1.0) is None


@pytest.mark.parametrize("share", [0.02, 0.06, 0.3])
def test_labels_are_those_of_26_neighbours(share: float) -> None:
    from scipy.ndimage import label

    mask = np.random.default_rng(1).random((30, 31, 9)) < share
    theirs = label(mask, np.ones((3, 3, 3)))[0][mask]
    ours = connected(mask)
    both = set(zip(ours.tolist(), theirs.tolist(), strict=True))
    assert len(both) == len(set(ours.tolist())) == len(set(theirs.tolist()))


def test_a_lesion_and_the_rest_apart() -> None:
    spread = np.full((4, 4, 4), 10.0)
    spread[0] = 30
    mask = np.ones(spread.shape, dtype=bool)
    mask[3] = False
    assert apart(spread, mask, spread > 20, 1000.0) == {"inside": 3.0, "rest": 1.0}
    assert apart(spread, mask, ~mask, 1000.0) == {"rest": round(100 * (30 + 10 + 10) / 3 / 1000, 2)}
