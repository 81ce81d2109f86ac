"""The trainer: knows objectives, steps and checkpoints, and no system."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gen3d.core.averages import Averages
from gen3d.core.checkpoint import load_state, save_model, save_state
from gen3d.core.config import to_tree
from gen3d.core.denoiser import compile_networks
from gen3d.core.distributed import Loss, barrier, is_main, rank, shared, together, total, world_size
from gen3d.core.draws import Batch, Draws, moved_ahead, prepared, training_key
from gen3d.core.early_stop import EarlyStop
from gen3d.core.error import UsageError, UserError
from gen3d.core.footprint import fewest_levels
from gen3d.core.precision import Precision, choose_precision, use_precision
from gen3d.core.randomness import derive, seed_of
from gen3d.core.sharding import checkpoints, load_shards, read_facts, save_shards, shard, tensors, whole
from gen3d.core.system import Example, Objective, System
from gen3d.core.tracking import LOG, Report, Tracker, forget_after
from gen3d.core.validation import Validation
from gen3d.core.volume import Prepared
from gen3d.nn.adapter import adapt, merged
from gen3d.nn.recompute import recompute

CHECKPOINT, BEST, MODEL = "checkpoint.pt", "best.pt", "model"


@dataclass(frozen=True)
class TrainConfig:
    """How a system is trained.

    Attributes:
        steps: Updates of each objective's optimizer that is always due.
        batch: Items in one backward pass.
        accumulate: Backward passes in one step. Several processes share the ``batch * accumulate`` items of a step.
        lr: Learning rate of AdamW at its highest.
        schedule: Constant, or a cosine that falls to zero at the last step.
        warmup: Steps over which the learning rate rises linearly.
        betas: AdamW's decay rates.
        weight_decay: AdamW's weight decay.
        clip: Largest norm of an objective's gradient; none for no clipping.
        ema: Decay of the averaged weights that are saved, reached after a warm-up of (1 + step) / (10 + step); 0 for
            no averaging.
        adapter: Rank of a low-rank change of each weight that is trained in its place, which needs far less memory and
            leaves less room to forget; 0 trains the weights themselves.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        compile: Whether networks are compiled; ``auto`` does on GPUs with Triton. On CPUs it takes minutes and ``yes``
            pays in runs of hundreds of steps.
        recompute: How many of the finest levels are computed again in the backward pass instead of kept; ``auto``
            takes as many as the GPU's memory asks for, none on CPUs.
        shard: Whether several processes share parameters and all that belongs to them, for networks too large for one
            GPU, instead of each having its own; see core/sharding.py.
        checkpoint_every: Steps between checkpoints; the last step always has one.
        log_every: Steps between lines of the log.
        validate_every: Steps between validations; the last step always has one. 0 for none.
        validation_items: Items of a validation, the same ones every time.
        validation_levels: Noise levels at which a validation also tells the loss, and that of as many items of the
            training cases: where the two part, a model memorises. ``.inf`` is the expected image.
        sample_every: Steps between pictures of what the averaged weights make, with scores of it; the last step always
            has one. 0 for none.
        patience: Validations no better than the best one after which training stops; the best weights are then what is
            saved, those before the first step included. 0 trains to the last step.
        workers: Threads that prepare examples ahead, for each process that trains; 0 prepares each when it is needed.
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
    adapter: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "yes", "no"] = "auto"
    recompute: int | Literal["auto"] = "auto"
    shard: bool = False
    checkpoint_every: int = 500
    log_every: int = 10
    validate_every: int = 0
    validation_items: int = 32
    validation_levels: tuple[float, ...] = ()
    sample_every: int = 0
    patience: int = 0
    workers: int = 0
    seed: int = 0
    wandb: Literal["disabled", "offline", "online"] = "disabled"

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = 0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.schedule == "cosine" else 1.0
        return self.lr * rise * fall


def make_ready(system: System, config: TrainConfig, device: torch.device, example: Callable[[], Example]) -> Precision:
    """Bring a system to where and how it trains: number format, levels computed again, compiled networks."""
    precision = choose_precision(device, config.precision)
    levels = config.recompute
    if levels == "auto":
        levels = 0
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            batch = shared(config.batch * config.accumulate, config.batch)[1]
            levels = fewest_levels(system, example(), precision.dtype, batch=batch, ema=config.ema > 0, budget=free)
    torch.backends.cudnn.benchmark = True  # every step has the same sizes
    system.to(device).train()
    use_precision(system, precision.dtype)
    recompute(system, levels)
    if config.compile == "yes" or (config.compile == "auto" and device.type == "cuda" and find_spec("triton")):
        compile_networks(system)
    return precision


class Optimization:
    """One objective with its optimizer and averages; several processes average its gradients."""

    def __init__(self, objective: Objective, config: TrainConfig, dtype: torch.dtype) -> None:
        self.objective, self.config = objective, config
        self.parameters = list(objective.parameters)
        self.require_gradients(True)
        device = self.parameters[0].device.type
        self.loss = (Loss if config.shard else together)(self.parameters, objective.loss)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=device in ("cpu", "cuda"),
        )
        self.averages = Averages(self.parameters, config.ema) if objective.ema and config.ema else None
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def require_gradients(self, yes: bool) -> None:
        """Turn the gradients of the objective's parameters on or off."""
        for parameter in self.parameters:
            parameter.requires_grad_(yes)

    def update(self, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """Take one optimizer step over all batches and return this process's mean of each term."""
        sums: dict[str, Tensor] = {}
        for number, (example, keys) in enumerate(batches, 1):
            with self.without_exchange() if number < len(batches) else nullcontext():
                terms = self.loss(example, keys)
                self.scaler.scale(self.objective.summed(terms) / len(batches)).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach() / len(batches)
        if world_size() > 1 and any(p.grad is None for p in self.parameters):
            raise UserError(
                f"training: the loss of objective '{self.objective.name}' leaves some of its parameters out, "
                "which several processes can't train; train in one"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(step) * self.objective.rate
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averages:
            self.averages.update(step)
        return {f"{self.objective.name}/{name}": value for name, value in sums.items()}

    def without_exchange(self) -> AbstractContextManager[None]:
        """Add up gradients in this process only."""
        return self.loss.no_sync() if isinstance(self.loss, DistributedDataParallel) else nullcontext()

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
    saved model. Several processes (see core/distributed.py) share the items of each step; the first one writes.

    Args:
        system: What to train.
        cases: Where its examples come from.
        config: How.
        run: The run folder.
        device: Where networks compute.
        weights: How often each case is drawn, relative to the others; by default alike.
        validation: Cases that are not trained on; validation draws from them alike.
        seen: Cases that are trained on and watched beside them, see ``validation_levels``; by default all.
        card: Returns the model card's text when training is done.
        show: Given the step, draws a picture with the weights of the moment and returns scores by name and its path, or
            None; see ``sample_every``.

    Raises:
        UserError: There are no cases, or the folder's checkpoint belongs to another configuration.
        UsageError: The items of a step or a validation can't be shared by the processes, or there is nothing to
            validate on.
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
        validation: Sequence[Prepared] = (),
        seen: Sequence[Prepared] = (),
        card: Callable[[System], str] | None = None,
        show: Callable[[int], tuple[dict[str, float], Path] | None] | None = None,
    ) -> None:
        if not cases:
            raise UserError("training: no cases left to train on; expected at least one")
        self.system, self.config, self.run, self.card, self.show = system, config, Path(run), card, show
        self.device = torch.device(device)
        self.share, self.size = shared(config.batch * config.accumulate, config.batch)
        key = partial(training_key, config.seed, config.batch * config.accumulate)
        self.draws = Draws(system, cases, weights or [1.0] * len(cases), key)
        if config.adapter:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(derive(config.seed, "adapter")))
                for name in system.components:
                    adapt(getattr(system, name), config.adapter)
        self.precision = make_ready(system, config, self.device, lambda: self.draws[0][0])
        self.validations = []
        if config.validate_every:
            watched = {"validation": validation, **({"seen": seen or cases} if config.validation_levels else {})}
            self.validations = [self.watched(name, group) for name, group in watched.items()]
        system.requires_grad_(False)
        if config.shard and config.patience:
            raise UsageError("train.patience: no early stop with train.shard yet; use train.patience=0")
        if config.shard and config.sample_every:
            raise UsageError("train.sample_every: no pictures with train.shard yet; use train.sample_every=0")
        if config.shard:
            shard(system, self.device, config.validation_items if config.validate_every else 0)
        self.optimizations = [Optimization(o, config, self.precision.dtype) for o in system.objectives()]
        self.early = EarlyStop(config.patience) if config.patience and config.validate_every else None
        self.step, self.cpu_seconds, self.seconds = 0, 0.0, 0.0

    def watched(self, name: str, cases: Sequence[Prepared]) -> Validation:
        """Return a validation on some cases."""
        return Validation(
            self.system,
            cases,
            seed=self.config.seed,
            items=self.config.validation_items,
            batch=self.config.batch,
            workers=self.config.workers,
            device=self.device,
            levels=self.config.validation_levels,
            name=name,
        )

    def resume(self) -> None:
        """Go back to the run folder's checkpoint if there is one.

        Raises:
            UserError: It is of another configuration, or processes see different ones.
        """
        path = self.run / CHECKPOINT
        if self.config.shard:
            path = next(reversed(checkpoints(self.run)), path)
        if path.exists():
            self.restore(path)
        if total([self.step])[0] != world_size() * self.step:
            raise UserError(f"{path}: not the same for all processes; choose a run folder on a disk that they share")
        if is_main():
            path.with_name(f".{CHECKPOINT}.part").unlink(missing_ok=True)
            forget_after(self.step, self.run / LOG)

    def restore(self, path: Path) -> None:
        """Go back to a checkpoint.

        Raises:
            UserError: It is of another configuration.
        """
        state = read_facts(path) if path.is_dir() else load_state(path)
        if state["config"] != self.identity():
            raise UserError(
                f"{path}: belongs to another configuration; choose another run folder, or delete it to start anew"
            )
        self.step, self.cpu_seconds, self.seconds = state["step"], state["cpu_seconds"], state["seconds"]
        if self.early:
            self.early = EarlyStop(self.config.patience, state.get("validations"))
        if path.is_dir():
            load_shards(path, tensors(self.system, self.optimizations))
            self.optimizations[0].scaler.load_state_dict(state["scaler"])
            return
        self.system.load_state_dict(state["system"])
        for optimization in self.optimizations:
            optimization.restore(state["objectives"][optimization.objective.name])

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a checkpoint and its resumption."""
        free = (
            *("checkpoint_every", "log_every", "validate_every", "validation_items", "validation_levels"),
            *("workers", "wandb", "sample_every"),
            *("compile", "recompute"),
        )
        train = {key: value for key, value in to_tree(self.config).items() if key not in free}
        return {
            "system": self.system.name,
            "model": to_tree(self.system.config),
            "train": train,
            "cases": len(self.draws.cases),
        }

    def save(self) -> None:
        """Write the checkpoint."""
        facts = {
            "config": self.identity(),
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "seconds": self.seconds,
            **({"validations": self.early.rows} if self.early else {}),
        }
        if self.config.shard:
            facts["scaler"] = self.optimizations[0].scaler.state_dict()
            save_shards(self.run, self.step, facts, tensors(self.system, self.optimizations))
        elif is_main():
            objectives = {o.objective.name: o.state() for o in self.optimizations}
            save_state({**facts, "system": self.system.state_dict(), "objectives": objectives}, self.run / CHECKPOINT)

    def save_averaged(self) -> None:
        """Write the averaged weights as a saved model."""
        self.system.provenance["training"] = {
            **to_tree(self.config),
            "cpu_minutes": round(self.cpu_seconds / 60, 1),
            "device": self.device.type,
            "computed_in": f"{self.precision.dtype}".removeprefix("torch."),
        }
        if self.early:
            facts = {"stopped_at": self.step, "best_step": self.early.best, "turned": self.early.turned()}
            self.system.provenance["training"] |= facts
            barrier()  # the first process may still be writing it
            self.system.load_state_dict(load_state(self.run / BEST)["system"])
        with nullcontext() if self.early else self.averaged():
            system = whole(self.system) if self.config.shard else merged(self.system)
            if is_main():
                save_model(system, self.run / MODEL, card=self.card(system) if self.card else None)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages in the place of the parameters for a while."""
        averages = [o.averages for o in self.optimizations if o.averages]
        for average in averages:
            average.swap()
        yield
        for average in averages:
            average.swap()

    def batches(self) -> Iterator[list[Batch]]:
        """Yield, for every step that is left, this process's batches."""
        firsts = ((step * world_size() + rank()) * self.share for step in range(self.step, self.config.steps))
        indices = (range(i, i + self.size) for first in firsts for i in range(first, first + self.share, self.size))
        step: list[Batch] = []
        for batch in prepared(self.draws, indices, self.config.workers, pin=self.device.type == "cuda"):
            step.append(batch)
            if len(step) * self.size == self.share:
                yield step
                step = []

    def train(self) -> Iterator[Report]:
        """Train to the last step, yielding every line of the log.

        Raises:
            UserError: A loss is not finite, or the run folder can't be written.
        """
        if is_main():
            self.run.mkdir(parents=True, exist_ok=True)
        self.resume()
        tracker = Tracker(self.run, self.config.wandb, to_tree(self.config)) if is_main() else None
        sums: dict[str, list[Tensor]] = {}
        spent, cpu, wall = self.cpu_seconds, time.process_time(), time.monotonic() - self.seconds
        if self.early and not self.early.rows:
            report = self.report({}, self.validate())
            if tracker:
                tracker.write(report)
            yield report
        for batches in () if self.stopped else moved_ahead(self.batches(), self.device):
            for name, term in self.update(batches).items():
                sums.setdefault(name, []).append(term)
            self.step += 1
            validated, logged, saved, sampled = (
                self.due(getattr(self.config, f"{k}_every")) for k in ("validate", "log", "checkpoint", "sample")
            )
            if not (validated or logged or saved or sampled):
                continue
            validation = self.validate() if validated else {}
            picture: Path | None = None
            if sampled and (made := self.sample()):
                validation, picture = validation | made[0], made[1]
            saved = saved or self.stopped
            self.seconds = time.monotonic() - wall
            self.cpu_seconds = spent + total([time.process_time() - cpu])[0]
            if logged or validated or sampled:
                report, sums = self.report(sums, validation), {}
                if tracker:
                    tracker.write(report, picture)
                yield report
            if saved:
                self.save()
            if self.stopped:
                break
        self.save_averaged()
        if tracker:
            tracker.close()

    @property
    def stopped(self) -> bool:
        """Whether validations have been no better for as long as is waited."""
        return self.early is not None and bool(self.early.rows) and self.early.finished

    def due(self, every: int) -> bool:
        """Tell whether what happens so often, and at the last step, happens now."""
        return every > 0 and (self.step == self.config.steps or self.step % every == 0)

    def update(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Train each objective that is due by one step; the parameters of the others are held still meanwhile."""
        means: dict[str, Tensor] = {}
        self.system.step = self.step
        for optimization in self.optimizations:
            if optimization.objective.due(self.step):
                self.system.requires_grad_(False)
                optimization.require_gradients(True)
                means |= optimization.update(batches, self.step)
        return means

    def validate(self) -> dict[str, float]:
        """Return what the averaged weights reach on the validation items; keep them if they are the best so far."""
        with self.averaged():
            objectives = [o.objective for o in self.optimizations]
            found = {name: v for validation in self.validations for name, v in validation.terms(objectives).items()}
            told = {f"{o.name}/{term}" for o in objectives for term in o.told}
            losses = {name: value for name, value in found.items() if name.partition("/")[2] not in told}
            if self.early and self.early.take(self.step, losses) and is_main():
                save_state({"system": self.system.state_dict()}, self.run / BEST)
        return found

    def sample(self) -> tuple[dict[str, float], Path] | None:
        """Return the scores and the picture of what the averaged weights make; the first process alone draws."""
        if self.show is None or not is_main():
            return None
        with self.averaged():
            return self.show(self.step)

    def report(self, sums: dict[str, list[Tensor]], validation: dict[str, float]) -> Report:
        """Return the line of the log for the steps since the last one."""
        own = torch.stack([torch.stack(terms).mean() for terms in sums.values()]).tolist() if sums else []
        means = {name: value / world_size() for name, value in zip(sums, total(own), strict=True)} | validation
        if odd := [name for name, value in means.items() if not math.isfinite(value)]:
            raise UserError(
                f"training: {odd[0]} is not finite at step {self.step}; lower train.lr, or train.precision=fp32"
            )
        times = {"seconds": round(self.seconds, 2), "cpu_seconds": round(self.cpu_seconds, 2)}
        return Report(step=self.step, **times, lr=self.config.rate(self.step - 1), **means)
