"""BiFlowNet in the official 3D MedDiffusion checkpoints: its configuration and key names, told in ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gen3d.core.checkpoint import read_json
from gen3d.core.error import UserError, nearest
from gen3d.interop.weights import ADVICE, nothing_left
from gen3d.latent.biflownet import BiFlowNet, BiFlowNetConfig

RELEASE: dict[str, Any] = {
    "dim": 72,
    "dim_mults": (1, 1, 2, 4, 8),
    "channels": 8,
    "init_kernel_size": 3,
    "cond_classes": 7,
    "use_sparse_linear_attn": (0, 0, 0, 1, 1),
    "sub_volume_size": (8, 8, 8),
    "patch_size": 1,
    "num_mid_DiT": 1,
    "attn_heads": 8,
    "resnet_groups": 24,
    "DiT_num_heads": 8,
    "timesteps": 1000,
}
FIXED: dict[str, Any] = {"learn_sigma": False, "vq_size": 64, "mlp_ratio": 4, "res_condition": True, "init_dim": None}
OPTIONS = {  # the training script's names for the same
    "model_dim": "dim",
    "volume_channels": "channels",
    "num_classes": "cond_classes",
    "use_attn": "use_sparse_linear_attn",
    "num_dit": "num_mid_DiT",
}
IRRELEVANT = (
    "data_path", "results_dir", "loss_type", "enable_amp", "model", "AE_ckpt", "epochs", "global_seed", "num_workers",
    "batch_size", "resolution", "log_every", "ckpt_every", "ckpt", "params", "keys", "name",
)  # fmt: skip

BLOCKS = (  # the number behind downs.N and ups.N
    ("0", "blocks.0"),
    ("1", "attention.0"),
    ("2", "blocks.1"),
    ("3", "attention.1"),
)
NAMES = (
    (r"^init_conv", "encoder.stem"),
    (r"^time_mlp\.1", "encoder.told.time.0"),
    (r"^time_mlp\.3", "encoder.told.time.2"),
    (r"^cond_emb", "encoder.told.label"),
    (r"^res_mlp", "encoder.told.resolution"),
    (r"^pos_embed$", "encoder.positions"),
    (r"^x_embedder\.proj", "encoder.tokens"),
    (r"^IntraPatchFlow_input\.(\d+)\.0", r"encoder.flow.\1"),
    (r"^IntraPatchFlow_input\.(\d+)\.1", r"encoder.fuse.\1"),
    (r"^IntraPatchFlow_mid", "middle"),
    (r"^IntraPatchFlow_output\.(\d+)\.0", r"flow.\1"),
    (r"^IntraPatchFlow_output\.(\d+)\.1", r"fuse.\1"),
    *((rf"^downs\.(\d+)\.{number}", rf"encoder.down.\1.{ours}") for number, ours in BLOCKS),
    *((rf"^ups\.(\d+)\.{number}", rf"up.\1.{ours}") for number, ours in BLOCKS),
    (r"^ups\.(\d+)\.4", r"enlarge.\1"),
    (r"^mid_block1", "encoder.middle.0"),
    (r"^mid_block2", "encoder.middle.1"),
    (r"^mid_spatial_attn", "encoder.middle_attention"),
    (r"^final_conv\.0", "last"),
    (r"^final_conv\.1", "out"),
    (r"\.attn\.qkv", ".attention.qkv"),
    (r"\.attn\.proj", ".attention.out"),
    (r"\.mlp\.fc1", ".mlp.0"),
    (r"\.mlp\.fc2", ".mlp.2"),
    (r"adaLN_modulation\.1", "modulation"),
    (r"skip_linear", "join"),
    (r"(fuse\.\d+)\.linear", r"\1.out"),
    (r"\.fn\.norm\.gamma", ".gamma"),
    (r"\.fn\.fn\.to_", "."),
    (r"\.mlp\.1\.", ".embed."),
    (r"\.block(\d)\.proj", r".conv\1"),
    (r"\.block(\d)\.norm", r".norm\1"),
    (r"\.res_conv", ".skip"),
)


@dataclass(frozen=True)
class Official:
    """What an official configuration says."""

    network: BiFlowNetConfig
    steps: int


def official_config(path: Path | None, options: Mapping[str, Any]) -> Official:
    """Read an official configuration; what it leaves out is as in the checkpoint's ``options``, then as released.

    Raises:
        UserError: The file is damaged, has an unknown key, or asks for what the network doesn't have.
    """
    tree = read_json(path) if path is not None else {}
    if isinstance(tree.get("config"), dict):
        tree = tree["config"]
    where = str(path) if path is not None else "the checkpoint's options"
    known = [*RELEASE, *FIXED, *OPTIONS, *IRRELEVANT]
    for key in tree:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    named = {OPTIONS.get(key, key): value for key, value in {**options, **tree}.items()}
    for key, value in FIXED.items():
        if named.get(key, value) != value:
            raise UserError(f"{where}: {key} = {named[key]!r} is not supported; 3D MedDiffusion has {value!r}")
    values = {**RELEASE, **{key: value for key, value in named.items() if key in RELEASE}}
    try:
        return _official(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a value of the wrong kind ({error})") from None


def _official(values: Mapping[str, Any]) -> Official:
    patch = {int(n) for n in values["sub_volume_size"]}
    if len(patch) != 1:
        raise ValueError(f"sub_volume_size: expected a cube, found {values['sub_volume_size']}")
    network = BiFlowNetConfig(
        channels=int(values["channels"]),
        width=int(values["dim"]),
        multipliers=tuple(int(m) for m in values["dim_mults"]),
        attention=tuple(bool(a) for a in values["use_sparse_linear_attn"]),
        heads=int(values["attn_heads"]),
        groups=int(values["resnet_groups"]),
        kernel=int(values["init_kernel_size"]),
        patch=patch.pop(),
        token=int(values["patch_size"]),
        middle=int(values["num_mid_DiT"]),
        transformer_heads=int(values["DiT_num_heads"]),
        classes=int(values["cond_classes"] or 0),
    )
    return Official(network, int(values["timesteps"]))


def load_weights(network: BiFlowNet, weights: Mapping[str, Tensor], where: str = "checkpoint") -> None:
    """Give a network an official state dict.

    Raises:
        UserError: A tensor is missing, left over, or of another shape.
    """
    rest = {own_name(name, network.config): (name, tensor) for name, tensor in weights.items()}
    translated = {}
    for own, expected in network.state_dict().items():
        name, tensor = rest.pop(own, (own, None))
        if tensor is None:
            raise UserError(f"{where}: no tensor for '{own}'; {ADVICE}")
        if tensor.squeeze().shape != expected.squeeze().shape:  # norms and positions have axes of length 1 there
            found, wanted = tuple(tensor.shape), tuple(expected.shape)
            raise UserError(f"{where}: '{name}' has the shape {found}, expected {wanted}; {ADVICE}")
        translated[own] = tensor.float().reshape(expected.shape)
    nothing_left((name for name, _ in rest.values()), where)
    network.load_state_dict(translated)


def own_name(name: str, config: BiFlowNetConfig) -> str:
    """Return our name of an official tensor: "init_conv.bias" -> "encoder.stem.bias"."""
    if shrink := re.match(r"downs\.(\d+)\.4", name):
        return f"encoder.shrink.{int(shrink[1]) - config.fused + 1}{name[shrink.end() :]}"
    for pattern, ours in NAMES:
        name = re.sub(pattern, ours, name)
    return name
