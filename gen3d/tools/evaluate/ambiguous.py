"""``gen3d evaluate ambiguous``: the masks that a model draws of an image against those that several raters drew."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d.core.error import UsageError, UserError
from gen3d.metrics.ambiguous import AmbiguousScores, Spread, ambiguous_scores
from gen3d.metrics.calibration import calibration
from gen3d.metrics.matching import IOU_OF_NOTHING, Empty
from gen3d.tools.evaluate.ambiguous_rows import (
    BINS,
    EARLIER,
    MODEL,
    both_readings,
    paired,
    paired_table,
    pool,
    rater_calibrations,
    rater_rows,
    reliability_tree,
    score_table,
    summary,
)
from gen3d.tools.evaluate.cache import Cache
from gen3d.tools.evaluate.mask_sets import RATERS, SAMPLES, MaskSet, common_cases, find_masks, read_pair
from gen3d.tools.evaluate.report import Report, forbid_none, protect, read_results

COMMAND = "ambiguous"
SHOWN = 3  # worst cases in the picture


@dataclass(frozen=True)
class Asked:
    """What the user chose."""

    empty: Empty
    samples: int | None
    label: int | None


def evaluate_ambiguous(
    real: Path,
    fake: Path,
    out: Path,
    *,
    empty: Empty = "agree",
    samples: int | None = None,
    label: int | None = None,
    reference: Path | None = None,
    dry_run: bool = False,
    advance: Callable[[float, str], None] = lambda done, words: None,
    note: Callable[[str], None] = lambda words: None,
) -> Report | str:
    """Score the samples of every case against its raters, beside what the raters score against each other.

    Args:
        real: Raters' masks: a folder of ``CASE_raterN.nii.gz``, any number for each case, or an npz with
            ``CASE_masks`` (m, X, Y[, Z]) or ``raters``.
        fake: Samples: a folder of ``CASE/CASE_sample-NN.nii.gz``, or an npz with ``CASE_samples`` or ``CASE_masks``. A
            case with a single one is scored as a deterministic network's.
        out: Where the report goes; what was measured of each case is kept in ``out/cache``.
        empty: What two empty masks are to GED and HM-IoU: "agree", "exclude" or "disagree".
        samples: Take only so many of each case, in order, so that models with different numbers compare.
        label: The class to score; by default masks must be 0 and 1.
        reference: An earlier run's ``results.json`` or folder; its model becomes a row, compared case by case.
        dry_run: Check everything and say what would be compared.
        advance: Told the share done and what is being done.
        note: Told in words what is good to know.

    Returns:
        The report, or what would be compared.

    Raises:
        UserError: No masks, no common case, or no case that can be scored.
    """
    protect(out)
    if empty not in IOU_OF_NOTHING:
        raise UsageError(f"--empty {empty}: expected one of {', '.join(IOU_OF_NOTHING)}")
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples}: expected at least 1")
    asked = Asked(empty, samples, label)
    raters, drawn = find_masks(real, RATERS), find_masks(fake, SAMPLES)
    names = common_cases(raters, drawn)
    unmatched = {"raters": sorted(set(raters) - set(names)), "samples": sorted(set(drawn) - set(names))}
    earlier = earlier_cases(reference, asked) if reference is not None else {}
    if dry_run:
        return f"would score {len(names)} cases; nothing was written"
    cache = Cache(out / "cache", {"command": COMMAND, "bins": BINS, **vars(asked)})
    cases: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for index, name in enumerate(names):
        advance(0.9 * index / len(names), f"case {index + 1} of {len(names)}")
        try:
            cases[name] = with_earlier(kept_case(cache, raters[name], drawn[name], asked), earlier.get(name))
        except UserError as error:
            failed[name] = str(error)
            if len(names) > 1:
                note(f"{name} is left out: {error}")
    forbid_none(cases, failed, "cases")
    advance(0.9, "picture")

    from gen3d.tools.evaluate.ambiguous_picture import Shown, picture

    pooled = pool([case["calibration"] for case in cases.values()])
    rows = summary([case["rows"] for case in cases.values()])
    differences = paired([case["rows"] for case in cases.values()])
    worst = sorted(cases, key=lambda name: (-cases[name]["rows"][MODEL]["ged"], name))
    facts = {
        "rows": rows,
        "paired": differences,
        "reliability": {name: reliability_tree(sums) for name, sums in pooled.items()},
        "cases": cases,
        "worst": worst[:10],
        "failed": failed,
        "unmatched": unmatched,
    }
    settings = {"real": real, "fake": fake, "reference": reference, "bins": BINS, **vars(asked)}
    title = f"Samples against raters, means over {len(cases)} case{'s' if len(cases) > 1 else ''}"
    pairs = [(name, *read_pair(raters[name], drawn[name], samples, label)) for name in worst[:SHOWN]]
    shown = Shown(cases, pooled, [(name, y.voxels.numpy(), s.voxels.numpy()) for name, y, s in pairs])
    return Report(
        COMMAND,
        settings,
        [score_table(rows, pooled, empty, title), paired_table(differences)],
        facts,
        lambda figure: picture(figure, shown),
        warnings(cases, failed, unmatched),
    )


def earlier_cases(path: Path, asked: Asked) -> dict[str, Any]:
    """Read the cases of an earlier run.

    Raises:
        UserError: It is no such run, or had other conventions.
    """
    tree = read_results(path, COMMAND)
    for key in ("empty", "label"):
        if tree["settings"].get(key) != getattr(asked, key):
            option = "structure" if key == "label" else key
            raise UserError(f"{path}: made with --{option} {tree['settings'].get(key)}; give the same, or make it anew")
    cases: dict[str, Any] = tree["cases"]
    return cases


def with_earlier(case: dict[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the model of an earlier run beside this one."""
    if earlier is None:
        return case
    return case | {part: case[part] | {EARLIER: earlier[part][MODEL]} for part in ("rows", "calibration")}


def kept_case(cache: Cache, raters: MaskSet, samples: MaskSet, asked: Asked) -> dict[str, Any]:
    """Return the scores of one case, from the cache if its files are as they were.

    Raises:
        UserError: It can't be scored.
    """
    name = f"{raters.name} {raters.key} {samples.key}"
    tree: dict[str, Any] = cache.get(name, [*raters.files, *samples.files], lambda: score_case(raters, samples, asked))
    return tree


def score_case(raters: MaskSet, samples: MaskSet, asked: Asked) -> dict[str, Any]:
    """Score one case: the model, and what the raters make of each other."""
    y, s = (masks.voxels for masks in read_pair(raters, samples, asked.samples, asked.label))
    deterministic = len(s) == 1 and asked.samples is None

    def rows(spread: Spread) -> dict[str, AmbiguousScores | None]:
        model = ambiguous_scores(s, y, empty=asked.empty, spread=spread, deterministic=deterministic)
        return {MODEL: model, **rater_rows(y, len(s), asked.empty, spread)}

    return {
        "samples": len(s),
        "raters": len(y),
        "deterministic": deterministic,
        "foreground": {"raters": y.any().item(), "samples": s.any().item()},
        "rows": both_readings(rows("pixel"), rows("dice")),
        "calibration": {MODEL: calibration(s, y, bins=BINS)} | rater_calibrations(y, len(s)),
    }


def warnings(
    cases: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str], unmatched: Mapping[str, list[str]]
) -> list[str]:
    """Say what a reader must know first."""
    said = [f"left out: {words}" for words in failed.values()]
    for kind, names in unmatched.items():
        if names:
            said.append(f"{counted(len(names), 'case')} with {kind} only, such as {names[0]}: not scored")
    numbers = sorted({case["samples"] for case in cases.values()})
    if len(numbers) > 1:
        said.append(
            f"cases have from {numbers[0]} to {numbers[-1]} samples, and plain GED falls with their number; "
            f"--samples {numbers[0]} makes them equal"
        )
    if any(case["deterministic"] for case in cases.values()):
        said.append("one sample in a case: scored as a deterministic network, whose distance within is 0")
    if alone := sum(case["raters"] == 1 for case in cases.values()):
        said.append(f"{counted(alone, 'case')} with one rater: no corrected GED, and no raters against raters there")
    if empty := sum(not any(case["foreground"].values()) for case in cases.values()):
        said.append(
            f"{counted(empty, 'case')} where no rater and no sample has foreground: full agreement by convention"
        )
    return said


def counted(number: int, what: str) -> str:
    """Write a number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"
