"""Pairs, ours: an image and its mask drawn together by one diffusion in wavelet space, or the image of a given mask."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.parameterization import broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective
from gen3d.core.volume import Prepared, Triple
from gen3d.core.wrap import Denoise, keep
from gen3d.data.blur import blurred
from gen3d.nn.block import Stack
from gen3d.samplers import guided
from gen3d.spaces.labels import Labels
from gen3d.spaces.wavelet import Wavelet, WaveletConfig
from gen3d.wavelet.fingerprints import Fingerprints, fingerprint
from gen3d.wavelet.labelled import Labelled, PairsConfig
from gen3d.wavelet.wdm import NETWORKS


class PairSpace(nn.Module):
    """The Haar space of images and mask codes; each channel has statistics of its own."""

    def __init__(self, config: WaveletConfig, channels: int) -> None:
        super().__init__()
        self.parts = Stack(Wavelet(config.levels, config.scale) for _ in range(channels))

    def encode(self, voxels: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, C * 8**levels, ...): the subbands of one channel after those of the other."""
        channels = voxels.split(1, dim=1)
        return torch.cat([part.encode(channel) for part, channel in zip(self.parts, channels, strict=True)], dim=1)

    def shape(self, size: Sequence[int]) -> Triple:
        """Return the grid of the coordinates of a volume of ``size``."""
        return next(iter(self.parts)).shape(size)

    def decode(self, coords: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Undo ``encode``, cropped to ``size``."""
        channels = coords.chunk(len(self.parts), dim=1)
        return torch.cat([part.decode(channel, size) for part, channel in zip(self.parts, channels, strict=True)], 1)


class Pairs(Labelled):
    r"""One network denoises $x_0 = W(image, code(mask))$; told a mask's coordinates, it answers with them.

    The loss is the squared error of x0, each subband with the same weight; what is told costs nothing. The noisy
    coordinates of a told mask carry the walk's noise like the others, in training as in sampling. ``finish`` returns
    the images and, as the last channel, each voxel's label.
    """

    name = "pairs"
    task = "pairs"
    Config = PairsConfig
    components = ("network", "space", "record")

    def __init__(self, config: PairsConfig) -> None:
        super().__init__(config)
        self.codes = Labels(1 + len(config.labels), config.code)
        self.network = NETWORKS[config.architecture](config.network)
        self.space = PairSpace(config.space, len(config.contrasts) + self.codes.channels())
        self.record = Fingerprints(config.cases, config.flips)
        self.denoiser = Denoiser(self.network, config.parameterization)

    def measure(self, cases: Sequence[Prepared]) -> "Pairs":
        """Return the system with the usual spacing, volumes, statistics and fingerprints of the training set."""
        x, y, z = (float(mm) for mm in np.median([case.spacing for case in cases], axis=0))
        examples = [self.example(case) for case in cases]
        logs = torch.cat([self.logs(example["volumes"], example["spacing"]) for example in examples])
        usual = [(float(m), max(float(d), 0.05)) for m, d in zip(logs.mean(0), logs.std(0, correction=0), strict=True)]
        system = Pairs(replace(self.config, spacing=(x, y, z), usual=tuple(usual), cases=len(cases)))
        if self.config.space.scale == "statistics":
            for channel, part in enumerate(system.space.parts):
                part.measure(self.channels(example)[:, [channel]] for example in examples)
        system.record.measure(example["voxels"] for example in examples)
        return system

    @property
    def fingerprints(self) -> Tensor:
        """Fingerprints of the training set and its mirror images, (n, d) float16, see ``fingerprint``."""
        return self.record.fingerprints.flatten(0, 1)

    @property
    def closest(self) -> Tensor:
        """How alike each training case is to the most alike other one, (n,)."""
        return self.record.closest

    def fingerprint(self, images: Tensor) -> Tensor:
        """Return fingerprints of images on the model's grey scale, (B, C, X, Y, Z) -> (B, d) float32 of norm 1."""
        return fingerprint(images)

    def channels(self, example: Example) -> Tensor:
        """Return images and the code of the mask, (B, C + code, X, Y, Z)."""
        return torch.cat([example["voxels"].float(), self.codes.encode(example["mask"])], dim=1)

    def logs(self, volumes: Tensor, spacing: Tensor) -> Tensor:
        """Return ln mL of volumes (B, labels), of one voxel at least."""
        return torch.maximum(volumes, spacing.prod(1, keepdim=True) / 1000).log()

    def numbers(self, example: Example) -> Tensor:
        """Return what the network may be told, (B, numbers): standardised ln mL, ln mm; nan where it is not told."""
        config, spacing = self.config, example["spacing"]
        usual = torch.tensor(config.usual or [(0.0, 1.0)] * len(config.labels), device=spacing.device)
        told = [spacing[:, :0]]
        if config.volumes:
            told.append((self.logs(example["volumes"], spacing) - usual[:, 0]) / usual[:, 1])
        if config.told_spacing:
            told.append(example["spacing told" if "spacing told" in example else "spacing"].log())
        return torch.cat(told, dim=1)

    def condition(self, example: Example) -> Condition:
        """Return the mask's coordinates and whether it is given, every number with whether it is told, the class."""
        config, mask = self.config, example["mask"]
        given = example.get("given", torch.zeros(len(mask), dtype=torch.bool, device=mask.device))
        channels = present = vector = None
        if config.given:
            codes = self.space.encode(self.channels(example))[:, -self.told_channels :]
            channels, present = broadcast(given, codes) * codes, given[:, None]
        if config.numbers:
            numbers = self.numbers(example)
            vector = torch.cat([numbers.nan_to_num(0.0), 1 - numbers.isnan().float()], dim=1)
        label = example["label"] if config.classes else None
        return Condition(channels=channels, present=present, vector=vector, label=label)

    @property
    def told_channels(self) -> int:
        """Coordinates of a mask."""
        channels = self.config.network.out_channels
        return channels * self.codes.channels() // len(self.space.parts)

    def objectives(self) -> list[Objective]:
        """One objective: the network."""
        return [Objective("pairs", list(self.network.parameters()), self.loss, at=self.loss_at)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the weighted squared error of x0 in coordinates."""
        levels: Any = self.config.parameterization.levels
        return {"mse": self.loss_at(example, keys, levels.draw(uniform([derive(key, "sigma") for key in keys]))).mean()}

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the weighted squared error of each item at ``sigma`` (B,), by key told its mask, numbers and class."""
        x0 = self.space.encode(self.channels(example))
        condition = self.condition(self.withheld(example, keys))
        noise = normal_on(x0.device, [derive(key, "noise") for key in keys], x0.shape[1:])
        guess = self.denoiser(x0 + broadcast(sigma.float(), x0) * noise, sigma, condition)
        if condition.present is not None:
            guess = torch.where(self.where(condition.present), x0, guess)
        weight = sent(self.config.parameterization.weight(sigma), x0.device)
        return weight * (guess - x0).square().flatten(1).mean(1)

    def withheld(self, example: Example, keys: Sequence[Key]) -> Example:
        """Return training items as the network sees them: some with their masks, some not told all of the rest."""
        config, device = self.config, example["voxels"].device
        chances = uniform([derive(key, "told") for key in keys], (len(config.labels) + 6,))
        lost = sent((chances[:, 2:] < config.dropped) | (chances[:, 1:2] < config.dropped), device)
        return {
            **example,
            "given": sent(chances[:, 0] < config.given, device),
            "label": torch.where(lost[:, 0], -1, example["label"]),
            "spacing told": torch.where(lost[:, 1:4], torch.nan, example["spacing"]),
            "volumes": torch.where(lost[:, 4:], torch.nan, example["volumes"]),
        }

    def where(self, given: Tensor) -> Tensor:
        """Return which coordinates are told, (B, coordinates, 1, 1, 1), from whose masks are, (B, 1)."""
        images = given.new_zeros(len(given), self.config.network.out_channels - self.told_channels)
        return torch.cat([images, given.expand(-1, self.told_channels)], dim=1)[..., None, None, None]

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the space's shape, one key per item."""
        shape = (self.config.network.out_channels, *self.space.shape(self.config.canvas))
        return sigma * normal(keys, shape).to(example["voxels"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser, guided towards what is told, within the grey scale and the code, given masks kept.

        A condition of one item serves all keys.
        """
        parts = {name: part.expand(len(keys), *part.shape[1:]) for name, part in condition.parts().items()}
        told = Condition(**parts)

        def asked(condition: Condition) -> Denoise:
            return lambda x, sigma: self.denoiser(x, sigma, condition)

        guess = asked(told)
        if self.config.guidance != 1:
            guess = guided(guess, asked(untold(told)), self.config.guidance)
        guess = self.bounded(guess)
        if told.present is None or told.channels is None:
            return guess
        images = told.channels.new_zeros(
            len(keys), self.config.network.out_channels - self.told_channels, *told.channels.shape[2:]
        )
        return keep(guess, torch.cat([images, told.channels], dim=1), self.where(told.present))

    def bounded(self, denoise: Denoise) -> Denoise:
        """Clamp every guess in voxels: images to the grey scale, codes to their range."""
        images, size = len(self.config.contrasts), self.config.canvas

        def wrapped(x: Tensor, sigma: Tensor) -> Tensor:
            voxels = self.space.decode(denoise(x, sigma), size)
            grey = voxels[:, :images].clamp(*self.config.intensity.to)
            return self.space.encode(torch.cat([grey, voxels[:, images:].clamp(-1, 1)], dim=1))

        return wrapped

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return images on the model's grey scale and, last, whole numbers of labels, (B, C + 1, X, Y, Z) float32."""
        images, voxels = len(self.config.contrasts), self.space.decode(coords, self.config.canvas)
        grey = voxels[:, :images].clamp(*self.config.intensity.to)
        labels = self.codes.decode(blurred(voxels[:, images:].clamp(-1, 1), self.config.blur))
        if "given" in example:
            given = example["given"].view(-1, 1, 1, 1, 1)
            labels = torch.where(given, example["mask"].to(labels), labels)
        return torch.cat([grey, labels.float()], dim=1)


def untold(condition: Condition) -> Condition:
    """Return a condition without numbers and class; what is known of the mask stays."""
    vector, label = condition.vector, condition.label
    return replace(
        condition,
        vector=None if vector is None else torch.zeros_like(vector),
        label=None if label is None else torch.full_like(label, -1),
    )
