"""NiiVue's JavaScript, taken from the Python package that carries it."""

import base64
import gzip
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

PACKAGE, SCRIPT = "ipyniivue", "ipyniivue/static/widget.js"
INSTALL = "3D viewer left out: it needs ipyniivue, pip install 'gen3d[report]'; slices are shown without it"
OTHER = "3D viewer left out: this ipyniivue keeps NiiVue elsewhere, pip install ipyniivue==2.4.4; slices are shown"
_CLASS = re.compile(r"Creating new Niivue instance.{0,200}?=new ([\w$]+)\(", re.DOTALL)
_EXPORT = re.compile(r"export\{[^}]*\};?\s*$")


def niivue() -> tuple[str | None, str]:
    """Return NiiVue as a gzipped module in base64 that tells the page of the class, or None and why there is none.

    The package's bundle exports its notebook widget only, so that the class is found by where the widget makes one.
    """
    try:
        script = str(distribution(PACKAGE).locate_file(SCRIPT))
        with open(script, encoding="utf-8") as file:
            code = file.read()
    except (PackageNotFoundError, OSError):
        return None, INSTALL
    named, export = _CLASS.search(code), _EXPORT.search(code)
    if named is None or export is None or "</script" in code.lower():
        return None, OTHER
    told = f'{code[: export.start()]}globalThis.Niivue={named[1]};dispatchEvent(new Event("niivue"));\n'
    return packed(told), ""


@cache
def packed(code: str) -> str:
    """Return a script gzipped, in base64."""
    return base64.b64encode(gzip.compress(code.encode(), 6, mtime=0)).decode()
