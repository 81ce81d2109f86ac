"""``gen3d train``."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.options import Config, Debug, Device, Overrides


def train(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Run folder; a checkpoint in it is resumed [runs/CONFIG].", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, train nothing; prepared cases are kept in data.cache.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a model as a configuration file says.

    What an earlier run of the same command finished is kept: a checkpoint in the run folder is resumed.
    """
    from gen3d.core.distributed import end_process
    from gen3d.tools.train import packaged_config, run_training

    run_training(packaged_config(config), overrides or [], out, device=device, dry_run=dry_run)
    end_process()
