"""What is measured of every scan of a set, once: features and a thumbnail.

Kept in the cache and in references.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.metrics.copies import thumbnails
from gen3d.metrics.features import Features
from gen3d.tools.evaluate.cache import Cache
from gen3d.tools.evaluate.scans import Prepared

REFERENCE = "reference.npz"


@dataclass(frozen=True)
class Measured:
    """A set of N scans.

    Attributes:
        names: Of the scans.
        features: (N, d) float32 by the features' key.
        thumbnails: (N, x, y, z) float32, what copies are looked for in.
    """

    names: tuple[str, ...]
    features: Mapping[str, Tensor]
    thumbnails: Tensor

    def __len__(self) -> int:
        return len(self.names)


def measure(
    scans: Prepared, kinds: Sequence[Features], cache: Cache, advance: Callable[[float, str], None], what: str
) -> Measured:
    """Measure every scan of a set.

    Raises:
        UserError: A scan can't be read, or is too small for a feature network.
    """
    rows: list[dict[str, np.ndarray]] = []
    for index, scan in enumerate(scans.scans):
        advance(index / len(scans), f"{what}, scan {index + 1} of {len(scans)}")
        rows.append(cache.arrays("scan", [scan.path], lambda index=index: of_scan(scans, index, kinds)))  # type: ignore[misc]
    features = {kind.key: torch.from_numpy(np.stack([row[kind.key] for row in rows])) for kind in kinds}
    small = torch.from_numpy(np.stack([row["thumbnail"] for row in rows])).float()
    return Measured(tuple(scan.name for scan in scans.scans), features, small)


def of_scan(scans: Prepared, index: int, kinds: Sequence[Features]) -> dict[str, np.ndarray]:
    """Return the features and the thumbnail of one scan."""
    voxels: Tensor = scans[index]
    found = {"thumbnail": thumbnails(voxels[None])[0].half().numpy()}
    for kind in kinds:
        try:
            found[kind.key] = kind(voxels[None, None])[0].cpu().numpy()
        except ValueError as error:
            raise UserError(f"{scans.scans[index].path}: {error}") from None
        if not np.isfinite(found[kind.key]).all():
            raise UserError(f"{scans.scans[index].path}: {kind.name} gives features that are not finite")
    return found


def packed_reference(sets: Mapping[str, Measured]) -> bytes:
    """Return the file of measured sets that stands beside the results, for the next evaluation."""
    arrays: dict[str, Any] = {}
    for name, measured in sets.items():
        arrays[f"{name}/names"] = np.array(measured.names)
        arrays[f"{name}/thumbnails"] = measured.thumbnails.half().numpy()
        arrays |= {f"{name}/features/{key}": rows.numpy() for key, rows in measured.features.items()}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def load_reference(path: Path, sha256: str) -> dict[str, Measured]:
    """Read what ``packed_reference`` made.

    Raises:
        UserError: It is missing, or isn't what the results were made with.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it belongs beside {path.parent / 'results.json'}; evaluate REAL anew")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path}: not the file that results.json was written with; evaluate REAL anew")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: of_arrays(name, arrays) for name in sorted({key.split("/")[0] for key in arrays})}


def of_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Measured:
    """Rebuild one set."""
    start = f"{name}/features/"
    features = {key[len(start) :]: torch.from_numpy(arrays[key]) for key in arrays if key.startswith(start)}
    small = torch.from_numpy(arrays[f"{name}/thumbnails"]).float()
    return Measured(tuple(str(n) for n in arrays[f"{name}/names"]), features, small)
