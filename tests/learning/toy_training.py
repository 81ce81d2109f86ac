"""Trains a toy of two objectives, alone or under torchrun: ``toy_training.py FOLDER RUN:STOP[:VARIANT] ...``.

A run stops after the log's line of step STOP, as if killed there; 0 for never. VARIANT is a failure, or ``alone``: one
objective only, or ``shard``: the same with sharded parameters. Only the first process prints.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from gen3d.core import distributed
from gen3d.core.error import UserError
from gen3d.core.randomness import derive, normal, uniform
from gen3d.core.system import Objective, System
from gen3d.core.training import TrainConfig, Trainer
from gen3d.core.volume import Prepared, Scale

STEPS = 12


@dataclass(frozen=True)
class ToyConfig:
    """Nothing to configure."""


class Toy(System):
    """A denoiser, and a judge of it: each loss goes through the other's network, and the judge's is differentiated."""

    name = "toy"
    Config = ToyConfig
    components = ("guess", "judge")

    def __init__(self, variant: str = "") -> None:
        super().__init__(ToyConfig())
        self.guess = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv3d(4, 1, 3, padding=1))
        self.guess.to(memory_format=torch.channels_last_3d)
        self.judge = nn.Sequential(nn.Conv3d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 6**3, 1))
        self.judge.register_buffer("seen", torch.zeros(1))
        self.variant = variant

    def example(self, case: Prepared, key: str | None = None) -> dict[str, Tensor]:
        if self.variant == "one" and distributed.rank() == 1:
            raise UserError(f"{case.name}: broken on the second process")
        shift = int(8 * float(uniform([derive(key, "shift")])))
        return {"voxels": torch.from_numpy(np.roll(case.voxels, shift, 1))[None]}

    def objectives(self) -> list[Objective]:
        guess = Objective("guess", self.guess.parameters(), self.guess_loss)
        judge = Objective("judge", self.judge.parameters(), self.judge_loss, start=1, every=2, ema=False)
        return [guess] if self.variant in ("alone", "shard") else [guess, judge]

    def denoised(self, x: Tensor, keys: list[str]) -> Tensor:
        return self.guess(x + normal([derive(key, "noise") for key in keys], x.shape[1:]))

    def guess_loss(self, example: dict[str, Tensor], keys: list[str]) -> dict[str, Tensor]:
        guess = self.denoised(example["voxels"], keys)
        if self.variant == "infinite" and distributed.rank() == 1 and keys[0].split("/")[1] == "2":
            guess = guess * float("inf")
        self.judge.seen += len(keys) * (1 + distributed.rank())
        error = (guess - example["voxels"]).square().mean()
        return {"error": error, "fooled": 0.1 * nnf.softplus(-self.judge(guess)).mean()}

    def judge_loss(self, example: dict[str, Tensor], keys: list[str]) -> dict[str, Tensor]:
        real = example["voxels"].clone().requires_grad_()
        told = self.judge(real)
        (slope,) = torch.autograd.grad(told.sum(), real, create_graph=True)
        if self.variant == "unused":
            told = told.detach() + 0 * self.judge[0](real).sum()
            return {"told": told.mean()}
        false = nnf.softplus(self.judge(self.denoised(example["voxels"], keys))).mean()
        return {"told": nnf.softplus(-told).mean() + false, "slope": slope.square().sum((1, 2, 3, 4)).mean()}


def cases(count: int, first: int = 0) -> list[Prepared]:
    """Return noise."""
    made = [np.random.default_rng(i).normal(size=(1, 8, 8, 8)).astype(np.float32) for i in range(first, first + count)]
    scale = (Scale(1, 0, -4, 4),)
    return [Prepared(f"c{i}", f"p{i}", v, np.array([True]), None, (1, 1, 1), scale) for i, v in enumerate(made)]


def trainer(run: Path, variant: str = "", **changes: object) -> Trainer:
    """Return what trains the toy: 4 items in a step, accumulation, clipping, averaging, validation."""
    settings = {"steps": STEPS, "batch": 2, "accumulate": 2, "lr": 1e-2, "weight_decay": 0.1, "clip": 0.05, "ema": 0.9}
    settings |= {"log_every": 1, "checkpoint_every": 3, "validate_every": 5, "validation_items": 5, "precision": "fp32"}
    settings |= {"validation_items": 6} if variant in ("alone", "shard") else {}
    settings |= {"shard": variant == "shard"}
    torch.manual_seed(0)
    return Trainer(Toy(variant), cases(3), TrainConfig(**settings | changes), run, validation=cases(2, 10))


def main(folder: Path, runs: list[str]) -> None:
    """Train each run."""
    with distributed.told_once():
        distributed.join(torch.device("cpu"))
        for run in runs:
            name, stop, variant = (*run.split(":"), "")[:3]
            training = trainer(folder / name, variant)
            for report in training.train():
                if report["step"] == int(stop):
                    break
            if distributed.is_main():
                print("trained", name)
            if name == "buffers":
                items = 2 * STEPS + 3 * (3 - distributed.rank())  # half of each step's, and three validations
                assert float(training.system.judge.seen) == items * (1 + distributed.rank()), "not its own buffer"


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except UserError as error:
        sys.exit(f"toy: {error}")
    distributed.end_process()
