"""How long 16 sampled masks take: a slice of 128 x 128, a volume of 48 x 64 x 48, by the shipped models.

Usage: python -m benchmarks.segment_times [--repeats 5]

Images of noise, the shipped models, ``sampled_masks`` as gen3d segment calls it, without files; medians after a first
call. Writes benchmarks/results/segment_times.json.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gen3d.core.volume import Case, Triple, Volume
from gen3d.tools.sampling import open_model
from gen3d.tools.segment_masks import sampled_masks

STORE = Path(__file__).resolve().parent / "results" / "segment_times.json"
SAMPLES = 16
SIZES: dict[str, Triple] = {"brain-growth-raters": (128, 128, 1), "hippocampus-segment": (48, 64, 48)}


def seconds(name: str, size: Triple, repeats: int) -> dict[str, Any]:
    """Time a model on a noisy image of a size."""
    model = open_model(name, "cpu")
    noise = np.random.default_rng(0).normal(100, 20, size).astype(np.float32)
    system: Any = model.system
    example = system.example(system.prepare(Case("noise", {"mri": Volume(noise, np.eye(4))}, None, "noise")))
    taken = []
    for turn in range(repeats + 1):
        begin = time.monotonic()
        with torch.inference_mode():
            sampled_masks(system, example, [f"{turn}/{sample}" for sample in range(SAMPLES)])
        taken.append(round(time.monotonic() - begin, 2))
    return {"size": size, "samples": SAMPLES, "median_seconds": median(taken[1:]), "seconds": taken}


def main() -> None:
    """Time both and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = {name: seconds(name, size, options.repeats) for name, size in SIZES.items()}
    facts = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    STORE.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    print(STORE.read_text())


if __name__ == "__main__":
    main()
