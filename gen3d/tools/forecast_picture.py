"""The pictures of a forecast: slices of last visit, forecast, change and spread; volumes over time."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d import __version__
from gen3d.core.volume import Volume
from gen3d.data.prepare import foreground
from gen3d.tools.evaluate.canvas import EDGE, FAKE, REAL, chart, heading, legend
from gen3d.tools.forecast_images import Answer
from gen3d.tools.forecast_scores import EXTREMES, QUANTILES
from gen3d.tools.preview import BACKGROUND, FAINT, Panel, draw, limits
from gen3d.tools.record import patients
from gen3d.tools.sampling import OpenModel

SPREADS = {"interval_80": "80 % interval", QUANTILES: "samples, 10 to 90 %", EXTREMES: "samples, smallest to largest"}
NOT_REAL = "Framed columns are synthetic"


def slices(
    path: Path, model: OpenModel, like: Volume, found: Answer, title: str, last: str, truth: np.ndarray | None
) -> None:
    """Draw the last visit, the forecast, its change and the samples' spread, and the hidden visit where there is one.

    Args:
        path: Of the PNG.
        model: What made it.
        like: Its grid is that of all arrays.
        found: The forecast.
        title: Of the picture.
        last: What the visit is called that the forecast starts from.
        truth: The hidden visit on the file's grid.
    """

    def volume(voxels: np.ndarray) -> Volume:
        return Volume(voxels.astype(np.float32), like.affine)

    window = limits(found.copy, "image")
    change = found.voxels - found.copy
    differences = [change] + ([] if truth is None else [truth - found.copy])
    end = max(max(limits(difference, "difference")[1] for difference in differences), 1e-6)
    panels = [
        Panel(volume(found.copy), f"last visit\n{last}", limits=window),
        Panel(volume(found.voxels), f"forecast\n{found.kind}", synthetic=True, limits=window),
        Panel(volume(change), "forecast - last", synthetic=True, kind="difference", limits=(-end, end)),
    ]
    if found.std is not None:
        panels.append(Panel(volume(found.std), f"std of {found.samples} samples", synthetic=True, kind="std"))
    if truth is not None:
        panels.append(Panel(volume(truth), "true visit\n(hidden)", limits=window))
        panels.append(Panel(volume(differences[1]), "true - last", kind="difference", limits=(-end, end)))
    footer = f"{NOT_REAL}, made by {model.name} ({patients(model)}). Not for diagnosis."
    draw(path, panels, title, footer, foreground([like]))


def volumes(path: Path, model: OpenModel, tree: Mapping[str, Any]) -> None:
    """Draw each structure's volume over time, as ``PATIENT_volumes.json`` holds it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = tree["structures"]
    figure = Figure(figsize=(max(6.0, 4.6 * len(names)), 4.2), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    words = f"Orange is synthetic, made by {model.name} ({patients(model)}). Not for diagnosis.\n{tree['measured_by']}"
    title = f"{tree['patient']}: volumes over time"
    heading(figure, title, words)
    grid = figure.add_gridspec(1, len(names), left=0.11, right=0.97, top=0.8, bottom=0.25, wspace=0.3)
    for column, name in enumerate(names):
        structure(figure.add_subplot(grid[0, column]), name, tree)
    about = {"Software": f"gen3d {__version__}", "Title": title, "Description": "synthetic; not for diagnosis"}
    figure.savefig(path, dpi=110, facecolor=BACKGROUND, metadata=about, format="png")


def structure(cell: Any, name: str, tree: Mapping[str, Any]) -> None:
    """Draw one structure: visits, the copied last one, forecasts with their 80 % interval."""
    dated = all(visit["date"] for visit in tree["visits"])
    chart(cell, name, "" if dated else tree["unit"], "mL")

    def times(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        return [datetime.date.fromisoformat(row["date"]) if dated else row["day"] for row in rows]

    def sizes(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
        return [row["volumes_ml"][key][name] for row in rows]

    known = [visit for visit in tree["visits"] if not visit["hidden"]]
    hidden = [visit for visit in tree["visits"] if visit["hidden"]]
    ahead = tree["forecasts"]
    cell.plot(times(known), [v["volumes_ml"][name] for v in known], "o-", color=REAL, ms=5, lw=1, label="visits")
    if hidden:
        measured = [v["volumes_ml"][name] for v in hidden]
        cell.plot(times(hidden), measured, "o", mfc="none", mec=REAL, ms=7, label="hidden visit")
    cell.plot(times(ahead), sizes(ahead, "copy"), "_", color=FAINT, ms=12, mew=2, label="last visit copied")
    spread = next((kind for kind in SPREADS if any(row["volumes_ml"].get(kind) for row in ahead)), "interval_80")
    label = SPREADS[spread]
    for row, when in zip(ahead, times(ahead), strict=True):
        if ends := row["volumes_ml"].get(spread, {}).get(name):
            cell.plot([when, when], ends, "-", color=FAKE, lw=4, alpha=0.45, solid_capstyle="butt", label=label)
            label = "_"
    cell.plot(times(ahead), sizes(ahead, "forecast"), "D", color=FAKE, ms=6, label="forecast (synthetic)")
    cell.grid(color=EDGE, lw=0.4)
    cell.margins(x=0.08, y=0.2)
    if dated:
        cell.tick_params(axis="x", labelrotation=25)
    legend(cell)
