"""``gen3d evaluate downstream``: whether synthetic pairs make a segmentation network better, and how much."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gen3d.core.config import build, to_tree
from gen3d.core.error import UsageError, UserError
from gen3d.core.system import System
from gen3d.core.training import MODEL, TrainConfig
from gen3d.data.atomic import appearing
from gen3d.data.study import Study
from gen3d.segmentation.plain import Plain
from gen3d.systems import find_model, load, system_class
from gen3d.tools.evaluate.downstream_cases import Split, chosen, draw_pairs, split_cases, train_generator
from gen3d.tools.evaluate.downstream_network import as_cases, fitted, scored, small_network
from gen3d.tools.evaluate.downstream_tables import CLASSICAL, REAL, Found, tables, warnings
from gen3d.tools.evaluate.report import Report, protect
from gen3d.tools.sampling import choose_device
from gen3d.tools.train import packaged_config, read_experiment

COMMAND = "downstream"
SYNTHETIC, MIXED, BOTH = "synthetic alone", "real + synthetic", "real + classical + synthetic"
RUNS, PLAN = "runs", "plan.json"
TURN, ZOOM, BEND = 10.0, 0.1, 1.5  # classical augmentation, see gen3d.data.warp
TRAINING = TrainConfig(
    batch=2,
    lr=2e-3,
    schedule="cosine",
    warmup=50,
    betas=(0.9, 0.99),
    ema=0.99,
    checkpoint_every=250,
    log_every=50,
)

Advance = Callable[[float, str], None]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        real: Folder of real cases with masks.
        config: Configuration of the generators that are trained, one for each number of cases and seed.
        overrides: ``key=value`` for it.
        sizes: How many real patients there are.
        curve: More numbers of patients, of which only "real" is measured, to tell what arms are worth.
        seeds: Of the choice of patients, of all training and drawing.
        steps: Of the segmentation network, the same in every arm.
        count: Synthetic pairs of a set.
        ratio: Share of synthetic cases among the draws of an arm that mixes.
        from_masks: Let generators trained here draw images of their own real masks, deformed, not image and mask.
        models: Of pairs, trained elsewhere, which draw image and mask: an arm each beside the real cases.
        dataset: Whose test cases of configs/splits.yaml are tested on.
        test: A folder of test cases; with neither, a fifth of the patients.
    """

    real: Path
    config: str
    overrides: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (10, 50)
    curve: tuple[int, ...] = ()
    seeds: int = 3
    steps: int = 1000
    count: int = 100
    ratio: float = 0.5
    from_masks: bool = False
    models: tuple[str, ...] = ()
    dataset: str | None = None
    test: Path | None = None

    def __post_init__(self) -> None:
        for name, value in (("--seeds", self.seeds), ("--training-steps", self.steps), ("-n", self.count)):
            if value < 1:
                raise UsageError(f"{name} {value}: expected at least 1")
        if not self.sizes or min(*self.sizes, *self.curve, 2) < 1:
            raise UsageError("--patients: expected numbers of real patients of 1 or more, such as 10,50")
        if not 0 < self.ratio < 1:
            raise UsageError(f"--ratio {self.ratio:g}: expected a share between 0 and 1")
        if len({short(model) for model in self.models}) < len(self.models):
            raise UsageError(f"--model {', '.join(self.models)}: two of one name; rename a folder")
        if self.dataset and self.test:
            raise UsageError("--dataset, --test: either says what is tested on; leave one of them out")


def evaluate_downstream(
    asked: Comparison,
    out: Path,
    *,
    part: tuple[int, int] = (1, 1),
    device: str = "auto",
    dry_run: bool = False,
    advance: Advance = lambda share, words: None,
) -> Report | str:
    """Train the same small segmentation network with and without synthetic pairs and test it on unseen real cases.

    For each seed and number of real patients: "real"; "real + classical", turned, stretched and bent; "real +
    synthetic", "real + classical + synthetic" and "synthetic alone", pairs of a generator that saw the same patients
    and no others; and real cases with pairs of each model of ``models``. All arms flip and change grey values at random
    and train as many steps. What is finished is kept in ``out/runs``; a part does its share of it, and the one that
    finds all finished tells the result.

    Args:
        asked: What is compared.
        out: Where everything goes.
        part: i of n: every n-th pair of seed and number of patients from the i-th on.
        device: For all networks.
        dry_run: Check everything and say what would be done.
        advance: Told the share done and what is being done.

    Returns:
        The report, or what is still to be done.

    Raises:
        UserError: Too few real cases, a test case among those that a model was trained on, or another run's folder.
    """
    protect(out)
    place = str(choose_device(device))
    experiment = read_experiment(packaged_config(asked.config), asked.overrides)
    kind = system_class(experiment.system)
    generator: Any = kind(build(kind.Config, experiment.model, "model"))
    if getattr(generator, "task", None) != "pairs":
        raise UserError(f"{asked.config}: a {kind.name} draws no masks; expected a configuration of pairs")
    split = split_cases(asked.real, asked.dataset, asked.test, generator.config.contrasts)
    largest = max(*asked.sizes, *asked.curve, 0)
    if largest > len(split.patients):
        raise UserError(
            f"{asked.real}: {len(split.patients)} patients to train on, {len(split.test)} test cases; "
            f"--patients asks for {largest}"
        )
    for model in asked.models:
        forbid_seen(model, split)
    job = Work(asked, split, small_network(generator.config), out / RUNS, place)
    units = [(seed, size) for seed in range(asked.seeds) for size in (*asked.sizes, *asked.curve)]
    mine = units[part[0] - 1 :: part[1]]
    if dry_run:
        networks, generators = (
            sum(len(job.arms(size)) for _, size in mine),
            sum(size in asked.sizes for _, size in mine),
        )
        words = (
            f"{len(split.patients)} patients to train on, {len(split.test)} test cases; would train {networks} networks"
        )
        return (
            f"{words} of {asked.steps} steps and {generators} generators of {experiment.train.steps}; nothing written"
        )
    begin(out, asked, split)
    for done, (seed, size) in enumerate(mine):
        for arm in job.arms(size):
            advance(done / len(mine), f"{size} patients, seed {seed}: {arm}")
            job.measure(arm, size, seed)
    lacking = sum(not all(job.result(arm, size, seed) for arm in job.arms(size)) for seed, size in units)
    if lacking:
        return f"{out}: this part is finished; {lacking} of {len(units)} choices of patients, of other parts, are not"
    return report(asked, split, job)


@dataclass(frozen=True)
class Work:
    """Everything that the arms share.

    Attributes:
        asked: What is compared.
        split: Who trains and who is tested on.
        network: An untrained segmentation network, whose weights are drawn anew for each arm.
        runs: Where it is done.
        device: Where networks compute.
    """

    asked: Comparison
    split: Split
    network: Plain
    runs: Path
    device: str

    def arms(self, size: int) -> tuple[str, ...]:
        """Return the names of the arms with so many patients."""
        if size not in self.asked.sizes:
            return (REAL,)
        return (REAL, CLASSICAL, MIXED, BOTH, SYNTHETIC, *(with_model(model) for model in self.asked.models))

    def result(self, arm: str, size: int, seed: int) -> Tree | None:
        """Return what was measured of an arm, or None."""
        path = self.folder(size, seed) / f"{arm}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def folder(self, size: int, seed: int) -> Path:
        """Return the folder of one choice of patients."""
        return self.runs / f"{size}-patients-seed-{seed}"

    def measure(self, arm: str, size: int, seed: int) -> None:
        """Train and test an arm unless it was."""
        if self.result(arm, size, seed):
            return
        home, asked = self.folder(size, seed), self.asked
        real = chosen(self.split, size, seed)
        facts: Tree = {"arm": arm, "patients": size, "seed": seed, "names": [study.name for study in real]}
        synthetic: Sequence[Study] = ()
        if arm not in (REAL, CLASSICAL):
            model, made = self.generator(arm, real, home, seed)
            pairs = home / f"pairs of {short(model)}" if made is None else home / "pairs"
            masks = real if asked.from_masks and made is not None else ()
            drawn = draw_pairs(model, asked.count, pairs, masks, seed, self.device)
            synthetic, facts["pairs"] = drawn.studies, {**drawn.facts, **(made or {})}
        system = self.network
        if arm in (CLASSICAL, BOTH):
            system = Plain(replace(system.config, turn=TURN, zoom=ZOOM, bend=BEND))
        cases = [] if arm == SYNTHETIC else as_cases(system, real)
        others = as_cases(system, synthetic)
        weights = shares(len(cases), len(others), asked.ratio)
        training = replace(TRAINING, steps=asked.steps, seed=seed)
        trained, seconds = fitted(system, [*cases, *others], weights, training, home / arm, self.device)
        facts |= {"steps": asked.steps, "training_cpu_seconds": round(seconds, 1)}
        facts["dice"] = scored(trained, self.split.test, self.device)
        with appearing(home / f"{arm}.json") as path:
            path.write_text(json.dumps(facts, indent=1) + "\n")

    def generator(self, arm: str, real: Sequence[Study], home: Path, seed: int) -> tuple[str, Tree | None]:
        """Return a model of pairs, and for one that is trained here what that took."""
        named = [model for model in self.asked.models if arm == with_model(model)]
        if named:
            return named[0], None
        made = train_generator(self.asked.config, self.asked.overrides, self.split, real, home, seed, self.device)
        return str(made.model), {"generator_cpu_seconds": made.cpu_seconds, "generator_steps": made.steps}


def short(model: str) -> str:
    """Return a model's name: a shipped one's, or its folder's, of RUN/model that of RUN."""
    path = Path(model)
    return path.parent.name if path.name == MODEL and path.parent.name else path.name


def with_model(model: str) -> str:
    """Return the name of a model's arm."""
    return f"{REAL} + {short(model)}"


def shares(real: int, synthetic: int, ratio: float) -> list[float]:
    """Return how often each real case, then each synthetic one is drawn: ``ratio`` of all draws are synthetic."""
    share = ratio if real and synthetic else float(synthetic > 0)
    return [(1 - share) / max(real, 1)] * real + [share / max(synthetic, 1)] * synthetic


def forbid_seen(model: str, split: Split) -> None:
    """Check that a model made elsewhere has seen no test case.

    Raises:
        UserError: It has, or draws no masks.
    """
    system: System = load(find_model(model))
    if getattr(system, "task", None) != "pairs":
        raise UserError(f"--model {model}: this {system.name} draws no masks; expected a model of pairs")
    seen = set(system.provenance.get("names", ()))
    tested = sorted(seen & {study.name for study in split.test})
    if tested or not seen:
        why = f"was trained on the test case {tested[0]}" if tested else "does not say what it was trained on"
        raise UserError(f"--model {model}: {why}; its arm would prove nothing; leave it out")


def begin(out: Path, asked: Comparison, split: Split) -> None:
    """Take the folder for this comparison, or go on with the same one.

    Raises:
        UserError: It holds another one.
    """
    tree = {**to_tree(asked), "test_cases": [study.name for study in split.test]}
    text = json.dumps(tree, indent=1, default=str, sort_keys=True) + "\n"
    path = out / PLAN
    if path.is_file() and path.read_text() != text:
        before, now = json.loads(path.read_text()), json.loads(text)
        odd = next((name for name in now if before.get(name) != now[name]), PLAN)
        raise UserError(f"{out}: holds another comparison (its {odd} differs); they are never mixed; choose another -o")
    with appearing(path) as new:
        new.write_text(text)


def report(asked: Comparison, split: Split, job: Work) -> Report:
    """Return the tables and the picture of a finished comparison."""
    rows: list[Tree] = []
    for seed in range(asked.seeds):
        for size in (*asked.sizes, *asked.curve):
            rows += [found for arm in job.arms(size) if (found := job.result(arm, size, seed))]
    result = Found(rows, asked.sizes, job.arms(asked.sizes[0]))

    def draw(figure: Any) -> None:
        from gen3d.tools.evaluate.downstream_picture import picture

        picture(figure, result)

    settings = {**to_tree(asked), "test_cases": len(split.test), "training_patients": len(split.patients)}
    facts = {"arms": result.summary(), "rows": rows}
    return Report(COMMAND, settings, tables(result, settings), facts, draw, warnings(result))
