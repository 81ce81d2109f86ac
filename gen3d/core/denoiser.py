"""A network and its four coefficients make a denoiser."""

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.parameterization import Parameterization, broadcast
from gen3d.core.precision import precision_context


class Denoiser(nn.Module):
    r"""$E[x_0 \mid x, \sigma, condition]$: float32 in and out, whatever happens inside.

    Pads the far ends of every axis longer than 1 to the network's stride by repeating the edge, and crops the answer.

    Args:
        network: Called as ``network(c_in * x, c_noise, **condition.parts())``; has an integer ``stride``.
        parameterization: The four coefficients.
    """

    def __init__(self, network: nn.Module, parameterization: Parameterization) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.parameterization = parameterization
        self.compute_dtype = torch.float32

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """Estimate the clean coordinates: x (B, C, x, y, z), sigma () or (B,) -> (B, C, x, y, z)."""
        c = self.parameterization.coefficients(sigma.expand(x.shape[0]))
        parts = condition.parts() if condition is not None else {}
        size, stride = x.shape[2:], int(getattr(self.network, "stride", 1))
        x_in = pad_to_stride(broadcast(c.c_in, x) * x, stride).contiguous(memory_format=torch.channels_last_3d)
        if "channels" in parts:
            parts["channels"] = pad_to_stride(parts["channels"], stride)
        with precision_context(x.device, self.compute_dtype):
            output = self.network(x_in, c.c_noise.to(x.device), **parts)
        output = output.float()[..., : size[0], : size[1], : size[2]]
        return broadcast(c.c_skip, x) * x + broadcast(c.c_out, x) * output


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Lengthen every axis longer than 1 to a multiple of ``stride`` by repeating its last element."""
    widths: list[int] = []
    for n in reversed(x.shape[2:]):
        widths += [0, -n % stride if n > 1 else 0]
    return nnf.pad(x, widths, mode="replicate") if any(widths) else x
