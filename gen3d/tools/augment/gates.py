"""What a synthetic pair must pass: it is judged alone, by what its model kept of the training set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.core.system import System
from gen3d.core.volume import Prepared, Scale, Volume
from gen3d.data.envelope import departures
from gen3d.data.topology import components, holes
from gen3d.tools.augment.pair import Pair

GATES = ("labels", "intensity", "copy")
WIDER = 0.1  # how far beyond the real volumes' range, in widths of it, is still plausible


@dataclass(frozen=True, eq=False)
class Known:
    """What a model kept of its training set.

    Attributes:
        names: Of the labels 1, 2, ...
        volumes_ml: Of each case, (cases, labels).
        most_parts: Connected parts of each label at most, (labels,).
        most_holes: Cavities of each label at most, (labels,).
        envelope: Ranges of grey values, see gen3d.data.envelope.
        fingerprints: Of the training scans and their mirror images, (n, d).
        alike: The highest correlation between fingerprints of two different training cases.
        fingerprint: Images (B, C, X, Y, Z) on the model's grey scale -> (B, d), of norm 1.
    """

    names: tuple[str, ...]
    volumes_ml: np.ndarray
    most_parts: np.ndarray
    most_holes: np.ndarray
    envelope: Mapping[str, Any]
    fingerprints: Tensor
    alike: float
    fingerprint: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What was found out about a pair.

    Attributes:
        faults: Gate to what is wrong; nothing where the pair passes.
        volumes_ml: Of each label by name.
        alike: Correlation with the training scan that is most alike.
        fingerprint: (d,) float16.
    """

    faults: Mapping[str, str]
    volumes_ml: Mapping[str, float]
    alike: float
    fingerprint: np.ndarray = field(repr=False)


def known_of(system: System) -> Known:
    """Return what a model of pairs kept of its training set.

    Raises:
        UserError: It draws no labels, or kept nothing.
    """
    if getattr(system, "task", None) != "pairs":
        raise UserError(f"this {system.name} model draws images without labels; expected a model of system 'pairs'")
    told, kept = system.provenance.get("labels"), cast(Any, system)
    if not told or not len(kept.fingerprints):
        raise UserError(
            "this model kept nothing of its training set to judge pairs by; expected one that gen3d train wrote"
        )
    return Known(
        tuple(told["names"]),
        np.array(told["volumes_ml"], dtype=float),
        np.max(told["components"], axis=0),
        np.max(told["holes"], axis=0),
        system.provenance.get("envelope", {}),
        kept.fingerprints.float().cpu(),
        float(kept.closest.max()),
        kept.fingerprint,
    )


def judge(pair: Pair, known: Known, contrasts: tuple[str, ...]) -> Verdict:
    """Measure a pair and say what is wrong with it; a mask that is used as it was given is not judged."""
    volumes = label_volumes(pair, known)
    own = known.fingerprint(torch.from_numpy(pair.images)[None])[0].half()
    alike = float((known.fingerprints @ own.float()).max())
    found = {
        "labels": label_fault(pair, volumes, known) if pair.mask_made else "",
        "intensity": intensity_fault(pair, known, contrasts),
        "copy": copy_fault(alike, known),
    }
    faults = {gate: words for gate, words in found.items() if words}
    return Verdict(faults, volumes, round(alike, 4), own.numpy())


def label_volumes(pair: Pair, known: Known) -> dict[str, float]:
    """Return the volume of each label in mL."""
    voxel_ml = abs(float(np.linalg.det(pair.affine[:3, :3]))) / 1000
    counts = np.bincount(pair.labels.ravel(), minlength=len(known.names) + 1)
    return {name: round(int(counts[number]) * voxel_ml, 4) for number, name in enumerate(known.names, 1)}


def label_fault(pair: Pair, volumes_ml: Mapping[str, float], known: Known) -> str:
    """Say which label is implausible by volume, number of parts, or cavities; nothing where all are plausible."""
    low, high = known.volumes_ml.min(0), known.volumes_ml.max(0)
    slack = WIDER * (high - low)
    for number, name in enumerate(known.names):
        ml = volumes_ml[name]
        if not low[number] - slack[number] <= ml <= high[number] + slack[number] or (ml == 0) & (low[number] > 0):
            return f"{name} has {ml:.3g} mL; real ones {low[number]:.3g} to {high[number]:.3g} mL"
        inside = pair.labels == number + 1
        if inside.any() and (count := components(inside)) > known.most_parts[number]:
            return f"{name} is in {count} parts; real ones in {known.most_parts[number]} at most"
        if (count := holes(inside)) > known.most_holes[number]:
            return f"{name} has {count} cavities; real ones {known.most_holes[number]} at most"
    return ""


def intensity_fault(pair: Pair, known: Known, contrasts: tuple[str, ...]) -> str:
    """Say what is unlike the training set's grey values; nothing where they are alike."""
    if any(image.min() == image.max() for image in pair.images):
        return "a constant image"
    spacing = Volume(pair.labels, pair.affine).spacing
    scales = tuple(Scale(offset=float(pair.floor)) for _ in contrasts)
    present = np.ones(len(contrasts), dtype=bool)
    case = Prepared("", "", pair.images, present, None, spacing, scales)
    grey = {name: ends for name, ends in known.envelope.items() if name.startswith(("histogram", "foreground"))}
    return "; ".join(departures(case, contrasts, grey))


def copy_fault(alike: float, known: Known) -> str:
    """Say that an image is more like a training scan than any two of them are; nothing where it isn't."""
    if alike <= known.alike:
        return ""
    return f"correlation {alike:.3f} with a training scan; two different ones have {known.alike:.3f} at most"
