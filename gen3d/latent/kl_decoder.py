"""MONAI's KL decoders seen level by level, as decoding in bounded memory wants them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gen3d.core.error import UserError


@dataclass(frozen=True)
class Block:
    """A residual block of MONAI's: its two norms, its two convolutions, its shortcut."""

    norm1: nn.GroupNorm
    conv1: nn.Conv3d
    norm2: nn.GroupNorm
    conv2: nn.Conv3d
    skip: nn.Module


class KLDecoder:
    """Views of the parts of a MONAI autoencoder that decode, named as in ``halves.Decoder``; nothing is copied.

    Args:
        network: The autoencoder.
        middle: Whether its decoder attends after the stem.
        dtype: Number format to compute in.

    Raises:
        UserError: A level after the coarsest attends, which needs the whole volume at once.
    """

    silu_last, reach = False, 2

    def __init__(self, network: Any, middle: bool, dtype: torch.dtype) -> None:
        self.network, self.compute_dtype = network, dtype
        blocks = list(network.decoder.blocks)
        first = 4 if middle else 1
        self.before, self.after = blocks[:first], blocks[first:-2]
        self.out_norm, self.out = blocks[-2], bare(blocks[-1])
        self.levels: list[list[Block]] = [[]]
        self.enlarge: list[nn.Module] = []
        for block in self.after:
            if hasattr(block, "norm2"):
                parts = (block.norm1, bare(block.conv1), block.norm2, bare(block.conv2), block.nin_shortcut)
                self.levels[-1].append(Block(*parts))
            elif "Attention" in type(block).__name__:
                raise UserError(
                    "--memory: this autoencoder attends in its levels: it decodes at once only; leave it out"
                )
            else:
                self.enlarge.append(block)
                self.levels.append([])
        self.channels = [level[-1].conv2.out_channels for level in self.levels]
        self.stride, self.inner = 2 ** len(self.enlarge), self.channels[0]

    def head(self, latent: Tensor) -> Tensor:
        """Do what comes before the levels."""
        h = self.network.post_quant_conv(latent.to(memory_format=torch.channels_last_3d))
        for block in self.before:
            h = block(h)
        return h.to(memory_format=torch.channels_last_3d)

    def tail(self, h: Tensor) -> Tensor:
        """Do what comes after ``head``."""
        for block in (*self.after, self.out_norm, self.out):
            h = block(h)
        return h


def bare(convolution: Any) -> nn.Conv3d:
    """Return PyTorch's convolution that MONAI has wrapped, once or twice."""
    while not isinstance(convolution, nn.Conv3d):
        convolution = convolution.conv
    return convolution
