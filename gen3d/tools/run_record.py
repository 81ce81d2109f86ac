"""``run.json``: what was asked for in a folder of results, so that two runs never mix in one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen3d.core.error import UserError
from gen3d.tools.delivery import sidecars

RUN = "run.json"


def same_run(out: Path, settings: Mapping[str, Any]) -> bool:
    """Tell whether a folder holds the run of these settings, which can go on; not where it holds none.

    Raises:
        UserError: It is a file, or holds another run.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write into; choose another -o")
    if not (out / RUN).is_file():
        return False
    before, now = read_run(out), json.loads(json.dumps(settings))
    if before is None:
        raise UserError(f"{out / RUN}: damaged, so that nobody knows which run this is; choose another -o")
    odd = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if odd:
        said = f"its {odd[0]} is {told(before.get(odd[0]))}, now {told(now.get(odd[0]))}"
        raise UserError(f"{out}: holds another run ({said}); runs are never mixed; choose another -o")
    return True


def refuse_another(out: Path, settings: Mapping[str, Any]) -> None:
    """Check that a folder holds no synthetic files of another run, whether it left a record or not.

    Raises:
        UserError: It does.
    """
    if not same_run(out, settings) and (others := sidecars(out)):
        name = next(iter(others)).name
        raise UserError(f"{out}: holds {name}, which another run wrote; runs are never mixed; choose another -o")


def read_run(out: Path) -> dict[str, Any] | None:
    """Return what was asked for in a folder, None where no record can be read."""
    try:
        tree = json.loads((out / RUN).read_text())
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def told(value: Any) -> str:
    """Return a setting in few words."""
    if isinstance(value, dict) and "weights_sha256" in value:
        return f"{value['name']} {str(value['weights_sha256'])[:8]}"
    words = json.dumps(value, default=str)
    return words if len(words) <= 60 else f"{words[:57]}..."
