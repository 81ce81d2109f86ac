"""Simulated studies, so that tests, demo and training need no download: a new brain, scanner and lesion per seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from gen3d.core.error import UsageError, nearest
from gen3d.core.volume import Case, Naming, Triple, Volume
from gen3d.data.anatomy import Anatomy, anatomy, smooth_field
from gen3d.data.layout import CONTRASTS
from gen3d.data.mri import TISSUES, Protocol, Tissue, protocol

LESIONS = ("tumour", "plaques", "none")
_SPREAD = MappingProxyType({"t1_ms": 0.05, "t2_ms": 0.06, "density": 0.02, "agent_mmol": 0.3})


def phantom(
    seed: int,
    size: Triple = (96, 96, 96),
    spacing_mm: float = 2.0,
    contrasts: Sequence[str] = CONTRASTS,
    lesion: str | None = None,
) -> Case:
    """Simulate one study, skull-stripped (0 outside the brain), axes LPS; the same seed gives the same voxels.

    Voxels mix tissues, signals follow the spin echo, inversion recovery and spoiled gradient echo equations with
    relaxation times at 3 T, both jittered per subject, then resolution, a bias field and Rician noise. A contrast does
    not depend on which others are asked for. The anatomy is MNI152 (Fonov et al. 2011) as shipped in nilearn.

    Args:
        seed: Of the subject.
        size: Voxels; the box is centred on the brain, which is about 140 x 180 x 150 mm.
        spacing_mm: The same along all axes.
        contrasts: Of t1n, t1c, t2w, t2f.
        lesion: "tumour", "plaques" or "none"; by default drawn by the seed.

    Raises:
        UsageError: for an unknown contrast or lesion.
        UserError: if nilearn is not installed.
    """
    _check(contrasts, lesion)
    rng = np.random.default_rng([seed, 0])
    drawn = str(rng.choice(LESIONS, p=(0.5, 0.35, 0.15)))
    subject = anatomy(rng, size, spacing_mm, lesion or drawn)
    tissues = {name: _jittered(rng, tissue) for name, tissue in TISSUES.items()}
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    volumes = {}
    for contrast in contrasts:
        own = np.random.default_rng([seed, 1 + CONTRASTS.index(contrast)])
        voxels = _scanned(own, subject, tissues, protocol(contrast, tissues, own), spacing_mm)
        volumes[contrast] = Volume(voxels, affine, contrast)
    name = f"BraTS-PHA-{seed:05d}-000"
    mask = Volume(subject.labels, affine)
    return Case(name, volumes, mask, f"BraTS-PHA-{seed:05d}", Naming(f"{name}-"))


def write_phantom(
    folder: Path | str,
    seed: int,
    size: Triple = (96, 96, 96),
    spacing_mm: float = 2.0,
    contrasts: Sequence[str] = CONTRASTS,
    lesion: str | None = None,
) -> Path:
    """Write ``phantom(...)`` as a case with BraTS names and int16 voxels below ``folder``; return the case's folder."""
    from gen3d.data.nifti import write

    case = phantom(seed, size, spacing_mm, contrasts, lesion)
    place = Path(folder) / case.name
    mask = {"seg": case.lesion} if case.lesion is not None else {}
    for contrast, volume in {**case.volumes, **mask}.items():
        whole = Volume(volume.voxels.astype(np.int16), volume.affine)
        write(whole, place / case.output_name(contrast), description=f"gen3d phantom, simulated, seed {seed}")
    return place


def _check(contrasts: Sequence[str], lesion: str | None) -> None:
    for contrast in contrasts:
        if contrast not in CONTRASTS:
            known = ", ".join(CONTRASTS)
            raise UsageError(f"phantom contrast '{contrast}': expected one of {known}{nearest(contrast, CONTRASTS)}")
    if lesion is not None and lesion not in LESIONS:
        raise UsageError(f"phantom lesion '{lesion}': expected one of {', '.join(LESIONS)}{nearest(lesion, LESIONS)}")


def _jittered(rng: np.random.Generator, tissue: Tissue) -> Tissue:
    return Tissue(
        **{name: getattr(tissue, name) * float(np.exp(s * rng.standard_normal())) for name, s in _SPREAD.items()}
    )


def _scanned(
    rng: np.random.Generator, subject: Anatomy, tissues: Mapping[str, Tissue], sequence: Protocol, spacing_mm: float
) -> np.ndarray:
    shape = subject.brain.shape
    texture = np.float32(0.05) * smooth_field(rng, shape, spacing_mm, 5.0)[subject.brain]
    image = np.zeros(shape, dtype=np.float32)
    image[subject.brain] = _signal(subject, tissues, sequence, texture)
    image = _blurred(rng, image, spacing_mm)[subject.brain]
    image *= np.exp(np.float32(rng.uniform(0.03, 0.1)) * smooth_field(rng, shape, spacing_mm, 90.0)[subject.brain])
    bright = np.percentile(image, 95)
    noise = np.float32(bright * rng.uniform(0.01, 0.04)) * rng.standard_normal((2, len(image)), dtype=np.float32)
    image = np.hypot(image + noise[0], noise[1])
    voxels = np.zeros(shape, dtype=np.float32)
    voxels[subject.brain] = np.maximum(np.rint(image / bright * np.exp(rng.uniform(np.log(200), np.log(2000)))), 1)
    return voxels


def _signal(subject: Anatomy, tissues: Mapping[str, Tissue], sequence: Protocol, texture: np.ndarray) -> np.ndarray:
    """Mix the tissues' signals by their shares; local changes of log T1 and T2 enter to first order."""
    signal = np.zeros(len(subject.detail), dtype=np.float32)
    log_t1 = 0.8 * subject.detail + texture
    for name, share in subject.fractions.items():
        tissue = tissues[name]
        level = sequence(tissue)
        slope_t1 = sequence(Tissue(tissue.t1_ms * np.e**0.1, tissue.t2_ms, tissue.density, tissue.agent_mmol)) - level
        slope_t2 = sequence(Tissue(tissue.t1_ms, tissue.t2_ms * np.e**0.1, tissue.density, tissue.agent_mmol)) - level
        change = 0.0 if name == "csf" else (10 * slope_t1 + 5 * slope_t2) * log_t1
        signal += share * np.float32(level) + share * np.asarray(change, dtype=np.float32)
    return np.maximum(signal, 0)


def _blurred(rng: np.random.Generator, image: np.ndarray, spacing_mm: float) -> np.ndarray:
    """A resolution of about 1 mm, or slices up to 5 mm thick along one axis that were resampled."""
    from scipy.ndimage import gaussian_filter1d

    widths_mm = np.full(3, rng.uniform(0.3, 0.6))
    axis, thick, width = int(rng.integers(3)), rng.random() < 0.35, rng.uniform(0.8, 2.0)
    if thick:
        widths_mm[axis] = width
    for along, sigma in enumerate(widths_mm / spacing_mm):
        if sigma > 0.2:
            image = gaussian_filter1d(image, sigma, axis=along, truncate=3)
    return image
