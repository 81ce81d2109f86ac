"""Generated against real scans in one space of features, each figure beside real against real at the same N."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gen3d.metrics.copies import CopyRate
from gen3d.metrics.features import Features
from gen3d.metrics.frechet import bootstrap_frechet, frechet_distance
from gen3d.metrics.kernel import KernelDistance, kernel_distance
from gen3d.metrics.manifold import Manifold, manifold
from gen3d.metrics.radiomic_frechet import normalised
from gen3d.metrics.resampling import Interval, SameSize, same_size, same_sizes, small_sample_warning
from gen3d.tools.evaluate.measured import Measured
from gen3d.tools.evaluate.report import Cell


@dataclass(frozen=True)
class Distances:
    """Two sets in one space of features.

    Attributes:
        about: The features: name, key, weights, dimension, preprocessing, how they were scaled.
        frechet: Squared Frechet distance at all N.
        interval: Its sampling spread.
        frechet_same: The same at equal N, beside real against real.
        kernel: Kernel distance (KID where the features are a network's).
        kernel_same: At equal N.
        manifold: Precision, recall, density, coverage.
        manifold_same: Each of them at equal N.
        warning: How large the bias at this N is.
    """

    about: dict[str, Any]
    frechet: float
    interval: Interval
    frechet_same: SameSize
    kernel: KernelDistance
    kernel_same: SameSize
    manifold: Manifold
    manifold_same: dict[str, SameSize]
    warning: str | None

    def tree(self) -> dict[str, Any]:
        """Return everything, for the results."""
        tree = {"about": self.about, "frechet": self.frechet, "interval_95": self.interval}
        if self.about["key"] == "fd_radiomic":
            tree["frd_v1"] = logarithm(self.frechet)
        return {
            **tree,
            "frechet_same_n": self.frechet_same,
            "kernel": self.kernel,
            "kernel_same_n": self.kernel_same,
            "manifold": self.manifold,
            "manifold_same_n": self.manifold_same,
            "warning": self.warning,
        }

    def rows(self) -> list[tuple[Cell, ...]]:
        """Return the table's rows: measure, fake, spread, fake at n, real at n, which way is better."""
        key = self.about["key"]
        kernel = "KID" if key.startswith("fid") else "kernel distance"
        found: list[tuple[Cell, ...]] = [
            (key, self.frechet, span(self.interval), self.frechet_same.fake, self.frechet_same.real, "lower"),
            (
                f"{kernel}, {key}",
                self.kernel.value,
                spread(self.kernel.std_error),
                self.kernel_same.fake,
                self.kernel_same.real,
                "0",
            ),
        ]
        if key == "fd_radiomic":
            logs = (logarithm(v) for v in (self.frechet, self.frechet_same.fake, self.frechet_same.real))
            whole, fake, real = logs
            found.insert(1, ("FRD, v1 convention (log of the above)", whole, "", fake, real, "lower"))
        for name, same in self.manifold_same.items():
            value = float(getattr(self.manifold, name))
            found.append((f"{name}, {key}, k = {self.manifold.k}", value, "", same.fake, same.real, "as real"))
        return found


@dataclass(frozen=True)
class Found:
    """What was measured of both sides.

    Attributes:
        sets: "fake", "real" and, where given, "train".
        diversity: Mean pairwise MS-SSIM of "fake" and "real", or why there is none.
        spaces: Distances in each space of features.
        copies: Of training scans among the generated ones.
        repeats: Share of "fake" and "real" scans that are as near to another of their own set.
    """

    sets: Mapping[str, Measured]
    diversity: Mapping[str, Mapping[str, Any]]
    spaces: Sequence[Distances]
    copies: CopyRate
    repeats: Mapping[str, float]

    @property
    def searched(self) -> str:
        """Where copies were looked for."""
        return "train" if "train" in self.sets else "real"


def logarithm(value: float) -> float | None:
    """Return the natural logarithm, None where there is none."""
    return math.log(value) if value > 0 else None


def spread(std_error: float | None) -> str:
    """Write a 95 % interval around an estimate, nothing where its error is not known."""
    return "" if std_error is None else f"± {1.96 * std_error:.2g}"


def span(interval: Interval) -> str:
    """Write an interval."""
    return f"{interval.low:.4g} to {interval.high:.4g}"


def about(kind: Features) -> dict[str, Any]:
    """Return what identifies features: two evaluations compare only where all of it is equal."""
    return {
        "name": kind.name,
        "key": kind.key,
        "weights_sha256": kind.weights_sha256,
        "d": kind.dim,
        "preprocessing": kind.preprocessing,
    }


def distances(kind: Features, real: Measured, fake: Measured, seed: int) -> Distances:
    """Compare two sets in one space of features; radiomic ones are standardised on the real set first."""
    a, b = real.features[kind.key], fake.features[kind.key]
    told = {**about(kind), "n_real": len(real), "n_fake": len(fake)}
    if not kind.is_network:
        a, b = normalised(a, b, convention="frd-v1")
        told["scaled"] = "z-score by the real set (FRD v1)"
        told["d"] = a.shape[1]
    same = same_size(frechet_distance, a, b, seed=seed)
    shares = same_sizes(lambda x, y: manifold(x, y)[:4], a, b, seed=seed)
    return Distances(
        about=told,
        frechet=frechet_distance(a, b),
        interval=bootstrap_frechet(a, b, seed=seed),
        frechet_same=same,
        kernel=kernel_distance(a, b),
        kernel_same=same_size(lambda x, y: kernel_distance(x, y).value, a, b, seed=seed),
        manifold=manifold(a, b),
        manifold_same=dict(zip(Manifold._fields, shares, strict=False)),
        warning=small_sample_warning(len(real), len(fake), a.shape[1], same),
    )


def flat(rows: Tensor) -> Tensor:
    """Return the first two principal components of features, (N, 2)."""
    centred = rows.double() - rows.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T
