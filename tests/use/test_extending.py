"""docs/extending.md holds: what it prints is written into a copy of the repository, and its commands run there.

One process runs them all, through what ``gen3d`` and ``pytest`` call: torch is imported once.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^(?:`([^`\n]+)`[^\n]*:\n\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS: list[tuple[str, str, str]] = BLOCK.findall((ROOT / "docs" / "extending.md").read_text())  # path, language, text
ONE_BY_ONE = """
import shlex, sys
import pytest
from gen3d.cli import run
for line in sys.stdin:
    name, *words = shlex.split(line)
    status = {"gen3d": run, "pytest": pytest.main}[name](words)
    if status:
        sys.exit(f"{line}: exit status {status}")
"""


def copy_of_the_repository(folder: Path) -> None:
    """Lay out a checkout whose gen3d is found first; shipped weights are only linked."""
    for name in ("gen3d", "samplers", "metrics", "configs", "tests"):
        leave_out = shutil.ignore_patterns("__pycache__", "pretrained")
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    for name in ("samplers", "metrics", "configs"):
        (folder / "gen3d" / name).symlink_to(folder / name)
    (folder / "gen3d" / "pretrained").symlink_to(ROOT / "gen3d" / "pretrained")
    shutil.copy(ROOT / "pyproject.toml", folder)


def change(path: Path, diff: str) -> None:
    """Apply the lines of a diff, which must fit in one place."""
    lines = diff.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[0] in kept) + "\n" for kept in (" -", " +"))
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name}: {before!r} is not what stands there"
    path.write_text(text.replace(before, after))


def run(folder: Path, *arguments: str, told: str = "") -> str:
    """Run Python in the copy, which is first on its path."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        input=told,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The copy with all that the page prints written into it, and what its commands then said."""
    folder = tmp_path_factory.mktemp("copy")
    copy_of_the_repository(folder)
    for path, language, text in BLOCKS:
        if language == "diff":
            change(folder / path, text)
        elif language != "bash":
            assert not (ROOT / path).exists(), f"{path} is there already: the page must add something new"
            (folder / path).write_text(text)
    commands = "".join(text for _, language, text in BLOCKS if language == "bash")
    return folder, run(folder, "-c", ONE_BY_ONE, told=commands.replace("\\\n", ""))


def test_the_page_touches_what_it_says() -> None:
    touched = [(path, language) for path, language, _ in BLOCKS if not path.startswith("tests/") and language != "bash"]
    assert touched == [
        ("samplers/dpmpp_2s.py", "python"),
        ("metrics/edge_preservation.py", "python"),
        ("gen3d/wavelet/voxels.py", "python"),
        ("gen3d/systems.py", "diff"),
        ("configs/smoke_voxels.yaml", "yaml"),
    ]


@pytest.mark.parametrize(
    "test",
    [
        "test_samplers.py::test_error_falls_at_the_order_of_the_sampler[dpmpp_2s-2]",
        "test_samplers.py::test_gradients_flow_through_a_walk[dpmpp_2s]",
        "test_edge_preservation.py::test_blur_noise_and_another_image_lower_it",
        "test_imports.py::test_arrows[gen3d/wavelet/voxels.py]",
        "test_docstrings.py::test_first_lines_are_one_sentence",
        "test_voxels.py::test_voxels_learn_and_are_saved",
        "test_configs.py::test_configuration_loads[smoke_voxels]",
    ],
)
def test_its_tests_find_what_it_adds(followed: tuple[Path, str], test: str) -> None:
    assert f"{test} PASSED" in followed[1]


def test_its_commands_use_what_it_adds(followed: tuple[Path, str]) -> None:
    folder, told = followed
    assert "edge_preservation: Correlate the edges of two images" in " ".join(told.split())
    results = json.loads((folder / "compared" / "results.json").read_text())
    own = next(row for row in results["means"] if row["image"] == "synthetic")
    assert 0.8 < own["edge_preservation"]["mean"] < 1
    assert json.loads((folder / "runs/voxels/model/model_index.json").read_text())["system"] == "voxels"
    record = json.loads((folder / "drawn" / "sample_0001.json").read_text())
    assert record["sampler"] == "dpmpp_2s"
    assert (folder / "drawn" / "sample_0001.nii.gz").is_file()


def test_its_files_pass_the_linter(followed: tuple[Path, str]) -> None:
    files = [path for path, language, _ in BLOCKS if language == "python"]
    run(followed[0], "-m", "ruff", "check", *files)
    run(followed[0], "-m", "ruff", "format", "--check", *files)
