"""What is public says what it is: read from the sources.

Public is what has no leading underscore, all the way up. A network's ``forward`` is described by its class, whose
docstring has the shapes; so are the bodiless members of a protocol.
"""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("gen3d", "samplers", "metrics") for path in (ROOT / folder).rglob("*.py"))
Definition = ast.Module | ast.ClassDef | ast.FunctionDef
NEW_SENTENCE = re.compile(r"[\w)`$]\. (?=[A-Z`(])")
SHAPE = re.compile(r"\((\w|steps|\.\.\.)( \+ 1)?,|[Aa]ny shape|\bshapes?\b")  # (B, C, X, Y, Z) and the like


def public(parent: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Yield a module or class and what is public in it; functions inside functions are nobody's."""
    yield parent
    for node in parent.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not described_by_its_class(node):
            yield node


def described_by_its_class(node: ast.FunctionDef) -> bool:
    bodiless = isinstance(node.body[0], ast.Expr) and ast.unparse(node.body[0]) == "..."
    return node.name == "forward" or bodiless or any(ast.unparse(d).endswith(".setter") for d in node.decorator_list)


def flaws(source: str) -> list[str]:
    """Say what lacks a docstring whose first line is one sentence."""
    found = []
    for node in public(ast.parse(source)):
        first = (ast.get_docstring(node) or "").partition("\n")[0]
        if not first.endswith(".") or NEW_SENTENCE.search(first.replace("e.g. ", "")):
            name = "the module" if isinstance(node, ast.Module) else f"{node.name}, line {node.lineno}"
            found.append(f"{name}: expected a docstring whose first line is one sentence, got '{first}'")
    return found


def test_flaws_are_found() -> None:
    """Guards the guard."""
    source = '"""Good."""\nclass A:\n    """Is it?"""\n    def b(self): return 1\n    def _c(self): return 1\n'
    assert [flaw.partition(":")[0] for flaw in flaws(source)] == ["A, line 2", "b, line 4"]
    assert len(flaws('"""Two sentences. In one line."""')) == len(flaws("")) == 1
    assert flaws('"""One, with 1.5 mm, e.g. This."""') == []
    assert len(SOURCES) > 200


def test_first_lines_are_one_sentence() -> None:
    found = {str(path.relative_to(ROOT)): flaws(path.read_text()) for path in SOURCES}
    assert {path: said for path, said in found.items() if said} == {}


def exported() -> list[ast.FunctionDef]:
    """Return the functions of samplers and metrics that users import by name."""
    functions = []
    for folder in ("samplers", "metrics"):
        front = ast.parse((ROOT / folder / "__init__.py").read_text())
        names = {node.value for node in ast.walk(front) if isinstance(node, ast.Constant)}  # __all__ and a few words
        for path in sorted((ROOT / folder).glob("*.py")):
            tree = ast.parse(path.read_text())
            functions += [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    return functions


def test_exported_functions_tell_shapes_and_errors() -> None:
    silent = []
    for function in exported():
        told = ast.get_docstring(function) or ""
        arguments = [*function.args.args, *function.args.kwonlyargs]
        takes_tensors = any("Tensor" in ast.unparse(a.annotation) for a in arguments if a.annotation)
        if takes_tensors and not SHAPE.search(told):
            silent.append(f"{function.name} takes tensors of no stated shape")
        if any(isinstance(node, ast.Raise) for node in ast.walk(function)) and "Raises:" not in told:
            silent.append(f"{function.name} raises what it does not tell")
    assert silent == []
    assert len(exported()) > 50


def test_formulas_can_be_drawn() -> None:
    """``make api`` turns them into MathML; a backslash that is left is a word of TeX that it does not know."""
    pytest.importorskip("pdoc", reason="comes with the extra dev")
    with_formulas = runpy.run_path(str(ROOT / "docs" / "reference.py"))["with_formulas"]
    nodes = [node for path in SOURCES for node in public(ast.parse(path.read_text()))]
    told = [text for node in nodes if "$" in (text := ast.get_docstring(node) or "")]
    odd = [text for text in told if re.search(r"\\[a-zA-Z]|formula\d+held", with_formulas(text))]
    assert odd == []
    assert len(told) > 50
    assert "<mi>&#x003C3;</mi>" in with_formulas("With $\\sigma$ at `$HOME`.")
