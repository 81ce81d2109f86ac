"""The one place that decides in which number format networks compute."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import nn

from gen3d.core.error import UserError

NAMES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision(NamedTuple):
    """A number format and why it was chosen."""

    dtype: torch.dtype
    reason: str


def choose_precision(device: torch.device | str, asked: str = "auto") -> Precision:
    """Choose bf16 where the device has matrix units for it, fp16 on older GPUs, else fp32; or what was asked for.

    Args:
        device: Where the network runs.
        asked: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        KeyError: ``asked`` is none of these.
        UserError: The device is a CPU that convolves hundreds of times slower in it.
    """
    device = torch.device(device)
    if asked != "auto":
        if device.type == "cpu" and not on_this_cpu(NAMES[asked]):
            raise UserError(
                f"precision '{asked}': this CPU has no arithmetic for it and would take hundreds of times as long; "
                "use auto or fp32"
            )
        return Precision(NAMES[asked], "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(torch.bfloat16, "the GPU computes in bf16")
        return Precision(torch.float16, "the GPU has no bf16")
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return Precision(torch.bfloat16, "the CPU multiplies matrices in bf16")
    return Precision(torch.float32, f"this {device.type} computes in fp32")


def on_this_cpu(dtype: torch.dtype) -> bool:
    """Tell whether this CPU convolves in a number format at all fast: narrow ones want AVX-512 or newer."""
    if dtype == torch.float32:
        return True
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    return torch.backends.mkldnn.is_available() and bool(getattr(torch.ops.mkldnn, name)())


def precision_context(device: torch.device | str, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Enter mixed precision at the border of a whole network: master weights stay fp32, norms' statistics too."""
    kind = torch.device(device).type
    if dtype == torch.float32 or kind == "meta":  # which autocast does not know: see memory.to_meta
        return nullcontext()
    return torch.autocast(kind, dtype=dtype)


def use_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Set the number format of every whole network inside ``module`` (those that have a ``compute_dtype``)."""
    for part in module.modules():
        if hasattr(part, "compute_dtype"):
            part.compute_dtype = dtype  # type: ignore[assignment]


def store_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of convolutions and linear maps in ``dtype``, for sampling alone: no call casts them again."""
    for part in module.modules():
        if hasattr(part, "compute_dtype"):
            for layer in part.modules():
                if isinstance(layer, nn.Conv3d | nn.Linear):
                    layer.to(dtype)
