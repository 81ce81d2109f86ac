"""``gen3d synthesize``: what is written, where, and what must not change it."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813, the name its users know
from torch import Tensor

from gen3d.core.checkpoint import save_model, weights_sha256
from gen3d.core.denoiser import Denoiser
from gen3d.core.system import Example
from gen3d.data.intensity import Intensity
from gen3d.nn.unet import UNetConfig
from gen3d.tools.sampling import choose_walk
from gen3d.tools.synthesize import synthesize
from gen3d.wavelet.completion import Completion
from gen3d.wavelet.cwdm import CWDM, CWDMConfig

Run = Callable[..., tuple[int, str, str]]
NAME = "BraTS-PHA-00001-000"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def turned(case: Path, folder: Path, codes: str) -> Path:
    """A copy of a case, its arrays reversed and permuted, every voxel where it was in the world."""
    target = folder / codes / case.name
    target.mkdir(parents=True)
    for path in case.glob("*.nii.gz"):
        image = nib.load(path)
        wanted = nib.orientations.axcodes2ornt(tuple(codes))
        move = nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), wanted)
        nib.save(image.as_reoriented(move), target / path.name)
    return target


def test_finds_what_is_missing_and_writes_it_beside_nothing(
    gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path
) -> None:
    before = contents(case)
    status, said, noted = gen3d("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model)
    assert (status, contents(case)) == (0, before)
    assert "made t2f from t1n, t1c, t2w" in said
    assert "trained on 3 patients and 2 simulated brains" in noted
    wanted = {f"{NAME}/{NAME}-{end}" for end in ("t2f.nii.gz", "t2f.json", "preview.png")}
    wanted |= {"cases.csv", f"cases/{NAME}.json"}
    assert set(contents(tmp_path / "out")) == wanted
    assert not list(tmp_path.glob("out/.*"))


def test_voxels_are_float32_on_the_window_and_zero_outside(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    (path,) = synthesize(case, tmp_path / "out", tiny_model)
    image = nib.load(path)
    inside = np.any([voxels(p) > 0 for p in case.glob(f"{NAME}-t[12][ncw].nii.gz")], axis=0)
    made = np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.float32
    assert made[~inside].any() == 0
    assert made.min() >= 0
    assert made[inside].std() > 0
    assert b"SYNTHETIC" in image.header["descrip"].item()


def test_header_says_the_same_to_nibabel_and_itk(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    (path,) = synthesize(case, tmp_path / "out", tiny_model)
    source, made, itk = nib.load(case / f"{NAME}-t1n.nii.gz"), nib.load(path), sitk.ReadImage(str(path))
    assert made.shape == source.shape
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert made.header[field] == source.header[field]
    np.testing.assert_array_equal(made.affine, source.affine)
    matrix = np.reshape(itk.GetDirection(), (3, 3)) * itk.GetSpacing()
    np.testing.assert_allclose(np.diag([-1, -1, 1]) @ matrix, source.affine[:3, :3], atol=1e-5)
    np.testing.assert_allclose(np.array([-1, -1, 1]) * itk.GetOrigin(), source.affine[:3, 3], atol=1e-4)


def test_sidecar(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    gen3d("synthesize", "-i", case, "-o", tmp_path, "--model", tiny_model, "--missing", "flair", "--seed", 7)
    facts = json.loads((tmp_path / NAME / f"{NAME}-t2f.json").read_text())
    assert facts["synthetic"] is True
    assert "not for diagnosis" in facts["warning"]
    assert facts["sources"] == [f"{NAME}-{c}.nii.gz" for c in ("t1n", "t1c", "t2w")]
    assert (facts["contrast"], facts["mode"], facts["seed"], facts["steps"]) == ("t2f", "mean", 7, 1)
    assert facts["model"]["weights_sha256"] == weights_sha256(tiny_model)
    assert facts["model"]["trained_on"]["patients"] == 3


def test_the_same_command_twice_writes_the_same_bytes(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        synthesize(case, tmp_path / out, tiny_model, mode="sample", samples=2, steps=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_expected_image_has_no_seed_and_samples_do(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    def made(mode: str, seed: int) -> np.ndarray:
        few = {"samples": 1, "steps": 2} if mode == "sample" else {}
        (path,) = synthesize(case, tmp_path / f"{mode}{seed}", tiny_model, mode=mode, seed=seed, **few)
        return voxels(path)

    np.testing.assert_array_equal(made("mean", 1), made("mean", 2))
    assert np.abs(made("sample", 1) - made("sample", 2)).max() > 10


@pytest.mark.parametrize("codes", ["RAS", "SAL"])
def test_axes_of_the_files_do_not_matter(case: Path, tiny_model: Path, tmp_path: Path, codes: str) -> None:
    (path,) = synthesize(case, tmp_path / "out", tiny_model)
    (other,) = synthesize(turned(case, tmp_path, codes), tmp_path / "out2", tiny_model)
    assert nib.aff2axcodes(nib.load(other).affine) == tuple(codes)
    np.testing.assert_array_equal(
        nib.as_closest_canonical(nib.load(other)).get_fdata(), nib.as_closest_canonical(nib.load(path)).get_fdata()
    )


def test_samples_their_mean_and_their_spread(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    synthesize(case, tmp_path / "three", tiny_model, mode="sample", steps=2)
    three = tmp_path / "three" / NAME
    drawn = np.stack([voxels(three / f"{NAME}-t2f_sample-0{i}.nii.gz") for i in (1, 2, 3)])
    np.testing.assert_allclose(voxels(three / f"{NAME}-t2f.nii.gz"), drawn.mean(0), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(voxels(three / f"{NAME}-t2f_std.nii.gz"), drawn.std(0, ddof=1), rtol=1e-4, atol=1e-2)
    (one,) = synthesize(case, tmp_path / "one", tiny_model, mode="sample", samples=1, steps=2)
    np.testing.assert_array_equal(voxels(one), drawn[0])
    assert not list(one.parent.glob("*_std*"))


def test_where_samples_differ_most_is_told(case: Path, phantoms: Path, tiny_model: Path, tmp_path: Path) -> None:
    lesion = nib.load(phantoms / NAME / f"{NAME}-seg.nii.gz").get_fdata() > 0
    synthesize(case, tmp_path / "out", tiny_model, mode="sample", samples=2, steps=2, check=False)
    place = tmp_path / "out" / NAME
    std = voxels(place / f"{NAME}-t2f_std.nii.gz")
    inside = np.any([voxels(p) > 0 for p in case.glob(f"{NAME}-t[12][ncw].nii.gz")], axis=0)
    facts = {end: json.loads((place / f"{NAME}-t2f{end}.json").read_text()) for end in ("", "_std", "_sample-01")}
    told = facts[""]["least_certain"]
    assert told == facts["_std"]["least_certain"]
    assert "least_certain" not in facts["_sample-01"]
    affine = nib.load(place / f"{NAME}-t2f_std.nii.gz").affine
    np.testing.assert_allclose(told["centre_mm"], (affine @ (*told["centre_voxel"], 1))[:3], atol=0.06)
    assert std[tuple(told["centre_voxel"])] > np.percentile(std[inside], 90)
    assert told["std_percent_of_window"] > std[inside].mean() / 10
    assert "may be invented" in told["warning"]
    apart = facts[""]["lesion_std_percent_of_window"]
    assert apart["inside"] == pytest.approx(std[inside & lesion].mean() / 10, abs=0.02)
    assert apart["rest"] == pytest.approx(std[inside & ~lesion].mean() / 10, abs=0.02)
    table = (tmp_path / "out" / "cases.csv").read_text().splitlines()
    row = dict(zip(*(line.split(",") for line in table[:2]), strict=True))
    assert float(row["least_certain_t2f"]) == pytest.approx(told["std_percent_of_window"], abs=1e-3)


def test_one_image_has_no_uncertainty_and_says_how_to_get_it(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    few = {"mode": "sample", "samples": 1, "steps": 1}
    for words, how in ({}, "--mode sample"), (few, "--samples 3"):
        (path,) = synthesize(case, tmp_path / how, tiny_model, check=False, **words)  # type: ignore[arg-type]
        told = json.loads(path.with_name(f"{NAME}-t2f.json").read_text())["least_certain"]
        assert told.startswith("not estimated")
        assert how in told


def test_a_lesion_mask_that_does_not_fit_never_stops_a_case(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    mask = case / f"{NAME}-seg.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4)), mask)
    notes: list[str] = []
    synthesize(case, tmp_path, tiny_model, mode="sample", samples=2, steps=1, check=False, note=notes.append)
    assert any(f"{mask.name}: on no given scan's grid" in words for words in notes)
    facts = json.loads((tmp_path / NAME / f"{NAME}-t2f_std.json").read_text())
    assert "lesion_std_percent_of_window" not in facts
    assert "least_certain" in facts


@pytest.mark.parametrize("sampler", [None, "euler", "heun", "ancestral", "UniPCMultistep"])
def test_a_sample_takes_at_most_five_network_calls(
    case: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str | None
) -> None:
    calls = 0
    forward = Denoiser.forward

    def counting(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return forward(*arguments)

    monkeypatch.setattr(Denoiser, "forward", counting)
    synthesize(case, tmp_path, tiny_model, mode="sample", samples=1, sampler=sampler, check=False)
    assert 3 <= calls <= 5


def test_missing_lists_exactly_what_is_written_and_hides_it(
    gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path
) -> None:
    status, said, _ = gen3d("synthesize", "-i", case, "-o", tmp_path / "a", "--model", tiny_model, "--missing", "t1c")
    assert status == 0
    assert "made t1c from t1n, t2w" in said
    truth = case / f"{NAME}-t1c.nii.gz"
    image = nib.load(truth)
    nib.save(nib.Nifti1Image(np.flip(image.get_fdata(), 0).astype(np.int16), image.affine), truth)
    gen3d("synthesize", "-i", case, "-o", tmp_path / "b", "--model", tiny_model, "--missing", "t1c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for words in (["--missing", "t1c,t2f"], ["--missing", "t1c", "--missing", "t2f"], ["--missing", "t1c", "t2f"]):
        status, said, _ = gen3d(
            "synthesize", "-i", case, "-o", tmp_path / "c", "--model", tiny_model, *words, "--dry-run"
        )
        assert (status, said.startswith(f"{NAME}: would make t1c, t2f from t1n, t2w")) == (0, True)
    assert not (tmp_path / "c").exists()


def test_like_takes_the_grey_scale_of_a_scan(case: Path, phantoms: Path, tiny_model: Path, tmp_path: Path) -> None:
    scan = phantoms / NAME / f"{NAME}-t2f.nii.gz"
    (path,) = synthesize(case, tmp_path / "like", tiny_model, like=scan)
    (plain,) = synthesize(case, tmp_path / "plain", tiny_model)
    like, window = voxels(path), voxels(plain)
    scale = Intensity(rule="robust").fit(voxels(scan).astype(np.float32))
    free = (window > 0) & (like > 0)
    units = (window[free] * 6 / 1000 - 3 - scale.offset) / scale.gain  # an untrained model's window is (-3, 3)
    np.testing.assert_allclose(like[free], units, rtol=1e-3, atol=0.05)
    assert json.loads(path.with_name(f"{NAME}-t2f.json").read_text())["intensity"] == f"that of {scan.name}"


def test_names_follow_the_case(phantoms: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = {"t1n": "t1", "t1c": "t1post", "t2w": "t2"}
    for folder, prefix in (("plain", ""), ("old", "TCGA-00-0001_")):
        (tmp_path / folder).mkdir()
        for contrast, word in words.items():
            source = phantoms / NAME / f"{NAME}-{contrast}.nii.gz"
            (tmp_path / folder / f"{prefix}{word}.nii.gz").write_bytes(source.read_bytes())
        (path,) = synthesize(tmp_path / folder, tmp_path / "out", tiny_model)
        assert path == tmp_path / "out" / folder / f"{prefix}flair.nii.gz"


def test_one_bad_case_never_stops_the_rest(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    bad = case.with_name("a-bad-one")
    copytree(case, bad)
    path = bad / f"{NAME}-t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    status, said, told = gen3d("synthesize", "-i", case.parent, "-o", tmp_path / "out", "--model", tiny_model)
    assert status == 1
    assert f"{NAME}: made t2f" in said
    assert f"a-bad-one: {path}: truncated" in told
    assert told.rstrip().endswith(f"2 cases, 1 failed; {tmp_path / 'out' / 'cases.csv'} says why")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [NAME, "cases", "cases.csv"]


def test_earlier_results_are_replaced_and_others_kept(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = ("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model)
    gen3d(*command, "--missing", "t1c")
    first = contents(tmp_path / "out")
    gen3d(*command, "--mode", "sample", "--samples", 2, "--steps", 1)
    gen3d(*command)
    now = contents(tmp_path / "out")
    assert {name: now[name] for name in first if "t1c" in name} == {n: b for n, b in first.items() if "t1c" in n}
    assert not [name for name in now if "sample" in name or "std" in name]
    assert f"{NAME}/{NAME}-t2f.nii.gz" in now


def test_what_gen3d_did_not_write_is_never_touched(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    place = tmp_path / "out" / NAME
    place.mkdir(parents=True)
    (place / f"{NAME}-t2f.json").write_text("{}")
    command = ("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model)
    status, _, told = gen3d(*command)
    assert (status, "gen3d did not write it" in told) == (1, True)
    (place / f"{NAME}-t2f.json").rename(place / "notes.txt")
    assert gen3d(*command)[0] == 0
    assert (place / "notes.txt").read_text() == "{}"
    (place / "mine.nii.gz").write_bytes(b"a scan")
    assert gen3d(*command, "--no-check")[0] == 1


@pytest.mark.parametrize("where", [".", "deeper", ".."])
def test_never_beside_originals(gen3d: Run, case: Path, tiny_model: Path, where: str) -> None:
    before = contents(case.parent)
    status, _, told = gen3d("synthesize", "-i", case, "-o", case / where, "--model", tiny_model)
    assert (status, "never go beside originals" in told, told.count("\n")) == (1, True, 1)
    assert contents(case.parent) == before


def test_a_lone_file_may_have_its_results_in_a_folder_beside_it(
    gen3d: Run, case: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(case)
    command = ("synthesize", "-i", f"{NAME}-t1n.nii.gz", "--model", tiny_model, "--dry-run", "-o")
    assert gen3d(*command, "results")[:1] == (0,)
    for out in (".", ".."):  # where it lies; a case's results would lie there
        assert "never go beside originals" in gen3d(*command, out)[2]
    (case / "text_t1.nii").write_text("see attachment")
    _, _, told = gen3d("synthesize", "-i", "text_t1.nii", "--model", tiny_model, "-o", "results")
    assert told.startswith("gen3d: text_t1.nii: truncated or no NIfTI file")


def test_what_is_left_out_is_told_and_never_floods(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("PD", *(f"derived{i}" for i in range(9))):
        (case / f"{NAME}-{name}.nii.gz").write_bytes((case / f"{NAME}-t1n.nii.gz").read_bytes())
    _, _, told = gen3d("synthesize", "-i", case, "-o", tmp_path / "out", "--model", tiny_model, "--no-check")
    lines = [line for line in told.splitlines() if "left out" in line]
    assert len(lines) == 4
    assert f"{NAME}: left out: {NAME}-PD.nii.gz: 'PD' is none of t1n, t1c, t2w, t2f" in lines
    assert "and 7 more; --aliases" in lines[-1]
    assert f"left out: {NAME}-PD.nii.gz" in (tmp_path / "out" / "cases.csv").read_text()


def test_a_ct_is_named_as_what_it_is(gen3d: Run, case: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"case,ct\na,{case / NAME}-t1n.nii.gz\n")
    (tmp_path / "y.yaml").write_text("{ct: [ct]}")
    command = ("-o", tmp_path / "out", "--model", tiny_model, "--aliases", tmp_path / "y.yaml")
    _, _, told = gen3d("synthesize", "-i", tmp_path / "x.csv", *command)
    assert told == f"gen3d: {case / NAME}-t1n.nii.gz: a CT; this model needs at least one of t1n, t1c, t2w, t2f\n"


def test_a_complete_case_needs_nothing(gen3d: Run, phantoms: Path, tiny_model: Path, tmp_path: Path) -> None:
    status, said, _ = gen3d("synthesize", "-i", phantoms / NAME, "-o", tmp_path / "out", "--model", tiny_model)
    assert (status, "nothing is missing" in said, (tmp_path / "out").exists()) == (0, True, False)


def test_folders_below_folders_keep_their_place(case: Path, tiny_model: Path, tmp_path: Path) -> None:
    for site in ("north", "south"):
        copytree(case, tmp_path / "sites" / site / "patient")
    paths = synthesize(tmp_path / "sites", tmp_path / "out", tiny_model)
    assert [p.parent.relative_to(tmp_path / "out") for p in paths] == [Path("north/patient"), Path("south/patient")]


def test_voxels_unlike_the_training_envelope_are_told(
    case: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gen3d.tools.synthesize as tool
    from gen3d.tools.sampling import open_model

    def narrow(*asked: object, **options: object) -> object:
        model = open_model(*asked, **options)  # type: ignore[arg-type]
        model.system.provenance["envelope"] = {"spacing_mm": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]}
        return model

    monkeypatch.setattr(tool, "open_model", narrow)
    notes: list[str] = []
    (path,) = synthesize(case, tmp_path, tiny_model, note=notes.append)
    assert "voxels of 4 x 4 x 4 mm; the model was trained on 1 to 1 mm" in notes[-1]
    assert json.loads(path.with_name(f"{NAME}-t2f.json").read_text())["warnings"]


def test_an_official_style_grid_has_its_own_sampler() -> None:
    class Model:
        config = CWDMConfig()

    assert choose_walk(Model(), steps=10).sampler == "ancestral_large"  # type: ignore[arg-type]
    assert choose_walk(Model()).steps == 1000  # type: ignore[arg-type]
    assert choose_walk(Model(), "heun").steps == 500  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["completion", "cwdm"])
def test_results_lie_where_the_given_voxels_lie(
    case: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """A model that answers with the first given contrast must return it voxel by voxel, cropped or padded as it is."""
    model = tiny_model
    if family == "cwdm":
        model = tmp_path / "cwdm"
        network = UNetConfig(in_channels=32, out_channels=8, width=8, multipliers=(1,), blocks=1, groups=4)
        save_model(CWDM(CWDMConfig(targets=("t2f",), size=(32, 32, 48), network=network)), model)

    def echo(self: Completion | CWDM, coords: Tensor, example: Example) -> Tensor:
        return example["voxels"][:, [0, 1, 2, 0]]

    monkeypatch.setattr(Completion if family == "completion" else CWDM, "finish", echo)
    few = {} if family == "completion" else {"mode": "sample", "samples": 1, "steps": 1}
    (path,) = synthesize(case, tmp_path / "out", model, **few)  # type: ignore[arg-type]
    given, made = voxels(case / f"{NAME}-t1n.nii.gz").astype(np.float32), voxels(path)
    inside = np.zeros(given.shape, dtype=bool)
    inside[(slice(2, 34), slice(4, 36)) if family == "cwdm" else slice(None)] = True
    inside &= given > 0
    intensity, low, high = (Intensity(rule="robust"), -3, 3) if family == "completion" else (Intensity(), 0, 1)
    wanted = np.maximum(1000 * (intensity.fit(given).apply(given) - low) / (high - low), 0)
    np.testing.assert_allclose(made[inside], wanted[inside], atol=0.01)
    assert not made[~inside].any() or family == "completion"
