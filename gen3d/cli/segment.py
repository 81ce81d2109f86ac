"""``gen3d segment``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import telling
from gen3d.cli.options import Debug, Device, DryRun, Model, Out, Precision, Report, Seed, input_option


def segment(
    source: Annotated[Path, input_option("A scan, a folder of scans or studies, a data set.")],
    out: Out,
    model: Model,
    samples: Annotated[int, typer.Option(help="Masks that are drawn; 0: the answer of a single call.")] = 16,
    rater: Annotated[
        int | None, typer.Option(help="Draw as this rater would, from 1 [as any of them].", show_default=False)
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    report: Report = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Segment scans as several experts might.

    The most likely mask, how sure it is, and the masks that were drawn, in OUT/CASE/. What an earlier run wrote there
    is replaced.
    """
    from gen3d.tools.segment import Request
    from gen3d.tools.segment import segment as run
    from gen3d.tools.segment_files import summary

    with telling("segment", summary, out, dry_run=dry_run, debug=debug) as told:
        run(
            source,
            out,
            model,
            Request(samples, rater, seed),
            device=device,
            precision=precision,
            dry_run=dry_run,
            report=report,
            **told,
        )
