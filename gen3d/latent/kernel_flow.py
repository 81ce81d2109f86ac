"""Ours: the ratio of two kernels, then a straight flow in wavelets for what no filter can do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gen3d.core.parameterization import Flow, Parameterization
from gen3d.core.randomness import derive
from gen3d.core.system import Example, Sampling
from gen3d.core.volume import Prepared, Triple
from gen3d.latent.diffusionct import MEASURED, DiffusionCT, DiffusionCTConfig, Start
from gen3d.latent.kernel_pairs import UNIT_HU, USUAL_MM
from gen3d.latent.kernel_spectrum import content, recognised
from gen3d.latent.kernels import convert, kernel, nearest_kernel
from gen3d.nn.unet import UNetConfig
from gen3d.spaces.wavelet import Wavelet


@dataclass(frozen=True)
class KernelFlowConfig(DiffusionCTConfig):
    """Configuration of our own way; the defaults fit into 2 MB.

    Attributes:
        prefilter: Whether the walk begins at the filtered source instead of the source.
    """

    architecture: Literal["unet", "compact"] = "compact"
    network: UNetConfig = UNetConfig(
        in_channels=32,
        out_channels=16,
        width=32,
        multipliers=(1, 2),
        blocks=2,
        groups=8,
        present=3,
        vector=3,
        classes=1,
    )
    starts: tuple[Start, ...] = ("flow",)
    patch: Triple = (64, 64, 1)
    parameterization: Parameterization = Flow()
    sampling: Sampling = Sampling(sampler="euler", steps=1, grid="flow")
    prefilter: bool = True

    @property
    def coordinate_channels(self) -> int:
        """16 subbands of a slice, 64 of a volume."""
        return Wavelet(2).channels(1, self.patch)


class KernelFlow(DiffusionCT):
    r"""Two kernels of one scan differ by a filter, but for what was cut off at -1024 HU and folded back by the pixels.

    The filter is the ratio of their MTFs, less where noise has folded back, without weights; from its answer a flow
    leads to the target, told the source as it was given. Coordinates are standardised subbands, exact there and back;
    errors are taken in voxels.
    """

    name = "kernel-flow"
    Config = KernelFlowConfig
    components: ClassVar[tuple[str, ...]] = ("network", "space")
    config: KernelFlowConfig

    def make_space(self) -> nn.Module:
        """Build what diffuses: standardised subbands."""
        return Wavelet(2, "statistics")

    def measure(self, cases: Sequence[Prepared]) -> "KernelFlow":
        """Set mean and deviation of each subband from simulated images."""
        images = (self.drawn(cases[i % len(cases)], derive("measure", i))["target"][None] for i in range(MEASURED))
        self.space.measure(images)
        return self

    def prefiltered(self, example: Example) -> Tensor:
        """Return the source filtered (``convert``), in voxels; a kernel that isn't told is read off the image's noise.

        ``found`` in the example is one that was read off the whole volume.
        """
        made = []
        for image, told, label in zip(example["source"], example["vector"].cpu(), example["label"], strict=True):
            spacing = (USUAL_MM * float(told[0].exp()),) * 2
            hu = image[0].cpu() * UNIT_HU
            found = example.get("found")
            own = nearest_kernel(float(told[1])) if told[2] > 0 else found or recognised(hu, spacing)
            target = kernel(self.config.simulation.targets[int(label)])
            made.append(convert(hu, spacing, own, target, *content(hu, spacing, own)) / UNIT_HU)
        return torch.stack(made)[:, None].to(example["source"].device)

    def origin(self, example: Example) -> Tensor:
        """Return the coordinates of the filtered source."""
        source = self.prefiltered(example) if self.config.prefilter else example["source"]
        coords: Tensor = self.space.encode(source)
        return coords

    def visible(self, difference: Tensor) -> Tensor:
        """Return differences of coordinates in voxels."""
        voxels: Tensor = self.space.decode(difference) - self.space.decode(torch.zeros_like(difference))
        return voxels
