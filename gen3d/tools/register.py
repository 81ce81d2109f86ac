"""Scans that are not in register or not skull-stripped, made fit for a model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Volume
from gen3d.data.alignment import align, finest
from gen3d.data.brain_extraction import extract_brain
from gen3d.data.layout import canonical
from gen3d.data.nifti import ENDINGS
from gen3d.data.skull import is_magnitude, is_stripped, read_mask, stripped
from gen3d.tools.request import Plan, Request

SKULL_ON = "the skull seems to be on"
SKULL_OFF = (
    "a skull is on: add --mask, a mask of the brain as HD-BET or SynthStrip makes; --mask auto calls the one you have"
)


def registered(plan: Plan, request: Request) -> Plan:
    """Bring a case's contrasts onto the grid of the one that was asked for, which then comes first.

    Raises:
        UserError: The case lacks that contrast, or two can't be brought into register.
    """
    to = reference(plan, request)
    if to is None:
        return plan
    found = align(plan.case, to)
    names = [found.reference, *(name for name in plan.case.volumes if name != found.reference)]
    case = replace(found.case, volumes={name: found.case.volumes[name] for name in names})
    moved = {name: found.transforms[name] for name in names if found.moved_mm[name] > 0}
    natives = {name: grid(v) for name, v in plan.case.volumes.items() if v is not case.volumes[name]}
    return replace(plan, case=case, transforms=moved, natives=natives)


def reference(plan: Plan, request: Request) -> str | None:
    """Return the contrast that the others are to be brought onto; None where that is not asked for or not needed."""
    first, *others = plan.case.volumes.values()
    if request.align is None or all(other.on_grid_of(first) for other in others):
        return None
    to = finest(plan.case) if request.align == "finest" else canonical(request.align)
    if to not in plan.case.volumes:
        there = ", ".join(plan.case.volumes)
        raise UserError(f"{plan.source}: --align {to}: it has {there}; name one of these, or give --align alone")
    return to


def unmoved(plan: Plan, request: Request) -> Plan:
    """Leave the contrast alone that the others are to be brought onto, with what can be told of these as they lie.

    Raises:
        UserError: The case lacks that contrast.
    """
    to = reference(plan, request)
    if to is None:
        return plan
    others = {name: volume for name, volume in plan.case.volumes.items() if name != to}
    masked = request.mask is not None or plan.brain is not None
    told = skullless(
        replace(plan, case=replace(plan.case, volumes=others), brain=None),
        replace(request, mask="none" if masked else None),
    )
    words = f"a dry run brings nothing into register: size and grey values are those of {to} alone"
    case = replace(plan.case, volumes={to: plan.case.volumes[to]})
    return replace(plan, case=case, warnings=told.warnings, notes=(*plan.notes, words))


def grid(volume: Volume) -> Volume:
    """Return a volume whose voxels are all 0 and take no memory."""
    return replace(volume, voxels=np.broadcast_to(np.float32(0), volume.shape))


def skulls_on(plan: Plan) -> list[Volume]:
    """Return a case's scans whose skulls are on."""
    return [v for v in plan.case.volumes.values() if is_magnitude(v) and not is_stripped(v)]


def lacks_mask(plan: Plan, request: Request) -> bool:
    """Say whether an extractor is asked to find a case's brain: a skull is on, and no mask lies beside."""
    return request.mask == "auto" and plan.brain is None and bool(skulls_on(plan))


def extracted(plan: Plan, device: str) -> Plan:
    """Have a case's brain found in its first scan that has a skull.

    Raises:
        UserError: No extractor is there, or it found no brain.
    """
    return replace(plan, extracted=extract_brain(skulls_on(plan)[0], device))


def skullless(plan: Plan, request: Request) -> Plan:
    """Leave the brain alone, by the mask that was made, asked for or lies beside; say where a skull stays on.

    Raises:
        UserError: The mask can't be read or does not fit.
    """
    scans = plan.case.volumes.values()
    on = skulls_on(plan)
    mask = plan.extracted.mask if plan.extracted else asked_mask(plan, request, on)
    words = [
        f"{named(v)}: {v.voxels.min():.4g} is no magnitude of MR; is it a CT?" for v in scans if not is_magnitude(v)
    ]
    if mask is not None:
        plan = replace(plan, case=stripped(plan.case, mask))
    elif on and request.mask != "none":
        words.append(f"{' and '.join(map(named, on))}: {SKULL_ON}")
    return replace(plan, warnings=(*plan.warnings, *words))


def named(volume: Volume) -> str:
    """Return the name of a scan's file, or of its contrast."""
    return volume.origin.name if volume.origin else volume.contrast or "a scan"


def asked_mask(plan: Plan, request: Request, on: Sequence[Volume]) -> np.ndarray | None:
    """Return the brain's mask that applies to a case, if any; ``on`` are its scans with a skull."""
    first = next(iter(plan.case.volumes.values()))
    if request.mask == "none" or not (on or isinstance(request.mask, Path)):
        return None
    if isinstance(request.mask, Path):
        return read_mask(mask_of(plan, request.mask), first)
    return read_mask(plan.brain, first) if plan.brain else None


def mask_of(plan: Plan, asked: Path) -> Path:
    """Return the mask of a case: the file itself, or the one in a folder whose name begins with the case's."""
    if not asked.is_dir():
        return asked
    found = sorted(p for p in asked.iterdir() if p.name.startswith(plan.case.name) and p.name.endswith(ENDINGS))
    if len(found) != 1:
        raise UsageError(f"--mask {asked}: {len(found)} files whose names begin with {plan.case.name}; expected one")
    return found[0]
