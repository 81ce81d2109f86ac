"""How close are generated hippocampi to real ones, and are they copies? Real-against-real stands beside every figure.

Usage: python benchmarks/hippocampus_generation.py MODEL [--count N]

Draws as many volumes as there are test cases and compares them with the test cases, as it does an equal number of
training cases. The distance is the Frechet distance of 24 features, 8 log subband energies and 16 grey-level
quantiles, each standardised on the training set: no network, so no FID. Copy rate: the share of volumes nearer to a
training case (root mean square over flips) than the nearest of 95 % of the test cases is. Writes
benchmarks/results/hippocampus_wdm.json and .md.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch

import gen3d
from gen3d.core.system import System
from gen3d.data.layout import find_cases, read_case
from gen3d.data.nifti import without_ending
from gen3d.data.splits import is_test
from gen3d.nn.haar import haar
from gen3d.tools.sampling import choose_walk, drawn

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def real(system: System, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the training and the test volumes on the model's grid and scale, (N, X, Y, Z)."""
    sides: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for path in find_cases(data / "hippocampus"):
        sides[is_test("hippocampus", without_ending(path))].append(system.prepare(read_case(path)).voxels[0])
    return np.stack(sides[False]), np.stack(sides[True])


@torch.inference_mode()
def generated(system: System, count: int) -> np.ndarray:
    """Draw volumes as ``gen3d generate`` does by default."""
    walk = choose_walk(system, None, None)
    blank = system.blank()
    condition = system.condition(blank)
    volumes = []
    for index in range(count):
        coords = drawn(system, blank, condition, f"0/sample/{index}", walk)
        volumes.append(system.finish(coords, blank)[0, 0].numpy())
    return np.stack(volumes)


def features(volumes: np.ndarray) -> np.ndarray:
    """Return 8 log subband energies and 16 grey-level quantiles of each volume, (N, 24)."""
    bands = haar(torch.from_numpy(volumes)[:, None]).square().mean((2, 3, 4)).clamp_min(1e-8).log().numpy()
    quantiles = np.quantile(volumes.reshape(len(volumes), -1), np.linspace(0.03, 0.97, 16), axis=1).T
    return np.concatenate([bands, quantiles], axis=1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Frechet distance of two Gaussians fitted to features, (N, d) each."""
    root = np.linalg.svd((a - a.mean(0)) @ (b - b.mean(0)).T, compute_uv=False).sum() / (len(a) - 1)
    spread = a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + spread - 2 * root)


def nearest(volumes: np.ndarray, others: np.ndarray, *, skip_same: bool = False) -> np.ndarray:
    """Return each volume's root mean square distance to the nearest of the others, over flips, (N,)."""
    flat = others.reshape(len(others), -1)
    best = np.full(len(volumes), np.inf)
    for axes in ((), (1,), (2,), (3,)):
        turned = np.flip(volumes, axes).reshape(len(volumes), -1)
        distance = (turned**2).sum(1)[:, None] + (flat**2).sum(1)[None] - 2 * turned @ flat.T
        if skip_same and not axes:
            np.fill_diagonal(distance, np.inf)
        best = np.minimum(best, distance.min(1))
    return np.sqrt(np.maximum(best, 0) / flat.shape[1])


def diversity(volumes: np.ndarray) -> float:
    """Return the mean distance of a volume to its nearest neighbour in the same set."""
    return float(nearest(volumes, volumes, skip_same=True).mean())


def main() -> None:
    """Compare and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    data = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
    system = gen3d.load(options.model)
    train, test = real(system, data)
    fake = generated(system, len(test))
    order = np.random.default_rng(0).permutation(len(train))
    same = train[order[: len(test)]]
    rest = train[order[len(test) :]]
    mean, std = features(train).mean(0), features(train).std(0) + 1e-8
    scaled = {name: (features(v) - mean) / std for name, v in (("fake", fake), ("real", same), ("test", test))}
    limit = float(np.quantile(nearest(test, train), 0.05))
    results = {
        "count": len(test),
        "training_cases": len(train),
        "frechet_24": {
            "model": frechet(scaled["fake"], scaled["test"]),
            "real": frechet(scaled["real"], scaled["test"]),
        },
        "copy_rate": {
            "model": float((nearest(fake, train) < limit).mean()),
            "real": float((nearest(same, rest) < limit).mean()),
            "planted_copies": float((nearest(same, train) < limit).mean()),
        },
        "diversity": {"model": diversity(fake), "real": diversity(test)},
    }
    lines = [
        f"{len(test)} generated volumes against {len(test)} test cases; real: as many training cases in their place.",
        "",
        "| | model | real |",
        "|---|---|---|",
        f"| Frechet distance of 24 features (no network; lower) | {results['frechet_24']['model']:.2f} | "
        f"{results['frechet_24']['real']:.2f} |",
        f"| copy rate (0.05 expected of unseen real scans) | {results['copy_rate']['model']:.2f} | "
        f"{results['copy_rate']['real']:.2f} |",
        f"| distance to the nearest in the same set (diversity) | {results['diversity']['model']:.3f} | "
        f"{results['diversity']['real']:.3f} |",
        "",
        f"Planted copies found: {results['copy_rate']['planted_copies']:.0%}. FID and MS-SSIM were not measured.",
    ]
    (RESULTS / "hippocampus_wdm.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "hippocampus_wdm.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
