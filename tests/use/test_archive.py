"""A folder of many studies, unattended: outcomes, worst first; resumed after a kill; in parts; refused when strict."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.checkpoint import save_model
from gen3d.data.envelope import envelope
from gen3d.data.phantom import write_phantom
from gen3d.systems import load
from gen3d.tools.outcomes import Outcome, outcomes, table
from gen3d.tools.synthesize import synthesize

Run = Callable[..., tuple[int, str, str]]


def entries(folder: Path) -> int:
    """Count what is below a folder; unlike rglob, of one in which folders come and go."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "cases.csv").read_text().splitlines()))


def rewritten(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(image.get_fdata()).astype(np.float32), image.affine), path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good studies, one complete, one truncated, one empty, one with NaN, one of Hounsfield units."""
    folder = tmp_path_factory.mktemp("archive")
    for seed in range(1, 4):
        case = write_phantom(folder, seed, (36, 40, 36), 4.0)
        (case / f"{case.name}-t2f.nii.gz").unlink()
    write_phantom(folder, 4, (36, 40, 36), 4.0)
    good = folder / "BraTS-PHA-00001-000"

    def copied(name: str) -> Path:
        copytree(good, folder / name)
        return folder / name / f"{good.name}-t1n.nii.gz"

    path = copied("truncated")
    path.write_bytes(path.read_bytes()[:2000])
    copied("empty").write_bytes(b"")
    rewritten(copied("with-nan"), lambda v: np.where(v > np.median(v[v > 0]), np.nan, v))
    rewritten(copied("ct"), lambda v: np.random.default_rng(0).uniform(-1000, 1500, v.shape))
    return folder


@pytest.fixture(scope="module")
def model(tiny_model: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with the training envelope of the three good studies."""
    from gen3d.data.layout import read_case

    system = load(tiny_model)
    cases = [system.prepare(read_case(archive / f"BraTS-PHA-0000{i}-000")) for i in (1, 2, 3)]
    system.provenance["envelope"] = envelope(cases, system.config.contrasts)
    folder = tmp_path_factory.mktemp("enveloped") / "model"
    save_model(system, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.raises(Exception, match="8 cases, 3 failed"):
        synthesize(archive, out, model)
    return out


def test_every_study_has_its_outcome_worst_first(undisturbed: Path) -> None:
    found = {row["case"]: row for row in rows(undisturbed)}
    statuses = [row["status"] for row in rows(undisturbed)]
    assert statuses == ["failed"] * 3 + ["outside"] + ["made"] * 3 + ["complete"]
    assert "truncated" in found["truncated"]["reason"]
    assert {found[name]["status"] for name in ("truncated", "empty", "with-nan")} == {"failed"}
    assert found["ct"]["status"] == "outside"
    assert "is it a CT" in found["ct"]["reason"]
    assert "tissue fills" in found["ct"]["reason"]
    assert found["BraTS-PHA-00004-000"]["status"] == "complete"
    made = [row for row in rows(undisturbed) if row["status"] == "made"]
    worst = [min(float(row[f"foretold_{name}"]) for name in ("t1n", "t1c", "t2w")) for row in made]
    assert worst == sorted(worst)
    for row in made:
        assert (row["given"], row["made"]) == ("t1n t1c t2w", "t2f")
        folder = undisturbed / row["place"]
        sidecar = json.loads((folder / f"{row['case']}-t2f.json").read_text())
        assert sidecar["foretold"]["t1n"] == pytest.approx(float(row["foretold_t1n"]), abs=1e-3)


def test_no_clock_and_no_leftover(undisturbed: Path) -> None:
    assert not list(undisturbed.rglob(".*"))
    assert {p.suffix for p in undisturbed.rglob("*") if p.is_file()} == {".gz", ".json", ".png", ".csv"}


def test_two_parts_and_a_merge_equal_one_run(
    gen3d: Run, archive: Path, model: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for i in (2, 1):
        gen3d("synthesize", "-i", archive, "-o", tmp_path, "--model", model, "--part", f"{i}/2")
    (tmp_path / "cases.csv").unlink()
    report = tmp_path.with_suffix(".json")
    tried = gen3d("synthesize", "--merge", "-o", tmp_path, "--dry-run")[:2]
    assert tried == (0, "8 cases: 1 complete, 3 made, 1 outside, 3 failed; nothing was written\n")
    assert not (tmp_path / "cases.csv").exists()
    status, said, _ = gen3d("synthesize", "--merge", "-o", tmp_path, "--report", report)
    assert status == 0
    assert (
        said == f"8 cases: 1 complete, 3 made, 1 outside, 3 failed; {tmp_path / 'cases.csv'} lists them, worst first\n"
    )
    assert contents(tmp_path) == contents(undisturbed)
    told = json.loads(report.read_text())
    assert (told["cases"], told["failed"], told["made"]) == (8, 3, 3)
    assert [row["case"] for row in told["results"]] == [row["case"] for row in rows(undisturbed)]


def test_finished_cases_are_kept_and_those_of_other_settings_made_anew(
    gen3d: Run, archive: Path, model: Path, tmp_path: Path
) -> None:
    one = archive / "BraTS-PHA-00001-000"
    command = ("synthesize", "-i", one, "-o", tmp_path, "--model", model)
    assert "made t2f" in gen3d(*command)[1]
    path = tmp_path / one.name / f"{one.name}-t2f.nii.gz"
    before = path.stat().st_mtime_ns
    assert "kept t2f" in gen3d(*command)[1]
    assert path.stat().st_mtime_ns == before
    assert "made t2f" in gen3d(*command, "--mode", "sample", "--samples", 1, "--steps", 1)[1]
    assert "made t2f" in gen3d(*command)[1]
    path.unlink()
    assert "made t2f" in gen3d(*command)[1]
    assert path.exists()
    copytree(one, tmp_path / "again" / one.name)
    (tmp_path / "again" / one.name / f"{one.name}-t2w.nii.gz").unlink()
    less = ("synthesize", "-i", tmp_path / "again" / one.name, *command[3:])
    assert "made t2w, t2f" in gen3d(*less)[1]  # another scan is missing now
    again = ("synthesize", "-i", tmp_path / "again" / one.name, "-o", tmp_path / "new", "--model", model)
    assert "made t2w, t2f" in gen3d(*again)[1]
    scan = tmp_path / "again" / one.name / f"{one.name}-t1n.nii.gz"
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[::-1], image.affine), scan)
    assert "made t2w, t2f" in gen3d(*again)[1]  # a scan of the same name is another one now
    assert "kept t2w, t2f" in gen3d(*again)[1]


def test_strict_refuses_what_is_outside(gen3d: Run, archive: Path, model: Path, tmp_path: Path) -> None:
    case = archive / "ct"
    status, said, told = gen3d("synthesize", "-i", case, "-o", tmp_path / "out", "--model", model, "--strict")
    assert status == 1
    assert said.startswith("ct: refused: ")
    assert told.rstrip().endswith(f"1 cases, 1 refused; {tmp_path / 'out' / 'cases.csv'} says why")
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    assert rows(tmp_path / "out")[0]["status"] == "refused"


def test_a_dry_run_tells_all_and_writes_nothing(gen3d: Run, archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said, told = gen3d("synthesize", "-i", archive, "-o", out, "--model", model, "--dry-run")
    assert (status, out.exists()) == (1, False)
    assert said.count("would make t2f from t1n, t1c, t2w") == 4
    assert "nothing is missing" in said
    assert told.count("gen3d: ") == 4


@pytest.mark.parametrize("part", ["3/2", "0/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_strange_part_is_one_line(gen3d: Run, archive: Path, model: Path, tmp_path: Path, part: str) -> None:
    status, _, told = gen3d("synthesize", "-i", archive, "-o", tmp_path, "--model", model, f"--part={part}")
    assert (status, told) == (2, f"gen3d: --part '{part}': expected i/n such as 2/4, i from 1 to n\n")


def test_nothing_to_merge_is_one_line(gen3d: Run, tmp_path: Path) -> None:
    status, _, told = gen3d("synthesize", "--merge", "-o", tmp_path)
    assert (status, told.count("\n")) == (1, 1)
    assert "no case's JSON in it" in told


def test_killed_and_restarted_is_byte_equal(archive: Path, model: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Three kills here, ten in benchmarks/archive.py."""
    draw, out = random.Random(0), tmp_path / "out"
    command = [sys.executable, "-m", "gen3d.cli", "synthesize", "-i", str(archive), "-o", str(out)]
    command += ["--model", str(model)]
    kills = 0
    for _ in range(3):
        before = entries(out)
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while entries(out) <= before and run.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.0))
        run.send_signal(signal.SIGKILL)
        kills += run.wait() == -signal.SIGKILL
    assert kills >= 1
    subprocess.run(command, check=False, capture_output=True)
    assert contents(out) == contents(undisturbed)
    assert not list(out.rglob(".*"))


def test_the_table_sorts_by_status_then_by_what_was_foretold() -> None:
    found = [
        Outcome("a", "a", "made", reliability={"t1n": 0.9}),
        Outcome("b", "b", "failed", "why"),
        Outcome("c", "c", "made", reliability={"t1n": 0.95, "t2w": -0.2}, uncertainty={"t2f": 1.25}),
        Outcome("d", "d", "outside"),
        Outcome("e", "e", "made"),
    ]
    lines = table(sorted(found, key=lambda outcome: outcome.rank)).splitlines()
    assert [line.split(",")[0] for line in lines] == ["case", "b", "d", "e", "c", "a"]
    assert lines[4] == "c,made,,,0.950,-0.200,,,1.250,,,c"


def test_strange_files_among_the_records_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "broken.json").write_text("{")
    (tmp_path / "cases" / "other.json").write_text('{"a": 1}')
    assert outcomes(tmp_path) == []
