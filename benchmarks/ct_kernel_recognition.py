"""Does the noise tell the kernel? On simulated images of a CT kept out and of analytic chests, all scanners unlike.

``python -m benchmarks.ct_kernel_recognition`` writes benchmarks/results/ct_kernel_recognition.md. Kernel, spacing (0.5
to 1 mm), dose, direction of the noise, the scanner's own departure from its kernel's name (MTF +-12 %, up to 0.3 of
enhancement) and enlargement differ from image to image. The settings of ``gen3d.latent.kernel_spectrum`` were chosen on
images of this kind, these among them.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.data.nifti import read
from gen3d.latent.kernel_pairs import log_uniform
from gen3d.latent.kernel_spectrum import content, recognised
from gen3d.latent.kernels import KERNELS, STANDARD, Kernel, blurred, convert, fitted_blur, reconstructions

DATA = Path(os.environ.get("GEN3D_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
COUNT, PIXELS, CUT = 32, 320, 8
JITTER, ENHANCED, STREAKS = 0.12, 0.3, 0.7


@dataclass(frozen=True)
class Image:
    """One scene in two kernels, HU, (X, Y, 1), spacing in mm, the source's name and its own departure from it."""

    source: Tensor
    target: Tensor
    spacing: tuple[float, float]
    name: str
    own: Kernel


def images(scene: str, seed: int, *, as_named: bool) -> Iterator[Image]:
    """Draw images of a scene, "spleen2" or "chest"; ``as_named`` takes scanners that keep to their kernels' names."""
    scan = read(DATA / "ct" / "spleen2.nii.gz").voxels.astype(np.float32) if scene == "spleen2" else None
    for i in range(COUNT):
        rng = np.random.default_rng([seed, i])
        mm = log_uniform(rng, (0.5, 1.0))
        if scan is None:
            hu = torch.from_numpy(chest(rng, PIXELS, mm))
        else:
            plane = torch.from_numpy(scan[:, :, int(rng.integers(scan.shape[2]))].copy())[None, None]
            zoom = log_uniform(rng, (1.5, 3.0))
            hu = nnf.interpolate(plane, scale_factor=zoom, mode="bicubic", align_corners=False)[0, 0]
        name = list(KERNELS)[int(rng.integers(len(KERNELS)))]
        factor, boost = 1 + JITTER * (2 * rng.random() - 1), ENHANCED * rng.random()
        own = KERNELS[name] if as_named else KERNELS[name].scaled(factor, boost)
        noise, streaks = log_uniform(rng, (3.0, 40.0)), (STREAKS * rng.random(), np.pi * rng.random())
        pair = reconstructions(
            hu[..., None], (mm, mm), [own, KERNELS[STANDARD]], noise_hu=noise, key=f"{seed}/{i}", streaks=streaks
        )
        source, target = (image[CUT:-CUT, CUT:-CUT].round() for image in pair)
        yield Image(source, target, (mm, mm), name, own)


def texture(rng: np.random.Generator, size: int, power: float) -> np.ndarray:
    """Draw a field of unit deviation whose power falls as 1 / f**power, (size, size)."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = np.inf
    drawn = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * f ** (-power / 2), s=(size, size))
    field: np.ndarray = drawn / drawn.std()
    return field


def chest(rng: np.random.Generator, size: int, mm: float) -> np.ndarray:
    """Draw a slice of a chest or belly out of ellipses, HU, (size, size): fat, muscle, lungs with vessels, bone."""
    x, y = np.meshgrid(*[(np.arange(size) - size / 2) * mm] * 2, indexing="ij")
    hu = np.full((size, size), -1000.0)

    def put(
        cx: float, cy: float, a: float, b: float, turn: float, value: float | np.ndarray, inside: float = 1
    ) -> None:
        u, v = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        share = np.clip(0.5 - (np.hypot(u / a, v / b) - 1) * min(a, b) / mm, 0, 1) * inside
        hu[:] = hu * (1 - share) + share * value

    w = size * mm / 2 * rng.uniform(0.7, 0.95)
    h, k = w * rng.uniform(0.6, 0.75), rng.uniform(0.82, 0.93)
    put(0, 0, w, h, 0, -100 + 8 * texture(rng, size, 3))
    put(0, 0, w * k, h * k, 0, 45 + rng.uniform(4, 12) * texture(rng, size, 3))
    if rng.random() < 0.75:
        for side in (-1, 1):
            a, b = w * rng.uniform(0.25, 0.36), h * rng.uniform(0.45, 0.7)
            lung = -rng.uniform(780, 880) + rng.uniform(20, 50) * texture(rng, size, rng.uniform(2, 3.2))
            put(side * w * 0.45, 0, a, b, side * rng.uniform(-0.2, 0.2), lung)
            for _ in range(rng.integers(40, 120)):
                r = log_uniform(rng, (0.5, 2.5))
                at = side * w * 0.45 + rng.uniform(-0.8, 0.8) * a, rng.uniform(-0.8, 0.8) * b
                put(*at, r * rng.uniform(1, 6), r, rng.uniform(0, np.pi), rng.uniform(-300, 60))
    else:
        put(-w * 0.35, 0, w * 0.4, h * 0.6, 0, 60 + rng.uniform(3, 9) * texture(rng, size, 3))
        for _ in range(20):
            value = rng.uniform(-120, -80) if rng.random() < 0.7 else -900.0
            put(*rng.uniform(-h / 2, h / 2, 2), *rng.uniform(4, 20, 2), rng.uniform(0, 3), value)
    put(rng.uniform(-10, 10), 0, w * 0.25, h * 0.35, 0, 45 + rng.uniform(3, 8) * texture(rng, size, 3))
    put(0, h * 0.6, 18, 15, 0, rng.uniform(300, 900) + 60 * texture(rng, size, 2))
    for turn in 2 * np.pi * np.arange(14) / 14:
        put(w * k * 0.93 * np.cos(turn), h * k * 0.93 * np.sin(turn), 9, 4, turn + 1.57, rng.uniform(300, 1100))
    return np.clip(hu, -1024, 3000).astype(np.float32)


def error(made: Tensor, image: Image) -> float:
    """Return the mean absolute error in HU away from the border."""
    inside = (slice(12, -12), slice(12, -12))
    return float((made[inside] - image.target[inside]).abs().mean())


def brought(image: Image, source: Kernel) -> Tensor:
    """Bring an image to B30 as ``ct-kernel`` does."""
    return convert(
        image.source, image.spacing, source, KERNELS[STANDARD], *content(image.source, image.spacing, source)
    )


def row(words: str, drawn: Sequence[Image]) -> str:
    """Return a line of the table."""
    names = list(KERNELS)
    both = [(recognised(image.source, image.spacing), image) for image in drawn]
    off = np.abs([names.index(f.name.removeprefix("like ")) - names.index(i.name) for f, i in both])
    wide = math.sqrt(np.mean([math.log(f.mtf50 / i.own.mtf50) ** 2 for f, i in both]))
    sigma = {
        n: fitted_blur([(i.source, i.target, i.spacing) for i in drawn if i.name == n]) for n in {i.name for i in drawn}
    }
    made = {
        "untouched": [error(i.source, i) for i in drawn],
        "recognised": [error(brought(i, f), i) for f, i in both],
        "named": [error(brought(i, KERNELS[i.name]), i) for i in drawn],
        "ratio": [error(convert(i.source, i.spacing, KERNELS[i.name], KERNELS[STANDARD]), i) for i in drawn],
        "blur": [error(blurred(i.source, i.spacing, sigma[i.name]), i) for i in drawn],
    }
    cells = [f"{np.mean(off == 0):.2f}", f"{np.mean(off <= 1):.2f}", f"{wide:.3f}"]
    return f"| {words} | {' | '.join(cells + [f'{np.mean(v):.2f}' for v in made.values()])} |"


HEAD = """Nine kernels from B10 to B80, 32 images a row: how often the recognised kernel is nearest to the right name,
or next to it; the root mean square of ln(mtf50 found / true); mean absolute error to B30 in HU, untouched,
by the recognised kernel, by the named one, by the named one's ratio of MTFs alone, and by a Gaussian blur of a
width fitted to these very images of that name. Settings were chosen on images of this kind, these among them.
Written by `python -m benchmarks.ct_kernel_recognition`.

| images | right | within one | ln mtf50 | untouched | recognised | named | ratio | blur |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    lines = []
    for scene, seeds in (("spleen2", (3, 4)), ("chest", (11, 12))):
        for seed, as_named in zip(seeds, (False, True), strict=True):
            words = f"{scene}, scanners {'that keep to' if as_named else 'unlike'} their kernel's name"
            lines.append(row(words, list(images(scene, seed, as_named=as_named))))
    text = HEAD + "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "ct_kernel_recognition.md").write_text(text)


if __name__ == "__main__":
    main()
