"""``gen3d train``: from a configuration file to a saved model."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from gen3d.core import distributed
from gen3d.core.checkpoint import load_component, read_index, read_json, weights_sha256
from gen3d.core.config import build, read_yaml, to_tree
from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.precision import choose_precision
from gen3d.core.randomness import derive, seed_of
from gen3d.core.system import System
from gen3d.core.training import CHECKPOINT, MODEL, TrainConfig, Trainer
from gen3d.core.volume import Prepared
from gen3d.data.envelope import envelope
from gen3d.systems import find_model, load, system_class
from gen3d.tools.card import model_card
from gen3d.tools.progress import say, shown_progress
from gen3d.tools.training_cases import DataConfig, Phantoms, gather, keep_out, keep_out_of_archive
from gen3d.tools.training_finish import REJECTED, finished
from gen3d.tools.training_samples import shown

FINE_TUNING: dict[str, Any] = {
    "steps": 200,
    "validate_every": 50,
    "checkpoint_every": 50,
    "validation_items": 8,
    "validation_levels": (0.1, 0.5, 2.0, float("inf")),
    "patience": 4,
}
GENTLER, OF_ADAPTERS = 0.15, 0.5  # shares of a configuration's learning rate at which training goes on from a model


@dataclass(frozen=True)
class Experiment:
    """One configuration file.

    Attributes:
        system: A published name, see gen3d.systems.
        model: The system's own configuration.
        data: What it is trained on.
        train: How.
        init: A saved model whose weights training starts from.
        parts: Components that other saved models give, with their shape, as the frozen ``autoencoder`` of a latent
            model: the component's name and the saved model that has one of that name, or whose network it is.
        not_for: What the model is not for, for its card.
    """

    system: str
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    init: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    not_for: str = "clinical use of any kind; scans unlike those it was trained on"


def read_experiment(config: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read a configuration file with ``key=value`` overrides; ``${GEN3D_DATA}`` is ``../shared/data`` unless set.

    ``data=PATH`` is short for ``data.archive=PATH``; an archive is trained on without simulated brains unless the
    overrides ask for ``data.phantoms``. Where training of a completion model goes on from a saved one on an archive,
    what the overrides do not say of ``train`` is that of FINE_TUNING, at a gentler learning rate.

    Raises:
        UsageError: The file is missing or says something unknown; the nearest known key is named.
    """
    os.environ.setdefault("GEN3D_DATA", "../shared/data")
    given = [f"data.archive={o.removeprefix('data=')}" if o.startswith("data=") else o for o in overrides]
    experiment = build(Experiment, read_yaml(config, given))
    shapes = {name: component_config(part_folder(model, name)) for name, model in experiment.parts.items()}
    experiment = replace(experiment, model={**experiment.model, **shapes})
    build(system_class(experiment.system).Config, experiment.model, "model")
    said = {override.partition("=")[0] for override in given}
    if experiment.data.archive and not any(name.startswith("data.phantoms") for name in said):
        experiment = replace(experiment, data=replace(experiment.data, phantoms=Phantoms()))
    fine_tunes = experiment.system == "completion" and experiment.init and experiment.data.archive
    return fine_tuned(experiment, said) if fine_tunes else experiment


def part_folder(model: str, name: str) -> Path:
    """Return where a saved model keeps what another is built on: its component of that name, else its network."""
    folder = find_model(model)
    return folder / name if (folder / name).is_dir() else folder / "network"


def component_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a component of a saved model."""
    tree = read_json(folder / "config.json")
    return {name: value for name, value in tree.items() if name != "_class_name"}


def fine_tuned(experiment: Experiment, said: Collection[str]) -> Experiment:
    """Return an experiment with the settings of fine-tuning, but for those that the overrides name."""
    share = OF_ADAPTERS if experiment.train.adapter else GENTLER
    settings = {**FINE_TUNING, "lr": experiment.train.lr * share}
    if not experiment.data.kept_out:
        settings |= {"validate_every": 0, "patience": 0}
    ours = {name: value for name, value in settings.items() if f"train.{name}" not in said}
    return replace(experiment, train=replace(experiment.train, **ours))


def run_training(
    config: Path, overrides: Sequence[str] = (), out: Path | None = None, *, device: str = "auto", dry_run: bool = False
) -> Path:
    """Train what a configuration file says and return the folder of the saved model.

    A run folder that holds a checkpoint is resumed. ``dry_run`` builds everything, prints what would be done, and
    trains nothing. Started by torchrun, all its processes train the one model, and the first one writes and prints.
    Each thing that takes long is announced by a line; the last line says where the model is. On an archive, patients
    are held out; on these the result is compared with the model that training started from, and one that is worse is
    put into RUN/rejected.

    Raises:
        UserError: Whatever keeps the run from starting or going on, in one line.
    """
    from gen3d.tools.sampling import choose_device

    with distributed.told_once():
        own = distributed.own_device(choose_device(device))
        experiment = read_experiment(config, overrides)
        choose_precision(own, experiment.train.precision)  # refused before cases are prepared
        data = experiment.data
        run = Path(out) if out else Path("runs") / Path(config).stem
        kind = system_class(experiment.system)
        with distributed.main_first("cases"):
            cases, weights = gather(data, kind(build(kind.Config, experiment.model, "model")))
        if data.archive:
            split = keep_out_of_archive(cases, weights, data.kept_out, data.phantoms.count)
        else:
            split = keep_out(cases, weights, data.kept_out)
        cases, weights, validation = split
        real = cases[: len(cases) - data.phantoms.count] if data.archive else cases
        with distributed.main_first("latents"):
            system = make_system(experiment, cases, validation, own)
            cases, validation = (system.cached(group, latents(data)) for group in (cases, validation))
        distributed.join(own)
        card = partial(model_card, run=run)
        trainer = Trainer(
            system,
            cases,
            experiment.train,
            run,
            device=own,
            weights=weights,
            validation=validation,
            seen=real,
            card=card,
            show=shown(system, (validation or cases)[0], run, seed=experiment.train.seed, device=own),
        )
        say(summary(experiment, system, cases, trainer, run))
        if dry_run:
            return run / MODEL
        if distributed.is_main():
            write_resolved(experiment, system, run)
        resumed = ", going on from the checkpoint there" if (run / CHECKPOINT).exists() else ""
        say(f"training {experiment.train.steps} steps on {own.type}{resumed}")
        train(trainer)
        first = distributed.is_main()
    if not first:
        return run / MODEL
    folder = finished(system, run, own, real, cases, validation, card, archive=bool(data.archive), init=experiment.init)
    kept = run / (MODEL if (run / MODEL).is_dir() else REJECTED)
    say(f"{kept}: saved after {trainer.step} steps, {trainer.cpu_seconds / 60:.1f} CPU minutes")
    return folder


def train(trainer: Trainer) -> None:
    """Train with a progress bar, and say what the validations show."""
    memorising, items = "", trainer.config.batch * trainer.config.accumulate
    step, since = 0.0, 0.0
    with shown_progress("training", trainer.config.steps) as advance:
        for report in trainer.train():
            losses = {name.rpartition("/")[2]: value for name, value in report.items() if name.count("/") == 1}
            spent = report["seconds"] - since
            pace = f"{(report['step'] - step) * items / spent:.2f} items/s " if since and spent > 0 else ""
            step, since = report["step"], report["seconds"]
            words = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
            advance(int(report["step"]), f"{pace}{words}")
            if trainer.early and not memorising and (memorising := trainer.early.memorising()):
                say(f"step {report['step']}: {memorising}")
    if trainer.early:
        turned = ", ".join(f"{name.rpartition('/')[2]} at {step}" for name, step in trainer.early.turned().items())
        why = "none was better since" if trainer.early.finished else "all steps are done"
        say(f"stopped at step {trainer.step} ({why}), best at {trainer.early.best}; least held-out loss: {turned}")


def write_resolved(experiment: Experiment, system: System, run: Path) -> None:
    """Write the whole configuration, defaults included, beside the checkpoint.

    Raises:
        UserError: The run folder can't be written.
    """
    tree = {**to_tree(experiment), "model": to_tree(system.config)}
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    except OSError as error:
        raise UserError(f"{run}: can't be written ({error.strerror}); choose another -o") from None


def make_system(
    experiment: Experiment,
    cases: Sequence[Prepared],
    validation: Sequence[Prepared] = (),
    device: torch.device | str = "cpu",
) -> System:
    """Build the system, let it measure the training set, and start from ``init`` if there is one.

    Raises:
        UsageError: ``parts`` names a component that the system does not have.
        UserError: A saved model that it starts from is damaged or of another shape.
    """
    kind = system_class(experiment.system)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(derive(experiment.train.seed, "weights")))
        system = kind(build(kind.Config, experiment.model, "model"))
        for name, model in experiment.parts.items():
            if name not in kind.components:
                raise UsageError(
                    f"parts.{name}: no component of {kind.name}{nearest(name, kind.components)}; "
                    f"it has {', '.join(kind.components)}"
                )
            load_component(getattr(system, name), part_folder(model, name))
        system.to(device)
        system = system.measure(system.cached(cases, latents(experiment.data)))
    if experiment.init:
        start_from(system, find_model(experiment.init))
    system.provenance = provenance(experiment, system.config.contrasts, cases, validation)
    if horizon := getattr(system, "horizon", None):
        system.provenance["envelope"]["horizon_days"] = list(horizon(cases))
        system.provenance["time_unit"] = system.config.unit
    if label_facts := getattr(system, "label_facts", None):
        system.provenance["labels"] = label_facts(cases)
    if experiment.init:
        system.provenance["base"] = base_of(experiment.init)
    if experiment.parts:
        system.provenance["parts"] = {name: base_of(model) for name, model in experiment.parts.items()}
    return system


def start_from(system: System, folder: Path) -> None:
    """Take over the weights of a saved model; a ControlNet may stand on one of another system."""
    stand_on: Callable[[System], System] | None = getattr(system, "stand_on", None)
    if stand_on and read_index(folder)["system"] != system.name:
        stand_on(load(folder))
        return
    for name in system.components:
        load_component(getattr(system, name), folder / name)


def latents(data: DataConfig) -> Path:
    """Return where latents are kept between runs."""
    return Path(data.cache) / "latents"


def provenance(
    experiment: Experiment, contrasts: Sequence[str], cases: Sequence[Prepared], validation: Sequence[Prepared] = ()
) -> dict[str, Any]:
    """Return what a model card must say about the training data, and the model's envelope: of real cases, if any."""
    simulated = [case for case in cases if case.patient.startswith("BraTS-PHA-")]
    real = [case for case in cases if case not in simulated]
    return {
        "patients": len({case.patient for case in real}),
        "cases": len(real),
        "phantoms": len(simulated),
        "names": sorted(case.name for case in real),
        "validation": sorted({case.patient for case in validation}),
        "sources": [
            {"name": source.dataset or Path(source.path).name, "licence": source.licence}
            for source in experiment.data.all_sources
        ],
        "not_for": experiment.not_for,
        "envelope": envelope(real or cases, contrasts),
    }


def summary(experiment: Experiment, system: System, cases: Sequence[Prepared], trainer: Trainer, run: Path) -> str:
    """Say in a few lines what will be trained, on what, where."""
    parameters = sum(p.numel() for o in trainer.optimizations for p in o.parameters)
    origin = f" from {experiment.init}" if experiment.init else ""
    facts = system.provenance
    return (
        f"{experiment.system}{origin}: {parameters / 1e6:.2f} M parameters, {len(cases)} cases "
        f"({facts['patients']} patients, {facts['phantoms']} phantoms; {len(facts['validation'])} for validation), "
        f"{experiment.train.steps} steps of {experiment.train.batch * experiment.train.accumulate}, "
        f"on {distributed.world_size()} x {trainer.device.type} in {trainer.precision.dtype} "
        f"({trainer.precision.reason}), into {run}"
    )


def packaged_config(name: str) -> Path:
    """Return a configuration by path, or by name among those that ship with the package.

    Raises:
        UsageError: There is none; the nearest is named.
    """
    from importlib.resources import files

    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    folder = Path(str(files("gen3d.configs")))
    names = sorted(p.stem for p in folder.glob("*.yaml") if p.stem != "splits")
    if name not in names:
        meant = ", ".join(other for other in names if not other.startswith("smoke_"))  # those are for tests
        raise UsageError(f"configuration '{name}': neither a file nor shipped{nearest(name, names)}; shipped: {meant}")
    return folder / f"{name}.yaml"


def base_of(init: str) -> dict[str, Any]:
    """Return what is to be told of the model that training starts from."""
    from gen3d.tools.sampling import model_title

    folder = find_model(init)
    facts = read_index(folder).get("provenance", {})
    told = ("patients", "cases", "phantoms", "sources", "licence", "base")
    spent = {key: value for key, value in facts.get("training", {}).items() if key in ("steps", "cpu_minutes")}
    return {
        "name": model_title(str(init), folder),
        "weights_sha256": weights_sha256(folder),
        **{key: facts[key] for key in told if key in facts},
        **spent,
    }
