"""``gen3d export``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import note, progress, warned
from gen3d.cli.options import Aliases, Debug, DryRun, Out, input_option
from gen3d.cli.values import separated


def export(
    results: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output folder of gen3d synthesize.", show_default=False)
    ],
    source: Annotated[Path, input_option("The originals: its -i.")],
    to: Annotated[str, typer.Option(help="nnunet, bids or dicom.", show_default=False)],
    out: Out,
    channels: Annotated[
        list[str] | None,
        typer.Option(help="nnunet: contrasts in the order of its channels [the model's].", show_default=False),
    ] = None,
    aliases: Aliases = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Turn what synthesize made into nnU-Net, BIDS or DICOM.

    An nnU-Net data set, a BIDS derivative, or DICOM series. What an earlier run wrote there is replaced.
    """
    from gen3d.tools.dataset import LIST
    from gen3d.tools.export import export as run

    def done(case: str, made: Sequence[str], given: Sequence[str]) -> None:
        kinds = (("synthetic", made), ("acquired", given))
        parts = [f"{kind} {', '.join(names)}" for kind, names in kinds if names]
        verb = "would export" if dry_run else "exported"
        print(f"{case}: {verb} {' and '.join(parts)}" if parts else f"{case}: nothing in it is synthetic")

    with progress("export") as advance:
        found = run(
            results,
            source,
            to,
            out,
            aliases=aliases,
            channels=None if channels is None else separated(channels),
            dry_run=dry_run,
            advance=advance,
            done=done,
            failed=warned(debug=debug),
            note=note,
        )
    where = f"{out / LIST} lists them" if found.outputs and not dry_run else "nothing was written"
    verb = "would be exported" if dry_run else "exported"
    print(f"{found.cases} case{'' if found.cases == 1 else 's'}: {found.counted(verb)}; {where}")
    if found.failures:
        raise typer.Exit(1)
