"""``gen3d evaluate downstream``: who sees whom, equal budgets, parts, what is refused, and what arms are worth."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_pairs import write_tiny_pairs

from gen3d.core.error import UsageError, UserError
from gen3d.data.phantom import phantom
from gen3d.tools.evaluate import downstream
from gen3d.tools.evaluate.downstream import Comparison, evaluate_downstream
from gen3d.tools.evaluate.downstream_cases import Generator, chosen, split_cases, train_generator
from gen3d.tools.evaluate.downstream_tables import Found, worth

Run = Callable[..., tuple[int, str, str]]
NAMES = [f"case{number}" for number in range(6)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled cases in nnU-Net's layout."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    for number, name in enumerate(NAMES):
        case = phantom(6000 + number, (32, 32, 32), 6.0, ("t1n",), lesion="tumour")
        volume = case.volumes["t1n"]
        nib.save(nib.Nifti1Image(volume.voxels, volume.affine), folder / "imagesTr" / f"{name}_0000.nii.gz")
        mask = np.asarray(case.lesion.voxels, np.uint8)
        nib.save(nib.Nifti1Image(mask, volume.affine), folder / "labelsTr" / f"{name}.nii.gz")
    labels = {"background": 0, "core": 1, "oedema": 2, "enhancing": 3}
    about = {"channel_names": {"0": "t1n"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pairs(tmp_path_factory.mktemp("pairs") / "tiny-pairs")


@pytest.fixture
def asked(real: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """A comparison whose generators are trained elsewhere: two steps draw nothing that gates let pass."""
    monkeypatch.setattr(downstream, "train_generator", lambda *told: Generator(model, 2, 0.5))
    return Comparison(real, "smoke_pairs", sizes=(2,), curve=(3,), seeds=2, steps=2, count=2)


def test_every_arm_is_trained_alike_and_tested_on_the_same_unseen_cases(asked: Comparison, tmp_path: Path) -> None:
    found = evaluate_downstream(asked, tmp_path)
    assert not isinstance(found, str)
    rows = found.facts["rows"]
    arms = ["real", "real + classical", "real + synthetic", "real + classical + synthetic", "synthetic alone"]
    assert sorted((row["arm"], row["patients"]) for row in rows) == sorted([*[(a, 2) for a in arms], ("real", 3)] * 2)
    assert {row["steps"] for row in rows} == {2}
    tested = {name for row in rows for name in row["dice"]}
    assert len(tested) == 1
    assert not tested & {name for row in rows for name in row["names"]}
    summary = {row["arm"]: row for row in found.facts["arms"]}
    assert summary["real"]["gain"] is None
    assert summary["real + synthetic"]["pairs"] == 2
    assert summary["synthetic alone"]["cpu_minutes"]["generator"] == pytest.approx(2 * 0.5 / 60)
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_parts_give_what_one_process_gives_and_the_last_one_tells(asked: Comparison, tmp_path: Path) -> None:
    whole = evaluate_downstream(asked, tmp_path / "whole")
    told = evaluate_downstream(asked, tmp_path / "parts", part=(1, 2))
    assert isinstance(told, str)
    assert "this part is finished; 2 of 4" in told
    parts = evaluate_downstream(asked, tmp_path / "parts", part=(2, 2))
    assert not isinstance(whole, str)
    assert not isinstance(parts, str)
    dice = [[row["dice"] for row in report.facts["rows"]] for report in (whole, parts)]
    assert dice[0] == dice[1]


def test_a_generator_sees_its_patients_and_nobody_else(real: Path, tmp_path: Path) -> None:
    split = split_cases(real, None, None, ("t1n",))
    few = chosen(split, 2, 0)
    made = train_generator("smoke_pairs", (), split, few, tmp_path, 0, "cpu")
    index = json.loads((made.model / "model_index.json").read_text())
    assert index["provenance"]["names"] == sorted(study.name for study in few)
    assert index["provenance"]["phantoms"] == 0
    with pytest.raises(UserError, match="was trained on 2 cases, not on this arm's 3"):
        train_generator("smoke_pairs", (), split, chosen(split, 3, 0), tmp_path, 0, "cpu")


def test_more_patients_hold_those_of_fewer(real: Path) -> None:
    split = split_cases(real, None, None, ("t1n",))
    sets = [{study.name for study in chosen(split, size, 1)} for size in (1, 2, 4)]
    assert [len(names) for names in sets] == [1, 2, 4]
    assert sets[0] < sets[1] < sets[2]
    assert {study.name for study in chosen(split, 3, 0)} != {study.name for study in chosen(split, 3, 1)}


def test_a_model_that_saw_a_test_case_is_refused(asked: Comparison, model: Path, tmp_path: Path) -> None:
    index = json.loads((model / "model_index.json").read_text())
    tested = split_cases(asked.real, None, None, ("t1n",)).test[0].name
    for names, why in (([tested], f"was trained on the test case {tested}"), ([], "does not say what")):
        told = {**index, "provenance": {**index["provenance"], "names": names}}
        (model / "model_index.json").write_text(json.dumps(told))
        with pytest.raises(UserError, match=why):
            evaluate_downstream(replace(asked, models=(str(model),)), tmp_path)
    (model / "model_index.json").write_text(json.dumps(index))


def test_a_dry_run_checks_and_writes_nothing(asked: Comparison, tmp_path: Path) -> None:
    told = evaluate_downstream(asked, tmp_path / "out", dry_run=True)
    assert isinstance(told, str)
    assert "would train 12 networks of 2 steps and 2 generators of 2" in told
    assert not (tmp_path / "out").exists()


def test_another_comparison_is_never_mixed_in(asked: Comparison, tmp_path: Path) -> None:
    downstream.begin(tmp_path, asked, split_cases(asked.real, None, None, ("t1n",)))
    with pytest.raises(UserError, match="another comparison"):
        evaluate_downstream(replace(asked, steps=3), tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--patients", "40"], "--patients asks for 40"),
        (["--patients", "ten"], "expected whole numbers"),
        (["--seeds", "0"], "expected at least 1"),
        (["--generator", "smoke_wdm"], "draws no masks"),
        (["--patients", "2", "--model", "hippocampus-segment"], "draws no masks"),
        (["--dataset", "hippocampuss"], "no split for dataset"),
    ],
)
def test_mistakes_are_told_in_a_line(real: Path, gen3d: Run, tmp_path: Path, options: list[str], words: str) -> None:
    out = tmp_path / "out"
    command = ("evaluate", "downstream", real, "-o", out, "--generator", "smoke_pairs", *options)
    status, _, errors = gen3d(*command)
    assert status != 0
    assert words in errors
    assert errors.strip().count("\n") == 0
    assert not out.exists()


def test_models_are_told_apart_by_name(real: Path) -> None:
    assert downstream.short("hippocampus-pairs") == "hippocampus-pairs"
    assert downstream.short("runs/mine/model") == "mine"
    with pytest.raises(UsageError, match="two of one name"):
        Comparison(real, "smoke_pairs", models=("a/mine/model", "b/mine/model"))


def test_dataset_and_folder_are_not_both_tested_on(real: Path) -> None:
    with pytest.raises(UsageError, match="leave one of them out"):
        Comparison(real, "smoke_pairs", dataset="hippocampus", test=real)


def test_half_of_the_draws_are_synthetic_whatever_the_numbers() -> None:
    assert downstream.shares(2, 8, 0.5) == [0.25] * 2 + [0.0625] * 8
    assert downstream.shares(0, 4, 0.5) == [0.25] * 4
    assert downstream.shares(4, 0, 0.5) == [0.25] * 4


def test_worth_is_read_from_the_curve_of_real_cases() -> None:
    curve = [(10, 0.70), (40, 0.80), (100, 0.79)]
    assert worth(0.75, curve) == "20"
    assert worth(0.70, curve) == "10"
    assert worth(0.80, curve) == "40"
    assert worth(0.65, curve) == "< 10"
    assert worth(0.85, curve) == "> 100"


def test_the_gain_is_paired_over_test_cases() -> None:
    def row(arm: str, seed: int, values: list[float]) -> dict:
        dice = {f"t{place}": {"core": value} for place, value in enumerate(values)}
        return {"arm": arm, "patients": 5, "seed": seed, "dice": dice, "training_cpu_seconds": 60.0, "steps": 2}

    rows = [row("real", 0, [0.5, 0.7]), row("real", 1, [0.7, 0.7])]
    rows += [row("real + classical", 0, [0.7, 0.8]), row("real + classical", 1, [0.7, 0.8])]
    better = Found(rows, (5,), ("real", "real + classical")).summary()[1]
    assert better["gain"].mean == pytest.approx(0.1)
    assert better["gain"].high - better["gain"].low < 1e-9
    assert better["gain"].n == 2
    assert better["dice"] == pytest.approx(0.75)
    assert better["cpu_minutes"]["network"] == 2.0
