"""What became of each case of a run: a JSON file each, and a table of all, worst first.

No clock time in either.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gen3d.core.error import UserError

RECORDS, TABLE = "cases", "cases.csv"
Status = Literal["failed", "refused", "outside", "made", "complete"]
OUTSIDE = "OUTSIDE the model's training set"
ORDER: tuple[Status, ...] = ("failed", "refused", "outside", "made", "complete")


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        case: Its name.
        place: Where its results are, below the output folder.
        status: ``failed``; ``refused`` by --strict; ``outside``: made, but the case is unlike the training set;
            ``made``; ``complete``: nothing was missing.
        reason: Why, in words.
        findings: In which way it is unlike the training set, one by one.
        notes: What was left out of it, and what else a user should know of its files.
        given: The contrasts that it has.
        made: Those that were written.
        reliability: For each contrast that is there, hidden and made from the others: the share of its variance that
            was foretold, 1 at best, 0 as good as a constant.
        psnr: The same as PSNR in dB.
        expected: For each contrast written, the PSNR in dB that this lets expect, see reliability.expected_psnr.
        uncertainty: For each contrast written from several samples, their standard deviation in the foreground in
            percent of the window.
        least_certain: The same where it is highest.
        files: What was written, below ``place``.
        request: Settings that change the result; a case is finished when they are the same.
    """

    case: str
    place: str
    status: Status
    reason: str = ""
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    given: Sequence[str] = ()
    made: Sequence[str] = ()
    reliability: Mapping[str, float] = field(default_factory=dict)
    psnr: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    least_certain: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[str] = ()
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[int, float, str]:
        """Sorts the worst first: by status, then by the least PSNR expected or share foretold, unknown ones first."""
        least = min((self.expected or self.reliability).values(), default=float("-inf"))
        return ORDER.index(self.status), least, self.place


def record_path(out: Path, place: Path) -> Path:
    """Return where a case's outcome is kept."""
    return out / RECORDS / place.parent / f"{place.name}.json"


def write_outcome(outcome: Outcome, out: Path) -> None:
    """Write a case's JSON file, whole or not at all."""
    put(record_path(out, Path(outcome.place)), json.dumps(asdict(outcome), indent=1) + "\n", "part")


def put(path: Path, text: str, mark: str) -> None:
    """Write a file, whole or not at all, by way of a hidden one that a killed run leaves and the next one takes over.

    Raises:
        UserError: The file system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{mark}")
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: can't be written ({reason}); free space or choose another -o") from None


def read_outcome(path: Path) -> Outcome | None:
    """Return the outcome in a file, or None where it is no such thing."""
    try:
        return Outcome(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def outcomes(out: Path) -> list[Outcome]:
    """Return all outcomes below an output folder, worst first."""
    found = (read_outcome(path) for path in (out / RECORDS).rglob("*.json"))
    return sorted((outcome for outcome in found if outcome), key=lambda outcome: outcome.rank)


def finished(out: Path, place: Path, request: Mapping[str, Any]) -> Outcome | None:
    """Return the outcome of a case that is done by the same settings and whose files are there."""
    outcome = read_outcome(record_path(out, place))
    if outcome is None or outcome.status == "failed" or dict(outcome.request) != json.loads(json.dumps(dict(request))):
        return None
    return outcome if all((out / place / name).is_file() for name in outcome.files) else None


def write_table(out: Path, mark: str = "part") -> list[Outcome]:
    """Write cases.csv from the cases' JSON files, and return them, worst first.

    Args:
        out: The output folder.
        mark: Of the temporary file: another one for each process that writes here at the same time.

    Raises:
        UserError: There are none.
    """
    rows = outcomes(out)
    if not rows:
        raise UserError(f"{out / RECORDS}: no case's JSON in it; expected the folder of an earlier gen3d synthesize")
    put(out / TABLE, table(rows), mark)
    return rows


def table(rows: Sequence[Outcome]) -> str:
    """Return outcomes as CSV."""
    hidden = named(row.reliability for row in rows)
    awaited = named(row.expected for row in rows)
    doubted = named(row.uncertainty for row in rows)
    worst = named(row.least_certain for row in rows)
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(
        [
            *("case", "status", "given", "made"),
            *(f"expected_psnr_{name}" for name in awaited),
            *(f"foretold_{name}" for name in hidden),
            *(f"psnr_{name}" for name in hidden),
            *(f"uncertainty_{name}" for name in doubted),
            *(f"least_certain_{name}" for name in worst),
            *("reason", "notes", "place"),
        ]
    )
    for row in rows:
        lines.writerow(
            [
                *(row.case, row.status, " ".join(row.given), " ".join(row.made)),
                *(shown(row.expected, name) for name in awaited),
                *(shown(row.reliability, name) for name in hidden),
                *(shown(row.psnr, name) for name in hidden),
                *(shown(row.uncertainty, name) for name in doubted),
                *(shown(row.least_certain, name) for name in worst),
                *(row.reason, "; ".join(row.notes), row.place),
            ]
        )
    return stream.getvalue()


def named(columns: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the names that occur, each once, in the order met in sorted rows."""
    return sorted({name for column in columns for name in column})


def shown(column: Mapping[str, float], name: str) -> str:
    """Return a number of a cell, empty where there is none."""
    return f"{column[name]:.3f}" if name in column else ""


def counted(rows: Iterable[Outcome]) -> str:
    """Say how many cases ended in which way, e.g. "17 made, 2 outside, 1 failed"."""
    statuses = [row.status for row in rows]
    return ", ".join(f"{statuses.count(name)} {name}" for name in reversed(ORDER) if name in statuses)
