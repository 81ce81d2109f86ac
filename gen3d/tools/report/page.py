"""The report as one HTML page that needs nothing else: no network, no other file."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from gen3d import __version__
from gen3d.tools.report.found import Case, Found
from gen3d.tools.report.panels import Ready
from gen3d.tools.report.parts import WATERMARK, picture, record, table
from gen3d.tools.report.section import section

WARNING = (
    "Framed images were computed by a generative model and never acquired from the patient. They are marked "
    f"“{WATERMARK}”."
)
GENERATOR = f"gen3d {__version__} report"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src data: blob:; font-src data:; worker-src blob:"
)
SCRIPTS = ("nifti.js", "paint.js", "panels.js", "solid.js")


def page(found: Found, cases: Sequence[Ready], notes: Sequence[str], niivue: str | None) -> str:
    """Return the page.

    Args:
        found: All that is in the folder.
        cases: Those that are shown, worst first.
        notes: What was left out, and why.
        niivue: The 3D viewer's JavaScript, gzipped, in base64; None where there is none.
    """
    name = found.folder.resolve().name
    links = {str(ready.case.folder): index for index, ready in enumerate(cases)}
    parts = [
        f"<header><p class=kind>gen3d report</p><h1>{escape(name)}</h1>",
        f"<p>{escape(', '.join(found.tools))} · gen3d {__version__}{statuses(found.cases)}</p></header>",
        f'<p class="banner" role="note"><strong>{WATERMARK}</strong> {escape(WARNING)}</p>',
        *(f'<p class="warning">{escape(words)}</p>' for words in found.warnings),
        *(f'<p class="note">{escape(words)}</p>' for words in notes),
        *(table(one, found, links) for one in found.tables),
        *(picture(path) for path in found.pictures),
        *(section(index, ready, solid=niivue is not None) for index, ready in enumerate(cases)),
        *(record(f"Settings of {tool}", tree) for tool, tree in found.settings.items() if tree),
        "<footer>Grey values are shown in 256 steps (CT in whole HU), cropped to what there is; the files hold the "
        f"exact ones. {escape(WARNING)}</footer>",
    ]
    viewer = f'<script type="text/plain" id="niivue">{niivue}</script>' if niivue else ""
    code = "".join(f"<script>{packaged(script)}</script>" for script in SCRIPTS)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{GENERATOR}">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} - gen3d report</title><style>{packaged('page.css')}</style></head>"
        f"<body><main>{''.join(parts)}</main>{viewer}{code}</body></html>\n"
    )


def packaged(name: str) -> str:
    """Return a script or style sheet that lies beside this file."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def statuses(cases: Sequence[Case]) -> str:
    """Say how many cases ended in which way."""
    told = [case.status or "made" for case in cases]
    counts = ", ".join(f"{told.count(word)} {word}" for word in dict.fromkeys(told))
    return f" · {len(cases)} case{'' if len(cases) == 1 else 's'}: {escape(counts)}" if cases else ""
