"""Networks of the official WDM and cWDM checkpoints: their configuration and key names, told in ours.

Both descend from ADM's code (Dhariwal & Nichol 2021), which numbers its blocks along the way down and the way up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen3d.core.checkpoint import load_state, read_json
from gen3d.core.error import UserError, nearest
from gen3d.interop.weights import nothing_left, taken
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.nn.wavelet_unet import WaveletUNet

Pairs = Iterator[tuple[str, str]]

RELEASE: dict[str, Any] = {
    "image_size": 128,
    "num_channels": 64,
    "num_res_blocks": 2,
    "channel_mult": "1,2,2,4,4",
    "dropout": 0.0,
    "num_groups": 32,
    "in_channels": 8,
    "out_channels": 8,
    "additive_skips": True,
    "use_freq": False,
    "diffusion_steps": 1000,
    "dataset": "brats",
}
FIXED: dict[str, Any] = {
    "attention_resolutions": "",
    "bottleneck_attention": False,
    "class_cond": False,
    "dims": 3,
    "learn_sigma": False,
    "noise_schedule": "linear",
    "predict_xstart": True,
    "resample_2d": False,
    "resblock_updown": True,
    "rescale_timesteps": False,
    "use_scale_shift_norm": False,
}
IRRELEVANT = (
    "mode", "num_heads", "num_heads_upsample", "num_head_channels", "rescale_learned_sigmas", "timestep_respacing",
    "use_checkpoint", "use_fp16", "use_kl", "use_new_attention_order",
)  # fmt: skip

BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "embed": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}


@dataclass(frozen=True)
class Official:
    """What an official configuration says."""

    network: UNetConfig
    wavelet: bool = False
    steps: int = 1000
    image_size: int = 128
    dataset: str = "brats"


def official_config(path: Path | None, release: Mapping[str, Any]) -> Official:
    """Read an official configuration: JSON, flat or nested under "config"; keys left out are those of the ``release``.

    Raises:
        UserError: The file is damaged, has an unknown key, or asks for what WDM and cWDM don't have.
    """
    tree = read_json(path) if path is not None else {}
    where = str(path)
    if isinstance(tree.get("config"), dict):
        tree = tree["config"]
    known = [*RELEASE, *FIXED, *IRRELEVANT]
    for key, value in tree.items():
        if key in FIXED and value != FIXED[key]:
            raise UserError(f"{where}: {key} = {value!r} is not supported; WDM and cWDM have {FIXED[key]!r}")
        if key not in known and key not in ("name", "params", "keys"):
            raise UserError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    values = {**RELEASE, **release, **{key: value for key, value in tree.items() if key in RELEASE}}
    try:
        return _official(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a value of the wrong kind ({error})") from None


def _official(values: Mapping[str, Any]) -> Official:
    multipliers = values["channel_mult"]
    if isinstance(multipliers, str):
        multipliers = multipliers.split(",")
    network = UNetConfig(
        in_channels=int(values["in_channels"]),
        out_channels=int(values["out_channels"]),
        width=int(values["num_channels"]),
        multipliers=tuple(int(m) for m in multipliers),
        blocks=int(values["num_res_blocks"]),
        skips="add" if values["additive_skips"] else "concat",
        groups=int(values["num_groups"]),
        dropout=float(values["dropout"]),
    )
    return Official(
        network=network,
        wavelet=bool(values["use_freq"]),
        steps=int(values["diffusion_steps"]),
        image_size=int(values["image_size"]),
        dataset=str(values["dataset"]),
    )


def read_network(checkpoint: Path, official: Official) -> nn.Module:
    """Build the network of an official checkpoint and give it the checkpoint's weights, in float32.

    Raises:
        UserError: The file is missing, holds anything but plain tensors, or belongs to another configuration.
    """
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such checkpoint file")
    weights = load_state(checkpoint)
    with torch.device("meta"):
        network = (WaveletUNet if official.wavelet else UNet)(official.network)
    network.load_state_dict(translate(weights, official, network, str(checkpoint)), assign=True)
    return network.eval()


def translate(
    weights: Mapping[str, Tensor], official: Official, network: nn.Module, where: str = "checkpoint"
) -> dict[str, Tensor]:
    """Return an official state dict under the names that ``network`` (a UNet or WaveletUNet) uses.

    Raises:
        UserError: A tensor is missing, left over, or of another shape.
    """
    prefixes = dict((wavelet_unet_names if official.wavelet else unet_names)(official.network))
    rest, translated = dict(weights), {}
    for own, expected in network.state_dict().items():
        name = official_name(own, prefixes)
        tensor = taken(rest, name, expected, where)
        translated[own] = _channel_major(tensor) if own.startswith("pyramid.") else tensor
    if official.wavelet:
        rest = {name: tensor for name, tensor in rest.items() if not _repeated(name, official.network)}
    nothing_left(rest, where)
    return {own: tensor.float() for own, tensor in translated.items()}


def official_name(own: str, prefixes: Mapping[str, str]) -> str:
    """Return the official name of one of our parameters: "stem.bias" -> "input_blocks.0.0.bias"."""
    prefix = next(prefix for prefix in prefixes if own.startswith(f"{prefix}."))
    part, dot, rest = own.removeprefix(f"{prefix}.").partition(".")
    return f"{prefixes[prefix]}.{BLOCK.get(part, part)}{dot}{rest}"


def _shared_names() -> Pairs:
    yield from (("embedding.time", "time_embed"), ("stem", "input_blocks.0.0"))
    yield from (("middle.0", "middle_block.0"), ("middle.1", "middle_block.1"))
    yield from (("out_norm", "out.0"), ("out", "out.2"))


def unet_names(config: UNetConfig) -> Pairs:
    """List the prefixes of our names and of the official ones, for the U-Net."""
    yield from _shared_names()
    levels, down, up = len(config.multipliers), count(1), count()
    for level in range(levels):
        for block in range(config.blocks):
            yield f"down.{level}.{block}", f"input_blocks.{next(down)}.0"
        if level < levels - 1:
            yield f"shrink.{level}", f"input_blocks.{next(down)}.0"
    for level in range(levels):
        for block in range(config.blocks + 1):
            yield f"up.{level}.{block}", f"output_blocks.{(last := next(up))}.0"
        yield f"enlarge.{level}", f"output_blocks.{last}.1"


def wavelet_unet_names(config: UNetConfig) -> Pairs:
    """List the prefixes of our names and of the official ones, for the wavelet U-Net."""
    yield from _shared_names()
    levels, down, up = len(config.multipliers), count(1), count()
    for level in range(levels):
        for block in range(config.blocks):
            yield f"down.{level}.{block}", f"input_blocks.{next(down)}.0"
        yield f"shrink.{level}", f"input_blocks.{next(down)}.0"
        yield f"pyramid.{level}", f"input_blocks.{next(down)}.0.conv"
    for level in range(levels):
        for block in range(config.blocks):
            yield f"up.{level}.{block}", f"output_blocks.{next(up)}.0"
        yield f"enlarge.{level}", f"output_blocks.{next(up)}.1"
    for block in range(config.blocks):
        yield f"last.{block}", f"out_res.{block}.0"


def _repeated(name: str, config: UNetConfig) -> bool:
    """Say whether a name belongs to a block that the wavelet U-Net calls twice and its checkpoint lists twice."""
    part, _, rest = name.partition(".")
    index, _, rest = rest.partition(".")
    return part == "output_blocks" and int(index) % (config.blocks + 1) == config.blocks and rest.startswith("0.")


def _channel_major(weight: Tensor) -> Tensor:
    """Reorder a pyramid convolution's inputs: officially all channels of LLL first, here all subbands of channel 0."""
    if weight.ndim == 1:
        return weight
    return weight.unflatten(1, (8, -1)).transpose(1, 2).flatten(1, 2)
