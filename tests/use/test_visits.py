"""Patients with several visits: where their dates come from, what is refused in one line, which ones are shifted."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.error import UserError
from gen3d.data.nifti import read
from gen3d.data.visits import find_patients, read_patient
from gen3d.data.visits_dates import told
from gen3d.data.visits_register import APART_VOXELS, check_one_grid, shift_between, shifts

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
DAY = datetime.date


def scan(shape: tuple[int, ...] = (24, 20, 16), brightness: float = 1.0) -> np.ndarray:
    """A ball with a darker core off its middle."""
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")
    voxels = np.where(x**2 + y**2 + z**2 < 40, 80.0, 5.0) - 30 * ((x - 2) ** 2 + y**2 + (z - 1) ** 2 < 6)
    return (brightness * voxels).astype(np.float32)


def save(path: Path, voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(scan() if voxels is None else voxels, affine), path)
    return path


def four_dimensional(path: Path, step: float, unit: str, count: int = 3) -> Path:
    image = nib.Nifti1Image(np.stack([scan(brightness=1 + t) for t in range(count)], axis=3), AFFINE)
    image.header["pixdim"][4] = step
    image.header.set_xyzt_units("mm", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def days(folder: Path, **options: object) -> Mapping[str, float]:
    return {visit.name: visit.day for visit in read_patient(folder, **options).visits}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("ses-20200131", DAY(2020, 1, 31)),
        ("2020-01-31", DAY(2020, 1, 31)),
        ("20200131_scan", DAY(2020, 1, 31)),
        ("sub-01_ses-20200131120000_T1w", DAY(2020, 1, 31)),
        ("day-365", 365.0),
        ("ses-d0129", 129.0),
        ("ses-M012", 365.25),
        ("month-12", 365.25),
        ("baseline", 0.0),
        ("followup_registered_to_baseline", None),
        ("study1_FLAIR", None),
        ("sub-12345678_T1w", None),
    ],
)
def test_a_name_tells_when(name: str, time: object) -> None:
    assert told(name) == (time if time is None or isinstance(time, datetime.date) else pytest.approx(time))


def test_bids_sessions_with_dates_in_the_table_or_in_their_names(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    root.mkdir()
    (root / "dataset_description.json").write_text("{}")
    for session in ("01", "02"):
        save(root / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}_T1w.nii.gz")
    table = "session_id\tacq_time\nses-02\t2021-03-01T10:30:00\nses-01\t2020-03-01T09:00:00\n"
    (root / "sub-01" / "sub-01_sessions.tsv").write_text(table)
    for session in ("20190110", "20190210"):
        for word in ("FLAIR", "T1w", "run-2_T1w"):
            save(root / "sub-02" / f"ses-{session}" / "anat" / f"sub-02_ses-{session}_{word}.nii.gz")
    save(root / "derivatives" / "x" / "ses-20190110" / "t1.nii.gz")
    one, two = find_patients(root)
    assert [one.name, two.name] == ["sub-01", "sub-02"]
    patient = read_patient(one)
    assert [(v.name, v.day, v.date) for v in patient.visits] == [
        ("ses-01", 0, DAY(2020, 3, 1)),
        ("ses-02", 365, DAY(2021, 3, 1)),
    ]
    assert days(two, contrast="t1") == {"ses-20190110": 0, "ses-20190210": 31}
    assert [v.volume.origin.name for v in read_patient(two, "flair").visits] == [  # type: ignore[union-attr]
        "sub-02_ses-20190110_FLAIR.nii.gz",
        "sub-02_ses-20190210_FLAIR.nii.gz",
    ]
    with pytest.raises(UserError, match=r"holds .*FLAIR.*\(FLAIR\).*T1w.*\(T1\).*--contrast"):
        read_patient(two)


def test_folders_for_visits_and_a_folder_of_patients(tmp_path: Path) -> None:
    save(tmp_path / "A" / "month-12" / "flair.nii.gz")
    save(tmp_path / "A" / "baseline" / "flair.nii.gz")
    save(tmp_path / "B" / "20200102_scan" / "x" / "brain.nii.gz", scan(brightness=2.0))
    save(tmp_path / "B" / "20200102_scan" / "x" / "brain_mask.nii.gz")
    save(tmp_path / "B" / "2020-01-01" / "brain.nii.gz")
    assert [p.name for p in find_patients(tmp_path)] == ["A", "B"]
    assert find_patients(tmp_path / "A") == [tmp_path / "A"]
    assert days(tmp_path / "A") == {"baseline": 0, "month-12": 365.25}
    for visit in ("1", "2"):
        save(tmp_path / "C" / f"visit{visit}" / "t1.nii.gz")
    (tmp_path / "C" / "visits.csv").write_text("visit,day\nvisit1,0\nvisit2,90\n")
    (tmp_path / "dates.csv").write_text("patient,visit,day\nC,visit1,0\n")  # of patients, so no patient's own
    assert [p.name for p in find_patients(tmp_path)] == ["A", "B", "C"]
    assert days(tmp_path / "C") == {"visit1": 0, "visit2": 90}
    last = read_patient(tmp_path / "B").visits[-1]
    assert (last.name, last.day) == ("20200102_scan", 1)
    assert last.volume.voxels.max() == pytest.approx(160)


def test_files_beside_a_table(tmp_path: Path) -> None:
    for word in ("study1_T1", "study1_FLAIR", "study10_T1", "study10_FLAIR", "study1_seg"):
        save(tmp_path / "P" / f"{word}.nii.gz")
    table = tmp_path / "P" / "dates.csv"
    table.write_text("visit;date\nstudy10;1.3.2021\nstudy1;2020/3/1\n")
    assert days(tmp_path / "P", contrast="flair") == {"study1": 0, "study10": 365}
    other = tmp_path / "all.csv"
    other.write_text("patient,file,day\nQ,study1,3\nP,study1_FLAIR.nii.gz,10\nP,study1_T1.nii.gz,10\nP,study10,100\n")
    with pytest.raises(UserError, match="both at day 10"):
        days(tmp_path / "P", contrast="flair", dates=other)
    other.write_text("patient,visit,day\nQ,study1,3\nP,study1,10\nP,study10,100\n")
    assert days(tmp_path / "P", contrast="flair", dates=other) == {"study1": 0, "study10": 90}


@pytest.mark.parametrize(("step", "unit", "seconds"), [(0.05, "sec", 0.05), (50, "msec", 0.05)])
def test_a_4d_file_is_timed_by_its_header(tmp_path: Path, step: float, unit: str, seconds: float) -> None:
    path = four_dimensional(tmp_path / "heart" / "cine.nii.gz", step, unit)
    for source in (path, path.parent):
        patient = read_patient(source)
        assert (patient.unit, patient.name) == ("seconds", "cine" if source == path else "heart")
        assert [v.day for v in patient.visits] == pytest.approx([0, seconds, 2 * seconds])
        assert [float(v.volume.voxels.max()) for v in patient.visits] == pytest.approx([80, 160, 240])
        np.testing.assert_array_equal(patient.visits[1].volume.affine, AFFINE)


def test_a_4d_file_is_timed_by_a_json_file(tmp_path: Path) -> None:
    path = four_dimensional(tmp_path / "p.nii.gz", 0, "unknown")
    beside = tmp_path / "p.json"
    with pytest.raises(UserError, match=r"no time between volumes.*unit unknown.*JSON"):
        read_patient(path)
    beside.write_text(json.dumps({"times": [0, 180, 400], "unit": "days"}))
    patient = read_patient(path)
    assert ([v.day for v in patient.visits], patient.unit) == ([0, 180, 400], "days")
    beside.write_text(json.dumps({"FrameTimesStart": [0, 2.5, 9]}))
    assert [v.day for v in read_patient(path).visits] == [0, 2.5, 9]
    for wrong, said in (([0, 1], "no list of 3 numbers"), ([0, 2, 2], "do not rise"), ("x", "no list of 3")):
        beside.write_text(json.dumps({"times": wrong}))
        with pytest.raises(UserError, match=said):
            read_patient(path)


def test_clear_words_for_what_is_wrong(tmp_path: Path) -> None:
    def refused(folder: Path, said: str, dates: Path | None = None) -> None:
        with pytest.raises(UserError, match=said) as error:
            read_patient(folder, None, dates)
        assert "\n" not in str(error.value)

    for name in ("ses-20200101", "2020-01-01"):
        save(tmp_path / "equal" / name / "t1.nii.gz")
    refused(tmp_path / "equal", "ses-20200101.*both on 2020-01-01; expected visits at different times")
    save(tmp_path / "never" / "ses-20201301" / "t1.nii.gz")
    refused(tmp_path / "never", "2020-13-01 is no day of the calendar")
    save(tmp_path / "none" / "ses-1" / "t1.nii.gz")
    refused(tmp_path / "none", "ses-1: no date of this visit.*--dates")
    for name in ("ses-20200101", "month-6"):
        save(tmp_path / "mixed" / name / "t1.nii.gz")
    refused(tmp_path / "mixed", "has a date, .* a day's number")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no visit in it; expected PATIENT/ses-20200101")
    with pytest.raises(UserError, match="no visit in it"):
        find_patients(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file or folder"):
        find_patients(tmp_path / "lost")
    five = save(tmp_path / "five" / "scan.nii.gz", np.stack([np.stack([scan(), 2 * scan()], 3)] * 2, 4))
    refused(five, r"5D, shape \(24, 20, 16, 2, 2\); expected 4D")
    table = tmp_path / "t.csv"
    for text, said in (
        ("visit,date\nses-1,yesterday\n", "t.csv, line 2: 'yesterday' is no date"),
        ("visit,day\nses-1,soon\n", "line 2: day 'soon' is no number"),
        ("visit,sex\nses-1,f\n", "no column date or day"),
        ("date\n2020-01-01\n", "no column visit"),
        ("visit,date\nother,2020-01-01\n", "doesn't list it"),
    ):
        table.write_text(text)
        refused(tmp_path / "none", said, table)


def test_other_grids_are_named_with_both_files(tmp_path: Path) -> None:
    save(tmp_path / "day-0" / "t1.nii.gz", scan((24, 20, 18)))
    save(tmp_path / "day-9" / "t1.nii.gz")
    with pytest.raises(UserError, match=r"day-0.*day-9.*shape, \(24, 20, 18\) against \(24, 20, 16\).*--align"):
        check_one_grid(read_patient(tmp_path))
    moved = AFFINE.copy()
    moved[0, 3] = 7
    save(tmp_path / "day-0" / "t1.nii.gz", affine=moved)
    with pytest.raises(UserError, match=r"day-0.*day-9.*affine, by up to 7 mm.*--align"):
        check_one_grid(read_patient(tmp_path))
    save(tmp_path / "day-0" / "t1.nii.gz")
    check_one_grid(read_patient(tmp_path))


def test_a_shifted_visit_is_found_and_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for name, voxels in {
        "day-0": scan(),
        "day-9": 3 * np.roll(scan(), (3, 0, -1), (0, 1, 2)),
        "day-30": scan(),
    }.items():
        save(tmp_path / name / "t1.nii.gz", voxels + noise.normal(0, 2, voxels.shape).astype(np.float32))
    (found,) = shifts(read_patient(tmp_path))
    assert found.visit == "day-9"
    np.testing.assert_allclose(found.voxels, (3, 0, -1), atol=0.3)
    assert found.mm == pytest.approx(np.hypot(3, 2), abs=0.5)
    assert "day-9 seems to lie" in found.words
    assert "--align" in found.words
    unlike = [noise.normal(size=(24, 20, 16)) for _ in range(2)]
    assert shift_between(*unlike) == (0, 0, 0)  # nothing in common: nothing said


def test_real_visits_in_register_are_not_suspected(data_folder: Path) -> None:
    folder = data_folder / "longitudinal"
    for pair in (
        ("ms_patient01/study1_T1W.nii.gz", "ms_patient01/study2_T1W.nii.gz"),
        ("lung_ct/baseline.nii.gz", "lung_ct/followup_registered_to_baseline.nii.gz"),
    ):
        fixed, moving = (read(folder / name).voxels for name in pair)
        assert np.linalg.norm(shift_between(fixed, moving)) < 0.5
        if "lung" in pair[0]:
            there = shift_between(fixed, np.roll(moving, 3, axis=1))
            assert np.linalg.norm(np.array(there) - (0, 3, 0)) < 0.5 < APART_VOXELS


def test_real_patients_are_read(data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "longitudinal"
    for name in ("ms_patient01", "lung_ct"):
        (tmp_path / name).mkdir()
        for path in (source / name).glob("*.nii.gz"):
            (tmp_path / name / path.name).symlink_to(path)
    (tmp_path / "ms_patient01" / "dates.csv").write_text("visit,day\nstudy1,0\nstudy2,365\n")
    with pytest.raises(UserError, match=r"study1: holds .*FLAIR.*T1.*T2.*--contrast"):
        read_patient(tmp_path / "ms_patient01")
    patient = read_patient(tmp_path / "ms_patient01", "flair")
    assert [(v.name, v.day, v.volume.shape, v.volume.contrast) for v in patient.visits] == [
        ("study1", 0, (320, 320, 36), "t2f"),
        ("study2", 365, (320, 320, 36), "t2f"),
    ]
    with pytest.raises(UserError, match=r"followup_registered_to_baseline\.nii\.gz: no date"):
        read_patient(tmp_path / "lung_ct")
    (tmp_path / "lung_ct" / "visits.csv").write_text(
        "file,date\nbaseline.nii.gz,2010-01-01\nfollowup_registered_to_baseline.nii.gz,2010-07-01\n"
    )
    lung = read_patient(tmp_path / "lung_ct")
    assert [v.day for v in lung.visits] == [0, 181]
    check_one_grid(lung)
