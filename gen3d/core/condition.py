"""What a denoiser is told besides the noisy coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Everything a network may be told.

    How a part enters (added, concatenated, attended to) is the network's business.

    Attributes:
        channels: Known contrasts, masks, an image to segment, (B, k, x, y, z).
        present: Which of the known contrasts are there, (B, m) bool. Zeros alone never mean absent.
        tokens: Earlier visits, (B, n, d).
        valid: Which tokens are real, (B, n) bool.
        label: Class, kernel or rater, (B,) int64; -1 is unconditional.
        vector: Age, spacing, days to predict, (B, v).
        latent: A random draw for every block, one per item and shared by all its windows, (B, w).
    """

    channels: Tensor | None = None
    present: Tensor | None = None
    tokens: Tensor | None = None
    valid: Tensor | None = None
    label: Tensor | None = None
    vector: Tensor | None = None
    latent: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """Return the parts that are there, by name."""
        return {f.name: part for f in fields(self) if (part := getattr(self, f.name)) is not None}

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same condition on ``device``."""
        return replace(self, **{name: part.to(device) for name, part in self.parts().items()})

    def window(self, window: Sequence[slice]) -> "Condition":
        """Return the condition of one spatial window (x, y, z); only ``channels`` has a place in space."""
        if self.channels is None:
            return self
        return replace(self, channels=self.channels[(slice(None), slice(None), *window)])
