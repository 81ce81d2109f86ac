"""``gen3d evaluate ambiguous`` on small made-up raters, in every layout that it reads, and on input that is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Volume
from gen3d.data.nifti import write
from gen3d.tools.evaluate import ambiguous
from gen3d.tools.evaluate.ambiguous import evaluate_ambiguous
from gen3d.tools.evaluate.report import Report, deliver

pytest.importorskip("scipy")

Run = Callable[..., tuple[int, str, str]]
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LPS = np.diag([-1.0, -1.0, 2.0, 1.0]) + np.array([[0, 0, 0, 11], [0, 0, 0, 9], [0, 0, 0, 0], [0, 0, 0, 0]])
ROWS = [
    "model",
    "raters against raters, leave one out",
    "majority vote against all",
    "majority of the others against the one left out",
    "single rater against the others",
]
MODEL_COLUMNS = ("", "n", "GED", "GED corrected", "HM-IoU", "D_max", "S_c", "D_a", "CI", "ECE", "cases")


def balls(n: int, seed: int, size: tuple[int, int, int] = (12, 10, 6)) -> np.ndarray:
    """Masks as raters draw them: one centre, radii that differ, (n, X, Y, Z)."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.arange(s) - s / 2 for s in size), indexing="ij")
    radius = rng.uniform(1.5, 4.0, (n, 1, 1, 1))
    return (sum(g**2 for g in grids)[None] < radius**2).astype(np.uint8)


def put(path: Path, mask: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    write(Volume(mask.astype(np.uint8), affine), path)
    return path


def write_raters(folder: Path, name: str, masks: np.ndarray) -> None:
    for index, mask in enumerate(masks):
        put(folder / f"{name}_rater{index + 1}.nii.gz", mask)


def write_samples(folder: Path, name: str, masks: np.ndarray, *, flat: bool = False) -> None:
    for index, mask in enumerate(masks):
        put((folder if flat else folder / name) / f"{name}_sample-{index + 1:02d}.nii.gz", mask)


RATERS = {"a": balls(4, 1), "b": balls(3, 2), "c": balls(5, 3)}
SAMPLES = {"a": balls(6, 11), "b": balls(6, 12), "c": balls(6, 13)}


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    real, fake = tmp_path / "real", tmp_path / "fake"
    for name in RATERS:
        write_raters(real, name, RATERS[name])
        write_samples(fake, name, SAMPLES[name])
    return real, fake


def packed(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def figures(report: Report) -> dict[str, tuple[Any, ...]]:
    return {str(row[0]): row for row in report.tables[0].rows}


def test_says_everything(gen3d: Run, sides: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said, told = gen3d("evaluate", "ambiguous", *sides, "-o", out)
    assert status == 0, told
    assert told == ""
    assert all(title in said for title in (*MODEL_COLUMNS, *ROWS))
    assert all(word in said for word in ("HM-IoU", "two empty masks agree", "Plain GED falls with n", "model minus"))
    assert (out / "summary.png").stat().st_size > 10_000
    tree = json.loads((out / "results.json").read_text())
    assert set(tree["cases"]) == {"a", "b", "c"}
    assert tree["cases"]["b"]["raters"] == 3
    model = tree["cases"]["a"]["rows"]["model"]
    assert {"ged", "ged_corrected", "hm_iou", "d_a_dice", "ci_dice", "ci_harmonic"} <= set(model)
    mean = np.mean([case["rows"]["model"]["ged"] for case in tree["cases"].values()])
    assert tree["rows"]["model"]["ged"]["mean"] == pytest.approx(mean)
    assert tree["rows"]["model"]["ged"]["low"] <= mean <= tree["rows"]["model"]["ged"]["high"]
    assert tree["reliability"]["model"]["voxels"] == sum(
        sum(c["calibration"]["model"]["count"]) for c in tree["cases"].values()
    )
    assert tree["worst"][0] == max(tree["cases"], key=lambda name: tree["cases"][name]["rows"]["model"]["ged"])
    assert tree["failed"] == {}
    assert tree["warnings"] == []
    assert [line[0] for line in tree["tables"][0]["rows"]] == ROWS


def test_a_wrong_option_is_one_line(gen3d: Run, sides: tuple[Path, Path], tmp_path: Path) -> None:
    status, said, told = gen3d("evaluate", "ambiguous", *sides, "-o", tmp_path / "out", "--empty", "ignore")
    assert (status, said) == (2, "")
    assert "expected one of agree, exclude, disagree" in told
    assert not (tmp_path / "out").exists()


def test_progress_only_grows(sides: tuple[Path, Path], tmp_path: Path) -> None:
    shares: list[float] = []
    evaluate_ambiguous(*sides, tmp_path / "out", advance=lambda share, words: shares.append(share))
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1


def test_every_layout_gives_the_same_figures(sides: tuple[Path, Path], tmp_path: Path) -> None:
    expected = figures(evaluate_ambiguous(*sides, tmp_path / "0"))
    flat = tmp_path / "flat"
    for name, masks in SAMPLES.items():
        write_samples(flat, name, masks, flat=True)
    real = packed(tmp_path / "real.npz", **{f"{k}_masks": v for k, v in RATERS.items()}, a_image=np.zeros((12, 10)))
    fake = packed(tmp_path / "fake.npz", **{f"{k}_samples": v for k, v in SAMPLES.items()})
    inside = tmp_path / "npz"
    inside.mkdir()
    shutil.copy(fake, inside)
    for index, pair in enumerate([(sides[0], flat), (real, fake), (real, sides[1]), (sides[0], fake), (real, inside)]):
        assert figures(evaluate_ambiguous(*pair, tmp_path / str(index + 1))) == expected


def test_another_orientation_is_the_same_place(sides: tuple[Path, Path], tmp_path: Path) -> None:
    expected = figures(evaluate_ambiguous(*sides, tmp_path / "0"))
    turned = tmp_path / "turned"
    for name, masks in SAMPLES.items():
        for index, mask in enumerate(masks):
            put(turned / f"{name}_sample-{index + 1:02d}.nii.gz", mask[::-1, ::-1], LPS)
    assert figures(evaluate_ambiguous(sides[0], turned, tmp_path / "1")) == expected


def test_one_case_of_slices_with_another_key(tmp_path: Path) -> None:
    real = packed(tmp_path / "lidc.npz", raters=balls(4, 5), image=np.zeros((12, 10, 6)))
    fake = packed(tmp_path / "drawn.npz", samples=balls(8, 6))
    report = evaluate_ambiguous(real, fake, tmp_path / "out")
    assert list(report.facts["cases"]) == ["lidc"]
    assert report.facts["cases"]["lidc"]["samples"] == 8


def test_two_dimensions_and_a_missing_rater(tmp_path: Path) -> None:
    y = balls(4, 5, (12, 10, 1))[..., 0].astype(float)
    holed = np.concatenate([y, np.full((1, 12, 10), np.nan)])
    fake = packed(tmp_path / "fake.npz", a_samples=balls(3, 6, (12, 10, 1)))
    reports = [
        evaluate_ambiguous(packed(tmp_path / f"{n}.npz", a_masks=masks), fake, tmp_path / str(n))
        for n, masks in enumerate((y, holed))
    ]
    assert figures(reports[0]) == figures(reports[1])
    assert reports[1].facts["cases"]["a"]["raters"] == 4


def test_raters_themselves_as_samples(sides: tuple[Path, Path], tmp_path: Path) -> None:
    real = packed(tmp_path / "real.npz", **{f"{k}_masks": v for k, v in RATERS.items()})
    row = figures(evaluate_ambiguous(real, real, tmp_path / "out"))["model"]
    assert row[2] == pytest.approx(0, abs=1e-12)
    assert row[3] < 0
    assert row[4:10] == pytest.approx((1, 1, 1, 1, 1, 0), abs=1e-12)


def test_results_are_kept_until_a_file_changes(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    score = ambiguous.score_case
    monkeypatch.setattr(ambiguous, "score_case", lambda r, *rest: scored.append(r.name) or score(r, *rest))
    out = tmp_path / "out"
    first = figures(evaluate_ambiguous(*sides, out))
    assert scored == ["a", "b", "c"]
    assert figures(evaluate_ambiguous(*sides, out)) == first
    assert scored == ["a", "b", "c"]
    put(sides[1] / "b" / "b_sample-01.nii.gz", np.zeros((12, 10, 6)))
    assert figures(evaluate_ambiguous(*sides, out)) != first
    assert scored == ["a", "b", "c", "b"]
    evaluate_ambiguous(*sides, out, empty="disagree")
    assert scored[4:] == ["a", "b", "c"]


def test_a_single_sample_is_a_deterministic_network(sides: tuple[Path, Path], tmp_path: Path) -> None:
    fake = tmp_path / "plain"
    for name, masks in RATERS.items():
        write_samples(fake, name, (2 * masks.sum(0) >= len(masks))[None])
    report = evaluate_ambiguous(sides[0], fake, tmp_path / "out")
    rows = figures(report)
    assert rows["model"][1:] == rows["majority vote against all"][1:]
    assert any("deterministic" in words for words in report.warnings)
    one = evaluate_ambiguous(*sides, tmp_path / "one", samples=1)
    assert figures(one)["model"][3] is None
    assert one.warnings == []


def test_numbers_of_samples_are_made_equal(sides: tuple[Path, Path], tmp_path: Path) -> None:
    (sides[1] / "c" / "c_sample-06.nii.gz").unlink()
    report = evaluate_ambiguous(*sides, tmp_path / "0")
    assert any("from 5 to 6 samples" in words and "--samples 5" in words for words in report.warnings)
    assert figures(report)["model"][1] == "5-6"
    report = evaluate_ambiguous(*sides, tmp_path / "1", samples=5)
    assert report.warnings == []
    assert figures(report)["model"][1] == "5"
    report = evaluate_ambiguous(*sides, tmp_path / "2", samples=6)
    assert list(report.facts["failed"]) == ["c"]
    assert "has 5 masks; expected 6" in report.facts["failed"]["c"]


def test_an_earlier_run_stands_beside(sides: tuple[Path, Path], tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    deliver(evaluate_ambiguous(*sides, earlier, samples=3), earlier)
    report = evaluate_ambiguous(*sides, tmp_path / "out", reference=earlier)
    deliver(report, tmp_path / "out")
    rows = figures(report)
    kept = json.loads((earlier / "results.json").read_text())["rows"]["model"]["ged"]["mean"]
    assert rows["model of the earlier run"][2] == pytest.approx(kept)
    paired = report.facts["paired"]["earlier"]["ged"]
    assert paired["mean"] == pytest.approx(rows["model"][2] - kept)
    with pytest.raises(UserError, match="made with --empty agree"):
        evaluate_ambiguous(*sides, tmp_path / "x", reference=earlier, empty="exclude")


def test_classes_are_scored_one_at_a_time(tmp_path: Path) -> None:
    real, fake = tmp_path / "real", tmp_path / "fake"
    both = [np.where(masks, 2, 0) + np.roll(masks, 5, 1) * (masks == 0) for masks in (balls(3, 1), balls(4, 2))]
    write_raters(real, "a", both[0])
    write_samples(fake, "a", both[1])
    with pytest.raises(UserError, match=r"a_rater1.nii.gz: case a: masks: not binary.* with --structure"):
        evaluate_ambiguous(real, fake, tmp_path / "0")
    row = figures(evaluate_ambiguous(real, fake, tmp_path / "1", label=2))["model"]
    alone = packed(tmp_path / "a.npz", a_masks=balls(3, 1)), packed(tmp_path / "s.npz", a_samples=balls(4, 2))
    assert row == figures(evaluate_ambiguous(*alone, tmp_path / "2"))["model"]


def test_no_foreground_anywhere_is_defined(tmp_path: Path) -> None:
    nothing = np.zeros((3, 6, 5, 4), dtype=np.uint8)
    real, fake = packed(tmp_path / "r.npz", a_masks=nothing), packed(tmp_path / "f.npz", a_samples=nothing)
    out = tmp_path / "out"
    report = evaluate_ambiguous(real, fake, out)
    deliver(report, out)
    assert figures(report)["model"][2:10] == (0, 0, 1, 1, 1, 1, 1, None)
    assert any("no rater and no sample has foreground" in words for words in report.warnings)
    assert any("nobody disagrees" in words for words in report.tables[0].notes)
    assert report.facts["reliability"]["model"]["reason"].startswith("nobody disagrees")
    found = packed(tmp_path / "g.npz", a_samples=nothing + 1)
    assert figures(evaluate_ambiguous(real, found, tmp_path / "1"))["model"][2:7] == (2, 2, 0, 0, 0)


def test_one_rater_has_no_ceiling(tmp_path: Path) -> None:
    real, fake = packed(tmp_path / "r.npz", a_masks=balls(1, 1)), packed(tmp_path / "f.npz", a_samples=balls(4, 2))
    out = tmp_path / "out"
    report = evaluate_ambiguous(real, fake, out)
    deliver(report, out)
    assert list(figures(report)) == ["model", "majority vote against all"]
    assert figures(report)["model"][3] is None
    assert any("one rater" in words for words in report.warnings)


def test_bad_cases_do_not_stop_the_others(sides: tuple[Path, Path], tmp_path: Path) -> None:
    real, fake = sides
    put(real / "b_rater2.nii.gz", np.zeros((12, 10, 5)))
    broken = nib.Nifti1Image(np.full((12, 10, 6), np.nan, dtype=np.float32), AFFINE)
    nib.save(broken, fake / "c" / "c_sample-03.nii.gz")
    write_raters(real, "d", balls(2, 9))
    told: list[str] = []
    report = evaluate_ambiguous(real, fake, tmp_path / "out", note=told.append)
    assert list(report.facts["cases"]) == ["a"]
    assert "another grid" in report.facts["failed"]["b"]
    assert "not a mask" in report.facts["failed"]["c"]
    assert len(told) == 2
    assert any("1 case with raters only, such as d" in words for words in report.warnings)
    assert all("\n" not in words for words in [*report.warnings, *told])


def test_raters_and_samples_in_different_places(sides: tuple[Path, Path], tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 30
    put(tmp_path / "moved" / "a_sample-1.nii.gz", SAMPLES["a"][0], moved)
    with pytest.raises(UserError, match="case a: raters and samples lie in different places"):
        evaluate_ambiguous(sides[0], tmp_path / "moved", tmp_path / "0")
    put(tmp_path / "small" / "a_sample-1.nii.gz", SAMPLES["a"][0][1:])
    with pytest.raises(UserError, match="case a: raters of 12x10x6 voxels, samples of 11x10x6"):
        evaluate_ambiguous(sides[0], tmp_path / "small", tmp_path / "1")


def test_nothing_to_score_is_one_line(sides: tuple[Path, Path], tmp_path: Path) -> None:
    real, fake = sides
    void = tmp_path / "void"
    void.mkdir()
    other = packed(tmp_path / "other.npz", z_samples=balls(2, 1))
    text = tmp_path / "text.npz"
    text.write_text("no arrays")
    holes = balls(2, 1).astype(float)
    holes[0, 0] = np.nan
    twice = tmp_path / "twice"
    for place in ("x", "y"):
        put(twice / place / "a_sample-1.nii.gz", SAMPLES["a"][0])
    cases = [
        (void, fake, "no masks in it; expected CASE_rater1"),
        (real, void, "no masks in it; expected CASE/CASE_sample-01"),
        (tmp_path / "absent", fake, "no such folder"),
        (real, other, "no case has both raters and samples"),
        (real, text, "truncated or no npz file"),
        (real / "a_rater1.nii.gz", fake, "is a file, but no npz"),
        (real, twice, "the same case and number"),
        (real, packed(tmp_path / "h.npz", a_samples=holes), "case a: masks: nan in a part of a mask"),
        (real, packed(tmp_path / "n.npz", a_samples=holes * np.nan), "case a: masks: none is there"),
        (real, packed(tmp_path / "v.npz", a_samples=np.zeros(3)), "expected numbers"),
        (real, packed(tmp_path / "w.npz", a_samples=np.array(["x"])), "expected numbers"),
    ]
    for index, (r, f, words) in enumerate(cases):
        with pytest.raises(UserError, match=words) as caught:
            evaluate_ambiguous(r, f, tmp_path / f"out{index}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="--empty ignore: expected one of agree, exclude, disagree"):
        evaluate_ambiguous(real, fake, tmp_path / "out", empty="ignore")
    with pytest.raises(UsageError, match="--samples 0"):
        evaluate_ambiguous(real, fake, tmp_path / "out", samples=0)


def test_shared_raters_are_their_own_perfect_samples(data_folder: Path, tmp_path: Path) -> None:
    """The two multi-rater files as they are shipped."""
    for name, cases in (("qubiq_brain_growth", 29), ("lidc_0004", 1)):
        real = data_folder / "multirater" / f"{name}.npz"
        with np.load(real) as arrays:
            drawn = {k.replace("raters", "samples"): v for k, v in arrays.items() if k.endswith(("masks", "raters"))}
        report = evaluate_ambiguous(real, packed(tmp_path / f"{name}.npz", **drawn), tmp_path / name)
        assert figures(report)["model"][2] == pytest.approx(0, abs=1e-12)
        assert figures(report)["model"][-1] == cases
