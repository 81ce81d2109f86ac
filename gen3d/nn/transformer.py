"""Transformer blocks whose norms an embedding scales, shifts and gates (DiT, Peebles & Xie 2023), on volumes."""

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.nn.attention import Attention


class DiTBlock(nn.Module):
    """x + g attention(n(x)), then x + g mlp(n(x)), with n(x) = (1 + s) norm(x) + b and s, b, g linear in silu(e).

    Tokens (B, W, N, C) in W windows that do not see one another, an embedding e (B, embedding) -> (B, W, N, C). With
    ``joined``, x and ``skip`` are first mapped side by side to C channels. The gates start at zero (adaLN-Zero).
    """

    def __init__(self, channels: int, heads: int, embedding: int, *, ratio: int = 4, joined: bool = False) -> None:
        super().__init__()
        self.join = nn.Linear(2 * channels, channels) if joined else None
        self.attention = Attention(channels, heads)
        self.mlp = nn.Sequential(
            nn.Linear(channels, ratio * channels), nn.GELU(approximate="tanh"), nn.Linear(ratio * channels, channels)
        )
        self.modulation = zeroed(nn.Linear(embedding, 6 * channels))

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.join is not None and skip is not None:
            x = self.join(torch.cat([x, skip], dim=-1))
        b1, s1, g1, b2, s2, g2 = self.modulation(nnf.silu(embedding))[:, None, None].chunk(6, dim=-1)
        windows = x.shape[:2]
        x = x + g1 * self.attention(modulated(x, s1, b1).flatten(0, 1)).unflatten(0, windows)
        return x + g2 * self.mlp(modulated(x, s2, b2))


class TokensToVoxels(nn.Module):
    """linear((1 + s) norm(x) + b): (B, W, N, C) and e (B, embedding) -> (B, W, N, outputs), zero at the start."""

    def __init__(self, channels: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(embedding, 2 * channels))
        self.out = zeroed(nn.Linear(channels, outputs))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = self.modulation(nnf.silu(embedding))[:, None, None].chunk(2, dim=-1)
        out: Tensor = self.out(modulated(x, scale, shift))
        return out


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return (1 + scale) norm(x) + shift, each token's channels standardised, in the number format of ``x``."""
    return torch.addcmul(shift, nnf.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale).to(x.dtype)


def zeroed(linear: nn.Linear) -> nn.Linear:
    """Set a linear map to zero, so that what it says starts as nothing."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def cut(x: Tensor, side: int) -> Tensor:
    """Cut a volume into cubes of ``side``: (B, C, X, Y, Z) -> (B, windows, side**3, C)."""
    x = x.unflatten(4, (-1, side)).unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4, 6).flatten(1, 3)


def joined(tokens: Tensor, size: tuple[int, int, int], side: int, token: int) -> Tensor:
    """Put cubes together again: (B, windows, side**3, token**3 * C) -> (B, C, X, Y, Z), ``size`` = (X, Y, Z).

    The channels of a token are its ``token``**3 voxels, C of each.
    """
    x, y, z = (n // (side * token) for n in size)
    parts = tokens.unflatten(3, (token, token, token, -1)).unflatten(2, (side, side, side)).unflatten(1, (x, y, z))
    return parts.permute(0, 10, 1, 4, 7, 2, 5, 8, 3, 6, 9).reshape(tokens.shape[0], -1, *size)


def positions(width: int, side: int) -> Tensor:
    """Return where each token of a cube stands, (side**3, width): a sine and a cosine part for each axis in turn.

    Each axis takes width // 6 frequencies $10000^{-i / n}$ (Vaswani et al. 2017); what is left over stays zero.
    """
    count = width // 6
    frequencies = 10_000.0 ** -(torch.arange(count, dtype=torch.float64) / max(count, 1))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    axes = torch.meshgrid([torch.arange(side)] * 3, indexing="ij")
    table = torch.cat([line[axis.flatten()] for axis in axes], dim=1)
    return nnf.pad(table, (0, width - table.shape[1])).float()
