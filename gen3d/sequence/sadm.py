"""SADM: the next frame of a sequence from the earlier ones (Yoon et al. 2023, https://arxiv.org/abs/2212.08228)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError
from gen3d.core.parameterization import Betas, Epsilon, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.core.wrap import Denoise, clipped
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.samplers import guided
from gen3d.sequence.frames import FramesConfig, FramesEncoder
from gen3d.sequence.history import History, Longitudinal, SequenceConfig
from gen3d.spaces.pixel import Pixel

NETWORKS = {"unet": UNet, "compact": CompactUNet}


@dataclass(frozen=True)
class SADMConfig(SequenceConfig):
    """Configuration of a SADM.

    Attributes:
        frames: Of a whole sequence; the context is the ``frames - 1`` before the one that is asked for.
        keep: Probability that a frame between the first and the previous one is not withheld in training.
        full: Probability that no frame is withheld.
        between: 0, since only earlier frames are looked at.
        resample: Voxels that every frame is interpolated to, (X, Y, Z), linearly in space and never in time; forecasts
            are interpolated back. None for frames as they are.
        encoder: The attention module, which turns the earlier frames into a map.
        architecture: WDM's U-Net or our compact one.
        network: Its shape: given the noisy frame and the map.
        drop: Probability that the map is withheld in training.
        guidance: Scale of classifier-free guidance, see gen3d.samplers.guided; 1 is none. The release counts from 0:
            its w = 0.2 is 1.2.
        parameterization: The four coefficients and where sigma is drawn.
        sampling: How frames are drawn unless asked otherwise.
    """

    labels: ClassVar[tuple[str, ...]] = ()  # no structures are followed

    frames: int = 12
    keep: float = 0.5
    full: float = 0.0
    between: float = 0.0
    resample: Triple | None = None
    encoder: FramesConfig = FramesConfig()
    architecture: Literal["unet", "compact"] = "unet"
    network: UNetConfig = UNetConfig(
        in_channels=5, out_channels=1, width=32, multipliers=(1, 2, 2), skips="concat", groups=8
    )
    drop: float = 0.1
    guidance: float = 1.2
    parameterization: Parameterization = Epsilon(Betas(steps=400))
    sampling: Sampling = Sampling(sampler="ancestral_large", steps=400, grid="ddpm")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2:
            raise ValueError(
                f"frames: expected at least 2, one to forecast from and one to forecast, not {self.frames}"
            )
        if self.between:
            raise ValueError("between: expected 0, this model looks at earlier frames only")
        needed = 1 + self.encoder.channels
        if (self.network.in_channels, self.network.out_channels) != (needed, 1):
            raise ValueError(f"network: expected in_channels {needed}, the noisy frame and the map, and out_channels 1")
        if self.resample and self.resample != self.patch:
            raise ValueError(f"patch: expected {self.resample} as resample says, found {self.patch}")
        if self.guidance != 1 and not self.drop:
            raise ValueError("guidance: with drop 0 the model learns no unconditional guess; expected 1")


class SADM(Longitudinal):
    r"""A 3D denoiser that is given a map made from the earlier frames by a transformer; long sequences by roll-out.

    As published: pixel space; frames are known by their number in the context, not by their time; a missing frame is a
    frame of zeros and nothing says so; the noise is predicted and its squared error is the loss; the frame asked for is
    drawn uniformly, the first and the previous frame are always given; guidance
    $\epsilon = (1 + w)\,\epsilon_c - w\,\epsilon_u$.

    Where the released code can't have worked, the paper's idea is followed with sound parts. Its transformer narrows
    tokens to two numbers and standardises these, which leaves their signs, and passes 704 channels at full size; ours
    keeps its width and ends in ``encoder.channels``. Its denoiser has 99 % of its weights in one transposed
    convolution around a global mean, and batch norms over three items; ours is a residual U-Net with group norms.
    Released sampling lets guesses leave the grey scale; here they are clamped.
    """

    name = "sadm"
    Config = SADMConfig
    components = ("network", "encoder")
    preparation = ("contrasts", "axes", "intensity", "canvas", "resample")
    segmenter: None = None
    config: SADMConfig

    def __init__(self, config: SADMConfig) -> None:
        super().__init__(config)
        self.network = NETWORKS[config.architecture](config.network)
        self.encoder = FramesEncoder(config.encoder, config.frames - 1, config.patch)
        self.denoiser = Denoiser(self.network, config.parameterization)

    @property
    def most(self) -> int:
        """Visits of a training example."""
        return self.config.frames

    def prepare(self, case: Case) -> Prepared:
        """Put a scan on the model's axes and grey scale, interpolated to ``resample`` where it says so."""
        whole, size = super().prepare(case), self.config.resample
        if size is None:
            return whole
        x, y, z = (s * n / m for s, n, m in zip(whole.spacing, whole.voxels.shape[1:], size, strict=True))
        voxels = resized(torch.from_numpy(whole.voxels)[None], size)[0].numpy()
        return replace(whole, voxels=voxels, spacing=(x, y, z), lesion=None, placement=None)

    def chosen(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Spread frames evenly, as numbers are all that the model knows of their times."""
        return np.linspace(0, count - 1, min(count, self.most)).round().astype(int)

    def asked(self, visits: Tensor, days: np.ndarray, masks: Tensor | None, rng: np.random.Generator) -> Example:
        """Draw which frame is asked for, and which of those between the first and the previous one are withheld."""
        target = int(rng.integers(1, len(visits)))
        first = max(0, target - (self.config.frames - 1))
        whole = rng.random() < self.config.full
        valid = whole | (rng.random(target - first) < self.config.keep)
        valid[[0, -1]] = True
        example = {
            "visits": visits[first:target][None],
            "days": torch.from_numpy(days[first:target])[None],
            "valid": torch.from_numpy(valid)[None],
            "query": torch.tensor([days[target]], dtype=torch.float64),
            "target": visits[target][None, None],
        }
        return self.padded(example)

    def ask(self, history: History, day: float) -> Example:
        """Return what a forecast of a day is made from, batch axis 1; a missing frame keeps its place.

        Raises:
            UsageError: No visit was before that day.
        """
        before = history.days < day
        asked = super().ask(history, day)
        return {
            **asked,
            "visits": torch.from_numpy(history.voxels[before])[None],
            "days": torch.from_numpy(history.days[before])[None],
            "valid": torch.from_numpy(history.valid[before])[None],
        }

    def frames(self, example: Example) -> Tensor:
        """Return the context, (B, frames - 1, X, Y, Z): the latest earlier frames, in order, zeros for all others."""
        context = self.config.frames - 1
        there = example["valid"] & (example["days"] < example["query"][:, None])
        visits = resized(example["visits"].float(), self.config.resample)
        known = torch.where(there[:, :, None, None, None], visits, 0.0)[:, -context:]
        return nnf.pad(known, (0, 0, 0, 0, 0, 0, 0, context - known.shape[1]))

    def condition(self, example: Example) -> Condition:
        """Return the map of the earlier frames."""
        return Condition(channels=self.encoder(self.frames(example)))

    def objectives(self) -> list[Objective]:
        """One objective: attention module and denoiser together."""
        parameters = [*self.encoder.parameters(), *self.network.parameters()]
        return [Objective("sadm", parameters, self.loss, at=self.loss_at)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the squared error of the noise, sigma drawn uniformly over the chain."""
        sigma = self.config.parameterization.levels.draw(uniform([derive(key, "sigma") for key in keys]))
        given = uniform([derive(key, "drop") for key in keys]) >= self.config.drop
        return {"mse": self.errors(example, keys, sigma, given).mean()}

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the loss of each item at ``sigma`` (B,), at most the chain's highest, with its map."""
        highest = self.config.parameterization.levels.sigma_max
        return self.errors(example, keys, sigma.clamp(max=highest), torch.ones(len(keys), dtype=torch.bool))

    def errors(self, example: Example, keys: Sequence[Key], sigma: Tensor, given: Tensor) -> Tensor:
        """Return the weighted squared error of each item, (B,); ``given`` (B,) tells which have their map."""
        parameterization: Any = self.config.parameterization
        x0 = resized(example["target"].float(), self.config.resample)
        told = self.encoder(self.frames(example)) * broadcast(given.float(), x0)
        noise = normal_on(x0.device, [derive(key, "noise") for key in keys], x0.shape[1:])
        guess = self.denoiser(x0 + broadcast(sigma.float(), x0) * noise, sigma, Condition(channels=told))
        weight = sent(parameterization.weight(sigma), x0.device)
        return weight * (guess - x0).square().flatten(1).mean(1)

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the frames' shape, one key per item."""
        size = self.config.resample or example["visits"].shape[2:]
        return sigma * normal(keys, (1, *size)).to(example["visits"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the guided denoiser, its guess clamped to the grey scale."""
        assert condition.channels is not None
        nothing = Condition(channels=torch.zeros_like(condition.channels))

        def conditional(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoiser(x, sigma, condition)

        def unconditional(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoiser(x, sigma, nothing)

        return clipped(guided(conditional, unconditional, self.config.guidance), Pixel(), *self.config.intensity.to)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the forecast on the model's grey scale and the frames' grid, (B, 1, X, Y, Z)."""
        return resized(coords, example["visits"].shape[2:]).clamp(*self.config.intensity.to)

    def expected(self, example: Example) -> Tensor:
        """Refuse: from the highest noise of this chain one call does not give the mean.

        Raises:
            UserError: Always.
        """
        raise UserError("this model has no expected image by one call: take the mean of samples")

    def structures(self, voxels: Tensor) -> Tensor:
        """Refuse: there is no segmenter.

        Raises:
            UserError: Always.
        """
        raise UserError("this model follows no structures: it has no segmenter")


def resized(voxels: Tensor, size: Sequence[int] | None) -> Tensor:
    """Interpolate (B, C, X, Y, Z) linearly to a size, where it has another one."""
    if size is None or voxels.shape[2:] == tuple(size):
        return voxels
    return nnf.interpolate(voxels, tuple(size), mode="trilinear", align_corners=False)
