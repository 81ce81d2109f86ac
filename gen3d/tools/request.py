"""What is asked of a model, and what that means for one case: which contrasts, which files, where."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gen3d.core.error import UsageError, UserError
from gen3d.core.system import System
from gen3d.core.volume import Case, Volume
from gen3d.data.brain_extraction import Extracted
from gen3d.data.layout import canonical
from gen3d.data.nifti import read_labels, without_ending
from gen3d.data.studies import Study, read_study
from gen3d.data.study import few
from gen3d.tools.delivery import forbid_beside, protect
from gen3d.tools.record import sidecar
from gen3d.tools.sampling import Mode

KINDS = {"ct": "a CT", "mri": "MR of a contrast that is not told"}
MOST = 3  # files left out that are told of each case: archives have hundreds of derived ones
BRAINMASK = "-brainmask.nii.gz"  # no scan: a computed mask


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    Attributes:
        missing: Exactly what is written, and hidden where it is there; None: what the model knows and the case lacks.
        mode: ``mean``: the expected image, one network call; ``sample``: plausible ones.
        samples: How many of these.
        seed: Of the samples; the expected image has none.
        like: A scan whose grey scale is taken.
        check: Hide each contrast that is there and make it from the others, to learn how far to trust the model.
        strict: Refuse cases unlike what the model was trained on.
        align: Bring contrasts on other grids into register with this one; "finest": with the finest; None: don't.
        mask: Of the brain: "none", a file, or a folder with a file for each case; None: one that lies beside
            the scans, if their skulls are on; "auto": where none does, one that an extractor makes.
    """

    missing: tuple[str, ...] | None = None
    mode: Mode = "mean"
    samples: int = 1
    seed: int = 0
    like: Volume | None = None
    check: bool = True
    strict: bool = False
    align: str | None = None
    mask: str | Path | None = None


@dataclass(frozen=True)
class Plan:
    """What will be made of one case.

    Attributes:
        source: Where the case was read.
        folder: Where its results go.
        case: The case without what is hidden.
        missing: The contrasts to write.
        hidden: Those of them that the case has.
        warnings: In which way the case is unlike what the model was trained on.
        notes: What a user should know of its files.
        brain: A mask of the brain that lies beside them.
        transforms: What brought moved contrasts into register, by contrast: from the first one's world to theirs.
        natives: The grids that contrasts had before they were brought into register, by contrast; no voxels of them.
        extracted: The brain that an extractor found.
    """

    source: Path
    folder: Path
    case: Case
    missing: tuple[str, ...]
    hidden: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    brain: Path | None = None
    transforms: Mapping[str, np.ndarray] = field(default_factory=dict)
    natives: Mapping[str, Volume] = field(default_factory=dict)
    extracted: Extracted | None = None

    @property
    def preview(self) -> str:
        """File name of the picture."""
        return f"{without_ending(Path(self.case.output_name('preview')))}.png"

    def name(self, contrast: str, suffix: str = "") -> str:
        """Return the file name of a result in the case's own naming."""
        whole = Path(self.case.output_name(contrast))
        stem = without_ending(whole)
        return f"{stem}{suffix}{whole.name[len(stem) :]}"

    def names(self, request: Request) -> list[str]:
        """Return the file names of everything that will be written."""
        ends = [*suffixes(request), *(end + on_grid(to) for end in native_suffixes(request) for to in self.natives)]
        scans = [self.name(contrast, end) for contrast in self.missing for end in ends]
        transforms = [self.transform_name(contrast) for contrast in self.transforms]
        masks = [self.mask_name] if self.extracted else []
        return [*scans, *(sidecar(Path(scan)).name for scan in scans), *transforms, *masks, self.preview]

    @property
    def mask_name(self) -> str:
        """File name of the mask of a brain that an extractor found; ``--mask FOLDER`` knows it by the case's name."""
        return f"{self.case.name}{BRAINMASK}"

    def transform_name(self, contrast: str) -> str:
        """Return the file name of what brought a contrast into register."""
        return f"{without_ending(Path(self.case.output_name(contrast)))}_to_{next(iter(self.case.volumes))}.tfm"


def suffixes(request: Request) -> list[str]:
    """Return what follows the contrast in each result's name."""
    if request.mode == "mean" or request.samples == 1:
        return [""]
    return ["", "_std", *(sample_suffix(index) for index in range(request.samples))]


def native_suffixes(request: Request) -> list[str]:
    """Return what is written on the grids of moved contrasts too: of several samples no single one."""
    return suffixes(request)[:2]


def on_grid(contrast: str) -> str:
    """Return what ends the name of a result on a contrast's own grid; no reader takes it for that contrast."""
    return f"_on-{contrast}-grid"


def sample_suffix(index: int) -> str:
    """Return what follows the contrast in a sample's name, counted from 1."""
    return f"_sample-{index + 1:02d}"


def known(name: str, system: System) -> str:
    """Return a contrast's canonical name; a name that the model itself uses is one."""
    return name if name in system.config.contrasts else canonical(name)


def make_plan(study: Study, folder: Path, system: System, request: Request) -> Plan:
    """Read a case and settle what is made of it.

    Raises:
        UserError: The case can't be read, the model can't serve it, or its results would touch other people's files.
    """
    alone = study.source in study.files.values()  # results may lie in a folder beside a lone file
    for original in {path if alone else path.parent for path in study.files.values()}:
        forbid_beside(folder, original)
    usable = {name: path for name, path in study.files.items() if name in system.config.contrasts}
    if study.files and not usable and not study.problem:
        system.accept([c for c in system.config.contrasts if c not in (request.missing or ())], request.missing or ())
        what = few([f"{path}: {KINDS.get(name, name)}" for name, path in study.files.items()])
        raise UserError(f"{what}; this model needs at least one of {', '.join(system.config.contrasts)}")
    whole = read_study(replace(study, files=usable), any_grid=request.align is not None, with_lesion=False)
    missing = request.missing if request.missing is not None else absent(whole, system)
    given = {name: volume for name, volume in whole.volumes.items() if name not in missing}
    hidden = tuple(name for name in missing if name in whole.volumes)
    lesion, notes = known_lesion(study, given.values()) if request.samples > 1 else (None, ())
    case = replace(whole, volumes=given, lesion=lesion)
    plan = Plan(study.source, folder, case, missing, hidden, notes=(*notes_of(study, system), *notes), brain=study.mask)
    if missing or not given:
        system.accept(list(given), list(missing))
    if request.like is not None and len(missing) > 1:
        several = ", ".join(missing)
        raise UsageError(f"--like gives one grey scale, but {several} would be written; name one with --missing")
    if missing:
        protect(folder, [*plan.names(request), *([plan.mask_name] if request.mask == "auto" else [])])
    return plan


def notes_of(study: Study, system: System) -> tuple[str, ...]:
    """Return what a user should know of a study's files, the first few that are left out among it."""
    known = system.config.contrasts
    words = f"none of {', '.join(known)}"
    others = [
        f"{path.name}: {KINDS.get(name, name)}, {words}" for name, path in study.files.items() if name not in known
    ]
    unused = [*others, *study.left_out]
    told = [f"left out: {words}" for words in unused[:MOST]]
    more = f"left out: and {len(unused) - MOST} more; --aliases says what names mean"
    return (*study.notes, *told, *([more] if len(unused) > MOST else []))


def known_lesion(study: Study, given: Iterable[Volume]) -> tuple[Volume | None, tuple[str, ...]]:
    """Return the mask of what is ill, 0 or 1, or None where there is none that can be used, and a note on why."""
    if study.lesion is None:
        return None, ()
    try:
        mask = read_labels(study.lesion)
    except UserError as error:
        return None, (f"{error}; uncertainty is not told inside it",)
    if not any(mask.on_grid_of(volume) for volume in given):
        return None, (f"{study.lesion.name}: on no given scan's grid; uncertainty is not told inside it",)
    return replace(mask, voxels=(mask.voxels > 0).astype(np.uint8)), ()


def absent(case: Case, system: System) -> tuple[str, ...]:
    """Return what the model can make and the case lacks."""
    targets = getattr(system.config, "targets", None) or system.config.contrasts
    return tuple(name for name in targets if name not in case.volumes)
