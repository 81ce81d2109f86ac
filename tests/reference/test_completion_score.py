"""Our score and baselines against ../shared/tools, run on real scans."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.metrics import Quadratic, QuadraticFit, best_copy, quadratic_features, score_completion, unit_window

nib = pytest.importorskip("nibabel")
pytest.importorskip("scipy")

CASE = "brats/BraTS-MET-00110-000"
OTHER = "ms/patient07"
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture(scope="module")
def tools(data_folder: Path) -> dict[str, ModuleType]:
    folder = data_folder.parent / "tools"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    loaded = {}
    for name in ("score_completion", "baseline_completion"):
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield loaded
    for name in loaded:
        del sys.modules[name]


def voxels(path: Path) -> Tensor:
    return torch.from_numpy(np.asarray(nib.load(path).dataobj, dtype=np.float32))


@pytest.fixture(scope="module")
def crops(data_folder: Path, tools: dict[str, ModuleType]) -> list[dict[str, np.ndarray]]:
    """Two patients as the script reads them, cut down so that the script's own code is quick on them."""
    cut = (slice(70, 134), slice(80, 150), slice(60, 110))
    return [
        {name: v[cut] for name, v in tools["baseline_completion"].read_case(data_folder / case)[1].items()}
        for case in (CASE, OTHER)
    ]


def cut_down(path: Path, folder: Path) -> Path:
    """Write the lower half of a scan, as it is stored, so that the script is quick on it."""
    image = nib.load(path)
    half = np.asarray(image.dataobj)[20:-20, 20:-20, : image.shape[2] // 2]
    nib.save(nib.Nifti1Image(half, image.affine), folder / path.name.removesuffix(".gz"))
    return folder / path.name.removesuffix(".gz")


@pytest.mark.parametrize(
    ("case", "true", "synthetic", "mask"),
    [(CASE, "*t2f", "*t2w", "*seg"), (OTHER, "t1", "t2", "lesion_gold"), (OTHER, "flair", "t1post", None)],
)
def test_score_equals_the_script(
    data_folder: Path,
    tools: dict[str, ModuleType],
    tmp_path: Path,
    case: str,
    true: str,
    synthetic: str,
    mask: str | None,
) -> None:
    found = [next((data_folder / case).glob(f"{name}.nii.gz")) for name in (true, synthetic, mask) if name]
    paths = [cut_down(path, tmp_path) for path in found]
    brain, lesion, ssim, whole, _ = tools["score_completion"].score(*paths)
    ours = score_completion(*(voxels(path) for path in paths))
    assert ours == pytest.approx((brain, lesion, ssim, whole), abs=1e-4, nan_ok=True)


def test_score_takes_integers() -> None:
    true, other = (image(seed) * 1000 for seed in (0, 1))
    assert score_completion(true.short(), other.short()) == pytest.approx(
        score_completion(true.short().float(), other.short().float()), nan_ok=True
    )


def test_unit_window_is_how_the_script_reads_a_case(data_folder: Path, tools: dict[str, ModuleType]) -> None:
    read = tools["baseline_completion"].read_case(data_folder / OTHER)[1]["t2f"]
    assert np.abs(unit_window(voxels(data_folder / OTHER / "flair.nii.gz")).numpy() - read).max() < 1e-6


@pytest.mark.parametrize("target", ["t1c", "t2f"])
def test_quadratic_regression_equals_the_script(
    crops: list[dict[str, np.ndarray]], tools: dict[str, ModuleType], target: str
) -> None:
    features = tools["baseline_completion"].features
    held, other = crops
    x, brain = features(other, target)
    x, y = x[::7].astype(np.float64), other[target][brain][::7].astype(np.float64)
    expected = np.linalg.solve(x.T @ x + 1e-3 * np.eye(13), x.T @ y)

    def given(case: dict[str, np.ndarray]) -> list[Tensor]:
        return [torch.from_numpy(case[name]) for name in CONTRASTS if name != target]

    fit = QuadraticFit()
    fit.add(given(other), torch.from_numpy(other[target]))
    x, brain = features(held, target)
    assert np.abs(torch.stack(list(quadratic_features(given(held))), 1).numpy() - x).max() < 1e-6
    guess = fit.solve().predict(given(held))
    assert np.abs(guess.numpy()[brain] - x @ expected).max() < 1e-4
    assert not guess.numpy()[~brain].any()


def test_best_copy_is_the_best(crops: list[dict[str, np.ndarray]]) -> None:
    true, *given = (torch.from_numpy(crops[0][name]) for name in ("t2f", "t1n", "t1c", "t2w"))
    assert best_copy(true, given).brain == max(score_completion(true, v).brain for v in given)


def image(seed: int = 0, size: tuple[int, int, int] = (20, 24, 18)) -> Tensor:
    """Positive noise in a box of zeros: a brain that touches one face."""
    voxels = torch.zeros(size)
    voxels[:, 3:-3, 4:-4] = torch.rand(size, generator=torch.Generator().manual_seed(seed))[:, 3:-3, 4:-4] + 0.1
    return voxels


def test_score_does_not_see_the_scale_of_the_synthetic_image() -> None:
    true, other = image(0), image(1)
    score, scaled = score_completion(true, other), score_completion(true, other * 700 - 30)
    assert scaled.brain == pytest.approx(score.brain, abs=1e-4)
    assert scaled.ssim == pytest.approx(score.ssim, abs=1e-5)


def test_the_true_image_itself_scores_full_marks() -> None:
    score = score_completion(image(), 4 * image(), image() > 0.9)
    assert score == pytest.approx((120.0, 120.0, 1.0, 120.0), abs=1e-3)


def test_score_equals_a_gaussian_filter_at_the_faces() -> None:
    """The brain touches a face of the volume, where the window must be mirrored."""
    from scipy.ndimage import gaussian_filter

    from gen3d.metrics.completion import blur

    expected = gaussian_filter(image().numpy(), 1.5, truncate=3.5)
    assert np.abs(blur(image()).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("contrasts", [1, 2, 3])
def test_regression_finds_a_quadratic_law(contrasts: int) -> None:
    given = [image(seed) for seed in range(contrasts)]
    target = torch.where(given[0] > 0, 0.2 + 0.5 * given[-1] - 0.7 * given[0] * given[-1], torch.zeros(()))
    fit = QuadraticFit(every=1, ridge=1e-9)
    fit.add(given, target)
    model = fit.solve()
    assert (model.predict(given) - target).abs().max() < 1e-5
    assert Quadratic(tuple(model.coefficients)) == model


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        score_completion(image(), image()[1:])
    with pytest.raises(ValueError, match="not finite"):
        score_completion(image(), image() * float("nan"))
    with pytest.raises(ValueError, match="no brain"):
        score_completion(image() * 0, image())
    with pytest.raises(ValueError, match="at least one case"):
        QuadraticFit().solve()
    with pytest.raises(ValueError, match="another number of contrasts"):
        Quadratic((1.0, 2.0)).predict([image()])
