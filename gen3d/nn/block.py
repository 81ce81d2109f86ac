"""The residual block of every U-Net here (ADM: Dhariwal & Nichol 2021, appendix A)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, cast

import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.nn.conv import Conv, zeroed
from gen3d.nn.norm import known_channels_last, norm_silu

Resize = Callable[[Tensor], Tensor]
M = TypeVar("M", bound=nn.Module)


class Stack(nn.ModuleList, Generic[M]):
    """A list of modules of one kind."""

    def __init__(self, modules: Iterable[M] = ()) -> None:
        super().__init__(modules)

    def __iter__(self) -> Iterator[M]:
        return cast(Iterator[M], super().__iter__())


class ResidualBlock(nn.Module):
    """skip(r(x)) + conv2(silu(norm2(conv1(r(silu(norm1(x)))) + W silu(e)))), with r resizing or nothing.

    (B, inputs, X, Y, Z) and an embedding e (B, embedding) -> (B, outputs, ...). The second convolution starts at zero.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = norm_silu(inputs, groups)
        self.conv1 = Conv(inputs, outputs)
        self.embed = nn.Linear(embedding, outputs)
        self.norm2 = norm_silu(outputs, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(Conv(outputs, outputs))
        self.skip = nn.Identity() if inputs == outputs else Conv(inputs, outputs, kernel=1)

    def forward(self, x: Tensor, embedding: Tensor, resize: Resize | None = None) -> Tensor:
        h = self.norm1(x)
        if resize is not None:
            h, x = resize(h), resize(x)
        return self.finish(x, self.conv1(h), embedding)

    def finish(self, x: Tensor, h: Tensor, embedding: Tensor) -> Tensor:
        """Do what follows the first convolution: its result ``h``, the block's (resized) input ``x``."""
        h = h + self.embed(nnf.silu(embedding))[..., None, None, None]
        h = self.conv2(self.dropout(self.norm2(h)))
        return known_channels_last(self.skip(x) + h)
