"""What ``gen3d synthesize`` and ``segment`` do, for scans in memory: TorchIO subjects, MONAI dictionaries, cases."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.error import UserError
from gen3d.core.randomness import derive
from gen3d.core.volume import Volume
from gen3d.data.prepare import foreground
from gen3d.interop.subjects import Names, given_back, to_case
from gen3d.segmentation.cases import Segmentation
from gen3d.tools.record import WARNING
from gen3d.tools.request import Plan, Request, absent, known
from gen3d.tools.sampling import Mode, OpenModel, choose_walk, finite, open_model, to_device
from gen3d.tools.scans import thousandths
from gen3d.tools.segment import Request as MaskRequest
from gen3d.tools.segment import accept, fits, is_certain
from gen3d.tools.segment_masks import one_call, sampled_masks
from gen3d.tools.synthesize import images


def filled_in(
    given: Any,
    model: str | Path | OpenModel = "brain-completion",
    missing: Sequence[str] | None = None,
    *,
    names: Names | None = None,
    mode: Mode = "mean",
    seed: int = 0,
    steps: int | None = None,
    sampler: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Any:
    """Return a subject with the contrasts that it lacks, on its own grid, 0 to 1000 over the model's window.

    Args:
        given: A TorchIO subject, a MONAI dictionary or a case, see ``to_case``; not changed.
        model: A folder, shipped name or hub id; or an open one, where many subjects are filled in.
        missing: Exactly what is made, hidden from the model where it is there; by default what is lacking.
        names: Key to contrast, see ``to_case``.
        mode: ``mean``: the expected image; ``sample``: a plausible one.
        seed: Of the sample.
        steps: Of the sampler; by default the model's.
        sampler: One of gen3d.samplers or a diffusers scheduler; by default the model's.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        UserError: The subject can't be read, or the model can't serve it.
    """
    loaded = model if isinstance(model, OpenModel) else open_model(model, device, precision)
    system, case = loaded.system, to_case(given, names)
    wanted = absent(case, system) if missing is None else tuple(known(name, system) for name in missing)
    volumes = {name: v for name, v in case.volumes.items() if name not in wanted and name in system.config.contrasts}
    if not wanted:
        return given
    system.accept(list(volumes), list(wanted))
    walk = choose_walk(system, sampler, steps) if mode == "sample" else None
    plan = Plan(Path(case.name), Path(), replace(case, volumes=volumes, lesion=None), wanted, ())
    with torch.inference_mode():
        example = to_device(system.example(plan.case), loaded.device)
        (found,) = images(system, example, plan, Request(wanted, mode, 1, seed), walk, lambda share, words: None)
    first, mask = next(iter(volumes.values())), foreground(volumes.values())
    made = {}
    for name, image in found.items():
        voxels = example["prepared"].placement.place(thousandths(image, system.window(name)))
        made[name] = Volume(finite(np.where(mask, voxels, np.float32(0)), loaded.name), first.affine, name)
    return given_back(given, made, facts(loaded, mode=mode, seed=seed))


def segmented(
    given: Any,
    model: str | Path | OpenModel,
    *,
    names: Names | None = None,
    samples: int = 16,
    rater: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
) -> Any:
    """Return a subject with ``predicted``, the most likely labels, and ``entropy``, how unsure they are, in nats.

    Args:
        given: A TorchIO subject, a MONAI dictionary or a case, see ``to_case``; not changed.
        model: A folder, shipped name or hub id; or an open one, where many subjects are segmented.
        names: Key to contrast, see ``to_case``.
        samples: Masks that are drawn; 0 for the answer of a single call.
        rater: As whom to draw, from 1.
        seed: Of the samples.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        UserError: The subject can't be read, or the model can't serve it.
    """
    loaded = model if isinstance(model, OpenModel) else open_model(model, device, precision)
    system, case = loaded.system, to_case(given, names)
    accept(loaded, MaskRequest(samples, rater, seed))
    assert isinstance(system, Segmentation)
    wanted = system.config.contrasts
    if len(wanted) == len(case.volumes) == 1:  # whatever it is called
        case = replace(case, volumes={wanted[0]: next(iter(case.volumes.values()))})
    if lacking := [name for name in wanted if name not in case.volumes]:
        raise UserError(f"{case.name}: has {', '.join(case.volumes)}, no {', '.join(lacking)}; add it, or see names=")
    prepared = system.prepare(replace(case, lesion=None, raters=()))
    fits(system, prepared)
    with torch.inference_mode():
        example = to_device(system.example(prepared), loaded.device)
        if rater is not None:
            example["rater"] = torch.tensor([rater - 1])
        count = 0 if is_certain(system) else samples
        keys = [derive(seed, case.name, index) for index in range(count)]
        masks = sampled_masks(system, example, keys) if keys else one_call(system, example)
    assert prepared.placement is not None
    affine = next(iter(case.volumes.values())).affine
    found = {"predicted": masks.likely, "entropy": masks.entropy.numpy()}
    made = {name: Volume(prepared.placement.place(voxels), affine) for name, voxels in found.items()}
    return given_back(given, made, facts(loaded, samples=count, seed=seed), masks=("predicted",))


def facts(model: OpenModel, **more: Any) -> dict[str, Any]:
    """Return what every image that was made says of itself."""
    told = {"synthetic": True, "warning": WARNING, "model": model.name, "weights_sha256": model.sha256}
    return {**told, **more}
