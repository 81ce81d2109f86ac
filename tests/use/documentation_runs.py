"""A page is run from top to bottom, on its stage: what is run as printed, what is made small, what is not run."""

import contextlib
import io
import os
import re
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from gen3d.cli import run
from gen3d.core.config import build
from gen3d.data.aliases import read_aliases
from gen3d.systems import system_class
from gen3d.tools.train import Experiment
from tests.use.documentation import PAGES, Block, Command, blocks, commands, name
from tests.use.documentation_checks import complaint
from tests.use.documentation_stage import GIVEN, Stage, remove

SHELL, LEFT_TO_OTHERS = ("bash",), ("docs/extending.md",)  # tests/use/test_extending.py runs that page

NOT_RUN = {  # what a command matches: why it is not run, but only parsed
    r"^pip install": "it would change the environment that runs the tests",
    r"^make (demo|notebooks|test-report|bench|bench-gpu)\b": "CI runs it, or it takes minutes",
    r"^python -m benchmarks\.": "minutes to hours; what it wrote is in benchmarks/results",
    r"^python -m monai\.bundle": "it imports all of MONAI; tests/use/test_exchange.py runs one",
    r"^srun ": "a cluster's",
    r"--engine ray": "Ray starts for ten seconds; tests/use/test_augment_kills.py starts it",
    r"^gen3d doctor": "it judges the machine and imports every package, 14 s; tests/use/test_doctor.py runs it",
    r"hub:OWNER/NAME": "there is no network",
}
SMALL = (  # what a command matches: the words that are appended, of which the last of a kind counts
    (r"gen3d augment .*-n \d{3}", "-n 1"),  # 0.4 s a case
    (r"gen3d generate .*-n \d", "-n 1"),
    (r"gen3d generate .*--size 256", "--size 32,32,32"),
    (r"gen3d generate .*--model wdm-brats", "--size 32,32,32"),  # the official release's is 256 cubed
    (r"gen3d synthesize .*--model cwdm", "--samples 1 --steps 1 --no-check"),  # 1000 calls of 224 cubed
    (r"gen3d segment (?!.*--samples 0)", "--samples 2"),
    (r"gen3d forecast ", "--samples 1"),
    (r"gen3d evaluate downstream", "--patients 2 --dry-run"),  # two steps draw nothing that its gates let pass
    (r"gen3d import wdm", "--config brats_unet_128_1200k.json"),  # random weights of a small network
    (r"gen3d import cwdm", "--config cwdm_t2f.json"),
    (r"gen3d import meddiffusion-ae", "--config PatchVolume_8x_s2.json"),
    (r"gen3d import meddiffusion ", "--config BiFlowNet_0453500.json"),
    (r"gen3d import maisi-vae", "--config autoencoder.json"),
    (r"gen3d plan cwdm_brats", "model.network.multipliers=[1,2] model.network.blocks=1"),  # 13 s whole
    (r"gen3d train ", "train.steps=2 train.batch=1 train.accumulate=1 train.workers=0"),
    (r"gen3d train (?!CONFIG)", "data.validation=0 train.validate_every=0 train.patience=0"),  # of four patients
    (r"gen3d train CONFIG", "data.phantoms.count=6 data.validation=0.3 train.wandb=disabled"),  # wandb is not installed
    (r"gen3d train completion_brain_small", "model.patch=[16,16,16] data.phantoms.count=0"),
    (r"gen3d train wdm_brats", "model.canvas=[32,32,32] model.network.width=8 model.network.groups=4"),
    (
        r"gen3d train meddiffusion_ae",
        "model.crop=[16,16,16] model.network.width=8 model.network.codes=16 model.network.patch=16 "
        "model.network.groups=4 model.network.stride=4 model.network.latent_channels=4 model.discriminator.features=0",
    ),
    (
        r"gen3d train meddiffusion_ct",
        "model.network.channels=4 model.canvas=[32,32,32] train.precision=fp32",
    ),  # no fp16
    (
        r"gen3d train (meddiffusion_ct|ct_60)",
        "model.network.width=8 model.network.multipliers=[1,2] model.network.attention=[false,false] "
        "model.network.groups=4 model.network.heads=1 model.network.transformer_heads=1",
    ),
    (
        r"gen3d train diffusionct",
        "model.patch=[32,32,1] model.network.width=8 model.network.multipliers=[1,2] model.network.groups=8",
    ),
    (r"gen3d train hippocampus_forecast", "model.labels=[]"),  # 900 draws say how far volumes lie from true ones
    (
        r"gen3d train sadm_acdc",
        "model.patch=[32,32,8] model.resample=[32,32,8] model.network.width=8 model.network.groups=4 "
        "model.encoder.width=16 model.encoder.depth=1 model.encoder.heads=2",
    ),
)
GOES_ON = r"--merge|--part"  # OUT is emptied before a command that writes to it, but for these, which go on from it
REFUSES = (r"synthesize .*--strict", "refused:")  # exit status 1, by design: the stage's brains are unlike the training


def printed(page: Path) -> list[Command]:
    """Return the commands of a page's shell blocks."""
    return [command for block in blocks(page) if block.language in SHELL for command in commands(block)]


RUN = sorted(  # from the page with the most commands on, so that two processes share the work
    (page for page in PAGES if name(page) not in LEFT_TO_OTHERS and blocks(page)), key=lambda page: -len(printed(page))
)


def why_not(command: Command) -> str:
    """Return why a command is not run, nothing if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, str(command))), "")


def appended(command: Command) -> list[str]:
    """Return the words that make a command small."""
    return [word for pattern, words in SMALL if re.search(pattern, str(command)) for word in words.split()]


def run_page(page: Path, folder: Path) -> list[str]:
    """Run all blocks of a page in one working directory, and return what failed."""
    names: dict[str, Any] = {}
    failures: list[str] = []
    (folder / "checkout").mkdir()
    stage = Stage(folder / "checkout")
    with contextlib.chdir(stage.folder), patch.dict(os.environ):
        os.environ.pop("GEN3D_DATA", None)  # ../shared/data is of the stage
        for block in blocks(page):
            if block.language in SHELL:
                failures += [said for command in commands(block) if (said := run_command(command, stage))]
            else:
                failures += attempted(str(block), partial(LANGUAGES[block.language], block, stage, names))
    return failures


def run_command(command: Command, stage: Stage) -> str:
    """Run a command as printed, and return what went wrong."""
    if why_not(command):
        said = complaint(command)
        return f"{command.place}: {command}\n  {said}" if said else ""
    if command.words[0].removeprefix(".venv/bin/") != "gen3d":
        return f"{command.place}: {command}\n  not gen3d, so it must be in NOT_RUN"
    if said := attempted(command.place, partial(stage.prepare, str(command))):
        return said[0]
    if " -o OUT" in str(command) and not re.search(GOES_ON, str(command)):
        remove(stage.folder / "OUT")
        stage.there.pop("OUT", None)
    words = [*command.words[1:], *appended(command)]
    told = io.StringIO()
    with (
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
        warnings.catch_warnings(),
        patch.dict(os.environ, dict(command.environment)),
    ):
        warnings.simplefilter("ignore")  # as the program does
        status = run(words)
    refused = re.search(REFUSES[0], str(command)) is not None
    if status == refused and (not refused or REFUSES[1] in told.getvalue()):
        return ""
    return f"{command.place}: gen3d {' '.join(words)}\n  exit status {status}: {told.getvalue()[-1000:]}"


def attempted(place: str, do: Callable[[], None]) -> list[str]:
    """Do something, and return what it raised."""
    try:
        do()
    except Exception:
        return [f"{place}\n{traceback.format_exc(limit=-3)}"]
    return []


def run_python(block: Block, stage: Stage, names: dict[str, Any]) -> None:
    """Run code; names that the page takes as given are put there first."""
    code = compile(block.text, str(block), "exec")
    stage.prepare(block.text)
    for taken in (set(code.co_names) & set(GIVEN)) - set(names):
        names[taken] = GIVEN[taken]()
    exec(code, names)


def read_yaml(block: Block, stage: Stage, names: dict[str, Any]) -> None:
    """Read a configuration, or a file of one's own names of contrasts; an unknown key is an error."""
    tree = yaml.safe_load(block.text)
    if "system" in tree:
        experiment = build(Experiment, tree)
        build(system_class(experiment.system).Config, experiment.model, "model")
        return
    path = stage.folder / "aliases.yaml"
    path.write_text(block.text)
    read_aliases(path)


LANGUAGES = {"python": run_python, "yaml": read_yaml}
