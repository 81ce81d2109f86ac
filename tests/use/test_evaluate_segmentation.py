"""``gen3d evaluate segmentation``: masks matched and scored per label, and bad input in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import gen3d.tools.evaluate.segmentation as command
from gen3d.core.error import UsageError, UserError
from gen3d.tools.evaluate.pairing import match_masks
from gen3d.tools.evaluate.report import Report, as_tree, deliver
from gen3d.tools.evaluate.segmentation import evaluate_segmentation

SPACING = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = SPACING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), path)
    return path


def labels(shift: int = 0, *, second: bool = True) -> np.ndarray:
    """Two cubes of 6 x 6 x 4 voxels, labels 1 and 2, moved along X."""
    voxels = np.zeros((24, 20, 10))
    voxels[4 + shift : 10 + shift, 4:10, 3:7] = 1
    voxels[12 + shift : 18 + shift, 10:16, 3:7] = 2 if second else 0
    return voxels


def means(report: Report) -> dict[tuple[str, str], dict]:
    return {(row["masks"], row["label"]): row for row in as_tree(report)["means"]}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases: moved by 1 voxel, by 2, and without label 2."""
    for name, fake in {"c1": labels(1), "c2": labels(2), "c3": labels(second=False)}.items():
        save(tmp_path / "real" / f"{name}.nii.gz", labels())
        save(tmp_path / "fake" / f"{name}.nii.gz", fake)
    return tmp_path / "real", tmp_path / "fake"


def test_each_label_has_mean_median_and_worst(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = evaluate_segmentation(*folders, tmp_path / "out")
    found = means(report)
    assert list(found) == [("masks", "1"), ("masks", "2"), ("masks", "any")]
    dice = [1 - 1 / 6, 1 - 2 / 6, 1.0]
    one = found["masks", "1"]
    assert one["cases"] == 3
    assert one["dice"] == pytest.approx({"mean": np.mean(dice), "median": np.median(dice), "worst": min(dice)})
    assert one["hd95"]["worst"] == pytest.approx(2)
    two = found["masks", "2"]
    diagonal = np.hypot(np.hypot(23, 19), 9 * 2)
    assert (two["dice"]["worst"], two["hd95"]["worst"]) == pytest.approx((0, diagonal))
    assert two["empty"] == {"both": 0, "true": 0, "fake": 1}
    assert two["volume_error"]["worst"] == -100
    assert two["volume_error_ml"]["worst"] == pytest.approx(-0.288)
    lines = [tuple(row[:3]) for row in report.tables[0].rows]
    assert lines == [("masks", label, s) for label in ("1", "2", "any") for s in ("mean", "median", "worst")]


def test_results_and_picture_are_written_and_kept(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    report = evaluate_segmentation(*folders, out)
    deliver(report, out)
    tree = json.loads((out / "results.json").read_text())
    assert tree["evaluation"] == "segmentation"
    assert tree["worst"][0] == "c3"
    assert (out / "summary.png").read_bytes()[:4] == b"\x89PNG"

    def never(*_: object, **__: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(command, "segmentation_scores", never)
    assert as_tree(evaluate_segmentation(*folders, out)) == as_tree(report)
    with pytest.raises(AssertionError, match="scored again"):
        evaluate_segmentation(*folders, out, tolerance_mm=3)


def test_a_plain_network_stands_beside_or_its_absence_is_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    alone = evaluate_segmentation(*folders, tmp_path / "out")
    assert any("no masks of a plain network were given" in note for note in alone.tables[0].notes)
    for name in ("c1", "c2"):
        save(tmp_path / "plain" / f"{name}.nii.gz", labels(3))
    report = evaluate_segmentation(*folders, tmp_path / "out", baseline=tmp_path / "plain")
    assert means(report)["baseline", "1"]["dice"]["mean"] == pytest.approx(0.5)
    assert not any("no masks of a plain network" in note for note in report.tables[0].notes)
    assert any("the baseline has no masks of 1 cases, such as c3" in warning for warning in report.warnings)
    deliver(report, tmp_path / "out")


def test_only_the_labels_asked_for(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """A label that nobody has is no case; one alone needs no row for all together."""
    report = evaluate_segmentation(*folders, tmp_path / "out", labels=[2])
    assert list(means(report)) == [("masks", "2")]
    both = evaluate_segmentation(*folders, tmp_path / "out", labels=[2, 7])
    assert list(means(both)) == [("masks", "2"), ("masks", "any")]
    assert as_tree(both)["cases"]["c1"]["rows"]["masks"][1]["empty"] == "both"


def test_masks_of_cases_are_found_beside_their_images(tmp_path: Path) -> None:
    for case in ("a", "b"):
        save(tmp_path / "real" / case / f"{case}-seg.nii.gz", labels())
        save(tmp_path / "real" / case / f"{case}-t2f.nii.gz", np.random.default_rng(0).random((24, 20, 10)))
    save(tmp_path / "folders" / "a" / "lesion.nii.gz", labels(1))
    save(tmp_path / "folders" / "b" / "lesion.nii.gz", labels(1))
    save(tmp_path / "flat" / "a.nii.gz", labels(1))
    save(tmp_path / "flat" / "b.nii.gz", labels(1))
    for fake in ("folders", "flat"):
        matches = match_masks(tmp_path / "real", tmp_path / fake)
        assert [match.real.parent.name for match in matches.pairs] == ["a", "b"]
        assert [str(match.fake.relative_to(tmp_path / fake))[0] for match in matches.pairs] == ["a", "b"]
        assert not matches.real_alone
        assert not matches.fake_alone


def test_decathlon_labels_and_single_files(tmp_path: Path) -> None:
    for name in ("h1", "h2"):
        save(tmp_path / "real" / "labelsTr" / f"{name}.nii.gz", labels())
        save(tmp_path / "real" / "imagesTr" / f"{name}.nii.gz", np.random.default_rng(0).random((24, 20, 10)))
        save(tmp_path / "fake" / f"{name}.nii.gz", labels(1))
    assert len(match_masks(tmp_path / "real", tmp_path / "fake").pairs) == 2
    files = [tmp_path / side / "h1.nii.gz" for side in ("real/labelsTr", "fake")]
    report = evaluate_segmentation(*files, tmp_path / "out")
    assert list(as_tree(report)["cases"]) == ["h1"]


def test_slices_and_other_axes(tmp_path: Path) -> None:
    """The same mask with X stored backwards is the same mask; one slice is scored in 2D."""
    backwards = np.diag([-1.0, 1.0, 2.0, 1.0])
    backwards[0, 3] = 23
    real = save(tmp_path / "r.nii.gz", labels()[:, :, 4:5])
    fake = save(tmp_path / "f.nii.gz", labels()[::-1, :, 4:5], backwards)
    report = evaluate_segmentation(real, fake, tmp_path / "out")
    assert means(report)["masks", "any"]["dice"]["mean"] == 1
    moved = save(tmp_path / "m.nii.gz", labels(1)[:, :, 4])
    assert means(evaluate_segmentation(real, moved, tmp_path / "out"))["masks", "1"]["hd95"]["mean"] == 1


def test_one_bad_case_does_not_stop_the_rest(folders: tuple[Path, Path], tmp_path: Path) -> None:
    real, fake = folders
    bad = {
        "d1": (labels()[:-1], SPACING, "another grid than .*: shape"),
        "d2": (labels(), np.eye(4), "another place or spacing"),
        "d3": (labels() + 0.5, SPACING, "not a mask"),
        "d4": (labels() * np.nan, SPACING, "not a mask"),
    }
    for name, (voxels, affine, _) in bad.items():
        save(real / f"{name}.nii.gz", labels())
        save(fake / f"{name}.nii.gz", voxels, affine)
    for side in (real, fake):
        save(side / "e1.nii.gz", np.zeros((24, 20, 10)))
    save(real / "alone1.nii.gz", labels())
    save(fake / "other1.nii.gz", labels())
    told: list[str] = []
    report = evaluate_segmentation(real, fake, tmp_path / "out", note=told.append)
    failed = as_tree(report)["failed"]
    assert set(failed) == set(bad)
    for name, (_, _, words) in bad.items():
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(failed[name])
        assert "\n" not in failed[name]
    assert means(report)["masks", "1"]["cases"] == 3
    said = " ".join(report.warnings)
    assert "e1: no foreground on either side" in said
    assert "1 of FAKE match nothing in REAL: fake/other1.nii.gz" in said
    assert "1 of REAL have no mask in FAKE: real/alone1.nii.gz" in said


def test_bad_requests_are_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    real, fake = folders
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    save(tmp_path / "others" / "x9.nii.gz", labels())
    for side in ("bare_real", "bare_fake"):
        save(tmp_path / side / "c1.nii.gz", np.zeros((5, 5, 5)))
    bare = [tmp_path / side for side in ("bare_real", "bare_fake")]
    calls: list[tuple[type[UserError], str, Callable[[], Report]]] = [
        (UserError, "empty: no mask in it", lambda: evaluate_segmentation(real, tmp_path / "empty", out)),
        (UserError, "no such file or folder", lambda: evaluate_segmentation(tmp_path / "absent", fake, out)),
        (UserError, "no mask belongs to one in", lambda: evaluate_segmentation(real, tmp_path / "others", out)),
        (UserError, "one is a file, one a folder", lambda: evaluate_segmentation(real, fake / "c1.nii.gz", out)),
        (UsageError, "tolerance -1 mm", lambda: evaluate_segmentation(real, fake, out, tolerance_mm=-1)),
        (UsageError, "0 is the background", lambda: evaluate_segmentation(real, fake, out, labels=[0, 1])),
        (UsageError, "0 is the background", lambda: evaluate_segmentation(real, fake, out, labels=[])),
    ]
    for kind, words, call in calls:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not out.exists()
    with pytest.raises(UserError, match="no mask has any foreground"):
        evaluate_segmentation(*bare, out)
