"""Intensity scales and their inverse."""

import numpy as np
import pytest

from gen3d.core.error import UsageError
from gen3d.data.intensity import Intensity, Scale


@pytest.fixture
def voxels() -> np.ndarray:
    rng = np.random.default_rng(0)
    v = rng.gamma(4.0, 100.0, (30, 31, 32)).astype(np.float32)
    v[:10] = 0
    return v


@pytest.mark.parametrize("to", [(0.0, 1.0), (-1.0, 1.0), (0.0, 1000.0)])
def test_window_is_the_papers_normalisation(voxels: np.ndarray, to: tuple[float, float]) -> None:
    low, high = np.quantile(voxels.astype(np.float64), [0.001, 0.999])
    unit = (np.clip(voxels.astype(np.float64), low, high) - low) / (high - low)
    got = Intensity(to=to).fit(voxels).apply(voxels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, to[0] + unit * (to[1] - to[0]), atol=2e-6 * (to[1] - to[0]))


@pytest.mark.parametrize("rule", ["window", "robust"])
def test_invert_undoes_apply_up_to_the_cut(voxels: np.ndarray, rule: str) -> None:
    scale = Intensity(rule=rule).fit(voxels)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        scale.invert(scale.apply(voxels)), np.clip(voxels, scale.low, scale.high), rtol=1e-5, atol=1e-3
    )


def test_without_clip_invert_is_exact_beyond_the_window(voxels: np.ndarray) -> None:
    scale = Intensity(clip=False).fit(voxels)
    assert scale.apply(voxels).max() > 1
    np.testing.assert_allclose(scale.invert(scale.apply(voxels)), voxels, rtol=1e-5, atol=1e-3)


def test_robust_puts_median_at_0_and_iqr_at_1(voxels: np.ndarray) -> None:
    mapped = Intensity(rule="robust", clip=False).fit(voxels).apply(voxels)[voxels > 0]
    q25, q50, q75 = np.quantile(mapped, [0.25, 0.5, 0.75])
    assert abs(q50) < 1e-5
    assert abs(q75 - q25 - 1) < 1e-5


@pytest.mark.parametrize("rule", ["window", "robust"])
def test_units_do_not_matter(voxels: np.ndarray, rule: str) -> None:
    intensity = Intensity(rule=rule)  # type: ignore[arg-type]
    a = intensity.fit(voxels).apply(voxels)
    b = intensity.fit(voxels * 37.5).apply(voxels * 37.5)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_robust_ignores_how_much_background_there_is(voxels: np.ndarray) -> None:
    more = np.concatenate([np.zeros_like(voxels), voxels])
    a, b = (Intensity(rule="robust").fit(v) for v in (voxels, more))
    assert (a.gain, a.offset) == (b.gain, b.offset)


def test_foreground_percentiles_are_taken_over_the_foreground(voxels: np.ndarray) -> None:
    scale = Intensity(over="foreground", percentiles=(5, 95)).fit(voxels)
    np.testing.assert_allclose([scale.low, scale.high], np.percentile(voxels[voxels > 0], (5, 95)), rtol=1e-6)


def test_nearly_empty_volume_falls_back_to_its_extremes() -> None:
    v = np.zeros((20, 20, 20), np.float32)
    v[0, 0, 0] = 8
    np.testing.assert_allclose(Intensity().fit(v).apply(v), v / 8)


@pytest.mark.parametrize("rule", ["window", "robust"])
def test_constant_volume_stays_finite_and_comes_back(rule: str) -> None:
    v = np.full((4, 4, 4), 5, np.float32)
    scale = Intensity(rule=rule).fit(v)  # type: ignore[arg-type]
    assert np.isfinite(scale.apply(v)).all()
    np.testing.assert_array_equal(scale.invert(scale.apply(v)), v)


def test_default_scale_is_the_identity(voxels: np.ndarray) -> None:
    np.testing.assert_array_equal(Scale().apply(voxels), voxels)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "windw"}, "did you mean 'window'"),
        ({"over": "brain"}, "expected one of volume, foreground"),
        ({"percentiles": (99, 1)}, "rising"),
    ],
)
def test_wrong_settings_are_usage_errors(settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Intensity(**settings)
