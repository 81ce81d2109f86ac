"""``gen3d generate``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import note, progress, warned, wrote
from gen3d.cli.options import (
    Compile,
    Debug,
    Device,
    DryRun,
    Guidance,
    Label,
    Model,
    Out,
    Precision,
    Sampler,
    Seed,
    Spacing,
    Steps,
    count_option,
)


def generate(
    model: Model,
    out: Out,
    count: Annotated[int, count_option("How many scans; of each mask.")] = 1,
    mask: Annotated[
        Path | None,
        typer.Option(help="Labels that lead a control model, or a folder of them.", show_default=False),
    ] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    compiled: Compile = False,
    size: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Voxels X Y Z [the model's own].", show_default=False)
    ] = None,
    label: Label = None,
    spacing: Spacing = None,
    guidance: Guidance = None,
    memory: Annotated[
        str | None, typer.Option(help="What decoding a latent may take, such as 6GB [all].", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Draw new scans.

    Of a model of pairs with masks, of a control model led by masks; OUT/contact-sheet.png shows the first ones. What an
    earlier run of the same command finished is kept.
    """
    from gen3d.tools.generate import generate as run
    from gen3d.tools.plan import parse_memory

    with progress("generate") as advance:
        paths = run(
            model,
            out,
            count,
            mask=mask,
            steps=steps,
            sampler=sampler,
            seed=seed,
            device=device,
            precision=precision,
            compiled=compiled,
            size=size,
            label=label,
            spacing=spacing,
            guidance=guidance,
            memory=None if memory is None else parse_memory(memory, "--memory"),
            dry_run=dry_run,
            advance=advance,
            failed=warned(debug=debug),
            note=note,
        )
    for path in paths:
        wrote(path, dry_run=dry_run)
