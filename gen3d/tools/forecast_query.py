"""What ``gen3d forecast`` is asked for: a date, days after the last visit, or the day of a visit that is hidden."""

import datetime
import math
from dataclasses import dataclass

from gen3d.core.error import UsageError, UserError
from gen3d.data.visits import Patient, Visit
from gen3d.data.visits_dates import parse_date

EXPECTED = "expected a date such as 2027-05-01, or days after the last visit such as +365"


@dataclass(frozen=True)
class Wish:
    """What the command line says: a date, or a number, after the last visit or on the patient's own time line."""

    word: str
    date: datetime.date | None = None
    number: float = 0.0
    relative: bool = False


@dataclass(frozen=True)
class Query:
    """One time of one patient that is forecast.

    Attributes:
        day: As ``Visit.day``.
        label: In file names: "2027-05-01", "day-730", "1.5s".
        last: The latest visit before it.
        unit: "days" or "seconds".
    """

    day: float
    label: str
    last: Visit
    unit: str

    @property
    def after(self) -> float:
        """Days or seconds since the latest visit before it."""
        return self.day - self.last.day

    @property
    def words(self) -> str:
        """For the user: "2027-05-01, 365 days after ses-20260501"."""
        return f"{self.label}, {self.after:g} {self.unit} after {self.last.name}"


def parse_wish(word: str) -> Wish:
    """Read one ``--at``.

    Raises:
        UsageError: It is neither a date nor a number.
    """
    text = word.strip()
    digits = text.removeprefix("+")
    if text.isdigit() and len(text) == 8:
        digits = ""
    try:
        number = float(digits)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return Wish(word, number=number, relative=text.startswith("+"))
    try:
        return Wish(word, parse_date(text))
    except UserError:
        raise UsageError(f"--at '{word}': {EXPECTED}") from None


def label(patient: Patient, day: float) -> str:
    """Return what a time of a patient is called in file names."""
    first = patient.visits[0].date
    if patient.unit == "seconds":
        return f"{day:g}s"
    return f"day-{day:g}" if first is None else str(first + datetime.timedelta(days=round(day)))


def query(patient: Patient, wish: Wish) -> Query:
    """Return the time that a wish means for a patient.

    Raises:
        UserError: A date is asked for and the visits have none, or a number and they have dates; the time is not after
            the first visit, or it is that of a visit.
    """
    first, last = patient.visits[0], patient.visits[-1]
    if wish.date is not None and first.date is None:
        raise UserError(
            f"{patient.name}: its visits have no dates, so --at {wish.word} can't be placed; expected {patient.unit} "
            "after the last visit, such as +365"
        )
    if wish.date is None and not wish.relative and first.date is not None:
        raise UserError(f"{patient.name}: its visits have dates, --at {wish.word} has none; {EXPECTED}")
    if wish.date is not None and first.date is not None:
        return at_day(patient, float((wish.date - first.date).days))
    return at_day(patient, wish.number + (last.day if wish.relative else 0.0))


def at_day(patient: Patient, day: float) -> Query:
    """Return the query for a day of a patient's time line.

    Raises:
        UserError: It is not after the first visit, or that of a visit.
    """
    when, first = label(patient, day), patient.visits[0]
    if there := next((visit for visit in patient.visits if visit.day == day), None):
        raise UserError(f"{patient.name}: {when} is the time of {there.name}; expected another; see --hide-last")
    if day < first.day:
        raise UserError(
            f"{patient.name}: {when} is before the first visit ({first.name}, {label(patient, first.day)}); "
            "expected a later time"
        )
    before = [visit for visit in patient.visits if visit.day < day]
    return Query(day, when, before[-1], patient.unit)
