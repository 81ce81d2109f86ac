"""Whether the predicted next visit of a patient is better than the last visit, copied."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .completion import psnr


class ForecastSkill(NamedTuple):
    """A prediction against the copied last visit.

    Attributes:
        mse: Mean squared error of the prediction.
        mse_of_copy: That of the last visit, taken as the prediction.
        skill: 1 - mse / mse_of_copy; None where the true visit equals the last one.
        psnr: PSNR of the prediction, in dB, at most 120.
        psnr_of_copy: PSNR of the copy, likewise.
        psnr_gain: Their difference, in dB.
    """

    mse: float
    mse_of_copy: float
    skill: float | None
    psnr: float
    psnr_of_copy: float
    psnr_gain: float


class VolumeChange(NamedTuple):
    """How a structure changed since the last visit, and how it was predicted to change.

    Attributes:
        true_ml: True change, in mL.
        predicted_ml: Predicted change, in mL.
        error_ml: predicted_ml - true_ml.
        true_percent: True change in percent of the last visit's volume; None where the structure was not there.
        predicted_percent: Likewise.
        error_percent: predicted_percent - true_percent, in percentage points; None likewise.
        skill: 1 - |error| / |true change|: 0 for a copy of the last visit; None where nothing changed.
    """

    true_ml: float
    predicted_ml: float
    error_ml: float
    true_percent: float | None
    predicted_percent: float | None
    error_percent: float | None
    skill: float | None


def skill(error: float, error_of_copy: float) -> float | None:
    """Return 1 - error / error_of_copy: 1 is perfect, 0 no better than the copied last visit, negative worse.

    None where the copy has no error: nothing changed, and there was nothing to predict.

    Raises:
        ValueError: An error is negative or not finite.
    """
    for name, value in (("prediction", error), ("copy", error_of_copy)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"the error of the {name} must be a finite number of at least 0, got {value}")
    return None if error_of_copy == 0 else 1 - error / error_of_copy


def forecast_skill(
    true: Tensor, predicted: Tensor, last: Tensor, *, mask: Tensor | None = None, data_range: float = 1.0
) -> ForecastSkill:
    r"""Compare a predicted visit, and the last one as it is, with the true visit.

    $\mathrm{PSNR} = -10 \log_{10}(\mathrm{MSE} / R^2 + 10^{-12})$.

    Args:
        true: The visit that was predicted, (X, Y, Z).
        predicted: Its prediction on the same grid and intensity scale, (X, Y, Z).
        last: The visit before it, registered and on the same scale, (X, Y, Z).
        mask: Where to compare, where > 0, (X, Y, Z); everywhere if None.
        data_range: R, the width of the intensity scale.

    Raises:
        ValueError: The shapes differ, the mask is empty, or voxels in it are not finite.
    """
    if not true.shape == predicted.shape == last.shape or true.ndim != 3:
        shapes = ", ".join(str(tuple(visit.shape)) for visit in (true, predicted, last))
        raise ValueError(f"expected three visits (X, Y, Z) on one grid, got {shapes}")
    if not data_range > 0:
        raise ValueError(f"data_range must be above 0, got {data_range}")
    inside = torch.ones_like(true, dtype=torch.bool) if mask is None else mask > 0
    if inside.shape != true.shape or not bool(inside.any()):
        raise ValueError(f"the mask must have shape {tuple(true.shape)} and at least one voxel")
    wanted, guess, copy = (visit[inside].double() / data_range for visit in (true, predicted, last))
    error, of_copy = (float((v - wanted).square().mean()) * data_range**2 for v in (guess, copy))
    reached, before = psnr(guess, wanted), psnr(copy, wanted)
    return ForecastSkill(error, of_copy, skill(error, of_copy), reached, before, reached - before)


def volume_change_error(true: Tensor, predicted: Tensor, last: Tensor, *, spacing: Sequence[float]) -> VolumeChange:
    """Compare the predicted change of a structure's volume with the true one.

    Args:
        true: The structure in the visit that was predicted, where > 0, (X, Y, Z).
        predicted: The structure in the prediction, where > 0, (X, Y, Z).
        last: The structure in the visit before, where > 0, (X, Y, Z).
        spacing: Voxel size in mm.

    Raises:
        ValueError: The shapes differ, or the spacing is not three positive numbers.
    """
    if not true.shape == predicted.shape == last.shape or true.ndim != 3:
        shapes = ", ".join(str(tuple(mask.shape)) for mask in (true, predicted, last))
        raise ValueError(f"expected three masks (X, Y, Z) on one grid, got {shapes}")
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three positive numbers in mm, got {tuple(spacing)}")
    voxel_ml = spacing[0] * spacing[1] * spacing[2] / 1000
    before, after, predicted_size = (int((mask > 0).sum()) for mask in (last, true, predicted))
    change, guess = after - before, predicted_size - before
    scale = 100 / before if before else None
    return VolumeChange(
        true_ml=change * voxel_ml,
        predicted_ml=guess * voxel_ml,
        error_ml=(guess - change) * voxel_ml,
        true_percent=None if scale is None else change * scale,
        predicted_percent=None if scale is None else guess * scale,
        error_percent=None if scale is None else (guess - change) * scale,
        skill=skill(abs(guess - change), abs(change)),
    )
