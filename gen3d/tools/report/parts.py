"""Pieces of HTML: tables, records, pictures.

All text is escaped here.
"""

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from gen3d.tools.report.found import Found
from gen3d.tools.report.tables import Table, digits

WATERMARK = "SYNTHETIC - not for diagnosis"


def record(title: str, tree: Mapping[str, Any]) -> str:
    """Return a record, folded."""
    return f'<details class="record"><summary>{escape(title)}</summary>{listing(tree)}</details>'


def listing(value: Any) -> str:
    """Return any JSON value as nested lists."""
    if isinstance(value, Mapping):
        rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{listing(item)}</dd>" for k, item in value.items())
        return f"<dl>{rows}</dl>"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list) for item in value):
        return f"<ol>{''.join(f'<li>{listing(item)}</li>' for item in value)}</ol>"
    if isinstance(value, list | tuple):
        return escape(", ".join(plain(item) for item in value)) or "none"
    return escape(plain(value))


def plain(value: Any) -> str:
    """Return a value in words; numbers with all digits."""
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)


def table(one: Table, found: Found | None = None, links: Mapping[str, int] | None = None) -> str:
    """Return a table; rows of cases that are shown link to them."""
    if not one.rows:
        return ""
    place = next((i for i, name in enumerate(one.columns) if name == "place"), None)
    rows = []
    for row in one.rows:
        target = None
        if found is not None and links and place is not None:
            target = links.get(str(found.folder / str(row[place])))
        cells = [datum(value) for value in row]
        if target is not None:
            cells[0] = f'<td><a href="#case-{target}">{escape(str(row[0]))}</a></td>'
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in one.columns)
    notes = "".join(f"<p class=small>{escape(words)}</p>" for words in one.notes)
    return (
        f'<section class="table"><h3>{escape(one.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{notes}</section>"
    )


def datum(value: Any) -> str:
    """Return a cell of a table; figures stand to the right."""
    if isinstance(value, str):
        return f'<td class="{escape(value)}">{escape(value)}</td>' if value.isalpha() else f"<td>{escape(value)}</td>"
    return f'<td class="number">{escape(digits(value))}</td>'


def picture(path: Path) -> str:
    """Return a PNG file as part of the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    label = escape(path.name)
    return f'<figure class="picture"><img alt="{label}" src="data:image/png;base64,{content}"></figure>'


def json_text(tree: Any) -> str:
    """Return JSON that may stand inside a script element."""
    return json.dumps(tree, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
