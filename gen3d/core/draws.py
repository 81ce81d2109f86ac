"""Items of a run: from which case each is drawn, and how it reaches the device."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor

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


class Draws:
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
    return {name: torch.cat([e[name] for e in examples]) for name in names}, list(keys)


def prepared(
    draws: Draws, batches: Iterable[Sequence[int]], workers: int, *, pin: bool, ahead: int = 4
) -> Iterator[Batch]:
    """Yield the batches, given by their items' indices, each worker up to ``ahead`` of them in advance.

    Workers are threads: an example is mostly copied voxels, for which Python need not be held, and what a process makes
    would have to be copied once more to come here, which takes several times as long as making it.

    Args:
        draws: Makes the items.
        batches: Indices of each batch's items.
        workers: Threads; 0 makes each batch when it is asked for.
        pin: Whether to make them where a GPU fetches them by itself.
        ahead: How many batches wait for each worker.
    """

    def made(items: Sequence[int]) -> Batch:
        example, keys = collate([draws[index] for index in items])
        return ({name: part.pin_memory() for name, part in example.items()} if pin else example), keys

    if not workers:
        yield from map(made, batches)
        return
    pool = ThreadPoolExecutor(workers)
    coming: deque[Future[Batch]] = deque()
    try:
        for items in batches:
            coming.append(pool.submit(made, items))
            if len(coming) > workers * ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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
