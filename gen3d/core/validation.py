"""Validation: the losses over items of patients that are not trained on, the same items every time."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from gen3d.core.distributed import rank, total, world_size
from gen3d.core.draws import Draws, moved, prepared, validation_key
from gen3d.core.error import UsageError
from gen3d.core.randomness import Key
from gen3d.core.system import Example, Objective, System
from gen3d.core.volume import Prepared


class Validation:
    """Fixed items, drawn alike from the cases by their keys ``seed/validation/i`` and shared by all processes.

    Args:
        system: Whose losses.
        cases: Where the items are drawn from.
        seed: Of the training.
        items: How many.
        batch: Items in one forward pass.
        workers: Threads that prepare them ahead.
        device: Where networks compute.
        levels: Noise levels at which the losses are asked for besides.
        name: Of the cases in what is told.

    Raises:
        UsageError: There are no cases, or fewer items than processes.
    """

    def __init__(
        self,
        system: System,
        cases: Sequence[Prepared],
        *,
        seed: int,
        items: int,
        batch: int,
        workers: int,
        device: torch.device,
        levels: Sequence[float] = (),
        name: str = "validation",
    ) -> None:
        if not cases:
            raise UsageError("train.validate_every: no cases to validate on; set data.validation, such as 0.1")
        if items < world_size():
            raise UsageError(f"train.validation_items: {items}; expected at least one for each process, {world_size()}")
        self.system, self.items, self.device = system, items, device
        self.levels, self.name = levels, name
        own = range(rank(), items, world_size())
        self.draws = Draws(system, cases, [1.0] * len(cases), partial(validation_key, seed))
        batches = [own[i : i + batch] for i in range(0, len(own), batch)]
        self.batches = partial(prepared, self.draws, batches, workers, pin=device.type == "cuda")

    def terms(self, objectives: Sequence[Objective]) -> dict[str, float]:
        """Return the mean of each ``validation/objective/term``, the same on every process.

        With noise levels also ``validation/objective/sigma LEVEL``. Losses are asked in eval mode, while no parameter
        requires a gradient; those that differentiate with respect to their input still can.
        """
        sums: dict[str, Tensor] = {}
        self.system.eval().requires_grad_(False)
        for batch in self.batches():
            example, keys = moved(batch, self.device)
            for objective in objectives:
                for term, value in self.asked(objective, example, keys).items():
                    name = f"{self.name}/{objective.name}/{term}"
                    sums[name] = sums.get(name, torch.zeros_like(value)) + len(keys) * value.detach()
        self.system.train()
        totals = total(torch.stack(list(sums.values())).tolist())
        return {name: value / self.items for name, value in zip(sums, totals, strict=True)}

    def asked(self, objective: Objective, example: Example, keys: Sequence[Key]) -> dict[str, Tensor]:
        """Return an objective's terms, and its loss at each noise level."""
        terms = dict(objective.loss(example, keys))
        if objective.at is not None:
            for level in self.levels:
                sigma = torch.full((len(keys),), level, dtype=torch.float64)
                terms[f"sigma {level:g}"] = objective.at(example, keys, sigma).mean()
        return terms
