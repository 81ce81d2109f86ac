"""Any number of visits at any times to one map: at every place, attention over what was seen there and when."""

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from gen3d.core.precision import precision_context
from gen3d.nn.conv import Conv, zeroed

YEAR = 365.25
STEEPEST = 4.0  # most that a change is multiplied by when it is carried on to the day that is asked for
FACTS = 6  # numbers that say when a visit was; two more where motion is cyclic


class VisitEncoder(nn.Module):
    r"""Tokens are visits at a place; their softmax over visits $\sum_i \alpha_i v_i$ forgets order and number.

    Visit i enters by its change $d_i$ to the latest visit, by that change carried on to the day q that is asked for,
    $r_i = d_i (t_q - t_a) / (t_a - t_i)$, and by the latest visit itself, told $t_a - t_i$, $t_q - t_a$ and their ratio
    (FiLM). There are no norms, so that how large a change is stays known.

    Args:
        channels: c, of a visit's coordinates.
        width: Of the map; a multiple of 4 heads.
        cyclic: Whether the phase of a period is told too.
    """

    def __init__(self, channels: int, width: int, *, cyclic: bool = False) -> None:
        super().__init__()
        self.compute_dtype, self.heads = torch.float32, 4
        self.facts = FACTS + 4 * cyclic
        self.enter = Conv(3 * channels, width)
        self.when = nn.Sequential(nn.Linear(self.facts, 4 * width), nn.SiLU(), nn.Linear(4 * width, 2 * width))
        self.mix = Conv(width, width)
        self.score = Conv(width, self.heads, kernel=1)
        self.value = Conv(width, width, kernel=1)
        self.trend = zeroed(Conv(width, 1, kernel=1))

    def forward(self, latest: Tensor, changes: Tensor, carried: Tensor, facts: Tensor, valid: Tensor) -> Tensor:
        """Return the map of each item.

        Args:
            latest: Coordinates of the latest visit, (B, c, x, y, z).
            changes: d of each visit, (B, V, c, x, y, z).
            carried: r of each visit, likewise.
            facts: When each visit was, (B, V, facts).
            valid: Which visits are there, (B, V) bool.

        Returns:
            (B, width + c, x, y, z): the map, and the mean of r by attention weights of its own.
        """
        count, visits = changes.shape[:2]
        same = latest[:, None].expand(-1, visits, -1, -1, -1, -1)
        x = torch.cat([changes, carried, same], dim=2).flatten(0, 1)
        with precision_context(x.device, self.compute_dtype):
            scale, shift = self.when(facts.flatten(0, 1))[..., None, None, None].chunk(2, dim=1)
            h = nnf.silu(torch.addcmul(shift, self.enter(entering(x, self.compute_dtype)), 1 + scale))
            h = h + nnf.silu(self.mix(h))
            scores, values, trend = self.score(h).float(), self.value(h).float(), self.trend(h).float()
        scores, values, trend = (part.unflatten(0, (count, visits)) for part in (scores, values, trend))
        absent = ~valid[:, :, None, None, None, None]
        weights = scores.masked_fill(absent, -torch.inf).softmax(1)
        told = (weights[:, :, :, None] * values.unflatten(2, (self.heads, -1))).sum(1).flatten(1, 2)
        alone = trend.masked_fill(absent, -torch.inf).softmax(1)
        return torch.cat([told, (alone * carried).sum(1)], dim=1)


def entering(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring what a network takes to its number format, channels last."""
    return x.to(dtype, memory_format=torch.channels_last_3d)


def carried_on(changes: Tensor, days: Tensor, latest: Tensor, query: Tensor) -> Tensor:
    """Return each visit's change as it would be at the day that is asked for were it straight, at most 4 times itself.

    Args:
        changes: (B, V, c, x, y, z), of the latest visit against each.
        days: (B, V).
        latest: Day of the latest visit, (B,).
        query: (B,).
    """
    return changes * ratio(days, latest, query).to(changes)[..., None, None, None, None]


def ratio(days: Tensor, latest: Tensor, query: Tensor) -> Tensor:
    """Return (t_q - t_a) / (t_a - t_i), at most 4 and at least -4, 0 for the latest visit itself, (B, V)."""
    gap = latest[:, None] - days
    ahead = (query - latest)[:, None]
    return torch.where(gap == 0, 0.0, ahead / torch.where(gap == 0, 1.0, gap)).clamp(-STEEPEST, STEEPEST)


def facts_of(days: Tensor, latest: Tensor, query: Tensor, period: float | None) -> Tensor:
    """Return what is told of when each visit was, (B, V, facts) float32."""
    gap, ahead = (latest[:, None] - days) / YEAR, ((query - latest) / YEAR)[:, None].expand_as(days)
    steep = ratio(days, latest, query)
    parts = [
        gap.asinh(),
        ahead.asinh(),
        steep / STEEPEST,
        (gap == 0).double(),
        (gap < 0).double(),
        (gap * ahead).tanh(),
    ]
    if period:
        for angle in (2 * math.pi * (days / period), 2 * math.pi * (query / period)[:, None].expand_as(days)):
            parts += [angle.sin(), angle.cos()]
    return torch.stack(parts, dim=-1).float()
