"""MAISI's variational autoencoder (NV-Generate-CTMR) as a saved model; its weights have a licence of their own."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3d.core.checkpoint import load_state, read_json, save_model
from gen3d.core.error import UsageError, UserError
from gen3d.data.intensity import Intensity
from gen3d.latent.autoencoder import KLAutoencoder, KLAutoencoderConfig
from gen3d.latent.discriminator import DiscriminatorConfig
from gen3d.latent.kl import KLConfig
from gen3d.latent.patches import Window

TARGET = "AutoencoderKlMaisi"
LICENCES = {
    "ct": "NVIDIA Open Model License, "
    "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
    "mri": "NVIDIA OneWay Noncommercial License, "
    "https://developer.download.nvidia.com/licenses/NVIDIA-OneWay-Noncommercial-License-22Mar2022.pdf",
}
INTENSITIES: dict[str, Intensity | Window] = {
    "ct": Window(low=-1000.0, high=1000.0, to=(0.0, 1.0)),
    "mri": Intensity(percentiles=(0.0, 99.5), to=(0.0, 1.0), clip=False),
}
KNOWN = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1}


def import_maisi_vae(
    checkpoint: Path,
    config: Path | None,
    folder: Path,
    *,
    modality: str = "ct",
    licence: str | None = None,
    dry_run: bool = False,
) -> None:
    """Write a saved model ("kl-ae") from MAISI's ``autoencoder_v1.pt`` or ``autoencoder_v2.pt``.

    Args:
        checkpoint: Plain tensors, bare or under ``unet_state_dict``; one with a pickle payload is refused.
        config: MAISI's ``config_network_*.json``, or its ``autoencoder_def`` alone; by default the release's shape.
        folder: Where the model is written.
        modality: Whose grey scale it takes: "ct" is -1000..1000 HU to 0..1, "mri" the percentiles 0 and 99.5.
        licence: Of the weights, as their publisher states it; by default that of the release for the modality.
        dry_run: Read and check everything, write nothing.

    Raises:
        UsageError: The modality is unknown.
        UserError: A file is damaged or does not fit, or the folder exists.
    """
    if modality not in INTENSITIES:
        raise UsageError(f"modality '{modality}': expected one of {', '.join(INTENSITIES)}")
    if Path(folder).exists() and any(Path(folder).iterdir()):
        raise UserError(f"{folder}: exists and is not empty; choose a new folder")
    system = KLAutoencoder(
        KLAutoencoderConfig(
            contrasts=(modality,),
            axes="RAS",
            intensity=INTENSITIES[modality],
            crop=(128, 128, 128),
            discriminator=DiscriminatorConfig(weight=0.0),
            network=read_config(config) if config else KLConfig(architecture="maisi", projection=False),
        )
    ).eval()
    load_weights(system, read_weights(Path(checkpoint)), Path(checkpoint))
    with open(checkpoint, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    licence = licence or LICENCES[modality]
    system.provenance = {
        "imported": {"network": {"file": Path(checkpoint).name, "sha256": digest}},
        "source": "MAISI, NVIDIA (https://github.com/NVIDIA-Medtech/NV-Generate-CTMR)",
        "licence": licence,
    }
    if not dry_run:
        save_model(system, folder, card=card(system))


def read_config(path: Path) -> KLConfig:
    """Read MAISI's description of its autoencoder.

    What only saves memory (``num_splits``, ``dim_split``, ``norm_float16``) is read over: it changes no weight.

    Raises:
        UserError: It is no such description, or of an autoencoder that this one can't be.
    """
    tree = read_json(path)
    shape: dict[str, Any] = tree.get("autoencoder_def", tree)
    if str(shape.get("_target_", TARGET)).rpartition(".")[2] != TARGET:
        raise UserError(f"{path}: describes {shape['_target_']}; expected {TARGET}")
    resolved = {key: referred(tree, value, path) for key, value in shape.items()}
    for key, value in KNOWN.items():
        if resolved.get(key, value) != value:
            raise UserError(f"{path}: {key} is {resolved[key]}; only {value} can be read")
    blocks = resolved.get("num_res_blocks", 2)
    blocks = {blocks} if isinstance(blocks, int) else set(blocks)
    if len(blocks) != 1:
        raise UserError(f"{path}: num_res_blocks differs by level; only equal ones can be read")
    try:
        return KLConfig(
            architecture="maisi",
            channels=tuple(resolved["num_channels"]),
            latent_channels=int(resolved["latent_channels"]),
            blocks=blocks.pop(),
            groups=int(resolved.get("norm_num_groups", 32)),
            eps=float(resolved.get("norm_eps", 1e-6)),
            attention=tuple(resolved["attention_levels"]),
            middle=(
                bool(resolved.get("with_encoder_nonlocal_attn", False)),
                bool(resolved.get("with_decoder_nonlocal_attn", False)),
            ),
            transposed=bool(resolved.get("use_convtranspose", False)),
            projection=bool(resolved.get("include_fc", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a description of MAISI's autoencoder ({error})") from None


def referred(tree: dict[str, Any], value: Any, path: Path) -> Any:
    """Return a value, or the one elsewhere in the file that "@name" stands for.

    Raises:
        UserError: The file does not say.
    """
    if not (isinstance(value, str) and value.startswith("@")):
        return value
    if value[1:] not in tree:
        raise UserError(f"{path}: refers to {value}, which it does not define")
    return tree[value[1:]]


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, float32."""
    state = load_state(checkpoint)
    state = state.get("unet_state_dict", state)
    return {
        name.removeprefix("module."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def load_weights(system: KLAutoencoder, state: dict[str, Tensor], checkpoint: Path) -> None:
    """Load all tensors and no others.

    Raises:
        UserError: They do not fit the network.
    """
    expected = system.network.network.state_dict()
    if (odd := sorted(state.keys() ^ expected.keys())) or (
        odd := [name for name in expected if state[name].shape != expected[name].shape]
    ):
        raise UserError(
            f"{checkpoint}: does not fit MAISI's autoencoder (first difference: {odd[0]}); give its --config"
        )
    system.network.network.load_state_dict(state)


def card(system: KLAutoencoder) -> str:
    """Return the model card."""
    entry = system.provenance["imported"]["network"]
    return "\n".join(
        [
            "# MAISI's variational autoencoder, imported",
            "",
            f"Weights of `{entry['file']}` (SHA-256 {entry['sha256']}), converted by `gen3d import maisi-vae`.",
            f"From {system.provenance['source']}.",
            "",
            f"**Licence of the weights:** {system.provenance['licence']}. Read it before you share them.",
            "",
            "For research; not a medical device. What it decodes is synthetic.",
            "",
        ]
    )
