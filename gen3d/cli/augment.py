"""``gen3d augment``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import note, progress
from gen3d.cli.options import (
    Debug,
    Device,
    DryRun,
    Guidance,
    Label,
    Out,
    Part,
    Precision,
    Sampler,
    Seed,
    Spacing,
    Steps,
    count_option,
    model_option,
)
from gen3d.cli.values import numbers, parsed_part, separated
from gen3d.core.error import UsageError


def augment(
    out: Out,
    model: Annotated[str | None, model_option("A model of pairs: its folder, shipped name or hub id.")] = None,
    count: Annotated[int, count_option("How many cases.")] = 1,
    layout: Annotated[str, typer.Option(help="nnunet, msd or bids.")] = "nnunet",
    masks: Annotated[
        Path | None,
        typer.Option(
            "--from-masks", help="Make images of these masks: a folder or a file [masks are drawn].", show_default=False
        ),
    ] = None,
    deform: Annotated[bool, typer.Option("--deform", help="Turn, stretch and bend given masks at random.")] = False,
    volumes: Annotated[
        list[str] | None,
        typer.Option(help="mL of each label: 1.5,1.2 [about those of random training cases].", show_default=False),
    ] = None,
    label: Label = None,
    spacing: Spacing = None,
    guidance: Guidance = None,
    steps: Steps = None,
    sampler: Sampler = None,
    attempts: Annotated[int, typer.Option(help="Draws that the gates may refuse before a case is given up.")] = 5,
    channels: Annotated[
        list[str] | None,
        typer.Option(help="What the images are called: t1n [as the model calls them].", show_default=False),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(help="Real cases to copy in, the only ones that validate.", show_default=False),
    ] = None,
    seed: Seed = 0,
    part: Part = "1/1",
    merge: Annotated[
        bool, typer.Option("--merge", help="All parts are there: only write the data set's files and report.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local: this process; ray: workers, on RAY_ADDRESS or here.")] = "local",
    workers: Annotated[int, typer.Option(help="Of ray.")] = 1,
    threads: Annotated[int, typer.Option(help="Of the processor, for each process or worker.")] = 1,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Make a labelled data set to train other networks on.

    Images and masks that passed every gate, as nnU-Net, MONAI or BIDS tools take them. What an earlier run of the same
    command finished is kept.
    """
    from gen3d.tools.augment.augment import augment as run
    from gen3d.tools.augment.merge import in_a_line
    from gen3d.tools.augment.merge import merge as join
    from gen3d.tools.augment.pair import Wishes

    if merge:
        print(in_a_line(join(out, dry_run=dry_run), out, dry_run=dry_run))
        return
    if model is None:
        raise UsageError("Missing option '--model': expected a model of pairs, such as hippocampus-pairs")
    told = None if volumes is None else numbers("--volumes", volumes, float)
    with progress("augment") as advance:
        report = run(
            model,
            count,
            out,
            layout=layout,
            wishes=Wishes(masks, deform, told, label, spacing, guidance, sampler, steps, device, precision),
            seed=seed,
            attempts=attempts,
            channels=separated(channels) if channels else None,
            real=real,
            part=parsed_part(part),
            engine=engine,
            workers=workers,
            threads=threads,
            dry_run=dry_run,
            advance=advance,
            note=note,
        )
    print(in_a_line(report, out, dry_run=dry_run))
