"""Decoding in bounded memory with the published 8x decoder: time, memory, difference, seams, and a picture.

Usage: python -m benchmarks.decoding [--size 256] [--memory 5.4] [--compare 96]

``size``: a random latent (weights are random too) is decoded to this many voxels along each axis within ``memory`` GB
besides the weights, and the process's peak memory is told. ``compare``: a smaller one is decoded whole, bounded with
the whole volume's statistics, and by tiles with their own, and a slice of each is drawn: docs/decoding.png.

Writes benchmarks/results/decoding.json.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3d.core.precision import choose_precision, use_precision
from gen3d.latent.decoding import decode_bounded
from gen3d.latent.diagnostics import seam_index
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.patch_volume import PatchVolume

ROOT = Path(__file__).resolve().parent.parent
RESULT, PICTURE = ROOT / "benchmarks" / "results" / "decoding.json", ROOT / "docs" / "decoding.png"
EDGE = 4  # latent voxels of the compared tiles


def latent(network: PatchVolume, size: int) -> Tensor:
    """Return a random latent that decodes to ``size`` voxels a side, smooth enough to look like something."""
    n = size // network.stride
    coarse = torch.randn(1, network.latent_channels, *[max(2, n // 4)] * 3, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, (n, n, n), mode="trilinear")
    return network.quantise(2 * smooth)[1]


def timed(decode: Any) -> tuple[Tensor, dict[str, float]]:
    """Run it and tell seconds and the process's peak memory so far."""
    wall, cpu = time.monotonic(), time.process_time()
    volume: Tensor = decode()
    return volume, {
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def compared(network: PatchVolume, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Decode one latent in three ways."""
    z, made, found = latent(network, size), {}, {}
    ways = {
        "whole": lambda: network.decoder(z),
        "bounded, the volume's statistics": lambda: decode_bounded(network.decoder, z, 10**9),
        "tiles, their own statistics": lambda: decode_bounded(network.decoder, z, 10**10, "tile", EDGE),
    }
    for name, decode in ways.items():
        made[name], found[name] = timed(decode)
        found[name]["largest_difference"] = float((made[name] - made["whole"]).abs().max())
        error = made[name] - made["whole"]
        found[name]["seam_index"] = round(float(seam_index(made[name], EDGE * network.stride)), 2)
        found[name]["error_seam_index"] = (
            round(float(seam_index(error, EDGE * network.stride)), 2) if error.any() else 1
        )
    spread = float(made["whole"].std())
    return {"voxels": size, "deviation_of_the_volume": spread, "tile_voxels": EDGE * network.stride, **found}, made


def draw(made: dict[str, Tensor]) -> None:
    """Draw the middle slice of each way."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(made), figsize=(4 * len(made), 4.3), layout="constrained")
    low, high = made["whole"].quantile(0.01), made["whole"].quantile(0.99)
    for place, (name, volume) in zip(axes, made.items(), strict=True):
        place.imshow(volume[0, 0, :, :, volume.shape[4] // 2 + 5].T, cmap="gray", vmin=low, vmax=high, origin="lower")
        place.set(title=name, xticks=[], yticks=[])
    figure.suptitle("A random latent through the published 8x decoder with random weights", fontsize=10)
    figure.savefig(PICTURE, dpi=70)


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--memory", type=float, default=5.4, help="GB")
    parser.add_argument("--compare", type=int, default=96)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = PatchVolume(PatchVolumeConfig()).eval()
    with torch.inference_mode():
        chosen = choose_precision(torch.device("cpu"), "auto")
        use_precision(network, chosen.dtype)
        z = latent(network, options.size)
        _, large = timed(lambda: decode_bounded(network.decoder, z, int(options.memory * 1e9)))
        use_precision(network, torch.float32)
        found, made = compared(network, options.compare)
    large |= {"voxels": options.size, "memory_gb": options.memory, "computed_in": str(chosen.dtype)}
    tree = {"threads": torch.get_num_threads(), "bounded": large, "compared": found}
    RESULT.write_text(json.dumps(tree, indent=1) + "\n")
    draw(made)
    print(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()
