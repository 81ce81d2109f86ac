"""``gen3d evaluate pairs``: what is paired with what, what the table says, and bad input in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import nibabel as nib
import numpy as np
import pytest
import torch

import gen3d.tools.evaluate.pairs as command
from gen3d.core.error import UsageError, UserError
from gen3d.tools.evaluate.pairing import match_images, subject
from gen3d.tools.evaluate.pairs import evaluate_pairs
from gen3d.tools.evaluate.report import Report, as_tree, deliver, show

CASE = "BraTS-PHA-00001-000"
FIXED, MATCHED = "fixed window", "scale matched"


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4) if affine is None else affine), path)
    return path


def image(seed: int, size: tuple[int, ...] = (14, 16, 12)) -> np.ndarray:
    """Positive noise in a box of zeros."""
    voxels = np.zeros(size, np.float32)
    inner = tuple(slice(2, -2) if n > 1 else slice(None) for n in size)
    voxels[inner] = 100 + np.random.default_rng(seed).random(voxels[inner].shape) * 900
    return voxels


def change(source: Path, target: Path, how: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write a changed copy of a scan, on its grid."""
    scan = nib.load(source)
    return save(target, how(np.asarray(scan.dataobj, dtype=np.float32)), scan.affine)


def rows(report: Report, name: str, which: str = "synthetic") -> dict[tuple[str, str], dict]:
    case = as_tree(report)["pairs"][name]
    return {(row["region"], row["normalisation"]): row for row in case["rows"][which]}


@pytest.fixture(scope="module")
def study(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A simulated patient with a noisy FLAIR in synthesize's layout: a deviation and samples lie beside it."""
    folder = tmp_path_factory.mktemp("study")
    real, fake = folder / "real", folder / "fake"
    copytree(phantoms, real)
    rng = np.random.default_rng(0)
    true = real / CASE / f"{CASE}-t2f.nii.gz"

    def noisy(voxels: np.ndarray) -> np.ndarray:
        return np.where(voxels > 0, voxels * 3 + rng.normal(0, 100, voxels.shape), 0)

    for suffix in ("", "_std", "_sample-01", "_sample-02"):
        change(true, fake / CASE / f"{CASE}-t2f{suffix}.nii.gz", noisy)
    return real, fake


@pytest.fixture(scope="module")
def evaluated(study: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("out")
    report = evaluate_pairs(*study, out)
    deliver(report, out)
    return report, out


def test_results_and_picture_are_written(evaluated: tuple[Report, Path]) -> None:
    report, out = evaluated
    tree = json.loads((out / "results.json").read_text())
    assert tree["evaluation"] == "pairs"
    assert list(tree["pairs"]) == [f"{CASE}-t2f"]
    assert (out / "summary.png").read_bytes()[:4] == b"\x89PNG"
    assert tree["failed"] == {}
    assert [table["title"] for table in tree["tables"]][-1] == report.details[0].title
    assert report.details[0].columns[:4] == ("region", "normalisation", "image", "pairs")


def test_the_first_table_is_what_the_demo_shows(
    evaluated: tuple[Report, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each image, scale matched: brain, lesion and whole volume; all else is in the file."""
    report, _ = evaluated
    table = report.tables[0]
    assert table.title.endswith("1 pair, scale matched")
    assert [row[0] for row in table.rows] == ["synthetic", "regression", "best copy", "constant"]
    own, found = dict(zip(table.columns, table.rows[0], strict=True)), rows(report, f"{CASE}-t2f")
    places = {"PSNR dB": "brain", "lesion PSNR dB": "lesion", "whole PSNR dB": "whole"}
    assert {head: own[head] for head in places} == {head: found[at, MATCHED]["psnr"] for head, at in places.items()}
    show(report)
    said = capsys.readouterr().out
    assert FIXED not in said
    assert "32 rows): in results.json" in said


def test_baselines_are_always_beside(evaluated: tuple[Report, Path]) -> None:
    """One line for each region, normalisation and image; the copy is the best of the other three contrasts."""
    report, _ = evaluated
    lines = [tuple(row[:3]) for row in report.details[0].rows]
    images = ("synthetic", "regression", "best copy", "constant")
    regions = ("brain", "lesion", "healthy", "whole")
    assert lines == [(region, norm, name) for region in regions for norm in (FIXED, MATCHED) for name in images]
    case = as_tree(report)["pairs"][f"{CASE}-t2f"]
    assert case["copied"] in ("t1n", "t1c", "t2w")
    assert any(case["copied"] in note and "chosen with the truth" in note for note in report.tables[0].notes)


def test_another_scale_is_seen_and_named(evaluated: tuple[Report, Path]) -> None:
    """Three times the intensities: bad in the fixed window, and the matched rows print the gain."""
    report, _ = evaluated
    found = rows(report, f"{CASE}-t2f")
    assert found["brain", MATCHED]["gain"] == pytest.approx(1 / 3, rel=0.1)
    assert found["brain", MATCHED]["psnr"] > found["brain", FIXED]["psnr"] + 10
    assert any("another scale" in warning for warning in report.warnings)
    gains = [row[-1] for row in report.details[0].rows if row[1:3] == (MATCHED, "synthetic")]
    assert set(gains) == {found["brain", MATCHED]["gain"]}


def test_figures_are_those_of_the_metrics(evaluated: tuple[Report, Path], study: tuple[Path, Path]) -> None:
    from gen3d.metrics import score_completion

    real, fake = study
    arrays = [
        torch.from_numpy(np.asarray(nib.load(path).dataobj, dtype=np.float32))
        for path in (
            real / CASE / f"{CASE}-t2f.nii.gz",
            fake / CASE / f"{CASE}-t2f.nii.gz",
            real / CASE / f"{CASE}-seg.nii.gz",
        )
    ]
    found = rows(evaluated[0], f"{CASE}-t2f")
    expected = score_completion(*arrays)
    assert (found["brain", MATCHED]["psnr"], found["lesion", MATCHED]["psnr"]) == pytest.approx(expected[:2], abs=1e-4)


def test_a_killed_run_goes_on(
    evaluated: tuple[Report, Path], study: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, out = evaluated

    def never(*_: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(command, "score", never)
    again = evaluate_pairs(*study, out)
    assert as_tree(again) == as_tree(first)


def test_an_erased_lesion_is_seen_in_the_lesion_only(phantoms: Path, tmp_path: Path) -> None:
    real = phantoms / CASE
    mask = np.asarray(nib.load(real / f"{CASE}-seg.nii.gz").dataobj) > 0

    def erased(voxels: np.ndarray) -> np.ndarray:
        return np.where(mask, np.median(voxels[(voxels > 0) & ~mask]), voxels)

    change(real / f"{CASE}-t2f.nii.gz", tmp_path / "fake" / f"{CASE}-t2f.nii.gz", erased)
    found = rows(evaluate_pairs(real, tmp_path / "fake", tmp_path / "out"), f"{CASE}-t2f")
    assert found["lesion", FIXED]["psnr"] < found["brain", FIXED]["psnr"] - 3
    assert found["healthy", FIXED]["psnr"] > found["lesion", FIXED]["psnr"] + 20


@pytest.mark.parametrize(
    ("real", "fake", "alone"),
    [
        (["a/flair", "b/flair"], ["a/flair", "b/flair"], ["a/t1"]),  # the same places
        (["a/x_t1ce", "b/y_t1ce"], ["a/t1c", "b/t1c"], []),  # case folders and contrasts
        (["s/a/flair", "s/b/flair"], ["a/flair", "b/flair"], []),  # at another depth
        (["a/a-t2f", "b/b-t2f"], ["a-t2f", "b-t2f"], []),  # flat against folders
        (["imagesTr/p1", "imagesTr/p2"], ["p1", "p2"], ["labelsTr/p1"]),
        (["p1", "p2"], ["p1", "p2"], []),
    ],
)
def test_what_belongs_together_is_paired(real: list[str], fake: list[str], alone: list[str], tmp_path: Path) -> None:
    sides = {"real": [*real, *alone], "fake": [*fake, f"{fake[0]}_std", f"{fake[1]}_sample-01", "._p1"]}
    for side, names in sides.items():
        for name in names:
            save(tmp_path / side / f"{name}.nii.gz", image(0))
    matches = match_images(tmp_path / "real", tmp_path / "fake")
    assert [(str(m.real), str(m.fake)) for m in matches.pairs] == [
        (f"{tmp_path}/real/{one}.nii.gz", f"{tmp_path}/fake/{other}.nii.gz")
        for one, other in zip(real, fake, strict=True)
    ]
    assert not matches.fake_alone
    assert not matches.real_alone
    assert len({match.name for match in matches.pairs}) == 2


@pytest.mark.parametrize(
    ("path", "whose"),
    [
        ("x/BraTS-GLI-00001-000-t2f.nii.gz", "BraTS-GLI-00001-000"),
        ("x/TCGA_flair.nii", "TCGA"),
        ("x/p1_brain_mask.nii.gz", "p1"),
        ("x/lesion_gold.nii.gz", "x"),
        ("x/t1.nii.gz", "x"),
    ],
)
def test_whose_a_file_is(path: str, whose: str) -> None:
    assert subject(Path(path)) == whose


def test_two_case_folders_are_one_pair_whatever_they_are_called(tmp_path: Path) -> None:
    true = save(tmp_path / "patient" / "t1ce.nii.gz", image(0))
    fake = save(tmp_path / "made" / "t1c.nii.gz", image(1))
    (match,) = match_images(tmp_path / "patient", tmp_path / "made").pairs
    assert (match.real, match.fake) == (true, fake)


def test_other_patients_are_never_paired(tmp_path: Path) -> None:
    save(tmp_path / "real" / "patient07" / "flair.nii.gz", image(0))
    save(tmp_path / "fake" / "patient19" / "flair.nii.gz", image(1))
    save(tmp_path / "real" / "patient08" / "scan.nii.gz", image(0))
    save(tmp_path / "fake" / "patient20" / "scan.nii.gz", image(1))
    with pytest.raises(UserError, match="no image belongs to one in") as caught:
        match_images(tmp_path / "real", tmp_path / "fake")
    assert "\n" not in str(caught.value)


def test_what_is_left_over_is_named(tmp_path: Path) -> None:
    for name in ("p1", "p2", "p3"):
        save(tmp_path / "real" / f"{name}.nii.gz", image(0))
    for name in ("p2", "p9"):
        save(tmp_path / "fake" / f"{name}.nii.gz", image(1))
    report = evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out")
    said = " ".join(report.warnings)
    assert "1 of FAKE match nothing in REAL: fake/p9.nii.gz" in said
    assert "2 of REAL have no synthetic image: real/p1.nii.gz, real/p3.nii.gz" in said
    assert any("no copy to beat" in note for note in report.tables[0].notes)


def test_two_files_with_lesion_mask_and_baseline(tmp_path: Path) -> None:
    """The baseline is the better image, and the report says that the synthetic one doesn't beat it."""
    true = image(0)
    mask = np.zeros_like(true)
    mask[5:9, 5:9, 4:8] = 1
    real, fake = save(tmp_path / "r.nii.gz", true), save(tmp_path / "f.nii.gz", image(1))
    better = save(tmp_path / "b.nii.gz", np.where(true > 0, true + image(2) / 10, 0))
    lesion = save(tmp_path / "l.nii.gz", mask)
    report = evaluate_pairs(real, fake, tmp_path / "out", lesion=lesion, baseline=better)
    own, other = (rows(report, "r", which) for which in ("synthetic", "baseline"))
    assert own["lesion", FIXED]["voxels"] == 64
    assert other["brain", MATCHED]["psnr"] > own["brain", MATCHED]["psnr"]
    assert any(w.startswith("brain: the synthetic images don't beat the baseline") for w in report.warnings)
    deliver(report, tmp_path / "out")


def test_masks_are_found_by_the_case(tmp_path: Path) -> None:
    mask = np.zeros((14, 16, 12))
    mask[4:8, 4:8, 4:8] = 1
    for name in ("p1", "p2"):
        save(tmp_path / "real" / f"{name}_flair.nii.gz", image(0))
        save(tmp_path / "fake" / f"{name}_flair.nii.gz", image(1))
        save(tmp_path / "lesions" / f"{name}_seg.nii.gz", mask)
        save(tmp_path / "brains" / f"{name}_mask.nii.gz", np.ones_like(mask))
    report = evaluate_pairs(
        tmp_path / "real",
        tmp_path / "fake",
        tmp_path / "out",
        lesion=tmp_path / "lesions",
        mask=tmp_path / "brains",
    )
    for name in ("p1_flair", "p2_flair"):
        found = rows(report, name)
        assert found["lesion", FIXED]["voxels"] == 64
        assert found["brain", FIXED]["voxels"] == mask.size


def test_a_lesion_mask_without_foreground_leaves_a_note(tmp_path: Path) -> None:
    save(tmp_path / "real" / "a" / "flair.nii.gz", image(0))
    save(tmp_path / "real" / "a" / "seg.nii.gz", np.zeros((14, 16, 12)))
    save(tmp_path / "fake" / "a" / "flair.nii.gz", image(1))
    report = evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out")
    assert "lesion" not in {row[0] for row in report.details[0].rows}
    assert report.tables[0].rows[0][-2] is None
    assert "a/flair: the lesion region is empty, so it has no row" in report.warnings


def test_hounsfield_units_and_slices(tmp_path: Path) -> None:
    """A 2D CT of which the other is 20 HU too bright: MAE is 20 HU in the body, by the file's own axes too."""
    hu = np.full((40, 44, 1), -1000, np.float32)
    hu[8:32, 10:36] = 40 + np.random.default_rng(0).normal(0, 30, (24, 26, 1))
    brighter = hu + 20 * (hu > -500)
    save(tmp_path / "real" / "s1.nii.gz", hu[:, :, 0])
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 39
    save(tmp_path / "fake" / "s1.nii.gz", brighter[::-1], turned)
    report = evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out")
    body = rows(report, "s1")["body", FIXED]
    assert (body["units"], body["low"], body["high"], body["voxels"]) == ("HU", -1000, 1000, 24 * 26)
    assert body["mae"] == pytest.approx(20, abs=1e-3)
    assert report.details[0].rows[0][1] == "fixed window (HU)"
    assert report.tables[0].title.endswith("HU as they are")
    assert report.tables[0].rows[0][1:4] == ("body", 1, body["psnr"])
    deliver(report, tmp_path / "out")
    soft = evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out", window=(-160, 240))
    assert rows(soft, "s1")["body", FIXED]["high"] == 240


def test_a_segmentation_network_is_asked_about_both(phantoms: Path, tmp_path: Path) -> None:
    real = phantoms / CASE
    change(real / f"{CASE}-t2f.nii.gz", tmp_path / "fake" / f"{CASE}-t2f.nii.gz", lambda v: np.minimum(v, 300))

    def bright(voxels: torch.Tensor) -> torch.Tensor:
        return (voxels > 0.8 * voxels.max()).long()

    report = evaluate_pairs(real, tmp_path / "fake", tmp_path / "out", segmenter=bright)
    (row,) = (r for r in as_tree(report)["agreement"][f"{CASE}-t2f"] if r["label"] == 1)
    assert row["between"] < 1
    assert row["drop"] == pytest.approx(row["real"] - row["fake"])
    assert [table.title for table in report.tables].count("Segmentation agreement") == 1
    with pytest.raises(UserError, match="expected one label per voxel"):
        evaluate_pairs(real, tmp_path / "fake", tmp_path / "out", segmenter=lambda v: v[None])


def test_a_copy_of_the_original_is_noticed(tmp_path: Path) -> None:
    for side in ("real", "fake"):
        save(tmp_path / side / "p1.nii.gz", image(0))
    report = evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out")
    assert any("is it a copy of the original" in warning for warning in report.warnings)


def test_scans_that_are_not_cut_out_are_warned_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save(tmp_path / "real" / "p1.nii.gz", 1 + rng.random((9, 9, 9)))
    save(tmp_path / "real" / "p2.nii.gz", rng.normal(size=(9, 9, 9)))
    for name in ("p1", "p2"):
        save(tmp_path / "fake" / f"{name}.nii.gz", rng.normal(size=(9, 9, 9)))
    said = " ".join(evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out").warnings)
    assert "p1: 100% of the true image is above 0: not skull-stripped? give --mask" in said
    assert "p2: " in said
    assert "is below 0, which counts as no brain; give --mask" in said


def test_one_bad_pair_does_not_stop_the_rest(tmp_path: Path) -> None:
    bad = {
        "p2": (image(1, (14, 16, 11)), None, "another grid than .*p2.nii.gz: shape"),
        "p3": (image(1), np.diag([1.0, 1, 1.5, 1]), r"same shape at another place or spacing"),
        "p4": (np.where(image(1) > 900, np.nan, image(1)), None, "NaN or infinite"),
        "p5": (np.full((14, 16, 12), 7.0), None, "all voxels are 7"),
    }
    for name in ("p1", *bad):
        save(tmp_path / "real" / f"{name}.nii.gz", image(0))
    save(tmp_path / "fake" / "p1.nii.gz", image(1))
    for name, (voxels, affine, _) in bad.items():
        save(tmp_path / "fake" / f"{name}.nii.gz", voxels, affine)
    told: list[str] = []
    report = evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out", note=told.append)
    failed = as_tree(report)["failed"]
    assert list(as_tree(report)["pairs"]) == ["p1"]
    assert set(failed) == set(bad)
    for name, (_, _, words) in bad.items():
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(failed[name])
        assert "\n" not in failed[name]
    assert len(told) == len(bad)
    assert sum(w.startswith("left out: ") for w in report.warnings) == len(bad)
    (tmp_path / "fake" / "p1.nii.gz").unlink()
    with pytest.raises(UserError, match="none of 4 pairs can be scored; the first: ") as caught:
        evaluate_pairs(tmp_path / "real", tmp_path / "fake", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_true_image_without_contrast_in_its_window_is_refused(tmp_path: Path) -> None:
    """One bright voxel: the percentiles of the window meet."""
    dot = np.zeros((20, 20, 20))
    dot[4, 4, 4] = 1
    real, fake = save(tmp_path / "r.nii.gz", dot), save(tmp_path / "f.nii.gz", image(0, (20, 20, 20)))
    with pytest.raises(UserError, match=r"r\.nii\.gz and .*f\.nii\.gz: the window \[0, 0\] is empty"):
        evaluate_pairs(real, fake, tmp_path / "out")


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    real = save(tmp_path / "real" / "p1.nii.gz", image(0)).parent
    fake = save(tmp_path / "fake" / "p1.nii.gz", image(1)).parent
    for name in ("masks/seg.nii.gz", "two/p1_seg.nii.gz", "two/p1_lesion.nii.gz", "no/q7_seg.nii.gz"):
        save(tmp_path / name, np.ones((14, 16, 12)))
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    calls: list[tuple[type[UserError], str, Callable[[], Report]]] = [
        (UserError, "empty: no image in it", lambda: evaluate_pairs(real, tmp_path / "empty", out)),
        (UserError, "empty: no image in it", lambda: evaluate_pairs(tmp_path / "empty", fake, out)),
        (UserError, "no image in it", lambda: evaluate_pairs(real, tmp_path / "masks", out)),
        (UserError, "no such file or folder", lambda: evaluate_pairs(tmp_path / "absent", fake, out)),
        (UserError, "one is a file, one a folder", lambda: evaluate_pairs(real, fake / "p1.nii.gz", out)),
        (UsageError, "expected one of auto, arbitrary, HU", lambda: evaluate_pairs(real, fake, out, units="Hu")),  # type: ignore[arg-type]
        (UsageError, "two rising numbers", lambda: evaluate_pairs(real, fake, out, window=(1, 1))),
        (UserError, "both masks of p1", lambda: evaluate_pairs(real, fake, out, lesion=tmp_path / "two")),
        (UserError, "no mask of any case", lambda: evaluate_pairs(real, fake, out, lesion=tmp_path / "no")),
        (UserError, "is a file; expected a folder", lambda: evaluate_pairs(real, fake, real / "p1.nii.gz")),
    ]
    for kind, words, call in calls:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not out.exists()
