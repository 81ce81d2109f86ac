"""A synthetic image beside its true one: every figure names the region and the normalisation it holds for.

Many papers window each image by its own percentiles before they compare the two, and average over the background. An
image with halved intensities is then perfect, for its window halves with it; a lesion that was erased moves the window
and vanishes among the voxels of the air. Hence, here, no image is ever windowed by itself. The truth's window serves
both, and each figure is taken over the brain or body, the lesion and the healthy tissue apart, the volume last.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .blur import blur_index
from .completion import Rescaling, fit_scale, psnr, quantiles, window
from .ms_ssim import kernel_for, ms_ssim
from .ssim import bounding_box, ssim_map

Units = Literal["arbitrary", "HU"]
Norm = Literal["range", "mean", "euclidean", "std"]
PairMetric = Callable[[Tensor, Tensor, Tensor], float | None]
"""(true, fake, where) -> figure: images of range 1 and a region, (X, Y, Z); None where it means nothing."""

HU_WINDOW = (-1000.0, 1000.0)
AIR_HU = -500.0
FIXED, MATCHED = "fixed window", "scale matched"
SAME_SCALE = 1e-9  # of the window: an image that the match moves by less keeps its figures


@dataclass(frozen=True)
class PairRow:
    """Figures of one region under one normalisation.

    Both images are clipped to [low, high], which becomes [0, 1].

    Attributes:
        region: Its name.
        normalisation: "fixed window": intensities as they are. "scale matched": the synthetic image first got the true
            one's median and interquartile range inside the first region, v -> gain v + offset.
        units: What mae and rmse are in: "HU", or "window" for shares of the window.
        low: Of the true image's window.
        high: Of the true image's window.
        gain: 1 for the fixed window; of a constant image, 0.
        offset: In the true image's intensities.
        voxels: Of the region.
        psnr: dB for a range of 1, at most 120.
        ssim: The map's mean over the region, see ``ssim_map``.
        ms_ssim: Of all voxels in the region's bounding box; None where the box is too small for it.
        ms_ssim_kernel: Width of its window in voxels.
        ms_ssim_scales: How many.
        nrmse: See ``nrmse``; None where the true image is constant in the region.
        nrmse_norm: "range".
        mae: Mean absolute error.
        rmse: Root mean squared error.
        blur: See ``blur_index``; None where the true image has no detail in the region.
        more: Figures of further metrics, by name.
    """

    region: str
    normalisation: str
    units: str
    low: float
    high: float
    gain: float
    offset: float
    voxels: int
    psnr: float
    ssim: float
    ms_ssim: float | None
    ms_ssim_kernel: int | None
    ms_ssim_scales: int | None
    nrmse: float | None
    nrmse_norm: str
    mae: float
    rmse: float
    blur: float | None
    more: Mapping[str, float | None] = field(default_factory=dict)


def pair_rows(
    true: Tensor,
    fake: Tensor,
    *,
    regions: Mapping[str, Tensor],
    units: Units = "arbitrary",
    body: Tensor | None = None,
    window: tuple[float, float] | None = None,
    more: Mapping[str, PairMetric] | None = None,
) -> list[PairRow]:
    """Score a synthetic image against the true one in each region, first as it is, then on the true one's scale.

    Where regions hold the brain, the rows of the scale matched brain and volume are ``score_completion``'s.

    Args:
        true: The acquired image, (X, Y, Z); 2D is Z = 1.
        fake: Its estimate on the same grid, (X, Y, Z).
        regions: Masks (X, Y, Z) by name, such as ``regions_of`` gives; an empty one gets no row.
        units: With "HU", errors are in HU.
        body: Where the scale is matched; by default the first region, everywhere if that is empty. Outside of it the
            synthetic image stays as it is.
        window: Intensities that become 0 and 1; by default the true image's 0.1 and 99.9 percentile over the whole
            volume, and -1000 and 1000 for HU.
        more: Further metrics by name, such as ``gen3d.metrics.PAIR_METRICS``, asked about the windowed images.

    Returns:
        Two rows for each region, "fixed window" before "scale matched", regions in their order.

    Raises:
        ValueError: Shapes differ, a voxel isn't finite, the true image is constant (in its window), or all regions are
            empty.
    """
    _check(true, fake, regions)
    a, b = true.double(), fake.double()
    low, high = window or (HU_WINDOW if units == "HU" else _percentiles(a))
    _check_window(a, low, high)
    there = {name: where > 0 for name, where in regions.items() if bool((where > 0).any())}
    if not there:
        raise ValueError(f"no voxel in any region ({', '.join(regions)}): there is nothing to score")
    inside = next(iter(regions.values())) > 0 if body is None else body > 0
    if not bool(inside.any()):
        inside = torch.ones_like(inside)
    fit = fit_scale(a[inside], b[inside])
    on_scale = torch.where(inside, fit.apply(b), b)
    fixed = _Compared(FIXED, Rescaling(1.0, 0.0, 0.0), a, b, (low, high), more or {})
    rows = [fixed.row(name, where, units) for name, where in there.items()]
    if torch.allclose(on_scale, b, rtol=0, atol=SAME_SCALE * (high - low)):
        others = [replace(row, normalisation=MATCHED, gain=fit.gain, offset=fit.offset) for row in rows]
    else:
        matched = _Compared(MATCHED, fit, a, on_scale, (low, high), more or {})
        others = [matched.row(name, where, units) for name, where in there.items()]
    return [row for both in zip(rows, others, strict=True) for row in both]


def regions_of(
    true: Tensor, *, units: Units = "arbitrary", mask: Tensor | None = None, lesion: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the regions that a pair is scored in: brain or body, lesion, healthy (the first less the lesion), whole.

    Args:
        true: The acquired image, (X, Y, Z).
        units: With "HU" the first region is ``body_mask``, called "body"; else it is "brain", true > 0, which is right
            for skull-stripped MRI.
        mask: The first region, where given, is where this is > 0.
        lesion: Where > 0; without one there are no regions "lesion" and "healthy".
    """
    name = "body" if units == "HU" else "brain"
    first = mask > 0 if mask is not None else body_mask(true) if units == "HU" else true > 0
    regions = {name: first}
    if lesion is not None:
        regions |= {"lesion": lesion > 0, "healthy": first & ~(lesion > 0)}
    return {**regions, "whole": torch.ones_like(first)}


def body_mask(hu: Tensor) -> Tensor:
    """Return the largest connected part above -500 HU, its holes filled slice by slice, (X, Y, Z) bool.

    Lungs and bowel gas belong to it; a table or a blanket doesn't. Slices are those of the last axis. Empty where no
    voxel is above -500 HU. Needs scipy.
    """
    import numpy as np
    from scipy import ndimage

    parts, count = ndimage.label((hu > AIR_HU).cpu().numpy())
    if not count:
        return torch.zeros_like(hu, dtype=torch.bool)
    sizes = np.bincount(parts.ravel())
    body = parts == sizes[1:].argmax() + 1
    within_slice = np.zeros((3, 3, 3), dtype=bool)
    within_slice[:, 1, 1] = within_slice[1, :, 1] = True
    gaps, count = ndimage.label(~body, structure=within_slice)
    hole = np.ones(count + 1, dtype=bool)
    for face in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        hole[np.unique(face)] = False
    hole[0] = False
    return torch.from_numpy(body | hole[gaps]).to(hu.device)


def nrmse(true: Tensor, fake: Tensor, where: Tensor | None = None, *, norm: Norm = "range") -> float:
    r"""Return the normalised root mean squared error over a region, $\sqrt{\frac1n \sum_v (a_v - b_v)^2} / N$.

    $N$ is one of the conventions in use, of the true image in the region: "range", $\max a - \min a$; "mean",
    $\frac1n \sum a$; "euclidean", $\sqrt{\frac1n \sum a^2}$; "std", its standard deviation (divided by n).

    Args:
        true: Image a, any shape.
        fake: Image b, the same shape.
        where: The region, by default everywhere.
        norm: The convention.

    Raises:
        ValueError: Shapes differ, the region is empty, a voxel isn't finite, the convention is unknown, or N is 0.
    """
    if true.shape != fake.shape:
        raise ValueError(f"expected images of one shape, got {tuple(true.shape)} and {tuple(fake.shape)}")
    a, b = (v.double().flatten() if where is None else v[where].double() for v in (true, fake))
    if not len(a) or not bool((a + b).isfinite().all()):
        raise ValueError("expected finite voxels in the region" if len(a) else "the region holds no voxel")
    norms = {
        "range": lambda: a.max() - a.min(),
        "mean": lambda: a.mean().abs(),
        "euclidean": lambda: a.square().mean().sqrt(),
        "std": lambda: a.std(correction=0),
    }
    if norm not in norms:
        raise ValueError(f"norm '{norm}': expected one of {', '.join(norms)}")
    by = float(norms[norm]())
    if by == 0:
        raise ValueError(f"the true image's {norm} in the region is 0: the error can't be divided by it")
    return float((a - b).square().mean().sqrt()) / by


def closest(true: Tensor, given: Mapping[str, Tensor], body: Tensor) -> str:
    """Return the name of the image that, put on the true one's scale, has the highest PSNR in a region.

    What a model must beat: the copy is chosen by the score, with the truth at hand, so copying can't do better.

    Args:
        true: The acquired image, (X, Y, Z).
        given: At least one other image of the same grid, by name.
        body: The region, (X, Y, Z) bool.
    """
    a = true.double()
    low, high = _percentiles(a)
    inside = window(a[body], low, high)

    def score(name: str) -> float:
        other = given[name].double()[body]
        return psnr(inside, window(fit_scale(a[body], other).apply(other), low, high))

    return max(given, key=score)


class _MsSsim(NamedTuple):
    value: float | None
    kernel: int | None
    scales: int | None


class _Compared:
    """Two images in one window, and what several regions share."""

    def __init__(
        self,
        name: str,
        fit: Rescaling,
        true: Tensor,
        fake: Tensor,
        limits: tuple[float, float],
        more: Mapping[str, PairMetric],
    ) -> None:
        self.name, self.fit, self.more = name, fit, more
        self.low, self.high = limits
        self.a, self.b = window(true, self.low, self.high), window(fake, self.low, self.high)
        self.ssim = ssim_map(self.a, self.b)
        self.boxes: dict[str, _MsSsim] = {}

    def row(self, region: str, where: Tensor, units: Units) -> PairRow:
        a, b = self.a[where], self.b[where]
        error, span = (a - b).abs(), float(a.max() - a.min())
        rmse = float(error.square().mean().sqrt())
        unit = self.high - self.low if units == "HU" else 1.0
        multi = self.multi_scale(bounding_box(where))
        return PairRow(
            region=region,
            normalisation=self.name,
            units=units if units == "HU" else "window",
            low=self.low,
            high=self.high,
            gain=self.fit.gain,
            offset=self.fit.offset,
            voxels=len(a),
            psnr=psnr(a, b),
            ssim=float(self.ssim[where].double().mean()),
            ms_ssim=multi.value,
            ms_ssim_kernel=multi.kernel,
            ms_ssim_scales=multi.scales,
            nrmse=rmse / span if span > 0 else None,
            nrmse_norm="range",
            mae=float(error.mean()) * unit,
            rmse=rmse * unit,
            blur=blur_index(self.a, self.b, where),
            more={name: metric(self.a, self.b, where) for name, metric in self.more.items()},
        )

    def multi_scale(self, box: tuple[slice, ...]) -> _MsSsim:
        key = str(box)
        if key not in self.boxes:
            self.boxes[key] = _ms_ssim(self.a[box].float(), self.b[box].float())
        return self.boxes[key]


def _ms_ssim(a: Tensor, b: Tensor) -> _MsSsim:
    try:
        kernel, scales = kernel_for(tuple(a.shape))
    except ValueError:
        return _MsSsim(None, None, None)
    return _MsSsim(float(ms_ssim(a[None], b[None], kernel=kernel, scales=scales)[0]), kernel, scales)


def _percentiles(true: Tensor) -> tuple[float, float]:
    low, high = quantiles(true, [0.001, 0.999])
    return low, high


def _check(true: Tensor, fake: Tensor, regions: Mapping[str, Tensor]) -> None:
    if true.ndim != 3 or true.shape != fake.shape:
        shapes = f"{tuple(true.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"expected two volumes (X, Y, Z) of one shape, got {shapes}; 2D is Z = 1")
    for what, voxels in (("true", true), ("synthetic", fake)):
        if not bool(voxels.isfinite().all()):
            raise ValueError(f"the {what} image is not finite everywhere; replace NaN and infinite voxels")
    for name, where in regions.items():
        if where.shape != true.shape:
            raise ValueError(f"region {name}: shape {tuple(where.shape)}, expected the images' {tuple(true.shape)}")


def _check_window(true: Tensor, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"the window [{low:g}, {high:g}] is empty: crop the volume to what is in it, or give a window")
    inside = true.clamp(low, high)
    if bool(inside.min() == inside.max()):
        raise ValueError(f"the true image is constant within the window [{low:g}, {high:g}]: there is nothing to score")
