"""Ours: a filter that the image chooses, then a straight flow in wavelets for what no filter can do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gen3d.core.parameterization import Flow, Parameterization
from gen3d.core.randomness import Key, derive
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.volume import Prepared, Triple
from gen3d.latent.diffusionct import MEASURED, DiffusionCT, DiffusionCTConfig, Start
from gen3d.latent.kernel_filter import GainFilter
from gen3d.latent.kernel_pairs import UNIT_HU
from gen3d.latent.kernels import kernel
from gen3d.nn.unet import UNetConfig
from gen3d.spaces.wavelet import Wavelet

LEAST_HU = 1.0  # the filter's error is weighted up no further where a pair differs by less
BORDER = 8  # pixels of a patch that the filter's loss leaves out: it can't see beyond


@dataclass(frozen=True)
class KernelFlowConfig(DiffusionCTConfig):
    """Configuration of our own way; the defaults fit into 2 MB.

    Attributes:
        prefilter: Whether the walk begins at the filtered source instead of the source.
        after: Steps that the filter is trained alone.
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
    after: int = 0

    @property
    def coordinate_channels(self) -> int:
        """16 subbands of a slice, 64 of a volume."""
        return Wavelet(2).channels(1, self.patch)


class KernelFlow(DiffusionCT):
    r"""Two kernels of one scan differ by a filter, but for what was cut off at -1024 HU and folded back by the pixels.

    The filter is predicted from the image's own spectrum; from its answer a flow leads to the target, told the source
    as it was given. Coordinates are standardised subbands, exact there and back; errors are taken in voxels.
    """

    name = "kernel-flow"
    Config = KernelFlowConfig
    components: ClassVar[tuple[str, ...]] = ("network", "filter", "space")
    config: KernelFlowConfig

    def __init__(self, config: KernelFlowConfig) -> None:
        super().__init__(config)
        self.filter = GainFilter([kernel(name) for name in config.simulation.targets])

    def make_space(self) -> nn.Module:
        """Build what diffuses: standardised subbands."""
        return Wavelet(2, "statistics")

    def measure(self, cases: Sequence[Prepared]) -> "KernelFlow":
        """Set mean and deviation of each subband from simulated images."""
        images = (self.drawn(cases[i % len(cases)], derive("measure", i))["target"][None] for i in range(MEASURED))
        self.space.measure(images)
        return self

    def objectives(self) -> list[Objective]:
        """Two: the filter, and the network that goes on from its answer."""
        own = [Objective("filter", list(self.filter.parameters()), self.filter_loss)] if self.config.prefilter else []
        return [*own, *(replace(flow, start=self.config.after) for flow in super().objectives())]

    def filter_loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the filter's squared error in shares of the source's own."""
        cut = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER), slice(None))
        made, target, source = (v[cut] for v in (self.prefiltered(example), example["target"], example["source"]))
        way = (source - target).square().flatten(1).mean(1).clamp_min((LEAST_HU / UNIT_HU) ** 2)
        return {"error": ((made - target).square().flatten(1).mean(1) / way).mean()}

    def prefiltered(self, example: Example) -> Tensor:
        """Return the source after its filter, in voxels."""
        made: Tensor = self.filter(example["source"], example["vector"], example["label"])
        return made

    def origin(self, example: Example) -> Tensor:
        """Return the coordinates of the filtered source."""
        source = self.prefiltered(example) if self.config.prefilter else example["source"]
        coords: Tensor = self.space.encode(source)
        return coords

    def visible(self, difference: Tensor) -> Tensor:
        """Return differences of coordinates in voxels."""
        voxels: Tensor = self.space.decode(difference) - self.space.decode(torch.zeros_like(difference))
        return voxels
