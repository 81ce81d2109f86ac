"""Who makes the cases: this process, or workers of Ray, on this machine or many.

The files are the same.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gen3d.core.error import UsageError, UserError, nearest
from gen3d.tools.augment.files import Row
from gen3d.tools.augment.maker import Job, Maker

LIVES = 5  # how often a case is tried again whose worker died
STORE = 100 * 2**20  # bytes of Ray's shared memory; rows are small


@dataclass(frozen=True)
class Crew:
    """Workers that are ready.

    Attributes:
        settings: What the data set depends on, see ``Maker.settings``.
        make: Numbers -> rows, in the order in which cases are finished.
    """

    settings: Mapping[str, Any]
    make: Callable[[Sequence[int]], Iterator[Row]]


@contextmanager
def local(job: Job, workers: int) -> Iterator[Crew]:
    """This process."""
    if workers != 1:
        raise UsageError(
            f"--workers {workers}: the local engine is one process; start parts side by side, --part 1/{workers} ..., "
            "or add --engine ray"
        )
    maker, before = Maker(job), torch.get_num_threads()
    try:
        yield Crew(maker.settings(), lambda numbers: map(maker.make, numbers))
    finally:
        torch.set_num_threads(before)


@contextmanager
def with_ray(job: Job, workers: int) -> Iterator[Crew]:
    """Workers of Ray: of the cluster at RAY_ADDRESS, else of this machine; a dead one's case is made again.

    Raises:
        UserError: Ray is not installed, can't start, or a worker failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray: needs the package ray: pip install 'gen3d[ray]'") from None
    from ray.util import ActorPool

    elsewhere = "RAY_ADDRESS" in os.environ
    here: dict[str, Any] = {} if elsewhere else {"num_cpus": workers * job.threads, "object_store_memory": STORE}
    started = not ray.is_initialized()
    try:
        if started:
            start(ray, here)
        on_gpu = job.wishes.device.startswith("cuda") or (job.wishes.device == "auto" and has_gpu(ray))
        kind = ray.remote(Maker).options(
            num_cpus=job.threads, num_gpus=int(on_gpu), max_restarts=-1, max_task_retries=LIVES
        )
        crew = [kind.remote(job) for _ in range(workers)]
        pool = ActorPool(crew)

        def make(numbers: Sequence[int]) -> Iterator[Row]:
            with told_plainly(ray):
                yield from pool.map_unordered(lambda worker, number: worker.make.remote(number), numbers)

        with told_plainly(ray):
            settings = ray.get(crew[0].settings.remote())
        yield Crew(settings, make)
    finally:
        if started:
            ray.shutdown()


def start(ray: Any, here: Mapping[str, Any]) -> None:
    """Start Ray, or join the cluster at RAY_ADDRESS.

    Raises:
        UserError: It can't: there is no cluster, or an overloaded machine does not start it in time.
    """
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **here)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"--engine ray: Ray can't start ({words}); try again, or start parts, --part 1/2 ...") from None


@contextmanager
def told_plainly(ray: Any) -> Iterator[None]:
    """Raise what a worker raised as it was."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        words = f"a worker died more than {LIVES} times over one case; finished ones are kept; see Ray's logs"
        raise UserError(f"--engine ray: {words}") from None


def has_gpu(ray: Any) -> bool:
    """Tell whether the cluster has GPUs."""
    return ray.cluster_resources().get("GPU", 0) > 0


ENGINES: dict[str, Callable[[Job, int], AbstractContextManager[Crew]]] = {"local": local, "ray": with_ray}


def check_engine(engine: str, workers: int) -> None:
    """Check the name of an engine and the number of workers.

    Raises:
        UsageError: There is no such engine, or no worker.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected one of {', '.join(ENGINES)}{nearest(engine, ENGINES)}")
    if workers < 1:
        raise UsageError(f"--workers {workers}: expected at least 1")
