"""Synthetic images as a derivative dataset of BIDS: sub-01/[ses-1/]anat/sub-01_desc-synth_FLAIR.nii.gz."""

import json
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gen3d import __version__
from gen3d.core.error import UserError
from gen3d.data.bids import NAMES
from gen3d.data.finished import Finished, Output, Synthetic, told, unique
from gen3d.data.nifti import read, write
from gen3d.data.skull import is_stripped
from gen3d.data.study import Study

VERSION = "1.10.0"
RAW = "raw"  # what names the originals' dataset in URIs
_OF_THE_FOLDER = ("file", "preview", "transforms", "sources")  # what a sidecar says of files that are not exported


def visit_names(studies: Sequence[Study], root: Path | None) -> dict[Path, tuple[str, ...]]:
    """Return the labels of each study by its place: ("sub-01",) or ("sub-01", "ses-1").

    Those of a BIDS dataset are kept. Others are made of letters and digits, no two alike; several studies of one
    patient are sessions of one subject.

    Args:
        studies: All of the archive, so that a name does not depend on which are exported.
        root: The folder of the BIDS dataset that they are from, if it is one.
    """
    if root is not None:
        return {study.place: study.place.parts for study in studies}
    visits = Counter(study.patient for study in studies)
    subjects: dict[tuple[str, bool], str] = {}
    sessions: dict[str, set[str]] = defaultdict(set)
    taken: set[str] = set()
    found: dict[Path, tuple[str, ...]] = {}
    for study in sorted(studies, key=lambda s: str(s.place)):
        several = visits[study.patient] > 1
        whom = study.patient if several else str(study.place)
        if (whom, several) not in subjects:
            subjects[whom, several] = unique(_label(whom), taken, "x")
        subject = f"sub-{subjects[whom, several]}"
        session = unique(_label(study.name.removeprefix(whom)), sessions[whom], "x") if several else ""
        found[study.place] = (subject, f"ses-{session}") if several else (subject,)
    return found


def outputs(case: Finished, visit: Sequence[str], source: Path, root: Path | None) -> tuple[list[Output], list[str]]:
    """Return a case's images with their sidecars, and notes on them.

    Args:
        case: What was made.
        visit: Its labels.
        source: What the archive's files are named relative to.
        root: The folder of the BIDS dataset that they are from, if it is one.

    Raises:
        UserError: BIDS has no name for a contrast.
    """
    found = []
    stripped = {contrast: is_stripped(read(image.path)) for contrast, image in case.main.items()}
    for image in case.images:
        if image.contrast not in NAMES:
            raise UserError(f"{image.path}: BIDS has no name for '{image.contrast}'; expected {', '.join(NAMES)}")
        agent, _, suffix = NAMES[image.contrast].rpartition("_")
        desc = "desc-synth" + image.label.replace("-", "")
        stem = "_".join(filter(None, (*visit, agent, desc, suffix)))
        base = "/".join((*visit, "anat", stem))
        files = [case.study.files[contrast] for contrast in case.sources(image)]
        tree = {
            "Description": f"SYNTHETIC {image.contrast}, {image.facts.get('kind')}: {image.facts.get('warning')}",
            "Sources": [_uri(path, source, root) for path in files],
            **({"SkullStripped": stripped[image.contrast]} if image.contrast in stripped else {}),
            **{key: value for key, value in image.facts.items() if key not in _OF_THE_FOLDER},
            "file": f"{stem}.nii.gz",
        }
        found.append(Output(f"{base}.nii.gz", partial(_copy, image), told(case, image), synthetic=True))
        found.append(Output(f"{base}.json", _text(tree), {"case": case.study.name, "of": f"{stem}.nii.gz"}, False))
    return found, []


def front(models: Sequence[Mapping[str, Any]], warning: str, raw: str, root: Path | None) -> dict[str, str]:
    """Return the files of the dataset itself, by path.

    Args:
        models: What identifies each that made an image.
        warning: What must be read before an image is used.
        raw: Where the originals are, relative to the dataset.
        root: The folder of the BIDS dataset that they are from, if it is one.
    """
    made_by = [
        {"Name": f"{model['name']}", "Version": f"weights SHA-256 {model['weights_sha256']}", "Description": "model"}
        for model in models
    ]
    tree = {
        "Name": f"Synthetic contrasts of {root.resolve().name if root else 'an archive'}, made by gen3d",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "gen3d", "Version": __version__, "Description": warning}, *made_by],
        "SourceDatasets": [_source_dataset(root, raw)],
        **({"DatasetLinks": {RAW: raw}} if root else {}),
    }
    names = ", ".join(str(model["name"]) for model in models)
    words = (
        f"# Synthetic contrasts\n\n{warning}\n\nMade by gen3d {__version__} with {names} from the scans in {raw}. "
        "`desc-synth` is the image to use; where samples were drawn it is their mean, `desc-synthstd` their standard "
        "deviation, and `desc-synthsample01` the first of them. The JSON file beside each image tells the model, its "
        "weights, the seed and the sources; `synthetic.json` lists all images.\n"
    )
    return {
        "dataset_description.json": json.dumps(tree, indent=2) + "\n",
        "README.md": words,
        ".bidsignore": "synthetic.json\n",
    }


def _source_dataset(root: Path | None, raw: str) -> dict[str, str]:
    try:
        told = json.loads((root / "dataset_description.json").read_text()) if root else {}
    except (OSError, ValueError):
        told = {}
    doi = str(told.get("DatasetDOI", "")) if isinstance(told, dict) else ""
    return {"URL": raw, **({"DOI": doi} if doi else {})}


def _uri(path: Path, source: Path, root: Path | None) -> str:
    below = Path(os.path.relpath(path, root or source))
    if below.parts[:1] == ("..",):
        return path.name
    return f"bids:{RAW}:{below.as_posix()}" if root else below.as_posix()


def _copy(image: Synthetic, path: Path) -> None:
    if image.path.name.endswith(".gz"):
        shutil.copyfile(image.path, path)
    else:
        write(read(image.path), path)


def _text(tree: Mapping[str, Any]) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(tree, indent=2) + "\n")


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "", text) or "1"
