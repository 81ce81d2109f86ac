"""What a forecast is worth: against the visit that was hidden, beside the copied last one; drift; volumes over time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gen3d.data.prepare import foreground
from gen3d.metrics.longitudinal import forecast_skill, volume_change_error
from gen3d.metrics.pairs import nrmse
from gen3d.metrics.ssim import mean_ssim
from gen3d.tools.forecast_images import Answer, Seen, labelled
from gen3d.tools.sampling import OpenModel

REGION = "voxels above 0 in the last or the true visit; all where 0 is no background"
QUANTILES, EXTREMES = "samples_10_to_90", "samples_smallest_largest"
ENOUGH = 8  # samples that tell 10 and 90 % quantiles


def scored(model: OpenModel, seen: Seen, whole: Seen, found: Answer) -> dict[str, Any]:
    """Compare a forecast, and the copied last visit, with the visit that was hidden, on the model's grey scale.

    Args:
        model: Its fixed network measures structures, if it has one.
        seen: The visits that it was given.
        whole: The same and the hidden one, which is its last.
        found: The forecast.

    Returns:
        ``forecast`` and ``copy``, each ``nrmse`` (by the true visit's range), ``psnr_db``, ``ssim``; ``skill``,
        1 - MSE / MSE of the copy; ``psnr_gain_db``; ``structures`` with the change of each volume.
    """
    truth = np.asarray(whole.history.voxels[-1], dtype=np.float32)
    true, ours, copy = (
        torch.from_numpy(v) for v in (whole.to_file(truth), seen.to_file(found.image), seen.to_file(found.latest))
    )
    inside = whole.to_file(np.ones_like(truth)) * seen.to_file(np.ones_like(found.image)) > 0
    where = torch.from_numpy(inside & foreground([seen.last, whole.last]))
    span = float(true[where].max() - true[where].min())
    if span == 0:
        return {"region": REGION}
    skill = forecast_skill(true, ours, copy, mask=where, data_range=span)
    both = {"forecast": (ours, skill.psnr), "copy": (copy, skill.psnr_of_copy)}
    rows = {
        name: {
            "nrmse": round(nrmse(true, image, where), 5),
            "psnr_db": round(psnr, 3),
            "ssim": round(mean_ssim(image / span, true / span, where), 5),
        }
        for name, (image, psnr) in both.items()
    }
    return {
        **rows,
        "skill": None if skill.skill is None else round(skill.skill, 4),
        "psnr_gain_db": round(skill.psnr_gain, 3),
        "region": REGION,
        **structures(model, seen, truth, found),
    }


def structures(model: OpenModel, seen: Seen, truth: np.ndarray, found: Answer) -> dict[str, Any]:
    """Compare the change of each structure's volume with the true one, all measured by the one fixed network."""
    masks = [labelled(model, seen, image) for image in (truth, found.image, found.latest)]
    if any(mask is None for mask in masks):
        return {}
    names: Sequence[str] = model.system.config.labels
    rows = {}
    for index, name in enumerate(names, 1):
        true, ours, copy = (torch.from_numpy(mask == index) for mask in masks)
        change = volume_change_error(true, ours, copy, spacing=seen.history.spacing)
        rows[name] = {key: None if v is None else round(v, 4) for key, v in change._asdict().items()}
    return {"structures": rows}


def drift(seen: Seen, direct: np.ndarray, rolled: np.ndarray, copy: np.ndarray) -> dict[str, float | None]:
    """Compare a rolled-out forecast with the direct one of the same day, on the file's grey scale.

    Returns:
        ``nrmse`` by the direct forecast's range, ``nrmse_of_copy``: how far the copied last visit is from it,
        ``mean_change``: rolled-out - direct, and ``mean_change_percent_of_range``.
    """
    where = torch.from_numpy(foreground([seen.last]))
    one, other, last = (torch.from_numpy(v) for v in (direct, rolled, copy))
    span = float(one[where].max() - one[where].min())
    change = float((other - one)[where].double().mean())
    if span == 0:
        return {"nrmse": None, "nrmse_of_copy": None, "mean_change": change, "mean_change_percent_of_range": None}
    return {
        "nrmse": round(nrmse(one, other, where), 6),
        "nrmse_of_copy": round(nrmse(one, last, where), 6),
        "mean_change": float(f"{change:.6g}"),
        "mean_change_percent_of_range": round(100 * change / span, 4),
    }


def spread(samples: Sequence[Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    """Return the two ends between which each structure's volume lies over samples; nothing of fewer than two.

    Returns:
        ``samples_10_to_90``, the 10 and 90 % quantile; of fewer than eight, which tell no such quantile,
        ``samples_smallest_largest``.
    """
    if len(samples) < 2:
        return {}
    what, percent = (QUANTILES, (10, 90)) if len(samples) >= ENOUGH else (EXTREMES, (0, 100))
    ends = {name: np.percentile([sample[name] for sample in samples], percent) for name in samples[0]}
    return {what: {name: [round(float(end), 4) for end in both] for name, both in ends.items()}}


def drawn_between(volumes: Mapping[str, Any], name: str, samples: int) -> str:
    """Return in words between which ends a structure's volume lies over samples; nothing where that is not known."""
    for what, words in ((QUANTILES, "10 to 90 %"), (EXTREMES, "smallest and largest")):
        if name in volumes.get(what, {}):
            low, high = volumes[what][name]
            return f"{words} of {samples} samples: {low:.3f} to {high:.3f}"
    return ""


def mean_of(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each structure's volume over samples: the expected image is smoother than any scan."""
    return {name: round(float(np.mean([s[name] for s in samples])), 4) for name in (samples[0] if samples else ())}


def summary(row: Mapping[str, Any]) -> list[str]:
    """Return what is printed of a patient: its forecasts, the copied last visit beside every score."""
    lines = []
    for one in row["forecasts"]:
        verb = "would forecast" if row["status"] == "checked" else "forecast"
        lines.append(f"{row['case']}: {verb} {one['at']}, {one['after']:g} {row['unit']} after {one['last_visit']}")
        if "skill" in (scores := one.get("scores") or {}):
            ours, copy = (
                "NRMSE {nrmse:.4f}, PSNR {psnr_db:.2f} dB, SSIM {ssim:.4f}".format(**scores[name])
                for name in ("forecast", "copy")
            )
            skill = "not defined" if scores["skill"] is None else f"{scores['skill']:+.3f}"
            lines.append(f"  against the hidden visit: {ours}; last visit copied: {copy}; skill {skill}")
        if rolled := one.get("rollout"):
            end = rolled[-1]
            lines.append(
                f"  rolled out in {len(rolled)} steps it ends NRMSE {end['nrmse']} from the direct forecast (the last "
                f"visit copied: {end['nrmse_of_copy']}), by {end['mean_change']:+.4g} in the mean"
            )
        for name, ml in (one.get("volumes_ml") or {}).get("forecast", {}).items():
            volumes = one["volumes_ml"]
            if likely := volumes["interval_80"].get(name):
                said = f" (80 % interval {likely[0]:.3f} to {likely[1]:.3f})"
            elif drawn := drawn_between(volumes, name, one["samples"]):
                said = f" ({drawn}, too narrow an interval)"
            else:
                said = ""
            lines.append(f"  {name}: {ml:.3f} mL{said}; last visit copied: {volumes['copy'][name]:.3f} mL")
    return lines
