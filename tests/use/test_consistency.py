"""All commands speak alike: one spelling, type and meaning for each shared option, help in the same manner."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from gen3d import cli

SHORT = {"--out": "-o", "--input": "-i", "--count": "-n"}
OWN = {("train", "--out"), ("report", "--out"), ("pull", "--out")}  # which have a default
OTHERWISE = {  # one meaning, and more or less to say
    ("evaluate downstream", "--model"),  # several
    ("evaluate ambiguous", "--structure"),  # only one
    ("forecast", "--align"),  # always with the last visit
    ("synthesize", "--mask"),  # a word too
}
BATCHES = {"synthesize", "segment", "forecast", "standardize", "reconstruct"}  # each tells what became of every case
KEPT = "What an earlier run of the same command finished is kept"
KEEP = {"synthesize", "generate", "augment", "train", "evaluate downstream"}
REPLACED = "What an earlier run wrote there is replaced."
REPLACE = {"segment", "forecast", "standardize", "reconstruct", "export"}
WIDTH = 61  # of what a command is for, in a terminal of 80 columns


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
    assert command.help.rstrip().endswith(".")
    assert command.get_short_help_str(WIDTH) == command.help.partition("\n")[0], "longer than a line of gen3d --help"
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        said = parameter.help
        assert said, f"{name}: {parameter.opts} has no help"
        assert said[0].isupper() or ":" in said or "=" in said or "," in said or " or " in said, (
            f"{name}: {parameter.opts}: {said}"
        )
        assert said.endswith("."), f"{name}: {parameter.opts}: {said}"
        assert "[default" not in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_the_traceback_if_asked(name: str) -> None:
    assert "--debug" in options(COMMANDS[name])


def test_an_option_is_the_same_wherever_it_is() -> None:
    found: dict[str, dict[tuple[str, bool, str], list[str]]] = {}
    for name, command in COMMANDS.items():
        for option, parameter in options(command).items():
            if (name, option) not in OTHERWISE:
                kind = (str(parameter.bare_type()), parameter.multiple, " ".join(sorted(parameter.opts)))
                found.setdefault(option, {}).setdefault(kind, []).append(name)
    assert len(found["--seed"]) == 1
    assert {option: kinds for option, kinds in found.items() if len(kinds) > 1} == {}


def test_whatever_writes_can_be_tried_first() -> None:
    for name, command in COMMANDS.items():
        writes = "--out" in options(command) or name == "push"
        assert ("--dry-run" in options(command)) == writes, name


def test_batches_report_alike() -> None:
    assert {name for name, command in COMMANDS.items() if "--report" in options(command)} == BATCHES


def test_what_became_of_a_case_is_told_alike() -> None:
    from gen3d.tools.batch import outcome
    from gen3d.tools.outcomes import Outcome

    shared = {"case", "place", "status", "reason", "files"}
    assert set(outcome("a", "made")) == shared
    assert shared < {field.name for field in fields(Outcome)}


def test_one_rule_says_what_becomes_of_earlier_results() -> None:
    said = {name: " ".join(command.help.split()) for name, command in COMMANDS.items()}
    assert {name for name, words in said.items() if KEPT in words} == KEEP
    assert {name for name, words in said.items() if REPLACED in words} == REPLACE
    for name, command in COMMANDS.items():
        assert not {"--skip-existing", "--resume", "--overwrite", "--force"} & options(command).keys(), name


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
