"""``gen3d forecast``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import telling
from gen3d.cli.options import Contrast, Debug, Device, DryRun, Model, Out, Precision, Report, Seed, input_option
from gen3d.cli.values import separated


def forecast(
    source: Annotated[Path, input_option("A patient's folder, a 4D NIfTI, a folder of patients.")],
    out: Out,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="When: 2027-05-01, or days after the last visit: +365; several: +180,+365.", show_default=False
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Plausible images, for the spread; 0: the expected one alone.")] = 4,
    model: Model = "hippocampus-forecast",
    contrast: Contrast = None,
    dates: Annotated[
        Path | None,
        typer.Option(
            help="CSV with columns visit,date or visit,day [dates.csv in the folder, else names].", show_default=False
        ),
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Move all visits rigidly to the last.")] = False,
    hide_last: Annotated[
        bool, typer.Option("--hide-last", help="Hide the last visit, forecast it and compare, beside a copy.")
    ] = False,
    rollout: Annotated[
        float | None,
        typer.Option(help="Also go there in steps of so many days, and tell the drift.", show_default=False),
    ] = None,
    keep: Annotated[bool, typer.Option("--write-samples", help="Write each sample too.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    report: Report = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Forecast a patient's scan at a later date.

    From any number of earlier visits, beside the copied last visit, in OUT/PATIENT/. What an earlier run wrote there is
    replaced.
    """
    from gen3d.tools.forecast import Request
    from gen3d.tools.forecast import forecast as run
    from gen3d.tools.forecast_scores import summary

    with telling("forecast", summary, out, dry_run=dry_run, debug=debug) as told:
        run(
            source,
            out,
            model,
            Request(tuple(separated(at or [])), samples, contrast, dates, align, hide_last, rollout, keep, seed),
            device=device,
            precision=precision,
            dry_run=dry_run,
            report=report,
            **told,
        )
