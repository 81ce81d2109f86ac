"""What a downstream comparison found: Dice of each arm with intervals, and how many real cases that is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gen3d.metrics.paired import paired_interval
from gen3d.tools.evaluate.report import Cell, Table

REAL, CLASSICAL = "real", "real + classical"
Tree = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Everything measured.

    Attributes:
        rows: Of each arm, number of patients and seed, as ``runs`` holds them.
        sizes: Numbers of patients of all arms.
        arms: Their names; "real" is what the others are compared with.
    """

    rows: Sequence[Mapping[str, Any]]
    sizes: Sequence[int]
    arms: Sequence[str]

    def of(self, arm: str, size: int) -> list[Mapping[str, Any]]:
        """Return the rows of an arm, by seed."""
        return [row for row in self.rows if row["arm"] == arm and row["patients"] == size]

    def cases(self, arm: str, size: int) -> dict[str, float]:
        """Return the Dice of each test case, the mean over labels and seeds."""
        rows = self.of(arm, size)
        return {name: fmean(fmean(row["dice"][name].values()) for row in rows) for name in rows[0]["dice"]}

    def curve(self) -> list[tuple[int, float]]:
        """Return the mean Dice of "real" by the number of patients, rising."""
        numbers = sorted({row["patients"] for row in self.rows if row["arm"] == REAL})
        return [(n, fmean(self.cases(REAL, n).values())) for n in numbers]

    def summary(self) -> list[Tree]:
        """Return a row for each number of patients and arm."""
        return [self.summary_of(arm, size) for size in self.sizes for arm in self.arms]

    def summary_of(self, arm: str, size: int) -> Tree:
        """Return what is said of an arm."""
        rows, cases, plain = self.of(arm, size), self.cases(arm, size), self.cases(REAL, size)
        whole = fmean(cases.values())
        labels = rows[0]["dice"][next(iter(cases))]
        by_seed = [fmean(fmean(case.values()) for case in row["dice"].values()) for row in rows]
        pairs = [row["pairs"] for row in rows if "pairs" in row]
        seconds = {
            "network": sum(row["training_cpu_seconds"] for row in rows),
            "generator": sum(pair.get("generator_cpu_seconds", 0) for pair in pairs),
            "drawing": sum(pair["cpu_seconds"] for pair in pairs),
        }
        gain = None if arm == REAL else paired_interval([cases[name] - plain[name] for name in cases])
        return {
            "arm": arm,
            "patients": size,
            "seeds": len(rows),
            "dice": whole,
            "labels": {n: fmean(case[n] for row in rows for case in row["dice"].values()) for n in labels},
            "by_seed": by_seed,
            "gain": gain,
            "worth": worth(whole, self.curve()),
            "pairs": fmean(pair["accepted"] for pair in pairs) if pairs else 0,
            "cpu_minutes": {name: value / 60 for name, value in seconds.items()},
            "steps": rows[0]["steps"],
        }


def worth(dice: float, curve: Sequence[tuple[int, float]]) -> str:
    r"""Return how many real patients alone reach a Dice, by the curve made monotone, straight in $\ln n$ in between."""
    numbers = [n for n, _ in curve]
    values = [max(value for _, value in curve[: place + 1]) for place in range(len(curve))]
    if dice < values[0]:
        return f"< {numbers[0]}"
    if dice > values[-1]:
        return f"> {numbers[-1]}"
    for place in range(len(values) - 1):
        low, high = values[place], values[place + 1]
        if low <= dice < high:
            share = (dice - low) / (high - low)
            return f"{math.exp((1 - share) * math.log(numbers[place]) + share * math.log(numbers[place + 1])):.0f}"
    return f"{next(n for n, value in zip(numbers, values, strict=True) if value >= dice)}"


def tables(found: Found, settings: Mapping[str, Any]) -> list[Table]:
    """Return the table of the arms and that of real cases alone."""
    rows: list[tuple[Cell, ...]] = []
    for row in found.summary():
        gain = row["gain"]
        minutes = row["cpu_minutes"]
        rows.append(
            (
                row["patients"],
                row["arm"],
                f"{row['dice']:.4f}",
                ", ".join(f"{name} {value:.3f}" for name, value in row["labels"].items()),
                f"{min(row['by_seed']):.3f} to {max(row['by_seed']):.3f}",
                f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]" if gain else "",
                row["worth"],
                f"{row['pairs']:.0f}",
                f"{minutes['network']:.1f} + {minutes['generator']:.1f} + {minutes['drawing']:.1f}",
            )
        )
    columns = ("real patients", "arm", "Dice", "of labels", "over seeds", "against real", "worth", "pairs", "CPU min")
    seeds, tested = settings["seeds"], settings["test_cases"]
    drawn = "images of the arm's own masks, deformed" if settings["from_masks"] else "image and mask drawn together"
    notes = (
        f"{tested} test cases, mean over {seeds} seeds (other patients, weights, draws); every network trains "
        f"{settings['steps']} steps, flips and changes grey values at random; classical: turns, stretches, bends too",
        "against real: mean difference over test cases and its 95 % interval (Student's t; seeds averaged, so how much "
        "they differ is in the column before)",
        "worth: real patients who reach this Dice alone, by the second table, straight in the logarithm of the number",
        f"pairs: {drawn}; {settings['ratio']:.0%} of the draws where mixed. A generator saw its arm's patients only; a "
        "named model, which draws image and mask, what its card says",
        "CPU min: networks, generators, drawing, of all seeds together",
    )
    curve = [(n, f"{dice:.4f}") for n, dice in found.curve()]
    return [
        Table("Segmentation networks with and without synthetic pairs", columns, rows, notes),
        Table("Real cases alone", ("real patients", "Dice"), curve),
    ]


def warnings(found: Found) -> list[str]:
    """Say what a reader must know first."""
    said = []
    few = [row for row in found.rows if "pairs" in row and row["pairs"]["accepted"] < 20]
    for row in few:
        said.append(
            f"{row['arm']}, {row['patients']} patients, seed {row['seed']}: {row['pairs']['accepted']} pairs only, the "
            "gates refused the rest"
        )
    if len({row["seed"] for row in found.rows}) == 1:
        said.append("a single seed: what other patients or weights would give is not known")
    return said
