"""The autoencoder that a latent diffusion model stands on: chosen by ``kind``, or not there yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from gen3d.core.config import build
from gen3d.core.error import UsageError, UserError, nearest
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.kl import KL, KLConfig
from gen3d.latent.patch_volume import PatchVolume


@dataclass(frozen=True)
class AbsentConfig:
    """No autoencoder, as in a checkpoint of a diffusion model alone; it had this stride and these latent channels."""

    kind: Literal["absent"] = "absent"
    stride: int = 8
    latent_channels: int = 8


class Absent(nn.Module):
    """Stands where an autoencoder is missing: the diffusion network can be asked, nothing be encoded or decoded."""

    def __init__(self, config: AbsentConfig) -> None:
        super().__init__()
        self.config = config
        self.stride, self.latent_channels = config.stride, config.latent_channels

    def moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse.

        Raises:
            UserError: Always.
        """
        raise self.refusal

    def voxels(self, latent: Tensor) -> Tensor:
        """Refuse.

        Raises:
            UserError: Always.
        """
        raise self.refusal

    @property
    def refusal(self) -> UserError:
        """What is to be said."""
        return UserError("this model has no autoencoder: import it again with --autoencoder FOLDER")


AUTOENCODERS: dict[str, tuple[type, type[nn.Module]]] = {
    "patch_volume": (PatchVolumeConfig, PatchVolume),
    "kl": (KLConfig, KL),
    "absent": (AbsentConfig, Absent),
}


def architecture(given: Any) -> Any:
    """Return an autoencoder's configuration, built from plain values whose ``kind`` names it where it is none yet.

    Raises:
        UsageError: The kind is unknown, or a value is.
    """
    if not isinstance(given, Mapping):
        return given
    kind = str(given.get("kind"))
    if kind not in AUTOENCODERS:
        raise UsageError(
            f"autoencoder.kind: '{kind}' is none of {', '.join(AUTOENCODERS)}{nearest(kind, AUTOENCODERS)}"
        )
    return build(AUTOENCODERS[kind][0], given, "autoencoder")


def build_autoencoder(config: Any) -> Any:
    """Return the autoencoder of a configuration, with new weights that are not to be trained."""
    return AUTOENCODERS[config.kind][1](config).requires_grad_(False)
