"""A plain U-Net that segments by one call, in the same trainer: what models that draw masks are compared with."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.denoiser import Denoiser
from gen3d.core.parameterization import X0, Parameterization
from gen3d.core.randomness import Key, derive, seed_of
from gen3d.core.system import Example, Objective, Sampling
from gen3d.core.wrap import Denoise, Window, tiled
from gen3d.nn.compact_unet import CompactUNet
from gen3d.nn.unet import UNet, UNetConfig
from gen3d.segmentation.cases import Segmentation, SegmentationConfig
from gen3d.segmentation.latents import Folded, shared_by

NETWORKS = {"unet": UNet, "compact": CompactUNet}


@dataclass(frozen=True)
class PlainConfig(SegmentationConfig):
    """Configuration of a plain segmenter.

    Attributes:
        target: What is learnt of several raters' masks: that of a random one each time, or the label of most of them.
        dice: Weight of the soft Dice loss beside the cross-entropy.
        architecture: WDM's U-Net or our compact one.
        fold: Voxels along each axis of a cell whose voxels are the network's channels; 1 for none. 2 is about eight
            times faster.
        network: Its shape: given the image, and zeros in the place of the state that a diffusion model has, of
            ``fold**3`` voxels each. With ``dropout`` it stays on in sampling, so that samples differ (Gal & Ghahramani
            2016).
        parameterization: Without effect.
        sampling: Without effect: one call is the answer.
    """

    target: Literal["rater", "majority"] = "rater"
    dice: float = 1.0
    architecture: Literal["unet", "compact"] = "compact"
    fold: int = 1
    network: UNetConfig = UNetConfig(
        in_channels=3, out_channels=2, width=16, multipliers=(1, 2, 3, 4), blocks=1, groups=4
    )
    parameterization: Parameterization = X0()
    sampling: Sampling = Sampling("euler", 1, "ddpm")

    def __post_init__(self) -> None:
        classes = 1 + len(self.labels)
        cell = math.prod(self.fold if n > 1 else 1 for n in self.patch)
        wanted = cell * (classes + len(self.contrasts)), cell * classes
        if (self.network.in_channels, self.network.out_channels) != wanted:
            raise ValueError(
                f"network: expected in_channels {wanted[0]}, classes and images of {cell} voxels, and out_channels "
                f"{wanted[1]}"
            )


class Plain(Segmentation):
    """Cross-entropy and soft Dice; coordinates are probabilities, (B, classes, X, Y, Z), whatever the walk."""

    name = "segmenter"
    Config = PlainConfig
    config: PlainConfig

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        network = NETWORKS[config.architecture](config.network)
        self.network = network if config.fold == 1 else Folded(network, config.fold)
        self.denoiser = Denoiser(self.network, config.parameterization)

    def condition(self, example: Example) -> Condition:
        """Return the image."""
        return Condition(channels=example["image"].float())

    def scores(self, image: Tensor) -> Tensor:
        """Return the logarithms of the classes' odds, (B, C, X, Y, Z) -> (B, classes, X, Y, Z)."""
        state = image.new_zeros(len(image), self.classes, *image.shape[2:])
        return self.denoiser(state, torch.zeros(()), Condition(channels=image))

    def objectives(self) -> list[Objective]:
        """One objective: the network."""
        return [Objective("segmenter", self.network.parameters(), self.loss)]

    def loss(self, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return the mean cross-entropy and the weighted soft Dice loss."""
        labels = example["labels"] if self.config.target == "rater" else majority(example["masks"], example["drew"])
        with dropping(self.network, derive(keys[0], "dropout"), self.training):
            scores = self.scores(example["image"].float())
        terms = {"entropy": nnf.cross_entropy(scores, labels)}
        if self.config.dice:
            terms["dice"] = self.config.dice * dice_loss(scores.softmax(1), labels)
        return terms

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return zeros: there is nothing to walk from."""
        image = example["image"]
        return image.new_zeros(len(keys), self.classes, *image.shape[2:], dtype=torch.float32)

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return what answers with the probabilities; with dropout each key drops its own part of the network."""
        told, drops = shared_by(condition, len(keys)), self.config.network.dropout > 0

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            image = told.window(where).channels
            assert image is not None
            if not drops:
                return self.scores(image).softmax(1)
            answers = []
            for item, key in enumerate(keys):
                with dropping(self.network, derive(key, "dropout"), True):
                    answers.append(self.scores(image[item : item + 1]).softmax(1))
            return torch.cat(answers)

        return tiled(inside, self.config.windows)

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return the probabilities."""
        return coords

    @torch.no_grad()
    def expected(self, example: Example) -> Tensor:
        """Return the probabilities by one call of the whole network, nothing dropped, (B, classes, X, Y, Z)."""
        told = self.condition(example)

        def inside(x: Tensor, sigma: Tensor, where: Window) -> Tensor:
            image = told.window(where).channels
            assert image is not None
            return self.scores(image).softmax(1)

        image = example["image"]
        return tiled(inside, self.config.windows)(self.start(example, [""] * len(image), 0.0), torch.zeros(()))


@contextmanager
def dropping(network: nn.Module, key: Key, yes: bool) -> Iterator[None]:
    """Turn dropout on, what is dropped being a function of the key, or off; as it was thereafter."""
    layers = [part for part in network.modules() if isinstance(part, nn.Dropout) and part.p > 0]
    if not layers:
        yield
        return
    before = [layer.training for layer in layers]
    devices = {p.device.index for p in network.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=[d for d in devices if d is not None]):
        torch.manual_seed(seed_of(key))
        try:
            for layer in layers:
                layer.train(yes)
            yield
        finally:
            for layer, was in zip(layers, before, strict=True):
                layer.train(was)


def majority(masks: Tensor, drew: Tensor) -> Tensor:
    """Return the label that most of the raters who drew gave a voxel, the lower one of several.

    Args:
        masks: (B, R, X, Y, Z) int64.
        drew: (B, R) bool.

    Returns:
        (B, X, Y, Z) int64.
    """
    classes = int(masks.max()) + 1
    votes = (nnf.one_hot(masks, classes) * drew[:, :, None, None, None, None]).sum(1)
    most = votes == votes.amax(-1, keepdim=True)
    return most.int().argmax(-1)  # argmax of a 0-1 tensor: the first of equals


def dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""Return $1 - mean_k \frac{2 \sum p_k y_k + 1}{\sum p_k + \sum y_k + 1}$ over the structures k.

    Sums go over voxels and items, so that a patch without a structure does little harm (Isensee et al. 2021).

    Args:
        probabilities: (B, classes, X, Y, Z); class 0, the rest, is left out.
        labels: (B, X, Y, Z) int64.
    """
    truth = nnf.one_hot(labels, probabilities.shape[1]).movedim(-1, 1)[:, 1:].to(probabilities)
    guess = probabilities[:, 1:]
    axes = (0, 2, 3, 4)
    return 1 - ((2 * (guess * truth).sum(axes) + 1) / (guess.sum(axes) + truth.sum(axes) + 1)).mean()
