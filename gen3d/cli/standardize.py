"""``gen3d standardize``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import telling
from gen3d.cli.options import Debug, Device, DryRun, Model, Out, Precision, Report, Seed, Steps, input_option


def standardize(
    source: Annotated[Path, input_option("A CT in HU: NIfTI, a folder of them, or of DICOM series at any depth.")],
    out: Out,
    to: Annotated[str, typer.Option(help="The standard kernel.")] = "B30",
    source_kernel: Annotated[
        str, typer.Option("--from", help="The images' kernel, such as B70; auto: as DICOM names it, else not told.")
    ] = "auto",
    model: Model = "ct-kernel",
    start: Annotated[
        str | None,
        typer.Option(help="Where the walk begins: flow, noise or source [the model's own].", show_default=False),
    ] = None,
    steps: Steps = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="The same scan in that kernel, or a folder of them, to compare with.", show_default=False),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Body masks: a folder or a file [found in the image].", show_default=False)
    ] = None,
    pixel: Annotated[
        float | None,
        typer.Option("--pixel-size", min=0.05, help="Of the file in mm [as it says].", show_default=False),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    report: Report = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Bring CT to a standard reconstruction kernel.

    In HU on its own grid, with a report of what changed. What an earlier run wrote there is replaced.
    """
    from gen3d.tools.kernel_report import summary
    from gen3d.tools.kernel_walk import Request
    from gen3d.tools.standardize import standardize as run

    with telling("standardize", summary, out, dry_run=dry_run, debug=debug) as told:
        run(
            source,
            out,
            model,
            Request(to, None if source_kernel == "auto" else source_kernel, start, steps, pixel, seed),
            truth=truth,
            mask=mask,
            device=device,
            precision=precision,
            dry_run=dry_run,
            report=report,
            **told,
        )
