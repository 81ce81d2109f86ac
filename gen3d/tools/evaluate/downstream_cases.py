"""Real cases of a downstream comparison: who trains, who is tested on; generators that see an arm's patients only."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d.core.error import UserError
from gen3d.core.tracking import LOG
from gen3d.data.atomic import appearing
from gen3d.data.nifti import ENDINGS
from gen3d.data.splits import is_test, split_by_patient
from gen3d.data.studies import find_studies
from gen3d.data.study import Study
from gen3d.tools.augment.augment import augment
from gen3d.tools.augment.pair import Wishes
from gen3d.tools.train import packaged_config, run_training


@dataclass(frozen=True)
class Split:
    """Real cases.

    Attributes:
        source: Their folder.
        patients: Name of each patient to train on, and the studies.
        test: Studies that are tested on.
    """

    source: Path
    patients: Mapping[str, Sequence[Study]]
    test: Sequence[Study]


@dataclass(frozen=True)
class Generator:
    """A generator that was trained here."""

    model: Path
    steps: int
    cpu_seconds: float


@dataclass(frozen=True)
class Drawn:
    """A synthetic set, and what became of its draws."""

    studies: Sequence[Study]
    facts: Mapping[str, Any]


def split_cases(real: Path, dataset: str | None, test: Path | None, contrasts: Sequence[str]) -> Split:
    """Return who trains and who is tested on: by configs/splits.yaml, by a folder, or a fifth of the patients.

    Raises:
        UserError: A study lacks its mask or an image, or a side is empty.
    """
    studies = find_studies(real)
    others = find_studies(test) if test else []
    for study in (*studies, *others):
        lacking = [name for name in contrasts if name not in study.files]
        if study.problem or lacking or study.lesion is None:
            what = study.problem or (f"lacks {', '.join(lacking)}" if lacking else "has no mask")
            raise UserError(f"{study.source}: {what}; expected images and masks of every case; leave {study.name} out")
    if dataset:
        others = [study for study in studies if is_test(dataset, study.name)]
        studies = [study for study in studies if not is_test(dataset, study.name)]
    elif test is None:
        studies, others = split_by_patient(studies, 0.2)
    if both := {study.patient for study in studies} & {study.patient for study in others}:
        raise UserError(f"{test}: {min(both)} is in {real} too; test on patients who are not trained on")
    if not (studies and others):
        raise UserError(f"{real}: {len(studies)} cases to train on, {len(others)} to test on; expected some of both")
    patients: dict[str, list[Study]] = {}
    for study in studies:
        patients.setdefault(study.patient, []).append(study)
    return Split(real, patients, others)


def chosen(split: Split, size: int, seed: int) -> list[Study]:
    """Return the studies of ``size`` patients, ranked by SHA-256 of "seed/patient": more hold those of fewer."""
    ranked = sorted(split.patients, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return [study for name in sorted(ranked[:size]) for study in split.patients[name]]


def train_generator(
    config: str, overrides: Sequence[str], split: Split, real: Sequence[Study], home: Path, seed: int, device: str
) -> Generator:
    """Train a generator on some studies and no others, or go on with it.

    Raises:
        UserError: It can't be trained, or saw anybody else.
    """
    run, names = home / "generator", {study.name for study in real}
    studies = [study for group in split.patients.values() for study in group]
    hold_out = sorted({study.name for study in (*studies, *split.test)} - names)
    told = [
        f"data.sources={json.dumps([{'path': str(split.source.resolve())}])}",
        f"data.hold_out={json.dumps(hold_out)}",
        f"data.cache={json.dumps(str((home.parent / 'cache').resolve()))}",
        "data.phantoms.count=0",
        "data.validation=0",
        f"train.seed={seed}",
    ]
    model = run / "model"
    if not (model / "model_index.json").is_file():
        model = run_training(packaged_config(config), [*overrides, *told], run, device=device)
    index = json.loads((model / "model_index.json").read_text())
    saw = set(index["provenance"]["names"])
    if saw != names:
        raise UserError(f"{model}: was trained on {len(saw)} cases, not on this arm's {len(names)}; remove {run}")
    last = json.loads((run / LOG).read_text().splitlines()[-1])
    return Generator(model, int(last["step"]), round(float(last["cpu_seconds"]), 1))


def draw_pairs(model: str, count: int, out: Path, masks: Sequence[Study], seed: int, device: str) -> Drawn:
    """Draw a synthetic set, or go on with it; with masks, images of these, deformed.

    Raises:
        UserError: The gates refused all.
    """
    begin = time.process_time()
    wishes = Wishes(device=device)
    if masks:
        wishes = Wishes(masks=copied(masks, out.with_name("masks")), deform=True, device=device)
    counts = augment(model, count, out, wishes=wishes, seed=seed)
    times = out.with_name(f"{out.name}.json")
    if not times.is_file():
        with appearing(times) as path:
            path.write_text(json.dumps({"cpu_seconds": round(time.process_time() - begin, 1)}) + "\n")
    if not counts["accepted"]:
        raise UserError(f"{out}: the gates refused all of {count} cases; its report.md says why; train for longer")
    facts = {name: counts[name] for name in ("accepted", "draws", "rejected")}
    return Drawn(find_studies(out), {**facts, **json.loads(times.read_text())})


def copied(studies: Sequence[Study], folder: Path) -> Path:
    """Copy the masks of some studies into a folder and return it."""
    for study in studies:
        assert study.lesion is not None
        place = folder / f"{study.name}{next(end for end in ENDINGS if study.lesion.name.endswith(end))}"
        if not place.is_file():
            with appearing(place) as path:
                shutil.copyfile(study.lesion, path)
    return folder
