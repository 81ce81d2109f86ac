"""Autoencoders of the official 3D MedDiffusion checkpoints: their configuration and key names, told in ours."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3d.core.checkpoint import read_json
from gen3d.core.error import UserError, nearest
from gen3d.interop.unpickle import plain, read_foreign
from gen3d.interop.weights import nothing_left, taken
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.patch_volume import PatchVolume

Names = Iterator[tuple[str, str]]

OWN = {
    "image_channels": "image_channels",
    "embedding_dim": "latent_channels",
    "n_codes": "codes",
    "n_hiddens": "width",
    "num_groups": "groups",
    "patch_size": "patch",
    "restart_thres": "restart",
}
FIXED: dict[str, Any] = {"norm_type": "group", "no_random_restart": False}
IRRELEVANT = (
    "batch_size", "default_root_dir", "disc_channels", "disc_layers", "disc_loss_type", "discriminator_iter_start",
    "gan_feat_weight", "gpus", "i3d_feat", "imgtype", "l1_weight", "lr", "max_epochs", "max_steps", "num_workers",
    "perceptual_3d", "perceptual_weight", "precision", "resume_from_checkpoint", "root_dir", "seed", "stage", "volume",
    "volume_gan_weight",
)  # fmt: skip
BLOCK = ("norm1", "conv1", "norm2", "conv2")
TRAINED_WITH = ("perceptual_loss.", "volume_discriminator.", "image_discriminator.", "codebook.z_avg")


def read_autoencoder(checkpoint: Path, config: Path | None = None) -> PatchVolume:
    """Build the autoencoder of an official checkpoint and give it the checkpoint's weights, in float32.

    Its codebook is frozen. No code that the checkpoint names is run.

    Args:
        checkpoint: A Lightning ``.ckpt``, or a ``.pt`` of plain tensors, with or without "state_dict" around them.
        config: Its configuration as JSON, flat or nested under "config" or "model" and "dataset"; by default the one
            in the checkpoint, or else the 8x release's.

    Raises:
        UserError: A file is missing or damaged, or they don't fit each other.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such checkpoint file")
    content = read_foreign(checkpoint)
    if not isinstance(content, Mapping):
        raise UserError(f"{checkpoint}: refused: expected a dict of tensors, found {type(content).__name__}")
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping):
        raise UserError(f"{checkpoint}: refused: its 'state_dict' is no dict of tensors")
    if config is not None:
        official = official_config(read_json(config), str(config))
    else:
        official = official_config(_stored(content, [*OWN, *FIXED, "downsample"]), str(checkpoint))
    with torch.device("meta"):
        network = PatchVolume(official)
    network.load_state_dict(translate(weights, network, str(checkpoint)), assign=True)
    return network.eval()


def official_config(tree: Mapping[str, Any], where: str = "config") -> PatchVolumeConfig:
    """Return the configuration that an official one tells; what it leaves out is the 8x release's.

    Raises:
        UserError: A value is of the wrong kind, or asks for what the release does not have.
    """
    flat: dict[str, Any] = {}
    _flatten(tree, flat)
    known = [*OWN, *FIXED, "downsample", *IRRELEVANT]
    for key, value in flat.items():
        if key in FIXED and value != FIXED[key]:
            raise UserError(f"{where}: {key} = {value!r} is not supported; 3D MedDiffusion has {FIXED[key]!r}")
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    values = {OWN[key]: value for key, value in flat.items() if key in OWN}
    try:
        values = {key: float(value) if key == "restart" else int(value) for key, value in values.items()}
        if "downsample" in flat:
            factors = {int(factor) for factor in flat["downsample"]}
            if len(factors) != 1:
                raise UserError(f"{where}: downsample = {flat['downsample']} is not supported; expected equal factors")
            values["stride"] = factors.pop()
        return PatchVolumeConfig(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a value of the wrong kind ({error})") from None


def translate(weights: Mapping[str, Any], network: PatchVolume, where: str = "checkpoint") -> dict[str, Tensor]:
    """Return an official state dict under the names that ``network`` uses, without what it was only trained with.

    Raises:
        UserError: A tensor is missing, left over, or of another shape.
    """
    rest = {name: value for name, value in weights.items() if not str(name).startswith(TRAINED_WITH)}
    names = dict(official_names(network.config))
    translated = {}
    for own, expected in network.state_dict().items():
        if own in ("codebook.initialised", "codebook.frozen", "codebook.updates"):
            translated[own] = torch.tensor(0 if own == "codebook.updates" else True)
            continue
        prefix, _, kind = own.rpartition(".")
        name = f"{names[prefix]}.{kind}" if prefix in names else names[own]
        tensor = taken(rest, name, expected, where)
        layout = torch.channels_last_3d if tensor.ndim == 5 else torch.contiguous_format
        translated[own] = tensor.float().contiguous(memory_format=layout)
    nothing_left(rest, where)
    return translated


def official_names(config: PatchVolumeConfig) -> Names:
    """List our names and the official ones: of layers, and of the codebook's buffers."""
    yield from (("encoder.pre", "pre_vq_conv"), ("decoder.post", "post_vq_conv"))
    yield from (("codebook.vectors", "codebook.embeddings"), ("codebook.counts", "codebook.N"))
    for half, between, there in (("encoder", "shrink", "down"), ("decoder", "enlarge", "up.conv_trans")):
        yield f"{half}.stem", f"{half}.conv_first"
        for level in range(len(config.channels)):
            for block in range(2):
                yield from _block(f"{half}.levels.{level}.{block}", f"{half}.conv_blocks.{level}.res{block + 1}")
            yield f"{half}.{between}.{level}", f"{half}.conv_blocks.{level}.{there}"
        yield from _block(f"{half}.middle.0", f"{half}.mid_block.res1")
        yield from _block(f"{half}.middle.2", f"{half}.mid_block.res2")
        for own, official in (("norm", "norm"), ("qkv", "to_qkv"), ("out", "to_out")):
            yield f"{half}.middle.1.{own}", f"{half}.mid_block.attn.{official}"
        yield from ((f"{half}.out_norm", f"{half}.final_block.0"), (f"{half}.out", f"{half}.final_block.2"))


def _block(own: str, official: str) -> Names:
    yield from ((f"{own}.{part}", f"{official}.{part}") for part in BLOCK)
    yield f"{own}.skip", f"{official}.resConv"


def _stored(content: Mapping[str, Any], known: Collection[str]) -> Mapping[str, Any]:
    """Return what is ``known`` of the configuration that a Lightning checkpoint carries, or nothing."""
    flat: dict[str, Any] = {}
    told = plain(content.get("hyper_parameters", {}))
    if isinstance(told, Mapping):
        _flatten(told, flat)
    return {key: value for key, value in flat.items() if key in known}


def _flatten(tree: Mapping[str, Any], flat: dict[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _flatten(value, flat)
        else:
            flat[str(key)] = value
