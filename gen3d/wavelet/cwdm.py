"""cWDM: one missing contrast from all the others, by diffusion in wavelet space (Friedrich et al. 2024).

https://arxiv.org/abs/2411.17203
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError, nearest
from gen3d.core.parameterization import X0, Betas, Parameterization
from gen3d.core.randomness import Key, normal
from gen3d.core.system import Example, Objective, Sampling, System
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.core.wrap import Denoise, clipped
from gen3d.data.intensity import Intensity
from gen3d.data.prepare import prepare
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.spaces.wavelet import Wavelet, WaveletConfig
from gen3d.wavelet.wdm import coordinate_loss

BACKGROUND = 1e-6  # darker than this on the scale 0..1 is outside the brain


@dataclass(frozen=True)
class CWDMConfig:
    """Configuration of a cWDM; the defaults are the published model.

    Attributes:
        contrasts: What a complete study has, in the order of the condition's channels.
        targets: The contrasts that there is a network for.
        axes: Axis codes of the arrays; BraTS files are "LPS".
        intensity: How each contrast's grey scale is found.
        size: Voxels that every volume is cropped to from both sides, or padded to at its end, (X, Y, Z).
        space: The coordinates that diffuse.
        network: The shape of each U-Net; its input is the noisy target, then the other contrasts.
        parameterization: The four coefficients and where sigma is drawn.
        sampling: How contrasts are drawn unless asked otherwise.
    """

    contrasts: tuple[str, ...] = ("t1n", "t1c", "t2w", "t2f")
    targets: tuple[str, ...] = ("t1n",)
    axes: str = "LPS"
    intensity: Intensity = Intensity()
    size: Triple = (224, 224, 160)
    space: WaveletConfig = WaveletConfig()
    network: UNetConfig = UNetConfig(in_channels=32, out_channels=8, skips="concat")
    parameterization: Parameterization = X0(Betas())
    sampling: Sampling = Sampling(sampler="ancestral_large", steps=1000, grid="ddpm")

    def __post_init__(self) -> None:
        for target in self.targets:
            if target not in self.contrasts:
                raise ValueError(f"targets: '{target}' is none of the contrasts{nearest(target, self.contrasts)}")
        bands = Wavelet(self.space.levels).channels(1, self.size)
        if (self.network.in_channels, self.network.out_channels) != (bands * len(self.contrasts), bands):
            raise ValueError(f"network: expected in_channels {bands * len(self.contrasts)} and out_channels {bands}")


class CWDM(System):
    """The missing contrast of a study, by the network that was trained for it; the others are its condition.

    The loss is the squared error of x0, each subband with the same weight, sigma drawn uniformly over the chain.
    """

    name = "cwdm"
    Config = CWDMConfig
    components = ("networks", "space")
    preparation = ("contrasts", "axes", "intensity", "size")
    config: CWDMConfig

    def __init__(self, config: CWDMConfig) -> None:
        super().__init__(config)
        self.networks = nn.ModuleDict({target: UNet(config.network) for target in config.targets})
        self.space = Wavelet(config.space.levels, config.space.scale)
        self.denoisers = nn.ModuleDict(
            {target: Denoiser(network, config.parameterization) for target, network in self.networks.items()}
        )

    @property
    def training_size(self) -> Triple:
        """The whole volume."""
        return self.config.size

    @property
    def network(self) -> nn.Module:
        """The bare network, where there is only one.

        Raises:
            UserError: There are several.
        """
        if len(self.networks) != 1:
            raise UserError(f"this model has networks for {', '.join(self.networks)}: ask for .networks[target]")
        return next(iter(self.networks.values()))

    def denoiser(self, target: str) -> Denoiser:
        """Return the denoiser of one target."""
        return cast(Denoiser, self.denoisers[target])

    def prepare(self, case: Case) -> Prepared:
        """Put each contrast on its scale; crop 240x240x155 to 224x224 and pad it to 160 at the end."""
        config = self.config
        return prepare(case, config.contrasts, config.axes, config.intensity, crop=config.size, pad="end")

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return ``voxels`` (1, C, X, Y, Z) and ``present`` (1, C); as published nothing is cropped or augmented.

        For training voxels are as they are stored: a cache's float16 are half the bytes on their way to the device.
        """
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        if key is not None and not prepared.present.all():
            absent = self.config.contrasts[int(np.argmin(prepared.present))]
            raise UserError(f"{prepared.name}: lacks the contrast {absent}; this model learns from complete studies")
        example = {
            "voxels": torch.from_numpy(np.array(prepared.voxels, dtype=np.float32 if key is None else None))[None],
            "present": torch.from_numpy(np.array(prepared.present, dtype=bool))[None],
        }
        return example if key is not None else {**example, "prepared": prepared}

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Check that one contrast is missing, that there is a network for it, and that all others are given."""
        for name in missing:
            if name not in self.networks:
                made = ", ".join(self.networks)
                raise UserError(f"contrast '{name}': this model makes {made}{nearest(name, self.networks)}")
        needed = [name for name in self.config.contrasts if name not in given]
        if len(missing) != 1 or needed != list(missing):
            raise UserError(
                f"this model makes one contrast from all the others of {', '.join(self.config.contrasts)}; "
                f"missing here: {', '.join(sorted({*needed, *missing})) or 'none'}; use a completion model"
            )

    def target(self, present: Tensor | None) -> str:
        """Return the one contrast that ``present`` (B, C) says is missing, the same in every item."""
        if present is None or int((~present[0]).sum()) != 1 or bool((present != present[0]).any()):
            raise ValueError("expected exactly one missing contrast, the same for the whole batch")
        return self.config.contrasts[int((~present[0]).int().argmax())]

    def condition(self, example: Example) -> Condition:
        """Return the coordinates of the contrasts that are there, and which these are."""
        self.target(example["present"])
        return Condition(
            channels=self.space.encode(example["voxels"][:, example["present"][0]]), present=example["present"]
        )

    def objectives(self) -> list[Objective]:
        """One objective for each target's network."""
        return [self.objective(target) for target in self.config.targets]

    def objective(self, target: str) -> Objective:
        """Return what one target's network is trained for."""

        def loss(example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
            return self.loss(target, example, keys)

        return Objective(target, list(self.networks[target].parameters()), loss)

    def loss(self, target: str, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the weighted squared error of x0 in the target's coordinates."""
        channel = self.config.contrasts.index(target)
        x0 = self.space.encode(example["voxels"][:, [channel]])
        others = [c for c in range(len(self.config.contrasts)) if c != channel]
        condition = Condition(channels=self.space.encode(example["voxels"][:, others]))
        return {"mse": coordinate_loss(self.denoiser(target), x0, condition, keys)}

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return noise in the space's shape, one key per item."""
        shape = (self.config.network.out_channels, *self.space.shape(example["voxels"].shape[2:]))
        return sigma * normal(keys, shape).to(example["voxels"].device)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser of the missing contrast, its guess clamped to the grey scale in voxels."""
        denoiser = self.denoiser(self.target(condition.present))
        known = Condition(channels=condition.channels)

        def guess(x: Tensor, sigma: Tensor) -> Tensor:
            return denoiser(x, sigma, known)

        return clipped(guess, self.space, *self.config.intensity.to)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return all contrasts on the model's grey scale, the new one black where the first given one is."""
        voxels, low = example["voxels"], self.config.intensity.to[0]
        channel = self.config.contrasts.index(self.target(example["present"]))
        first = int(example["present"][0].int().argmax())
        made = self.space.decode(coords, voxels.shape[2:]).clamp(*self.config.intensity.to)
        outside = voxels[:, [first]] <= low + BACKGROUND
        return voxels.index_copy(1, torch.tensor([channel], device=voxels.device), made.masked_fill(outside, low))
