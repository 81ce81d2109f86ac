"""A ControlNet on a frozen latent diffusion model: masks, sparse projections or an undersampled spectrum lead it.

Zhang, Rao & Agrawala 2023, https://arxiv.org/abs/2302.05543, on the network of 3D MedDiffusion (Wang et al. 2025,
section III-D, https://arxiv.org/abs/2412.13059), whose authors describe it and released none of it. Measurements are
simulated from magnitude images, with white noise of a stated level.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError
from gen3d.core.linear import least_squares
from gen3d.core.randomness import Key
from gen3d.core.system import Example, Objective
from gen3d.core.volume import Case, Prepared, Volume
from gen3d.core.wrap import Denoise, consistent
from gen3d.data.measurement import Acquisitions, Measurement, measure
from gen3d.data.prepare import over_labels, prepare
from gen3d.latent.controlnet import Controlled, ControlNet
from gen3d.latent.meddiffusion import MedDiffusion, MedDiffusionConfig, volume_size
from gen3d.spaces.latent import Latent


@dataclass(frozen=True)
class ControlConfig(MedDiffusionConfig):
    """Configuration of a ControlNet; all but these is that of the frozen model.

    Attributes:
        task: What leads: the case's mask, or what is measured.
        mask_labels: Labels 0, 1, ... of the mask.
        acquisitions: How volumes are measured in training, for the tasks that measure; its task is ``task``.
        error: What a guess is expected to be wrong by, on the grey scale: sets how far measurements are trusted.
        consistency: Steps of conjugate gradients after each guess where a measurement is given.
    """

    task: Literal["mask", "sparse-ct", "mri"] = "mask"
    mask_labels: int = 2
    acquisitions: Acquisitions = Acquisitions()
    error: float = 0.05
    consistency: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task != "mask":
            object.__setattr__(self, "acquisitions", replace(self.acquisitions, task=self.task))
        if self.mask_labels < 2:
            raise ValueError("mask_labels: expected at least 2, the background and one more")

    @property
    def hint_channels(self) -> int:
        """Channels of what leads, on the latent's grid."""
        return self.mask_labels if self.task == "mask" else self.network.channels


class Control(MedDiffusion):
    """A frozen latent diffusion model led by a mask or a measurement; only the ControlNet learns, by the same loss.

    What leads is put on the latent's grid: a mask as the share of each label, the rough reconstruction of a measurement
    (filtered back-projection, zero-filling) as its own latent. Before the first step of training the answer is that of
    the frozen model to the bit.
    """

    name = "control"
    Config = ControlConfig
    components = ("network", "control", "autoencoder", "space")
    adjustable = ("label", "guidance")
    config: ControlConfig

    def __init__(self, config: ControlConfig) -> None:
        super().__init__(config)
        if config.network.known:
            raise UserError("network.known: a ControlNet stands on a network that is given no channels")
        self.network.requires_grad_(False)
        self.control = ControlNet(config.network, config.hint_channels)
        self.denoiser = Denoiser(Controlled(self.network, self.control), config.parameterization)

    def stand_on(self, base: MedDiffusion) -> "Control":
        """Take over a trained model, which stays as it is, and start the ControlNet as a copy of its encoder.

        Raises:
            UserError: The model has another shape than this one's configuration says.
        """
        try:
            for name in base.components:
                getattr(self, name).load_state_dict(getattr(base, name).state_dict())
            self.control.encoder.load_state_dict(base.network.encoder.state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"init: the frozen model does not fit model.network or model.autoencoder ({reason})"
            ) from None
        return self

    def measure(self, cases: Sequence[Prepared]) -> "Control":
        """Return the system as it is: the latents' statistics are those of the frozen model."""
        return self

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return what the frozen model's does, always with ``voxels``, and for masks ``mask`` (1, 1, X, Y, Z) int64.

        A case that is to be measured is taken whole, whatever the canvas of training.

        Raises:
            UserError: The case has no mask, or one with more labels than the model knows.
        """
        config = self.config
        if isinstance(case, Prepared):
            prepared = case
        elif config.task == "mask":
            prepared = self.prepare(case)
        else:
            prepared = prepare(case, config.contrasts, config.axes, config.intensity)
        example = {
            **super().example(prepared, key),
            "voxels": torch.from_numpy(np.array(prepared.voxels, np.float32))[None],
        }
        if config.task == "mask":
            if prepared.lesion is None:
                raise UserError(f"{prepared.name}: has no mask; this model is led by one; put it beside the scan")
            example["mask"] = self.labelled(prepared.lesion, prepared.name)
        return example

    def labelled(self, mask: np.ndarray, name: object) -> Tensor:
        """Return a mask as a tensor, (1, 1, X, Y, Z) int64.

        Raises:
            UserError: It holds more labels than the model knows.
        """
        if (most := int(mask.max())) >= self.config.mask_labels:
            known = f"0 to {self.config.mask_labels - 1}"
            raise UserError(f"{name}: its mask holds label {most}; this model knows {known}; renumber them")
        return torch.from_numpy(np.array(mask)).long()[None, None]

    def blank(self) -> Example:
        """Refuse: there is nothing to be led by.

        Raises:
            UserError: Always.
        """
        if self.config.task == "mask":
            raise UserError("this model is led by a mask: give one or a folder of them by --mask, or another --model")
        raise UserError("this model is led by a measurement: use gen3d reconstruct, or another --model")

    def led(self, mask: Volume) -> Example:
        """Return the example that a new volume is generated for under a mask, with the way back to the mask's grid.

        The canvas lies in the middle of the mask's grid, as in training, moved as far as its labels ask for. The
        example holds ``size``, ``label``, ``spacing``, ``mask`` (1, 1, X, Y, Z) int64 and ``placement``.

        Raises:
            UserError: The mask has no label, unknown ones, or is too large.
        """
        placement = over_labels(mask, self.config.axes, self.config.canvas)
        spacing = torch.tensor([Volume(mask.voxels, placement.model_affine).spacing], dtype=torch.float32)
        held = self.labelled(placement.take(mask.voxels), mask.origin)
        return {**super().blank(), "spacing": spacing, "size": placement.size, "mask": held, "placement": placement}

    @property
    def air(self) -> float:
        """What nothing is on the model's grey scale: its lower end.

        Measurements want it to be 0.
        """
        return self.config.intensity.to[0]

    def hint(self, example: Example) -> Tensor:
        """Return what leads, on the latent's grid, (B, hint_channels, x, y, z).

        Raises:
            UserError: The example holds neither a mask nor a measurement, or a mask of another size than the image.
        """
        if self.config.task == "mask":
            return self.shares(example["mask"], volume_size(example))
        if "measurement" not in example:
            raise UserError("this model is led by a measurement: use gen3d reconstruct")
        found: Measurement = example["measurement"]
        return self.encoded(found.operator.pseudo_inverse(found.measured))

    @torch.no_grad()
    def encoded(self, rough: Tensor) -> Tensor:
        """Return the latent of rough reconstructions whose air is 0."""
        return self.space.normalise(self.moments({"voxels": rough + self.air})[0])

    def shares(self, mask: Tensor, size: Sequence[int]) -> Tensor:
        """Return the share of each label in each latent voxel, the background beyond the volume."""
        if tuple(mask.shape[2:]) != tuple(size):
            found, wanted = tuple(mask.shape[2:]), tuple(size)
            raise UserError(f"mask: has size {found}, the image {wanted}; expected one grid; resample the mask")
        stride = self.autoencoder.stride
        x, y, z = (n * stride - m for n, m in zip(self.grid(size), size, strict=True))
        padded = nnf.pad(mask, (0, z, 0, y, 0, x))
        hot = torch.stack([padded[:, 0] == label for label in range(self.config.mask_labels)], dim=1)
        return nnf.avg_pool3d(hot.float(), stride)

    def conditioned(self, example: Example, grid: Sequence[int]) -> Condition:
        """Return class, resolution, spacing, and the hint."""
        hint = example["hint"] if "hint" in example else self.hint(example)
        return replace(super().conditioned(example, grid), channels=hint)

    def objectives(self) -> list[Objective]:
        """One objective: the ControlNet."""
        return [Objective("control", list(self.control.parameters()), self.loss, at=self.loss_at)]

    def loss_at(self, example: Example, keys: Sequence[Key], sigma: Tensor) -> Tensor:
        """Return the frozen model's loss of each item at ``sigma``, (B,), under a hint whose measurement is drawn."""
        if example["voxels"].is_meta and self.config.task != "mask":
            shape = (len(keys), self.config.hint_channels, *self.grid(volume_size(example)))
            example = {**example, "hint": example["voxels"].new_zeros(shape)}
        elif self.config.task != "mask":
            rough = []
            for voxels, key in zip((example["voxels"].float() - self.air).split(1), keys, strict=True):
                found = measure(voxels, self.config.acquisitions.draw(key), key)
                rough.append(found.operator.pseudo_inverse(found.measured))
            example = {**example, "hint": self.encoded(torch.cat(rough))}
        return super().loss_at(example, keys, sigma)

    def denoise(self, condition: Condition, keys: Sequence[Key], measurement: Measurement | None = None) -> Denoise:
        """Return the frozen model's denoise under the hint; with a measurement its guesses agree with that."""
        denoise = super().denoise(condition, keys)
        if measurement is None:
            return denoise
        size = measurement.operator.pseudo_inverse(measurement.measured).shape[2:]
        weight, steps = self.doubt(measurement), self.config.consistency
        space = Shifted(self.space, self)
        return consistent(denoise, space, measurement.operator, measurement.measured, weight, steps, size)

    def doubt(self, measurement: Measurement) -> float:
        """Return the weight of a guess against a measurement: noise over error, squared."""
        return (max(measurement.level, 1e-3) / self.config.error) ** 2 / measurement.operator.strength

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return voxels on the grey scale, (B, 1, X, Y, Z); led by a measurement none is darker than air."""
        voxels = super().finish(coords, example)
        if "measurement" not in example:
            return voxels
        return self.agreed(voxels - self.air, example["measurement"]).clamp_min(0) + self.air

    def agreed(self, voxels: Tensor, found: Measurement) -> Tensor:
        """Bring decoded voxels, air being 0, to agreement with a measurement once more: decoding loses detail."""
        return least_squares(found.operator, found.measured, voxels, self.doubt(found), self.config.consistency)


class Shifted:
    """A latent space between coordinates and voxels whose air is 0."""

    def __init__(self, space: Latent, system: Control) -> None:
        self.space, self.system = space, system

    def encode(self, voxels: Tensor) -> Tensor:
        """Put air where the autoencoder expects it, pad to its patches and encode."""
        return self.space.normalise(self.system.moments({"voxels": voxels + self.system.air})[0])

    def decode(self, coords: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Decode and put air to 0."""
        return self.space.decode(coords, size) - self.system.air
