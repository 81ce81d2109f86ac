"""``gen3d generate``: item i is the same however many are asked for, and finished items are kept."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813, the name its users know
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.precision import on_this_cpu
from gen3d.nn.unet import UNetConfig
from gen3d.tools.generate import generate
from gen3d.wavelet.wdm import WDM, WDMConfig

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = UNetConfig(in_channels=8, out_channels=8, width=8, multipliers=(1, 2), blocks=1, groups=4)
    torch.manual_seed(0)
    system = WDM(WDMConfig(canvas=(24, 32, 16), pool=1, spacing=(1.0, 1.5, 2.0), network=network))
    for parameter in system.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("models") / "tiny-wdm"
    save_model(system, folder)
    return folder


def test_files(gen3d: Run, model: Path, tmp_path: Path) -> None:
    status, said, _ = gen3d("generate", "--model", model, "-o", tmp_path / "out", "-n", 2, "--steps", 3)
    assert status == 0
    scans = [f"sample_000{number}.{end}" for number in (1, 2) for end in ("json", "nii.gz")]
    names = ["contact-sheet.png", "run.json", *scans]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert said.split() == [str(tmp_path / "out" / name) for name in names if name.endswith(".gz")]
    facts = json.loads((tmp_path / "out" / "sample_0002.json").read_text())
    wanted = {"synthetic": True, "sampler": "ancestral_large", "steps": 3, "seed": 0, "sample": 2, "contrast": "t1n"}
    assert {key: facts[key] for key in wanted} == wanted


def test_header(model: Path, tmp_path: Path) -> None:
    (path,) = generate(model, tmp_path, steps=2)
    image, itk = nib.load(path), sitk.ReadImage(str(path))
    assert image.shape == (24, 32, 16)
    assert image.header.get_zooms() == (1.0, 1.5, 2.0)
    assert nib.aff2axcodes(image.affine) == tuple("LPS")
    matrix = np.reshape(itk.GetDirection(), (3, 3)) * itk.GetSpacing()
    np.testing.assert_allclose(np.diag([-1, -1, 1]) @ matrix, image.affine[:3, :3], atol=1e-6)
    assert b"SYNTHETIC" in image.header["descrip"].item()
    voxels = np.asarray(image.dataobj)
    assert (voxels.dtype, voxels.min() >= 0, voxels.max() <= 1000, voxels.std() > 10) == (np.float32, True, True, True)


def test_an_item_is_the_same_whatever_the_number(model: Path, tmp_path: Path) -> None:
    (alone,) = generate(model, tmp_path / "one", 1, steps=2)
    first, second = generate(model, tmp_path / "two", 2, steps=2)
    (other,) = generate(model, tmp_path / "seed", 1, steps=2, seed=5)
    assert alone.read_bytes() == first.read_bytes()
    assert first.read_bytes() != second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_finished_items_are_kept_where_the_sidecar_agrees(model: Path, tmp_path: Path) -> None:
    first, second = generate(model, tmp_path, 2, steps=2)
    whole, stamps = first.read_bytes(), [p.stat().st_mtime_ns for p in (first, second)]
    sidecar = first.with_name("sample_0001.json")
    sidecar.write_text(sidecar.read_text().replace('"seed": 0', '"seed": 1'))
    generate(model, tmp_path, 3, steps=2)
    assert first.read_bytes() == whole
    assert first.stat().st_mtime_ns > stamps[0]
    assert second.stat().st_mtime_ns == stamps[1]


def test_runs_are_never_mixed_in_a_folder(gen3d: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("generate", "--model", model, "-o", out, "--steps", 2)
    assert gen3d(*common, "-n", 2)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for options, said in (
        (("--seed", 5), "its seed is 0, now 5"),
        (("--size", "16,20,12"), "its size is [24, 32, 16]"),
    ):
        for dry in ((), ("--dry-run",)):
            status, _, told = gen3d(*common, "-n", 1, *options, *dry)
            assert (status, f"holds another run ({said}" in told, told.count("\n")) == (1, True, 1), told
    (out / "run.json").unlink()  # as versions before this record left it
    status, _, told = gen3d(*common)
    assert (status, "holds sample_0001.json, which another run wrote" in told, told.count("\n")) == (1, True, 1), told
    del before["run.json"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_size(model: Path, tmp_path: Path) -> None:
    (path,) = generate(model, tmp_path, steps=1, size=(16, 20, 12))
    assert nib.load(path).shape == (16, 20, 12)


def test_originals_in_the_folder_are_left_alone(gen3d: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "sample_0001.nii.gz").write_bytes(b"mine")
    status, _, told = gen3d("generate", "--model", model, "-o", tmp_path, "--steps", 1)
    assert (status, told.count("\n"), [p.name for p in tmp_path.iterdir()]) == (1, 1, ["sample_0001.nii.gz"])


def test_a_model_that_is_given_scans_is_refused(gen3d: Run, tiny_model: Path, tmp_path: Path) -> None:
    status, _, told = gen3d("generate", "--model", tiny_model, "-o", tmp_path / "out")
    assert (status, "use gen3d synthesize" in told, (tmp_path / "out").exists()) == (1, True, False)


def test_a_model_that_is_given_nothing_does_not_complete(gen3d: Run, model: Path, case: Path, tmp_path: Path) -> None:
    status, _, told = gen3d("synthesize", "-i", case, "-o", tmp_path / "out", "--model", model, "--missing", "t2f")
    assert (status, "use gen3d generate" in told, told.count("\n")) == (1, True, 1)


def test_a_model_that_has_not_learnt_yet(tmp_path: Path) -> None:
    network = UNetConfig(in_channels=8, out_channels=8, width=8, multipliers=(1,), blocks=1, groups=4)
    save_model(WDM(WDMConfig(canvas=(16, 16, 16), pool=1, network=network)), tmp_path / "new")
    (path,) = generate(tmp_path / "new", tmp_path / "out", steps=1)
    assert (np.asarray(nib.load(path).dataobj) == 500).all()
    assert (tmp_path / "out" / "contact-sheet.png").exists()


@pytest.mark.skipif(not on_this_cpu(torch.bfloat16), reason="needs a CPU that computes in bf16")
def test_the_number_format_is_chosen_and_recorded_and_matters_little(gen3d: Run, tmp_path: Path) -> None:
    scans = {}
    for precision, said in (("fp32", "float32"), ("bf16", "bfloat16")):
        out = tmp_path / precision
        command = ("generate", "--model", "hippocampus-wdm", "-o", out, "--steps", 4, "--precision", precision)
        assert gen3d(*command)[0] == 0
        assert json.loads((out / "sample_0001.json").read_text())["model"]["computed_in"] == said
        scans[precision] = nib.load(out / "sample_0001.nii.gz").get_fdata()
    apart = scans["bf16"] - scans["fp32"]
    assert apart.any()
    assert np.sqrt((apart**2).mean()) < 0.01 * 1000  # a hundredth of the grey scale; a call differs by 0.6 %


def test_an_unknown_number_format_is_one_line(gen3d: Run, model: Path, tmp_path: Path) -> None:
    status, _, told = gen3d("generate", "--model", model, "-o", tmp_path / "out", "--precision", "bf61")
    assert status == 2
    assert told == "gen3d: precision 'bf61': expected auto, fp32, bf16, fp16 (did you mean 'bf16'?)\n"
