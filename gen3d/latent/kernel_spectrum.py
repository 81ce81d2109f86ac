r"""Which kernel made an image, read off the noise of its flattest tiles; nothing is learnt.

Where an image is flat its power spectrum is $S(f) = a\,N(f) + b\,M(f)^2 f^{-3} + 1/12$: noise of the kernel's spectrum
$N = \sum f M^2$ with what the pixels fold back, what anatomy is left, seen through the same MTF M, and rounding to
whole HU. For each kernel of the family, by sharpness and enhancement, a and b are those under which the tiles' spectrum
is likeliest (Whittle 1953); the answer is the mean of the family, weighted by that likelihood and by what is usual.
Anatomy enters only at low frequencies, so that little hangs on what was scanned.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.latent.kernels import HU, KERNELS, STANDARD, Kernel, nearest_kernel, spectra

TILE, STRIDE = 32, 16
RINGS = 16  # of frequency, up to half a cycle per pixel; the corners' go beyond
FIRST = 2  # ring from which on spectra are compared: below, the tile's window leaks
FLATTEST = 0.25  # share of the tiles, those of least variance
TISSUE_HU = -300.0  # tiles with a lower mean are left out: noise in air is cut off, lungs are full of vessels
AIR_HU = -950.0  # the same where all that a filter acts upon counts, lungs too
LEAST_HU2 = 0.5  # variance from which on a tile has noise at all
ROUNDING_HU2 = 1 / 12
INDEPENDENT = 0.03  # share of a spectrum's values that counts: tiles overlap, windows tie neighbours, models are rough
SLICES = 24  # that a volume is judged by
ROUNDS = 200
SHARPNESS = [i / 20 for i in range(-14, 29)]  # ln(mtf50 / 3.5): from softer than B10 to sharper than B80
ENHANCED = (0.0, 0.1, 0.2, 0.3)
USUAL = 0.1, 0.05  # enhancement beyond the named kernel's: mean and deviation
WIDE = 1.0  # deviation of the sharpness, so that where nothing tells B30 is the answer


def recognised(hu: Tensor, spacing: Sequence[float]) -> Kernel:
    """Return the kernel of the family that an image seems to be made by, "like" a named one; B30 where nothing tells.

    Args:
        hu: Hounsfield units, (X, Y, Z); slices of one reconstruction are judged together.
        spacing: Of X and Y in mm.
    """
    standard = KERNELS[STANDARD]
    if min(hu.shape[:2]) < TILE:
        return standard
    chosen = torch.linspace(0, hu.shape[2] - 1, min(SLICES, hu.shape[2])).round().long()
    power = flattest(hu[..., chosen].double().clamp(*HU))
    if not len(power):
        return standard
    seen, count = averaged(power), rings_count()[FIRST:] * len(power) * INDEPENDENT
    family = [replace(standard.scaled(math.exp(s)), boost=b) for s in SHARPNESS for b in ENHANCED]
    parts = torch.stack([rings(each, spacing) for each in family])
    s, b = (torch.tensor(v, dtype=torch.float64) for v in zip(*itertools.product(SHARPNESS, ENHANCED), strict=True))
    named = torch.tensor([nearest_kernel(float(v)).boost for v in s], dtype=torch.float64)
    usual = ((b - named - USUAL[0]) / USUAL[1]).square() + (s / WIDE).square()
    weight = (log_likelihood(fitted(seen, count, parts), seen, count, parts) - usual / 2).softmax(0)
    sharpness, boost = float(weight @ s), float(weight @ b)
    found = replace(standard.scaled(math.exp(sharpness)), boost=boost)
    return replace(found, name=f"like {nearest_kernel(sharpness).name}")


def content(hu: Tensor, spacing: Sequence[float], kernel: Kernel) -> tuple[float, float]:
    """Return a and b of an image made by a kernel, from all its tiles but those of air; (0, 1) where nothing tells.

    Args:
        hu: Hounsfield units, (X, Y, Z).
        spacing: Of X and Y in mm.
        kernel: Which.
    """
    power = flattest(hu.double().clamp(*HU), 1.0, AIR_HU) if min(hu.shape[:2]) >= TILE else torch.empty(0)
    if not len(power):
        return 0.0, 1.0
    noise, anatomy = fitted(averaged(power), rings_count()[FIRST:], rings(kernel, spacing)[None])[0].tolist()
    return noise, anatomy


def flattest(hu: Tensor, share: float = FLATTEST, least_hu: float = TISSUE_HU) -> Tensor:
    """Return the power spectra of the flattest tiles, (tiles, 32, 17), in HU^2 for white noise of 1 HU."""
    tiles = hu.movedim(-1, 0).unfold(1, TILE, STRIDE).unfold(2, TILE, STRIDE).flatten(0, 2)
    mean, variance = tiles.mean((1, 2)), tiles.var((1, 2))
    tiles = tiles[(mean > least_hu) & (variance > LEAST_HU2)]
    if not len(tiles):
        return tiles
    order = tiles.var((1, 2)).argsort()[: max(1, round(share * len(tiles)))]
    window = torch.hann_window(TILE, dtype=torch.float64)
    window = window[:, None] * window
    flat = tiles[order] - tiles[order].mean((1, 2), keepdim=True)
    return torch.fft.rfft2(flat * window).abs().square() / window.square().sum()


def averaged(power: Tensor) -> Tensor:
    """Return the mean power in rings of tiles' spectra (tiles, 32, 17), (R,)."""
    return (power.mean(0).flatten() @ ring_shares())[FIRST:]


def rings(kernel: Kernel, spacing: Sequence[float]) -> Tensor:
    """Return noise and anatomy behind a kernel, up to a factor each, in rings, (2, R)."""
    return (torch.stack(spectra(kernel, kernel, (TILE, TILE), spacing)).flatten(1) @ ring_shares())[:, FIRST:]


def fitted(seen: Tensor, count: Tensor, parts: Tensor) -> Tensor:
    r"""Return the weights a, b >= 0 of the greatest $-\sum n (\ln S + P / S)$ for each kernel, (K, parts).

    Args:
        seen: P, mean power in rings, (R,).
        count: n, independent values in each, (R,).
        parts: What S is made of besides rounding, (K, parts, R).
    """
    scale = (parts / seen).mean(-1, keepdim=True)
    parts = parts / scale
    weights = torch.full((*parts.shape[:2], 1), 1 / parts.shape[1], dtype=parts.dtype)
    for _ in range(ROUNDS):  # each raises the likelihood (Fevotte & Idier 2011)
        model = (weights * parts).sum(1, keepdim=True) + ROUNDING_HU2
        up, down = ((count * v * parts).sum(-1, keepdim=True) for v in (seen / model.square(), 1 / model))
        weights = weights * (up / down).sqrt()
    return (weights / scale)[..., 0]


def log_likelihood(weights: Tensor, seen: Tensor, count: Tensor, parts: Tensor) -> Tensor:
    """Return the likelihood's logarithm under weights (K, parts), see ``fitted``, (K,)."""
    model = (weights[..., None] * parts).sum(1) + ROUNDING_HU2
    return -(count * (model.log() + seen / model)).sum(-1)


def cycles() -> tuple[Tensor, Tensor]:
    """Return the frequencies of a tile's spectrum in cycles per pixel, (32, 1) and (1, 17)."""
    x, y = (make(TILE, dtype=torch.float64) for make in (torch.fft.fftfreq, torch.fft.rfftfreq))
    return x[:, None], y[None, :]


def membership() -> Tensor:
    """Return how many of all 32 x 32 frequencies each one of (32, 17) stands for in each ring, (544, rings)."""
    ring = (torch.hypot(*cycles()) * (2 * RINGS)).round().long()
    twice = torch.full(ring.shape, 2.0, dtype=torch.float64)
    twice[:, [0, -1]] = 1.0
    return nnf.one_hot(ring.flatten()) * twice.flatten()[:, None]


def rings_count() -> Tensor:
    """Return how many frequencies lie in each ring, (rings,)."""
    return membership().sum(0)


def ring_shares() -> Tensor:
    """Return the matrix that takes the mean over each ring, (544, rings)."""
    return membership() / rings_count()
