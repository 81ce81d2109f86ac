"""Draw the curves of quality against calls, and choose the defaults by a rule that was written before the curves.

Usage: python -m benchmarks.quality_figures

The rule for hippocampus-wdm: the figure is the logarithm of the radiomic Frechet distance, mean over the seeds; its
noise is the deviation between seeds, pooled over all rows. A row stands if distance and coverage are within two
standard errors of a difference of the row with the lowest distance; of the rows that stand, the fewest calls win.
For brain-completion: rows are kept whose sharpness is within a factor of 1.25 of that which comes closest to 1; among
them a row stands if its CRPS is within two standard errors (of the paired difference over the crops) of the lowest;
the fewest calls win. Between equal calls, the better figure.

One clause came after the curves: for brain-completion, rows whose samples have less SSIM than the best by more than two
standard errors are left out first. Without it the rule picks two calls on the flow grid (one call, while that grid had
not been measured there), whose samples are the expected image under noise: CRPS takes that for spread, and Laplacian
energy for sharpness.

Reads benchmarks/results/quality_*.json; writes benchmarks/quality_*.png and benchmarks/results/quality_*.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.tools.evaluate.report import Table, markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LINES = {
    ("dpmpp_2m", "karras"): ("DPM-Solver++ 2M, Karras", "#1f77b4", "o-"),
    ("heun", "karras"): ("Heun, Karras", "#d62728", "s-"),
    ("euler", "karras"): ("Euler, Karras", "#2ca02c", "^-"),
    ("ancestral_large", "ddpm"): ("ancestral, DDPM (as published)", "#7f7f7f", "v-"),
    ("dpmpp_2m", "exponential"): ("DPM-Solver++ 2M, exponential", "#17becf", "o:"),
    ("dpmpp_2m", "ddpm"): ("DPM-Solver++ 2M, DDPM", "#9467bd", "o--"),
    ("dpmpp_2m", "flow"): ("DPM-Solver++ 2M, flow", "#9467bd", "o--"),
}
HIPPOCAMPUS = {  # figure -> what to call it, logarithmic axis
    "fd_radiomic": ("radiomic Fréchet distance, lower is better", True),
    "coverage, fd_radiomic": ("coverage, as real", False),
    "MS-SSIM": ("mean pairwise MS-SSIM, as real", False),
}
COMPLETION = {
    "CRPS": ("CRPS of 4 samples, share of window, lower is better", False),
    "sharpness": ("sharpness (Laplacian energy against truth), 1 is right", True),
    "PSNR of the mean": ("PSNR in the brain of the mean of 4, dB", False),
}
SHOWN = (
    "PSNR of a sample",
    "SSIM of a sample",
    "PSNR of the mean",
    "SSIM of the mean",
    "lesion PSNR of the mean",  # empty where a row was measured before this column
    "CRPS",
    "sharpness",
    "spread / error",
)
FLAT = {"expected image": "expected image, 1 call", "regression": "voxel-wise regression", "best copy": "best copy"}
Key = tuple[str, str, int]
Rows = dict[Key, dict[str, np.ndarray]]


def load(which: str) -> dict[str, Any]:
    """Read results."""
    tree: dict[str, Any] = json.loads((RESULTS / f"quality_{which}.json").read_text())
    return tree


def grouped(rows: Sequence[dict[str, Any]], precision: str = "bf16") -> Rows:
    """Gather each row's figures: over its seeds, or over its crops, (n,)."""
    found: dict[Key, dict[str, list[float]]] = {}
    for row in rows:
        if row["precision"] == precision:
            values = found.setdefault((row["sampler"], row["grid"], row["calls"]), {})
            for one in row.get("crops", [row]):
                for name, value in one.items():
                    if isinstance(value, float):
                        values.setdefault(name, []).append(value)
    return {key: {name: np.array(v) for name, v in found[key].items()} for key in sorted(found, key=by_line)}


def by_line(key: Key) -> tuple[int, int]:
    """Sort rows by sampler and grid as in the picture, then by calls."""
    return list(LINES).index(key[:2]), key[2]


def choose_hippocampus(rows: Rows) -> tuple[Key, list[Key], dict[str, float]]:
    """Apply the rule; return the choice, all rows that stand, and the noise of both figures."""
    names = {"fd_radiomic": np.log, "coverage, fd_radiomic": np.asarray}
    means = {key: {name: float(f(row[name]).mean()) for name, f in names.items()} for key, row in rows.items()}
    repeated = [row for row in rows.values() if len(row["fd_radiomic"]) > 1]
    seeds = max(len(row["fd_radiomic"]) for row in repeated)
    noise = {
        name: float(np.sqrt(np.mean([f(row[name]).var(ddof=1) for row in repeated]) * 2 / seeds))
        for name, f in names.items()
    }
    best = min(means, key=lambda key: means[key]["fd_radiomic"])

    def stands(key: Key) -> bool:
        far = means[key]["fd_radiomic"] - means[best]["fd_radiomic"]
        less = means[best]["coverage, fd_radiomic"] - means[key]["coverage, fd_radiomic"]
        return far <= 2 * noise["fd_radiomic"] and less <= 2 * noise["coverage, fd_radiomic"]

    standing = sorted((key for key in means if stands(key)), key=lambda key: (key[2], means[key]["fd_radiomic"]))
    return standing[0], standing, noise


def choose_completion(rows: Rows) -> tuple[Key, list[Key]]:
    """Apply the rule; return the choice and all rows that stand."""
    structured = as_good(rows, list(rows), "SSIM of a sample", 1)
    off = {key: abs(float(np.log(rows[key]["sharpness"]).mean())) for key in structured}
    sharp = [key for key in structured if off[key] <= min(off.values()) + np.log(1.25)]
    standing = as_good(rows, sharp, "CRPS", -1)
    standing.sort(key=lambda key: (key[2], rows[key]["CRPS"].mean()))
    return standing[0], standing


def as_good(rows: Rows, keys: Sequence[Key], name: str, sign: int) -> list[Key]:
    """Return the rows that are within two standard errors of the best; the sign says which way is better."""
    best = max(keys, key=lambda key: sign * float(rows[key][name].mean()))

    def behind(key: Key) -> np.ndarray:
        return sign * (rows[best][name] - rows[key][name])

    return [key for key in keys if behind(key).mean() <= 2 * behind(key).std(ddof=1) / np.sqrt(len(rows[key][name]))]


def middle(name: str, values: np.ndarray) -> float:
    """Return the mean, of ratios the geometric one."""
    return float(np.exp(np.log(values).mean()) if name == "sharpness" else values.mean())


def draw(
    path: Path,
    rows: Rows,
    panels: dict[str, tuple[str, bool]],
    chosen: Key,
    levels: dict[str, dict[str, tuple[float, float]]],
    title: str,
    *,
    spread: bool,
) -> None:
    """Draw one panel for each figure against calls, a line for each sampler, flat ones for what to compare with."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    for axes, (name, (label, logarithmic)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for colour, (words, (value, band)) in zip(("black", "#bcbd22", "#ff7f0e"), levels[name].items(), strict=False):
            axes.axhline(value, color=colour, linestyle="-.", linewidth=1.2, label=words)
            if band:
                axes.axhspan(value - band, value + band, color=colour, alpha=0.12, linewidth=0)
        for line, (words, colour, style) in LINES.items():
            keys = sorted((key for key in rows if key[:2] == line), key=lambda key: key[2])
            if keys:
                values = [middle(name, rows[key][name]) for key in keys]
                each = [rows[key][name] for key in keys]
                spreads = [v.std(ddof=1) if spread and len(v) > 1 else 0.0 for v in each]
                axes.errorbar(
                    [key[2] for key in keys], values, spreads, fmt=style, color=colour, label=words,
                    markersize=4, linewidth=1.3, capsize=2,
                )  # fmt: skip
        axes.plot(
            chosen[2], middle(name, rows[chosen][name]), "*", color="gold", markeredgecolor="black",
            markersize=16, zorder=5, label=f"default: {chosen[0]}, {chosen[2]} calls",
        )  # fmt: skip
        axes.set_xscale("log")
        ticks = [n for n in (1, 2, 3, 5, 10, 20, 50, 100, 1000) if n <= max(key[2] for key in rows)]
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.set_xlabel("network calls for a volume")
        axes.set_title(label, fontsize=10)
        if logarithmic:
            axes.set_yscale("log")
            axes.set_ylim(top=min(axes.get_ylim()[1], 1000.0))
        axes.grid(alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=90)


def hippocampus() -> str:
    """Draw and tabulate hippocampus-wdm."""
    tree = load("hippocampus")
    rows = grouped(tree["rows"])
    chosen, standing, noise = choose_hippocampus(rows)
    real = tree["real against real"]
    levels = {
        name: {"real against real (38 training scans)": (real[name]["mean"], real[name]["std"])} for name in HIPPOCAMPUS
    }
    seeds = "three seeds (one beyond 100 calls, and of Euler)"
    title = f"hippocampus-wdm: {tree['n']} volumes against {tree['n']} test scans, {seeds}"
    draw(HERE / "quality_hippocampus.png", rows, HIPPOCAMPUS, chosen, levels, title, spread=True)
    shown = ("fd_radiomic", "kernel, fd_radiomic", "coverage, fd_radiomic", "density, fd_radiomic", "fd_random3d")
    shown = (*shown, "MS-SSIM", "copy rate")
    lines = [(*named(key), *(cell(rows[key][name]) for name in shown), mark(key, chosen, standing)) for key in rows]
    lines += [
        ("fp32", *named(key)[1:], *(cell(row[name]) for name in shown), f"seed 0; {key[0]}, {key[1]}")
        for key, row in grouped(tree["rows"], "fp32").items()
    ]
    compared = (
        "real scans",
        "",
        "",
        *(f"{real[n]['mean']:.4g} ± {real[n]['std']:.2g}" if n in real else "" for n in shown),
        "",
    )
    table = Table("", ("sampler", "grid", "calls", *shown, ""), [*lines, compared])
    errors = ", ".join(f"{name} {value:.3g}" for name, value in noise.items())
    notes = f"Standard error of a difference of two rows (of the distance, of its logarithm): {errors}."
    return f"{markdown(table)}\n\n{notes}\n"


def completion() -> str:
    """Draw and tabulate brain-completion."""
    tree = load("completion")
    rows = grouped(tree["rows"])
    chosen, standing = choose_completion(rows)
    flat = {
        key: {name: np.array([one[name] for one in several]) for name in several[0]}
        for key, several in tree["baselines"].items()
    }
    levels = {
        name: {FLAT[key]: (middle(name, row[name if name in row else name[:4]]), 0.0) for key, row in flat.items()}
        for name in COMPLETION
    }
    title = f"brain-completion: {len(tree['crops'])} crops of 96 cubed with a contrast hidden, two test patients"
    draw(HERE / "quality_completion.png", rows, COMPLETION, chosen, levels, title, spread=False)
    lines = [(*named(key), *cells(row), mark(key, chosen, standing)) for key, row in rows.items()]
    lines += [
        ("fp32", *named(key)[1:], *cells(row), f"{key[0]}, {key[1]}")
        for key, row in grouped(tree["rows"], "fp32").items()
    ]
    lines += [(FLAT[key], "", "", *cells(row), "") for key, row in flat.items()]
    return markdown(Table("", ("sampler", "grid", "calls", *SHOWN, ""), lines)) + "\n"


def cells(row: dict[str, np.ndarray]) -> list[str]:
    """Return a row's figures; what is the same for one image and for samples stands under both."""
    names = [name if name in row else name.partition(" of ")[0] for name in SHOWN]
    return [f"{middle(name, row[name]):.4g}" if name in row else "" for name in names]


def named(key: Key) -> tuple[str, str, str]:
    """Return the cells that name a row."""
    return key[0], key[1], str(key[2])


def cell(values: np.ndarray) -> str:
    """Write a mean and, where there are several, their deviation."""
    return f"{values.mean():.4g}" + (f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else "")


def mark(key: Key, chosen: Key, standing: Sequence[Key]) -> str:
    """Say what the rule makes of a row."""
    return "**default**" if key == chosen else "within the noise" if key in standing else ""


def main() -> None:
    """Write pictures and tables."""
    for which, made in (("hippocampus", hippocampus), ("completion", completion)):
        text = made()
        (RESULTS / f"quality_{which}.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
