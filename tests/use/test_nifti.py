"""NIfTI in and out: the same voxels and the same matrix, for nibabel and for SimpleITK; bad files in one clear line."""

import gzip
import resource
import signal
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gen3d.core.error import UserError
from gen3d.core.volume import Placement, Volume
from gen3d.data.nifti import read, read_labels, write

ALL_CODES = ["".join(c) for p in permutations(("RL", "AP", "SI")) for c in product(*p)]
VOXELS = np.random.default_rng(0).uniform(-50, 1000, (5, 6, 7)).astype(np.float32)


def oblique(codes: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.eye(3) + 0.2 * rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    columns = [np.eye(3)["RAS".index(c)] if c in "RAS" else -np.eye(3)["LPI".index(c)] for c in codes]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.stack(columns, axis=1) @ np.diag(rng.uniform(0.5, 4, 3))
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def itk_matrix(path: Path) -> np.ndarray:
    """The affine that SimpleITK reads, in nibabel's convention: ITK's world is LPS, nibabel's RAS."""
    image = SimpleITK.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ matrix


def nifti(
    path: Path, voxels: np.ndarray = VOXELS, sform: Any = None, qform: Any = None, codes: tuple[int, int] = (1, 1)
) -> Path:
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_xyzt_units("mm", "sec")
    header.set_qform(qform, codes[0] if qform is not None else 0)
    header.set_sform(sform, codes[1] if sform is not None else 0)
    nib.save(nib.Nifti1Image(voxels, None, header), path)
    return path


def there_and_back(path: Path, out: Path, axes: str = "LPS") -> Volume:
    volume = read(path)
    model = volume.reoriented(axes).voxels
    placement = Placement(volume.shape, volume.affine, axes, (0, 0, 0), model.shape)  # type: ignore[arg-type]
    write(Volume(placement.place(model), volume.affine), out, like=volume)
    return volume


@pytest.mark.parametrize("codes", ALL_CODES)
def test_round_trip_through_the_models_axes(codes: str, tmp_path: Path) -> None:
    affine = oblique(codes, seed=ALL_CODES.index(codes))
    source = nifti(tmp_path / "in.nii.gz", sform=affine, qform=affine, codes=(1, 2))
    out = tmp_path / "out.nii.gz"
    volume = there_and_back(source, out)
    assert volume.axcodes == codes
    np.testing.assert_array_equal(read(out).voxels, VOXELS)
    np.testing.assert_array_equal(nib.load(out).affine, nib.load(source).affine)
    np.testing.assert_allclose(itk_matrix(out), nib.load(source).affine, atol=1e-4)


A, B = oblique("LPS", 1), oblique("RAS", 2)
FORMS = {
    "both": {"sform": A, "qform": A, "codes": (2, 1)},
    "sform only": {"sform": A, "codes": (0, 4)},
    "qform only": {"qform": A, "codes": (1, 0)},
    "neither": {},
    "disagreeing": {"sform": A, "qform": B, "codes": (1, 1)},
    "disagreeing, sform aligned": {"sform": A, "qform": B, "codes": (1, 2)},
    "disagreeing, sform MNI": {"sform": A, "qform": B, "codes": (2, 4)},
}


@pytest.mark.parametrize("kind", FORMS)
def test_both_readers_get_the_matrix_that_nibabel_reads(kind: str, tmp_path: Path) -> None:
    source = nifti(tmp_path / "in.nii.gz", **FORMS[kind])  # type: ignore[arg-type]
    out = tmp_path / "out.nii.gz"
    there_and_back(source, out)
    expected = nib.load(source).affine
    np.testing.assert_allclose(nib.load(out).affine, expected, atol=1e-6)
    np.testing.assert_allclose(itk_matrix(out), expected, atol=1e-4)


@pytest.mark.parametrize("unit", ["unknown", "meter", "mm", "micron"])
def test_no_unit_lets_the_readers_disagree(unit: str, tmp_path: Path) -> None:
    source, out = nifti(tmp_path / "in.nii", sform=A, qform=A), tmp_path / "out.nii.gz"
    image = nib.load(source)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "unit.nii")
    there_and_back(tmp_path / "unit.nii", out)
    np.testing.assert_array_equal(nib.load(out).affine, image.affine)
    np.testing.assert_allclose(itk_matrix(out), image.affine, atol=1e-4)
    assert nib.load(out).header.get_xyzt_units() == ("unknown" if unit == "unknown" else "mm", "sec")


@pytest.mark.parametrize("kind", ["both", "sform only", "qform only"])
def test_header_comes_out_as_it_went_in(kind: str, tmp_path: Path) -> None:
    source = nifti(tmp_path / "in.nii.gz", **FORMS[kind])  # type: ignore[arg-type]
    there_and_back(source, tmp_path / "out.nii.gz")
    before, after = (nib.load(p).header for p in (source, tmp_path / "out.nii.gz"))
    for field in ("qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(before[field], after[field], err_msg=field)
    assert after.get_data_dtype() == np.float32


@pytest.mark.parametrize("axes", ["RAS", "SLP"])
def test_volume_on_other_axes_is_written_where_it_is(axes: str, tmp_path: Path) -> None:
    volume = read(nifti(tmp_path / "in.nii.gz", sform=A, qform=A)).reoriented(axes)
    write(volume, tmp_path / "out.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(itk_matrix(tmp_path / "out.nii.gz"), volume.affine, atol=1e-4)


def test_scaling_endianness_and_a_fourth_axis_of_one(tmp_path: Path) -> None:
    stored = np.arange(5 * 6 * 7, dtype=">i2").reshape(5, 6, 7, 1)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    header.set_slope_inter(0.5, -3)
    image = nib.Nifti1Image(stored, A, header)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "in.nii")
    raw = np.asarray(nib.load(tmp_path / "in.nii").dataobj)
    volume = read(tmp_path / "in.nii")
    np.testing.assert_allclose(volume.voxels, raw[..., 0], atol=1e-4)
    write(volume, tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(read(tmp_path / "out.nii.gz").voxels, volume.voxels)
    np.testing.assert_allclose(itk_matrix(tmp_path / "out.nii.gz"), A, atol=1e-4)


def test_equal_content_makes_equal_bytes_and_names_itself(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write(Volume(VOXELS, A), tmp_path / name, description="gen3d synthetic " + "é" * 100)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    description = bytes(nib.load(tmp_path / "a.nii.gz").header["descrip"]).rstrip(b"\0")
    assert description.decode().startswith("gen3d synthetic é")
    assert len(description) <= 79


@pytest.mark.parametrize("endian", ["<", ">"])
def test_nifti_2_comes_out_as_nifti_1_with_the_same_header(endian: str, tmp_path: Path) -> None:
    header = nib.Nifti2Header(endianness=endian)
    header.set_xyzt_units("mm", "sec")
    header.set_qform(A, 2)
    header.set_sform(A, 1)
    nib.save(nib.Nifti2Image(VOXELS, None, header), tmp_path / "in.nii.gz")
    out = tmp_path / "out.nii.gz"
    there_and_back(tmp_path / "in.nii.gz", out)
    after = nib.load(out)
    assert isinstance(after.header, nib.Nifti1Header)
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == (2, 1)
    assert after.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(after.affine, A, atol=1e-5)
    np.testing.assert_allclose(itk_matrix(out), A, atol=1e-4)
    np.testing.assert_array_equal(read(out).voxels, VOXELS)


def test_extensions_do_not_travel(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, A)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PatientName: Somebody"))
    nib.save(image, tmp_path / "in.nii")
    write(read(tmp_path / "in.nii"), tmp_path / "out.nii")
    assert b"Somebody" in (tmp_path / "in.nii").read_bytes()
    assert b"Somebody" not in (tmp_path / "out.nii").read_bytes()


def test_labels_are_whole_numbers_and_may_be_empty(tmp_path: Path) -> None:
    mask = np.zeros((5, 6, 7), np.uint8)
    assert not read_labels(nifti(tmp_path / "empty.nii.gz", mask, A, A)).voxels.any()
    mask[2] = 4
    labels = read_labels(nifti(tmp_path / "mask.nii.gz", mask, A, A))
    assert labels.voxels.dtype == np.int16
    write(labels, tmp_path / "out.nii.gz")
    assert nib.load(tmp_path / "out.nii.gz").get_data_dtype() == np.int16
    with pytest.raises(UserError, match="not a mask"):
        read_labels(nifti(tmp_path / "scan.nii.gz", VOXELS, A, A))


def test_single_slice_is_welcome_where_asked_for(tmp_path: Path) -> None:
    path = nifti(tmp_path / "slice.nii.gz", VOXELS[:, :, 0], A, A)
    assert read(path, flat=True).shape == (5, 6, 1)


def damaged(tmp_path: Path) -> dict[str, Path]:
    good = nifti(tmp_path / "good.nii.gz", np.random.default_rng(1).random((20, 20, 20), np.float32), A, A)
    truncated = tmp_path / "truncated.nii.gz"
    truncated.write_bytes(good.read_bytes()[:9000])
    short = tmp_path / "short.nii"
    short.write_bytes(gzip.decompress(good.read_bytes())[:9000])
    text = tmp_path / "text.nii.gz"
    text.write_text("this is no scan")
    packed = tmp_path / "packed.nii.gz"
    packed.write_bytes(gzip.compress(b"neither is this"))
    empty = tmp_path / "empty.nii.gz"
    empty.touch()
    hole, infinite = VOXELS.copy(), VOXELS.copy()
    hole[1, 2, 3], infinite[0, 0, 0] = np.nan, np.inf
    return {
        "truncated.*truncated or no": truncated,
        "short.*truncated or no": short,
        "text.*truncated or no": text,
        "packed.*truncated or no": packed,
        "empty.*truncated or no": empty,
        "NaN or infinite": nifti(tmp_path / "hole.nii.gz", hole, A, A),
        "infinite voxels": nifti(tmp_path / "infinite.nii.gz", infinite, A, A),
        "all voxels are 0": nifti(tmp_path / "zero.nii.gz", np.zeros((4, 4, 4), np.int16), A, A),
        "all voxels are 7": nifti(tmp_path / "seven.nii.gz", np.full((4, 4, 4), 7, np.int16), A, A),
        "4D": nifti(tmp_path / "4d.nii.gz", VOXELS[..., None].repeat(2, 3), A, A),
        "2D": nifti(tmp_path / "2d.nii.gz", VOXELS[..., 0], A, A),
        r"2D, shape \(5, 6, 1\)": nifti(tmp_path / "slab.nii.gz", VOXELS[..., :1], A, A),
        "one real number": nifti(tmp_path / "complex.nii.gz", VOXELS.astype(np.complex64), A, A),
        "no such file": tmp_path / "absent.nii.gz",
        "not a NIfTI file": Path(__file__),
    }


def test_bad_input_is_one_clear_line_and_stays_untouched(tmp_path: Path) -> None:
    for words, path in damaged(tmp_path).items():
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(UserError, match=words) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert before == (path.read_bytes() if path.exists() else None)


def test_singular_affine_is_refused(tmp_path: Path) -> None:
    flat = A.copy()
    flat[:3, 2] = 0
    path = tmp_path / "flat.nii.gz"
    image = nib.Nifti1Image(VOXELS, A)
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = flat[row]
    header = image.header.copy()
    header["sform_code"] = 1
    nib.save(nib.Nifti1Image(VOXELS, None, header), path)
    with pytest.raises(UserError, match="singular"):
        read(path)


def test_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="not a folder"):
        write(Volume(VOXELS, A), tmp_path / "file" / "deeper" / "out.nii.gz")
    assert (tmp_path / "file").read_text() == "mine"


def test_no_space_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.nii.gz"
    write(Volume(VOXELS, A), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            write(Volume(np.random.default_rng(0).random((40, 40, 40), np.float32), A), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]


def test_every_real_scan_is_read_and_written_back_exactly(data_folder: Path, tmp_path: Path) -> None:
    paths = sorted(data_folder.rglob("*.nii*"))
    images = [p for p in paths if p.parent.name not in ("imagesTr", "labelsTr")]
    images += [p for p in paths if p.parent.name == "imagesTr"][::20]
    assert len(images) > 40
    for path in images:
        if len(nib.load(path).shape) == 4:
            with pytest.raises(UserError, match="4D"):
                read(path)
            continue
        volume = read(path, flat=True)
        flat = 1 in volume.shape
        out = tmp_path / "out.nii"
        write(volume, out)
        np.testing.assert_array_equal(read(out, flat=flat).voxels, volume.voxels)
        np.testing.assert_allclose(nib.load(out).affine, nib.load(path).affine, atol=1e-4)
        if nib.load(path).header["sform_code"] or nib.load(path).header["qform_code"]:
            np.testing.assert_allclose(itk_matrix(out), nib.load(path).affine, atol=1e-3)
