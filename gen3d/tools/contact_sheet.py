"""The first scans of a run side by side, in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.volume import Volume
from gen3d.data.nifti import without_ending
from gen3d.tools.preview import Panel, draw
from gen3d.tools.record import patients
from gen3d.tools.sampling import OpenModel

SHEET, SHOWN = "contact-sheet.png", 8
LABELS = "labels"  # what the mask of a pair is called in files


def panels(scans: Sequence[Path]) -> list[Panel]:
    """Return the columns of scans that were written, and of masks, whose background is black."""
    columns = []
    for scan in scans[:SHOWN]:
        volume, name = reopened(scan), without_ending(scan)
        limits = (0.0, max(float(volume.voxels.max()), 1.0)) if name.endswith(f"_{LABELS}") else None
        columns.append(Panel(volume, name.replace("_", " "), synthetic=True, limits=limits))
    return columns


def contact_sheet(path: Path, panels: Sequence[Panel], count: int, model: OpenModel) -> None:
    """Draw the first scans side by side."""
    title = f"{model.name}: {count} synthetic scan{'' if count == 1 else 's'}"
    mask = np.ones(panels[0].volume.shape, dtype=bool)
    draw(path, panels, title, f"Made by {model.name} ({patients(model)}). Not for diagnosis.", mask)


def reopened(path: Path) -> Volume:
    """Read a scan of ours back; unlike a user's it may be constant, from a model that has not learnt yet."""
    import nibabel as nib

    image: Any = nib.load(path)
    return Volume(image.get_fdata(dtype=np.float32), image.affine)
