"""The visits of one 4D NIfTI file, and their times: from its header, or from a JSON file beside it."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.nifti import read_frames, without_ending

SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
TIMES = ("times", "VolumeTiming", "FrameTimesStart")  # the last two are BIDS', in seconds
MEND = 'write a JSON file of the same name beside it, such as {"times": [0, 365], "unit": "days"}'


def has_frames(path: Path) -> bool:
    """Say whether a file is 4D with several volumes, by its header; of a file that can't be read, no."""
    import nibabel as nib

    try:
        shape: tuple[int, ...] = nib.load(path).shape
    except Exception:  # whatever a broken header brings is told when the file is read
        return False
    return len(shape) > 3 and any(n > 1 for n in shape[3:])


def read_timed_frames(path: Path) -> tuple[list[Volume], list[float], str]:
    """Read the volumes of a 4D file.

    Returns:
        The volumes, their times, and the unit of these, "days" or "seconds".

    Raises:
        UserError: if it is no 4D file, its times are not known, or they do not rise.
    """
    volumes = read_frames(path)
    beside = path.with_name(f"{without_ending(path)}.json")
    times, unit = in_json(beside, len(volumes)) if beside.is_file() else (None, "seconds")
    if times is None:
        times = in_header(path, volumes)
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise UserError(f"{path}: its times {', '.join(f'{t:g}' for t in times)} do not rise; {MEND}")
    return volumes, times, unit


def in_json(path: Path, count: int) -> tuple[list[float] | None, str]:
    """Return the times that a JSON file holds, or None, and their unit."""
    try:
        tree: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"{path}: not readable as JSON; expected times of the volumes; {MEND}") from None
    if not isinstance(tree, dict) or not (key := next((key for key in TIMES if key in tree), "")):
        return None, "seconds"
    values, unit = tree[key], tree.get("unit", "seconds")
    numbers = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not numbers or len(values) != count:
        raise UserError(f"{path}: {key} is no list of {count} numbers, one for each volume; {MEND}")
    if unit not in ("days", "seconds"):
        raise UserError(f"{path}: unit '{unit}'; expected days or seconds")
    return [float(v) for v in values], unit


def in_header(path: Path, volumes: list[Volume]) -> list[float]:
    """Return the times that the header's step and unit give, in seconds."""
    header = volumes[0].header
    step, unit = float(header["pixdim"][4]), header.get_xyzt_units()[1]
    if unit not in SECONDS or not step > 0:
        raise UserError(f"{path}: its header gives no time between volumes (pixdim[4] {step:g}, unit {unit}); {MEND}")
    return [index * step * SECONDS[unit] for index in range(len(volumes))]
