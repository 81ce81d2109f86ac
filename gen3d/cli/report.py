"""``gen3d report``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import note, progress
from gen3d.cli.options import Debug, DryRun, input_option


def report(
    folder: Annotated[Path, typer.Argument(help="What any tool was given by -o.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The page [FOLDER/report.html].", show_default=False)
    ] = None,
    source: Annotated[Path | None, input_option("What the tool was given by -i, to show beside its results.")] = None,
    cases: Annotated[int, typer.Option(help="How many cases are shown, the worst first.")] = 6,
    sheet: Annotated[bool, typer.Option("--sheet", help="Write a PNG of each case shown that has images.")] = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Show what any tool wrote on one HTML page.

    Slices, 3D, scores, provenance; it needs no network.
    """
    from gen3d.tools.report.report import report as run

    with progress("report") as advance:
        made = run(
            folder,
            out,
            source=source,
            count=cases,
            sheet=sheet,
            dry_run=dry_run,
            advance=advance,
            note=note,
        )
    for line in made.lines(dry_run=dry_run):
        print(line)
