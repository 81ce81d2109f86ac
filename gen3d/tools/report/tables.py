"""Numbers as tables: of a record whatever its keys, of a table in a file, of an evaluation, of a data set."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

Cell = str | float | int | None
MOST = 500  # rows of a table that are shown
FIRST = ("case", "status", "reason")  # columns that people look for
METHODS = "reconstruction.csv"
MEANINGS = {
    "foretold": "Foretold: each given contrast, hidden and made from the others (1 best, 0 as good as a constant)",
    "psnr": "PSNR in dB of each given contrast, hidden and made from the others",
    "expected_psnr": "PSNR in dB that this lets expect",
    "uncertainty": "Standard deviation of the samples, mean, percent of the window",
    "least_certain": "Where the samples differ most",
    "volumes_ml": "Volumes in mL",
    "against_given_image": "Against the given image, beside classical methods",
    "scores": "Against the hidden visit, beside the copied last visit",
    "modes": "Distinct masks among the samples",
    "interval_80": "80 % interval",
}


@dataclass(frozen=True)
class Table:
    """Rows of figures under a title.

    Attributes:
        title: What they are.
        columns: Their heads.
        rows: As wide as the columns; None is shown as a dash.
        notes: Below.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    notes: tuple[str, ...] = ()


def digits(value: Cell) -> str:
    """Write a figure: whole numbers whole, others with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)


def listed(title: str, rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of a file, columns without any entry left out."""
    if not rows:
        return Table(title, (), [])
    head, body = rows[0], [[*row, *[""] * (len(rows[0]) - len(row))] for row in rows[1:]]
    kept = [i for i, name in enumerate(head) if name and (any(row[i] for row in body) or not body)]
    kept.sort(key=lambda i: FIRST.index(head[i]) if head[i] in FIRST else len(FIRST))
    more = (f"{len(body) - MOST} more rows are in the file",) if len(body) > MOST else ()
    cells = [tuple(number(row[i]) for i in kept) for row in body[:MOST]]
    return Table(title, tuple(head[i].replace("_", " ") for i in kept), cells, more)


def number(word: str) -> Cell:
    """Return a word of a table as the number that it is, if it is one."""
    try:
        return int(word) if word.lstrip("-").isdigit() else float(word)
    except ValueError:
        return word


def evaluated(tree: Mapping[str, Any]) -> list[Table]:
    """Return the tables of an evaluation."""
    return [
        Table(t["title"], tuple(t["columns"]), [tuple(row) for row in t["rows"]], tuple(t.get("notes", ())))
        for t in tree.get("tables", [])
    ]


def augmented(folder: Path) -> list[Table]:
    """Return what became of each case of a synthetic data set, why draws were refused, and how its masks compare."""
    rows = manifest(folder)
    order = {"given up": 0, "accepted": 1}
    rows.sort(key=lambda row: (order.get(str(row.get("status")), 2), -int(row.get("attempts", 0))))
    labels = list(dict.fromkeys(name for row in rows for name in row.get("volumes_ml") or {}))
    cells: list[tuple[Cell, ...]] = [
        (
            *(row.get("case"), row.get("status"), row.get("attempts"), gates(row), row.get("alike")),
            *((row.get("volumes_ml") or {}).get(label) for label in labels),
        )
        for row in rows
    ]
    heads = ("case", "status", "draws", "refused by", "alike", *(f"{label} mL" for label in labels))
    notes = ("alike: correlation with the most similar training scan; draws: how many the gates saw",)
    more = (f"{len(rows) - MOST} more rows are in manifest.jsonl",) if len(rows) > MOST else ()
    refused: list[tuple[Cell, ...]] = [
        (row.get("case"), index, gate, words)
        for row in rows
        for index, found in enumerate(row.get("rejected") or [], 1)
        for gate, words in found.items()
    ]
    tables = [
        Table("Cases of the data set, given up first", heads, cells[:MOST], (*notes, *more)),
        Table("Draws that the gates refused", ("case", "draw", "gate", "why"), refused[:MOST]),
    ]
    try:
        told = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):
        return tables
    counts = {k: v for k, v in told.items() if isinstance(v, int | float | str) and k != "warning"}
    return [Table("Data set", ("", ""), list(counts.items())), *of_record({"volumes_ml": told["volumes_ml"]}), *tables]


def gates(row: Mapping[str, Any]) -> str:
    """Say which gates refused draws of a case, and how often."""
    names = [gate for found in row.get("rejected") or [] for gate in found]
    return ", ".join(f"{gate} {names.count(gate)}" for gate in dict.fromkeys(names))


def manifest(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a data set's manifests; a line cut short by a kill is left out."""
    rows: dict[Any, dict[str, Any]] = {}
    for path in sorted(folder.glob("manifest*.jsonl")):
        for text in path.read_text().splitlines():
            try:
                row = json.loads(text)
                rows[row["number"]] = row
            except (ValueError, KeyError, TypeError):
                continue
    return list(rows.values())


def of_record(tree: Mapping[str, Any]) -> list[Table]:
    """Return a table of everything in a record that has rows: a mapping of mappings, or a list of them."""
    return [table for name, value in tree.items() for table in tabular(name, value)]


def tabular(name: str, value: Any) -> list[Table]:
    """Return a mapping or a list of mappings as tables, none where it is a plain fact."""
    title = MEANINGS.get(name, name.replace("_", " "))
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [grid(title, [(str(index), item) for index, item in enumerate(value, 1)], ())]
    if not isinstance(value, Mapping) or not value:
        return []
    rows = {k: v for k, v in value.items() if isinstance(v, Mapping)}
    plain = {k: v for k, v in value.items() if k not in rows}
    if not rows:
        return [Table(title, tuple(word(k) for k in plain), [tuple(shown(v) for v in plain.values())])]
    deep = {k: v for k, v in rows.items() if any(isinstance(item, Mapping) for item in v.values())}
    flat = [(word(k), v) for k, v in rows.items() if k not in deep]
    notes = tuple(f"{word(k)}: {shown(v)}" for k, v in plain.items())
    first = [grid(title, flat, notes)] if flat else []
    return first + [table for k, v in deep.items() for table in tabular(f"{title}: {word(k)}" if flat else k, v)]


def grid(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], notes: tuple[str, ...]) -> Table:
    """Return a table of mappings, one a row, their keys the columns."""
    flat = [(name, dict(leaves(row))) for name, row in rows]
    heads = list(dict.fromkeys(key for _, row in flat for key in row))
    cells: list[tuple[Cell, ...]] = [(name, *(shown(row.get(head)) for head in heads)) for name, row in flat]
    return Table(title, ("", *(word(head) for head in heads)), cells, notes)


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a tree, each with its path in words."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{key} ")
        else:
            yield f"{before}{key}", value


def shown(value: Any) -> Cell:
    """Return a value of a record as a cell; an interval as "low to high"."""
    if isinstance(value, list):
        numbers = len(value) == 2 and all(isinstance(v, int | float) for v in value)
        return f"{value[0]:g} to {value[1]:g}" if numbers else ", ".join(str(shown(v)) for v in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {shown(item)}" for key, item in leaves(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str | float | int) or value is None else str(value)


def word(key: str) -> str:
    """Return a key in words."""
    return str(MEANINGS.get(key, key) if key == "interval_80" else key).replace("_", " ")


def methods(folder: Path) -> list[Table]:
    """Return the table of reconstructions in a folder, if it is there."""
    try:
        with open(folder / METHODS, newline="") as file:
            return [listed("Scans and methods", list(islice(csv.reader(file), 10_000)))]
    except OSError:
        return []
