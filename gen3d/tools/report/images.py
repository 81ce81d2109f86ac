"""What each written image is to a reader: what was given, what was made, how sure it is, what differs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.layout import titled
from gen3d.data.nifti import without_ending

Tree = Mapping[str, Any]
Role = Literal["input", "output", "reference", "uncertainty", "difference"]
Kind = Literal["image", "mask", "probability", "std", "difference"]
ROLES: tuple[Role, ...] = ("input", "output", "reference", "uncertainty", "difference")
KINDS: tuple[Kind, ...] = ("image", "mask", "probability", "std", "difference")
UNSURE = ("standard deviation", "entropy")


@dataclass(frozen=True, eq=False)
class Image:
    """An image and what it is.

    Attributes:
        title: In a few words.
        role: What it is to a reader.
        kind: How it is painted.
        synthetic: Whether a model had a hand in it.
        source: Its file, or the volume itself.
        group: What samples of one thing, or masks of several raters, share.
        record: What its sidecar says.
    """

    title: str
    role: Role
    kind: Kind
    synthetic: bool
    source: Path | Volume
    group: str = ""
    record: Tree = field(default_factory=dict)

    def volume(self) -> Volume:
        """Return its voxels, as they are in the file.

        Raises:
            UserError: The file can't be read, or is no 3D image.
        """
        return self.source if isinstance(self.source, Volume) else opened(self.source)


def opened(path: Path) -> Volume:
    """Read a scan or a mask; unlike a scan that someone gives a model, it may be constant.

    Raises:
        UserError: It can't be read, or is no 3D image.
    """
    try:
        image: Any = nib.load(path)
        voxels = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel raises whatever a damaged file makes it raise
        said = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: can't be read ({said}); it is damaged, make it again") from None
    shape = voxels.shape + (1,) * (3 - voxels.ndim)
    if any(n != 1 for n in shape[3:]) or voxels.dtype.kind not in "iufb":
        raise UserError(f"{path}: shape {voxels.shape} of {voxels.dtype}; expected a 3D image of numbers")
    voxels = voxels.reshape(shape[:3])
    whole = voxels.dtype.kind in "iub"
    voxels = voxels.astype(np.int32) if whole else np.nan_to_num(voxels.astype(np.float32))
    return Volume(voxels, np.array(image.affine, dtype=np.float64), None, path)


def written(path: Path, record: Tree) -> Image:
    """Return what a sidecar says that its image is."""
    said = str(record.get("kind", ""))
    role, kind = role_of(said, record)
    title = title_of(path, said, record)
    number = without_ending(path).rpartition("_sample-")[2].partition("_")[0]
    if said != "sample" or not number.isdigit():
        return Image(title, role, kind, True, path, "", record)
    of = record.get("at") or record.get("segmented") or titled(str(record.get("contrast")))
    grid = f", on the grid of {record['grid']['of']}" if "grid" in record else ""
    return Image(f"sample {int(number)}", role, kind, True, path, f"samples of {of}{grid}", record)


def role_of(said: str, record: Tree) -> tuple[Role, Kind]:
    """Return what an image is by the ``kind`` of its record."""
    if said.startswith(UNSURE):
        return "uncertainty", "std"
    if " - " in said:
        return "difference", "difference"
    if said == "probability":
        return "uncertainty", "probability"
    masks = "segmented" in record or record.get("contrast") == "labels"
    return "output", "mask" if masks else "image"


def title_of(path: Path, said: str, record: Tree) -> str:
    """Return what to call an image: contrast or structure, when, and what kind it is."""
    if "segmented" in record:
        return f"{record['label']}: {said}" if "label" in record else said
    if "forecast" in record:
        return f"forecast {record.get('at', '')}: {said}"
    if "kernel" in record:
        return f"{record['kernel']}: {said}"
    if "against_given_image" in record:
        return "reconstructed"
    if "sources" not in record:
        return without_ending(path).replace("_", " ")
    grid = f", on the grid of {record['grid']['of']}" if "grid" in record else ""
    return f"{titled(str(record.get('contrast', path.name)))}, {said or 'image'}{grid}"
