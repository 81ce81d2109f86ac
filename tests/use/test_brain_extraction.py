"""``gen3d synthesize --mask auto``: brains found by the user's own extractor; here, by programs that mimic their calls.

Each stand-in takes the options that its tool documents and no other, and finds what is neither dark nor as bright as
the scalp.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data import brain_extraction
from gen3d.data.brain_extraction import EXTRACTORS, extract_brain, find_extractor

Run = Callable[..., tuple[int, str, str]]
Install = Callable[..., Path]
NAME = "BraTS-PHA-00001-000"
PYTHON = sys.executable
SCALP = 2000.0
OPTIONS = {
    "synthstrip": """
p.add_argument("-i", "--image", required=True); p.add_argument("-o", "--out"); p.add_argument("-m", "--mask")
p.add_argument("-g", "--gpu", action="store_true"); p.add_argument("-b", "--border", type=int)
p.add_argument("--no-csf", action="store_true"); p.add_argument("--model")
a = p.parse_args()
source, target, gpu = a.image, a.mask, a.gpu
""",
    "hd-bet": """
p.add_argument("-i", "--input", required=True); p.add_argument("-o", "--output")
p.add_argument("-device", default="cuda")
for flag in ("--disable_tta", "--save_bet_mask", "--no_bet_image"): p.add_argument(flag, action="store_true")
a = p.parse_args()
assert a.output.endswith(".nii.gz") and a.save_bet_mask, "no mask is kept"
source, target, gpu = a.input, a.output[:-7] + "_bet.nii.gz", a.device == "cuda"
assert a.disable_tta == (not gpu), "too slow on a CPU, or worse than need be on a GPU"
""",
    "deepbet": """
p.add_argument("-i", "--input"); p.add_argument("-o", "--output"); p.add_argument("-m", "--mask_output")
p.add_argument("-v", "--tiv_output"); p.add_argument("-t", "--threshold", type=float)
p.add_argument("-g", "--no_gpu", action=argparse.BooleanOptionalAction, default=False)
p.add_argument("-s", "--skip_broken", action=argparse.BooleanOptionalAction, default=True)
a = p.parse_args()
assert a.output, "it can't do without"
source, target, gpu = a.input, a.mask_output, not a.no_gpu
""",
}
FINDS = f"""
import array, gzip, struct
with gzip.open(source) as file: header, voxels = bytearray(file.read(352)), array.array("f", file.read())
mask = [20 < v < {SCALP / 2} for v in voxels]
n = len(mask)
"""
SAVES = """
with gzip.open(target, "wb") as file: file.write(header + array.array("f", mask).tobytes())
"""


def program(options: str, *more: str) -> str:
    """A stand-in that leaves word of having been called beside itself."""
    start = f"#!{PYTHON} -IS\nimport argparse, sys, time\np = argparse.ArgumentParser(allow_abbrev=False)\n"
    word = "open(__file__ + '.called', 'a').write('GPU ' if gpu else 'CPU ')\n"
    return "".join((start, OPTIONS[options], word, *more))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a command on an otherwise empty PATH, and return where it leaves word."""
    folder = tmp_path / "tools" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))

    def installed(command: str, text: str) -> Path:
        path = folder / command
        path.write_text(text)
        path.chmod(0o755)
        return Path(f"{path}.called")

    return installed


def head() -> tuple[Volume, np.ndarray]:
    """A ball of brain, off the middle, in a scalp, in axes that are not the tools', and where the brain is."""
    x, y, z = np.indices((44, 48, 46))
    away = 4.0 * np.sqrt((x - 19.0) ** 2 + (y - 26.0) ** 2 + (z - 22.0) ** 2)
    voxels = np.where(away < 65, 100.0, np.where((away > 70) & (away < 78), SCALP, 2.0)).astype(np.float32)
    affine = np.array([[0, -4.0, 0.2, 90], [-4.0, 0, 0, 85], [0, 0.2, 4.0, -80], [0, 0, 0, 1]])
    return Volume(voxels, affine, "t1n", Path("someone_t1.nii.gz")), away < 65


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        ("mri_synthstrip", "synthstrip", "SynthStrip freesurfer-7.4.1"),
        ("synthstrip-docker", "synthstrip", "SynthStrip 1.5"),
        ("hd-bet", "hd-bet", "HD-BET 2.0.1"),
        ("deepbet-cli", "deepbet", "deepbet 1.0.2"),
    ],
)
def test_each_tool_is_called_as_its_authors_say(install: Install, command: str, options: str, told: str) -> None:
    called = install(command, program(options, "version = '1.5'\n", FINDS, SAVES))
    tools = called.parent.parent
    (tools / "build-stamp.txt").write_text("freesurfer-7.4.1\n")
    for name, version in (("hd_bet", "2.0.1"), ("deepbet", "1.0.2")):
        facts = tools / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info" / "METADATA"
        facts.parent.mkdir(parents=True)
        facts.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    volume, brain = head()
    for device in ("cpu", "cuda"):
        found = extract_brain(volume, device)
        np.testing.assert_array_equal(found.mask, brain)
        assert (found.by, found.of) == (told, "someone_t1.nii.gz")
    assert called.read_text() == "CPU GPU "


def test_synthstrip_comes_first_and_deepbet_last(install: Install) -> None:
    for tool in reversed(EXTRACTORS):
        install(tool.command, "")
        assert find_extractor()[0] is tool


@pytest.mark.parametrize(
    ("does", "told"),
    [
        (
            "print('step', file=sys.stderr); import os; sys.exit(os.path.abspath('net.bin') + ' is lost')",
            "status 1, its last line: net.bin is lost;",
        ),
        ("print('done')", "wrote no mask, its last line: done"),
        (FINDS + "mask = [0] * n" + SAVES, "its mask is empty"),
        (FINDS + "for at in (268, 292): struct.pack_into('<f', header, at, 9)" + SAVES, "another grid"),
        (FINDS + "mask = mask[:n // 2]; struct.pack_into('<h', header, 46, 23)" + SAVES, "another grid"),
        (FINDS + "mask[n // 3 :] = [0] * len(mask[n // 3 :])" + SAVES, "ml; expected 500 to 2500"),
        (FINDS + "mask = [1] * n" + SAVES, "ml; expected 500 to 2500"),
        ("open(target, 'w').write('nothing')", "no mask of whole numbers"),
        ("time.sleep(60)", "was stopped after"),
    ],
)
def test_what_is_no_brain_is_one_line(install: Install, monkeypatch: pytest.MonkeyPatch, does: str, told: str) -> None:
    if "sleep" in does:
        monkeypatch.setattr(brain_extraction, "MINUTES", 0.01)
    install("deepbet-cli", program("deepbet", does))
    with pytest.raises(UserError) as caught:
        extract_brain(head()[0])
    line = str(caught.value)
    assert line.startswith("someone_t1.nii.gz: deepbet (deepbet-cli) ")
    assert told in line
    assert "\n" not in line


def test_a_program_that_cannot_start_is_one_line(install: Install) -> None:
    install("hd-bet", "#!/there/is/no/python\n")
    with pytest.raises(UserError, match=r"HD-BET .* can't be started: no such file"):
        extract_brain(head()[0])


def headed(folder: Path) -> None:
    """Surround the brains of a case with a scalp, in air that is noise."""
    from scipy.ndimage import binary_dilation

    for path in folder.glob("*.nii.gz"):
        image = nib.load(path)
        voxels = image.get_fdata(dtype=np.float32)
        brain = voxels > 0
        scalp = binary_dilation(brain, iterations=3) & ~binary_dilation(brain, iterations=1)
        noise = np.abs(np.random.default_rng(0).normal(0, 3, voxels.shape)) + 1
        tissue = np.where(brain, 30 + 300 * voxels / voxels.max(), 0)
        nib.save(nib.Nifti1Image((np.where(scalp, SCALP, tissue) + noise).astype(np.float32), image.affine), path)


@pytest.fixture
def command(gen3d: Run, tiny_model: Path, tmp_path: Path) -> Run:
    def ask(*more: object) -> tuple[int, str, str]:
        where = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model, "--no-check")
        return gen3d("synthesize", *where, *more)

    return ask


def test_the_mask_lies_beside_the_results_and_is_told(
    install: Install, command: Run, case: Path, phantoms: Path, tmp_path: Path
) -> None:
    headed(case)
    called = install("deepbet-cli", program("deepbet", FINDS, SAVES))
    place, auto = tmp_path / "out" / NAME, ("--mask", "auto")
    mask, record = place / f"{NAME}-brainmask.nii.gz", place / f"{NAME}-t2f.json"
    assert command(*auto, "--dry-run")[0] == 0
    assert not called.exists()
    status, told, warned = command(*auto)
    assert (status, "skull" in warned, "scans)" in told) == (0, False, False)
    assert called.read_text() == "CPU "  # once, though three scans have skulls
    brain = nib.load(phantoms / NAME / f"{NAME}-t1n.nii.gz").get_fdata() > 0
    found, made = (nib.load(path) for path in (mask, place / f"{NAME}-t2f.nii.gz"))
    np.testing.assert_array_equal(found.get_fdata() > 0, brain)
    assert found.get_data_dtype() == np.uint8
    assert found.affine.tobytes() == made.affine.tobytes()
    assert not made.get_fdata()[~brain].any()
    facts = json.loads(record.read_text())["mask"]
    assert (facts["by"], facts["of"]) == ("deepbet of unknown version", f"{NAME}-t1n.nii.gz")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert "kept" in command(*auto)[1]
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before

    edited = nib.load(mask).get_fdata()
    edited[:18] = 0
    nib.save(nib.Nifti1Image(edited.astype(np.uint8), found.affine), mask)
    theirs = mask.read_bytes()
    status, _, warned = command(*auto, "--seed", 1)
    assert (status, "left alone" in warned, mask.read_bytes() == theirs) == (1, True, True)
    mask.write_bytes(before[mask.name])
    assert command("--mask", "none")[0] == 0
    assert not mask.exists()  # nothing speaks of it any more
    assert "mask" not in json.loads(record.read_text())


def test_a_failure_stops_that_case_only_and_stripped_scans_call_nothing(
    install: Install, command: Run, case: Path, tmp_path: Path
) -> None:
    copytree(case, case.with_name("other"))
    headed(case)
    called = install("hd-bet", program("hd-bet", "sys.exit('no weights')"))
    status, told, warned = command("--mask", "auto")
    assert status == 1
    assert f"{NAME}-t1n.nii.gz: HD-BET (hd-bet) failed with exit status 1, its last line: no weights; " in warned
    assert "other: made t2f" in told
    assert called.read_text() == "CPU "
    assert "no weights" in (tmp_path / "out" / "cases.csv").read_text()
    assert [p.parent.name for p in (tmp_path / "out").rglob("*.nii.gz")] == ["other"]


def test_without_any_tool_one_line_says_how_to_mend_it(
    install: Install, command: Run, case: Path, tmp_path: Path
) -> None:
    headed(case)
    for more in ((), ("--dry-run",)):
        status, _, told = command("--mask", "auto", *more)
        assert (status, told.count("\n")) == (1, 1)
        assert all(words in told for words in ("hd-bet", "pip install deepbet", "FreeSurfer", "--mask FOLDER"))
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
