"""``gen3d info``: which models there are, what one of them is, and where it would run."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gen3d import __version__
from gen3d.core.checkpoint import read_index, weights_sha256
from gen3d.core.error import UserError
from gen3d.systems import SYSTEMS, find_model, shipped

LIBRARIES = ("torch", "numpy", "nibabel", "safetensors", "diffusers", "monai")


def show_environment() -> None:
    """List the shipped models, the systems, and what the machine has."""
    models = Table(
        "model", "system", "makes", "parameters", "MB", "trained on", title="Models in the box", title_justify="left"
    )
    for name, folder in shipped().items():
        index = read_index(folder)
        contrasts = ", ".join(index.get("config", {}).get("contrasts", ()))
        count, size = weights_of(folder)
        models.add_row(
            name, str(index.get("system")), contrasts, millions(count), f"{size / 1e6:.1f}", trained_on(index)
        )
    console = Console()
    if models.row_count:
        console.print(models)
    else:
        console.print("No model ships with this copy; train one with gen3d train, or gen3d import an official one.")
    console.print(f"Systems: {', '.join(SYSTEMS)}")
    facts = environment()
    console.print("\n".join(f"{name}: {value}" for name, value in facts.items()), highlight=False)


def show_model(name: str | Path) -> None:
    """Say what one model is: system, contrasts, size, training data, scores, licence."""
    folder = find_model(name)
    table = Table(show_header=False, title=f"{name}", title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in model_facts(folder).items():
        table.add_row(key, value)
    console = Console()
    console.print(table)
    card = folder / "README.md"
    if scores := section(card, "Scores"):
        console.print(f"Scores\n{scores}", highlight=False, markup=False)


def model_facts(folder: Path) -> dict[str, str]:
    """Return what ``show_model`` says, in words."""
    index = read_index(folder)
    config, facts = index.get("config", {}), index.get("provenance", {})
    count, size = weights_of(folder)
    sources = [f"{s.get('name')} ({s.get('licence')})" for s in facts.get("sources", []) if isinstance(s, dict)]
    sampling = config.get("sampling", {})
    rows = {
        "system": str(index.get("system")),
        "contrasts": ", ".join(config.get("contrasts", ())),
        "makes": ", ".join(config.get("targets") or config.get("contrasts", ())),
        "parameters": f"{millions(count)}, {size / 1e6:.1f} MB",
        "trained on": trained_on(index),
        "sources": "\n".join(sources),
        "sampler": f"{sampling.get('sampler', '')}, {sampling.get('steps', '')} steps, {sampling.get('grid', '')}"
        if sampling
        else "",
        "envelope": "\n".join(
            f"{key}: {' to '.join(map(str, ends))}" for key, ends in facts.get("envelope", {}).items()
        ),
        "licence": str(facts.get("licence") or front_matter(folder / "README.md", "license") or "not stated"),
        "not for": str(facts.get("not_for", "diagnosis")),
        "sha256": weights_sha256(folder),
        "folder": str(folder),
    }
    return {key: value for key, value in rows.items() if value}


def trained_on(index: dict[str, Any]) -> str:
    """Say how much a model has seen."""
    facts = index.get("provenance", {})
    if "patients" not in facts:
        return str(facts.get("source", "not stated"))
    phantoms = f", {facts['phantoms']} phantoms" if facts.get("phantoms") else ""
    return f"{facts['patients']} patients{phantoms}"


def weights_of(folder: Path) -> tuple[int, int]:
    """Count a model's parameters and the bytes of its weight files, from the files' headers alone.

    Raises:
        UserError: A weight file is damaged.
    """
    files = sorted(folder.glob("*/*.safetensors"))  # not those of a model inside the model
    return sum(tensor_elements(path) for path in files), sum(path.stat().st_size for path in files)


def tensor_elements(path: Path) -> int:
    """Count the elements of all tensors in a safetensors file: 8 bytes of header length, then JSON."""
    try:
        with open(path, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error}); the saved model is damaged") from None
    total = 0
    for shape in shapes:
        elements = 1
        for n in shape:
            elements *= n
        total += elements
    return total


def environment() -> dict[str, str]:
    """Return versions and devices."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "gen3d": __version__,
        "python": platform.python_version(),
        **{name: found for name in LIBRARIES if (found := installed(name))},
        "device": ", ".join(gpus) or f"CPU, {torch.get_num_threads()} threads",
    }


def installed(name: str) -> str:
    """Return a library's version, or an empty string where it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def millions(count: int) -> str:
    """Write a number of parameters."""
    return f"{count / 1e6:.2f} M"


def section(card: Path, title: str) -> str:
    """Return a section of a model card."""
    text = card.read_text() if card.is_file() else ""
    _, found, rest = text.partition(f"## {title}\n")
    return rest.partition("\n## ")[0].strip() if found else ""


def front_matter(card: Path, key: str) -> str:
    """Return a value of a model card's header."""
    lines = card.read_text().splitlines() if card.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:")), "")
