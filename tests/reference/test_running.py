"""The torchmetrics classes: one process against the functions they stand on, two processes against one."""

import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

pytest.importorskip("torchmetrics")

from torchmetrics import Metric, MetricCollection

from gen3d.metrics.ambiguous import ged
from gen3d.metrics.completion import psnr
from gen3d.metrics.features import open_features
from gen3d.metrics.frechet import frechet_distance
from gen3d.metrics.kernel import kernel_distance
from gen3d.metrics.ms_ssim import ms_ssim
from gen3d.metrics.running import EnergyDistance, FrechetDistance, KernelDistance, PairSimilarity, SegmentationDice
from gen3d.metrics.segmentation import dice

Feed = Callable[[Metric, range], None]
CASES = 7


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


REAL, FAKE = noise(CASES, 4, seed=1), noise(CASES, 4, seed=2) + 0.3
TRUE = noise(CASES, 16, 16, 16, seed=3)
NEAR = (TRUE + 0.1 * noise(CASES, 16, 16, 16, seed=4)).clamp(0, 1)
LABELS, GUESS = (3 * noise(CASES, 5, 5, 5, seed=s) ** 2 for s in (5, 6))
LABELS, GUESS = LABELS.long(), GUESS.long()
SAMPLES, RATERS = noise(CASES, 3, 6, 6, 1, seed=7) > 0.6, noise(CASES, 4, 6, 6, 1, seed=8) > 0.5


def feed_features(metric: Metric, cases: range) -> None:
    for k in cases:
        metric.update(REAL[k : k + 1], real=True)
        metric.update(FAKE[k : k + 1], real=False)


def feed_pairs(metric: Metric, cases: range) -> None:
    for k in cases:
        metric.update(NEAR[k : k + 1], TRUE[k : k + 1])


def feed_labels(metric: Metric, cases: range) -> None:
    for k in cases:
        metric.update(GUESS[k : k + 1], LABELS[k : k + 1])


def feed_masks(metric: Metric, cases: range) -> None:
    for k in cases:
        metric.update(SAMPLES[k], RATERS[k])


METRICS: dict[str, tuple[Callable[[], Metric], Feed]] = {
    "frechet": (FrechetDistance, feed_features),
    "kernel": (KernelDistance, feed_features),
    "pairs": (PairSimilarity, feed_pairs),
    "dice": (lambda: SegmentationDice((1, 2, 9)), feed_labels),
    "energy": (lambda: EnergyDistance(corrected=True), feed_masks),
}


def computed(name: str, cases: range) -> dict[str, Any]:
    make, feed = METRICS[name]
    metric = make()
    feed(metric, cases)
    return {name: numbers(metric.compute())}


def numbers(found: Any) -> Any:
    """Tensors as plain numbers, so that they travel between processes and compare with tolerance."""
    if isinstance(found, dict):
        return {name: float(value) for name, value in found.items()}
    return [float(value) for value in found] if isinstance(found, tuple) else float(found)


def work(rank: int, port: int, shards: list[range], folder: Path) -> None:
    """What one of two processes does: every metric on its share of the cases."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=len(shards))
    found: dict[str, Any] = {}
    for name in METRICS:
        found |= computed(name, shards[rank])
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("shards", [[range(5), range(5, 7)], [range(0), range(7)]], ids=["uneven", "one-empty"])
def test_two_processes_equal_one(tmp_path: Path, shards: list[range]) -> None:
    mp.spawn(work, (free_port(), shards, tmp_path), nprocs=2)
    for name in METRICS:
        (alone,) = computed(name, range(CASES)).values()
        for rank in (0, 1):
            together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)[name]
            assert together == pytest.approx(alone, rel=1e-9, nan_ok=True), (name, rank)


def test_distances_are_those_of_the_functions() -> None:
    assert computed("frechet", range(CASES))["frechet"] == pytest.approx(frechet_distance(REAL, FAKE), rel=1e-12)
    expected = kernel_distance(REAL, FAKE)
    assert computed("kernel", range(CASES))["kernel"] == pytest.approx(list(expected), rel=1e-12)
    two = KernelDistance()
    feed_features(two, range(2))
    value, error = two.compute()
    assert value.dtype == torch.float64
    assert math.isfinite(float(value))
    assert math.isnan(float(error))


def test_similarity_is_that_of_the_functions() -> None:
    found = computed("pairs", range(CASES))["pairs"]
    assert list(found) == ["psnr", "ssim", "ms_ssim", "mae"]
    per_case = [psnr(a, b) for a, b in zip(NEAR.double(), TRUE.double(), strict=True)]
    assert found["psnr"] == pytest.approx(sum(per_case) / CASES, rel=1e-9)
    assert found["ms_ssim"] == pytest.approx(float(ms_ssim(NEAR, TRUE).mean()), rel=1e-6)
    assert found["mae"] == pytest.approx(float((NEAR - TRUE).double().abs().mean()), rel=1e-9)
    whole, channel = PairSimilarity(), PairSimilarity()
    whole.update(NEAR, TRUE)
    channel.update(NEAR[:, None], TRUE[:, None])
    assert numbers(whole.compute()) == numbers(channel.compute()) == pytest.approx(found, rel=1e-6)
    whole.reset()
    whole.update(TRUE, TRUE)
    assert numbers(whole.compute()) == pytest.approx({"psnr": 120, "ssim": 1, "ms_ssim": 1, "mae": 0}, abs=1e-6)


def test_dice_and_energy_are_those_of_the_functions() -> None:
    found = computed("dice", range(CASES))["dice"]
    for label in (1, 2):
        each = [dice(a == label, b == label) for a, b in zip(GUESS, LABELS, strict=True)]
        assert found[f"dice_{label}"] == pytest.approx(sum(each) / CASES, rel=1e-12)
    assert found["dice"] == pytest.approx((found["dice_1"] + found["dice_2"]) / 2)
    assert math.isnan(found["dice_9"])
    each = [ged(s, r, corrected=True) for s, r in zip(SAMPLES, RATERS, strict=True)]
    assert computed("energy", range(CASES))["energy"] == pytest.approx(sum(each) / CASES, rel=1e-12)


def test_dice_counts_a_label_where_either_has_it() -> None:
    metric, mask = SegmentationDice(), torch.ones(1, 3, 3, 3)
    metric.update(0 * mask, 0 * mask)
    metric.update(mask, 0 * mask)
    metric.update(mask, mask)
    assert numbers(metric.compute()) == {"dice": 0.5, "dice_1": 0.5}


def test_features_are_computed_on_the_way() -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU())
    volumes, others = noise(6, 1, 12, 12, 12, seed=1), noise(5, 1, 12, 12, 12, seed=2) ** 2
    for features in (network, open_features("random3d")):
        metric = FrechetDistance(features)
        metric.update(volumes[:4], real=True)
        metric.update(volumes[4:], real=True)
        metric.update(others, real=False)
        extract = open_features("module", module=network) if features is network else features
        expected = frechet_distance(extract(volumes), extract(others))  # type: ignore[operator]
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
        metric.reset()
        metric.update(extract(volumes), real=True)  # type: ignore[operator]
        metric.update(others, real=False)
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


def test_metrics_join_a_collection_and_start_anew() -> None:
    both = MetricCollection({"frechet": FrechetDistance(), "kernel": KernelDistance()})
    for _ in range(2):
        for side, real in ((REAL, True), (FAKE, False)):
            both.update(side, real=real)
        assert float(both.compute()["frechet"]) == pytest.approx(frechet_distance(REAL, FAKE), rel=1e-12)
        both.reset()


def test_called_like_a_function_a_metric_gathers_too() -> None:
    metric = EnergyDistance()
    for k in range(CASES):
        assert float(metric(SAMPLES[k], RATERS[k])) == pytest.approx(ged(SAMPLES[k], RATERS[k]), rel=1e-12)
    each = [ged(s, r) for s, r in zip(SAMPLES, RATERS, strict=True)]
    assert float(metric.compute()) == pytest.approx(sum(each) / CASES, rel=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_what_cannot_be_measured_is_refused() -> None:
    for name, words in (("pairs", "at least one pair"), ("energy", "at least one case"), ("frechet", "at least 2")):
        with pytest.raises(ValueError, match=words):
            computed(name, range(0))
    metric = FrechetDistance()
    metric.update(REAL, real=True)
    with pytest.raises(ValueError, match=r"expected features \(B, 4\), got \(2, 3\)"):
        metric.update(noise(2, 3), real=False)
    with pytest.raises(ValueError, match="of one shape"):
        PairSimilarity().update(TRUE, TRUE[:, 1:])
    with pytest.raises(ValueError, match="not finite"):
        PairSimilarity().update(TRUE / 0, TRUE)
