"""A network and its four coefficients make a denoiser."""

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.graphs import Replayed
from gen3d.core.parameterization import Parameterization, broadcast, sent
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
        self.replayed: Replayed | None = None

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """Estimate the clean coordinates: x (B, C, x, y, z), sigma () or (B,) -> (B, C, x, y, z).

        A sigma on the CPU costs a GPU no waiting, wherever x is.
        """
        c = self.parameterization.coefficients(sigma.expand(x.shape[0]))
        parts = condition.parts() if condition is not None else {}
        if "channels" in parts:
            parts["channels"] = self.entering(parts["channels"])
        with precision_context(x.device, self.compute_dtype):
            call = self.replayed if self.replayed and not torch.is_grad_enabled() else self.network
            output = call(self.entering(broadcast(c.c_in, x) * x), sent(c.c_noise, x.device), **parts)
        output = output[..., : x.shape[2], : x.shape[3], : x.shape[4]]
        output = output.to(torch.float32, memory_format=torch.contiguous_format)
        return broadcast(c.c_skip, x) * x + broadcast(c.c_out, x) * output

    def entering(self, x: Tensor) -> Tensor:
        """Bring what the network takes to its stride, number format and layout, channels last."""
        x = pad_to_stride(x, int(getattr(self.network, "stride", 1)))
        return x.to(self.compute_dtype, memory_format=torch.channels_last_3d)


def replay(module: nn.Module) -> None:
    """Let every denoiser inside ``module`` replay its network as a CUDA graph when it is asked without gradients."""
    for part in module.modules():
        if isinstance(part, Denoiser):
            part.replayed = Replayed(part.network)


def compile_networks(module: nn.Module) -> None:
    """Let every denoiser inside ``module`` compile its network at the first call of each shape."""
    for part in module.modules():
        if isinstance(part, Denoiser):
            part.network.compile()


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Lengthen every axis longer than 1 to a multiple of ``stride`` by repeating its last element."""
    widths: list[int] = []
    for n in reversed(x.shape[2:]):
        widths += [0, -n % stride if n > 1 else 0]
    return nnf.pad(x, widths, mode="replicate") if any(widths) else x
