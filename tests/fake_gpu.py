"""A GPU that isn't there: layouts and number formats by PyTorch's fake tensors, and any wait for it an error.

Reading a number off a fake tensor raises; so does a copy from the host that does not say ``non_blocking``. Only without
gradients: autograd wants a build with CUDA.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.functional import conv3d
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)


class WithoutGuard(TorchFunctionMode):
    """Index by plain views, as a build without CUDA can't enter its device, and watch copies to it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        if not any(isinstance(part, FakeTensor) or (isinstance(part, torch.device) and part == GPU) for part in given):
            with unset_fake_temporarily():  # the host computes as ever
                return func(*args, **kwargs)
        if func is Tensor.__getitem__ and args[0].device == GPU:
            return indexed(*args)
        out = func(*args, **kwargs)
        if func is conv3d and out.device == GPU and args[0].stride(1) == 1:
            return out.to(memory_format=torch.channels_last_3d)  # as cuDNN does, which a build without CUDA doesn't ask
        if func is Tensor.to and args[0].device.type == "cpu" and out.device == GPU:
            assert kwargs.get("non_blocking"), f"a copy of {tuple(out.shape)} to the GPU that waits for it"
        return out


def indexed(x: Tensor, index: Any) -> Tensor:
    """Return x[index] for integers, slices of step 1, None and an ellipsis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        left_out = x.ndim - sum(part is not None for part in parts) + 1
        parts[place : place + 1] = [slice(None)] * left_out
    axis = 0
    for part in parts:
        if part is None:
            x = x.unsqueeze(axis)
        elif isinstance(part, slice):
            start, stop, _ = part.indices(x.shape[axis])
            x = x.narrow(axis, start, stop - start)
        else:
            x = x.select(axis, part)
            axis -= 1
        axis += 1
    return x


@contextmanager
def autocast(device: torch.device | str, dtype: torch.dtype) -> Iterator[None]:
    """Enter CUDA's autocast, which torch.autocast refuses where there is no CUDA."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Give the device of a GPU that isn't there."""
    monkeypatch.setattr("gen3d.core.denoiser.precision_context", autocast)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), WithoutGuard():
        yield GPU


def on_gpu(module: torch.nn.Module) -> torch.nn.Module:
    """Move a module's parameters and buffers to the fake GPU, keeping their layout."""
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, value in store.items():
                if value is not None:
                    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)
                    store[name] = torch.nn.Parameter(fake, requires_grad=False) if store is part._parameters else fake  # type: ignore[assignment]
    return module
