"""Saved models: a folder in the layout that diffusers users know, no pickle, written whole or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gen3d.core.config import build, to_tree
from gen3d.core.error import UserError
from gen3d.core.system import System

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
S = TypeVar("S", bound=System)


def write_json(path: Path, tree: Any) -> None:
    """Write JSON with a final newline."""
    path.write_text(json.dumps(tree, indent=2, sort_keys=False, default=str) + "\n")


def read_index(folder: Path) -> dict[str, Any]:
    """Read a saved model's ``model_index.json``.

    Raises:
        UserError: It is missing or damaged.
    """
    return read_json(folder / INDEX)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); the saved model is damaged") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a JSON object; the saved model is damaged")
    return tree


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary sibling to write into; it takes the folder's place when all went well and vanishes otherwise.

    Raises:
        UserError: The folder can't be written.
    """
    folder = Path(folder)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        temporary.chmod(0o755)
        yield temporary
        retired = Path(f"{temporary}-old")
        if folder.exists():
            folder.rename(retired)
        temporary.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror or error})") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def save_model(system: System, folder: Path, *, dtype: torch.dtype | None = None, card: str | None = None) -> None:
    """Write a saved model: an index, one folder per component, ``scheduler/`` where diffusers has one, a model card.

    Args:
        system: What to save.
        folder: Where; replaced as a whole if it exists.
        dtype: Number format of the stored weights; by default as they are.
        card: Text of the model card (README.md).

    Raises:
        UserError: The folder can't be written.
    """
    from gen3d import __version__

    config = to_tree(system.config)
    with whole_folder(Path(folder)) as temporary:
        for name in system.components:
            component = getattr(system, name)
            save_component(component, config.get(name, {}), temporary / name, dtype)
        scheduler = diffusers_scheduler(system.config)
        if scheduler:
            (temporary / "scheduler").mkdir()
            write_json(temporary / "scheduler" / "scheduler_config.json", scheduler)
        index = {
            "_class_name": type(system).__name__,
            "_gen3d_version": __version__,
            "system": system.name,
            **{name: ["gen3d", type(getattr(system, name)).__name__] for name in system.components},
            **({"scheduler": ["diffusers", scheduler["_class_name"]]} if scheduler else {}),
            "config": {key: value for key, value in config.items() if key not in system.components},
            "provenance": system.provenance,
            "sha256": checksums(temporary),
        }
        write_json(temporary / INDEX, index)
        if card is not None:
            (temporary / "README.md").write_text(card)


def save_component(component: nn.Module, config: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """Write one component: ``config.json`` and, where it has any, its weights."""
    folder.mkdir(parents=True)
    tree = config if isinstance(config, dict) else {"value": config}
    write_json(folder / "config.json", {"_class_name": type(component).__name__, **tree})
    weights = {key: stored(tensor, dtype) for key, tensor in component.state_dict().items()}
    if weights:
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a tensor as it is written to disk."""
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous()


def load_system(kind: type[S], folder: Path) -> S:
    """Build a system from a saved model; its networks compute in float32 whatever was stored.

    Raises:
        UserError: The saved model is damaged or holds other weights than its configuration says.
    """
    index = read_index(folder)
    config = dict(index.get("config", {}))
    for name in kind.components:
        tree = read_json(folder / name / "config.json")
        tree.pop("_class_name", None)
        if name in {f.name for f in fields(kind.Config)}:
            config[name] = tree["value"] if tree.keys() == {"value"} else tree
    system = kind(build(kind.Config, config, str(folder / INDEX)))
    system.provenance = dict(index.get("provenance", {}))
    for name in kind.components:
        load_component(getattr(system, name), folder / name)
    return system.eval()


def load_component(component: nn.Module, folder: Path) -> None:
    """Load the weights of one component, all of them and no others.

    Raises:
        UserError: They are damaged, or not those of this component.
    """
    expected = component.state_dict()
    if not expected:
        return
    weights = read_weights(folder / WEIGHTS)
    if (odd := sorted(weights.keys() ^ expected.keys())) or (
        odd := [k for k in expected if weights[k].shape != expected[k].shape]
    ):
        raise UserError(f"{folder / WEIGHTS}: does not fit config.json beside it (first difference: {odd[0]})")
    component.load_state_dict({key: tensor.to(expected[key].dtype) for key, tensor in weights.items()})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: It is missing, damaged, or no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error}); the saved model is damaged") from None


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each weight file in a folder, by its path there; what the index records."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_files(folder: Path) -> None:
    """Check that a saved model's weights are those that its index records.

    Raises:
        UserError: One is missing or has another SHA-256.
    """
    written, there = read_index(folder).get("sha256", {}), checksums(folder)
    if odd := sorted(path for path in written if there.get(path) != written[path]):
        what = "is not what was written" if odd[0] in there else "is missing"
        raise UserError(f"{folder / odd[0]}: {what}, by its SHA-256; the saved model is damaged")


def weights_sha256(folder: Path) -> str:
    """Return one SHA-256 over all weight files of a saved model, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def diffusers_scheduler(config: Any) -> dict[str, Any] | None:
    """Return the scheduler configuration that diffusers loads, for systems on a DDPM chain of betas."""
    from gen3d.core.parameterization import X0, Betas, Epsilon, Velocity

    parameterization = getattr(config, "parameterization", None)
    kinds: dict[type, str] = {X0: "sample", Epsilon: "epsilon", Velocity: "v_prediction"}
    levels = getattr(parameterization, "levels", None)
    if type(parameterization) not in kinds or not isinstance(levels, Betas):
        return None
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": levels.steps,
        "beta_start": levels.start,
        "beta_end": levels.end,
        "beta_schedule": "linear",
        "rescale_betas_zero_snr": levels.zero_terminal_snr,
        "prediction_type": kinds[type(parameterization)],
        "variance_type": "fixed_large",
        "clip_sample": False,
    }


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a training state atomically: a reader sees the old file or the new one, whenever the process dies.

    Raises:
        UserError: It can't be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: the checkpoint can't be written ({error}); the one before it is untouched") from None


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state or any checkpoint of plain tensors; a pickle payload is refused.

    Raises:
        UserError: The file is damaged or holds anything but tensors, numbers, strings, lists and dicts.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (
            "it holds Python objects, which could run code"
            if "weights" in str(error).lower()
            else "it is damaged or no checkpoint"
        )
        raise UserError(f"{path}: refused: {reason}; expected a file of plain tensors (a bare state dict)") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: refused: expected a dict of tensors, found {type(state).__name__}")
    return state
