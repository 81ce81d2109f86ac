"""``gen3d import``, ``push``, ``pull`` and ``bundle``: models from elsewhere and to elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import wrote
from gen3d.cli.options import Debug, DryRun, ModelArgument, Out


def import_(
    family: Annotated[
        str, typer.Argument(help="wdm, cwdm, meddiffusion-ae, meddiffusion or maisi-vae.", show_default=False)
    ],
    checkpoint: Annotated[Path, typer.Argument(help="An official checkpoint.", show_default=False)],
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="JSON of its options [the official release's].", show_default=False)
    ] = None,
    target: Annotated[str | None, typer.Option(help="cwdm: which contrast it makes [t1n].", show_default=False)] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="meddiffusion: the saved model of its autoencoder, imported before.", show_default=False),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="maisi-vae: whose grey scale it takes, ct or mri [ct].", show_default=False)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="maisi-vae: of the weights [the release's].", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Turn an official checkpoint into a saved model.

    Several cwdm targets go into one folder.
    """
    from gen3d.interop.official import import_official

    import_official(
        family,
        checkpoint,
        out,
        config=config,
        target=target,
        autoencoder=autoencoder,
        modality=modality,
        licence=licence,
        dry_run=dry_run,
    )
    wrote(out, dry_run=dry_run)


def push(
    model: ModelArgument,
    to: Annotated[str, typer.Argument(help="A folder, or hub:OWNER/NAME.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see a repository that is made.")] = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Copy a saved model to a folder or to the Hugging Face hub.

    Its SHA-256s are checked first.
    """
    from gen3d.interop.hub import push as run

    wrote(run(model, to, public=public, dry_run=dry_run), dry_run=dry_run)


def pull(
    source: Annotated[str, typer.Argument(help="hub:OWNER/NAME, or a folder.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Where to [the hub's cache: --model OWNER/NAME finds it].", show_default=False
        ),
    ] = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Fetch a saved model from the Hugging Face hub or a folder.

    Its SHA-256s are checked; no code is ever fetched.
    """
    from gen3d.interop.hub import pull as run

    wrote(run(source, out, dry_run=dry_run), dry_run=dry_run)


def bundle(model: ModelArgument, out: Out, dry_run: DryRun = False, debug: Debug = False) -> None:
    """Write a saved model as a MONAI bundle, which runs gen3d."""
    from gen3d.interop.bundle import write_bundle

    wrote(write_bundle(model, out, dry_run=dry_run), dry_run=dry_run)
