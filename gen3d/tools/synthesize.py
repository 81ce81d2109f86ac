"""``gen3d synthesize``: the missing contrasts of a study, written on its own grid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.randomness import derive
from gen3d.core.system import Example, System
from gen3d.data.layout import find_cases
from gen3d.data.nifti import ENDINGS, read
from gen3d.tools.delivery import delivered, forbid_beside
from gen3d.tools.record import patients
from gen3d.tools.request import Plan, Request, known, make_plan, place_of
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
    dry_run: bool = False,
    advance: Advance = lambda done, words: None,
    done: Callable[[Plan, list[Path]], None] = lambda plan, paths: None,
    failed: Callable[[Path, Exception], None] = lambda case, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[Path]:
    """Fill in the missing contrasts of a case, or of each case in a folder, into ``out/CASE/``.

    Every scan is float32 on the grid of the case's first given contrast, 0 outside the foreground, with a JSON sidecar;
    a picture of the case lies beside. A case's files appear at once or not at all, and originals are only ever read.

    Args:
        source: A case folder or a folder of them.
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
        dry_run: Read and check everything, write nothing.
        advance: Told the share done and what is being done.
        done: Told of every case that is finished, with its files; none if nothing is missing.
        failed: Told of every case in a folder of several that failed; the others go on.
        note: Told in words what a user should know of the model.

    Returns:
        The scans written (or, in a dry run, that would be).

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
    forbid_beside(out, source)
    cases = find_cases(source)
    scan = read(like) if like is not None else None
    if missing is not None and not missing:
        raise UsageError("--missing: names no contrast; expected some, such as t2f")
    loaded = open_model(model, device, precision, compiled=compiled)
    walk = choose_walk(loaded.system, sampler, steps) if mode == "sample" else None
    names = None if missing is None else tuple(dict.fromkeys(known(name, loaded.system) for name in missing))
    request = Request(names, mode, count, seed, scan)
    written: list[Path] = []
    failures = 0
    for index, folder in enumerate(cases):

        def of_all(share: float, words: str, index: int = index) -> None:
            advance((index + share) / len(cases), words)

        try:
            plan = make_plan(folder, place_of(folder, source, out), loaded.system, request)
            paths = [plan.folder / name for name in plan.names(request) if name.endswith(ENDINGS)]
            if plan.missing and not dry_run:
                complete(plan, loaded, request, walk, of_all)
        except Exception as error:
            if folder == source:
                raise
            failures += 1
            failed(folder, error)
            continue
        finally:
            of_all(1.0, folder.name)
        if paths and not written:
            note(f"{loaded.name}: {patients(loaded)}; results are synthetic and not for diagnosis")
        for warning in plan.warnings:
            note(f"{plan.case.name}: {warning}")
        done(plan, paths)
        written += paths
    if failures:
        others = f"the others are in {out}" if failures < len(cases) and not dry_run else "nothing was written"
        raise UserError(f"{failures} of {len(cases)} cases failed; {others}")
    return written


def complete(plan: Plan, model: OpenModel, request: Request, walk: Walk | None, advance: Advance) -> None:
    """Make and write all results of one case."""
    with delivered(plan.folder, plan.missing) as folder, torch.inference_mode():
        advance(0.0, f"{plan.case.name}: reading")
        example = to_device(model.system.example(plan.case), model.device)
        scans = Scans(plan, model, request, walk, folder, example["prepared"])
        for index, voxels in enumerate(images(model.system, example, plan, request, walk, advance)):
            scans.take(index, voxels)
        del example
        advance(0.9, f"{plan.case.name}: drawing")
        scans.finish()


def images(
    system: System, example: Example, plan: Plan, request: Request, walk: Walk | None, advance: Advance
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the expected image, or the samples one by one, each the missing contrasts on the model's scale and grid."""
    condition = system.condition(example)
    for index in range(request.samples):
        words = plan.case.name if walk is None else f"{plan.case.name}: sample {index + 1}"
        advance(0.1 + 0.75 * index / request.samples, words)
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
        advance(0.1 + 0.75 * (index + taken / steps) / samples, words)

    return step
