"""Whether a command that a page prints exists, with its options, without doing what it says."""

import argparse
import contextlib
import io
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer

from gen3d.cli import app, run
from tests.use.documentation import ROOT, Command

UNFINISHED = re.compile(r"Missing (argument|option|command|parameter)|requires (an|\d) arguments?")


def complaint(command: Command, *, mention: bool = False) -> str:
    """Return what is wrong with a command, nothing if nothing is; a ``mention`` may leave out what it needs."""
    program, *words = command.words
    program = program.removeprefix(".venv/bin/")
    if program not in KNOWN:
        return f"{program}: a program that the tests do not know"
    said = KNOWN[program](words)
    return "" if mention and UNFINISHED.search(said) else said


def gen3d(words: Sequence[str]) -> str:
    """Let the command line parse the words; its commands do nothing."""
    command: Any = typer.main.get_command(app)
    if words and words[0].startswith("-"):  # not parsed: --install-completion acts at once
        known = {name for option in command.params for name in option.opts}
        return "" if set(words) <= known else f"gen3d {' '.join(words)}: no such option"
    silence(command)
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        status = run(words, command)
    return told.getvalue() if status else ""


def silence(group: Any) -> None:
    for each in group.commands.values():
        each.callback = lambda **given: None
        if hasattr(each, "commands"):
            silence(each)


def python(words: Sequence[str]) -> str:
    if words[0] != "-m":
        source = ROOT / words[0]
        if not source.is_file():
            return f"{words[0]}: no such file"
        if re.search(r"^(from|import) benchmarks", source.read_text(), re.MULTILINE):
            return f"{words[0]}: imports benchmarks, so it needs python -m"
        return parsed_by(source, words[1:])
    module, *rest = words[1:]
    if module == "gen3d.cli":
        return gen3d(rest)
    if module.partition(".")[0] == "benchmarks":
        source = ROOT / f"{module.replace('.', '/')}.py"
        source = source if source.is_file() else source.with_suffix("") / "__main__.py"
        return parsed_by(source, rest) if source.is_file() else f"{module}: no such module"
    if module == "pytest":
        return pytest(rest)
    return "" if find_spec(module) else f"{module}: no such module"


def pytest(words: Sequence[str]) -> str:
    lacking = [word for word in words if word.startswith("tests") and not (ROOT / word.split("::")[0]).exists()]
    return f"{lacking}: no such test" if lacking else ""


class ParsedError(Exception):
    """Raised in place of what a program does after it has parsed its words."""


def parsed_by(source: Path, words: Sequence[str]) -> str:
    """Let a program parse the words and stop there; one without a parser must hold each option literally."""
    if "argparse" not in source.read_text():
        unknown = [word for word in words if word.startswith("-") and f'"{word}"' not in source.read_text()]
        return f"{source.name} has no {unknown}" if unknown else ""
    whole, told = argparse.ArgumentParser.parse_args, io.StringIO()

    def parse(parser: argparse.ArgumentParser, *given: Any) -> None:
        whole(parser, list(words))
        raise ParsedError

    with patch.object(argparse.ArgumentParser, "parse_args", parse), patch.object(sys, "argv", [str(source), *words]):
        try:
            with contextlib.redirect_stderr(told):
                runpy.run_path(str(source), run_name="__main__")
        except ParsedError:
            return ""
        except SystemExit:
            return told.getvalue()
    return f"{source.name} parses nothing"


def make(words: Sequence[str]) -> str:
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def pip(words: Sequence[str]) -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = [
        name for word in words for names in re.findall(r"^(?:gen3d|\.)\[(.*)\]$", word) for name in names.split(",")
    ]
    return "" if words[0] == "install" and set(asked) <= set(extras) else f"{asked}: no such extra"


def torchrun(words: Sequence[str]) -> str:
    return python(words[words.index("-m") :])


def srun(words: Sequence[str]) -> str:
    return gen3d(words[1:]) if words[0] == "gen3d" else f"srun {words[0]}: not gen3d"


KNOWN: dict[str, Callable[[Sequence[str]], str]] = {
    "gen3d": gen3d,
    "python": python,
    "pytest": pytest,
    "make": make,
    "pip": pip,
    "torchrun": torchrun,
    "srun": srun,
}
