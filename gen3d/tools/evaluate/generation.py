"""``gen3d evaluate generation``: generated scans against real ones, each figure beside real against real."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen3d.core.error import UsageError, UserError
from gen3d.core.volume import Triple
from gen3d.metrics.copies import CopyRate, copy_rate, repeat_rate
from gen3d.metrics.features import Features, open_features
from gen3d.metrics.ms_ssim import mean_pairwise_ms_ssim
from gen3d.metrics.weights import VARIABLE
from gen3d.tools.evaluate.cache import Cache
from gen3d.tools.evaluate.distances import Distances, Found, about, distances, span, spread
from gen3d.tools.evaluate.measured import REFERENCE, Measured, load_reference, measure, packed_reference
from gen3d.tools.evaluate.report import Cell, Report, Table, is_results, protect, read_results
from gen3d.tools.evaluate.scans import Grid, Prepared, Preprocessing, find_scans, grid_of
from gen3d.tools.sampling import choose_device

COMMAND = "generation"
FEWEST = {"real": 4, "fake": 2, "train": 2}  # real scans are halved to be compared with themselves
ALL_PAIRS, SAMPLED_PAIRS = 64, 2000  # all pairs of so many scans; of more, a sample

Advance = Callable[[float, str], None]


def evaluate_generation(
    real: Path,
    fake: Path,
    out: Path,
    *,
    train: Path | None = None,
    features: Sequence[str] = (),
    feature_weights: Path | None = None,
    contrast: str | None = None,
    size: Triple | None = None,
    window: tuple[float, float] | None = None,
    pairs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dry_run: bool = False,
    advance: Advance = lambda done, words: None,
) -> Report | str:
    """Compare generated scans with real ones: distances, coverage, diversity, copies.

    Args:
        real: A folder of real scans, best unseen in training; or an earlier evaluation's ``results.json``, whose real
            scans, grid and features are taken.
        fake: A folder of generated scans.
        out: Where the report goes; what was measured of each scan is kept in ``out/cache``.
        train: The generator's training scans, in which copies are looked for; without it they are looked for in
            ``real``.
        features: Names for ``open_features``; by default "radiomic" and, where weights are given, their MedicalNet.
        feature_weights: Of the network.
        contrast: Where folders hold several.
        size: Grid (X, Y, Z); by default the smallest along each axis: only what all scans show is compared.
        window: Grey values shown as 0 and 1, such as HU; by default each scan's own percentiles.
        pairs: For the mean MS-SSIM; by default all pairs of up to 64 scans, of more 2000.
        seed: Of all resampling.
        device: For feature networks.
        dry_run: Check everything and say what would be compared.
        advance: Told the share done and what is being done.

    Returns:
        The report, or what would be compared.

    Raises:
        UserError: Too few scans, unreadable ones, missing weights, or what doesn't fit the reference.
    """
    protect(out, REFERENCE)
    earlier = read_results(real, COMMAND) if is_results(real) else None
    kinds = choose_features(features, feature_weights, device, earlier)
    folders = {"fake": fake, "real": None if earlier else real, "train": None if earlier else train}
    found = {name: find_scans(folder, contrast) for name, folder in folders.items() if folder}
    forbid_few({name: len(scans) for name, scans in found.items()}, folders)
    grids = {name: grid_of(scans) for name, scans in found.items()}
    preprocessing = choose_preprocessing(grids, size, window, earlier)
    scans = {name: Prepared(side, preprocessing) for name, side in found.items()}
    if dry_run:
        counts = ", ".join(f"{len(side)} {name}" for name, side in scans.items())
        return f"would compare {counts} scans; {preprocessing}; nothing was written"
    cache = Cache(out / "cache", {"preprocessing": str(preprocessing), "features": [about(kind) for kind in kinds]})
    sets = measured(scans, kinds, cache, within(advance, 0.0, 0.8))
    if earlier:
        sets |= load_reference(reference_of(real), str(earlier["reference"]["sha256"]))
    diversity: dict[str, Mapping[str, Any]] = {}
    for name in ("fake", "real") if earlier is None else ("fake",):
        advance(0.8, f"MS-SSIM of {name}")
        diversity[name] = diverse(scans[name], cache, pairs, seed)
    if earlier:
        diversity["real"] = earlier["ms_ssim"]["real"]
    advance(0.9, "distances")
    spaces = [distances(kind, sets["real"], sets["fake"], seed) for kind in kinds]
    copies = copies_among(sets)
    repeats = {name: repeat_rate(sets[name].thumbnails, copies.threshold) for name in ("fake", "real")}
    result = Found(sets, diversity, spaces, copies, repeats)
    reference = packed_reference({name: side for name, side in sets.items() if name != "fake"})
    settings = {
        **{name: folder for name, folder in folders.items() if folder},
        "reference": real if earlier else None,
        "contrast": contrast,
        "preprocessing": str(preprocessing),
        "size": preprocessing.size,
        "window": preprocessing.window,
        "seed": seed,
        "n": {name: len(side) for name, side in sets.items()},
    }
    warnings = [*grid_warnings(grids, preprocessing), *result_warnings(result, real, fake)]
    facts = {**tree(result), "reference": {"file": REFERENCE, "sha256": hashlib.sha256(reference).hexdigest()}}

    def draw(figure: Any) -> None:
        from gen3d.tools.evaluate.generation_picture import picture

        picture(figure, result, scans)

    tables = [table(result, str(preprocessing))]
    return Report(COMMAND, settings, tables, facts, draw, warnings, {REFERENCE: reference})


def reference_of(real: Path) -> Path:
    """Return the file beside an earlier evaluation's results."""
    return (real if real.is_dir() else real.parent) / REFERENCE


def within(advance: Advance, begin: float, share: float) -> Advance:
    """Return a progress function for a part of the work."""
    return lambda done, words: advance(begin + share * done, words)


def choose_features(
    names: Sequence[str], weights: Path | None, device: str, earlier: Mapping[str, Any] | None
) -> list[Features]:
    """Open feature extractors; those of an earlier evaluation must be the same to the weights' hash.

    Raises:
        UserError: A name is unknown, weights are missing, or are other than the earlier ones.
    """
    known = {block["about"]["key"]: block["about"] for block in earlier["features"]} if earlier else {}
    if not names:
        names = [block["name"] for block in known.values()] or default_features(weights)
    place = choose_device(device)
    try:
        kinds = [open_features(name, weights=weights, device=place) for name in dict.fromkeys(names)]
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    for kind in kinds if earlier else ():
        before = known.get(kind.key, {})
        if any(before.get(key) != value for key, value in about(kind).items() if key != "d"):
            raise UserError(f"features '{kind.name}': not those of the earlier evaluation; evaluate REAL anew")
    return kinds


def default_features(weights: Path | None) -> list[str]:
    """Return "radiomic", after a MedicalNet where weights are given."""
    given = weights or os.environ.get(VARIABLE)
    if not given:
        return ["radiomic"]
    return ["medicalnet10" if "resnet_10" in Path(given).name else "medicalnet50", "radiomic"]


def forbid_few(counts: Mapping[str, int], folders: Mapping[str, Path | None]) -> None:
    """Check that there are enough scans to compare.

    Raises:
        UserError: There are not.
    """
    for name, count in counts.items():
        if count < FEWEST[name]:
            raise UserError(
                f"{folders[name]}: {count} scan{'s' * (count != 1)}; a distribution needs at least {FEWEST[name]}, "
                "a useful figure 50 or more; compare single scans with gen3d evaluate pairs"
            )


def choose_preprocessing(
    grids: Mapping[str, Grid],
    size: Triple | None,
    window: tuple[float, float] | None,
    earlier: Mapping[str, Any] | None,
) -> Preprocessing:
    """Settle the grid and the grey scale that all scans are brought to.

    Raises:
        UsageError: The size or the window is none, or not that of the earlier evaluation.
    """
    if size is not None and min(size) < 1:
        raise UsageError(f"size {size}: expected three numbers above 0")
    if window is not None and window[0] >= window[1]:
        raise UsageError(f"window {window[0]:g} {window[1]:g}: expected two rising grey values")
    if earlier is None:
        x, y, z = (min(grid.smallest[axis] for grid in grids.values()) for axis in range(3))
        return Preprocessing(size or (x, y, z), window)
    told = earlier["settings"]
    before = Preprocessing(tuple(told["size"]), tuple(told["window"]) if told["window"] else None)
    if (size or before.size) != before.size or (window or before.window) != before.window:
        raise UsageError(f"--size, --window: the earlier evaluation has {before}; leave them out or evaluate REAL anew")
    return before


def measured(
    scans: Mapping[str, Prepared], kinds: Sequence[Features], cache: Cache, advance: Advance
) -> dict[str, Measured]:
    """Measure all sets."""
    total, done, sets = sum(len(side) for side in scans.values()), 0, {}
    for name, side in scans.items():
        sets[name] = measure(side, kinds, cache, within(advance, done / total, len(side) / total), name)
        done += len(side)
    return sets


def diverse(scans: Prepared, cache: Cache, pairs: int | None, seed: int) -> Mapping[str, Any]:
    """Return the mean pairwise MS-SSIM of a set, or why there is none."""
    if pairs is None and len(scans) > ALL_PAIRS:
        pairs = SAMPLED_PAIRS

    def compute() -> Any:
        try:
            return mean_pairwise_ms_ssim(scans, pairs=pairs, seed=seed)
        except ValueError as error:
            return {"value": None, "why": str(error)}

    kept: Mapping[str, Any] = cache.get(f"ms_ssim {pairs} {seed}", [scan.path for scan in scans.scans], compute)
    return kept


def copies_among(sets: Mapping[str, Measured]) -> CopyRate:
    """Look for copies in the training scans, or in the real ones where the former were not given."""
    fake, real = sets["fake"].thumbnails, sets["real"].thumbnails
    return copy_rate(fake, sets["train"].thumbnails, real) if "train" in sets else copy_rate(fake, real, None)


def grid_warnings(grids: Mapping[str, Grid], preprocessing: Preprocessing) -> list[str]:
    """Say where sets differ in size or spacing: a network sees that before it sees anything else."""
    said = []
    size = preprocessing.size
    if any(side.smallest != size or side.largest != size for side in grids.values()):
        shapes = ", ".join(f"{name} {box(side.smallest)} to {box(side.largest)}" for name, side in grids.items())
        said.append(f"mixed shapes ({shapes}): centred on {box(size)}, cropped, or padded with the scan's minimum")
    spacings = {name: side.spacing_mm for name, side in grids.items()}
    first = next(iter(spacings.values()))
    if any(abs(a / b - 1) > 0.05 for other in spacings.values() for a, b in zip(first, other, strict=True)):
        listed = ", ".join(f"{name} {' x '.join(f'{mm:.3g}' for mm in mms)} mm" for name, mms in spacings.items())
        said.append(f"spacings differ ({listed}): scans are not resampled, so distances measure this too")
    return said


def box(shape: Triple) -> str:
    """Write a shape."""
    return "x".join(map(str, shape))


def result_warnings(found: Found, real: Path, fake: Path) -> list[str]:
    """Say what a reader must know before the figures."""
    said = [space.warning for space in found.spaces if space.warning]
    if real.resolve() == fake.resolve():
        said.append("REAL and FAKE are one folder: distances are 0 and everything is a copy")
    if found.searched == "real":
        said.append("no --train folder: copies were looked for in REAL itself; name the generator's training scans")
    if found.copies.rate > found.copies.expected and found.copies.interval.low > found.copies.expected:
        said.append(
            f"{found.copies.rate:.0%} of the generated scans are nearer to a {found.searched} scan than all but "
            f"{found.copies.expected:.0%} of unseen real ones are: copies; every distance above praises them"
        )
    return [
        *said,
        *(f"MS-SSIM of {name}: {value['why']}" for name, value in found.diversity.items() if "why" in value),
    ]


def tree(found: Found) -> dict[str, Any]:
    """Return everything measured."""
    names, where = found.sets["fake"].names, found.sets[found.searched].names
    near = zip(names, found.copies.distances.tolist(), found.copies.nearest.tolist(), strict=True)
    return {
        "features": [space.tree() for space in found.spaces],
        "ms_ssim": found.diversity,
        "copies": {
            "searched": found.searched,
            "rate": found.copies.rate,
            "interval_95": found.copies.interval,
            "expected": found.copies.expected,
            "threshold": found.copies.threshold,
            "unseen_real": found.copies.unseen,
            "repeats": found.repeats,
            "scans": [{"scan": name, "distance": d, "nearest": where[i]} for name, d, i in near],
        },
    }


def table(found: Found, preprocessing: str) -> Table:
    """Return the table for the terminal."""
    n = found.spaces[0].frechet_same.n
    counts = ", ".join(f"{len(side)} {name}" for name, side in found.sets.items())
    columns = ("measure", "fake", "95 % interval", f"fake at n = {n}", f"real against real at n = {n}", "better")
    rows: list[tuple[Cell, ...]] = [row for space in found.spaces for row in space.rows()]
    ssim = {name: found.diversity[name] for name in ("fake", "real")}
    words = "; ".join(ms_ssim_words(name, value) for name, value in ssim.items())
    error = spread(ssim["fake"].get("std_error"))
    rows.append(("mean pairwise MS-SSIM", ssim["fake"]["value"], error, None, ssim["real"]["value"], "as real"))
    copies = found.copies
    rows.append((f"copy rate ({found.searched})", copies.rate, span(copies.interval), None, copies.expected, "as real"))
    rows.append(("repeats within the set", found.repeats["fake"], "", None, found.repeats["real"], "as real"))
    notes = (
        f"{counts} scans; {preprocessing}",
        *(f"{space.about['key']}: {features_words(space)}" for space in found.spaces),
        f"MS-SSIM: {words}",
        f"copy: nearer to a {found.searched} scan than {copies.threshold:.4g}, which {copies.expected:.0%} of unseen "
        "real scans are; over flips, shifts, grey scale",
    )
    return Table("Generated against real scans", columns, rows, notes)


def features_words(space: Distances) -> str:
    """Say which features were compared."""
    weights = space.about["weights_sha256"]
    return ", ".join(
        str(word)
        for word in (
            space.about["name"],
            f"d = {space.about['d']}",
            f"weights {weights[:12]}" if weights else "no weights",
            space.about["preprocessing"],
            space.about.get("scaled"),
        )
        if word
    )


def ms_ssim_words(name: str, value: Mapping[str, Any]) -> str:
    """Say how the mean MS-SSIM of a set was taken."""
    if value["value"] is None:
        return f"{name} not defined"
    return f"{name} {value['pairs']} pairs, kernel {value['kernel']}, {value['scales']} scales"
