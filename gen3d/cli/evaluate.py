"""``gen3d evaluate``: generation, pairs, segmentation, ambiguous, downstream."""

from pathlib import Path
from typing import Annotated

import typer

from gen3d.cli.downstream import evaluate_downstream
from gen3d.cli.messages import note, present
from gen3d.cli.options import Contrast, Debug, Device, DryRun, Out, Seed
from gen3d.cli.values import separated

app = typer.Typer(help="Measure synthetic images and masks against real ones.\n\nA table, a JSON file, a picture.")


@app.command("generation")
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
    contrast: Contrast = None,
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
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Compare generated scans with real ones.

    Distances, coverage, diversity, and copies of training scans.
    What was measured of each scan is kept in OUT/cache, for the next run.
    """
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
            dry_run=dry_run,
            advance=advance,
        ),
        out,
    )


@app.command("pairs")
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
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Compare synthetic images with the true ones.

    Brain or body first, lesion and healthy tissue apart.
    What was measured of each scan is kept in OUT/cache, for the next run.
    """
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
            dry_run=dry_run,
            advance=advance,
            note=note,
        ),
        out,
    )


@app.command("segmentation")
def evaluate_segmentation(
    real: Annotated[
        Path, typer.Argument(help="True masks: a folder of cases, a flat folder, a file.", show_default=False)
    ],
    fake: Annotated[Path, typer.Argument(help="Masks of the same cases or file names, or a file.", show_default=False)],
    out: Out,
    structure: Annotated[
        list[int] | None,
        typer.Option(help="Score the label of this number; may be repeated [all but 0].", show_default=False),
    ] = None,
    tolerance_mm: Annotated[float, typer.Option("--tolerance-mm", help="Of the surface Dice.")] = 1.0,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Masks of a plain network, or an earlier results.json, shown beside.", show_default=False),
    ] = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Compare masks with the true ones.

    Overlap, surface distances, volumes.
    What was measured of each scan is kept in OUT/cache, for the next run.
    """
    from gen3d.tools.evaluate.segmentation import evaluate_segmentation as run

    present(
        lambda advance: run(
            real,
            fake,
            out,
            labels=structure,
            tolerance_mm=tolerance_mm,
            baseline=baseline,
            dry_run=dry_run,
            advance=advance,
            note=note,
        ),
        out,
    )


@app.command("ambiguous")
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
    structure: Annotated[
        int | None,
        typer.Option(min=1, help="Score the label of this number [masks are 0 and 1].", show_default=False),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier results.json, compared case by case.", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Compare sampled masks with those of several raters.

    Beside the raters' own agreement.
    What was measured of each scan is kept in OUT/cache, for the next run.
    """
    from gen3d.tools.evaluate.ambiguous import evaluate_ambiguous as run

    present(
        lambda advance: run(
            real,
            fake,
            out,
            empty=empty,  # type: ignore[arg-type]
            samples=samples,
            label=structure,
            reference=baseline,
            dry_run=dry_run,
            advance=advance,
            note=note,
        ),
        out,
    )


app.command("downstream")(evaluate_downstream)
