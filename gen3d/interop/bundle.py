"""A saved model as a MONAI bundle: what ``monai.bundle`` reads, and runs gen3d by."""

from importlib import metadata
from pathlib import Path

from gen3d import __version__
from gen3d.core.checkpoint import WEIGHTS, check_files, read_index, whole_folder, write_json
from gen3d.core.error import UserError
from gen3d.interop.hub import copied
from gen3d.systems import find_model

COMMANDS = {
    **dict.fromkeys(("wdm", "meddiffusion"), "generate"),
    **dict.fromkeys(("cwdm", "completion"), "synthesize"),
    **dict.fromkeys(("forecast", "sadm"), "forecast"),
    **dict.fromkeys(("diffusionct", "kernel-flow"), "standardize"),
    **dict.fromkeys(("cdal", "cimd", "probunet", "segmenter"), "segment"),
    "pairs": "augment",
}
MODEL = "models/gen3d"


def write_bundle(model: str | Path, out: Path, *, dry_run: bool = False) -> Path:
    """Write a MONAI bundle: ``configs/metadata.json``, ``configs/inference.json``, the saved model, its card.

    ``network_def`` gives the system; ``run`` is the gen3d command that the model is for, with ``arguments`` that can be
    overridden: ``python -m monai.bundle run --config_file configs/inference.json --bundle_root . --source CASE``.

    Args:
        model: A folder, shipped name or hub id.
        out: A new folder.
        dry_run: Check everything, write nothing.

    Raises:
        UserError: The model is damaged, or the folder is there or can't be written.
    """
    folder = find_model(model)
    check_files(folder)
    if out.exists():
        raise UserError(f"{out}: exists; choose a new folder")
    if dry_run:
        return out
    index = read_index(folder)
    facts = index.get("provenance", {})
    with whole_folder(out) as temporary:
        (temporary / "configs").mkdir()
        (temporary / "docs").mkdir()
        copied(folder, temporary / MODEL)
        if (card := folder / "README.md").is_file():
            (temporary / "docs" / "README.md").write_bytes(card.read_bytes())
        write_json(temporary / "configs" / "metadata.json", described(index["system"], folder, facts))
        write_json(temporary / "configs" / "inference.json", inference(index["system"]))
    return out


def inference(system: str) -> dict[str, object]:
    """Return the configuration that runs a system's command."""
    tree: dict[str, object] = {
        "imports": ["$import gen3d", "$import gen3d.cli"],
        "bundle_root": ".",
        "model_dir": f"$@bundle_root + '/{MODEL}'",
        "output_dir": "$@bundle_root + '/eval'",
        "network_def": "$gen3d.load(@model_dir)",
    }
    command = COMMANDS.get(system)
    if command is None:
        return tree
    needs = [] if command in ("generate", "augment") else ["-i", "@source"]
    arguments = [command, "--model", "@model_dir", "-o", "@output_dir", *needs]
    return {**tree, **({"source": "."} if needs else {}), "arguments": arguments, "run": ["$gen3d.cli.run(@arguments)"]}


def described(system: str, folder: Path, facts: dict[str, object]) -> dict[str, object]:
    """Return what a bundle says of itself."""
    weights = sorted(path.relative_to(folder).as_posix() for path in folder.rglob(WEIGHTS))
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": f"written by gen3d {__version__}"},
        "monai_version": installed("monai"),
        "pytorch_version": installed("torch").partition("+")[0],
        "numpy_version": installed("numpy"),
        "required_packages_version": {"gen3d": __version__},
        "name": folder.name,
        "task": f"gen3d {COMMANDS.get(system, system)}",
        "description": f"{system}, trained on {facts.get('patients', 'an unstated number of')} patients",
        "authors": "see docs/README.md",
        "copyright": str(facts.get("licence", "see docs/README.md")),
        "intended_use": f"research; not for {facts.get('not_for', 'diagnosis')}",
        "network_data_format": {"weights": weights},
    }


def installed(name: str) -> str:
    """Return a library's version, or an empty string where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
