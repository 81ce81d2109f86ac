"""Folders of results that appear at once or not at all, beside nothing that gen3d did not write."""

import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from gen3d.core.error import UserError
from gen3d.data.nifti import ENDINGS

APART = "synthetic scans never go beside originals; choose another -o"


def forbid_beside(out: Path, source: Path) -> None:
    """Refuse an output folder that is, or lies in, the folder of the originals; a lone file's may lie beside it.

    Raises:
        UserError: It does.
    """
    inside, originals = out.resolve(), source.resolve()
    lone = originals.is_file()
    home, within = (originals.parent, [inside]) if lone else (originals, [inside, *inside.parents])
    if home in within:
        raise UserError(f"{out}: is or lies in the input folder {source}; {APART}")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the sidecar of a synthetic file, or None where ``path`` is no such thing."""
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) and tree.get("synthetic") is True and "gen3d" in tree else None


def sidecars(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the sidecars in a folder."""
    found = {path: read_sidecar(path) for path in sorted(folder.glob("*.json"))}
    return {path: tree for path, tree in found.items() if tree is not None}


def owned(folder: Path) -> set[str]:
    """Return the names of the files in a folder that an earlier run wrote: sidecars, and what they name, unedited."""
    names: set[str] = set()
    for path, tree in sidecars(folder).items():
        names |= {path.name, str(tree.get("file")), str(tree.get("preview")), *map(str, tree.get("transforms", []))}
        mask = tree.get("mask")
        if isinstance(mask, dict) and is_as_written(folder / str(mask.get("file")), mask.get("sha256")):
            names.add(str(mask["file"]))
    return names


def is_as_written(path: Path, digest: object) -> bool:
    """Say whether a mask still has the bytes that were written; one that people have edited is theirs."""
    return path.is_file() and sha256(path.read_bytes()).hexdigest() == digest


def protect(folder: Path, names: Iterable[str]) -> None:
    """Check that ``names`` may be written into a folder.

    Raises:
        UserError: The folder is a file, or holds scans, or one of the names, that gen3d did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder to write into; choose another -o")
    if not folder.is_dir():
        return
    own, wanted = owned(folder), set(names)
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in own)
    if taken := [name for name in foreign if name in wanted]:
        raise UserError(f"{folder / taken[0]}: exists, and gen3d did not write it; it is left alone; choose another -o")
    if scans := [name for name in foreign if name.lower().endswith(ENDINGS)]:
        raise UserError(f"{folder}: holds {scans[0]}, which gen3d did not write; {APART}")


@contextmanager
def delivered(folder: Path, contrasts: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; its files appear there when the block ends well, and vanish when not.

    Args:
        folder: Where; files of an earlier run are replaced.
        contrasts: An earlier run's files of these are removed first, so that none is left beside newer ones.

    Raises:
        UserError: The file system refuses, or ``protect`` does.
    """
    made: list[Path] = []
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        made = make_folders(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        publish(temporary, folder, set(contrasts))
    except (FileExistsError, NotADirectoryError) as error:
        place = error.filename or folder.parent
        raise UserError(f"{folder}: can't be written, {place} is no folder; choose another -o") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{folder}: can't be written ({reason}); free space or choose another -o") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()  # only where it stayed empty


def clear_leftovers(folder: Path) -> None:
    """Remove what killed runs left beside ``folder`` on the way to it."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        if path.is_dir() and path.suffix[1:].isdigit():
            shutil.rmtree(path, ignore_errors=True)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder with its parents; return those that were not there, outermost first."""
    absent = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent[::-1]


def publish(temporary: Path, folder: Path, contrasts: set[str]) -> None:
    """Move the files to where they belong."""
    names = {path.name for path in temporary.iterdir()}
    protect(folder, names)
    if not folder.exists():
        temporary.rename(folder)
        return
    before = owned(folder)
    for path, tree in sidecars(folder).items():
        if tree.get("contrast") in contrasts:
            for stale in {path.name, str(tree.get("file"))} - names:
                (folder / stale).unlink(missing_ok=True)
    for name in sorted(names):
        os.replace(temporary / name, folder / name)
    for orphan in before - owned(folder):  # a mask or transform that no sidecar names any more
        with suppress(OSError):
            (folder / orphan).unlink()
