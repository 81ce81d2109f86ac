"""``gen3d segment``: what is written where, what it says of itself, what is refused in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from gen3d.core.checkpoint import save_model
from gen3d.core.parameterization import VP, X0
from gen3d.core.system import Sampling
from gen3d.core.volume import Case, Volume
from gen3d.data.envelope import envelope
from gen3d.nn.unet import UNetConfig
from gen3d.segmentation.cdal import CDAL, CDALConfig
from gen3d.segmentation.cimd import CIMD, CIMDConfig
from gen3d.segmentation.discriminator import DiscriminatorConfig
from gen3d.segmentation.latents import LatentConfig
from gen3d.segmentation.plain import Plain, PlainConfig
from gen3d.segmentation.probunet import ProbUNet, ProbUNetConfig
from gen3d.tools.segment_masks import modes, pairwise_dice
from tests.use.test_studies import series
from tests.use.test_visits import save, scan

Run = Callable[..., tuple[int, str, str]]
AFFINE = np.array([[0.0, 0, -2, 30], [-1.5, 0, 0, 9], [0, 1, 0, -4], [0, 0, 0, 1]])  # no axis where the model has it
VOXEL_ML = 0.003
TINY: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}
PATCH = {"patch": (16, 16, 16)}


def shaken(system: Any, std: float = 0.1) -> Any:
    """An untrained model whose answer depends on everything that it is given."""
    generator = torch.Generator().manual_seed(0)
    for parameter in system.parameters():
        parameter.data += std * torch.randn(parameter.shape, generator=generator)
    system.provenance = {"patients": 3, "sources": [{"name": "made up", "licence": "CC0"}]}
    return system


def two_parts(**changes: Any) -> Plain:
    torch.manual_seed(0)
    config = PlainConfig(labels=("front", "back half"), network=UNetConfig(4, 3, **TINY), **PATCH)  # type: ignore[arg-type]
    return shaken(Plain(replace(config, **changes)))


def raters(**changes: Any) -> CIMD:
    """Three raters whom the network tells apart."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "features": UNetConfig(8, 32, **TINY),
        "network": UNetConfig(48, 16, latent=2, **TINY),
        "latent": LatentConfig(2, (4, 8)),
        "raters": 3,
        "named": True,
        "sampling": Sampling("euler", 2, "flow"),
    }
    return shaken(CIMD(CIMDConfig(**PATCH | settings | changes)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(two_parts(), folder / "plain")
    save_model(two_parts(network=UNetConfig(4, 3, dropout=0.5, **TINY)), folder / "dropout")
    save_model(two_parts(contrasts=("t1n", "t2f"), network=UNetConfig(5, 3, **TINY)), folder / "two_contrasts")
    save_model(raters(), folder / "raters")
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A scan whose name says nothing, on a turned grid."""
    return save(tmp_path / "in" / "patient9.nii.gz", noisy(0), AFFINE)


def noisy(seed: int, shape: tuple[int, ...] = (20, 24, 18)) -> np.ndarray:
    return scan((*shape,)) + np.random.default_rng(seed).normal(0, 8, shape).astype(np.float32)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_files_geometry_and_what_they_say(gen3d: Run, image: Path, models: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out", tmp_path / "out" / "patient9"
    arguments = ("segment", "-i", image, "-o", out, "--model", models / "raters", "--precision", "fp32")
    status, said, told = gen3d(*arguments, "--samples", 4, "--report", tmp_path / "report.json")
    assert status == 0, told
    assert "structure: " in said
    assert "among 4 samples: " in said
    assert "not for diagnosis" in told
    kinds = ("seg", "probability", "entropy", "std", *(f"sample-0{n}" for n in range(1, 5)))
    nifti = {kind: folder / f"patient9_{kind}.nii.gz" for kind in kinds}
    sidecars = {f"patient9_{kind}.json" for kind in kinds}
    assert {p.name for p in folder.iterdir()} == {p.name for p in nifti.values()} | sidecars | {"patient9_preview.png"}
    given = nib.load(image)
    for path in nifti.values():
        made = nib.load(path)
        assert made.shape == given.shape
        np.testing.assert_array_equal(made.affine, given.affine)
        assert "SYNTHETIC" in str(made.header["descrip"])
    samples = np.stack([voxels(nifti[f"sample-0{n}"]) for n in range(1, 5)])
    assert samples.dtype == np.uint8
    assert samples.std(0).max() > 0  # they differ
    share = (samples == 1).mean(0)
    np.testing.assert_allclose(voxels(nifti["probability"]), share, atol=1e-6)
    np.testing.assert_array_equal(voxels(nifti["seg"]), share > 0.5)
    np.testing.assert_allclose(voxels(nifti["std"]), samples.std(0, ddof=1), atol=1e-6)
    halves = np.isclose(share, 0.5)
    np.testing.assert_allclose(voxels(nifti["entropy"])[halves], np.log(2), atol=1e-6)
    assert voxels(nifti["entropy"])[share == 1].max(initial=0) < 1e-6
    about = json.loads((folder / "patient9_seg.json").read_text())
    assert (about["synthetic"], about["samples"], about["labels"]) == (True, 4, {"1": "structure"})
    each = (samples == 1).sum((1, 2, 3)) * VOXEL_ML
    volumes = about["volumes_ml"]
    assert volumes["most_likely"]["structure"] == pytest.approx((share > 0.5).sum() * VOXEL_ML, abs=1e-4)
    assert volumes["samples_mean"]["structure"] == pytest.approx(each.mean(), abs=1e-3)
    assert volumes["samples_smallest_largest"]["structure"] == pytest.approx((each.min(), each.max()), abs=1e-3)
    assert "(smallest and largest of 4 samples: " in said
    assert sum(mode["frequency"] for mode in about["modes"]) == pytest.approx(1, abs=1e-3)
    assert sorted(n for mode in about["modes"] for n in mode["samples"]) == [1, 2, 3, 4]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["cases"], report["failed"], report["results"][0]["status"]) == (1, 0, "made")
    before = {p.name: p.read_bytes() for p in folder.glob("*.nii.gz")}
    assert gen3d(*arguments, "--samples", 4)[0] == 0
    assert {p.name: p.read_bytes() for p in folder.glob("*.nii.gz")} == before
    alone = (*arguments[:4], tmp_path / "alone", *arguments[5:], "--samples", 1)
    assert gen3d(*alone)[0] == 0
    same = voxels(tmp_path / "alone" / "patient9" / "patient9_sample-01.nii.gz") == samples[0]
    assert same.mean() > 0.999  # however many are drawn together
    assert gen3d(*arguments, "--samples", 2, "--seed", 1)[0] == 0  # old samples would belong to another spread
    assert {p.name for p in folder.glob("*sample*")} == {f"patient9_sample-0{n}.{e}" for n in (1, 2) for e in ENDS}
    assert before["patient9_sample-01.nii.gz"] != (folder / "patient9_sample-01.nii.gz").read_bytes()


ENDS = ("json", "nii.gz")


def test_a_model_without_chance_answers_once(gen3d: Run, image: Path, models: Path, tmp_path: Path) -> None:
    status, said, told = gen3d("segment", "-i", image, "-o", tmp_path / "out", "--model", models / "plain")
    assert status == 0, told
    assert "answers the same whatever the seed" in told
    folder = tmp_path / "out" / "patient9"
    kinds = ("seg", "probability_front", "probability_back_half", "entropy")
    assert {p.name for p in folder.glob("*.nii.gz")} == {f"patient9_{kind}.nii.gz" for kind in kinds}
    front, back = (voxels(folder / f"patient9_{kind}.nii.gz") for kind in kinds[1:3])
    rest = 1 - front - back
    sure = np.ptp(np.sort([rest, front, back], axis=0)[1:], axis=0) > 1e-5
    likely = np.stack([rest, front, back]).argmax(0)
    np.testing.assert_array_equal(voxels(folder / "patient9_seg.nii.gz")[sure], likely[sure])
    assert 0 < front.mean() < 1
    entropy = -sum(p * np.log(np.maximum(p, 1e-12)) for p in (rest, front, back))
    np.testing.assert_allclose(voxels(folder / "patient9_entropy.nii.gz"), entropy, atol=1e-4)
    assert "modes" not in json.loads((folder / "patient9_seg.json").read_text())
    assert "back half: " in said


def test_dropout_draws_and_soft_samples_have_a_spread(gen3d: Run, image: Path, models: Path, tmp_path: Path) -> None:
    options = ("--samples", 3, "--model", models / "dropout")
    status, _, told = gen3d("segment", "-i", image, "-o", tmp_path / "out", *options)
    assert status == 0, told
    folder = tmp_path / "out" / "patient9"
    std = voxels(folder / "patient9_std.nii.gz")
    assert 0 < std.max() < 1
    samples = [voxels(folder / f"patient9_sample-0{n}.nii.gz") for n in (1, 2, 3)]
    assert (samples[0] != samples[1]).any()
    assert max(int(sample.max()) for sample in samples) <= 2


def test_a_mask_lies_on_its_image_however_that_is_stored(gen3d: Run, image: Path, models: Path, tmp_path: Path) -> None:
    other = tmp_path / "in" / "turned.nii.gz"
    nib.save(nib.as_closest_canonical(nib.load(image)), other)
    status, _, told = gen3d("segment", "-i", image.parent, "-o", tmp_path / "out", "--model", models / "plain")
    assert status == 0, told
    made = [nib.load(tmp_path / "out" / name / f"{name}_seg.nii.gz") for name in ("patient9", "turned")]
    assert [nib.aff2axcodes(one.affine) for one in made] == [("P", "S", "L"), ("R", "A", "S")]
    np.testing.assert_array_equal(nib.as_closest_canonical(made[0]).dataobj, made[1].dataobj)
    assert 0 < np.mean(np.asarray(made[1].dataobj) > 0) < 1


def test_one_rater_draws_unlike_another(gen3d: Run, image: Path, models: Path, tmp_path: Path) -> None:
    made = []
    for rater in (1, 3):
        out = tmp_path / f"rater{rater}"
        options = ("--samples", 1, "--rater", rater, "--model", models / "raters")
        status, _, told = gen3d("segment", "-i", image, "-o", out, *options)
        assert status == 0, told
        assert not list(out.rglob("*_std*"))  # a single sample has no spread
        assert json.loads((out / "patient9" / "patient9_seg.json").read_text())["rater"] == rater
        made.append(voxels(out / "patient9" / "patient9_sample-01.nii.gz"))
    assert (made[0] != made[1]).any()


def test_windows_leave_no_hole(gen3d: Run, image: Path, tmp_path: Path) -> None:
    save_model(raters(windows=(12, 12, 12)), tmp_path / "windowed")
    options = ("--samples", 0, "--model", tmp_path / "windowed")
    status, _, told = gen3d("segment", "-i", image, "-o", tmp_path / "out", *options)
    assert status == 0, told
    probability = voxels(tmp_path / "out" / "patient9" / "patient9_probability.nii.gz")
    assert probability.shape == (20, 24, 18)
    assert 0 < probability.min() < probability.max() < 1


@pytest.mark.parametrize("kind", ["cdal", "probunet"])
def test_the_other_systems(gen3d: Run, image: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "cdal":
        network = UNetConfig(3, 2, latent=4, **TINY)
        judge = DiscriminatorConfig(width=4, multipliers=(1, 2))
        system: Any = CDAL(
            CDALConfig(
                network=network,
                discriminator=judge,
                parameterization=X0(VP(2)),
                sampling=Sampling("ancestral", 2, "ddpm"),
                **PATCH,
            )
        )  # type: ignore[arg-type]
    else:
        features, latent = UNetConfig(8, 32, **TINY), LatentConfig(2, (4, 8))
        system = ProbUNet(ProbUNetConfig(features=features, latent=latent, **PATCH))  # type: ignore[arg-type]
    save_model(shaken(system), tmp_path / kind)
    for samples in (2, 0):
        options = ("--samples", samples, "--model", tmp_path / kind)
        status, _, told = gen3d("segment", "-i", image, "-o", tmp_path / "out", *options)
        assert status == 0, told
        assert len(list((tmp_path / "out" / "patient9").glob("*sample*.nii.gz"))) == samples
        assert (tmp_path / "out" / "patient9" / "patient9_seg.nii.gz").is_file()


def test_a_single_slice(gen3d: Run, tmp_path: Path) -> None:
    shapes = {"patch": (16, 16, 1), "canvas": (24, 24, 1)}  # a canvas would cut one slice out of a volume
    model = raters(**shapes, features=UNetConfig(4, 16, **TINY), network=UNetConfig(24, 8, latent=2, **TINY))
    save_model(model, tmp_path / "slices")
    save(tmp_path / "in" / "one.nii.gz", noisy(0, (20, 24, 18))[..., 9:10])
    save(tmp_path / "in" / "volume.nii.gz", noisy(0))
    options = ("-o", tmp_path / "out", "--samples", 2, "--model", tmp_path / "slices")
    status, said, told = gen3d("segment", "-i", tmp_path / "in", *options)
    assert (status, "one:" in said) == (1, True), told
    assert "volume: 20 x 24 x 18 voxels on the model's axes; it segments slices; split the volume" in told
    assert nib.load(tmp_path / "out" / "one" / "one_seg.nii.gz").shape == (20, 24, 1)
    assert (tmp_path / "out" / "one" / "one_preview.png").stat().st_size > 5000


def test_a_folder_of_scans_and_one_that_fails(gen3d: Run, image: Path, models: Path, tmp_path: Path) -> None:
    save(image.parent / "small.nii.gz", noisy(1, (20, 3, 20)))
    save(image.parent / "other.nii.gz", noisy(2))
    report = tmp_path / "all.json"
    options = ("--model", models / "plain", "--report", report)
    status, said, told = gen3d("segment", "-i", image.parent, "-o", tmp_path / "out", *options)
    assert status == 1
    assert "gen3d: small: small: 20 x 3 x 20 voxels, too small a volume; expected at least 4 an axis" in told
    assert "3 cases, 1 failed" in told
    assert ("other:" in said, "patient9:" in said) == (True, True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["other", "patient9"]
    statuses = {row["case"]: row["status"] for row in json.loads(report.read_text())["results"]}
    assert statuses == {"other": "made", "patient9": "made", "small": "failed"}


def test_a_data_set_and_a_study_of_other_contrasts(gen3d: Run, models: Path, tmp_path: Path) -> None:
    save(tmp_path / "set" / "imagesTr" / "c_001.nii.gz", noisy(1))
    save(tmp_path / "set" / "labelsTr" / "c_001.nii.gz", (noisy(1) > 60).astype(np.uint8))
    options = ("-o", tmp_path / "out", "--dry-run", "--model")
    status, said, told = gen3d("segment", "-i", tmp_path / "set", *options, models / "dropout")
    assert (status, "c_001: would be segmented by 16 samples" in said) == (0, True), told
    save(tmp_path / "studies" / "P" / "t1.nii.gz", noisy(1))
    status, said, told = gen3d("segment", "-i", tmp_path / "studies", *options, models / "plain")
    assert (status, "P: would be segmented by one call" in said) == (0, True), told  # the lone scan is the image
    status, _, told = gen3d("segment", "-i", tmp_path / "studies", *options, models / "two_contrasts")
    assert (status, "P: has t1n, no t2f; add it, or choose another --model" in told) == (1, True)
    save(tmp_path / "studies" / "P" / "flair.nii.gz", noisy(2))
    assert gen3d("segment", "-i", tmp_path / "studies", *options, models / "two_contrasts")[0] == 0
    status, _, told = gen3d("segment", "-i", tmp_path / "studies", *options, models / "plain")
    assert (status, "P: has t1n, t2f; this model takes one MR scan" in told) == (1, True)
    assert not (tmp_path / "out").exists()


def test_a_dicom_series(gen3d: Run, models: Path, tmp_path: Path) -> None:
    shape = series(tmp_path / "in" / "Q" / "s1", "t1_mprage_sag").shape
    status, _, told = gen3d("segment", "-i", tmp_path / "in", "-o", tmp_path / "out", "--model", models / "plain")
    assert status == 0, told
    (made,) = (tmp_path / "out").rglob("*_seg.nii.gz")
    assert nib.load(made).shape == shape


def test_images_unlike_the_training_set_are_told(gen3d: Run, image: Path, tmp_path: Path) -> None:
    system = two_parts()
    prepared = system.prepare(Case("c", {"mri": Volume(noisy(0), np.eye(4) * 9)}))
    system.provenance["envelope"] = envelope([prepared], ("mri",))
    save_model(system, tmp_path / "elsewhere")
    status, _, told = gen3d("segment", "-i", image, "-o", tmp_path / "out", "--model", tmp_path / "elsewhere")
    assert (status, "patient9: unlike the training set: voxels of" in told) == (0, True), told
    about = json.loads((tmp_path / "out" / "patient9" / "patient9_seg.json").read_text())
    assert about["outside_training"]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--model", "hippocampus-latent"), 1, "segments nothing; choose another --model"),
        (("--samples", "-1"), 2, "--samples -1: expected at least 0"),
        (("--rater", "4"), 1, "--rater 4: raters knows raters 1 to 3"),
        (("--rater", "0"), 1, "--rater 0: raters knows raters 1 to 3"),
        (("--rater", "1", "--model", "plain"), 1, "--rater 1: plain knows no raters apart; leave it out"),
        (("-i", "nothing"), 1, "nothing: no such file or folder"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    gen3d: Run, image: Path, models: Path, tmp_path: Path, options: tuple[str, ...], status: int, words: str
) -> None:
    given = [str(models / word) if word == "plain" else word for word in options]
    arguments = ("segment", "-i", image, "-o", tmp_path / "out", "--model", models / "raters", *given)
    code, said, told = gen3d(*arguments)
    assert (code, words in told, told.count("\n"), said) == (status, True, 1, ""), told
    assert not (tmp_path / "out").exists()


def test_originals_and_foreign_files_are_left_alone(gen3d: Run, image: Path, models: Path, tmp_path: Path) -> None:
    model = ("--model", models / "plain")
    for source, out in ((image, image.parent), (image.parent, image.parent), (image.parent, image.parent / "out")):
        status, _, told = gen3d("segment", "-i", source, "-o", out, *model)
        assert (status, "lies in the input folder" in told) == (1, True), told
    assert [p.name for p in image.parent.iterdir()] == [image.name]
    assert gen3d("segment", "-i", image, "-o", image.parent / "out", *model)[0] == 0  # a lone scan's own subfolder
    mine = save(tmp_path / "out" / "patient9" / "patient9_seg.nii.gz")
    before = mine.read_bytes()
    status, _, told = gen3d("segment", "-i", image, "-o", tmp_path / "out", *model)
    assert (status, "gen3d did not write it" in told) == (1, True)
    assert mine.read_bytes() == before


def test_modes_are_groups_of_like_samples() -> None:
    samples = np.zeros((6, 10, 10, 10), np.uint8)
    samples[:, :, :5] = 1
    samples[[1, 3, 4], :, :7] = 1  # Dice 0.83 with the others
    samples[3, 0, 0, 0] = 0  # and 0.9986 with its like
    samples[:, 0, 9] = 2
    samples[5, :, 8] = 2
    dice = pairwise_dice(samples, 2)
    assert dice[0, 1] == pytest.approx((2 * 500 / (500 + 700) + 1) / 2, abs=1e-6)
    assert dice[0, 5] == pytest.approx((1 + 2 * 10 / (10 + 110)) / 2, abs=1e-6)
    np.testing.assert_array_equal(np.diag(dice), 1)
    assert [sorted(group) for group in modes(samples, 2)] == [[1, 3, 4], [0, 2], [5]]
    assert modes(np.zeros((2, 4, 4, 4), np.uint8), 1) == [[0, 1]]  # nothing found is agreement too
