"""Completion, ours: one network that fills in any subset of a study's contrasts from any other subset."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError, nearest
from gen3d.core.parameterization import X0, LogNormal, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, seed_of, uniform
from gen3d.core.system import Example, Objective, Sampling, System
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.core.wrap import Denoise, Window, keep, tiled
from gen3d.data.augmentation import Augmentation, toned
from gen3d.data.equalization import above_floor, floors, quantiles, ranked, tabulated
from gen3d.data.intensity import Intensity
from gen3d.data.patches import flipped, random_start, window
from gen3d.data.prepare import prepare
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.spaces.wavelet import Wavelet, WaveletConfig

NETWORKS = {"compact": CompactUNet, "unet": UNet}


@dataclass(frozen=True)
class CompletionConfig:
    """Configuration of a completion model.

    Attributes:
        contrasts: What the model knows; each may be given or missing.
        targets: The contrasts that may be missing; all by default. ``(mr,)`` of ``(ct, mr)`` is plain image
            translation.
        axes: Axis codes of the model's arrays.
        intensity: How each contrast's grey scale is found.
        equalize: Give the known contrasts by their rank among the brain's voxels, which no scanner's grey scale
            changes.
        space: The coordinates that diffuse.
        architecture: Our compact U-Net, or the published one.
        network: Its shape; its input channels are twice its output channels, noisy ones first, then known ones.
        parameterization: The four coefficients and where sigma is drawn.
        patch: Voxels of a training patch, (X, Y, Z).
        windows: Voxels that are denoised at a time, (X, Y, Z); larger volumes are denoised by overlapping windows.
        missing: Probability of hiding 1, 2, ... contrasts in training; those beyond the list are never hidden.
        mean_share: Share of training items at x = 0 and sigma_max, where the network learns the expected image.
        background: Weight of voxels outside the brain in the loss, where inside counts 1.
        lesion: Weight of voxels inside the lesion mask, where there is one.
        lesion_patches: Share of training patches that hold a lesion voxel, of cases with a lesion; the others lie
            anywhere.
        augmentation: Random changes of the given contrasts.
        sampling: How ``--mode sample`` draws unless asked otherwise.
        ranges: For each contrast, the 0.1 and 99.9 percentiles on the model's scale, (low, high), means over the
            training set; they become 0 and 1000 when a contrast without an intensity scale of its own is written.
    """

    contrasts: tuple[str, ...] = ("t1n", "t1c", "t2w", "t2f")
    targets: tuple[str, ...] | None = None
    axes: str = "RAS"
    intensity: Intensity = Intensity(rule="robust")
    equalize: bool = True
    space: WaveletConfig = WaveletConfig(scale="sqrt8")
    architecture: Literal["compact", "unet"] = "compact"
    network: UNetConfig = UNetConfig(
        in_channels=64, out_channels=32, width=32, multipliers=(1, 2, 4), blocks=1, present=4
    )
    parameterization: Parameterization = X0(LogNormal(mean=-0.6, std=1.4, time_scale=1000.0))
    patch: Triple = (64, 64, 64)
    windows: Triple = (160, 192, 160)
    missing: tuple[float, ...] = (0.7, 0.2, 0.1)
    mean_share: float = 0.5
    background: float = 0.02
    lesion: float = 1.0
    lesion_patches: float = 0.0
    augmentation: Augmentation = Augmentation()
    sampling: Sampling = Sampling()
    ranges: tuple[tuple[float, float], ...] = field(default=())

    def __post_init__(self) -> None:
        odd = [name for name in self.targets or () if name not in self.contrasts]
        if odd:
            raise ValueError(f"targets: '{odd[0]}' is none of the contrasts {', '.join(self.contrasts)}")
        if len(self.contrasts) < 2:
            raise ValueError("contrasts: expected at least two")
        channels = len(self.contrasts) * 8**self.space.levels
        if (self.network.in_channels, self.network.out_channels) != (2 * channels, channels):
            raise ValueError(f"network: expected in_channels {2 * channels} and out_channels {channels}")
        if self.lesion < 0 or not 0 <= self.lesion_patches <= 1:
            raise ValueError("expected lesion from 0 on and lesion_patches from 0 to 1")
        if self.network.present != len(self.contrasts):
            raise ValueError(f"network: expected present {len(self.contrasts)}")


class Completion(System):
    """Any-to-any completion: known contrasts as channels, missing ones diffuse in wavelet space.

    The loss is the squared error of $x_0$ in voxels, in units of a sixth of each contrast's window, weighted by
    $1 / c_{out}^2$ (Karras et al. 2022); a share of the items is drawn at $x = 0$ and sigma_max, where the minimiser is
    the expected image.
    """

    name = "completion"
    Config = CompletionConfig
    components = ("network", "space")
    config: CompletionConfig

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__(config)
        self.network = NETWORKS[config.architecture](config.network)
        self.space = Wavelet(config.space.levels, config.space.scale)
        self.denoiser = Denoiser(self.network, config.parameterization)

    @property
    def training_size(self) -> Triple:
        """A patch."""
        return self.config.patch

    def measure(self, cases: Sequence[Prepared]) -> "Completion":
        """Return the system with each contrast's mean window and, where the space asks for them, subband statistics."""
        ranges = []
        for channel in range(len(self.config.contrasts)):
            scales = [scale for case in cases if (scale := case.scales[channel])]
            ends = [(s.low * s.gain + s.offset, s.high * s.gain + s.offset) for s in scales] or [(-3.0, 3.0)]
            low, high = np.mean(ends, axis=0)
            ranges.append((float(low), float(high)))
        system = Completion(replace(self.config, ranges=tuple(ranges)))
        if self.config.space.scale == "statistics":
            system.space.measure(torch.from_numpy(np.array(case.voxels, dtype=np.float32))[None] for case in cases)
        return system

    def prepare(self, case: Case) -> Prepared:
        """Turn to the model's axes, crop to the brain, put each contrast on its robust scale."""
        return prepare(
            case, self.config.contrasts, self.config.axes, self.config.intensity, crop="foreground", margin=4
        )

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return tensors with a batch axis of 1.

        ``voxels`` (1, C, X, Y, Z) are clean, for training as they are stored (float16 in a cache), ``present`` (1, C)
        says what is given, ``target`` (1, C) what is asked for, ``floors`` (1, C) and ``quantiles`` (1, C, K) lead to
        the ranks. For training besides: ``width`` (1, C), each contrast's window; what ``Augmentation.draw`` returns,
        to be done on the device; where lesions have a weight, ``lesion`` (1, 1, X, Y, Z).
        """
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        present = torch.from_numpy(np.asarray(prepared.present))
        tensors = {"floors": torch.from_numpy(floors(prepared))}
        if self.config.equalize:
            tensors["quantiles"] = torch.from_numpy(quantiles(prepared))
        if key is None:
            voxels = torch.from_numpy(np.array(prepared.voxels, dtype=np.float32))
            tensors |= {"voxels": voxels, "present": present, "target": ~present}
            return {**{name: part[None] for name, part in tensors.items()}, "prepared": prepared}
        rng = np.random.default_rng(seed_of(derive(key, "crop")))
        start = self.patch_start(prepared, rng)
        hidden = self.hide(present, rng)
        left_right = next(i for i, code in enumerate(self.config.axes) if code in "LR")
        change, flips = self.config.augmentation.draw((present & ~hidden).numpy(), left_right, rng)
        patch = window(prepared.voxels, start, self.config.patch, floors(prepared))
        tensors |= change | {
            "voxels": torch.from_numpy(flipped(patch, flips)),
            "present": present & ~hidden,
            "target": present & hidden,
            "width": torch.tensor([(s.high - s.low) * s.gain if s else 1.0 for s in prepared.scales]),
        }
        if self.config.lesion != 1:
            whole = np.zeros(prepared.voxels.shape[1:], np.uint8) if prepared.lesion is None else prepared.lesion
            lesion = flipped(window(whole, start, self.config.patch), flips)
            tensors["lesion"] = torch.from_numpy(lesion > 0)[None]
        return {name: part[None] for name, part in tensors.items()}

    def patch_start(self, prepared: Prepared, rng: np.random.Generator) -> Triple:
        """Draw where a patch starts: around a lesion's voxel, as often as ``lesion_patches`` says, or anywhere."""
        shape, share = prepared.voxels.shape[1:], self.config.lesion_patches
        near = prepared.lesion if share else None
        return random_start((shape[0], shape[1], shape[2]), self.config.patch, rng, near=near, bias=share)

    def hide(self, present: Tensor, rng: np.random.Generator) -> Tensor:
        """Draw which of the present contrasts to hide, at least one, leaving at least one, (C,) bool."""
        targets = self.config.targets or self.config.contrasts
        able = [i for i, name in enumerate(self.config.contrasts) if present[i] and name in targets]
        most = min(len(able), int(present.sum()) - 1)
        hidden = torch.zeros(len(self.config.contrasts), dtype=torch.bool)
        if most < 1:
            return hidden
        chances = np.array((*self.config.missing, *[0.0] * most)[:most])
        count = 1 + int(rng.choice(most, p=chances / chances.sum()))
        hidden[rng.permutation(able)[:count].tolist()] = True
        return hidden

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Check that every missing contrast may be one, and that something is given."""
        targets = self.config.targets or self.config.contrasts
        for name in missing:
            if name not in targets:
                raise UserError(
                    f"contrast '{name}': this model makes {', '.join(targets)}{nearest(name, targets)}; "
                    "use another --model"
                )
        if not any(name in self.config.contrasts for name in given):
            raise UserError(
                f"nothing is left to start from: this model needs at least one of {', '.join(self.config.contrasts)}"
            )

    def window(self, contrast: str) -> tuple[float, float]:
        """Return the mean window of the training set."""
        if not self.config.ranges:
            return -3.0, 3.0
        return self.config.ranges[self.config.contrasts.index(contrast)]

    def known(self, example: Example) -> Tensor:
        """Return the contrasts as the network is given them, by rank where the model asks for it."""
        return tabulated(partial(self.equalized, example), example["voxels"])

    def equalized(self, example: Example, voxels: Tensor) -> Tensor:
        """Return (B, C, ...) by rank, where the model asks for it."""
        return ranked(voxels, example["floors"], example["quantiles"]) if self.config.equalize else voxels

    def changed(self, example: Example, keys: Sequence[Key]) -> Tensor:
        """Return the contrasts as another scanner might have shown them."""

        def tone(voxels: Tensor) -> Tensor:
            return toned(self.equalized(example, voxels), example)

        return self.config.augmentation.spread(tabulated(tone, example["voxels"]), example, keys)

    def weight(self, example: Example) -> Tensor:
        """Return where the loss looks, (B, C, X, Y, Z): at the hidden contrasts, in the brain, at its lesions."""
        present, target = example["present"], example["target"]
        inside = above_floor(example["voxels"], example["floors"], present | target)
        weight = torch.where(inside, 1.0, self.config.background)
        if self.config.lesion != 1:
            weight = torch.where(example["lesion"], self.config.lesion * weight, weight)
        return weight * target[..., None, None, None]

    def condition(self, example: Example) -> Condition:
        """Return the known contrasts in coordinates, zeros where absent, and which are there."""
        return self.given(self.known(example), example["present"])

    def given(self, known: Tensor, present: Tensor) -> Condition:
        """Put contrasts into coordinates, zeros where absent."""
        return Condition(channels=self.space.encode(known * present[..., None, None, None]), present=present)

    def objectives(self) -> list[Objective]:
        """One objective: the network."""
        return [Objective("completion", list(self.network.parameters()), self.loss, at=self.loss_at)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the weighted squared error of the hidden contrasts, its two parts at sigma_max and below."""
        levels = self.config.parameterization.levels
        mean = uniform([derive(key, "mean") for key in keys]) < self.config.mean_share
        sigma = torch.where(mean, levels.sigma_max, levels.draw(uniform([derive(key, "sigma") for key in keys])))
        item = self.item_losses(example, keys, sigma, mean)
        mean = sent(mean, item.device)
        return {
            "mean": torch.where(mean, item, 0).mean(),
            "noisy": torch.where(mean, 0, item).mean(),
        }

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the loss of each item at ``sigma`` (B,); from sigma_max on that of the expected image."""
        most = self.config.parameterization.levels.sigma_max
        return self.item_losses(example, keys, sigma.clamp_max(most), sigma >= most)

    def item_losses(self, example: Example, keys: Sequence[Key], sigma: Tensor, mean: Tensor) -> Tensor:
        """Return the weighted squared error of each item, (B,); where ``mean``, x is 0 instead of noisy."""
        x0 = self.space.encode(example["voxels"])
        device = x0.device
        noise = normal_on(device, [derive(key, "noise") for key in keys], x0.shape[1:])
        x = torch.where(sent(mean, device)[:, None, None, None, None], 0.0, x0 + broadcast(sigma.float(), x0) * noise)
        guess = self.guess(x, sigma, self.given(self.changed(example, keys), example["present"]))
        error = self.space.decode(guess - x0) / example["width"][..., None, None, None]
        weight = self.weight(example)
        item = (weight * error.square()).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1.0)
        return 36 * item * sent(self.config.parameterization.weight(sigma), device)

    def guess(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Ask the denoiser; it never sees what stands in place of known contrasts."""
        return self.denoiser(torch.where(self.coordinates(condition.present), 0.0, x), sigma, condition)

    def coordinates(self, contrasts: Tensor | None) -> Tensor:
        """Turn a choice of contrasts (B, C) into one of coordinates, (B, c, 1, 1, 1)."""
        assert contrasts is not None
        return contrasts.repeat_interleave(8**self.config.space.levels, dim=1)[..., None, None, None]

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the space's shape, one key per item."""
        size = example["voxels"].shape[2:]
        shape = (self.config.network.out_channels, *self.space.shape((size[0], size[1], size[2])))
        return sigma * normal(keys, shape).to(example["voxels"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser by windows, known contrasts kept."""
        assert condition.channels is not None

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            return self.guess(x, sigma, condition.window(where))

        size = [n // self.space.stride for n in self.config.windows]
        return keep(tiled(inside, size), condition.channels, self.coordinates(condition.present))

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return all contrasts on the model's scale, (B, C, X, Y, Z)."""
        size = example["voxels"].shape[2:]
        return self.space.decode(coords, (size[0], size[1], size[2]))
