"""``gen3d evaluate generation`` as a person runs it, on small made-up scans."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen3d.core.volume import Volume
from gen3d.data.nifti import read, write
from gen3d.tools.evaluate import measured, report

Run = Callable[..., tuple[int, str, str]]
SHAPE = (20, 24, 18)


def blob(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A bright ellipsoid with texture on a dark ground, every seed another."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    centre, radii = rng.uniform(-0.2, 0.2, 3), rng.uniform(0.4, 0.8, 3)
    inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre, radii, strict=True)) < 1
    waves = sum(rng.normal() * np.cos(rng.uniform(2, 6) * g + rng.uniform(0, 6)) for g in grids)
    return ((100 + 20 * waves + rng.normal(0, 2, shape)) * inside).astype(np.float32)


def folder_of(folder: Path, seeds: range, shape: tuple[int, ...] = SHAPE) -> Path:
    for seed in seeds:
        write(Volume(blob(seed, shape), np.eye(4)), folder / f"scan_{seed:03d}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real, generated and training scans; the generated ones come from the same distribution."""
    place = tmp_path_factory.mktemp("sets")
    return {
        "real": folder_of(place / "real", range(12)),
        "fake": folder_of(place / "fake", range(100, 108)),
        "train": folder_of(place / "train", range(200, 212)),
    }


def results(out: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((out / "results.json").read_text())
    return tree


def test_says_everything(gen3d: Run, sets: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    kinds = "--features", "radiomic,random3d"
    status, said, told = gen3d(
        "evaluate", "generation", sets["real"], sets["fake"], "--train", sets["train"], "-o", out, *kinds
    )
    assert status == 0, told
    tree = results(out)
    assert [block["about"]["key"] for block in tree["features"]] == ["fd_radiomic", "fd_random3d"]
    for block in tree["features"]:
        about = block["about"]
        assert about["n_real"] == 12
        assert about["n_fake"] == 8
        assert about["d"] > 1
        assert block["interval_95"]["low"] < block["frechet"] < block["interval_95"]["high"]
        assert block["frechet_same_n"]["n"] == 6
        assert block["frechet_same_n"]["real"] > 0
        assert block["warning"] in tree["warnings"]
    assert "fid" not in json.dumps(tree["features"])
    assert tree["settings"]["preprocessing"] in said
    assert 0 < tree["ms_ssim"]["fake"]["value"] < 1
    assert tree["ms_ssim"]["real"]["pairs"] == 66
    assert tree["copies"]["searched"] == "train"
    assert len(tree["copies"]["scans"]) == 8
    for words in ("fd_radiomic", "FRD", "copy rate (train)", "mean pairwise MS-SSIM", "real against real at n = 6"):
        assert words in said
    assert (out / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_the_next_reference(gen3d: Run, sets: dict[str, Path], tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    train = "--train", sets["train"]
    assert gen3d("evaluate", "generation", sets["real"], sets["train"], *train, "-o", first)[0] == 0
    status, _, told = gen3d("evaluate", "generation", first / "results.json", sets["fake"], "-o", second)
    assert status == 0, told
    assert gen3d("evaluate", "generation", sets["real"], sets["fake"], *train, "-o", third)[0] == 0
    one, other = results(second), results(third)
    assert one["features"] == other["features"]
    assert one["copies"] == other["copies"]
    assert one["ms_ssim"] == other["ms_ssim"]
    status, _, told = gen3d("evaluate", "generation", first, sets["fake"], "-o", tmp_path / "d", "--size", 8, 8, 8)
    assert status == 2
    assert "--size" in told


def test_goes_on_where_it_was_stopped(
    gen3d: Run, sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, count = measured.of_scan, 0

    def stops_after_nine(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 10:
            raise KeyboardInterrupt
        return whole(*arguments)

    command = "evaluate", "generation", sets["real"], sets["fake"], "-o", tmp_path / "out"
    monkeypatch.setattr(measured, "of_scan", stops_after_nine)
    assert gen3d(*command)[0] == 130
    assert not (tmp_path / "out" / "results.json").exists()
    count = 100
    assert gen3d(*command)[0] == 0
    assert count == 100 + 12 + 8 - 9
    count = 100
    assert gen3d(*command)[0] == 0
    assert count == 100


def test_copies_are_found_and_said(gen3d: Run, sets: dict[str, Path], tmp_path: Path) -> None:
    for path in sorted(sets["train"].iterdir())[:8]:
        scan = read(path)
        write(Volume(np.ascontiguousarray(2 * scan.voxels[::-1] + 5), scan.affine), tmp_path / "fake" / path.name)
    out = tmp_path / "out"
    status, _, _ = gen3d("evaluate", "generation", sets["real"], tmp_path / "fake", "--train", sets["train"], "-o", out)
    assert status == 0
    tree = results(out)
    assert tree["copies"]["rate"] == 1
    assert all(scan["scan"] == scan["nearest"] for scan in tree["copies"]["scans"])
    assert any("copies" in warning for warning in tree["warnings"])


def test_mixed_shapes_and_spacings_are_said(gen3d: Run, sets: dict[str, Path], tmp_path: Path) -> None:
    folder_of(tmp_path / "fake", range(4), (16, 20, 22))
    write(Volume(blob(9), np.diag([2.0, 2, 2, 1])), tmp_path / "other" / "a.nii.gz")
    write(Volume(blob(10), np.diag([2.0, 2, 2, 1])), tmp_path / "other" / "b.nii.gz")
    status, _, _ = gen3d("evaluate", "generation", sets["real"], tmp_path / "fake", "-o", tmp_path / "a")
    assert status == 0
    tree = results(tmp_path / "a")
    assert tree["settings"]["size"] == [16, 20, 18]
    assert any("mixed shapes" in warning for warning in tree["warnings"])
    assert gen3d("evaluate", "generation", sets["real"], tmp_path / "other", "-o", tmp_path / "b")[0] == 0
    assert any("spacings differ" in warning for warning in results(tmp_path / "b")["warnings"])


def nan_scan(folder: Path) -> None:
    voxels = blob(1)
    voxels[3, 3, 3] = np.nan
    write(Volume(voxels, np.eye(4)), folder / "nan.nii.gz")


def constant_scan(folder: Path) -> None:
    write(Volume(np.full(SHAPE, 7, np.float32), np.eye(4)), folder / "flat.nii.gz")


def text_scan(folder: Path) -> None:
    (folder / "text.nii.gz").write_text("not an image")


@pytest.mark.parametrize(
    ("spoil", "named"), [(nan_scan, "nan.nii.gz"), (constant_scan, "flat.nii.gz"), (text_scan, "text.nii.gz")]
)
def test_a_bad_scan_is_named(
    gen3d: Run, sets: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None], named: str
) -> None:
    fake = folder_of(tmp_path / "fake", range(3))
    spoil(fake)
    status, _, told = gen3d("evaluate", "generation", sets["real"], fake, "-o", tmp_path / "out")
    assert status == 1
    assert named in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_bad_requests_are_one_line(gen3d: Run, sets: dict[str, Path], tmp_path: Path) -> None:
    empty, one = tmp_path / "empty", folder_of(tmp_path / "one", range(1))
    empty.mkdir()
    several = tmp_path / "several"
    for name in ("t1n", "t2f"):
        write(Volume(blob(1), np.eye(4)), several / f"case-{name}.nii.gz")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "results.json").write_text("{}")
    real, fake = sets["real"], sets["fake"]
    for arguments, expected, words in (
        ((real, empty), 1, "no scan in it"),
        ((empty, fake), 1, "no scan in it"),
        ((real, tmp_path / "absent"), 1, "no such folder"),
        ((real, one), 1, "1 scan; a distribution needs at least 2"),
        ((one, fake), 1, "1 scan; a distribution needs at least 4"),
        ((real, several), 2, "--contrast"),
        ((real, fake, "--features", "radiomics"), 1, "radiomic"),
        ((real, fake, "--features", "medicalnet50"), 1, "--feature-weights"),
        ((real, fake, "--feature-weights", tmp_path / "no.pth"), 1, "no.pth"),
        ((real, fake, "--window", 5, 5), 2, "rising"),
        ((real, fake, "--size", 0, 4, 4), 2, "above 0"),
        ((foreign / "results.json", fake), 1, "no evaluation"),
    ):
        status, _, told = gen3d("evaluate", "generation", *arguments, "-o", tmp_path / "out")
        assert status == expected, told
        assert words in told
        assert len(told.strip().splitlines()) == 1
        assert not (tmp_path / "out" / "results.json").exists()
    status, _, told = gen3d("evaluate", "generation", real, fake, "-o", foreign)
    assert status == 1
    assert "did not write it" in told
    assert (foreign / "results.json").read_text() == "{}"
    other = tmp_path / "other"
    other.mkdir()
    (other / "reference.npz").write_bytes(b"somebody's")
    status, _, told = gen3d("evaluate", "generation", real, fake, "-o", other)
    assert status == 1
    assert "did not write it" in told
    assert (other / "reference.npz").read_bytes() == b"somebody's"


def test_nothing_is_left_half_written(
    gen3d: Run, sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that fails leaves the earlier results and the reference that belongs to them."""
    out = tmp_path / "out"
    assert gen3d("evaluate", "generation", sets["real"], sets["fake"], "-o", out)[0] == 0
    before = {name: (out / name).read_bytes() for name in ("results.json", "summary.png", "reference.npz")}

    def fails(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "draw", fails)
    status, _, told = gen3d("evaluate", "generation", sets["train"], sets["fake"], "-o", out)
    assert status == 1
    assert "no space left" in told
    assert {name: (out / name).read_bytes() for name in before} == before
    assert sorted(path.name for path in out.iterdir()) == ["cache", *sorted(before)]
