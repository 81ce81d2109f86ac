"""The models in the box: small, honest about their training, never shown a test case, better than nothing."""

import json
from pathlib import Path

import pytest
import torch

import gen3d
from gen3d.data.layout import read_case
from gen3d.data.nifti import read
from gen3d.data.phantom import write_phantom
from gen3d.data.splits import is_test
from gen3d.metrics import psnr, score_completion
from gen3d.metrics.completion import quantiles, window
from gen3d.systems import shipped
from gen3d.tools.generate import generate
from gen3d.tools.synthesize import synthesize

LIMITS_MB = {
    "brain-growth-raters": 2.1,
    "hippocampus-segment": 2.1,
    "brain-completion": 6.0,
    "ct-kernel": 2.0,
    "ct-recon": 2.0,
    "hippocampus-forecast": 2.1,  # 2 MiB
    "hippocampus-latent": 2.1,
    "hippocampus-pairs": 2.0,
    "hippocampus-wdm": 2.0,
    "mri-recon": 2.0,
}
DATASETS = {
    "brain-growth-raters": ("multirater",),
    "hippocampus-segment": ("hippocampus",),
    "brain-completion": ("brats", "ms"),
    "ct-kernel": ("ct",),
    "ct-recon": ("ct",),
    "hippocampus-forecast": ("hippocampus",),
    "hippocampus-latent": ("hippocampus",),
    "hippocampus-pairs": ("hippocampus",),
    "hippocampus-wdm": ("hippocampus",),
    "mri-recon": ("brats", "ms"),
}


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


@pytest.mark.parametrize("name", LIMITS_MB)
def test_a_shipped_model_is_small_and_says_what_it_is(name: str) -> None:
    folder = shipped()[name]
    assert megabytes(folder) <= LIMITS_MB[name]
    index = json.loads((folder / "model_index.json").read_text())
    facts, card = index["provenance"], (folder / "README.md").read_text()
    assert f"{facts['patients']} patients" in card
    licences = [f"{source['name']}: {source['licence']}" for source in facts["sources"]]
    for words in ("synthetic", "never for diagnosis", "train on your own data", "## Not for", "## Scores", *licences):
        assert words in card
    assert "None measured" not in card
    assert len(facts["names"]) == facts["cases"] >= facts["patients"] > 0


def test_all_shipped_models_stay_within_their_bounds() -> None:
    assert set(shipped()) == set(LIMITS_MB)
    assert sum(megabytes(folder) for folder in shipped().values()) <= 24


@pytest.mark.parametrize("name", LIMITS_MB)
def test_a_shipped_model_never_saw_a_test_case(name: str) -> None:
    facts = json.loads((shipped()[name] / "model_index.json").read_text())["provenance"]
    known = {source["name"] for source in facts["sources"]}
    assert known == set(DATASETS[name])
    assert not [case for case in facts["names"] for dataset in known if is_test(dataset, case)]


def test_brain_completion_beats_a_constant_image_on_an_unseen_phantom(tmp_path: Path) -> None:
    """T1 and FLAIR, each from the other three: mean brain PSNR against the true brain's median."""
    case = write_phantom(tmp_path / "in", 9002, (128, 152, 128), 1.4)
    ours, flat = [], []
    for name in ("t1n", "t2f"):
        true = read_case(case).volumes[name]
        written = synthesize(case, tmp_path / "out", missing=[name], check=False)
        truth, made = torch.from_numpy(true.voxels), torch.from_numpy(read(written[0]).voxels)
        ours.append(score_completion(truth, made).brain)
        low, high = quantiles(truth, [0.001, 0.999])
        brain = window(truth[truth > 0], low, high)
        flat.append(float(psnr(brain, brain.median().expand_as(brain))))
    assert sum(ours) > sum(flat), (ours, flat)


def test_hippocampus_wdm_draws_different_volumes(tmp_path: Path) -> None:
    import nibabel as nib

    system = gen3d.load("hippocampus-wdm")
    paths = generate("hippocampus-wdm", tmp_path / "out", 2, steps=5)
    one, other = (nib.load(path).get_fdata() for path in paths)
    assert one.shape == system.config.size
    assert one.std() > 20
    assert abs(one - other).mean() > 10
