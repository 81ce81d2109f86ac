"""The kernel distance against a double loop and torchmetrics, and the laws that it obeys."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gen3d.metrics import kernel
from gen3d.metrics.kernel import kernel_distance, kernel_distance_subsets


def features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def by_loops(a: Tensor, b: Tensor, degree: int = 3, gamma: float | None = None, coefficient: float = 1.0) -> float:
    def k(x: Tensor, y: Tensor) -> float:
        return float(x @ y * (gamma if gamma is not None else 1 / len(x)) + coefficient) ** degree

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    within = [mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    return within[0] + within[1] - 2 * mean([k(x, y) for x in a for y in b])


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 3), (7, 4, 5), (5, 9, 1)])
def test_equals_a_double_loop(n: int, m: int, d: int) -> None:
    a, b = features(n, d), features(m, d, 1, 0.5)
    assert kernel_distance(a, b).value == pytest.approx(by_loops(a, b), rel=1e-10)
    other = kernel_distance(a, b, degree=2, gamma=0.3, coefficient=2.0)
    assert other.value == pytest.approx(by_loops(a, b, 2, 0.3, 2.0), rel=1e-10)


def test_standard_error_equals_leaving_out_one_scan_at_a_time() -> None:
    a, b = features(6, 4), features(5, 4, 1, 0.5)
    variance = 0.0
    for first in (True, False):
        whole, other = (a, b) if first else (b, a)
        left = [
            by_loops(torch.cat([whole[:i], whole[i + 1 :]]), other) for i in range(len(whole))
        ]  # the distance is symmetric
        mean = sum(left) / len(left)
        variance += (len(left) - 1) / len(left) * sum((v - mean) ** 2 for v in left)
    assert kernel_distance(a, b).std_error == pytest.approx(variance**0.5, rel=1e-9)
    assert kernel_distance(a[:2], b).std_error is None


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, 2**0.5), (1.0, 1.0)])
def test_value_is_unbiased_and_its_error_true(shift: float, ratio: float) -> None:
    """Over many pairs of sets; between equal distributions the jackknife is known to be the root of 2 too large."""
    found = [kernel_distance(features(30, 4, 2 * s), features(20, 4, 2 * s + 1, shift)) for s in range(400)]
    values = torch.tensor([f.value for f in found])
    errors = torch.tensor([f.std_error or 0.0 for f in found])
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(ratio, rel=0.15)
    if not shift:
        assert abs(float(values.mean())) < 3 * float(values.std()) / len(values) ** 0.5


@pytest.mark.parametrize("size", [12, 5])
def test_subsets_equal_torchmetrics(size: int) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = features(12, 6), features(12, 6, 1, 0.3)
    metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1 if size == 12 else 4000, subset_size=size)
    metric.set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    torch.manual_seed(0)
    mean, std = (float(v) for v in metric.compute())
    ours = kernel_distance_subsets(a, b, size=size, subsets=1 if size == 12 else 4000)
    if size == 12:  # there is one such subset; torchmetrics returns float32
        assert ours == pytest.approx((mean, std), rel=1e-6)
        assert ours.mean == pytest.approx(kernel_distance(a, b).value, rel=1e-10)
    else:
        assert ours.mean == pytest.approx(mean, abs=4 * std / 4000**0.5)
        assert ours.std == pytest.approx(std, rel=0.1)


def test_subsets_repeat_with_their_seed() -> None:
    a, b = features(20, 6), features(20, 6, 1)
    assert kernel_distance_subsets(a, b, size=5, seed=4) == kernel_distance_subsets(a, b, size=5, seed=4)
    assert kernel_distance_subsets(a, b, size=5, seed=4) != kernel_distance_subsets(a, b, size=5, seed=5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features(20, 6), features(13, 6, 1)
    whole = kernel_distance(a, b)
    monkeypatch.setattr(kernel, "BLOCK", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 20), m=st.integers(3, 20), d=st.integers(1, 12), seed=st.integers(0, 99))
def test_laws(n: int, m: int, d: int, seed: int) -> None:
    a, b = features(n, d, seed), features(m, d, seed + 1, 1.0)
    value, error = kernel_distance(a, b)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    assert kernel_distance(b, a) == pytest.approx((value, error), rel=1e-8, abs=1e-9)
    assert kernel_distance(a[torch.randperm(n)] @ turn, b @ turn) == pytest.approx((value, error), rel=1e-7, abs=1e-8)


def test_what_has_no_distance_is_refused() -> None:
    a, b = features(10, 4), features(10, 4, 1)
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(a[:1], b)
    with pytest.raises(ValueError, match="NaN"):
        kernel_distance(a, b * float("inf"))
    with pytest.raises(ValueError, match="4 and 3 dimensions"):
        kernel_distance(a, b[:, :3])
    with pytest.raises(ValueError, match="subsets of 11"):
        kernel_distance_subsets(a, b, size=11)
