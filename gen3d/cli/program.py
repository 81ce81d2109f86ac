"""The program ``gen3d``: all commands in order, exit codes, one line for whatever goes wrong."""

import ctypes
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from gen3d import __version__
from gen3d.cli import (
    augment,
    evaluate,
    exchange,
    export,
    forecast,
    generate,
    info,
    plan,
    reconstruct,
    report,
    segment,
    standardize,
    synthesize,
    train,
)
from gen3d.cli.messages import one_line
from gen3d.tools.welcome import GROUPS, welcome

COMMANDS: dict[str, Callable[..., None]] = {
    "synthesize": synthesize.synthesize,
    "generate": generate.generate,
    "augment": augment.augment,
    "segment": segment.segment,
    "forecast": forecast.forecast,
    "standardize": standardize.standardize,
    "reconstruct": reconstruct.reconstruct,
    "report": report.report,
    "export": export.export,
    "train": train.train,
    "plan": plan.plan,
    "import": exchange.import_,
    "push": exchange.push,
    "pull": exchange.pull,
    "bundle": exchange.bundle,
    "info": info.info,
    "doctor": info.doctor,
}
SEVERAL = ("--size", "--spacing", "--window")  # options of two or three numbers


class Grouped(TyperGroup):
    """Lists the commands in the order of the page that ``gen3d`` alone shows."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in order."""
        return [name for names in GROUPS.values() for name in names]


app = typer.Typer(
    name="gen3d",
    cls=Grouped,
    help="Generate 3D medical images with diffusion models: new scans, and the missing contrasts of a study.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(evaluate.app, name="evaluate")


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
    """Return the arguments as typer takes them: "X,Y,Z" as three words, "finest" behind an ``--align`` without a word.

    forecast's ``--align`` takes none.
    """
    made: list[str] = []
    for before, word, after in zip(["", *arguments], arguments, [*arguments[1:], "-"], strict=False):
        made += word.split(",") if before in SEVERAL else [word]
        if word == "--align" and after.startswith("-") and arguments[0] != "forecast":
            made.append("finest")
    return made


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
