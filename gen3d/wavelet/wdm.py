"""WDM: new scans by diffusion in wavelet space (Friedrich et al. 2024, https://arxiv.org/abs/2402.19043)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError
from gen3d.core.parameterization import X0, Betas, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective, Sampling, System
from gen3d.core.volume import Case, Prepared, Triple, centred_affine
from gen3d.core.wrap import Denoise, clipped
from gen3d.data.intensity import Intensity
from gen3d.data.prepare import prepare
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.nn.wavelet_unet import WaveletUNet
from gen3d.spaces.wavelet import Wavelet, WaveletConfig

NETWORKS = {"unet": UNet, "wavelet_unet": WaveletUNet, "compact": CompactUNet}


@dataclass(frozen=True)
class WDMConfig:
    """Configuration of a WDM; the defaults are the published model of 128^3 BraTS volumes.

    Attributes:
        contrasts: What is generated, one channel each.
        axes: Axis codes of the arrays; BraTS files are "LPS".
        intensity: How each contrast's grey scale is found.
        canvas: Voxels that every volume is centred on, cropped or padded, (X, Y, Z).
        pool: Blocks of this many voxels along each axis are averaged: 2 makes 128^3 of 256^3.
        spacing: Of the canvas, in mm; ``measure`` takes it from the training set.
        space: The coordinates that diffuse.
        architecture: The recommended U-Net, the one whose levels are joined by subbands (``use_freq``), or our compact
            one.
        network: Its shape.
        parameterization: The four coefficients and where sigma is drawn.
        sampling: How volumes are drawn unless asked otherwise.
    """

    contrasts: tuple[str, ...] = ("t1n",)
    axes: str = "LPS"
    intensity: Intensity = Intensity(to=(-1.0, 1.0))
    canvas: Triple = (256, 256, 256)
    pool: int = 2
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    space: WaveletConfig = WaveletConfig()
    architecture: Literal["unet", "wavelet_unet", "compact"] = "unet"
    network: UNetConfig = UNetConfig(in_channels=8, out_channels=8)
    parameterization: Parameterization = X0(Betas())
    sampling: Sampling = Sampling(sampler="ancestral_large", steps=1000, grid="ddpm")

    def __post_init__(self) -> None:
        if self.pool < 1 or any(n % self.pool for n in self.canvas):
            raise ValueError(f"canvas: {self.canvas} is not a multiple of pool = {self.pool}")
        channels = Wavelet(self.space.levels).channels(len(self.contrasts), self.size)
        if (self.network.in_channels, self.network.out_channels) != (channels, channels):
            raise ValueError(f"network: expected in_channels and out_channels {channels}")

    @property
    def size(self) -> Triple:
        """Voxels of a generated volume."""
        x, y, z = (n // self.pool for n in self.canvas)
        return x, y, z


class WDM(System):
    """Unconditional generation: one U-Net denoises all subbands, whose guess of x0 is clamped in voxels at every step.

    The loss is the squared error of x0, each subband with the same weight, sigma drawn uniformly over the chain.
    """

    name = "wdm"
    Config = WDMConfig
    components = ("network", "space")
    preparation = ("contrasts", "axes", "intensity", "canvas", "pool")
    config: WDMConfig

    def __init__(self, config: WDMConfig) -> None:
        super().__init__(config)
        self.network = NETWORKS[config.architecture](config.network)
        self.space = Wavelet(config.space.levels, config.space.scale)
        self.denoiser = Denoiser(self.network, config.parameterization)

    @property
    def training_size(self) -> Triple:
        """The whole volume."""
        return self.config.size

    def measure(self, cases: Sequence[Prepared]) -> "WDM":
        """Return the system with the median spacing of the training set and, where the space needs them, statistics."""
        x, y, z = (float(s) / self.config.pool for s in np.median([case.spacing for case in cases], axis=0))
        system = WDM(replace(self.config, spacing=(x, y, z)))
        if self.config.space.scale == "statistics":
            system.space.measure(self.example(case)["voxels"] for case in cases)
        return system

    def prepare(self, case: Case) -> Prepared:
        """Put each contrast on its scale, the volume in the middle of the canvas, and average blocks of voxels."""
        config = self.config
        whole = prepare(case, config.contrasts, config.axes, config.intensity, crop=config.canvas)
        if config.pool == 1:
            return whole
        voxels = nnf.avg_pool3d(torch.from_numpy(whole.voxels), config.pool).numpy()
        x, y, z = (s * config.pool for s in whole.spacing)
        return replace(whole, voxels=voxels, spacing=(x, y, z), lesion=None, placement=None)

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return the whole volume, ``voxels`` (1, C, X, Y, Z); as published nothing is augmented.

        For training voxels are as they are stored: a cache's float16 are half the bytes on their way to the device.
        """
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        if not prepared.present.all():
            absent = self.config.contrasts[int(np.argmin(prepared.present))]
            raise UserError(f"{prepared.name}: lacks the contrast {absent}, which this model learns to generate")
        voxels = torch.from_numpy(np.array(prepared.voxels, dtype=np.float32 if key is None else None))[None]
        return {"voxels": voxels} if key is not None else {"voxels": voxels, "prepared": prepared}

    def blank(self) -> Example:
        """Return the example that a new volume is generated for: it has a size and nothing else."""
        return {"voxels": torch.zeros(1, len(self.config.contrasts), *self.config.size)}

    @property
    def affine(self) -> np.ndarray:
        """Affine of a generated volume, (4, 4): the model's axes and spacing, the world's origin in the middle."""
        x, y, z = (step * self.config.pool for step in self.config.spacing)
        return centred_affine(self.config.axes, self.config.size, (x, y, z))

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: this model is given nothing."""
        raise UserError("this model makes new scans and fills in none: use gen3d generate, or another --model")

    def condition(self, example: Example) -> Condition:
        """Return nothing: the model is unconditional."""
        return Condition()

    def objectives(self) -> list[Objective]:
        """One objective: the network."""
        return [Objective("wdm", list(self.network.parameters()), self.loss)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the weighted squared error of x0 in coordinates."""
        return {"mse": coordinate_loss(self.denoiser, self.space.encode(example["voxels"]), Condition(), keys)}

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the space's shape, one key per item."""
        shape = (self.config.network.out_channels, *self.space.shape(self.config.size))
        return sigma * normal(keys, shape).to(example["voxels"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser, its guess clamped to the grey scale in voxels."""

        def guess(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoiser(x, sigma, condition)

        return clipped(guess, self.space, *self.config.intensity.to)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return voxels on the model's grey scale, (B, C, X, Y, Z)."""
        return self.space.decode(coords, self.config.size).clamp(*self.config.intensity.to)


def coordinate_loss(denoiser: Denoiser, x0: Tensor, condition: Condition, keys: Sequence[Key]) -> Tensor:
    r"""Return $E[w(\sigma) \| D(x_0 + \sigma n, \sigma) - x_0 \|^2]$ over coordinates, each subband alike."""
    parameterization: Any = denoiser.parameterization
    sigma = parameterization.levels.draw(uniform([derive(key, "sigma") for key in keys]))
    noise = normal_on(x0.device, [derive(key, "noise") for key in keys], x0.shape[1:])
    guess = denoiser(x0 + broadcast(sigma.float(), x0) * noise, sigma, condition)
    weight = sent(parameterization.weight(sigma), x0.device)
    return (weight * (guess - x0).square().flatten(1).mean(1)).mean()
