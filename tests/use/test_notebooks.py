"""The notebooks as they are committed; ``make notebooks`` runs them."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gen3d.cli import commands
from gen3d.systems import shipped
from gen3d.tools.train import packaged_config

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODE_LINES = 40
ABSOLUTE = re.compile(r"""(?<![\w.:/<>"'`*~-])(/(home|Users|work|root|tmp|data|mnt|scratch)/|[A-Z]:\\)""")
TO_MAKE = {"MODEL", "CHECKPOINT", "CONFIG", "RUN", "MED"}  # what a reader puts a name in place of


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code(tree: dict[str, Any]) -> str:
    return "\n".join(text(cell) for cell in tree["cells"] if cell["cell_type"] == "code")


def shell_commands(tree: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the words of each ``gen3d ...`` in bash blocks and in backticks."""
    for cell in tree["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        blocks = re.findall(r"```bash\n(.*?)```", text(cell), re.DOTALL)
        prose = re.sub(r"```.*?```", "", text(cell), flags=re.DOTALL).replace("\n", " ")
        inline = re.findall(r"`(gen3d [^`]+)`", prose)
        for line in [*"\n".join(blocks).splitlines(), *inline]:
            words = shlex.split(line, comments=True)
            if words[:1] == ["gen3d"]:
                yield words[1:]


def parse(words: list[str]) -> None:
    """Let the command line's own parser take the words, without running anything; a bare name must exist."""
    known, place = commands(), 0
    while hasattr(known[words[place]], "commands"):
        known, place = known[words[place]].commands, place + 1
    if words[place + 1 :]:
        known[words[place]].make_context(words[place], words[place + 1 :])


def test_eight_notebooks_are_there() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, 9)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_valid_and_stripped(self, path: Path) -> None:
        nbformat = pytest.importorskip("nbformat", reason="comes with nbmake, see the extra dev")
        tree = read(path)
        nbformat.validate(tree)
        assert (tree["nbformat"], tree["nbformat_minor"]) == (4, 5)
        assert set(tree["metadata"]) == {"kernelspec", "language_info"}
        assert tree["metadata"]["kernelspec"]["name"] == "python3"
        assert tree["metadata"]["language_info"] == {"name": "python"}
        ids = [cell["id"] for cell in tree["cells"]]
        assert ids == [f"{path.name[:2]}-{place:02d}" for place in range(len(ids))]
        for cell in tree["cells"]:
            assert cell["metadata"] == {}
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                assert cell["execution_count"] is None

    def test_says_what_it_is_and_shows_something(self, path: Path) -> None:
        tree = read(path)
        first = text(tree["cells"][0])
        assert first.startswith(f"# {path.name[:2]} ")
        assert "never for diagnosis" in re.sub(r"\s+", " ", first).lower()
        assert "plt.subplots" in code(tree)
        assert "NiiVue(" in code(tree)

    def test_goes_on_without_real_data_and_says_so(self, path: Path) -> None:
        source = code(read(path))
        if "DATA /" in source:
            assert 'os.environ.get("GEN3D_DATA", "../../shared/data")' in source
            assert "if (DATA" in source or "if source.is" in source
            assert re.search(r'else:\n +print\(f"No ', source)

    def test_has_no_path_of_a_machine(self, path: Path) -> None:
        for cell in read(path)["cells"]:
            assert not ABSOLUTE.search(text(cell)), text(cell)

    def test_its_code_parses_and_runs_no_shell(self, path: Path) -> None:
        for cell in read(path)["cells"]:
            if cell["cell_type"] == "code":
                ast.parse(text(cell))

    def test_its_commands_exist_with_their_options(self, path: Path) -> None:
        for words in shell_commands(read(path)):
            parse(words)

    def test_names_of_models_and_configurations_exist(self, path: Path) -> None:
        for words in shell_commands(read(path)):
            if "--model" in words:
                name = words[words.index("--model") + 1]
                assert name in shipped() or name in TO_MAKE or "/" in name, name
            if words[0] in ("train", "plan") and words[1] not in TO_MAKE:
                assert packaged_config(words[1]).is_file()


def test_commands_are_found_and_a_wrong_option_is_not_let_through() -> None:
    assert sum(len(list(shell_commands(read(path)))) for path in NOTEBOOKS) >= 15
    with pytest.raises(Exception, match="o such option"):
        parse(["generate", "--model", "hippocampus-wdm", "-o", "OUT", "--colour"])


def test_a_model_of_ones_own_takes_few_lines() -> None:
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("08"))
    lines = [line for line in code(read(path)).splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= CODE_LINES
