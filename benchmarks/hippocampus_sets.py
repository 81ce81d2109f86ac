"""Sets of hippocampi, drawn in batches and compared with real ones by the figures of gen3d evaluate generation.

What a row of quality_curves.py or training_trials.py says of a set of volumes; nothing is written to disk in between.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d.core.randomness import derive, normal
from gen3d.core.system import Sampling, System
from gen3d.core.volume import Volume
from gen3d.data.layout import find_cases
from gen3d.data.nifti import read, without_ending
from gen3d.data.splits import is_test
from gen3d.metrics import (
    Features,
    copy_rate,
    frechet_distance,
    kernel_distance,
    manifold,
    mean_pairwise_ms_ssim,
    normalised,
    open_features,
    repeat_rate,
    thumbnails,
)
from gen3d.metrics.copies import nearest
from gen3d.tools.evaluate.scans import Preprocessing
from gen3d.tools.sampling import choose_walk, network_calls

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
GRID = Preprocessing((31, 40, 24))  # the smallest of the 217 scans along each axis
BATCH = 8
REAL_DRAWS = 20


def held_for_choosing(name: str) -> bool:
    """Say whether a training case is in the validation fifth: by the next digit, base 5, of the test split's hash."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) // 5 % 5 == 0


def cases(part: str) -> list[Path]:
    """List the hippocampi of a part: test, training (all that is not test), learning and validation (of training)."""
    chosen = []
    for path in find_cases(DATA / "hippocampus"):
        name = without_ending(path)
        test, held = is_test("hippocampus", name), held_for_choosing(name)
        parts = {"test": test, "training": not test, "learning": not (test or held), "validation": held and not test}
        if parts[part]:
            chosen.append(path)
    return chosen


@dataclass(frozen=True, eq=False)
class Set:
    """N volumes as arrays in [0, 1], (N, X, Y, Z), with what is measured of each of them."""

    volumes: Tensor

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Features by their key, (N, d)."""
        return {kind.key: torch.cat([kind(v[None, None]) for v in self.volumes]).cpu() for kind in kinds()}

    @cached_property
    def small(self) -> Tensor:
        """Thumbnails, rounded as the evaluation keeps them."""
        return thumbnails(self.volumes).half().float()

    @cached_property
    def ms_ssim(self) -> float:
        """Mean over all pairs."""
        return float(mean_pairwise_ms_ssim(self.volumes).value)

    def subset(self, rows: Sequence[int]) -> "Set":
        """Return some of the volumes, with what was measured of them."""
        part = Set(self.volumes[list(rows)])
        part.__dict__["features"] = {key: value[list(rows)] for key, value in self.features.items()}
        part.__dict__["small"] = self.small[list(rows)]
        return part


def kinds() -> list[Features]:
    """Return the features that need no file."""
    if not _KINDS:
        _KINDS.extend(open_features(name, device="cpu") for name in ("radiomic", "random3d"))
    return _KINDS


_KINDS: list[Features] = []


def real(part: str) -> Set:
    """Read the real scans of a part."""
    return Set(torch.stack([unit(read(path, flat=True)) for path in cases(part)]))


def unit(volume: Volume) -> Tensor:
    """Return a scan as the evaluation does, its maximum exactly 1.

    There it is 1 to 2e-8, and the radiomic distance's z-score makes two features of that rounding error.
    """
    voxels = GRID.apply(volume)
    return voxels / voxels.max()


def figures(fake: Set, test: Set, training: Set) -> dict[str, float]:
    """Compare a set with scans that no model saw, and look for copies among those that it learnt from."""
    near, least = nearest(fake.small, training.small).distances, copy_threshold(test, training)
    copies = float((near < least).double().mean())
    return {**distances(fake, test), "copy rate": copies, "repeats": repeat_rate(fake.small, least)}


@cache
def copy_threshold(test: Set, training: Set) -> float:
    """Return the distance below which ``copy_rate`` takes a volume for a copy, found once for many sets."""
    return copy_rate(test.small[:2], training.small, test.small).threshold


def distances(fake: Set, test: Set) -> dict[str, float]:
    """Compare two sets in each space of features, and say how diverse the first is."""
    found = {}
    for key in fake.features:
        a, b = test.features[key], fake.features[key]
        if key == "fd_radiomic":
            a, b = normalised(a, b, convention="frd-v1")
        shares = manifold(a, b)
        found[key] = frechet_distance(a, b)
        found[f"kernel, {key}"] = kernel_distance(a, b).value
        for name in ("precision", "recall", "density", "coverage"):
            found[f"{name}, {key}"] = float(getattr(shares, name))
    return {**found, "MS-SSIM": fake.ms_ssim}


def real_against_real(test: Set, training: Set, n: int) -> dict[str, dict[str, float]]:
    """Return mean and deviation of the distances of n training scans, in 20 draws: what a perfect model would make."""
    rows = []
    for draw in range(REAL_DRAWS):
        order = np.random.default_rng(draw).permutation(len(training.volumes))[:n]
        rows.append(distances(training.subset(order.tolist()), test))
    return {
        name: {"mean": float(np.mean([r[name] for r in rows])), "std": float(np.std([r[name] for r in rows], ddof=1))}
        for name in rows[0]
    }


@torch.inference_mode()
def drawn(system: System, sampling: Sampling, count: int, seed: int) -> Set:
    """Draw what ``gen3d generate -n COUNT --seed SEED`` draws, in batches."""
    system.config = replace(system.config, sampling=sampling)
    walk, volumes = choose_walk(system), []
    for first in range(0, count, BATCH):
        keys = [derive(seed, "sample", index) for index in range(first, min(first + BATCH, count))]
        draws = 0

        def noise(x: Tensor, keys: list[str] = keys) -> Tensor:
            nonlocal draws
            draws += 1
            return normal([derive(key, "step", draws) for key in keys], x.shape[1:]).to(x)

        example = system.blank()  # type: ignore[operator]
        condition = system.condition(example)
        x = walk.run(system.denoise(condition, keys), system.start(example, keys, walk.sigma), noise, lambda *_: None)
        for image in system.finish(x, example)[:, 0].numpy():
            volumes.append(unit(Volume(image, np.asarray(system.affine, dtype=np.float64))))
    return Set(torch.stack(volumes))


def calls(sampling: Sampling) -> int:
    """Return how often a volume's walk asks the network."""
    return network_calls(sampling.sampler, sampling.steps)
