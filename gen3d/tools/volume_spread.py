"""How far forecast volumes lie from true ones: quantiles of the error on sequences that training did not see."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.checkpoint import INDEX, read_index, write_json
from gen3d.core.randomness import derive
from gen3d.core.volume import Prepared
from gen3d.systems import load

DRAWS = 900  # sequences, a third of them from one earlier visit, about
YEAR = 365.25
SOONEST = 0.25  # years: nearer forecasts are taken to err as much, since noise and the segmentation err too
MOST = 3  # from so many visits on it makes no difference
WHOLE = "all structures"


@torch.no_grad()
def write_spread(model: Path, cases: Sequence[Prepared], device: torch.device | str = "cpu") -> None:
    r"""Add ``volume_spread`` to a saved model: for each structure, by the number of earlier visits.

    Quantiles 0.1 and 0.9 of $\ln(V_{true} / V_{forecast}) / years$, both volumes by the model's own segmentation
    network, over sequences of the cases that no training item had (split conformal prediction, Papadopoulos et al.
    2002, with the time ahead as the scale). The cases may be those of training: what errs is the change, drawn anew.
    """
    system: Any = load(model).to(device)
    names = (*system.config.labels, WHOLE)
    found: dict[int, list[list[float]]] = {count: [] for count in range(1, MOST + 1)}
    for index in range(DRAWS):
        example = system.example(cases[index % len(cases)], derive("volume spread", index))
        days, query = example["days"][0][example["valid"][0]], float(example["query"][0])
        if float(days.max()) > query:
            continue
        example = {name: part.to(device) for name, part in example.items()}
        true, made = (counts(system, image) for image in (example["target"].float(), system.expected(example)))
        scale = years(query - float(days.max()))
        errors = [math.log((t + 1) / (m + 1)) / scale for t, m in zip(true, made, strict=True)]
        found[min(len(days), MOST)].append(errors)
    quantiles = {str(n): np.quantile(rows, (0.1, 0.9), axis=0) for n, rows in found.items()}
    index_tree = read_index(model)
    index_tree["provenance"]["volume_spread"] = {
        name: {n: [round(float(end), 4) for end in ends[:, place]] for n, ends in quantiles.items()}
        for place, name in enumerate(names)
    }
    write_json(model / INDEX, index_tree)


def counts(system: Any, image: torch.Tensor) -> list[int]:
    """Return the voxels of each structure and of all together."""
    labels = system.structures(image)
    each = [int((labels == number).sum()) for number in range(1, 1 + len(system.config.labels))]
    return [*each, sum(each)]


def years(days: float) -> float:
    """Return by what the usual error of a forecast grows."""
    return max(days / YEAR, SOONEST)


def interval_80(known: Mapping[str, Any], name: str, volume: float, visits: int, days: float) -> list[float] | None:
    """Return the 80 % interval of a structure's true volume, or None where the model doesn't know.

    Args:
        known: The model's ``provenance["volume_spread"]``.
        name: Of the structure.
        volume: That was forecast, in any unit.
        visits: Earlier ones that the forecast was made from.
        days: Ahead of the last of them.
    """
    if name not in known:
        return None
    low, high = known[name][str(min(visits, MOST))]
    return [volume * math.exp(end * years(days)) for end in (low, high)]
