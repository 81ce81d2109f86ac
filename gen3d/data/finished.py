"""What ``gen3d synthesize`` finished of a study, and the files that an export makes of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.data.alignment import load_transform
from gen3d.data.nifti import without_ending
from gen3d.data.study import Study


@dataclass(frozen=True)
class Synthetic:
    """A synthetic image.

    Attributes:
        path: Its NIfTI file.
        facts: What its sidecar says.
    """

    path: Path
    facts: Mapping[str, Any]

    @property
    def contrast(self) -> str:
        """What it shows."""
        return str(self.facts["contrast"])

    @property
    def label(self) -> str:
        """Empty for the image of its contrast; "std" for the deviation of the samples, "sample-01" for one of them."""
        if self.facts.get("kind") == "standard deviation of samples":
            return "std"
        return f"sample-{int(self.facts['sample']):02d}" if "sample" in self.facts else ""

    @property
    def model(self) -> Mapping[str, Any]:
        """What identifies the model: ``name``, ``weights_sha256``."""
        return {key: self.facts.get("model", {}).get(key, "") for key in ("name", "weights_sha256")}


@dataclass(frozen=True)
class Finished:
    """A study and what was made of it.

    Attributes:
        study: The originals.
        images: All synthetic images, in the order of their sidecars' names.
        made: The contrasts that the last run made; other images are of runs before it.
    """

    study: Study
    images: tuple[Synthetic, ...]
    made: tuple[str, ...] = ()

    @cached_property
    def main(self) -> Mapping[str, Synthetic]:
        """Contrast to its synthetic image, deviations and single samples left out."""
        return {image.contrast: image for image in self.images if not image.label}

    def sources(self, image: Synthetic) -> list[str]:
        """Return the contrasts that an image was made from, in the order of the study."""
        names, hidden = image.facts.get("sources", ()), image.facts.get("hidden", ())
        return [c for c, path in self.study.files.items() if path.name in names and c not in hidden]

    def transform(self, image: Synthetic, contrast: str) -> np.ndarray | None:
        """Return what brought an original into register, (4, 4) from the image's world to its own, if it was moved.

        Raises:
            UserError: The file is lost or damaged.
        """
        whole = Path(self.study.naming.of(contrast))
        start = f"{without_ending(whole)}_to_"
        names = [str(name) for name in image.facts.get("transforms", ()) if str(name).startswith(start)]
        return load_transform(image.path.with_name(names[0])) if names else None


@dataclass(frozen=True)
class Output:
    """A file of an export, or a folder of files.

    Attributes:
        path: Where it goes, below the export's folder, parts joined by "/".
        write: Writes it there.
        facts: What the list of all files says about it.
        synthetic: Whether it was computed; an original was measured.
    """

    path: str
    write: Callable[[Path], object]
    facts: Mapping[str, Any]
    synthetic: bool

    def written(self) -> "Output":
        """Return what is left to tell of it: without the voxels that were kept to be written."""
        return replace(self, write=lambda path: None)


def told(case: Finished, image: Synthetic) -> dict[str, Any]:
    """Return what the list of all files says about a synthetic image."""
    facts = {key: image.facts.get(key) for key in ("contrast", "kind", "mode", "seed")}
    warned = {"warnings": list(image.facts["warnings"])} if image.facts.get("warnings") else {}
    return {"case": case.study.name, **facts, **warned, "model": dict(image.model)}


def restricted(study: Study, contrasts: Iterable[str]) -> Study:
    """Return a study with these contrasts only."""
    wanted = set(contrasts)
    files = {name: path for name, path in study.files.items() if name in wanted}
    return replace(study, files=files, series={name: paths for name, paths in study.series.items() if name in wanted})


def unique(name: str, taken: set[str], joint: str = "-") -> str:
    """Return a name, numbered where it is taken ("x", "x-2"; upper and lower case count as one), and take it."""
    free, count = name, 1
    while free.casefold() in taken:
        count += 1
        free = f"{name}{joint}{count}"
    taken.add(free.casefold())
    return free
