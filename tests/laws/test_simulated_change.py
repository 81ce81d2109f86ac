"""Simulated follow-ups: truth is exact, speed is known, pauses pause, noise is the scan's own, all by key."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gen3d.data.blur import blurred
from gen3d.data.simulated_change import (
    YEAR,
    Change,
    draw_days,
    draw_missing,
    draw_paths,
    flow,
    noise_level,
    simulate,
    velocity,
    warped,
)

SIZE = (32, 40, 36)


def ball(radius: float = 9.0) -> Tensor:
    axes = torch.meshgrid([torch.arange(float(n)) for n in SIZE], indexing="ij")
    return sum((a - (n - 1) / 2) ** 2 for a, n in zip(axes, SIZE, strict=True)).sqrt() <= radius


def scan() -> Tensor:
    return blurred(ball().float()[None, None], 1.0)[0, 0] + 0.03 * torch.randn(
        SIZE, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(("shares", "sign"), [((1.0, 0.0, 0.0), -1), ((0.0, 1.0, 0.0), 1)])
def test_the_border_moves_as_far_as_it_is_said_to(shares: tuple[float, float, float], sign: int) -> None:
    change = Change(shares=shares, sway=0.0, pause=0.0, speed=(0.8, 0.8), noise=0.0)
    found = simulate(scan(), ball(), change, "key", days=np.array([0.0, YEAR, 2 * YEAR]))
    assert found.masks is not None
    assert np.allclose(found.paths, [0, sign * 0.8, sign * 1.6])
    radii = (found.masks.float().sum((1, 2, 3)) * 3 / (4 * np.pi)) ** (1 / 3)
    assert torch.allclose(radii - radii[0], torch.from_numpy(found.paths).float(), atol=0.25)


def test_paths_there_and_back_meet_and_nothing_folds() -> None:
    field = velocity(torch.Size(SIZE), ball(), 0.3, "k")
    there, back = flow(field, torch.tensor([1.5, -1.5]))
    here = torch.stack(torch.meshgrid([torch.arange(float(n)) for n in SIZE], indexing="ij"))
    returned = warped(there[None], back[None])[0]
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    assert float((returned - here)[inside].square().mean().sqrt()) < 0.03
    steps = torch.stack([torch.stack(torch.gradient(there[a])) for a in range(3)])
    assert float(torch.linalg.det(steps.permute(2, 3, 4, 0, 1)).min()) > 0.1


def test_a_pause_is_a_time_without_motion_and_cycles_come_back() -> None:
    days = np.arange(0.0, 1500.0, 10.0)
    change = Change(pause=1.0, pause_days=(300.0, 300.0), speed=(0.5, 0.5))
    paths = draw_paths("growth", change, days, np.random.default_rng(1))
    still = np.diff(paths) == 0
    assert 25 <= still.sum() <= 30
    assert np.allclose(np.diff(paths)[~still].max(), 0.5 * 10 / YEAR)
    swinging = draw_paths("cyclic", Change(period=(500.0, 500.0)), days, np.random.default_rng(1))
    assert np.allclose(swinging[:100], swinging[50:150], atol=1e-9)
    assert np.ptp(swinging) > 0.5


def test_visits_are_regular_or_not_and_rise() -> None:
    drawn = [draw_days(Change(), np.random.default_rng(seed)) for seed in range(60)]
    regular = [bool(np.all(np.diff(days) == 365)) for days in drawn]
    assert 8 <= sum(regular) <= 30
    assert all(days[0] == 0 and np.all(np.diff(days) >= 120) and len(days) == 4 for days in drawn)


def test_visits_differ_by_noise_of_the_scans_own_level() -> None:
    base = scan()
    assert noise_level(base) == pytest.approx(0.03, rel=0.1)
    found = simulate(base, ball(), Change(), "key")
    noise = found.visits - found.clean
    assert noise.flatten(1).std(1).tolist() == pytest.approx([noise_level(base)] * 4, rel=0.03)
    assert abs(float((noise[0] * noise[1]).mean())) < 1e-4
    assert noise_level(found.clean[0]) < 0.01


def test_everything_follows_from_the_key() -> None:
    one, same, other = (simulate(scan(), ball(), Change(), key) for key in ("a", "a", "b"))
    assert torch.equal(one.visits, same.visits)
    assert np.array_equal(one.days, same.days)
    assert not torch.equal(one.visits, other.visits)


def test_a_scan_without_a_mask_moves_at_random() -> None:
    found = simulate(scan(), None, Change(noise=0.0), "key")
    assert found.masks is None
    assert float((found.visits[0] - found.visits[-1]).abs().max()) > 0.02


def test_missing_visits_are_as_many_as_asked_for() -> None:
    assert [int(draw_missing(3, missing, "k").sum()) for missing in (0, 1, 2)] == [3, 2, 1]
    with pytest.raises(ValueError, match="visits: expected at least 2"):
        Change(visits=1)
