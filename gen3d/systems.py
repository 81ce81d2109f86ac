"""Published names of systems, and loading a saved model."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gen3d.core.error import UsageError, UserError, nearest

if TYPE_CHECKING:  # or a shell that completes a model's name would wait for torch
    from gen3d.core.system import System

SYSTEMS = {
    "wdm": "gen3d.wavelet.wdm:WDM",
    "cwdm": "gen3d.wavelet.cwdm:CWDM",
    "completion": "gen3d.wavelet.completion:Completion",
    "pairs": "gen3d.wavelet.pairs:Pairs",
    "reconstruction": "gen3d.wavelet.reconstruction:Reconstruction",
    "control": "gen3d.latent.control:Control",
    "meddiffusion": "gen3d.latent.meddiffusion:MedDiffusion",
    "meddiffusion-ae": "gen3d.latent.autoencoder:PatchVolumeAutoencoder",
    "kl-ae": "gen3d.latent.autoencoder:KLAutoencoder",
    "diffusionct": "gen3d.latent.diffusionct:DiffusionCT",
    "diffusionct-ae": "gen3d.latent.kernel_autoencoder:DiffusionCTAutoencoder",
    "kernel-flow": "gen3d.latent.kernel_flow:KernelFlow",
    "forecast": "gen3d.sequence.forecast:Forecast",
    "sadm": "gen3d.sequence.sadm:SADM",
    "cdal": "gen3d.segmentation.cdal:CDAL",
    "cimd": "gen3d.segmentation.cimd:CIMD",
    "probunet": "gen3d.segmentation.probunet:ProbUNet",
    "segmenter": "gen3d.segmentation.plain:Plain",
}


def system_class(name: str) -> "type[System]":
    """Return the class of a published system, imported when asked for.

    Raises:
        UsageError: No system has this name; the nearest is named.
    """
    if name not in SYSTEMS:
        raise UsageError(f"system '{name}': unknown{nearest(name, SYSTEMS)}; known: {', '.join(SYSTEMS)}")
    module, _, attribute = SYSTEMS[name].partition(":")
    kind: type[System] = getattr(import_module(module), attribute)
    return kind


def shipped() -> dict[str, Path]:
    """Return the models that ship with the package, by name."""
    folder = Path(__file__).parent / "pretrained"
    return {index.parent.name: index.parent for index in sorted(folder.glob("*/model_index.json"))}


def find_model(name: str | Path) -> Path:
    """Find a saved model: a folder, a shipped name, or a hub id whose files are already in the local hub cache.

    Raises:
        UsageError: There is no such model; the nearest shipped one is named.
        UserError: The folder holds none.
    """
    path = Path(name)
    if (path / "model_index.json").is_file():
        return path
    models = shipped()
    if str(name) in models:
        return models[str(name)]
    if not path.exists() and str(name).count("/") == 1 and (cached := find_in_hub_cache(str(name))):
        return cached
    if path.is_dir():
        raise UserError(
            f"{path}: no model_index.json in this folder; expected a folder that gen3d train or gen3d import wrote"
        )
    raise UsageError(
        f"model '{name}': neither a folder nor shipped{nearest(str(name), models)}; shipped: {', '.join(models)}"
    )


def find_in_hub_cache(name: str) -> Path | None:
    """Return the snapshot folder of a hub id if huggingface_hub has it on disk; nothing is downloaded."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if (folder / "model_index.json").is_file() else None


def load(name: str | Path) -> "System":
    """Load a saved model by folder, shipped name or hub id, ready to sample, on the CPU; runs no code from the folder.

    Args:
        name: A folder that ``gen3d train`` or ``gen3d import`` wrote, the name of a shipped model, or a hub id in the
            local hub cache.

    Raises:
        UsageError: There is no such model.
        UserError: Its files are damaged.
    """
    from gen3d.core.checkpoint import load_system, read_index

    folder = find_model(name)
    return load_system(system_class(str(read_index(folder).get("system"))), folder)
