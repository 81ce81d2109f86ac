"""Sharded training: two processes that hold half of everything each make the model that one makes, and resume alike."""

from pathlib import Path

import pytest
from safetensors import safe_open
from test_distributed import SMOKE, TORCHRUN, TOY, assert_same, losses, python
from toy_training import STEPS, trainer

from gen3d.core.error import UsageError, UserError
from gen3d.core.sharding import checkpoints


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with one objective, whole, sharded, and begun and ended with different numbers of processes."""
    folder = tmp_path_factory.mktemp("runs")
    python(TOY, folder, "whole:0:alone", "from_one:7:shard")
    python(*TORCHRUN, TOY, folder, "two:0:shard", "from_one:0:shard", "from_two:7:shard")
    python(TOY, folder, "from_two:0:shard")
    return folder


@pytest.mark.parametrize("run", ["two", "from_one", "from_two"])
def test_sharded_is_the_same_training(runs: Path, run: str) -> None:
    assert losses(runs / run)[-1]["step"] == STEPS
    assert_same(runs / run, runs / "whole")


def test_each_process_writes_its_half(runs: Path) -> None:
    """One checkpoint is left, in two files of equal size that hold no parameter whole."""
    (folder,) = checkpoints(runs / "two")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 2
    sizes = []
    for file in files:
        with safe_open(file, "pt") as stored:
            sizes.append(stored.get_slice("guess/exp_avg/0").get_shape())
    assert sizes == [[2, 1, 3, 3, 3]] * 2


def test_what_sharding_refuses(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.shard: toy has several objectives; expected one"):
        trainer(tmp_path, shard=True)
    with pytest.raises(UserError, match="belongs to another configuration"):
        next(trainer(runs / "two", "shard", lr=0.5).train())


def test_the_items_of_a_validation_must_be_shared_equally() -> None:
    """Each use of a sharded network is an exchange, so processes that used it less often would be waited for."""
    options = ["train.batch=2", "train.shard=true", "data.phantoms.count=3", "data.validation=0.45"]
    options += ["train.validate_every=1", "train.validation_items=3", "--device", "cpu", "--dry-run"]
    done = python(*TORCHRUN, "-m", "gen3d.cli", "train", SMOKE, *options, check=False)
    told = [line for line in done.stderr.splitlines() if line.startswith("gen3d: ")]
    assert told == [
        "gen3d: train.validation_items: 3; with train.shard expected a multiple of 2, the number of processes"
    ]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.HuggingFaceStorageWriter.write_data", full)
    with pytest.raises(UserError, match=r"checkpoint-000000003: can't be written \(.*No space left.*untouched$"):
        list(trainer(tmp_path, "shard").train())
    assert not checkpoints(tmp_path)


def test_a_checkpoint_cut_short_is_never_read(runs: Path, tmp_path: Path) -> None:
    """Killed while it writes, a run goes on from the checkpoint before."""
    for report in trainer(tmp_path, "shard").train():
        if report["step"] == 7:
            break
    (tmp_path / ".checkpoint.part").mkdir()
    (tmp_path / ".checkpoint.part" / "facts.json").write_text("{")
    for _ in trainer(tmp_path, "shard").train():
        pass
    assert_same(tmp_path, runs / "whole")
    assert not (tmp_path / ".checkpoint.part").exists()
