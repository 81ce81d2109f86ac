"""The contact sheet of a synthetic data set: its first cases with the outlines of their labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d import __version__
from gen3d.core.volume import Volume
from gen3d.data.nifti import read_labels
from gen3d.tools.augment.layouts import image_paths, label_path
from gen3d.tools.contact_sheet import reopened
from gen3d.tools.preview import BACKGROUND, FAINT, INK, VIEW, Panel, head, layout, limits, show, view_of
from gen3d.tools.segment_picture import COLOURS, around, outline

SHOWN = 8


def contact_sheet(path: Path, out: Path, cases: Sequence[str], run: Mapping[str, Any]) -> None:
    """Write a PNG: one column a case, three planes through the middle of its labels.

    Args:
        path: Of the PNG.
        out: The data set's folder.
        cases: Accepted ones; the first are shown.
        run: What run.json holds.
    """
    first = cases[:SHOWN]
    images = [reopened(out / image_paths(run["layout"], case, run["contrasts"])[0]) for case in first]
    masks = [read_labels(out / label_path(run["layout"], case)).voxels for case in first]
    views = [
        view_of(around(np.ones_like(mask > 0), image.spacing), mask > 0, image.affine)
        for mask, image in zip(masks, images, strict=True)
    ]
    figure, cells = layout(len(first), views[0], 3)
    for column, (case, image, mask, view) in enumerate(zip(first, images, masks, views, strict=True)):
        voxels = image.reoriented(VIEW).voxels
        panel = Panel(image, case.replace("_", " "), synthetic=True)
        low, high = limits(voxels, panel.kind)
        turned = Volume(mask, image.affine).reoriented(VIEW).voxels
        for plane in range(3):
            show(cells[plane][column], voxels, plane, view, panel, low, high)
            outline(cells[plane][column], [turned], plane, view, len(run["labels"]))
        head(cells[0][column], panel, low, high)
    title = f"{run['model']['name']}: {len(cases)} synthetic case{'' if len(cases) == 1 else 's'}"
    figure.suptitle(title, color=INK, fontsize=13, x=0.02, y=0.985, ha="left", va="top")
    for number, label in enumerate(run["labels"][: len(COLOURS)]):
        figure.text(0.02 + 0.16 * number, 0.012, f"— {label}", color=COLOURS[number], fontsize=8, va="bottom")
    words = f"Made by {run['model']['name']} ({run['patients']}). Not for diagnosis.\nR: the patient's right."
    figure.text(0.02, 0.012 + 0.2 / figure.get_figheight(), words, color=FAINT, fontsize=7.5, va="bottom")
    about = {"Software": f"gen3d {__version__}", "Title": title, "Description": "synthetic; not for diagnosis"}
    figure.savefig(path, dpi=110, facecolor=BACKGROUND, metadata=about, format="png")
