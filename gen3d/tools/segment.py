"""``gen3d segment``: the most likely mask of an image, and masks as experts might draw it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gen3d.core.error import UsageError, UserError
from gen3d.core.randomness import derive
from gen3d.core.system import System
from gen3d.core.volume import Case, Naming, Prepared
from gen3d.data.envelope import departures
from gen3d.data.layout import on_one_grid
from gen3d.data.nifti import ENDINGS, read, without_ending
from gen3d.data.raters import RatedStudy, find_rater_cases, read_rater_case
from gen3d.data.studies import Study, find_studies, read_study, scans_of
from gen3d.data.study import as_name, images_in, is_mask
from gen3d.segmentation.cases import Segmentation
from gen3d.tools.batch import close, one_by_one, outcome
from gen3d.tools.delivery import clear_leftovers, delivered, forbid_beside, protect
from gen3d.tools.record import about, patients
from gen3d.tools.sampling import OpenModel, choose_walk, open_model, to_device
from gen3d.tools.segment_files import WARNING, Job, remove_stale, write_masks
from gen3d.tools.segment_masks import one_call, sampled_masks

ANY_CONTRAST = "mri"  # a model of this contrast takes a lone scan of any, but a CT


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        samples: Masks that are drawn; 0 for the probabilities by one call, where the model has them.
        rater: As whom to draw, from 1; None for anybody.
        seed: Of the samples.
    """

    samples: int = 16
    rater: int | None = None
    seed: int = 0


def segment(
    source: Path | str,
    out: Path | str,
    model: str | Path,
    request: Request | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    dry_run: bool = False,
    report: Path | None = None,
    advance: Callable[[float, str], None] = lambda share, words: None,
    done: Callable[[Mapping[str, Any]], None] = lambda row: None,
    failed: Callable[[str, Exception], None] = lambda case, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[dict[str, Any]]:
    """Segment each image into ``out/CASE/``, in its own geometry.

    ``CASE_seg.nii.gz`` is the most likely label, by the mean of the samples' probabilities, ``_probability`` (one file
    for each label), ``_entropy`` and ``_std`` say how sure it is, ``_sample-01`` ... are the masks that were drawn, the
    same latent throughout each. ``CASE_seg.json`` holds volumes with the samples' spread, and the distinct masks with
    their frequencies; a picture shows all outlines.

    Args:
        source: A scan, a folder of scans, or a study or data set of any layout, see ``find_studies``.
        out: Not the input folder nor in it.
        model: A folder, shipped name or hub id.
        request: What is asked for.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        dry_run: Read and check everything, write nothing.
        report: A JSON file of what became of each case; a dry run writes none.
        advance: Told the share done and what is being done.
        done: Told what became of each case that did not fail.
        failed: Told of every case of several that failed; the others go on.
        note: Told in words what a user should know.

    Raises:
        UserError: The single case failed, or some of several did.
    """
    request = request or Request()
    if request.samples < 0:
        raise UsageError(f"--samples {request.samples}: expected at least 0")
    source, out = Path(source), Path(out)
    loaded = open_model(model, device, precision)
    accept(loaded, request)
    found = find_images(source, loaded.system.config.contrasts)
    forbid_beside(out, source)
    if request.samples and is_certain(loaded.system):
        note(f"{loaded.name}: answers the same whatever the seed; one call, no samples")
        request = replace(request, samples=0)
    asked = request

    def serve(study: Study, place: Path, of_all: Callable[[float], None]) -> dict[str, Any]:
        return served(study, out / place, loaded, asked, of_all, dry_run=dry_run)

    places = [study.place for study in found]
    rows = one_by_one(found, places, serve, advance=advance, done=done, failed=failed, note=note)
    if any(row["status"] != "failed" for row in rows):
        note(f"{loaded.name}: {patients(loaded)}; masks are a model's and not for diagnosis")
    close(rows, out, about(loaded), report, dry_run=dry_run, warning=WARNING)
    return rows


def accept(model: OpenModel, request: Request) -> None:
    """Check that a model can do what is asked.

    Raises:
        UserError: It draws no masks, or knows no such rater.
    """
    system = model.system
    if not isinstance(system, Segmentation):
        raise UserError(f"{model.name}: a {system.name} model segments nothing; choose another --model")
    if request.rater is None:
        return
    known = raters(system)
    if not known:
        raise UserError(f"--rater {request.rater}: {model.name} knows no raters apart; leave it out")
    if not 1 <= request.rater <= known:
        raise UserError(f"--rater {request.rater}: {model.name} knows raters 1 to {known}; choose one of these")


def raters(system: System) -> int:
    """Return how many raters a model can be asked to draw as."""
    return int(system.config.raters) if getattr(system.config, "named", False) else 0


def is_certain(system: System) -> bool:
    """Say whether a model has one answer only: a plain network without dropout."""
    return system.name == "segmenter" and not system.config.network.dropout


def find_images(source: Path, contrasts: Sequence[str]) -> list[Study]:
    """Return the studies to segment; scans whose names say no contrast are of the model's, where it has one.

    Raises:
        UserError: There is none.
    """
    if source.suffix.lower() == ".npz":
        return list(find_rater_cases(source))
    problem: UserError | None = None
    found: list[Study] = []
    try:
        found = find_studies(source)
    except UserError as error:
        problem = error
    if len(contrasts) == 1 and not any(contrasts[0] in study.files for study in found):
        if source.is_file() and not found and source.name.lower().endswith(ENDINGS):
            name = without_ending(source)
            return [Study(name, source, {contrasts[0]: source}, Path(as_name(name)), name, Naming(""))]
        there = [path for path in images_in(source) if not is_mask(path)] if source.is_dir() else []
        if set(there) - {path for study in found for path in study.files.values()}:
            return scans_of(source, contrasts[0])
    if problem is not None:
        raise problem
    return found


def read_images(study: Study, contrasts: Sequence[str]) -> Case:
    """Read the images that a model needs; a single slice becomes (X, Y, 1).

    Raises:
        UserError: One is missing, can't be read, or lies on another grid.
    """
    if isinstance(study, RatedStudy):
        return replace(read_rater_case(study), raters=())
    if study.problem:
        raise UserError(study.problem)
    called = {name: name for name in contrasts}
    if len(study.files) == 1 and tuple(contrasts) == (ANY_CONTRAST,) and "ct" not in study.files:
        called = {ANY_CONTRAST: next(iter(study.files))}
    if lacking := [name for name in called.values() if name not in study.files]:
        has = ", ".join(study.files) or "no scan"
        if lacking == [ANY_CONTRAST]:
            raise UserError(f"{study.name}: has {has}; this model takes one MR scan; give -i its file or series")
        raise UserError(f"{study.name}: has {has}, no {', '.join(lacking)}; add it, or choose another --model")
    wanted = {name: study.files[own] for name, own in called.items()}
    if all(path.is_file() and path.name.lower().endswith(ENDINGS) for path in wanted.values()):
        volumes = {name: read(path, name, flat=True) for name, path in wanted.items()}
        on_one_grid(list(volumes.values()), "register them first")
        return Case(study.name, volumes, None, study.patient, study.naming)
    series = {name: study.series[own] for name, own in called.items() if own in study.series}
    return read_study(replace(study, files=wanted, lesion=None, series=series), with_lesion=False)


def fits(system: Segmentation, prepared: Prepared) -> None:
    """Check an image's own size on the model's axes, before a canvas cuts it, and that of what the model is given.

    Raises:
        UserError: It is too small for the network, or a slice where volumes were learnt, or the other way round.
    """
    assert prepared.placement is not None
    whole, size = prepared.placement.turned_shape, tuple(int(n) for n in prepared.voxels.shape[1:])
    parts = [getattr(system, "network", None), getattr(getattr(system, "features", None), "network", None)]
    least = 2 * max(int(getattr(part, "stride", 1)) for part in parts)
    for own, n, learnt in zip(whole, size, system.config.patch, strict=True):
        if (own == 1) != (learnt == 1):
            known, other = ("slices", "split the volume") if learnt == 1 else ("volumes", "stack the slices")
            shape = " x ".join(map(str, whole))
            raise UserError(f"{prepared.name}: {shape} voxels on the model's axes; it segments {known}; {other}")
        if 1 < n < least:
            shape = " x ".join(map(str, size))
            raise UserError(f"{prepared.name}: {shape} voxels, too small a volume; expected at least {least} an axis")


def served(
    study: Study,
    folder: Path,
    model: OpenModel,
    request: Request,
    advance: Callable[[float], None],
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """Read, check, segment and write one case; return what became of it."""
    system = model.system
    assert isinstance(system, Segmentation)
    for original in study.files.values():
        forbid_beside(folder, original)
    case = read_images(study, system.config.contrasts)
    prepared = system.prepare(case)
    fits(system, prepared)
    assert prepared.placement is not None
    unlike = departures(prepared, system.config.contrasts, system.provenance.get("envelope", {}))
    name = as_name(study.name)
    walk = choose_walk(system)
    facts: dict[str, Any] = {
        "segmented": name,
        "sources": [str(volume.origin.name) for volume in case.volumes.values() if volume.origin],
        "samples": request.samples,
        "rater": request.rater,
        "seed": request.seed,
        "sampler": walk.sampler if request.samples else None,
        "steps": walk.steps if request.samples else 1,
        "outside_training": list(unlike),
    }
    image = next(iter(case.volumes.values()))
    job = Job(name, image, prepared.placement, tuple(system.config.labels), request.samples, facts)
    protect(folder, job.names())
    told = {key: value for key, value in facts.items() if key not in ("segmented", "outside_training")}
    reason = "; ".join(unlike)
    if dry_run:
        return outcome(name, "checked", reason, **told)
    clear_leftovers(folder)
    example = to_device(system.example(prepared), model.device)
    if request.rater is not None:
        example["rater"] = torch.tensor([request.rater - 1])
    keys = [derive(request.seed, study.name, index) for index in range(request.samples)]
    with delivered(folder) as temporary, torch.inference_mode():
        masks = sampled_masks(system, example, keys, lambda s: advance(0.9 * s)) if keys else one_call(system, example)
        found = write_masks(temporary, model, job, masks)
    remove_stale(folder, job)
    return outcome(name, "outside" if unlike else "made", reason, **told, **found)
