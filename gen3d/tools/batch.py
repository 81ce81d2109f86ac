"""Several cases one after the other: a bad one never stops the rest, and a single one fails as it is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Row = dict[str, Any]


def one_by_one(
    items: Sequence[T],
    places: Sequence[Path],
    serve: Callable[[T, Path, Callable[[float], None]], Row],
    what: str,
    *,
    advance: Callable[[float, str], None],
    done: Callable[[Row], None],
    failed: Callable[[str, Exception], None],
) -> list[Row]:
    """Serve each item and return a row for each, those that failed with ``status`` and ``reason``.

    Args:
        items: What is served.
        places: Where each one's results go, below the output folder.
        serve: (item, place, advance) -> its row.
        what: What a row calls an item: "case", "patient".
        advance: Told the share of all that is done, and at which item.
        done: Told each row of one that did not fail, as soon as it is there.
        failed: Told of every one of several that failed.

    Raises:
        Exception: The only item failed.
    """
    rows: list[Row] = []
    for index, (item, place) in enumerate(zip(items, places, strict=True)):

        def of_all(share: float, place: Path = place, index: int = index) -> None:
            advance((index + share) / len(items), str(place))

        of_all(0.0)
        try:
            rows.append({**serve(item, place, of_all), "place": str(place)})
        except Exception as error:
            if len(items) == 1:
                raise
            failed(str(place), error)
            reason = " ".join(str(error).split()) or type(error).__name__
            rows.append({what: str(place), "place": str(place), "status": "failed", "reason": reason})
            continue
        done(rows[-1])
    return rows
