"""Activation checkpointing: what a gradient needs is computed again instead of kept (Chen et al. 2016)."""

from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

P = ParamSpec("P")


def recomputed(again: bool, block: Callable[P, Tensor], *args: P.args, **kwargs: P.kwargs) -> Tensor:
    """Call ``block``; with ``again``, and where a gradient is asked for, keep its inputs only."""
    if not again or not torch.is_grad_enabled():
        return block(*args, **kwargs)
    return checkpoint(block, *args, use_reentrant=False, **kwargs)  # type: ignore[no-any-return]


def recompute(module: nn.Module, levels: int) -> None:
    """Let every U-Net inside ``module`` compute its ``levels`` finest levels again in the backward pass."""
    for part in module.modules():
        if hasattr(part, "recompute"):
            part.recompute = levels
