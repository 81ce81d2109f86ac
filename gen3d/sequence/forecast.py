"""Ours: the change since the last visit, from any visits at any times, as a distribution (system "forecast")."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError
from gen3d.core.parameterization import SIGMA_MAX, X0, FlowTime, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.volume import Prepared, Triple
from gen3d.core.wrap import Denoise, Window, tiled
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.kl import KL, KLConfig
from gen3d.latent.patch_volume import PatchVolume
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNetConfig
from gen3d.sequence.change_space import ChangeSpace
from gen3d.sequence.encoder import VisitEncoder, carried_on, facts_of
from gen3d.sequence.history import Longitudinal, SequenceConfig, latest
from gen3d.spaces.latent import Latent
from gen3d.spaces.pixel import Pixel
from gen3d.spaces.wavelet import Wavelet

MEASURED = 32  # simulated changes that the scale is measured on


@dataclass(frozen=True)
class ForecastConfig(SequenceConfig):
    """Configuration of a forecast model; the defaults fit into 2 MB.

    Attributes:
        space: What diffuses: the change in voxels, in Haar subbands, or in the latent of a frozen autoencoder.
        autoencoder: Of the latent space; its weights come from ``parts.autoencoder`` in training.
        width: Of the map that the visits become.
        network: Of the denoiser: told the map, the latest visit and the carried-on change besides the noisy change.
        labels: Structures whose volumes are followed, in the order of their numbers in the masks; none for none.
        segmenter: The one network that measures them, alike in scans and forecasts; trained every third step.
        parameterization: X0, so that a network that says nothing says that nothing changes; noise up to 1e4.
        expected: Share of the training examples that ask for the expected image, from noise alone.
        period: Of cyclic motion, in days, or in seconds for the heart.
        windows: Largest window of the coordinates that is denoised at once.
        sampling: At most 10 calls.
    """

    space: Literal["pixel", "wavelet", "latent"] = "wavelet"
    autoencoder: PatchVolumeConfig | KLConfig | None = None
    width: int = 16
    network: UNetConfig = UNetConfig(
        in_channels=40, out_channels=8, width=20, multipliers=(1, 2, 2), groups=4, vector=3
    )
    labels: tuple[str, ...] = ()
    segmenter: UNetConfig = UNetConfig(
        in_channels=1, out_channels=3, width=8, multipliers=(1, 2, 4), blocks=1, groups=4
    )
    parameterization: Parameterization = X0(FlowTime())
    expected: float = 0.4
    period: float | None = None
    windows: Triple = (160, 160, 160)
    sampling: Sampling = Sampling(sampler="euler", steps=8, grid="flow")

    def __post_init__(self) -> None:
        super().__post_init__()
        bands = self.channels
        needed = (3 * bands + self.width, bands)  # the noisy change, the carried-on one, the latest visit, the map
        if (self.network.in_channels, self.network.out_channels, self.network.vector) != (*needed, 3):
            raise ValueError(f"network: expected in_channels {needed[0]}, out_channels {needed[1]} and vector 3")
        if (self.space == "latent") != (self.autoencoder is not None):
            raise ValueError("autoencoder: expected one for space 'latent', and none for others")
        if self.labels and self.segmenter.out_channels != len(self.labels) + 1:
            raise ValueError(f"segmenter: expected out_channels {len(self.labels) + 1}, the labels and the rest")
        if not isinstance(self.parameterization, X0):
            raise ValueError("parameterization: expected X0, by which an untrained model is the copied last visit")
        if self.sampling.steps > 10:
            raise ValueError(f"sampling.steps: expected at most 10, not {self.sampling.steps}")

    @property
    def channels(self) -> int:
        """Of the coordinates."""
        if self.autoencoder is not None:
            return self.autoencoder.latent_channels
        return 1 if self.space == "pixel" else Wavelet(1).channels(1, self.patch)


def build_autoencoder(config: PatchVolumeConfig | KLConfig | None) -> nn.Module:
    """Build an autoencoder without weights, or nothing."""
    if config is None:
        return nn.Identity()
    return KL(config) if isinstance(config, KLConfig) else PatchVolume(config)


class Forecast(Longitudinal):
    r"""$x_0 = (E(x_q) - E(x_a)) / scale$, the change from the latest visit a to the day q that is asked for.

    The visits become one map by ``VisitEncoder``, run once for each forecast; the denoiser is given it beside the
    latest visit. The network's last layers start at zero, and with the X0 parameterization so does every guess: before
    training the forecast is the copied last visit to the bit. The loss is the squared error in voxels over that of
    copying; ``expected`` of the examples start from noise alone (zero terminal SNR), whose answer is the mean.
    """

    name = "forecast"
    Config = ForecastConfig
    components = ("network", "encoder", "space", "segmenter", "autoencoder")
    config: ForecastConfig

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__(config)
        self.autoencoder = build_autoencoder(config.autoencoder).requires_grad_(False)
        latent: Any = self.autoencoder
        visits: dict[str, Any] = {
            "pixel": Pixel,
            "wavelet": lambda: Wavelet(1, "orthonormal"),
            "latent": lambda: Latent(latent),
        }
        self.visits = visits[config.space]()
        self.space = ChangeSpace(self.visits, config.channels)
        self.encoder = VisitEncoder(config.channels, config.width, cyclic=config.period is not None)
        self.network = CompactUNet(config.network)
        self.denoiser = Denoiser(self.network, config.parameterization)
        self.segmenter: nn.Module = CompactUNet(config.segmenter) if config.labels else nn.Identity()

    def measure(self, cases: Sequence[Prepared]) -> "Forecast":
        """Set the scale of changes from simulated or real sequences of the training set."""

        def pair(index: int) -> tuple[Tensor, Tensor]:
            example = self.example(cases[index % len(cases)], derive("measure", index))
            return self.last(example), example["target"].float()

        self.space.measure(pair(index) for index in range(MEASURED))
        return self

    def condition(self, example: Example) -> Condition:
        """Return the map of the visits, the latest one, and how far ahead the question is.

        A visit that is not there, of one patient, is left out before anything is computed.
        """
        visits, days, valid = example["visits"].float(), example["days"], example["valid"]
        if len(visits) == 1 and not bool(valid.is_meta) and not bool(valid.all()):
            visits, days, valid = visits[:, valid[0]], days[:, valid[0]], valid[:, valid[0]]
        known = {"visits": visits, "days": days, "valid": valid, "query": example["query"]}
        place = latest(known)
        rows = torch.arange(len(visits), device=place.device)
        coords = self.space.visit(visits.flatten(0, 1)[:, None]).unflatten(0, visits.shape[:2])
        last, when = coords[rows, place], days[rows, place]
        changes = self.space.change(coords, last[:, None])
        carried = carried_on(changes, days, when, known["query"])
        facts = facts_of(days, when, known["query"], self.config.period).to(visits.device)
        told = self.encoder(last, changes, carried, facts, valid)
        ahead = (known["query"] - when) / 365.25
        numbers = torch.stack([ahead.asinh(), (ahead / 4).tanh(), valid.sum(1) / 4], dim=1)
        return Condition(channels=torch.cat([told, last], dim=1), vector=numbers.float().to(visits.device))

    def objectives(self) -> list[Objective]:
        """The forecast, and the network that measures structures."""
        parameters = [*self.network.parameters(), *self.encoder.parameters()]
        found = [Objective("forecast", parameters, self.loss, at=self.loss_at)]
        if self.config.labels:
            found.append(Objective("segmenter", list(self.segmenter.parameters()), self.segmenter_loss, every=3))
        return found

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the squared error of the change in voxels over its usual size."""
        parameterization: Any = self.config.parameterization
        sigma = parameterization.levels.draw(uniform([derive(key, "sigma") for key in keys]))
        alone = uniform([derive(key, "expected") for key in keys]) < self.config.expected
        return {"change": self.loss_at(example, keys, torch.where(alone, SIGMA_MAX, sigma.double())).mean()}

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the loss of each item at ``sigma``, (B,): 1 is about what copying the last visit has."""
        condition = self.condition(example)
        last = self.space.visit(self.last(example))
        x0 = self.space.change(last, self.space.visit(example["target"].float()))
        noise = normal_on(x0.device, [derive(key, "noise") for key in keys], x0.shape[1:])
        guess = self.denoiser(x0 + broadcast(sigma.float(), x0) * noise, sigma, condition)
        weight = self.space.scale.square() / self.space.scale.square().mean()
        return ((guess - x0).square() * weight[:, None, None, None]).flatten(1).mean(1)

    def segmenter_loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return cross-entropy and soft Dice loss of the structures in the visit that was asked for."""
        scores, labels = self.scores(example["target"].float()), example["labels"]
        soft, hard = scores.softmax(1)[:, 1:], nnf.one_hot(labels, scores.shape[1]).movedim(-1, 1)[:, 1:].float()
        dice = (2 * (soft * hard).sum((0, 2, 3, 4)) + 1) / ((soft + hard).sum((0, 2, 3, 4)) + 1)
        return {"entropy": nnf.cross_entropy(scores, labels), "dice": 1 - dice.mean()}

    def scores(self, voxels: Tensor) -> Tensor:
        """Return the scores of the rest and of each structure, (B, 1, X, Y, Z) -> (B, labels + 1, X, Y, Z)."""
        size, stride = voxels.shape[2:], int(self.segmenter.stride)  # type: ignore[arg-type]
        x = nnf.pad(voxels, [n for side in reversed(size) for n in (0, -side % stride)], mode="replicate")
        scores: Tensor = self.segmenter(x.to(memory_format=torch.channels_last_3d), x.new_zeros(len(x)))
        return scores[..., : size[0], : size[1], : size[2]].float()

    @torch.no_grad()
    def structures(self, voxels: Tensor) -> Tensor:
        """Return the labels of structures in any volume on the model's grey scale, (B, 1, X, Y, Z) -> (B, X, Y, Z).

        Raises:
            UserError: The model follows no structures.
        """
        if not self.config.labels:
            raise UserError("this model follows no structures: it was trained without labels")
        return self.scores(voxels).argmax(1)

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the space's shape, one key per item."""
        size = example["visits"].shape[2:]
        shape = (self.config.channels, *self.space.shape(size))
        return sigma * normal(keys, shape).to(example["visits"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser by windows."""

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            return self.denoiser(x, sigma, condition.window(where))

        return tiled(inside, self.config.windows)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the forecast on the model's grey scale, (B, 1, X, Y, Z)."""
        last = self.last(example).expand(len(coords), -1, -1, -1, -1)
        return self.space.applied(last, coords)

    @torch.no_grad()
    def expected(self, example: Example) -> Tensor:
        """Return the expected forecast by one call, whatever the seed, (B, 1, X, Y, Z)."""
        last = self.last(example)
        shape = (len(last), self.config.channels, *self.space.shape(last.shape[2:]))
        sigma = sent(torch.tensor(SIGMA_MAX, dtype=torch.float64), last.device)
        return self.finish(self.denoise(self.condition(example), [])(last.new_zeros(shape), sigma), example)
