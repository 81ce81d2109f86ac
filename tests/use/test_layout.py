"""Case folders as they are found: BraTS new and old names, plain names, Decathlon; and the names of what is new."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.error import UsageError, UserError
from gen3d.data.layout import CONTRASTS, canonical, contrast_of, find_cases, read_case

SHAPE = (6, 5, 4)


def scan(path: Path, seed: int = 1, shape: tuple[int, ...] = SHAPE, shift_mm: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    affine[0, 3] = shift_mm
    voxels = np.random.default_rng(seed).integers(1, 100, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def mask(path: Path, shape: tuple[int, ...] = SHAPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return path


@pytest.mark.parametrize(
    ("files", "missing", "expected"),
    [
        (["BraTS-GLI-00001-000-t1n", "BraTS-GLI-00001-000-t1c"], "t2f", "BraTS-GLI-00001-000-t2f.nii.gz"),
        (["TCGA-DU-7294_t1", "TCGA-DU-7294_t1ce", "TCGA-DU-7294_t2"], "t2f", "TCGA-DU-7294_flair.nii.gz"),
        (["BraTS20_Training_001_flair", "BraTS20_Training_001_t2"], "t1c", "BraTS20_Training_001_t1ce.nii.gz"),
        (["flair", "t1post", "t2"], "t1n", "t1.nii.gz"),
        (["t1", "t1gd", "fla"], "t2w", "t2.nii.gz"),
        (["t2", "t1n"], "t1n", "t1n.nii.gz"),
        (["study1_FLAIR", "study1_T2W"], "t1n", "study1_T1W.nii.gz"),
        (["A.B-t1w", "A.B-t2w"], "t2f", "A.B-flair.nii.gz"),
    ],
)
def test_new_file_is_named_as_the_others(files: list[str], missing: str, expected: str, tmp_path: Path) -> None:
    for name in files:
        scan(tmp_path / f"{name}.nii.gz")
    assert read_case(tmp_path).output_name(missing) == expected


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_present_contrast_keeps_its_own_name(ending: str, tmp_path: Path) -> None:
    for name in ("x_t1ce", "x_flair"):
        scan(tmp_path / f"{name}{ending}")
    case = read_case(tmp_path)
    assert set(case.volumes) == {"t1c", "t2f"}
    for name, volume in case.volumes.items():
        assert volume.origin is not None
        assert volume.contrast == name
        assert case.output_name(name) == volume.origin.name


@pytest.mark.parametrize("name", ["x-seg", "x_seg", "seg", "lesion", "lesion_gold", "x_lesions"])
def test_lesion_mask_is_found_and_never_a_contrast(name: str, tmp_path: Path) -> None:
    scan(tmp_path / "x_t1.nii.gz")
    mask(tmp_path / f"{name}.nii.gz")
    case = read_case(tmp_path)
    assert list(case.volumes) == ["t1n"]
    assert case.lesion is not None
    assert case.lesion.voxels.dtype.kind == "i"
    assert read_case(tmp_path, with_lesion=False).lesion is None


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    for name in ("t1_std.nii.gz", "pd.nii.gz", "mask.nii.gz", "._t2.nii.gz", "t2.txt"):
        (tmp_path / name).write_text("not to be read")
    assert list(read_case(tmp_path).volumes) == ["t1n"]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("t1", "t1n"),
        ("T1CE", "t1c"),
        ("t1gd", "t1c"),
        ("flair", "t2f"),
        ("FLA", "t2f"),
        ("t2w", "t2w"),
        ("t1ca", "t1c"),
    ],
)
def test_canonical(alias: str, name: str) -> None:
    assert canonical(alias) == name
    assert contrast_of(Path(f"case_{alias}.nii.gz")) == name


def test_unknown_contrast_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'flair'"):
        canonical("flare")


def test_patient_of_several_timepoints(tmp_path: Path) -> None:
    for visit in ("000", "001"):
        scan(tmp_path / f"BraTS-GLI-00017-{visit}" / f"BraTS-GLI-00017-{visit}-t1n.nii.gz")
    assert [read_case(p).patient for p in find_cases(tmp_path)] == ["BraTS-GLI-00017"] * 2


def test_find_cases(tmp_path: Path) -> None:
    for name in ("b/b_t1", "a/a_flair", ".hidden/c_t1"):
        scan(tmp_path / f"{name}.nii.gz")
    mask(tmp_path / "only_mask" / "seg.nii.gz")
    assert find_cases(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_cases(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(UserError, match="no case in it"):
        find_cases(tmp_path / "only_mask")
    with pytest.raises(UserError, match="no such folder"):
        find_cases(tmp_path / "absent")


def test_decathlon_images_are_cases_of_one_contrast(tmp_path: Path) -> None:
    for name in ("hip_002", "hip_001"):
        scan(tmp_path / "imagesTr" / f"{name}.nii.gz")
    mask(tmp_path / "labelsTr" / "hip_001.nii.gz")
    (tmp_path / "imagesTr" / "._hip_001.nii.gz").write_text("a Mac was here")
    one, two = map(read_case, find_cases(tmp_path))
    assert (one.name, two.name) == ("hip_001", "hip_002")
    assert list(one.volumes) == ["mri"]
    assert one.lesion is not None
    assert two.lesion is None
    assert one.output_name("mri") == "hip_001.nii.gz"


def test_bad_cases_are_one_clear_line(tmp_path: Path) -> None:
    scan(tmp_path / "shape" / "t1.nii.gz")
    scan(tmp_path / "shape" / "t2.nii.gz", shape=(6, 5, 5))
    scan(tmp_path / "affine" / "t1.nii.gz")
    scan(tmp_path / "affine" / "t2.nii.gz", shift_mm=0.5)
    scan(tmp_path / "mask" / "t1.nii.gz")
    mask(tmp_path / "mask" / "seg.nii.gz", shape=(6, 5, 5))
    scan(tmp_path / "twice" / "x_t1.nii.gz")
    scan(tmp_path / "twice" / "y_t1.nii.gz")
    scan(tmp_path / "masks" / "t1.nii.gz")
    mask(tmp_path / "masks" / "seg.nii.gz")
    mask(tmp_path / "masks" / "lesion.nii.gz")
    scan(tmp_path / "none" / "pd.nii.gz")
    (tmp_path / "file").touch()
    expected = {
        "shape": r"t1\.nii\.gz and .*t2\.nii\.gz differ in shape, \(6, 5, 4\) against \(6, 5, 5\)",
        "affine": r"t1\.nii\.gz and .*t2\.nii\.gz differ in affine",
        "mask": r"t1\.nii\.gz and .*seg\.nii\.gz differ in shape",
        "twice": r"2 files for contrast t1n: x_t1\.nii\.gz and y_t1\.nii\.gz",
        "masks": r"2 lesion masks: lesion\.nii\.gz and seg\.nii\.gz",
        "none": "no known contrast",
        "absent": "no such folder",
        "file": "not a folder",
    }
    for name, words in expected.items():
        with pytest.raises(UserError, match=words) as caught:
            read_case(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_real_cases(data_folder: Path) -> None:
    paths = find_cases(data_folder / "brats") + find_cases(data_folder / "ms")
    assert len(paths) == 6
    for path in (paths[0], paths[2], paths[4]):
        case = read_case(path)
        assert tuple(case.volumes) == CONTRASTS
        assert case.lesion is not None
        assert case.lesion.voxels.any()
    hippocampus = find_cases(data_folder / "hippocampus")
    assert len(hippocampus) == 217
    assert set(np.unique(read_case(hippocampus[0]).lesion.voxels)) == {0, 1, 2}  # type: ignore[union-attr]
