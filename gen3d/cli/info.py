"""``gen3d info`` and ``doctor``: models, installation, environment."""

from typing import Annotated

import typer

from gen3d.cli.options import WHICH, Debug, model_names, model_option


def info(
    model: Annotated[
        str | None,
        typer.Argument(help=f"{WHICH[:-1]} [all that are shipped].", show_default=False, autocompletion=model_names),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the shipped models, or say all about one.

    With the versions of what they run on.
    """
    from gen3d.tools.info import show_environment, show_model

    show_environment() if model is None else show_model(model)


def doctor(
    model: Annotated[str | None, model_option(f"{WHICH[:-1]} [all that are shipped].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say what of this installation is unsound, and how to mend it.

    Packages, device, models, brain extractors.
    """
    from gen3d.tools.doctor import doctor as run

    if not run(model, as_json=as_json):
        raise typer.Exit(1)
