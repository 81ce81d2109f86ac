"""Images with masks for models that draw both: configuration, examples, and what is told of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UserError, nearest
from gen3d.core.parameterization import X0, Betas, Parameterization
from gen3d.core.randomness import Key, derive, seed_of
from gen3d.core.system import Example, Sampling, System
from gen3d.core.volume import Case, Prepared, Triple, Volume, centred_affine
from gen3d.data.intensity import Intensity
from gen3d.data.patches import random_flips
from gen3d.data.prepare import over_labels, prepare
from gen3d.data.topology import components, holes
from gen3d.data.warp import random_places, warped, warped_labels
from gen3d.nn.unet import UNetConfig
from gen3d.spaces.labels import Labels
from gen3d.spaces.wavelet import Wavelet, WaveletConfig


@dataclass(frozen=True)
class PairsConfig:
    """Configuration of a model of pairs; the defaults are for one image and one structure.

    Attributes:
        contrasts: The images, one channel each.
        axes: Axis codes of the arrays.
        intensity: How each image's grey scale is found.
        canvas: Voxels that every volume is centred on, cropped or padded, (X, Y, Z).
        spacing: Of a new volume, in mm; ``measure`` takes the median of the training set.
        labels: Structures, by their numbers 1, 2, ... in the masks.
        code: How a mask becomes channels, see ``Labels``.
        blur: Standard deviation in voxels of a Gaussian over drawn codes before labels are read, which takes lone
            voxels away; 0.5 leaves real masks as they are.
        space: The coordinates that diffuse; "statistics" are each channel's own.
        architecture: WDM's U-Net, its wavelet U-Net, or our compact one.
        network: Its shape: given the noisy coordinates of image and mask and, where ``given`` is above 0, those of a
            mask that is told, with one flag.
        given: Share of training items in which the mask is told.
        volumes: Whether the network is told the volume of each structure.
        told_spacing: Whether it is told the voxels' spacing.
        classes: Names of classes that it is told.
        belongs: Class of the cases whose name matches a pattern, such as ``CT*``; the first match counts.
        dropped: Share in which each number and the class are withheld, and share in which all are.
        flips: Axes along which examples are flipped at random: 0, 1, 2.
        turn, zoom, bend: How strongly they are turned, stretched and bent, see ``random_places``.
        parameterization: The four coefficients and where sigma is drawn.
        sampling: How pairs are drawn unless asked otherwise, like the rest:
        label: The class; none for any.
        guidance: Scale of guidance towards what is told, see gen3d.samplers.guided; 1 is none.
        usual: Mean and deviation of ln mL of each structure in the training set, from ``measure``.
        cases: Training cases whose fingerprints are kept, from ``measure``.
    """

    contrasts: tuple[str, ...] = ("mri",)
    axes: str = "RAS"
    intensity: Intensity = Intensity(percentiles=(0.5, 99.5), to=(-1.0, 1.0))
    canvas: Triple = (32, 48, 32)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    labels: tuple[str, ...] = ("structure",)
    code: Literal["onehot", "bits"] = "bits"
    blur: float = 0.5
    space: WaveletConfig = WaveletConfig(scale="statistics")
    architecture: Literal["unet", "wavelet_unet", "compact"] = "compact"
    network: UNetConfig = UNetConfig(
        in_channels=24, out_channels=16, width=28, multipliers=(1, 2, 2), blocks=1, groups=4, present=1, vector=2
    )
    given: float = 0.3
    volumes: bool = True
    told_spacing: bool = False
    classes: tuple[str, ...] = ()
    belongs: dict[str, str] = field(default_factory=dict)
    dropped: float = 0.1
    flips: tuple[int, ...] = (0,)
    turn: float = 0.0
    zoom: float = 0.0
    bend: float = 0.0
    parameterization: Parameterization = X0(Betas())
    sampling: Sampling = Sampling(sampler="dpmpp_2m", steps=15)
    label: str | None = None
    guidance: float = 1.0
    usual: tuple[tuple[float, float], ...] = ()
    cases: int = 0

    def __post_init__(self) -> None:
        bands = Wavelet(self.space.levels).channels(1, self.canvas)
        codes = bands * Labels(1 + len(self.labels), self.code).channels()
        total = bands * len(self.contrasts) + codes
        shape = (total + (codes if self.given else 0), total, int(self.given > 0), 2 * self.numbers, len(self.classes))
        told = ("in_channels", "out_channels", "present", "vector", "classes")
        if tuple(getattr(self.network, name) for name in told) != shape or self.network.latent:
            raise ValueError(
                "network: expected in_channels {}, out_channels {}, present {}, vector {}, classes {} and latent 0, as "
                "labels, code, given, volumes, told_spacing and classes say".format(*shape)
            )
        if any(n % 2**self.space.levels and n > 1 for n in self.canvas):
            raise ValueError(f"canvas: {self.canvas} is not a multiple of {2**self.space.levels}")
        if not (0 <= self.given < 1 and 0 <= self.dropped < 1):
            raise ValueError("given and dropped: expected shares from 0 to below 1")
        if min(self.spacing) <= 0 or self.blur < 0:
            raise ValueError("spacing: expected numbers above 0; blur: 0 or above")
        for name in (*self.belongs.values(), *([self.label] if self.label is not None else [])):
            if name not in self.classes:
                raise ValueError(
                    f"class '{name}' is none of {', '.join(self.classes) or 'none'}{nearest(name, self.classes)}"
                )
        if self.guidance != 1 and not (self.dropped and (self.numbers or self.classes)):
            raise ValueError("guidance: this model was told nothing that was withheld in training; expected 1")

    @property
    def size(self) -> Triple:
        """Voxels of a generated volume."""
        return self.canvas

    @property
    def numbers(self) -> int:
        """How many numbers the network is told, each with a flag."""
        return (len(self.labels) if self.volumes else 0) + (3 if self.told_spacing else 0)


class Labelled(System):
    """A model of images with masks: cases in, examples out, and the examples that new pairs are drawn for."""

    preparation: ClassVar[tuple[str, ...]] = ("contrasts", "axes", "intensity", "canvas")
    config: PairsConfig

    @property
    def classes(self) -> int:
        """Labels, and the rest."""
        return 1 + len(self.config.labels)

    @property
    def training_size(self) -> Triple:
        """The whole volume."""
        return self.config.canvas

    @property
    def adjustable(self) -> tuple[str, ...]:
        """Configuration that gen3d generate may change."""
        config = self.config
        guidance = ("guidance",) if config.dropped and (config.numbers or config.classes) else ()
        return (*(("label",) if config.classes else ()), *(("spacing",) if config.told_spacing else ()), *guidance)

    def prepare(self, case: Case) -> Prepared:
        """Put each contrast on its scale and the volume in the middle of the canvas, the mask beside it.

        Raises:
            UserError: The mask has labels that the model does not know.
        """
        config = self.config
        prepared = prepare(case, config.contrasts, config.axes, config.intensity, crop=config.canvas)
        if prepared.lesion is not None:
            self.check(prepared.lesion, case.name)
        return prepared

    def check(self, mask: Any, name: object) -> None:
        """Refuse a mask with labels that the model does not know."""
        if (most := int(mask.max())) >= self.classes:
            known = ", ".join(f"{n} {name}" for n, name in enumerate(self.config.labels, 1))
            raise UserError(f"{name}: its mask holds label {most}; this model knows {known}; renumber or drop it")

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return ``voxels`` (1, C, X, Y, Z), ``mask`` (1, 1, X, Y, Z) uint8 and what the network may be told.

        That is ``volumes`` (1, labels) in mL, ``spacing`` (1, 3) in mm and ``label`` (1,), -1 for no class.

        Raises:
            UserError: The case lacks a contrast or a mask.
        """
        config, prepared = self.config, case if isinstance(case, Prepared) else self.prepare(case)
        if not prepared.present.all():
            absent = config.contrasts[int(np.argmin(prepared.present))]
            raise UserError(f"{prepared.name}: lacks the contrast {absent}, which this model learns to generate")
        if prepared.lesion is None:
            raise UserError(f"{prepared.name}: has no mask; this model learns pairs; draw one or leave the case out")
        voxels = torch.from_numpy(np.array(prepared.voxels, dtype=np.float32))[None]
        mask = torch.from_numpy(np.array(prepared.lesion, dtype=np.uint8))[None]
        if key is not None:
            rng = np.random.default_rng(seed_of(derive(key, "place")))
            if config.turn or config.zoom or config.bend:
                places = random_places(config.canvas, rng, turn=config.turn, zoom=config.zoom, bend=config.bend)
                voxels, mask = warped(voxels, places), warped_labels(mask, places)[0]
            flips = [axis - 3 for axis in random_flips(rng, config.flips)]
            voxels, mask = voxels.flip(flips), mask.flip(flips)
        told = self.told(mask[None], prepared.spacing, self.class_of(prepared))
        example = {"voxels": voxels, "mask": mask[None], **told}
        return example if key is not None else {**example, "prepared": prepared}

    def told(self, mask: Tensor, spacing: Sequence[float], label: int) -> Example:
        """Return what may be told of one mask."""
        counts = torch.bincount(mask.flatten(), minlength=self.classes)[1:]
        return {
            "volumes": counts[None].float() * float(np.prod(spacing)) / 1000,
            "spacing": torch.tensor([list(spacing)], dtype=torch.float32),
            "label": torch.tensor([label]),
        }

    def class_of(self, case: Prepared) -> int:
        """Return the number of a case's class, -1 for none."""
        found = [name for pattern, name in self.config.belongs.items() if fnmatchcase(case.name, pattern)]
        return self.config.classes.index(found[0]) if found else -1

    def label_facts(self, cases: Sequence[Prepared]) -> dict[str, Any]:
        """Return what real masks are like, JSON-like: of each case and label the volume, the parts and the cavities."""
        masks = [[np.asarray(case.lesion) == n for n in range(1, self.classes)] for case in cases]
        millilitres = [float(np.prod(case.spacing)) / 1000 for case in cases]
        return {
            "names": list(self.config.labels),
            "volumes_ml": [
                [round(float(mask.sum()) * ml, 5) for mask in row] for row, ml in zip(masks, millilitres, strict=True)
            ],
            "components": [[components(mask) for mask in row] for row in masks],
            "holes": [[holes(mask) for mask in row] for row in masks],
        }

    def blank(
        self,
        mask: Tensor | None = None,
        volumes: Sequence[float | None] | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Example:
        """Return the example that a new pair is drawn for, or a new image of a mask.

        Args:
            mask: Labels on the canvas, (1, 1, X, Y, Z) integers; its volumes are told with it.
            volumes: Of each structure in mL, None for one that is not told.
            spacing: In mm, (x, y, z); by default the model's.

        Raises:
            UserError: The model is told no such thing, or the mask or the numbers don't fit it.
        """
        config = self.config
        if spacing is not None and not config.told_spacing:
            raise UserError("spacing: this model is told none; leave it out")
        label = config.classes.index(config.label) if config.label is not None else -1
        empty = torch.zeros(1, 1, *config.canvas, dtype=torch.uint8)
        shown = empty if mask is None else self.shown(mask)
        example = self.told(shown, spacing or config.spacing, label)
        if mask is None:
            example["volumes"] = torch.tensor([self.wished(volumes)])
        elif volumes is not None:
            raise UserError("volumes: the mask has its own; leave one of them out")
        voxels = torch.zeros(1, len(config.contrasts), *config.canvas)
        return {"voxels": voxels, "mask": shown, "given": torch.tensor([mask is not None]), **example}

    def shown(self, mask: Tensor) -> Tensor:
        """Return a mask that a model may be shown, (1, 1, X, Y, Z) uint8.

        Raises:
            UserError: The model follows none, or the mask does not fit.
        """
        wanted = (1, 1, *self.config.canvas)
        if not self.config.given:
            raise UserError("mask: this model has not learnt to follow one; train with model.given above 0")
        if tuple(mask.shape) != wanted:
            raise UserError(f"mask: has shape {tuple(mask.shape)}; expected {wanted}")
        if int(mask.min()) < 0:
            raise UserError("mask: holds numbers below 0; expected labels")
        self.check(mask, "mask")
        return mask.to(torch.uint8)

    def wished(self, volumes: Sequence[float | None] | None) -> list[float]:
        """Return volumes in mL with nan where none is told."""
        labels = self.config.labels
        if volumes is None:
            return [float("nan")] * len(labels)
        if not self.config.volumes:
            raise UserError("volumes: this model is told none; leave them out")
        if len(volumes) != len(labels) or any(v is not None and not 0 < v < float("inf") for v in volumes):
            raise UserError(f"volumes {list(volumes)}: expected mL above 0, or none, for {', '.join(labels)}")
        return [float("nan") if v is None else float(v) for v in volumes]

    def led(self, mask: Volume) -> Example:
        """Return the example that a new image is drawn for under a mask, with ``placement``, the way to its grid.

        Raises:
            UserError: The mask has no label, unknown ones, or is too large.
        """
        config = self.config
        placement = over_labels(mask, config.axes, config.canvas)
        self.check(mask.voxels, mask.origin)
        x, y, z = Volume(mask.voxels, placement.model_affine).spacing
        labels = torch.from_numpy(placement.take(mask.voxels).astype(np.uint8))[None, None]
        return {**self.blank(labels, spacing=(x, y, z) if config.told_spacing else None), "placement": placement}

    @property
    def affine(self) -> np.ndarray:
        """Affine of a generated volume, (4, 4): the model's axes and spacing, the world's origin in the middle."""
        return centred_affine(self.config.axes, self.config.canvas, self.config.spacing)

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: scans are another model's business."""
        raise UserError("this model makes new pairs of scan and mask: use gen3d augment, or another --model")
