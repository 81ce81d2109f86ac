"""From forecasts of one patient to files: NIfTI in the last visit's geometry, sidecars, volumes over time, pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gen3d import __version__
from gen3d.core.checkpoint import write_json
from gen3d.core.randomness import derive
from gen3d.core.volume import Volume
from gen3d.data.nifti import write
from gen3d.data.visits import Patient, Visit
from gen3d.tools import forecast_picture
from gen3d.tools.delivery import sidecars
from gen3d.tools.forecast_images import UNLIKE, Advance, Answer, Seen, answer, changed, look, rolled_out, sizes
from gen3d.tools.forecast_query import Query, label
from gen3d.tools.forecast_scores import drift, mean_of, scored, spread
from gen3d.tools.record import WARNING, about, description, sidecar, write_record
from gen3d.tools.request import sample_suffix
from gen3d.tools.sampling import OpenModel, choose_walk
from gen3d.tools.volume_spread import interval_80

NIFTI = ".nii.gz"


@dataclass(frozen=True, eq=False)
class Job:
    """All that is forecast of one patient.

    Attributes:
        patient: Its visits, in register, a hidden one too.
        known: Those that the model is given.
        hidden: The visit that forecasts are compared with.
        queries: Which times are asked for.
        samples: Plausible images for each.
        seed: Of them.
        keep: Whether the samples are written too.
        rollout: Days of a step, if forecasts are rolled out too.
        facts: What every sidecar says.
    """

    patient: Patient
    known: Patient
    hidden: Visit | None
    queries: tuple[Query, ...]
    samples: int
    seed: int
    keep: bool
    rollout: float | None
    facts: Mapping[str, Any]

    def stem(self, query: Query) -> str:
        """Return what the names of a forecast's files begin with."""
        return f"{self.patient.name}_{query.label}"

    def kinds(self) -> list[str]:
        """Return what ends the names of a forecast's images."""
        samples = [sample_suffix(index) for index in range(self.samples)] if self.keep else []
        std = ["_std"] if self.samples > 1 else []
        return ["_forecast", "_change", *std, *samples, *(["_rollout"] if self.rollout else [])]

    def names(self) -> list[str]:
        """Return the names of all files that may be written."""
        images = [f"{self.stem(query)}{kind}{NIFTI}" for query in self.queries for kind in self.kinds()]
        pictures = [f"{self.stem(query)}_preview.png" for query in self.queries]
        both = [f"{self.patient.name}_volumes{end}" for end in (".json", ".png")]
        return [*images, *(sidecar(Path(image)).name for image in images), *pictures, *both]


def write_patient(folder: Path, model: OpenModel, job: Job, advance: Advance) -> list[dict[str, Any]]:
    """Forecast everything that is asked of one patient and write it; return a row for each time."""
    believed, measured = UNLIKE if job.facts["outside_training"] else 1.0, job.facts["structures_measured"]
    seen = look(model.system, job.known.visits, believed, measured=measured)
    whole = look(model.system, job.patient.visits, measured=measured) if job.hidden else seen
    rows = []
    for index, query in enumerate(job.queries):

        def of_all(share: float, index: int = index) -> None:
            advance((index + share) / len(job.queries))

        rows.append(write_forecast(folder, model, job, seen, whole, query, of_all))
    if seen.measured:
        tree = volumes_tree(model, job, whole, rows)
        forecast_picture.volumes(folder / tree["file"], model, tree)
        write_json(folder / f"{job.patient.name}_volumes.json", tree)
    return rows


def write_forecast(
    folder: Path, model: OpenModel, job: Job, seen: Seen, whole: Seen, query: Query, advance: Advance
) -> dict[str, Any]:
    """Forecast one time of one patient and write it; return what became of it."""
    stem, key = job.stem(query), derive(job.seed, job.patient.name, query.label)
    measured: list[dict[str, float]] = []
    kept: list[np.ndarray] = []

    def take(index: int, image: np.ndarray, change: np.ndarray) -> None:
        measured.append(sizes(model, seen, image))
        if job.keep:
            kept.append(change)

    share = 0.6 if job.rollout else 0.9
    found = answer(model, seen, query.day, key, job.samples, take, lambda done: advance(share * done))
    contrast = seen.last.contrast or model.system.config.contrasts[0]
    row = {**asked(query, stem), "samples": found.samples}
    if seen.measured:
        latest = sizes(model, seen, found.latest)
        volumes = {"forecast": sizes(model, seen, found.image), "copy": latest}
        drawn = {"samples_mean": mean_of(measured), **spread(measured)}
        interval = {"interval_80": likely(model, seen, query.day, volumes["forecast"])}
        row["volumes_ml"] = {**rounded(volumes), **drawn, **interval}
    if job.hidden is not None:
        row["scores"] = scored(model, seen, whole, found)
    images = {"_forecast": (found.voxels, found.kind), "_change": (found.voxels - found.copy, "forecast - last visit")}
    if found.std is not None:
        images["_std"] = (found.std, "standard deviation of samples")
    for index, change in enumerate(kept):
        images[sample_suffix(index)] = (changed(found.copy, change), "sample")
    if job.rollout:
        row["rollout"], end = rolled(model, job, seen, query, key, lambda done: advance(share + 0.3 * done))
        images["_rollout"] = (end, f"rolled out in steps of {job.rollout:g} {query.unit}")
    walk = choose_walk(model.system)
    facts = {
        "contrast": contrast,
        **job.facts,
        **row,
        "intensity": f"that of {seen.visits[-1].name}",
        "seed": job.seed,
        "sampler": walk.sampler if found.samples else None,
        "steps": walk.steps if found.samples else 1,
        "preview": f"{stem}_preview.png",
    }
    for kind, (voxels, words) in images.items():
        path = folder / f"{stem}{kind}{NIFTI}"
        volume = Volume(voxels.astype(np.float32), seen.last.affine, contrast)
        write(volume, path, like=seen.last, description=description(model, f"{contrast} {kind[1:]}"))
        write_record(path, model, {**facts, "kind": words})
    title = f"{job.patient.name}: synthetic forecast of {query.words}"
    truth = None if job.hidden is None else true_in_file_units(seen, whole, found)
    preview = folder / facts["preview"]
    forecast_picture.slices(preview, model, seen.last, found, title, query.last.name, truth)
    advance(1.0)
    return {**row, "files": sorted(f"{stem}{kind}{NIFTI}" for kind in images)}


def asked(query: Query, stem: str) -> dict[str, Any]:
    """Return what identifies a forecast."""
    when = {"at": query.label, "day": query.day, "after": query.after, "last_visit": query.last.name}
    return {"forecast": stem, **when, "date": query.label if query.last.date else None}


def true_in_file_units(seen: Seen, whole: Seen, found: Answer) -> np.ndarray:
    """Return the hidden visit on the last known visit's grey scale, as the model's own scales make them alike."""
    truth = whole.to_file(whole.history.voxels[-1])
    latest = seen.to_file(found.latest)
    gain = seen.history.scale.gain
    return found.copy + ((truth - latest) / gain if gain else 0)


def rolled(
    model: OpenModel, job: Job, seen: Seen, query: Query, key: str, advance: Advance
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Roll a forecast out, and say at each step how far it is from the direct forecast of the same time.

    Returns:
        A row for each step, and the last step's image on the file's grid.
    """
    assert job.rollout is not None
    made = rolled_out(model, job.known.visits, query.day, job.rollout, key, advance, seen.believed)
    visits, rows = job.known.visits, []
    for index, (day, visit) in enumerate(made):
        direct = answer(model, seen, day, derive(key, "roll", index), 0)
        visits = (*visits, visit)
        apart = drift(seen, direct.voxels, visit.volume.voxels, direct.copy)
        row: dict[str, Any] = {"at": label(job.known, day), "day": day, **apart, "compared": direct.kind}
        if seen.measured:
            again = look(model.system, visits, seen.believed)
            both = {"rolled_out": sizes(model, again, np.asarray(again.history.voxels[-1], dtype=np.float32))}
            row["volumes_ml"] = rounded({**both, "direct": sizes(model, seen, direct.image)})
        rows.append(row)
    return rows, made[-1][1].volume.voxels


def likely(model: OpenModel, seen: Seen, day: float, forecast: Mapping[str, float]) -> dict[str, list[float]]:
    """Return the 80 % interval of each structure's true volume, as far as the model knows how far it errs."""
    known = model.system.provenance.get("volume_spread", {})
    before = [visit.day for visit in seen.visits if visit.day < day]
    found = {n: interval_80(known, n, ml, len(before), day - before[-1]) for n, ml in forecast.items()}
    return {name: [round(end, 4) for end in ends] for name, ends in found.items() if ends}


def rounded(volumes: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return volumes to the ten-thousandth of a mL."""
    return {what: {name: round(ml, 4) for name, ml in found.items()} for what, found in volumes.items()}


def volumes_tree(model: OpenModel, job: Job, whole: Seen, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what ``PATIENT_volumes.json`` says."""
    visits = []
    for index, visit in enumerate(whole.visits):
        image = np.asarray(whole.history.voxels[index], dtype=np.float32)
        volumes = rounded({"visit": sizes(model, whole, image)})["visit"]
        date = str(visit.date) if visit.date else None
        hidden = visit is job.hidden
        visits.append({"name": visit.name, "date": date, "day": visit.day, "hidden": hidden, "volumes_ml": volumes})
    return {
        "synthetic": True,
        "warning": WARNING,
        "file": f"{job.patient.name}_volumes.png",
        "patient": job.patient.name,
        "unit": job.patient.unit,
        "structures": list(model.system.config.labels),
        "measured_by": "Measured by one fixed segmentation network, applied alike to visits, copy and forecasts.",
        "visits": visits,
        "forecasts": [
            {key: row[key] for key in ("at", "date", "day", "last_visit", "samples", "volumes_ml")} for row in rows
        ],
        "model": about(model),
        "gen3d": __version__,
    }


def remove_stale(folder: Path, job: Job) -> None:
    """Remove images that an earlier run made of the same forecasts and this one did not, such as old samples."""
    mine, now = {job.stem(query) for query in job.queries}, set(job.names())
    for path, tree in sidecars(folder).items():
        if tree.get("forecast") in mine and str(tree.get("file")) not in now:
            (folder / str(tree["file"])).unlink(missing_ok=True)
            path.unlink()
