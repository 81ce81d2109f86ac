"""What every synthetic file says about itself, in its header and in a JSON file beside it.

No clock time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen3d import __version__
from gen3d.core.checkpoint import write_json
from gen3d.data.nifti import without_ending
from gen3d.tools.sampling import OpenModel

WARNING = "Synthetic image: computed by a generative model, never acquired from the patient; not for diagnosis."


def description(model: OpenModel, contrast: str) -> str:
    """Return the words for a NIfTI header's ``descrip``, at most 79 bytes."""
    return f"SYNTHETIC {contrast}, not for diagnosis; gen3d {__version__} {model.name}"


def about(model: OpenModel) -> dict[str, Any]:
    """Return what identifies a model and what it was trained on."""
    facts = model.system.provenance
    told = ("patients", "cases", "phantoms", "sources", "imported", "licence", "base")
    trained = {key: facts[key] for key in told if key in facts} or "not stated by the model"
    return {
        "name": model.name,
        "system": model.system.name,
        "weights_sha256": model.sha256,
        "computed_in": model.computed_in,
        "trained_on": trained,
    }


def patients(model: OpenModel) -> str:
    """Say how much a model has seen, in half a sentence."""
    facts = model.system.provenance
    if "patients" not in facts:
        return "trained on data that its folder does not name"
    phantoms = f" and {facts['phantoms']} simulated brains" if facts.get("phantoms") else ""
    count = facts["patients"]
    base = f", from {facts['base']['name']}" if "base" in facts else ""
    return f"trained on {count} patient{'' if count == 1 else 's'}{phantoms}{base}"


def sidecar(path: Path) -> Path:
    """Return the name of the JSON file beside a NIfTI file."""
    return path.with_name(f"{without_ending(path)}.json")


def write_record(path: Path, model: OpenModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the sidecar of a NIfTI file and return what it says.

    Args:
        path: Of the NIfTI file.
        model: What made it.
        facts: Anything else: contrast, mode, seed, sampler, sources.
    """
    tree = record(path, model, facts)
    write_json(sidecar(path), tree)
    return tree


def record(path: Path, model: OpenModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sidecar says."""
    first = {"synthetic": True, "warning": WARNING, "file": path.name}
    return {**first, **facts, "model": about(model), "gen3d": __version__}
