"""``gen3d train``: from a configuration file to a saved model."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from gen3d.core import distributed
from gen3d.core.checkpoint import load_component
from gen3d.core.config import build, read_yaml, to_tree
from gen3d.core.error import UsageError, UserError
from gen3d.core.randomness import derive, seed_of
from gen3d.core.system import System
from gen3d.core.training import MODEL, TrainConfig, Trainer
from gen3d.core.volume import Prepared, Triple
from gen3d.data import cache
from gen3d.data.envelope import envelope
from gen3d.data.splits import is_test, is_validation
from gen3d.systems import find_model, system_class
from gen3d.tools.card import model_card
from gen3d.tools.progress import progress_bar


@dataclass(frozen=True)
class Source:
    """Cases of one data set.

    Attributes:
        path: A folder of cases, in any layout that gen3d reads.
        dataset: Its name in configs/splits.yaml, whose test cases are then left out; without one nobody is.
        weight: Share of the draws, relative to the other sources.
        licence: Of the data, for the model card.
    """

    path: str
    dataset: str | None = None
    weight: float = 1.0
    licence: str = "not stated"


@dataclass(frozen=True)
class Phantoms:
    """Simulated brains to train on.

    Attributes:
        count: How many.
        first_seed: Seed of the first; the others follow.
        size: Voxels, (X, Y, Z).
        spacing_mm: Of the voxels.
        weight: Share of the draws, relative to the sources.
    """

    count: int = 0
    first_seed: int = 1000
    size: Triple = (182, 218, 182)
    spacing_mm: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    """What a model is trained on.

    Attributes:
        sources: Folders of real cases.
        phantoms: Simulated ones.
        hold_out: Names of cases to leave out besides the test cases.
        use_test_cases: Keep the test cases of configs/splits.yaml; for throw-away models of a cross-validation only.
        validation: Share of the patients, simulated ones too, that is kept out for validation, chosen by SHA-256 of the
            patient's name.
        cache: Where prepared cases are kept between runs.
        prepared: A cache made elsewhere with the same configuration; all its cases are trained on, each as often as the
            others, and nothing else is read. For machines that have torch and little more.
    """

    sources: tuple[Source, ...] = ()
    phantoms: Phantoms = Phantoms()
    hold_out: tuple[str, ...] = ()
    use_test_cases: bool = False
    validation: float = 0.0
    cache: str = "runs/cache"
    prepared: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: {self.validation}; expected a share from 0 to below 1")


@dataclass(frozen=True)
class Experiment:
    """One configuration file.

    Attributes:
        system: A published name, see gen3d.systems.
        model: The system's own configuration.
        data: What it is trained on.
        train: How.
        init: A saved model whose weights training starts from.
        not_for: What the model is not for, for its card.
    """

    system: str
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    init: str | None = None
    not_for: str = "clinical use of any kind; scans unlike those it was trained on"


def read_experiment(config: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read a configuration file with ``key=value`` overrides; ``${GEN3D_DATA}`` is ``../shared/data`` unless set.

    Raises:
        UsageError: The file is missing or says something unknown; the nearest known key is named.
    """
    os.environ.setdefault("GEN3D_DATA", "../shared/data")
    experiment = build(Experiment, read_yaml(config, overrides))
    build(system_class(experiment.system).Config, experiment.model, "model")
    return experiment


def run_training(
    config: Path, overrides: Sequence[str] = (), out: Path | None = None, *, device: str = "auto", dry_run: bool = False
) -> Path:
    """Train what a configuration file says and return the folder of the saved model.

    A run folder that holds a checkpoint is resumed. ``dry_run`` builds everything, prints what would be done, and
    trains nothing. Started by torchrun, all its processes train the one model, and the first one writes and prints.

    Raises:
        UserError: Whatever keeps the run from starting or going on, in one line.
    """
    from gen3d.tools.sampling import choose_device

    with distributed.told_once():
        own = distributed.own_device(choose_device(device))
        experiment = read_experiment(config, overrides)
        run = Path(out) if out else Path("runs") / Path(config).stem
        with distributed.main_first("cases"):
            cases, weights = gather(experiment)
        distributed.join(own)
        cases, weights, validation = keep_out(cases, weights, experiment.data.validation)
        system = make_system(experiment, cases, validation)
        card = partial(model_card, run=run)
        trainer = Trainer(
            system, cases, experiment.train, run, device=own, weights=weights, validation=validation, card=card
        )
        say(summary(experiment, system, cases, trainer, run))
        if dry_run:
            return run / MODEL
        if distributed.is_main():
            write_resolved(experiment, system, run)
        with shown_progress("training", experiment.train.steps) as advance:
            for report in trainer.train():
                losses = {name.rpartition("/")[2]: value for name, value in report.items() if name.count("/") == 1}
                advance(int(report["step"]), " ".join(f"{name} {value:.4f}" for name, value in losses.items()))
        say(f"{run / MODEL}: saved after {trainer.step} steps, {trainer.cpu_seconds / 60:.1f} CPU minutes")
    return run / MODEL


def say(words: str) -> None:
    """Print a line, once for all processes."""
    if distributed.is_main():
        print(words)


def shown_progress(what: str, count: int) -> AbstractContextManager[Callable[[int, str], None]]:
    """Show a progress bar, one for all processes."""
    return progress_bar(what, count) if distributed.is_main() else nullcontext(lambda done, words: None)


def write_resolved(experiment: Experiment, system: System, run: Path) -> None:
    """Write the whole configuration, defaults included, beside the checkpoint."""
    tree = {**to_tree(experiment), "model": to_tree(system.config)}
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    except OSError as error:
        raise UserError(f"{run}: can't be written ({error.strerror}); choose another -o") from None


def make_system(experiment: Experiment, cases: Sequence[Prepared], validation: Sequence[Prepared] = ()) -> System:
    """Build the system, let it measure the training set, and start from ``init`` if there is one."""
    kind = system_class(experiment.system)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(derive(experiment.train.seed, "weights")))
        system = kind(build(kind.Config, experiment.model, "model")).measure(cases)
    if experiment.init:
        folder = find_model(experiment.init)
        for name in kind.components:
            load_component(getattr(system, name), folder / name)
    system.provenance = provenance(experiment, system.config.contrasts, cases, validation)
    return system


def gather(experiment: Experiment) -> tuple[list[Prepared], list[float]]:
    """Prepare every case, through the cache, and return them with the weight of each."""
    data = experiment.data
    if data.prepared:
        cases = cache.load(Path(data.prepared))
        return cases, [1.0] * len(cases)
    from gen3d.data.layout import read_case
    from gen3d.data.phantom import phantom

    kind = system_class(experiment.system)
    system = kind(build(kind.Config, experiment.model, "model"))
    groups = [(source.weight, real_cases(source, data)) for source in data.sources]
    phantoms: dict[str, list[Path]] = {
        f"phantom/{seed}/{data.phantoms.size}/{data.phantoms.spacing_mm}": [] for seed in phantom_seeds(data.phantoms)
    }
    settings = preparation(experiment, system)

    def make(key: str) -> Prepared:
        if key.startswith("phantom/"):
            contrasts = getattr(system.config, "contrasts", ())
            case = phantom(int(key.split("/")[1]), data.phantoms.size, data.phantoms.spacing_mm, contrasts)
        else:
            case = read_case(Path(key))
        return system.prepare(case)

    cases = []
    weights: list[float] = []
    everything: list[tuple[float, Mapping[str, list[Path]]]] = [*groups, (data.phantoms.weight, phantoms)]
    with shown_progress("preparing", sum(len(sources) for _, sources in everything)) as advance:
        for weight, sources in everything:
            for key, files in sources.items():
                cases += cache.refresh({key: files}, Path(data.cache), settings, make)
                weights.append(weight / len(sources))
                advance(len(cases), cases[-1].name)
    if not cases:
        raise UserError(
            "data: no training cases; expected data.sources with cases in them, or data.phantoms.count above 0"
        )
    return cases, weights


def keep_out(
    cases: Sequence[Prepared], weights: Sequence[float], share: float
) -> tuple[list[Prepared], list[float], list[Prepared]]:
    """Return the cases to train on, the weight of each, and the cases of the patients kept out for validation.

    Raises:
        UserError: One side is empty.
    """
    pairs = list(zip(cases, weights, strict=True))
    training = [pair for pair in pairs if not is_validation(pair[0].patient, share)]
    validation = [case for case in cases if is_validation(case.patient, share)]
    if share and not (training and validation):
        side = "validation" if training else "training"
        raise UserError(
            f"data.validation: {share} of {len({case.patient for case in cases})} patients leaves none for {side}; "
            "choose another share, or add patients"
        )
    return [case for case, _ in training], [weight for _, weight in training], validation


def preparation(experiment: Experiment, system: System) -> tuple[object, ...]:
    """Return what the preparation of a case depends on, for the cache."""
    return (experiment.system, *(getattr(system.config, part) for part in system.preparation))


def real_cases(source: Source, data: DataConfig) -> dict[str, list[Path]]:
    """List a source's training cases, path to files."""
    from gen3d.data.layout import find_cases
    from gen3d.data.nifti import without_ending

    cases = {}
    for path in find_cases(source.path):
        name = without_ending(path)
        kept_out = source.dataset is not None and not data.use_test_cases and is_test(source.dataset, name)
        if not kept_out and name not in data.hold_out:
            cases[str(path)] = [path]
    if not cases:
        raise UserError(f"data.sources: {source.path}: no training cases left in it")
    return cases


def phantom_seeds(phantoms: Phantoms) -> range:
    """Return the seeds of the phantoms."""
    return range(phantoms.first_seed, phantoms.first_seed + phantoms.count)


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
            for source in experiment.data.sources
        ],
        "not_for": experiment.not_for,
        "envelope": envelope(real or cases, contrasts),
    }


def summary(experiment: Experiment, system: System, cases: Sequence[Prepared], trainer: Trainer, run: Path) -> str:
    """Say in a few lines what will be trained, on what, where."""
    parameters = sum(p.numel() for o in trainer.optimizations for p in o.parameters)
    facts = system.provenance
    return (
        f"{experiment.system}: {parameters / 1e6:.2f} M parameters, {len(cases)} cases "
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

    from gen3d.core.error import nearest

    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    folder = Path(str(files("gen3d.configs")))
    names = sorted(p.stem for p in folder.glob("*.yaml") if p.stem != "splits")
    if name not in names:
        raise UsageError(
            f"configuration '{name}': neither a file nor shipped{nearest(name, names)}; shipped: {', '.join(names)}"
        )
    return folder / f"{name}.yaml"
