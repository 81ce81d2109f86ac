"""Latents on disk: mean and deviation of every case, made once for each state of an autoencoder, never as samples."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gen3d.core.error import UserError
from gen3d.core.volume import Prepared
from gen3d.data.atomic import appearing

Moments = tuple[Tensor, Tensor]


class MomentFiles(Sequence[Moments]):
    """Mean and standard deviation of each case's latent, (C, c, x, y, z) float32 each, read when they are asked for.

    The batch axis runs over the case's contrasts. As an iterable it is what ``Latent.measure`` takes.

    Attributes:
        paths: One file for each case, in the order of the cases.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Moments]:
        return (read_moments(path) for path in self.paths)

    @overload
    def __getitem__(self, index: int) -> Moments: ...
    @overload
    def __getitem__(self, index: slice) -> "MomentFiles": ...
    def __getitem__(self, index: int | slice) -> "Moments | MomentFiles":
        if isinstance(index, slice):
            return MomentFiles(self.paths[index])
        return read_moments(self.paths[index])


def cached_moments(autoencoder: Any, cases: Sequence[Prepared], folder: Path) -> MomentFiles:
    """Return the moments of every case, encoded now where the folder lacks them.

    A file belongs to the autoencoder's weights, by their SHA-256, and to a case, by its name and voxels: where either
    changes it is made anew. Stored are float16 means and deviations; a deviation of zero everywhere takes no space.

    Args:
        autoencoder: Has ``moments``, or is a system whose ``network`` has; it encodes on its own device.
        cases: Prepared for it; different cases have different names.
        folder: Of the cache.

    Raises:
        UserError: Two cases have one name, a latent does not fit float16, or the disk refuses.
    """
    network: nn.Module = getattr(autoencoder, "network", autoencoder) if not _encodes(autoencoder) else autoencoder
    weights = weights_digest(network)
    names = [case.name for case in cases]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{folder}: two cases are called {twice[0]}; expected different names; rename one")
    paths = []
    for case in cases:
        place = hashlib.sha256(case.name.encode()).hexdigest()[:16]
        path = Path(folder) / weights[:16] / f"{place}.safetensors"
        mark = {"weights": weights, "case": case.name, "voxels": voxels_digest(case)}
        if stored_mark(path) != mark:
            store_moments(path, *encode(network, case), mark)
        paths.append(path)
    return MomentFiles(paths)


@torch.no_grad()
def encode(network: Any, case: Prepared) -> Moments:
    """Return mean and deviation of a whole case, each contrast by itself, in eval mode, (C, c, x, y, z) on the CPU."""
    parameter = next(network.parameters())
    voxels = torch.from_numpy(np.array(case.voxels, dtype=np.float32))[:, None].to(parameter.device)
    trains = network.training
    mean, deviation = network.eval().moments(voxels)
    network.train(trains)
    return mean.cpu(), deviation.cpu()


def store_moments(path: Path, mean: Tensor, deviation: Tensor, mark: dict[str, str]) -> None:
    """Write one file, whole or not at all.

    Raises:
        UserError: A latent does not fit float16, or the disk refuses.
    """
    tensors = {"mean": mean.half().contiguous()}
    if deviation.any():
        tensors["deviation"] = deviation.half().contiguous()
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(f"{mark['case']}: its latent is not finite in float16; the autoencoder is damaged or diverged")
    with appearing(path) as temporary:
        save_file(tensors, temporary, metadata={"mark": json.dumps(mark)})


def read_moments(path: Path) -> Moments:
    """Read one file.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            mean = stored.get_tensor("mean").float()
            deviation = stored.get_tensor("deviation").float() if "deviation" in stored.keys() else None  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable ({error}); delete it, and it is made anew") from None
    return mean, torch.zeros_like(mean) if deviation is None else deviation


def stored_mark(path: Path) -> dict[str, str] | None:
    """Return what a file belongs to, None where there is none or it is damaged."""
    try:
        with safe_open(path, framework="pt") as stored:
            mark: dict[str, str] = json.loads((stored.metadata() or {}).get("mark", "null"))
            return mark
    except (OSError, SafetensorError, ValueError):
        return None


def weights_digest(network: nn.Module) -> str:
    """Return one SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def voxels_digest(case: Prepared) -> str:
    """Return one SHA-256 over a case's voxels."""
    voxels = np.ascontiguousarray(case.voxels)
    return hashlib.sha256(f"{voxels.dtype} {voxels.shape}".encode() + voxels.tobytes()).hexdigest()


def _encodes(module: Any) -> bool:
    return callable(getattr(module, "moments", None))
