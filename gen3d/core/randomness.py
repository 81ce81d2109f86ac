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


def normal_on(device: torch.device, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
    """Draw standard normal noise where it is needed, (len(keys), *shape): item i depends on ``keys[i]`` alone.

    A GPU draws it itself, so that nothing waits: other numbers than the CPU's, the same on GPUs of one kind. For noise
    of training and of a sampler's steps; what a walk starts from is drawn by ``normal``, the same on every machine.
    """
    if device.type != "cuda":
        return normal(keys, shape).to(device)
    draws = [torch.Generator(device).manual_seed(seed_of(key)) for key in keys]
    return torch.stack([torch.randn(tuple(shape), generator=draw, device=device) for draw in draws])


def uniform(keys: Sequence[Key], shape: Sequence[int] = ()) -> Tensor:
    """Draw from [0, 1) on the CPU, (len(keys), *shape): item i depends on ``keys[i]`` alone."""
    return torch.stack([torch.rand(tuple(shape), generator=generator(key)) for key in keys])
