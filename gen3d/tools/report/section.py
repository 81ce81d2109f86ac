"""One case of the page: its panels, what steers them, its scores and where it comes from."""

from collections.abc import Mapping
from dataclasses import replace
from html import escape

from gen3d.tools.report.found import Case
from gen3d.tools.report.panels import Panel, Ready
from gen3d.tools.report.parts import WATERMARK, json_text, picture, record, table
from gen3d.tools.report.tables import Table, of_record

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
WINDOWS = (("", "as it is"), ("-160 240", "soft tissue"), ("-1350 150", "lung"), ("-450 1050", "bone"))


def section(index: int, ready: Ready, *, solid: bool) -> str:
    """Return all that is shown of one case."""
    case = ready.case
    reason = case.outcome.reason if case.outcome else "; ".join(map(str, case.facts.get("outside_training") or []))
    least = case.facts.get("least_certain")
    words = [
        *ready.notes,
        *([f"{case.status}: {reason}"] if reason else []),
        *([str(least["warning"])] if isinstance(least, Mapping) and "warning" in least else []),
    ]
    chip = f'<span class="status {escape(case.status)}">{escape(case.status)}</span>' if case.status else ""
    head = f"<summary><h2>{escape(case.name)}</h2><span class=tool>{escape(case.tool)}</span>{chip}</summary>"
    notes = "".join(f'<p class="note">{escape(word)}</p>' for word in dict.fromkeys(words))
    viewer = viewers(index, ready) if ready.panels else '<p class="note">No image to show.</p>'
    space = solid_viewer(index, ready) if ready.panels and solid else ""
    shots = "".join(picture(path) for path in case.pictures)
    tables = "".join(table(one) for one in scores(case))
    return (
        f'<details class="case" id="case-{index}" {"open" if index == 0 else ""}>{head}{notes}{viewer}'
        f'<div class="lower">{space}<div class="figures">{shots}{tables}</div></div>{provenance(ready)}</details>'
    )


def viewers(index: int, ready: Ready) -> str:
    """Return the panels of a case, what steers them, and the volumes."""
    told = [
        {"title": i.title, "kind": i.kind, "synthetic": i.synthetic, "low": v.low, "high": v.high, "units": v.units}
        | {"record": {"volumes_ml": i.record.get("volumes_ml")} if i.group else {}}
        for i, v in zip(ready.images, ready.volumes, strict=True)
    ]
    data = {"panels": [vars(panel) for panel in ready.panels], "volumes": told, "start": ready.start}
    contents = "".join(
        f'<script type="text/plain" id="volume-{index}-{i}">{volume.content}</script>'
        for i, volume in enumerate(ready.volumes)
    )
    panels = "".join(figure(number, panel) for number, panel in enumerate(ready.panels))
    strips = "".join(strip(number, panel, ready) for number, panel in enumerate(ready.panels) if len(panel.images) > 1)
    return (
        f'<script type="application/json" class="data">{json_text(data)}</script>{contents}{controls(index, ready)}'
        f'<div class="panels" style="--columns:{columns(len(ready.panels))}">{panels}</div>{strips}'
    )


def columns(count: int) -> int:
    """Return how many panels stand side by side on a wide screen: as many as leave the fewest places empty."""
    return max(3, count) if count <= 6 else min((4, 5, 6), key=lambda columns: -count % columns)


def figure(number: int, panel: Panel) -> str:
    """Return one panel; its canvas is painted by the scripts."""
    badge = '<strong class="badge">SYNTHETIC</strong>' if panel.synthetic else ""
    label = f"{panel.heading}: {panel.title}{f'. {WATERMARK}' if panel.synthetic else ''}"
    return (
        f'<figure class="panel {panel.role}{" synthetic" if panel.synthetic else ""}" data-panel="{number}">'
        f'<figcaption><span class="role">{panel.heading}</span>{badge}<span class="title">{escape(panel.title)}</span>'
        f'</figcaption><canvas tabindex="0" role="img" aria-label="{escape(label)}"></canvas>'
        f'<div class="scale"></div><output></output></figure>'
    )


def strip(number: int, panel: Panel, ready: Ready) -> str:
    """Return a row of small pictures, one for each sample or rater."""
    buttons = "".join(
        f'<button type="button" data-choice="{choice}"><canvas></canvas><span>{escape(caption(ready, i))}</span>'
        "</button>"
        for choice, i in enumerate(panel.images)
    )
    every = '<button type="button" class="all" data-choice="-1">all outlines</button>' if panel.kind == "mask" else ""
    synthetic = " synthetic" if panel.synthetic else ""
    badge = '<strong class="badge">SYNTHETIC</strong> ' if panel.synthetic else ""
    return (
        f'<div class="strip{synthetic}" data-strip="{number}"><h3>{badge}{escape(panel.title)}</h3>'
        f'<div class="tiles">{every}{buttons}</div></div>'
    )


def caption(ready: Ready, number: int) -> str:
    """Return what stands below a small picture."""
    image = ready.images[number]
    sizes = image.record.get("volumes_ml")
    plain = isinstance(sizes, Mapping) and all(isinstance(ml, int | float) for ml in sizes.values())
    return f"{image.title}{', ' + ' + '.join(f'{ml:g}' for ml in sizes.values()) + ' mL' if plain and sizes else ''}"


def controls(index: int, ready: Ready) -> str:
    """Return what steers all panels of a case."""
    radios = "".join(
        f'<label><input type="radio" name="plane-{index}" value="{axis}" {"checked" if axis == 2 else ""}>{name}'
        "</label>"
        for name, axis in PLANES
    )
    hu = any(volume.units == "HU" for volume in ready.volumes)
    options = "".join(f'<option value="{ends}">{name}</option>' for ends, name in WINDOWS)
    over = any(panel.kind != "image" for panel in ready.panels)
    return (
        f'<form class="controls" aria-label="What all panels show"><fieldset><legend>Plane</legend>{radios}</fieldset>'
        '<label class="slice">Slice <input type="range" name="slice" min="0" max="1" step="1"><output></output></label>'
        + ('<label>Overlay <input type="range" name="opacity" min="0" max="100" value="80"></label>' if over else "")
        + '<label>Brightness <input type="range" name="brightness" min="-50" max="50" value="0"></label>'
        '<label>Contrast <input type="range" name="contrast" min="-50" max="50" value="0"></label>'
        + (f'<label>Window <select name="window">{options}</select></label>' if hu else "")
        + '<label><input type="checkbox" name="cross" checked> Crosshair</label>'
        '<button type="reset">Reset</button><output class="place" aria-live="polite" '
        'title="World coordinates, growing to the right, front and head"></output></form>'
    )


def solid_viewer(index: int, ready: Ready) -> str:
    """Return the place of the 3D viewer of a case."""
    first = next((number for number, panel in enumerate(ready.panels) if panel.role == "output"), 0)
    options = "".join(
        f'<option value="{number}"{" selected" if number == first else ""}>'
        f"{escape(panel.heading)}: {escape(panel.title)}</option>"
        for number, panel in enumerate(ready.panels)
    )
    return (
        '<div class="solid"><form aria-label="3D viewer"><label>3D '
        f'<select name="shown">{options}</select></label><label>View <select name="view"><option value="4">3D</option>'
        '<option value="3">planes and 3D</option></select></label>'
        '<label>Cut <input type="range" name="depth" min="-50" max="50" value="-50"></label>'
        '<label>Turn <input type="range" name="turn" min="0" max="360" value="250"></label>'
        '<button type="button" name="start">Show in 3D</button></form>'
        f'<div class="stage" hidden><canvas aria-label="3D view of {escape(ready.case.name)}"></canvas>'
        f'<strong class="watermark" hidden>{WATERMARK}</strong></div><p class="note" hidden></p></div>'
    )


def scores(case: Case) -> list[Table]:
    """Return all tables of a case: how far to trust it, what was measured, baselines beside."""
    told = case.outcome
    found: list[Table] = []
    if told is not None and told.reliability:
        rows = [(name, share, told.psnr.get(name)) for name, share in told.reliability.items()]
        title = "Each given contrast, hidden in turn and made from the others"
        notes = ("share foretold: of its variance; 1 is perfect, 0 as good as a constant",)
        found.append(Table(title, ("contrast", "share foretold", "PSNR dB"), rows, notes))
    if told is not None and told.made:
        heads = ("contrast", "expected PSNR dB", "uncertainty, % of the window", "where least certain, %")
        made = [(n, told.expected.get(n), told.uncertainty.get(n), told.least_certain.get(n)) for n in told.made]
        found.append(Table("What was made", heads, made))
    skipped = {"model", "labels", "least_certain", "sha256", "forecasts", *(("foretold",) if found else ())}
    mains = [image.record for image in case.images if image.role == "output" and not image.group]
    for tree in case.records:
        skipped |= {"visits"} & tree.keys()
        found += of_record({key: value for key, value in tree.items() if key not in skipped - {"visits"}})
    for tree in mains or [case.facts]:
        when = f" ({tree['at']})" if "at" in tree and len(mains) > 1 else ""
        more = of_record({key: value for key, value in tree.items() if key not in skipped})
        found += [replace(one, title=one.title + when) for one in more]
    return [one for index, one in enumerate(found) if one not in found[:index]]


def provenance(ready: Ready) -> str:
    """Return the records of a case: the main image's whole, of the others what differs."""
    case = ready.case
    main = case.facts
    parts = [record(f"Provenance: {main.get('file', case.name)}", main)] if main else []
    others = {}
    for tree in [*(image.record for image in case.images), *case.records]:
        if tree is not main and (other := {k: v for k, v in tree.items() if main.get(k) != v}):
            others[str(tree.get("file", "record"))] = other
    if others:
        count = len(others)
        parts.append(record(f"{count} other record{'' if count == 1 else 's'}: what differs from this one", others))
    if case.outcome is not None:
        parts.append(record("What became of it, and what was asked", vars(case.outcome)))
    return f'<div class="records">{"".join(parts)}</div>'
