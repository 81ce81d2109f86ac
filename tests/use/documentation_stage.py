"""What lies under the names in capitals that pages print, and how a page's folder is filled with it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gen3d
from gen3d.systems import find_model
from gen3d.tools.train import packaged_config
from tests.conftest import shared_folder
from tests.use.documentation_scans import (
    a_scan,
    archive,
    brain,
    brain_masks,
    brain_scans,
    case,
    ct,
    ct_folder,
    cts,
    four_dimensional,
    generated_scans,
    hippocampus,
    labelled,
    masks,
    more_scans,
    other_masks,
    others,
    patient,
    patients,
    rated,
    raters,
    samples,
    scan,
    scans,
    slice_,
    training_scans,
)

Make = Callable[[Path], object]


# Models and official checkpoints


def shipped(name: str) -> Make:
    def copy(folder: Path) -> None:
        shutil.copytree(find_model(name), folder)

    return copy


def official(family: str, name: str) -> Make:
    """Random weights in an official format, from ../shared/reference, and their configuration beside."""

    def copy(path: Path) -> None:
        source = shared_folder("GEN3D_REFERENCE", "../shared/reference") / family / f"{name}.pt"
        shutil.copy(source, path)
        shutil.copy(source.with_suffix(".json"), path.with_suffix(".json"))

    return copy


def seven_classes(path: Path) -> None:
    """The official network of four classes with rows for seven, as the release has."""
    official("meddiffusion", "biflownet")(path)
    weights = torch.load(path, weights_only=True)
    (name,) = (name for name in weights if "cond_emb" in name)
    weights[name] = weights[name].repeat(2, 1)[:7]
    torch.save(weights, path)
    told = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**told, "cond_classes": 7}))


def maisi(path: Path) -> None:
    """MONAI's own class, small, and MAISI's description of it beside."""
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    shape: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 4,
        "num_channels": [8, 8, 16],
        "num_res_blocks": [1, 1, 1],
        "norm_num_groups": 4,
        "attention_levels": [False, False, False],
        "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
    }
    torch.manual_seed(0)
    torch.save(AutoencoderKlMaisi(**shape).state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps(shape))


def configuration(name: str) -> Make:
    def copy(path: Path) -> None:
        shutil.copy(packaged_config(name), path)

    return copy


# Which name is what, for which command


def written_by(*words: str) -> Make:
    """What a command leaves in OUT."""

    def run(folder: Path) -> None:
        from gen3d.cli import run

        assert run([*words, "-o", str(folder)]) == 0

    return run


STAGE: tuple[tuple[str, str, Make], ...] = (  # the name, what the command matches, what then lies under the name
    ("../shared/data/hippocampus", "", labelled),
    ("../shared/data/brats", "", archive),
    ("../shared/data/ct", "", cts),
    ("CASE", "", case),
    ("ARCHIVE", "", archive),
    ("FOLDER_OF_CASES", "", archive),
    ("BRATS", "", archive),
    ("SCANS", "", scans),
    ("DATASET", "", labelled),
    ("RATERS", "", rated),
    ("SCAN", "reconstruct", a_scan),
    ("SCAN.nii.gz", "segment", slice_),
    ("SLICE.nii.gz", "", slice_),
    ("FOLDER", "segment", scans),
    ("T2.nii.gz", "", scan),
    ("CT.nii.gz", "", ct),
    ("CT", "", ct_folder),
    ("YOUR_CTS", "", cts),
    ("PATIENT", "", patient),
    ("PATIENTS", "", patients),
    ("ACDC_4D", "", four_dimensional),
    ("MASKS", "synthesize", brain_masks),
    ("MASKS", "augment|generate", masks),
    ("REAL", "evaluate generation", more_scans),
    ("FAKE", "evaluate generation", generated_scans),
    ("TRAINING_SCANS", "", training_scans),
    ("REAL", "evaluate pairs", brain_scans),
    ("FAKE", "evaluate pairs", brain_scans),
    ("REAL", "evaluate segmentation", masks),
    ("FAKE", "evaluate segmentation", other_masks),
    ("REAL", "evaluate ambiguous", raters),
    ("FAKE", "evaluate ambiguous", samples),
    ("REAL", "augment|evaluate downstream", labelled),
    ("TEST", "evaluate downstream", others),
    ("MODEL", "segment -i SCAN", shipped("brain-growth-raters")),
    ("MODEL", "segment -i FOLDER", shipped("hippocampus-segment")),
    ("MODEL", "augment", shipped("hippocampus-pairs")),
    ("RUN/model", "SyntheticPairs|downstream", shipped("hippocampus-pairs")),
    ("RUN/model", "", shipped("hippocampus-wdm")),
    ("OUT", "report|export", written_by("synthesize", "-i", "ARCHIVE")),
    ("OUT", "MixSyntheticd", written_by("augment", "--model", "hippocampus-pairs", "-n", "1")),
    ("brats_unet_128_1200k.pt", "", official("wdm", "wdm_unet")),
    ("cwdm_t2f.pt", "", official("cwdm", "cwdm_unet")),
    ("PatchVolume_8x_s2.ckpt", "", official("meddiffusion", "patch_volume_ae")),
    ("BiFlowNet_0453500.pt", "", seven_classes),
    ("autoencoder.pt", "", maisi),
    ("my.yaml", "", configuration("smoke_completion")),
    ("CONFIG", "", configuration("smoke_completion")),
)


def subject() -> dict[str, Any]:
    """A dictionary as MONAI's transforms pass it on, one key for each contrast, without the FLAIR."""
    from monai.data import MetaTensor

    return {
        contrast: MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(affine))
        for contrast, (voxels, affine) in brain(1).items()
        if contrast != "t2f"
    }


def data() -> dict[str, Any]:
    """The same with all contrasts, and with an image that holds them as channels."""
    from monai.data import MetaTensor

    voxels, affines = zip(*brain(1).values(), strict=True)
    image = MetaTensor(torch.from_numpy(np.stack(voxels)), affine=torch.from_numpy(affines[0]))
    return {"image": image, **subject()}


def crop() -> dict[str, Any]:
    """A dictionary of one scan, of a hippocampus."""
    from monai.data import MetaTensor

    image, _ = hippocampus(0)
    return {"image": MetaTensor(torch.from_numpy(image[None].astype(np.float32)), affine=torch.eye(4))}


GIVEN: dict[str, Callable[[], Any]] = {  # what a block of code takes as there
    "subject": subject,
    "data": data,
    "crop": crop,
    "system": lambda: gen3d.load("brain-completion"),
    "my_dataset": lambda: [{"image": torch.zeros(1, 8, 8, 8), "label": torch.zeros(1, 8, 8, 8)}],
}


class Stage:
    """The working folder of a page, where what a command names is put before it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there: dict[str, Make] = {}

    def prepare(self, text: str) -> None:
        """Put what a command or a block of code names into the folder; what is there for the same reason stays."""
        named = set(re.split(r"""[\s"'=:,{}\[\]()]+""", text))
        if (train := re.match(r"gen3d train ([a-z]\w+)", text)) and "data.sources=" not in text and "data=" not in text:
            configured = packaged_config(train[1]).read_text().replace("${GEN3D_DATA}", "../shared/data")
            named |= set(re.findall(r"[.][.]/shared/data/[\w.]+", configured))
        for name in (name for name in dict.fromkeys(word for word, _, _ in STAGE) if name in named):
            make = next((make for word, pattern, make in STAGE if word == name and re.search(pattern, text)), None)
            path = self.folder / name
            made_by_a_command = path.exists() and name not in self.there
            if make and make is not self.there.get(name) and not made_by_a_command:
                remove(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)
                self.there[name] = make


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
