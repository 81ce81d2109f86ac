"""Several cases one after the other: a bad one never stops the rest, and a single one fails as it is.

What became of a case is a row: ``case``; ``place``, where its results are, below the output folder; ``status``, see
outcomes.ORDER; ``reason``, why it failed or in which way it is unlike the training set; ``files``, those written below
``place``; and what the command has to say of it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gen3d import __version__
from gen3d.core.error import UserError
from gen3d.tools.outcomes import ORDER, put
from gen3d.tools.record import WARNING

T = TypeVar("T")
Row = dict[str, Any]


def one_by_one(
    items: Sequence[T],
    places: Sequence[Path],
    serve: Callable[[T, Path, Callable[[float], None]], Row],
    *,
    advance: Callable[[float, str], None],
    done: Callable[[Row], None],
    failed: Callable[[str, Exception], None],
    note: Callable[[str], None],
    names: Sequence[str] = (),
) -> list[Row]:
    """Serve each item and return a row for each.

    Args:
        items: What is served.
        places: Where each one's results go, below the output folder.
        serve: (item, place, advance) -> its row, all but ``place``.
        advance: Told the share of all that is done, and at which item.
        done: Told each row of one that did not fail, as soon as it is there.
        failed: Told of every one of several that failed.
        note: Told in which way a case is unlike the training set.
        names: What the items are called; by default by their places.

    Raises:
        Exception: The only item failed.
    """
    rows: list[Row] = []
    for index, (item, place) in enumerate(zip(items, places, strict=True)):
        name = names[index] if names else str(place)

        def of_all(share: float, name: str = name, index: int = index) -> None:
            advance((index + share) / len(items), name)

        of_all(0.0)
        try:
            row = serve(item, place, of_all)
        except Exception as error:
            if len(items) == 1:
                raise
            failed(name, error)
            rows.append(outcome(name, "failed", " ".join(str(error).split()) or type(error).__name__, place=str(place)))
            continue
        rows.append({**row, "place": str(place)})
        if row["reason"]:
            note(f"{row['case']}: unlike the training set: {row['reason']}")
        done(rows[-1])
    return rows


def outcome(case: str, status: str, reason: str = "", files: Sequence[str] = (), **more: Any) -> Row:
    """Return what became of a case, ``more`` being what its command has to say."""
    return {"case": case, "place": "", "status": status, "reason": reason, "files": list(files), **more}


def write_report(
    rows: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]], path: Path, warning: str = WARNING
) -> None:
    """Write what became of all cases, worst first, how many ended in which way, and which models made it, as JSON.

    Args:
        rows: One of each case.
        models: What identifies each model.
        path: Of the file.
        warning: What the results are.

    Raises:
        UserError: It can't be written.
    """
    statuses = [row["status"] for row in rows]
    counts: dict[str, int] = {name: statuses.count(name) for name in ORDER}
    results = sorted(rows, key=lambda row: ORDER.index(row["status"]))
    head: dict[str, Any] = {"synthetic": True, "warning": warning, "cases": len(rows), **counts}
    tree = {**head, "results": results, "models": list(models), "gen3d": __version__}
    put(path, json.dumps(tree, indent=1, default=str) + "\n", "part")


def close(
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    model: Mapping[str, Any],
    report: Path | None,
    *,
    dry_run: bool,
    warning: str = WARNING,
) -> None:
    """End a run of one model: write the report that is asked for, none in a dry run.

    Raises:
        UserError: The report can't be written, or some cases failed.
    """
    if report is not None and not dry_run:
        write_report(rows, [model], report, warning)
    if failures := sum(row["status"] == "failed" for row in rows):
        rest = "nothing was written" if dry_run or failures == len(rows) else f"the others are in {out}"
        raise UserError(f"{len(rows)} cases, {failures} failed; {rest}")
