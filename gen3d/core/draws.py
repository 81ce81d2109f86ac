"""Items of a run: from which case each is drawn, and how it reaches the device."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from gen3d.core.error import UserError
from gen3d.core.randomness import Key, derive, uniform
from gen3d.core.system import Example, System
from gen3d.core.volume import Prepared

Batch = tuple[Example, list[Key]]  # tensors with a batch axis, and the key of each item


def training_key(seed: int, items: int, index: int) -> Key:
    """Return ``seed/step/item`` of an item counted over the whole run, ``items`` to a step."""
    return derive(seed, *divmod(index, items))


def validation_key(seed: int, index: int) -> Key:
    """Return ``seed/validation/index``: the same items at every validation."""
    return derive(seed, "validation", index)


class Draws(Dataset[tuple[Example, Key]]):
    """Item i as an example, a function of its key alone: any process, worker or resumed run draws the same.

    Args:
        system: Turns a case into an example.
        cases: Where items are drawn from.
        weights: How often each case is drawn, relative to the others.
        key: Names item i.
    """

    def __init__(
        self, system: System, cases: Sequence[Prepared], weights: Sequence[float], key: Callable[[int], Key]
    ) -> None:
        self.system, self.cases, self.key = system, cases, key
        self.edges = list(accumulate(weights))

    def __getitem__(self, index: int) -> tuple[Example, Key]:
        key = self.key(index)
        place = float(uniform([derive(key, "case")])) * self.edges[-1]
        case = self.cases[min(sum(place >= edge for edge in self.edges), len(self.cases) - 1)]
        return self.system.example(case, key), key


def collate(items: Sequence[tuple[Example, Key]]) -> Batch:
    """Join examples along their batch axis, tensors only."""
    examples, keys = zip(*items, strict=True)
    if len(examples) == 1:
        return {name: part for name, part in examples[0].items() if isinstance(part, Tensor)}, list(keys)
    names = [name for name, part in examples[0].items() if isinstance(part, Tensor)]
    # stacked by PyTorch, which in a worker writes straight into shared memory
    return {name: default_collate([e[name] for e in examples]).flatten(0, 1) for name in names}, list(keys)


def loader(draws: Draws, batches: Iterable[Sequence[int]], workers: int, *, pin: bool) -> DataLoader[Any]:
    """Return what prepares the batches, given by their items' indices, in ``workers`` processes ahead of their use."""
    return DataLoader(
        draws,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        generator=torch.Generator(),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def prepared(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield the batches; a user's error inside a worker stays one line."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def moved(batch: Batch, device: torch.device) -> Batch:
    """Start the copy of a batch to the device."""
    example, keys = batch
    return {name: part.to(device, non_blocking=True) for name, part in example.items()}, keys


def moved_ahead(steps: Iterable[list[Batch]], device: torch.device) -> Iterator[list[Batch]]:
    """Yield the batches of each step on the device; on a GPU the next step's are copied while this one computes."""
    if device.type != "cuda":
        yield from ([moved(batch, device) for batch in step] for step in steps)
        return
    copies, work = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    waiting: tuple[list[Batch], torch.cuda.Event] | None = None
    for step in steps:
        with torch.cuda.stream(copies):
            coming = [moved(batch, device) for batch in step], copies.record_event()
        if waiting:
            yield _arrived(*waiting, work)
        waiting = coming
    if waiting:
        yield _arrived(*waiting, work)


def _arrived(step: list[Batch], copied: torch.cuda.Event, work: torch.cuda.Stream) -> list[Batch]:
    work.wait_event(copied)
    for example, _ in step:
        for part in example.values():
            part.record_stream(work)  # else the copying stream could reuse the memory too early
    return step
