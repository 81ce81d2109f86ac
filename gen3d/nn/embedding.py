"""What a network is told besides its image: the noise level, which contrasts are there, numbers, a class."""

import math
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class EmbeddingConfig(Protocol):
    """What ``Embedding`` reads of a network's configuration, see ``UNetConfig``."""

    @property
    def width(self) -> int: ...
    @property
    def present(self) -> int: ...
    @property
    def vector(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def latent(self) -> int: ...


def sinusoid(t: Tensor, width: int, period: float = 10_000.0) -> Tensor:
    """Return cos(t w_i), then sin(t w_i), with w_i = period**(-i / (width // 2)): (B,) -> (B, width).

    Vaswani et al. 2017, section 3.5, in the order of Ho et al. 2020; an odd width ends with a zero.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return nnf.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


class Embedding(nn.Module):
    """Everything that is not an image, as one vector: (B,) times and their company -> (B, 4 * width).

    The time goes through a sinusoid and two layers; flags, numbers and the class are added, linear in what they say. A
    random draw goes through two layers of its own.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        inner = 4 * config.width
        self.width = config.width
        self.time = nn.Sequential(nn.Linear(config.width, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.present = nn.Linear(config.present, inner) if config.present else None
        self.vector = nn.Linear(config.vector, inner) if config.vector else None
        self.label = nn.Embedding(config.classes, inner) if config.classes else None
        mapping = (nn.Linear(config.latent, inner), nn.SiLU(), nn.Linear(inner, inner)) if config.latent else None
        self.latent = nn.Sequential(*mapping) if mapping else None

    def forward(
        self,
        t: Tensor,
        present: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        for name, value in {"present": present, "vector": vector, "label": label, "latent": latent}.items():
            if (value is None) != (getattr(self, name) is None):
                raise ValueError(f"this network {'needs' if value is None else 'was not built for'} '{name}'")
        embedding = self.time(sinusoid(t, self.width))
        if self.present is not None and present is not None:
            embedding = embedding + self.present(present.float())
        if self.vector is not None and vector is not None:
            embedding = embedding + self.vector(vector)
        if self.label is not None and label is not None:
            known = (label >= 0).unsqueeze(1)
            embedding = embedding + self.label(label.clamp(min=0)) * known
        if self.latent is not None and latent is not None:
            embedding = embedding + self.latent(latent)
        return embedding
