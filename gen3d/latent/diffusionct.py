"""DiffusionCT: CT brought to a standard kernel by diffusion at an autoencoder's bottleneck.

Selim et al. 2023, https://arxiv.org/abs/2301.08815, and 2310.05237. No code was released: what the papers leave open is
settled here and said so. Beside it, under a name of its own, the same idea in wavelets instead of latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.error import UserError, nearest
from gen3d.core.parameterization import Epsilon, Parameterization, broadcast, sent
from gen3d.core.randomness import Key, derive, normal, normal_on, uniform
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.core.wrap import Denoise, Window, tiled
from gen3d.latent.ct import CT
from gen3d.latent.kernel_autoencoder import UNetAutoencoder, UNetAutoencoderConfig
from gen3d.latent.kernel_pairs import UNIT_HU, USUAL_MM, Simulation, told_of
from gen3d.latent.kernels import kernel
from gen3d.latent.plane import planar
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.spaces.latent import Latent

NETWORKS = {"unet": UNet, "compact": CompactUNet}
Start = Literal["noise", "source", "flow"]
STARTS: tuple[Start, ...] = get_args(Start)
MEASURED = 64  # simulated images that a space's statistics are taken from


@dataclass(frozen=True)
class DiffusionCTConfig:
    """Configuration of DiffusionCT's second phase.

    Attributes:
        contrasts: One, "ct".
        axes: Axis codes of the arrays; kernels act in the plane of the first two.
        offset_hu: What is added to the files' voxels to make Hounsfield units: -1024 where they are stored above 0.
        autoencoder: The shape of phase 1's network, whose weights are kept as they are.
        architecture: The U-Net on latents: WDM's, or our compact one.
        network: Its shape: the noisy latent and the source's are its channels, ``present`` 3 says which start it is,
            ``vector`` 3 the spacing and the source's kernel where known, ``classes`` the target kernel.
        plane: Whether its convolutions stay within the slice.
        starts: What is trained, and first what is taken unless asked otherwise. "noise": from noise, the source's
            latent as condition. "source": the source's latent noised to ``t0``, no condition (SDEdit, Meng et al.
            2022). "flow": along straight lines from the source's latent to the target's, source beside.
        t0: Noise level that "source" starts from, in deviations of the coordinates: 0.05 of CT's are some 15 HU. More
            takes the kernel further from the source's, and detail with it.
        at_source: Share of the items of "flow" that lie at the source itself, where its walk begins.
        change: What the network's output is multiplied by for "flow". Its target there, the way between two kernels, is
            some 0.05 of the coordinates under the parameterization Flow; left at 1, what the other starts teach the
            same network drowns it.
        patch: Voxels of a training patch, (X, Y, Z); Z = 1 is 2D, as in the paper.
        windows: Voxels that are denoised at a time.
        simulation: How pairs are drawn.
        parameterization: The four coefficients and where sigma is drawn.
        sampling: How images are drawn unless asked otherwise.
    """

    contrasts: tuple[str, ...] = ("ct",)
    axes: str = "LPS"
    offset_hu: float = 0.0
    autoencoder: UNetAutoencoderConfig = UNetAutoencoderConfig()
    architecture: Literal["unet", "compact"] = "unet"
    network: UNetConfig = UNetConfig(
        in_channels=32, out_channels=16, width=64, multipliers=(1, 2, 4), present=3, vector=3, classes=1
    )
    plane: bool = True
    starts: tuple[Start, ...] = ("source",)
    t0: float = 0.05
    at_source: float = 0.5
    change: float = 1.0
    patch: Triple = (128, 128, 1)
    windows: Triple = (512, 512, 64)
    simulation: Simulation = Simulation()
    parameterization: Parameterization = Epsilon()
    sampling: Sampling = Sampling(sampler="ancestral_large", steps=1000, grid="ddpm")

    def __post_init__(self) -> None:
        if not self.starts or any(start not in STARTS for start in self.starts):
            raise ValueError(f"starts: {', '.join(self.starts) or 'none'}; expected some of {', '.join(STARTS)}")
        if not self.simulation.paired and set(self.starts) != {"source"}:
            raise ValueError("starts: without pairs only 'source' can be trained; set starts to [source]")
        c, told = self.coordinate_channels, (self.network.present, self.network.vector, self.network.classes)
        if (self.network.in_channels, self.network.out_channels) != (2 * c, c):
            raise ValueError(f"network: expected in_channels {2 * c} and out_channels {c}")
        if told != (3, 3, len(self.simulation.targets)):
            raise ValueError(f"network: expected present 3, vector 3 and classes {len(self.simulation.targets)}")
        if self.t0 <= 0:
            raise ValueError(f"t0: {self.t0}; expected a noise level above 0")

    @property
    def coordinate_channels(self) -> int:
        """Channels that diffuse."""
        return self.autoencoder.latent_channels


class DiffusionCT(CT):
    r"""Phase 2: one network maps latents z of any kernel to latents x0 of the standard one; the autoencoder is frozen.

    Noisy coordinates are $x = x_0 + \sigma n$, for the start "flow" with the source's latent in the place of n
    (rectified flow between paired images, Liu et al. 2023): at sigma_max $x / (1 + \sigma)$ is the source, and a walk
    to 0 ends at the standard kernel. The loss is the published one of the parameterization, each item's error in shares
    of the way it has to go, $|n - x_0|^2$, which for Gaussian noise is nearly constant.
    """

    name = "diffusionct"
    Config = DiffusionCTConfig
    components: ClassVar[tuple[str, ...]] = ("network", "autoencoder", "space")
    config: DiffusionCTConfig
    space: Any
    least_hu = 1.5  # a pair that differs by less is not weighted up further

    def __init__(self, config: DiffusionCTConfig) -> None:
        super().__init__(config)
        self.network = NETWORKS[config.architecture](config.network)
        if config.plane:
            planar(self.network)
        self.space = self.make_space()
        self.denoiser = Denoiser(self.network, config.parameterization)

    def make_space(self) -> nn.Module:
        """Build what diffuses: the latents of an autoencoder."""
        self.autoencoder = UNetAutoencoder(self.config.autoencoder)
        return Latent(self.autoencoder)

    def measure(self, cases: Sequence[Prepared]) -> "DiffusionCT":
        """Set the space's statistics from simulated images; the autoencoder's weights must be in place."""
        images = [self.drawn(cases[i % len(cases)], derive("measure", i))["source"][None] for i in range(MEASURED)]
        with torch.no_grad():
            self.space.measure(self.autoencoder.moments(image) for image in images)
        return self

    def drawn(self, case: Prepared, key: Key) -> dict[str, Tensor]:
        """Draw a simulated pair."""
        return self.config.simulation.draw(case, self.config.patch, key)

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return tensors with a batch axis of 1.

        ``source`` (1, 1, X, Y, Z) is what is given, ``vector`` (1, 3) and ``label`` (1,) what is told, ``start`` (1,)
        the index of the start; for training also ``target``.
        """
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        if key is None:
            source = torch.from_numpy(np.array(prepared.voxels, np.float32))
            example = {"source": source, "label": torch.tensor(0), "vector": told_of(prepared.spacing[0], None)}
        else:
            example = self.drawn(prepared, key)
        choice = int(float(uniform([derive(key, "start")])) * len(self.config.starts)) if key is not None else 0
        example["start"] = torch.tensor(STARTS.index(self.config.starts[choice]))
        batch: Example = {name: part[None] for name, part in example.items()}
        return batch if key is not None else {**batch, "prepared": prepared}

    def asked(self, example: Example, to: str, source: str | None = None, start: str | None = None) -> Example:
        """Return a whole image's example with a target kernel, the source's where it is known, and a start.

        Raises:
            UsageError: A kernel is unknown.
            UserError: The model was not trained for the target or the start.
        """
        targets, wanted = self.config.simulation.targets, kernel(to).name
        if wanted not in targets:
            raise UserError(
                f"kernel '{to}': this model makes {', '.join(targets)}{nearest(wanted, targets)}; use another --model"
            )
        begin = start or self.config.starts[0]
        if begin not in self.config.starts:
            hint = nearest(begin, self.config.starts)
            raise UserError(f"start '{begin}': this model was trained for {', '.join(self.config.starts)}{hint}")
        count, device = len(example["source"]), example["source"].device
        spacing = USUAL_MM if (prepared := example.get("prepared")) is None else prepared.spacing[0]
        told = told_of(spacing, kernel(source) if source else None)
        return {
            **example,
            "label": torch.full((count,), targets.index(wanted), device=device),
            "vector": told.to(device).expand(count, -1),
            "start": torch.full((count,), STARTS.index(begin), device=device),
        }

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: this model fills in no contrasts."""
        raise UserError("this model brings CT to a standard kernel: use gen3d standardize, or another --model")

    def condition(self, example: Example) -> Condition:
        """Return the source in coordinates (zeros for the start "source"), which start it is, what is told."""
        with torch.no_grad():
            z = self.space.encode(example["source"])
        start = example["start"].to(z.device)
        beside = (start != STARTS.index("source"))[:, None, None, None, None]
        return Condition(
            channels=torch.where(beside, z, 0.0),
            present=torch.nn.functional.one_hot(start, len(STARTS)).bool(),
            vector=example["vector"],
            label=example["label"],
        )

    def origin(self, example: Example) -> Tensor:
        """Return the coordinates that a walk from the source begins at: the source's own."""
        return self.space.encode(example["source"])

    def objectives(self) -> list[Objective]:
        """One objective: the network; the autoencoder is listed nowhere and so stays as it is."""
        return [Objective("diffusionct", list(self.network.parameters()), self.loss)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the weighted error, for each start apart."""
        with torch.no_grad():
            x0, z = self.space.encode(example["target"]), self.origin(example)
            condition = self.condition(example)
        levels, device = self.config.parameterization.levels, x0.device
        sigma = sent(levels.draw(uniform([derive(key, "sigma") for key in keys])), device)
        first = sent(uniform([derive(key, "first") for key in keys]) < self.config.at_source, device)
        flow = example["start"] == STARTS.index("flow")
        sigma = torch.where(flow & first, levels.sigma_max, sigma)
        noise = normal_on(device, [derive(key, "noise") for key in keys], x0.shape[1:])
        n = torch.where(flow[:, None, None, None, None], z, noise)
        x = x0 + broadcast(sigma.float(), x0) * n
        guess = self.guess(x, sigma, condition)
        way = self.visible(n - x0).square().flatten(1).mean(1).clamp_min((self.least_hu / UNIT_HU) ** 2)
        weight = sent(self.config.parameterization.weight(sigma), device)
        item = weight * self.visible(guess - x0).square().flatten(1).mean(1) / way
        start = example["start"]
        return {s: torch.where(start == STARTS.index(s), item, 0.0).mean() for s in self.config.starts}

    def guess(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the denoiser's estimate of x0, the network's part of it scaled by ``change`` for the start "flow"."""
        made: Tensor = self.denoiser(x, sigma, condition)
        assert condition.present is not None
        skip = broadcast(self.config.parameterization.coefficients(sigma).c_skip, x) * x
        flow = condition.present[:, STARTS.index("flow"), None, None, None, None]
        return torch.where(flow, torch.lerp(skip, made, self.config.change), made)

    def visible(self, difference: Tensor) -> Tensor:
        """Return differences of coordinates in the units that the loss compares: here as they are."""
        return difference

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return initial coordinates by the start: noise, the source's plus noise, or the source's times sigma."""
        z = self.origin(example)
        noise = sigma * normal(keys, z.shape[1:]).to(z.device)
        kind = example["start"].to(z.device)[:, None, None, None, None]
        from_source = torch.where(kind == STARTS.index("source"), z + noise, sigma * z)
        return torch.where(kind == STARTS.index("noise"), noise, from_source)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return the denoiser by windows."""

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            return self.guess(x, sigma, condition.window(where))

        windows = [max(1, n // int(self.space.stride)) for n in self.config.windows]
        return tiled(inside, windows)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the standardised image on the model's scale, within what CT stores, (B, 1, X, Y, Z)."""
        source = example["source"]
        image = self.space.decode(coords, source.shape[2:])
        return image.clamp(*self.window("ct"))
