"""3D MedDiffusion: new scans by class and size, by diffusion in the latent space of a frozen autoencoder (Wang et al.
2025, https://arxiv.org/abs/2412.13059)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError, nearest
from gen3d.core.parameterization import Cosine, Epsilon, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective, Sampling, System
from gen3d.core.volume import Case, Prepared, Triple, centred_affine
from gen3d.core.wrap import Denoise, clipped
from gen3d.data.intensity import Intensity
from gen3d.data.prepare import prepare
from gen3d.latent.biflownet import BiFlowNet, BiFlowNetConfig
from gen3d.latent.cached import with_latents
from gen3d.latent.frozen import architecture, build_autoencoder
from gen3d.latent.halves import PatchVolumeConfig
from gen3d.latent.patches import Window
from gen3d.samplers import guided
from gen3d.spaces.latent import Latent
from gen3d.spaces.pixel import Pixel

CLASSES = ("ct_head_neck", "ct_chest_abdomen", "ct_legs", "mr_t1_brain", "mr_t2_brain", "mr_abdomen", "mr_knee")


@dataclass(frozen=True)
class MedDiffusionConfig:
    """Configuration of a latent diffusion model; the defaults are the published one of 8x latents.

    Attributes:
        contrasts: What is generated, one.
        axes: Axis codes of the arrays; the official code puts slices first and never turns a scan, RAS is assumed.
        intensity: How the grey scale is found; that of the autoencoder's training.
        canvas: Voxels that every volume is centred on, cropped or padded, (X, Y, Z); none for volumes as they are.
        classes: Names of the classes that the network is told, in their order; none for a network without.
        labels: Class of the cases whose name matches a pattern, such as ``CT*``; the first match counts. A case that
            matches none is trained on without a class.
        label_dropout: Share of training items whose class is withheld, which guidance needs; published without.
        autoencoder: Architecture of the frozen autoencoder, ``kind`` patch_volume, kl or absent.
        scaling: What the latents are divided by: "codebook" takes its extremes to -1 and 1 (published), "statistics"
            each channel's deviation over the training set.
        network: The denoiser's shape.
        resolution: Latent voxels along an axis that the network is told as a resolution of 1.
        parameterization: The four coefficients and where sigma is drawn.
        loss: Of the network's own output: its mean absolute (published) or squared error.
        clamp: Whether every guess of x0 is clamped to [-1, 1].
        sampling: How volumes are drawn unless asked otherwise, like the rest:
        size: Voxels, (X, Y, Z).
        spacing: In mm; ``measure`` takes the median of the training set.
        label: The class; none for any, of a model that has learnt without.
        guidance: Scale of classifier-free guidance, see gen3d.samplers.guided; 1 is none.
    """

    contrasts: tuple[str, ...] = ("image",)
    axes: str = "SRA"
    intensity: Intensity | Window = Intensity(percentiles=(0.5, 99.5), to=(-1.0, 1.0))
    canvas: Triple | None = None
    classes: tuple[str, ...] = CLASSES
    labels: dict[str, str] = field(default_factory=dict)
    label_dropout: float = 0.0
    autoencoder: Any = PatchVolumeConfig()
    scaling: Literal["codebook", "statistics"] = "codebook"
    network: BiFlowNetConfig = BiFlowNetConfig()
    resolution: float = 64.0
    parameterization: Parameterization = Epsilon(Cosine(largest=0.9999))
    loss: Literal["l1", "l2"] = "l1"
    clamp: bool = True
    sampling: Sampling = Sampling(sampler="ancestral", steps=1000, grid="ddpm")
    size: Triple = (256, 256, 256)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    label: str | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "autoencoder", architecture(self.autoencoder))
        if len(self.contrasts) != 1:
            raise ValueError(f"contrasts: expected one, found {', '.join(self.contrasts)}")
        if self.network.channels != self.autoencoder.latent_channels:
            raise ValueError(f"network: expected channels {self.autoencoder.latent_channels}, as the latent has")
        if self.network.classes != len(self.classes):
            raise ValueError(f"network: expected classes {len(self.classes)}, one for each of model.classes")
        if self.scaling == "codebook" and not isinstance(self.autoencoder, PatchVolumeConfig):
            raise ValueError("scaling: this autoencoder has no codebook; expected statistics")
        for name in (*self.labels.values(), *([self.label] if self.label is not None else [])):
            if name not in self.classes:
                raise ValueError(
                    f"class '{name}' is none of {', '.join(self.classes) or 'none'}{nearest(name, self.classes)}"
                )
        if min(self.size) < 1 or min(self.spacing) <= 0:
            raise ValueError("size and spacing: expected numbers above 0")
        if self.guidance != 1 and not self.label_dropout:
            raise ValueError("guidance: this model was trained without label_dropout, so it has no unconditional guess")
        if self.guidance != 1 and self.label is None:
            raise ValueError(f"guidance: needs a class to guide to, one of {', '.join(self.classes)}")


class MedDiffusion(System):
    """One BiFlowNet denoises the latent, told class, size and (ours) voxel spacing; the autoencoder stays as it is.

    The loss is the mean error of the network's own output. Volumes of any size are padded to the autoencoder's whole
    patches by repeating the edge; a step may hold volumes of several sizes, in batches of one.
    """

    name = "meddiffusion"
    Config = MedDiffusionConfig
    components: ClassVar[tuple[str, ...]] = ("network", "autoencoder", "space")
    preparation: ClassVar[tuple[str, ...]] = ("contrasts", "axes", "intensity", "canvas")
    # configuration that gen3d generate may change, besides the size
    adjustable: ClassVar[tuple[str, ...]] = ("label", "spacing", "guidance")
    config: MedDiffusionConfig

    def __init__(self, config: MedDiffusionConfig) -> None:
        super().__init__(config)
        self.network = BiFlowNet(config.network)
        self.autoencoder = build_autoencoder(config.autoencoder)
        self.space = Latent(self.autoencoder)
        self.denoiser = Denoiser(self.network, config.parameterization)

    def train(self, mode: bool = True) -> "MedDiffusion":
        """Set the mode of everything but the autoencoder, which never learns."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    @property
    def training_size(self) -> Triple:
        """The size of a generated volume, which stands for those of the training set."""
        return self.config.size

    def adopt(self, autoencoder: nn.Module) -> None:
        """Take the weights of a trained autoencoder of the configured architecture, and its codebook's scale.

        Raises:
            UserError: It is another one.
        """
        if getattr(autoencoder, "config", None) != self.config.autoencoder:
            raise UserError("autoencoder: of another shape than model.autoencoder; take over its configuration")
        self.autoencoder.load_state_dict(autoencoder.state_dict())
        self.scale_by_codebook()

    def scale_by_codebook(self) -> None:
        """Let the codebook's extremes be -1 and 1, the same for every channel, where that is the scaling."""
        if self.config.scaling == "codebook" and hasattr(self.autoencoder, "codebook"):
            low, high = self.autoencoder.codebook.vectors.aminmax()
            self.space.shift.fill_((high + low) / 2)
            self.space.scale.fill_((high - low) / 2)

    def measure(self, cases: Sequence[Prepared]) -> "MedDiffusion":
        """Return the system with the median spacing of the training set and the scale of its latents.

        The autoencoder must have its weights.

        Raises:
            UserError: There are classes, and no case has one.
        """
        x, y, z = (float(s) for s in np.median([case.spacing for case in cases], axis=0))
        if self.config.labels and all(self.class_of(case) < 0 for case in cases):
            raise UserError(f"model.labels: no case is called {' or '.join(self.config.labels)}")
        system = MedDiffusion(replace(self.config, spacing=(x, y, z)))
        system.load_state_dict(self.state_dict())
        system.scale_by_codebook()
        if self.config.scaling == "statistics":
            system.space.measure(system.moments(system.example(case, "measured")) for case in cases)
        return system

    def prepare(self, case: Case) -> Prepared:
        """Turn to the model's axes and put it on its scale, the volume in the middle of the canvas if there is one."""
        config = self.config
        return prepare(case, config.contrasts, config.axes, config.intensity, crop=config.canvas or "none")

    def cached(self, cases: Sequence[Prepared], folder: Path) -> list[Prepared]:
        """Return the cases with their latents beside them in ``folder``, so that training encodes nothing again.

        The autoencoder must have its weights; a case whose latent is there already is not encoded.

        Raises:
            UserError: Two cases have one name, a latent does not fit float16, or the disk refuses.
        """
        return with_latents(self.autoencoder, cases, folder, self.unit)

    def class_of(self, case: Prepared) -> int:
        """Return the number of a case's class, -1 for none."""
        for pattern, name in self.config.labels.items():
            if fnmatchcase(case.name, pattern):
                return self.config.classes.index(name)
        return -1

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return the whole volume: ``voxels`` (1, 1, X, Y, Z), ``label`` (1,), ``spacing`` (1, 3) in mm.

        For training of a case that carries its cached latent, ``mean`` and ``deviation`` (1, c, x, y, z) stand for
        ``voxels``.
        """
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        if not prepared.present.all():
            raise UserError(f"{prepared.name}: lacks the contrast {self.config.contrasts[0]}, which is generated")
        told = self.told(self.class_of(prepared), prepared.spacing)
        if key is None:
            voxels = torch.from_numpy(np.array(prepared.voxels, dtype=np.float32))[None]
            return {**told, "voxels": voxels, "prepared": prepared}
        moments = getattr(prepared, "moments", None)
        if moments is not None:
            return {**told, "mean": moments[0], "deviation": moments[1]}
        return {**told, "voxels": torch.from_numpy(np.array(prepared.voxels))[None]}

    def told(self, label: int, spacing: Sequence[float]) -> dict[str, Tensor]:
        """Return what an example says besides the image."""
        return {"label": torch.tensor([label]), "spacing": torch.tensor([spacing], dtype=torch.float32)}

    def blank(self) -> Example:
        """Return the example that a new volume is generated for: its size, class and spacing, all configured."""
        label = -1 if self.config.label is None else self.config.classes.index(self.config.label)
        return {**self.told(label, self.config.spacing), "size": self.config.size}

    @property
    def affine(self) -> np.ndarray:
        """Affine of a generated volume, (4, 4): the model's axes and spacing, the world's origin in the middle."""
        return centred_affine(self.config.axes, self.config.size, self.config.spacing)

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: this model is given nothing."""
        raise UserError("this model makes new scans and fills in none: use gen3d generate, or another --model")

    @property
    def unit(self) -> int:
        """Voxels that every axis is lengthened to a multiple of: a patch of the autoencoder, else its stride."""
        return int(getattr(self.config.autoencoder, "patch", self.autoencoder.stride))

    def grid(self, size: Sequence[int]) -> Triple:
        """Return the latent's size for a volume of ``size``, lengthened to whole units."""
        x, y, z = (-(-n // self.unit) * self.unit // self.autoencoder.stride for n in size)
        return x, y, z

    def moments(self, example: Example) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the example's latent, (B, c, x, y, z) each, cached ones where given."""
        if "mean" in example:
            return example["mean"].float(), example["deviation"].float()
        voxels = example["voxels"].float()
        if voxels.is_meta:  # where memory is counted: of training on cached latents
            mean = voxels.new_empty(len(voxels), self.autoencoder.latent_channels, *self.grid(voxels.shape[2:]))
            return mean, mean
        target = [n * self.autoencoder.stride for n in self.grid(voxels.shape[2:])]
        x, y, z = (wide - n for wide, n in zip(target, voxels.shape[2:], strict=True))
        with torch.no_grad():
            mean, deviation = self.autoencoder.moments(nnf.pad(voxels, (0, z, 0, y, 0, x), mode="replicate"))
        return mean, deviation

    def condition(self, example: Example) -> Condition:
        """Return class, resolution and, where the network is told it, spacing."""
        return self.conditioned(example, self.grid(volume_size(example)))

    def conditioned(self, example: Example, grid: Sequence[int]) -> Condition:
        """Return the condition of latents of size ``grid``."""
        spacing, label = example["spacing"], example["label"]
        vector = torch.tensor(grid, dtype=torch.float32).expand(len(label), 3).to(spacing) / self.config.resolution
        if self.config.network.spacing:
            vector = torch.cat([vector, spacing], dim=1)
        return Condition(label=label if self.config.classes else None, vector=vector)

    def objectives(self) -> list[Objective]:
        """One objective: the network."""
        return [Objective("meddiffusion", list(self.network.parameters()), self.loss, at=self.loss_at)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the mean error of the network's output, its class withheld for a share of the items."""
        sigma = self.config.parameterization.levels.draw(uniform([derive(key, "sigma") for key in keys]))
        withheld = uniform([derive(key, "label") for key in keys]) < self.config.label_dropout
        label = example["label"]
        told = {**example, "label": torch.where(sent(withheld, label.device), -1, label)}
        return {self.config.loss: self.loss_at(told, keys, sigma).mean()}

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        r"""Return the mean error of each item at ``sigma``, (B,): of $F = (D - c_{skip} x) / c_{out}$."""
        mean, deviation = self.moments(example)
        noise = normal_on(mean.device, [derive(key, "latent") for key in keys], mean.shape[1:])
        x0 = self.space.normalise(mean + deviation * noise)
        noise = normal_on(x0.device, [derive(key, "noise") for key in keys], x0.shape[1:])
        x = x0 + broadcast(sigma.float(), x0) * noise
        error = self.denoiser(x, sigma, self.conditioned(example, x0.shape[2:])) - x0
        weight = sent(self.config.parameterization.weight(sigma), x0.device)
        if self.config.loss == "l1":
            return weight.sqrt() * error.abs().flatten(1).mean(1)
        return weight * error.square().flatten(1).mean(1)

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the latent's shape, one key per item."""
        shape = (self.autoencoder.latent_channels, *self.grid(volume_size(example)))
        return sigma * normal(keys, shape).to(example["label"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser, guided towards the class and clamped as configured."""

        def told(condition: Condition) -> Denoise:
            return lambda x, sigma: self.denoiser(x, sigma, condition)

        guess = told(condition)
        if self.config.guidance != 1 and condition.label is not None:
            unconditional = replace(condition, label=torch.full_like(condition.label, -1))
            guess = guided(guess, told(unconditional), self.config.guidance)
        return clipped(guess, Pixel(), -1.0, 1.0) if self.config.clamp else guess

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return voxels on the model's grey scale, (B, 1, X, Y, Z)."""
        return self.space.decode(coords, volume_size(example)).clamp(*self.config.intensity.to)


def volume_size(example: Example) -> Triple:
    """Return the voxels (X, Y, Z) of an example of a whole volume, or of a new one."""
    x, y, z = example["size"] if "size" in example else example["voxels"].shape[2:]
    return x, y, z
