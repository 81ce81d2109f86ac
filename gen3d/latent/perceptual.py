"""Perceptual losses from given weights: LPIPS of random slices of each axis (Zhang et al. 2018), or features in 3D."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.checkpoint import load_state
from gen3d.core.error import UserError
from gen3d.core.randomness import Key, derive, uniform
from gen3d.metrics.feature_networks import medicalnet_network
from gen3d.metrics.weights import load_state as load_weights
from gen3d.metrics.weights import read_state

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0 halves the size
COMPARED = (1, 4, 8, 12, 16)  # of these, whose answers LPIPS compares


@dataclass(frozen=True)
class PerceptualConfig:
    """Where the weights of the perceptual loss are; nothing is downloaded.

    Attributes:
        weight: Of the loss; 0 for none.
        vgg: VGG-16 as torchvision stores it, ``vgg16-397923af.pth`` or its features alone.
        lpips: The linear layers of LPIPS, ``vgg.pth`` of its authors; without them all channels count alike.
        share: Of the slices along each axis that are looked at.
        medicalnet: MedicalNet's ``resnet_10_23dataset.pth``, which looks at volumes, instead of ``vgg``.
    """

    weight: float = 0.0
    vgg: str = ""
    lpips: str = ""
    share: float = 0.2
    medicalnet: str = ""

    def __post_init__(self) -> None:
        if self.weight and bool(self.vgg) == bool(self.medicalnet):
            raise ValueError(
                "perceptual: expected vgg, a file with the weights of VGG-16, or medicalnet, one of them; or weight 0"
            )


def build_perceptual(config: PerceptualConfig) -> "TriPlane | Volumetric":
    """Build the loss whose weights are named."""
    return Volumetric(Path(config.medicalnet)) if config.medicalnet else TriPlane(config)


class TriPlane(nn.Module):
    r"""$\sum_{planes} E_{slices} \sum_l w_l \| \hat f_l(a) - \hat f_l(b) \|^2$, features of unit length per pixel.

    It is no part of a saved model and never trained.

    Raises:
        UserError: A file of weights is damaged or of another network.
    """

    def __init__(self, config: PerceptualConfig) -> None:
        super().__init__()
        self.share = config.share
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.features = nn.ModuleList()
        before = 3
        for width in WIDTHS:
            self.features.append(nn.Conv2d(before, width, 3, padding=1) if width else nn.MaxPool2d(2))
            before = width or before
        self.linear = nn.ParameterList([torch.full((WIDTHS[i],), 1.0) for i in COMPARED])
        self._read(Path(config.vgg), Path(config.lpips) if config.lpips else None)
        self.requires_grad_(False).eval()

    shift: Tensor
    scale: Tensor

    def forward(self, one: Tensor, other: Tensor, keys: Sequence[Key]) -> Tensor:
        """Compare volumes (B, 1, X, Y, Z) on [-1, 1]; which slices is a function of the first key."""
        terms = []
        for axis in (2, 3, 4):
            count = max(1, int(self.share * one.shape[axis]))
            order = uniform([derive(keys[0], "slices", axis)], [one.shape[axis]])[0].argsort()[:count].to(one.device)
            pairs = [v.index_select(axis, order).movedim(axis, 1).flatten(0, 1) for v in (one, other)]
            terms.append(self.distance(*pairs))
        return torch.stack(terms).sum()

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the mean LPIPS of slices (N, 1, H, W)."""
        x = ((torch.cat([one, other]).float().expand(-1, 3, -1, -1)) - self.shift) / self.scale
        found = []
        for place, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d) and min(x.shape[-2:]) < 2:
                break  # slices of a small patch reach no deeper
            x = nnf.relu(layer(x)) if isinstance(layer, nn.Conv2d) else layer(x)
            if place in COMPARED:
                a, b = nnf.normalize(x, dim=1, eps=1e-10).chunk(2)
                weight = self.linear[COMPARED.index(place)].view(1, -1, 1, 1)
                found.append(((a - b).square() * weight).sum(1).mean())
        return torch.stack(found).sum()

    def _read(self, vgg: Path, lpips: Path | None) -> None:
        state = load_state(vgg)
        kept = [layer for layer in self.features if isinstance(layer, nn.Conv2d)]
        names = sorted({int(k.split(".")[-2]) for k in state if k.startswith("features.") or k.split(".")[0].isdigit()})
        prefix = "features." if any(k.startswith("features.") for k in state) else ""
        if len(names) != len(kept):
            raise UserError(f"{vgg}: expected the {len(kept)} convolutions of VGG-16, found {len(names)}")
        try:
            for layer, name in zip(kept, names, strict=True):
                layer.weight.data.copy_(state[f"{prefix}{name}.weight"])
                layer.bias.data.copy_(state[f"{prefix}{name}.bias"])  # type: ignore[union-attr]
            if lpips:
                linear = load_state(lpips)
                for level, weight in enumerate(self.linear):
                    weight.data.copy_(linear[f"lin{level}.model.1.weight"].flatten())
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{lpips or vgg}: not the weights that were expected ({error})") from None


class Volumetric(nn.Module):
    r"""$mean_{voxels} \| \hat f(a) - \hat f(b) \|^2$, the last features of MedicalNet's ResNet-10 at unit length.

    Each volume is brought to mean 0 and deviation 1 first, as MedicalNet was trained (Chen et al. 2019,
    https://arxiv.org/abs/1904.00625). It is no part of a saved model and never trained.

    Raises:
        UserError: The file of weights is missing, damaged or of another network.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        network = medicalnet_network(10)
        try:
            state = {k: v for k, v in read_state(weights).items() if not k.startswith("conv_seg.")}
            load_weights(network, state, what=f"MedicalNet's ResNet-10 in {weights}")
        except (ValueError, OSError) as error:
            raise UserError(f"perceptual.medicalnet: {error}") from None
        parts = dict(network.named_children())
        names = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
        self.features = nn.Sequential(*(parts[name] for name in names))
        self.requires_grad_(False).eval()

    def forward(self, one: Tensor, other: Tensor, keys: Sequence[Key]) -> Tensor:
        """Compare volumes (B, 1, X, Y, Z) on any grey scale; ``keys`` draw nothing."""
        x = torch.cat([one, other]).float()
        mean, deviation = x.mean((1, 2, 3, 4), keepdim=True), x.std((1, 2, 3, 4), keepdim=True)
        a, b = nnf.normalize(self.features((x - mean) / (deviation + 1e-6)), dim=1, eps=1e-10).chunk(2)
        return (a - b).square().sum(1).mean()
