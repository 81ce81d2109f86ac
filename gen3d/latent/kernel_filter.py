"""A filter that an image chooses for itself: from the spectrum of its noise to the way to another kernel."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.latent.kernel_pairs import USUAL_MM
from gen3d.latent.kernels import KERNELS, PER_CM, Kernel, filtered, frequencies, mirrored

TILE, BINS, KNOTS = 64, 16, 14
CORNER = 0.5 * 2**0.5  # highest frequency of a square grid, in cycles per pixel
STANDARD_MTF50, POWER = 3.5 * PER_CM, math.log(math.log(10) / math.log(2)) / math.log(5.9 / 3.5)  # of B30
UNTOLD = 0.5  # ln(mtf50 / 3.5) from which the guess starts where nobody says: B50's
RIDGE = 1e-2
AIR = -950 / 500  # tiles with a lower mean are air, whose noise is cut off below


class GainFilter(nn.Module):
    r"""Multiply an image's in-plane spectrum by a gain that follows from its own spectrum: (B, 1, X, Y, Z) both.

    $g(f) = \frac{M_B M_A (1 + \lambda)}{M_A^2 + \lambda} e^{h(f)}$ with the target's MTF $M_B$ and a source's $M_A$ of
    the family of ``kernels.Kernel``. Where the source kernel is named, $M_A$ is its and h is 0. Where it is not, the
    sharpness and enhancement of $M_A$, and h, linear between 14 knots from 0, where it is 0 so that means stay, to the
    corner of the spectrum, come from two hidden layers, which are given the mean log power in 16 rings of frequency
    over tiles of 64 pixels (the noise of back-projection shows its kernel there), the spacing and the target.

    Args:
        targets: Target kernels.
        width: Of the hidden layers.
    """

    def __init__(self, targets: Sequence[Kernel], width: int = 96) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.guess = nn.Sequential(
            nn.Linear(BINS + 3 + len(targets), width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2 + KNOTS),
        )
        nn.init.zeros_(self.guess[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.guess[-1].bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, vector: Tensor, label: Tensor) -> Tensor:
        sharpness, boost, knots = self.settings(image, vector, label)
        planes = image.float().movedim(-1, 1).flatten(1, 2)
        pad = [min(24, n - 1) for n in planes.shape[-2:]]
        wide = mirrored(planes, pad)
        pixels = frequencies(wide.shape[-2:], (1.0, 1.0)).to(wide.device)
        f = pixels / (USUAL_MM * vector[:, 0].exp())[:, None, None]
        a = curve(f, (STANDARD_MTF50 * sharpness.exp())[:, None, None], boost[:, None, None])
        chosen = nnf.one_hot(label, len(self.targets)).float()[..., None, None]
        b = (chosen * torch.stack([target.mtf(f) for target in self.targets], 1)).sum(1)
        at = pixels * (KNOTS / CORNER)
        low = at.long().clamp_max(KNOTS - 1)
        bend = torch.lerp(knots[:, low], knots[:, low + 1], (at - low).clamp(0, 1)).exp()
        gain = b * a * (1 + RIDGE) / (a.square() + RIDGE) * bend
        x, y = (slice(p, p + n) for p, n in zip(pad, planes.shape[-2:], strict=True))
        return filtered(wide, gain[:, None])[..., x, y].unflatten(1, (-1, 1)).movedim(1, -1)

    def settings(self, image: Tensor, vector: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln(mtf50 / 3.5) of the source (B,), its enhancement (B,) and the knots of h (B, 15)."""
        told = torch.cat([self.spectrum(image) / 5, vector, nnf.one_hot(label, len(self.targets)).float()], 1)
        named, found = vector[:, 2] > 0, self.guess(told)
        sharpness = torch.where(named, vector[:, 1], UNTOLD + found[:, 0]).clamp(-1.0, 1.5)
        boost = torch.where(named, named_boost(vector[:, 1]), found[:, 1].tanh() / 2)
        return sharpness, boost, nnf.pad(torch.where(named[:, None], 0.0, found[:, 2:]), (1, 0))

    def spectrum(self, image: Tensor) -> Tensor:
        """Return the mean log power in rings of frequency over the tiles that are not air, (B, 16)."""
        planes = image.float().movedim(-1, 1).flatten(1, 2)
        lacking = [max(0, TILE - n) for n in planes.shape[-2:]]
        planes = nnf.pad(planes, (0, lacking[1], 0, lacking[0]), mode="replicate")
        tiles = planes.unfold(2, TILE, TILE // 2).unfold(3, TILE, TILE // 2).flatten(1, 3)
        mean = tiles.mean((2, 3), keepdim=True)
        window = torch.hann_window(TILE, periodic=False, device=image.device)
        power = torch.fft.rfft2((tiles - mean) * window[:, None] * window).abs().square()
        f = frequencies((TILE, TILE), (1.0, 1.0)).to(image.device)
        ring = (f * (BINS / CORNER)).long().clamp_max(BINS - 1).flatten()
        share = nnf.one_hot(ring, BINS).float()
        rings = (power + 1e-6).log().flatten(2) @ (share / share.sum(0))
        solid = (mean[..., 0] > AIR).float()
        solid = torch.where(solid.sum(1, keepdim=True) > 0, solid, 1.0)
        return (rings * solid).sum(1) / solid.sum(1)


def named_boost(sharpness: Tensor) -> Tensor:
    """Return the edge enhancement of the kernel with the nearest ln(mtf50 / 3.5), (B,) -> (B,)."""
    known = [(math.log(kernel.mtf50 / 3.5), kernel.boost) for kernel in KERNELS.values()]
    places, boosts = torch.tensor(known, device=sharpness.device).T
    return boosts[(sharpness[:, None] - places).abs().argmin(1)]


def curve(f: Tensor, mtf50: Tensor, boost: Tensor) -> Tensor:
    """Return the MTF of ``Kernel`` for tensors of its figures, all in cycles/mm, broadcast together."""
    ratio = f / mtf50
    bump = (2 * ratio).square()
    return torch.exp(-math.log(2) * ratio.clamp_min(1e-6) ** POWER) * (1 + boost * bump * torch.exp(1 - bump))
