"""Convolution, pooling and enlarging for volumes in which an axis may have length 1 (a 2D image is Z = 1)."""

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

Factor = tuple[int, int, int]


class Conv(nn.Conv3d):
    """A 3D convolution, zero-padded to keep the size; along an axis of length 1 only the kernel's central slice works.

    The result equals that of the whole kernel on the zero-padded input: the other slices only ever meet zeros.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size[0] == 1:  # a matrix product; some backends would leave channels last for it
            return nnf.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        weight, padding = self.weight, [self.kernel_size[0] // 2] * 3
        for axis in range(3):
            if x.shape[2 + axis] == 1 and padding[axis]:
                weight, padding[axis] = weight.narrow(2 + axis, padding[axis], 1), 0
        if x.shape[4] == 1 and x.device.type == "cpu":  # on volumes of one slice it takes several times as long
            y = nnf.conv2d(x.squeeze(4), weight.squeeze(4), self.bias, padding=padding[:2])
            return y.movedim(1, -1).unsqueeze(3).movedim(-1, 1)
        if slow_on_cpu(x):
            return torch.mkldnn_convolution(x, weight, self.bias, padding, (1, 1, 1), (1, 1, 1), 1)
        if x.device.type == "cpu" and padding[0] and x.shape[2] < self.kernel_size[0]:
            # oneDNN's bf16 gradient of the weights is garbage, up to inf, where two planes are padded (torch 2.13)
            x, padding[0] = nnf.pad(x, (0, 0, 0, 0, padding[0], padding[0])), 0
        return nnf.conv3d(x, weight, self.bias, padding=padding)


def slow_on_cpu(x: Tensor) -> bool:
    """Tell whether conv3d would take its slow path, which loses the layout too: it does for small float32 volumes."""
    return (
        not torch.compiler.is_compiling()  # which chooses for itself, and does not know the other function
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def zeroed(conv: Conv) -> Conv:
    """Set a convolution's weights and bias to zero, so that what it adds starts as nothing."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def halving(x: Tensor) -> Factor:
    """Return how much a level shrinks each spatial axis: 2, and 1 along an axis of length 1."""
    factors = [1 if n == 1 else 2 for n in x.shape[2:]]
    return factors[0], factors[1], factors[2]


def shrink(x: Tensor, factor: Factor) -> Tensor:
    """Average ``factor`` neighbours: (B, C, X, Y, Z) becomes (B, C, X / f, Y / f, Z / f), channels last as x is."""
    x = x.movedim(1, -1)
    for axis, f in enumerate(factor):
        x = x.unflatten(1 + 2 * axis, (-1, f))
    return x.mean(dim=(2, 4, 6)).movedim(-1, 1)


def enlarge(x: Tensor, factor: Factor) -> Tensor:
    """Repeat each voxel ``factor`` times (nearest neighbour), channels last as x is."""
    x = x.movedim(1, -1)
    b, *size, c = x.shape
    repeated = x[:, :, None, :, None, :, None].expand(
        b, *(n for pair in zip(size, factor, strict=True) for n in pair), c
    )
    return repeated.reshape(b, *(n * f for n, f in zip(size, factor, strict=True)), c).movedim(-1, 1)
