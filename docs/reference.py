"""Build the API reference from the docstrings: ``python docs/reference.py FOLDER``.

pdoc does the pages; formulas become MathML, which browsers draw by themselves, so that no page needs a network.
"""

import re
import sys
from pathlib import Path
from pkgutil import iter_modules

import pdoc
from latex2mathml.converter import convert

import gen3d
import gen3d.metrics
import gen3d.samplers

CODE_OR_FORMULA = re.compile(r"(`+).*?\1|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+)\$", re.DOTALL)
LEFT_OUT = ("cli", "configs", "pretrained")
HELD = "formula{}held"  # what stands for a formula while Markdown is read


def with_formulas(markdown: str) -> str:
    """Turn a docstring's Markdown into HTML, its formulas into MathML."""
    formulas: list[str] = []

    def hold(found: re.Match[str]) -> str:
        tex = found["block"] or found["inline"]
        if tex is None:
            return found[0]
        formulas.append(convert(tex, display="block" if found["block"] else "inline"))
        return HELD.format(len(formulas) - 1)

    html = pdoc.render_helpers.to_html(CODE_OR_FORMULA.sub(hold, markdown))
    return re.sub(HELD.format(r"(\d+)"), lambda found: formulas[int(found[1])], html)


def main(folder: Path) -> None:
    """Write a page for each module, an index and a search over all of them.

    What has no docstring of its own is described by its class or module, and left out.
    """
    gen3d.__dict__["load"] = gen3d.load  # else it is imported when asked for, which pdoc does not see
    gen3d.__all__ += [file.name for file in iter_modules(gen3d.__path__) if file.name not in LEFT_OUT]
    gen3d.__all__ += ["samplers", "metrics"]
    files = [
        f"{part.__name__}.{file.name}"
        for part in (gen3d.samplers, gen3d.metrics)
        for file in iter_modules(part.__path__)
        if file.name not in part.__all__  # those of a name are found by it
    ]
    footer = f"gen3d {gen3d.__version__}"
    pdoc.render.configure(docformat="google", show_source=False, include_undocumented=False, footer_text=footer)
    pdoc.render.env.filters["to_html"] = with_formulas
    pdoc.pdoc("gen3d", *files, output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
