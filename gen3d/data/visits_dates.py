"""When a visit was: what its name says of it, and tables of dates."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

from gen3d.core.error import UserError
from gen3d.data.nifti import without_ending
from gen3d.data.table import read_rows

Time = date | float  # a day of the calendar, or a number of days
TABLES = ("dates.csv", "visits.csv")
EXPECTED = "expected a header such as visit,date or visit,day"
YEARS = range(1800, 2200)  # BIDS moves dates of anonymous patients before 1925
DAYS = {"d": 1.0, "w": 7.0, "m": 365.25 / 12, "y": 365.25}

_DATE = re.compile(r"(?<!\d)(\d{4})([-_./]?)(\d{2})\2(\d{2})(?:\d{6})?(?!\d)")
_AFTER = re.compile(r"(?<![a-z0-9])(d|w|m|y|days?|weeks?|months?|years?)[-_ ]?(\d+)(?![a-z0-9])", re.IGNORECASE)
_FIRST = re.compile(r"(?:ses-)?(?:baseline|bl)(?![a-z0-9])", re.IGNORECASE)
_ISO = re.compile(r"(\d{4})(?:([-/.])(\d{1,2})\2(\d{1,2})|(\d{2})(\d{2}))(?:[T ].*)?")
_GERMAN = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})")

_VISIT = ("visit", "visit_id", "session", "session_id", "timepoint", "file", "filename", "file_name", "scan", "name")
_PATIENT = ("patient", "patient_id", "subject", "subject_id", "participant", "participant_id", "case", "case_id", "id")
_WHEN = ("date", "acq_time", "acq_date", "acquisition_date", "scan_date", "visit_date", "study_date")
_DAY = ("day", "days", "day_number")


@dataclass(frozen=True)
class Entry:
    """A row of a table: whose visit, what it is called, when it was."""

    patient: str
    visit: str
    time: Time


@dataclass(frozen=True)
class Timetable:
    """Times of visits, as a table says.

    Attributes:
        path: The table.
        entries: Its rows; ``patient`` is empty where the table names none.
    """

    path: Path
    entries: tuple[Entry, ...]

    def find(self, patient: str, name: str) -> Entry | None:
        """Return the entry of a visit: that whose word is ``name``, or the longest that it begins with.

        "study1" is the word of study1_FLAIR, "01" that of ses-01.
        """
        whose = ("", patient, patient.removeprefix("sub-"))
        found = [e for e in self.entries if e.patient in whose and begins(e.visit, name)]
        return max(found, key=lambda entry: len(entry.visit), default=None)


def begins(word: str, name: str) -> bool:
    """Say whether a visit's word stands for a folder's or a file's name."""
    word, name = word.casefold(), name.casefold()
    return name in (word, f"ses-{word}") or (name.startswith(word) and name[len(word)] in "_-.")


def told(name: str) -> Time | None:
    """Return the time that a name holds, or None: ses-20200101, 2020-01-01, 20200101_scan, day-365, month-12, baseline.

    A month has 30.4375 days, a year 365.25.

    Raises:
        UserError: if it holds eight digits that begin with a year but are no date.
    """
    for match in _DATE.finditer(name):
        if int(match[1]) in YEARS:
            return calendar(name, match[1], match[3], match[4])
    if after := _AFTER.search(name):
        return float(after[2]) * DAYS[after[1][0].lower()]
    return 0.0 if _FIRST.match(name) else None


def tells(name: str) -> bool:
    """Say whether a name holds a time, be it readable or not."""
    try:
        return told(name) is not None
    except UserError:
        return True


def parse_date(text: str, where: str = "") -> date:
    """Return the date that a text is: 2020-01-31, 20200131, 2020/1/31, 31.1.2020; a time of day is left out.

    Raises:
        UserError: if it is none; ``where`` says where it stands.
    """
    if match := _ISO.fullmatch(text.strip()):
        return calendar(where or text, match[1], match[3] or match[5], match[4] or match[6])
    if match := _GERMAN.fullmatch(text.strip()):
        return calendar(where or text, match[3], match[2], match[1])
    raise UserError(f"{where or 'date'}: '{text}' is no date; expected one such as 2020-01-31")


def calendar(where: str, year: str, month: str, day: str) -> date:
    """Return a date of three numbers.

    Raises:
        UserError: if there is no such day.
    """
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        said = f"{year}-{month}-{day}"
        raise UserError(f"{where}: {said} is no day of the calendar; expected one such as 2020-01-31") from None


def own_table(folder: Path) -> Path | None:
    """Return the table of dates that lies in a patient's folder: dates.csv, visits.csv, sub-01_sessions.tsv."""
    paths = [*(folder / name for name in TABLES), *sorted(folder.glob("sub-*_sessions.tsv"))]
    return next((path for path in paths if path.is_file()), None)


def read_table(path: Path) -> Timetable:
    """Read a CSV or TSV table: a column for the visit (or file), one for its date or day, perhaps one for the patient.

    BIDS' ``sub-01_sessions.tsv`` is one. Rows without a time, or with n/a, say nothing.

    Raises:
        UserError: if it can't be read, a column is lacking, or a date or day is none.
    """
    rows = read_rows(path, EXPECTED)
    if not rows:
        raise UserError(f"{path}: empty; {EXPECTED}")
    (_, header), *lines = rows
    names = [name.casefold().replace(" ", "_") for name in header]
    visit, patient, when, day = (next((w for w in s if w in names), "") for s in (_VISIT, _PATIENT, _WHEN, _DAY))
    visit, patient = (visit, patient) if visit else (patient, "")
    if not visit or not (when or day):
        raise UserError(f"{path}: no column {'date or day' if visit else 'visit'}; {EXPECTED}")
    entries = []
    for line, row in lines:
        cells = dict(zip(names, row, strict=False))
        word = without_ending(Path(cells.get(visit, "")))
        time = time_in(cells.get(when, ""), cells.get(day, ""), f"{path}, line {line}")
        if word and time is not None:
            entries.append(Entry(cells.get(patient, ""), word, time))
    return Timetable(path, tuple(entries))


def time_in(when: str, day: str, where: str) -> Time | None:
    """Return the time that a row gives by date or, where it has none, by day."""
    nothing = ("", "n/a", "na", "nan")
    if when.casefold() not in nothing:
        return parse_date(when, where)
    if day.casefold() in nothing:
        return None
    try:
        number = float(day)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: day '{day}' is no number; expected one such as 365")
    return number


def days_since_first(times: Mapping[str, Time]) -> dict[str, float]:
    """Return each visit's days since the earliest one, in order of time.

    Args:
        times: By the visit's name.

    Raises:
        UserError: if two are at the same time, or some have a date and others a day's number.
    """
    dated = {name: time for name, time in times.items() if isinstance(time, date)}
    counted = {name: time for name, time in times.items() if not isinstance(time, date)}
    if dated and counted:
        one, other = next(iter(dated)), next(iter(counted))
        raise UserError(f"{one} has a date, {other} a day's number; expected one kind for all; mend it with --dates")
    numbers = counted or {name: float(time.toordinal()) for name, time in dated.items()}
    order = sorted(numbers, key=lambda name: numbers[name])
    for one, other in pairwise(order):
        if numbers[one] == numbers[other]:
            when = f"on {dated[one]}" if dated else f"at day {numbers[one]:g}"
            raise UserError(f"{one} and {other}: both {when}; expected visits at different times; mend it with --dates")
    return {name: numbers[name] - numbers[order[0]] for name in order}
