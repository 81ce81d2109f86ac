"""Drawing one synthetic pair: image and mask together, or the image of a mask that is given, as it is or deformed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UsageError, UserError
from gen3d.core.randomness import Key, derive, seed_of
from gen3d.core.system import Example, System
from gen3d.core.volume import Triple, Volume
from gen3d.data.nifti import read_labels
from gen3d.data.warp import random_places, warped_labels
from gen3d.tools.generate import asked
from gen3d.tools.led import find_masks
from gen3d.tools.sampling import OpenModel, Walk, choose_walk, drawn, finite, open_model, to_device

TURN, ZOOM, BEND = 5.0, 0.05, 1.0  # how strongly given masks are deformed: degrees, logarithm, voxels
JITTER = 0.05  # deviation of ln mL around a real case's volumes, where the model is told volumes


class UnfitMaskError(UserError):
    """A given mask is none for the model; its cases are given up and the others go on."""


@dataclass(frozen=True)
class Wishes:
    """How pairs are drawn.

    Attributes:
        masks: A NIfTI file of labels to make images of, or a folder of them; none: the model draws masks too.
        deform: Turn, stretch and bend each of them at random.
        volumes_ml: Of each label, told to the model; by default about those of a random training case.
        label: Name or number of a class.
        spacing: Of the voxels in mm.
        guidance: Scale of guidance towards all that is told.
        sampler, steps: By default the model's.
        device, precision: See ``open_model``.
    """

    masks: Path | None = None
    deform: bool = False
    volumes_ml: tuple[float, ...] | None = None
    label: str | None = None
    spacing: tuple[float, float, float] | None = None
    guidance: float | None = None
    sampler: str | None = None
    steps: int | None = None
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, eq=False)
class Pair:
    """Images and their mask on one grid.

    Attributes:
        images: (C, X, Y, Z) float32 on the model's grey scale.
        labels: (X, Y, Z) int16.
        affine: (4, 4).
        floor: What nothing is on the grey scale.
        mask_made: Whether the mask is the model's or deformed; one that was used as given is nobody's to judge.
        facts: What the model was told, JSON-like.
    """

    images: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    floor: float
    mask_made: bool
    facts: Mapping[str, Any]


class Drawing:
    """A model that draws pairs, opened once.

    Args:
        model: A folder, shipped name or hub id of a model of pairs.
        wishes: How they are drawn.

    Raises:
        UserError: The model draws no labels, or can't be told what is wished; a mask can't be read.
    """

    def __init__(self, model: str | Path, wishes: Wishes) -> None:
        self.model: OpenModel = open_model(model, wishes.device, wishes.precision)
        self.system: Any = self.model.system
        self.wishes = wishes
        if getattr(self.system, "task", None) != "pairs":
            name = self.system.name
            raise UserError(f"this {name} model draws no labels; expected one of pairs, such as hippocampus-pairs")
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True  # the same bytes every time
        told = {"label": wishes.label, "spacing": wishes.spacing, "guidance": wishes.guidance}
        self.changes = asked(self.system, size=None, **told)
        self.walk: Walk = choose_walk(self.system, wishes.sampler, wishes.steps)
        self.masks = [] if wishes.masks is None else find_masks(wishes.masks)
        if wishes.deform and not self.masks:
            raise UsageError("--deform: deforms given masks; add --from-masks FOLDER")
        if len(self.masks) == 1:
            self.lead(1, "")
        check_volumes(wishes.volumes_ml, self.system, given=bool(self.masks))

    def settings(self) -> dict[str, Any]:
        """Return all that the pairs depend on besides seed and number, JSON-like."""
        wishes = self.wishes
        return {
            "device": self.model.device.type,
            "sampler": self.walk.sampler,
            "steps": self.walk.steps,
            **self.changes,
            "volumes_ml": list(wishes.volumes_ml) if wishes.volumes_ml else None,
            "masks": told_masks(self.masks) if self.masks else None,
            "deform": [TURN, ZOOM, BEND] if wishes.deform else None,
        }

    @torch.inference_mode()
    def draw(self, number: int, key: Key) -> Pair:
        """Draw a pair, a function of its number (from 1, which chooses a given mask) and key.

        Raises:
            UserError: The weights are damaged.
            UnfitMaskError: A mask is none for this model.
        """
        example, affine, told = self.lead(number, key)
        example = to_device(example, self.model.device)
        coords = drawn(self.system, example, self.system.condition(example), key, self.walk)
        found = finite(self.system.finish(coords, example)[0].float().cpu().numpy(), self.model.name)
        config = self.system.config
        labels = example["mask"][0, 0].cpu().numpy() if self.masks else np.rint(found[-1])
        return Pair(
            found[:-1],
            labels.astype(np.int16),
            affine,
            float(self.system.window(config.contrasts[0])[0]),
            not self.masks or self.wishes.deform,
            told,
        )

    def lead(self, number: int, key: Key) -> tuple[Example, np.ndarray, dict[str, Any]]:
        """Return what the model is given, the affine of what it makes, and what to say of it."""
        system = self.system
        if not self.masks:
            told: dict[str, Any] = {"mask": "drawn with the image"}
            if not system.config.volumes:
                return system.blank(), np.asarray(system.affine, dtype=np.float64), told
            volumes = self.wishes.volumes_ml or volumes_like(system, key)
            told |= {"told_volumes_ml": [round(ml, 4) for ml in volumes]}
            return system.blank(volumes=volumes), np.asarray(system.affine, dtype=np.float64), told
        path = self.masks[(number - 1) % len(self.masks)]
        try:
            led = system.led(read_labels(path))
            labels, affine = led["mask"], led["placement"].model_affine
            check_spacing(path, affine, system)
        except UserError as error:
            raise UnfitMaskError(str(error)) from None
        if self.wishes.deform:
            labels = deformed(labels, key)
        about = {"mask": "given, deformed" if self.wishes.deform else "given", "mask_source": path.name}
        spacing = Volume(labels[0, 0].numpy(), affine).spacing
        known = {"spacing": spacing} if system.config.told_spacing else {}
        return {**system.blank(mask=labels, **known), "mask": labels}, affine, about


def volumes_like(system: System, key: Key) -> tuple[float, ...]:
    """Return label volumes in mL about those of a training case, both drawn by key; of a voxel at least."""
    rng = np.random.default_rng(seed_of(derive(key, "volumes")))
    rows = np.array(system.provenance["labels"]["volumes_ml"], dtype=float)
    about = rows[rng.integers(len(rows))] * np.exp(JITTER * rng.normal(size=rows.shape[1]))
    return tuple(float(ml) for ml in np.maximum(about, np.prod(system.config.spacing) / 1000))


def deformed(labels: Tensor, key: Key) -> Tensor:
    """Return a mask (1, 1, X, Y, Z) turned, stretched and bent at random, a function of its key; beyond is nothing."""
    x, y, z = (int(n) + 2 for n in labels.shape[2:])
    size: Triple = (x, y, z)
    rng = np.random.default_rng(seed_of(derive(key, "deform")))
    places = random_places(size, rng, turn=TURN, zoom=ZOOM, bend=BEND)
    padded = torch.nn.functional.pad(labels[0], (1,) * 6)
    return warped_labels(padded, places)[:, :, 1:-1, 1:-1, 1:-1].long()


def check_volumes(volumes_ml: Sequence[float] | None, system: System, *, given: bool) -> None:
    """Check that volumes may be told.

    Raises:
        UsageError: The model is told none, has another number of labels, a mask says them, or one is not above 0.
    """
    if volumes_ml is None:
        return
    if given or not system.config.volumes:
        why = "a given mask has its own" if given else f"this {system.name} model is told none"
        raise UsageError(f"--volumes: {why}; leave it out")
    names = system.config.labels
    if len(volumes_ml) != len(names) or min(volumes_ml) <= 0:
        raise UsageError(
            f"--volumes {','.join(f'{ml:g}' for ml in volumes_ml)}: expected one number of mL above 0 for each of "
            f"{', '.join(names)}"
        )


def check_spacing(path: Path, affine: np.ndarray, system: System) -> None:
    """Check that a mask's voxels are about as large as the model's, where it is not told their size.

    Raises:
        UserError: They are not.
    """
    own = Volume(np.zeros((1, 1, 1)), affine).spacing
    usual = system.config.spacing
    if not system.config.told_spacing and not all(0.75 < a / b < 1.33 for a, b in zip(own, usual, strict=True)):
        words, ours = (" x ".join(f"{mm:.3g}" for mm in ends) for ends in (own, usual))
        raise UserError(f"{path}: voxels of {words} mm; the model makes {ours} mm; resample the mask")


def told_masks(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what identifies given masks: how many, and the SHA-256 of all names and contents."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"count": len(paths), "sha256": whole.hexdigest()}
