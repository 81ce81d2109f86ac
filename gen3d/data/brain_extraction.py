"""Masks of the brain made by an extractor that the user has installed: SynthStrip, HD-BET or deepbet."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume, same_grid, turned
from gen3d.data.nifti import read_labels, write

MINUTES = 30  # HD-BET takes about 2 on a CPU
_MILLILITRES = (500, 2500)  # of a brain with its fluid
_HEAD_MM = 130.0  # a field of view that is smaller along one axis may hold a part of the brain only
_SCAN, _BRAIN, _MASK = "scan.nii.gz", "brain.nii.gz", "brain_bet.nii.gz"  # HD-BET names the mask after the brain


@dataclass(frozen=True)
class Extractor:
    """A tool that finds the brain in a head.

    Attributes:
        name: What to call it.
        command: What it is called on the command line.
        arguments: Of the command that reads ``_SCAN`` and writes ``_MASK``, by device.
        version: Finds its version from where the command lies; empty where it can't.
    """

    name: str
    command: str
    arguments: Callable[[str], Sequence[str]]
    version: Callable[[Path], str]


@dataclass(frozen=True, eq=False)
class Extracted:
    """A brain that was found.

    Attributes:
        mask: (X, Y, Z) bool, on the scan's grid.
        by: The tool and its version.
        of: The name of the scan in which it was found.
    """

    mask: np.ndarray
    by: str
    of: str


def _synthstrip(device: str) -> Sequence[str]:
    return "-i", _SCAN, "-m", _MASK, *(["-g"] if device.startswith("cuda") else [])


def _hd_bet(device: str) -> Sequence[str]:
    fewer = ["--disable_tta"] if device == "cpu" else []  # as its authors advise; 8 times as fast
    return "-i", _SCAN, "-o", _BRAIN, "-device", device, *fewer, "--save_bet_mask", "--no_bet_image"


def _deepbet(device: str) -> Sequence[str]:
    """It takes a GPU wherever there is one, needs -o, and is silent on what it skips if not told otherwise."""
    return "-i", _SCAN, "-o", _BRAIN, "-m", _MASK, "--no-skip_broken", *(["--no_gpu"] if device == "cpu" else [])


def _stamped(program: Path) -> str:
    stamp = program.resolve().parent.parent / "build-stamp.txt"
    return stamp.read_text().strip() if stamp.is_file() else ""


def _written_inside(program: Path) -> str:
    found = re.search(r"^version = '(.+)'$", program.read_text(errors="replace"), re.MULTILINE)
    return found[1] if found else ""


def _packaged(name: str) -> Callable[[Path], str]:
    def version(program: Path) -> str:
        places = [str(p) for p in program.resolve().parent.parent.glob("lib*/python*/*-packages")]
        return next((found.version for found in distributions(name=name, path=places)), "")

    return version


EXTRACTORS = (
    Extractor("SynthStrip", "mri_synthstrip", _synthstrip, _stamped),
    Extractor("SynthStrip", "synthstrip-docker", _synthstrip, _written_inside),
    Extractor("HD-BET", "hd-bet", _hd_bet, _packaged("hd-bet")),
    Extractor("deepbet", "deepbet-cli", _deepbet, _packaged("deepbet")),
)


def find_extractor() -> tuple[Extractor, Path]:
    """Return the first of ``EXTRACTORS`` whose command is on PATH, or beside this Python, and where.

    Raises:
        UserError: There is none.
    """
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
    for tool in EXTRACTORS:
        if program := shutil.which(tool.command, path=places):
            return tool, Path(program).absolute()
    commands = ", ".join(tool.command for tool in EXTRACTORS)
    raise UserError(
        f"--mask auto: none of {commands} is on PATH; install one (FreeSurfer has SynthStrip; pip install hd-bet, "
        "or pip install deepbet for T1-weighted scans), or give masks of your own by --mask FOLDER"
    )


def extract_brain(head: Volume, device: str = "cpu") -> Extracted:
    """Have the brain in a scan found by the user's extractor, in a temporary folder.

    The tool is given the scan in RAS axes, as HD-BET asks for, under a name and with a header that tell nothing of the
    patient.

    Args:
        head: A scan with its skull.
        device: ``cpu`` or ``cuda``, where the tool can choose.

    Raises:
        UserError: No extractor is there, it failed or took longer than ``MINUTES``, or what it wrote is no brain.
    """
    tool, program = find_extractor()
    name = head.origin.name if head.origin else head.contrast or "a scan"
    upright = Volume(head.voxels, head.affine).reoriented("RAS")
    with tempfile.TemporaryDirectory(prefix="gen3d-") as place:
        folder = Path(place)
        write(upright, folder / _SCAN)
        trouble = _run([str(program), *tool.arguments(device)], folder)
        found = None if trouble else _read(folder / _MASK, upright)
        if not isinstance(found, Volume):
            raise UserError(
                f"{head.origin or name}: {tool.name} ({tool.command}) {trouble or found}{_last_words(folder)}; "
                "mend that, or give a mask of your own by --mask"
            )
    mask = turned(found.voxels > 0, "RAS", head.axcodes)
    return Extracted(mask, f"{tool.name} {tool.version(program) or 'of unknown version'}", name)


def _run(command: Sequence[str], folder: Path) -> str:
    """Run a command in a folder and say in words what went wrong, if anything."""
    try:
        with (
            open(folder / "stdout", "wb") as out,
            open(folder / "stderr", "wb") as err,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, start_new_session=True
            ) as process,
        ):
            try:
                status = process.wait(60 * MINUTES)
            except BaseException:
                _stop(process)
                raise
    except subprocess.TimeoutExpired:
        return f"was stopped after {MINUTES} minutes"
    except OSError as error:
        return f"can't be started: {(error.strerror or str(error)).lower()}"
    return f"failed with exit status {status}" if status else ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started."""
    with suppress(OSError):  # it may just have ended
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _read(path: Path, upright: Volume) -> Volume | str:
    """Read the mask that a tool wrote, or say in words why it is none."""
    if not path.is_file():
        return "wrote no mask"
    try:
        mask = read_labels(path)
    except UserError:
        return "wrote no mask of whole numbers"
    if mask.shape != upright.shape or not same_grid(mask.shape, mask.affine, upright.affine, 0.1):
        return "wrote a mask on another grid than the scan's"
    if not mask.voxels.any():
        return "found no brain: its mask is empty"
    millilitres = (mask.voxels > 0).sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    low, high = _MILLILITRES
    whole = min(n * mm for n, mm in zip(mask.shape, mask.spacing, strict=True)) >= _HEAD_MM
    if millilitres > high or (whole and millilitres < low):
        return f"found a brain of {millilitres:.0f} ml; expected {low} to {high}"
    return mask


def _last_words(folder: Path) -> str:
    """Return the last line that a tool told, of its errors if it told any, without the temporary folder's name."""
    for name in ("stderr", "stdout"):
        path = folder / name
        said = path.read_text(errors="replace") if path.is_file() else ""
        lines = [
            "".join(c for c in line if c.isprintable()).strip()
            for line in said.replace(f"{folder}{os.sep}", "").splitlines()
        ]
        if spoken := [line for line in lines if line]:
            return f", its last line: {spoken[-1][:200]}"
    return ""
