"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gen3d.core.error import UserError


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it becomes ``path`` when the block ends well and vanishes when not.

    Raises:
        UserError: if the file system refuses (no space, no permission, a file where a folder is needed).
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{path}: cannot be written, {error.filename or path.parent} is not a folder") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: cannot be written ({reason}); free space or choose another output folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
