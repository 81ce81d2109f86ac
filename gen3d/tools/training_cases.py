"""What a model is trained on: folders of real cases, an archive of studies, simulated brains; through the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gen3d.core.error import UserError
from gen3d.core.system import System
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.data import cache
from gen3d.data.splits import is_test, is_validation, split_by_patient
from gen3d.data.study import Study
from gen3d.tools.progress import say, shown_progress


@dataclass(frozen=True)
class Source:
    """Cases of one data set.

    Attributes:
        path: A folder of cases, in any layout that gen3d reads; of several raters' masks, see gen3d.data.raters, an npz
            archive too.
        dataset: Its name in configs/splits.yaml, whose test cases are then left out; without one nobody is.
        weight: Share of the draws, relative to the other sources.
        licence: Of the data, for the model card.
        contrast: What every scan that lies right in the folder shows, where their names don't say; masks are left out.
            Of sequences, which scan of each visit.
        sequences: Whether the visits of a patient, or the frames of a 4D file, are learnt from as a sequence.
    """

    path: str
    dataset: str | None = None
    weight: float = 1.0
    licence: str = "not stated"
    contrast: str | None = None
    sequences: bool = False


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
        archive: A folder or table of studies in any layout, whose complete studies are trained on instead of the
            sources, with their weight, and without phantoms unless these are asked for. ``data=PATH`` says the same.
        aliases: A YAML file with one's own names of contrasts.
        hold_out: Names of cases to leave out besides the test cases.
        use_test_cases: Keep the test cases of configs/splits.yaml; for throw-away models of a cross-validation only.
        validation: Share of the patients, simulated ones too, that is kept out for validation, chosen by SHA-256 of the
            patient's name; by default a fifth of an archive's and none of other sources'.
        cache: Where prepared cases are kept between runs.
        prepared: A cache made elsewhere with the same configuration; all its cases are trained on, each as often as the
            others, and nothing else is read. For machines that have torch and little more.
    """

    sources: tuple[Source, ...] = ()
    phantoms: Phantoms = Phantoms()
    archive: str | None = None
    aliases: str | None = None
    hold_out: tuple[str, ...] = ()
    use_test_cases: bool = False
    validation: float | None = None
    cache: str = "runs/cache"
    prepared: str | None = None

    def __post_init__(self) -> None:
        if self.validation is not None and not 0 <= self.validation < 1:
            raise ValueError(f"validation: {self.validation}; expected a share from 0 to below 1")

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The real cases' sources, of which an archive is one."""
        return (Source(self.archive),) if self.archive else self.sources

    @property
    def kept_out(self) -> float:
        """The share of the patients that is kept out."""
        return self.validation if self.validation is not None else 0.2 if self.archive else 0.0


def gather(data: DataConfig, system: System) -> tuple[list[Prepared], list[float]]:
    """Prepare every case for a system, through the cache, and return them with the weight of each.

    Raises:
        UserError: A case can't be read (of an archive, none can), or there is none.
    """
    if data.prepared:
        cases = cache.load(Path(data.prepared))
        return cases, [1.0] * len(cases)
    cases = archived(data, system) if data.archive else []
    weights = [(sum(source.weight for source in data.sources) or 1.0) / len(cases) for _ in cases]
    phantoms = data.phantoms
    seeds = range(phantoms.first_seed, phantoms.first_seed + phantoms.count)
    groups: list[tuple[float, Sequence[Callable[[], Prepared]]]] = [
        *((source.weight, makers(source, data, system)) for source in ([] if data.archive else data.sources)),
        (phantoms.weight, [partial(simulated, seed, data, system) for seed in seeds]),
    ]
    count = sum(len(group) for _, group in groups)
    if count:
        say(f"preparing {count} case{'' if count == 1 else 's'}, kept in {data.cache} for the next run")
    with shown_progress("preparing", count) as advance:
        for weight, group in groups:
            for make in group:
                cases.append(make())
                weights.append(weight / len(group))
                advance(len(weights), cases[-1].name)
    if not cases:
        raise UserError(
            "data: no training cases; expected data.sources with cases in them, or data.phantoms.count above 0"
        )
    return cases, weights


def makers(source: Source, data: DataConfig, system: System) -> Sequence[Callable[[], Prepared]]:
    """Return what makes each training case of a source.

    Raises:
        UserError: There is none, or the system does not learn from sequences.
    """
    if source.sequences and not hasattr(system, "prepare_patient"):
        raise UserError(f"data.sources: {source.path}: {system.name} does not learn from sequences; leave it out")
    if source.sequences:
        found = [partial(followed, path, source, data, system) for path in real_patients(source, data)]
    else:
        found = [partial(stored, study, data, system) for study in real_cases(source, data)]
    if not found:
        raise UserError(f"data.sources: {source.path}: no training cases left in it")
    return found


def followed(path: Path, source: Source, data: DataConfig, system: Any) -> Prepared:
    """Return a patient's visits as the cache holds them, prepared anew where files or settings have changed."""
    from gen3d.data.nifti import without_ending
    from gen3d.data.visits import read_patient

    files = [path, *path.rglob("*"), path.with_name(f"{without_ending(path)}.json")]  # the last: times of a 4D file
    key, settings = f"sequence/{path}/{source.contrast}", preparation(system)
    make = partial(read_patient, path, source.contrast)
    return cache.refresh({key: files}, Path(data.cache), settings, lambda _: system.prepare_patient(make()))[0]


def stored(study: Study, data: DataConfig, system: System) -> Prepared:
    """Return a study as the cache holds it, prepared anew where its files or the settings have changed."""
    from gen3d.data.raters import RatedStudy, read_rater_case
    from gen3d.data.studies import read_study

    files = [*study.files.values(), *([study.lesion] if study.lesion else [])]
    key = f"{study.source}/{study.place}/{','.join(study.files)}"
    read: Callable[[], Case] = partial(read_study, study)
    if isinstance(study, RatedStudy):
        files, key = [*files, *study.masks.values()], f"{key}/{study.raters} raters"
        read = partial(read_rater_case, study)
    return cache.refresh({key: files}, Path(data.cache), preparation(system), lambda _: system.prepare(read()))[0]


def simulated(seed: int, data: DataConfig, system: System) -> Prepared:
    """Return a phantom as the cache holds it."""
    from gen3d.data.phantom import phantom

    size, spacing = data.phantoms.size, data.phantoms.spacing_mm
    contrasts = getattr(system.config, "contrasts", ())
    return cache.refresh(
        {f"phantom/{seed}/{size}/{spacing}": []},
        Path(data.cache),
        preparation(system),
        lambda _: system.prepare(phantom(seed, size, spacing, contrasts)),
    )[0]


def archived(data: DataConfig, system: System) -> list[Prepared]:
    """Prepare the complete studies of an archive, and say which are left out and why.

    Raises:
        UserError: None is complete and fit to read.
    """
    from gen3d.data.studies import find_studies, read_aliases

    assert data.archive
    studies = find_studies(Path(data.archive), read_aliases(Path(data.aliases)) if data.aliases else None)
    cases: list[Prepared] = []
    left_out: list[str] = []
    say(f"preparing the studies of {data.archive} ({len(studies)}), kept in {data.cache} for the next run")
    with shown_progress("preparing", len(studies)) as advance:
        for done, study in enumerate(studies, 1):
            lacking = [name for name in system.config.contrasts if name not in study.files]
            try:
                if study.name in data.hold_out:
                    raise UserError("in data.hold_out")
                if lacking:
                    raise UserError(f"lacks {', '.join(lacking)}")
                cases.append(stored(study, data, system))
            except UserError as error:
                left_out.append(f"{study.name} ({error})")
            advance(done, study.name)
    for words in left_out[:10]:
        say(f"left out: {words}")
    if len(left_out) > 10:
        say(f"left out: {len(left_out) - 10} more")
    if not cases:
        raise UserError(
            f"{data.archive}: none of its {len(studies)} studies is complete; expected some with all of "
            f"{', '.join(system.config.contrasts)} on one grid"
        )
    patients = len({case.patient for case in cases})
    say(f"{data.archive}: {len(cases)} of {len(studies)} studies are complete, {patients} patients")
    return cases


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


def keep_out_of_archive(
    cases: Sequence[Prepared], weights: Sequence[float], share: float, simulated: int
) -> tuple[list[Prepared], list[float], list[Prepared]]:
    """Return what ``keep_out`` does, with at least one patient on either side however few there are.

    Args:
        cases: The archive's, then simulated ones, all of which are trained on.
        weights: Of each.
        share: Of the patients.
        simulated: How many of the cases are.

    Raises:
        UserError: There is a single patient.
    """
    if not share:
        return list(cases), list(weights), []
    real = cases[: len(cases) - simulated]
    _, validation = split_by_patient(real, share)
    if not validation:
        raise UserError(
            "data.archive: its complete studies are of one patient, so none can be held out to see what training does; "
            "add a patient, or train blindly with data.validation=0"
        )
    kept = {case.patient for case in validation}
    places = [i for i, case in enumerate(cases) if i >= len(real) or case.patient not in kept]
    return [cases[i] for i in places], [weights[i] for i in places], validation


def preparation(system: System) -> tuple[object, ...]:
    """Return what the preparation of a case depends on, for the cache."""
    return (system.name, *(getattr(system.config, part) for part in system.preparation))


def real_cases(source: Source, data: DataConfig) -> list[Study]:
    """List a source's training cases."""
    from gen3d.data.raters import find_rater_cases, holds_raters
    from gen3d.data.studies import find_studies, read_aliases, scans_of

    aliases = read_aliases(Path(data.aliases)) if data.aliases else None
    path = Path(source.path)
    found: Sequence[Study]
    if holds_raters(path):
        found = find_rater_cases(path, source.contrast)
    else:
        found = scans_of(path, source.contrast) if source.contrast else find_studies(path, aliases)
    return [study for study in found if trained_on(study.name, source, data)]


def real_patients(source: Source, data: DataConfig) -> list[Path]:
    """List a source's training patients with several visits."""
    from gen3d.data.nifti import without_ending
    from gen3d.data.visits import find_patients

    return [path for path in find_patients(source.path) if trained_on(without_ending(path), source, data)]


def trained_on(name: str, source: Source, data: DataConfig) -> bool:
    """Tell whether a case is neither held out nor a test case."""
    kept_out = source.dataset is not None and not data.use_test_cases and is_test(source.dataset, name)
    return not kept_out and name not in data.hold_out
