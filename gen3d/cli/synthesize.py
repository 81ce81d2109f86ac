"""``gen3d synthesize``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.messages import note, progress, warned
from gen3d.cli.options import (
    Aliases,
    Compile,
    Debug,
    Device,
    DryRun,
    Mode,
    Model,
    Out,
    Part,
    Precision,
    Report,
    Sampler,
    Seed,
    Steps,
    input_option,
)
from gen3d.cli.values import parsed_part, separated
from gen3d.core.error import UsageError


def synthesize(
    out: Out,
    source: Annotated[
        Path | None,
        input_option("A case's folder, a folder of cases (BIDS, nnU-Net, DICOM too), one NIfTI file, or a CSV."),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            help="Exactly what to write, hidden where it is there: t1c,t2f [what the case lacks].", show_default=False
        ),
    ] = None,
    model: Model = "brain-completion",
    mode: Mode = "mean",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Plausible images to draw [3].", show_default=False)
    ] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    compiled: Compile = False,
    like: Annotated[
        Path | None, typer.Option(help="A scan whose grey scale to take [0 to 1000].", show_default=False)
    ] = None,
    aliases: Aliases = None,
    align: Annotated[
        str | None,
        typer.Option(
            help="Bring contrasts on other grids into register with this one, such as t1n; --align alone: with the "
            "finest.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="The brain, for scans with skulls: a file; a folder of them, named as the cases; auto: made by your "
            "SynthStrip, HD-BET or deepbet; none: the scans as they are [one that lies beside].",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Hide each contrast that is there and make it from the rest, to say how far to trust.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse cases unlike the training set.")] = False,
    part: Part = "1/1",
    merge: Annotated[
        bool, typer.Option("--merge", help="Only write OUT/cases.csv anew, from the cases' JSON files.")
    ] = False,
    report: Report = None,
    dry_run: DryRun = False,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    debug: Debug = False,
) -> None:
    """Fill in the missing contrasts of a study.

    They lie on its own grid in OUT/CASE/; OUT/cases.csv says how far to trust them, worst first. What an earlier run of
    the same command finished is kept.
    """
    from gen3d.tools.batch import write_report
    from gen3d.tools.outcomes import OUTSIDE, TABLE, Outcome, counted, outcomes, write_table
    from gen3d.tools.progress import TimeLeft
    from gen3d.tools.request import BRAINMASK, Plan
    from gen3d.tools.synthesize import synthesize as run

    def closing() -> None:
        rows = outcomes(out) if dry_run else write_table(out)
        if report and not dry_run:
            models = [row.request["model"] for row in rows if "model" in row.request]
            distinct = [model for index, model in enumerate(models) if model not in models[:index]]
            write_report([asdict(row) for row in rows], distinct, report)
        if len(rows) > 1 or merge:
            where = "nothing was written" if dry_run else f"{out / TABLE} lists them, worst first"
            print(f"{len(rows)} cases: {counted(rows)}; {where}")

    if merge:
        closing()
        return
    if source is None:
        raise UsageError("Missing option '-i': expected a case's folder, a folder of them, or a CSV")
    left = TimeLeft()

    def done(plan: Plan | None, outcome: Outcome) -> None:
        given, made = ", ".join(outcome.given), ", ".join(outcome.made)
        if outcome.status == "complete":
            print(f"{outcome.case}: nothing is missing (has {given}); name what to make anew with --missing")
        elif outcome.status == "refused":
            print(f"{outcome.case}: refused: {outcome.reason}")
        else:
            verb = "kept" if plan is None else "would make" if dry_run else "made"
            images = (name for name in outcome.files if name.lower().endswith((".nii", ".nii.gz")))
            scans = [name for name in images if not name.endswith(BRAINMASK)]
            files = f" ({len(scans)} scans)" if len(scans) > len(outcome.made) else ""
            if outcome.reliability:
                known = ", ".join(f"{name} {share:.0%}" for name, share in outcome.reliability.items())
                print(f"{outcome.case}: of the contrasts that are there, hidden in turn, it foretells {known}")
            doubt = f"; {OUTSIDE}, not to be relied on" if outcome.status == "outside" else ""
            where = f"{out / outcome.place}{files}{left.words()}{doubt}"
            print(f"{outcome.case}: {verb} {made} from {given} in {where}")

    if more and missing is None:
        raise UsageError(f"'{more[0]}': unexpected; a case is named by -i, contrasts by --missing")
    named = None if missing is None else separated([*missing, *(more or [])])  # --missing t1c t2f
    try:
        with progress("synthesize") as advance:

            def reached(share: float, words: str) -> None:
                left.reached(share)
                advance(share, words)

            run(
                source,
                out,
                model,
                named,
                mode,  # type: ignore[arg-type]
                samples=samples,
                steps=steps,
                sampler=sampler,
                seed=seed,
                device=device,
                precision=precision,
                compiled=compiled,
                like=like,
                aliases=aliases,
                align=align,
                mask=mask if mask in (None, "auto", "none") else Path(mask),
                check=check,
                strict=strict,
                part=parsed_part(part),
                dry_run=dry_run,
                advance=reached,
                done=done,
                failed=warned(debug=debug),
                note=note,
            )
    finally:
        if not dry_run and (out / TABLE).is_file():
            closing()
