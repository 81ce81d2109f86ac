"""Where several samples of a scan differ most: the place that a reader should doubt first."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad

from gen3d.data.topology import connected

SHARE = 0.01  # of the foreground, the least certain of it, is looked at
NOT_ESTIMATED = {
    "mean": "not estimated: the expected image is one image; --mode sample draws several and says where they differ",
    "sample": "not estimated: one sample has no spread; --samples 3 says where they differ",
}


@dataclass(frozen=True)
class Region:
    """Where the standard deviation of the samples is highest.

    Attributes:
        voxel: Its middle, a voxel of it, in the file's own axes.
        centre_mm: The same in the world, which grows to Right, Anterior, Superior.
        volume_ml: Its size.
        std_percent: Mean standard deviation in it, in percent of the window.
    """

    voxel: tuple[int, int, int]
    centre_mm: tuple[float, float, float]
    volume_ml: float
    std_percent: float

    def facts(self, affine: np.ndarray, transform: np.ndarray | None = None) -> dict[str, Any]:
        """Return what a sidecar says, on another grid where ``transform`` leads from this world to that one's.

        Args:
            affine: Of the scan that the sidecar is of.
            transform: (4, 4), p_there = T @ p_here; by default they share a world.
        """
        there = (np.eye(4) if transform is None else transform) @ (*self.centre_mm, 1.0)
        voxel = np.rint(np.linalg.inv(affine) @ there)[:3]
        x, y, z = centre = [round(float(mm), 1) + 0.0 for mm in there[:3]]
        return {
            "centre_mm": centre,
            "centre_voxel": [int(at) for at in voxel],
            "volume_ml": self.volume_ml,
            "std_percent_of_window": self.std_percent,
            "warning": f"The samples differ most around ({x:g}, {y:g}, {z:g}) mm, {self.std_percent:g} % of the window "
            f"over {self.volume_ml:g} ml: what is shown there may be invented.",
        }


def least_certain(spread: np.ndarray, mask: np.ndarray, affine: np.ndarray, width: float) -> Region | None:
    """Find the connected region of the highest standard deviations that holds most of it; None where all are 0.

    Args:
        spread: (X, Y, Z) standard deviation over the samples.
        mask: (X, Y, Z) bool, the foreground.
        affine: Of both, to world millimetres (RAS).
        width: Of the window, in the units of ``spread``.
    """
    smooth = smoothed(spread, mask)
    if not mask.any() or not smooth[mask].any():
        return None
    hot = mask & (smooth >= max(np.quantile(smooth[mask], 1 - SHARE), np.finfo(np.float32).tiny))
    places, label = np.argwhere(hot), connected(hot)
    weights = smooth[hot].astype(np.float64)
    mine = label == np.bincount(label, weights).argmax()
    places, weights = places[mine], weights[mine]
    steps_mm = (places - weights @ places / weights.sum()) @ affine[:3, :3].T
    x, y, z = (int(at) for at in places[(steps_mm**2).sum(1).argmin()])
    right, anterior, superior = (float(mm) for mm in (affine @ (x, y, z, 1.0))[:3])
    millilitres = len(places) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    level = 100 * float(spread[hot][mine].mean()) / width
    return Region((x, y, z), (right, anterior, superior), round(millilitres, 2), round(level, 2))


def smoothed(spread: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return means over 3 x 3 x 3 voxels of the foreground, so that no single voxel decides; 0 outside it."""

    def mean(voxels: Tensor) -> Tensor:
        return avg_pool3d(pad(voxels[None, None], (1,) * 6), 3, stride=1)[0, 0]

    inside = torch.from_numpy(mask.astype(np.float32))
    means = mean(torch.from_numpy(spread.astype(np.float32)) * inside) / mean(inside).clamp_min(1 / 54)
    found: np.ndarray = (means * inside).numpy()
    return found


def apart(spread: np.ndarray, mask: np.ndarray, lesion: np.ndarray, width: float) -> dict[str, float]:
    """Return the mean standard deviation inside a lesion and in the rest of the foreground, in percent of the window.

    Args:
        spread: (X, Y, Z) standard deviation over the samples.
        mask: (X, Y, Z) bool, the foreground.
        lesion: (X, Y, Z) bool.
        width: Of the window, in the units of ``spread``.
    """
    parts = {"inside": mask & lesion, "rest": mask & ~lesion}
    return {name: round(100 * float(spread[part].mean()) / width, 2) for name, part in parts.items() if part.any()}
