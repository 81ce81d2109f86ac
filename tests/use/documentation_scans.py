"""Small simulated scans and masks: what the documentation's commands are given."""

import json
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from gen3d.data.layout import CONTRASTS
from gen3d.data.phantom import phantom

SIZE, SPACING_MM = (36, 40, 36), 4.0
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
SLICE_AFFINE = np.diag([0.8, 0.8, 4.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, dtype: type = np.int16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.rint(voxels).astype(dtype), affine), path)


# Brains


@cache
def brain(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    case = phantom(seed, SIZE, SPACING_MM)
    return {name: (volume.voxels, volume.affine) for name, volume in case.volumes.items()}


def write_brain(folder: Path, seed: int, names: dict[str, str]) -> None:
    for contrast, name in names.items():
        save(folder / f"{name}.nii.gz", *brain(seed)[contrast])


def case(folder: Path) -> None:
    """A study without its FLAIR."""
    write_brain(folder, 1, {"t1n": "t1", "t1c": "t1c", "t2w": "t2"})


def archive(folder: Path) -> None:
    """Three complete studies of three patients, and one without its FLAIR."""
    for seed in (1, 2, 3):
        name = f"BraTS-PHA-{seed:05d}-000"
        write_brain(folder / name, seed, {contrast: f"{name}-{contrast}" for contrast in CONTRASTS})
    case(folder / "patient4")


def brain_masks(folder: Path) -> None:
    """The brains of the archive's studies."""
    for seed, name in enumerate((*(f"BraTS-PHA-{number:05d}-000" for number in (1, 2, 3)), "patient4"), 1):
        voxels, affine = brain(1 if name == "patient4" else seed)["t1n"]
        save(folder / f"{name}.nii.gz", voxels > 0, affine)


def scan(path: Path) -> None:
    save(path, *brain(1)["t2w"])


def brain_scans(folder: Path) -> None:
    for seed in (1, 2, 3):
        save(folder / f"brain{seed}.nii.gz", *brain(seed)["t1n"])


# Hippocampi


def hippocampus(seed: int, shape: tuple[int, int, int] = (35, 51, 35)) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of some 3 mL, its front half 1 and its back half 2, in grey, textured surroundings."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")
    radii = np.array([6.0, 18.0, 6.5]) * rng.uniform(0.95, 1.05, 3)
    mask = ((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 < 1) * np.where(y > 0, 1, 2)
    image = 400 + 60 * np.sin(x / 7 + rng.uniform(0, 6)) + 60 * np.cos(z / 9) + 150 * (mask > 0)
    return image + rng.normal(0, 25, shape), mask


def write_hippocampi(folder: Path, names: tuple[str, ...], images: str, masks: str, first: int = 0) -> None:
    for seed, name in enumerate(names, first):
        image, mask = hippocampus(seed)
        if images:
            save(folder / images.format(name), image)
        if masks:
            save(folder / masks.format(name), mask, dtype=np.uint8)


def labelled(folder: Path, count: int = 6, first: int = 0) -> None:
    """Labelled hippocampi as the Decathlon has them."""
    names = tuple(f"hippocampus_{number:03d}" for number in range(first + 1, first + 1 + count))
    write_hippocampi(folder, names, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz", first)
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    files = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    about = {"name": "hippocampi", "modality": {"0": "MRI"}, "labels": labels, "numTraining": count, "training": files}
    (folder / "dataset.json").write_text(json.dumps(about))


def others(folder: Path) -> None:
    """Labelled hippocampi of patients whose numbers no shipped model has seen."""
    labelled(folder, 2, 900)


def scans(folder: Path) -> None:
    write_hippocampi(folder, ("a", "b"), "{}.nii.gz", "")


def a_scan(folder: Path) -> None:
    write_hippocampi(folder, ("a",), "{}.nii.gz", "")


def more_scans(folder: Path, first: int = 20, count: int = 4) -> None:
    write_hippocampi(folder, tuple(f"scan{n}" for n in range(count)), "{}.nii.gz", "", first)


def training_scans(folder: Path) -> None:
    more_scans(folder, 40)


def generated_scans(folder: Path) -> None:
    more_scans(folder, 60)


def masks(folder: Path) -> None:
    write_hippocampi(folder, ("a", "b"), "", "{}.nii.gz")


def other_masks(folder: Path) -> None:
    write_hippocampi(folder, ("a", "b"), "", "{}.nii.gz", 10)


# Slices and what raters drew on them


def slice_(path: Path, seed: int = 0) -> None:
    """A slice of a newborn's size, (128, 128, 1)."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, 128),) * 2, indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 20, (128, 128))
    image = 800 * (np.hypot(x / 0.7, y / 0.85) < 1) + 250 * (np.hypot(x / 0.4, y / 0.5) < 1) + noise
    save(path, image[..., None], SLICE_AFFINE)


def discs(folder: Path, name: str, count: int, size: int = 48) -> None:
    x, y = np.meshgrid(*(np.arange(size) - size / 2,) * 2, indexing="ij")
    for case in range(3):
        for number in range(1, count + 1):
            path = folder / name.format(case=f"case{case}", number=number)
            save(path, (np.hypot(x, y) < size / 6 + case + number)[..., None], SLICE_AFFINE, np.uint8)


def raters(folder: Path) -> None:
    discs(folder, "{case}_rater{number}.nii.gz", 4)


def rated(folder: Path) -> None:
    """Slices and three raters' masks of each."""
    for number in range(3):
        slice_(folder / "imagesTr" / f"case{number}.nii.gz", number)
    discs(folder / "labelsTr", "{case}_rater{number}.nii.gz", 3, 128)


def samples(folder: Path) -> None:
    discs(folder, "{case}/{case}_sample-{number:02d}.nii.gz", 6)


# CT


def body(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A body in air with an organ, a bone and noise, in HU."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(np.hypot(x, y) < 0.85, 40.0, -1000.0)
    hu[np.hypot(x - 0.3, y) < 0.25] = 90
    hu[np.hypot(x + 0.4, y) < 0.12] = 900
    return hu + np.random.default_rng(seed).normal(0, 15, shape)


def ct(path: Path, seed: int = 0, shape: tuple[int, int, int] = (96, 88, 3)) -> None:
    save(path, body(shape, seed), np.diag([0.7, 0.7, 3.0, 1.0]))


def ct_folder(folder: Path) -> None:
    ct(folder / "chest.nii.gz")


def cts(folder: Path) -> None:
    for seed in (0, 1, 2):
        ct(folder / f"ct{seed}.nii.gz", seed, (32, 32, 32))


# Visits


def patient(folder: Path, seed: int = 0) -> None:
    """Three dated visits, each a little smaller."""
    for number, date in enumerate(("20240110", "20250112", "20260109")):
        image, _ = hippocampus(seed, (26 - number, 40, 26))
        image = np.pad(image, ((0, number), (0, 0), (0, 0)), mode="edge")
        save(folder / f"ses-{date}" / "flair.nii.gz", image)


def patients(folder: Path) -> None:
    for seed in (0, 1):
        patient(folder / f"P{seed}", seed)


def four_dimensional(folder: Path) -> None:
    """Frames of a beating heart in one file, a second apart."""
    for number in range(3):
        frames = np.stack([hippocampus(number, (32, 32, 8))[0] + 20 * second for second in range(4)], -1)
        image = nib.Nifti1Image(frames.astype(np.int16), AFFINE)
        image.header.set_xyzt_units("mm", "sec")
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(image, folder / f"patient{number}_4d.nii.gz")
