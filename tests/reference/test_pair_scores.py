"""The figures of a pair against MONAI, torchmetrics, numpy and our older score; and what they catch on real scans."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.metrics import score_completion
from gen3d.metrics.pairs import PairRow, nrmse, pair_rows, regions_of
from gen3d.metrics.ssim import ssim_map

nib = pytest.importorskip("nibabel")

FIXED, MATCHED = "fixed window", "scale matched"
CASES = {  # true contrast, another contrast, lesion mask
    "brats/BraTS-MET-00110-000": ("*t2f", "*t2w", "*seg"),
    "ms/patient07": ("flair", "t2", "lesion_gold"),
}
Trio = tuple[Tensor, Tensor, Tensor]


def trio(folder: Path, names: tuple[str, str, str]) -> Trio:
    """Every second voxel of the scans' middle, so that the tests are quick."""
    files = [next(folder.glob(f"{name}.nii.gz")) for name in names]
    middle = (slice(20, -20, 2), slice(20, -20, 2), slice(10, -10, 2))
    true, other, mask = (
        torch.from_numpy(np.asarray(nib.load(file).dataobj, dtype=np.float32)[middle]) for file in files
    )
    return true, other, mask


@pytest.fixture(scope="module", params=CASES)
def scans(request: pytest.FixtureRequest, data_folder: Path) -> Trio:
    return trio(data_folder / request.param, CASES[request.param])


def scored(true: Tensor, fake: Tensor, lesion: Tensor) -> dict[tuple[str, str], PairRow]:
    rows = pair_rows(true, fake, regions=regions_of(true, lesion=lesion))
    return {(row.region, row.normalisation): row for row in rows}


def test_scale_matched_rows_are_the_completion_score(scans: Trio) -> None:
    rows = scored(*scans)
    score = score_completion(*scans)
    found = (
        rows["brain", MATCHED].psnr,
        rows["lesion", MATCHED].psnr,
        rows["brain", MATCHED].ssim,
        rows["whole", MATCHED].psnr,
    )
    assert found == pytest.approx(score, abs=1e-6)


def test_an_erased_lesion_is_bad_in_the_lesion_and_nowhere_else(scans: Trio) -> None:
    """Against mild noise that is worse over the brain: the brain's row praises the erased one, the lesion's doesn't."""
    true, _, mask = scans
    healthy = (true > 0) & (mask == 0)
    rng = torch.Generator().manual_seed(0)
    like_healthy = true[healthy][torch.randint(int(healthy.sum()), true.shape, generator=rng)]
    erased = torch.where(mask > 0, like_healthy, true)
    without = scored(true, erased, mask)
    row = without["brain", FIXED]
    sigma = 10 ** ((3 - row.psnr) / 20) * (row.high - row.low)
    noisy = torch.where(true > 0, true + sigma * torch.randn(true.shape, generator=rng), true)
    with_noise = scored(true, noisy, mask)
    for normalisation in (FIXED, MATCHED):
        assert without["brain", normalisation].psnr > with_noise["brain", normalisation].psnr + 1
        assert without["lesion", normalisation].psnr < with_noise["lesion", normalisation].psnr - 5
        assert without["healthy", normalisation].psnr > without["lesion", normalisation].psnr + 20
        assert without["lesion", normalisation].ssim < without["healthy", normalisation].ssim - 0.2
    assert without["healthy", FIXED].psnr > 100  # not a voxel of it was touched


def test_halved_intensities_are_bad_in_the_fixed_window(scans: Trio) -> None:
    true, _, mask = scans
    rows = scored(true, true / 2, mask)
    for region in ("brain", "lesion", "healthy", "whole"):
        assert rows[region, FIXED].psnr < rows[region, MATCHED].psnr - 80
        assert rows[region, MATCHED].gain == pytest.approx(2, rel=1e-6)
        assert rows[region, FIXED].gain == 1
    assert rows["brain", FIXED].psnr < 16


def test_as_papers_do_it_both_would_pass(scans: Trio) -> None:
    """Each image windowed by itself, over the whole volume: why no row here is made so."""
    true, _, mask = scans

    def own_window(image: Tensor) -> np.ndarray:
        low, high = np.quantile(image.numpy(), [0.001, 0.999])
        return (np.clip(image.numpy(), low, high) - low) / (high - low)

    def papers(image: Tensor) -> float:
        return float(-10 * np.log10(np.mean((own_window(true) - own_window(image)) ** 2) + 1e-12))

    assert papers(true / 2) > 100
    rows = scored(true, true / 2, mask)
    assert papers(true / 2) - rows["brain", FIXED].psnr > 80


def test_against_numpy(scans: Trio) -> None:
    true, other, mask = scans
    low, high = np.quantile(true.numpy().astype(np.float64), [0.001, 0.999])
    a, b = ((np.clip(v.numpy().astype(np.float64), low, high) - low) / (high - low) for v in (true, other))
    for region, where in {"lesion": mask > 0, "brain": true > 0, "whole": torch.ones_like(mask) > 0}.items():
        row = scored(*scans)[region, FIXED]
        error = (a - b)[where.numpy()]
        inside = a[where.numpy()]
        rmse = np.sqrt(np.mean(error**2))
        assert row.psnr == pytest.approx(-20 * np.log10(rmse), abs=1e-6)
        assert (row.mae, row.rmse) == pytest.approx((np.abs(error).mean(), rmse), rel=1e-9)
        assert row.nrmse == pytest.approx(rmse / (inside.max() - inside.min()), rel=1e-9)
        assert row.nrmse == pytest.approx(
            nrmse(torch.from_numpy(a), torch.from_numpy(b), where, norm="range"), rel=1e-9
        )


def images() -> tuple[Tensor, Tensor]:
    a = torch.rand(22, 26, 24, generator=torch.Generator().manual_seed(0))
    return a, (a + 0.3 * torch.rand(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def test_against_monai() -> None:
    """Over the whole volume with the window [0, 1]; SSIM where MONAI's window lies inside the volume."""
    from monai.metrics import MAEMetric, PSNRMetric, RMSEMetric
    from monai.metrics.regression import KernelType, compute_ssim_and_cs

    a, b = images()
    row = pair_rows(a, b, regions={"whole": torch.ones_like(a)}, window=(0, 1))[0]
    both = (b[None, None], a[None, None])
    assert row.psnr == pytest.approx(float(PSNRMetric(max_val=1.0)(*both)), abs=1e-5)
    assert row.mae == pytest.approx(float(MAEMetric()(*both)), rel=1e-6)
    assert row.rmse == pytest.approx(float(RMSEMetric()(*both)), rel=1e-6)
    ssim, _ = compute_ssim_and_cs(*both, 3, (11, 11, 11), (1.5, 1.5, 1.5), 1.0, KernelType.GAUSSIAN)
    assert (ssim_map(a, b)[5:-5, 5:-5, 5:-5] - ssim[0, 0]).abs().max() < 3e-5
    assert ssim_map(a, b).shape == a.shape


def test_a_slice_against_monai() -> None:
    """With Z = 1 the window is 2D: MONAI's 2D SSIM."""
    from monai.metrics.regression import KernelType, compute_ssim_and_cs

    a, b = (v[:, :, :1] for v in images())
    both = (b[None, None, :, :, 0], a[None, None, :, :, 0])
    ssim, _ = compute_ssim_and_cs(*both, 2, (11, 11), (1.5, 1.5), 1.0, KernelType.GAUSSIAN)
    assert (ssim_map(a, b)[5:-5, 5:-5, 0] - ssim[0, 0]).abs().max() < 1e-5


@pytest.mark.parametrize(("ours", "theirs"), [("range", "range"), ("mean", "mean"), ("std", "std")])
def test_nrmse_against_torchmetrics(ours: str, theirs: str) -> None:
    regression = pytest.importorskip("torchmetrics.functional.regression")
    a, b = (v.flatten() for v in images())
    expected = regression.normalized_root_mean_squared_error(b, a, normalization=theirs)
    assert nrmse(a, b, norm=ours) == pytest.approx(float(expected), rel=1e-5)  # type: ignore[arg-type]


def test_euclidean_nrmse_is_the_ratio_of_norms() -> None:
    """torchmetrics' "l2" divides the mean error by the summed norm; here both are means, or both are sums."""
    a, b = images()
    expected = np.linalg.norm((a - b).numpy()) / np.linalg.norm(a.numpy())
    assert nrmse(a, b, norm="euclidean") == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("seed", "kind"), [(3, "tumour"), (5, "plaques")])
def test_phantoms_show_the_same(seed: int, kind: str) -> None:
    pytest.importorskip("nilearn")
    from gen3d.data.phantom import phantom

    case = phantom(seed, (56, 64, 56), 3.0, ("t2f",), kind)
    assert case.lesion is not None
    true, mask = torch.from_numpy(case.volumes["t2f"].voxels), torch.from_numpy(case.lesion.voxels)
    median = true[(true > 0) & (mask == 0)].median()
    erased = scored(true, torch.where(mask > 0, median, true), mask)
    assert erased["lesion", FIXED].psnr < erased["brain", FIXED].psnr - 8
    halved = scored(true, true / 2, mask)
    assert halved["brain", FIXED].psnr < halved["brain", MATCHED].psnr - 80
