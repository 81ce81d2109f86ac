"""Cases that carry the latents of a frozen autoencoder, read from its cache when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gen3d.core.volume import Prepared
from gen3d.latent.latent_cache import cached_moments, read_moments


@dataclass(frozen=True, eq=False)
class Latents(Prepared):
    """A prepared case whose latent is in a file.

    Attributes:
        path: Of its mean and deviation, as ``cached_moments`` stores them.
    """

    path: Path = Path()

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of its latent, (1, c, x, y, z) each."""
        return read_moments(self.path)


def with_latents(autoencoder: Any, cases: Sequence[Prepared], folder: Path, patch: int) -> list[Prepared]:
    """Return the cases with their latents, encoded now where the folder lacks them.

    Args:
        autoencoder: Has ``moments``; it encodes on its own device.
        cases: Different cases have different names.
        folder: Of the cache.
        patch: Voxels that the autoencoder wants along every axis; shorter cases are lengthened by repeating their edge.

    Raises:
        UserError: Two cases have one name, a latent does not fit float16, or the disk refuses.
    """
    files = cached_moments(autoencoder, [lengthened(case, patch) for case in cases], Path(folder))
    return [
        Latents(**{f.name: getattr(case, f.name) for f in fields(Prepared)}, path=path)
        for case, path in zip(cases, files.paths, strict=True)
    ]


def lengthened(case: Prepared, least: int) -> Prepared:
    """Return a case whose axes have at least ``least`` voxels, itself if they have."""
    widths = [(0, max(least - n, 0)) for n in case.voxels.shape[1:]]
    if not any(wide for _, wide in widths):
        return case
    return replace(case, voxels=np.pad(case.voxels, [(0, 0), *widths], mode="edge"))
