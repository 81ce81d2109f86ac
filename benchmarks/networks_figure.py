"""Figures of what was measured."""

from pathlib import Path
from typing import Any


def draw_networks(tree: dict[str, Any], path: Path) -> None:
    """Draw seconds of a call and of a training step, a bar for each row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(tree["cases"]), 2, figsize=(11, 1 + 1.6 * len(tree["cases"])), squeeze=False)
    for (name, case), pair in zip(tree["cases"].items(), axes, strict=True):
        for axis, key, title in zip(pair, ("forward_s", "step_s"), ("one call", "one training step"), strict=True):
            rows = [
                (n, 1000 * row[key]) for n, row in case["rows"].items() if key in row and not n.startswith("a call")
            ]
            names, values = zip(*rows[::-1], strict=True)
            colours = ["#2a6" if n.startswith("gen3d") else "#999" for n in names]
            bars = axis.barh(names, values, color=colours)
            axis.bar_label(bars, [f"{v:.3g} ms" for v in values], padding=3, fontsize=8)
            axis.set_title(f"{name}: {title}", fontsize=9)
            axis.tick_params(labelsize=8)
            axis.set_xlim(0, 1.25 * max(values))
    about = tree["environment"]
    figure.suptitle(f"{about['device']}, torch {about['torch']}, commit {about['commit']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
