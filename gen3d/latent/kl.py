"""KL autoencoders: MONAI's networks, Rombach et al. 2022 (https://arxiv.org/abs/2112.10752) in 3D, and MAISI's."""

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.error import UserError
from gen3d.core.precision import precision_context
from gen3d.latent.decoding import decode_bounded
from gen3d.latent.kl_decoder import KLDecoder

LOG_VARIANCE = -6.0  # at which an untrained encoder starts: from 0 a short training spends itself on noise


@dataclass(frozen=True)
class KLConfig:
    """Shape of a KL autoencoder; the defaults are MAISI's sizes in MONAI's AutoencoderKL.

    Attributes:
        kind: Tells it from other autoencoders where one of several may stand.
        architecture: MONAI's ``AutoencoderKL``, or ``AutoencoderKlMaisi``, which enlarges by trilinear interpolation.
        channels: Of each level, finest first; every level but the last halves the size.
        latent_channels: Of the latent.
        blocks: Residual blocks of each level.
        groups: Of the group norms.
        eps: Added to their variances.
        attention: Whether each level attends; none by default.
        middle: Whether the coarsest level of encoder and decoder attends, (encoder, decoder).
        transposed: Whether transposed convolutions enlarge.
        projection: Whether attention ends in a linear layer.
    """

    kind: Literal["kl"] = "kl"
    architecture: Literal["monai", "maisi"] = "monai"
    channels: tuple[int, ...] = (64, 128, 256)
    latent_channels: int = 4
    blocks: int = 2
    groups: int = 32
    eps: float = 1e-6
    attention: tuple[bool, ...] = ()
    middle: tuple[bool, bool] = (False, False)
    transposed: bool = False
    projection: bool = True

    def __post_init__(self) -> None:
        if any(width % self.groups for width in self.channels):
            raise ValueError(f"channels: expected multiples of groups = {self.groups}, found {self.channels}")
        if self.attention and len(self.attention) != len(self.channels):
            raise ValueError(f"attention: expected one for each of the {len(self.channels)} levels")


class KL(nn.Module):
    r"""A Gaussian over latents, $q(z | x) = N(\mu(x), \sigma(x)^2)$, and back: (B, 1, X, Y, Z) to (B, c, x, y, z).

    Attributes:
        stride: Voxels for each latent voxel along an axis.
        latent_channels: c.
        memory: Bytes that decoding without a gradient may take besides the weights; None: the whole volume at once.

    Raises:
        UserError: MONAI is not installed, or einops, which its attention needs.
    """

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        self.stride, self.latent_channels = 2 ** (len(config.channels) - 1), config.latent_channels
        self.network: Any = build_network(config).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        nn.init.constant_(self.network.quant_conv_log_sigma.conv.bias, LOG_VARIANCE)
        self.compute_dtype = torch.float32
        self.memory: int | None = None

    def moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latent; repeats the far edge up to a multiple of the stride."""
        extra = [-n % self.stride for n in volume.shape[2:]]
        if any(extra):
            volume = nnf.pad(volume, (0, extra[2], 0, extra[1], 0, extra[0]), mode="replicate")
        with precision_context(volume.device, self.compute_dtype):
            mean, deviation = self.network.encode(volume.to(memory_format=torch.channels_last_3d))
        return mean.float().contiguous(), deviation.float().contiguous()

    def voxels(self, latent: Tensor) -> Tensor:
        """Decode a latent to a volume, float32.

        Raises:
            UserError: ``memory`` is too little for one slab of one plane, or the decoder attends in its levels.
        """
        if self.memory is not None and not torch.is_grad_enabled():
            decoder = KLDecoder(self.network, self.config.middle[1], self.compute_dtype)
            return decode_bounded(decoder, latent, self.memory)
        with precision_context(latent.device, self.compute_dtype):
            volume: Tensor = self.network.decode(latent.to(memory_format=torch.channels_last_3d))
        return volume.float().contiguous()


def build_network(config: KLConfig) -> nn.Module:
    """Build MONAI's network without weights of its own choice.

    MAISI's splits convolutions along one axis, rounds norms to float16 and puts their groups together on the CPU, to
    save memory; all are off here: the split is wrong where it does not divide the volume, and float16 is what
    ``gen3d.core.precision`` decides.
    """
    levels = len(config.channels)
    shape: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "num_res_blocks": (config.blocks,) * levels,
        "attention_levels": config.attention or (False,) * levels,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.groups,
        "norm_eps": config.eps,
        "with_encoder_nonlocal_attn": config.middle[0],
        "with_decoder_nonlocal_attn": config.middle[1],
        "use_convtranspose": config.transposed,
        "include_fc": config.projection,
        "use_flash_attention": True,
    }
    network: nn.Module
    try:
        from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiGroupNorm3D
        from monai.networks.nets import AutoencoderKL

        if config.architecture == "maisi":
            plain = {"num_splits": 1, "norm_float16": False, "save_mem": False}
            network = AutoencoderKlMaisi(num_channels=config.channels, **plain, **shape)
            for norm in (part for part in network.modules() if isinstance(part, MaisiGroupNorm3D)):
                norm.__class__ = nn.GroupNorm
        else:
            network = AutoencoderKL(channels=config.channels, **shape)
    except ImportError as error:  # MONAI's attention is made with einops
        lacking = "einops" if "einops" in str(error) else "monai"
        raise UserError(f"this KL autoencoder is MONAI's and needs {lacking}, which is not installed") from None
    return network


def load_old_weights(kl: KL, state: dict[str, Tensor]) -> None:
    """Load weights of MONAI's AutoencoderKL, of its copy in monai-generative too, whose attention had other names.

    Args:
        kl: Of the checkpoint's shape.
        state: A bare state dict; it is not changed.

    Raises:
        UserError: It has other tensors than the network, or tensors of another shape.
    """
    network, left = kl.network, dict(state)
    absent = [name for name in network.state_dict() if name not in state and old_name(name) not in state]
    if absent := [name for name in absent if ".out_proj." not in name]:  # which is the identity where there was none
        raise UserError(f"the checkpoint does not fit the KL autoencoder's configuration (it lacks {absent[0]})")
    try:
        if left.keys() == network.state_dict().keys():
            network.load_state_dict(left)
            return
        with redirect_stdout(StringIO()):
            network.load_old_state_dict(left)
    except (KeyError, RuntimeError) as error:
        reason = f"{' '.join(str(error).split())[:200]}"
        raise UserError(f"the checkpoint does not fit the KL autoencoder's configuration ({reason})") from None
    if left:  # MONAI takes out what it has used
        raise UserError(f"the checkpoint does not fit the KL autoencoder's configuration (unused: {next(iter(left))})")


def old_name(name: str) -> str:
    """Return what monai-generative called a tensor of MONAI's AutoencoderKL."""
    renamed = (("postconv", "conv"), (".attn.to_", ".to_"), (".attn.out_proj", ".proj_attn"))
    for new, old in renamed:
        name = name.replace(new, old)
    return name
