"""On real hippocampi metrics of generation move the way they should; metrics/README.md has the table of 65 scans."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from gen3d.data.layout import find_cases
from gen3d.metrics import (
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
from gen3d.tools.evaluate.scans import Prepared, Preprocessing, Scan

SIZE, COUNT, MODES = (31, 40, 24), 24, 6
Sets = dict[str, Tensor]


@pytest.fixture(scope="module")
def sets(data_folder: Path) -> Sets:
    """Scans in [0, 1], (24, 31, 40, 24) each, but for 48 training scans."""
    paths = find_cases(data_folder / "hippocampus")
    order = np.random.default_rng(1).permutation(len(paths))[: 4 * COUNT]
    scans = torch.stack(list(Prepared([Scan(paths[i].name, paths[i]) for i in order], Preprocessing(SIZE))))
    noise = torch.Generator().manual_seed(0)
    source, real, training = scans[:COUNT], scans[COUNT : 2 * COUNT], scans[2 * COUNT :]
    few = source[:MODES].repeat_interleave(COUNT // MODES, 0)
    return {
        "training": training,
        "held out": real,
        "real": source,
        "blurred": torch.stack([torch.from_numpy(gaussian_filter(scan.numpy(), 1.0)) for scan in source]),
        "noisy": source + 0.1 * torch.randn(source.shape, generator=noise),
        "mode-dropped": few + 0.01 * torch.randn(few.shape, generator=noise),
        "copied": training[:COUNT],
        "disguised": 0.7 * training[:COUNT].flip(1).roll((2, -1), (1, 2)) + 0.1,
    }


def per_set(sets: Sets, measure: Callable[[Tensor], float]) -> dict[str, float]:
    return {name: measure(scans) for name, scans in sets.items() if name not in ("training", "held out")}


@pytest.mark.parametrize(
    ("kind", "seen"), [("radiomic", ["blurred", "noisy", "mode-dropped"]), ("random3d", ["blurred"])]
)
def test_distances_see_bad_scans_and_not_copies(sets: Sets, kind: str, seen: list[str]) -> None:
    """Random weights see little else than blur in 24 scans."""
    features = open_features(kind)
    real = features(sets["held out"][:, None])

    def pair(scans: Tensor) -> tuple[Tensor, Tensor]:
        fake = features(scans[:, None])
        return (real, fake) if features.is_network else normalised(real, fake, "frd-v1")

    frechet = per_set(sets, lambda scans: frechet_distance(*pair(scans)))
    kernel = per_set(sets, lambda scans: kernel_distance(*pair(scans)).value)
    for name in seen:
        assert frechet[name] > 1.2 * frechet["real"]
        assert frechet[name] > frechet["copied"]
    for name in set(seen) - {"mode-dropped"}:
        assert kernel[name] > kernel["real"]


def test_coverage_sees_what_is_missing(sets: Sets) -> None:
    features = open_features("radiomic")
    real = features(sets["held out"][:, None])
    found = {
        name: manifold(*normalised(real, features(scans[:, None]), "frd-v1"), k=3)
        for name, scans in sets.items()
        if name not in ("training", "held out")
    }
    assert found["real"].precision > 0.7
    assert found["real"].coverage > 0.7
    for name in ("blurred", "noisy"):
        assert found[name].precision < 0.3
        assert found[name].coverage < 0.3
    assert found["mode-dropped"].coverage < found["real"].coverage - 0.1
    assert found["mode-dropped"].recall < found["real"].recall - 0.1
    assert found["copied"].precision > 0.7
    assert found["copied"].coverage > 0.7


def test_diversity_sees_blur_noise_and_repeats(sets: Sets) -> None:
    value = per_set(sets, lambda scans: mean_pairwise_ms_ssim(scans).value)
    assert value["blurred"] > value["real"] + 0.05
    assert value["noisy"] < value["real"]
    assert value["mode-dropped"] > value["real"]
    assert abs(value["copied"] - value["real"]) < 0.05


def test_the_copy_rate_sees_what_the_others_praise(sets: Sets) -> None:
    small = {name: thumbnails(scans) for name, scans in sets.items()}
    found = {
        name: copy_rate(small[name], small["training"], small["held out"])
        for name in small
        if name not in ("training", "held out")
    }
    assert found["copied"].rate == 1
    assert found["copied"].nearest.tolist() == list(range(COUNT))
    assert found["disguised"].rate == 1
    assert found["disguised"].nearest.tolist() == list(range(COUNT))
    assert found["real"].rate < 0.25
    threshold = found["real"].threshold
    assert repeat_rate(small["mode-dropped"], threshold) == 1
    assert repeat_rate(small["real"], threshold) < 0.25
