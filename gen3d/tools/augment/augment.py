"""``gen3d augment``: a labelled synthetic data set that nnU-Net, MONAI and BIDS tools take as it is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gen3d.core.error import UsageError, UserError
from gen3d.tools.augment.engine import ENGINES, Crew, check_engine
from gen3d.tools.augment.files import Row, begin, check_run, line, manifest_of, read_row, stage_of, staged
from gen3d.tools.augment.layouts import LAYOUTS, case_name, check_layout
from gen3d.tools.augment.maker import Job
from gen3d.tools.augment.merge import counted, merge
from gen3d.tools.augment.pair import Wishes
from gen3d.tools.augment.real import check_real
from gen3d.tools.delivery import forbid_beside

Advance = Callable[[float, str], None]
DEFAULT = Wishes()


def augment(
    model: str | Path,
    count: int,
    out: Path | str,
    *,
    layout: str = "nnunet",
    wishes: Wishes = DEFAULT,
    seed: int = 0,
    attempts: int = 5,
    channels: Sequence[str] | None = None,
    real: Path | str | None = None,
    part: tuple[int, int] = (1, 1),
    engine: str = "local",
    workers: int = 1,
    threads: int = 1,
    dry_run: bool = False,
    advance: Advance = lambda share, words: None,
    note: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Make ``count`` synthetic pairs of images and mask in ``out``, or a part of them, and return what became of them.

    Case i is the same whatever the part, engine and number of workers; what an interrupted run has finished is kept.
    A pair that a gate refuses is drawn anew by the key seed/augment/i/attempt. The whole set is merged at its end, a
    part is not: see ``merge``.

    Args:
        model: A folder, shipped name or hub id of a model of pairs.
        count: How many cases.
        out: The data set's folder; another run's is refused.
        layout: ``nnunet``, ``msd`` or ``bids``.
        wishes: Given masks, what the model is told, sampler, device.
        seed: Of all of them.
        attempts: Draws of a case before it is given up.
        channels: What the model's images are called in the data set, such as t1n.
        real: A folder of real cases that are copied in and validated on; ``nnunet`` and ``msd``.
        part: i of n: every n-th case from the i-th on.
        engine: ``local`` or ``ray``.
        workers: Of Ray.
        threads: Of the processor, for each process; another number changes the last digits.
        dry_run: Read and check everything, write nothing.
        advance: Told the share done and what is being done.
        note: Told in words what a user should know.

    Raises:
        UserError: The model draws no labels, ``out`` holds something else, or can't be written.
    """
    out = Path(out)
    if count < 1:
        raise UsageError(f"-n {count}: expected at least 1")
    if attempts < 1:
        raise UsageError(f"--attempts {attempts}: expected at least 1")
    if threads < 1:
        raise UsageError(f"--threads {threads}: expected at least 1")
    if layout not in LAYOUTS:
        check_layout(layout, ())
    check_engine(engine, workers)
    for originals in (wishes.masks, real):
        if originals is not None:
            forbid_beside(out, Path(originals))
    names, folder = tuple(channels) if channels else None, Path(model)
    job = Job(
        str(folder.resolve() if folder.is_dir() else model),
        out.resolve(),
        count,
        layout,
        replace(wishes, masks=wishes.masks.resolve()) if wishes.masks else wishes,
        seed,
        attempts,
        names,
        part,
        Path(real) if real else None,
        threads,
    )
    with ENGINES["local" if dry_run else engine](job, 1 if dry_run else workers) as crew:
        check_run(out, crew.settings)
        check_real(crew.settings)
        numbers = range(part[0], count + 1, part[1])
        kept = [row for number in numbers if (row := read_row(out, case_name(layout, number)))]
        note(
            f"{crew.settings['model']['name']}: {crew.settings['patients']}; all of it is synthetic, not for diagnosis"
        )
        if dry_run:
            return {**counted(kept), "asked": len(numbers)}
        begin(out, crew.settings, part)
        rows = made(job, crew, kept, numbers, advance)
    return merge(out) if part == (1, 1) else {**counted(rows), "asked": len(rows)}


def made(job: Job, crew: Crew, kept: Sequence[Row], numbers: Sequence[int], advance: Advance) -> list[Row]:
    """Make what is not there yet, list each case as soon as it is finished, and all in order at the end."""
    rows = {row["number"]: row for row in kept}
    waiting = [number for number in numbers if number not in rows]
    manifest = manifest_of(job.out, job.part)
    listed(job, rows)
    advance(len(rows) / max(len(numbers), 1), f"{len(rows)} of {len(numbers)}")
    for row in crew.make(waiting):
        rows[row["number"]] = row
        append(manifest, line(row))
        advance(len(rows) / len(numbers), f"{len(rows)} of {len(numbers)}")
    return listed(job, rows)


def append(manifest: Path, text: str) -> None:
    """Add a line to a manifest.

    Raises:
        UserError: The file system refuses.
    """
    try:
        with manifest.open("a") as file:
            file.write(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{manifest}: can't be written ({reason}); free space and run it again") from None


def listed(job: Job, rows: dict[int, Row]) -> list[Row]:
    """Write a part's manifest in the order of its cases and return them."""
    ordered = [row for _, row in sorted(rows.items())]
    with staged(stage_of(job.out, job.part), job.out) as folder:
        (folder / manifest_of(job.out, job.part).name).write_text("".join(map(line, ordered)))
    return ordered
