"""Labels as coordinates that diffuse: one channel for each class, or one for each binary digit."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

Code = Literal["onehot", "bits"]


class Labels(nn.Module):
    """Integer labels (B, 1, X, Y, Z), 0 for the rest, to codes of -scale and +scale (B, c, X, Y, Z), and back exactly.

    Args:
        classes: Labels, and the rest.
        code: "onehot": a channel for each class; "bits": one for each binary digit of the label, the last digit first
            (analog bits: Chen et al. 2023, https://arxiv.org/abs/2208.04202).
        scale: Amplitude of the code; below 1 the same noise hides more (input scaling: Chen 2023,
            https://arxiv.org/abs/2301.10972).
    """

    stride = 1
    codes: Tensor

    def __init__(self, classes: int, code: Code = "onehot", scale: float = 1.0) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes: expected at least 2, one label and the rest, not {classes}")
        if code not in ("onehot", "bits"):
            raise ValueError(f"code must be 'onehot' or 'bits', not '{code}'")
        if scale <= 0:
            raise ValueError(f"scale: expected above 0, not {scale}")
        self.classes, self.code, self.scale = classes, code, scale
        labels = torch.arange(classes)
        digits = torch.arange((classes - 1).bit_length())
        ones = torch.eye(classes) if code == "onehot" else (labels[:, None] >> digits & 1).float()
        self.register_buffer("codes", scale * (2 * ones - 1), persistent=False)  # (classes, c)

    def encode(self, labels: Tensor) -> Tensor:
        """Return the codes of labels: (B, 1, X, Y, Z) integers -> (B, c, X, Y, Z) float32.

        Raises:
            ValueError: A label is not from 0 to ``classes`` - 1.
        """
        on_cpu = labels.device.type == "cpu"  # elsewhere it would be waited for
        if on_cpu and labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(
                f"labels: expected 0 to {self.classes - 1}, found {int(labels.min())} to {int(labels.max())}"
            )
        return self.codes[labels[:, 0].long()].movedim(-1, 1)

    def decode(self, coords: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Return the label whose code lies nearest: (B, c, X, Y, Z) -> (B, 1, X, Y, Z) int64, cropped to ``size``."""
        if size is not None:
            coords = coords[..., : size[0], : size[1], : size[2]]
        return self._alike(coords).argmax(1, keepdim=True)

    def probabilities(self, coords: Tensor) -> Tensor:
        r"""Return the probability of each class for which ``coords`` is the expected code.

        Each channel is $(1 + x / scale) / 2$, the probability of its digit, clamped to 0..1; a class has the product of
        its digits' (bits, as if independent) or its channel's (one-hot), and the classes are normalised. A code itself
        gives certainty; where all classes have 0, the nearest code is certain.

        Args:
            coords: (B, c, X, Y, Z).

        Returns:
            (B, classes, X, Y, Z) float32 in 0..1, which sum to 1.
        """
        ones = (0.5 + coords.float() / (2 * self.scale)).clamp(0, 1)
        if self.code == "bits":
            chances = [
                torch.where((code > 0).view(-1, 1, 1, 1), ones, 1 - ones).prod(1) for code in self.codes.unbind()
            ]
            ones = torch.stack(chances, dim=1)
        total = ones.sum(1, keepdim=True)
        return torch.where(total > 0, ones / total.clamp(min=1e-12), self.hard(coords))

    def hard(self, coords: Tensor) -> Tensor:
        """Return certainty of the nearest code: (B, c, X, Y, Z) -> (B, classes, X, Y, Z) of 0 and 1, float32."""
        return nnf.one_hot(self.decode(coords)[:, 0], self.classes).movedim(-1, 1).float()

    def channels(self, count: int = 1, size: Sequence[int] | None = None) -> int:
        """Return the channels that ``count`` maps of labels become."""
        return count * self.codes.shape[1]

    def shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return the grid of the coordinates of a volume of ``size``."""
        return size[0], size[1], size[2]

    def _alike(self, coords: Tensor) -> Tensor:
        """Inner product with each class's code; all codes are equally long, so the largest is the nearest."""
        return torch.einsum("kc,bcxyz->bkxyz", self.codes.to(coords), coords)
