"""``gen3d augment`` killed at seeded moments, in parts, and with a worker of Ray: nothing is lost or done twice."""

import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from tiny_pairs import contents, write_tiny_pairs

from gen3d.core.error import UserError
from gen3d.tools.augment.augment import augment
from gen3d.tools.augment.merge import merge

COUNT = 5
FINISHED = 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_pairs(tmp_path_factory.mktemp("pairs") / "tiny-pairs")


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("augment") / "set"
    augment(model, COUNT, out)
    return contents(out)


def mortal(model: Path, out: Path, part: tuple[int, int], moment: int) -> None:
    """Augment, and die by SIGKILL at the n-th event: before or after a file moves, before it is synced, at progress."""
    left, move, sync = moment, os.replace, os.fsync

    def event() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(source: Path, target: Path) -> None:
        event()
        move(source, target)
        event()

    def fsync(number: int) -> None:
        event()
        sync(number)

    os.replace, os.fsync = replace, fsync
    augment(model, COUNT, out, part=part, advance=lambda share, words: event())


def survive(model: Path, out: Path, part: tuple[int, int], rng: random.Random) -> int:
    """Start again after every kill until a run ends by itself, and return how many kills there were."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gen3d.tools.augment.augment", "gen3d.wavelet.pairs"])
    kills, kept = 0, {}
    while True:
        process = context.Process(target=mortal, args=(model, out, part, rng.randint(2, 24)))
        process.start()
        process.join()
        done = {p.stem for p in (out / "provenance").glob("*.json")}
        stamps = {p: p.stat().st_mtime_ns for p in out.glob("*Tr/*") if p.name[:12] in done}
        assert kept.items() <= stamps.items(), "a finished case was made again"
        kept = stamps
        if process.exitcode == FINISHED:
            return kills
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        assert kills < 60


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_seeded_moments(model: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    kills = survive(model, tmp_path / "set", (1, 1), random.Random(seed))
    assert kills >= 2
    assert contents(tmp_path / "set") == undisturbed


def test_two_parts_killed(model: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    rng = random.Random(2)
    kills = sum(survive(model, tmp_path / "set", (part, 2), rng) for part in (2, 1))
    assert kills >= 2
    merge(tmp_path / "set")
    assert contents(tmp_path / "set") == undisturbed


def workers_below(ancestor: int) -> list[int]:
    """Processes of Ray's Maker that descend from a process."""
    parents, makers = {}, []
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            makers += [int(folder.name)] if "ray::Maker" in (folder / "cmdline").read_text() else []
        except (ValueError, OSError):
            continue
    found = []
    for pid in makers:
        parent = pid
        while parent > 1 and parent != ancestor:
            parent = parents.get(parent, 0)
        found += [pid] if parent == ancestor else []
    return found


def test_ray_makes_the_same_files_though_a_worker_dies(
    model: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'gen3d[ray]'")
    killed: list[int] = []

    def advance(share: float, words: str) -> None:
        if share > 0 and not killed:
            killed.append(workers_below(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    try:
        augment(model, COUNT, tmp_path / "set", engine="ray", workers=2, advance=advance)
    except UserError as error:
        if "Ray can't start" not in str(error):
            raise
        pytest.skip(str(error))  # within 30 s, which an overloaded machine may need
    assert len(killed) == 1
    assert contents(tmp_path / "set") == undisturbed
