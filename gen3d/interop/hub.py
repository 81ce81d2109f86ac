"""Saved models to and from the Hugging Face hub or a folder, whole and as they were written."""

import shutil
from pathlib import Path

from gen3d.core.checkpoint import INDEX, check_files, read_index, whole_folder
from gen3d.core.error import UsageError, UserError
from gen3d.systems import find_model

HUB = "hub:"
CARRIED = ("*.json", "*.safetensors", "*.md")  # a saved model has nothing else; code and pickles are never fetched


def push(model: str | Path, to: str, *, public: bool = False, dry_run: bool = False) -> str:
    """Copy a saved model to a folder, or as one commit to a repository of the hub, which is made if it isn't there.

    Args:
        model: A folder, shipped name or hub id.
        to: A folder, or ``hub:OWNER/NAME``; the token is the one that ``hf auth login`` keeps.
        public: Whether a repository that is made can be seen by everybody.
        dry_run: Check everything but what only the hub knows, write nothing.

    Returns:
        Where it is, or would be.

    Raises:
        UserError: The model's files are damaged, the folder holds something else, or the hub refuses.
    """
    folder = find_model(model)
    check_files(folder)
    if not to.startswith(HUB):
        return str(copied(folder, Path(to), dry_run=dry_run))
    from huggingface_hub import HfApi

    name, place = repository(to), f"https://huggingface.co/{repository(to)}"
    if dry_run:
        return place
    try:
        api = HfApi()
        api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(CARRIED),
            delete_patterns=list(CARRIED),
            commit_message=f"gen3d {read_index(folder).get('system')} model",
        )
    except Exception as error:
        raise refused(to, error) from None
    return place


def pull(source: str, out: Path | None = None, *, dry_run: bool = False) -> Path:
    """Fetch a saved model from the hub or a folder, check its SHA-256s, and return its folder.

    Args:
        source: ``hub:OWNER/NAME``, or a folder.
        out: Where to; by default the hub's cache, where ``gen3d.load("OWNER/NAME")`` finds it.
        dry_run: Check everything but the weights of a model of the hub, write nothing.

    Raises:
        UserError: There is no such model, its files are damaged, or the hub can't be reached.
        UsageError: A folder is copied nowhere.
    """
    if not source.startswith(HUB):
        if out is None:
            raise UsageError(
                f"{source}: a folder needs a place to be copied to; add -o FOLDER, or write {HUB}OWNER/NAME"
            )
        folder = find_model(source)
        check_files(folder)
        return copied(folder, out, dry_run=dry_run)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        if dry_run:
            name = repository(source)
            if out is not None:
                forbid_foreign(out)
            HfApi().model_info(name)
            return out or Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
        folder = Path(snapshot_download(repository(source), allow_patterns=list(CARRIED)))
    except UserError:
        raise
    except Exception as error:
        raise refused(source, error) from None
    check_files(folder)
    return folder if out is None else copied(folder, out)


def repository(name: str) -> str:
    """Return OWNER/NAME of ``hub:OWNER/NAME``.

    Raises:
        UsageError: It is no such thing.
    """
    words = name.removeprefix(HUB)
    if words.count("/") != 1 or not all(words.split("/")):
        raise UsageError(f"'{name}': expected {HUB}OWNER/NAME")
    return words


def copied(folder: Path, to: Path, *, dry_run: bool = False) -> Path:
    """Copy a saved model's own files to a new folder, or over a saved model, at once; or only check that they may be.

    Raises:
        UserError: The folder holds something else, or can't be written.
    """
    if to.resolve() == folder.resolve():
        raise UserError(f"{to}: is the model itself; choose another folder")
    forbid_foreign(to)
    if dry_run:
        return to
    with whole_folder(to) as temporary:
        for path in sorted(p for pattern in CARRIED for p in folder.rglob(pattern)):
            place = temporary / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return to


def forbid_foreign(folder: Path) -> None:
    """Check that a folder is free, or holds a saved model.

    Raises:
        UserError: It holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise UserError(f"{folder}: holds something that is no saved model; choose a new folder")


def refused(name: str, error: Exception) -> UserError:
    """Say in a line why the hub gave or took nothing."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(f"{name}: {said}; check the name, the network, and the token (hf auth login)")
