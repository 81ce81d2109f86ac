"""Masks that lead a model which generates: found, read, laid under the model's canvas."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.system import Example, System
from gen3d.data.nifti import ENDINGS, read_labels, without_ending, write
from gen3d.tools.preview import Panel


@dataclass(frozen=True)
class Led:
    """What scans are made for: a mask, or the model's own size.

    Attributes:
        name: What their files are called, before the number.
        key: What their noise depends on besides seed and number.
        example: What the model is given; of a mask it holds ``placement``, the way back to its grid.
        facts: For the sidecar.
        files: What is written beside them, by name.
        panels: What the picture shows of it.
    """

    name: str
    key: tuple[str, ...]
    example: Example
    facts: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    panels: tuple[Panel, ...] = ()


def find_masks(source: Path) -> list[Path]:
    """Return one NIfTI file, or those in a folder, hidden ones aside.

    Raises:
        UserError: There is none, or two have one name.
    """
    if source.is_file():
        return [source]
    inside = sorted(source.iterdir()) if source.is_dir() else []
    found = {without_ending(p): p for p in inside if p.name.lower().endswith(ENDINGS) and p.name[0] != "."}
    if not found:
        raise UserError(f"{source}: no NIfTI file there; expected a mask (.nii or .nii.gz) or a folder of them")
    for path in inside:
        if without_ending(path) in found and found[without_ending(path)] != path:
            raise UserError(f"{path} and {found[without_ending(path)]}: one name; rename one")
    return list(found.values())


def leads(masks: Sequence[Path], system: System, failed: Callable[[str, Exception], None]) -> Iterator[Led | None]:
    """Yield what leads: each mask, None where it can't, or once nothing."""
    if not masks:
        example = system.blank()  # type: ignore[operator]
        yield Led("sample", (), example, {"size": list(system.config.size)})
    for path in masks:
        try:
            yield read_led(path, system)
        except UserError as error:
            if len(masks) == 1:
                raise
            failed(path.name, error)
            yield None


def read_led(path: Path, system: System) -> Led:
    """Read a mask and lay the model's canvas over it.

    Raises:
        UserError: It is no mask, or not one for this model.
    """
    mask = read_labels(path)
    example = {**system.led(mask), "led by": mask}  # type: ignore[operator]
    name = without_ending(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}_mask.nii.gz"
        write(mask, file)
        content = file.read_bytes()
    placement = example["placement"]
    facts = {
        "size": list(mask.shape),
        "canvas": {"axes": placement.axes, "start": list(placement.start), "size": list(placement.size)},
        "mask": {"file": file.name, "sha256": hashlib.sha256(content).hexdigest(), "source": path.name},
    }
    seen = Panel(replace(mask, voxels=mask.voxels.astype(np.float32)), "mask", limits=(0.0, float(mask.voxels.max())))
    return Led(name, (name,), example, facts, {file.name: content}, (seen,))
