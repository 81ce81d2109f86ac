"""Radiomic features against loops over voxels, their symmetries, and what they make of odd images."""

import math
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gen3d.metrics.radiomic_frechet import V0_RANGE, normalised, radiomic_frechet
from gen3d.metrics.radiomics import DIRECTIONS, feature_names, radiomic_features

SIDES = st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(1, 4))


def noise(size: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(voxels: Tensor, mask: Tensor, bins: int) -> dict[str, float]:
    """Some co-occurrence features by going from voxel to voxel, in levels 1 .. bins over [0, 1]."""
    places = {
        tuple(place): min(int(float(voxels[tuple(place)]) * bins), bins - 1) + 1 for place in mask.nonzero().tolist()
    }
    contrasts, entropies, products = [], [], []
    for step in DIRECTIONS:
        pairs: Counter[tuple[int, int]] = Counter()
        for place, level in places.items():
            other = places.get(tuple(p + s for p, s in zip(place, step, strict=True)))
            if other is not None:
                pairs[level, other] += 1
                pairs[other, level] += 1
        total = sum(pairs.values())
        if total:
            contrasts.append(sum(n * (i - j) ** 2 for (i, j), n in pairs.items()) / total)
            products.append(sum(n * i * j for (i, j), n in pairs.items()) / total)
            entropies.append(-sum(n / total * math.log2(n / total) for n in pairs.values()))
    means = [sum(values) / len(values) for values in (contrasts, products, entropies)]
    return dict(zip(("glcm_Contrast", "glcm_Autocorrelation", "glcm_JointEntropy"), means, strict=True))


@settings(max_examples=30, deadline=None)
@given(size=SIDES, bins=st.integers(1, 9), seed=st.integers(0, 999))
def test_co_occurrence_equals_loops(size: tuple[int, int, int], bins: int, seed: int) -> None:
    voxels, mask = noise(size, seed), noise(size, seed + 1) > 0.2
    mask[:2, 0, 0] = True
    found = radiomic_features(voxels, mask=mask, bins=bins)
    expected = by_loops(voxels, mask, bins)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(size=SIDES, order=st.permutations([0, 1, 2]), seed=st.integers(0, 999))
def test_turned_and_flipped_images_have_the_same_features(
    size: tuple[int, int, int], order: list[int], seed: int
) -> None:
    voxels = noise(size, seed)
    turned = voxels.permute(*order).flip(0, 2)
    assert radiomic_features(turned) == pytest.approx(radiomic_features(voxels), rel=1e-9, abs=1e-9)


def test_there_are_13_directions_none_opposite_another() -> None:
    assert len(DIRECTIONS) == 13
    opposite = {(-x, -y, -z) for x, y, z in DIRECTIONS}
    assert set(DIRECTIONS) | opposite == set(product((-1, 0, 1), repeat=3)) - {(0, 0, 0)}


def test_intensity_shows_in_the_fixed_window_only() -> None:
    voxels = noise((6, 6, 6))
    fixed, halved = radiomic_features(voxels), radiomic_features(voxels / 2)
    assert halved["glcm_JointAverage"] < 0.6 * fixed["glcm_JointAverage"]
    own, own_halved = (radiomic_features(v, window=None) for v in (voxels, voxels / 2))
    assert own_halved["glcm_JointAverage"] == pytest.approx(own["glcm_JointAverage"], rel=1e-12)


def test_what_lies_outside_the_mask_does_not_count() -> None:
    voxels, mask = noise((6, 5, 4)), torch.zeros(6, 5, 4)
    mask[2:5, 1:4] = 1
    other = torch.where(mask > 0, voxels, float("nan"))
    assert radiomic_features(other, mask=mask) == radiomic_features(voxels, mask=mask)
    assert radiomic_features(voxels[2:5, 1:4]) == pytest.approx(radiomic_features(voxels, mask=mask), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 7.0])
@pytest.mark.parametrize("rule", [{}, {"window": None}, {"bin_width": 0.25}], ids=["window", "range", "width"])
def test_a_constant_image_has_defined_features(value: float, rule: dict[str, float]) -> None:
    found = radiomic_features(torch.full((5, 7, 3), value), **rule)  # type: ignore[arg-type]
    assert all(map(math.isfinite, found.values()))
    zero = ("Skewness", "Kurtosis", "Entropy", "Variance", "Range", "MeanAbsoluteDeviation")
    assert not any(found[f"firstorder_{name}"] for name in zero)
    assert not any(found[f"glcm_{name}"] for name in ("Imc1", "Imc2", "Contrast", "JointEntropy", "ClusterShade"))
    assert found["glcm_Correlation"] == found["glcm_JointEnergy"] == found["firstorder_Uniformity"] == 1


def test_names_and_spacing() -> None:
    voxels = noise((4, 4, 4))
    assert tuple(radiomic_features(voxels)) == feature_names()
    assert len(feature_names()) == 17 + 22
    spaced = radiomic_features(voxels, spacing=(1, 2, 3))
    assert tuple(spaced) == feature_names(spacing=True)
    assert spaced["firstorder_TotalEnergy"] == pytest.approx(6 * spaced["firstorder_Energy"])


def test_what_has_no_features_is_refused() -> None:
    voxels = noise((4, 4, 4))
    with pytest.raises(ValueError, match=r"volume \(X, Y, Z\)"):
        radiomic_features(voxels[0])
    with pytest.raises(ValueError, match="the mask has shape"):
        radiomic_features(voxels, mask=voxels[1:])
    with pytest.raises(ValueError, match="is empty"):
        radiomic_features(voxels, mask=voxels * 0)
    corners = torch.zeros(4, 4, 4)
    corners[0, 0, 0] = corners[3, 3, 3] = 1
    with pytest.raises(ValueError, match="no two neighbouring"):
        radiomic_features(voxels, mask=corners)
    with pytest.raises(ValueError, match="not finite"):
        radiomic_features(voxels * float("nan"))
    for wrong, words in (({"bins": 0}, "bins"), ({"window": (1.0, 0.0)}, "rise"), ({"bin_width": 0.0}, "bin_width")):
        with pytest.raises(ValueError, match=words):
            radiomic_features(voxels, **wrong)  # type: ignore[arg-type]


def sets(n: int = 30, d: int = 4) -> tuple[Tensor, Tensor]:
    return noise((n, d), 1), noise((n - 5, d), 2) * 1.5 + 1


def test_v1_gives_the_real_set_mean_0_and_variance_1() -> None:
    real, fake = normalised(*sets(), "frd-v1")
    assert real.mean(0).abs().max() < 1e-6
    assert (real.std(0, correction=0) - 1).abs().max() < 1e-6
    assert fake.mean() > 1


def test_v0_puts_both_sets_into_the_published_range() -> None:
    both = torch.cat(normalised(*sets(), "frd-v0"))
    assert both.min(0).values.tolist() == [0] * 4
    assert both.max(0).values.tolist() == pytest.approx([V0_RANGE] * 4)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 3.0, 1e9])
def test_v1_drops_what_is_constant_in_the_real_set(value: float) -> None:
    real, fake = sets()
    wider = [torch.cat([side, torch.full((len(side), 1), value)], 1) for side in (real, fake)]
    wider[1][0, -1] += 1
    assert radiomic_frechet(*wider) == radiomic_frechet(real, fake)


def test_equal_sets_are_at_no_distance() -> None:
    real, _ = sets()
    assert radiomic_frechet(real, real) < math.log(1e-9)
    assert radiomic_frechet(real, real, convention="plain") < 1e-9
    assert radiomic_frechet(real, real, convention="frd-v0") < 1e-9


def test_sets_that_cannot_be_compared_are_refused() -> None:
    real, fake = sets()
    with pytest.raises(ValueError, match="of one d"):
        radiomic_frechet(real, fake[:, 1:])
    with pytest.raises(ValueError, match="unknown convention 'frd'"):
        radiomic_frechet(real, fake, convention="frd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of both sets"):
        radiomic_frechet(real, fake[:0])
    with pytest.raises(ValueError, match="two images of each set"):
        radiomic_frechet(real * float("nan"), fake)
    with pytest.raises(ValueError, match="constant in the real set"):
        radiomic_frechet(real * 0, fake)
    with pytest.raises(ValueError, match="does not drop"):
        radiomic_frechet(real * float("inf"), fake, convention="plain")
