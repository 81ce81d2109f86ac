"""Whether a patient's visits lie in register: on one grid, without a visible shift; and how they are brought there."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Case
from gen3d.data.alignment import align
from gen3d.data.visits import Patient, Visit

APART_VOXELS = 1.5  # a shift beyond this is told
ALIKE = 0.2
MOST_VOXELS = 4e6  # larger volumes are looked at every second voxel, or third
FARTHEST = 0.25  # of the field of view, at most, is looked for


class Shift(NamedTuple):
    """How far a visit seems to lie from another one.

    Attributes:
        visit: Its name.
        reference: The other's.
        voxels: Along the array's axes.
        mm: Its length.
    """

    visit: str
    reference: str
    voxels: tuple[float, float, float]
    mm: float

    @property
    def words(self) -> str:
        """One line for the user."""
        far = float(np.linalg.norm(self.voxels))
        return (
            f"{self.visit} seems to lie {far:.1f} voxels ({self.mm:.1f} mm) off {self.reference}: a forecast may take "
            "this for change; look at both, and register them with --align"
        )


def check_one_grid(patient: Patient) -> None:
    """Check that all visits lie on the grid of the last one.

    Raises:
        UserError: if one does not; it names both files and in what they differ.
    """
    last = patient.visits[-1]
    for visit in patient.visits[:-1]:
        if visit.volume.on_grid_of(last.volume):
            continue
        shapes = visit.volume.shape, last.volume.shape
        what = f"shape, {shapes[0]} against {shapes[1]}" if shapes[0] != shapes[1] else _affines(visit, last)
        raise UserError(f"{visit.words} and {last.words} differ in {what}; expected one grid; add --align")


def _affines(visit: Visit, last: Visit) -> str:
    own, other = visit.volume.affine, last.volume.affine
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in last.volume.shape))], dtype=float)
    farthest = float(np.linalg.norm(corners @ (own - other).T, axis=1).max())
    spacings = (" x ".join(f"{mm:.3g}" for mm in v.volume.spacing) for v in (visit, last))
    return f"affine, by up to {farthest:.3g} mm (voxels of {' and '.join(spacings)} mm)"


def shifts(patient: Patient, to: str | None = None) -> list[Shift]:
    """Return the visits that are probably shifted by more than ``APART_VOXELS`` against one of them, the last one.

    Args:
        patient: Its visits lie on one grid.
        to: Name of the visit that the others are held against.
    """
    by_name = {visit.name: visit.volume for visit in patient.visits}
    reference = to or patient.visits[-1].name
    found = []
    for name, volume in by_name.items():
        if name == reference:
            continue
        x, y, z = shift_between(by_name[reference].voxels, volume.voxels)
        if np.linalg.norm((x, y, z)) > APART_VOXELS:
            mm = float(np.linalg.norm(np.array((x, y, z)) * volume.spacing))
            found.append(Shift(name, reference, (x, y, z), mm))
    return found


def shift_between(fixed: np.ndarray, moving: np.ndarray) -> tuple[float, float, float]:
    r"""Return by how many voxels ``moving`` lies behind ``fixed``, by the largest cross-correlation of their edges.

    $\mathrm{argmax}_s \sum_v f(v)\,m(v + s)$ over shifts up to a quarter of each axis, to a fraction of a voxel by a
    parabola; f and m are gradient magnitudes, cut at their 99th percentile, without their mean, and 0 beyond the field
    of view.
    Where these correlate by no more than ``ALIKE`` anywhere, nothing can be said, and the answer is 0. A turn about the
    middle is not seen.

    Args:
        fixed: (X, Y, Z).
        moving: (X, Y, Z) of the same shape.
    """
    step = int(np.ceil((fixed.size / MOST_VOXELS) ** (1 / 3)))
    fixed, moving = (v[::step, ::step, ::step] for v in (fixed, moving))
    reach = [max(1, int(n * FARTHEST)) if n > 1 else 0 for n in fixed.shape]
    shape = [n + r for n, r in zip(fixed.shape, reach, strict=True)]  # zeros beyond: no face meets the opposite one
    edges = [_edges(v) for v in (fixed, moving)]
    spectra = [np.fft.rfftn(v, shape, axes=(0, 1, 2)) for v in edges]
    score = np.fft.irfftn(spectra[0].conj() * spectra[1], shape, axes=(0, 1, 2))
    around = [np.arange(-r, r + 1) for r in reach]
    window = score[np.ix_(*around)]
    if window.max() <= ALIKE * float(np.linalg.norm(edges[0])) * float(np.linalg.norm(edges[1])):
        return 0.0, 0.0, 0.0
    peak = np.unravel_index(int(window.argmax()), window.shape)
    parts = [step * (float(around[axis][at]) + _fraction(window, peak, axis)) for axis, at in enumerate(peak)]
    return parts[0], parts[1], parts[2]


def _edges(voxels: np.ndarray) -> np.ndarray:
    parts = [np.gradient(voxels, axis=axis) for axis, n in enumerate(voxels.shape) if n > 1]
    size = np.sqrt(sum(part**2 for part in parts))
    size = np.minimum(size, np.percentile(size, 99))
    edges: np.ndarray = (size - size.mean()).astype(np.float32)
    return edges


def _fraction(window: np.ndarray, peak: tuple[np.intp, ...], axis: int) -> float:
    row = window[tuple(slice(None) if a == axis else at for a, at in enumerate(peak))]
    at = int(peak[axis])
    if not 0 < at < len(row) - 1:
        return 0.0
    left, middle, right = (float(v) for v in row[at - 1 : at + 2])
    bend = left - 2 * middle + right
    return 0.0 if bend >= 0 else 0.5 * (left - right) / bend


def aligned(patient: Patient, to: str | None = None) -> tuple[Patient, Mapping[str, float]]:
    """Move every visit rigidly to one of them, onto its grid; one that lies there already stays, bit for bit.

    Args:
        patient: Its visits may lie on different grids.
        to: Name of the visit that stays; by default the last one.

    Returns:
        The patient, and by how many mm each visit was moved at most inside the head or body.

    Raises:
        UserError: if two visits can't be brought together.
        ModuleNotFoundError: if SimpleITK is not installed.
    """
    reference = to or patient.visits[-1].name
    found = align(Case(patient.name, {visit.name: visit.volume for visit in patient.visits}), reference)
    visits = tuple(replace(visit, volume=found.case.volumes[visit.name]) for visit in patient.visits)
    return replace(patient, visits=visits), found.moved_mm
