"""Several processes that train one model: torchrun starts them, torch.distributed joins them."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gen3d.core.error import UsageError, UserError
from gen3d.core.randomness import Key
from gen3d.core.system import Example

_store: Any = None  # what the processes share before, and besides, their group


def rank() -> int:
    """Return this process's number, 0 for the only one."""
    return int(os.environ["RANK"]) if _store else 0


def world_size() -> int:
    """Return how many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if _store else 1


def is_main() -> bool:
    """Tell whether this is the first process, the one that writes and prints."""
    return rank() == 0


def total(values: Sequence[float]) -> list[float]:
    """Sum each value over all processes; every process gets the same sums, and waits for them."""
    if world_size() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def barrier() -> None:
    """Wait until every process is here."""
    total([0.0])


def shared(items: int, batch: int) -> tuple[int, int]:
    """Return how many of a step's items each process takes, and of how many, at most ``batch``, a backward pass is.

    Raises:
        UsageError: The items can't be shared equally.
    """
    processes = world_size()
    if items % processes:
        raise UsageError(
            f"train: batch x accumulate = {items} items a step can't be shared equally by {processes} processes; "
            f"choose a multiple of {processes}, or another number of processes"
        )
    share = items // processes
    return share, max(size for size in range(1, batch + 1) if share % size == 0)


class Loss(nn.Module):
    """An objective's loss as a module of its parameters; it has no buffers, so processes exchange gradients only."""

    def __init__(self, parameters: Sequence[nn.Parameter], loss: Callable[[Example, list[Key]], Any]) -> None:
        super().__init__()
        self.trained, self.loss = nn.ParameterList(parameters), loss

    def forward(self, example: Example, keys: list[Key]) -> dict[str, Tensor]:
        """Return the terms."""
        return dict(self.loss(example, keys))


def together(parameters: Sequence[nn.Parameter], loss: Callable[[Example, list[Key]], Any]) -> nn.Module:
    """Return the loss as a module; with several processes, one whose backward pass averages the gradients over them."""
    module = Loss(parameters, loss)
    return DistributedDataParallel(module, gradient_as_bucket_view=True) if world_size() > 1 else module


@contextmanager
def main_first(what: str) -> Iterator[None]:
    """Let the first process do something before the others do it; for hours if need be, so before they ``join``."""
    if _store and not is_main():
        _store.wait([what], timedelta(days=30))
    yield
    if _store and is_main():
        _store.set(what, "done")


@contextmanager
def told_once() -> Iterator[None]:
    """Meet the other processes, if torchrun started any; when something fails, the first to fail raises.

    The others end with SystemExit, silently, so that one line tells what was wrong.
    """
    global _store
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from torch.distributed.rendezvous import rendezvous

    _store, _, _ = next(rendezvous("env://"))
    if not is_main():  # writes nothing, so may be ended even while it waits for the others inside a library
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
        if dist.is_initialized():
            barrier()
            dist.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        if _first():
            raise
        default = 130 if isinstance(error, KeyboardInterrupt) else 1
        raise SystemExit(getattr(error, "exit_code", default)) from None
    finally:
        _store = None


def end_process() -> None:
    """End one of several processes at once, its work being done; does nothing where there is one process.

    PyTorch's threads abort a process now and then while it winds up (2.13: std::terminate), which torchrun takes for a
    failure of all.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def join(device: torch.device) -> None:
    """Make the process group, NCCL on GPUs and Gloo on CPUs; without torchrun there is none."""
    if not _store:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_store, rank=rank(), world_size=world_size())


def own_device(device: torch.device) -> torch.device:
    """Return this process's own device among those of its machine; without torchrun, the one given.

    Raises:
        UsageError: One GPU was asked for by its number, or the device is neither a CPU nor a CUDA GPU.
        UserError: There are fewer GPUs than processes on this machine.
    """
    if not _store or device.type == "cpu":
        return device
    if str(device) != "cuda":
        raise UsageError(
            f"device '{device}': with torchrun each process has a GPU of its own; use --device auto or cpu"
        )
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise UserError(f"torchrun: more processes than GPUs on this machine; use --nproc_per_node={there}")
    return torch.device("cuda", local)


def _first() -> bool:
    try:
        return _store.add("failed", 1) == 1
    except RuntimeError:  # whoever keeps the store has ended before, and has told why
        return False
