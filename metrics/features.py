"""Features of volumes: the vectors between which generation is measured, and the networks that compute them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .feature_networks import RANDOM_WIDTHS, RandomNetwork, medicalnet_network, read_script, run, width_of
from .radiomics import feature_names, radiomic_features
from .weights import FLAG, find_weights, load_state, read_state, sha256_of

Place = str | torch.device
SMALLEST = 8  # voxels: what the networks below shrink to one
BLANK = 0.05  # of the window: a slice without a brighter voxel shows nothing
PLANES = {"yz": 2, "xz": 3, "xy": 4}  # and the axis of (B, C, X, Y, Z) across them
SLICES_AT_ONCE = 64


class Features(Protocol):
    """What turns volumes into feature vectors.

    Attributes:
        name: What it was opened by.
        key: Under which a Frechet distance of these features is reported: "fid_..." for trained networks of a paper's
            FID, "fd_..." for everything else.
        dim: d, the length of a vector.
        weights_sha256: Of the file of weights; None where there is none.
        preprocessing: What happens to the voxels, in words.
        is_network: Whether a network computes them.
    """

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def weights_sha256(self) -> str | None: ...
    @property
    def preprocessing(self) -> str: ...
    @property
    def is_network(self) -> bool: ...

    def __call__(self, voxels: Tensor) -> Tensor:
        """Compute the features of volumes in [0, 1], (B, 1, X, Y, Z) -> (B, d) float32.

        Raises:
            ValueError: Another shape, voxels that are not finite, or volumes too small for the network.
        """


def open_features(
    name: str, *, weights: Path | None = None, device: Place = "cpu", module: nn.Module | None = None
) -> Features:
    """Open one of the kinds of features.

    - "radiomic": ``radiomic_features`` of the whole volume, 39 of them; no network, no file.
    - "medicalnet10", "medicalnet50": the ResNet of MedicalNet, as in WDM's FID; 512 and 2048 features.
    - "slices": a 2D network over the slices of the three planes (2.5D).
    - "random3d": a 3D network with fixed random weights, which needs no file; 240 features.
    - "module": any network from (B, 1, X, Y, Z) to (B, d) or (B, d, x, y, z).

    Args:
        name: See above.
        weights: A file, or the folder that holds it (see ``find_weights``). For "slices" and "module" a network saved
            by TorchScript, which loads without running Python. torch.export's files are refused, since reading one may
            unpickle and evaluate what is in it; load such a one yourself and give ``module``.
        device: Where the network runs.
        module: The network for "slices" and "module". It is put into eval mode.

    Raises:
        FileNotFoundError: No file of weights was found. One line: the file, the flag, the variable.
        ValueError: An unknown name, or a file or network that does not fit.

    References:
        Chen et al. (2019), Med3D, https://arxiv.org/abs/1904.00625; Friedrich et al. (2024), WDM,
        https://arxiv.org/abs/2402.19043; 2.5D: Guo et al. (2024), MAISI, https://arxiv.org/abs/2409.11169.
    """
    if name in ("slices", "module"):
        return open_network(name, weights, device, module)
    if module is not None:
        raise ValueError(f"{name!r} brings its own network: give a module to 'slices' or 'module'")
    if name not in OPENERS:
        raise ValueError(f"unknown features {name!r}: choose one of {', '.join([*OPENERS, 'slices', 'module'])}")
    return OPENERS[name](weights, device)


def check_volumes(voxels: Tensor, smallest: int = 1) -> None:
    """Refuse what no features can be computed of."""
    if voxels.ndim != 5 or voxels.shape[1] != 1:
        raise ValueError(f"features need volumes (B, 1, X, Y, Z), got {tuple(voxels.shape)}")
    if any(side < smallest for side in voxels.shape[2:] if side != 1) or max(voxels.shape[2:]) < smallest:
        raise ValueError(f"the network needs sides of at least {smallest} voxels, got {tuple(voxels.shape[2:])}")
    if not bool(voxels.isfinite().all()):
        raise ValueError("the volumes have voxels that are not finite")


@dataclass(frozen=True)
class RadiomicFeatures:
    """The radiomic features of whole volumes; see ``radiomic_features``."""

    name: str = "radiomic"
    key: str = "fd_radiomic"
    dim: int = len(feature_names())
    weights_sha256: str | None = None
    preprocessing: str = "whole volume in [0, 1]; 32 grey levels over [0, 1]; first order and co-occurrence"
    is_network: bool = False

    def __call__(self, voxels: Tensor) -> Tensor:
        """See ``Features``."""
        check_volumes(voxels)
        rows = [list(radiomic_features(volume[0]).values()) for volume in voxels]
        return torch.tensor(rows, dtype=torch.float32).view(-1, self.dim)


@dataclass(frozen=True)
class NetworkFeatures:
    """The features that a network computes, in float32 and eval mode; maps are averaged over space."""

    name: str
    key: str
    dim: int
    preprocessing: str
    network: nn.Module
    weights_sha256: str | None = None
    smallest: int = 1
    is_network: bool = True

    def __call__(self, voxels: Tensor) -> Tensor:
        """See ``Features``."""
        check_volumes(voxels, self.smallest)
        return run(self.network, voxels)


@dataclass(frozen=True)
class SliceFeatures:
    """The features of a 2D network, averaged over the slices of each plane that show something, then over the planes.

    A slice shows something where a voxel exceeds 5% of the window; if none does, all slices count. A volume of one
    slice has one plane.
    """

    name: str
    key: str
    dim: int
    preprocessing: str
    network: nn.Module
    channels: int
    weights_sha256: str | None = None
    is_network: bool = True

    def __call__(self, voxels: Tensor) -> Tensor:
        """See ``Features``."""
        return torch.stack(list(self.per_plane(voxels).values())).mean(0)

    def per_plane(self, voxels: Tensor) -> dict[str, Tensor]:
        """Compute the features of each plane: "yz", "xz" and "xy", those whose slices are more than a line, (B, d)."""
        check_volumes(voxels)
        flat = [axis for axis in PLANES.values() if voxels.shape[axis] == 1]
        planes = {plane: axis for plane, axis in PLANES.items() if not set(flat) - {axis}}
        if not planes:
            raise ValueError(f"slices need two axes of more than one voxel, got {tuple(voxels.shape[2:])}")
        return {
            plane: torch.stack([self.of_slices(volume[0].movedim(axis - 2, 0)) for volume in voxels])
            for plane, axis in planes.items()
        }

    def of_slices(self, slices: Tensor) -> Tensor:
        """Average over the slices of one volume, (n, H, W) -> (d,)."""
        shown = slices.amax((1, 2)) > BLANK
        slices = slices[shown] if bool(shown.any()) else slices
        batches = slices[:, None].expand(-1, self.channels, -1, -1).split(SLICES_AT_ONCE)
        return torch.cat([run(self.network, batch) for batch in batches]).mean(0)


def medicalnet(depth: int, weights: Path | None, device: Place) -> NetworkFeatures:
    """Build MedicalNet's ResNet and read the weights that were trained on 23 data sets."""
    name = f"resnet_{depth}_23dataset.pth"
    path = find_weights(name, weights, repositories=[f"TencentMedicalNet/MedicalNet-Resnet{depth}"])
    state = {key: value for key, value in read_state(path).items() if not key.startswith("conv_seg.")}
    network = medicalnet_network(depth)
    load_state(network, state, what=f"MedicalNet's ResNet-{depth} in {path}")
    return NetworkFeatures(
        name=f"medicalnet{depth}",
        key=f"fid_medicalnet{depth}",
        dim=512 if depth == 10 else 2048,
        preprocessing="whole volume in [0, 1] as it is; global average of the last layer",
        network=network.eval().to(device),
        weights_sha256=sha256_of(path),
        smallest=SMALLEST,
    )


def random3d(device: Place) -> NetworkFeatures:
    """Build the network of random weights."""
    network = RandomNetwork().eval()
    return NetworkFeatures(
        name="random3d",
        key="fd_random3d",
        dim=sum(RANDOM_WIDTHS),
        preprocessing="whole volume in [0, 1] as it is; channel means of four random layers, seed 0",
        network=network.to(device),
        weights_sha256=network.sha256(),
        smallest=SMALLEST,
    )


OPENERS: dict[str, Callable[[Path | None, Place], Features]] = {
    "radiomic": lambda weights, device: RadiomicFeatures(),
    "medicalnet10": lambda weights, device: medicalnet(10, weights, device),
    "medicalnet50": lambda weights, device: medicalnet(50, weights, device),
    "random3d": lambda weights, device: random3d(device),
}


def open_network(name: str, weights: Path | None, device: Place, module: nn.Module | None) -> Features:
    """Open features of a network that is given in Python or as a TorchScript file."""
    digest = None
    if module is None:
        path = find_weights(f"{name}.pt", weights)
        module, digest = read_script(path), sha256_of(path)
    elif weights is not None:
        raise ValueError(f"give either a module or a file of weights ({FLAG}), not both")
    network = module.eval().to(device)
    if name == "module":
        return NetworkFeatures(
            name=name,
            key="fd_module",
            dim=width_of(network, [torch.zeros(1, 1, 32, 32, 32)]),
            preprocessing="whole volume in [0, 1] as it is",
            network=network,
            weights_sha256=digest,
        )
    channels = next((p.shape[1] for p in network.parameters() if p.ndim == 4), 3)
    return SliceFeatures(
        name=name,
        key="fd_slices",
        dim=width_of(network, [torch.zeros(1, channels, side, side) for side in (64, 224)]),
        preprocessing=f"slices of three planes in [0, 1], {channels} channels, not blank; mean over slices and planes",
        network=network,
        channels=channels,
        weights_sha256=digest,
    )
