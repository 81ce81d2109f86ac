"""``gen3d generate``: new scans from a model that is given nothing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.error import UsageError, UserError
from gen3d.core.randomness import derive
from gen3d.core.system import System
from gen3d.core.volume import Triple, Volume
from gen3d.data.nifti import write
from gen3d.tools.delivery import delivered, protect, read_sidecar
from gen3d.tools.preview import Panel, draw
from gen3d.tools.record import description, patients, record, sidecar, write_record
from gen3d.tools.sampling import OpenModel, Walk, choose_walk, drawn, open_model, to_device

SHEET, SHOWN = "contact-sheet.png", 8


def generate(
    model: str | Path,
    out: Path | str,
    count: int = 1,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compiled: bool = False,
    size: Triple | None = None,
    advance: Callable[[float, str], None] = lambda done, words: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[Path]:
    """Draw new scans into ``out/sample_0001.nii.gz`` ..., each with a JSON sidecar, and a picture of the first ones.

    Scan i is the same whatever ``count``. Scans that the same command has finished before are kept. Grey values are
    0 to 1000 over the model's window, on its axes and spacing.

    Args:
        model: A folder, shipped name or hub id of a model that makes scans from nothing.
        out: Output folder.
        count: How many.
        steps: Of the sampler; by default the model's.
        sampler: One of gen3d.samplers or a diffusers scheduler; by default the model's.
        seed: Of all of them.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        compiled: Compile the networks first.
        size: Voxels (X, Y, Z); by default the model's.
        advance: Told the share done and what is being done.
        note: Told in words what a user should know of the model.

    Raises:
        UserError: The model needs scans to start from, or the folder holds files of others.
    """
    if count < 1:
        raise UsageError(f"count {count}: expected at least 1")
    out = Path(out)
    loaded = open_model(model, device, precision, compiled=compiled)
    torch.backends.cudnn.benchmark = True  # every call has the same size
    resize(loaded.system, size)
    walk = choose_walk(loaded.system, sampler, steps)
    several = len(loaded.system.config.contrasts) > 1
    protect(out, [])
    paths: list[Path] = []
    for index in range(count):

        def of_all(share: float, index: int = index) -> None:
            advance((index + share) / count, f"scan {index + 1} of {count}")

        of_all(0.0)
        facts = {"mode": "sample", "seed": seed, "sample": index + 1, "sampler": walk.sampler, "steps": walk.steps}
        wanted = {
            out / name: {**facts, "contrast": contrast, "size": list(loaded.system.config.size), "preview": SHEET}
            for contrast, name in names(loaded.system, index, several=several).items()
        }
        if not all(finished(path, loaded, about) for path, about in wanted.items()):
            make(loaded, walk, derive(seed, "sample", index), out, wanted, of_all)
        paths += wanted
    with delivered(out) as folder:
        contact_sheet(folder / SHEET, paths, loaded)
    note(f"{loaded.name}: {patients(loaded)}; results are synthetic and not for diagnosis")
    return paths


def resize(system: System, size: Triple | None) -> None:
    """Let a model that generates from nothing do so at another size.

    Raises:
        UserError: The model is given scans.
        UsageError: It can't have this size.
    """
    if not hasattr(system, "blank"):
        raise UserError(
            f"this {system.name} model fills in missing contrasts: use gen3d synthesize, or another --model"
        )
    if size is None:
        return
    if min(size) < 1:
        raise UsageError(f"size {size}: expected three numbers above 0")
    x, y, z = (n * system.config.pool for n in size)
    try:
        system.config = replace(system.config, canvas=(x, y, z))
    except ValueError as error:
        raise UsageError(f"size {size}: {error}") from None


def names(system: System, index: int, *, several: bool) -> dict[str, str]:
    """Return the file name of each contrast of a scan, counted from 1."""
    return {c: f"sample_{index + 1:04d}{f'_{c}' if several else ''}.nii.gz" for c in system.config.contrasts}


def finished(path: Path, model: OpenModel, facts: Mapping[str, Any]) -> bool:
    """Tell whether a scan is there and its sidecar says that the same command made it."""
    return path.is_file() and read_sidecar(sidecar(path)) == record(path, model, facts)


def make(
    model: OpenModel,
    walk: Walk,
    key: str,
    out: Path,
    wanted: Mapping[Path, Mapping[str, Any]],
    of_all: Callable[[float], None],
) -> None:
    """Draw one scan and write it, each contrast a file."""
    system, taken = model.system, 0

    def step() -> None:
        nonlocal taken
        taken = min(taken + 1, walk.steps)
        of_all(taken / walk.steps)

    protect(out, [name for path in wanted for name in (path.name, sidecar(path).name)])
    with delivered(out) as folder, torch.inference_mode():
        example = to_device(system.blank(), model.device)  # type: ignore[operator]
        coords = drawn(system, example, system.condition(example), key, walk, step)
        voxels = system.finish(coords, example)[0].float().cpu().numpy()
        if not np.isfinite(voxels).all():
            raise UserError(f"{model.name}: the scan is not finite; its weights are damaged")
        for image, (path, facts) in zip(voxels, wanted.items(), strict=True):
            low, high = system.window(str(facts["contrast"]))
            scaled = np.maximum((image - np.float32(low)) * np.float32(1000 / (high - low)), 0)
            place = np.asarray(system.affine, dtype=np.float64)
            write(Volume(scaled, place), folder / path.name, description=description(model, str(facts["contrast"])))
            write_record(folder / path.name, model, facts)


def contact_sheet(path: Path, scans: list[Path], model: OpenModel) -> None:
    """Draw the first scans side by side."""
    panels = [
        Panel(reopened(scan), scan.name.split(".")[0].replace("_", " "), synthetic=True) for scan in scans[:SHOWN]
    ]
    title = f"{model.name}: {len(scans)} synthetic scan{'' if len(scans) == 1 else 's'}"
    mask = np.ones(panels[0].volume.shape, dtype=bool)
    draw(path, panels, title, f"Made by {model.name} ({patients(model)}). Not for diagnosis.", mask)


def reopened(path: Path) -> Volume:
    """Read a scan of ours back; unlike a user's it may be constant, from a model that has not learnt yet."""
    import nibabel as nib

    image: Any = nib.load(path)
    return Volume(image.get_fdata(dtype=np.float32), image.affine)
