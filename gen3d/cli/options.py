"""Options and arguments that commands share: one spelling, meaning and help for each."""

from pathlib import Path
from typing import Annotated, Any

import typer


def model_names(incomplete: str) -> list[str]:
    """Complete the name of a shipped model."""
    from gen3d.systems import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def config_names(incomplete: str) -> list[str]:
    """Complete the name of a packaged configuration."""
    from importlib.resources import files

    names = sorted(path.name.removesuffix(".yaml") for path in files("gen3d.configs").iterdir())
    return [name for name in names if name.startswith(incomplete) and name.isidentifier() and name != "splits"]


def input_option(words: str) -> Any:
    """Return the option ``-i`` with its help."""
    return typer.Option("-i", "--input", help=words, show_default=False)


def count_option(words: str) -> Any:
    """Return the option ``-n`` with its help."""
    return typer.Option("-n", "--count", min=1, help=words)


def model_option(words: str) -> Any:
    """Return the option ``--model`` of a command that can do without, with its help."""
    return typer.Option(help=words, show_default=False, autocompletion=model_names)


WHICH = "A model's folder, shipped name or hub id."

Out = Annotated[Path, typer.Option("-o", "--out", help="Output folder.", show_default=False)]
Model = Annotated[str, typer.Option(help=WHICH, autocompletion=model_names)]
ModelArgument = Annotated[str, typer.Argument(help=WHICH, show_default=False, autocompletion=model_names)]
Config = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or the name of a packaged configuration.", show_default=False, autocompletion=config_names
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value ..., such as train.steps=100.", show_default=False)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Precision = Annotated[str, typer.Option(help="Of the network: auto, fp32, bf16 or fp16.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network first: pays in hours of sampling.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Mode = Annotated[str, typer.Option(help="mean: the expected image; sample: plausible ones.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the sampler [the model's own].", show_default=False)]
Sampler = Annotated[
    str | None,
    typer.Option(help="euler, heun, dpmpp_2m, ... or a diffusers scheduler [the model's own].", show_default=False),
]
Label = Annotated[str | None, typer.Option(help="Class, by name or number [any].", show_default=False)]
Spacing = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="Of the voxels in mm, X Y Z [the model's own].", show_default=False),
]
Guidance = Annotated[
    float | None, typer.Option(help="Pull towards what is told; 1 is none [the model's own].", show_default=False)
]
Contrast = Annotated[
    str | None, typer.Option(help="Which contrast, where there are several: flair.", show_default=False)
]
Aliases = Annotated[Path | None, typer.Option(help="YAML of your own names: {t1c: [KM, post]}.", show_default=False)]
Part = Annotated[str, typer.Option(help="i/n: do only every n-th case, from the i-th on.")]
Report = Annotated[Path | None, typer.Option(help="A JSON file of what became of each case.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")]
