"""Whether a skull is on: heads are made around simulated brains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from gen3d.core.volume import Case, Volume
from gen3d.data.layout import read_case
from gen3d.data.nifti import read
from gen3d.data.phantom import phantom
from gen3d.data.skull import is_magnitude, is_stripped, stripped


def head(brain: Volume) -> Volume:
    """A T1-weighted head: dark fluid and bone around the brain, bright scalp, air with noise."""
    inside = brain.voxels > 0
    away = distance_transform_edt(~inside, sampling=brain.spacing)
    level = float(np.median(brain.voxels[inside]))
    voxels = np.where(inside, brain.voxels, 0)
    for low, high, share in ((0, 2, 0.3), (2, 7, 0.1), (7, 14, 1.6)):
        voxels = np.where((away > low) & (away <= high), share * level, voxels)
    noise = np.random.default_rng(0).normal(0, 0.04 * level, (2, *voxels.shape))
    return replace(brain, voxels=np.hypot(voxels + noise[0], noise[1]).astype(np.float32))


@pytest.fixture(scope="module")
def study() -> Case:
    return phantom(4, (92, 110, 92), 2.0)


def test_stripped_brains_and_heads_are_told_apart(study: Case) -> None:
    for volume in study.volumes.values():
        assert is_stripped(volume)
        assert is_stripped(replace(volume, voxels=volume.voxels - 5))  # a background that is not 0
        faint = np.random.default_rng(0).normal(0, 0.002 * volume.voxels.max(), volume.shape)
        assert is_stripped(replace(volume, voxels=(volume.voxels + faint).astype(np.float32)))
    whole = head(study.volumes["t1n"])
    assert not is_stripped(whole)
    cut = np.where(whole.voxels < 0.2 * np.percentile(whole.voxels, 95), 0, whole.voxels)
    assert (cut == 0).mean() > 0.3
    assert not is_stripped(replace(whole, voxels=cut))  # the air set to 0 by a scanner


def test_outside_the_mask_is_nothing(study: Case) -> None:
    mask = np.zeros(study.volumes["t1n"].shape, dtype=bool)
    mask[30:60, 30:60, 30:60] = True
    for name, volume in stripped(study, mask).volumes.items():
        assert not volume.voxels[~mask].any()
        np.testing.assert_array_equal(volume.voxels[mask], study.volumes[name].voxels[mask])


def test_real_stripped_scans_are_known_as_such(data_folder: Path) -> None:
    for place in ("brats/TCGA-FG-6692", "ms/patient07"):
        assert all(is_stripped(volume) for volume in read_case(data_folder / place).volumes.values())


def test_a_ct_is_no_magnitude_and_what_resampling_leaves_is_no_ct(data_folder: Path) -> None:
    """Interpolated MR has a few negative voxels at its edges: 0.2 % at most here, where a CT has 50 %."""
    for path in [*sorted((data_folder / "ms").glob("*/t*.nii.gz")), data_folder / "brats/TCGA-FG-6692"]:
        scan = path if path.is_file() else next(path.glob("*flair.nii.gz"))
        assert is_magnitude(read(scan))
    for path in sorted((data_folder / "ct").glob("*.nii.gz")):
        if "seg" not in path.name:
            assert not is_magnitude(read(path))
