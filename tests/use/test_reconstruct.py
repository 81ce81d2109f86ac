"""``gen3d reconstruct``: what is written, what it says of itself, what is refused in one line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.system import Example
from gen3d.core.volume import Case, Volume
from gen3d.data.envelope import envelope
from gen3d.data.measurement import Acquisition, Acquisitions, Task
from gen3d.latent.control import Control
from gen3d.nn.unet import UNetConfig
from gen3d.tools.reconstruct import CLASSICAL, TABLE, on_file_grid
from gen3d.wavelet.reconstruction import Reconstruction, ReconstructionConfig
from tests.use.test_generate_by_mask import control
from tests.use.test_studies import series

Run = Callable[..., tuple[int, str, str]]


def made(task: Task) -> Reconstruction:
    torch.manual_seed(0)
    network = UNetConfig(in_channels=24, out_channels=8, width=8, multipliers=(1, 2), blocks=1, groups=4, vector=4)
    contrasts = ("ct",) if task == "sparse-ct" else ("t1n", "t2w")
    config = ReconstructionConfig(acquisitions=Acquisitions(task), contrasts=contrasts, network=network, iterations=30)
    return Reconstruction(config)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for task in ("sparse-ct", "mri"):
        save_model(made(task), folder / task)  # type: ignore[arg-type]
    return folder


def body() -> np.ndarray:
    """A round body in air with an organ and a bone, in HU, 40 x 36 x 6."""
    x, y = np.meshgrid(np.arange(40) - 19.5, np.arange(36) - 17.5, indexing="ij")
    slice_ = np.where(np.hypot(x, y) < 15, 20.0, -1000.0)
    slice_[np.hypot(x - 4, y) < 5] = 90.0
    slice_[np.hypot(x + 8, y) < 2.5] = 900.0
    return np.repeat(slice_[..., None], 6, axis=2).astype(np.float32)


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    affine = np.array([[0.0, 0, 3, 5], [-1.5, 0, 0, 9], [0, 1.5, 0, -4], [0, 0, 0, 1]])  # slices along the first axis
    path = tmp_path / "in" / "scan.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(body().transpose(1, 2, 0).astype(np.int16), affine[:, [0, 1, 2, 3]]), path)
    return path


def test_a_ct_comes_back_in_hounsfield_units_on_its_own_grid(
    gen3d: Run, ct: Path, models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("-i", ct, "-o", out, "--task", "sparse-ct", "--views", 20, "--model", models / "sparse-ct")
    status, said, _ = gen3d("reconstruct", *arguments, "--dry-run")
    assert (status, "scan: would be reconstructed" in said, out.exists()) == (0, True, False)
    status, said, noted = gen3d("reconstruct", *arguments)
    assert status == 0, noted
    assert "20 views" in said
    assert "  filtered back-projection: PSNR " in said
    assert (said + noted).count("no scanner measured them") == 1
    assert {p.name for p in out.iterdir()} == {
        *(f"scan_reconstructed.{end}" for end in ("nii.gz", "json", "png")),
        "reconstruction.csv",
    }
    given, image = nib.load(ct), nib.load(out / "scan_reconstructed.nii.gz")
    assert image.shape == given.shape
    assert np.array_equal(image.affine, given.affine)
    assert image.get_data_dtype() == np.float32
    assert "SYNTHETIC" in str(image.header["descrip"])
    error = np.abs(image.get_fdata() - given.get_fdata())
    assert np.median(error) < 40
    about = json.loads((out / "scan_reconstructed.json").read_text())
    assert about["synthetic"] is True
    assert about["measurements"].startswith("simulated measurements")
    assert (about["views"], about["noise"]) == (20, 0.005)
    rows = list(csv.DictReader((out / "reconstruction.csv").open()))
    classical = ["filtered back-projection", "total variation, 200 iterations"]
    assert [row["method"] for row in rows] == [*classical, "sparse-ct"]
    psnr = [float(row["psnr_db"]) for row in rows]
    assert psnr[2] > psnr[0] + 3  # an untrained network is the identity on total variation
    before = (out / "scan_reconstructed.nii.gz").read_bytes()
    assert gen3d("reconstruct", *arguments)[0] == 0
    assert (out / "scan_reconstructed.nii.gz").read_bytes() == before


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_an_mri_comes_back_on_its_own_grey_scale(
    gen3d: Run, models: Path, phantoms: Path, tmp_path: Path, mode: str
) -> None:
    scan = next(phantoms.rglob("*t1n.nii.gz"))
    status, said, noted = gen3d(
        *("reconstruct", "-i", scan, "-o", tmp_path / "out", "--task", "mri", "--pattern", "poisson"),
        *("--acceleration", 4, "--model", models / "mri", "--mode", mode),
    )
    assert status == 0, noted
    assert "4x, poisson mask" in said
    (path,) = (tmp_path / "out").glob("*.nii.gz")
    given, image = nib.load(scan).get_fdata(), nib.load(path).get_fdata()
    assert image.min() >= 0
    assert np.corrcoef(given.ravel(), image.ravel())[0, 1] > 0.9


def test_a_dicom_series_and_a_scan_unlike_the_training_set(gen3d: Run, phantoms: Path, tmp_path: Path) -> None:
    system = made("mri")
    scan = Volume(nib.load(next(phantoms.rglob("*t2w.nii.gz"))).get_fdata(dtype=np.float32), np.eye(4))
    system.provenance["envelope"] = envelope([system.prepare(Case("c", {"t2w": scan}))], ("t1n", "t2w"))
    save_model(system, tmp_path / "model")
    series(tmp_path / "in" / "visit" / "head", "t2_tse", number=3)
    series(tmp_path / "in" / "visit" / "plan", "localizer", number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    out = tmp_path / "out"
    options = ("-i", tmp_path / "in", "-o", out, "--task", "mri", "--acceleration", 2, "--model", tmp_path / "model")
    status, said, noted = gen3d("reconstruct", *options)
    assert (status, "head: from simulated measurements" in said) == (0, True), noted
    assert "left out: series 'localizer' (a localizer)" in noted
    assert "head: unlike the training set: voxels of 0.75 x 1.5 x 2 mm" in noted
    assert nib.load(out / "head_reconstructed.nii.gz").shape == (7, 5, 6)
    about = json.loads((out / "head_reconstructed.json").read_text())
    assert (about["source"], bool(about["outside_training"])) == ("head", True)


def test_one_bad_scan_does_not_stop_the_rest(gen3d: Run, ct: Path, models: Path, tmp_path: Path) -> None:
    mask = nib.load(ct)
    nib.save(nib.Nifti1Image((mask.get_fdata() > 0).astype(np.int16), mask.affine), ct.with_name("mask.nii.gz"))
    status, _, noted = gen3d(
        *("reconstruct", "-i", ct.parent, "-o", tmp_path / "out", "--task", "sparse-ct"),
        *("--model", models / "sparse-ct", "--report", tmp_path / "report.json"),
    )
    assert status == 1
    assert "mask.nii.gz" in noted
    assert "2 cases, 1 failed" in noted
    assert (tmp_path / "out" / "scan_reconstructed.nii.gz").is_file()
    tree = json.loads((tmp_path / "report.json").read_text())
    assert (tree["cases"], tree["failed"], tree["made"]) == (2, 1, 1)
    bad, good = tree["results"]  # worst first
    assert (bad["case"], bad["status"], bad["files"]) == ("mask", "failed", [])
    assert (good["case"], good["place"], good["files"]) == ("scan", ".", ["scan_reconstructed.nii.gz"])
    assert set(good["scores"]) > {"sparse-ct"}


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--task", "sparse-ct", "--views", 0), 2, "views 0: expected at least 1"),
        (("--task", "sparse-cct"), 2, "did you mean 'sparse-ct'"),
        (("--task", "sparse-ct", "--noise", 3), 2, "noise 3: expected from 0 to 1"),
        (("--task", "mri", "--pattern", "gausian"), 2, "did you mean 'gaussian'"),
        (("--task", "mri"), 1, "no magnitude image"),
        (("--task", "sparse-ct", "--model", "mri"), 1, "reconstructs no sparse-ct"),
        (("--task", "sparse-ct", "--mode", "median"), 2, "expected mean or sample"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    gen3d: Run, ct: Path, models: Path, tmp_path: Path, options: tuple[object, ...], status: int, said: str
) -> None:
    task = "mri" if "mri" in options else "sparse-ct"
    found = [str(models / o) if o == "mri" and options[i - 1] == "--model" else o for i, o in enumerate(options)]
    if "--model" not in found:
        found += ["--model", models / task]
    code, _, noted = gen3d("reconstruct", "-i", ct, "-o", tmp_path / "out", *found)
    assert (code, said in noted, len(noted.strip().splitlines())) == (status, True, 1), noted
    assert not (tmp_path / "out").exists()


def test_a_scan_that_is_no_ct_is_refused(gen3d: Run, models: Path, ct: Path, tmp_path: Path) -> None:
    image = nib.load(ct)
    nib.save(nib.Nifti1Image(image.get_fdata() + 1024, image.affine), ct)
    code, _, noted = gen3d(
        "reconstruct", "-i", ct, "-o", tmp_path / "out", "--task", "sparse-ct", "--model", models / "sparse-ct"
    )
    assert code == 1
    assert "no CT in Hounsfield units" in noted


def test_padding_outside_the_scanner_counts_as_air() -> None:
    hu = np.array([-2048.0, -1000.0, 40.0], np.float32).reshape(3, 1, 1)
    scan = Volume(hu, np.eye(4))
    example = made("sparse-ct").example(Case("c", {"ct": scan}))
    seen = on_file_grid(example["voxels"], scan, example)
    np.testing.assert_allclose(seen.voxels.ravel(), [-1000, -1000, 40], atol=1e-3)


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained ControlNets led by spectra and by masks."""
    folder = tmp_path_factory.mktemp("controls")
    for task in ("mri", "mask", "sparse-ct"):
        save_model(control(task), folder / task)
    return folder


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_a_control_model_keeps_to_the_data(
    gen3d: Run, controls: Path, phantoms: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncut(self: Control, coords: torch.Tensor, example: Example) -> torch.Tensor:
        return self.agreed(super(Control, self).finish(coords, example) - self.air, example["measurement"]) + self.air

    monkeypatch.setattr(Control, "finish", uncut)  # what is cut off below air is measured too
    scan = next(phantoms.rglob("*t1n.nii.gz"))
    status, _, noted = gen3d(
        *("reconstruct", "-i", scan, "-o", tmp_path / "out", "--task", "mri", "--acceleration", 2, "--noise", 0),
        *("--model", controls / "mri", "--mode", mode),
    )
    assert status == 0, noted
    given, image = nib.load(scan), nib.load(tmp_path / "out" / f"{scan.name[:-7]}_reconstructed.nii.gz")
    assert (image.shape, np.array_equal(image.affine, given.affine)) == (given.shape, True)
    rows = {row["method"]: float(row["psnr_db"]) for row in csv.DictReader((tmp_path / "out" / TABLE).open())}
    assert list(rows) == ["zero-filling", f"total variation, {CLASSICAL} iterations", "mri"]
    axes = nib.as_closest_canonical(given).get_fdata(), nib.as_closest_canonical(image).get_fdata()
    (before, after) = (np.fft.fft2(v, axes=(0, 1)) for v in axes)
    mask = Acquisition("mri", acceleration=2).operator(given.shape[:2]).mask.numpy()  # type: ignore[attr-defined]
    lacking = np.linalg.norm((after - before)[mask]) / np.linalg.norm(before[mask])
    assert lacking < 0.02  # the model never learnt, what was measured is there all the same


def test_a_control_model_takes_projections(gen3d: Run, controls: Path, tmp_path: Path) -> None:
    x, y, _ = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5, np.arange(8) - 3.5, indexing="ij")
    body = np.where(np.hypot(x, y) < 12, 40.0, -1000.0) + np.where(np.hypot(x - 3, y + 2) < 3, 400.0, 0.0)
    scan = tmp_path / "in" / "ct.nii.gz"
    scan.parent.mkdir()
    nib.save(nib.Nifti1Image(body.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), scan)
    status, _, noted = gen3d(
        *("reconstruct", "-i", scan, "-o", tmp_path / "out", "--task", "sparse-ct", "--views", 30),
        *("--model", controls / "sparse-ct"),
    )
    assert status == 0, noted
    rows = {row["method"]: float(row["psnr_db"]) for row in csv.DictReader((tmp_path / "out" / TABLE).open())}
    assert list(rows) == ["filtered back-projection", f"total variation, {CLASSICAL} iterations", "sparse-ct"]
    made = nib.load(tmp_path / "out" / "ct_reconstructed.nii.gz").get_fdata()
    assert made[16, 16, 4] - made[2, 2, 4] > 500  # the model never learnt: what is seen comes from the projections


def test_a_control_model_of_another_task_is_one_line(
    gen3d: Run, controls: Path, phantoms: Path, tmp_path: Path
) -> None:
    scan = next(phantoms.rglob("*t1n.nii.gz"))
    for model, task in (("mask", "mri"), ("mri", "sparse-ct"), ("hippocampus-latent", "mri")):
        chosen = controls / model if (controls / model).exists() else model
        status, _, noted = gen3d("reconstruct", "-i", scan, "-o", tmp_path / "out", "--task", task, "--model", chosen)
        assert (status, f"reconstructs no {task}" in noted, noted.count("\n")) == (1, True, 1), noted
        assert not (tmp_path / "out").exists()
