"""The same configuration trains the same model in one process and in two; one failure ends both with one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from toy_training import Toy, cases, trainer

from gen3d.core.draws import Draws
from gen3d.core.error import UsageError, UserError
from gen3d.core.training import CHECKPOINT, LOG, MODEL, TrainConfig, Trainer

ROOT = Path(__file__).parents[2]
TOY = str(Path(__file__).with_name("toy_training.py"))
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
SMOKE = str(ROOT / "configs" / "smoke_completion.yaml")


def python(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Python, each process on one thread."""
    command, environment = [sys.executable, *map(str, arguments)], {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun then ends those that it started
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    assert done.returncode == 0 or not check, done.stderr
    return done


def losses(run: Path) -> list[dict[str, float]]:
    """Read a log without what the clock says."""
    lines = map(json.loads, (run / LOG).read_text().splitlines())
    return [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]


def assert_same(run: Path, other: Path) -> None:
    """Compare two runs: every loss to 1e-5, parameters and their averages to 1e-5."""
    assert len(losses(run)) == len(losses(other)) > 0
    for line, expected in zip(losses(run), losses(other), strict=True):
        assert line == pytest.approx(expected, rel=0, abs=1e-5)
    files = [sorted((folder / MODEL).rglob("*.safetensors")) for folder in (run, other)]
    assert len(files[0]) == len(files[1]) > 0
    for file, expected_file in zip(*files, strict=True):
        weights, expected_weights = load_file(file), load_file(expected_file)
        weights.pop("seen", None)  # counts what each process saw
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected_weights[name], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of two objectives trained in one process, in two, and begun in one and ended in two and the reverse."""
    folder = tmp_path_factory.mktemp("runs")
    python(TOY, folder, "one:0", "from_one:7")
    python(*TORCHRUN, TOY, folder, "buffers:0", "from_one:0", "from_two:7")
    python(TOY, folder, "from_two:0")
    return folder


@pytest.mark.parametrize("run", ["buffers", "from_one", "from_two"])
def test_the_number_of_processes_changes_nothing(runs: Path, run: str) -> None:
    """With accumulation, clipping, averaging, weight decay, validation, and an objective due every other step."""
    assert torch.load(runs / run / CHECKPOINT, weights_only=True)["step"] == len(losses(runs / "one"))
    assert_same(runs / run, runs / "one")


def test_clipping_and_both_objectives_were_at_work(runs: Path) -> None:
    """Guards the guard: without them the runs would be equal for the wrong reason."""
    unclipped = trainer(runs / "unclipped", clip=None)
    for _ in unclipped.train():
        pass
    first, last = losses(runs / "one")[0], losses(runs / "one")[-1]
    assert losses(runs / "unclipped")[-1] != pytest.approx(last, rel=0, abs=1e-4)
    assert not any(name.startswith("judge/") for name in first)
    assert {"judge/told", "judge/slope", "validation/guess/error", "validation/judge/slope"} <= last.keys()


def test_the_command_line_under_torchrun(tmp_path: Path) -> None:
    """Processes that train a shipped configuration print once, write one folder, and make the model that one makes."""
    options = [f"data.cache={tmp_path / 'cache'}", "train.steps=3", "train.batch=3", "train.accumulate=2"]
    options += ["train.precision=fp32", "train.workers=1", "data.validation=0.9", "train.validate_every=2"]
    options += ["data.phantoms.count=4", "train.validation_items=3"]
    command = ["-m", "gen3d.cli", "train", SMOKE, *options, "--device", "cpu", "-o"]
    both = python(*TORCHRUN, *command, tmp_path / "both")
    one = python(*command, tmp_path / "one")
    assert both.stdout.count("\n") == one.stdout.count("\n") == 5
    assert "on 2 x cpu" in both.stdout
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    assert_same(tmp_path / "both", tmp_path / "one")
    assert [line["step"] for line in losses(tmp_path / "one")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("infinite", "training: guess/error is not finite at step 3"),  # on the second process only
        ("one", "c0: broken on the second process"),
        ("unused", "training: the loss of objective 'judge' leaves some of its parameters out"),
    ],
)
def test_a_failure_ends_all_processes_with_one_line(failure: str, words: str, tmp_path: Path) -> None:
    done = python(*TORCHRUN, TOY, tmp_path, f"run:0:{failure}", check=False)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("toy: ")]
    assert len(told) == 1
    assert words in told[0]
    assert "trained" not in done.stdout


def test_items_that_cannot_be_shared_are_told_once() -> None:
    options = ["train.batch=3", "--device", "cpu", "--dry-run"]
    done = python(*TORCHRUN, "-m", "gen3d.cli", "train", SMOKE, *options, check=False)
    told = [line for line in done.stderr.splitlines() if line.startswith("gen3d: ")]
    assert len(told) == 1
    assert "3 items a step can't be shared equally by 2 processes; choose a multiple of 2" in told[0]


class NoReading(TorchDispatchMode):
    """Refuses to bring a tensor's value to Python, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default, "a step reads a tensor's value"
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_value_from_the_device(tmp_path: Path) -> None:
    training = trainer(tmp_path)
    batches = [next(training.batches()), next(training.batches())]
    with NoReading():
        for step in batches:
            sums = training.update(step)
            training.step += 1
    with pytest.raises(AssertionError, match="reads"), NoReading():
        float(sums["guess/error"])


def test_workers_change_nothing_and_their_errors_stay_one_line(tmp_path: Path) -> None:
    reports = [list(trainer(tmp_path / str(workers), steps=3, workers=workers).train()) for workers in (0, 2)]
    for line, expected in zip(
        *([{k: v for k, v in r.items() if "/" in k} for r in run] for run in reports), strict=True
    ):
        assert line == expected

    class Broken(Toy):
        def example(self, case, key=None):  # type: ignore[no-untyped-def]
            raise UserError(f"{case.name}: broken: see there")

    with pytest.raises(UserError, match=r"^c\d: broken: see there$"):
        next(Trainer(Broken(), cases(1), TrainConfig(steps=1, workers=1), tmp_path / "broken").train())


def test_each_process_prepares_its_own_items_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two pretended processes prepare, between them, exactly the items of one."""
    asked: list[str] = []
    example = Draws.__getitem__
    monkeypatch.setattr(Draws, "__getitem__", lambda self, i: (asked.append(self.key(i)), example(self, i))[1])
    list(trainer(tmp_path / "one", steps=2).batches())
    whole, asked[:] = list(asked), []
    for module in ("training", "distributed"):
        monkeypatch.setattr(f"gen3d.core.{module}.world_size", lambda: 2)
    monkeypatch.setattr("gen3d.core.distributed.DistributedDataParallel", lambda loss, **options: loss)
    parts = []
    for number in (0, 1):
        monkeypatch.setattr("gen3d.core.training.rank", lambda number=number: number)
        list(trainer(tmp_path / "part", steps=2).batches())
        parts, asked[:] = [*parts, list(asked)], []
    assert len(parts[0]) == len(parts[1])
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    with pytest.raises(UsageError, match="3 items a step can't be shared equally by 2"):
        trainer(tmp_path / "odd", batch=3, accumulate=1)
