"""``gen3d forecast``: a patient's next visit from the earlier ones, beside the copied last one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gen3d.core.error import UsageError, UserError
from gen3d.data.study import as_name, own_name
from gen3d.data.visits import Patient, find_patients, read_patient
from gen3d.data.visits_register import aligned, check_one_grid, shifts
from gen3d.tools.batch import close, one_by_one, outcome
from gen3d.tools.delivery import clear_leftovers, delivered, forbid_beside, protect
from gen3d.tools.forecast_files import Job, asked, remove_stale, write_patient
from gen3d.tools.forecast_images import Advance, look, steps, unlike_scans, unlike_times
from gen3d.tools.forecast_query import Query, Wish, at_day, parse_wish, query
from gen3d.tools.record import about, patients
from gen3d.tools.sampling import OpenModel, open_model


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        at: Dates, or days after the last visit (+365), or days after the first one where visits have no dates.
        samples: Plausible images; 0 for the expected image alone.
        contrast: Which scan of a visit that has several.
        dates: A CSV of the visits' dates.
        align: Whether the visits are registered to the last one first.
        hide_last: Whether the last visit is hidden, forecast at its own time, and compared.
        rollout: Days of a step of a roll-out beside the direct forecast.
        keep: Whether samples are written one by one.
        seed: Of the samples.
    """

    at: tuple[str, ...] = ()
    samples: int = 4
    contrast: str | None = None
    dates: Path | None = None
    align: bool = False
    hide_last: bool = False
    rollout: float | None = None
    keep: bool = False
    seed: int = 0

    def wishes(self) -> tuple[Wish, ...]:
        """Return what ``at`` says.

        Raises:
            UsageError: It says nothing, or the options contradict one another.
        """
        if self.hide_last and self.at:
            raise UsageError("--at: --hide-last forecasts the time of the hidden visit; leave one of them out")
        if not self.hide_last and not self.at:
            raise UsageError("Missing option '--at': expected a date such as 2027-05-01, or +365; or --hide-last")
        if self.samples < 0:
            raise UsageError(f"--samples {self.samples}: expected at least 0")
        if self.rollout is not None and not (self.rollout > 0 and math.isfinite(self.rollout)):
            raise UsageError(f"--rollout {self.rollout:g}: expected days of a step, above 0")
        return tuple(parse_wish(word) for word in self.at)


def forecast(
    source: Path | str,
    out: Path | str,
    model: str | Path = "hippocampus-forecast",
    request: Request | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    dry_run: bool = False,
    report: Path | None = None,
    advance: Callable[[float, str], None] = lambda share, words: None,
    done: Callable[[Mapping[str, Any]], None] = lambda row: None,
    failed: Callable[[str, Exception], None] = lambda patient, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[dict[str, Any]]:
    """Forecast each patient's scan at the times that are asked for, into ``out/PATIENT/``.

    ``PATIENT_TIME_forecast.nii.gz`` is the expected image, in the last visit's geometry and grey scale: that visit and
    the change; ``_change`` is the difference to it, ``_std`` the samples' standard deviation; JSON sidecars and a
    picture lie beside. ``PATIENT_volumes.json`` and ``.png`` follow structures over time, where the model has a network
    that finds them. The last visit, copied, stands beside every score.

    Args:
        source: A patient's folder, a 4D NIfTI file, or a folder of patients.
        out: Not the input folder nor in it.
        model: A folder, shipped name or hub id.
        request: What is asked for.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        dry_run: Read and check everything, write nothing.
        report: A JSON file of what became of each case; a dry run writes none.
        advance: Told the share done and what is being done.
        done: Told what became of each patient that did not fail.
        failed: Told of every patient of several that failed; the others go on.
        note: Told in words what a user should know.

    Raises:
        UserError: The single patient failed, or some of several did.
    """
    request = request or Request()
    wishes = request.wishes()
    source, out = Path(source), Path(out)
    found = find_patients(source, request.dates)
    forbid_beside(out, source)
    loaded = open_model(model, device, precision)
    if not (hasattr(loaded.system, "history") and hasattr(loaded.system, "ask")):
        raise UserError(f"{loaded.name}: a {loaded.system.name} model forecasts no visit; choose another --model")

    def serve(path: Path, place: Path, of_all: Advance) -> dict[str, Any]:
        return served(path, out / place, loaded, request, wishes, of_all, dry_run=dry_run)

    def told(row: Mapping[str, Any]) -> None:
        for words in row["misaligned"]:
            note(f"{row['case']}: {words}")
        done(row)

    places = [place_of(path, source) for path in found]
    rows = one_by_one(found, places, serve, advance=advance, done=told, failed=failed, note=note)
    if any(row["status"] != "failed" for row in rows):
        note(f"{loaded.name}: {patients(loaded)}; results are synthetic and not for diagnosis")
    close(rows, out, about(loaded), report, dry_run=dry_run)
    return rows


def place_of(path: Path, source: Path) -> Path:
    """Return where a patient's results go below the output folder."""
    if path == source:
        return Path(as_name(own_name(path) if path.is_dir() else path.name.split(".nii")[0]))
    return Path(*(as_name(part.split(".nii")[0]) for part in path.relative_to(source).parts))


def served(
    path: Path,
    folder: Path,
    model: OpenModel,
    request: Request,
    wishes: Sequence[Wish],
    advance: Advance,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """Read, check, forecast and write one patient; return what became of it."""
    forbid_beside(folder, path)
    patient = read_patient(path, request.contrast, request.dates)
    known = without_last(patient) if request.hide_last else patient
    queries = asked_of(patient, known, wishes)
    for one in queries if request.rollout else ():
        steps(known.visits[-1].day, one.day, request.rollout or 1.0)
    moved: Mapping[str, float] = {}
    reference = known.visits[-1].name
    if not request.align:
        check_one_grid(patient)
    elif not dry_run:  # bringing into register takes longer than the rest
        patient, moved = aligned(patient, reference)
    visits = patient.visits[: len(known.visits)]
    known = Patient(patient.name, visits, patient.unit)
    there = shifts(patient, reference) if moved or not request.align else []
    scans: tuple[str, ...] = ()
    if not (request.align and dry_run):
        scans = unlike_scans(model, look(model.system, visits))
    ahead = [one.day - visits[-1].day for one in queries if one.day > visits[-1].day]
    unlike = (*scans, *unlike_times(model, patient, ahead))
    told: dict[str, Any] = {
        "unit": patient.unit,
        "visits": [{"name": v.name, "day": v.day, "date": v.date and str(v.date)} for v in patient.visits],
        "sources": list(dict.fromkeys(v.volume.origin.name for v in known.visits if v.volume.origin)),
        "hidden": patient.visits[-1].name if request.hide_last else None,
        "moved_mm": {name: round(mm, 3) for name, mm in moved.items()},
        "misaligned": [shift.words for shift in there],
        "structures_measured": bool(model.system.config.labels) and not scans,
    }
    status, reason = "checked" if dry_run else "outside" if unlike else "made", "; ".join(unlike)
    facts = {"patient": patient.name, "status": status, **told, "outside_training": list(unlike)}
    hidden = patient.visits[-1] if request.hide_last else None
    job = Job(patient, known, hidden, queries, request.samples, request.seed, request.keep, request.rollout, facts)
    protect(folder, job.names())
    if dry_run:
        return outcome(patient.name, status, reason, **told, forecasts=[asked(one, job.stem(one)) for one in queries])
    clear_leftovers(folder)
    with delivered(folder) as temporary, torch.inference_mode():
        forecasts = write_patient(temporary, model, job, lambda share: advance(0.1 + 0.9 * share))
    remove_stale(folder, job)
    files = [name for one in forecasts for name in one.pop("files")]
    return outcome(patient.name, status, reason, files, **told, forecasts=forecasts)


def without_last(patient: Patient) -> Patient:
    """Return the patient without the last visit.

    Raises:
        UserError: There is no other.
    """
    if len(patient.visits) < 2:
        raise UserError(f"{patient.name}: a single visit; expected at least two for --hide-last")
    return Patient(patient.name, patient.visits[:-1], patient.unit)


def asked_of(patient: Patient, known: Patient, wishes: Sequence[Wish]) -> tuple[Query, ...]:
    """Return the times that are forecast of a patient, each once."""
    if len(known.visits) < len(patient.visits):
        return (at_day(known, patient.visits[-1].day),)
    queries = {one.label: one for one in (query(known, wish) for wish in wishes)}
    return tuple(queries.values())
