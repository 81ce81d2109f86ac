"""What was measured of a file is kept, so that an evaluation goes on where it was stopped."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gen3d import __version__
from gen3d.core.error import UserError
from gen3d.data.atomic import appearing
from gen3d.tools.evaluate.report import plain

FOLDER = "cache"  # in an evaluation's folder
FORMAT = 2  # raise it when what is kept changes its shape or meaning


@contextmanager
def gone_if_failed(out: Path) -> Iterator[None]:
    """Remove from an evaluation's folder what was kept, where the evaluation fails and nothing was there before."""
    before = (out / FOLDER).exists()
    try:
        yield
    except UserError:
        if not before and (out / FOLDER).exists():
            shutil.rmtree(out / FOLDER)
            with suppress(OSError):  # other results lie in it
                out.rmdir()
        raise


class Cache:
    """A folder of results, each good for one state of its files and one choice of settings.

    Args:
        folder: Made when the first result is kept.
        settings: Whatever changes the results.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, plain({"gen3d": __version__, "format": FORMAT, **settings})

    def get(self, name: str, files: Sequence[Path], compute: Callable[[], Any]) -> Any:
        """Return the JSON tree that ``compute`` gave for these files, now or earlier.

        Args:
            name: Of the result, unique in the folder.
            files: What it was computed from.
            compute: Called where nothing was kept, or a file has another path, size or time by now.
        """
        path = self.path(name, files, ".json")
        with suppress(OSError, ValueError):
            return json.loads(path.read_text())
        tree = plain(compute())
        with appearing(path) as temporary:
            temporary.write_text(json.dumps(tree))
        return tree

    def arrays(
        self, name: str, files: Sequence[Path], compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return the arrays that ``compute`` gave for these files, as ``get`` does."""
        path = self.path(name, files, ".npz")
        with (
            suppress(OSError, ValueError, BadZipFile),
            np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept,
        ):
            return dict(kept)
        arrays = dict(compute())
        with appearing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return arrays

    def path(self, name: str, files: Sequence[Path], ending: str) -> Path:
        """Return where a result is kept: a hash of its name, its files' states and the settings."""
        states = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        key = json.dumps([name, states, self.settings], sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{ending}"
