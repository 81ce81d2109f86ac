"""From the figures of every pair to tables, warnings and a verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from gen3d.metrics import PAIR_METRICS
from gen3d.metrics.pairs import FIXED, MATCHED
from gen3d.tools.evaluate.pair_case import CONSTANT, COPY, FITS, IMAGES, REGRESSION, SYNTHETIC
from gen3d.tools.evaluate.pairing import BASELINE, Matches, names_of
from gen3d.tools.evaluate.report import Table

FIGURES = ("psnr", "ssim", "ms_ssim", "nrmse", "mae", "rmse", "blur", "gain", "offset", *PAIR_METRICS)
REGIONS = ("brain", "body", "lesion", "healthy", "whole")
FAR_GAIN = 1.25
Tree = dict[str, Any]


def with_earlier(case: Tree, earlier: Tree | None) -> Tree:
    """Put an earlier run's figures of a pair beside this one's, where both had one window and the same regions."""
    if earlier is None:
        return {**case, "notes": [*case["notes"], "the earlier run has no such pair"]}
    own, other = (tree["rows"][SYNTHETIC] for tree in (case, earlier))
    same = [[row[key] for key in ("region", "voxels", "low", "high", "units")] for row in (*own, *other)]
    if same[: len(own)] != same[len(own) :]:
        return {**case, "notes": [*case["notes"], "the earlier run has another window or other regions: left out"]}
    measurements = {**case["measurements"], BASELINE: earlier["measurements"][SYNTHETIC]}
    return {**case, "rows": {**case["rows"], BASELINE: other}, "measurements": measurements}


def summary(cases: Sequence[Tree]) -> list[Tree]:
    """Return mean, standard deviation and extremes over pairs, for each image, region, normalisation and unit."""
    groups: dict[tuple[str, ...], list[Tree]] = {}
    for case in cases:
        for image, rows in case["rows"].items():
            for row in rows:
                key = (row["region"], row["normalisation"], image, row["units"])
                groups.setdefault(key, []).append(row)
    order = sorted(groups, key=lambda k: (REGIONS.index(k[0]), (FIXED, MATCHED).index(k[1]), IMAGES.index(k[2]), k[3]))
    return [_summary_of(key, groups[key]) for key in order]


def _summary_of(key: tuple[str, ...], rows: Sequence[Tree]) -> Tree:
    region, normalisation, image, units = key
    figures = {}
    for name in FIGURES:
        values = [row[name] for row in rows if row.get(name) is not None]  # an earlier run may lack a further metric
        figures[name] = {
            "n": len(values),
            "mean": fmean(values) if values else None,
            "median": median(values) if values else None,
            "std": stdev(values) if len(values) > 1 else None,
            "min": min(values, default=None),
            "max": max(values, default=None),
        }
    windows = sorted({(row["ms_ssim_kernel"], row["ms_ssim_scales"]) for row in rows if row["ms_ssim"] is not None})
    return {
        "region": region, "normalisation": normalisation, "image": image, "units": units, "pairs": len(rows),
        "voxels": sum(row["voxels"] for row in rows), "ms_ssim_windows": windows, "nrmse_norm": rows[0]["nrmse_norm"],
        **figures,
    }  # fmt: skip


def overview(means: Sequence[Tree], cases: Mapping[str, Tree], baseline: Path | None) -> Table:
    """Return what to look at first: a line for each image, scale matched as ``headline`` says, over pairs."""
    rows = [
        (f"{image} ({baseline})" if image == BASELINE else image, first["region"], first["pairs"], *figures)
        for image, first, figures in overall(means)
    ]
    head = ("image", "region", "pairs", "PSNR dB", "SSIM", "blur", *PAIR_METRICS, "lesion PSNR dB", "whole PSNR dB")
    count, units = len(cases), {row["units"] for row in means}
    scale = " and ".join(["scale matched"] * (units != {"HU"}) + ["HU as they are"] * ("HU" in units))
    title = f"Synthetic against true images, means over {count} pair{'' if count == 1 else 's'}, {scale}"
    return Table(title, head, rows, tuple(_overview_notes(means, cases)))


def overall(means: Sequence[Tree]) -> list[tuple[str, Tree, tuple[float | None, ...]]]:
    """Return for each image, of each unit, its name, the row of the first region, and the figures of ``overview``."""
    found: dict[tuple[str, str], dict[str, Tree]] = {}
    for row in means:
        if row["normalisation"] == (FIXED if row["units"] == "HU" else MATCHED):
            found.setdefault((row["units"], row["image"]), {})[row["region"]] = row
    order = sorted(found, key=lambda key: (key[0], IMAGES.index(key[1])))
    rows = []
    for units, image in order:
        regions = found[units, image]
        first = next(iter(regions.values()))
        elsewhere = (regions[name]["psnr"]["mean"] if name in regions else None for name in ("lesion", "whole"))
        own = (first[name]["mean"] for name in ("psnr", "ssim", "blur", *PAIR_METRICS))
        rows.append((image, first, (*own, *elsewhere)))
    return rows


def main_table(means: Sequence[Tree], cases: Mapping[str, Tree], baseline: Path | None) -> Table:
    """Return the table of means over pairs of everything that was measured."""
    head = ("region", "normalisation", "image", "pairs", "PSNR dB", "SSIM", "MS-SSIM", "NRMSE", "MAE", "blur")
    names = ("psnr", "ssim", "ms_ssim", "nrmse", "mae", "blur", *PAIR_METRICS)
    rows = []
    for row in means:
        figures = [row[name]["mean"] for name in names]
        image = f"{row['image']} ({baseline})" if row["image"] == BASELINE else row["image"]
        unit = " (HU)" if row["units"] == "HU" else ""
        gain = row["gain"]["median"]
        rows.append((row["region"], row["normalisation"] + unit, image, row["pairs"], *figures, gain))
    title = "Every region, as it is and scale matched, means over pairs"
    return Table(title, (*head, *PAIR_METRICS, "gain"), rows, tuple(_table_notes(means)))


def _overview_notes(means: Sequence[Tree], cases: Mapping[str, Tree]) -> list[str]:
    copied = sorted({case["copied"] for case in cases.values() if case["copied"]})
    notes = [
        "scale matched: the image first got the true one's median and interquartile range inside the region",
        "PSNR, SSIM: higher is better; the whole volume's PSNR is flattered by its background. Blur: 1 is as sharp as "
        "the true image, below 1 smoother, above 1 sharper or noisier",
        *(f"{name}: {(metric.__doc__ or '').partition('.')[0]}" for name, metric in PAIR_METRICS.items()),
    ]
    if any(row["region"] == "brain" for row in means):
        notes.append(
            "brain: --mask, or where the true image is above 0, which is the brain in a skull-stripped scan only"
        )
    if copied:
        notes.append(
            f"best copy: the other contrast of the case ({', '.join(copied)}) that scores best, put on the true one's "
            "scale: chosen with the truth at hand. constant: the true image's median"
        )
    else:
        notes.append("no other contrast of a case was found, so there is no copy to beat; constant: the true median")
    if any(row["image"] == REGRESSION for row in means):
        notes.append(
            f"regression: voxel-wise and quadratic on the other three contrasts, fitted on the patients of {FITS} "
            f"(gen3d info {FITS}) and put on the true one's scale"
        )
    return notes


def _table_notes(means: Sequence[Tree]) -> list[str]:
    notes = [
        "fixed window: the true image's window serves both. scale matched: the other image first got the true one's "
        "median and interquartile range inside the first region, by the gain printed (the median over pairs)",
        "NRMSE: divided by the true image's range in the region. MAE: share of the window, or HU",
    ]
    windows = {row["region"]: row["ms_ssim_windows"] for row in means if row["ms_ssim_windows"]}
    if windows:
        said = "; ".join(f"{region} {', '.join(f'{k} at {s}' for k, s in used)}" for region, used in windows.items())
        notes.append(f"MS-SSIM of the region's box, window at scales: {said}; only equal ones compare")
    return notes


def by_contrast(cases: Mapping[str, Tree]) -> list[Table]:
    """Return a table with a line for each contrast, where there are several."""
    names = sorted({case["contrast"] for case in cases.values()})
    if len(names) < 2:
        return []
    rows = []
    for name in names:
        means = summary([case for case in cases.values() if case["contrast"] == name])
        for image, first, (psnr, ssim, *_, lesion, _whole) in overall(means):
            rows.append((name or "not named", image, first["pairs"], first["region"], psnr, ssim, lesion))
    head = ("contrast", "image", "pairs", "region", "PSNR dB", "SSIM", "lesion PSNR dB")
    return [Table("By contrast, scale matched", head, rows)]


def agreement_table(agreement: Mapping[str, Sequence[Tree]]) -> list[Table]:
    """Return the table of a segmentation network's agreement, if one was given."""
    labels = sorted({row["label"] for rows in agreement.values() for row in rows})
    rows = []
    for label in labels:
        own = [row for case in agreement.values() for row in case if row["label"] == label]
        columns = ([r[k] for r in own if r[k] is not None] for k in ("between", "real", "fake", "drop"))
        rows.append((label, len(own), *(fmean(values) if values else None for values in columns)))
    if not rows:
        return []
    head = ("label", "pairs", "Dice of both answers", "real against mask", "synthetic against mask", "drop")
    notes = ("one fixed segmentation network on the true and on the synthetic image; mask: the lesion mask's labels",)
    return [Table("Segmentation agreement", head, rows, notes)]


def headline(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row that stands for a pair: the first region; scale matched, but for HU, which have a scale."""
    wanted = FIXED if rows[0]["units"] == "HU" else MATCHED
    return next(row for row in rows if row["normalisation"] == wanted)


def headlines(cases: Sequence[Tree]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows that stand for the pairs, by image."""
    names = [name for name in IMAGES if any(name in case["rows"] for case in cases)]
    return {name: [headline(case["rows"][name]) for case in cases if name in case["rows"]] for name in names}


def worst_first(cases: Mapping[str, Tree]) -> list[str]:
    """Return the names of the pairs, lowest PSNR first."""
    return sorted(cases, key=lambda name: (headline(cases[name]["rows"][SYNTHETIC])["psnr"], name))


def warnings(matches: Matches, failed: Mapping[str, str], cases: Mapping[str, Tree]) -> list[str]:
    """Say what a reader must know first."""
    said = [f"left out: {words}" for words in failed.values()]
    if matches.fake_alone:
        said.append(f"{len(matches.fake_alone)} of FAKE match nothing in REAL: {names_of(matches.fake_alone)}")
    if matches.real_alone:
        said.append(f"{len(matches.real_alone)} of REAL have no synthetic image: {names_of(matches.real_alone)}")
    told: dict[str, list[str]] = {}
    for name, case in cases.items():
        for words in case["notes"]:
            told.setdefault(words, []).append(name)
        for region in case["empty_regions"]:
            told.setdefault(f"the {region} region is empty, so it has no row", []).append(name)
    for words, names in told.items():
        said.append(f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {words}")
    if len({case["units"] for case in cases.values()}) > 1:
        said.append("some pairs are in HU, some aren't; name the units to treat all alike")
    return said


def verdict(means: Sequence[Tree]) -> list[str]:
    """Say where the synthetic images don't beat a baseline, and where the fixed window is not what to look at."""
    said = []
    synthetic = [row for row in means if row["image"] == SYNTHETIC]
    for own in synthetic:
        if own["normalisation"] != (FIXED if own["units"] == "HU" else MATCHED):
            continue
        for row in means:
            same = all(row[key] == own[key] for key in ("region", "normalisation", "units"))
            better = row["psnr"]["mean"] >= own["psnr"]["mean"] and row["pairs"] == own["pairs"]
            if same and better and row["image"] != SYNTHETIC and own["region"] != "whole":
                figures = f"{own['psnr']['mean']:.2f} against {row['psnr']['mean']:.2f} dB"
                said.append(f"{own['region']}: the synthetic images don't beat {_spoken(row['image'])}, {figures} PSNR")
    gains = [row["gain"]["median"] for row in synthetic if row["normalisation"] == MATCHED]
    if gains and not 1 / FAR_GAIN <= gains[0] <= FAR_GAIN:
        said.append(
            f"the synthetic images are on another scale (fitted gain {gains[0]:.3g}), which scale matching forgives"
        )
    return said


def _spoken(image: str) -> str:
    return {
        REGRESSION: "voxel-wise regression",
        COPY: "the best copy",
        CONSTANT: "a constant image",
        BASELINE: "the baseline",
    }[image]
