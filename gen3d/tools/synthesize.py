"""``gen3d synthesize``: the missing contrasts of a study, written on its own grid."""

import glob
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d import __version__
from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.randomness import derive
from gen3d.core.system import Example, System
from gen3d.data.brain_extraction import find_extractor
from gen3d.data.envelope import departures
from gen3d.data.nifti import ENDINGS, read
from gen3d.data.studies import Study, find_studies, read_aliases
from gen3d.tools.delivery import clear_leftovers, delivered, forbid_beside
from gen3d.tools.outcomes import TABLE, Outcome, Status, finished, write_outcome, write_table
from gen3d.tools.record import patients
from gen3d.tools.register import SKULL_OFF, SKULL_ON, extracted, lacks_mask, registered, skullless, unmoved
from gen3d.tools.reliability import Hidden, reliability
from gen3d.tools.request import BRAINMASK, Plan, Request, known, make_plan, notes_of
from gen3d.tools.sampling import Mode, OpenModel, Walk, choose_walk, drawn, expected, open_model, to_device
from gen3d.tools.scans import Scans

Advance = Callable[[float, str], None]


def synthesize(
    source: Path | str,
    out: Path | str,
    model: str | Path = "brain-completion",
    missing: Sequence[str] | None = None,
    mode: Mode = "mean",
    *,
    samples: int | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compiled: bool = False,
    like: Path | str | None = None,
    aliases: Path | str | None = None,
    align: str | None = None,
    mask: str | Path | None = None,
    check: bool = True,
    strict: bool = False,
    part: tuple[int, int] = (1, 1),
    dry_run: bool = False,
    advance: Advance = lambda done, words: None,
    done: Callable[[Plan | None, Outcome], None] = lambda plan, outcome: None,
    failed: Callable[[str, Exception], None] = lambda case, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[Path]:
    """Fill in the missing contrasts of a case, or of each case in a folder, into ``out/CASE/``.

    Every scan is float32 on the grid of the case's first given contrast, 0 outside the foreground, with a JSON sidecar;
    where ``align`` moved a contrast, on that one's own grid too; a picture of the case lies beside. A case's files
    appear at once or not at all, and originals are only ever read. What became of each case is told in
    ``out/cases/CASE.json``, and of all of them in ``out/cases.csv``, worst first. A case that an earlier run with the
    same settings finished from the same scans is kept.

    Args:
        source: A case folder, a folder of them (plain, BraTS, BIDS, nnU-Net), or a CSV that lists files.
        out: Not the input folder nor in it.
        model: A folder, shipped name or hub id.
        missing: Exactly what is written, hidden from the model where it is there; by default what the case lacks.
        mode: ``mean``: the expected image, whatever the seed; ``sample``: plausible ones, in a few network calls each.
        samples: Plausible images (3); with more than one, their mean and standard deviation are written too.
        steps: Of the sampler; by default the model's.
        sampler: One of gen3d.samplers or a diffusers scheduler; by default the model's.
        seed: Of the samples.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        compiled: Compile the networks first.
        like: A scan whose grey scale is taken; without one, 0 to 1000 over the model's window.
        aliases: A YAML file with one's own names of contrasts.
        align: Bring contrasts on other grids into register with this one; "finest": with the finest.
        mask: Of the brain, for scans with skulls: "none", a file, or a folder with a file for each case; by
            default a mask that lies beside the scans; "auto": where none does, one made by an extractor that is
            installed.
        check: Hide each contrast that is there and make it from the others, to learn how far to trust the model here.
        strict: Refuse cases outside the model's training envelope.
        part: (i, n): do only every n-th case, from the i-th on, counted from 1.
        dry_run: Read and check everything, write nothing.
        advance: Told the share done and what is being done.
        done: Told of every case that did not fail, and what became of it; the plan is None where it was kept.
        failed: Told of every case in a folder of several that failed; the others go on.
        note: Told in words what a user should know of the model.

    Returns:
        The scans written or kept (or, in a dry run, that would be written).

    Raises:
        UserError: The single case failed, or some of several did.
    """
    if mode == "mean" and (
        odd := [n for n, v in (("samples", samples), ("steps", steps), ("sampler", sampler)) if v is not None]
    ):
        raise UsageError(f"--{odd[0]}: the expected image takes one network call and no samples; add --mode sample")
    if mode not in ("mean", "sample"):
        raise UsageError(f"mode '{mode}': expected mean or sample{nearest(mode, ('mean', 'sample'))}")
    count = 1 if mode == "mean" else 3 if samples is None else samples
    if count < 1:
        raise UsageError(f"samples {count}: expected at least 1")
    source, out = Path(source), Path(out)
    if source.is_dir() or source.name.lower().endswith(ENDINGS):
        forbid_beside(out, source)
    everything = find_studies(source, read_aliases(Path(aliases)) if aliases is not None else None, note)
    studies = everything[part[0] - 1 :: part[1]]
    scan = read(like) if like is not None else None
    if missing is not None and not missing:
        raise UsageError("--missing: names no contrast; expected some, such as t2f")
    loaded = open_model(model, device, precision, compiled=compiled)
    walk = choose_walk(loaded.system, sampler, steps) if mode == "sample" else None
    names = None if missing is None else tuple(dict.fromkeys(known(name, loaded.system) for name in missing))
    request = Request(names, mode, count, seed, scan, check, strict, align, mask)
    settings = described(loaded, request, walk)
    written: list[Path] = []
    failures = refused = 0
    advised = False
    for index, study in enumerate(studies):
        files = {name: path.name for name, path in study.files.items()}
        asked = {**settings, "files": files, "inputs_sha256": None if dry_run else inputs_sha256(study, request)}

        def of_all(share: float, words: str, index: int = index) -> None:
            advance((index + share) / len(studies), words)

        plan: Plan | None = None
        try:
            outcome = finished(out, study.place, asked) if not dry_run else None
            if outcome is None:
                plan = make_plan(study, out / study.place, loaded.system, request)
                outcome = served(plan, loaded, request, walk, of_all, dry_run=dry_run)
                outcome = replace(outcome, place=str(study.place), request=asked)
        except Exception as error:
            if len(everything) == 1:
                raise
            failures += 1
            failed(study.name, error)
            said = " ".join(str(error).split()) or type(error).__name__
            notes = notes_of(study, loaded.system)
            outcome = Outcome(study.name, str(study.place), "failed", said, notes=notes, request=asked)
        finally:
            of_all(1.0, study.name)
        if not dry_run and not (outcome.status == "complete" and len(everything) == 1):
            write_outcome(outcome, out)
            write_table(out, mark=f"part-{part[0]}-of-{part[1]}")  # after each: people look before the end
        if outcome.status == "failed":
            continue
        refused += outcome.status == "refused"
        if outcome.made and not written:
            note(f"{loaded.name}: {patients(loaded)}; results are synthetic and not for diagnosis")
        if plan is not None:
            unlike = [f"unlike the training set: {words}" for words in outcome.findings]
            for words in (*outcome.notes, *(unlike if outcome.status == "outside" else [])):
                note(f"{outcome.case}: {words}")
        if SKULL_ON in outcome.reason and not advised:
            note(SKULL_OFF)
            advised = True
        done(plan, outcome)
        scans = (name for name in outcome.files if name.endswith(ENDINGS) and not name.endswith(BRAINMASK))
        written += [out / study.place / name for name in scans]
    if failures or refused:
        what = " and ".join(f"{n} {word}" for n, word in ((failures, "failed"), (refused, "refused")) if n)
        rest = f"{out / TABLE} says why" if not dry_run else "nothing was written"
        raise UserError(f"{len(studies)} cases, {what}; {rest}")
    return written


def described(model: OpenModel, request: Request, walk: Walk | None) -> dict[str, Any]:
    """Return the settings on which results depend, JSON-like."""
    return {
        "model": {"name": model.name, "weights_sha256": model.sha256, "computed_in": model.computed_in},
        "missing": list(request.missing) if request.missing is not None else None,
        "mode": request.mode,
        "samples": request.samples,
        "seed": request.seed,
        "sampler": walk.sampler if walk else None,
        "steps": walk.steps if walk else 1,
        "like": request.like.origin.name if request.like and request.like.origin else None,
        "align": request.align,
        "mask": str(request.mask) if request.mask else None,
        "check": request.check,
        "strict": request.strict,
        "gen3d": __version__,
    }


def inputs_sha256(study: Study, request: Request) -> str:
    """Return one SHA-256 over every file that a case is made from, what is hidden left out."""
    given = {name: file for name, file in study.files.items() if name not in (request.missing or ())}
    scans = [path for name, file in given.items() for path in study.series.get(name, (file,))]
    asked = request.mask if isinstance(request.mask, Path) else None
    masks = sorted(asked.glob(f"{glob.escape(study.name)}*")) if asked and asked.is_dir() else [asked]
    like = request.like.origin if request.like else None
    digest = hashlib.sha256()
    for path in filter(None, (*scans, study.lesion, study.mask, *masks, like)):
        with suppress(OSError):  # it is told when the case is read
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def served(
    plan: Plan, model: OpenModel, request: Request, walk: Walk | None, advance: Advance, *, dry_run: bool
) -> Outcome:
    """Make and write all results of one case, and say what became of it."""
    outcome = Outcome(plan.case.name, "", "complete", notes=plan.notes, given=tuple(plan.case.volumes))
    if not plan.missing:
        return outcome
    advance(0.0, f"{plan.case.name}: reading")
    if dry_run and lacks_mask(plan, request):  # finding brains takes longer than the rest
        find_extractor()
        return replace(outcome, status="made", made=plan.missing, files=plan.names(request))
    plan = unmoved(plan, request) if dry_run else registered(plan, request)  # that takes as long as the rest
    if lacks_mask(plan, request):
        advance(0.0, f"{plan.case.name}: finding the brain")
        plan = extracted(plan, str(model.device))
    plan = skullless(plan, request)
    example = model.system.example(plan.case)
    known = model.system.provenance.get("envelope", {})
    warnings = (*plan.warnings, *departures(example["prepared"], model.system.config.contrasts, known))
    status: Status = "outside" if warnings else "made"
    outcome = replace(outcome, status=status, reason="; ".join(warnings), findings=warnings, notes=plan.notes)
    if warnings and request.strict:
        return replace(outcome, status="refused")
    outcome = replace(outcome, made=plan.missing, files=plan.names(request))
    if dry_run:
        return outcome
    clear_leftovers(plan.folder)
    with delivered(plan.folder, plan.missing) as folder, torch.inference_mode():
        example = to_device(example, model.device)
        found = trusted(model.system, example, plan, advance) if request.check else {}
        scans = Scans(replace(plan, warnings=warnings), model, request, walk, folder, example["prepared"], found)
        for index, voxels in enumerate(images(model.system, example, plan, request, walk, advance)):
            scans.take(index, voxels)
        del example
        advance(0.9, f"{plan.case.name}: drawing")
        scans.finish()
    return replace(
        outcome,
        reliability={name: round(hidden.explained, 4) for name, hidden in found.items()},
        psnr={name: round(hidden.psnr, 2) for name, hidden in found.items()},
        expected=scans.expected,
        uncertainty=scans.doubt,
        least_certain={name: region.std_percent for name, region in scans.regions.items()},
    )


def trusted(system: System, example: Example, plan: Plan, advance: Advance) -> dict[str, Hidden]:
    """Hide each contrast that is there and make it from the others."""
    count = len(plan.case.volumes)

    def told(done: int, name: str) -> None:
        advance(0.1 + 0.35 * done / count, f"{plan.case.name}: hiding {name}")

    return reliability(system, example, told)


def images(
    system: System, example: Example, plan: Plan, request: Request, walk: Walk | None, advance: Advance
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the expected image, or the samples one by one, each the missing contrasts on the model's scale and grid."""
    condition = system.condition(example)
    for index in range(request.samples):
        words = plan.case.name if walk is None else f"{plan.case.name}: sample {index + 1}"
        advance(0.45 + 0.45 * index / request.samples, words)
        if walk is None:
            coords = expected(system, example, condition)
        else:
            key = derive(request.seed, plan.case.name, index)
            coords = drawn(
                system, example, condition, key, walk, stepwise(advance, words, index, request.samples, walk.steps)
            )
        voxels = system.finish(coords, example)[0].float().cpu().numpy()
        yield {name: voxels[system.config.contrasts.index(name)] for name in plan.missing}


def stepwise(advance: Advance, words: str, index: int, samples: int, steps: int) -> Callable[[], None]:
    """Return what to call after every step of a sample."""
    taken = 0

    def step() -> None:
        nonlocal taken
        taken = min(taken + 1, steps)
        advance(0.45 + 0.45 * (index + taken / steps) / samples, words)

    return step
