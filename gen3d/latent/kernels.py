r"""CT reconstruction kernels, simulated: what of an image's detail and noise each of them lets through.

A kernel is a curve over spatial frequency, its modulation transfer (MTF); the noise of filtered back-projection follows
it, $NPS(f) \propto f\, MTF(f)^2$ (Riederer et al. 1978). Two kernels of the same raw data differ by the ratio of their
MTFs, for signal and noise alike. Everything here is a **simulation** by published and estimated figures: no vendor's
kernel is known exactly, and neither is that of the scans which pairs are simulated from.

Figures: B30 reaches 50 % at 3.5 and 10 % at 5.9 lp/cm, D45 at 5.6 and 9.4 (Siemens Somatom Definition AS, as the
pediatricIQphantoms of the FDA's DIDSR list them, Nelson et al. 2023). Both curves are
$\exp(-\ln 2\,(f / f_{50})^{2.3})$ to 1 %, close to the Gaussian of Nickoloff & Riley (1985). The others are estimates
of ours on that shape: each ten of the name is 25 % sharper (a newer Siemens scale is said to grow by 4 % for each one).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.error import UsageError, nearest
from gen3d.core.randomness import Key, generator

HU = (-1024.0, 3071.0)  # what CT stores in 12 bits
PER_CM = 0.1  # lp/cm to cycles/mm
ANATOMY, LOWEST = 3.0, 1 / 32  # power of 1 / f; cycles per pixel below which it grows no more


@dataclass(frozen=True)
class Kernel:
    r"""A simulated reconstruction kernel.

    $MTF(f) = \exp(-\ln 2\,(f / f_{50})^n)\,(1 + b\, u^2 e^{1 - u^2})$ with $n$ such that the first factor is 0.1 at
    $f_{10}$, and $u = 2 f / f_{50}$.

    Attributes:
        name: Siemens-like.
        mtf50: Where the MTF without enhancement is 0.5, in line pairs per cm.
        mtf10: Where it is 0.1.
        boost: Edge enhancement b, the share by which it is raised at half of mtf50.
    """

    name: str
    mtf50: float
    mtf10: float
    boost: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.mtf50 < self.mtf10:
            raise ValueError(f"kernel {self.name}: expected 0 < mtf50 < mtf10, got {self.mtf50} and {self.mtf10}")

    def mtf(self, frequency: Tensor) -> Tensor:
        """Return the modulation transfer at frequencies in cycles/mm, any shape; 1 at 0."""
        power = math.log(math.log(10) / math.log(2)) / math.log(self.mtf10 / self.mtf50)
        ratio = frequency / (self.mtf50 * PER_CM)
        bump = (2 * ratio).square()
        return torch.exp(-math.log(2) * ratio**power) * (1 + self.boost * bump * torch.exp(1 - bump))

    def noise_power(self, frequency: Tensor) -> Tensor:
        """Return the noise power spectrum up to a factor that kernels of the same raw data share."""
        return frequency * self.mtf(frequency).square()

    def scaled(self, factor: float, boost: float = 0.0) -> "Kernel":
        """Return a kernel as much sharper, with another enhancement added: another scanner's of the same name."""
        return replace(self, mtf50=self.mtf50 * factor, mtf10=self.mtf10 * factor, boost=self.boost + boost)


def _estimated(index: int, boost: float = 0.0) -> Kernel:
    sharper = 1.25 ** ((index - 30) / 10)
    return Kernel(f"B{index}", round(3.5 * sharper, 2), round(5.9 * sharper, 2), boost)


KERNELS = {k.name: k for k in (*map(_estimated, (10, 20, 30, 40, 45, 50)), *(_estimated(i, 0.1) for i in (60, 70, 80)))}
STANDARD = "B30"


def kernel(name: str) -> Kernel:
    """Return a kernel by name; "B30f", "b30s" and "B30" are one.

    Raises:
        UsageError: There is none; the nearest is named.
    """
    plain = name.strip().upper().rstrip("FHSVAB") if name.strip()[1:2].isdigit() else name
    if plain not in KERNELS:
        raise UsageError(f"kernel '{name}': unknown{nearest(plain, KERNELS)}; known: {', '.join(KERNELS)}")
    return KERNELS[plain]


def nearest_kernel(sharpness: float) -> Kernel:
    """Return the kernel with the nearest ln(mtf50 / 3.5)."""
    return min(KERNELS.values(), key=lambda each: abs(math.log(each.mtf50 / 3.5) - sharpness))


def frequencies(size: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """Return the radial frequency in cycles/mm of each coefficient of ``rfft2`` over (X, Y), (X, Y // 2 + 1)."""
    x = torch.fft.fftfreq(size[0], float(spacing[0]), dtype=torch.float64)
    y = torch.fft.rfftfreq(size[1], float(spacing[1]), dtype=torch.float64)
    return torch.hypot(x[:, None], y[None, :]).float()


def filtered(image: Tensor, gain: Tensor) -> Tensor:
    """Multiply the in-plane spectrum of (..., X, Y) by ``gain`` (X, Y // 2 + 1); the image is taken as periodic."""
    return torch.fft.irfft2(torch.fft.rfft2(image.float()) * gain, s=image.shape[-2:])


def ratio(source: Kernel, target: Kernel, frequency: Tensor, ridge: float = 1e-2) -> Tensor:
    r"""Return the gain that brings an image of one kernel to another, at frequencies in cycles/mm, any shape.

    With the MTFs A of the source and B of the target it is $B / A$ where that is at most 1, and
    $(A B + \lambda) / (A^2 + \lambda)$ beyond, which goes to 1 where the source shows nothing.
    """
    a, b = source.mtf(frequency), target.mtf(frequency)
    return torch.where(b <= a, b / a.clamp_min(1e-20), (a * b + ridge) / (a.square() + ridge))


def convert(
    hu: Tensor, spacing: Sequence[float], source: Kernel, target: Kernel, noise: float = 0.0, anatomy: float = 1.0
) -> Tensor:
    r"""Bring an image of one kernel to another by the linear filter that errs least (Wiener 1949).

    Pixels are samples: what lies beyond their frequencies folds back onto them. With the MTFs A of the source and B of
    the target, noise of power $a f$ before the kernel and anatomy of $b / f^3$, the gain is the cross-spectrum of both
    images over the source's, $(a \sum f A B + b A B f^{-3}) / (a \sum f A^2 + b A^2 f^{-3})$, the sums over what folds
    onto a frequency. Where nothing folds that is $B / A$, and so it is without noise. Where B is greater the gain
    is that of ``ratio``.

    Args:
        hu: Hounsfield units, (..., X, Y, Z); each slice is converted by itself.
        spacing: Of X and Y in mm.
        source: The image's kernel A.
        target: The kernel B.
        noise: a, as ``kernel_spectrum.content`` measures it; 0 takes the ratio of the MTFs alone.
        anatomy: b.

    Returns:
        Hounsfield units within -1024 to 3071, float32, the same shape.
    """

    def gain(size: Sequence[int]) -> Tensor:
        f = frequencies(size, spacing)
        plain = ratio(source, target, f)
        if not noise:
            return plain
        (n, s), (own, seen) = (spectra(source, other, size, spacing) for other in (target, source))
        best = (noise * n + anatomy * s) / (noise * own + anatomy * seen).clamp_min(1e-30)
        return torch.where(target.mtf(f) <= source.mtf(f), best, plain).float()

    return multiplied(hu, gain).clamp(*HU)


def spectra(one: Kernel, other: Kernel, size: Sequence[int], spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the cross-spectra of noise, folded, and of anatomy, up to a factor each, (X, Y // 2 + 1) each.

    Args:
        one: The kernel of one image.
        other: Of another from the same raw data; the same for the power of one.
        size: Pixels along X and Y.
        spacing: Of X and Y in mm.
    """
    x, y = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None], torch.fft.rfftfreq(size[1], dtype=torch.float64)
    fold = [torch.hypot((x + i) / spacing[0], (y + j) / spacing[1]) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    noise = torch.stack([f * one.mtf(f) * other.mtf(f) for f in fold]).sum(0)
    f = torch.hypot(x / spacing[0], y / spacing[1])
    return noise, one.mtf(f) * other.mtf(f) * torch.hypot(x, y).clamp_min(LOWEST) ** -ANATOMY


def mirrored(planes: Tensor, pad: Sequence[int]) -> Tensor:
    """Reflect (..., X, Y) at its borders by ``pad`` pixels along each axis."""
    flat = planes.reshape(-1, 1, *planes.shape[-2:])
    wide = nnf.pad(flat, (pad[1], pad[1], pad[0], pad[0]), mode="reflect")
    return wide.reshape(*planes.shape[:-2], *wide.shape[-2:])


def rms(gain: Tensor, width: int) -> float:
    """Return the standard deviation of unit white noise that was multiplied by ``gain`` (X, Y // 2 + 1), Y = width."""
    twice = torch.full((gain.shape[-1],), 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    return float(((gain.square() * twice).sum() / (gain.shape[0] * width)).sqrt())


def reconstructions(
    scene: Tensor,
    spacing: Sequence[float],
    kernels: Sequence[Kernel],
    *,
    noise_hu: float,
    key: Key,
    streaks: tuple[float, float] = (0.0, 0.0),
    standard: Kernel | None = None,
) -> list[Tensor]:
    r"""Simulate one scan's reconstructions by several kernels: one scene, one noise, as from the same raw data.

    The scene stands for what was scanned, sharp up to its own pixels: each kernel multiplies its spectrum by the MTF.
    Noise is drawn on pixels of half the size, shaped by $\sqrt{f}\, MTF$ and sampled, so that what lies beyond the
    pixels' own frequencies folds back as it does in back-projection.

    Args:
        scene: Hounsfield units, (..., X, Y, Z), taken as periodic in X and Y: cut the border off.
        spacing: Of X and Y in mm.
        kernels: Which.
        noise_hu: Standard deviation that the noise has in the kernel ``standard``.
        key: Of the noise.
        streaks: Share by which noise power varies with direction, and the direction in radians where it is highest.
        standard: B30 by default.

    Returns:
        For each kernel Hounsfield units from -1024 on, float32, the scene's shape.
    """
    planes = scene.float().movedim(-1, -3)
    size = planes.shape[-2:]
    spectrum, f = torch.fft.rfft2(planes), frequencies(size, spacing)
    fine_size, fine_spacing = [2 * n for n in size], [s / 2 for s in spacing[:2]]
    fine = frequencies(fine_size, fine_spacing)
    white = torch.randn((*planes.shape[:-2], *fine_size), generator=generator(key))
    x = torch.fft.fftfreq(fine_size[0], fine_spacing[0])[:, None]
    y = torch.fft.rfftfreq(fine_size[1], fine_spacing[1])[None, :]
    direction = 1 + streaks[0] * torch.cos(2 * (torch.atan2(y, x) - streaks[1]))
    noise = torch.fft.rfft2(white) * direction.clamp_min(0).sqrt()
    reference = rms((standard or KERNELS[STANDARD]).noise_power(fine).sqrt(), fine_size[1])
    made = []
    for each in kernels:
        image = torch.fft.irfft2(spectrum * each.mtf(f), s=size)
        shaped = torch.fft.irfft2(noise * each.noise_power(fine).sqrt(), s=fine_size)[..., ::2, ::2]
        made.append((image + noise_hu / reference * shaped).clamp(*HU).movedim(-3, -1))
    return made


def multiplied(hu: Tensor, gain: Callable[[Sequence[int]], Tensor], margin: int = 24) -> Tensor:
    """Multiply the in-plane spectrum of (..., X, Y, Z), mirrored at its border, by the gain for its size."""
    planes = hu.float().movedim(-1, -3)
    pad = [min(margin, n - 1) for n in planes.shape[-2:]]
    wide = mirrored(planes, pad)
    x, y = (slice(p, p + n) for p, n in zip(pad, planes.shape[-2:], strict=True))
    return filtered(wide, gain(wide.shape[-2:]))[..., x, y].movedim(-3, -1)


def blurred(hu: Tensor, spacing: Sequence[float], sigma_mm: float) -> Tensor:
    """Blur (..., X, Y, Z) in X and Y by a Gaussian of standard deviation ``sigma_mm``, mirrored at the border."""
    return multiplied(hu, lambda size: torch.exp(-2 * (math.pi * sigma_mm * frequencies(size, spacing)).square()))


def fitted_blur(pairs: Sequence[tuple[Tensor, Tensor, Sequence[float]]]) -> float:
    """Return the sigma in mm, to 0.01, whose blur of the sources has the least mean absolute error to the targets.

    Args:
        pairs: (source, target, spacing of X and Y) in HU, (X, Y, Z) each.
    """
    steps = [i / 100 for i in range(0, 121)]

    def error(sigma: float) -> float:
        return sum(float((blurred(a, spacing, sigma) - b).abs().mean()) for a, b, spacing in pairs)

    coarse = min(steps[::5], key=error)
    return min((s for s in steps if abs(s - coarse) < 0.05), key=error)
