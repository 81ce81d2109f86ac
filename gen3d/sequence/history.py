"""What a patient's earlier visits are to a model: one grid, days, which of them are there; and what is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from gen3d.core.error import UsageError, UserError
from gen3d.core.randomness import Key, derive, seed_of
from gen3d.core.system import Example, System
from gen3d.core.volume import Case, Placement, Prepared, Scale, Triple, Volume
from gen3d.data.intensity import Intensity
from gen3d.data.patches import random_flips, random_start, window
from gen3d.data.prepare import prepare
from gen3d.data.simulated_change import Change, simulate

if TYPE_CHECKING:
    from gen3d.data.visits import Patient


@dataclass(frozen=True, eq=False)
class History:
    """The visits of one patient on a model's axes and grey scale.

    Attributes:
        voxels: (V, X, Y, Z) float32.
        days: When each visit was, (V,), rising.
        valid: Which visits count, (V,) bool.
        spacing: In mm, along the array's axes.
        placement: The way back to the grid of the last visit's file.
        scale: The grey scale of the last valid visit.
    """

    voxels: np.ndarray
    days: np.ndarray
    valid: np.ndarray
    spacing: tuple[float, float, float]
    placement: Placement
    scale: Scale

    def without(self, visit: int) -> "History":
        """Return the history with a visit marked as missing."""
        valid = self.valid.copy()
        valid[visit] = False
        return replace(self, valid=valid)


@dataclass(frozen=True)
class SequenceConfig:
    """What all models of sequences are told.

    Attributes:
        contrasts: The one contrast.
        axes: Axis codes of the arrays.
        intensity: How each visit's grey scale is found.
        canvas: Voxels that a training scan is centred on, cropped or padded; none for scans as they are.
        patch: Voxels of a training example.
        flips: Whether left and right are swapped at random.
        change: How follow-ups of a single scan are simulated.
        between: Probability that a training example asks for a visit between others.
        full: Probability that no earlier visit is missing; else at least one is, if there are two.
        unit: Of time.
    """

    contrasts: tuple[str, ...] = ("mri",)
    axes: str = "RAS"
    intensity: Intensity = Intensity(percentiles=(0.5, 99.5), to=(-1.0, 1.0))
    canvas: Triple | None = None
    patch: Triple = (32, 48, 32)
    flips: bool = True
    change: Change = Change()
    between: float = 0.2
    full: float = 0.4
    unit: Literal["days", "seconds"] = "days"

    def __post_init__(self) -> None:
        if len(self.contrasts) != 1:
            raise ValueError(f"contrasts: expected one, found {', '.join(self.contrasts)}")


class Longitudinal(System):
    """What models of sequences share: histories, examples, and what they refuse."""

    preparation: ClassVar[tuple[str, ...]] = ("contrasts", "axes", "intensity", "canvas")
    config: Any

    @property
    def training_size(self) -> Triple:
        """The patch."""
        return self.config.patch

    def prepare(self, case: Case) -> Prepared:
        """Put a single scan, whose follow-ups will be simulated, on the model's axes and grey scale."""
        config = self.config
        return prepare(case, config.contrasts, config.axes, config.intensity, crop=config.canvas or "none")

    def prepare_patient(self, patient: "Patient") -> Prepared:
        """Put the visits of a patient on the model's axes, each on its own grey scale, to learn from as they are.

        Raises:
            UserError: There is one visit only, or they lie on different grids.
        """
        if len(patient.visits) < 2:
            raise UserError(f"{patient.name}: has one visit; expected at least two to learn from; leave it out")
        (contrast,) = self.config.contrasts
        refuse_other_grids([visit.volume for visit in patient.visits])
        found = [self.prepare(Case(patient.name, {contrast: visit.volume})) for visit in patient.visits]
        return replace(
            found[-1],
            voxels=np.concatenate([visit.voxels for visit in found]),
            present=np.ones(len(found), bool),
            scales=tuple(visit.scales[0] for visit in found),
            days=np.array([visit.day for visit in patient.visits], dtype=np.float64),
        )

    def history(self, volumes: Sequence[Volume], days: Sequence[float]) -> History:
        """Bring the visits of one patient to the model's axes, each on its own grey scale, sorted by day.

        Raises:
            UserError: There is no visit, two are of one day, or they lie on different grids.
        """
        if not volumes:
            raise UserError("no visit: expected at least one earlier scan of the patient")
        order = sorted(range(len(days)), key=lambda visit: float(days[visit]))
        times = np.array([float(days[visit]) for visit in order])
        visits = [volumes[visit] for visit in order]
        for visit, gap in enumerate(np.diff(times)):
            if not gap > 0:
                raise UserError(
                    f"{visits[visit].origin} and {visits[visit + 1].origin}: both of day {times[visit]:g}; "
                    "expected visits of different dates; leave one out"
                )
        refuse_other_grids(visits)
        found = [
            prepare(Case("visit", {self.config.contrasts[0]: visit}), self.config.contrasts, *self.rule)
            for visit in visits
        ]
        last = found[-1]
        assert last.placement is not None
        assert last.scales[0] is not None
        voxels = np.stack([visit.voxels[0] for visit in found])
        return History(voxels, times, np.ones(len(times), bool), last.spacing, last.placement, last.scales[0])

    def horizon(self, cases: Sequence[Prepared]) -> tuple[float, float]:
        """Return how far ahead of a visit training looks, least and most, in ``config.unit``."""
        real = [np.diff(case.days) for case in cases if case.days is not None]
        change = self.config.change
        low, high = change.gap_days
        gaps = [(float(gap.min()), float(gap.sum())) for gap in real] or [(low, high * (change.visits - 1))]
        return min(gap[0] for gap in gaps), max(gap[1] for gap in gaps)

    @property
    def rule(self) -> tuple[str, Intensity]:
        """Axes and grey scale."""
        return self.config.axes, self.config.intensity

    def ask(self, history: History, day: float) -> Example:
        """Return what a forecast of a day is made from, batch axis 1; missing visits are left out.

        Raises:
            UsageError: No visit was before that day.
        """
        there = np.flatnonzero(history.valid)
        if not len(there) or not (history.days[there] < day).any():
            first = f"the first visit is of day {history.days[there[0]]:g}" if len(there) else "there is no visit"
            raise UsageError(f"day {day:g}: {first}; expected a day after at least one visit")
        return {
            "visits": torch.from_numpy(history.voxels[there])[None],
            "days": torch.from_numpy(history.days[there])[None],
            "valid": torch.ones(1, len(there), dtype=torch.bool),
            "query": torch.tensor([float(day)], dtype=torch.float64),
            "history": history,
        }

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Return by key a simulated patient: earlier visits, days, which are there, what is asked, and the truth.

        ``visits`` (1, V, X, Y, Z), ``days`` (1, V), ``valid`` (1, V), ``query`` (1,), ``target`` (1, 1, X, Y, Z) and,
        where the scan has a mask, ``labels`` (1, X, Y, Z) of the target. Without a key the scan is the only visit.
        """
        prepared = case if isinstance(case, Prepared) else self.prepare(case)
        if prepared.days is not None:
            return self.followed(prepared, prepared.days, key)
        scan = np.array(prepared.voxels[0], dtype=np.float32)
        if key is None:
            whole = {"visits": torch.from_numpy(scan)[None, None], "days": torch.zeros(1, 1, dtype=torch.float64)}
            year = torch.tensor([365.0], dtype=torch.float64)
            return {**whole, "valid": torch.ones(1, 1, dtype=torch.bool), "query": year, "prepared": prepared}
        rng = np.random.default_rng(seed_of(derive(key, "crop")))
        mask = prepared.lesion
        if mask is None and getattr(self.config, "labels", None):
            raise UserError(f"{prepared.name}: has no mask of its structures; add one, or set model.labels=[]")
        start = random_start(scan.shape, self.config.patch, rng, near=mask, bias=0.8)
        patch = torch.from_numpy(window(scan, start, self.config.patch, float(scan.min())))
        labels = None if mask is None else torch.from_numpy(window(np.asarray(mask), start, self.config.patch))
        sides = ["RL".find(code) >= 0 for code in self.config.axes]
        flips = random_flips(rng, (sides.index(True),)) if self.config.flips else ()
        patch = patch.flip(flips)
        labels = labels.flip(flips) if labels is not None else None
        found = simulate(patch, labels, self.config.change, key, spacing=prepared.spacing)
        return self.asked(found.visits, found.days, found.masks, rng)

    def followed(self, prepared: Prepared, days: np.ndarray, key: Key | None) -> Example:
        """Return by key an example of a real patient like those of ``example``, with as many visits as the others have.

        Without a key the whole last visit is the target, all before it are given.
        """
        if key is None:
            visits = torch.from_numpy(np.array(prepared.voxels, dtype=np.float32))
            given = {"visits": visits[None, :-1], "days": torch.from_numpy(days[None, :-1])}
            valid, query = torch.ones(1, len(days) - 1, dtype=torch.bool), torch.from_numpy(days[-1:])
            return {**given, "valid": valid, "query": query, "target": visits[-1][None, None], "prepared": prepared}
        rng = np.random.default_rng(seed_of(derive(key, "crop")))
        x, y, z = prepared.voxels.shape[1:]
        start = random_start((x, y, z), self.config.patch, rng)
        patch = window(prepared.voxels, start, self.config.patch, self.config.intensity.to[0]).astype(np.float32)
        sides = ["RL".find(code) >= 0 for code in self.config.axes]
        flips = random_flips(rng, (1 + sides.index(True),)) if self.config.flips else ()
        chosen = self.chosen(len(days), rng)
        return self.padded(self.asked(torch.from_numpy(patch[chosen]).flip(flips), days[chosen], None, rng))

    @property
    def most(self) -> int:
        """Visits of a training example."""
        return int(self.config.change.visits)

    def chosen(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw which of a real patient's visits an example has, in order."""
        return np.sort(rng.permutation(count)[: self.most])

    def padded(self, example: Example) -> Example:
        """Return a training example with visits that are not there behind the others, for batches."""
        lacking = self.most - 1 - example["valid"].shape[1]
        return {
            **example,
            "visits": nnf.pad(example["visits"], (0, 0, 0, 0, 0, 0, 0, lacking)),
            "days": nnf.pad(example["days"], (0, lacking), value=float(example["query"])),
            "valid": nnf.pad(example["valid"], (0, lacking)),
        }

    def asked(self, visits: Tensor, days: np.ndarray, masks: Tensor | None, rng: np.random.Generator) -> Example:
        """Draw which visit is asked for, the last one or one between, and which of the others are missing."""
        count = len(visits)
        between = count > 2 and rng.random() < self.config.between
        target = int(rng.integers(1, count - 1)) if between else count - 1
        others = [visit for visit in range(count) if visit != target]
        valid = np.ones(count - 1, bool)
        if count > 2 and rng.random() >= self.config.full:
            missing = rng.permutation(count - 1)[: rng.integers(1, count - 1)]
            valid[missing] = False
            if not valid[:target].any():
                valid[rng.integers(target)] = True
        example = {
            "visits": visits[others][None],
            "days": torch.from_numpy(days[others])[None],
            "valid": torch.from_numpy(valid)[None],
            "query": torch.tensor([days[target]], dtype=torch.float64),
            "target": visits[target][None, None],
        }
        return example if masks is None else {**example, "labels": masks[target][None].long()}

    def last(self, example: Example) -> Tensor:
        """Return the latest visit before the day that is asked for, (B, 1, X, Y, Z): what copying would answer."""
        place = latest(example)
        visits = example["visits"]
        return visits[torch.arange(len(visits)), place][:, None].float()

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Refuse: contrasts are another model's business."""
        raise UserError("this model forecasts visits: use gen3d forecast, or another --model")

    def blank(self) -> Example:
        """Refuse: there is no patient.

        Raises:
            UserError: Always.
        """
        raise UserError("this model forecasts visits of a patient: use gen3d forecast, or another --model")


def latest(example: Example) -> Tensor:
    """Return which visit is the latest that is there and before the day that is asked for, (B,)."""
    before = example["valid"] & (example["days"] < example["query"][:, None])
    return torch.where(before, example["days"], -torch.inf).argmax(1)


def refuse_other_grids(visits: Sequence[Volume]) -> None:
    """Refuse visits that lie on different grids.

    Raises:
        UserError: Some do.
    """
    for visit in visits[:-1]:
        if not visit.on_grid_of(visits[-1]):
            raise UserError(
                f"{visit.origin} and {visits[-1].origin}: lie on different grids, {visit.shape} and "
                f"{visits[-1].shape} voxels; expected all visits on one; register them (--align)"
            )
