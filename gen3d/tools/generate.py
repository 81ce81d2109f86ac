"""``gen3d generate``: new scans, with masks from a model of pairs, of nothing or led by masks."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d import __version__
from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.randomness import derive
from gen3d.core.system import Example, System
from gen3d.core.volume import Triple, Volume
from gen3d.data.nifti import write
from gen3d.tools.contact_sheet import LABELS, SHEET, SHOWN, contact_sheet, panels
from gen3d.tools.delivery import delivered, forbid_beside, protect, read_sidecar
from gen3d.tools.led import Led, find_masks, leads
from gen3d.tools.preview import Panel
from gen3d.tools.record import about, description, patients, record, sidecar, write_record
from gen3d.tools.run_record import RUN, refuse_another
from gen3d.tools.sampling import OpenModel, Walk, choose_walk, drawn, finite, open_model, to_device
from gen3d.tools.scans import thousandths


def generate(
    model: str | Path,
    out: Path | str,
    count: int = 1,
    *,
    mask: Path | str | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compiled: bool = False,
    size: Triple | None = None,
    label: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    guidance: float | None = None,
    memory: float | None = None,
    dry_run: bool = False,
    advance: Callable[[float, str], None] = lambda done, words: None,
    failed: Callable[[str, Exception], None] = lambda mask, error: None,
    note: Callable[[str], None] = lambda words: None,
) -> list[Path]:
    """Draw new scans into ``out/sample_0001.nii.gz`` ..., each with a JSON sidecar, and a picture of the first ones.

    Led by masks they are ``out/NAME_0001.nii.gz`` ... on the grid of each mask, which is copied beside them; beyond the
    model's canvas they are 0. Of a model of pairs the mask lies beside each scan, ``sample_0001_labels.nii.gz``.

    Scan i is the same whatever ``count``. Scans that the same command has finished before are kept, and with another
    ``count`` it goes on; ``run.json`` says which command that is. Grey values are 0 to 1000 over the model's window, on
    its axes and spacing.

    Args:
        model: A folder, shipped name or hub id of a model that makes scans from nothing.
        out: Output folder; another run's is refused.
        count: How many; of each mask, if there are any.
        mask: A NIfTI file of labels that leads the model, or a folder of them; not the output folder's.
        steps: Of the sampler; by default the model's.
        sampler: One of gen3d.samplers or a diffusers scheduler; by default the model's.
        seed: Of all of them.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        compiled: Compile the networks first.
        size: Voxels (X, Y, Z); by default the model's, like the following.
        label: Name or number of the class.
        spacing: Of the voxels in mm.
        guidance: Scale of classifier-free guidance towards the class; 1 for none.
        memory: Bytes that decoding may take, besides the weights, where the model has a latent space; by default as
            many as decoding at once takes.
        dry_run: Read and check everything, write nothing.
        advance: Told the share done and what is being done.
        failed: Told of every mask of several that can't lead; the others go on.
        note: Told in words what a user should know of the model.

    Returns:
        The scans; in a dry run those that would be made.

    Raises:
        UserError: The model needs scans to start from, or a mask, or takes none; a single mask can't lead it, or some
            of several can't; or the folder holds another run, or files of others.
    """
    if count < 1:
        raise UsageError(f"count {count}: expected at least 1")
    out = Path(out)
    masks = [] if mask is None else find_masks(Path(mask))
    if mask is not None:
        forbid_beside(out, Path(mask))
    loaded = open_model(model, device, precision, compiled=compiled)
    torch.backends.cudnn.benchmark = True  # every call has the same size
    if masks and not follows_masks(loaded.system):
        raise UsageError(
            f"--mask: this {loaded.system.name} model is led by none; leave it out, or use another --model"
        )
    if masks and size is not None:
        raise UsageError("--size: scans are as large as their mask; leave it out")
    changes = asked(loaded.system, size=size, label=label, spacing=spacing, guidance=guidance)
    bound_decoding(loaded.system, memory)
    walk = choose_walk(loaded.system, sampler, steps)
    facts = {"mode": "sample", "seed": seed, "sampler": walk.sampler, "steps": walk.steps}
    facts |= {name: value for name, value in changes.items() if name not in ("size", "canvas")}
    led_by = {"size": list(loaded.system.config.size)} if mask is None else {"mask": str(Path(mask).resolve())}
    run = {"tool": "generate", "gen3d": __version__, "model": about(loaded), **facts, **led_by}
    refuse_another(out, run)
    protect(out, [])
    paths: list[Path] = []
    shown: list[Panel] = []
    failures, total = 0, count * max(len(masks), 1)
    for place, lead in enumerate(leads(masks, loaded.system, failed)):
        if lead is None:
            failures += 1
            continue
        made: list[Path] = []
        for index in range(count):

            def of_all(share: float, done: int = place * count + index) -> None:
                advance((done + share) / total, f"scan {done + 1} of {total}")

            of_all(0.0)
            wanted = {
                out / name: {**facts, **lead.facts, "sample": index + 1, "contrast": contrast, "preview": SHEET}
                for contrast, name in names(loaded.system, index, lead.name).items()
            }
            kept = all(finished(path, loaded, said) for path, said in wanted.items())
            beside = lead if (out / RUN).is_file() else with_record(lead, run)
            if dry_run:
                protect(out, written(wanted, beside))
                paths += () if kept else wanted
                continue
            if not kept:
                make(loaded, walk, derive(seed, *lead.key, "sample", index), out, wanted, beside, of_all)
            made += wanted
        shown = shown or [*lead.panels, *panels(made)]
        paths += made
    if paths and not dry_run:
        with delivered(out) as folder:
            contact_sheet(folder / SHEET, shown[:SHOWN], len(paths), loaded)
    note(f"{loaded.name}: {patients(loaded)}; results are synthetic and not for diagnosis")
    if failures:
        rest = "nothing was written" if dry_run or not paths else f"scans of the others are in {out}"
        raise UserError(f"{len(masks)} masks, {failures} failed; {rest}")
    return paths


def with_record(lead: Led, run: Mapping[str, Any]) -> Led:
    """Return what leads with the run's record among the files that are written beside the scans."""
    return replace(lead, files={**lead.files, RUN: (json.dumps(run, indent=1) + "\n").encode()})


def follows_masks(system: System) -> bool:
    """Tell whether a model is led by masks if it is given some."""
    return getattr(system.config, "task", None) == "mask" or getattr(system.config, "given", 0) > 0


def asked(system: System, *, size: Triple | None = None, **wishes: Any) -> dict[str, Any]:
    """Let a model that generates from nothing do so as asked; return what was changed, as plain values.

    Raises:
        UserError: The model is given scans.
        UsageError: It can't have this size, class, spacing or guidance, or knows no such thing.
    """
    if not hasattr(system, "blank"):
        raise UserError(
            f"this {system.name} model makes no new scans by itself: use another --model; where contrasts are missing, "
            "use gen3d synthesize"
        )
    config = system.config
    changes = {name: value for name, value in wishes.items() if value is not None}
    for name in changes:
        if name not in getattr(system, "adjustable", ()):
            raise UsageError(f"--{name}: a {system.name} model is told none; leave it out")
    if "label" in changes:
        changes["label"] = class_name(config.classes, str(changes["label"]))
    if size is not None:
        if min(size) < 1:
            raise UsageError(f"size {size}: expected three numbers above 0")
        if hasattr(config, "pool"):
            x, y, z = (n * config.pool for n in size)
            changes["canvas"] = (x, y, z)
        elif draws_labels(system):
            raise UsageError("--size: a model of pairs draws its own size only; leave it out")
        else:
            changes["size"] = size
    try:
        system.config = replace(config, **changes)
    except ValueError as error:
        raise UsageError(f"size {size}: {error}" if "canvas" in changes else str(error)) from None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()}


def class_name(classes: Sequence[str], word: str) -> str:
    """Return the name of a class that is given by name or number.

    Raises:
        UsageError: There is none; the nearest is named.
    """
    if word.isdigit() and int(word) < len(classes):
        return classes[int(word)]
    if word not in classes:
        known = ", ".join(f"{i} {name}" for i, name in enumerate(classes)) or "none"
        raise UsageError(f"--label {word}: unknown{nearest(word, classes)}; this model knows {known}")
    return word


def bound_decoding(system: System, memory: float | None) -> None:
    """Let a latent model decode within ``memory`` bytes.

    Raises:
        UsageError: It has nothing that could.
    """
    if memory is None:
        return
    autoencoder: Any = getattr(system, "autoencoder", None)
    if not hasattr(autoencoder, "memory"):
        raise UsageError("--memory: this model decodes nothing, or only at once; leave it out")
    autoencoder.memory = int(memory)


def draws_labels(system: System) -> bool:
    """Tell whether a model draws masks with its scans."""
    return getattr(system, "task", None) == "pairs"


def names(system: System, index: int, stem: str) -> dict[str, str]:
    """Return the file name of each contrast of a scan, counted from 1, and of its mask where there is one."""
    contrasts, name = system.config.contrasts, f"{stem}_{index + 1:04d}"
    files = {c: f"{name}{f'_{c}' if len(contrasts) > 1 else ''}.nii.gz" for c in contrasts}
    return {**files, **({LABELS: f"{name}_{LABELS}.nii.gz"} if draws_labels(system) else {})}


def finished(path: Path, model: OpenModel, facts: Mapping[str, Any]) -> bool:
    """Tell whether a scan is there and its sidecar says that the same command made it."""
    return path.is_file() and read_sidecar(sidecar(path)) == record(path, model, facts)


def written(wanted: Iterable[Path], lead: Led) -> list[str]:
    """Return the names of all files of a scan."""
    return [*(name for path in wanted for name in (path.name, sidecar(path).name)), *lead.files]


def make(
    model: OpenModel,
    walk: Walk,
    key: str,
    out: Path,
    wanted: Mapping[Path, Mapping[str, Any]],
    lead: Led,
    of_all: Callable[[float], None],
) -> None:
    """Draw one scan and write it, each contrast a file, beside what leads it."""
    system, taken = model.system, 0

    def step() -> None:
        nonlocal taken
        taken = min(taken + 1, walk.steps)
        of_all(taken / walk.steps)

    protect(out, written(wanted, lead))
    with delivered(out) as folder, torch.inference_mode():
        example = to_device(lead.example, model.device)
        coords = drawn(system, example, system.condition(example), key, walk, step)
        voxels = finite(system.finish(coords, example)[0].float().cpu().numpy(), model.name)
        for image, (path, facts) in zip(voxels, wanted.items(), strict=True):
            if facts["contrast"] == LABELS:
                scaled = image.astype(np.uint8)
            else:
                scaled = thousandths(image, system.window(str(facts["contrast"])))
            volume = on_grid(scaled, system, example)
            write(volume, folder / path.name, description=description(model, str(facts["contrast"])))
            write_record(folder / path.name, model, facts)
        for name, content in lead.files.items():
            (folder / name).write_bytes(content)


def on_grid(image: np.ndarray, system: System, example: Example) -> Volume:
    """Return an image on the grid of the mask that led it, else on the model's own."""
    if "placement" not in example:
        return Volume(image, np.asarray(system.affine, dtype=np.float64))
    mask: Volume = example["led by"]
    return replace(mask, voxels=example["placement"].place(image))
