"""Patients with several visits: BIDS sessions, a folder for each visit, files beside a table of dates, a 4D file."""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data import bids
from gen3d.data.aliases import Vocabulary
from gen3d.data.folders import folders_below, understood
from gen3d.data.layout import contrast_of, titled
from gen3d.data.nifti import ENDINGS, read, without_ending
from gen3d.data.study import images_in, is_mask, own_name
from gen3d.data.visits_dates import Time, Timetable, days_since_first, own_table, read_table, tells, told
from gen3d.data.visits_frames import has_frames, read_timed_frames

EXPECTED = (
    "expected PATIENT/ses-20200101/t1.nii.gz and the like, files beside a dates.csv with columns visit,date, or one "
    "4D NIfTI with times"
)
MEND = "name it like ses-20200101 or month-12, or list it in a CSV with columns visit,date (--dates)"
_NO_PATIENT = {"derivatives", "sourcedata", "code"}


@dataclass(frozen=True, eq=False)
class Visit:
    """One scan of a patient and when it was.

    Attributes:
        name: Of its folder, or its word in the table of dates.
        day: Days since the earliest visit; in a 4D file that is timed in seconds, those.
        volume: The scan.
        date: If it is known.
    """

    name: str
    day: float
    volume: Volume
    date: datetime.date | None = None

    @property
    def words(self) -> str:
        """What to call it in messages: its file, or in a 4D file its number."""
        origin = self.volume.origin
        return self.name if origin is None or self.name.startswith("volume ") else str(origin)


@dataclass(frozen=True, eq=False)
class Patient:
    """A patient's visits, in order of time, no two at the same one.

    Attributes:
        name: Of the folder or file.
        visits: At least one.
        unit: Of ``Visit.day``.
    """

    name: str
    visits: tuple[Visit, ...]
    unit: Literal["days", "seconds"] = "days"


@dataclass(frozen=True)
class Found:
    """A visit before its scan is read: its scans by file, each with its contrast where that is clear."""

    name: str
    time: Time
    scans: Mapping[Path, str | None]


def find_patients(source: Path | str, dates: Path | None = None) -> list[Path]:
    """Return the patients at ``source``, for ``read_patient``: itself, or those below it, sorted.

    Args:
        source: A patient's folder, a folder of patients (BIDS too), or a 4D NIfTI file.
        dates: A table that names the visits' folders where these don't hold their dates.

    Raises:
        UserError: if there is none.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; {EXPECTED}")
    table = None if dates is None else read_table(dates)
    found = [source] if source.is_file() else sorted(_patients_in(source, table, frozenset()))
    if not found:
        raise UserError(f"{source}: no visit in it; {EXPECTED}")
    return found


def read_patient(path: Path | str, contrast: str | None = None, dates: Path | None = None) -> Patient:
    """Read all visits of a patient; masks (``*_mask``, ``*_seg``) are no visits.

    Args:
        path: A folder or a 4D NIfTI file.
        contrast: Which scan of a visit that has several, such as "flair".
        dates: A CSV with columns visit (or file) and date (or day), perhaps patient; it goes before dates.csv,
            visits.csv or BIDS' sessions.tsv in the folder, and these before what names say.

    Raises:
        UserError: if there is no visit, a visit's time is not known or two are at the same one, a visit holds several
            scans and ``contrast`` chooses none, or a file can't be read.
    """
    path = Path(path)
    name = own_name(path) if path.is_dir() else without_ending(path)
    if frames := _frames_file(path):
        volumes, times, unit = read_timed_frames(frames)
        numbered = enumerate(zip(volumes, times, strict=True), 1)
        timed = tuple(Visit(f"volume {index}", time, volume) for index, (volume, time) in numbered)
        return Patient(name, timed, "days" if unit == "days" else "seconds")
    listed = dates or (own_table(path) if path.is_dir() else None)
    found = _found(path, name, None if listed is None else read_table(listed))
    days = days_since_first({visit.name: visit.time for visit in found})
    by_name = {visit.name: visit for visit in found}
    chosen = {visit: _chosen(by_name[visit], contrast) for visit in days}
    visits = [Visit(visit, day, read(*chosen[visit]), _date(by_name[visit].time)) for visit, day in days.items()]
    return Patient(name, tuple(visits))


def _date(time: Time) -> datetime.date | None:
    return time if isinstance(time, datetime.date) else None


def _patients_in(folder: Path, table: Timetable | None, seen: frozenset[Path]) -> Iterator[Path]:
    if folder.resolve() in seen:
        return
    here, children = _scans_in(folder), _folders(folder)
    if here and len(here) > 1 and all(has_frames(path) for path in here):
        yield from here
    elif here or any(_is_visit(child, own_name(folder), table) for child in children) or _lists(folder, children):
        yield folder
    else:
        for child in children:
            if child.name not in _NO_PATIENT:
                yield from _patients_in(child, table, seen | {folder.resolve()})


def _is_visit(folder: Path, patient: str, table: Timetable | None) -> bool:
    if folder.name.startswith("sub-"):
        return False
    named = folder.name == "anat" or folder.name.startswith("ses-") or tells(folder.name)
    listed = table is not None and table.find(patient, folder.name) is not None
    return (named or listed) and any(_scans_in(below) for below in folders_below(folder))


def _lists(folder: Path, children: list[Path]) -> bool:
    """Whether a table in a folder lists folders in it as visits; one that can't be read is told of when it is used."""
    own = own_table(folder)
    try:
        return own is not None and any(_is_visit(child, own_name(folder), read_table(own)) for child in children)
    except UserError:
        return True


def _frames_file(path: Path) -> Path | None:
    """The one 4D file that is the patient, if there is one."""
    scans = [path] if path.is_file() else _scans_in(path)
    return scans[0] if len(scans) == 1 and has_frames(scans[0]) else None


def _found(path: Path, patient: str, table: Timetable | None) -> list[Found]:
    if path.is_file():
        if not path.name.lower().endswith(ENDINGS):
            raise UserError(f"{path}: not a NIfTI file; {EXPECTED}")
        return _side_by_side([path], patient, table)
    if scans := _scans_in(path):
        return _side_by_side(scans, patient, table)
    found = []
    for folder in _folders(path):
        if scans_there := _scans_of_visit(folder, path):
            time = _time(folder.name, folder, patient, table)
            found.append(Found(folder.name, time, scans_there))
    if not found:
        raise UserError(f"{path}: no visit in it; {EXPECTED}")
    return found


def _side_by_side(paths: list[Path], patient: str, table: Timetable | None) -> list[Found]:
    named = {one.path: one.contrast for one in understood(paths, Vocabulary())}
    found: dict[str, Found] = {}
    for path in paths:
        stem = without_ending(path)
        entry = table.find(patient, stem) if table else None
        time = entry.time if entry else _time(stem, path, patient, table)
        name = entry.visit if entry else str(time) if isinstance(time, datetime.date) else f"day-{time:g}"
        visit = found.setdefault(name, Found(name, time, {}))
        found[name] = replace(visit, scans={**visit.scans, path: named.get(path)})
    return list(found.values())


def _time(name: str, path: Path, patient: str, table: Timetable | None) -> Time:
    entry = table.find(patient, name) if table else None
    time = entry.time if entry else told(name)
    if time is None:
        lists = f"{table.path} doesn't list it" if table else "its name holds none"
        raise UserError(f"{path}: no date of this visit, {lists}; {MEND}")
    return time


def _scans_of_visit(folder: Path, patient: Path) -> dict[Path, str | None]:
    """A visit's scans; of several of one contrast in BIDS the best, as gen3d.data.bids chooses it."""
    own = patient if folder.name == "anat" else folder
    if (own / "anat").is_dir():
        studies = bids.find(own, patient.parent, Vocabulary())
        anats = [study for study in studies if study.source == own]
        if files := {path: contrast for study in anats for contrast, path in study.files.items()}:
            return dict(files)
    scans = next((scans for below in folders_below(folder) if (scans := _scans_in(below))), [])
    named = {one.path: one.contrast for one in understood(scans, Vocabulary())}
    return {path: named.get(path) for path in scans}


def _chosen(visit: Found, contrast: str | None) -> tuple[Path, str | None]:
    wanted = contrast_of(Path(f"_{contrast}")) or contrast
    fitting = [
        path
        for path, known in visit.scans.items()
        if contrast is None or known == wanted or without_ending(path).casefold().endswith(f"_{contrast}".casefold())
    ]
    if len(fitting) == 1:
        return fitting[0], visit.scans[fitting[0]]
    there = ", ".join(f"{p.name} ({titled(c)})" if c else p.name for p, c in sorted(visit.scans.items()))
    wish = "one scan" if contrast is None else f"one of {titled(wanted or '')}"
    raise UserError(f"{visit.name}: holds {there}; expected {wish}; choose with --contrast")


def _scans_in(folder: Path) -> list[Path]:
    return [path for path in images_in(folder) if not is_mask(path)]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: can't be read ({(error.strerror or 'error').lower()}); {EXPECTED}") from None
