"""Contrasts that are not in register: found by rigid registration, brought onto one grid, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UsageError, UserError, nearest
from gen3d.core.volume import Case, Triple, Volume

STILL_MM = 0.5  # two contrasts in register are found this far apart at the brain's border: no reason to resample
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world grows to Left and Posterior, ours to Right and Anterior
_LEVELS_MM = (8.0, 4.0, 2.0)
_SAMPLES = 60_000
_FARTHEST_MM, _FARTHEST_DEGREES = 100.0, 60.0
_ASIDE_MM, _PEAK = 15.0, 1.2  # doubtful: beside where they were laid, the scans look nearly as alike


@dataclass(frozen=True, eq=False)
class Aligned:
    """A case whose contrasts lie on one grid, and how each came there.

    Attributes:
        case: All contrasts on the reference's grid.
        reference: The contrast that stayed where it was.
        transforms: Contrast to (4, 4) rigid matrix in world millimetres (RAS): p_moving = T @ p_reference.
        moved_mm: Contrast to the largest displacement inside the reference's foreground.
    """

    case: Case
    reference: str
    transforms: Mapping[str, np.ndarray]
    moved_mm: Mapping[str, float]


def finest(case: Case) -> str:
    """Return the contrast with the smallest voxels by volume, the first of equals."""
    return min(case.volumes, key=lambda name: round(float(np.prod(case.volumes[name].spacing)), 4))


def align(case: Case, to: str | None = None) -> Aligned:
    """Bring all contrasts of a case into register, onto the grid of one of them.

    A contrast on that grid already, moved by less than ``STILL_MM``, is left as it is, bit for bit. The others are
    interpolated once, linearly, 0 outside their field of view; a lesion mask by nearest neighbour, with the contrast
    that it shares its grid with. The same case gives the same bytes.

    Args:
        case: Its volumes may differ in grid.
        to: The contrast that stays; by default the finest.

    Raises:
        UsageError: if the case has no contrast ``to``.
        UserError: if two scans can't be brought together.
        ModuleNotFoundError: if SimpleITK is not installed.
    """
    name = to or finest(case)
    if name not in case.volumes:
        there = ", ".join(case.volumes)
        raise UsageError(f"{case.name}: no contrast '{name}' to align to; it has {there}{nearest(name, case.volumes)}")
    reference = case.volumes[name]
    inside = _foreground_mm(coarse(reference, _LEVELS_MM[0]))
    volumes, transforms, moved_mm = {}, {}, {}
    for contrast, volume in case.volumes.items():
        matrix = np.eye(4) if contrast == name else register(reference, volume)
        moved = _moved_mm(matrix, inside)
        if moved < STILL_MM:
            matrix, moved = np.eye(4), 0.0
        still = moved == 0 and volume.on_grid_of(reference)
        volumes[contrast] = volume if still else _onto(volume, reference, matrix)
        transforms[contrast], moved_mm[contrast] = matrix, moved
    lesion = _lesion(case, reference, transforms)
    return Aligned(replace(case, volumes=volumes, lesion=lesion), name, transforms, moved_mm)


def register(reference: Volume, moving: Volume) -> np.ndarray:
    """Find the rigid movement between two scans of one head, by Mattes' mutual information (Mattes et al. 2003).

    Returns:
        (4, 4) in world millimetres (RAS): p_moving = T @ p_reference.

    Raises:
        UserError: if the result is doubtful: too far, or no better than beside it.
    """
    if max(moving.spacing) > max(reference.spacing):  # between thick slices there is nothing true to look up
        return np.linalg.inv(register(moving, reference))
    pairs = [(coarse(reference, step), coarse(moving, step), step) for step in _LEVELS_MM]
    first, other, _ = pairs[0]
    centre = _foreground_mm(first).mean(axis=0)
    guesses = (np.zeros(3), _foreground_mm(other).mean(axis=0) - centre)  # the header's geometry, and centre on centre
    transform = lay(pairs, centre, guesses)
    matrix = matrix_of(transform)
    angle = np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
    far = min(np.linalg.norm(_LPS[:3, :3] @ transform.GetTranslation() - guess) for guess in guesses)
    if far > _FARTHEST_MM or angle > _FARTHEST_DEGREES or _sharpness(*pairs[1][:2], transform) < _PEAK:
        names = " and ".join(str(volume.origin or volume.contrast) for volume in (reference, moving))
        raise UserError(f"{names}: can't be aligned; expected two scans of one head; check them, or align by hand")
    return matrix


def lay(pairs: Sequence[tuple[Volume, Volume, float]], centre: np.ndarray, guesses: Sequence[np.ndarray]) -> Any:
    """Find the rigid movement from the best of some first guesses, coarse to fine.

    Args:
        pairs: Fixed scan, moving scan and step in mm, the coarsest first, as ``coarse`` makes them.
        centre: What turns turn about, (3,) in world millimetres.
        guesses: Shifts in mm, each (3,).

    Returns:
        SimpleITK's transform, in its LPS.
    """
    import SimpleITK

    found = []
    for guess in guesses:
        transform = SimpleITK.Euler3DTransform()
        transform.SetCenter((_LPS[:3, :3] @ centre).tolist())
        transform.SetTranslation((_LPS[:3, :3] @ guess).tolist())
        found.append((descend(*pairs[0], transform), transform))
    best = min(found, key=lambda pair: pair[0])[1]
    for pair in pairs[1:]:
        descend(*pair, best)
    return best


def descend(fixed: Volume, moving: Volume, step_mm: float, transform: Any) -> float:
    """Improve a transform in place, rigid or affine; return what is left of the metric, the less the better."""
    import SimpleITK

    method = _method(fixed, transform)
    method.SetOptimizerAsRegularStepGradientDescent(step_mm / 2, step_mm / 200, 200, 0.7, 1e-6)
    radius_mm = np.sqrt(_foreground_mm(fixed).var(axis=0).sum() * 2 / 3)  # what a radian moves
    method.SetOptimizerScales([float(radius_mm**2)] * (transform.GetNumberOfParameters() - 3) + [1.0] * 3)
    threads = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the metric's threads add up in any order
    try:
        method.Execute(_image(fixed), _image(moving))
    except RuntimeError:  # they don't overlap
        return 0.0
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return float(method.GetMetricValue())


def back(volume: Volume, transform: np.ndarray, native: Volume) -> Volume:
    """Resample a result from the reference's grid to that of a contrast's original file.

    Args:
        volume: On the reference's grid; whole numbers are taken from the nearest voxel, others linearly.
        transform: The contrast's, of ``Aligned.transforms``.
        native: The file that the contrast was read from.

    Returns:
        On ``native``'s grid, with its header; 0 outside the reference's field of view.
    """
    return _onto(volume, native, np.linalg.inv(transform))


def save_transform(matrix: np.ndarray, path: Path | str) -> None:
    """Write a rigid or affine matrix (RAS) as ITK's text file (LPS), for 3D Slicer and SimpleITK; it ends in .tfm.

    Raises:
        UserError: if the file cannot be written.
    """
    from gen3d.data.atomic import appearing

    lps = _LPS @ matrix @ _LPS
    numbers = " ".join(repr(float(value)) for value in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    with appearing(Path(path)) as temporary:
        temporary.write_text(
            "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
            f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
        )


def load_transform(path: Path) -> np.ndarray:
    """Return the (4, 4) matrix, in RAS, of a file that ``save_transform`` wrote.

    Raises:
        UserError: if it is missing or no such file.
    """
    try:
        lines = dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
        numbers = np.array(lines["Parameters"].split(), dtype=np.float64)
        lps = np.eye(4)
        lps[:3, :3], lps[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    except (OSError, KeyError, ValueError):
        raise UserError(
            f"{path}: no transform of gen3d's; expected the file beside the scans; synthesize anew"
        ) from None
    return _LPS @ lps @ _LPS


def resample(volume: Volume, shape: Triple, affine: np.ndarray, transform: np.ndarray | None = None) -> np.ndarray:
    """Return a volume's voxels on another grid; 0 outside its field of view.

    Where the new voxels are larger, they are means over their extent and no samples of their middle.

    Args:
        volume: Whole numbers are taken from the nearest voxel, others linearly.
        shape: Of the new grid.
        affine: Of the new grid.
        transform: (4, 4), from the new grid's world to the volume's; by default they share one.
    """
    import SimpleITK

    labels = volume.voxels.dtype.kind in "iub"
    ratio = np.linalg.norm(affine[:3, :3], axis=0) / min(volume.spacing)
    parts = np.ones(3, dtype=int) if labels else np.maximum(np.rint(ratio), 1).astype(int)
    finer = np.diag([*(1 / parts), 1.0])
    finer[:3, 3] = (1 / parts - 1) / 2
    way = np.linalg.inv(volume.affine) @ (np.eye(4) if transform is None else transform) @ affine @ finer
    image = SimpleITK.GetImageFromArray(volume.voxels.T)
    size = [int(n) for n in shape * parts]
    mapping = SimpleITK.AffineTransform(way[:3, :3].ravel().tolist(), way[:3, 3].tolist())
    kind = SimpleITK.sitkNearestNeighbor if labels else SimpleITK.sitkLinear
    whole = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), np.eye(3).ravel().tolist()
    voxels = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, size, mapping, kind, *whole, 0.0)).T
    for axis, n in enumerate(parts):
        if n > 1:
            voxels = voxels.reshape(*voxels.shape[:axis], -1, n, *voxels.shape[axis + 1 :]).mean(axis=axis + 1)
    return np.ascontiguousarray(voxels)


def coarse(volume: Volume, step_mm: float) -> Volume:
    """Return a volume with voxels of at least ``step_mm``, axes orthogonal, the thousandth at either end cut."""
    own, shape = np.array(volume.spacing), np.array(volume.shape)
    step = np.maximum(own, step_mm)
    x, y, z = (int(n) for n in np.maximum(np.rint(own * shape / step), 1))
    left, _, right = np.linalg.svd(volume.affine[:3, :3] / own)
    affine = np.eye(4)
    affine[:3, :3] = (left @ right) * step
    middle = volume.affine @ (*((shape - 1) / 2), 1)
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
    low, high = np.percentile(volume.voxels[::2, ::2, ::2], (0.1, 99.9))
    cut = np.clip(volume.voxels, low, high).astype(np.float32, copy=False)
    return Volume(resample(replace(volume, voxels=cut), (x, y, z), affine), affine)


def matrix_of(transform: Any) -> np.ndarray:
    """Return the (4, 4) matrix, in RAS, of one of SimpleITK's rigid or affine transforms."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    lps[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return _LPS @ lps @ _LPS


def _foreground(voxels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(voxels, (2, 98))
    mask: np.ndarray = voxels > low + 0.1 * (high - low)
    return mask if mask.any() else voxels > low


def _foreground_mm(volume: Volume) -> np.ndarray:
    return np.argwhere(_foreground(volume.voxels)) @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _moved_mm(matrix: np.ndarray, points: np.ndarray) -> float:
    return float(np.linalg.norm(points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3], axis=1).max())


def _image(volume: Volume) -> Any:
    import SimpleITK

    lps, spacing = _LPS @ volume.affine, np.array(volume.spacing)
    image = SimpleITK.GetImageFromArray(volume.voxels.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _method(fixed: Volume, transform: Any) -> Any:
    import SimpleITK
    from scipy.ndimage import binary_dilation

    mask = binary_dilation(_foreground(fixed.voxels), iterations=2)
    samples = int(mask.sum())
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(64 if samples > _SAMPLES else 32)
    method.SetMetricFixedMask(_image(Volume(mask.astype(np.uint8), fixed.affine)))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(_SAMPLES / samples, 1.0), seed=1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetInitialTransform(transform, inPlace=True)
    return method


def _sharpness(fixed: Volume, moving: Volume, transform: Any) -> float:
    """How many times more alike the scans are here than at the best place nearby."""
    import SimpleITK

    values = []
    for aside in (np.zeros(3), *(_ASIDE_MM * np.eye(3)), *(-_ASIDE_MM * np.eye(3))):
        there = SimpleITK.Euler3DTransform(transform)
        there.SetTranslation((np.array(transform.GetTranslation()) + aside).tolist())
        try:
            values.append(-_method(fixed, there).MetricEvaluate(_image(fixed), _image(moving)))
        except RuntimeError:  # they don't overlap
            values.append(0.0)
    return values[0] / max(*values[1:], 1e-6)


def _onto(volume: Volume, grid: Volume, transform: np.ndarray) -> Volume:
    voxels = resample(volume, grid.shape, grid.affine, transform)
    return Volume(voxels, grid.affine, volume.contrast, volume.origin, grid.header)


def _lesion(case: Case, reference: Volume, transforms: Mapping[str, np.ndarray]) -> Volume | None:
    if case.lesion is None or case.lesion.on_grid_of(reference):
        return case.lesion
    own = (transforms[name] for name, volume in case.volumes.items() if case.lesion.on_grid_of(volume))
    return _onto(case.lesion, reference, next(own, np.eye(4)))
