"""How fast training examples come, beside the training step that they feed: ``python -m benchmarks.data_path``.

For each configuration, on real cases of ../shared/data in a cache of their own, one thread for each process:

- ``example``: median processor milliseconds of ``System.example`` with a key, in one process, pages in memory;
- ``0 workers``, ``2 workers``: examples a second on the clock out of the trainer's own workers, while nothing trains;
- ``prepared``: processor milliseconds for each of them with 2 workers, joining to a batch included; clocks suffer from
  other work on the machine, these hardly do;
- ``patch``: MB of an example's voxels as stored; ``read``: MB that come from the disk for the first example of a case
  whose pages were evicted, without read-ahead (the kernel's count for this process); ``file``: MB of the whole case;
- ``step``: seconds of a training step. Measured: on this CPU, one thread. Assumed: three times the forward FLOPs,
  counted on the meta device, at 100 TFLOP/s, about a tenth of the dense bf16 peak that NVIDIA states for an H100;
- ``ahead``: how many times faster two workers with a core each make examples than the step uses them, by processor
  time; below 1 they hold it up;
- ``waiting``: where the step is measured, the share of a training run's time spent waiting for two workers.

Writes benchmarks/results/data_path.json; ``--name before`` puts a run of other code beside the present one.
"""

import argparse
import json
import mmap
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gen3d.cli import keep_freed_memory
from gen3d.core.config import build
from gen3d.core.system import System
from gen3d.core.training import Trainer
from gen3d.core.volume import Prepared
from gen3d.data import cache
from gen3d.systems import system_class
from gen3d.tools.train import Experiment, make_system, read_experiment
from gen3d.tools.training_cases import real_cases, stored

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "data_path.json"
ASSUMED_FLOPS = 100e12
CASES, WARM = 4, 8
CONFIGS = {  # batches that are loaded, and training steps that are measured where a CPU can take them
    "completion_brain_small": (160, 30),
    "completion_brats": (32, 0),
    "cwdm_brats": (32, 0),
    "wdm_brats128": (40, 0),
    "wdm_hippocampus": (1000, 60),
}


def cases_of(experiment: Experiment, folder: Path) -> list[Prepared]:
    """Prepare the first cases of the configuration's first source into a cache of its own."""
    kind = system_class(experiment.system)
    system: System = kind(build(kind.Config, experiment.model, "model"))
    data = replace(experiment.data, cache=str(folder))
    return [stored(study, data, system) for study in real_cases(data.sources[0], data)[:CASES]]


def read_from_disk(system: System, case: Prepared) -> float:
    """Return the MB that the first example of a case takes from the disk, page by page."""
    path = Path(case.voxels.filename)  # type: ignore[attr-defined]
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    fresh = cache.load_case(path.parent)
    fresh.voxels._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    before = disk_bytes()
    system.example(fresh, "0/0/0")
    return (disk_bytes() - before) / 1e6


def disk_bytes() -> int:
    """Return what the kernel has read from disks for this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def seconds_per_example(system: System, cases: Sequence[Prepared]) -> float:
    """Return the median processor time over keys, after a first look at each case."""
    taken = []
    for i in range(WARM + 24):
        begin = time.process_time()
        system.example(cases[i % len(cases)], f"0/{i}/0")
        taken.append(time.process_time() - begin)
    return float(np.median(taken[WARM:]))


def loaded(
    experiment: Experiment, system: System, cases: Sequence[Prepared], batches: int, workers: int
) -> tuple[float, float]:
    """Return examples a second out of the trainer's workers, and processor seconds of each."""
    steps = -(-batches // experiment.train.accumulate)
    spent = time.process_time()
    with tempfile.TemporaryDirectory() as run:
        trainer = Trainer(system, cases, replace(experiment.train, steps=steps, workers=workers), Path(run))
        arrived = [time.perf_counter() for step in trainer.batches() for _ in step]
    count, rate = len(arrived), (len(arrived) - WARM) / (arrived[-1] - arrived[WARM - 1])
    items = count * experiment.train.batch
    return rate * experiment.train.batch, (time.process_time() - spent) / items


def trained(experiment: Experiment, system: System, cases: Sequence[Prepared], steps: int) -> tuple[float, float]:
    """Train with two workers; return the seconds of a step alone and the share of time spent waiting for examples."""
    config = replace(experiment.train, steps=steps + WARM, workers=2, checkpoint_every=10**6, log_every=10**6)
    waits, begins = [], []
    with tempfile.TemporaryDirectory() as run:
        trainer = Trainer(system, cases, config, Path(run))
        plain = trainer.batches

        def timed() -> Iterator[Any]:
            begins.append(time.perf_counter())
            for step in plain():
                waits.append(time.perf_counter() - begins[-1])
                yield step
                begins.append(time.perf_counter())

        trainer.batches = timed  # type: ignore[method-assign]
        list(trainer.train())
    total, waited = begins[-2] - begins[WARM - 1], sum(waits[WARM:-1])
    return (total - waited) / (len(begins) - 1 - WARM), waited / total


def assumed_step(experiment: Experiment, cases: Sequence[Prepared]) -> float:
    """Return the seconds of a step on the assumed GPU."""
    kind = system_class(experiment.system)
    with torch.device("meta"):
        system: Any = kind(build(kind.Config, experiment.model, "model"))
    config = system.config
    grid = system.space.shape(getattr(config, "patch", cases[0].voxels.shape[1:]))
    x = torch.empty(1, config.network.in_channels, *grid, device="meta")
    present = {"present": torch.ones(1, config.network.present, device="meta")} if config.network.present else {}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        system.network(x, torch.zeros(1, device="meta"), **present)
    return 3 * counter.get_total_flops() * experiment.train.batch * experiment.train.accumulate / ASSUMED_FLOPS


def row(name: str, folder: Path) -> dict[str, float | str | None]:
    """Measure one configuration."""
    batches, steps = CONFIGS[name]
    experiment = read_experiment(ROOT / "configs" / f"{name}.yaml")
    cases = cases_of(experiment, folder / name)
    system = make_system(experiment, cases)
    file = Path(cases[0].voxels.filename).stat().st_size  # type: ignore[attr-defined]
    read = read_from_disk(system, cases[0])
    patch = system.example(cases[0], "0/0/0")["voxels"]
    alone, (rate, spent) = (loaded(experiment, system, cases, batches, n) for n in (0, 2))
    step, waiting = trained(experiment, system, cases, steps) if steps else (assumed_step(experiment, cases), None)
    items = experiment.train.batch * experiment.train.accumulate
    return {
        "example_ms": round(1000 * seconds_per_example(system, cases), 2),
        "per_s_0_workers": round(alone[0], 1),
        "per_s_2_workers": round(rate, 1),
        "prepared_ms": round(1000 * spent, 2),
        "patch_mb": round(patch.numel() * cases[0].voxels.itemsize / 1e6, 2),
        "read_mb": round(read, 2),
        "file_mb": round(file / 1e6, 2),
        "examples_a_step": items,
        "step_s": round(step, 4),
        "step_is": "measured" if steps else "assumed",
        "ahead": round(2 / spent * step / items, 2),
        "waiting": None if waiting is None else round(waiting, 4),
    }


def main() -> None:
    """Measure every configuration, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="after")
    parser.add_argument("--commit", default="", help="of the code, by default that of the checkout")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command line does
    commit = (
        options.commit
        or subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    begin, rows = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in CONFIGS:
            rows[name] = row(name, Path(folder))
            if name == next(iter(CONFIGS)):
                print(f"{'':22s}", " ".join(f"{column:>15s}" for column in rows[name]))
            print(f"{name:22s}", " ".join(f"{cell!s:>15s}" for cell in rows[name].values()), flush=True)
    cpu = next((li.split(": ")[1] for li in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in li), "")
    machine = {"cores": os.cpu_count(), "processor": cpu, "torch": torch.__version__, "numpy": np.__version__}
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results[options.name] = {
        "commit": commit,
        "machine": machine,
        "threads_a_process": 1,
        "seconds": round(time.monotonic() - begin),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
