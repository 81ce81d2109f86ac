"""Autoencoders trained against a discriminator (Esser et al. 2021, https://arxiv.org/abs/2012.09841), in 3D."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.error import UserError
from gen3d.core.randomness import Key, derive, seed_of
from gen3d.core.system import Example, Objective, System
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.core.wrap import Denoise
from gen3d.data.intensity import Intensity
from gen3d.data.prepare import prepare
from gen3d.latent.discriminator import DiscriminatorConfig, build_discriminator, hinge, matching
from gen3d.latent.patches import Window, lengthened, mirrored, random_crop
from gen3d.latent.perceptual import PerceptualConfig, TriPlane, Volumetric, build_perceptual


@dataclass(frozen=True)
class AutoencoderConfig:
    """What all autoencoders are told.

    Attributes:
        contrasts: What is encoded, each by itself; a training example is one that its case has, drawn at random.
        axes: Axis codes of the arrays.
        intensity: How each contrast's grey scale is found; a ``Window`` keeps Hounsfield units.
        canvas: Voxels that every volume is centred on, cropped or padded, (X, Y, Z); none for volumes as they are.
        crop: Voxels of a training example, (X, Y, Z), lengthened to whole patches of the network; 0 is a whole axis.
        flips: Whether training examples are mirrored and turned by 90 degrees within slices.
        l1: Weight of the mean absolute error.
        perceptual: The perceptual loss, if there are weights for it.
        discriminator: The judge.
    """

    contrasts: tuple[str, ...] = ("mri",)
    axes: str = "RAS"
    intensity: Intensity | Window = Intensity(percentiles=(0.5, 99.5), to=(-1.0, 1.0))
    canvas: Triple | None = None
    crop: Triple = (64, 64, 64)
    flips: bool = True
    l1: float = 1.0
    perceptual: PerceptualConfig = PerceptualConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()


class Autoencoder(System):
    """What the two have in common: examples, the discriminator, and that they generate nothing by themselves."""

    components = ("network", "discriminator")
    preparation = ("contrasts", "axes", "intensity", "canvas")
    network: Any
    config: Any
    unit = 1  # what the network needs a multiple of in training
    averaged = True  # whether the saved weights are averages

    def __init__(self, config: Any, network: nn.Module) -> None:
        super().__init__(config)
        self.network = network
        self.discriminator = build_discriminator(config.discriminator)
        self.perceptual: tuple[
            TriPlane | Volumetric, ...
        ] = ()  # no part of the model, so neither saved nor moved with it

    @property
    def training_size(self) -> Triple:
        """The crop; 256 voxels where it is as long as the volume."""
        x, y, z = (n or 256 for n in self.config.crop)
        return lengthened((x, y, z), self.unit)

    def prepare(self, case: Case) -> Prepared:
        """Put each contrast on its scale, the volume in the middle of the canvas if there is one."""
        config = self.config
        return prepare(case, config.contrasts, config.axes, config.intensity, crop=config.canvas or "none")

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return ``voxels``: by key a crop of one contrast, (1, 1, X, Y, Z), that shows something; else all there is.

        A crop of one grey value alone is drawn anew. Training voxels are as they are stored, float16 in a cache.
        """
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        if key is None:
            voxels = torch.from_numpy(np.array(prepared.voxels, dtype=np.float32))[None]
            return {"voxels": voxels, "prepared": prepared}
        rng = np.random.default_rng(seed_of(derive(key, "crop")))
        channel = int(rng.choice(np.flatnonzero(prepared.present)))
        crop = random_crop(prepared.voxels[channel], prepared.scales[channel], self.config.crop, self.unit, rng)
        crop = mirrored(crop, self.config.axes, rng) if self.config.flips else crop
        return {"voxels": torch.from_numpy(crop)[None, None]}

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: an autoencoder fills in nothing."""
        raise UserError("this model is an autoencoder: it makes no new scans; train a latent diffusion model on it")

    def condition(self, example: Example) -> Condition:
        """Return nothing: an autoencoder is told nothing."""
        return Condition()

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Refuse: an autoencoder is not sampled."""
        self.accept((), ())
        return example["voxels"]

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Refuse: an autoencoder is not sampled."""
        self.accept((), ())
        return lambda x, sigma: x

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Decode latents (B, c, x, y, z) to voxels on the model's grey scale, cropped to the example's volume."""
        x, y, z = example["voxels"].shape[2:]
        voxels: Tensor = self.network.voxels(coords)[..., :x, :y, :z]
        return voxels.clamp(*self.config.intensity.to)

    @torch.no_grad()
    def reconstruct(self, volume: Tensor) -> Tensor:
        """Encode and decode volumes (B, C, X, Y, Z), each contrast by itself."""
        single = volume.flatten(0, 1)[:, None]
        mean, _ = self.network.moments(single)
        return self.finish(mean, {"voxels": single}).unflatten(0, volume.shape[:2]).squeeze(2)

    def objectives(self) -> list[Objective]:
        """The autoencoder, and the discriminator from its first step on."""
        config = self.config
        if config.perceptual.weight and not self.perceptual:
            self.perceptual = (build_perceptual(config.perceptual),)
        found = [Objective("generator", self.trained(), self.loss, ema=self.averaged, told=("perplexity", "seams"))]
        if config.discriminator.weight:
            judge, start = list(self.discriminator.parameters()), config.discriminator.start
            found.append(Objective("discriminator", judge, self.judge_loss, start=start, ema=False))
        return found

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that the generator's objective trains."""
        return list(self.network.parameters())

    def passed(self, real: Tensor, keys: Sequence[Key]) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode and decode as in training; return the reconstruction and the terms of the latent."""
        raise NotImplementedError

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the weighted terms of the autoencoder; ``perplexity`` and ``seams`` are only told."""
        config, real = self.config, example["voxels"].float()
        made, terms = self.passed(real, keys)
        terms = {"l1": config.l1 * nnf.l1_loss(made, real), **terms}
        if self.perceptual:
            network = self.perceptual[0].to(real.device)
            terms["perceptual"] = config.perceptual.weight * network(made, real, keys)
        if config.discriminator.weight and self.step > config.discriminator.start:
            judged = self.discriminator(made)
            terms["adversarial"] = -config.discriminator.weight * judged[-1].mean()
            if config.discriminator.features:
                terms["features"] = config.discriminator.features * matching(self.discriminator(real), judged)
        return terms

    def judge_loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the weighted hinge loss of the discriminator; the reconstruction is made anew, without gradient."""
        real = example["voxels"].float()
        with torch.no_grad():
            made, _ = self.passed(real, keys)
        told, false = self.discriminator(real)[-1], self.discriminator(made)[-1]
        return {"hinge": self.config.discriminator.weight * hinge(told, false)}
