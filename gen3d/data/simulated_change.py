"""Follow-ups that are simulated by deforming a real scan smoothly, so that every visit's truth is known exactly."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.randomness import Key, derive, generator, normal, seed_of
from gen3d.data.blur import blurred
from gen3d.data.warp import sampled, warped, warped_labels

Kind = Literal["atrophy", "growth", "cyclic"]
YEAR = 365.25
EVEN = 0.3  # how flat the speed is around a border: it is nearly 1 within 3 voxels, and 0 in the middle of a structure
STEPS = 4  # of the integration of a path; displacements are 3 mm at most, over fields that are smooth to 6 mm


@dataclass(frozen=True)
class Change:
    """How simulated anatomy changes, and when it is looked at.

    Fixed before the first model was trained.

    Attributes:
        shares: Of patients who lose, who gain, and who swing to and fro.
        speed: Of a structure's border in mm per year, drawn log-uniformly. Hippocampi lose about 0.1 mm a year in
            Alzheimer's disease; here up to ten times that, so that a year shows in a 1 mm scan.
        swing: Amplitude of cyclic motion at the border, in mm.
        period: Of cyclic motion, in days.
        sway: Root mean square of a random smooth motion of everything, as a share of the border's.
        pause: Probability of a pause, during which nothing moves.
        pause_days: Its length.
        visits: How many there are, the last of which is what a model forecasts.
        gap_days: Time between two visits where they are irregular, drawn log-uniformly.
        regular: Probability that visits are regular, one each ``regular_days``.
        regular_days: See there.
        smooth: Standard deviation in voxels of the Gaussian that turns the scan into anatomy without noise of its own.
        noise: White noise on every visit, as a multiple of the scan's own noise level.
    """

    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    speed: tuple[float, float] = (0.2, 1.0)
    swing: tuple[float, float] = (0.3, 1.2)
    period: tuple[float, float] = (500.0, 1500.0)
    sway: float = 0.3
    pause: float = 0.3
    pause_days: tuple[float, float] = (120.0, 500.0)
    visits: int = 4
    gap_days: tuple[float, float] = (120.0, 730.0)
    regular: float = 0.3
    regular_days: float = 365.0
    smooth: float = 0.6
    noise: float = 1.0

    def __post_init__(self) -> None:
        if self.visits < 2:
            raise ValueError("visits: expected at least 2, one to forecast from and one to forecast")


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated patient.

    Attributes:
        visits: (V, X, Y, Z), on the scan's grey scale, noise included.
        clean: The same without noise.
        masks: Labels of the structures at each visit, (V, X, Y, Z) uint8; none without a mask of the scan.
        days: Of the visits, (V,), the first 0.
        kind: What happens.
        paths: How far the border has moved at each visit, in mm, (V,); negative is loss.
    """

    visits: Tensor
    clean: Tensor
    masks: Tensor | None
    days: np.ndarray
    kind: Kind
    paths: np.ndarray


def simulate(
    scan: Tensor,
    mask: Tensor | None,
    change: Change,
    key: Key,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    days: np.ndarray | None = None,
) -> Simulated:
    r"""Simulate visits of one patient: $I_t(x) = I(\psi_t(x)) + n_t$ with $\dot\psi = -v(\psi)\,\dot s(t)$.

    v points into the structures of the mask at their border, 1 there (without a mask it is a random smooth field),
    and s(t) is how far the border has moved: straight with a pause, or a sine. Everything follows from the key.

    Args:
        scan: (X, Y, Z) on any grey scale.
        mask: Labels of structures, (X, Y, Z); 0 is the rest.
        change: What may happen.
        key: Of the patient.
        spacing: In mm.
        days: Of the visits, rising, instead of drawn ones.
    """
    rng = np.random.default_rng(seed_of(derive(key, "change")))
    drawn = draw_days(change, rng)
    when = drawn if days is None else np.asarray(days, dtype=np.float64) - float(days[0])
    kind: Kind = get_args(Kind)[int(rng.choice(3, p=change.shares))]
    paths = draw_paths(kind, change, when, rng)
    field = velocity(scan.shape, mask, change.sway, derive(key, "sway")) / torch.tensor(spacing).view(3, 1, 1, 1)
    places = flow(field, torch.from_numpy(paths).float())
    anatomy = blurred(scan[None, None], change.smooth)
    clean = warped(anatomy, places)[:, 0]
    level = change.noise * noise_level(scan)
    noise = normal([derive(key, "noise", visit) for visit in range(len(when))], scan.shape)
    masks = None if mask is None else warped_labels(mask[None], places)[:, 0]
    return Simulated(clean + level * noise, clean, masks, when, kind, paths)


def draw_days(change: Change, rng: np.random.Generator) -> np.ndarray:
    """Draw the days of the visits, (visits,), the first 0."""
    low, high = np.log(change.gap_days)
    gaps = np.exp(rng.uniform(low, high, change.visits - 1)).round()
    if rng.random() < change.regular:
        gaps[:] = change.regular_days
    return np.concatenate([[0.0], np.cumsum(gaps)])


def draw_paths(kind: Kind, change: Change, days: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw how far the border has moved at each visit, (V,) in mm: 0 at the first."""
    speed = float(np.exp(rng.uniform(*np.log(change.speed)))) / YEAR
    swing, period, phase = rng.uniform(*change.swing), rng.uniform(*change.period), rng.uniform(0, 2 * np.pi)
    paused, length, place = rng.random() < change.pause, rng.uniform(*change.pause_days), rng.random()
    if kind == "cyclic":
        angle = 2 * np.pi * days / period + phase
        return swing * (np.sin(angle) - math.sin(phase))
    begin = place * days[-1]
    moving = days - (np.clip(days - begin, 0, length) if paused else 0)
    return (-speed if kind == "atrophy" else speed) * moving


def velocity(size: torch.Size, mask: Tensor | None, sway: float, key: Key) -> Tensor:
    """Return the field that the anatomy moves outwards by, (3, X, Y, Z), 1 at a structure's border."""
    noise = blurred(normal([derive(key, axis) for axis in range(3)], size)[:, None], 4.0)[:, 0]
    random = noise / noise.square().sum(0).mean().sqrt().clamp_min(1e-6)
    if mask is None or not bool((mask > 0).any()):
        return random
    soft = blurred((mask > 0).float()[None, None], 3.0)[0, 0]
    outwards = -torch.stack(torch.gradient(soft))
    steep = outwards.square().sum(0).sqrt()
    usual = steep[(soft > 0.4) & (soft < 0.6)].mean().clamp_min(1e-6)
    even = (outwards / usual) * ((1 + EVEN**2) / ((steep / usual).square() + EVEN**2)).sqrt()
    return even + sway * random


def flow(field: Tensor, paths: Tensor) -> Tensor:
    r"""Return from where each voxel of each visit comes, $\psi = \exp(-s v)$, in voxels: (V, 3, X, Y, Z).

    The field is followed on half of its grid, since it is smooth, in ``STEPS`` midpoint steps.
    """
    size = field.shape[1:]
    coarse = nnf.interpolate(field[None], scale_factor=0.5, mode="trilinear", align_corners=True)
    ends = torch.tensor([n - 1.0 for n in size]).view(1, 3, 1, 1, 1)
    lines = [torch.linspace(0, n - 1, m) for n, m in zip(size, coarse.shape[2:], strict=True)]
    start = torch.stack(torch.meshgrid(lines, indexing="ij"))[None]
    step = (-paths / STEPS).view(-1, 1, 1, 1, 1)
    moved = torch.zeros(len(paths), *start.shape[1:])
    for _ in range(STEPS):
        half = moved + 0.5 * step * sampled(coarse, start + moved, ends)
        moved = moved + step * sampled(coarse, start + half, ends)
    fine = nnf.interpolate(moved, tuple(size), mode="trilinear", align_corners=True)
    whole = torch.stack(torch.meshgrid([torch.arange(float(n)) for n in size], indexing="ij"))
    return whole + fine


def noise_level(scan: Tensor) -> float:
    """Estimate the standard deviation of white noise from the finest diagonal differences (Donoho & Johnstone 1994)."""
    x = scan.float()
    for axis, length in enumerate(scan.shape):
        if length > 1:
            even = x.narrow(axis, 0, length // 2 * 2).unflatten(axis, (-1, 2))
            x = (even.select(axis + 1, 0) - even.select(axis + 1, 1)) / math.sqrt(2)
    return float(x.abs().median()) / 0.6745


def draw_missing(count: int, missing: int, key: Key) -> Tensor:
    """Draw which of ``count`` earlier visits are there, (count,) bool: ``missing`` of them are not."""
    valid = torch.ones(count, dtype=torch.bool)
    valid[torch.randperm(count, generator=generator(key))[:missing]] = False
    return valid
