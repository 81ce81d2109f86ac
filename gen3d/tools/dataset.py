"""A folder of files for another tool: appears whole, lists what in it is synthetic, replaces an earlier one only."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gen3d import __version__
from gen3d.core.error import UserError
from gen3d.data.finished import Output
from gen3d.tools.delivery import clear_leftovers, forbid_beside, make_folders
from gen3d.tools.record import WARNING

LIST = "synthetic.json"


def forbid_around(out: Path, originals: Path, results: Path) -> None:
    """Refuse an output folder that is, lies in or holds the originals or the results.

    Raises:
        UserError: It does.
    """
    forbid_beside(out, originals)
    inside, made = out.resolve(), results.resolve()
    if inside == made or made in inside.parents:
        raise UserError(f"{out}: is or lies in {results}, the results of gen3d synthesize; choose another -o")
    for other in (originals, results):
        if inside in other.resolve().parents:
            raise UserError(f"{out}: holds {other}; an export has a folder of its own; choose another -o")


@contextmanager
def dataset(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``, which takes its place when the block ends well and vanishes when not.

    Where nothing was put into it, nothing happens. An earlier export that is there already is replaced.

    Raises:
        UserError: ``out`` holds what gen3d did not export, or the file system refuses.
    """
    made: list[Path] = []
    new, old = (out.parent / f".{out.name}.{kind}{os.getpid()}" for kind in ("", "0"))
    try:
        made = make_folders(out.parent)
        clear_leftovers(out)
        new.mkdir()
        yield new
        if any(new.iterdir()):
            refuse_foreign(out)
            if out.exists():
                out.rename(old)
            new.rename(out)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{out}: can't be written ({reason}); free space or choose another -o") from None
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()  # only where it stayed empty


def refuse_foreign(out: Path) -> None:
    """Check that a folder holds nothing but an earlier export.

    Raises:
        UserError: It is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write into; choose another -o")
    files = sorted(path for path in out.rglob("*") if not path.is_dir()) if out.is_dir() else []
    own = listed_in(out)
    for path in files:
        name = path.relative_to(out)
        if not own & {name.as_posix(), *(parent.as_posix() for parent in name.parents)}:
            raise UserError(f"{path}: gen3d export did not write it; it is left alone; choose another -o")


def listed_in(out: Path) -> set[str]:
    """Return what the list of an earlier export names; nothing where there is none."""
    try:
        tree = json.loads((out / LIST).read_text())
        return {
            LIST,
            *tree["dataset"],
            *(one["file"] for kind in ("synthetic", "originals", "others") for one in tree[kind]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def write_case(outputs: Sequence[Output], folder: Path) -> None:
    """Write all files of a case, or none where one can't be."""
    try:
        for output in outputs:
            (folder / output.path).parent.mkdir(parents=True, exist_ok=True)
            output.write(folder / output.path)
    except BaseException:
        for output in outputs:
            path = folder / output.path
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def write_front(files: Mapping[str, str], to: str, outputs: Sequence[Output], folder: Path) -> None:
    """Write the files of the dataset itself, and the list of which images are synthetic, by which model.

    Args:
        files: Their text by name.
        to: What the dataset is for.
        outputs: All that was written.
        folder: Where.
    """
    kinds: dict[str, list[dict[str, Any]]] = {"synthetic": [], "originals": [], "others": []}
    for output in outputs:
        kind = "synthetic" if output.synthetic else "originals" if "from" in output.facts else "others"
        kinds[kind].append({"file": output.path, **output.facts})
    about = {"warning": WARNING, "gen3d": __version__, "export": to, "models": models_of(outputs)}
    tree = {**about, "dataset": sorted(files), **kinds}
    for name, text in {**files, LIST: json.dumps(tree, indent=1) + "\n"}.items():
        (folder / name).write_text(text)


def models_of(outputs: Sequence[Output]) -> list[Mapping[str, Any]]:
    """Return what identifies the models that made the images, each once."""
    found = [output.facts["model"] for output in outputs if output.synthetic]
    return [model for index, model in enumerate(found) if model not in found[:index]]
