"""Group norm and SiLU as one step that keeps layout and number format (Wu & He 2018; Ramachandran et al. 2017)."""

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

TRUSTED = 2**15  # voxels; on more, PyTorch sums channels last on CPUs to 3e-4 (64 cubed) and 6e-3 (128 cubed) only


class GroupNormSiLU(nn.GroupNorm):
    r"""$silu(\gamma \hat x + \beta)$ with $\hat x$ the standardised groups of channels: (B, C, X, Y, Z) both.

    Statistics are float32 whatever x is; the answer has x's number format and stays channels last.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and (x.dtype != torch.float32 or x.shape[2:].numel() <= TRUSTED):
            y = nnf.group_norm(known_channels_last(x), self.num_groups, self.weight, self.bias, self.eps)
            return nnf.silu(y, inplace=not y.requires_grad)
        return group_norm_silu(x, self.num_groups, self.weight, self.bias, self.eps)


def known_channels_last(x: Tensor) -> Tensor:
    """Give a batch of one the strides by which PyTorch knows channels last; sums of two tensors leave it others."""
    if x.shape[0] > 1 or x.stride(1) != 1:
        return x
    return x.movedim(1, -1).flatten(0, -2).unflatten(0, (1, *x.shape[2:])).movedim(-1, 1)


def group_norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Do the same in plain operations, for GPUs: their own group norm turns channels last into contiguous."""
    parts = x.movedim(1, -1).unflatten(-1, (groups, -1))
    variance, mean = torch.var_mean(parts.float(), dim=(1, 2, 3, 5), correction=0, keepdim=True)
    scale = (variance + eps).rsqrt() * weight.float().unflatten(0, (groups, -1))
    shift = bias.float().unflatten(0, (groups, -1)) - mean * scale
    y = torch.addcmul(shift, parts, scale)
    return nnf.silu(y, inplace=not y.requires_grad).to(x.dtype).flatten(-2).movedim(-1, 1)


def norm_silu(channels: int, groups: int) -> GroupNormSiLU:
    """Return one with at most ``groups`` groups: the most that divide both."""
    return GroupNormSiLU(math.gcd(groups, channels), channels, eps=1e-5)
