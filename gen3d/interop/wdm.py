"""Official WDM and cWDM checkpoints as saved models."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from gen3d.core.checkpoint import INDEX, save_model
from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.parameterization import X0, Betas
from gen3d.core.system import System
from gen3d.data.intensity import Intensity
from gen3d.interop.adm import Official, official_config, read_network
from gen3d.systems import load
from gen3d.wavelet.cwdm import CWDM, CWDMConfig
from gen3d.wavelet.wdm import WDM, WDMConfig

RELEASES: dict[str, dict[str, Any]] = {
    "wdm": {},
    "cwdm": {"image_size": 224, "in_channels": 32, "additive_skips": False},
}


def import_checkpoint(
    system: str, checkpoint: Path, config: Path | None, target: str | None, folder: Path, *, dry_run: bool = False
) -> None:
    """Write a saved model from an official checkpoint, a ``.pt`` file of plain tensors.

    Args:
        system: "wdm" or "cwdm".
        checkpoint: The official ``.pt`` file; one with a pickle payload is refused.
        config: The official configuration as JSON, flat or nested under "config"; by default the official release's.
        target: What a cWDM network makes, by default t1n.
        folder: Where the model is written; a cWDM folder that is there already gets the target besides those it has.
        dry_run: Read and check everything, write nothing.

    Raises:
        UsageError: The system or target is unknown.
        UserError: A file is damaged or does not fit, or the folder holds something else.
    """
    if system not in RELEASES:
        raise UsageError(f"import: '{system}' is unknown{nearest(system, RELEASES)}; known: {', '.join(RELEASES)}")
    if system == "wdm" and target is not None:
        raise UsageError(f"--target {target}: a WDM has no target contrast; leave it out, or import cwdm")
    checkpoint, folder = Path(checkpoint), Path(folder)
    official = official_config(config, RELEASES[system])
    model = import_wdm(checkpoint, official) if system == "wdm" else import_cwdm(checkpoint, official, target or "t1n")
    whole = merged(model, folder)
    if not dry_run:
        save_model(whole, folder, card=card(whole))


def import_wdm(checkpoint: Path, official: Official) -> WDM:
    """Return the system of an official WDM checkpoint."""
    canvas, pool = (256, 2) if official.image_size == 128 else (official.image_size, 1)
    config = build_config(
        WDMConfig,
        canvas=(canvas,) * 3,
        pool=pool,
        architecture="wavelet_unet" if official.wavelet else "unet",
        network=official.network,
        parameterization=X0(betas(official)),
    )
    if official.dataset != "brats":
        config = replace(config, contrasts=("ct",), intensity=Intensity(percentiles=(0.0, 99.9), to=(-1.0, 1.0)))
    weights = read_network(checkpoint, official).state_dict()
    system = WDM(config)
    system.network.load_state_dict(weights)
    system.provenance = provenance(system, checkpoint)
    return system


def import_cwdm(checkpoint: Path, official: Official, target: str) -> CWDM:
    """Return the system of an official cWDM checkpoint, with one network.

    Raises:
        UsageError: The target is no contrast of cWDM; the nearest is named.
        UserError: The checkpoint is of another network.
    """
    known = CWDMConfig().contrasts
    if target not in known:
        raise UsageError(f"--target {target}: unknown{nearest(target, known)}; known: {', '.join(known)}")
    if official.wavelet:
        raise UserError("use_freq: cWDM has no wavelet U-Net; expected false in its configuration")
    config = build_config(CWDMConfig, targets=(target,), network=official.network, parameterization=X0(betas(official)))
    weights = read_network(checkpoint, official).state_dict()
    system = CWDM(config)
    system.networks[target].load_state_dict(weights)
    system.provenance = provenance(system, checkpoint, target)
    return system


def merged(model: System, folder: Path) -> System:
    """Return the model, together with the targets that a cWDM in ``folder`` has already.

    Raises:
        UserError: The folder holds another model, or files that are none.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return model
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder}: exists and is no saved model; choose a new folder")
    there = load(folder)
    if not isinstance(model, CWDM) or not isinstance(there, CWDM):
        raise UserError(f"{folder}: already holds a model ({there.name}); choose a new folder")
    if replace(there.config, targets=model.config.targets) != model.config:
        raise UserError(f"{folder}: holds a cWDM of another configuration; choose a new folder")
    return joined(there, model)


def joined(one: CWDM, other: CWDM) -> CWDM:
    """Return a cWDM with the targets of both; what both have is taken from the second."""
    networks = {**one.networks, **other.networks}
    targets = tuple(contrast for contrast in one.config.contrasts if contrast in networks)
    system = CWDM(replace(one.config, targets=targets))
    for target in targets:
        system.networks[target].load_state_dict(networks[target].state_dict())
    system.provenance = {**one.provenance, "imported": {**one.provenance["imported"], **other.provenance["imported"]}}
    return system.eval()


def betas(official: Official) -> Betas:
    """Return the linear chain of any length, with the betas of 1000 steps stretched (Nichol & Dhariwal's code)."""
    stretch = 1000 / official.steps
    return Betas(steps=official.steps, start=stretch * 1e-4, end=stretch * 0.02)


def build_config(kind: type, **values: Any) -> Any:
    """Build a system's configuration, what does not fit told as a mistake of the official one."""
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"the checkpoint's configuration does not fit this system: {error}") from None


def provenance(system: System, checkpoint: Path, target: str | None = None) -> dict[str, Any]:
    """Return where the weights come from."""
    with open(checkpoint, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    part = target or system.config.contrasts[0]
    return {"imported": {part: {"file": checkpoint.name, "sha256": digest}}, "licence": "as its publisher says"}


def card(system: System) -> str:
    """Return the model card of an imported checkpoint."""
    lines = [
        f"- {part}: `{entry['file']}`, SHA-256 {entry['sha256']}"
        for part, entry in system.provenance["imported"].items()
    ]
    return "\n".join(
        [
            f"# {type(system).__name__}, imported",
            "",
            "Weights of an official checkpoint, converted by `gen3d import`; their licence is their publisher's.",
            "",
            *lines,
            "",
            "For research; not a medical device. What it makes is synthetic.",
            "",
        ]
    )
