"""The command line. Heavy libraries are imported by its commands only, so that help comes at once."""

import ctypes
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gen3d import __version__
from gen3d.core.error import UsageError, UserError
from gen3d.tools.welcome import welcome

if TYPE_CHECKING:
    from gen3d.tools.evaluate.report import Report

EXTRAS = {
    "monai": "metrics",
    "scipy": "metrics",
    "SimpleITK": "align",
    "torchmetrics": "metrics",
    "diffusers": "diffusers",
    "huggingface_hub": "hub",
    "nilearn": "phantom",
    "pydicom": "dicom",
}

app = typer.Typer(
    name="gen3d",
    help="Generate 3D medical images with diffusion models: new scans, and the missing contrasts of a study.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def model_names(incomplete: str) -> list[str]:
    """Complete the name of a shipped model."""
    from gen3d.systems import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def config_names(incomplete: str) -> list[str]:
    """Complete the name of a packaged configuration."""
    from importlib.resources import files

    names = sorted(path.name.removesuffix(".yaml") for path in files("gen3d.configs").iterdir())
    return [name for name in names if name.startswith(incomplete) and name.isidentifier() and name != "splits"]


Out = Annotated[Path, typer.Option("-o", "--out", help="Output folder.", show_default=False)]
Model = Annotated[str, typer.Option(help="A model's folder, shipped name or hub id.", autocompletion=model_names)]
ModelArgument = Annotated[
    str,
    typer.Argument(help="A model's folder, shipped name or hub id.", show_default=False, autocompletion=model_names),
]
Config = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or the name of a packaged configuration.", show_default=False, autocompletion=config_names
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Precision = Annotated[str, typer.Option(help="Of the network: auto, fp32, bf16 or fp16.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network first: pays in hours of sampling.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same images.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the sampler [the model's own].", show_default=False)]
Sampler = Annotated[
    str | None,
    typer.Option(help="euler, heun, dpmpp_2m, ... or a diffusers scheduler [the model's own].", show_default=False),
]


def show_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        print(f"gen3d {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hold the options of the command line itself."""


@app.command()
def train(
    config: Config,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value ..., such as train.steps=100", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Run folder; a checkpoint in it is resumed [runs/CONFIG].", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, train nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Train a model as a configuration file says, or resume doing so."""
    from gen3d.core.distributed import end_process
    from gen3d.tools.train import packaged_config, run_training

    run_training(packaged_config(config), overrides or [], out, device=device, dry_run=dry_run)
    end_process()


@app.command()
def plan(
    config: Config,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value ..., such as train.batch=4", show_default=False)
    ] = None,
    gpu: Annotated[str, typer.Option(help="Memory of the GPU to train on.")] = "12GB",
    measure: Annotated[bool, typer.Option("--measure", help="Time training steps on this machine too.")] = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Say what of a configuration fits a GPU, with which settings, and how long it would train."""
    from gen3d.tools.plan import described, measured_step, parse_memory
    from gen3d.tools.plan import plan as run
    from gen3d.tools.train import packaged_config

    memory = parse_memory(gpu)
    experiment, choice = run(packaged_config(config), overrides or [], memory=memory)
    seconds = measured_step(experiment, choice, device) if measure else None
    print("\n".join(described(experiment, choice, memory, seconds)))
    if not choice.fits:
        raise UserError(f"nothing of {config} fits {gpu}; the thriftiest way takes {choice.step.memory / 1e9:.1f} GB")


@app.command()
def synthesize(
    out: Out,
    source: Annotated[
        Path | None,
        typer.Option(
            "-i", "--input", help="A case folder, a folder of them (BIDS, nnU-Net too), or a CSV.", show_default=False
        ),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            help="Exactly what to write, hidden where it is there: t1c,t2f [what the case lacks].", show_default=False
        ),
    ] = None,
    model: Model = "brain-completion",
    mode: Annotated[str, typer.Option(help="mean: the expected image; sample: plausible ones.")] = "mean",
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
    aliases: Annotated[
        Path | None, typer.Option(help="YAML of your own names: {t1c: [KM, post]}.", show_default=False)
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(
            help="Bring contrasts on other grids into register with this one, or with the finest: t1n, finest.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="The brain, for scans with skulls: a file, a folder of them, none, auto: made by your SynthStrip, "
            "HD-BET or deepbet [one that lies beside].",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Hide each contrast that is there and make it from the rest, to say how far to trust.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse cases unlike the training set.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Keep cases that the same settings have finished.")
    ] = False,
    part: Annotated[str, typer.Option(help="i/n: do only every n-th case, from the i-th on.")] = "1/1",
    merge: Annotated[
        bool, typer.Option("--merge", help="Only write OUT/cases.csv anew, from the cases' JSON files.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="A JSON file for all outcomes.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    debug: Debug = False,
) -> None:
    """Fill in the missing contrasts of a case, on its own grid, into OUT/CASE/; OUT/cases.csv says how far to trust."""
    from gen3d.tools.outcomes import TABLE, Outcome, counted, write_report, write_table
    from gen3d.tools.progress import TimeLeft, progress_bar
    from gen3d.tools.request import BRAINMASK, Plan
    from gen3d.tools.synthesize import synthesize as run

    def closing() -> None:
        rows = write_table(out)
        if report:
            write_report(rows, report)
        if len(rows) > 1 or merge:
            print(f"{len(rows)} cases: {counted(rows)}; {out / TABLE} lists them, worst first")

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
            print(f"{outcome.case}: {verb} {made} from {given} in {out / outcome.place}{files}{left.words()}")
            if outcome.reliability:
                known = ", ".join(f"{name} {share:.0%}" for name, share in outcome.reliability.items())
                print(f"{outcome.case}: of the contrasts that are there, hidden in turn, it foretells {known}")

    def reached(share: float, words: str) -> None:
        left.reached(share)
        advance(int(100 * share), words)

    if more and missing is None:
        raise UsageError(f"'{more[0]}': unexpected; a case is named by -i, contrasts by --missing")
    named = None if missing is None else separated([*missing, *(more or [])])  # --missing t1c t2f
    try:
        with progress_bar("synthesize", 100) as advance:
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
                skip_existing=skip_existing,
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


def parsed_memory(asked: str) -> float:
    """Return the bytes of --memory.

    Raises:
        UsageError: It is no amount of memory.
    """
    from gen3d.tools.plan import parse_memory

    try:
        return parse_memory(asked)
    except UsageError as error:
        raise UsageError(str(error).replace("--gpu", "--memory")) from None


def parsed_part(asked: str) -> tuple[int, int]:
    """Return i and n of "i/n".

    Raises:
        UsageError: It is no such thing.
    """
    words = asked.split("/")
    if len(words) == 2 and all(word.isdigit() for word in words) and 1 <= int(words[0]) <= int(words[1]):
        return int(words[0]), int(words[1])
    raise UsageError(f"--part '{asked}': expected i/n such as 2/4, i from 1 to n")


@app.command()
def export(
    results: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output folder of gen3d synthesize.", show_default=False)
    ],
    source: Annotated[Path, typer.Option("-i", "--input", help="The originals: its -i.", show_default=False)],
    to: Annotated[str, typer.Option(help="nnunet, bids or dicom.", show_default=False)],
    out: Out,
    channels: Annotated[
        list[str] | None,
        typer.Option(help="nnunet: contrasts in the order of its channels [the model's].", show_default=False),
    ] = None,
    aliases: Annotated[
        Path | None, typer.Option(help="YAML of your own names that synthesize was given.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Turn what synthesize made into what other tools take: nnU-Net cases, a BIDS derivative, DICOM series."""
    from gen3d.tools.dataset import LIST
    from gen3d.tools.export import export as run
    from gen3d.tools.progress import progress_bar

    def done(case: str, made: Sequence[str], given: Sequence[str]) -> None:
        kinds = (("synthetic", made), ("acquired", given))
        parts = [f"{kind} {', '.join(names)}" for kind, names in kinds if names]
        verb = "would export" if dry_run else "exported"
        print(f"{case}: {verb} {' and '.join(parts)}" if parts else f"{case}: nothing in it is synthetic")

    with progress_bar("export", 100) as advance:
        found = run(
            results,
            source,
            to,
            out,
            aliases=aliases,
            channels=None if channels is None else separated(channels),
            dry_run=dry_run,
            advance=lambda share, words: advance(int(100 * share), words),
            done=done,
            failed=warned(debug=debug),
            note=note,
        )
    where = f"{out / LIST} lists them" if found.outputs and not dry_run else "nothing was written"
    verb = "would be exported" if dry_run else "exported"
    print(f"{found.cases} case{'' if found.cases == 1 else 's'}: {found.counted(verb)}; {where}")
    if found.failures:
        raise typer.Exit(1)


@app.command()
def generate(
    model: Model,
    out: Out,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many scans; of each mask.")] = 1,
    mask: Annotated[
        Path | None,
        typer.Option(help="Labels that lead a control model, or a folder of them.", show_default=False),
    ] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    compiled: Compile = False,
    size: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Voxels X Y Z [the model's own].", show_default=False)
    ] = None,
    label: Annotated[str | None, typer.Option(help="Class, by name or number [any].", show_default=False)] = None,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of the voxels in mm, X Y Z [the model's own].", show_default=False),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Pull towards the class; 1 is none [the model's own].", show_default=False)
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="What decoding a latent may take, such as 6GB [all].", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw new scans; finished ones of an earlier run of the same command are kept."""
    from gen3d.tools.generate import generate as run
    from gen3d.tools.progress import progress_bar

    with progress_bar("generate", 100) as advance:
        paths = run(
            model,
            out,
            count,
            mask=mask,
            steps=steps,
            sampler=sampler,
            seed=seed,
            device=device,
            precision=precision,
            compiled=compiled,
            size=size,
            label=label,
            spacing=spacing,
            guidance=guidance,
            memory=None if memory is None else parsed_memory(memory),
            advance=lambda share, words: advance(int(100 * share), words),
            failed=lambda mask, error: note(f"{mask}: {one_line(error)}"),
            note=note,
        )
    for path in paths:
        print(str(path))


@app.command()
def augment(
    out: Out,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model of pairs: its folder, shipped name or hub id.", show_default=False, autocompletion=model_names
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many cases.")] = 1,
    layout: Annotated[str, typer.Option(help="nnunet, msd or bids.")] = "nnunet",
    masks: Annotated[
        Path | None,
        typer.Option(
            "--from-masks", help="Make images of these masks: a folder or a file [masks are drawn].", show_default=False
        ),
    ] = None,
    deform: Annotated[bool, typer.Option("--deform", help="Turn, stretch and bend given masks at random.")] = False,
    volumes: Annotated[
        list[str] | None,
        typer.Option(help="mL of each label: 1.5,1.2 [about those of random training cases].", show_default=False),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Class, by name or number [any].", show_default=False)] = None,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of the voxels in mm, X Y Z [the model's own].", show_default=False),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Pull towards what is told; 1 is none [the model's own].", show_default=False)
    ] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    attempts: Annotated[int, typer.Option(help="Draws that the gates may refuse before a case is given up.")] = 5,
    channels: Annotated[
        list[str] | None,
        typer.Option(help="What the images are called: t1n [as the model calls them].", show_default=False),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(help="Real cases to copy in, the only ones that validate.", show_default=False),
    ] = None,
    seed: Seed = 0,
    part: Annotated[str, typer.Option(help="i/n: do only every n-th case, from the i-th on.")] = "1/1",
    merge: Annotated[
        bool, typer.Option("--merge", help="All parts are there: only write the data set's files and report.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local: this process; ray: workers, on RAY_ADDRESS or here.")] = "local",
    workers: Annotated[int, typer.Option(help="Of ray.")] = 1,
    threads: Annotated[int, typer.Option(help="Of the processor, for each process or worker.")] = 1,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Make a labelled synthetic data set to train other networks on: images and masks that passed every gate."""
    from gen3d.tools.augment.augment import augment as run
    from gen3d.tools.augment.merge import in_a_line
    from gen3d.tools.augment.merge import merge as join
    from gen3d.tools.augment.pair import Wishes
    from gen3d.tools.progress import progress_bar

    if merge:
        print(in_a_line(join(out), out))
        return
    if model is None:
        raise UsageError("Missing option '--model': expected a model of pairs, such as hippocampus-pairs")
    told = None if volumes is None else numbers("--volumes", separated(volumes))
    with progress_bar("augment", 1000) as advance:
        report = run(
            model,
            count,
            out,
            layout=layout,
            wishes=Wishes(masks, deform, told, label, spacing, guidance, sampler, steps, device, precision),
            seed=seed,
            attempts=attempts,
            channels=separated(channels) if channels else None,
            real=real,
            part=parsed_part(part),
            engine=engine,
            workers=workers,
            threads=threads,
            dry_run=dry_run,
            advance=lambda share, words: advance(round(1000 * share), words),
            note=note,
        )
    print(in_a_line(report, out, dry_run=dry_run))


def numbers(option: str, words: Sequence[str]) -> tuple[float, ...]:
    """Return the numbers of an option.

    Raises:
        UsageError: One is none.
    """
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        raise UsageError(f"{option} {','.join(words)}: expected numbers") from None


@app.command()
def standardize(
    source: Annotated[
        Path,
        typer.Option("-i", "--input", help="A CT in HU: NIfTI, a folder of them, a DICOM series.", show_default=False),
    ],
    out: Out,
    to: Annotated[str, typer.Option(help="The standard kernel.")] = "B30",
    source_kernel: Annotated[
        str, typer.Option("--from", help="The images' kernel, such as B70; auto: not told.")
    ] = "auto",
    model: Model = "ct-kernel",
    start: Annotated[
        str | None,
        typer.Option(help="Where the walk begins: flow, noise or source [the model's own].", show_default=False),
    ] = None,
    steps: Steps = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="The same scan in that kernel, or a folder of them, to compare with.", show_default=False),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Body masks: a folder or a file [found in the image].", show_default=False)
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(min=0.05, help="Pixel size in mm [the file's own].", show_default=False)
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Bring CT to a standard reconstruction kernel, in HU on its own grid, with a report of what changed."""
    from gen3d.tools.kernel_report import summary
    from gen3d.tools.kernel_walk import Request
    from gen3d.tools.progress import progress_bar
    from gen3d.tools.standardize import standardize as run

    with progress_bar("standardize", 100) as advance:
        run(
            source,
            out,
            model,
            Request(to, None if source_kernel == "auto" else source_kernel, start, steps, spacing, seed),
            truth=truth,
            mask=mask,
            device=device,
            precision=precision,
            dry_run=dry_run,
            advance=lambda share, words: advance(int(100 * share), words),
            done=lambda name, report: print("\n".join(summary(name, report))),
            failed=warned(debug=debug),
            note=note,
        )


@app.command()
def forecast(
    source: Annotated[
        Path,
        typer.Option("-i", "--input", help="A patient's folder, a 4D NIfTI, a folder of patients.", show_default=False),
    ],
    out: Out,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="When: 2027-05-01, or days after the last visit: +365; several: +180,+365.", show_default=False
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Plausible images, for the spread; 0: the expected one alone.")] = 4,
    model: Model = "hippocampus-forecast",
    contrast: Annotated[
        str | None, typer.Option(help="Which scan, where visits hold several: flair.", show_default=False)
    ] = None,
    dates: Annotated[
        Path | None,
        typer.Option(
            help="CSV with columns visit,date or visit,day [dates.csv in the folder, else names].", show_default=False
        ),
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Move all visits rigidly to the last.")] = False,
    hide_last: Annotated[
        bool, typer.Option("--hide-last", help="Hide the last visit, forecast it and compare, beside a copy.")
    ] = False,
    rollout: Annotated[
        float | None,
        typer.Option(help="Also go there in steps of so many days, and tell the drift.", show_default=False),
    ] = None,
    keep: Annotated[bool, typer.Option("--write-samples", help="Write each sample too.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    report: Annotated[Path | None, typer.Option(help="A JSON file for all outcomes.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Forecast a patient's scan at a later date from the earlier visits, beside the copied last visit."""
    from gen3d.tools.forecast import Request
    from gen3d.tools.forecast import forecast as run
    from gen3d.tools.forecast_scores import summary
    from gen3d.tools.progress import progress_bar

    with progress_bar("forecast", 100) as advance:
        run(
            source,
            out,
            model,
            Request(tuple(separated(at or [])), samples, contrast, dates, align, hide_last, rollout, keep, seed),
            device=device,
            precision=precision,
            dry_run=dry_run,
            report=report,
            advance=lambda share, words: advance(int(100 * share), words),
            done=printed(summary, None if dry_run else out),
            failed=warned(debug=debug),
            note=note,
        )


@app.command()
def segment(
    source: Annotated[
        Path,
        typer.Option("-i", "--input", help="A scan, a folder of scans or studies, a data set.", show_default=False),
    ],
    out: Out,
    model: Model,
    samples: Annotated[int, typer.Option(help="Masks that are drawn; 0: the answer of a single call.")] = 16,
    rater: Annotated[
        int | None, typer.Option(help="Draw as this rater would, from 1 [as any of them].", show_default=False)
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    report: Annotated[Path | None, typer.Option(help="A JSON file for all outcomes.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Segment scans: the most likely mask, how sure it is, and masks as several experts might draw them."""
    from gen3d.tools.progress import progress_bar
    from gen3d.tools.segment import Request
    from gen3d.tools.segment import segment as run
    from gen3d.tools.segment_files import summary

    with progress_bar("segment", 100) as advance:
        run(
            source,
            out,
            model,
            Request(samples, rater, seed),
            device=device,
            precision=precision,
            dry_run=dry_run,
            report=report,
            advance=lambda share, words: advance(int(100 * share), words),
            done=printed(summary, None if dry_run else out),
            failed=warned(debug=debug),
            note=note,
        )


def printed(summary: Callable[[Mapping[str, Any]], list[str]], out: Path | None) -> Callable[[Mapping[str, Any]], None]:
    """Return what prints a finished case, and where it lies."""

    def done(row: Mapping[str, Any]) -> None:
        print("\n".join([*summary(row), *([f"  in {out / row['place']}"] if out else [])]))

    return done


def warned(*, debug: bool) -> Callable[[str, Exception], None]:
    """Return what tells of a case that failed."""

    def failed(case: str, error: Exception) -> None:
        print(f"gen3d: {case}: {one_line(error)}", file=sys.stderr)
        if debug:
            traceback.print_exception(error)

    return failed


evaluate = typer.Typer(help="Measure synthetic images and masks against real ones: a table, a JSON file, a picture.")
app.add_typer(evaluate, name="evaluate")


@evaluate.command("generation")
def evaluate_generation(
    real: Annotated[
        Path, typer.Argument(help="Real scans unseen in training, or an earlier results.json.", show_default=False)
    ],
    fake: Annotated[Path, typer.Argument(help="Generated scans.", show_default=False)],
    out: Out,
    train: Annotated[
        Path | None,
        typer.Option(help="The generator's training scans: copies are looked for in them [REAL].", show_default=False),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="radiomic, medicalnet50, medicalnet10, random3d, module [radiomic; MedicalNet if weights are given].",
            show_default=False,
        ),
    ] = None,
    feature_weights: Annotated[
        Path | None,
        typer.Option(help="Weights of the feature network [$GEN3D_FEATURE_WEIGHTS].", show_default=False),
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Which one, where folders hold several.", show_default=False)
    ] = None,
    size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Grid in voxels X Y Z [what all scans show].", show_default=False),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Grey values, such as HU, of 0 and 1 [each scan's percentiles].", show_default=False),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs for the mean MS-SSIM [all up to 2000].", show_default=False)
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Generated scans against real ones: distances, coverage, diversity, and copies of training scans."""
    from gen3d.tools.evaluate.generation import evaluate_generation as run

    present(
        lambda advance: run(
            real,
            fake,
            out,
            train=train,
            features=separated(features or []),
            feature_weights=feature_weights,
            contrast=contrast,
            size=size,
            window=window,
            pairs=pairs,
            seed=seed,
            device=device,
            advance=advance,
        ),
        out,
    )


@evaluate.command("pairs")
def evaluate_pairs(
    real: Annotated[
        Path, typer.Argument(help="True images: a folder of cases, a flat folder, a file.", show_default=False)
    ],
    fake: Annotated[
        Path, typer.Argument(help="Synthetic ones: the same cases or file names, or a file.", show_default=False)
    ],
    out: Out,
    lesion: Annotated[
        Path | None, typer.Option(help="Lesion masks: a folder or a file [those in REAL].", show_default=False)
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Brain or body masks: a folder or a file [found in the image].", show_default=False),
    ] = None,
    units: Annotated[str, typer.Option(help="auto, arbitrary or HU.")] = "auto",
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Grey values of 0 and 1, for both images [the true image's percentiles].", show_default=False
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Other synthetic images, or an earlier results.json, shown beside.", show_default=False),
    ] = None,
    segmenter: Annotated[
        Path | None,
        typer.Option(help="A TorchScript segmentation network, asked about both images.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Synthetic images against the true ones: brain or body first, lesion and healthy tissue apart."""
    from gen3d.tools.evaluate.pairs import evaluate_pairs as run

    present(
        lambda advance: run(
            real,
            fake,
            out,
            lesion=lesion,
            mask=mask,
            units=units,  # type: ignore[arg-type]
            window=window,
            baseline=baseline,
            segmenter=segmenter,
            advance=advance,
            note=note,
        ),
        out,
    )


@evaluate.command("segmentation")
def evaluate_segmentation(
    real: Annotated[
        Path, typer.Argument(help="True masks: a folder of cases, a flat folder, a file.", show_default=False)
    ],
    fake: Annotated[Path, typer.Argument(help="Masks of the same cases or file names, or a file.", show_default=False)],
    out: Out,
    label: Annotated[
        list[int] | None, typer.Option(help="Score this label; may be repeated [all but 0].", show_default=False)
    ] = None,
    tolerance_mm: Annotated[float, typer.Option("--tolerance-mm", help="Of the surface Dice.")] = 1.0,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Masks of a plain network, or an earlier results.json, shown beside.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Masks against the true ones: overlap, surface distances, volumes."""
    from gen3d.tools.evaluate.segmentation import evaluate_segmentation as run

    present(
        lambda advance: run(
            real,
            fake,
            out,
            labels=label,
            tolerance_mm=tolerance_mm,
            baseline=baseline,
            advance=advance,
            note=note,
        ),
        out,
    )


@evaluate.command("ambiguous")
def evaluate_ambiguous(
    real: Annotated[
        Path, typer.Argument(help="Raters' masks: CASE_raterN.nii.gz in a folder, or an npz.", show_default=False)
    ],
    fake: Annotated[
        Path, typer.Argument(help="Samples: CASE/CASE_sample-NN.nii.gz in a folder, or an npz.", show_default=False)
    ],
    out: Out,
    empty: Annotated[str, typer.Option(help="What two empty masks are: agree, exclude or disagree.")] = "agree",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Take only so many of each case [all].", show_default=False)
    ] = None,
    label: Annotated[
        int | None, typer.Option(min=1, help="The class to score [masks are 0 and 1].", show_default=False)
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--baseline", "--reference", help="An earlier results.json, compared case by case.", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Sampled masks against those of several raters, beside the raters' own agreement."""
    from gen3d.tools.evaluate.ambiguous import evaluate_ambiguous as run

    present(
        lambda advance: run(
            real,
            fake,
            out,
            empty=empty,  # type: ignore[arg-type]
            samples=samples,
            label=label,
            reference=reference,
            advance=advance,
            note=note,
        ),
        out,
    )


@evaluate.command("downstream")
def evaluate_downstream(
    real: Annotated[Path, typer.Argument(help="Real cases with masks.", show_default=False)],
    out: Out,
    config: Annotated[
        str, typer.Option(help="Of the generators: a YAML file, or the name of a packaged configuration of pairs.")
    ] = "augment_hippocampus",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for it, such as train.steps=2000; may be repeated.", show_default=False),
    ] = None,
    cases: Annotated[str, typer.Option(help="Numbers of real patients.")] = "10,50",
    curve: Annotated[
        str, typer.Option(help="More numbers, of real cases alone: what arms are worth.", show_default=False)
    ] = "",
    seeds: Annotated[int, typer.Option(help="Choices of patients, each with its own training.")] = 3,
    steps: Annotated[int, typer.Option(help="Of the segmentation network, in every arm.")] = 1000,
    count: Annotated[int, typer.Option("-n", "--count", help="Synthetic pairs of a set.")] = 100,
    ratio: Annotated[float, typer.Option(help="Share of synthetic cases where an arm mixes.")] = 0.5,
    from_masks: Annotated[
        bool, typer.Option("--from-masks", help="Draw images of the arm's masks, deformed, instead of pairs.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model of pairs, an arm of its own; may be repeated.", show_default=False),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Test on its test cases in configs/splits.yaml [a fifth of the patients].", show_default=False
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Test on this folder.", show_default=False)] = None,
    part: Annotated[str, typer.Option(help="i/n: a share of the work, for several processes.")] = "1/1",
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Do synthetic pairs help? The same small segmentation network with and without them, on unseen real cases."""
    from gen3d.tools.evaluate.downstream import Comparison
    from gen3d.tools.evaluate.downstream import evaluate_downstream as run

    asked = Comparison(
        real,
        config,
        tuple(set_ or ()),
        counts("--cases", cases),
        counts("--curve", curve),
        seeds,
        steps,
        count,
        ratio,
        from_masks,
        tuple(model or ()),
        dataset,
        test,
    )
    each = parsed_part(part)
    present(lambda advance: run(asked, out, part=each, device=device, dry_run=dry_run, advance=advance), out)


def counts(option: str, words: str) -> tuple[int, ...]:
    """Return whole numbers with commas between them.

    Raises:
        UsageError: One is none.
    """
    try:
        return tuple(map(int, separated([words])))
    except ValueError:
        raise UsageError(f"{option} {words}: expected whole numbers, such as 10,50") from None


def present(evaluated: "Callable[[Callable[[float, str], None]], Report | str]", out: Path) -> None:
    """Evaluate with a progress bar, write the report into its folder, then print it."""
    from gen3d.tools.evaluate.report import RESULTS, SUMMARY, deliver, show
    from gen3d.tools.progress import progress_bar

    with progress_bar("evaluate", 100) as advance:
        report = evaluated(lambda share, words: advance(int(100 * share), words))
        if not isinstance(report, str):
            deliver(report, out)
    if isinstance(report, str):
        print(report)
        return
    show(report)
    print(f"{out / RESULTS}\n{out / SUMMARY}")


@app.command()
def reconstruct(
    out: Out,
    source: Annotated[Path, typer.Option("-i", "--input", help="A scan, or a folder of scans.", show_default=False)],
    task: Annotated[str, typer.Option(help="sparse-ct or mri.", show_default=False)],
    views: Annotated[int, typer.Option(help="CT: angles over 180 degrees.")] = 20,
    acceleration: Annotated[float, typer.Option(help="MRI: one in how many frequencies is sampled.")] = 4.0,
    mask: Annotated[str, typer.Option(help="MRI: gaussian (lines) or poisson (points).")] = "gaussian",
    noise: Annotated[
        float, typer.Option(help="Standard deviation of the noise in units of the data's root mean square.")
    ] = 0.005,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's folder, shipped name or hub id [the task's].",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    mode: Annotated[str, typer.Option(help="mean: the expected image; sample: a plausible one.")] = "mean",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    debug: Debug = False,
) -> None:
    """Simulate a sparse measurement of a scan and reconstruct it, beside classical methods."""
    from gen3d.tools.progress import progress_bar
    from gen3d.tools.reconstruct import asked
    from gen3d.tools.reconstruct import reconstruct as run
    from gen3d.tools.reconstruction_report import table_lines

    acquisition = asked(task, views, acceleration, mask, noise)
    with progress_bar("reconstructing", 1000) as advance:
        rows = run(
            source,
            out,
            acquisition,
            model,
            mode,  # type: ignore[arg-type]
            seed=seed,
            device=device,
            precision=precision,
            advance=lambda share, words: advance(round(1000 * share), words),
            failed=lambda scan, error: note(f"{scan}: {one_line(error)}"),
            note=note,
        )
    for line in table_lines(rows, acquisition):
        print(line)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What any tool was given by -o.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The page [FOLDER/report.html].", show_default=False)
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "-i", "--input", help="What the tool was given by -i, to show beside its results.", show_default=False
        ),
    ] = None,
    cases: Annotated[int, typer.Option(help="How many cases are shown, the worst first.")] = 6,
    sheet: Annotated[bool, typer.Option("--sheet", help="Write a PNG of each case shown too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Show what any tool wrote on one HTML page: slices, 3D, scores, provenance; it needs no network."""
    from gen3d.tools.progress import progress_bar
    from gen3d.tools.report.report import report as run

    with progress_bar("report", 100) as advance:
        made = run(
            folder,
            out,
            source=source,
            count=cases,
            sheet=sheet,
            dry_run=dry_run,
            advance=lambda share, words: advance(int(100 * share), words),
            note=note,
        )
    for line in made.lines(dry_run=dry_run):
        print(line)


@app.command("import")
def import_(
    family: Annotated[
        str, typer.Argument(help="wdm, cwdm, meddiffusion-ae, meddiffusion or maisi-vae.", show_default=False)
    ],
    checkpoint: Annotated[Path, typer.Argument(help="An official checkpoint.", show_default=False)],
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="JSON of its options [the official release's].", show_default=False)
    ] = None,
    target: Annotated[str | None, typer.Option(help="cwdm: which contrast it makes [t1n].", show_default=False)] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="meddiffusion: the saved model of its autoencoder, imported before.", show_default=False),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="maisi-vae: whose grey scale it takes, ct or mri [ct].", show_default=False)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="maisi-vae: of the weights [the release's].", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Turn an official checkpoint into a saved model; several cwdm targets go into one folder."""
    from gen3d.interop.official import import_official

    import_official(
        family,
        checkpoint,
        out,
        config=config,
        target=target,
        autoencoder=autoencoder,
        modality=modality,
        licence=licence,
    )
    print(str(out))


@app.command()
def push(
    model: ModelArgument,
    to: Annotated[str, typer.Argument(help="A folder, or hub:OWNER/NAME.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see a repository that is made.")] = False,
    debug: Debug = False,
) -> None:
    """Copy a saved model, checked and whole, to a folder or to the Hugging Face hub."""
    from gen3d.interop.hub import push as run

    print(run(model, to, public=public))


@app.command()
def pull(
    source: Annotated[str, typer.Argument(help="hub:OWNER/NAME, or a folder.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Where to [the hub's cache: --model OWNER/NAME finds it].", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Fetch a saved model from the Hugging Face hub or a folder, and check its SHA-256s; no code is ever fetched."""
    from gen3d.interop.hub import pull as run

    print(str(run(source, out)))


@app.command()
def bundle(model: ModelArgument, out: Out, debug: Debug = False) -> None:
    """Write a saved model as a MONAI bundle, which runs gen3d."""
    from gen3d.interop.bundle import write_bundle

    print(str(write_bundle(model, out)))


@app.command()
def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model's folder, shipped name or hub id.", show_default=False, autocompletion=model_names
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the shipped models and the environment, or say all about one model."""
    from gen3d.tools.info import show_environment, show_model

    show_environment() if model is None else show_model(model)


@app.command()
def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            help="Look at this model, not at those in the box: a folder, shipped name or hub id.",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say whether this installation, the device and the models are sound, and how to mend what is not."""
    from gen3d.tools.doctor import doctor as run

    if not run(model, as_json=as_json):
        raise typer.Exit(1)


def separated(names: Sequence[str]) -> list[str]:
    """Split comma-separated values of an option that may also be repeated."""
    return [word.strip() for name in names for word in name.split(",") if word.strip()]


def note(words: str) -> None:
    """Say something beside the results."""
    print(words, file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Return an error as one line; where it is not the user's, with its kind."""
    if hasattr(error, "format_message"):  # typer's own: an unknown option, a missing argument
        return f"{' '.join(error.format_message().split())} (see gen3d --help)"
    said = " ".join(str(error).split())
    if isinstance(error, UserError):
        return said
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"needs the package {error.name}: pip install 'gen3d[{EXTRAS[error.name]}]'"
    kind = type(error).__name__
    return f"{kind}: {said[:300]} (--debug shows where)" if said else f"{kind} (--debug shows where)"


def run(arguments: Sequence[str], command: Callable[..., Any] = app) -> int:
    """Run the command line and return its exit status: 0, 1 for a failure, 2 for wrong usage, 130 when interrupted."""
    debug = "--debug" in arguments
    status: object = 0
    try:
        if command is app and not arguments and "_GEN3D_COMPLETE" not in os.environ:
            print(welcome({name: each.get_short_help_str(200) for name, each in commands().items()}))
            return 0
        status = command(completed(arguments), prog_name="gen3d", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except typer.Exit as stop:
        status = stop.exit_code
    except Exception as error:
        return told(one_line(error), int(getattr(error, "exit_code", 1)), debug=debug)
    if status == 130:  # some versions of typer turn an interrupt into this
        return told("interrupted; nothing half written is left", 130, debug=debug)
    return status if isinstance(status, int) else 0


def commands() -> dict[str, Any]:
    """Return all commands by name."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def completed(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, "finest" put behind an ``--align`` that names no contrast; forecast's names none."""
    if arguments[:1] == ["forecast"]:
        return list(arguments)
    lines = [*arguments, "-"]
    bare = [word == "--align" and after.startswith("-") for word, after in pairwise(lines)]
    return [
        part for word, alone in zip(arguments, bare, strict=True) for part in ([word, "finest"] if alone else [word])
    ]


def told(words: str, status: int, *, debug: bool) -> int:
    """Print one line on standard error, the traceback too if asked for, and return the exit status."""
    if debug and sys.exc_info()[0]:
        traceback.print_exc()
    print(f"gen3d: {words}", file=sys.stderr)
    return status


def terminated(number: int, frame: object) -> NoReturn:
    """Leave as if interrupted, so that nothing half written stays behind."""
    raise SystemExit(128 + number)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of large arrays: giving it back and clearing it anew takes as long as computing."""
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def main() -> None:
    """Run as a program."""
    signal.signal(signal.SIGTERM, terminated)
    keep_freed_memory()
    if "--debug" not in sys.argv:
        warnings.simplefilter("ignore")  # what goes wrong is told in one line
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
