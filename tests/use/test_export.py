"""``gen3d export``: results of ``gen3d synthesize`` as nnU-Net cases, a BIDS derivative and DICOM series."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from gen3d.core.volume import Volume
from gen3d.data import dicom_out
from gen3d.data.dicom_source import Series, Slice
from gen3d.data.finished import Finished, Synthetic
from gen3d.data.nifti import read, write
from gen3d.data.studies import find_studies, read_study
from gen3d.tools.register import registered
from gen3d.tools.request import Plan, Request
from gen3d.tools.synthesize import synthesize

Run = Callable[..., tuple[int, str, str]]
A, B = "BraTS-PHA-00001-000", "BraTS-PHA-00001-001"  # two visits of one patient
WARNING = "not for diagnosis"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tree(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def archive(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two visits that lack the FLAIR, and a complete study; never written to."""
    folder = tmp_path_factory.mktemp("archive")
    for name in (A, B, "whole"):
        copytree(phantoms / A, folder / name)
    for name in (A, B):
        (folder / name / f"{A}-t2f.nii.gz").unlink()
    return folder


@pytest.fixture(scope="module")
def results(archive: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "out"
    synthesize(archive, out, tiny_model, check=False)
    return out


@pytest.fixture
def lossy(results: Path, tmp_path: Path) -> Path:
    """Results of which one image was lost."""
    copytree(results, tmp_path / "lossy")
    (tmp_path / "lossy" / B / f"{A}-t2f.nii.gz").unlink()
    return tmp_path / "lossy"


# Whatever the target


@pytest.mark.parametrize("to", ["nnunet", "bids", "dicom"])
def test_twice_is_byte_equal_and_a_dry_run_writes_nothing(
    gen3d: Run, archive: Path, results: Path, tmp_path: Path, to: str
) -> None:
    before = contents(archive), contents(results)
    command = ("export", results, "-i", archive, "--to", to, "-o")
    status, said, _ = gen3d(*command, tmp_path / "a", "--dry-run")
    assert (status, f"{A}: would export synthetic t2f" in said, list(tmp_path.iterdir())) == (0, True, [])
    status, said, _ = gen3d(*command, tmp_path / "a")
    assert (status, said.splitlines()[-1].startswith("3 cases: ")) == (0, True)
    first = contents(tmp_path / "a")
    assert gen3d(*command, tmp_path / "a")[0] == 0  # an earlier export is replaced
    assert gen3d(*command, tmp_path / "b")[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == first
    assert (contents(archive), contents(results)) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    told = tree(tmp_path / "a" / "synthetic.json")
    assert WARNING in told["warning"]
    assert [(one["case"], one["contrast"]) for one in told["synthetic"]] == [(A, "t2f"), (B, "t2f")]
    sidecar = tree(results / A / f"{A}-t2f.json")
    assert told["models"] == [{key: sidecar["model"][key] for key in ("name", "weights_sha256")}]


@pytest.mark.parametrize("to", ["nnunet", "bids", "dicom"])
def test_one_bad_case_never_stops_the_rest(gen3d: Run, archive: Path, lossy: Path, tmp_path: Path, to: str) -> None:
    status, said, told = gen3d("export", lossy, "-i", archive, "--to", to, "-o", tmp_path / "out")
    assert status == 1
    (line,) = [line for line in told.splitlines() if line.startswith("gen3d: ")]
    assert line.startswith(f"gen3d: {B}: {lossy / B / f'{A}-t2f.nii.gz'}: no such file")
    assert said.splitlines()[-1].startswith("3 cases: ")
    assert "1 failed" in said
    assert {one["case"] for one in tree(tmp_path / "out" / "synthetic.json")["synthetic"]} == {A}
    assert not [name for name in contents(tmp_path / "out") if B in name or B.replace("-", "") in name]


def test_never_beside_originals_or_results_or_what_is_not_gen3ds(
    gen3d: Run, archive: Path, results: Path, tmp_path: Path
) -> None:
    copytree(archive, tmp_path / "home" / "in")
    for out in (archive, archive / "x", results, results / "x", results.parent):
        status, _, told = gen3d("export", results, "-i", archive, "--to", "bids", "-o", out)
        assert (status, told.count("\n"), "choose another -o" in told) == (1, 1, True)
    status, _, told = gen3d("export", results, "-i", tmp_path / "home" / "in", "--to", "bids", "-o", tmp_path / "home")
    assert (status, "choose another -o" in told) == (1, True)
    command = ("export", results, "-i", archive, "--to", "nnunet", "-o", tmp_path / "out")
    assert gen3d(*command)[0] == 0
    (tmp_path / "out" / "imagesTs" / "mine.nii.gz").write_bytes(b"a scan")
    before = contents(tmp_path / "out")
    status, _, told = gen3d(*command)
    assert (status, contents(tmp_path / "out")) == (1, before)
    assert "mine.nii.gz: gen3d export did not write it" in told


def test_what_does_not_fit_together_is_one_line(
    gen3d: Run, archive: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(archive / A, tmp_path / "in" / "other")

    def told(*arguments: object, status: int = 1) -> str:
        found, _, words = gen3d("export", *arguments, "-o", tmp_path / "out")
        assert (found, words.count("\n"), (tmp_path / "out").exists()) == (status, 1, False)
        return words

    assert "did you mean 'nnunet'" in told(results, "-i", archive, "--to", "nnunett", status=2)
    assert "expected the folder of an earlier gen3d synthesize" in told(archive / A, "-i", archive / B, "--to", "bids")
    assert "expected the -i of gen3d synthesize" in told(results, "-i", tmp_path / "in", "--to", "bids")
    assert "--channels" in told(results, "-i", archive, "--to", "bids", "--channels", "t1n", status=2)
    assert "a contrast twice" in told(results, "-i", archive, "--to", "nnunet", "--channels", "t1,t1n", status=2)
    monkeypatch.setattr("gen3d.data.dicom_stack.find_spec", lambda name: None)
    assert "pip install 'gen3d[dicom]'" in told(results, "-i", archive, "--to", "dicom")


def test_other_scans_than_were_synthesized_are_refused(
    gen3d: Run, archive: Path, results: Path, tmp_path: Path
) -> None:
    copytree(archive, tmp_path / "in")
    home = tmp_path / "in" / A
    (home / f"{A}-t2w.nii.gz").rename(home / f"{A}-t2.nii.gz")
    status, _, told = gen3d("export", results, "-i", tmp_path / "in", "--to", "nnunet", "-o", tmp_path / "out")
    assert status == 1
    assert f"its t2w is {A}-t2.nii.gz, and was {A}-t2w.nii.gz when it was synthesized" in told


# nnU-Net


def test_nnunet(gen3d: Run, archive: Path, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gen3d("export", results, "-i", archive, "--to", "nnunet", "-o", out)[0] == 0
    images = contents(out / "imagesTs")
    assert sorted(images) == sorted(f"{name}_000{i}.nii.gz" for name in (A, B, "whole") for i in range(4))
    for number, contrast in enumerate(("t1n", "t1c", "t2w")):
        assert images[f"{A}_000{number}.nii.gz"] == (archive / A / f"{A}-{contrast}.nii.gz").read_bytes()
    assert images[f"{A}_0003.nii.gz"] == (results / A / f"{A}-t2f.nii.gz").read_bytes()
    dataset = tree(out / "dataset.json")
    assert dataset["channel_names"] == {"0": "T1", "1": "T1c", "2": "T2", "3": "FLAIR"}
    assert (dataset["file_ending"], dataset["numTraining"], dataset["labels"]) == (".nii.gz", 0, {"background": 0})
    listed = tree(out / "synthetic.json")
    assert {one["file"] for one in listed["synthetic"]} == {f"imagesTs/{name}_0003.nii.gz" for name in (A, B)}
    assert next((s.name, list(s.files)) for s in find_studies(out)) == (A, ["t1n", "t1c", "t2w", "t2f"])


def test_nnunet_channels_are_those_that_were_asked_for(
    gen3d: Run, phantoms: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "in" / "lacks t2" / "v.1"
    copytree(phantoms / A, home)
    for contrast in ("t2w", "t2f"):
        (home / f"{A}-{contrast}.nii.gz").unlink()
    first = home / f"{A}-t1n.nii.gz"
    nib.save(nib.load(first), home / f"{A}-t1n.nii")
    first.unlink()
    synthesize(tmp_path / "in", tmp_path / "made", tiny_model, ["t2f"], check=False)
    command = ("export", tmp_path / "made", "-i", tmp_path / "in", "--to", "nnunet", "-o", tmp_path / "out")
    status, _, told = gen3d(*command, "--channels", "t1n,t1c,t2w,t2f")
    assert (status, "has no t2w, neither acquired nor synthetic" in told) == (1, True)
    assert gen3d(*command, "--channels", "flair,t1")[0] == 0
    made, given = (tmp_path / "out" / "imagesTs" / f"lacks-t2_v.1_000{i}.nii.gz" for i in (0, 1))
    assert b"SYNTHETIC" in nib.load(made).header["descrip"].item()
    assert b"SYNTHETIC" not in nib.load(given).header["descrip"].item()
    np.testing.assert_array_equal(nib.load(given).get_fdata(), nib.load(home / f"{A}-t1n.nii").get_fdata())
    assert tree(tmp_path / "out" / "dataset.json")["channel_names"] == {"0": "FLAIR", "1": "T1"}


def test_nnunet_resamples_as_the_model_saw_it(
    gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Volume] = {}

    def watched(plan: Plan, request: Request) -> Plan:
        plan = registered(plan, request)
        seen.update(plan.case.volumes)
        assert list(plan.transforms) == ["t2w"]
        return plan

    monkeypatch.setattr("gen3d.tools.synthesize.registered", watched)
    path = case / f"{A}-t2w.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3, 3] += (6.0, -6.0, 6.0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, :-2], affine), path)
    synthesize(case, tmp_path / "made", tiny_model, check=False, align="t1n")
    assert gen3d("export", tmp_path / "made", "-i", case, "--to", "nnunet", "-o", tmp_path / "out")[0] == 0
    channels = [nib.load(tmp_path / "out" / "imagesTs" / f"{A}_000{i}.nii.gz") for i in range(4)]
    np.testing.assert_array_equal(channels[2].get_fdata(), seen["t2w"].voxels)
    for channel in channels:
        np.testing.assert_array_equal(channel.affine, channels[0].affine)
        assert channel.shape == channels[0].shape
    resampled = {one["contrast"]: one["resampled"] for one in tree(tmp_path / "out" / "synthetic.json")["originals"]}
    assert resampled == {"t1n": False, "t1c": False, "t2w": True}
    assert gen3d("export", tmp_path / "made", "-i", case, "--to", "bids", "-o", tmp_path / "bids")[0] == 0
    assert len(list((tmp_path / "bids").rglob("*.nii.gz"))) == 1  # on the common grid alone
    next((tmp_path / "made" / A).glob("*.tfm")).unlink()
    status, _, told = gen3d("export", tmp_path / "made", "-i", case, "--to", "nnunet", "-o", tmp_path / "other")
    assert (status, "no transform of gen3d's" in told, (tmp_path / "other").exists()) == (1, True, False)


def test_nnunet_takes_what_was_acquired_unless_the_last_run_made_it_anew(
    gen3d: Run, phantoms: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """And says where the skull is on in one channel and off in another."""
    home = tmp_path / "in" / A
    copytree(phantoms / A, home)
    path = home / f"{A}-t1n.nii.gz"
    image = nib.load(path)
    brain = image.get_fdata(dtype=np.float32)
    around = binary_dilation(brain > 0, iterations=3) & ~binary_dilation(brain > 0)
    noise = np.random.default_rng(0).uniform(0, 5, brain.shape)
    head = np.where(around, 1.5 * np.median(brain[brain > 0]), brain) + noise
    nib.save(nib.Nifti1Image(head.astype(np.float32), image.affine), path)
    nib.save(nib.Nifti1Image((brain > 0).astype(np.uint8), image.affine), tmp_path / "brain.nii.gz")
    command = ("export", tmp_path / "made", "-i", tmp_path / "in", "--to", "nnunet", "-o", tmp_path / "out")

    def taken() -> tuple[list[str], str]:
        status, _, told = gen3d(*command)
        assert status == 0
        return [one["contrast"] for one in tree(tmp_path / "out" / "synthetic.json")["synthetic"]], told

    synthesize(home, tmp_path / "made", tiny_model, ["t1c"], check=False)
    assert taken()[0] == ["t1c"]
    synthesize(home, tmp_path / "made", tiny_model, ["t2f"], check=False, mask=tmp_path / "brain.nii.gz")
    contrasts, told = taken()
    assert contrasts == ["t2f"]
    assert f"t2f: the synthetic one is taken, as it was made anew; {A}-t2f.nii.gz is not" in told
    assert "t1n: the skull seems to be on, but t2f shows the brain alone" in told


# BIDS


def test_bids_of_a_bids_dataset(gen3d: Run, phantoms: Path, tiny_model: Path, tmp_path: Path) -> None:
    for visit in ("sub-P01/ses-a", "sub-P01/ses-b"):
        anat, name = tmp_path / "raw" / visit / "anat", visit.replace("/", "_")
        anat.mkdir(parents=True)
        for contrast, word in (("t1n", "T1w"), ("t2f", "FLAIR")):
            (anat / f"{name}_{word}.nii.gz").write_bytes((phantoms / A / f"{A}-{contrast}.nii.gz").read_bytes())
    (tmp_path / "raw" / "dataset_description.json").write_text('{"Name": "raw", "DatasetDOI": "doi:10.0/x"}')
    synthesize(tmp_path / "raw", tmp_path / "made", tiny_model, ["t1c"], mode="sample", samples=2, steps=1, check=False)
    out = tmp_path / "raw-synthetic"
    assert gen3d("export", tmp_path / "made", "-i", tmp_path / "raw", "--to", "bids", "-o", out)[0] == 0
    stem = "sub-P01/ses-a/anat/sub-P01_ses-a_ce-gadolinium_desc-synth"
    ends = [f"{stem}{label}_T1w" for label in ("", "std", "sample01", "sample02")]
    here = {str(p.relative_to(out)) for p in (out / "sub-P01" / "ses-a").rglob("*.*")}
    assert here == {f"{end}.{kind}" for end in ends for kind in ("json", "nii.gz")}
    made = tmp_path / "made" / "sub-P01" / "ses-a" / "sub-P01_ses-a_ce-gadolinium_T1w"
    assert (out / f"{ends[0]}.nii.gz").read_bytes() == made.with_name(f"{made.name}.nii.gz").read_bytes()
    sidecar = tree(out / f"{ends[1]}.json")
    assert sidecar["Sources"] == [
        f"bids:raw:sub-P01/ses-a/anat/sub-P01_ses-a_{word}.nii.gz" for word in ("T1w", "FLAIR")
    ]
    assert (sidecar["SkullStripped"], sidecar["synthetic"]) == (True, True)
    assert "standard deviation" in sidecar["Description"]
    assert WARNING in sidecar["Description"]
    about = tree(out / "dataset_description.json")
    assert (about["DatasetType"], about["DatasetLinks"]) == ("derivative", {"raw": "../raw"})
    assert about["SourceDatasets"] == [{"URL": "../raw", "DOI": "doi:10.0/x"}]
    assert [one["Name"] for one in about["GeneratedBy"]] == ["gen3d", "tiny"]
    assert WARNING in (out / "README.md").read_text()
    assert find_studies(out)[0].files["t1c"].name == f"{Path(ends[0]).name}.nii.gz"  # not a sample of it


def test_bids_of_other_archives(gen3d: Run, archive: Path, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gen3d("export", results, "-i", archive, "--to", "bids", "-o", out)[0] == 0
    names = sorted(str(p.relative_to(out)) for p in out.rglob("sub-*.nii.gz"))
    start = "sub-BraTSPHA00001/ses-{0}/anat/sub-BraTSPHA00001_ses-{0}_desc-synth_FLAIR.nii.gz"
    assert names == [start.format("000"), start.format("001")]
    sidecar = tree(out / names[0].replace(".nii.gz", ".json"))
    assert sidecar["Sources"] == [f"{A}/{A}-{contrast}.nii.gz" for contrast in ("t1n", "t1c", "t2w")]
    assert "DatasetLinks" not in tree(out / "dataset_description.json")


def test_bids_labels_are_alphanumeric_and_unique() -> None:
    from gen3d.core.volume import Naming
    from gen3d.data.bids_out import visit_names
    from gen3d.data.study import Study

    def study(place: str, patient: str) -> Study:
        return Study(Path(place).name, Path(place), {}, Path(place), patient, Naming())

    names = ["a-b", "a_b", "A B", "ü", "abx2", "site/p1"]
    studies = [study(name, name) for name in names] + [study(f"v/{i}", "P 7") for i in ("P 7", "P 7-2")]
    found = visit_names(studies, None)
    labels = ["_".join(parts) for parts in found.values()]
    assert len({label.casefold() for label in labels}) == len(studies)
    assert all(re.fullmatch(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?", label) for label in labels)
    assert {parts[0] for place, parts in found.items() if place.parts[0] == "v"} == {"sub-P7"}


# DICOM


def turned_by(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    """A rotation, by Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def itk_volume(folder: Path) -> Volume:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


@pytest.mark.parametrize(
    ("codes", "spacing", "degrees", "slices"),
    [
        ("RAS", (1.0, 1.0, 1.0), 0.0, 2),
        ("LPS", (0.9, 0.8, 3.0), 17.0, 2),
        ("SAL", (1.1, 4.0, 0.7), 25.0, 1),
        ("PIR", (5.0, 0.7, 0.8), -11.0, 0),
        ("LIA", (1.2, 1.2, 0.5), 40.0, 1),
        ("ASR", (1.0, 1.0, 1.005), 8.0, 2),
    ],
)
def test_dicom_reads_back_as_it_was(
    tmp_path: Path, codes: str, spacing: tuple[float, float, float], degrees: float, slices: int
) -> None:
    pydicom = pytest.importorskip("pydicom")
    shape = (9, 7, 6)
    voxels = np.random.default_rng(3).gamma(1.0, 200.0, shape).astype(np.float32)
    voxels[:2] = 0
    affine = np.diag([*spacing, 1.0])
    plain = Volume(voxels, np.eye(4)).reoriented(codes).affine[:3, :3]
    affine[:3, :3] = turned_by(degrees, (1, 2, 3)) @ plain @ np.diag(spacing)
    affine[:3, 3] = (-80.3, 31.7, 12.9)
    source = tmp_path / "in" / "c" / "c_t1.nii.gz"
    write(Volume(voxels, affine), source)
    write(Volume(voxels, affine), tmp_path / "c_flair.nii.gz")
    facts = {"contrast": "t2f", "kind": "expected image", "seed": 0, "sources": [source.name], "model": {"name": "m"}}
    (study,) = find_studies(tmp_path / "in")
    case = Finished(study, (Synthetic(tmp_path / "c_flair.nii.gz", facts),))
    ((output,), _) = dicom_out.outputs(case, "c", f"Synthetic, {WARNING}.")
    output.write(tmp_path / "out")
    original = read(tmp_path / "c_flair.nii.gz")
    files = sorted((tmp_path / "out").iterdir())
    first = pydicom.dcmread(files[0])
    assert len(files) == shape[slices]
    step = float(first.RescaleSlope)
    (found,) = find_studies(tmp_path / "out")
    assert list(found.files) == ["t2f"]
    for back in (read_study(found).volumes["t2f"], itk_volume(tmp_path / "out")):
        alike = back.reoriented(original.axcodes)
        np.testing.assert_allclose(alike.affine, original.affine, atol=1e-4)
        np.testing.assert_allclose(alike.voxels, original.voxels, rtol=0, atol=0.51 * step)
        assert (alike.voxels[original.voxels == 0] == 0).all()
    assert step < 0.1
    if degrees == 0:  # an axial slice, as it is looked at: rows to the patient's left, columns to the back
        assert list(first.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert (first.SyntheticData, first.PatientID, first.StudyDate) == ("YES", "c", "")


def test_dicom_whose_grid_is_sheared_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    affine = np.eye(4)
    affine[0, 1] = 0.05
    path = tmp_path / "in" / "c_t1.nii"
    write(Volume(np.random.default_rng(0).uniform(0, 9, (6, 6, 6)).astype(np.float32), affine), path)
    case = Finished(find_studies(tmp_path / "in")[0], (Synthetic(path, {"contrast": "t2f"}),))
    with pytest.raises(Exception, match="a sheared grid"):
        dicom_out.outputs(case, "c", WARNING)


def series(folder: Path, volume: Volume, number: int, description: str) -> None:
    """Write a slightly oblique series, one file a slice."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir(parents=True)
    turn = turned_by(12.0, (1, 1, 0))
    greys = np.rint(volume.voxels / volume.voxels.max() * 3000).astype(np.uint16)
    for index in range(volume.shape[2]):
        image, meta = pydicom.Dataset(), pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"1.2.3.{number}.{index + 1}"
        meta.TransferSyntaxUID, image.file_meta = pydicom.uid.ExplicitVRLittleEndian, meta
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3", f"1.2.3.{number}", "1.2.9"
        image.SpecificCharacterSet, image.PatientName, image.PatientID = "ISO_IR 100", "Müller^Eva", "P7"
        image.PatientBirthDate, image.PatientSex, image.AccessionNumber = "19700101", "F", "A1"
        image.StudyDate, image.StudyTime, image.Modality, image.PatientPosition = "20240101", "101010", "MR", "HFS"
        image.Manufacturer = "Maker"
        image.SeriesNumber, image.SeriesDescription, image.InstanceNumber = number, description, index + 1
        place = np.array([-60.0, -70.0, -50.0]) + 4.0 * index * turn[:, 2]
        image.ImagePositionPatient = [f"{mm:.10g}" for mm in place]
        image.ImageOrientationPatient = [f"{value:.12g}" for value in turn[:, :2].T.ravel()]
        image.PixelSpacing, image.SliceThickness = [4.0, 4.0], 4.0
        image.Columns, image.Rows = volume.shape[:2]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelData = np.ascontiguousarray(greys[:, :, index].T).tobytes()
        image.save_as(folder / f"{index:03d}.dcm", enforce_file_format=True)


def test_dicom_joins_the_study_that_it_came_from(gen3d: Run, phantoms: Path, tiny_model: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    home = tmp_path / "in" / "P7"
    for number, (contrast, words) in enumerate((("t1n", "T1"), ("t1c", "T1 KM"), ("t2w", "T2")), start=1):
        series(home / f"s{number}", read(phantoms / A / f"{A}-{contrast}.nii.gz"), number, words)
    made = tmp_path / "made"
    synthesize(tmp_path / "in", made, tiny_model, mode="sample", samples=2, steps=1, check=False)
    assert gen3d("export", made, "-i", tmp_path / "in", "--to", "dicom", "-o", tmp_path / "out")[0] == 0
    folders = sorted((tmp_path / "out" / "P7").iterdir())
    assert [folder.name for folder in folders] == ["t2f", "t2f_sample-01", "t2f_sample-02", "t2f_std"]
    images = {folder.name: [pydicom.dcmread(path) for path in sorted(folder.iterdir())] for folder in folders}
    assert len({image.SOPInstanceUID for several in images.values() for image in several}) == 4 * 36
    assert len({image.SeriesInstanceUID for several in images.values() for image in several}) == 4
    for index, image in enumerate(images["t2f"]):
        source = pydicom.dcmread(home / "s1" / f"{index:03d}.dcm")
        for tag in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
            assert image[tag].value == source[tag].value
        assert image.FrameOfReferenceUID == source.FrameOfReferenceUID
        np.testing.assert_allclose(image.ImagePositionPatient, source.ImagePositionPatient, atol=1e-6)
        np.testing.assert_allclose(image.ImageOrientationPatient, source.ImageOrientationPatient, atol=1e-6)
        references = [one.ReferencedSOPInstanceUID for one in image.SourceImageSequence]
        assert references == [f"1.2.3.{number}.{index + 1}" for number in (1, 2, 3)]
    image = images["t2f"][0]
    assert (image.SyntheticData, image.BurnedInAnnotation, image.Modality) == ("YES", "NO", "MR")
    assert list(image.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert image.SeriesDescription == "SYNTHETIC FLAIR"
    assert images["t2f_std"][0].SeriesDescription == "SYNTHETIC FLAIR standard deviation"
    model = tree(made / "P7" / "P7-t2f.json")["model"]
    for words in (WARNING, "T1, T1c, T2", model["weights_sha256"]):
        assert words in image.DerivationDescription
    computed, measured = image.ContributingEquipmentSequence
    assert model["name"] in computed.ManufacturerModelName
    assert measured.Manufacturer == "Maker"
    assert re.fullmatch(r"2\.25\.\d{1,39}", image.SeriesInstanceUID)
    assert not [
        tag
        for tag in image.dir("Date", "Time")
        if tag not in ("StudyDate", "StudyTime") and "Birth" not in tag and tag not in ("EchoTime", "RepetitionTime")
    ]
    (back,) = find_studies(tmp_path / "out" / "P7" / "t2f")
    volume, original = read_study(back).volumes["t2f"], read(made / "P7" / "P7-t2f.nii.gz")
    assert volume.on_grid_of(original)
    np.testing.assert_allclose(volume.voxels, original.voxels, rtol=0, atol=0.51 * float(image.RescaleSlope))
    assert gen3d("report", made, "-i", tmp_path / "in")[0] == 0
    page = (made / "report.html").read_text()
    assert "not found below" not in page
    assert all(f'"title":"{contrast}"' in page.replace('": "', '":"') for contrast in ("T1", "T1c", "T2"))


def test_dicom_source_slices_are_those_in_the_same_place() -> None:
    def stack(step: float, normal: tuple[float, ...], *, moved: bool = False) -> Series:
        upright = np.array(normal)
        return Series({}, tuple(Slice(("", str(i)), i * step * upright, upright) for i in range(20)), moved)

    def near(series: Series) -> list[int]:
        return [int(one.uids[1]) for one in series.near(np.array([3.0, 5.0, 6.0]), np.array([0.0, 0.0, 1.0]), 3.0)]

    assert near(stack(3.0, (0, 0, 1))) == [2]
    assert near(stack(1.0, (0, 0, 1))) == [5, 6, 7]
    assert near(stack(4.0, (0, 0, 1))) == [1, 2]  # as near as each other
    assert near(stack(5.0, (0, 0, 1))) == [1]
    assert near(stack(3.0, (0, 1, 0))) == list(range(20))
    assert near(stack(3.0, (0, 0, 1), moved=True)) == list(range(20))


def test_dicom_uids_tell_other_scans_and_seeds_apart(archive: Path, results: Path) -> None:
    pytest.importorskip("pydicom")
    study = next(study for study in find_studies(archive) if study.name == A)
    path = results / A / f"{A}-t2f.nii.gz"
    facts = tree(results / A / f"{A}-t2f.json")

    def uid(path: Path, **other: Any) -> str:
        ((output,), _) = dicom_out.outputs(Finished(study, (Synthetic(path, facts | other),)), "c", WARNING)
        return str(output.facts["series_instance_uid"])

    assert uid(path) == uid(path)
    assert len({uid(path), uid(path, seed=1), uid(path, model={}), uid(archive / A / f"{A}-t1n.nii.gz")}) == 4
