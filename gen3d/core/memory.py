"""What a computation would take, without doing it: live bytes and floating-point operations on the meta device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gen3d.core.precision import use_precision
from gen3d.nn.norm import GroupNormSiLU


@dataclass(frozen=True)
class Taken:
    """What a computation takes besides what was there before it.

    Attributes:
        peak: Most bytes alive at one moment.
        left: Bytes alive at its end, such as gradients.
        flop: Floating-point operations of its convolutions and matrix products, two for a multiplication with addition.
    """

    peak: int
    left: int
    flop: float


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every tensor storage made under it, from its making to its freeing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (place := x.untyped_storage())._cdata not in self.alive | inputs:
                self.alive.add(place._cdata)
                self.now += place.nbytes()
                self.peak = max(self.peak, self.now)
                finalize(place, self.free, place._cdata, place.nbytes())
        return out

    def free(self, place: int, size: int) -> None:
        """Count a storage out."""
        self.alive.discard(place)
        self.now -= size


def taken(work: Callable[[], object]) -> Taken:
    """Do ``work`` twice on tensors of the meta device, where it costs nothing; return what it would take elsewhere.

    Libraries' workspaces and an allocator's rounding are not in it.
    """
    with LiveBytes() as live:
        work()
    with FlopCounterMode(display=False) as flop:  # apart: it holds on to what is computed again
        work()
    return Taken(live.peak, live.now, float(flop.get_total_flops()))


class Fused(torch.autograd.Function):
    """A norm as a compiler fuses it: keeps its input and no more, and needs nothing besides its answer."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(weight, bias, x)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return room for the gradient of each input."""
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors)


def to_meta(module: nn.Module, dtype: torch.dtype) -> None:
    """Move a module to the meta device as it trains elsewhere: layers in ``dtype`` as by autocast, norms fused."""
    module.to("meta")
    use_precision(module, dtype)
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            layer.to(dtype).register_forward_pre_hook(lambda _, args: tuple(x.to(dtype) for x in args))
        if isinstance(layer, GroupNormSiLU):
            layer.forward = partial(Fused.apply, layer.weight, layer.bias)  # type: ignore[method-assign]
