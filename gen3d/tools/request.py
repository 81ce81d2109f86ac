"""What is asked of a model, and what that means for one case: which contrasts, which files, where."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from gen3d.core.error import UsageError
from gen3d.core.system import System
from gen3d.core.volume import Case, Volume
from gen3d.data.layout import canonical, read_case
from gen3d.data.nifti import without_ending
from gen3d.tools.delivery import forbid_beside, protect
from gen3d.tools.record import sidecar
from gen3d.tools.sampling import Mode


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    Attributes:
        missing: Exactly what is written, and hidden where it is there; None: what the model knows and the case lacks.
        mode: ``mean``: the expected image, one network call; ``sample``: plausible ones.
        samples: How many of these.
        seed: Of the samples; the expected image has none.
        like: A scan whose grey scale is taken.
    """

    missing: tuple[str, ...] | None = None
    mode: Mode = "mean"
    samples: int = 1
    seed: int = 0
    like: Volume | None = None


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
    """

    source: Path
    folder: Path
    case: Case
    missing: tuple[str, ...]
    hidden: tuple[str, ...]
    warnings: tuple[str, ...] = ()

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
        scans = [self.name(contrast, suffix) for contrast in self.missing for suffix in suffixes(request)]
        return [*scans, *(sidecar(Path(scan)).name for scan in scans), self.preview]


def suffixes(request: Request) -> list[str]:
    """Return what follows the contrast in each result's name."""
    if request.mode == "mean" or request.samples == 1:
        return [""]
    return ["", "_std", *(sample_suffix(index) for index in range(request.samples))]


def sample_suffix(index: int) -> str:
    """Return what follows the contrast in a sample's name, counted from 1."""
    return f"_sample-{index + 1:02d}"


def known(name: str, system: System) -> str:
    """Return a contrast's canonical name; a name that the model itself uses is one."""
    return name if name in system.config.contrasts else canonical(name)


def place_of(case: Path, source: Path, out: Path) -> Path:
    """Return the folder of a case's results: its own name, or its path below a folder of cases."""
    below = case.resolve().name if case == source else str(case.relative_to(source))
    if case.is_file():
        below = without_ending(case)
    return out / below


def make_plan(source: Path, folder: Path, system: System, request: Request) -> Plan:
    """Read a case and settle what is made of it.

    Raises:
        UserError: The case can't be read, the model can't serve it, or its results would touch other people's files.
    """
    forbid_beside(folder, source)
    whole = read_case(source, with_lesion=False)
    missing = request.missing if request.missing is not None else absent(whole, system)
    given = {name: v for name, v in whole.volumes.items() if name not in missing and name in system.config.contrasts}
    hidden = tuple(name for name in missing if name in whole.volumes)
    plan = Plan(source, folder, replace(whole, volumes=given), missing, hidden, departures(given.values(), system))
    if missing or not given:
        system.accept(list(given), list(missing))
    if request.like is not None and len(missing) > 1:
        several = ", ".join(missing)
        raise UsageError(f"--like gives one grey scale, but {several} would be written; name one with --missing")
    if missing:
        protect(folder, plan.names(request))
    return plan


def departures(volumes: Iterable[Volume], system: System) -> tuple[str, ...]:
    """Say in which way scans are unlike those that the model was trained on, by its ``provenance["envelope"]``."""
    low, high = system.provenance.get("envelope", {}).get("spacing_mm", (None, None))
    first = next(iter(volumes), None)
    if low is None or high is None or first is None:
        return ()
    finest, coarsest = min(low), max(high)
    if min(first.spacing) >= 0.75 * finest and max(first.spacing) <= 1.33 * coarsest:
        return ()
    own = " x ".join(f"{mm:.3g}" for mm in first.spacing)
    return (f"voxels of {own} mm; the model was trained on {finest:.3g} to {coarsest:.3g} mm: expect less",)


def absent(case: Case, system: System) -> tuple[str, ...]:
    """Return what the model can make and the case lacks."""
    targets = getattr(system.config, "targets", None) or system.config.contrasts
    return tuple(name for name in targets if name not in case.volumes)
