"""The networks behind the features: MedicalNet's, one of random weights, and those read from a file."""

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

RANDOM_WIDTHS = (16, 32, 64, 128)


def medicalnet_network(depth: int) -> nn.Module:
    """Build MONAI's ResNet in MedicalNet's geometry, without weights: layers 3 and 4 are dilated, not strided."""
    from monai.networks.nets.resnet import ResNet

    block, layers = {10: ("basic", [1, 1, 1, 1]), 50: ("bottleneck", [3, 4, 6, 3])}[depth]
    with torch.device("meta"):
        network = ResNet(
            block,
            layers,
            [64, 128, 256, 512],
            n_input_channels=1,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
    for layer, dilation in ((network.layer3, 2), (network.layer4, 4)):
        for convolution in layer.modules():
            if isinstance(convolution, nn.Conv3d):
                convolution.stride = (1, 1, 1)
                if convolution.kernel_size == (3, 3, 3):
                    convolution.dilation = convolution.padding = (dilation,) * 3
    return network


class RandomNetwork(nn.Module):
    """Four convolutions with weights drawn from a fixed seed; the spatial means of every layer's channels.

    Every filter's weights sum to 0, so that it answers to contrast: with plain filters the mean grey value drowns
    blur and noise.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        self.layers = nn.ModuleList()
        for before, after in zip((1, *RANDOM_WIDTHS), RANDOM_WIDTHS, strict=False):
            layer = nn.utils.skip_init(nn.Conv3d, before, after, 3, stride=1 if before == 1 else 2, padding=1)
            reach = (6 / (27 * before)) ** 0.5  # He et al. (2015): keeps the variance through a ReLU
            for weight, limit in ((layer.weight, reach), (layer.bias, 0.1)):
                drawn = torch.from_numpy(draw.random(weight.shape) * 2 - 1) * limit
                weight.data.copy_(drawn if drawn.ndim == 1 else drawn - drawn.mean((1, 2, 3, 4), keepdim=True))
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        means = []
        for layer in self.layers:
            x = nnf.relu(layer(x))
            means.append(x.mean((2, 3, 4)))
        return torch.cat(means, 1)

    def sha256(self) -> str:
        """Return the SHA-256 of the weights in order, as little-endian float32."""
        parts = [weight.detach().cpu().numpy().astype("<f4").tobytes() for weight in self.parameters()]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def read_script(path: Path) -> nn.Module:
    """Read a TorchScript network, which runs no Python.

    Its loader is deprecated, but torch.export's is unsafe.

    Raises:
        ValueError: The file is no TorchScript.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{path} is not a TorchScript network (torch.jit.save); "
            "other kinds of files may run code when they are read: load them in Python and give the module"
        ) from error


def run(network: nn.Module, images: Tensor) -> Tensor:
    """Let a network compute features, average what is left of space, and check them, -> (B, d) float32."""
    place = next((p.device for p in network.parameters()), images.device)
    try:
        with torch.no_grad(), torch.autocast(place.type, enabled=False):
            found = network(images.to(place, torch.float32))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        told = str(error).strip().splitlines()[-1]
        raise ValueError(f"the feature network cannot take images of {tuple(images.shape[1:])}: {told}") from error
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(images):
        raise ValueError(f"the feature network must return (B, d), got {getattr(found, 'shape', type(found).__name__)}")
    found = found.float().flatten(2).mean(2) if found.ndim > 2 else found.float()
    if not bool(found.isfinite().all()):
        raise ValueError("the feature network returned features that are not finite")
    return found


def width_of(network: nn.Module, trials: Sequence[Tensor]) -> int:
    """Return how many features a network computes: what it says of itself, or what it makes of one of the images.

    Raises:
        ValueError: It does not say, and takes none of them.
    """
    said = getattr(network, "num_features", None)
    if isinstance(said, int):
        return said
    for images in trials:
        with suppress(ValueError):
            return run(network, images).shape[1]
    raise ValueError("cannot tell how many features the network computes: give it an attribute num_features")
