"""Activation checkpointing: what a gradient needs is computed again instead of kept (Chen et al. 2016)."""

from collections.abc import Callable
from typing import TypeVarTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Inputs = TypeVarTuple("Inputs")


def recomputed(again: bool, block: Callable[[*Inputs], Tensor], *inputs: *Inputs) -> Tensor:
    """Call ``block``; with ``again``, and where a gradient is asked for, keep its inputs only."""
    if not again or not torch.is_grad_enabled():
        return block(*inputs)
    return checkpoint(block, *inputs, use_reentrant=False)


def recompute(module: nn.Module, levels: int) -> None:
    """Let every U-Net inside ``module`` compute its ``levels`` finest levels again in the backward pass."""
    for part in module.modules():
        if hasattr(part, "recompute"):
            part.recompute = levels  # type: ignore[assignment]
