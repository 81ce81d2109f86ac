"""What standardising did: agreement of radiomic features over regions of the body, and errors in HU against a truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.metrics import feature_names, radiomic_agreement, radiomic_features

REGION = 32  # pixels along each side
MOST_REGIONS = 300
BIN_HU = 25.0  # width of a grey level, as pyradiomics has it
TISSUE_HU, BONE_HU, AIR_HU = -500.0, 200.0, -900.0


def body(hu: np.ndarray) -> np.ndarray:
    """Return the mask of the body in each slice: between the outermost tissue of its row and of its column, lungs too.

    Args:
        hu: (X, Y, Z), slices along Z.
    """
    tissue = hu > TISSUE_HU
    inside = np.ones_like(tissue)
    for axis in (0, 1):
        before = np.maximum.accumulate(tissue, axis)
        after = np.flip(np.maximum.accumulate(np.flip(tissue, axis), axis), axis)
        inside &= before & after
    return inside


def regions(mask: np.ndarray) -> list[tuple[slice, slice, slice]]:
    """List the squares of 32 x 32 pixels of a regular grid that lie wholly in a mask (X, Y, Z), at most 300 of them."""
    nx, ny = mask.shape[0] // REGION, mask.shape[1] // REGION
    if not nx or not ny:
        return []
    blocks = mask[: nx * REGION, : ny * REGION].reshape(nx, REGION, ny, REGION, -1).all((1, 3))
    found = np.argwhere(blocks)
    if len(found) > MOST_REGIONS:
        found = found[np.linspace(0, len(found) - 1, MOST_REGIONS).round().astype(int)]
    return [
        (slice(i * REGION, (i + 1) * REGION), slice(j * REGION, (j + 1) * REGION), slice(k, k + 1)) for i, j, k in found
    ]


def features(hu: np.ndarray, where: list[tuple[slice, slice, slice]]) -> Tensor:
    """Measure every region, (regions, features)."""
    rows = [
        list(radiomic_features(torch.from_numpy(np.ascontiguousarray(hu[box], np.float32)), bin_width=BIN_HU).values())
        for box in where
    ]
    return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class Concordance:
    """How well features agree over regions: median concordance, share of features from 0.85 on, each feature's."""

    median: float
    share_from_085: float
    per_feature: Mapping[str, float]

    def tree(self, *, whole: bool = True) -> dict[str, Any]:
        """Return it JSON-like, rounded."""
        found: dict[str, Any] = {"median": round(self.median, 4), "share_from_0.85": round(self.share_from_085, 4)}
        return found | ({"features": {k: round(v, 4) for k, v in self.per_feature.items()}} if whole else {})


def agreement(first: Tensor, second: Tensor) -> Concordance | None:
    """Compare the features of the same regions in two images; None where there are fewer than two regions."""
    if len(first) < 2:
        return None
    found = radiomic_agreement(first, second, feature_names())
    return Concordance(found.median, found.share_above, found.per_feature)


def errors(truth: np.ndarray, image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return the mean absolute error in HU over the slice, the body, its bone and the air around and in it."""
    off = np.abs(truth.astype(np.float64) - image)
    places = {"all": np.ones_like(mask), "body": mask, "bone": mask & (truth > BONE_HU), "air": truth < AIR_HU}
    return {name: round(float(off[where].mean()), 3) for name, where in places.items() if where.any()}


def against_truth(
    truth: np.ndarray, images: Mapping[str, np.ndarray], mask: np.ndarray, *, whole: bool = False
) -> dict[str, Any]:
    """Compare several images with the true one.

    Args:
        truth: HU, (X, Y, Z).
        images: HU of the same shape, by name.
        mask: The body.
        whole: Whether each feature's concordance is told too.
    """
    where = regions(mask)
    true = features(truth, where)
    rows: dict[str, Any] = {}
    for name, image in images.items():
        found = agreement(true, features(image, where))
        rows[name] = {
            "mae_hu": errors(truth, image, mask),
            "concordance": found.tree(whole=whole) if found else None,
        }
    return {"regions": len(where), "rows": rows}


def summary(row: Mapping[str, Any]) -> list[str]:
    """Return what is printed of an image."""
    name = row["case"]
    if row["status"] == "checked":
        return [f"{name}: would be standardised; kernel {row['source_kernel']}"]
    own = row["before_after"]
    agreed = own["concordance"]
    words = f"features agree with before at {agreed['median']:.2f} (median concordance)" if agreed else "no region fits"
    lines = [f"{name}: kernel {row['source_kernel']}"]
    lines += [f"{name}: changed by {own['change_hu']['all']:.1f} HU on average; {words}, {own['regions']} regions"]
    for image, values in row.get("against_truth", {}).get("rows", {}).items():
        found = values["concordance"]
        lines.append(
            f"{name}: {image}: {values['mae_hu']['all']:.1f} HU from the truth"
            + (f", concordance {found['median']:.3f}" if found else "")
        )
    return lines
