"""When to stop: the losses on patients kept out have turned, at each noise level or on the whole."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PARTED = 0.05  # rise over its least, and fall of the seen cases' since, from which a level counts as memorised


class EarlyStop:
    """Keeps what the validations found and says which was best, whether to stop, and where memorising started.

    A validation counts by the mean, over noise levels (or, without levels, terms), of its loss relative to that of the
    first validation, which is made before the first step.

    Args:
        patience: How many validations in a row may be no better than the best.
        rows: What an earlier run found, (step, losses) each.
    """

    def __init__(self, patience: int, rows: list[Any] | None = None) -> None:
        self.patience = patience
        self.rows: list[tuple[int, dict[str, float]]] = [(int(step), dict(losses)) for step, losses in rows or []]

    def take(self, step: int, losses: Mapping[str, float]) -> bool:
        """Take in a validation; tell whether it is the best so far."""
        self.rows.append((step, dict(losses)))
        return self.best == step

    @property
    def best(self) -> int:
        """The step of the best validation."""
        return self.rows[int(np.argmin(self.scores))][0]

    @property
    def finished(self) -> bool:
        """Whether there was none better for as long as is waited."""
        return len(self.rows) - 1 - int(np.argmin(self.scores)) >= self.patience

    @property
    def scores(self) -> list[float]:
        """Mean relative loss of each validation."""
        return [float(np.mean(list(row.values()))) for row in self.relative("validation")]

    def relative(self, group: str) -> list[dict[str, float]]:
        """Return each validation's losses on a group of cases, relative to the first, by noise level or term."""
        first = self.rows[0][1]
        mine = [name for name in first if name.startswith(f"{group}/")]
        mine = [name for name in mine if "/sigma " in name] or mine
        return [
            {name.removeprefix(f"{group}/"): losses[name] / max(first[name], 1e-12) for name in mine}
            for _, losses in self.rows
        ]

    def turned(self) -> dict[str, int]:
        """Return the step at which each level's loss on kept-out cases was least."""
        rows = self.relative("validation")
        return {name: self.rows[int(np.argmin([row[name] for row in rows]))][0] for name in rows[0]}

    def memorising(self) -> str:
        """Say at which levels the loss rises on kept-out cases and still falls on those trained on; else nothing."""
        kept, seen = self.relative("validation"), self.relative("seen")
        words, since = [], self.rows[-1][0]
        for name in kept[-1]:
            least = int(np.argmin([row[name] for row in kept]))
            rise = kept[-1][name] / kept[least][name] - 1
            fall = 1 - seen[-1][name] / seen[least][name] if name in seen[-1] else 0.0
            if rise > PARTED and fall > PARTED:
                words.append(f"{name.rpartition('/')[2]} (+{rise:.0%} kept out, -{fall:.0%} seen)")
                since = min(since, self.rows[least][0])
        return f"memorising since step {since}, at {', '.join(words)}" if words else ""
