"""``gen3d evaluate downstream``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import present
from gen3d.cli.options import Debug, Device, DryRun, Out, Part, config_names, count_option
from gen3d.cli.values import numbers, parsed_part


def evaluate_downstream(
    real: Annotated[Path, typer.Argument(help="Real cases with masks.", show_default=False)],
    out: Out,
    generator: Annotated[
        str,
        typer.Option(
            help="Configuration of the generators: a YAML file, or the name of a packaged one of pairs.",
            autocompletion=config_names,
        ),
    ] = "augment_hippocampus",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for it, such as train.steps=2000; may be repeated.", show_default=False),
    ] = None,
    patients: Annotated[str, typer.Option(help="Numbers of real patients.")] = "10,50",
    curve: Annotated[
        str, typer.Option(help="More numbers, of real cases alone: what arms are worth.", show_default=False)
    ] = "",
    seeds: Annotated[int, typer.Option(help="Choices of patients, each with its own training.")] = 3,
    training_steps: Annotated[int, typer.Option(help="Of the segmentation network, in every arm.")] = 1000,
    count: Annotated[int, count_option("Synthetic pairs of a set.")] = 100,
    ratio: Annotated[float, typer.Option(help="Share of synthetic cases where an arm mixes.")] = 0.5,
    deform: Annotated[
        bool, typer.Option("--deform", help="Draw images of the arm's own masks, deformed, instead of pairs.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model of pairs, an arm of its own; may be repeated.", show_default=False),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Test on its test cases in configs/splits.yaml [a fifth of the patients].", show_default=False
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Test on this folder.", show_default=False)] = None,
    part: Part = "1/1",
    device: Device = "auto",
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Tell whether synthetic pairs make a network better.

    The same small segmentation network with and without them, on unseen real cases. What an earlier run of the same
    command finished is kept.
    """
    from gen3d.tools.evaluate.downstream import Comparison
    from gen3d.tools.evaluate.downstream import evaluate_downstream as run

    asked = Comparison(
        real,
        generator,
        tuple(set_ or ()),
        numbers("--patients", [patients], int),
        numbers("--curve", [curve], int),
        seeds,
        training_steps,
        count,
        ratio,
        deform,
        tuple(model or ()),
        dataset,
        test,
    )
    each = parsed_part(part)
    present(lambda advance: run(asked, out, part=each, device=device, dry_run=dry_run, advance=advance), out)
