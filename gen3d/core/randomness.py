"""Randomness by key: every draw is a function of a name such as ``seed/case/sample``, never of hidden state."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

Key = str


def derive(*parts: object) -> Key:
    """Join the parts of a key: ``derive(7, "case", 0) == "7/case/0"``."""
    return "/".join(str(part) for part in parts)


def seed_of(key: Key) -> int:
    """Return the first 8 bytes of SHA-256 of the key as an unsigned integer."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def generator(key: Key) -> torch.Generator:
    """Return a CPU generator seeded by the key, the same on every machine."""
    return torch.Generator().manual_seed(seed_of(key))


def normal(keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
    """Draw standard normal noise on the CPU, (len(keys), *shape): item i depends on ``keys[i]`` alone."""
    return torch.stack([torch.randn(tuple(shape), generator=generator(key)) for key in keys])


def uniform(keys: Sequence[Key], shape: Sequence[int] = ()) -> Tensor:
    """Draw from [0, 1) on the CPU, (len(keys), *shape): item i depends on ``keys[i]`` alone."""
    return torch.stack([torch.rand(tuple(shape), generator=generator(key)) for key in keys])
