"""The picture of a downstream comparison: Dice over the number of real cases, and what each arm gains."""

from typing import TYPE_CHECKING

from gen3d.metrics.paired import paired_interval
from gen3d.tools.evaluate.canvas import EDGE, REAL, chart, heading, legend
from gen3d.tools.evaluate.downstream_tables import REAL as ALONE
from gen3d.tools.evaluate.downstream_tables import Found
from gen3d.tools.preview import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#d2a8ff", "#ffa657", "#7ee787", "#ff7b72", "#79c0ff", "#f2cc60")


def picture(figure: "Figure", found: Found) -> None:
    """Fill the figure."""
    words = "Left: mean over test cases and seeds, bars from the lowest to the highest seed. Right: 95 % intervals."
    heading(figure, "gen3d evaluate downstream", words)
    grid = figure.add_gridspec(1, 2, left=0.06, right=0.98, top=0.9, bottom=0.1, wspace=0.35)
    left = chart(figure.add_subplot(grid[0, 0]), "Dice of unseen real cases", "real patients", "Dice")
    curve = found.curve()
    left.plot([n for n, _ in curve], [dice for _, dice in curve], color=REAL, marker="o", label=ALONE)
    left.set_xscale("log")
    left.set_xticks([n for n, _ in curve], labels=[str(n) for n, _ in curve])
    left.minorticks_off()
    others = [arm for arm in found.arms if arm != ALONE]
    colours = {arm: COLOURS[place % len(COLOURS)] for place, arm in enumerate(others)}
    rows = found.summary()
    for place, arm in enumerate(others):
        shown = [row for row in rows if row["arm"] == arm]
        at = [row["patients"] * 1.06 ** (place + 1) for row in shown]
        means = [row["dice"] for row in shown]
        ends = [[m - min(r["by_seed"]) for m, r in zip(means, shown, strict=True)]]
        ends.append([max(r["by_seed"]) - m for m, r in zip(means, shown, strict=True)])
        left.errorbar(at, means, yerr=ends, color=colours[arm], fmt="s", markersize=5, capsize=2, label=arm)
    legend(left)
    right = chart(figure.add_subplot(grid[0, 1]), "gain over real cases alone", "difference of Dice")
    labels: list[str] = []
    for size in found.sizes:
        plain = found.cases(ALONE, size)
        for arm in others:
            cases = found.cases(arm, size)
            gain = paired_interval([cases[name] - plain[name] for name in cases])
            bar = [[gain.mean - gain.low], [gain.high - gain.mean]]
            right.errorbar([gain.mean], [-len(labels)], xerr=bar, color=colours[arm], fmt="s", markersize=5, capsize=2)
            labels.append(f"{size}: {arm}")
    right.axvline(0, color=EDGE)
    right.set_yticks([-place for place in range(len(labels))], labels=labels, color=INK)
