"""Where the weights of feature networks come from: files that are already here.

Nothing is ever downloaded.
"""

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

VARIABLE, FLAG = "GEN3D_FEATURE_WEIGHTS", "--feature-weights"


def find_weights(name: str, given: Path | None = None, *, repositories: Sequence[str] = ()) -> Path:
    """Find a file of weights: where it was given, where the variable GEN3D_FEATURE_WEIGHTS says, or in a hub's cache.

    Args:
        name: The file's published name.
        given: The file under any name, or the folder that holds it; nothing else is then looked at.
        repositories: Those of Hugging Face that may have left the file in its cache.

    Raises:
        FileNotFoundError: It is in none of these places. One line: the file, the places, the flag and the variable.
    """
    if given is not None:
        places = [inside(given, name)]
    else:
        said = os.environ.get(VARIABLE)
        places = [inside(Path(said), name)] if said else []
        places += [Path(torch.hub.get_dir()) / "checkpoints" / name]
        places += [path for repository in repositories for path in hugging_face_cache(repository, name)]
    for path in places:
        if path.is_file():
            return path
    looked = ", ".join(str(path) for path in places)
    raise FileNotFoundError(
        f"no file {name} (looked for {looked}): fetch it from its authors and name it with {FLAG} or in {VARIABLE}; "
        "nothing is downloaded"
    )


def inside(place: Path, name: str) -> Path:
    """Return the file itself, or where it would be in a folder."""
    return place / name if place.is_dir() else place


def hugging_face_cache(repository: str, name: str) -> list[Path]:
    """Return the file in the local cache of Hugging Face, if that library is here and has it."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return []
    found = try_to_load_from_cache(repository, name)
    return [Path(found)] if isinstance(found, str) else []


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict saved by torch, alone or under "state_dict", without the "module." of DataParallel.

    Raises:
        ValueError: It is none, or holds anything but tensors; nothing in it is run.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a file of weights that torch can read without running code") from error
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f"{path} holds no state dict: expected names and tensors, alone or under 'state_dict'")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def load_state(network: torch.nn.Module, state: dict[str, Tensor], *, what: str) -> None:
    """Put weights into a network that was built on the meta device; every one must be there, and no other.

    Raises:
        ValueError: Weights are missing, unexpected or of another shape. One line with the first of them.
    """
    expected = network.state_dict()
    steps = {name: torch.zeros((), dtype=torch.long) for name in expected if name.endswith("num_batches_tracked")}
    state = steps | state  # counters that torch before 0.4.1 did not save, and that inference never reads
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [n for n, value in expected.items() if n in state and state[n].shape != value.shape],
    }
    told = [f"{len(names)} {fault} ({names[0]}, ...)" for fault, names in faults.items() if names]
    if told:
        raise ValueError(f"the weights are not those of {what}: {'; '.join(told)}")
    cast = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    network.load_state_dict(cast, assign=True)
