"""Does every metric move the way it should? Real hippocampi, and what a bad generator would make of them.

Usage: python benchmarks/hippocampus_metrics.py

The 217 scans of ../shared/data/hippocampus are dealt at random, three times, into 87 "training" scans, 65 unseen "real"
ones and 65 "sources". Each row is a set of 65 "generated" scans against the real ones by ``gen3d evaluate generation``,
the median of the three deals; no model is trained:
  real           the sources as they are: what a perfect generator would give
  blurred        the sources, Gaussian blur of 1 voxel
  noisy          the sources with white noise, 10 % of the range
  mode-dropped   13 of the sources five times over, each with 1 % noise: a generator that collapsed
  copied         65 training scans as they are
  disguised      the same, flipped at random, moved by up to 2 voxels, made brighter
Writes results/hippocampus_metrics.json and .md; metrics/README.md shows the table.
"""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from gen3d.core.volume import Volume
from gen3d.data.layout import find_cases
from gen3d.data.nifti import read, write
from gen3d.tools.evaluate.generation import evaluate_generation
from gen3d.tools.evaluate.report import Cell, Table, deliver, markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRAINING, SET, MODES, DEALS = 87, 65, 13, 3
FEATURES = ("radiomic", "random3d")


def deal(folder: Path, seed: int) -> dict[str, list[Volume]]:
    """Deal the scans into training, real and sources."""
    scans = [read(path) for path in find_cases(folder)]
    order = np.random.default_rng(seed).permutation(len(scans))
    cuts = {
        "training": (0, TRAINING),
        "real": (TRAINING, TRAINING + SET),
        "sources": (TRAINING + SET, TRAINING + 2 * SET),
    }
    return {name: [scans[i] for i in order[low:high]] for name, (low, high) in cuts.items()}


def with_noise(scan: Volume, share: float, rng: np.random.Generator) -> Volume:
    """Add white noise of a share of the scan's 0.1 to 99.9 percentile range."""
    low, high = np.percentile(scan.voxels, (0.1, 99.9))
    noise = rng.normal(0, share * (high - low), scan.voxels.shape)
    return replace(scan, voxels=(scan.voxels + noise).astype(np.float32))


def disguised(scan: Volume, rng: np.random.Generator) -> Volume:
    """Flip, move by up to 2 voxels, and rescale the grey values."""
    voxels = np.flip(scan.voxels, tuple(axis for axis in range(3) if rng.random() < 0.5))
    shift = rng.integers(-2, 3, 3)
    moved = np.pad(voxels, 2, mode="edge")[
        tuple(slice(2 + s, 2 + s + n) for s, n in zip(shift, voxels.shape, strict=True))
    ]
    return replace(scan, voxels=np.ascontiguousarray(1.3 * moved + 10))


def conditions(sets: dict[str, list[Volume]]) -> dict[str, list[Volume]]:
    """Return what each generator "made"."""
    rng = np.random.default_rng(1)
    sources, training = sets["sources"], sets["training"]
    return {
        "real": sources,
        "blurred": [replace(s, voxels=gaussian_filter(s.voxels, 1.0)) for s in sources],
        "noisy": [with_noise(s, 0.1, rng) for s in sources],
        "mode-dropped": [with_noise(s, 0.01, rng) for s in sources[:MODES] for _ in range(SET // MODES)],
        "copied": training[:SET],
        "disguised": [disguised(s, rng) for s in training[:SET]],
    }


def write_set(folder: Path, scans: list[Volume]) -> Path:
    """Write a set of scans."""
    for index, scan in enumerate(scans):
        write(scan, folder / f"scan_{index:03d}.nii.gz")
    return folder


def figures(tree: dict[str, Any]) -> dict[str, float]:
    """Return what the table shows of one evaluation."""
    radiomic, random = tree["features"]
    return {
        "fd_radiomic": radiomic["frechet"],
        "FRD v1": radiomic["frd_v1"],
        "kernel distance": radiomic["kernel"]["value"],
        "fd_random3d": 1000 * random["frechet"],
        **{name: radiomic["manifold"][name] for name in ("precision", "recall", "density", "coverage")},
        "MS-SSIM": tree["ms_ssim"]["fake"]["value"],
        "copy rate": tree["copies"]["rate"],
        "repeats": tree["copies"]["repeats"]["fake"],
    }


def evaluated(folder: Path, seed: int, place: Path) -> dict[str, dict[str, Any]]:
    """Write the sets of one deal and evaluate each."""
    sets = deal(folder, seed)
    real, training = (write_set(place / name, sets[name]) for name in ("real", "training"))
    trees = {}
    for name, scans in conditions(sets).items():
        fake, out = write_set(place / "fakes" / name, scans), place / "out" / name
        deliver(evaluate_generation(real, fake, out, train=training, features=FEATURES), out)
        trees[name] = json.loads((out / "results.json").read_text())
        for long in ("tables", "settings", "reference"):
            trees[name].pop(long)
        for long in ("scans", "unseen_real"):
            trees[name]["copies"].pop(long)
        print(seed, name, {key: round(value, 4) for key, value in figures(trees[name]).items()}, flush=True)
    return trees


def main() -> None:
    """Evaluate every deal and write the table of the medians."""
    data = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
    deals = []
    for seed in range(DEALS):
        with tempfile.TemporaryDirectory() as temporary:
            deals.append(evaluated(data / "hippocampus", seed, Path(temporary)))
    rows: list[tuple[Cell, ...]] = []
    for name in deals[0]:
        each = [figures(deal[name]) for deal in deals]
        rows.append((name, *(f"{np.median([one[key] for one in each]):.3g}" for key in each[0])))
    columns = ("generated", *(f"{key} x1000" if key == "fd_random3d" else key for key in figures(deals[0]["real"])))
    text = markdown(Table("hippocampi", columns, rows))
    (RESULTS / "hippocampus_metrics.json").write_text(json.dumps(deals, indent=1) + "\n")
    (RESULTS / "hippocampus_metrics.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
