"""Where the files of a synthetic data set lie, and what makes a data set of them: nnU-Net, Decathlon, BIDS."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gen3d import __version__
from gen3d.core.error import UsageError, nearest
from gen3d.data.bids import NAMES
from gen3d.data.bids_out import VERSION
from gen3d.data.layout import titled
from gen3d.tools.record import WARNING

LAYOUTS = ("nnunet", "msd", "bids")
ENDING, DERIVED = ".nii.gz", "derivatives/labels"
OURS = ("provenance/", "run.json", "manifest.jsonl", "report.json", "report.md", "contact-sheet.png")


def check_layout(layout: str, contrasts: Sequence[str]) -> None:
    """Check that a layout can hold images of these contrasts.

    Raises:
        UsageError: There is no such layout, or it can't.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"--layout {layout}: expected one of {', '.join(LAYOUTS)}{nearest(layout, LAYOUTS)}")
    if layout == "msd" and len(contrasts) > 1:
        raise UsageError(f"--layout msd: one image a case, and this model draws {len(contrasts)}; take nnunet")
    odd = [name for name in contrasts if name not in NAMES]
    if layout == "bids" and odd:
        known = ",".join(NAMES)
        raise UsageError(f"--layout bids: BIDS has no name for '{odd[0]}'; say what it is with --channels, of {known}")


def case_name(layout: str, number: int) -> str:
    """Return what the case of a number, from 1, is called."""
    return f"sub-synth{number:06d}" if layout == "bids" else f"synth_{number:06d}"


def image_paths(layout: str, case: str, contrasts: Sequence[str]) -> list[str]:
    """Return the path of each contrast's image below the data set."""
    if layout == "bids":
        return [f"{case}/anat/{case}_{NAMES[contrast]}{ENDING}" for contrast in contrasts]
    channels = [f"_{channel:04d}" for channel in range(len(contrasts))] if layout == "nnunet" else [""]
    return [f"imagesTr/{case}{channel}{ENDING}" for channel in channels]


def label_path(layout: str, case: str) -> str:
    """Return the path of a case's mask below the data set."""
    return f"{DERIVED}/{case}/anat/{case}_dseg{ENDING}" if layout == "bids" else f"labelsTr/{case}{ENDING}"


def sidecars(layout: str, case: str, contrasts: Sequence[str]) -> dict[str, str]:
    """Return the JSON files that a layout wants beside images, by path."""
    if layout != "bids":
        return {}
    tree = {"Description": f"SYNTHETIC. {WARNING}", "Synthetic": True, "Record": f"bids::provenance/{case}.json"}
    paths = [*image_paths(layout, case, contrasts), label_path(layout, case)]
    return {path.removesuffix(ENDING) + ".json": written(tree) for path in paths}


def front(
    layout: str,
    synthetic: Sequence[str],
    real: Mapping[str, int],
    contrasts: Sequence[str],
    labels: Sequence[str],
    about: Mapping[str, Any],
) -> dict[str, str]:
    """Return the files of the data set itself, by path.

    Args:
        layout: One of LAYOUTS.
        synthetic: Its synthetic cases.
        real: Its real cases, and the fold in which each validates.
        contrasts: Of each case.
        labels: Names of 1, 2, ...
        about: The model, as sidecars tell it.
    """
    if layout == "bids":
        return bids_front(synthetic, labels, about)
    cases = [*synthetic, *real]
    words = f"{len(synthetic)} synthetic cases (synth_*) by {about['name']}, {len(real)} real ones. {WARNING}"
    tree: dict[str, Any] = {"name": "gen3d augment", "description": words, "gen3d": __version__}
    if layout == "nnunet":
        tree |= {
            "channel_names": {str(channel): titled(name) for channel, name in enumerate(contrasts)},
            "labels": {"background": 0, **{name: number for number, name in enumerate(labels, 1)}},
            "numTraining": len(cases),
            "file_ending": ENDING,
        }
    else:
        pairs = [{"image": f"./imagesTr/{case}{ENDING}", "label": f"./labelsTr/{case}{ENDING}"} for case in cases]
        tree |= {
            "tensorImageSize": "3D",
            "modality": {"0": titled(contrasts[0])},
            "labels": {"0": "background", **{str(number): name for number, name in enumerate(labels, 1)}},
            "numTraining": len(cases),
            "numTest": 0,
            "training": pairs,
            "test": [],
        }
    return {"dataset.json": written(tree), "splits_final.json": written(splits(synthetic, real))}


def splits(synthetic: Sequence[str], real: Mapping[str, int]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's folds: synthetic cases are in every training set and in no validation set."""
    folds = sorted({*real.values()}) or range(5)
    return [
        {
            "train": [*(case for case, own in real.items() if own != fold), *synthetic],
            "val": [case for case, own in real.items() if own == fold],
        }
        for fold in folds
    ]


def bids_front(synthetic: Sequence[str], labels: Sequence[str], about: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of a BIDS data set and of the masks derived from it."""
    made_by = [
        {"Name": "gen3d", "Version": __version__, "Description": WARNING},
        {"Name": str(about["name"]), "Version": f"weights SHA-256 {about['weights_sha256']}", "Description": "model"},
    ]
    tree = {"Name": "Synthetic cases, made by gen3d", "BIDSVersion": VERSION, "GeneratedBy": made_by}
    rows = [f"{case}\ttrue\ttraining\n" for case in synthetic]
    names = [f"{number}\t{name}\n" for number, name in enumerate(labels, 1)]
    return {
        "dataset_description.json": written({**tree, "DatasetType": "raw"}),
        f"{DERIVED}/dataset_description.json": written({**tree, "DatasetType": "derivative"}),
        f"{DERIVED}/dseg.tsv": "".join(["index\tname\n", *names]),
        "participants.tsv": "".join(["participant_id\tsynthetic\tuse\n", *rows]),
        "participants.json": written({"use": {"Description": "synthetic cases are for training, never for tests"}}),
        "README.md": f"# Synthetic cases\n\n{WARNING}\n\nReport: report.md; one record a case: provenance/.\n",
        ".bidsignore": "".join(f"{name}\n" for name in OURS),
    }


def written(tree: Any) -> str:
    """Return JSON with a final newline."""
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
