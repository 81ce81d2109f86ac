"""Activations of a large volume plane by plane: in memory while there is room, in a temporary file beyond."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor, nn

from gen3d.core.error import UserError


@dataclass
class Room:
    """Bytes of the device's memory that activations may still take."""

    left: int


class Planes:
    """A volume (C, X, Y, Z), X planes of (Y, Z, C).

    Where the room is too little it goes to a temporary file (TMPDIR says where); from a GPU, to the host's memory.
    """

    def __init__(
        self, size: Sequence[int], channels: int, dtype: torch.dtype, device: torch.device, room: Room
    ) -> None:
        self.shape, self.dtype, self.device, self.room = (*size, channels), dtype, device, room
        self.plane = size[1] * size[2] * channels * dtype.itemsize
        self.taken = size[0] * self.plane if size[0] * self.plane <= room.left else 0
        room.left -= self.taken
        self.kept: Tensor | None = None
        self.file: IO[bytes] | None = None
        if self.taken or device.type != "cpu":
            self.kept = torch.empty(self.shape, dtype=dtype, device=device if self.taken else "cpu")
        else:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115

    def read(self, start: int, stop: int) -> Tensor:
        """Return planes ``start`` to ``stop``, (1, C, stop - start, Y, Z), channels last; not to be written into."""
        if self.kept is not None:
            planes = self.kept[start:stop].to(self.device)
        else:
            assert self.file is not None
            planes = torch.empty(stop - start, *self.shape[1:], dtype=self.dtype)
            self.file.seek(start * self.plane)
            self.file.readinto(planes.view(torch.uint8).numpy())  # type: ignore[attr-defined]
        return planes.movedim(-1, 0)[None]

    def write(self, start: int, planes: Tensor) -> None:
        """Keep planes (1, C, n, Y, Z) from ``start`` on."""
        rows = planes[0].movedim(0, -1)
        if self.kept is not None:
            self.kept[start : start + len(rows)] = rows
            return
        assert self.file is not None
        try:
            self.file.seek(start * self.plane)
            self.file.write(rows.to(self.dtype).contiguous().view(torch.uint8).numpy().data)
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: no space for {self.shape[0] * self.plane / 1e9:.1f} GB of intermediate "
                f"results ({error.strerror}); set TMPDIR to a larger disk, or give more memory"
            ) from None

    def close(self) -> None:
        """Give the room, or the file, back."""
        self.room.left += self.taken
        self.taken, self.kept = 0, None
        if self.file is not None:
            self.file.close()


class Sums:
    """Sum and sum of squares of each channel of a volume, gathered slab by slab in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Take the voxels of x (1, C, n, Y, Z) in."""
        for plane in x[0].movedim(0, -1):  # one by one, to stay in a CPU's cache
            rows = plane.flatten(0, -2).float()
            self.count += len(rows)
            self.sums = self.sums + torch.stack([rows.sum(0), rows.square().sum(0)]).double()

    def affine(self, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
        """Return scale and shift of each channel, (C,) each, by which the norm's answer is scale x + shift."""
        assert isinstance(self.sums, Tensor)
        groups = self.sums.unflatten(1, (norm.num_groups, -1)).mean(2, keepdim=True) / self.count
        mean, square = groups
        scale = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt()
        weight, bias = (p.double().unflatten(0, (norm.num_groups, -1)) for p in (norm.weight, norm.bias))
        scale = scale * weight
        return scale.flatten().float(), (bias - mean * scale).flatten().float()
