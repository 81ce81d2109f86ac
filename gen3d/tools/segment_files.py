"""From masks of one image to files: NIfTI in the image's geometry, sidecars, volumes, modes, a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.volume import Placement, Volume
from gen3d.data.nifti import write
from gen3d.data.study import as_name
from gen3d.tools import segment_picture
from gen3d.tools.delivery import sidecars
from gen3d.tools.forecast_scores import drawn_between, mean_of, spread
from gen3d.tools.record import description, sidecar, write_record
from gen3d.tools.request import sample_suffix
from gen3d.tools.sampling import OpenModel
from gen3d.tools.segment_masks import Masks, modes

NIFTI = ".nii.gz"
WARNING = "Computed by a model, drawn by nobody; not for diagnosis."


@dataclass(frozen=True, eq=False)
class Job:
    """What is written of one image.

    Attributes:
        name: Of the case.
        image: On whose grid everything is written.
        placement: The way from the model's arrays to that grid.
        labels: Names of the structures.
        samples: How many masks are drawn; 0 for one call's answer.
        facts: What every sidecar says.
    """

    name: str
    image: Volume
    placement: Placement
    labels: tuple[str, ...]
    samples: int
    facts: Mapping[str, Any]

    @property
    def preview(self) -> str:
        """Name of the picture."""
        return f"{self.name}_preview.png"

    def probabilities(self) -> list[str]:
        """Return what ends the names of the labels' probabilities."""
        if len(self.labels) == 1:
            return ["_probability"]
        return [f"_probability_{as_name(label.replace(' ', '_'))}" for label in self.labels]

    def names(self) -> list[str]:
        """Return the names of all files that will be written."""
        std = ["_std"] if self.samples > 1 else []
        samples = [sample_suffix(index) for index in range(self.samples)]
        images = [f"{self.name}{kind}{NIFTI}" for kind in ("_seg", *self.probabilities(), "_entropy", *std, *samples)]
        return [*images, *(sidecar(Path(image)).name for image in images), self.preview]


def write_masks(folder: Path, model: OpenModel, job: Job, masks: Masks) -> dict[str, Any]:
    """Write everything that is told of one image and return the volumes and modes."""
    found = measured(job, masks)
    samples = [job.placement.place(sample) for sample in masks.samples]
    likely, entropy = job.placement.place(masks.likely), job.placement.place(masks.entropy.numpy())
    kind = f"most likely label, by {job.samples} samples" if job.samples else "most likely label, by one call"
    images: dict[str, tuple[np.ndarray, dict[str, Any]]] = {"_seg": (likely, {"kind": kind, **found})}
    for suffix, label, probability in zip(job.probabilities(), job.labels, masks.probability[1:], strict=True):
        images[suffix] = (job.placement.place(probability.numpy()), {"kind": "probability", "label": label})
    images["_entropy"] = (entropy, {"kind": "entropy of the probabilities, nats"})
    if masks.std is not None:
        std = job.placement.place(masks.std.numpy())
        images["_std"] = (std, {"kind": "standard deviation of the probabilities over samples"})
    for index, sample in enumerate(samples):
        images[sample_suffix(index)] = (sample, {"kind": "sample", "volumes_ml": volumes(job, sample)})
    numbers = {str(number): label for number, label in enumerate(job.labels, 1)}
    for suffix, (voxels, facts) in images.items():
        path = folder / f"{job.name}{suffix}{NIFTI}"
        title = description(model, f"mask{suffix.replace('_', ' ')}"[:30])
        write(Volume(voxels, job.image.affine), path, like=job.image, description=title)
        write_record(path, model, {"warning": WARNING, **job.facts, **facts, "labels": numbers, "preview": job.preview})
    segment_picture.contours(folder / job.preview, model, job.name, job.image, samples or [likely], entropy, job.labels)
    return {**found, "files": sorted(f"{job.name}{suffix}{NIFTI}" for suffix in images)}


def measured(job: Job, masks: Masks) -> dict[str, Any]:
    """Return the volumes in mL, of several samples with their spread, and the distinct modes."""
    each = [volumes(job, sample) for sample in masks.samples]
    told: dict[str, Any] = {"most_likely": volumes(job, masks.likely)}
    if len(each) > 1:
        told |= {"samples_mean": mean_of(each), **spread(each)}
    if not each:
        return {"volumes_ml": told}
    groups = modes(masks.samples, len(job.labels))
    return {
        "volumes_ml": told,
        "modes": [
            {
                "frequency": round(len(group) / len(each), 4),
                "samples": sorted(index + 1 for index in group),
                "typical": f"{job.name}{sample_suffix(group[0])}{NIFTI}",
                "volumes_ml": mean_of([each[index] for index in group]),
            }
            for group in groups
        ],
    }


def volumes(job: Job, labels: np.ndarray) -> dict[str, float]:
    """Return each structure's volume in mL."""
    voxel_ml = abs(float(np.linalg.det(job.image.affine[:3, :3]))) / 1000
    counts = np.bincount(labels.ravel(), minlength=len(job.labels) + 1)
    return {name: round(int(counts[number]) * voxel_ml, 4) for number, name in enumerate(job.labels, 1)}


def remove_stale(folder: Path, job: Job) -> None:
    """Remove what an earlier run made of the same image and this one did not, such as old samples."""
    now = set(job.names())
    for path, tree in sidecars(folder).items():
        if tree.get("segmented") == job.name and str(tree.get("file")) not in now:
            (folder / str(tree["file"])).unlink(missing_ok=True)
            path.unlink()


def summary(row: Mapping[str, Any]) -> list[str]:
    """Return what is printed of a case."""
    if row["status"] == "checked":
        drawn = f"{row['samples']} samples" if row["samples"] else "one call"
        return [f"{row['case']}: would be segmented by {drawn}"]
    lines = [f"{row['case']}:"]
    for name, ml in row["volumes_ml"]["most_likely"].items():
        drawn = drawn_between(row["volumes_ml"], name, row["samples"])
        lines.append(f"  {name}: {ml:.3f} mL{f' ({drawn})' if drawn else ''}")
    if "modes" in row:
        shares = ", ".join(f"{mode['frequency']:.0%}" for mode in row["modes"][:5])
        more = ", ..." if len(row["modes"]) > 5 else ""
        lines.append(f"  {len(row['modes'])} distinct among {row['samples']} samples: {shares}{more}")
    return lines
