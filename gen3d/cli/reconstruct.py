"""``gen3d reconstruct``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import telling
from gen3d.cli.options import (
    WHICH,
    Debug,
    Device,
    DryRun,
    Mode,
    Out,
    Precision,
    Report,
    Seed,
    input_option,
    model_option,
)


def reconstruct(
    out: Out,
    source: Annotated[Path, input_option("A scan, a folder of scans, or of DICOM series at any depth.")],
    task: Annotated[str, typer.Option(help="sparse-ct or mri.", show_default=False)],
    views: Annotated[int, typer.Option(help="CT: angles over 180 degrees.")] = 20,
    acceleration: Annotated[float, typer.Option(help="MRI: one in how many frequencies is sampled.")] = 4.0,
    pattern: Annotated[
        str, typer.Option(help="MRI, what is sampled: gaussian (lines), poisson (points).")
    ] = "gaussian",
    noise: Annotated[
        float, typer.Option(help="Standard deviation of the noise in units of the data's root mean square.")
    ] = 0.005,
    model: Annotated[str | None, model_option(f"{WHICH[:-1]} [the task's].")] = None,
    mode: Mode = "mean",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    report: Report = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Reconstruct scans from sparse measurements.

    The measurements are simulated from the scans; classical methods stand beside. What an earlier run wrote there is
    replaced.
    """
    from gen3d.tools.reconstruct import asked
    from gen3d.tools.reconstruct import reconstruct as run
    from gen3d.tools.reconstruction_report import summary

    with telling("reconstruct", summary, out, dry_run=dry_run, debug=debug) as told:
        run(
            source,
            out,
            asked(task, views, acceleration, pattern, noise),
            model,
            mode,  # type: ignore[arg-type]
            seed=seed,
            device=device,
            precision=precision,
            dry_run=dry_run,
            report=report,
            **told,
        )
