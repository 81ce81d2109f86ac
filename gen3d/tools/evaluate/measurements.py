"""Whether what is measured on synthetic images agrees with what is measured on the true ones, and beats a copy."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from gen3d.metrics.completion import window
from gen3d.metrics.concordance import concordance, radiomic_agreement
from gen3d.metrics.longitudinal import skill
from gen3d.metrics.pairs import PairRow
from gen3d.metrics.radiomics import radiomic_features
from gen3d.tools.evaluate.report import Cell, Table

FEWEST = 3  # pairs, for the concordance of a feature over them
Tree = dict[str, Any]


def measured(true: Tensor, images: Mapping[str, Tensor], rows: Mapping[str, PairRow], inside: Tensor) -> Tree:
    """Measure the true image and the others inside its first region.

    Args:
        true: (X, Y, Z).
        images: Each on the same grid.
        rows: The headline row of each: its window, and the gain and offset that it was given first.
        inside: The first region, (X, Y, Z) bool.

    Returns:
        For each image, its voxels' concordance with the true ones and its radiomic features.
    """
    first = next(iter(rows.values()))
    a = window(true.double(), first.low, first.high)
    found: Tree = {"true": {"radiomics": radiomic_features(a.float(), mask=inside)}}
    for name, image in images.items():
        b = window(image.double() * rows[name].gain + rows[name].offset, first.low, first.high)
        found[name] = {
            "concordance": concordance(a[inside], b[inside]),
            "radiomics": radiomic_features(b.float(), mask=inside),
        }
    return found


def agreement(cases: Sequence[Tree], image: str) -> Tree | None:
    """Return the concordance of every radiomic feature over pairs, None with fewer than three."""
    own = [case["measurements"] for case in cases if image in case["measurements"]]
    if len(own) < FEWEST:
        return None
    names = list(own[0]["true"]["radiomics"])
    true, other = (
        torch.tensor([[case[key]["radiomics"][name] for name in names] for case in own], dtype=torch.float64)
        for key in ("true", image)
    )
    found = radiomic_agreement(true, other, names)
    return {**vars(found), "pairs": len(own)}


def skill_over(cases: Sequence[Tree], headlines: Mapping[str, Sequence[Mapping[str, Any]]], image: str) -> float | None:
    """Return 1 less the ratio of mean squared errors, synthetic over ``image``: above 0 where the former is better."""
    synthetic, other = (fmean(row["rmse"] ** 2 for row in headlines[key]) for key in ("synthetic", image))
    return skill(synthetic, other) if len(headlines["synthetic"]) == len(headlines[image]) else None


def measurement_table(
    cases: Sequence[Tree], headlines: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[Table, Mapping[str, Any]]:
    """Return the table and everything in it, for the results.

    Args:
        cases: Of all pairs.
        headlines: The rows that stand for the pairs of each image.
    """
    rows: list[tuple[Cell, ...]] = []
    facts: Tree = {}
    for image in headlines:
        own = [case["measurements"][image]["concordance"] for case in cases if image in case["measurements"]]
        agreed = agreement(cases, image)
        gained = None if image == "synthetic" else skill_over(cases, headlines, image)
        facts[image] = {"voxel_concordance": fmean(own), "radiomic_agreement": agreed, "skill_over": gained}
        radiomic = (agreed["median"], agreed["share_above"]) if agreed else (None, None)
        rows.append((image, len(own), fmean(own), *radiomic, gained))
    head = ("image", "pairs", "voxel CCC", "radiomic CCC, median", "features with CCC >= 0.85", "skill over this")
    notes = (
        "inside the first region, on the scale of the first table. CCC: Lin's concordance; of radiomic features over "
        f"pairs, {FEWEST} or more. Skill: 1 - MSE of the synthetic images / MSE of this one; for a forecast, give the "
        "last visit as --baseline",
    )
    return Table("Agreement of measurements", head, rows, notes), facts
