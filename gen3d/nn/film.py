"""The residual block whose first norm is scaled and shifted by an embedding (FiLM, Perez et al. 2018)."""

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.nn.conv import Conv
from gen3d.nn.norm import known_channels_last, norm_silu


class FiLMBlock(nn.Module):
    r"""skip(x) + silu(norm2(conv2(silu((1 + s) norm1(conv1(x)) + b)))), with (s, b) linear in silu(e).

    (B, inputs, X, Y, Z) and an embedding e (B, embedding) -> (B, outputs, X, Y, Z); with ``embedding`` 0 there is no e,
    and s = b = 0. At most ``groups`` groups are normed. Convolution comes before the norm, as in 3D MedDiffusion.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.embed = nn.Linear(embedding, 2 * outputs) if embedding else None
        self.conv1 = Conv(inputs, outputs)
        self.norm1 = nn.GroupNorm(math.gcd(groups, outputs), outputs)
        self.conv2 = Conv(outputs, outputs)
        self.norm2 = norm_silu(outputs, groups)
        self.skip = nn.Identity() if inputs == outputs else Conv(inputs, outputs, kernel=1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = nnf.silu(self.filmed(self.conv1(x), embedding))
        h = self.norm2(self.conv2(h))
        return known_channels_last(self.skip(x) + h)

    def filmed(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        """Return the first norm, scaled and shifted; norm and embedding are one scale and one shift per item."""
        scale, shift = self.norm1.weight[None], self.norm1.bias[None]
        if self.embed is not None and embedding is not None:
            more, offset = self.embed(nnf.silu(embedding)).chunk(2, dim=1)
            scale, shift = scale * (1 + more), torch.addcmul(offset, shift, 1 + more)
        normed = nnf.group_norm(h, self.norm1.num_groups, eps=self.norm1.eps)
        y = torch.addcmul(shift[..., None, None, None], normed, scale[..., None, None, None])
        return y.to(h.dtype)
