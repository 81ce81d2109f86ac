"""``gen3d augment``: whole data sets in three layouts, gates, given masks, real cases, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_pairs import contents, nnunet_complaints, write_tiny_pairs

from gen3d.core.error import UserError
from gen3d.data.studies import find_studies, read_study
from gen3d.tools.augment.augment import augment
from gen3d.tools.augment.merge import merge
from gen3d.tools.augment.pair import Drawing, Wishes

Run = Callable[..., tuple[int, str, str]]
COUNT = 6


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pairs(tmp_path_factory.mktemp("pairs") / "tiny-pairs")


@pytest.fixture(scope="session")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished nnU-Net data set; never written to."""
    out = tmp_path_factory.mktemp("augment") / "set"
    augment(model, COUNT, out)
    return out


def rows(out: Path) -> list[dict]:
    return [json.loads(text) for text in (out / "manifest.jsonl").read_text().splitlines()]


def accepted(out: Path) -> list[dict]:
    return [row for row in rows(out) if row["status"] == "accepted"]


def test_every_case_is_accounted_for(made: Path) -> None:
    report = json.loads((made / "report.json").read_text())
    found = rows(made)
    assert [row["number"] for row in found] == list(range(1, COUNT + 1))
    assert report["accepted"] + report["given_up"] == COUNT == report["asked"]
    assert report["accepted"] == len(list((made / "imagesTr").iterdir())) == len(list((made / "labelsTr").iterdir()))
    assert report["accepted"] >= 2
    assert report["rejected"]["labels"] == sum(len(row["rejected"]) for row in found) >= 1
    assert report["draws"] == sum(row["attempts"] for row in found)
    assert "core has" in (made / "report.md").read_text()
    assert not [name for name in contents(made) if "part" in name]
    assert (made / "contact-sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_image_and_mask_share_a_grid_and_say_that_they_are_synthetic(made: Path) -> None:
    for row in accepted(made):
        image, mask = (nib.load(made / path) for path in row["sha256"])
        np.testing.assert_array_equal(image.affine, mask.affine)
        assert image.shape == mask.shape == (32, 32, 32)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        np.testing.assert_allclose(image.header.get_zooms(), 4.0)
        assert image.get_data_dtype() == np.int16
        assert 0 <= image.get_fdata().min() < image.get_fdata().max() <= 1000
        counts = np.bincount(np.asarray(mask.dataobj).ravel())
        assert counts[1] * 0.064 == pytest.approx(row["volumes_ml"]["core"], abs=1e-3)
        assert b"SYNTHETIC" in image.header["descrip"].item()
        told = json.loads((made / "provenance" / f"{row['case']}.json").read_text())
        assert told["synthetic"] is True
        assert told["model"]["name"] == "tiny-pairs"
        assert told["key"] == f"0/augment/{row['number']}/{row['attempts'] - 1}"


def test_splits_keep_synthetic_cases_out_of_validation(made: Path) -> None:
    folds = json.loads((made / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        assert fold == {"train": [row["case"] for row in accepted(made)], "val": []}


def test_nnunet_rules(made: Path) -> None:
    assert nnunet_complaints(made) == []


def test_nnunet_itself_accepts_the_folder(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = pytest.importorskip(
        "nnunetv2.experiment_planning.verify_dataset_integrity",
        reason="nnunetv2 is not installed: its rules are restated above",
        exc_type=ImportError,
    )
    check.verify_dataset_integrity(str(made), num_processes=1)
    assert "Done" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["nnunet", "msd", "bids"])
def test_layouts_are_read_back(model: Path, made: Path, tmp_path: Path, layout: str) -> None:
    out = made if layout == "nnunet" else tmp_path / "set"
    if layout != "nnunet":
        augment(model, COUNT, out, layout=layout)
    studies = find_studies(out)
    assert len(studies) == len(accepted(out))
    first = accepted(out)[0]
    case = read_study(studies[0])
    (volume,) = case.volumes.values()
    np.testing.assert_array_equal(volume.voxels, nib.load(out / next(iter(first["sha256"]))).get_fdata())
    assert [row["fingerprint"] for row in rows(out)] == [row["fingerprint"] for row in rows(made)]
    if layout == "msd":
        about = json.loads((out / "dataset.json").read_text())
        assert {"image": f"./imagesTr/{first['case']}.nii.gz", "label": f"./labelsTr/{first['case']}.nii.gz"} in about[
            "training"
        ]
    if layout == "bids":
        assert (
            json.loads((out / "derivatives/labels/dataset_description.json").read_text())["DatasetType"] == "derivative"
        )
        assert (out / "derivatives/labels" / first["case"] / "anat" / f"{first['case']}_dseg.nii.gz").is_file()


def test_more_cases_do_not_change_the_first(model: Path, made: Path, tmp_path: Path) -> None:
    augment(model, 2, tmp_path / "few")
    images = {name: data for name, data in contents(tmp_path / "few").items() if name.startswith(("images", "labels"))}
    assert images
    assert images.items() <= contents(made).items()


def write_masks(folder: Path) -> Path:
    """Two masks away from the world's origin, on axes that are not the model's."""
    folder.mkdir()
    affine = nib.affines.from_matvec(np.diag([4.0, 4.0, 4.0]), [30, -20, 7])
    for number in (1, 2):
        mask = np.zeros((36, 40, 34), np.uint8)
        mask[12:20, 14 : 20 + number, 10:22] = number
        nib.save(nib.Nifti1Image(mask, affine), folder / f"mask{number}.nii.gz")
    return folder


def test_given_masks_keep_their_place_in_the_world(model: Path, tmp_path: Path) -> None:
    masks = write_masks(tmp_path / "masks")
    augment(model, 3, tmp_path / "out", wishes=Wishes(masks))
    augment(model, 3, tmp_path / "bent", wishes=Wishes(masks, deform=True), attempts=1)
    for row in accepted(tmp_path / "out"):
        image, mask = (nib.load(tmp_path / "out" / path) for path in row["sha256"])
        np.testing.assert_array_equal(image.affine, mask.affine)
        source = nib.load(masks / f"mask{(row['number'] - 1) % 2 + 1}.nii.gz")
        for one, other in ((mask, source), (source, mask)):
            where = np.argwhere(np.asarray(one.dataobj))
            there = np.rint(nib.affines.apply_affine(np.linalg.inv(other.affine) @ one.affine, where)).astype(int)
            np.testing.assert_array_equal(
                np.asarray(other.dataobj)[tuple(there.T)], np.asarray(one.dataobj)[tuple(where.T)]
            )
    assert len(accepted(tmp_path / "out")) == 3
    run = json.loads((tmp_path / "bent" / "run.json").read_text())
    assert run["masks"]["count"] == 2
    drawing = Drawing(model, Wishes(masks, deform=True))
    one, other, again = (drawing.lead(1, key)[0]["mask"] for key in ("a", "b", "a"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert set(one.unique().tolist()) == {0, 1}


def test_a_mask_that_does_not_fit_stops_only_its_own_cases(model: Path, tmp_path: Path) -> None:
    masks = write_masks(tmp_path / "masks")
    image = nib.load(masks / "mask2.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 4, image.affine), masks / "mask2.nii.gz")
    report = augment(model, 4, tmp_path / "out", wishes=Wishes(masks))
    assert (report["accepted"], report["given_up"], report["rejected"]["mask"]) == (2, 2, 2)
    with pytest.raises(UserError, match=r"mask2.*holds label 8"):
        augment(model, 4, tmp_path / "alone", wishes=Wishes(masks / "mask2.nii.gz"))


def test_real_cases_alone_validate(model: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (real / name).mkdir(parents=True)
    (real / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": {"background": 0}}))
    for number in range(7):
        for path in (f"imagesTr/r{number}_0000", f"labelsTr/r{number}"):
            nib.save(
                nib.Nifti1Image(rng.integers(0, 4, (9, 8, 7)).astype(np.uint8), np.eye(4)), real / f"{path}.nii.gz"
            )
    augment(model, COUNT, tmp_path / "out", real=real)
    folds = json.loads((tmp_path / "out" / "splits_final.json").read_text())
    synthetic = [row["case"] for row in accepted(tmp_path / "out")]
    assert sorted(case for fold in folds for case in fold["val"]) == [f"r{number}" for number in range(7)]
    for fold in folds:
        assert not {*fold["val"]} & {*fold["train"]}
        assert {*synthetic} <= {*fold["train"]}
    assert nnunet_complaints(tmp_path / "out") == []
    before = (real / "imagesTr/r3_0000.nii.gz").read_bytes()
    assert (tmp_path / "out/imagesTr/r3_0000.nii.gz").read_bytes() == before


def test_parts_are_merged_only_when_all_are_there(gen3d: Run, model: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("augment", "--model", model, "-n", COUNT, "-o", out)
    status, said, _ = gen3d(*command, "--part", "2/2")
    assert (status, "gen3d augment --merge" in said) == (0, True)
    status, _, told = gen3d("augment", "--merge", "-o", out)
    assert (status, told.count("\n")) == (1, 1)
    assert "3 of 6 cases are not there yet (1, 3, 5)" in told
    gen3d(*command, "--part", "1/2")
    status, said, _ = gen3d("augment", "--merge", "-o", out, "--dry-run")
    assert (status, "6 cases, 6 of them there" in said, (out / "manifest.jsonl").exists()) == (0, True, False)
    assert gen3d("augment", "--merge", "-o", out)[0] == 0
    assert contents(out) == contents(made)
    assert gen3d("augment", "--merge", "-o", out)[0] == 0
    assert gen3d(*command)[0] == 0
    assert contents(out) == contents(made)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["-n", 0], 2, "'-n' / '--count': Input should be greater than or equal to 1"),
        (["-n", 3, "--part", "5/4"], 2, "--part '5/4': expected i/n"),
        (["-n", 3, "--attempts", 0], 2, "--attempts 0: expected at least 1"),
        (["-n", 3, "--layout", "nnunett"], 2, "did you mean 'nnunet'?"),
        (["-n", 3, "--engine", "rey"], 2, "did you mean 'ray'?"),
        (["-n", 3, "--workers", 2], 2, "--part 1/2"),
        (["-n", 3, "--deform"], 2, "add --from-masks"),
        (["-n", 3, "--volumes", "1,2"], 2, "one number of mL above 0 for each of core, oedema, enhancing"),
        (["-n", 3, "--label", "old"], 2, "--label: a pairs model is told none"),
        (["-n", 3, "--channels", "t1n,t2w"], 2, "expected a name for each of t1n"),
    ],
)
def test_wrong_words_are_told_in_one_line(
    gen3d: Run, model: Path, tmp_path: Path, words: list[object], status: int, told: str
) -> None:
    found, _, said = gen3d("augment", "--model", model, "-o", tmp_path / "out", *words)
    assert (found, said.count("\n")) == (status, 1)
    assert told in said
    assert not (tmp_path / "out").exists()


def test_a_model_without_labels_is_refused(gen3d: Run, tmp_path: Path) -> None:
    status, _, said = gen3d("augment", "--model", "hippocampus-wdm", "-n", 1, "-o", tmp_path / "out")
    assert (status, said.count("\n")) == (1, 1)
    assert "draws no labels" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_run_is_never_mixed(gen3d: Run, model: Path, made: Path, tmp_path: Path) -> None:
    before = contents(made)
    for words, odd in ((["--seed", 1], "seed is 0, now 1"), (["--layout", "msd"], "layout"), (["-n", 7], "n is 6")):
        status, _, said = gen3d("augment", "--model", model, "-n", COUNT, "-o", made, *words)
        assert (status, odd in said, "never mixed" in said) == (1, True, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scan.nii.gz").write_bytes(b"mine")
    assert "did not write" in gen3d("augment", "--model", model, "-o", tmp_path / "mine")[2]
    assert "run.json" in gen3d("augment", "--merge", "-o", tmp_path / "mine")[2]
    assert contents(made) == before


def test_a_full_disk_is_told_and_loses_nothing(
    gen3d: Run, model: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("augment", "--model", model, "-n", COUNT, "-o", tmp_path / "out")
    real, left = os.fsync, 3

    def full(number: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, _, said = gen3d(*command)
    assert (status, said.count("\n")) == (1, 2)
    assert "no space left on device" in said
    assert len(list((tmp_path / "out" / "labelsTr").iterdir())) == 1
    assert gen3d(*command)[0] == 0
    assert contents(tmp_path / "out") == contents(made)


def test_a_dry_run_writes_nothing(gen3d: Run, model: Path, tmp_path: Path) -> None:
    status, said, _ = gen3d("augment", "--model", model, "-n", COUNT, "-o", tmp_path / "out", "--dry-run")
    assert (status, "6 cases, 0 of them there" in said, (tmp_path / "out").exists()) == (0, True, False)


def test_merging_twice_is_harmless(made: Path) -> None:
    before = contents(made)
    merge(made)
    assert contents(made) == before
