"""The arrows between the parts of the house, read from the sources, and what an import may cost.

cli -> tools, interop -> systems -> families -> data, spaces -> core -> nn. Families never import one another.
samplers and metrics know torch and numpy, and nothing of gen3d.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {"wavelet", "latent", "sequence", "segmentation"}
BARE = {"torch", "numpy", "safetensors", "yaml"}  # all that a bare GPU machine has

# What each part may import of gen3d besides itself, anywhere in its files.
ARROWS: dict[str, set[str]] = {
    "nn": set(),
    "pretrained": set(),
    "samplers": set(),
    "metrics": set(),
    "core": {"nn"},
    "data": {"core"},
    "spaces": {"core", "nn"},
    **{family: {"data", "spaces", "core", "nn", "samplers"} for family in FAMILIES},
    "latent": {"data", "spaces", "core", "nn", "samplers", "metrics"},  # a loss that is a metric
    "sequence": {"latent", "data", "spaces", "core", "nn", "samplers"},  # whose autoencoders make its latent space
    "systems": {*FAMILIES, "core"},
    "interop": {"systems", *FAMILIES, "data", "spaces", "core", "nn", "samplers", "metrics"},
    "tools": {"systems", *FAMILIES, "interop", "data", "spaces", "core", "nn", "samplers", "metrics"},
    "cli": {"tools", "interop", "systems", "core"},
    "gen3d": {"systems", "core"},
}
# Libraries that a part may import at its top, besides Python's own.
LIBRARIES: dict[str, set[str]] = {
    "nn": {"torch"},
    "samplers": {"torch", "numpy"},
    "metrics": {"torch", "numpy"},
    "core": BARE,
    "spaces": BARE,
    **dict.fromkeys(FAMILIES, BARE),
    "systems": BARE,
    "data": {"numpy", "torch", "yaml"},
    "interop": BARE,
    "cli": {"typer", "rich"},
    "gen3d": set(),
}
MAY_ALSO = {Path("gen3d/data/nifti.py"): {"nibabel"}, Path("metrics/running.py"): {"torchmetrics"}}


class Import(NamedTuple):
    module: str
    line: int
    top: bool  # runs when the file is imported


def imports_of(path: Path) -> list[Import]:
    """Every import of a file, with relative ones made whole; those under ``if TYPE_CHECKING`` are left out."""
    folders = path.relative_to(ROOT).parts[:-1]
    package = ["gen3d", *folders] if folders[0] in ("samplers", "metrics") else [*folders]
    found: list[Import] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(alias.name, child.lineno, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                found.extend(Import(f"{module}.{alias.name}", child.lineno, top) for alias in child.names)
            elif not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
                visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text(), str(path)), True)
    return found


def part_of(path: Path) -> str:
    """nn, core, ... for a folder; the file's own name for systems.py; gen3d for the package's front."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in ("samplers", "metrics"):
        return parts[0]
    return "gen3d" if parts[1] in ("__init__", "__main__") else parts[1]


def part_imported(module: str) -> str | None:
    """Which part of gen3d a dotted name stands for; None for another library, and for the version, which is free."""
    names = module.split(".")
    if names[0] != "gen3d" or names[1:] == ["__version__"]:
        return None
    return names[1] if len(names) > 1 and (names[1] in ARROWS) else "gen3d"


SOURCES = sorted(path for folder in ("gen3d", "samplers", "metrics") for path in (ROOT / folder).rglob("*.py"))


def test_the_reader_sees_imports() -> None:
    """Guards the guard: what is known to be imported is found."""
    found = {(i.module, i.top) for i in imports_of(ROOT / "samplers" / "diffusers.py")}
    assert {("torch", True), ("diffusers", False), ("gen3d.samplers.walk.Denoise", True)} <= found
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    part = part_of(path)
    assert part in ARROWS, f"{path}: a part that DESIGN.md does not know; name its arrows here"
    for module, line, _ in imports_of(path):
        target = part_imported(module)
        allowed = target is None or target == part or target in ARROWS[part]
        assert allowed, f"{path.relative_to(ROOT)}:{line}: {part} must not import {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_at_the_top(path: Path) -> None:
    part = part_of(path)
    if part not in LIBRARIES:
        return
    known = LIBRARIES[part] | MAY_ALSO.get(path.relative_to(ROOT), set()) | {"gen3d"} | sys.stdlib_module_names
    for module, line, top in imports_of(path):
        allowed = not top or module.split(".")[0] in known
        assert allowed, f"{path.relative_to(ROOT)}:{line}: {part} imports {module} inside a function only"


def test_samplers_and_metrics_are_imported_as_parts_of_gen3d() -> None:
    folders = ("gen3d", "samplers", "metrics", "tests", "benchmarks", "notebooks")
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for module, line, _ in imports_of(path):
            named = module.split(".")[0] in ("samplers", "metrics")
            assert not named, f"{path.relative_to(ROOT)}:{line}: write gen3d.{module}"


@pytest.mark.parametrize("statement", ["import gen3d", "import gen3d.cli"])
def test_importing_is_light(statement: str) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "gen3d" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "nibabel", "diffusers", "monai", "matplotlib", "wandb"}
