"""The codebook of 3D MedDiffusion: each code is the running mean of what is mapped to it (van den Oord et al. 2017)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch import distributed as dist

from gen3d.core.randomness import derive, generator

DISTANCES = 2**24  # held at once in a search: 64 MB


class Quantised(NamedTuple):
    """What quantising a latent gives.

    Attributes:
        vectors: (B, c, x, y, z), each the code next to its latent; their gradient goes to the latent unchanged.
        codes: (B, x, y, z), their numbers.
        commitment: $\\beta \\, mean \\, (z - sg(e))^2$, what draws the latent to its codes.
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    r"""Replaces each latent vector z by the nearest of K codes e (van den Oord et al. 2017, appendix A.1).

    Training, wherever a gradient is asked for, keeps running counts N of the vectors mapped to each code; their running
    sum is N e:

    $N' = \gamma N + (1 - \gamma) n, \quad e' = (\gamma N e + (1 - \gamma) \sum z) / N'$.

    The first batch gives the first codes. A code whose N falls below ``restart`` becomes a vector of the batch, its N
    with it (the official code leaves count and sum where the code died, which draws it back). Which vectors are taken
    follows from the batch and from the saved number of updates alone. With several processes all learn the same.

    Args:
        size: K.
        channels: Length of a code.
        decay: $\gamma$.
        restart: Least running count of a living code.
        commitment: $\beta$.
    """

    def __init__(
        self, size: int, channels: int, *, decay: float = 0.99, restart: float = 1.0, commitment: float = 0.25
    ) -> None:
        super().__init__()
        self.decay, self.restart, self.commitment = decay, restart, commitment
        self.register_buffer("vectors", torch.randn(size, channels, generator=generator("codebook")))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("frozen", torch.tensor(False))

    vectors: Tensor
    counts: Tensor
    updates: Tensor
    initialised: Tensor
    frozen: Tensor

    def freeze(self, frozen: bool = True) -> None:
        """Protect every buffer from any update, whatever ``train()`` says; the flag is saved with the model."""
        self.frozen.fill_(frozen)

    def forward(self, latent: Tensor) -> Quantised:
        """Quantise a latent (B, c, x, y, z) and, in training, learn from it."""
        learns = self.training and torch.is_grad_enabled() and not bool(self.frozen)
        if learns and not bool(self.initialised):
            self._initialise(flat(latent.detach()))
        codes = self.nearest(latent)
        vectors = self.lookup(codes)  # a copy: learning leaves it alone
        if learns:
            self._learn(flat(latent.detach()), codes.flatten())
        commitment = self.commitment * nnf.mse_loss(latent, vectors)
        return Quantised(latent + (vectors - latent).detach(), codes, commitment)

    @torch.no_grad()
    def nearest(self, latent: Tensor) -> Tensor:
        """Return the numbers of the nearest codes, (B, c, x, y, z) -> (B, x, y, z), at most 64 MB of distances held."""
        rows = flat(latent)
        half = self.vectors.square().sum(1) / 2
        step = max(1, DISTANCES // len(half))
        codes = [torch.addmm(half, part, self.vectors.T, alpha=-1).argmin(1) for part in rows.split(step)]
        return torch.cat(codes).unflatten(0, (latent.shape[0], *latent.shape[2:]))

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the codes of these numbers, (B, x, y, z) -> (B, c, x, y, z), channels last."""
        return nnf.embedding(codes, self.vectors).movedim(-1, 1)

    def perplexity(self, codes: Tensor) -> Tensor:
        r"""Return $\exp(-\sum p \log p)$ of how often each code occurs: how many codes are in effect used."""
        share = torch.bincount(codes.flatten(), minlength=len(self.vectors)) / codes.numel()
        return torch.special.entr(share).sum().exp()

    @property
    def dead(self) -> Tensor:
        """Share of codes whose running count is below ``restart``."""
        return (self.counts < self.restart).float().mean()

    @torch.no_grad()
    def _initialise(self, rows: Tensor) -> None:
        self._set(torch.ones_like(self.counts, dtype=torch.bool), self._drawn(rows))
        self.initialised.fill_(True)

    @torch.no_grad()
    def _learn(self, rows: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes, minlength=len(self.vectors)).to(self.counts)
        sums = torch.zeros_like(self.vectors).index_add_(0, codes, rows)
        if dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        sums = torch.lerp(self.vectors * self.counts[:, None], sums, 1 - self.decay)
        self.counts.lerp_(counts, 1 - self.decay)
        self.vectors.copy_(sums / self.counts.clamp(min=1e-7)[:, None])
        self._set(self.counts < self.restart, self._drawn(rows))
        self.updates.add_(1)

    def _drawn(self, rows: Tensor) -> Tensor:
        """Return a vector of the batch for each code, no vector twice while there are others."""
        size = len(self.vectors)
        draw = generator(derive("codebook", int(self.updates)))
        order = torch.cat([torch.randperm(len(rows), generator=draw) for _ in range(-(-size // len(rows)))])[:size]
        vectors = rows[order.to(rows.device)].float()
        if size > len(rows):
            jitter = torch.randn(vectors.shape, generator=draw) * 0.01 / math.sqrt(vectors.shape[1])
            vectors = vectors + jitter.to(vectors)
        if dist.is_initialized():
            dist.broadcast(vectors, 0)
        return vectors

    def _set(self, which: Tensor, vectors: Tensor) -> None:
        """Let the codes marked in ``which`` be these vectors, each as if seen ``restart`` times a batch."""
        self.vectors.copy_(torch.where(which[:, None], vectors, self.vectors))
        self.counts.masked_fill_(which, self.restart)


def flat(latent: Tensor) -> Tensor:
    """(B, c, x, y, z) -> (B x y z, c), float32."""
    return latent.movedim(1, -1).flatten(0, -2).float()
