"""Training killed with SIGKILL and resumed ends with the weights of an uninterrupted run, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from gen3d.core.training import CHECKPOINT, LOG, MODEL

STEPS = 60
SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from gen3d.core import checkpoint, training
from gen3d.core.volume import Prepared, Scale
from gen3d.nn.unet import UNetConfig
from gen3d.wavelet.completion import Augmentation, Completion, CompletionConfig

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
run, die_writing = Path(sys.argv[1]), sys.argv[2] == "1"

def half_written(state, stream, save=torch.save):
    save(state, stream)
    stream.truncate(stream.tell() // 2)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

if die_writing:
    torch.save = half_written
torch.manual_seed(0)
network = UNetConfig(32, 16, width=8, multipliers=(1, 2), blocks=1, groups=4, present=2)
augmentation = Augmentation(0.1, 0.1, 0.1, 0.1, 0.1)
config = CompletionConfig(
    contrasts=("a", "b"), network=network, patch=(12, 12, 12), missing=(1.0,), augmentation=augmentation
)
rng = np.random.default_rng(0)
scales = (Scale(1, 0, -4, 4),) * 2
cases = [
    Prepared(name, name, rng.normal(size=(2, 16, 16, 16)), np.array([True, True]), None, (1, 1, 1), scales)
    for name in ("p", "q", "r")
]
train = training.TrainConfig(
    steps=int(sys.argv[3]), batch=2, accumulate=2, lr=1e-3, schedule="cosine", warmup=5, checkpoint_every=7, log_every=1
)
for report in training.Trainer(Completion(config), cases, train, run).train():
    pass
"""


def start(run: Path, *, die_writing: bool = False) -> subprocess.Popen[bytes]:
    """Start or resume the training in a process of its own."""
    arguments = [sys.executable, "-c", SCRIPT, str(run), str(int(die_writing)), str(STEPS)]
    return subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"})


def lines(run: Path) -> int:
    """Return how many whole lines the log has."""
    return (run / LOG).read_text().count("\n") if (run / LOG).exists() else 0


def kill_after(run: Path, reports: int, delay_s: float) -> None:
    """Run until the log has so many lines, wait a little, kill."""
    process = start(run)
    while lines(run) < reports and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay_s)
    assert process.poll() is None, "finished before it was killed"
    process.kill()
    process.wait()


def test_killed_and_resumed_training_is_bit_identical(tmp_path: Path) -> None:
    """Five seeded moments, the last one inside a checkpoint write."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait() == 0
    rng = random.Random(20261123)
    for reports in sorted(rng.sample(range(2, STEPS - 12), 4)):
        kill_after(broken, reports, rng.random() * 0.05)
        assert not (broken / MODEL).exists()
    writer = start(broken, die_writing=True)
    assert writer.wait() == -signal.SIGKILL
    assert list(broken.glob(f".{CHECKPOINT}*")), "it was to die inside a checkpoint write"
    assert start(broken).wait() == 0
    one, other = (torch.load(run / CHECKPOINT, weights_only=True) for run in (whole, broken))
    assert one["step"] == other["step"] == STEPS
    for name, tensor in one["system"].items():
        assert torch.equal(tensor, other["system"][name]), name
    for a, b in zip(*(state["objectives"]["completion"]["averages"] for state in (one, other)), strict=True):
        assert torch.equal(a, b)
    losses = [[line.split('"lr"')[1] for line in (run / LOG).read_text().splitlines()] for run in (whole, broken)]
    assert losses[0] == losses[1]
    files = [sorted(p.relative_to(run) for p in (run / MODEL).rglob("*.safetensors")) for run in (whole, broken)]
    assert files[0] == files[1] != []
    for file in files[0]:
        assert (whole / file).read_bytes() == (broken / file).read_bytes()
