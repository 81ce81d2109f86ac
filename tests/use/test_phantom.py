"""Phantoms: a brain, a scanner and a lesion per seed."""

from pathlib import Path

import numpy as np
import pytest

from gen3d.core.error import UsageError
from gen3d.core.volume import Case
from gen3d.data.anatomy import anatomy, smooth_field
from gen3d.data.layout import CONTRASTS, find_cases, read_case
from gen3d.data.mri import TISSUES, Tissue, inversion_recovery, nulling_time, protocol, spin_echo, with_agent
from gen3d.data.phantom import phantom, write_phantom

SIZE = (64, 72, 64)


@pytest.fixture(scope="module")
def tumour() -> Case:
    return phantom(2, SIZE, 2.8, lesion="tumour")


def test_same_seed_same_voxels_another_seed_others(tumour: Case) -> None:
    again, other = phantom(2, SIZE, 2.8, lesion="tumour"), phantom(3, SIZE, 2.8, lesion="tumour")
    for name, volume in tumour.volumes.items():
        np.testing.assert_array_equal(volume.voxels, again.volumes[name].voxels)
        assert np.mean(volume.voxels != other.volumes[name].voxels) > 0.1


def test_contrast_does_not_depend_on_which_others_are_asked_for(tumour: Case) -> None:
    alone = phantom(2, SIZE, 2.8, ("t2f",), "tumour")
    assert list(alone.volumes) == ["t2f"]
    np.testing.assert_array_equal(alone.volumes["t2f"].voxels, tumour.volumes["t2f"].voxels)


def test_is_a_skull_stripped_study_on_one_lps_grid(tumour: Case) -> None:
    assert tuple(tumour.volumes) == CONTRASTS
    first = tumour.volumes["t1n"]
    brain = first.voxels > 0
    litres = brain.sum() * 2.8**3 / 1e6
    assert 0.9 < litres < 2.2
    for volume in tumour.volumes.values():
        assert volume.axcodes == "LPS"
        assert volume.spacing == pytest.approx((2.8, 2.8, 2.8))
        assert volume.on_grid_of(first)
        np.testing.assert_array_equal(volume.voxels > 0, brain)
        assert volume.voxels.max() < 32767
        np.testing.assert_array_equal(volume.voxels, np.rint(volume.voxels))
    assert tumour.lesion is not None
    assert tumour.lesion.voxels[~brain].max() == 0


def means(seed: int, contrast: str) -> dict[str, float]:
    """Mean intensity where one tissue fills the voxel, for the anatomy that ``phantom`` draws first from its seed."""
    rng = np.random.default_rng([seed, 0])
    rng.choice(3, p=(0.5, 0.35, 0.15))
    subject = anatomy(rng, SIZE, 2.8, "tumour")
    values = phantom(seed, SIZE, 2.8, (contrast,), "tumour").volumes[contrast].voxels[subject.brain]
    return {t: float(values[share > 0.9].mean()) for t, share in subject.fractions.items() if (share > 0.9).sum() > 5}


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_tissues_are_ordered_as_in_mr(seed: int) -> None:
    t1, t2, flair = (means(seed, contrast) for contrast in ("t1n", "t2w", "t2f"))
    assert t1["white"] > t1["grey"] > t1["csf"]
    assert t2["csf"] > t2["grey"] > t2["white"]
    assert flair["csf"] < 0.6 * min(flair["grey"], flair["white"])


def test_lesions_light_up_where_they_should() -> None:
    case = phantom(3, (96, 96, 96), 2.0, lesion="tumour")
    assert case.lesion is not None
    labels = case.lesion.voxels
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    brain = case.volumes["t1n"].voxels > 0

    def bright(contrast: str, label: int) -> float:
        voxels = case.volumes[contrast].voxels
        return float(voxels[labels == label].mean() / np.median(voxels[brain & (labels == 0)]))

    assert bright("t1c", 3) > 1.2 > bright("t1n", 3)
    assert bright("t2f", 2) > 1.1
    assert bright("t2w", 1) > 1.2
    spots = phantom(3, (96, 96, 96), 2.0, ("t2f",), "plaques")
    assert spots.lesion is not None
    flair = spots.volumes["t2f"].voxels
    assert np.unique(spots.lesion.voxels).tolist() == [0, 1]
    assert flair[spots.lesion.voxels > 0].mean() > 1.1 * np.median(flair[flair > 0])
    none = phantom(3, SIZE, 2.8, ("t2f",), "none")
    assert none.lesion is not None
    assert not none.lesion.voxels.any()


def test_signal_equations_at_their_limits() -> None:
    tissue = Tissue(900.0, 80.0, 0.7)
    assert spin_echo(tissue, 1e9, 0) == pytest.approx(0.7)
    assert spin_echo(tissue, 1e9, 80 * np.log(2)) == pytest.approx(0.35)
    assert spin_echo(tissue, 900 * np.log(2), 0) == pytest.approx(0.35)
    assert inversion_recovery(tissue, 9000, 100, nulling_time(tissue, 9000)) == pytest.approx(0, abs=1e-12)
    assert with_agent(Tissue(1000.0, 80.0, 0.7, agent_mmol=1.0)).t1_ms == pytest.approx(1000 / 5.5)


@pytest.mark.parametrize("seed", range(5))
def test_agent_brightens_what_takes_it_up_and_nothing_else(seed: int) -> None:
    before, after = (protocol(c, TISSUES, np.random.default_rng(seed)) for c in ("t1n", "t1c"))
    assert after(TISSUES["enhancing"]) > 1.15 * before(TISSUES["enhancing"])
    assert after(TISSUES["white"]) == pytest.approx(before(TISSUES["white"]), rel=1e-12)


def test_smooth_field_has_unit_variance_and_no_jumps() -> None:
    fields = np.stack([smooth_field(np.random.default_rng(s), (40, 30, 20), 1.0, 10.0) for s in range(200)])
    assert fields.shape[1:] == (40, 30, 20)
    assert fields.std() == pytest.approx(1, abs=0.03)
    assert np.abs(np.diff(fields, axis=1)).max() < 1


def test_written_phantom_reads_as_a_brats_case(tmp_path: Path) -> None:
    place = write_phantom(tmp_path, 7, SIZE, 2.8, ("t1n", "t2f"), "tumour")
    case, expected = read_case(place), phantom(7, SIZE, 2.8, ("t1n", "t2f"), "tumour")
    assert find_cases(tmp_path) == [place]
    assert (case.name, case.patient) == (expected.name, expected.patient) == ("BraTS-PHA-00007-000", "BraTS-PHA-00007")
    assert case.output_name("t1c") == "BraTS-PHA-00007-000-t1c.nii.gz"
    for name, volume in case.volumes.items():
        np.testing.assert_array_equal(volume.voxels, expected.volumes[name].voxels)
        assert volume.on_grid_of(expected.volumes[name])
    np.testing.assert_array_equal(case.lesion.voxels, expected.lesion.voxels)  # type: ignore[union-attr]


def test_wrong_names_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 't2f'"):
        phantom(0, SIZE, 2.8, ("t2ff",))
    with pytest.raises(UsageError, match="did you mean 'tumour'"):
        phantom(0, SIZE, 2.8, lesion="tumor")
