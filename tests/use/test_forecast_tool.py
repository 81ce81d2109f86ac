"""``gen3d forecast``: what is written where, what it says of itself, what is refused in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.error import UserError
from gen3d.core.system import Sampling
from gen3d.core.volume import Case, Placement, Scale, Volume
from gen3d.data.envelope import envelope
from gen3d.data.visits import Patient, Visit
from gen3d.nn.unet import UNetConfig
from gen3d.sequence.forecast import Forecast, ForecastConfig
from gen3d.sequence.frames import FramesConfig
from gen3d.sequence.history import History
from gen3d.sequence.sadm import SADM, SADMConfig
from gen3d.tools.forecast_images import Seen, changed, steps
from gen3d.tools.forecast_query import parse_wish, query
from gen3d.tools.forecast_scores import drawn_between, spread
from tests.use.test_visits import four_dimensional, save, scan

Run = Callable[..., tuple[int, str, str]]
AFFINE = np.array([[0.0, 0, -2, 30], [-1.5, 0, 0, 9], [0, 1, 0, -4], [0, 0, 0, 1]])  # no axis where the model has it
FORECAST, CHANGE, STD = (f"P_2022-01-01_{kind}.nii.gz" for kind in ("forecast", "change", "std"))


def untrained(*, still: bool = False, **changes: object) -> Forecast:
    """A model whose forecast, unless it is still, differs from the last visit, and whose segmenter finds something."""
    torch.manual_seed(0)
    network = UNetConfig(in_channels=32, out_channels=8, width=8, multipliers=(1, 2), groups=4, vector=3)
    segmenter = UNetConfig(in_channels=1, out_channels=3, width=4, multipliers=(1, 2), blocks=1, groups=2)
    config = ForecastConfig(width=8, network=network, segmenter=segmenter, patch=(16, 16, 16))
    system = Forecast(replace(config, **changes))  # type: ignore[arg-type]
    for parameter in system.parameters():
        if not still and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    system.provenance = {"patients": 3, "sources": [{"name": "made up", "licence": "CC0"}]}
    return system


def noisy(seed: int) -> np.ndarray:
    shape = (20, 24, 18)
    return scan(shape) + np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With structures, without, and one whose training scans were like ours."""
    folder = tmp_path_factory.mktemp("models")
    following = untrained(labels=("front", "back"))
    following.provenance["volume_spread"] = {"front": {str(visits): [-0.2, 0.1] for visits in (1, 2, 3)}}
    save_model(following, folder / "volumes")
    save_model(untrained(), folder / "plain")
    elsewhere = untrained(labels=("front", "back"))
    elsewhere.provenance["envelope"] = {"spacing_mm": [[9.0] * 3, [9.0] * 3]}
    save_model(elsewhere, folder / "elsewhere")
    like_ours = untrained()
    prepared = like_ours.prepare(Case("c", {"mri": Volume(noisy(1), AFFINE)}))
    like_ours.provenance["envelope"] = {**envelope([prepared], ("mri",)), "horizon_days": [100, 800]}
    save_model(like_ours, folder / "known")
    return folder


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """Three visits on a turned grid, the last one brighter and with another header scale."""
    folder = tmp_path / "in" / "P"
    for name, gain in {"ses-20190101": 1.0, "ses-20200101": 1.1, "ses-20210101": 2.0}.items():
        save(folder / name / "t1.nii.gz", gain * noisy(int(name[-8:])), AFFINE)
    return folder


def test_files_geometry_and_what_they_say(gen3d: Run, patient: Path, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("forecast", "-i", patient, "-o", out, "--model", models / "volumes", "--at", "2022-01-01")
    status, said, told = gen3d(*arguments, "--samples", 3, "--report", tmp_path / "report.json")
    assert status == 0, told
    assert "P: forecast 2022-01-01, 365 days after ses-20210101" in said
    assert "front: " in said
    assert "80 % interval" in said
    assert "last visit copied" in said
    assert "synthetic and not for diagnosis" in told
    nifti = (FORECAST, CHANGE, STD)
    names = {*nifti, *(name.replace(".nii.gz", ".json") for name in nifti), "P_2022-01-01_preview.png"}
    assert {p.name for p in (out / "P").iterdir()} == {*names, "P_volumes.json", "P_volumes.png"}
    last = nib.load(patient / "ses-20210101" / "t1.nii.gz")
    found = {name: nib.load(out / "P" / name) for name in nifti}
    for image in found.values():
        assert image.shape == last.shape
        np.testing.assert_array_equal(image.affine, last.affine)
        assert "SYNTHETIC" in str(image.header["descrip"])
    forecast, change, std = (found[name].get_fdata() for name in nifti)
    np.testing.assert_allclose(forecast, last.get_fdata() + change, atol=1e-3)
    assert np.abs(change).max() > 1e-3
    assert std.min() >= 0
    assert std.max() > 0
    assert np.corrcoef(forecast.ravel(), last.get_fdata().ravel())[0, 1] > 0.9
    about = json.loads((out / "P" / "P_2022-01-01_forecast.json").read_text())
    assert (about["synthetic"], about["kind"], about["last_visit"], about["after"], about["samples"]) == (
        *(True, "expected image", "ses-20210101"),
        *(365, 3),
    )
    assert about["model"]["weights_sha256"]
    volumes = json.loads((out / "P" / "P_volumes.json").read_text())
    assert volumes["structures"] == ["front", "back"]
    assert [v["date"] for v in volumes["visits"]] == ["2019-01-01", "2020-01-01", "2021-01-01"]
    (row,) = volumes["forecasts"]
    assert row["volumes_ml"]["copy"] == volumes["visits"][-1]["volumes_ml"]
    assert row["samples"] == 3
    low, high = row["volumes_ml"]["samples_smallest_largest"]["front"]
    assert low <= row["volumes_ml"]["samples_mean"]["front"] <= high
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["cases"], report["failed"], report["results"][0]["status"]) == (1, 0, "made")
    before = {p.name: p.read_bytes() for p in (out / "P").glob("*.nii.gz")}
    assert gen3d(*arguments, "--samples", 3)[0] == 0
    assert {p.name: p.read_bytes() for p in (out / "P").glob("*.nii.gz")} == before
    assert gen3d(*arguments, "--samples", 0)[0] == 0  # the old spread would belong to no samples
    assert sorted(p.name for p in (out / "P").glob("*.nii.gz")) == sorted([FORECAST, CHANGE])
    assert (out / "P" / FORECAST).read_bytes() == before[FORECAST]  # one call, whatever the samples


@pytest.mark.parametrize(
    ("samples", "told", "words"),
    [
        (1, {}, ""),
        (7, {"samples_smallest_largest": {"front": [1, 7]}}, "smallest and largest of 7 samples: 1.000 to 7.000"),
        (11, {"samples_10_to_90": {"front": [2, 10]}}, "10 to 90 % of 11 samples: 2.000 to 10.000"),
    ],
)
def test_few_samples_tell_no_quantiles(samples: int, told: dict[str, object], words: str) -> None:
    found = spread([{"front": float(n)} for n in range(1, samples + 1)])
    assert (found, drawn_between(found, "front", samples)) == (told, words)


def test_an_untouched_model_copies_the_last_visit_to_the_bit(gen3d: Run, patient: Path, tmp_path: Path) -> None:
    save_model(untrained(still=True), tmp_path / "still")
    options = ("--at", "+30", "--samples", 0, "--model", tmp_path / "still")
    assert gen3d("forecast", "-i", patient, "-o", tmp_path / "out", *options)[0] == 0
    (path,) = (tmp_path / "out" / "P").glob("*2021-01-31_forecast.nii.gz")
    last = nib.load(patient / "ses-20210101" / "t1.nii.gz").get_fdata()
    np.testing.assert_array_equal(nib.load(path).get_fdata(), last)


def test_a_hidden_visit_is_scored_beside_the_copy(gen3d: Run, patient: Path, models: Path, tmp_path: Path) -> None:
    options = ("--hide-last", "--samples", 2, "--write-samples", "--rollout", 150)
    status, said, told = gen3d(
        "forecast", "-i", patient, "-o", tmp_path / "out", "--model", models / "volumes", *options
    )
    assert status == 0, told
    assert "against the hidden visit: NRMSE" in said
    assert "last visit copied: NRMSE" in said
    folder = tmp_path / "out" / "P"
    about = json.loads((folder / "P_2021-01-01_forecast.json").read_text())
    assert (about["hidden"], about["last_visit"]) == ("ses-20210101", "ses-20200101")
    scores = about["scores"]
    ours, copy = scores["forecast"], scores["copy"]
    rounding = 4 * 5e-6 / min(ours["nrmse"], copy["nrmse"])  # both are told to 5 digits
    assert 1 - scores["skill"] == pytest.approx((ours["nrmse"] / copy["nrmse"]) ** 2, rel=rounding + 1e-4)
    assert copy["psnr_db"] == pytest.approx(-20 * np.log10(copy["nrmse"]), abs=0.01)
    assert scores["structures"]["front"]["error_ml"] is not None
    given = nib.load(patient / "ses-20200101" / "t1.nii.gz").get_fdata()
    forecast = nib.load(folder / "P_2021-01-01_forecast.nii.gz").get_fdata()
    assert np.abs(forecast.mean() / given.mean() - 1) < 0.3  # the scale of the last visit that it was given
    assert {p.name for p in folder.glob("*sample*.nii.gz")} == {f"P_2021-01-01_sample-0{i}.nii.gz" for i in (1, 2)}
    rolled = about["rollout"]
    assert [row["at"] for row in rolled] == ["2020-05-30", "2020-10-27", "2021-01-01"]
    assert rolled[0]["nrmse"] == pytest.approx(0, abs=1e-6)  # the first step is the direct forecast
    assert rolled[-1]["nrmse"] > 0
    end = nib.load(folder / "P_2021-01-01_rollout.nii.gz").get_fdata()
    assert (end - forecast).mean() == pytest.approx(rolled[-1]["mean_change"], rel=1e-2)


def test_between_visits_and_several_times(gen3d: Run, patient: Path, models: Path, tmp_path: Path) -> None:
    options = ("--at", "2019-07-01,+10", "--at", "2021-01-11", "--samples", 0, "--model", models / "plain")
    status, said, told = gen3d("forecast", "-i", patient, "-o", tmp_path / "out", *options)
    assert status == 0, told
    folder = tmp_path / "out" / "P"
    assert {p.name for p in folder.glob("*_forecast.nii.gz")} == {
        "P_2019-07-01_forecast.nii.gz",
        "P_2021-01-11_forecast.nii.gz",  # +10 is the same day
    }
    assert "2019-07-01, 181 days after ses-20190101" in said
    assert not (folder / "P_volumes.json").exists()
    first, last = (nib.load(patient / name / "t1.nii.gz").get_fdata() for name in ("ses-20190101", "ses-20210101"))
    between = nib.load(folder / "P_2019-07-01_forecast.nii.gz").get_fdata()
    change = nib.load(folder / "P_2019-07-01_change.nii.gz").get_fdata()
    copy = between - change
    assert copy.std() == pytest.approx(last.std(), rel=0.1)  # the last visit's grey scale
    assert [np.corrcoef(copy.ravel(), v.ravel())[0, 1] > 0.997 for v in (first, last)] == [True, False]  # not its scan


def test_a_folder_of_patients_and_one_that_fails(gen3d: Run, patient: Path, models: Path, tmp_path: Path) -> None:
    save(patient.parent / "Q" / "ses-20200101" / "t1.nii.gz", scan((8, 8, 8)))
    save(patient.parent / "Q" / "ses-20210101" / "t1.nii.gz")
    report = tmp_path / "all.json"
    options = ("--at", "+365", "--samples", 0, "--model", models / "plain", "--report", report)
    status, said, told = gen3d("forecast", "-i", patient.parent, "-o", tmp_path / "out", *options)
    assert status == 1
    assert "P: forecast 2022-01-01" in said
    assert "gen3d: Q:" in told
    assert "2 cases, 1 failed" in told
    assert (tmp_path / "out" / "P" / FORECAST).is_file()
    assert not (tmp_path / "out" / "Q").exists()
    assert {row["case"]: row["status"] for row in json.loads(report.read_text())["results"]} == {
        "P": "made",
        "Q": "failed",
    }


def test_shifted_visits_and_unlike_scans_are_told(gen3d: Run, patient: Path, models: Path, tmp_path: Path) -> None:
    moved = np.roll(nib.load(patient / "ses-20190101" / "t1.nii.gz").get_fdata(dtype=np.float32), 3, axis=1)
    save(patient / "ses-20190101" / "t1.nii.gz", moved, AFFINE)
    options = ("--at", "+3650", "--samples", 0, "--model", models / "known")
    status, _, told = gen3d("forecast", "-i", patient, "-o", tmp_path / "out", *options)
    assert status == 0, told
    assert "P: ses-20190101 seems to lie 3.0 voxels (3.0 mm) off ses-20210101" in told
    assert "unlike the training set: looks 3650 days ahead; the model was trained on 100 to 800 days" in told
    about = json.loads((tmp_path / "out" / "P" / "P_2030-12-30_forecast.json").read_text())
    assert len(about["misaligned"]) == len(about["outside_training"]) == 1
    assert about["kind"] == "expected image, 50% of change"
    save(patient / "ses-20190101" / "t1.nii.gz", 1 / (1 + np.abs(moved)), AFFINE)
    status, _, told = gen3d("forecast", "-i", patient, "-o", tmp_path / "out", "--at", "+365", *options[2:])
    assert (status, "unlike" in told) == (0, False), told  # the last visit is what the model goes by


def test_structures_of_scans_unlike_training_are_not_measured(
    gen3d: Run, patient: Path, models: Path, tmp_path: Path
) -> None:
    options = ("--samples", 2, "--hide-last", "--model", models / "elsewhere")
    status, said, told = gen3d("forecast", "-i", patient, "-o", tmp_path / "out", *options)
    assert status == 0, told
    assert "unlike the training set: voxels of" in told
    assert "front: " not in said
    assert not list((tmp_path / "out" / "P").glob("*volumes*"))


def test_a_heart_in_seconds(gen3d: Run, models: Path, tmp_path: Path) -> None:
    path = four_dimensional(tmp_path / "in" / "heart.nii.gz", 0.05, "sec")
    options = ("--at", "+0.05", "--samples", 0, "--model", models / "plain")
    status, said, told = gen3d("forecast", "-i", path, "-o", tmp_path / "out", *options)
    assert status == 0, told
    assert "0.05 seconds after volume 3" in said
    assert "its times are in seconds; the model was trained on days" in told
    assert nib.load(tmp_path / "out" / "heart" / "heart_0.15s_forecast.nii.gz").shape == (24, 20, 16)


def test_a_model_without_an_expected_image_writes_the_mean_of_its_samples(
    gen3d: Run, patient: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    frames = FramesConfig(patch=(8, 8, 8), width=8, heads=2, depth=1, channels=2)
    network = UNetConfig(in_channels=3, out_channels=1, width=8, multipliers=(1, 2), blocks=1, groups=4)
    size = (16, 16, 16)
    config = SADMConfig(patch=size, resample=size, frames=3, encoder=frames, architecture="compact", network=network)
    config = replace(config, sampling=Sampling("ddim", 2, "ddpm"))
    save_model(SADM(config), tmp_path / "sadm")
    options = ("--at", "+365", "--samples", 2, "--write-samples", "--rollout", 200, "--model", tmp_path / "sadm")
    status, _, told = gen3d("forecast", "-i", patient, "-o", tmp_path / "out", *options)
    assert status == 0, told
    folder = tmp_path / "out" / "P"
    rolled = json.loads((folder / "P_2022-01-01_forecast.json").read_text())["rollout"]
    assert [row["day"] for row in rolled] == [731 + 200, 731 + 365]
    assert rolled[1]["nrmse"] > 0  # by way of a forecast it is another
    assert json.loads((folder / "P_2022-01-01_forecast.json").read_text())["kind"] == "mean of 2 samples"
    forecast, *both = (
        nib.load(folder / f"P_2022-01-01_{kind}.nii.gz").get_fdata() for kind in ("forecast", "sample-01", "sample-02")
    )
    darkest = nib.load(patient / "ses-20210101" / "t1.nii.gz").get_fdata().min()
    std, inside = nib.load(folder / STD).get_fdata(), np.minimum(*both) > darkest
    np.testing.assert_allclose(forecast[inside], (both[0] + both[1])[inside] / 2, atol=1e-3)
    np.testing.assert_allclose(std[inside], np.abs(both[0] - both[1])[inside] / np.sqrt(2), atol=1e-3)
    assert np.abs(both[0] - both[1]).max() > 1


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ((), 2, "Missing option '--at'"),
        (("--at", "soon"), 2, "--at 'soon': expected a date such as 2027-05-01"),
        (("--at", "20221301"), 2, "--at '20221301': expected a date"),
        (("--at", "2018-01-01"), 1, "2018-01-01 is before the first visit (ses-20190101, 2019-01-01)"),
        (("--at", "2020-01-01"), 1, "is the time of ses-20200101"),
        (("--at", "400"), 1, "its visits have dates, --at 400 has none"),
        (("--at", "+5", "--hide-last"), 2, "leave one of them out"),
        (("--at", "+5", "--rollout", "-3"), 2, "--rollout -3: expected days of a step, above 0"),
        (("--at", "+500", "--rollout", "1"), 1, "500 steps to reach --at; expected at most 100"),
        (("--at", "2019-06-01", "--rollout", "10"), 1, "goes on from the last visit"),
        (("--at", "+5", "--samples", "-1"), 2, "--samples -1: expected at least 0"),
        (("--at", "+5", "--contrast", "flair"), 1, "expected one of FLAIR; choose with --contrast"),
        (("--at", "+5", "--model", "hippocampus-latent"), 1, "forecasts no visit; choose another --model"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    gen3d: Run, patient: Path, models: Path, tmp_path: Path, options: tuple[str, ...], status: int, words: str
) -> None:
    model = () if "--model" in options else ("--model", models / "plain")
    code, said, told = gen3d("forecast", "-i", patient, "-o", tmp_path / "out", *model, *options)
    assert (code, words in told, told.count("\n"), said) == (status, True, 1, ""), told
    assert not (tmp_path / "out").exists()


def test_originals_and_foreign_files_are_left_alone(gen3d: Run, patient: Path, models: Path, tmp_path: Path) -> None:
    options = ("--at", "+365", "--samples", 0, "--model", models / "plain")
    for out in (patient / "out", patient, patient.parent):  # the last one's P is the patient's own folder
        status, _, told = gen3d("forecast", "-i", patient, "-o", out, *options)
        assert (status, "lies in the input folder" in told) == (1, True)
    assert sorted(p.name for p in patient.iterdir()) == ["ses-20190101", "ses-20200101", "ses-20210101"]
    save(tmp_path / "out" / "P" / FORECAST)
    before = (tmp_path / "out" / "P" / FORECAST).read_bytes()
    status, _, told = gen3d("forecast", "-i", patient, "-o", tmp_path / "out", *options)
    assert (status, "gen3d did not write it" in told) == (1, True)
    assert (tmp_path / "out" / "P" / FORECAST).read_bytes() == before
    status, said, _ = gen3d("forecast", "-i", patient, "-o", tmp_path / "dry", *options, "--dry-run")
    assert (status, "would forecast 2022-01-01" in said, (tmp_path / "dry").exists()) == (0, True, False)


def test_align_brings_visits_to_the_last_ones_grid(gen3d: Run, models: Path, phantoms: Path, tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    source = next(phantoms.rglob("*t1n.nii.gz"))
    image = nib.load(source)
    moved = image.affine.copy()
    moved[:3, 3] += (6, -4, 2)
    save(tmp_path / "in" / "P" / "day-0" / "t1.nii.gz", image.get_fdata(dtype=np.float32), moved)
    save(tmp_path / "in" / "P" / "day-365" / "t1.nii.gz", image.get_fdata(dtype=np.float32), image.affine)
    options = ("--at", "+100", "--samples", 0, "--model", models / "plain")
    status, _, told = gen3d("forecast", "-i", tmp_path / "in" / "P", "-o", tmp_path / "out", *options)
    assert (status, "differ in affine, by up to 7.48 mm" in told, "--align" in told) == (1, True, True)
    status, _, told = gen3d("forecast", "-i", tmp_path / "in" / "P", "-o", tmp_path / "out", *options, "--align")
    assert status == 0, told
    about = json.loads((tmp_path / "out" / "P" / "P_day-465_forecast.json").read_text())
    assert about["moved_mm"]["day-0"] == pytest.approx(np.sqrt(56), abs=1.0)
    assert about["misaligned"] == []


def test_steps_and_times() -> None:
    assert steps(0, 365, 150) == [150, 300, 365]
    assert steps(10, 20, 5) == [15, 20]
    with pytest.raises(UserError, match="after it"):
        steps(5, 5, 1)
    volume = Volume(scan(), AFFINE)
    counted = Patient("P", (Visit("a", 0, volume), Visit("b", 90, volume)))
    assert [(q.day, q.label, q.after) for q in (query(counted, parse_wish(w)) for w in ("+10", "45", "1000"))] == [
        (100, "day-100", 10),
        (45, "day-45", 45),
        (1000, "day-1000", 910),
    ]
    with pytest.raises(UserError, match="its visits have no dates"):
        query(counted, parse_wish("2022-01-01"))


def test_what_the_model_does_not_see_stays_as_it_was() -> None:
    voxels = scan((10, 10, 10)) - 20
    placement = Placement((10, 10, 10), np.eye(4), "RAS", (2, 2, 2), (6, 6, 6))
    history = History(
        np.ones((1, 6, 6, 6), np.float32), np.zeros(1), np.ones(1, bool), (1.0, 1.0, 1.0), placement, Scale(0.5)
    )
    seen = Seen((Visit("a", 0, Volume(voxels, np.eye(4))),), history)
    change = seen.in_file_units(np.full((6, 6, 6), 3.0))
    assert change[0, 0, 0] == 0
    assert change[5, 5, 5] == 6
    copy = seen.copy_for(1, np.ones((6, 6, 6)))
    np.testing.assert_array_equal(copy, voxels)
    after = changed(copy, change)
    np.testing.assert_array_equal(after[:2], voxels[:2])
    assert changed(copy, -1e4 * np.ones_like(copy)).min() == voxels.min()
