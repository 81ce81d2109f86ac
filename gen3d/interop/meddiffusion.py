"""Official 3D MedDiffusion checkpoints, autoencoder and diffusion model, as saved models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gen3d.core.checkpoint import save_model
from gen3d.core.error import UserError
from gen3d.core.parameterization import Cosine, Epsilon
from gen3d.interop.biflownet import Official, load_weights, official_config
from gen3d.interop.patch_volume import read_autoencoder
from gen3d.interop.unpickle import plain, read_foreign
from gen3d.interop.wdm import card, merged, provenance
from gen3d.latent.autoencoder import PatchVolumeAutoencoder, PatchVolumeAutoencoderConfig
from gen3d.latent.discriminator import DiscriminatorConfig
from gen3d.latent.frozen import AbsentConfig
from gen3d.latent.meddiffusion import CLASSES, MedDiffusion, MedDiffusionConfig
from gen3d.systems import load


def import_meddiffusion(
    checkpoint: Path, config: Path | None, autoencoder: Path | None, folder: Path, *, dry_run: bool = False
) -> None:
    """Write a saved model from an official checkpoint of a BiFlowNet, its averaged weights where it has them.

    Args:
        checkpoint: A dict with "ema", or a bare state dict.
        config: Its options as JSON, by the names of the network or of the training script; by default those in the
            checkpoint, else the 8x release's.
        autoencoder: The saved model of its autoencoder; without one the network can be asked, and nothing generated.
        folder: Where the model is written.
        dry_run: Read and check everything, write nothing.

    Raises:
        UserError: A file is damaged or does not fit, or the folder holds something.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    weights, options = read_checkpoint(checkpoint)
    official = official_config(config, options)
    system = build_system(official, autoencoder)
    load_weights(system.network, weights, str(checkpoint))
    system.provenance = provenance(system, checkpoint)
    whole = merged(system.eval(), folder)
    if not dry_run:
        save_model(whole, folder, card=card(whole))


def import_autoencoder(checkpoint: Path, config: Path | None, folder: Path, *, dry_run: bool = False) -> None:
    """Write a saved model from an official checkpoint of a Patch-Volume autoencoder.

    Args:
        checkpoint: A Lightning ``.ckpt`` or a bare state dict.
        config: Its configuration as JSON; by default that in the checkpoint, else the 8x release's.
        folder: Where the model is written.
        dry_run: Read and check everything, write nothing.

    Raises:
        UserError: A file is damaged or does not fit, or the folder holds something.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    network = read_autoencoder(checkpoint, config)
    told = PatchVolumeAutoencoderConfig(
        contrasts=("image",),
        axes="SRA",
        network=network.config,
        stage="volume",
        discriminator=DiscriminatorConfig(weight=0),  # the official one is of no use without training it on
    )
    system = PatchVolumeAutoencoder(told)
    system.network.load_state_dict(network.state_dict())
    system.provenance = provenance(system, checkpoint)
    whole = merged(system.eval(), folder)
    if not dry_run:
        save_model(whole, folder, card=card(whole))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the averaged weights of a checkpoint, else its only ones, and the options it was trained with.

    Raises:
        UserError: The file is missing, damaged, or holds no weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    tree = plain(read_foreign(path))
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: refused: expected a dict of tensors, found {type(tree).__name__}")
    weights = next((tree[key] for key in ("ema", "model") if isinstance(tree.get(key), Mapping)), tree)
    weights = {key.removeprefix("module."): value for key, value in weights.items() if isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{path}: holds no tensors under 'ema' or 'model', nor a bare state dict")
    options = tree.get("args", {})
    return weights, dict(options) if isinstance(options, Mapping) else {}


def build_system(official: Official, autoencoder: Path | None) -> MedDiffusion:
    """Return the system of an official configuration, weights yet to come, around a saved autoencoder if there is one.

    Raises:
        UserError: The autoencoder is no such model, or has another latent.
    """
    count = official.network.classes
    trained: Any = load(autoencoder) if autoencoder is not None else None
    if trained is not None and not hasattr(trained.network, "moments"):
        raise UserError(f"{autoencoder}: a model of {trained.name}, no autoencoder; expected what import made of one")
    shape = AbsentConfig(latent_channels=official.network.channels) if trained is None else trained.network.config
    try:
        config = MedDiffusionConfig(
            network=official.network,
            autoencoder=shape,
            classes=CLASSES if count == len(CLASSES) else tuple(f"class_{i}" for i in range(count)),
            parameterization=Epsilon(Cosine(steps=official.steps, largest=0.9999)),
            scaling="codebook" if hasattr(shape, "codes") else "statistics",
        )
    except ValueError as error:
        raise UserError(f"the checkpoint's configuration does not fit this system: {error}") from None
    system = MedDiffusion(config)
    if trained is not None:
        system.adopt(trained.network)
    return system
