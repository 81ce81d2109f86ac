"""Whether the packages that gen3d stands on are there, fit one another and can be imported; torch above all."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

MODULES = {"PyYAML": "yaml", "python-gdcm": "gdcm"}  # where the module has another name than the package
NEIGHBOURS = ("torchvision", "torchaudio")  # gen3d needs neither, but a broken one breaks diffusers and torchmetrics
PATIENCE = 900  # seconds for all imports, which take 10 on an idle machine
SLOW = "no answer in time"
PROBE = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for name in sys.argv[1:]:
    version = wrong = ""
    try:
        version = str(getattr(__import__(name), "__version__", ""))
    except BaseException as error:
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print(json.dumps([version, wrong]), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        found: What is there, or what is wrong with it.
        mend: How to mend it; empty where it is sound.
    """

    check: str
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Package:
    """A package that gen3d asks for, or that stands beside it.

    Attributes:
        name: Of the package.
        versions: Those that do, such as ">=2.10".
        extra: The extra of gen3d that brings it; None where gen3d can't do without, empty where it needs none.
    """

    name: str
    versions: str = ""
    extra: str | None = None

    @property
    def command(self) -> str:
        """How to install it."""
        return f"pip install 'gen3d[{self.extra}]'" if self.extra else f"pip install '{self.name}{self.versions}'"


def packages(wanted: Sequence[Package] | None = None) -> list[Finding]:
    """Say of each package whether it is there, of a version that does, made for this torch, and can be imported.

    Args:
        wanted: By default those that gen3d's own metadata name, those for developers left out, and torch's neighbours.
    """
    asked = [*requirements(), *(Package(name, extra="") for name in NEIGHBOURS)] if wanted is None else wanted
    there = [each for each in asked if version(each.name)]
    tried = dict(zip([p.name for p in there], imported([MODULES.get(p.name, p.name) for p in there]), strict=True))
    return [
        judged(each, *tried[each.name]) if each in there else absent(each)
        for each in asked
        if each in there or each.extra != ""
    ]


def requirements() -> list[Package]:
    """Return the packages that gen3d's own metadata name, each once, those for developers left out."""
    from packaging.requirements import Requirement

    extras = [extra for extra in metadata.metadata("gen3d").get_all("Provides-Extra") or [] if extra != "dev"]
    found: dict[str, Package] = {}
    for line in metadata.requires("gen3d") or []:
        asked = Requirement(line)
        extra = next((e for e in extras if asked.marker and asked.marker.evaluate({"extra": e})), None)
        if asked.name != "gen3d" and (extra or not asked.marker):
            found.setdefault(asked.name, Package(asked.name, str(asked.specifier), extra))
    return list(found.values())


def absent(package: Package) -> Finding:
    """Say what the absence of a package means."""
    if package.extra is None:
        return Finding(package.name, "not installed", package.command)
    return Finding(package.name, f"not installed; some work needs it: {package.command}")


def judged(package: Package, answers: str, wrong: str) -> Finding:
    """Judge a package that is there by what its import said."""
    have = version(package.name)
    again = f"pip install --force-reinstall --no-deps '{package.name}=={have.partition('+')[0]}'"
    if package.name in NEIGHBOURS:
        again = (
            f"pip uninstall {package.name} (gen3d needs none), or install the one built for torch {version('torch')}"
        )
    if wrong.startswith(SLOW):
        again = f"ask again when the machine is idle; where it still hangs: {again}"
    if wrong:
        broken = next((n for n in NEIGHBOURS if n in wrong and n != package.name), None)
        return Finding(package.name, f"{have} can't be imported: {wrong}", f"mend {broken}" if broken else again)
    if not admits(package.versions, have):
        return Finding(package.name, f"{have}; gen3d needs {package.versions}", package.command)
    if package.name == "torch":
        return swapped(have, answers)
    for versions in asked_of_torch(package.name):
        if not admits(versions, version("torch")):
            mend = again if package.name in NEIGHBOURS else f"pip install '{package.name}' 'torch{versions}'"
            return Finding(package.name, f"{have} was made for torch{versions}; found {version('torch')}", mend)
    return Finding(package.name, have)


def swapped(installed: str, answers: str) -> Finding:
    """Say whether torch is the build that was installed, and the one that this checkout is tested with."""
    if answers != installed and answers.partition("+")[0] != installed:  # PyPI's metadata leave out the +cu130
        mend = f"pip install --force-reinstall --no-deps 'torch=={installed.partition('+')[0]}'"
        return Finding("torch", f"{installed} was installed, but {answers} answers", mend)
    if (pinned := constraint("torch")) and not admits(f"=={pinned}", installed):
        mend = "pip install --constraint constraints.txt torch; installing another package without that file swaps it"
        return Finding("torch", f"{installed} was put in the place of {pinned}, which constraints.txt names", mend)
    return Finding("torch", installed)


def constraint(name: str) -> str:
    """Return the version that the checkout's constraints.txt names, an empty string outside a checkout."""
    path = Path(__file__).resolve().parents[2] / "constraints.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition("==")[2].strip() for line in lines if line.partition("==")[0] == name), "")


def asked_of_torch(name: str) -> list[str]:
    """Return the versions of torch that a package wants."""
    from packaging.requirements import Requirement

    lines = [Requirement(line) for line in metadata.requires(name) or []]
    return [str(line.specifier) for line in lines if line.name == "torch" and not line.marker]


def version(name: str) -> str:
    """Return a package's version by its metadata, or an empty string where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def admits(versions: str, found: str) -> bool:
    """Tell whether a version is among those asked for; "2.13.0+cpu" is "2.13.0"."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(found, prereleases=True)


def imported(modules: Sequence[str]) -> list[tuple[str, str]]:
    """Import modules in a process of their own, which they may kill; return each one's version and what went wrong."""
    results: list[tuple[str, str]] = []
    while rest := modules[len(results) :]:
        command = [sys.executable, "-W", "ignore", "-c", PROBE, *rest]
        try:
            run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE)
            said, ended = run.stdout, f"the process died, exit {run.returncode}"
        except subprocess.TimeoutExpired as error:
            said, ended = error.stdout or b"", f"{SLOW}, {PATIENCE} s"
        answers = [json.loads(line) for line in said.decode().splitlines()]
        results += [(version, wrong) for version, wrong in answers]
        if len(answers) < len(rest):
            results.append(("", ended))  # the next in line killed it
    return results
