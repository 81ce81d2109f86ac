"""``gen3d evaluate pairs``: synthetic images against the true ones of the same patients."""

from collections.abc import Callable
from dataclasses import replace
from inspect import getsource
from pathlib import Path

from torch import Tensor

from gen3d.core.error import UsageError, UserError, nearest
from gen3d.metrics import PAIR_METRICS
from gen3d.tools.evaluate.cache import Cache
from gen3d.tools.evaluate.measurements import measurement_table
from gen3d.tools.evaluate.pair_case import Pair, UnitsAsked, agree, score, with_companions
from gen3d.tools.evaluate.pair_tables import (
    Tree,
    agreement_table,
    by_contrast,
    headlines,
    main_table,
    overview,
    summary,
    verdict,
    warnings,
    with_earlier,
    worst_first,
)
from gen3d.tools.evaluate.pairing import Matches, masks_for, match_images
from gen3d.tools.evaluate.report import Report, forbid_none, is_results, protect, read_results
from gen3d.tools.evaluate.segmenter import open_segmenter

COMMAND = "pairs"
UNITS = ("auto", "arbitrary", "HU")


def evaluate_pairs(
    real: Path,
    fake: Path,
    out: Path,
    *,
    lesion: Path | None = None,
    mask: Path | None = None,
    units: UnitsAsked = "auto",
    window: tuple[float, float] | None = None,
    baseline: Path | None = None,
    segmenter: Path | Callable[[Tensor], Tensor] | None = None,
    dry_run: bool = False,
    advance: Callable[[float, str], None] = lambda done, words: None,
    note: Callable[[str], None] = lambda words: None,
) -> Report | str:
    """Score synthetic images against true ones, region by region, beside what simple baselines reach.

    Args:
        real: True images: a folder of cases, a flat folder, or a file.
        fake: Synthetic ones: the same cases and contrasts, as ``gen3d synthesize`` writes them, the same file names, or
            a file.
        out: Where the report goes; what was measured of each pair is kept in ``out/cache``.
        lesion: A folder of lesion masks, or a file; by default those in the true images' case folders.
        mask: A folder of brain or body masks, or a file; by default where a true image is above 0, and for a CT the
            largest part above -500 HU.
        units: "HU" or "arbitrary"; "auto" takes a true image with voxels of -500 or less for a CT.
        window: True intensities that become 0 and 1 for both images; by default each true image's 0.1 and 99.9
            percentile, and -1000 and 1000 for HU.
        baseline: A folder of other synthetic images, scored beside; or an earlier run's ``results.json``, whose scores
            are put beside.
        segmenter: A fixed segmentation network, whose answers to both images are compared: a function from voxels
            (X, Y, Z) with axes Right, Anterior, Superior to labels, or a file for ``open_segmenter``.
        dry_run: Check everything and say what would be compared.
        advance: Told the share done and what is being done.
        note: Told in words what is good to know.

    Returns:
        The report, or what would be compared.

    Raises:
        UserError: No images, none that belong together, or no pair that can be scored.
    """
    if units not in UNITS:
        raise UsageError(f"units '{units}': expected one of {', '.join(UNITS)}{nearest(units, UNITS)}")
    if window is not None and not window[0] < window[1]:
        raise UsageError(f"window {window[0]:g} {window[1]:g}: expected two rising numbers")
    protect(out)
    segment = open_segmenter(segmenter) if isinstance(segmenter, Path) else segmenter
    matches = match_images(real, fake)
    earlier = read_results(baseline, COMMAND)["pairs"] if baseline and is_results(baseline) else None
    pairs, failed = _complete(real, matches, lesion, mask, None if earlier else baseline)
    if dry_run:
        return f"would score {len(pairs)} pairs; nothing was written"
    more = {name: getsource(metric) for name, metric in PAIR_METRICS.items()}
    cache = Cache(out / "cache", {"command": COMMAND, "units": units, "window": window, "more": more})
    cases: dict[str, Tree] = {}
    agreement: dict[str, list[Tree]] = {}
    for index, pair in enumerate(pairs):
        advance(0.95 * index / len(pairs), f"pair {index + 1} of {len(pairs)}")
        try:
            tree = cache.get(repr(pair), pair.files, lambda pair=pair: score(pair, units, window))  # type: ignore[misc]
            if segment is not None:
                agreement[pair.name] = agree(pair, units, segment)
            cases[pair.name] = with_earlier(tree, earlier.get(pair.name)) if earlier else tree
        except UserError as error:
            failed[pair.name] = str(error)
            if len(pairs) > 1:
                note(f"{pair.name} is left out: {error}")
    forbid_none(cases, failed, "pairs")
    advance(0.95, "picture")
    from gen3d.tools.evaluate.pairs_picture import look, picture

    means = summary(list(cases.values()))
    worst = worst_first(cases)
    shown = look(next(pair for pair in pairs if pair.name == worst[0]), cases[worst[0]], units)
    measurements, agreed = measurement_table(list(cases.values()), headlines(list(cases.values())))
    facts = {
        "means": means,
        "measurements": agreed,
        "pairs": cases,
        "worst": worst[:10],
        "agreement": agreement,
        "failed": failed,
        "unmatched": {"real": matches.real_alone, "fake": matches.fake_alone},
    }
    settings = {
        "real": real,
        "fake": fake,
        "lesion": lesion,
        "mask": mask,
        "units": units,
        "window": window,
        "baseline": baseline,
        "segmenter": segmenter if segmenter is None or isinstance(segmenter, Path) else type(segmenter).__name__,
    }
    tables = [overview(means, cases, baseline), *by_contrast(cases), measurements, *agreement_table(agreement)]
    return Report(
        COMMAND,
        settings,
        tables,
        facts,
        lambda figure: picture(figure, cases, shown),
        [*warnings(matches, failed, cases), *verdict(means)],
        details=[main_table(means, cases, baseline)],
    )


def _complete(
    real: Path, matches: Matches, lesion: Path | None, mask: Path | None, baseline: Path | None
) -> tuple[list[Pair], dict[str, str]]:
    """Add to each match what belongs to it; a case with too many masks fails alone."""
    images = [match.real for match in matches.pairs]
    lesions = masks_for(lesion, images) if lesion else {}
    masks = masks_for(mask, images) if mask else {}
    others = {m.real: m.fake for m in match_images(real, baseline).pairs} if baseline else {}
    pairs: list[Pair] = []
    failed: dict[str, str] = {}
    for match in matches.pairs:
        try:
            pair = with_companions(match)
        except UserError as error:
            failed[match.name] = str(error)
            continue
        own = lesions.get(match.real) if lesion else pair.lesion
        pairs.append(replace(pair, lesion=own, mask=masks.get(match.real), baseline=others.get(match.real)))
    return pairs, failed
