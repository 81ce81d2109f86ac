"""Raw intensities to a model's scale and back: MR intensities have no unit, so every volume sets its own."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gen3d.core.error import UsageError, nearest
from gen3d.core.volume import Scale

__all__ = ["Intensity", "Scale"]

_RULES = ("window", "robust")
_REGIONS = ("volume", "foreground")


@dataclass(frozen=True)
class Intensity:
    """How the intensity scale of a volume is found.

    "window" maps two percentiles onto ``to``: WDM uses (0.1, 99.9) of the whole volume onto (-1, 1), cWDM onto (0, 1)
    (Friedrich et al. 2024, 2025). "robust" is (v - median) / IQR with both taken inside the foreground, v > 0, which
    neither a lesion nor the amount of background moves; ``to`` is not used.

    Attributes:
        rule: "window" or "robust".
        percentiles: Where the intensities are cut, and what "window" maps onto ``to``.
        over: Which voxels the percentiles are taken over, "volume" or "foreground".
        to: The model's range.
        clip: Whether intensities beyond the percentiles are cut.

    Raises:
        UsageError: for an unknown rule or region, or percentiles that don't rise within 0..100.
    """

    rule: Literal["window", "robust"] = "window"
    percentiles: tuple[float, float] = (0.1, 99.9)
    over: Literal["volume", "foreground"] = "volume"
    to: tuple[float, float] = (0.0, 1.0)
    clip: bool = True

    def __post_init__(self) -> None:
        for word, known, what in ((self.rule, _RULES, "rule"), (self.over, _REGIONS, "over")):
            if word not in known:
                hint = nearest(word, known)
                raise UsageError(f"intensity {what} '{word}': expected one of {', '.join(known)}{hint}")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise UsageError(f"intensity percentiles {low}, {high}: expected two rising numbers between 0 and 100")
        object.__setattr__(self, "percentiles", (float(low), float(high)))
        object.__setattr__(self, "to", (float(self.to[0]), float(self.to[1])))

    def fit(self, voxels: np.ndarray) -> Scale:
        """Return the scale of one raw volume (X, Y, Z)."""
        low, high = _spread(voxels if self.over == "volume" else _foreground(voxels), self.percentiles)
        if self.rule == "robust":
            gain, offset = _robust(_foreground(voxels))
        else:
            gain = (self.to[1] - self.to[0]) / (high - low) if high > low else 0.0
            offset = self.to[0] - low * gain
        return Scale(gain, offset, low, high) if self.clip or not gain else Scale(gain, offset)


def _foreground(voxels: np.ndarray) -> np.ndarray:
    inside = voxels[voxels > 0]
    return inside if inside.size else voxels


def _spread(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(p) for p in np.percentile(values, percentiles))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def _robust(values: np.ndarray) -> tuple[float, float]:
    q25, q50, q75 = (float(q) for q in np.percentile(values, (25, 50, 75)))
    iqr = q75 - q25 if q75 > q25 else float(values.std())
    return (1 / iqr, -q50 / iqr) if iqr > 0 else (0.0, 0.0)
