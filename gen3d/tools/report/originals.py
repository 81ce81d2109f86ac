"""The scans that results were made from, which records name but results don't hold, and what differs from them."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.dicom import dicom_files, is_dicom, read_place
from gen3d.data.layout import titled
from gen3d.data.nifti import ENDINGS, without_ending
from gen3d.data.raters import find_rater_cases, holds_raters, read_rater_case
from gen3d.data.visits import Visit, find_patients, read_patient
from gen3d.tools.report.found import Case
from gen3d.tools.report.images import Image, Kind, Role, Tree

HIDDEN = " (hidden from the model)"
MOVED = "inputs are shown as in their files, before they were brought into register"


@dataclass(frozen=True)
class Shown:
    """What of a case is shown, in the order of roles, and what a reader should know."""

    images: tuple[Image, ...]
    notes: tuple[str, ...] = ()


class Originals:
    """Finds the scans that records name by file name only, below a folder that is given."""

    def __init__(self, source: Path) -> None:
        if not source.exists():
            raise UserError(f"--input {source}: no such file or folder; expected what the tool was given by -i")
        self.source = source
        self.paths: dict[str, list[Path]] = {}
        for path in [source, *sorted(source.rglob("*"))]:
            if path.name[:1] != ".":
                self.paths.setdefault(path.name, []).append(path)

    def of(self, case: Case) -> Shown:
        """Return a case with its inputs, truths that were hidden, and the differences from these."""
        facts = case.facts
        try:
            if "patient" in facts and (seen := self.visits(facts)):
                return seen
            if "segmented" in facts and holds_raters(self.source):
                return self.raters(facts)
        except UserError as error:
            return Shown((), (f"inputs: {error}",))
        return self.named(case, facts)

    def named(self, case: Case, facts: Tree) -> Shown:
        """Return the scans that a record names."""
        sources = [str(name) for name in facts.get("sources") or [facts.get("source", "")]]
        files: Mapping[str, Any] = dict(case.outcome.request.get("files", {})) if case.outcome else {}
        contrasts = {str(name): contrast for contrast, name in files.items()}
        hidden = [str(files[name]) for name in facts.get("hidden") or () if name in files]
        found: list[Image] = []
        notes = [MOVED] if facts.get("transforms") or facts.get("moved_mm") else []
        for name in [*sources, *hidden]:
            if not name:
                continue
            path = self.path(name, case)
            if path is None:
                many = len(self.found(name))
                notes.append(f"{name}: {f'{many} files of this name in' if many else 'not found below'} {self.source}")
                continue
            title = titled(contrasts[name]) if name in contrasts else without_ending(path)
            role: Role = "reference" if name in hidden else "input"
            words = f"{title}{HIDDEN}" if name in hidden else title
            contrast = contrasts.get(name)
            try:
                place = path if path.name.lower().endswith(ENDINGS) else read_place(path, contrast or "image")
            except UserError as error:
                notes.append(f"inputs: {error}")
                continue
            found.append(Image(words, role, "image", False, place, record={"contrast": contrast}))
        return Shown(tuple(found), tuple(notes))

    def found(self, name: str) -> list[Path]:
        """Return the scans of this name: files, and folders or first files of DICOM series."""
        there = self.paths.get(name, [])
        if name.lower().endswith(ENDINGS):
            return [path for path in there if path.is_file()]
        return [path for path in there if dicom_files(path) or is_dicom(path)]

    def path(self, name: str, case: Case) -> Path | None:
        """Return the file of this name, or the DICOM series, that is the case's, or None where it can't be told."""
        there = self.found(name)
        if len(there) > 1:
            there = [path for path in there if case.name in path.relative_to(self.source).parts[:-1]]
        return there[0] if len(there) == 1 else None

    def visits(self, facts: Tree) -> Shown | None:
        """Return a patient's visits in order of time, or None where they are not found."""
        told = {str(visit["name"]): float(visit["day"]) for visit in facts.get("visits", ())}
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "visits.csv"
            table.write_text("visit,day\n" + "".join(f"{name},{day:g}\n" for name, day in told.items()))
            patients = [self.source] if self.source.is_file() else find_patients(self.source, table)
            mine = [p for p in patients if str(facts["patient"]) in (p.name, without_ending(p), p.resolve().name)]
            if not mine:
                return None
            frames = mine[0].is_file() or any(name.startswith("volume ") for name in told)
            patient = read_patient(mine[0], str(facts.get("contrast")), None if frames else table)
        there = [visit for visit in patient.visits if visit.name in told]
        hidden = facts.get("hidden")
        notes = (MOVED,) if facts.get("moved_mm") else ()
        return Shown(tuple(visited(visit, patient.unit, visit.name == hidden) for visit in there), notes)

    def raters(self, facts: Tree) -> Shown:
        """Return an image, the masks that raters drew, and the share of them that has each voxel."""
        mine = [study for study in find_rater_cases(self.source) if study.name == facts["segmented"]]
        if not mine:
            return Shown((), (f"{facts['segmented']}: not found in {self.source}",))
        case = read_rater_case(mine[0])
        drawn = [(number, mask) for number, mask in enumerate(case.raters, 1) if mask is not None]
        images = [Image("image", "input", "image", False, volume) for volume in case.volumes.values()]
        group = f"{len(drawn)} raters"
        masks = [Image(f"rater {n}", "reference", "mask", False, mask, group, ml(mask)) for n, mask in drawn]
        share = np.asarray(np.mean([mask.voxels > 0 for _, mask in drawn], axis=0), dtype=np.float32)
        wide = Volume(share, drawn[0][1].affine)
        return Shown((*images, *masks, Image(f"share of {group}", "reference", "probability", False, wide)))


def visited(visit: Visit, unit: str, hidden: bool) -> Image:
    """Return one visit as an image."""
    when = str(visit.date) if visit.date else f"{unit.removesuffix('s')} {visit.day:g}"
    role: Role = "reference" if hidden else "input"
    return Image(f"visit, {when}" + (HIDDEN if hidden else ""), role, "image", False, visit.volume)


def ml(mask: Volume) -> Tree:
    """Return how large a mask is, in a sidecar's words."""
    voxel_ml = abs(float(np.linalg.det(mask.affine[:3, :3]))) / 1000
    return {"volumes_ml": {"all": round(int((mask.voxels > 0).sum()) * voxel_ml, 4)}}


def complete(case: Case, originals: Originals | None) -> Shown:
    """Return all images of a case, given and made, with differences from the truth where it is there."""
    given = originals.of(case) if originals else Shown(())
    return Shown((*given.images, *case.images, *differences(case, given.images)), given.notes)


def differences(case: Case, given: Sequence[Image]) -> list[Image]:
    """Return what differs between what was made and the truth."""
    exact = "against_given_image" in case.facts  # both in the given image's units
    truths = [image for image in given if image.role == ("input" if exact else "reference") and not image.group]
    found = []
    for truth in truths:
        kind: Kind = "probability" if truth.kind == "probability" else "image"
        role: Role = "uncertainty" if kind == "probability" else "output"
        made = [image for image in case.images if image.role == role and image.kind == kind and not image.group]
        same = [image for image in made if image.record.get("contrast") == truth.record.get("contrast")]
        for image in (same if truth.record.get("contrast") and not exact else made)[:1]:
            difference = minus(image, truth, fit=kind == "image" and not exact)
            if difference is not None:
                found.append(difference)
    return found


def minus(image: Image, truth: Image, *, fit: bool) -> Image | None:
    """Return made minus true, or None where a file can't be read or the grids differ.

    Args:
        image: What was made.
        truth: What it should be.
        fit: Whether the made image's grey values are first fitted to the true ones, a line by least squares over the
            foreground, since a made image may have no scale of its own.
    """
    try:
        made, true = image.volume(), truth.volume()
    except UserError:
        return None
    if not made.on_grid_of(true):
        return None
    a, b = made.voxels.astype(np.float32), true.voxels.astype(np.float32)
    words = ""
    if fit:
        inside = (a != 0) & (b != 0)
        if inside.sum() < 2 or np.ptp(a[inside]) == 0:
            return None
        gain, offset = np.polyfit(a[inside].astype(np.float64), b[inside].astype(np.float64), 1)
        a = np.where(inside, a * np.float32(gain) + np.float32(offset), b)
        words = f"; grey values fitted by a line, gain {gain:.3g}"
    title = f"{image.title} - {truth.title.removesuffix(HIDDEN)}{words}"
    return Image(title, "difference", "difference", image.synthetic, replace(made, voxels=a - b))
