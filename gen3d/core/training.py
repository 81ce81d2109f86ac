"""The trainer: knows objectives, steps and checkpoints, and no system."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gen3d.core.checkpoint import load_state, save_model, save_state
from gen3d.core.config import to_tree
from gen3d.core.error import UserError
from gen3d.core.precision import choose_precision, use_precision
from gen3d.core.randomness import derive, uniform
from gen3d.core.system import Example, Objective, System
from gen3d.core.volume import Prepared

CHECKPOINT, LOG, MODEL = "checkpoint.pt", "log.jsonl", "model"


@dataclass(frozen=True)
class TrainConfig:
    """How a system is trained.

    Attributes:
        steps: Updates of each objective's optimizer that is always due.
        batch: Items in one backward pass.
        accumulate: Backward passes in one step.
        lr: Learning rate of AdamW at its highest.
        schedule: Constant, or a cosine that falls to zero at the last step.
        warmup: Steps over which the learning rate rises linearly.
        betas: AdamW's decay rates.
        weight_decay: AdamW's weight decay.
        clip: Largest norm of an objective's gradient; none for no clipping.
        ema: Decay of the averaged weights that are saved, reached after a warm-up of (1 + step) / (10 + step); 0 for
            no averaging.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        checkpoint_every: Steps between checkpoints; the last step always has one.
        log_every: Steps between lines of the log.
        workers: Processes that prepare examples; 0 prepares them in this one.
        seed: Everything random follows from it.
        wandb: Whether runs are also tracked by wandb.
    """

    steps: int = 1000
    batch: int = 1
    accumulate: int = 1
    lr: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = 1.0
    ema: float = 0.999
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    checkpoint_every: int = 500
    log_every: int = 10
    workers: int = 0
    seed: int = 0
    wandb: Literal["disabled", "offline", "online"] = "disabled"

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = 0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.schedule == "cosine" else 1.0
        return self.lr * rise * fall


class Report(dict[str, float]):
    """One line of the log: step, seconds, cpu_seconds, lr and the mean of each term since the line before."""


class Draws(Dataset[Example]):
    """Item i of a run as an example, a function of its key alone: any worker or resumed run draws the same."""

    def __init__(
        self, system: System, cases: Sequence[Prepared], weights: Sequence[float], config: TrainConfig
    ) -> None:
        self.system, self.cases, self.config = system, cases, config
        self.edges = list(accumulate(weights))

    def key(self, index: int) -> str:
        """Return the key of item ``index``, counted over the whole run."""
        return derive(self.config.seed, *divmod(index, self.config.batch * self.config.accumulate))

    def __getitem__(self, index: int) -> Example:
        key = self.key(index)
        place = float(uniform([derive(key, "case")])) * self.edges[-1]
        case = self.cases[min(sum(place >= edge for edge in self.edges), len(self.cases) - 1)]
        return self.system.example(case, key)


def collate(examples: Sequence[Example]) -> Example:
    """Join examples along their batch axis, tensors only."""
    return {
        name: torch.cat([e[name] for e in examples]) for name, part in examples[0].items() if isinstance(part, Tensor)
    }


class Averages:
    """Exponential moving averages of an objective's parameters, float32."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters after ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and parameters."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)


class Optimization:
    """One objective with its optimizer and averages."""

    def __init__(self, objective: Objective, config: TrainConfig) -> None:
        self.objective, self.config = objective, config
        self.parameters = list(objective.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self.averages = Averages(self.parameters, config.ema) if objective.ema and config.ema else None
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=False)

    def update(self, batches: Sequence[tuple[Example, list[str]]], step: int) -> dict[str, Tensor]:
        """Take one optimizer step over all batches and return the mean of each term."""
        sums: dict[str, Tensor] = {}
        for example, keys in batches:
            terms = self.objective.loss(example, keys)
            self.scaler.scale(torch.stack(list(terms.values())).sum() / len(batches)).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach() / len(batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(step)
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averages:
            self.averages.update(step)
        return {f"{self.objective.name}/{name}": value for name, value in sums.items()}

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs besides the parameters."""
        averages = self.averages.values if self.averages else []
        return {"optimizer": self.optimizer.state_dict(), "averages": averages, "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for value, saved in zip(self.averages.values if self.averages else [], state["averages"], strict=True):
            value.copy_(saved)


class Trainer:
    """Trains a system on prepared cases into a run folder, resuming there if it holds a checkpoint.

    The run folder gets ``checkpoint.pt`` (atomic), ``log.jsonl`` and at the end ``model/``, the averaged weights as a
    saved model.

    Args:
        system: What to train.
        cases: Where its examples come from.
        config: How.
        run: The run folder.
        device: Where networks compute.
        weights: How often each case is drawn, relative to the others; by default alike.
        card: Returns the model card's text when training is done.

    Raises:
        UserError: There are no cases, or the folder's checkpoint belongs to another configuration.
    """

    def __init__(
        self,
        system: System,
        cases: Sequence[Prepared],
        config: TrainConfig,
        run: Path,
        *,
        device: torch.device | str = "cpu",
        weights: Sequence[float] | None = None,
        card: Callable[[System], str] | None = None,
    ) -> None:
        if not cases:
            raise UserError("training: no cases left to train on; expected at least one")
        self.system, self.config, self.run, self.device, self.card = (
            system,
            config,
            Path(run),
            torch.device(device),
            card,
        )
        self.precision = choose_precision(self.device, config.precision)
        system.to(self.device).train()
        use_precision(system, self.precision.dtype)
        self.draws = Draws(system, cases, weights or [1.0] * len(cases), config)
        self.optimizations = [Optimization(objective, config) for objective in system.objectives()]
        for optimization in self.optimizations:
            optimization.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.dtype == torch.float16)
        trained = {id(p) for o in self.optimizations for p in o.parameters}
        for parameter in system.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.step, self.cpu_seconds, self.seconds = 0, 0.0, 0.0

    def resume(self) -> None:
        """Go back to the run folder's checkpoint if there is one."""
        path = self.run / CHECKPOINT
        path.with_name(f".{CHECKPOINT}.part").unlink(missing_ok=True)
        if not path.exists():
            (self.run / LOG).unlink(missing_ok=True)
            return
        state = load_state(path)
        if state["config"] != self.identity():
            raise UserError(
                f"{path}: belongs to another configuration; choose another run folder, or delete it to start anew"
            )
        self.step, self.cpu_seconds, self.seconds = state["step"], state["cpu_seconds"], state["seconds"]
        self.system.load_state_dict(state["system"])
        for optimization in self.optimizations:
            optimization.restore(state["objectives"][optimization.objective.name])
        lines = (self.run / LOG).read_text().splitlines() if (self.run / LOG).exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.step]
        (self.run / LOG).write_text("".join(f"{line}\n" for line in kept))

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a checkpoint and its resumption."""
        free = ("checkpoint_every", "log_every", "workers", "wandb")
        train = {key: value for key, value in to_tree(self.config).items() if key not in free}
        return {
            "system": self.system.name,
            "model": to_tree(self.system.config),
            "train": train,
            "cases": len(self.draws.cases),
        }

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "config": self.identity(),
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "seconds": self.seconds,
            "system": self.system.state_dict(),
            "objectives": {o.objective.name: o.state() for o in self.optimizations},
        }
        save_state(state, self.run / CHECKPOINT)

    def save_averaged(self) -> None:
        """Write the averaged weights as a saved model."""
        averages = [o.averages for o in self.optimizations if o.averages]
        for average in averages:
            average.swap()
        self.system.provenance["training"] = {
            **to_tree(self.config),
            "cpu_minutes": round(self.cpu_seconds / 60, 1),
            "device": self.device.type,
            "computed_in": f"{self.precision.dtype}".removeprefix("torch."),
        }
        save_model(self.system, self.run / MODEL, card=self.card(self.system) if self.card else None)
        for average in averages:
            average.swap()

    def batches(self) -> Iterator[list[tuple[Example, list[str]]]]:
        """Yield, for every step that is left, its batches and their items' keys."""
        size, parts = self.config.batch, self.config.accumulate
        indices = range(self.step * size * parts, self.config.steps * size * parts)
        loader = DataLoader(
            self.draws,
            batch_size=size,
            sampler=indices,
            num_workers=self.config.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
        )
        step: list[tuple[Example, list[str]]] = []
        for first, example in zip(indices[::size], loader, strict=True):
            moved = {name: part.to(self.device, non_blocking=True) for name, part in example.items()}
            step.append((moved, [self.draws.key(first + i) for i in range(size)]))
            if len(step) == parts:
                yield step
                step = []

    def train(self) -> Iterator[Report]:
        """Train to the last step, yielding every line of the log.

        Raises:
            UserError: A loss is not finite, or the run folder can't be written.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        self.resume()
        tracker = Tracker(self.config, self.run)
        sums: dict[str, list[Tensor]] = {}
        cpu, wall = time.process_time() - self.cpu_seconds, time.monotonic() - self.seconds
        for batches in self.batches():
            for optimization in self.optimizations:
                if optimization.objective.due(self.step):
                    for name, term in optimization.update(batches, self.step).items():
                        sums.setdefault(name, []).append(term)
            self.step += 1
            self.cpu_seconds, self.seconds = time.process_time() - cpu, time.monotonic() - wall
            last = self.step == self.config.steps
            if last or self.step % self.config.log_every == 0:
                report = self.report(sums)
                tracker.write(report)
                sums = {}
                yield report
            if last or self.step % self.config.checkpoint_every == 0:
                self.save()
        self.save_averaged()
        tracker.close()

    def report(self, sums: dict[str, list[Tensor]]) -> Report:
        """Return the line of the log for the steps since the last one."""
        means = {name: float(torch.stack(terms).mean()) for name, terms in sums.items()}
        if odd := [name for name, value in means.items() if not math.isfinite(value)]:
            raise UserError(
                f"training: {odd[0]} is not finite at step {self.step}; lower train.lr, or train.precision=fp32"
            )
        times = {"seconds": round(self.seconds, 2), "cpu_seconds": round(self.cpu_seconds, 2)}
        return Report(step=self.step, **times, lr=self.config.rate(self.step - 1), **means)


class Tracker:
    """Writes reports to ``log.jsonl`` and, where asked for, to wandb."""

    def __init__(self, config: TrainConfig, run: Path) -> None:
        self.path = run / LOG
        self.wandb: Any = None
        if config.wandb != "disabled":
            try:
                import wandb
            except ImportError:
                raise UserError("train.wandb: wandb is not installed; pip install 'gen3d[wandb]'") from None
            self.wandb = wandb.init(
                project="gen3d", name=run.name, dir=run, mode=config.wandb, config=to_tree(config), resume="allow"
            )

    def write(self, report: Report) -> None:
        """Add one line."""
        try:
            with open(self.path, "a") as stream:
                stream.write(json.dumps(report) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path}: can't be written ({error.strerror}); the last checkpoint is untouched"
            ) from None
        if self.wandb:
            self.wandb.log(dict(report), step=int(report["step"]))

    def close(self) -> None:
        """End the tracking."""
        if self.wandb:
            self.wandb.finish()
