"""Studies listed in a table: a CSV or TSV file with a row for each case and a column for each contrast."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen3d.core.error import UserError
from gen3d.data.aliases import Vocabulary, is_plain
from gen3d.data.folders import naming_of, understood
from gen3d.data.nifti import ENDINGS
from gen3d.data.study import ALIASES_HELP, Study, as_name

ENDINGS_OF_TABLES = (".csv", ".tsv")
_CASE = ("case", "case_id", "caseid", "study", "subject", "subject_id", "subjectid", "participant_id", "id", "name")
_PATIENT = ("patient", "patient_id", "patientid")
_LESION = ("lesion", "lesions", "seg", "label", "labels", "lesion_mask")
_MASK = ("mask", "brain_mask", "brainmask")
_EXPECTED = "expected a header such as case,t1n,t1c,t2w,t2f"


@dataclass(frozen=True)
class _Columns:
    case: int
    patient: int | None
    lesion: int | None
    mask: int | None
    contrasts: Mapping[str, int]
    notes: tuple[str, ...]


def find(path: Path, vocabulary: Vocabulary) -> list[Study]:
    """Return the studies of a table.

    A column is named by a contrast or one of its names; columns of other things are left alone. Paths are relative to
    the table, an empty cell is a contrast that is absent.

    Raises:
        UserError: if it can't be read, or its header names no case or no contrast, or one of these twice.
    """
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path}: empty; {_EXPECTED}")
    (_, header), *cases = rows
    columns = _columns(path, header, [row for _, row in cases], vocabulary)
    lines: dict[str, int] = {}
    studies = []
    for line, row in cases:
        name = _cell(row, columns.case)
        earlier = lines.setdefault(name, line) if name else line
        problem = ""
        if len(row) > len(header):
            problem = (
                f"{path}, line {line}: {len(row)} cells; expected {len(header)}; put a name with a comma in quotes"
            )
        elif not name:
            problem = f"{path}, line {line}: no case; expected a name in column '{header[columns.case]}'; add one"
        elif earlier != line:
            problem = (
                f"{path}, line {line}: case '{name}' stands in line {earlier} already; expected one row; rename one"
            )
        studies.append(_study(path, line, row, columns, problem, vocabulary))
    return studies


def _study(path: Path, line: int, row: Sequence[str], columns: _Columns, problem: str, vocabulary: Vocabulary) -> Study:
    name = _cell(row, columns.case) or f"line-{line}"
    files = {c: path.parent / cell for c, at in columns.contrasts.items() if (cell := _cell(row, at))}
    beside = {what: path.parent / cell for what in ("lesion", "mask") if (cell := _cell(row, getattr(columns, what)))}
    lost = next(((c, file) for c, file in (files | beside).items() if not os.path.exists(file)), None)
    if not files:
        problem = problem or f"{path}, line {line}: no scan; expected a file in one of its contrasts' columns; add one"
    elif lost:
        problem = problem or f"{path}, line {line}: {lost[0]}: {lost[1]}: no such file; mend the path or empty the cell"
    scans = [file for file in files.values() if file.name.lower().endswith(ENDINGS)]
    named = [n for n in understood(scans, vocabulary) if n.contrast and files.get(n.contrast) == n.path]
    naming = naming_of(named if len(named) == len(files) else [], as_name(name))
    patient = _cell(row, columns.patient) or name
    place = Path(as_name(name))
    lesion, mask = beside.get("lesion"), beside.get("mask")
    return Study(name, path, files, place, patient, naming, lesion, mask, problem, columns.notes)


def read_rows(path: Path, expected: str = _EXPECTED) -> list[tuple[int, list[str]]]:
    """Return line number and cells of every line of a table that is not empty.

    Raises:
        UserError: if it can't be read; it ends in what was ``expected``.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise UserError(f"{path}: can't be read ({(error.strerror or 'error').lower()}); {expected}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: not a text table in UTF-8; {expected}; save it as CSV UTF-8") from None
    return [(line, row) for line, row in rows if any(row)]


def _columns(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], vocabulary: Vocabulary) -> _Columns:
    names = [name.casefold().replace(" ", "_") for name in header]
    case = _column(path, names, _CASE)
    patient, lesion, mask = (_column(path, names, words) for words in (_PATIENT, _LESION, _MASK))
    contrasts: dict[str, int] = {}
    notes: list[str] = []
    if case is None:
        case, patient = patient, None
    if case is None:
        raise UserError(f"{path}: no column 'case'; {_EXPECTED}; name the column of the cases' names 'case'")
    for at, name in enumerate(header):
        if at in (case, patient, lesion, mask):
            continue
        scans = any(_is_scan(_cell(row, at), path.parent) for row in rows)
        meanings = vocabulary.meanings(name) if scans or is_plain(name) else ()  # "t2 lesion count" is no contrast
        if scans and len(meanings) != 1:
            may = f"may be {' or '.join(meanings)}" if meanings else "is no contrast that is known"
            notes.append(f"{path.name}: column '{name}' {may}; left out; {ALIASES_HELP}")
        elif len(meanings) == 1 and meanings[0] in contrasts:
            raise UserError(f"{path}: two columns for {meanings[0]}: '{header[contrasts[meanings[0]]]}' and '{name}'")
        elif len(meanings) == 1:
            contrasts[meanings[0]] = at
    if not contrasts:
        raise UserError(f"{path}: no column is a contrast; {_EXPECTED}; {ALIASES_HELP}")
    return _Columns(case, patient, lesion, mask, contrasts, tuple(notes))


def _column(path: Path, names: Sequence[str], wanted: Sequence[str]) -> int | None:
    found = next((word for word in wanted if word in names), None)
    if found is not None and names.count(found) > 1:
        raise UserError(f"{path}: {names.count(found)} columns '{found}'; expected one; rename the others")
    return None if found is None else names.index(found)


def _is_scan(cell: str, folder: Path) -> bool:
    return bool(cell) and (cell.lower().endswith(ENDINGS) or os.path.exists(folder / cell))


def _cell(row: Sequence[str], at: int | None) -> str:
    return row[at] if at is not None and at < len(row) else ""
