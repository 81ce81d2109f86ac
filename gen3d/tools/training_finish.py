"""What is measured of a model right after its training, and written into it."""

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from gen3d.core.system import System
from gen3d.core.training import MODEL
from gen3d.core.volume import Prepared
from gen3d.systems import find_model, load
from gen3d.tools.held_out import Comparison, compare
from gen3d.tools.progress import say
from gen3d.tools.reliability import write_usual
from gen3d.tools.volume_spread import write_spread

REJECTED = "rejected"
AUTOENCODERS, EXAMINED = ("meddiffusion-ae", "kl-ae"), 20


def finished(
    system: System,
    run: Path,
    device: torch.device,
    real: Sequence[Prepared],
    cases: Sequence[Prepared],
    validation: Sequence[Prepared],
    card: Callable[..., str],
    *,
    archive: bool,
    init: str | None,
) -> Path:
    """Add to a saved model what is measured of it, and return the folder of the model to use."""
    if system.name in AUTOENCODERS:
        table = reconstructed(run / MODEL, (validation or cases)[:EXAMINED], device)
        (run / MODEL / "README.md").write_text(card(load(run / MODEL), scores=table))
    if system.name == "forecast" and system.config.labels:
        say("measuring how far forecast volumes lie from true ones")
        write_spread(run / MODEL, validation or cases, device)
    if system.name != "completion":
        return run / MODEL
    write_usual(run / MODEL, validation or cases, device)
    if archive and validation:
        return judged(compare(run / MODEL, init, real, validation, device), init, run, card)
    return run / MODEL


def reconstructed(model: Path, cases: Sequence[Prepared], device: torch.device) -> str:
    """Say how well a trained autoencoder gives cases back, and what is off with its latents."""
    from gen3d.latent.diagnostics import examined

    say(f"reconstructing {len(cases)} scans")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = examined(load(model).to(device), cases)
    names = {
        "psnr": "PSNR of whole volumes, dB",
        "noise": "noise in the latents, share of their variance",
        "codes": "codes in use, share",
        "seams": "seam index at patches, 1 is none",
    }
    rows = [f"| {names[name]} | {value:.3g} |" for name, value in found.items()]
    kept = len({case.patient for case in cases})
    lines = [f"| {len(cases)} scans of {kept} patients | |", "|---|---|", *rows, *(str(w.message) for w in caught)]
    for line in lines[2:]:
        say(line)
    return "\n".join(lines)


def judged(comparison: Comparison, init: str | None, run: Path, card: Callable[..., str]) -> Path:
    """Print a comparison and put it on the model card; a model that is no better than its base goes to RUN/rejected.

    Returns:
        The folder of the model to use: the trained one, or its base.
    """
    table = comparison.markdown()
    say(table)
    rejected = init is not None and comparison.worse
    folder = run / (REJECTED if rejected else MODEL)
    if rejected:
        shutil.rmtree(folder, ignore_errors=True)
        (run / MODEL).rename(folder)
    comparison.write(run / "held_out.json")
    (folder / "README.md").write_text(card(load(folder), scores=table))
    if comparison.worse:
        fate = f": put into {folder}; go on using {init}" if rejected else ""
        say(f"no better than {comparison.rival} on patients held out{fate}")
    return find_model(init) if init and rejected else folder
