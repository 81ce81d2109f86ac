"""Any study in: each layout as people have it, names of their own, and what is told where a name is not clear."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.aliases import Vocabulary
from gen3d.data.layout import CONTRASTS, find_cases, read_case
from gen3d.data.nifti import write
from gen3d.data.studies import Study, find_studies, read_aliases, read_study

SHAPE = (6, 5, 4)


def scan(path: Path, *, shape: tuple[int, int, int] = SHAPE, spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> Path:
    voxels = np.random.default_rng(1).integers(1, 100, shape).astype(np.int16)
    write(Volume(voxels, np.diag([*spacing, 1.0])), path)
    return path


def mask(path: Path) -> Path:
    write(Volume(np.ones(SHAPE, np.int16), np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def scans(folder: Path, *names: str) -> Path:
    for name in names:
        scan(folder / (name if name.lower().endswith((".nii", ".nii.gz")) else f"{name}.nii"))
    return folder


def files(study: Study) -> dict[str, str]:
    return {contrast: path.name for contrast, path in study.files.items()}


def places(source: Path, aliases: Mapping[str, tuple[str, ...]] | None = None) -> dict[str, dict[str, str]]:
    """Place of each study -> what its files are, without their endings."""
    found = find_studies(source, aliases)
    assert all(not study.problem for study in found)
    return {
        str(s.place): {c: name.removesuffix(".gz").removesuffix(".nii") for c, name in files(s).items()} for s in found
    }


def problem(study: Study) -> str:
    with pytest.raises(UserError) as caught:
        read_study(study)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refusal(source: Path, aliases: Mapping[str, tuple[str, ...]] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find_studies(source, aliases)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What contrasts are called


@pytest.mark.parametrize(
    ("text", "meanings"),
    [
        ("T1", "t1n"),
        ("T1 MPRAGE", "t1n"),
        ("Sag MP-RAGE iso", "t1n"),
        ("AX SPGR", "t1n"),
        ("T1 pre", "t1n"),
        ("T1 without contrast", "t1n"),
        ("t1_mprage w/o gad", "t1n"),
        ("T1 nativ", "t1n"),
        ("T1 post contrast", "t1c"),
        ("T1+C", "t1c"),
        ("AX T1 C+", "t1c"),
        ("T1 GAD", "t1c"),
        ("+C Ax T1 BRAVO", "t1c"),
        ("POST AX T1", "t1c"),
        ("t1_mprage_sag_p2_iso_KM", "t1c"),
        ("T1ce MPRAGE", "t1c"),
        ("TSE T2", "t2w"),
        ("t2_tse_tra", "t2w"),
        ("T1W/FFE/C", "t1c t1n"),
        ("T1 plus C", "t1c"),
        ("T1 no C", "t1n"),
        ("sT1W_3D_TFE_GD", "t1c"),
        ("t2_spc_da-fl_irprep_sag_p2_iso", "t2f"),
        ("dark fluid", "t2f"),
        ("t2_space_dark-fluid_sag", "t2f"),
        ("T2-FLAIR", "t2f"),
        ("t2 flair", "t2f"),
        ("Ax T2 FLAIR FS", "t2f"),
        ("t2_tse_tirm", "t2f"),
        ("FLAIR", "t2f"),
        ("t1 flair", "t1n t2f"),
        ("T1 T2", "t1n t2w"),
        ("T1 pre and post", "t1c t1n"),
        ("T2*", ""),
        ("T1 map", ""),
        ("ADC", ""),
        ("ep2d_diff", ""),
        ("T2 STIR", ""),
        ("post contrast", ""),
        ("T10 T1x mt1", ""),
        ("", ""),
    ],
)
def test_phrases(text: str, meanings: str) -> None:
    assert Vocabulary().meanings(text) == tuple(meanings.split())


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("P7_T1_post_contrast", "t1c"),
        ("P7-T2-FLAIR", "t2f"),
        ("P7.t2_tse_tirm", "t2f"),
        ("P7 dark fluid", "t2f"),
        ("P7_MPRAGE", "t1n"),
        ("P7_t1_mprage_sag_p2_iso_1mm", "t1n"),
        ("P7_t1_vibe_tra_fs_km", "t1c"),
        ("P7_CE-T1w", "t1c"),
        ("P7_t1_mprage_sag_20240102030405_7", "t1n"),  # as dcm2niix names files
        ("P7_AX_T1_GAD", "t1c"),
        ("P7_FLAIR", "t2f"),
    ],
)
def test_file_names(name: str, contrast: str, tmp_path: Path) -> None:
    (study,) = find_studies(scan(tmp_path / f"{name}.nii.gz"))
    assert list(study.files) == [contrast]
    (study,) = find_studies(tmp_path)
    assert list(study.files) == [contrast]
    assert study.name == tmp_path.name
    assert study.naming.of(contrast) == f"{name}.nii.gz"


@pytest.mark.parametrize("name", ["P_T1_FLAIR", "P_pre_post_T1"])
def test_a_name_that_is_not_clear_is_left_and_told(name: str, tmp_path: Path) -> None:
    scans(tmp_path, name, "P_t2")
    (study,) = find_studies(tmp_path)
    assert files(study) == {"t2w": "P_t2.nii"}
    (note,) = study.notes
    assert note.startswith(f"{name}.nii: ")
    assert "may be t1" in note
    assert "--aliases" in note
    (tmp_path / "P_t2.nii").unlink()
    (study,) = find_studies(tmp_path)
    assert "no contrast is clear" in problem(study)
    assert "may be t1c or t1n" in problem(find_studies(scans(tmp_path / "alone", "P_post_t1"))[0])


def test_what_all_names_share_is_no_contrast(tmp_path: Path) -> None:
    scans(tmp_path / "visit", "P_T1_T1", "P_T1_T2", "P_T1_FLAIR")
    scans(tmp_path / "treated", "P_post_t1", "P_post_t2")
    scans(tmp_path / "agent", "P_pre_t1", "P_post_t1", "P_flair")
    scans(tmp_path / "planes", "P_ax_t1", "P_sag_t2", "P_cor_flair")
    scans(tmp_path / "sequence", "SE_t1", "SE_t2")
    scans(tmp_path / "initials", "CE_t1", "CE_t2")
    assert places(tmp_path) == {
        "agent": {"t1n": "P_pre_t1", "t1c": "P_post_t1", "t2f": "P_flair"},
        "initials": {"t1n": "CE_t1", "t2w": "CE_t2"},
        "planes": {"t1n": "P_ax_t1", "t2w": "P_sag_t2", "t2f": "P_cor_flair"},
        "sequence": {"t1n": "SE_t1", "t2w": "SE_t2"},
        "treated": {"t1n": "P_post_t1", "t2w": "P_post_t2"},
        "visit": {"t1n": "P_T1_T1", "t2w": "P_T1_T2", "t2f": "P_T1_FLAIR"},
    }
    assert [s.naming.of("t2f") for s in find_studies(tmp_path)][-2:] == ["P_post_flair.nii", "P_T1_FLAIR.nii"]


# Plain folders


def test_what_was_read_before_reads_the_same(tmp_path: Path) -> None:
    for visit in ("000", "001"):
        scans(tmp_path / f"BraTS-GLI-00017-{visit}", *(f"BraTS-GLI-00017-{visit}-{c}.nii.gz" for c in ("t2w", "t1n")))
    scans(tmp_path / "deep" / "er" / "TCGA_1", "TCGA_1_t1ce", "TCGA_1_flair", "TCGA_1_t1.nii.gz")
    mask(tmp_path / "deep" / "er" / "TCGA_1" / "TCGA_1_seg.nii.gz")
    scans(tmp_path / "plain", "t2", "t1post")
    scans(tmp_path / ".hidden", "t1")
    (tmp_path / "plain" / "._t1.nii.gz").write_text("a Mac was here")
    for name in ("t1_std", "pd", "t1_brain"):
        (tmp_path / "plain" / f"{name}.nii.gz").write_text("not to be read")
    for source in (tmp_path, tmp_path / "plain"):
        studies, cases = find_studies(source), [read_case(path) for path in find_cases(source)]
        assert len(studies) == len(cases)
        by_name = {case.name: case for case in cases}
        for study in studies:
            case, expected = read_study(study), by_name[study.name]
            assert list(case.volumes) == list(expected.volumes)
            assert (case.patient, case.lesion is None) == (expected.patient, expected.lesion is None)
            assert [case.output_name(c) for c in (*CONTRASTS, "preview")] == [
                expected.output_name(c) for c in (*CONTRASTS, "preview")
            ]
    assert [str(study.place) for study in find_studies(tmp_path)] == [
        "BraTS-GLI-00017-000",
        "BraTS-GLI-00017-001",
        "deep/er/TCGA_1",
        "plain",
    ]


def test_several_cases_in_one_folder(tmp_path: Path) -> None:
    scans(tmp_path / "all", "A_t1.nii.gz", "A_flair.nii.gz", "b-2_T1", "b-2_T1_GD", "Ä c_t1")
    mask(tmp_path / "all" / "A_seg.nii.gz")
    mask(tmp_path / "all" / "b-2_brain_mask.nii.gz")
    a, b, c = find_studies(tmp_path / "all")
    assert [s.name for s in (a, b, c)] == ["A", "b-2", "Ä c"]
    assert (files(a), a.lesion and a.lesion.name, a.mask) == (
        {"t1n": "A_t1.nii.gz", "t2f": "A_flair.nii.gz"},
        "A_seg.nii.gz",
        None,
    )
    assert (files(b), b.lesion, b.mask and b.mask.name) == (
        {"t1n": "b-2_T1.nii", "t1c": "b-2_T1_GD.nii"},
        None,
        "b-2_brain_mask.nii.gz",
    )
    assert a.naming.of("t2w") == "A_t2.nii.gz"
    assert read_study(c).patient == "Ä c"
    assert list(places(tmp_path)) == ["all/A", "all/b-2", "all/Ä c"]


def test_scans_that_no_contrast_is_known_of_are_told(tmp_path: Path) -> None:
    scans(tmp_path / "all", "A_t1", "A_pd", "B_t1", "B_sum", "other")
    scans(tmp_path / "one", "t1", "brain")
    scans(tmp_path / "odd", "a", "b")
    mask(tmp_path / "masks" / "x_roi.nii.gz")
    told: list[str] = []
    a, b, one = find_studies(tmp_path, note=told.append)
    assert [words.split(":")[0] for words in a.left_out] == ["A_pd.nii", "other.nii"]  # nobody's goes to the first
    assert a.left_out[0] == "A_pd.nii: 'pd' is none of t1n, t1c, t2w, t2f"
    assert b.left_out == ("B_sum.nii: its name says none of t1n, t1c, t2w, t2f",)
    assert [words.split(":")[0] for words in one.left_out] == ["brain.nii"]
    assert len(told) == 1
    assert "nothing is taken from odd (a.nii and 1 more): " in told[0]
    assert find_studies(tmp_path / "one", {"pd": ("brain",)})[0].left_out == ()


def test_when_prefixes_are_cases(tmp_path: Path) -> None:
    scans(tmp_path / "two", "A_t1", "B_flair")  # nothing in common: never mixed
    scans(tmp_path / "numbers", "3_t1", "7_flair")  # numbers of series
    scans(tmp_path / "extended", "P_t1", "P_reg_flair")
    assert list(places(tmp_path)) == ["extended", "numbers", "two/A", "two/B"]


def test_two_files_for_one_contrast(tmp_path: Path) -> None:
    scans(tmp_path / "twice", "t1", "x_t1", "t2")
    scans(tmp_path / "plainer", "P_t1", "P_t1_mprage", "P_t2")
    good, bad = find_studies(tmp_path)
    assert files(good) == {"t1n": "P_t1.nii", "t2w": "P_t2.nii"}
    assert good.notes == ("P_t1_mprage.nii: looks like t1n too; left out",)
    assert "2 files for contrast t1n: t1.nii and x_t1.nii" in problem(bad)
    scans(tmp_path / "endings", "t1.nii", "t1.nii.gz", "t2")
    assert "t1.nii and t1.nii.gz" in problem(find_studies(tmp_path / "endings")[0])


def test_masks(tmp_path: Path) -> None:
    lesions = {"x_seg": "x_seg", "lesion_mask": "lesion_mask", "x_tumor_mask": "x_tumor_mask"}
    brains = {"mask": "mask", "brainmask": "brainmask", "x_brain_mask": "x_brain_mask", "t1_mask": "t1_mask"}
    for name in lesions | brains:
        scans(tmp_path / f"in_{name}", "t1")
        mask(tmp_path / f"in_{name}" / f"{name}.nii.gz")
    for study in find_studies(tmp_path):
        name = study.name.removeprefix("in_")
        assert list(study.files) == ["t1n"]
        assert (study.lesion is not None, study.mask is not None) == (name in lesions, name in brains)
    for name in ("seg", "lesion"):
        mask(tmp_path / "in_mask" / f"{name}.nii.gz")
    (study,) = find_studies(tmp_path / "in_mask")
    assert study.lesion is None
    assert "2 lesion masks" in study.notes[0]
    assert read_study(study).lesion is None
    assert read_study(find_studies(tmp_path / "in_x_seg")[0]).lesion is not None
    assert read_study(find_studies(tmp_path / "in_x_seg")[0], with_lesion=False).lesion is None


def test_links_bear_their_own_names(tmp_path: Path) -> None:
    real = scans(tmp_path / "store" / "abc123", "t1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "Case 1").symlink_to(real)
    (tmp_path / "in" / "Case 1" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "x_t2.nii").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "Case2").mkdir()
    (tmp_path / "in" / "Case2" / "x_flair.nii").symlink_to(real / "t1.nii")
    os.replace(tmp_path / "in" / "x_t2.nii", tmp_path / "in" / "Case2" / "x_t2.nii")
    one, two = find_studies(tmp_path / "in")
    assert (one.name, one.place, read_study(one).name) == ("Case 1", Path("Case 1"), "Case 1")
    assert find_studies(tmp_path / "in" / "Case 1")[0].name == "Case 1"
    assert list(two.files) == ["t2w", "t2f"]
    assert "x_t2.nii: a link to a file that is not there" in problem(two)


def test_empty_and_odd_files_are_never_a_crash(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "T1.NII.GZ").touch()
    (tmp_path / "a b" / "t2.nii.gz").mkdir()
    (tmp_path / "a b" / ".nii.gz").touch()
    (tmp_path / "a b" / "_.nii").touch()
    (study,) = find_studies(tmp_path)
    assert files(study) == {"t1n": "T1.NII.GZ"}
    assert "truncated or no NIfTI" in problem(study)
    (tmp_path / "empty").mkdir()
    mask(tmp_path / "only_mask" / "seg.nii.gz")
    for name in ("empty", "only_mask"):
        assert "no study in it; expected" in refusal(tmp_path / name)
    assert "no such file or folder" in refusal(tmp_path / "absent")
    assert "its name says none of t1n, t1c, t2w, t2f; " in refusal(scan(tmp_path / "brain.nii.gz"))
    assert "'PD' is none of t1n, t1c, t2w, t2f; " in refusal(scan(tmp_path / "brain_PD.nii.gz"))
    assert "no study in it; nothing is taken from odd (a.nii and 1 more)" in refusal(scans(tmp_path / "odd", "a", "b"))
    (tmp_path / "x.txt").touch()
    assert "neither a NIfTI file nor" in refusal(tmp_path / "x.txt")


def test_grids(tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii")
    scan(tmp_path / "t2.nii", shape=(6, 5, 5))
    (study,) = find_studies(tmp_path)
    words = problem(study)
    assert "t1.nii and " in words
    assert "t2.nii differ in shape" in words
    assert words.endswith("add --align")
    assert read_study(study, any_grid=True).volumes["t2w"].shape == (6, 5, 5)


# nnU-Net and the Decathlon


def nnunet(folder: Path, channels: Mapping[str, str] | None, *cases: str, images: str = "imagesTr") -> Path:
    for case in cases:
        scans(folder / images, *(f"{case}_{number}.nii.gz" for number in ("0000", "0001")))
    if channels is not None:
        (folder / "dataset.json").write_text(json.dumps({"channel_names": channels, "labels": {"background": 0}}))
    return folder


def test_nnunet(tmp_path: Path) -> None:
    nnunet(tmp_path, {"0": "T1", "1": "FLAIR"}, "BRATS_001", "BRATS_002")
    nnunet(tmp_path, {"0": "T1", "1": "FLAIR"}, "BRATS_009", images="imagesTs")
    mask(tmp_path / "labelsTr" / "BRATS_001.nii.gz")
    one, two, nine = find_studies(tmp_path)
    assert files(one) == {"t1n": "BRATS_001_0000.nii.gz", "t2f": "BRATS_001_0001.nii.gz"}
    assert (one.name, str(one.place), one.naming.of("t2f")) == ("BRATS_001", "BRATS_001", "BRATS_001_0001.nii.gz")
    assert (one.lesion is not None, two.lesion, nine.name) == (True, None, "BRATS_009")
    assert read_study(one).lesion is not None
    assert [s.name for s in find_studies(tmp_path / "imagesTs")] == ["BRATS_009"]
    (alone,) = find_studies(tmp_path / "imagesTr" / "BRATS_002_0001.nii.gz")
    assert alone == two


def test_nnunet_channels_that_nothing_explains(tmp_path: Path) -> None:
    bare = nnunet(tmp_path / "bare", None, "x_1")
    words = problem(find_studies(bare)[0])
    assert "dataset.json: no such file" in words
    assert "['0000']" in words
    (study,) = find_studies(bare, {"t1c": ("0000",), "t2w": ("0001",)})
    assert files(study) == {"t1c": "x_1_0000.nii.gz", "t2w": "x_1_0001.nii.gz"}
    odd = nnunet(tmp_path / "odd", {"0": "T1", "1": "noNorm"}, "x_1")
    (study,) = find_studies(odd)
    assert list(study.files) == ["t1n"]
    assert "channel 0001: 'noNorm'" in study.notes[0]
    (study,) = find_studies(odd, {"ct": ("nonorm",)})
    assert list(study.files) == ["t1n", "ct"]
    (odd / "dataset.json").write_text("{")
    assert "can't be read" in problem(find_studies(odd)[0])


def test_decathlon(tmp_path: Path) -> None:
    scans(tmp_path / "imagesTr", "la_003.nii.gz", "la_010.nii.gz")
    scans(tmp_path / "imagesTs", "la_001.nii.gz")
    mask(tmp_path / "labelsTr" / "la_003.nii.gz")
    one, two = find_studies(tmp_path)
    assert (one.name, files(one), one.naming.of("mri")) == ("la_003", {"mri": "la_003.nii.gz"}, "la_003.nii.gz")
    assert (read_study(one).lesion is not None, two.lesion) == (True, None)
    assert [s.name for s in find_studies(tmp_path / "imagesTs")] == ["la_001"]


# BIDS


def test_bids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_description.json").write_text("{}")
    one = scans(tmp_path / "sub-01" / "ses-1" / "anat", "sub-01_ses-1_T1w", "sub-01_ses-1_ce-gadolinium_T1w")
    scans(one, "sub-01_ses-1_FLAIR", "sub-01_ses-1_T2starw", "sub-01_ses-1_part-phase_T2w")
    mask(one / "sub-01_ses-1_label-lesion_mask.nii.gz")
    mask(one / "sub-01_ses-1_desc-brain_mask.nii.gz")
    scans(tmp_path / "sub-01" / "ses-2" / "anat", "sub-01_ses-2_T2w")
    scans(tmp_path / "sub-02" / "anat", "sub-02_ce-none_T1w", "sub-02_acq-postcontrast_T1w.nii.gz")
    scans(tmp_path / "sub-02" / "func", "sub-02_task-rest_bold")
    scans(tmp_path / "sub-03" / "anat", "sub-03_PDw")
    for elsewhere in ("derivatives/fmriprep", "sourcedata", ".git"):
        scans(tmp_path / elsewhere / "sub-01" / "anat", "sub-01_T1w")
    first, second, third, fourth = find_studies(tmp_path)
    assert [str(s.place) for s in (first, second, third)] == ["sub-01/ses-1", "sub-01/ses-2", "sub-02"]
    assert (first.name, first.patient, second.patient) == ("sub-01_ses-1", "sub-01", "sub-01")
    assert {c: n.removeprefix("sub-01_ses-1_") for c, n in files(first).items()} == {
        "t1n": "T1w.nii",
        "t1c": "ce-gadolinium_T1w.nii",
        "t2f": "FLAIR.nii",
    }
    assert first.lesion == one / "sub-01_ses-1_label-lesion_mask.nii.gz"
    assert first.mask == one / "sub-01_ses-1_desc-brain_mask.nii.gz"
    assert [read_study(first).output_name(c) for c in ("t2f", "t2w")] == [
        "sub-01_ses-1_FLAIR.nii",
        "sub-01_ses-1_T2w.nii",
    ]
    assert second.naming.of("t1c") == "sub-01_ses-2_ce-gadolinium_T1w.nii"
    assert list(third.files) == ["t1n", "t1c"]
    assert "no known contrast" in problem(fourth)
    assert [s.name for s in find_studies(tmp_path / "sub-01")] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert [s.name for s in find_studies(tmp_path / "sub-01" / "ses-2")] == ["sub-01_ses-2"]
    monkeypatch.chdir(tmp_path / "sub-01" / "ses-2")
    assert [str(s.place) for s in find_studies(Path())] == ["sub-01/ses-2"]
    assert list(places(tmp_path / "sub-03", {"t2w": ("PDw",)})) == ["sub-03"]


def test_bids_with_several_of_one_contrast(tmp_path: Path) -> None:
    anat = tmp_path / "sub-1" / "anat"
    scan(anat / "sub-1_acq-ax_T1w.nii", spacing=(0.5, 0.5, 5.0))
    scan(anat / "sub-1_acq-3d_run-2_T1w.nii", spacing=(1.0, 1.0, 1.0))
    scan(anat / "sub-1_acq-3d_run-1_T1w.nii", spacing=(1.0, 1.0, 1.0))
    scan(anat / "sub-1_acq-post_T1w.nii")
    scan(anat / "sub-1_space-MNI_T2w.nii", spacing=(1.0, 1.0, 1.0))
    scan(anat / "sub-1_T2w.nii")
    scans(anat, "sub-1_PDw", "sub-1_part-phase_T1w")
    (anat / "sub-1_acq-broken_T2w.nii").touch()
    (study,) = find_studies(tmp_path)
    assert files(study) == {"t1n": "sub-1_acq-3d_run-1_T1w.nii", "t2w": "sub-1_T2w.nii"}
    told = " ".join(study.notes)
    assert "sub-1_acq-3d_run-1_T1w.nii is taken; sub-1_acq-3d_run-2_T1w.nii, sub-1_acq-ax_T1w.nii: left out" in told
    assert "sub-1_acq-post_T1w.nii: may be t1c or t1n" in told
    assert study.left_out == (
        "sub-1_PDw.nii: 'PDw' is none of t1n, t1c, t2w, t2f",
        "sub-1_part-phase_T1w.nii: part-phase is no image of magnitude",
    )
    assert study.naming.of("t2f") == "sub-1_FLAIR.nii"


# Tables


def table(path: Path, text: str, **encoding: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **encoding)
    return path


@pytest.mark.parametrize(("mark", "ending"), [(",", "csv"), (";", "csv"), ("\t", "tsv")])
def test_table(mark: str, ending: str, tmp_path: Path) -> None:
    scans(tmp_path / "data", "a1", "a2", "seg")
    rows = [
        ["Case", "T1", "T1 post contrast", "FLAIR", "patient", "lesion", "age", "t2 lesion count"],
        ["b/1", "data/a1.nii", "", "data/a2.nii", "P1", "data/seg.nii", "40", "3"],
        ["a", str(tmp_path / "data" / "a1.nii"), "", "", "", "", "", ""],
        [""] * 8,
        ["lost", "data/none.nii", "", "", "", "", "", ""],
        ["nothing", "", "", "", "", "", "", ""],
        ["a", "data/a2.nii", "", "", "", "", "", ""],
    ]
    path = table(tmp_path / f"cases.{ending}", "\n".join(mark.join(row) for row in rows), encoding="utf-8-sig")
    found = find_studies(path)
    a, again, b, lost, nothing = found
    assert [str(s.place) for s in found] == ["a", "a-2", "b_1", "lost", "nothing"]
    assert (b.name, b.patient, files(b), b.lesion) == (
        "b/1",
        "P1",
        {"t1n": "a1.nii", "t2f": "a2.nii"},
        tmp_path / "data" / "seg.nii",
    )
    assert (read_study(a).patient, b.naming.of("t2w"), a.notes) == ("a", "b_1-t2w.nii.gz", ())
    assert f"line 5: t1n: {tmp_path / 'data' / 'none.nii'}: no such file" in problem(lost)
    assert "line 6: no scan" in problem(nothing)
    assert "line 7: case 'a' stands in line 3 already" in problem(again)


def test_table_with_ones_own_names(tmp_path: Path) -> None:
    scans(tmp_path, "P_1", "P_2")
    path = table(tmp_path / "x.csv", "subject,T1_KM,sonstiges\nP,P_1.nii,P_2.nii\n")
    (study,) = find_studies(path)
    assert list(study.files) == ["t1c"]
    assert "column 'sonstiges' is no contrast that is known" in study.notes[0]
    (study,) = find_studies(path, {"t2f": ("Sonstiges",)})
    assert (list(study.files), study.notes) == (["t1c", "t2f"], ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("a,t1\nx,x.nii\n", "no column 'case'"),
        ("case,age\nx,3\n", "no column is a contrast"),
        ("case,t1,T1w\nx,a.nii,b.nii\n", "two columns for t1n: 't1' and 'T1w'"),
        ("case,case,t1\nx,y,a.nii\n", "2 columns 'case'"),
    ],
)
def test_tables_that_cannot_be_understood(text: str, words: str, tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", text)
    assert words in refusal(path)
    path.write_bytes(b"case,t1\n\xff\xfe,x.nii\n")
    assert "UTF-8" in refusal(path)


def test_too_many_cells_are_that_cases_problem(tmp_path: Path) -> None:
    scans(tmp_path, "a")
    good, bad = find_studies(table(tmp_path / "x.csv", "case,t1\na,a.nii\nb, c,a.nii\n"))
    assert good.name == "a"
    assert "line 3: 3 cells; expected 2" in problem(bad)


# One's own names


def test_aliases(tmp_path: Path) -> None:
    path = table(
        tmp_path / "mine.yaml", 't1c: [T1_KM, "MPRAGE post"]\nflair: dark fluid!\nt1n: ["t1 flair"]\nCT: [kilovolt]\n'
    )
    mine = read_aliases(path)
    assert mine == {"t1c": ("T1_KM", "MPRAGE post"), "t2f": ("dark fluid!",), "t1n": ("t1 flair",), "ct": ("kilovolt",)}
    scans(tmp_path / "P", "P_t1_km_3", "P_T1_FLAIR", "P_kilovolt", "P_t2")
    assert places(tmp_path / "P", mine) == {
        "P": {"t1n": "P_T1_FLAIR", "t1c": "P_t1_km_3", "t2w": "P_t2", "ct": "P_kilovolt"},
    }
    assert Vocabulary(mine).meanings("Sag MPRAGE post GAD") == ("t1c",)
    assert Vocabulary({"t2f": ("x",)}).meanings("t1 X-ray") == ("t2f",)  # whole words only
    assert Vocabulary({"t2f": ("x",)}).meanings("xt1") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t1c: [a, [b]]", "is no text"),
        ("t1c: [0000]", "put it in quotes"),
        ("t1c: [abc]\nt2f: [ABC]", "'ABC' is given twice, for t1c and t2f"),
        ("t1c: [abc, A-b-c, abc]", "'abc' is given twice"),
        ("t1c: [flair]", "'flair' already means t2f"),
        ("t1c: ['--']", "no letter or digit"),
        ("- a\n- b", "no aliases in it"),
        ("", "no aliases in it"),
        ("{a: [", "not valid YAML"),
        ("3: [x]", "'3' is no contrast's name"),
    ],
)
def test_bad_aliases_are_one_clear_line(text: str, words: str, tmp_path: Path) -> None:
    path = table(tmp_path / "mine.yaml", text)
    with pytest.raises(UserError) as caught:
        read_aliases(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid YAML"):
        read_aliases(path)
    with pytest.raises(UserError, match="can't be read"):
        read_aliases(tmp_path / "absent.yaml")


# DICOM


def series(
    folder: Path,
    description: str,
    *,
    number: int = 1,
    slices: int = 6,
    study: str = "1.2.3",
    thickness: float = 2.0,
    lost: tuple[int, ...] = (),
    positions: np.ndarray | None = None,
    **tags: Any,
) -> np.ndarray:
    """Write an oblique series of 7 x 5 pixels, in shuffled order; return its voxels (X, Y, Z)."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(number).integers(0, 500, (7, 5, slices)).astype(np.uint16)
    turn = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0]])
    for index in np.random.default_rng(1).permutation(slices):
        if index in lost:
            continue
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        meta.MediaStorageSOPInstanceUID = f"{study}.{number}.{index + 1}"
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image = pydicom.Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID = study, f"{study}.{number}"
        image.PatientID, image.StudyDate, image.Modality = "Q7", "20240101", "MR"
        image.SeriesNumber, image.SeriesDescription, image.InstanceNumber = number, description, int(index) + 1
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        place = np.array([10.0, 20.0, -30.0]) + index * np.array([0, 0, thickness])
        image.ImagePositionPatient = [float(v) for v in (place if positions is None else positions[index])]
        image.ImageOrientationPatient = [float(v) for v in turn.ravel()]
        image.PixelSpacing, image.SliceThickness = [1.5, 0.75], thickness
        image.Rows, image.Columns, image.SamplesPerPixel = 5, 7, 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.RescaleSlope, image.RescaleIntercept = 2.0, -10.0
        image.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
        for tag, value in tags.items():
            setattr(image, tag, value)
        image.save_as(folder / f"{number:03d}-{index:03d}.dcm", enforce_file_format=True)
    return voxels * 2.0 - 10.0


def test_dicom_study(tmp_path: Path) -> None:
    home = tmp_path / "in" / "Q7 scan"
    voxels = series(home / "s1", "t1_mprage_sag", number=1)
    series(home / "s2", "t1_mprage_sag", number=2, ContrastBolusAgent="Dotarem")
    series(home / "s3", "t2_space_dark-fluid", number=3)
    series(home / "s4", "localizer T2", number=4)
    series(home / "s5", "T2 adc", number=5)
    series(home / "s6", "T2 TSE", number=6, ImageType=["DERIVED", "SECONDARY", "MIP"])
    series(home / "s7", "t2 tse", number=7, slices=3)
    (home / "s1" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (home / "s1" / "notes.txt").write_text("x")
    (study,) = find_studies(tmp_path / "in")
    assert (study.name, str(study.place), study.source, study.patient) == ("Q7 scan", "Q7 scan", home, "Q7")
    assert files(study) == {"t1n": "001-000.dcm", "t1c": "s2", "t2f": "s3"}  # DICOMDIR lies beside the first
    assert len(study.series["t1n"]) == 6
    assert study.naming.of("t2w") == "Q7 scan-t2w.nii.gz"
    assert study.left_out == (
        "series 4 'localizer T2': 'localizer' is none of t1n, t1c, t2w, t2f",
        "series 5 'T2 adc': 'adc' is none of t1n, t1c, t2w, t2f",
        "series 6 'T2 TSE': a localizer or a derived map",
        "series 7 't2 tse': 3 slices, so a localizer",
    )
    assert "one file of a DICOM series" in refusal(home / "s1" / "001-000.dcm")
    case = read_study(study)
    volume = case.volumes["t1n"]
    np.testing.assert_allclose(volume.voxels, voxels)
    assert volume.origin == home / "s1" / "001-000.dcm"
    write(volume, tmp_path / "out.nii.gz")
    ours, theirs = geometry(tmp_path / "out.nii.gz"), geometry(home / "s1")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def geometry(path: Path) -> list[float]:
    """Of a file or a folder of slices, as SimpleITK reads it."""
    sitk = pytest.importorskip("SimpleITK")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
    image = sitk.ReadImage(names)
    return [*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection(), *image.GetSize()]


def test_dicom_series_side_by_side(tmp_path: Path) -> None:
    series(tmp_path / "x", "T1 POST GAD", number=3, thickness=1.0)
    series(tmp_path / "x", "AX T1 +C", number=2, thickness=5.0)
    series(tmp_path / "x", "T1 FLAIR", number=4)
    series(tmp_path / "x", "T2", number=1, study="1.2.9", StudyDate="20250101")
    one, two = find_studies(tmp_path)
    assert ([s.name for s in (one, two)], [str(s.place) for s in (one, two)]) == (["x", "x-2"], ["x", "x-2"])
    assert files(one) == {"t1c": "003-000.dcm"}
    assert "2 DICOM studies" in one.notes[0]
    assert "'T1 FLAIR': may be t1n or t2f" in one.notes[1]
    assert "t1c: series 3 'T1 POST GAD' is taken; 2 'AX T1 +C': left out" in one.notes[2]
    assert read_study(one).volumes["t1c"].spacing == pytest.approx((0.75, 1.5, 1.0))
    (mine,) = [s for s in find_studies(tmp_path, {"t2f": ("t1 flair",)}) if s.name == "x"]
    assert list(mine.files) == ["t1c", "t2f"]


def test_dicom_that_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG Lossless, as many archives send it, and RLE."""
    pydicom, gdcm = pytest.importorskip("pydicom"), pytest.importorskip("gdcm")
    voxels = series(tmp_path / "jpeg", "T1", study="1.2.4")
    np.testing.assert_array_equal(voxels, series(tmp_path / "rle", "T1"))
    for path in (tmp_path / "rle").iterdir():
        image = pydicom.dcmread(path)
        image.compress(pydicom.uid.RLELossless)
        image.save_as(path)
    for path in (tmp_path / "jpeg").iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(tmp_path / "packed"))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        image["PixelData"] = pydicom.dcmread(tmp_path / "packed")["PixelData"]
        image.save_as(path)
    (tmp_path / "packed").unlink()
    jpeg, rle = find_studies(tmp_path)
    np.testing.assert_allclose(read_study(jpeg).volumes["t1n"].voxels, voxels)
    np.testing.assert_allclose(read_study(rle).volumes["t1n"].voxels, voxels)
    monkeypatch.setattr(pydicom.pixels.decoders.JPEGLosslessSV1Decoder, "_available", {})
    assert "compressed, and no decoder; pip install 'gen3d[dicom]'" in problem(jpeg)


def test_dicom_series_that_are_no_volume(tmp_path: Path) -> None:
    series(tmp_path / "lost", "T1", lost=(3,))
    tilted = np.array([[0.0, index * 1.0, index * 2.0] for index in range(6)])
    series(tmp_path / "tilted", "T1", study="1.3", positions=tilted)
    series(tmp_path / "echoes", "T1", study="1.4", positions=np.repeat(tilted[:3] * [1, 0, 1], 2, axis=0))
    series(tmp_path / "unknown", "ep2d", study="1.5")
    series(tmp_path / "broken", "T1", study="1.6")
    for path in (tmp_path / "broken").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    told = {study.name: problem(study) for study in find_studies(tmp_path)}
    assert "slices are missing or uneven, steps of 2 to 4 mm" in told["lost"]
    assert "gantry tilt" in told["tilted"]
    assert "several images in one place" in told["echoes"]
    assert "no series of a known contrast among 'ep2d'" in told["unknown"]
    assert "can't be read" in told["broken"]


def test_dicom_with_many_frames_in_one_file(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    expected = series(tmp_path / "x", "T1")
    one = read_study(find_studies(tmp_path / "x")[0]).volumes["t1n"]
    paths = sorted((tmp_path / "x").iterdir(), reverse=True)
    slices = [pydicom.dcmread(path) for path in paths]
    image = slices[0]
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    image.NumberOfFrames = len(slices)
    image.PixelData = b"".join(one.PixelData for one in slices)
    shared, frames = pydicom.Dataset(), []
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [pydicom.Dataset()], [pydicom.Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = image.ImageOrientationPatient
    shared.PixelMeasuresSequence[0].PixelSpacing = image.PixelSpacing
    shared.PixelMeasuresSequence[0].SliceThickness = image.SliceThickness
    values = pydicom.Dataset()
    values.RescaleSlope, values.RescaleIntercept = 2.0, -10.0
    shared.PixelValueTransformationSequence = [values]
    for one_slice in slices:
        frame, place = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = one_slice.ImagePositionPatient
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], frames
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del image[tag]
    (tmp_path / "multi").mkdir()
    image.save_as(tmp_path / "multi" / "IM0001", enforce_file_format=True)
    volume = read_study(find_studies(tmp_path / "multi")[0]).volumes["t1n"]
    np.testing.assert_allclose(volume.affine, one.affine, atol=1e-6)
    np.testing.assert_allclose(volume.voxels, expected)


def test_dicom_headers_that_no_standard_allows(tmp_path: Path) -> None:
    series(tmp_path / "a", "T1\nMPRAGE", study="1.7", PatientID="", SliceThickness=None, SeriesNumber=None)
    series(tmp_path / "b", "T1", study="1.8", PixelSpacing=None)
    series(tmp_path / "c", "", study="1.9", ProtocolName="t2_tse", ImageType=None)
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(path.read_bytes().replace(b"DS\x08\x001.5\\0.75", b"DS\x08\x001.5\\0,75"))
    a, b, c = find_studies(tmp_path)
    assert a.patient == "a"
    assert "does not say where it lies" in problem(a)
    assert "does not say where it lies" in problem(b)
    assert list(read_study(c).volumes) == ["t2w"]


def test_dicom_in_a_table(tmp_path: Path) -> None:
    voxels = series(tmp_path / "d" / "s1", "anything", number=1)
    series(tmp_path / "d" / "both", "one", number=2)
    series(tmp_path / "d" / "both", "two", number=3)
    text = "case,t1,t2\na,d/s1,d/both/003-000.dcm\nb,d/both,\n"
    a, b = find_studies(table(tmp_path / "x.csv", text))
    np.testing.assert_allclose(read_study(a, any_grid=True).volumes["t1n"].voxels, voxels)
    assert "2 DICOM series; expected one" in problem(b)


def test_dicom_without_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "IM1").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    assert "no study in it" in refusal(tmp_path / "in")
    monkeypatch.setattr("gen3d.data.dicom_stack.find_spec", lambda name: None)
    assert "pip install 'gen3d[dicom]'" in problem(find_studies(tmp_path / "in")[0])


# Real scans


def test_real_studies(data_folder: Path) -> None:
    for name in ("brats", "ms"):
        studies = find_studies(data_folder / name)
        assert [s.name for s in studies] == [path.name for path in find_cases(data_folder / name)]
        assert all(tuple(s.files) == CONTRASTS and s.lesion and not s.problem and not s.notes for s in studies)
    assert len(find_studies(data_folder / "hippocampus")) == 217
    visits = find_studies(data_folder / "longitudinal" / "ms_patient01")
    assert [(s.name, len(s.files), read_study(s).volumes["t2f"].contrast) for s in visits] == [
        ("study1", 3, "t2f"),
        ("study2", 3, "t2f"),
    ]
