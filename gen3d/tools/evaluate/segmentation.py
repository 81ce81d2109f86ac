"""``gen3d evaluate segmentation``: masks against the true ones, label by label."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.core.error import UsageError, UserError
from gen3d.metrics.segmentation import segmentation_scores
from gen3d.tools.evaluate.cache import Cache
from gen3d.tools.evaluate.pairing import BASELINE, MASKS, Match, Matches, match_masks, names_of, read_masks
from gen3d.tools.evaluate.report import Report, Table, forbid_none, is_results, protect, read_results

COMMAND = "segmentation"
ANY = "any"
MOST_LABELS = 256  # an atlas has fewer, a grey image more
HIGH_IS_GOOD = {"dice": True, "iou": True, "surface_dice": True, "hd95": False, "assd": False}
HEADS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 mm", "assd": "ASSD mm", "surface_dice": "surface Dice"}
Tree = dict[str, Any]


def evaluate_segmentation(
    real: Path,
    fake: Path,
    out: Path,
    *,
    labels: Sequence[int] | None = None,
    tolerance_mm: float = 1.0,
    baseline: Path | None = None,
    dry_run: bool = False,
    advance: Callable[[float, str], None] = lambda done, words: None,
    note: Callable[[str], None] = lambda words: None,
) -> Report | str:
    """Score masks against the true ones; distances are in mm, on the files' own spacing.

    Args:
        real: True masks: a folder of cases with files called seg or lesion, a flat folder (or ``labelsTr``), or a file.
        fake: Masks of the same cases or file names.
        out: Where the report goes; what was measured of each case is kept in ``out/cache``.
        labels: To score; by default all but 0 that a case has on either side.
        tolerance_mm: Of the surface Dice.
        baseline: Masks of a plain network, scored beside: what the others must beat; or an earlier run's
            ``results.json``, whose scores are put beside.
        dry_run: Check everything and say what would be compared.
        advance: Told the share done and what is being done.
        note: Told in words what is good to know.

    Returns:
        The report, or what would be compared.

    Raises:
        UserError: No masks, none that belong together, or no case that can be scored.
    """
    if not tolerance_mm >= 0:
        raise UsageError(f"tolerance {tolerance_mm:g} mm: expected 0 or more")
    if labels is not None and (not labels or min(labels) < 1):
        raise UsageError("labels: expected whole numbers of 1 or more; 0 is the background")
    protect(out)
    matches = match_masks(real, fake)
    earlier = _earlier(baseline, labels, tolerance_mm) if baseline and is_results(baseline) else {}
    plain = {m.real: m.fake for m in match_masks(real, baseline).pairs} if baseline and not earlier else {}
    if dry_run:
        return f"would score {len(matches.pairs)} cases; nothing was written"
    cache = Cache(out / "cache", {"command": COMMAND, "labels": labels, "tolerance_mm": tolerance_mm})
    cases: dict[str, Tree] = {}
    failed: dict[str, str] = {}
    for index, match in enumerate(matches.pairs):
        advance(0.95 * index / len(matches.pairs), f"case {index + 1} of {len(matches.pairs)}")
        try:
            cases[match.name] = _scored(cache, match, plain.get(match.real), labels, tolerance_mm)
            if match.name in earlier:
                cases[match.name]["rows"][BASELINE] = earlier[match.name]["rows"][MASKS]
        except UserError as error:
            failed[match.name] = str(error)
            if len(matches.pairs) > 1:
                note(f"{match.name} is left out: {error}")
    forbid_none(cases, failed, "cases")
    means = summary(list(cases.values()))
    if not means:
        raise UserError(f"{real} and {fake}: no mask has any foreground; there is nothing to score")
    advance(0.95, "picture")
    from gen3d.tools.evaluate.segmentation_picture import look, picture

    worst = worst_first(cases)
    shown = look(next(match for match in matches.pairs if match.name == worst[0]), cases[worst[0]])
    facts = {
        "means": means,
        "cases": cases,
        "worst": worst[:10],
        "failed": failed,
        "unmatched": {"real": matches.real_alone, "fake": matches.fake_alone},
    }
    settings = {"real": real, "fake": fake, "labels": labels, "tolerance_mm": tolerance_mm, "baseline": baseline}
    return Report(
        COMMAND,
        settings,
        [main_table(means, cases, tolerance_mm, baseline)],
        facts,
        lambda figure: picture(figure, cases, shown),
        warnings(matches, failed, cases, baseline),
    )


def _earlier(path: Path, labels: Sequence[int] | None, tolerance_mm: float) -> dict[str, Tree]:
    tree = read_results(path, COMMAND)
    asked = {"labels": None if labels is None else list(labels), "tolerance_mm": tolerance_mm}
    for key, value in asked.items():
        if tree["settings"].get(key) != value:
            raise UsageError(f"{path}: made with {key} {tree['settings'].get(key)}, not {value}; give the same to both")
    cases: dict[str, Tree] = tree["cases"]
    return cases


def _scored(
    cache: Cache, match: Match, baseline: Path | None, labels: Sequence[int] | None, tolerance_mm: float
) -> Tree:
    """The scores of one case, of its masks and of the plain network's."""
    rows: dict[str, list[Tree]] = {}
    for name, path in ((MASKS, match.fake), (BASELINE, baseline)):
        if path is not None:
            compute = _of_pair(match.real, path, labels, tolerance_mm)
            rows[name] = cache.get(f"{match.real} {path}", [match.real, path], compute)
    return {"real": match.real, "fake": match.fake, "rows": rows}


def _of_pair(real: Path, fake: Path, labels: Sequence[int] | None, tolerance_mm: float) -> Callable[[], list[Tree]]:
    def compute() -> list[Tree]:
        true, other = read_masks(real, fake)
        a, b = torch.from_numpy(true.voxels), torch.from_numpy(other.voxels)
        if labels is None and (many := len(np.union1d(true.voxels, other.voxels))) > MOST_LABELS:
            raise UserError(
                f"{real} and {fake}: {many} different values; expected masks; name --structure for such ones"
            )
        try:
            rows = segmentation_scores(a, b, spacing=true.spacing, labels=labels, tolerance_mm=tolerance_mm)
        except ValueError as error:
            raise UserError(f"{real} and {fake}: {error}") from None
        trees: list[Tree] = [{**row._asdict(), "label": str(row.label)} for row in rows]
        if len(rows) > 1:
            known = torch.tensor([row.label for row in rows])
            trees += _together(a, b, known, true.spacing, tolerance_mm)
        return trees

    return compute


def _together(
    a: Tensor, b: Tensor, known: Tensor, spacing: tuple[float, float, float], tolerance_mm: float
) -> list[Tree]:
    """All labels as one."""
    one, other = (torch.isin(v.long(), known).long() for v in (a, b))
    rows = segmentation_scores(one, other, spacing=spacing, labels=[1], tolerance_mm=tolerance_mm)
    return [{**row._asdict(), "label": ANY} for row in rows]


def summary(cases: Sequence[Tree]) -> list[Tree]:
    """Return mean, median and worst over cases for each set of masks and label; where both are empty doesn't count."""
    groups: dict[tuple[str, str], list[Tree]] = {}
    for case in cases:
        for name, rows in case["rows"].items():
            for row in rows:
                groups.setdefault((name, row["label"]), []).append(row)
    order = sorted(groups, key=lambda key: (key[1] == ANY, len(key[1]), key[1], key[0] == BASELINE))
    found = (_summary_of(*key, groups[key]) for key in order)
    return [row for row in found if row["cases"]]


def _summary_of(name: str, label: str, rows: Sequence[Tree]) -> Tree:
    there = [row for row in rows if row["empty"] != "both"]
    figures = {}
    for figure, high in HIGH_IS_GOOD.items():
        values = [row[figure] for row in there]
        worst = (min if high else max)(values, default=None)
        figures[figure] = {
            "mean": fmean(values) if values else None,
            "median": median(values) if values else None,
            "worst": worst,
        }
    errors = [row["volume_error"] for row in there if row["volume_error"] is not None]
    changes = [row["fake_ml"] - row["true_ml"] for row in there]
    for figure, values in (("volume_error", errors), ("volume_error_ml", changes)):
        figures[figure] = {
            "mean": fmean(values) if values else None,
            "median": median(values) if values else None,
            "worst": max(values, key=abs, default=None),
        }
    empties = {side: sum(row["empty"] == side for row in rows) for side in ("both", "true", "fake")}
    return {"masks": name, "label": label, "cases": len(there), "empty": empties, **figures}


def main_table(means: Sequence[Tree], cases: Mapping[str, Tree], tolerance_mm: float, baseline: Path | None) -> Table:
    """Return the table: three lines for each label and set of masks."""
    head = (
        "masks",
        "label",
        "over cases",
        "cases",
        *HEADS.values(),
        "volume error %",
        "volume error mL",
        "missed",
        "invented",
    )
    rows = []
    for row in means:
        name = f"{row['masks']} ({baseline})" if row["masks"] == BASELINE else row["masks"]
        for statistic in ("mean", "median", "worst"):
            figures = [row[figure][statistic] for figure in (*HEADS, "volume_error", "volume_error_ml")]
            empty = row["empty"]
            rows.append((name, row["label"], statistic, row["cases"], *figures, empty["fake"], empty["true"]))
    count = len(cases)
    notes = [
        f"surface Dice: share of surface voxels within {tolerance_mm:g} mm. HD95: the larger of both directions' 95th "
        "percentiles. Volume error: that of the masks less that of the true ones",
        "missed, invented: cases where only the masks, or only the true ones, are empty: Dice 0, distances the "
        "volume's diagonal. Cases where both are empty don't count",
    ]
    if any(row["label"] == ANY for row in means):
        notes.append(f"{ANY}: all labels of a case as one")
    if baseline is None:
        notes.append("no masks of a plain network were given (--baseline): what a simpler method reaches is not shown")
    title = f"Masks against true masks, {count} case{'' if count == 1 else 's'}"
    return Table(title, head, rows, tuple(notes))


def worst_first(cases: Mapping[str, Tree]) -> list[str]:
    """Return the cases with foreground, lowest mean Dice over labels first."""

    def dice(name: str) -> float:
        return fmean(row["dice"] for row in cases[name]["rows"][MASKS])

    return sorted((name for name in cases if cases[name]["rows"][MASKS]), key=lambda name: (dice(name), name))


def warnings(
    matches: Matches, failed: Mapping[str, str], cases: Mapping[str, Tree], baseline: Path | None
) -> list[str]:
    """Say what a reader must know first."""
    said = [f"left out: {words}" for words in failed.values()]
    if matches.fake_alone:
        said.append(f"{len(matches.fake_alone)} of FAKE match nothing in REAL: {names_of(matches.fake_alone)}")
    if matches.real_alone:
        said.append(f"{len(matches.real_alone)} of REAL have no mask in FAKE: {names_of(matches.real_alone)}")
    if bare := [name for name, case in cases.items() if not case["rows"][MASKS]]:
        others = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
        said.append(f"{bare[0]}{others}: no foreground on either side, so nothing is scored")
    if baseline is not None and (lacking := [name for name, case in cases.items() if BASELINE not in case["rows"]]):
        said.append(
            f"the baseline has no masks of {len(lacking)} cases, such as {lacking[0]}: its means are over fewer"
        )
    return said
