"""What models of masks share: images with one mask or several raters' masks, and their training examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.core.randomness import Key, derive, normal, seed_of
from gen3d.core.system import Example, System
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.data.intensity import Intensity
from gen3d.data.patches import random_flips, random_start, window
from gen3d.data.prepare import ABSENT, prepare
from gen3d.data.warp import random_places, warped, warped_labels


@dataclass(frozen=True)
class SegmentationConfig:
    """What all models of masks are told.

    Attributes:
        contrasts: The images to segment.
        axes: Axis codes of the arrays.
        intensity: How each image's grey scale is found.
        canvas: Voxels that every image is centred on, cropped or padded; none for images as they are.
        patch: Voxels of a training example; an axis of 1 is a slice.
        labels: Structures, by their numbers 1, 2, ... in the masks.
        raters: How many raters there are, where several drew each case; 0 where there is one mask.
        flips: Axes along which examples are flipped at random: 0, 1, 2.
        gain: Standard deviation of the logarithm of a random factor on the image.
        shift: Standard deviation of what is added to it.
        gamma: Standard deviation of the logarithm of a power of the grey scale's share.
        noise: Largest standard deviation of white noise added to it.
        turn, zoom, bend: How strongly examples are turned, in degrees, stretched, and bent, in voxels; see
            ``random_places``.
        windows: Largest window that is denoised at once, in voxels.
    """

    contrasts: tuple[str, ...] = ("mri",)
    axes: str = "RAS"
    intensity: Intensity = Intensity(percentiles=(0.5, 99.5), to=(-1.0, 1.0))
    canvas: Triple | None = None
    patch: Triple = (32, 48, 32)
    labels: tuple[str, ...] = ("structure",)
    raters: int = 0
    flips: tuple[int, ...] = (0,)
    gain: float = 0.1
    shift: float = 0.1
    gamma: float = 0.0
    noise: float = 0.05
    turn: float = 0.0
    zoom: float = 0.0
    bend: float = 0.0
    windows: Triple = (96, 96, 96)


class Segmentation(System):
    """Masks of an image.

    ``finish`` returns the probability of the rest and of each label, (B, 1 + labels, X, Y, Z).
    """

    preparation: ClassVar[tuple[str, ...]] = ("contrasts", "axes", "intensity", "canvas")
    config: Any

    @property
    def training_size(self) -> Triple:
        """The patch."""
        return self.config.patch

    @property
    def classes(self) -> int:
        """Labels, and the rest."""
        return 1 + len(self.config.labels)

    def prepare(self, case: Case) -> Prepared:
        """Put an image on the model's axes and grey scale, its masks beside it.

        Raises:
            UserError: A mask has labels that the model does not know.
        """
        config = self.config
        prepared = prepare(case, config.contrasts, config.axes, config.intensity, crop=config.canvas or "none")
        masks = [mask for mask in (prepared.lesion, prepared.raters) if mask is not None]
        most = max((int(mask[mask != ABSENT].max(initial=0)) for mask in masks), default=0)
        if most >= self.classes:
            known = ", ".join(f"{n} {name}" for n, name in enumerate(config.labels, 1))
            raise UserError(f"{case.name}: a mask holds label {most}; this model knows {known}; renumber or drop it")
        return prepared

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return ``image`` (1, C, X, Y, Z), and for training the masks of a random patch.

        ``labels`` (1, X, Y, Z) int64 is the mask, or that of a random rater who drew; ``rater`` (1,) says which, -1
        where there is one mask; ``masks`` (1, R, X, Y, Z) int64 and ``drew`` (1, R) bool are all raters'.

        Raises:
            UserError: A training case has no mask.
        """
        config, prepared = self.config, case if isinstance(case, Prepared) else self.prepare(case)
        image = np.array(prepared.voxels, dtype=np.float32)
        if key is None:
            return {"image": torch.from_numpy(image)[None], "prepared": prepared}
        masks = prepared.raters if prepared.raters is not None else prepared.lesion
        if masks is None:
            raise UserError(f"{prepared.name}: has no mask; expected one to learn from; leave the case out")
        masks = np.asarray(masks).reshape(-1, *image.shape[1:])
        drew = ~(masks == ABSENT).all((1, 2, 3))
        rng = np.random.default_rng(seed_of(derive(key, "crop")))
        near = ((masks > 0) & (masks != ABSENT)).any(0)
        x, y, z = image.shape[1:]
        start = random_start((x, y, z), config.patch, rng, near=near, bias=0.8)
        low = config.intensity.to[0]
        patch = torch.from_numpy(window(image, start, config.patch, np.full(len(image), low)))
        drawn = torch.from_numpy(window(np.where(masks == ABSENT, 0, masks), start, config.patch)).long()
        if config.turn or config.zoom or config.bend:
            patch, drawn = self.moved(patch, drawn, rng)
        flips = [1 + axis for axis in random_flips(rng, config.flips)]
        rater = int(rng.choice(np.flatnonzero(drew)))
        single = prepared.raters is None
        return {
            "image": self.toned(patch.flip(flips), rng, key)[None],
            "labels": drawn.flip(flips)[rater][None],
            "rater": torch.tensor([-1 if single else rater]),
            "masks": drawn.flip(flips)[None],
            "drew": torch.from_numpy(drew)[None],
        }

    def moved(self, image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return image (C, X, Y, Z) and masks (R, X, Y, Z) at random places, one draw for all."""
        config = self.config
        places = random_places(config.patch, rng, turn=config.turn, zoom=config.zoom, bend=config.bend)
        return warped(image[None], places)[0], warped_labels(masks, places)[0].long()

    def toned(self, image: Tensor, rng: np.random.Generator, key: Key) -> Tensor:
        """Return the image as another scanner might have shown it."""
        config = self.config
        gain, shift = float(np.exp(config.gain * rng.normal())), float(config.shift * rng.normal())
        if config.gamma:
            low, high = config.intensity.to
            share = ((image - low) / (high - low)).clamp_min(0)
            image = low + (high - low) * share ** float(np.exp(config.gamma * rng.normal()))
        grain = float(config.noise * rng.random()) * normal([derive(key, "grain")], image.shape)[0]
        return image * gain + shift + grain

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: contrasts are another model's business."""
        raise UserError("this model draws masks: use gen3d segment, or another --model")

    def blank(self) -> Example:
        """Refuse: there is no image.

        Raises:
            UserError: Always.
        """
        raise UserError("this model draws masks of an image: use gen3d segment, or another --model")
