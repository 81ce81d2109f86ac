"""The Haar transform: PyWavelets' numbers, an orthogonal matrix, and every real scan there and back."""

from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3d.nn.haar import haar, inverse_haar
from gen3d.spaces.wavelet import Wavelet

even = st.integers(1, 4).map(lambda n: 2 * n)
BANDS = ["LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(size=st.tuples(even, even, even), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_equals_pywavelets_in_3d(size: tuple[int, int, int], channels: int, seed: int) -> None:
    x = noise(2, channels, *size, seed=seed)
    ours = haar(x).unflatten(1, (channels, 8))
    theirs = pywt.dwtn(x.numpy(), "haar", axes=(-3, -2, -1))
    for band, name in enumerate(BANDS):
        key = name.replace("L", "a").replace("H", "d")
        np.testing.assert_allclose(ours[:, :, band].numpy(), theirs[key], atol=2e-6)


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_equals_pywavelets_in_2d(flat: int) -> None:
    size = [6, 8]
    size.insert(flat, 1)
    x = noise(1, 2, *size)
    axes = tuple(axis for axis in (2, 3, 4) if axis != 2 + flat)
    theirs = pywt.dwtn(x.numpy(), "haar", axes=axes)
    ours = haar(x).unflatten(1, (2, 4))
    for band, key in enumerate(["aa", "ad", "da", "dd"]):
        np.testing.assert_allclose(ours[:, :, band].numpy(), theirs[key], atol=2e-6)


def test_equals_the_official_transform(reference_folder: Path) -> None:
    recorded = {
        key: torch.from_numpy(v) for key, v in np.load(reference_folder / "wdm" / "haar.npz").items() if key != "order"
    }
    subbands = haar(recorded["volume"])
    torch.testing.assert_close(subbands, recorded["subbands"], atol=2e-6, rtol=0)
    torch.testing.assert_close(inverse_haar(subbands), recorded["idwt"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(4, 8, 6), (4, 6, 1), (1, 8, 1)])
def test_white_noise_stays_white_because_the_matrix_is_orthogonal(size: tuple[int, int, int]) -> None:
    n = int(np.prod(size))
    matrix = Wavelet(levels=1, scale="orthonormal").encode(torch.eye(n).view(n, 1, *size)).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n), atol=1e-6, rtol=0)


def test_white_noise_has_unit_covariance_between_all_subbands() -> None:
    coords = Wavelet(levels=2, scale="orthonormal").encode(noise(1, 1, 96, 96, 96))[0].flatten(1)
    covariance = coords @ coords.T / coords.shape[1]
    # the standard error of each entry is 1 / sqrt(24**3) = 0.0085
    torch.testing.assert_close(covariance, torch.eye(64), atol=0.05, rtol=0)


def test_volume_of_two_voxels_is_inverted_where_the_axes_are_named() -> None:
    x = noise(1, 3, 2, 4, 2)
    y = haar(x)
    assert y.shape == (1, 24, 1, 2, 1)
    torch.testing.assert_close(inverse_haar(y, axes=(-3, -2, -1)), x)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="even sizes"):
        haar(noise(1, 1, 4, 5, 4))


def scans(folder: Path) -> list[tuple[str, np.ndarray]]:
    nibabel = pytest.importorskip("nibabel")
    found = []
    for path in sorted(folder.rglob("*.nii*")):
        voxels = np.asarray(nibabel.load(path).dataobj)
        if voxels.ndim <= 3:
            found.append(
                (
                    str(path.relative_to(folder)),
                    voxels.astype(np.float32).reshape(*voxels.shape, *[1] * (3 - voxels.ndim)),
                )
            )
    return found


def test_every_scan_comes_back_to_one_part_in_a_hundred_thousand(data_folder: Path) -> None:
    space, odd = Wavelet(levels=1, scale="wdm"), 0
    for name, voxels in scans(data_folder):
        x = torch.from_numpy(voxels)[None, None]
        error = float((space.decode(space.encode(x), x.shape[2:]) - x).abs().max())
        assert error <= 1e-5 * float(x.max() - x.min()), name
        odd += any(n % 2 and n > 1 for n in x.shape[2:])
    assert odd > 20  # the folder holds volumes of odd sizes
