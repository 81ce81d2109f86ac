"""What ``gen3d evaluate pairs`` says of measurements and of a fixed segmentation network."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.core.volume import Volume
from gen3d.data.nifti import read, write
from gen3d.data.phantom import write_phantom
from gen3d.metrics import Quadratic, concordance, radiomic_features, score_completion, unit_window
from gen3d.systems import find_model

Run = Callable[..., tuple[int, str, str]]


class Bright(nn.Module):
    """Calls the brightest part of an image a lesion."""

    def forward(self, x: Tensor) -> Tensor:
        inside = x[x > 0]
        return x - inside.mean() - 1.5 * inside.std()


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Three simulated FLAIRs, slightly noisy ones, and ones far blurrier than that."""
    place = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(0)
    for seed in (1, 2, 3):
        case = write_phantom(place / "real", seed, (32, 36, 32), 5.0)
        name = f"{case.name}-t2f.nii.gz"
        scan = read(case / name)
        brain = scan.voxels > 0
        noisy = np.where(brain, scan.voxels + rng.normal(0, 0.02 * scan.voxels.max(), scan.shape), 0)
        smooth = np.where(brain, sum(np.roll(scan.voxels, s, axis) for axis in range(3) for s in (-2, 0, 2)) / 9, 0)
        write(replace(scan, voxels=noisy.astype(np.float32)), place / "fake" / case.name / name)
        write(replace(scan, voxels=smooth.astype(np.float32)), place / "blurred" / case.name / name)
    return place / "real", place / "fake", place / "blurred"


def test_measurements_agree_where_images_do(gen3d: Run, studies: tuple[Path, Path, Path], tmp_path: Path) -> None:
    real, fake, blurred = studies
    out = tmp_path / "out"
    status, said, told = gen3d("evaluate", "pairs", real, fake, "-o", out, "--baseline", blurred)
    assert status == 0, told
    assert "Agreement of measurements" in said
    found = json.loads((out / "results.json").read_text())["measurements"]
    synthetic, baseline = found["synthetic"], found["baseline"]
    assert synthetic["voxel_concordance"] > 0.95 > baseline["voxel_concordance"]
    assert synthetic["radiomic_agreement"]["pairs"] == 3
    assert synthetic["radiomic_agreement"]["median"] > baseline["radiomic_agreement"]["median"]
    assert 0 < baseline["skill_over"] < 1
    assert synthetic["skill_over"] is None


def test_measurements_are_those_of_the_metrics(gen3d: Run, studies: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """With a window and one pair, against the metrics called by hand on the scale of the headline row."""
    real, fake, _ = studies
    case = sorted(real.iterdir())[0]
    name = f"{case.name}-t2f.nii.gz"
    out = tmp_path / "out"
    status, _, told = gen3d("evaluate", "pairs", case / name, fake / case.name / name, "-o", out)
    assert status == 0, told
    tree = json.loads((out / "results.json").read_text())
    (pair,) = tree["pairs"].values()
    row = next(r for r in pair["rows"]["synthetic"] if (r["region"], r["normalisation"]) == ("brain", "scale matched"))
    a, b = (torch.from_numpy(read(p).reoriented("RAS").voxels).double() for p in (case / name, fake / case.name / name))
    inside = a > 0
    a, b = (
        (v.clamp(row["low"], row["high"]) - row["low"]) / (row["high"] - row["low"])
        for v in (a, b * row["gain"] + row["offset"])
    )
    own = pair["measurements"]
    assert own["synthetic"]["concordance"] == pytest.approx(concordance(a[inside], b[inside]), abs=1e-9)
    assert own["true"]["radiomics"] == pytest.approx(radiomic_features(a.float(), mask=inside), rel=1e-6)
    assert tree["measurements"]["synthetic"]["radiomic_agreement"] is None


def test_the_voxel_wise_regression_stands_beside(gen3d: Run, studies: tuple[Path, Path, Path], tmp_path: Path) -> None:
    real, fake, _ = studies
    case, out = sorted(real.iterdir())[0], tmp_path / "out"
    name = f"{case.name}-t2f.nii.gz"
    assert gen3d("evaluate", "pairs", case / name, fake / case.name / name, "-o", out)[0] == 0
    (pair,) = json.loads((out / "results.json").read_text())["pairs"].values()
    row = next(r for r in pair["rows"]["regression"] if (r["region"], r["normalisation"]) == ("brain", "scale matched"))
    fit = json.loads((find_model("brain-completion") / "baseline.json").read_text())["t2f"]
    scans = {c: torch.from_numpy(read(case / f"{case.name}-{c}.nii.gz").voxels) for c in ("t2f", *fit["given"])}
    guess = Quadratic(tuple(fit["coefficients"])).predict([unit_window(scans[c]) for c in fit["given"]])
    assert row["psnr"] == pytest.approx(score_completion(scans["t2f"], guess).brain, abs=1e-3)


def test_one_network_on_both_images(gen3d: Run, studies: tuple[Path, Path, Path], tmp_path: Path) -> None:
    real, fake, _ = studies
    network = tmp_path / "bright.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Bright()), network)
    out = tmp_path / "out"
    status, said, told = gen3d("evaluate", "pairs", real, fake, "-o", out, "--segmenter", network)
    assert status == 0, told
    assert "Segmentation agreement" in said
    rows = [row for rows in json.loads((out / "results.json").read_text())["agreement"].values() for row in rows]
    ones = [row for row in rows if row["label"] == 1]
    assert len(ones) == 3
    assert all(0.5 < row["between"] <= 1 for row in ones)
    (tmp_path / "words.pt").write_text("no network")
    for path in (tmp_path / "words.pt", tmp_path / "absent.pt"):
        status, _, told = gen3d("evaluate", "pairs", real, fake, "-o", tmp_path / "other", "--segmenter", path)
        assert status == 1
        assert path.name in told
        assert len(told.strip().splitlines()) == 1


def test_an_earlier_run_stands_beside(gen3d: Run, studies: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The same table whether the other images are scored anew or taken from their own results."""
    real, fake, blurred = studies
    earlier, anew, beside = (tmp_path / name for name in ("earlier", "anew", "beside"))
    assert gen3d("evaluate", "pairs", real, blurred, "-o", earlier)[0] == 0
    assert gen3d("evaluate", "pairs", real, fake, "-o", anew, "--baseline", blurred)[0] == 0
    status, _, told = gen3d("evaluate", "pairs", real, fake, "-o", beside, "--baseline", earlier / "results.json")
    assert status == 0, told
    one, other = (json.loads((out / "results.json").read_text()) for out in (anew, beside))
    assert one["means"] == other["means"]
    assert one["measurements"] == other["measurements"]
    arguments = real, fake, "-o", tmp_path / "other", "--baseline", earlier, "--window", 0, 100
    status, _, _ = gen3d("evaluate", "pairs", *arguments)
    assert status == 0
    tree = json.loads((tmp_path / "other" / "results.json").read_text())
    assert "baseline" not in tree["measurements"]
    assert any("another window" in warning for warning in tree["warnings"])


def test_earlier_masks_stand_beside(gen3d: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for folder, share in (("real", 0.0), ("fake", 0.05), ("other", 0.2)):
        for case in range(3):
            grid = np.indices((16, 16, 16)).sum(0)
            mask = (grid > 20) ^ (np.random.default_rng(case).random(grid.shape) < share)
            mask ^= rng.random(grid.shape) < share
            write(Volume(mask.astype(np.uint8), np.eye(4)), tmp_path / folder / f"case{case}_seg.nii.gz")
    real, fake, other = (tmp_path / name for name in ("real", "fake", "other"))
    earlier, anew, beside = (tmp_path / name for name in ("a", "b", "c"))
    assert gen3d("evaluate", "segmentation", real, other, "-o", earlier)[0] == 0
    assert gen3d("evaluate", "segmentation", real, fake, "-o", anew, "--baseline", other)[0] == 0
    status, _, told = gen3d("evaluate", "segmentation", real, fake, "-o", beside, "--baseline", earlier)
    assert status == 0, told
    one, two = (json.loads((out / "results.json").read_text()) for out in (anew, beside))
    assert one["means"] == two["means"]
    assert {row["masks"] for row in two["means"]} == {"masks", "baseline"}
    arguments = real, fake, "-o", tmp_path / "d", "--baseline", earlier, "--tolerance-mm", 2
    status, _, told = gen3d("evaluate", "segmentation", *arguments)
    assert status == 2
    assert "tolerance_mm" in told
