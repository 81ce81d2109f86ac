"""Pairs of one image in two kernels, simulated from real CT: what DiffusionCT is trained on."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.randomness import Key, derive, seed_of
from gen3d.core.volume import Prepared, Scale, Triple
from gen3d.data.patches import flipped, random_start, window
from gen3d.latent.kernels import HU, KERNELS, Kernel, kernel, reconstructions

UNIT_HU = 500.0  # Hounsfield units that are 1 on the models' scale
SCALE = Scale(1 / UNIT_HU, 0.0, *HU)
USUAL_MM = 0.7


@dataclass(frozen=True)
class Simulation:
    """How pairs are drawn; whatever is a range is drawn from it log-uniformly.

    The training scans' own kernels are unknown. Their pixels are taken as those of a sharper scan of smaller things,
    ``spacing_mm`` apart, so that detail reaches as far as the sharpest kernel shows it.

    Attributes:
        targets: Standard kernels, what images are brought to; a condition tells which.
        sources: Kernels of what is given.
        noise_hu: Standard deviation of the noise in B30.
        spacing_mm: What a pixel stands for.
        zoom: Enlargement of the scans, for smoother things.
        jitter: Largest share by which a source's MTF departs from its name's.
        boost: Most edge enhancement added to a source.
        streaks: Most by which noise power varies with direction, 0 to 1.
        told: Share of items in which the network is told the source's kernel.
        paired: Whether source and target show the same place with the same noise; if not, they have nothing in common.
        margin: Pixels that are simulated around a patch and cut off.
    """

    targets: tuple[str, ...] = ("B30",)
    sources: tuple[str, ...] = tuple(KERNELS)
    noise_hu: tuple[float, float] = (3.0, 40.0)
    spacing_mm: tuple[float, float] = (0.5, 1.0)
    zoom: tuple[float, float] = (1.0, 2.5)
    jitter: float = 0.12
    boost: float = 0.3
    streaks: float = 0.7
    told: float = 0.5
    paired: bool = True
    margin: int = 12

    def __post_init__(self) -> None:
        for name in (*self.targets, *self.sources):
            kernel(name)

    def draw(self, case: Prepared, size: Triple, key: Key) -> dict[str, Tensor]:
        """Draw a pair by its key.

        Returns:
            ``source`` and ``target`` (1, X, Y, Z) on the models' scale, ``label`` () int64, which of ``targets`` it is,
            and ``vector`` (3,), see ``told_of``.
        """
        rng = np.random.default_rng(seed_of(key))
        name = self.sources[int(rng.integers(len(self.sources)))]
        label = int(rng.integers(len(self.targets)))
        spacing = log_uniform(rng, self.spacing_mm)
        sharper = 1 + self.jitter * (2 * rng.random() - 1)
        own = kernel(name).scaled(sharper, self.boost * rng.random())
        known = rng.random() < self.told
        target = kernel(self.targets[label])
        first = self.scan(case, size, rng)
        second = first if self.paired else self.scan(case, size, rng)
        noise = log_uniform(rng, self.noise_hu)
        streaks = (self.streaks * rng.random(), np.pi * rng.random())
        wanted = [own, target] if self.paired else [own]
        images = reconstructions(
            first, (spacing, spacing), wanted, noise_hu=noise, key=derive(key, "noise"), streaks=streaks
        )
        if not self.paired:
            noise = log_uniform(rng, self.noise_hu)
            images += reconstructions(
                second, (spacing, spacing), [target], noise_hu=noise, key=derive(key, "other"), streaks=streaks
            )
        m = self.margin
        cut = [image[None, m:-m, m:-m] / UNIT_HU for image in images]
        return {
            "source": cut[0],
            "target": cut[1],
            "label": torch.tensor(label),
            "vector": told_of(spacing, kernel(name) if known else None),
        }

    def scan(self, case: Prepared, size: Triple, rng: np.random.Generator) -> Tensor:
        """Cut a patch with its margin out of a scan, turned, mirrored and enlarged by chance, in HU."""
        zoom = log_uniform(rng, self.zoom) if rng.random() < 0.5 else self.zoom[0]
        whole = [n + 2 * self.margin for n in size[:2]]
        x, y = (int(np.ceil(n / zoom)) for n in whole)
        shape = case.voxels.shape[1:]
        start = random_start((shape[0], shape[1], shape[2]), (x, y, size[2]), rng)
        patch = window(case.voxels, start, (x, y, size[2]), HU[0] / UNIT_HU)[0].astype(np.float32)
        patch = flipped(patch, [axis for axis in (0, 1) if rng.random() < 0.5])
        planes = torch.from_numpy(patch).movedim(-1, 0)[:, None] * UNIT_HU
        if (x, y) != tuple(whole):
            planes = nnf.interpolate(planes, whole, mode="bicubic", align_corners=False)
        return planes[:, 0].movedim(0, -1)


def told_of(spacing_mm: float, source: Kernel | None) -> Tensor:
    """Return what a network is told in numbers, (3,): ln(spacing / 0.7), ln(mtf50 / 3.5) or 0, whether it is known."""
    sharpness = float(np.log(source.mtf50 / 3.5)) if source else 0.0
    return torch.tensor([float(np.log(spacing_mm / USUAL_MM)), sharpness, float(source is not None)])


def log_uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """Draw between two positive numbers, uniform in the logarithm."""
    return float(np.exp(rng.uniform(np.log(ends[0]), np.log(ends[1]))))
