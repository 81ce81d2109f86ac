"""Reconstruction, ours: a volume from sparse projections or an undersampled spectrum, kept true to what was measured.

All measurements, in training as in use, are simulated from magnitude images, with white noise of a stated level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError
from gen3d.core.parameterization import X0, LogNormal, Parameterization, broadcast
from gen3d.core.randomness import Key, derive, normal, normal_on, seed_of, uniform
from gen3d.core.system import Example, Objective, Sampling, System
from gen3d.core.volume import Case, Prepared, Scale, Triple
from gen3d.core.wrap import Denoise, Window, consistent, tiled
from gen3d.data.measurement import Acquisitions, Measurement, measure
from gen3d.data.patches import flipped, random_flips, random_start, window
from gen3d.data.prepare import place_case
from gen3d.data.total_variation import tuned_total_variation
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNetConfig
from gen3d.spaces.wavelet import Wavelet, WaveletConfig

DETAIL = 8.0  # by which details of an image are raised for the network: they are that much smaller than its means
HOUNSFIELD = Scale(gain=1 / 500, offset=2.0, low=-1000.0, high=3095.0)


@dataclass(frozen=True)
class ReconstructionConfig:
    """Configuration of a reconstruction model.

    Attributes:
        acquisitions: What is measured, and how in training.
        contrasts: What a volume may be; each is reconstructed alone, by the same network.
        axes: Axis codes of the model's arrays; slices are axial, so Z runs along the body.
        space: The coordinates that diffuse.
        network: Its shape; its input channels are the noisy coordinates, then what the data say that the image
            lacks, then the image: total variation. It is told four numbers: log2 of the scarcity, 50 times the noise
            level, 1 for a Poisson mask, and the logarithm of how far off total variation may be, on the model's scale,
            which its output is multiplied by.
        parameterization: The four coefficients and where sigma is drawn.
        patch: Voxels of a training patch, (X, Y, Z), which is measured as if it were all there is.
        windows: Voxels that are denoised at a time.
        zoom: Smallest and largest factor on the size of training slices.
        mean_share: Share of training items at x = 0 and sigma_max, where the network learns the expected image.
        iterations: Of total variation.
        pool: Patches, each with its measurement, that training draws of each case, so that each is reconstructed
            classically once; 0 for new ones at every step.
        error: What a guess is expected to be wrong by, on the model's scale: sets how far the data are trusted.
        consistency: Steps of conjugate gradients after each guess.
        sampling: How ``--mode sample`` draws unless asked otherwise.
    """

    acquisitions: Acquisitions = Acquisitions()
    contrasts: tuple[str, ...] = ("ct",)
    axes: str = "LPS"
    space: WaveletConfig = WaveletConfig(scale="sqrt8")
    network: UNetConfig = UNetConfig(
        in_channels=24, out_channels=8, width=24, multipliers=(1, 2, 3), blocks=1, groups=8, vector=4
    )
    parameterization: Parameterization = X0(LogNormal(mean=-1.2, std=1.4, time_scale=1000.0))
    patch: Triple = (112, 112, 8)
    windows: Triple = (192, 192, 32)
    zoom: tuple[float, float] = (1.0, 1.0)
    mean_share: float = 0.85
    iterations: int = 150
    pool: int = 0
    error: float = 0.06
    consistency: int = 3
    sampling: Sampling = Sampling(steps=8)

    def __post_init__(self) -> None:
        bands = 8**self.space.levels
        if (self.network.in_channels, self.network.out_channels) != (3 * bands, bands):
            raise ValueError(f"network: expected in_channels {3 * bands} and out_channels {bands}")
        if self.network.vector != 4:
            raise ValueError("network: expected vector 4")


class Reconstruction(System):
    r"""A denoiser in wavelet space that is given total variation and answers to the measurement.

    Every guess, in training too, ends in a few conjugate gradients on $|A v - y|^2 + (\sigma_n / error)^2 |v - v_0|^2$.
    The loss is the squared error after them. The network starts as the identity on
    total variation.
    """

    name = "reconstruction"
    Config = ReconstructionConfig
    components = ("network", "space")
    preparation = ("contrasts", "axes", "acquisitions")
    config: ReconstructionConfig
    gain: Tensor

    def __init__(self, config: ReconstructionConfig) -> None:
        super().__init__(config)
        self.network = CompactUNet(config.network)
        self.register_buffer("gain", torch.full((config.network.out_channels, 1, 1, 1), DETAIL), persistent=False)
        self.gain[0] = 1.0
        with torch.no_grad():  # the image goes straight to the output
            bands = config.network.out_channels
            nn.init.dirac_(self.network.shortcut.weight[:, -bands:])
            self.network.shortcut.weight[:, -bands:] /= self.gain[:, 0, 0, 0].view(1, -1, 1, 1, 1)
        self.space = Wavelet(config.space.levels, config.space.scale)
        self.denoiser = Denoiser(self.network, config.parameterization)
        self.known: dict[Key, tuple[Measurement, Condition]] = {}

    @property
    def training_size(self) -> Triple:
        """A patch."""
        return self.config.patch

    def prepare(self, case: Case) -> Prepared:
        """Turn to the model's axes; 0 is nothing (air), 2 is water or the 99.5 percentile of what isn't 0.

        Raises:
            UserError: The case has none of the contrasts.
        """
        volumes = {name: case.volumes[name] for name in self.config.contrasts if name in case.volumes}
        if not volumes:
            wanted, there = ", ".join(self.config.contrasts), ", ".join(case.volumes) or "none"
            raise UserError(f"{case.name}: has {there}; expected one of {wanted}; use another --task")
        placement = place_case(next(iter(volumes.values())), volumes.values(), self.config.axes)
        voxels = np.zeros((len(self.config.contrasts), *placement.size), np.float32)
        scales: list[Scale | None] = [None] * len(voxels)
        for channel, name in enumerate(self.config.contrasts):
            if name in volumes:
                scale = HOUNSFIELD if self.config.acquisitions.task == "sparse-ct" else to_two(volumes[name].voxels)
                voxels[channel] = scale.apply(placement.take(volumes[name].voxels))
                scales[channel] = scale
        spacing = tuple(float(n) for n in np.linalg.norm(placement.model_affine[:3, :3], axis=0))
        present = np.array([name in volumes for name in self.config.contrasts])
        return Prepared(
            case.name,
            case.patient,
            voxels,
            present,
            None,
            (spacing[0], spacing[1], spacing[2]),
            tuple(scales),
            placement,
        )

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return ``voxels`` (1, 1, X, Y, Z) of one contrast: by key a random patch of a random one, else the first."""
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        there = np.flatnonzero(prepared.present)
        if key is None:
            voxels = np.array(prepared.voxels[there[0]], dtype=np.float32)
            return {"voxels": torch.from_numpy(voxels)[None, None], "prepared": prepared}
        rng = np.random.default_rng(seed_of(derive(self.pooled(key), "crop")))
        image = prepared.voxels[rng.choice(there)]
        zoom = float(rng.uniform(*self.config.zoom))
        x, y, z = self.config.patch
        size = (round(x / zoom), round(y / zoom), z)
        shape = image.shape[0], image.shape[1], image.shape[2]
        patch = window(image, random_start(shape, size, rng, near=image > 0, bias=0.9), size)
        turned = torch.from_numpy(flipped(patch, random_flips(rng, (0, 1, 2))).astype(np.float32))
        if size != self.config.patch:
            slices = turned.permute(2, 0, 1)[:, None]
            slices = nnf.interpolate(slices, (x, y), mode="bilinear", antialias=True, align_corners=False)
            turned = slices[:, 0].permute(1, 2, 0)
        return {"voxels": turned[None, None].contiguous()}

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: contrasts that were not measured at all are another model's business."""
        raise UserError("this model reconstructs what was measured: use gen3d reconstruct, or another --model")

    def window(self, contrast: str) -> tuple[float, float]:
        """Return the ends of the model's grey scale."""
        return 0.0, 2.0

    @torch.no_grad()
    def condition(self, example: Example) -> Condition:
        """Return total variation, what the data say that it lacks, and the four numbers.

        Raises:
            UserError: The example holds no ``measurement``.
        """
        if "measurement" not in example:
            raise UserError("this model starts from a measurement: use gen3d reconstruct")
        measurement: Measurement = example["measurement"]
        acquisition = measurement.acquisition
        smooth = tuned_total_variation(measurement, self.config.iterations)
        scarcity = math.log2(acquisition.scarcity((smooth.shape[2], smooth.shape[3])))
        channels = self.channels(measurement, smooth)
        if acquisition.task == "sparse-ct":
            unsure = deviation(self.space.decode(channels[:, : channels.shape[1] // 2]))
        else:  # what Fourier data can't say of an image's errors, the step from zero-filling to it does
            unsure = 0.5 * deviation(smooth - measurement.operator.pseudo_inverse(measurement.measured))
        numbers = [scarcity, 50 * acquisition.noise, float(acquisition.mask == "poisson"), math.log(unsure)]
        return Condition(channels=channels, vector=torch.tensor([numbers], device=smooth.device))

    def channels(self, measurement: Measurement, image: Tensor) -> Tensor:
        """Return, in coordinates, what the data say that an image lacks, and the image.

        The former is the rough inverse of $y - A v$: other than that of y, it holds no streaks or ghosts of v.
        """
        operator = measurement.operator
        lacking = operator.pseudo_inverse(measurement.measured - operator.forward(image))
        return self.space.encode(torch.cat([lacking, image], dim=1))

    def objectives(self) -> list[Objective]:
        """One objective: the network."""
        return [Objective("reconstruction", list(self.network.parameters()), self.loss, at=self.loss_at)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the squared error of a guess of each item over that of total variation, by what the guess is from."""
        if example["voxels"].is_meta:
            return {"mean": self.shape_only(example["voxels"])}
        parts: dict[str, list[Tensor]] = {"mean": [], "noisy": []}
        for voxels, key in zip(example["voxels"].split(1), keys, strict=True):
            measurement, condition = self.simulated(voxels, key)
            mean = float(uniform([derive(key, "kind")])) < self.config.mean_share
            if mean:
                guess = self.estimate(measurement, condition)
            else:
                sigma = self.config.parameterization.levels.draw(uniform([derive(key, "sigma")]))
                guess = self.noisy_guess(voxels, measurement, condition, key, sigma)
            parts["mean" if mean else "noisy"].append(self.relative_error(guess, voxels, condition))
        zero = example["voxels"].new_zeros(())
        return {name: torch.stack([*found, zero]).sum() / len(keys) for name, found in parts.items()}

    def shape_only(self, voxels: Tensor) -> Tensor:
        """Return a loss that takes as much memory as one guess, for tensors without content."""
        x0 = self.space.encode(voxels)
        vector = torch.zeros(len(x0), 4, device=x0.device)
        guess = self.denoiser(x0, torch.ones(len(x0)), Condition(channels=torch.cat([x0, x0], dim=1), vector=vector))
        return (guess - x0).square().mean()

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the loss of each item at ``sigma`` (B,); from sigma_max on that of the expected image."""
        losses = []
        for voxels, key, level in zip(example["voxels"].split(1), keys, sigma, strict=True):
            measurement, condition = self.simulated(voxels, key)
            if level >= self.config.parameterization.levels.sigma_max:
                guess = self.estimate(measurement, condition)
            else:
                guess = self.noisy_guess(voxels, measurement, condition, key, level[None])
            losses.append(self.relative_error(guess, voxels, condition))
        return torch.stack(losses)

    def simulated(self, voxels: Tensor, key: Key) -> tuple[Measurement, Condition]:
        """Measure a patch of training; one of the pool is reconstructed classically once."""
        name = self.pooled(key)
        if not self.config.pool:
            measurement = measure(voxels, self.config.acquisitions.draw(name), name)
            return measurement, self.condition({"measurement": measurement})
        name = derive(name, seed_of(str(voxels.sum().item())))  # the same place of the pool is another patch elsewhere
        if name not in self.known:
            measurement = measure(voxels, self.config.acquisitions.draw(name), name)
            self.known[name] = measurement, self.condition({"measurement": measurement})
        return self.known[name]

    def pooled(self, key: Key) -> Key:
        """Return what a training item's patch and measurement are drawn by: its key, or one of the pool's."""
        return derive("pool", seed_of(key) % self.config.pool) if self.config.pool else key

    def relative_error(self, guess: Tensor, voxels: Tensor, condition: Condition) -> Tensor:
        """Return the squared error of coordinates in voxels over that of total variation, ()."""
        assert condition.channels is not None
        smooth = condition.channels[:, -self.config.network.out_channels :]
        error, usual = (self.space.decode(c, voxels.shape[2:]).sub(voxels).square().mean() for c in (guess, smooth))
        return error / (usual + 1e-4)

    def noisy_guess(
        self, voxels: Tensor, measurement: Measurement, condition: Condition, key: Key, sigma: Tensor
    ) -> Tensor:
        """Return the guess of one item from coordinates with white noise."""
        x0 = self.space.encode(voxels)
        x = x0 + broadcast(sigma.float(), x0) * normal_on(x0.device, [derive(key, "noise")], x0.shape[1:])
        return self.denoise(condition, [key], measurement)(x, sigma)

    def estimate(self, measurement: Measurement, condition: Condition) -> Tensor:
        """Return the coordinates of the expected image: one guess from nothing, whatever the seed."""
        assert condition.channels is not None
        nothing = torch.zeros_like(condition.channels[:, -self.config.network.out_channels :])
        sigma = torch.tensor(self.config.parameterization.levels.sigma_max, dtype=torch.float64)
        return self.denoise(condition, [], measurement)(nothing, sigma)

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the space's shape, one key per item."""
        size = example["voxels"].shape[2:]
        shape = (self.config.network.out_channels, *self.space.shape((size[0], size[1], size[2])))
        return sigma * normal(keys, shape).to(example["voxels"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key], measurement: Measurement | None = None) -> Denoise:
        """Return the denoiser by windows; with a measurement its guesses agree with that."""

        assert condition.channels is not None
        lacking, image = condition.channels.split(self.config.network.out_channels, dim=1)
        assert condition.vector is not None
        unsure = broadcast(condition.vector[:, 3].exp(), image)
        told = replace(condition, channels=torch.cat([lacking / deviation(lacking), self.gain * image], dim=1))

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            near = image[(..., *where)]
            return near + unsure * (self.denoiser(x, sigma, told.window(where)) - near)

        denoise = tiled(inside, [n // self.space.stride for n in self.config.windows])
        if measurement is None:
            return denoise
        weight = (max(measurement.level, 1e-3) / self.config.error) ** 2 / measurement.operator.strength
        return self.agreeing(denoise, measurement, weight)

    def agreeing(self, denoise: Denoise, measurement: Measurement, weight: float) -> Denoise:
        """Wrap a denoise so that its guesses agree with a measurement."""
        operator, measured = measurement.operator, measurement.measured
        size = volume_size(measurement)
        return consistent(denoise, self.space, operator, measured, weight, self.config.consistency, size)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the volume on the model's scale, not below nothing, (B, 1, X, Y, Z)."""
        size = example["voxels"].shape[2:]
        return self.space.decode(coords, (size[0], size[1], size[2])).clamp_min(0)


def volume_size(measurement: Measurement) -> Triple:
    """Return the voxels of what was measured, (X, Y, Z)."""
    x, y = measurement.operator.size
    return x, y, measurement.measured.shape[-1]


def deviation(image: Tensor) -> float:
    """Return the root mean square, at least 1e-3."""
    return max(float(image.square().mean().sqrt()), 1e-3)


def to_two(voxels: np.ndarray) -> Scale:
    """Return the scale that takes the 99.5 percentile of what isn't 0 to 2 and leaves 0 where it is."""
    inside = voxels[voxels > 0]
    return Scale(gain=2 / float(np.percentile(inside, 99.5)) if inside.size else 1.0)
