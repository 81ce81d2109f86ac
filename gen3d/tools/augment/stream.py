"""Synthetic pairs while another network trains: a torch dataset that draws them ahead, and a dictionary transform."""

import multiprocessing
import queue
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from gen3d.core.error import UsageError, UserError
from gen3d.core.randomness import derive, seed_of
from gen3d.tools.augment.files import MANIFEST, grey, read_lines, settings_of
from gen3d.tools.augment.layouts import image_paths, label_path
from gen3d.tools.augment.maker import Job, Maker
from gen3d.tools.augment.pair import Wishes

Sample = dict[str, Any]
WAIT = 1.0  # seconds between looks at whether the process that draws still lives
BARREN = 100  # cases given up one after the other before the model is


class SyntheticPairs(IterableDataset[Sample]):
    """An endless mixture of real samples and synthetic ones, which a process of its own draws ahead.

    A sample is a dictionary: ``image`` (C, X, Y, Z) float32, 0 to 1000 over the model's window, ``label``
    (1, X, Y, Z) int64, ``synthetic`` bool; a real one is what ``real`` returns, ``synthetic`` added. What comes is a
    function of the seed alone. In a DataLoader's worker the worker itself draws, its share of the numbers.

    Args:
        model: A folder, shipped name or hub id of a model of pairs.
        real: A dataset of dictionaries, or none.
        ratio: Share of synthetic samples, 0 to 1.
        seed: Of the mixture and of what is drawn.
        wishes: How pairs are drawn.
        attempts: Draws of a case that the gates may refuse before the next one is taken.
        ahead: How many pairs wait at most.
        transform: Applied to every sample, real and synthetic.

    Raises:
        UserError: The ratio is none, or asks for real samples where there are none.
    """

    def __init__(
        self,
        model: str | Path,
        real: Sequence[Mapping[str, Any]] | Any = None,
        ratio: float = 1.0,
        *,
        seed: int = 0,
        wishes: Wishes | None = None,
        attempts: int = 5,
        ahead: int = 8,
        transform: Callable[[Sample], Any] | None = None,
    ) -> None:
        if not 0 <= ratio <= 1:
            raise UsageError(f"ratio {ratio}: expected a share from 0 to 1")
        if ratio < 1 and not (real is not None and len(real)):
            raise UserError(f"ratio {ratio}: asks for real samples, and there are none; give real=, or ratio 1")
        self.job = Job(str(model), Path(), 0, wishes=wishes or Wishes(), seed=seed, attempts=attempts)
        self.real, self.ratio, self.ahead, self.transform = real, ratio, ahead, transform

    def __iter__(self) -> Iterator[Any]:
        """Yield samples without end."""
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        drawn = pairs(self.job, first + 1, step) if worker else ahead(self.job, self.ahead)
        for place in count(first, step):
            rng = np.random.default_rng(seed_of(derive(self.job.seed, "mixture", place)))
            if rng.random() < self.ratio:
                sample = next(drawn)
            else:
                sample = {**self.real[int(rng.integers(len(self.real)))], "synthetic": False}
            yield self.transform(sample) if self.transform else sample


def pairs(job: Job, first: int, step: int) -> Iterator[Sample]:
    """Yield the accepted pairs with numbers ``first``, ``first + step``, ...

    Raises:
        UserError: The gates refuse all that the model draws.
    """
    maker, barren = Maker(job), 0
    for number in count(first, step):
        found, rejected = maker.accepted(number)
        barren = 0 if found else barren + 1
        if barren == BARREN:
            raise UserError(f"{job.model}: {BARREN} cases were given up on end, the last as {rejected[-1]}")
        if found:
            system = maker.drawing.system
            images = grey(found[0].images, system.window(system.config.contrasts[0])).astype(np.float32)
            labels = torch.from_numpy(found[0].labels.astype(np.int64))[None]
            yield {"image": torch.from_numpy(images), "label": labels, "synthetic": True}


def ahead(job: Job, waiting: int) -> Iterator[Sample]:
    """Yield accepted pairs from a process that draws them, which ends with the iteration.

    Raises:
        UserError: What it failed of, or that it died.
    """
    context = multiprocessing.get_context("spawn")
    line: Any = context.Queue(waiting)
    process = context.Process(target=feed, args=(job, line), daemon=True)
    process.start()
    try:
        while True:
            try:
                item = line.get(timeout=WAIT)
            except queue.Empty:
                if process.is_alive():
                    continue
                raise UserError(f"{job.model}: the process that draws died (exit {process.exitcode})") from None
            if isinstance(item, str):
                raise UserError(item)
            image, label = (torch.from_numpy(part) for part in item)
            yield {"image": image, "label": label, "synthetic": True}
    finally:
        process.terminate()
        process.join()


def feed(job: Job, line: Any) -> None:
    """Put accepted pairs into a line, or what went wrong."""
    try:
        for sample in pairs(job, 1, 1):
            line.put((sample["image"].numpy(), sample["label"].numpy()))
    except UserError as error:
        line.put(str(error))


class MixSyntheticd:
    """A dictionary transform, as MONAI has them, that exchanges some real cases for those of a finished data set.

    It stands before what loads files: the values of ``keys`` become paths, of several channels a list. Which samples
    and cases are chosen follows the seed, the number of calls, and in a DataLoader its worker's seed.

    Args:
        folder: That ``gen3d augment`` has finished.
        ratio: Share of samples that are exchanged.
        keys: Of the image and of the mask.
        seed: Of the choice.

    Raises:
        UserError: The folder is no finished data set, or nothing in it was accepted.
    """

    def __init__(
        self, folder: str | Path, ratio: float, keys: tuple[Hashable, Hashable] = ("image", "label"), seed: int = 0
    ) -> None:
        if not 0 <= ratio <= 1:
            raise UsageError(f"ratio {ratio}: expected a share from 0 to 1")
        home = Path(folder)
        run = settings_of(home)
        if not (home / MANIFEST).is_file():
            raise UserError(f"{home / MANIFEST}: not there; finish its parts, then gen3d augment --merge -o {home}")
        rows = read_lines([home / MANIFEST]).values()
        cases = [row["case"] for row in rows if row["status"] == "accepted"]
        if not cases:
            raise UserError(f"{home}: no case in it was accepted; its report.md says why")
        images = [[str(home / p) for p in image_paths(run["layout"], c, run["contrasts"])] for c in cases]
        masks = [str(home / label_path(run["layout"], case)) for case in cases]
        self.cases = [(image if len(image) > 1 else image[0], mask) for image, mask in zip(images, masks, strict=True)]
        self.ratio, self.keys, self.seed, self.calls = ratio, keys, seed, 0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample, or one that is synthetic in its place; ``synthetic`` says which."""
        worker = get_worker_info()
        self.calls += 1
        key = derive(self.seed, worker.seed if worker else "main", self.calls)
        rng = np.random.default_rng(seed_of(key))
        if rng.random() >= self.ratio:
            return {**data, "synthetic": False}
        chosen = self.cases[int(rng.integers(len(self.cases)))]
        return {**data, **dict(zip(self.keys, chosen, strict=True)), "synthetic": True}
