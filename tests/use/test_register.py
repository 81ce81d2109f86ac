"""``gen3d synthesize --align`` and ``--mask``: contrasts on other grids, scans with skulls."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813, the name its users know
import torch
from PIL import Image
from torch import Tensor

from gen3d.core.system import Example
from gen3d.wavelet.completion import Completion

Run = Callable[..., tuple[int, str, str]]
NAME = "BraTS-PHA-00001-000"


def moved(path: Path, shift_mm: float = 6.0) -> None:
    """Put a scan on a grid of its own, as if the patient had moved in between."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3, 3] += (shift_mm, -shift_mm, shift_mm)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


def headed(path: Path) -> None:
    """Surround a brain with a skull and a scalp, and air that is noise."""
    from scipy.ndimage import binary_dilation

    image = nib.load(path)
    voxels = image.get_fdata(dtype=np.float32)
    brain = voxels > 0
    scalp = binary_dilation(brain, iterations=3) & ~binary_dilation(brain, iterations=1)
    noise = np.abs(np.random.default_rng(0).normal(0, 3, voxels.shape)) + 1
    head = np.where(scalp, 1.5 * np.median(voxels[brain]), voxels) + noise
    nib.save(nib.Nifti1Image(head.astype(np.float32), image.affine), path)


def test_other_grids_are_refused_with_both_files_and_the_flag(
    gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path
) -> None:
    path = case / f"{NAME}-t2w.nii.gz"
    moved(path)
    status, _, told = gen3d("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model)
    assert (status, told.count("\n")) == (1, 1)
    assert str(path) in told
    assert f"{NAME}-t1n.nii.gz" in told
    assert "--align" in told
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_aligned_scans_serve_as_those_in_register(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = ("synthesize", "-i", case, "--model", tiny_model, "--no-check")
    assert gen3d(*command, "-o", tmp_path / "before")[0] == 0
    moved(case / f"{NAME}-t2w.nii.gz")
    originals = {p.name: p.read_bytes() for p in case.iterdir()}
    for _ in range(2):  # the second run may replace what the first one wrote
        assert gen3d(*command, "-o", tmp_path / "out", "--align", "t1n")[0] == 0
    assert {p.name: p.read_bytes() for p in case.iterdir()} == originals
    place = tmp_path / "out" / NAME
    sidecar = json.loads((place / f"{NAME}-t2f.json").read_text())
    assert sidecar["transforms"] == [f"{NAME}-t2w_to_t1n.tfm"]
    found = sitk.ReadTransform(str(place / sidecar["transforms"][0]))
    for point in ((0.0, 0.0, 0.0), (30.0, -40.0, 20.0)):  # in ITK's LPS; voxels are 4 mm wide
        np.testing.assert_allclose(np.subtract(found.TransformPoint(point), point), (-6, 6, 6), atol=1.0)
    made, before = (nib.load(p / f"{NAME}-t2f.nii.gz") for p in (place, tmp_path / "before" / NAME))
    np.testing.assert_array_equal(made.affine, before.affine)


def rotated(path: Path, degrees: float) -> np.ndarray:
    """Cut a scan and turn its header about its middle: the same voxels, as if the patient had lain obliquely.

    Returns:
        (4, 4), from where a point was to where it is.
    """
    image = nib.load(path)
    turn, affine = np.eye(4), image.affine.copy()
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[:2, :2] = ((c, -s), (s, c))
    middle = affine @ (*(np.array(image.shape) / 2), 1)
    turn[:3, 3] = (middle - turn @ middle)[:3]
    affine[:3, 3] += 2 * affine[:3, 0]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[2:, :, :-3], turn @ affine), path)
    return turn


@pytest.mark.parametrize("more", [(), ("--mode", "sample", "--samples", 2, "--steps", 1)], ids=["mean", "samples"])
def test_results_lie_on_the_grids_of_moved_contrasts_too(
    gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[object, ...]
) -> None:
    """A model that answers with T1 must show on T2's grid what T1 shows at these voxels, however T2 was turned."""

    def echo(self: Completion, coords: Tensor, example: Example) -> Tensor:
        front = torch.linspace(0, 1, example["voxels"].shape[3])[:, None] ** 8  # where samples differ
        return example["voxels"][:, [0, 1, 2, 0]] + front * coords.std()

    monkeypatch.setattr(Completion, "finish", echo)
    original = case / f"{NAME}-t2w.nii.gz"
    turn = rotated(original, 5.0)
    command = ("synthesize", "-i", case, "-o", tmp_path, "--model", tiny_model, "--no-check", "--align", "t1n", *more)
    assert gen3d(*command)[0] == 0
    place = tmp_path / NAME
    ends = {"", "_std"} if more else {""}
    assert {p.name for p in place.glob("*_on-*.nii.gz")} == {f"{NAME}-t2f{end}_on-t2w-grid.nii.gz" for end in ends}
    made, native, source = (
        nib.load(p) for p in (place / f"{NAME}-t2f.nii.gz", place / f"{NAME}-t2f_on-t2w-grid.nii.gz", original)
    )
    assert native.affine.tobytes() == source.affine.tobytes()
    assert native.shape == source.shape
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert native.header[field] == source.header[field]
    assert b"SYNTHETIC" in native.header["descrip"].item()
    wanted, found = made.get_fdata()[2:, :, :-3], native.get_fdata()
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.97
    assert found.min() == 0
    assert found.max() <= made.get_fdata().max()
    facts = json.loads((place / f"{NAME}-t2f_on-t2w-grid.json").read_text())
    assert facts["grid"]["of"] == original.name
    assert facts["grid"]["from"] == f"{NAME}-t2f.nii.gz"
    assert facts["grid"]["transform"] == f"{NAME}-t2w_to_t1n.tfm"
    whole = json.loads((place / f"{NAME}-t2f.json").read_text())
    if more:
        here, there = (tree["least_certain"]["centre_mm"] for tree in (whole, facts))
        np.testing.assert_allclose(there, (turn @ (*here, 1))[:3], atol=2.0)
        assert np.abs(np.subtract(here, there)).max() > 4
    assert "kept" in gen3d(*command)[1]
    (place / f"{NAME}-t2f_on-t2w-grid.nii.gz").unlink()
    assert "made" in gen3d(*command)[1]
    assert gen3d("synthesize", "-i", place, "-o", tmp_path / "o", "--model", tiny_model, "--dry-run")[1].startswith(
        f"{NAME}: would make t1n, t1c, t2w from t2f"
    )


def test_aligning_to_what_is_not_there_is_one_line(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    moved(case / f"{NAME}-t2w.nii.gz")
    status, _, told = gen3d("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model, "--align", "flair")
    assert (status, told.count("\n")) == (1, 1)
    assert "--align t2f: it has t1n, t1c, t2w" in told


@pytest.fixture
def heads(case: Path) -> Path:
    for contrast in ("t1n", "t1c", "t2w"):
        headed(case / f"{NAME}-{contrast}.nii.gz")
    return case


def test_skulls_are_told_and_the_way_out(gen3d: Run, heads: Path, tiny_model: Path, tmp_path: Path) -> None:
    status, said, told = gen3d("synthesize", "-i", heads, "-o", tmp_path / "out", "--model", tiny_model, "--no-check")
    assert status == 0
    finding = next(line for line in told.splitlines() if f"{NAME}-t1n.nii.gz and {NAME}-t1c.nii.gz" in line)
    assert finding.endswith("the skull seems to be on")  # the advice has a line of its own
    assert "a skull is on: add --mask, a mask of the brain" in told
    assert said.rstrip().endswith("OUTSIDE the model's training set, not to be relied on")
    with Image.open(tmp_path / "out" / NAME / f"{NAME}-preview.png") as picture:
        assert picture.info["Warning"] == "OUTSIDE the model's training set"
    assert "outside" in (tmp_path / "out" / "cases.csv").read_text()


def test_a_dry_run_checks_what_is_not_yet_in_register(
    gen3d: Run, heads: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen3d.tools.register.align", None)  # it takes as long as the rest
    moved(heads / f"{NAME}-t2w.nii.gz")
    command = ("synthesize", "-i", heads, "-o", tmp_path / "o", "--model", tiny_model, "--dry-run", "--align", "t1c")
    status, said, told = gen3d(*command)
    assert (status, (tmp_path / "o").exists(), "would make t2f from t1n, t1c, t2w" in said) == (0, False, True)
    assert "OUTSIDE" in said
    assert f"{NAME}-t1n.nii.gz and {NAME}-t2w.nii.gz: the skull seems to be on" in told
    assert f"{NAME}-t1c.nii.gz: the skull seems to be on" in told
    status, said, told = gen3d(*command, "--mask", "none")
    assert (status, "OUTSIDE" in said, "skull" in told) == (0, False, False)
    assert "--align t2f: it has" in gen3d(*command[:-1], "flair")[2]


def test_a_mask_of_ones_own_is_used(gen3d: Run, heads: Path, phantoms: Path, tiny_model: Path, tmp_path: Path) -> None:
    truth = nib.load(phantoms / NAME / f"{NAME}-t1n.nii.gz")
    mask = tmp_path / "masks" / f"{NAME}.nii.gz"
    mask.parent.mkdir()
    nib.save(nib.Nifti1Image((truth.get_fdata() > 0).astype(np.uint8), truth.affine), mask)
    for asked in (mask, mask.parent):
        out = tmp_path / asked.name
        command = ("synthesize", "-i", heads, "-o", out, "--model", tiny_model, "--no-check", "--mask", asked)
        status, _, told = gen3d(*command)
        assert (status, "skull" in told) == (0, False)
        made = nib.load(out / NAME / f"{NAME}-t2f.nii.gz").get_fdata()
        assert not made[truth.get_fdata() == 0].any()


def test_a_mask_beside_the_scans_is_used_and_none_says_no(
    gen3d: Run, heads: Path, phantoms: Path, tiny_model: Path, tmp_path: Path
) -> None:
    truth = nib.load(phantoms / NAME / f"{NAME}-t1n.nii.gz")
    nib.save(
        nib.Nifti1Image((truth.get_fdata() > 0).astype(np.uint8), truth.affine), heads / f"{NAME}-brainmask.nii.gz"
    )
    outside = truth.get_fdata() == 0
    for more, kept in ((), False), (("--mask", "none"), True):
        out = tmp_path / f"out{kept}"
        gen3d("synthesize", "-i", heads, "-o", out, "--model", tiny_model, "--no-check", *more)
        assert nib.load(out / NAME / f"{NAME}-t2f.nii.gz").get_fdata()[outside].any() == kept


def test_a_mask_applies_to_scans_with_negative_values_too(
    gen3d: Run, case: Path, phantoms: Path, tiny_model: Path, tmp_path: Path
) -> None:
    truth = nib.load(phantoms / NAME / f"{NAME}-t1n.nii.gz")
    mask = tmp_path / "mask.nii.gz"
    half = truth.get_fdata() > 0
    half[:18] = False
    nib.save(nib.Nifti1Image(half.astype(np.uint8), truth.affine), mask)
    path = case / f"{NAME}-t1c.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image((image.get_fdata() - 50).astype(np.float32), image.affine), path)
    command = ("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model, "--no-check", "--mask", mask)
    status, _, told = gen3d(*command)
    assert (status, f"{path.name}: -50 is no magnitude of MR; is it a CT?" in told) == (0, True)
    made = nib.load(tmp_path / "out" / NAME / f"{NAME}-t2f.nii.gz").get_fdata()
    assert not made[~half].any()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "an empty mask"),
        ("another grid", "different grids"),
        ("absent", "no such file"),
        ("a scan", "different values, so a scan"),
        ("the box", "litres; expected a brain's"),
    ],
)
def test_a_bad_mask_is_one_line(
    gen3d: Run, heads: Path, tiny_model: Path, tmp_path: Path, kind: str, words: str
) -> None:
    image = nib.load(heads / f"{NAME}-t1n.nii.gz")
    mask = tmp_path / "mask.nii.gz"
    shape = (5, 5, 5) if kind == "another grid" else image.shape
    voxels = np.rint(image.get_fdata()) if kind == "a scan" else np.full(shape, kind != "empty")
    if kind != "absent":
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), image.affine), mask)
    status, _, told = gen3d("synthesize", "-i", heads, "-o", tmp_path / "o", "--model", tiny_model, "--mask", mask)
    assert (status, told.count("\n")) == (1, 1)
    assert str(mask) in told
    assert words in told
    assert not list((tmp_path / "o").rglob("*.nii.gz"))
