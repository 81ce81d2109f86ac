"""All commands speak alike: one spelling, type and meaning for each shared option, help in the same manner."""

from collections.abc import Iterator
from typing import Any

import pytest

from gen3d import cli

ALIKE = ("--out", "--input", "--seed", "--device", "--precision", "--steps", "--sampler", "--dry-run", "--debug")
SHORT = {"--out": "-o", "--input": "-i", "--count": "-n"}
OWN = {("train", "--out"), ("report", "--out"), ("pull", "--out")}  # which have a default


def all_commands() -> Iterator[tuple[str, Any]]:
    for name, command in cli.commands().items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", one) for each, one in inner.items())


COMMANDS = dict(all_commands())


def options(command: Any) -> dict[str, Any]:
    return {max(p.opts, key=len): p for p in command.params if p.param_type_name == "option"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_written_in_one_manner(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.help[0].isupper()
    assert command.help.rstrip().endswith((".", "?"))
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        said = parameter.help
        assert said, f"{name}: {parameter.opts} has no help"
        assert said[0].isupper() or ":" in said or "=" in said or "," in said or " or " in said, (
            f"{name}: {parameter.opts}: {said}"
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_the_traceback_if_asked(name: str) -> None:
    assert "--debug" in options(COMMANDS[name])


@pytest.mark.parametrize("option", ALIKE)
def test_shared_options_are_the_same_everywhere(option: str) -> None:
    found = {
        (str(parameter.bare_type), parameter.multiple, tuple(sorted(parameter.opts)))
        for name, command in COMMANDS.items()
        if name != "evaluate downstream" or option != "--steps"  # of another network
        for known, parameter in options(command).items()
        if known == option
    }
    assert len(found) == 1, found


@pytest.mark.parametrize(("long", "short"), SHORT.items())
def test_long_and_short_names_go_together(long: str, short: str) -> None:
    for name, command in COMMANDS.items():
        for parameter in command.params:
            assert (long in parameter.opts) == (short in parameter.opts), f"{name}: {parameter.opts}"


def test_what_writes_a_folder_calls_it_out() -> None:
    for name, command in COMMANDS.items():
        for known in options(command):
            assert known not in ("--output", "--output-dir", "--outdir", "--folder"), f"{name}: {known}"
        if "--out" in options(command):
            assert options(command)["--out"].required != ((name, "--out") in OWN)
