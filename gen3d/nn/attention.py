"""Self-attention over all voxels of a volume, and over a sequence of tokens."""

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.nn.conv import Conv


def attended(qkv: Tensor, heads: int) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v of each head, side by side: (B, N, 3 * heads * d) -> (B, N, heads * d).

    q, k and v follow one another, each head by head (Vaswani et al. 2017, equation 1).
    """
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return nnf.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention of tokens, (B, N, C) both; C is a multiple of ``heads``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(attended(self.qkv(x), self.heads))
        return out


class VolumeAttention(nn.Module):
    """x + out(attention(norm(x))) where every voxel attends to every voxel: (B, C, X, Y, Z) both.

    The norm standardises the channels of each voxel and scales them by ``gamma``; ``heads`` heads of ``head_width``
    channels each, without a bias before the attention.
    """

    def __init__(self, channels: int, heads: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.gamma = nn.Parameter(torch.ones(channels))
        self.qkv = nn.Linear(channels, 3 * heads * head_width, bias=False)
        self.out = Conv(heads * head_width, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = nnf.layer_norm(tokens, tokens.shape[-1:]) * self.gamma
        attention = attended(self.qkv(tokens), self.heads)
        return x + self.out(attention.transpose(1, 2).unflatten(2, x.shape[2:]))
