"""Concordance, radiomic agreement and the skill of forecasts: closed forms and laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.concordance import concordance, radiomic_agreement
from gen3d.metrics.longitudinal import forecast_skill, skill, volume_change_error


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 30), shift=st.floats(-3, 3), scale=st.floats(-3, 3), seed=st.integers(0, 999))
def test_concordance_equals_its_formula_and_laws(n: int, shift: float, scale: float, seed: int) -> None:
    a = noise(n, seed=seed)
    b = scale * a + shift + 0.3 * noise(n, seed=seed + 1)
    for correction in (0, 1):
        covariance = np.cov(a, b, ddof=correction)
        expected = 2 * covariance[0, 1] / (covariance.trace() + float(a.mean() - b.mean()) ** 2)
        assert concordance(a, b, correction=correction) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    found = concordance(a, b)
    assert concordance(b, a) == pytest.approx(found, abs=1e-12)
    order = torch.randperm(n)
    assert concordance(a[order], b[order]) == pytest.approx(found, abs=1e-12)
    assert abs(found) <= abs(float(np.corrcoef(a, b)[0, 1])) + 1e-12
    assert concordance(5 * a + 2, 5 * b + 2) == pytest.approx(found, abs=1e-9)


def test_concordance_of_a_shift_and_of_a_scale() -> None:
    """A shift by d costs d^2 against 2 s^2; a scale c gives 2 c / (1 + c^2) where the mean is 0."""
    a = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert concordance(a, a + 2) == pytest.approx(2 / (2 + 4))
    assert concordance(a, 3 * a) == pytest.approx(6 / 10)
    assert concordance(a, -a) == -1
    assert concordance(a, a) == 1


def test_concordance_of_constants() -> None:
    flat = torch.full((7,), 0.1)
    assert concordance(flat, flat) == 1
    assert concordance(flat, flat + 1) == pytest.approx(0, abs=1e-12)
    assert concordance(flat, noise(7)) == pytest.approx(0, abs=1e-12)


def test_agreement_counts_features_and_leaves_constants_out() -> None:
    real = noise(40, 4)
    fake = real.clone()
    fake[:, 1] += 0.3 * noise(40, seed=1)
    fake[:, 2] = noise(40, seed=2)
    real[:, 3] = fake[:, 3] = 5
    found = radiomic_agreement(real, fake, ["same", "near", "other", "flat"])
    assert found.constant == ("flat",)
    assert found.per_feature["same"] == found.per_feature["flat"] == 1
    assert found.median == found.per_feature["near"] > 0.85
    assert found.share_above == pytest.approx(2 / 3)
    assert radiomic_agreement(real, fake, list("abcd"), threshold=0.999).share_above == pytest.approx(1 / 3)
    flat = radiomic_agreement(real[:, 3:], fake[:, 3:], ["flat"])
    assert (flat.median, flat.share_above) == (1, 1)


def test_a_feature_constant_at_other_values_disagrees() -> None:
    found = radiomic_agreement(torch.full((5, 1), 1.0), torch.full((5, 1), 2.0), ["flat"])
    assert (found.constant, found.median, found.share_above) == ((), 0, 0)


def test_what_cannot_agree_is_refused() -> None:
    a = noise(5)
    with pytest.raises(ValueError, match="of one length"):
        concordance(a, a[1:])
    with pytest.raises(ValueError, match="at least two"):
        concordance(a[:1], a[:1])
    with pytest.raises(ValueError, match="finite"):
        concordance(a, a * float("nan"))
    with pytest.raises(ValueError, match="expected features"):
        radiomic_agreement(noise(5, 2), noise(5, 2), ["one"])


def test_skill() -> None:
    assert skill(0, 2) == 1
    assert skill(2, 2) == 0
    assert skill(6, 2) == -2
    assert skill(1, 0) is skill(0, 0) is None
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="error of the prediction"):
            skill(wrong, 1)
        with pytest.raises(ValueError, match="error of the copy"):
            skill(1, wrong)


def test_forecasts() -> None:
    last = noise(6, 5, 4)
    true = last + 0.5
    half = forecast_skill(true, last + 0.25, last, data_range=2)
    assert half.mse == pytest.approx(0.0625)
    assert half.mse_of_copy == pytest.approx(0.25)
    assert half.skill == pytest.approx(0.75)
    assert half.psnr == pytest.approx(10 * math.log10(4 / 0.0625), abs=1e-6)
    assert half.psnr_gain == pytest.approx(20 * math.log10(2), abs=1e-6)
    copied, perfect = forecast_skill(true, last, last), forecast_skill(true, true, last)
    assert (copied.skill, copied.psnr_gain) == (0, 0)
    assert (perfect.skill, perfect.psnr) == (1, pytest.approx(120))
    assert forecast_skill(last, true, last).skill is None


def test_forecasts_in_a_mask() -> None:
    last, mask = torch.zeros(4, 4, 4), torch.zeros(4, 4, 4)
    mask[1:3, 1:3, 1:3] = 1
    true = last + mask
    assert forecast_skill(true, true + (1 - mask), last, mask=mask).skill == 1
    assert forecast_skill(true, true + (1 - mask), last).skill == pytest.approx(1 - 56 / 8)
    with pytest.raises(ValueError, match="at least one voxel"):
        forecast_skill(true, true, last, mask=mask * 0)
    with pytest.raises(ValueError, match="on one grid"):
        forecast_skill(true, true[1:], last)
    with pytest.raises(ValueError, match="data_range"):
        forecast_skill(true, true, last, data_range=0)
    with pytest.raises(ValueError, match="finite"):
        forecast_skill(true, true * float("nan"), last)


def slab(n: int) -> Tensor:
    mask = torch.zeros(10, 10, 10)
    mask[:n] = 1
    return mask


def test_volume_change() -> None:
    found = volume_change_error(slab(4), slab(7), slab(5), spacing=(1, 2, 0.5))
    assert found.true_ml == pytest.approx(-0.1)
    assert found.predicted_ml == pytest.approx(0.2)
    assert found.error_ml == pytest.approx(0.3)
    assert (found.true_percent, found.predicted_percent, found.error_percent) == pytest.approx((-20, 40, 60))
    assert found.skill == pytest.approx(-2)
    assert volume_change_error(slab(4), slab(5), slab(5), spacing=(1, 1, 1)).skill == 0
    assert volume_change_error(slab(4), slab(4), slab(5), spacing=(1, 1, 1)).skill == 1


def test_volume_change_of_what_was_not_there_or_did_not_change() -> None:
    new = volume_change_error(slab(2), slab(1), slab(0), spacing=(1, 1, 1))
    assert (new.true_percent, new.predicted_percent, new.error_percent) == (None, None, None)
    assert (new.error_ml, new.skill) == (pytest.approx(-0.1), 0.5)
    assert volume_change_error(slab(3), slab(4), slab(3), spacing=(1, 1, 1)).skill is None
    with pytest.raises(ValueError, match="on one grid"):
        volume_change_error(slab(3), slab(4)[1:], slab(3), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="spacing"):
        volume_change_error(slab(3), slab(4), slab(3), spacing=(1, 1, 0))
