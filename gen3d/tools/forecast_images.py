"""Asking a model for a patient's next visit: the expected image, plausible ones, and a roll-out in steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.core.randomness import Key, derive
from gen3d.core.system import Example
from gen3d.core.volume import Prepared, Volume
from gen3d.data.envelope import departures
from gen3d.data.visits import Patient, Visit
from gen3d.tools.sampling import OpenModel, choose_walk, drawn, finite, to_device

Advance = Callable[[float], None]
UNLIKE = 0.5  # share of a change that is believed of a patient who is unlike the training set


@dataclass(frozen=True, eq=False)
class Seen:
    """A patient's visits, and what a model makes of them: a ``History`` on its own axes and grey scale.

    Attributes:
        visits: In order of time.
        history: The model's.
        believed: Share of the model's change that goes into a forecast.
        measured: Whether structures are measured: not in scans unlike those that their network learnt from.
    """

    visits: tuple[Visit, ...]
    history: Any
    believed: float = 1.0
    measured: bool = True

    @property
    def last(self) -> Volume:
        """The last visit's scan."""
        return self.visits[-1].volume

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in mL."""
        return float(np.prod(self.history.spacing)) / 1000

    def to_file(self, image: np.ndarray) -> np.ndarray:
        """Bring an array from the model's grid to the file's; 0 where the model sees nothing."""
        return self.history.placement.place(np.asarray(image, dtype=np.float32))

    def in_file_units(self, difference: np.ndarray) -> np.ndarray:
        """Bring a difference of grey values to the file's grid and the last visit's scale."""
        gain = self.history.scale.gain
        return self.to_file(difference / gain if gain else np.zeros_like(difference))

    def copy_for(self, day: float, latest: np.ndarray) -> np.ndarray:
        """Return the visit that a forecast starts from, on the file's grid and the last visit's grey scale.

        After the last visit it is that scan as it is; before, the latest earlier one (``latest``, on the model's grid).
        """
        raw = self.last.voxels.astype(np.float32)
        if day > self.visits[-1].day:
            return raw
        inside = self.to_file(np.ones_like(latest)) > 0
        return np.where(inside, self.to_file(self.history.scale.invert(latest)), raw)


@dataclass(frozen=True, eq=False)
class Answer:
    """A forecast.

    Attributes:
        image: On the model's grid and grey scale, (X, Y, Z): the expected image, or the samples' mean.
        latest: The visit that copying would answer, likewise.
        kind: What ``image`` is.
        copy: The visit that it starts from, on the file's grid and grey scale.
        voxels: The forecast, likewise.
        std: Of the samples, likewise; None of fewer than two.
        samples: How many were drawn.
    """

    image: np.ndarray
    latest: np.ndarray
    kind: str
    copy: np.ndarray
    voxels: np.ndarray
    std: np.ndarray | None
    samples: int


def look(system: Any, visits: Sequence[Visit], believed: float = 1.0, *, measured: bool = True) -> Seen:
    """Bring visits to a model's axes and grey scale."""
    history = system.history([v.volume for v in visits], [v.day for v in visits])
    return Seen(tuple(visits), history, believed, measured and bool(system.config.labels))


def unlike_scans(model: OpenModel, seen: Seen) -> tuple[str, ...]:
    """Say in which way the last visit is unlike the scans that the model was trained on."""
    system, history = model.system, seen.history
    last = np.asarray(history.voxels[-1:], dtype=np.float32)
    there, scales = np.array([True]), (history.scale,)
    case = Prepared("last visit", "", last, there, None, history.spacing, scales, history.placement)
    return departures(case, system.config.contrasts, system.provenance.get("envelope", {}))


def unlike_times(model: OpenModel, patient: Patient, days_ahead: Sequence[float]) -> tuple[str, ...]:
    """Say in which way how far is looked ahead is unlike what the model was trained on.

    ``provenance["envelope"]`` may hold ``horizon_days``, [least, most], besides what ``departures`` looks at, and
    ``provenance["time_unit"]`` may be "seconds".
    """
    system, words = model.system, []
    known = system.provenance.get("envelope", {})
    unit = system.provenance.get("time_unit", "days")
    if patient.unit != unit:
        words.append(f"its times are in {patient.unit}; the model was trained on {unit}")
    elif "horizon_days" in known:
        low, high = (float(end) for end in known["horizon_days"])
        far = [days for days in days_ahead if not low <= days <= high]
        words += [f"looks {days:g} days ahead; the model was trained on {low:g} to {high:g} days" for days in far]
    return tuple(words)


def answer(
    model: OpenModel,
    seen: Seen,
    day: float,
    key: Key,
    samples: int,
    take: Callable[[int, np.ndarray, np.ndarray], None] = lambda index, image, change: None,
    advance: Advance = lambda share: None,
) -> Answer:
    """Forecast one day: the expected image by one network call, and how plausible ones spread.

    Args:
        model: Its system has ``ask``, ``last`` and ``expected``; where that refuses, the samples' mean is taken.
        seen: The patient's visits.
        day: That is asked for.
        key: Of the samples.
        samples: How many are drawn; at least 1 where the model has no expected image.
        take: Told of every sample: its number from 0, the image on the model's grid and grey scale, and its change
            since the visit that copying would answer, on the file's.
        advance: Told the share done.

    Raises:
        UserError: The model's answer is not finite.
    """
    system: Any = model.system
    example = to_device(system.ask(seen.history, day), model.device)
    latest = first_channel(system.last(example))
    image = expected_image(system, example)
    samples = max(samples, int(image is None))
    total, squares = np.zeros(latest.shape), np.zeros(latest.shape)
    walk = choose_walk(system) if samples else None
    condition = system.condition(example) if samples else None
    for index in range(samples):
        assert walk is not None
        assert condition is not None
        coords = drawn(system, example, condition, derive(key, index), walk)
        drawn_image = finite(first_channel(system.finish(coords, example)), model.name)
        change = drawn_image.astype(np.float64) - latest
        total += change
        squares += change**2
        take(index, drawn_image, seen.in_file_units(change))
        advance((index + 1) / samples)
    kind = "expected image" if image is not None else "sample" if samples == 1 else f"mean of {samples} samples"
    mean = total / max(samples, 1)
    image = latest + mean if image is None else image
    image = finite((latest + seen.believed * (image - latest)).astype(np.float32), model.name)
    if seen.believed < 1:
        kind = f"{kind}, {seen.believed:.0%} of change"
    spread = None
    if samples > 1:
        variance = (squares / samples - mean**2) * samples / (samples - 1)
        spread = np.abs(seen.in_file_units(np.sqrt(np.maximum(variance, 0))))
    copy = seen.copy_for(day, latest)
    return Answer(image, latest, kind, copy, changed(copy, seen.in_file_units(image - latest)), spread, samples)


def changed(copy: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return a visit with a change added, no darker than its darkest voxel."""
    return np.maximum(copy + change, copy.min()).astype(np.float32)


def expected_image(system: Any, example: Example) -> np.ndarray | None:
    """Return the expected forecast on the model's grid and grey scale, or None where a model has none."""
    try:
        return first_channel(system.expected(example))
    except UserError:
        return None


def first_channel(image: Tensor) -> np.ndarray:
    """Return the only item's only channel, float32 on the CPU."""
    return image[0, 0].float().cpu().numpy()


def sizes(model: OpenModel, seen: Seen, image: np.ndarray) -> dict[str, float]:
    """Return each structure's volume in mL, as the model's own fixed network finds it; nothing where it has none."""
    labels = labelled(model, seen, image)
    if labels is None:
        return {}
    counts = np.bincount(labels.ravel(), minlength=1 + len(model.system.config.labels))
    return {name: int(counts[index]) * seen.voxel_ml for index, name in enumerate(model.system.config.labels, 1)}


def labelled(model: OpenModel, seen: Seen, image: np.ndarray) -> np.ndarray | None:
    """Return the labels that the model's fixed network gives an image, (X, Y, Z); None where nothing is measured."""
    system: Any = model.system
    if not seen.measured:
        return None
    labels: Tensor = system.structures(torch.from_numpy(image)[None, None].to(model.device))
    return labels[0].cpu().numpy()


def rolled_out(
    model: OpenModel,
    visits: tuple[Visit, ...],
    day: float,
    step: float,
    key: Key,
    advance: Advance,
    believed: float = 1.0,
) -> list[tuple[float, Visit]]:
    """Forecast every ``step`` days up to a day, each forecast becoming a visit.

    Returns:
        The days, each with what was forecast for it, as a visit; the last one is the day asked for.
    """
    made: list[tuple[float, Visit]] = []
    days = steps(visits[-1].day, day, step)
    for index, at in enumerate(days):
        seen = look(model.system, visits, believed)
        found = answer(model, seen, at, derive(key, "roll", index), 0)
        visit = Visit(f"forecast {at:g}", at, replace(seen.last, voxels=found.voxels))
        visits = (*visits, visit)
        made.append((at, visit))
        advance((index + 1) / len(days))
    return made


def steps(first: float, last: float, step: float) -> list[float]:
    """Return the days from ``first``, exclusive, to ``last``, inclusive, every ``step``; the last step may be short.

    Raises:
        UserError: ``last`` is not after ``first``, or there are more than 100.
    """
    if last <= first:
        raise UserError("--rollout: goes on from the last visit; expected --at after it")
    count = int(np.ceil((last - first) / step - 1e-9))
    if count > 100:
        raise UserError(f"--rollout {step:g}: {count} steps to reach --at; expected at most 100; make it longer")
    return [*(first + step * index for index in range(1, count)), last]
