"""Decoding a latent of any size in bounded memory, with the answer of decoding it whole.

After its attention a decoder looks at neighbours only, but for the norms, whose statistics are the whole volume's. So
each level is computed in sweeps along X, one from norm to norm: a sweep reads slabs of planes with one plane more on
either side, convolves, writes, and gathers the statistics that the next sweep needs. Only the enlarging of a level's
input is done more than once (three times), so that the largest activation of all is never kept.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.error import UserError
from gen3d.core.precision import precision_context
from gen3d.latent.halves import Decoder, ResidualBlock
from gen3d.latent.kl_decoder import Block, KLDecoder
from gen3d.latent.planes import Planes, Room, Sums
from gen3d.nn.conv import slow_on_cpu

Statistics = Literal["volume", "tile"]
Read = Callable[[int, int], Tensor]  # planes start to stop along X as (1, C, stop - start, Y, Z)
DEEPEST = 32  # planes of a slab, where memory allows
OVERLAP = 1  # latent voxels by which tiles with statistics of their own overlap on either side


@torch.no_grad()
def decode_bounded(
    decoder: Decoder | KLDecoder,
    quantised: Tensor,
    memory: int,
    statistics: Statistics = "volume",
    edge: int | None = None,
) -> Tensor:
    """Decode a quantised latent (B, c, x, y, z) of any size in bounded memory, one item after the other.

    Args:
        decoder: A decoder whose ``head`` needs the whole latent and whose levels don't.
        quantised: The latent.
        memory: Bytes that may be taken on the decoder's device besides weights and libraries, the answer included.
        statistics: "volume": the norms' statistics are the whole volume's, the answer is that of ``decoder`` up to
            rounding; what does not fit goes to a file. "tile": tiles are decoded by themselves, each with its own
            statistics, and cut at the middle of their overlap; no file, but other numbers and possibly seams.
        edge: Latent voxels along each axis of such a tile; by default as many as fit.

    Raises:
        UserError: Even one slab of one plane, or one tile of one latent voxel, does not fit.
    """
    size = [n * decoder.stride for n in quantised.shape[2:]]
    volume = quantised.new_empty(quantised.shape[0], decoder.out.out_channels, *size, dtype=torch.float32)
    left = memory - volume.nbytes
    with precision_context(quantised.device, decoder.compute_dtype):
        for item, out in zip(quantised.split(1), volume.split(1), strict=True):
            if statistics == "tile":
                _decode_tiles(decoder, item, out, edge or tile_edge(decoder, item.shape[2:], left))
            else:
                _decode_slabs(decoder, item, out, left)
    return volume


def tile_edge(decoder: Decoder | KLDecoder, latent: Sequence[int], memory: int) -> int:
    """Return how many latent voxels along each axis a tile with statistics of its own may have.

    Raises:
        UserError: Not even one.
    """
    inputs, outputs = _channels(decoder)[-1]
    whole = 4 * decoder.channels[0] * math.prod(latent)  # what leaves the head

    def needed(edge: int) -> int:
        return (decoder.stride * (edge + 2 * OVERLAP)) ** 3 * _bytes(inputs, outputs) + whole

    _check(decoder, latent, memory, needed(1), "tile")
    return next(edge for edge in range(max(latent), 0, -1) if needed(edge) <= memory)


def _decode_tiles(decoder: Decoder | KLDecoder, latent: Tensor, volume: Tensor, edge: int) -> None:
    h, stride = decoder.head(latent), decoder.stride
    for corner in product(*(range(0, n, edge) for n in h.shape[2:])):
        inside = [(a, min(a + edge, n)) for a, n in zip(corner, h.shape[2:], strict=True)]
        around = [(max(a - OVERLAP, 0), min(b + OVERLAP, n)) for (a, b), n in zip(inside, h.shape[2:], strict=True)]
        kept = [(a - low, b - low) for (a, b), (low, _) in zip(inside, around, strict=True)]
        volume[_box(inside, stride)] = decoder.tail(h[_box(around, 1)])[_box(kept, stride)]


def _box(bounds: Sequence[tuple[int, int]], stride: int) -> tuple[slice, ...]:
    return (slice(None), slice(None), *(slice(stride * start, stride * stop) for start, stop in bounds))


def _decode_slabs(decoder: Decoder | KLDecoder, latent: Tensor, volume: Tensor, memory: int) -> None:
    size = list(latent.shape[2:])
    shares = [
        size[1] * size[2] * 4**level * _bytes(inputs, outputs)
        for level, (inputs, outputs) in enumerate(_channels(decoder))
    ]
    halo = 4 + 2 * decoder.reach  # planes that a slab takes besides its own, those of the enlarging included
    least = (halo + 1) * max(shares)
    _check(decoder, size, memory, least, "slab of one plane")
    slabs = max(least, memory // 3)
    room = Room(memory - slabs)
    h = decoder.head(latent)
    stored = Planes(size, h.shape[1], h.dtype, h.device, room)
    stored.write(0, h)
    del h
    read: Read = stored.read
    levels: list[Iterable[ResidualBlock | Block]] = list(decoder.levels)
    for number, (blocks, share) in enumerate(zip(levels, shares, strict=True)):
        if number:
            read, size = enlarged(stored, decoder.enlarge[number - 1], decoder.reach), [2 * n for n in size]
        level = Level(size, min(DEEPEST, slabs // share - halo), room, stored.dtype, stored.device)
        sums = level.gather(read)
        for block in blocks:
            stored, sums = level.through(block, read, sums, stored)
            read = stored.read
    last = level.convolved(read, sums, decoder.out_norm, decoder.out, silu=decoder.silu_last)
    for start, stop in level.slabs():
        volume[:, :, start:stop] = last(start, stop)
    stored.close()


@dataclass
class Level:
    """Sweeps through a volume of ``size`` in slabs of ``depth`` planes."""

    size: list[int]
    depth: int
    room: Room
    dtype: torch.dtype
    device: torch.device

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Yield the first plane of each slab and the one behind its last."""
        for start in range(0, self.size[0], self.depth):
            yield start, min(start + self.depth, self.size[0])

    def gather(self, read: Read) -> Sums:
        """Return the sums over a volume."""
        sums = Sums()
        for start, stop in self.slabs():
            sums.add(read(start, stop))
        return sums

    def keep(self, read: Read, where: Planes) -> Sums:
        """Compute a volume, keep it, and return its sums."""
        sums = Sums()
        for start, stop in self.slabs():
            planes = read(start, stop)
            sums.add(planes)
            where.write(start, planes)
        return sums

    def through(self, block: ResidualBlock | Block, read: Read, sums: Sums, stored: Planes) -> tuple[Planes, Sums]:
        """Apply a residual block to what ``read`` gives, which comes from ``stored`` and takes its place."""
        hidden = self.planes(block.conv1)
        hidden_sums = self.keep(self.convolved(read, sums, block.norm1, block.conv1), hidden)
        second = self.convolved(hidden.read, hidden_sums, block.norm2, block.conv2)
        # each slab is read before it is written, and no slab reads another's
        in_place = read == stored.read and isinstance(block.skip, nn.Identity)
        result = stored if in_place else self.planes(block.conv2)
        sums = self.keep(lambda start, stop: second(start, stop) + block.skip(read(start, stop)), result)
        hidden.close()
        if not in_place:
            stored.close()
        return result, sums

    def planes(self, conv: nn.Conv3d) -> Planes:
        """Return room for what a convolution makes of the volume."""
        return Planes(self.size, conv.out_channels, self.dtype, self.device, self.room)

    def convolved(self, read: Read, sums: Sums, norm: nn.GroupNorm, conv: nn.Conv3d, *, silu: bool = True) -> Read:
        """Return how to read the convolution of the normed volume."""
        scale, shift = sums.affine(norm)

        def planes(start: int, stop: int) -> Tensor:
            low, high = max(start - 1, 0), min(stop + 1, self.size[0])
            x = read(low, high)[0].movedim(0, -1)
            y = x.new_zeros(stop - start + 2, *x.shape[1:])
            for plane, normed in zip(x, y[low - start + 1 :], strict=False):  # one by one, to stay in a CPU's cache
                answer = torch.addcmul(shift, plane, scale)
                normed.copy_(nnf.silu(answer, inplace=True) if silu else answer)
            return _convolve(conv, y.movedim(-1, 0)[None])

        return planes


def enlarged(stored: Planes, conv: nn.Module, reach: int) -> Read:
    """Return how to read the enlargement of a stored volume."""
    planes = stored.shape[0]

    def read(start: int, stop: int) -> Tensor:
        low, high = max((start + 1) // 2 - reach, 0), min(stop // 2 + reach, planes)
        return conv(stored.read(low, high))[:, :, start - 2 * low : stop - 2 * low]

    return read


def _convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Convolve planes that bring their neighbours along X with them."""
    if slow_on_cpu(x):
        return torch.mkldnn_convolution(x, conv.weight, conv.bias, (0, 1, 1), (1, 1, 1), (1, 1, 1), 1)
    return nnf.conv3d(x, conv.weight, conv.bias, padding=(0, 1, 1))


def _channels(decoder: Decoder | KLDecoder) -> list[tuple[int, int]]:
    """Channels that enter and leave each level, coarsest first."""
    return list(pairwise([decoder.channels[0], *decoder.channels]))


def _bytes(inputs: int, outputs: int) -> int:
    """Bytes of one voxel of a slab or tile at a level: its input, that normed, and as many outputs, in float32."""
    return 4 * 2 * (inputs + outputs)


def _check(decoder: Decoder | KLDecoder, latent: Sequence[int], memory: int, tile: int, name: str) -> None:
    head = math.prod(latent) * 4 * (4 * decoder.channels[0] + 6 * decoder.inner)
    if memory < (needed := max(tile, head)):
        size = " x ".join(str(n * decoder.stride) for n in latent)
        raise UserError(
            f"decoding {size} voxels: the memory can't hold one {name}; it is short of {(needed - memory) / 1e9:.2g} GB"
            f"{', which the attention over the whole latent needs' if head > tile else ''}; give more memory"
        )
