"""Low-rank changes of convolutions and linear maps, trained in the place of their weights (LoRA, Hu et al. 2022)."""

import copy
import math
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)


class LowRank(nn.Module):
    r"""Adds a matrix of low rank to a frozen weight, $W + B A$, zero at first.

    Args:
        weight: (outputs, inputs, ...), which is seen as a matrix (outputs, rest).
        rank: Of the change.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns).to(weight) / math.sqrt(columns))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def adapt(module: nn.Module, rank: int) -> None:
    """Freeze the weights of all convolutions and linear maps and give each a low-rank change to train.

    What else there is, biases and norms, is trained as it was. A weight becomes a buffer, so that ``parameters()``
    holds what is trained alone.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            weight = layer.weight.detach().contiguous()
            parametrize.register_parametrization(layer, "weight", LowRank(weight, rank), unsafe=True)
            frozen = cast(nn.Module, layer.parametrizations.weight)  # type: ignore[union-attr]
            del frozen.original
            frozen.register_buffer("original", weight)


def merged(module: M) -> M:
    """Return the module with every low-rank change added to its weight, itself if there is none."""
    if not any(parametrize.is_parametrized(part) for part in module.modules()):
        return module
    module = copy.deepcopy(module)
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            weight = layer.weight.detach().clone()  # type: ignore[operator]
            layer.__class__ = type(layer).__bases__[0]  # torch's own way back would spoil the module copied from
            del layer.parametrizations
            layer.weight = nn.Parameter(weight)
    return module
