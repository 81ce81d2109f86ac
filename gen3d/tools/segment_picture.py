"""The picture of a segmentation: the image, the contours of all samples on it, and where they disagree."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gen3d import __version__
from gen3d.core.volume import Volume
from gen3d.tools.preview import (
    BACKGROUND,
    FAINT,
    INK,
    PLANES,
    VIEW,
    Panel,
    View,
    head,
    layout,
    limits,
    show,
    view_of,
)
from gen3d.tools.record import patients
from gen3d.tools.sampling import OpenModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#39d5ff", "#7ee787", "#ff7b72", "#d2a8ff", "#f2cc60", "#f778ba")
MARGIN_MM = 12.0  # shown around the masks


def contours(
    path: Path,
    model: OpenModel,
    name: str,
    image: Volume,
    masks: Sequence[np.ndarray],
    entropy: np.ndarray,
    labels: Sequence[str],
) -> None:
    """Write a PNG: the image, the image with each mask's outline, the entropy; three planes, of a slice one.

    Args:
        path: Of the PNG.
        model: What drew the masks.
        name: Of the case.
        image: Its grid is that of all arrays.
        masks: Labels, (X, Y, Z) each.
        entropy: (X, Y, Z).
        labels: Names of the labels, from 1.
    """
    drawn = np.any([mask > 0 for mask in masks], axis=0)
    view = view_of(around(drawn, image.spacing), drawn, image.affine)
    turned = [Volume(mask, image.affine).reoriented(VIEW).voxels for mask in masks]
    planes = [plane for plane in range(3) if all(n > 1 for n in np.delete(turned[0].shape, 2 - plane))]
    many = f"{len(masks)} samples" if len(masks) > 1 else "the mask"
    top = max(float(entropy.max()), 1e-3)
    panels = [
        Panel(image, "image"),
        Panel(image, f"outlines of\n{many}", synthetic=True),
        Panel(Volume(entropy, image.affine), "entropy, nats", synthetic=True, kind="std", limits=(0.0, top)),
    ]
    figure, cells = layout(len(panels), view, 3, planes)
    for column, panel in enumerate(panels):
        voxels = panel.volume.reoriented(VIEW).voxels
        low, high = panel.limits or limits(voxels, panel.kind)
        for row, plane in enumerate(planes):
            show(cells[row][column], voxels, plane, view, panel, low, high)
            if column == 1:
                outline(cells[row][column], turned, plane, view, len(labels))
        head(cells[0][column], panel, low, high)
    for row, plane in enumerate(planes):
        cells[row][0].set_ylabel(PLANES[plane], color=FAINT, fontsize=9, labelpad=12)
    title = f"{name}: {', '.join(labels[:3])}{' ...' if len(labels) > 3 else ''}"
    figure.suptitle(title, color=INK, fontsize=13, x=0.02, y=0.985, ha="left", va="top")
    for number, label in enumerate(labels[: len(COLOURS)]):
        place = 0.02 + 0.16 * number
        figure.text(place, 0.012, f"— {label}", color=COLOURS[number], fontsize=8, ha="left", va="bottom")
    note = f"\nFramed columns are made by {model.name} ({patients(model)}). Not for diagnosis.\nR: the patient's right."
    figure.text(0.02, 0.012 + 0.2 / figure.get_figheight(), note.strip(), color=FAINT, fontsize=7.5, va="bottom")
    about = {"Software": f"gen3d {__version__}", "Title": title, "Description": "masks by a model; not for diagnosis"}
    figure.savefig(path, dpi=110, facecolor=BACKGROUND, metadata=about, format="png")


def around(drawn: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the box around a mask, wider by the margin; all where nothing is drawn."""
    if not drawn.any():
        return np.ones_like(drawn)
    box = np.zeros_like(drawn)
    spans = []
    for at, mm, n in zip(np.nonzero(drawn), spacing, drawn.shape, strict=True):
        more = round(MARGIN_MM / mm)
        spans.append(slice(max(0, int(at.min()) - more), min(n, int(at.max()) + 1 + more)))
    box[tuple(spans)] = True
    return box


def outline(cell: "Axes", masks: Sequence[np.ndarray], plane: int, view: View, labels: int) -> None:
    """Draw the outline of each label of each mask, turned to ``VIEW``, in one plane."""
    across = 2 - plane
    columns_mm, rows_mm = (mm for axis, mm in enumerate(view.spacing) if axis != across)
    alpha = max(0.25, len(masks) ** -0.5)
    for mask in masks:
        cut = mask[tuple(view.cut[axis] if axis == across else view.box[axis] for axis in range(3))].T
        rows, columns = ((np.arange(n) + 0.5) * mm for n, mm in zip(cut.shape, (rows_mm, columns_mm), strict=True))
        for number in range(1, labels + 1):
            inside = (cut == number).astype(float)
            if inside.any() and not inside.all():
                colour = COLOURS[(number - 1) % len(COLOURS)]
                cell.contour(columns, rows, inside, levels=[0.5], colors=[colour], linewidths=0.9, alpha=alpha)
