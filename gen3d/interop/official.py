"""Official checkpoints of every family that ``gen3d import`` knows, by its name."""

from pathlib import Path

from gen3d.core.error import UsageError, nearest
from gen3d.systems import find_model

FAMILIES: dict[str, tuple[str, ...]] = {  # the options that each takes besides --config
    "wdm": (),
    "cwdm": ("target",),
    "meddiffusion-ae": (),
    "meddiffusion": ("autoencoder",),
    "maisi-vae": ("modality", "licence"),
}


def import_official(
    family: str,
    checkpoint: Path,
    folder: Path,
    *,
    config: Path | None = None,
    target: str | None = None,
    autoencoder: str | None = None,
    modality: str | None = None,
    licence: str | None = None,
    dry_run: bool = False,
) -> None:
    """Write a saved model from an official checkpoint; no code that the file names is run.

    Args:
        family: One of FAMILIES.
        checkpoint: The official file.
        folder: Where the model is written.
        config: The official configuration as JSON; by default that in the checkpoint, else the official release's.
        target: What a cWDM network makes.
        autoencoder: Folder, shipped name or hub id of the autoencoder that a latent diffusion model stands on.
        modality: Whose grey scale MAISI's autoencoder takes, ct or mri.
        licence: Of its weights; by default the release's for the modality.
        dry_run: Read and check everything, write nothing.

    Raises:
        UsageError: The family is unknown, or takes no such option.
        UserError: A file is damaged or does not fit, or the folder holds something else.
    """
    if family not in FAMILIES:
        raise UsageError(f"import: '{family}' is unknown{nearest(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
    options = {"target": target, "autoencoder": autoencoder, "modality": modality, "licence": licence}
    for option, value in options.items():
        if value is not None and option not in FAMILIES[family]:
            raise UsageError(f"--{option} {value}: a {family} checkpoint has no {option}; leave it out")
    if family in ("wdm", "cwdm"):
        from gen3d.interop.wdm import import_checkpoint

        import_checkpoint(family, checkpoint, config, target, folder, dry_run=dry_run)
    elif family == "maisi-vae":
        from gen3d.interop.maisi import import_maisi_vae

        import_maisi_vae(checkpoint, config, folder, modality=modality or "ct", licence=licence, dry_run=dry_run)
    elif family == "meddiffusion-ae":
        from gen3d.interop.meddiffusion import import_autoencoder

        import_autoencoder(checkpoint, config, folder, dry_run=dry_run)
    else:
        from gen3d.interop.meddiffusion import import_meddiffusion

        found = None if autoencoder is None else find_model(autoencoder)
        import_meddiffusion(checkpoint, config, found, folder, dry_run=dry_run)
