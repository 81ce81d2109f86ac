"""Brains that nobody has: the MNI152 template's tissues, deformed anew for each subject, with lesions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Triple

_TEMPLATE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_SPREAD = 0.3326  # standard deviation of a cubic B-spline of unit normal coefficients, averaged over positions


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A subject's tissues.

    Attributes:
        brain: (X, Y, Z) bool.
        fractions: Tissue name to its share of each voxel in the brain, (N,) float32; they sum to 1.
        detail: (N,) local change of log T1 that the template's T1 image shows beyond its three tissues.
        labels: (X, Y, Z) int16. Tumours: 1 necrosis, 2 oedema, 3 enhancing rim, as in BraTS 2023. Plaques: 1.
    """

    brain: np.ndarray
    fractions: Mapping[str, np.ndarray]
    detail: np.ndarray
    labels: np.ndarray


def smooth_field(rng: np.random.Generator, shape: Triple, spacing_mm: float, knots_mm: float) -> np.ndarray:
    """Draw a smooth field (X, Y, Z) of about unit variance: a cubic B-spline with normal coefficients."""
    bases = [_spline_basis(n, spacing_mm / knots_mm, rng.random()) for n in shape]
    field = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32) / np.float32(_SPREAD)
    for basis in reversed(bases):  # each turn contracts the last axis of coefficients and puts the voxels in front
        field = np.tensordot(basis, field, axes=(1, 2))
    return field


def _spline_basis(length: int, step: float, phase: float) -> np.ndarray:
    position = phase + step * np.arange(length)
    knot = position.astype(int)
    u = position - knot
    weights = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    basis = np.zeros((length, int(knot[-1]) + 4), dtype=np.float32)
    for i, weight in enumerate(weights):
        basis[np.arange(length), knot + i] = weight / 6
    return basis


@cache
def template() -> np.ndarray:
    """Return MNI152 (T1, grey, white) from the files in nilearn's wheel: (3, 197, 233, 189) float32 in 0..1, RAS, 1 mm.

    Raises:
        UserError: if nilearn is not installed.
    """
    import nibabel as nib

    spec = find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("phantoms need the brain template inside the package nilearn; install gen3d[phantom]")
    folder = Path(spec.submodule_search_locations[0], "datasets", "data")
    images = [nib.load(folder / _TEMPLATE.format(kind)) for kind in ("t1", "gm", "wm")]
    return np.stack([np.asarray(image.dataobj, dtype=np.float32) / 255 for image in images])


def anatomy(rng: np.random.Generator, shape: Triple, spacing_mm: float, lesion: str) -> Anatomy:
    """Draw a subject, axes LPS, the brain in the middle; ``lesion`` is "tumour", "plaques" or "none"."""
    t1, grey, white = _deformed(rng, shape, spacing_mm)
    brain = _largest(t1 > 0.2)
    inside = [image[brain] for image in (grey, white)]
    csf = np.clip(1 - inside[0] - inside[1], 0, 1)
    detail = _detail(t1[brain], np.stack([*inside, csf]))
    shares = _sharpened(rng, np.stack([*inside, csf]), brain, spacing_mm)
    fractions = dict(zip(("grey", "white", "csf"), shares, strict=True))
    _add_vessels(rng, fractions, brain, spacing_mm)
    labels = np.zeros(shape, dtype=np.int16)
    if lesion == "tumour":
        _add_tumour(rng, fractions, brain, labels, spacing_mm)
    elif lesion == "plaques":
        _add_plaques(rng, fractions, brain, labels, spacing_mm)
    return Anatomy(brain, fractions, detail, labels)


def _deformed(rng: np.random.Generator, shape: Triple, spacing_mm: float) -> list[np.ndarray]:
    """The template seen through a random affine map and two scales of smooth displacement (4 mm and 1.5 mm)."""
    from scipy.ndimage import map_coordinates

    images = template()
    middle = np.array([98.0, 116.0, 82.0])  # of the template's brain, in voxels
    matrix = _rotation(rng, 6) @ np.diag(np.exp(0.06 * rng.standard_normal(3)))
    mirror = -1 if rng.random() < 0.5 else 1
    matrix = matrix @ np.diag([-mirror, -1, 1]) * spacing_mm  # LPS voxels to the template's RAS
    shift = middle + 3 * rng.standard_normal(3)
    grids = [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape]
    coordinates = np.empty((3, *shape), dtype=np.float32)
    for axis in range(3):
        x, y, z = (np.float32(matrix[axis, i]) * grids[i] for i in range(3))
        coordinates[axis] = x[:, None, None] + y[:, None] + z + np.float32(shift[axis])
        for amplitude_mm, knots_mm in ((4.0, 45.0), (1.5, 14.0)):
            coordinates[axis] += np.float32(amplitude_mm) * smooth_field(rng, shape, spacing_mm, knots_mm)
    return [map_coordinates(image, coordinates, order=1, prefilter=False) for image in images]


def _rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    rotation = np.eye(3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(degrees) * rng.standard_normal()
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def _largest(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes, label

    parts, count = label(mask)
    if count > 1:
        mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    if not mask.any():
        raise UserError("phantom: no brain inside the box; expected a size times spacing of some centimetres")
    filled: np.ndarray = binary_fill_holes(mask)
    return filled


def _detail(t1: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    """What is darker in T1 than a mix of the three tissues (3, N) explains, by least squares on a sample."""
    sample = slice(None, None, max(len(t1) // 20000, 1))
    levels = np.linalg.lstsq(tissues[:, sample].T, t1[sample], rcond=None)[0]
    return np.clip(levels.astype(np.float32) @ tissues - t1, -0.2, 0.2)


def _sharpened(rng: np.random.Generator, shares: np.ndarray, brain: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Undo the template's averaging over 152 brains: shares to a power, with folds of the subject's own."""
    power = rng.uniform(1.6, 2.6)
    logits = np.float32(power) * np.log(shares + np.float32(0.01))
    for tissue in range(2):
        logits[tissue] += np.float32(0.5) * smooth_field(rng, brain.shape, spacing_mm, 7.0)[brain]
    logits[2] += np.float32(rng.normal(0.0, 0.4))  # more or less CSF, as with age
    logits -= logits.max(axis=0)
    odds = np.exp(logits)
    return odds / odds.sum(axis=0)


def _displace(fractions: dict[str, np.ndarray], tissue: str, share: np.ndarray) -> None:
    for other in fractions:
        fractions[other] = fractions[other] * (1 - share)
    fractions[tissue] = fractions.get(tissue, np.float32(0)) + share


def _add_vessels(rng: np.random.Generator, fractions: dict[str, np.ndarray], brain: np.ndarray, step: float) -> None:
    """Threads where two smooth random fields vanish together, mostly in the sulci."""
    a, b = (smooth_field(rng, brain.shape, step, 15.0)[brain] for _ in range(2))
    thread = np.exp(-(a**2 + b**2) / (2 * 0.12**2)) * (0.25 + 0.75 * fractions["csf"])
    _displace(fractions, "blood", thread.astype(np.float32))


def _ball(
    rng: np.random.Generator, brain: np.ndarray, centre: np.ndarray, radius_mm: float, reach: float, step: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """A box around ``centre`` and in it the distance from the centre, 1 at the surface of an uneven ellipsoid."""
    half = np.ceil(reach * radius_mm / step).astype(int)
    spans = zip(centre - half, centre + half + 1, brain.shape, strict=True)
    box = tuple(slice(max(int(low), 0), min(int(high), n)) for low, high, n in spans)
    axes = _rotation(rng, 90) @ np.diag(np.exp(0.2 * rng.standard_normal(3)) / radius_mm * step)
    offset = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1) - centre
    distance = np.linalg.norm(offset @ axes, axis=-1)
    x, y, z = distance.shape
    return box, distance * np.exp(0.18 * smooth_field(rng, (x, y, z), step, max(0.6 * radius_mm, 2 * step)))


def _place(rng: np.random.Generator, brain: np.ndarray, weight: np.ndarray) -> np.ndarray:
    chance = np.cumsum(weight, dtype=np.float64)
    pick = np.searchsorted(chance, rng.random() * chance[-1])
    return np.stack(np.nonzero(brain))[:, min(int(pick), len(weight) - 1)]


def _inside(distance: np.ndarray, level: float, soft: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip((distance - level) / soft, -30, 30)))


def _add_tumour(
    rng: np.random.Generator, fractions: dict[str, np.ndarray], brain: np.ndarray, labels: np.ndarray, step: float
) -> None:
    """A core, a rim that takes up contrast agent, and oedema that spreads along the white matter."""
    centre = _place(rng, brain, fractions["white"] ** 2)
    radius = rng.uniform(8, 20)
    box, distance = _ball(rng, brain, centre, radius, 2.2, step)
    soft = 0.25 * max(step, 1.0) / radius
    core, rim = rng.uniform(0.3, 0.75), rng.random() < 0.75
    within, solid = _inside(distance, core, soft), _inside(distance, 1.0, soft)
    shell = solid - within if rim else np.zeros_like(solid)
    spread = _inside(distance, rng.uniform(1.2, 1.8), 3 * soft) - solid
    here = brain[box]
    flat = np.zeros(brain.shape, dtype=np.float32)
    white, csf = (_whole(fractions[t], brain, box) for t in ("white", "csf"))
    oedema = spread * (0.25 + 0.75 * white) * (1 - csf)
    for tissue, share, label in (("oedema", oedema, 2), ("necrosis", solid - shell, 1), ("enhancing", shell, 3)):
        flat[box] = share
        _displace(fractions, tissue, flat[brain])
        flat[box] = 0
        labels[box][here & (share > (0.4 if label == 2 else 0.5))] = label


def _add_plaques(
    rng: np.random.Generator, fractions: dict[str, np.ndarray], brain: np.ndarray, labels: np.ndarray, step: float
) -> None:
    """Spots of 2 to 6 mm in the white matter, most of them near the ventricles; a few take up contrast agent."""
    weight = fractions["white"] ** 2 * (0.03 + _near(fractions["csf"], brain, step))
    white = _whole(fractions["white"] + 0.4 * fractions["grey"], brain, (slice(None),) * 3)
    spots = {tissue: np.zeros(brain.shape, dtype=np.float32) for tissue in ("plaque", "enhancing")}
    for _ in range(int(rng.integers(6, 35))):
        radius = 1.5 * np.exp(0.9 * rng.random() ** 1.5 + 0.3 * rng.random()) + 0.4
        box, distance = _ball(rng, brain, _place(rng, brain, weight), radius, 1.8, step)
        spot = spots["enhancing" if rng.random() < 0.1 else "plaque"]
        spot[box] = np.maximum(spot[box], _inside(distance, 1.0, 0.25 * max(step, 1.0) / radius) * white[box])
    for tissue, spot in spots.items():
        _displace(fractions, tissue, spot[brain])
        labels[brain & (spot > 0.5)] = 1


def _whole(values: np.ndarray, brain: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    grid = np.zeros(brain.shape, dtype=np.float32)
    grid[brain] = values
    return grid[box]


def _near(values: np.ndarray, brain: np.ndarray, step: float) -> np.ndarray:
    """Share of deep CSF within about 8 mm, on a coarse grid."""
    from scipy.ndimage import gaussian_filter, zoom

    stride = max(round(3 / step), 1)
    pick = (slice(None, None, stride),) * 3
    inside = gaussian_filter(brain[pick].astype(np.float32), 12 / (stride * step)) > 0.95
    coarse = gaussian_filter(_whole(values, brain, (slice(None),) * 3)[pick] * inside, 6 / (stride * step))
    fine = zoom(coarse, stride, order=1, grid_mode=True, mode="nearest")
    x, y, z = brain.shape
    return np.clip(fine[:x, :y, :z][brain], 0, 1)
