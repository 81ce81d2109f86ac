"""Convolutions within a plane: networks of 2D images need no weights across slices."""

import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.nn.conv import Conv


class PlaneConv(nn.Conv3d):
    """A 3x3x1 convolution, zero-padded to keep the size: (B, C, X, Y, Z), each slice by itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, (3, 3, 1), padding=(1, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 1:  # conv2d is the faster of the two
            return nnf.conv2d(x[..., 0], self.weight[..., 0], self.bias, padding=1)[..., None]
        return nnf.conv3d(x, self.weight, self.bias, padding=(1, 1, 0))


def planar(network: nn.Module) -> nn.Module:
    """Put a ``PlaneConv`` in the place of every 3x3x3 convolution of a network; it starts as the central slice."""
    for name, part in network.named_children():
        if isinstance(part, Conv) and part.kernel_size == (3, 3, 3):
            flat = PlaneConv(part.in_channels, part.out_channels)
            flat.weight.data.copy_(part.weight.data[..., 1:2])
            flat.bias = part.bias
            setattr(network, name, flat)
        else:
            planar(part)
    return network
