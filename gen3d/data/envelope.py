"""Whether a case is like those that a model was trained on: voxel size, field of view, background, grey values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen3d.core.volume import Prepared
from gen3d.data.equalization import floors

PERCENTILES = (5, 75, 95)  # of the foreground, after its median is 0 and its interquartile range 1
SLACK = 0.5  # how far beyond the training set's range, in widths of it, is still inside
LEAST = {"field_of_view_mm": 20.0, "foreground_share": 0.1, "histogram": 0.3}  # the least that it is widened by


def envelope(cases: Sequence[Prepared], contrasts: Sequence[str]) -> dict[str, Any]:
    """Return the least and the largest of everything ``measured`` in the cases, JSON-like: {name: [low, high]}."""
    rows: dict[str, list[np.ndarray]] = {}
    for case in cases:
        for name, values in measured(case, contrasts).items():
            rows.setdefault(name, []).append(values)
    return {name: [np.min(v, 0).round(3).tolist(), np.max(v, 0).round(3).tolist()] for name, v in rows.items()}


def measured(case: Prepared, contrasts: Sequence[str]) -> dict[str, np.ndarray]:
    """Measure a case.

    Returns:
        ``spacing_mm`` (3,), ``field_of_view_mm`` (3,) of the box that is kept, ``foreground_share`` (1,) of it, and for
        each contrast that is there ``histogram_CONTRAST`` (3,): percentiles 5, 75, 95 of its foreground in
        interquartile ranges from the median.
    """
    found = {
        "spacing_mm": np.array(case.spacing),
        "field_of_view_mm": np.array(case.voxels.shape[1:]) * np.array(case.spacing),
    }
    inside = np.zeros(case.voxels.shape[1:], dtype=bool)
    for channel, name in enumerate(contrasts):
        if not case.present[channel]:
            continue
        voxels = np.asarray(case.voxels[channel], dtype=np.float32)
        above = voxels > floors(case)[channel] + 1e-3
        inside |= above
        sample = voxels[above] if above.any() else voxels.ravel()
        low, median, high = np.percentile(sample, (25, 50, 75))
        found[f"histogram_{name}"] = (np.percentile(sample, PERCENTILES) - median) / max(high - low, 1e-6)
    found["foreground_share"] = np.array([inside.mean()])
    return found


def departures(case: Prepared, contrasts: Sequence[str], known: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in which way a case is unlike those that a model was trained on; nothing where it isn't.

    Args:
        case: Prepared for the model.
        contrasts: What the model knows.
        known: The model's ``provenance["envelope"]``; what it lacks is not looked at.
    """
    words = []
    for name, values in measured(case, contrasts).items():
        if name not in known:
            continue
        low, high = (np.atleast_1d(np.asarray(end, dtype=float)) for end in known[name])
        if name == "spacing_mm":  # an axis may be any of the three
            if values.min() < 0.75 * low.min() or values.max() > 1.33 * high.max():
                own = " x ".join(f"{mm:.3g}" for mm in values)
                words.append(f"voxels of {own} mm; the model was trained on {low.min():.3g} to {high.max():.3g} mm")
            continue
        kind, _, contrast = name.partition("histogram_")
        slack = np.maximum(SLACK * (high - low), LEAST[kind or "histogram"])
        if (values < low - slack).any() or (values > high + slack).any():
            words.append(f"{SAID[kind](values, low, high)}" if kind else _histogram(contrast, values, low, high))
    return tuple(words)


def _field(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    own, least, most = (" x ".join(f"{mm:.0f}" for mm in ends) for ends in (values, low, high))
    return f"shows {own} mm; the model was trained on {least} to {most} mm"


def _share(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    return f"tissue fills {values[0]:.0%} of the box around it, {low[0]:.0%} to {high[0]:.0%} in training"


def _histogram(contrast: str, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    ends = (f"{v:.1f} ({least:.1f} to {most:.1f})" for v, least, most in zip(values, low, high, strict=True))
    return f"grey values of {contrast} are spread unlike those in training: {', '.join(ends)}"


SAID = {"field_of_view_mm": _field, "foreground_share": _share}
