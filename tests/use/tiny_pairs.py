"""A small untrained model of pairs whose record makes the gates refuse about every other draw."""

import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.config import build
from gen3d.data.phantom import phantom
from gen3d.tools.augment.gates import known_of, label_volumes
from gen3d.tools.augment.pair import Drawing, Wishes
from gen3d.tools.train import packaged_config, read_experiment
from gen3d.wavelet.labelled import PairsConfig
from gen3d.wavelet.pairs import Pairs


def write_tiny_pairs(folder: Path) -> Path:
    """Save a model with the network of smoke_pairs; its masks are noise, so parts and cavities have no bound."""
    system = Pairs(build(PairsConfig, read_experiment(packaged_config("smoke_pairs")).model))
    cases = [system.prepare(phantom(seed, (48, 48, 40), 4.0, ("t1n",))) for seed in (5000, 5001)]
    system = system.measure(cases)
    usual = float(np.prod(system.config.canvas) * np.prod(system.config.spacing)) / 4000  # mL of a label that is noise
    told = Pairs(replace(system.config, usual=((math.log(usual), 1.0),) * 3))
    told.load_state_dict(system.state_dict())
    torch.manual_seed(0)
    for parameter in told.network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    for part in list(told.space.parts)[len(told.config.contrasts) :]:
        part.mean.zero_()  # type: ignore[operator]  # codes about 0: all labels are drawn
    many = [[10**6] * 3, [10**6] * 3]
    facts = {"names": list(told.config.labels), "volumes_ml": [[usual] * 3] * 2, "components": many, "holes": many}
    told.provenance = {"patients": 0, "phantoms": 2, "sources": [], "labels": facts}
    save_model(told, folder)
    drawing = Drawing(folder, Wishes())
    known = known_of(drawing.system)
    drawn = [list(label_volumes(drawing.draw(1, f"fixture/{n}"), known).values()) for n in range(16)]
    middle, spread = np.median(drawn, 0), np.std(drawn, 0)
    low, high = middle - spread * [0, 20, 20], middle + spread * [4, 20, 20]
    facts["volumes_ml"] = [low.tolist(), high.tolist()]
    save_model(told, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def nnunet_complaints(folder: Path) -> list[str]:
    """What nnU-Net's check of a raw data set would refuse, restated: keys, counts, names, labels, geometry, numbers."""
    about = json.loads((folder / "dataset.json").read_text())
    found = [key for key in ("labels", "channel_names", "numTraining", "file_ending") if key not in about]
    ending, channels = about["file_ending"], len(about["channel_names"])
    cases = sorted({p.name[: -len(ending) - 5] for p in (folder / "imagesTr").iterdir() if p.name.endswith(ending)})
    found += ["count"] if len(cases) != about["numTraining"] else []
    numbers = sorted(about["labels"].values())
    found += ["labels"] if numbers != list(range(len(numbers))) else []
    for case in cases:
        label = folder / "labelsTr" / f"{case}{ending}"
        images = [folder / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(channels)]
        if not label.is_file() or not all(image.is_file() for image in images):
            found.append(f"{case}: files")
            continue
        mask = nib.load(label)
        found += [f"{case}: label"] if not set(np.unique(mask.get_fdata())) <= set(numbers) else []
        for image in map(nib.load, images):
            same = image.shape == mask.shape and np.allclose(image.affine, mask.affine)
            found += [] if same and np.isfinite(image.get_fdata()).all() else [f"{case}: geometry"]
    return found
