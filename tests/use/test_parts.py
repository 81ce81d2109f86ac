"""What a configuration takes from saved models and folders: frozen parts, single scans, settings of fine-tuning."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.error import UsageError, UserError
from gen3d.data.studies import read_study, scans_of
from gen3d.systems import find_model, load
from gen3d.tools.train import FINE_TUNING, make_system, packaged_config, read_experiment


def test_a_part_is_the_component_of_that_name() -> None:
    experiment = read_experiment(packaged_config("hippocampus_latent"), ["parts.autoencoder=hippocampus-latent"])
    theirs = load("hippocampus-latent")
    assert theirs.config.autoencoder.stride == experiment.model["autoencoder"]["stride"]
    assert experiment.model["autoencoder"]["kind"] == "patch_volume"


def test_a_part_that_the_system_does_not_have_is_named() -> None:
    experiment = read_experiment(packaged_config("wdm_hippocampus"))
    odd = type(experiment)(system="wdm", model=experiment.model, parts={"netwerk": "hippocampus-wdm"})
    with pytest.raises(UsageError, match=r"parts\.netwerk: no component of wdm \(did you mean 'network'\?\)"):
        make_system(odd, [])


def test_only_completion_models_are_fine_tuned_by_themselves(tmp_path: Path) -> None:
    options = [f"data={tmp_path}", f"init={find_model('hippocampus-wdm')}"]
    other = read_experiment(packaged_config("wdm_hippocampus"), options)
    assert other.train == read_experiment(packaged_config("wdm_hippocampus")).train
    ours = read_experiment(packaged_config("completion_brain_small"), [f"data={tmp_path}", "init=brain-completion"])
    assert (ours.train.steps, ours.train.patience) == (FINE_TUNING["steps"], FINE_TUNING["patience"])


def test_single_scans_of_a_contrast_need_no_names(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii", "b_seg.nii", ".hidden.nii"):
        nib.save(nib.Nifti1Image(np.arange(120, dtype=np.float32).reshape(4, 5, 6), np.eye(4)), tmp_path / name)
    studies = scans_of(tmp_path, "ct")
    assert [study.name for study in studies] == ["a", "b"]
    assert read_study(studies[1]).volumes["ct"].voxels.shape == (4, 5, 6)
    with pytest.raises(UserError, match="no scan in it"):
        scans_of(tmp_path / "nothing", "ct")
