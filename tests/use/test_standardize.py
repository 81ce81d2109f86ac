"""``gen3d standardize``: HU in, HU out, the file's own grid and numbers, what is left alone, the report, mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.volume import Case, Volume
from gen3d.latent.kernel_flow import KernelFlow, KernelFlowConfig
from gen3d.latent.kernels import blurred
from gen3d.nn.unet import UNetConfig
from gen3d.tools.kernel_report import against_truth, agreement, body, errors, features, regions
from tests.use.test_studies import series

Run = Callable[..., tuple[int, str, str]]
AFFINE = np.array([[-0.7, 0, 0, 10], [0, -0.7, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def chest(shape: tuple[int, int, int] = (100, 90, 2)) -> np.ndarray:
    """A body with noise in air, -2048 in the corners, an implant."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[(x**2 + y**2) < 0.9] = 40
    hu += np.random.default_rng(0).normal(0, 25, shape)
    hu[(x**2 + y**2) > 1.5] = -2048
    hu[50:52, 45:47] = 8000
    return hu


def save(path: Path, hu: np.ndarray, dtype: type = np.int16, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(
        np.rint(hu).astype(dtype) if np.dtype(dtype).kind in "iu" else hu.astype(dtype), affine
    ).to_filename(path)
    return path


def facts_of(out: Path) -> dict[str, object]:
    facts: dict[str, object] = json.loads((out / "lung-B30.json").read_text())
    return facts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow behind the filter that changes something."""
    torch.manual_seed(0)
    network = UNetConfig(
        in_channels=32, out_channels=16, width=8, multipliers=(1, 2), blocks=1, groups=4, present=3, vector=3, classes=1
    )
    system = KernelFlow(KernelFlowConfig(network=network, starts=("flow", "noise", "source"), patch=(32, 32, 1)))
    torch.nn.init.normal_(system.network.out.weight, std=0.01)
    hu = chest((64, 64, 1))
    system = system.measure([system.prepare(Case("c", {"ct": Volume(hu.clip(-1024).astype(np.float32), AFFINE)}))])
    system.provenance = {"patients": 1, "blur_sigma_mm": {"B70": 0.5, "all": 0.4}}
    folder = tmp_path_factory.mktemp("models") / "tiny-kernel"
    save_model(system, folder, dtype=torch.float16)
    return folder


def test_files_grid_and_numbers(gen3d: Run, model: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in" / "lung.nii.gz", chest())
    status, said, told = gen3d("standardize", "-i", source, "-o", tmp_path / "out", "--model", model, "--to", "B30f")
    assert status == 0, told
    assert "simulated" in told
    assert "not for diagnosis" in told
    names = [f"lung-B30{end}" for end in (".json", ".nii.gz", ".png", "_difference.json", "_difference.nii.gz")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*names, "lung-B30_report.json"])
    kernel = str(facts_of(tmp_path / "out")["source_kernel"])
    assert kernel.startswith("not told, like B")
    assert f"lung: kernel {kernel}" in said
    before, after = nib.load(source), nib.load(tmp_path / "out" / "lung-B30.nii.gz")
    assert after.get_data_dtype() == np.int16
    np.testing.assert_array_equal(after.affine, before.affine)
    a, b = np.asarray(before.dataobj), np.asarray(after.dataobj)
    np.testing.assert_array_equal(b[a < -1024], a[a < -1024])
    np.testing.assert_array_equal(b[a > 3071], a[a > 3071])
    inside = (a >= -1024) & (a <= 3071)
    assert b[inside].min() >= -1024
    assert (a != b).mean() > 0.3
    difference = np.asarray(nib.load(tmp_path / "out" / "lung-B30_difference.nii.gz").dataobj)
    np.testing.assert_array_equal(difference, b.astype(int) - a)
    facts = facts_of(tmp_path / "out")
    wanted = {
        "synthetic": True,
        "kernel": "B30",
        "start": "flow",
        "steps": 1,
        "units": "HU",
    }
    assert {key: facts[key] for key in wanted} == wanted
    assert b"SYNTHETIC" in after.header["descrip"].item()
    report = json.loads((tmp_path / "out" / "lung-B30_report.json").read_text())
    assert report["before_after"]["regions"] > 1
    assert len(report["before_after"]["concordance"]["features"]) == 39
    again = gen3d("standardize", "-i", source, "-o", tmp_path / "out", "--model", model)
    assert again[0] == 0  # over its own files


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint16])
def test_number_formats(gen3d: Run, model: Path, tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "in" / "a.nii"
    hu = chest((48, 40, 1)).clip(-1024, 3000)
    if dtype == np.uint16:  # stored with an offset
        image = nib.Nifti1Image(np.rint(hu + 1024).astype(dtype), AFFINE)
        path.parent.mkdir()
        image.header.set_slope_inter(1, -1024)
        image.to_filename(path)
    else:
        save(path, hu, dtype)
    assert gen3d("standardize", "-i", path, "-o", tmp_path / "out", "--model", model)[0] == 0
    made = nib.load(tmp_path / "out" / "a-B30.nii.gz")
    assert made.get_data_dtype() == (np.int16 if dtype == np.uint16 else dtype)
    assert np.abs(made.get_fdata() - np.rint(hu)).mean() < 60


def test_truth_starts_and_seeds(gen3d: Run, model: Path, tmp_path: Path) -> None:
    hu = chest().clip(-1024, 3000)
    source, truth = save(tmp_path / "in" / "a.nii.gz", hu), save(tmp_path / "true" / "a.nii.gz", hu * 0.98)
    common = ("standardize", "-i", source, "--model", model, "--from", "B70")
    status, said, told = gen3d(*common, "-o", tmp_path / "out", "--truth", truth.parent)
    assert status == 0, told
    report = json.loads((tmp_path / "out" / "a-B30_report.json").read_text())["against_truth"]
    kinds = [name.split(",")[0] for name in report["rows"]]
    assert kinds == ["untouched", "standardised", "Gaussian blur"]
    expected = float(np.abs(np.rint(hu) - np.rint(hu * 0.98)).mean())
    assert report["rows"]["untouched"]["mae_hu"]["all"] == pytest.approx(expected, rel=1e-3)
    assert "untouched" in said
    made = []
    for number, options in enumerate((["noise"], ["noise"], ["noise", "--seed", 1], ["source"])):
        out = tmp_path / f"out{number}"
        status, _, told = gen3d(*common, "-o", out, "--steps", 2, "--start", *options)
        assert status == 0, told
        made.append((out / "a-B30.nii.gz").read_bytes())
    assert made[0] == made[1]
    assert len(set(made)) == 3


def test_mistakes(gen3d: Run, model: Path, tmp_path: Path) -> None:
    good = save(tmp_path / "in" / "a.nii.gz", chest((48, 40, 1)))
    mri = save(tmp_path / "mri" / "m.nii.gz", chest((48, 40, 1)).clip(0, 900))
    other = save(tmp_path / "other" / "a.nii.gz", chest((40, 40, 1)))
    mask = save(tmp_path / "mask" / "a.nii.gz", np.ones((40, 40, 1)))
    base = ("standardize", "-o", tmp_path / "out", "--model", model, "-i")
    for arguments, status, words in (
        ((mri,), 1, "no CT in Hounsfield units"),
        ((good, "--to", "B31"), 2, "kernel 'B31': unknown (did you mean 'B30'?)"),
        ((good, "--to", "B50"), 1, "this model makes B30"),
        ((good, "--from", "C30"), 2, "kernel 'C30': unknown"),
        ((good, "--start", "nosie"), 1, "did you mean 'noise'?"),
        ((good, "--truth", other), 1, "expected the same scan"),
        ((good, "--truth", tmp_path / "mri"), 1, "no truth called a.nii.gz"),
        ((good, "--mask", mask), 1, "expected a mask of it"),
        ((tmp_path / "none",), 1, "no such file or folder"),
        ((tmp_path,), 1, "no scan in it"),
        ((good, "--model", "hippocampus-wdm"), 1, "standardises no CT"),
    ):
        found, _, told = gen3d(*base, *arguments)
        assert found == status, told
        assert words in told
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
    beside, _, told = gen3d("standardize", "-i", good, "-o", good.parent, "--model", model)
    assert beside == 1
    assert "beside originals" in told


def ct_series(folder: Path, number: int, **tags: object) -> None:
    """A CT of 7 x 5 pixels, -1000 HU on."""
    series(folder, f"Thorax {number}", number=number, Modality="CT", RescaleIntercept=-1000.0, **tags)


def test_dicom_series_at_any_depth_and_the_kernel_of_their_headers(gen3d: Run, model: Path, tmp_path: Path) -> None:
    home = tmp_path / "in"
    ct_series(home / "chest" / "thin", 1, ConvolutionKernel="B70f")
    ct_series(home / "chest" / "both", 2, ConvolutionKernel="STANDARD")
    ct_series(home / "chest" / "both", 3, ConvolutionKernel=["b30s", "3"])
    ct_series(home / "chest" / "plan", 4, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(home / "head", "t1_mprage", number=5)
    common = ("standardize", "-i", home, "-o", tmp_path / "out", "--model", model)
    status, said, told = gen3d(*common, "--dry-run")
    assert (status, (tmp_path / "out").exists()) == (0, False), told
    assert "thin: would be standardised; kernel B70, as its DICOM header says (B70f)\n" in said
    assert "both_2: would be standardised; kernel not told (its DICOM header says STANDARD, none of B10, " in said
    assert "both_3: would be standardised; kernel B30, as its DICOM header says (b30s\\3)\n" in said
    assert "left out: series 'Thorax 4' (a localizer)\n" in told
    assert "left out: series 't1_mprage' (modality MR, expected CT)\n" in told
    status, said, told = gen3d(*common)
    assert status == 0, told
    report = json.loads((tmp_path / "out" / "thin-B30_report.json").read_text())
    assert report["source_kernel"] == "B70, as its DICOM header says (B70f)"
    assert f"thin: kernel {report['source_kernel']}\n" in said
    assert nib.load(tmp_path / "out" / "both_3-B30.nii.gz").shape == (7, 5, 6)
    alone = ("standardize", "-i", home / "chest" / "both" / "002-001.dcm", "-o", tmp_path / "out", "--model", model)
    assert "kernel B60" in gen3d(*alone, "--from", "B60", "--dry-run")[1]
    status, _, told = gen3d(*common[:2], home / "head", *common[3:])
    assert (status, "no scan in it" in told, "expected CT" in told, told.count("\n")) == (1, True, True, 1), told


def test_a_folder_goes_on_past_a_bad_image(gen3d: Run, model: Path, tmp_path: Path) -> None:
    for name in ("a", "c"):
        save(tmp_path / "in" / f"{name}.nii.gz", chest((40, 40, 1)))
    save(tmp_path / "in" / "b.nii.gz", chest((40, 40, 1)).clip(0, 900))
    dry = gen3d("standardize", "-i", tmp_path / "in", "-o", tmp_path / "out", "--model", model, "--dry-run")
    assert dry[0] == 1
    assert not (tmp_path / "out").exists()
    status, _, told = gen3d("standardize", "-i", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    assert status == 1
    assert "3 cases, 1 failed" in told
    assert {p.name for p in (tmp_path / "out").glob("*B30.nii.gz")} == {"a-B30.nii.gz", "c-B30.nii.gz"}


def test_lost_spacing_is_said_and_mended(gen3d: Run, model: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in" / "a.nii.gz", chest((40, 40, 1)), affine=np.eye(4))
    truth = save(tmp_path / "true" / "a.nii.gz", chest((40, 40, 1)))
    base = ("standardize", "-i", source, "--model", model, "--truth", truth)
    assert "exactly 1 mm" in gen3d(*base, "-o", tmp_path / "lost")[2]
    told = gen3d(*base, "-o", tmp_path / "told", "--pixel-size", 0.7)[2]
    assert "exactly 1 mm" not in told
    assert "pixel by pixel" in told


def test_the_report_measures_what_it_says() -> None:
    hu = chest((128, 96, 2)).astype(np.float32)
    inside = body(hu)
    assert inside[64, 48].all()
    assert not inside[0, 0].any()
    where = regions(inside)
    assert all(inside[box].all() for box in where)
    assert len(where) == 4
    same = agreement(features(hu, where), features(hu, where))
    assert same is not None
    assert (same.median, same.share_from_085) == (1, 1)
    soft = blurred(torch.from_numpy(hu), (1, 1), 1.0).numpy()
    table = against_truth(hu, {"soft": soft, "same": hu}, inside)["rows"]
    assert table["soft"]["concordance"]["median"] < table["same"]["concordance"]["median"]
    assert errors(hu, hu + 3, inside)["body"] == pytest.approx(3, abs=1e-3)
    assert regions(np.zeros((20, 40, 1), bool)) == []
