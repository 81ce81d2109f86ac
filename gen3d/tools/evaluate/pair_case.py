"""One pair of images: what belongs to it, its figures, and those of the baselines that it must beat."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gen3d.core.checkpoint import read_json
from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.layout import contrast_of, is_lesion
from gen3d.data.nifti import ENDINGS, read, read_labels, without_ending
from gen3d.metrics import PAIR_METRICS
from gen3d.metrics.agreement import segmentation_agreement
from gen3d.metrics.baselines import Quadratic, unit_window
from gen3d.metrics.completion import fit_scale
from gen3d.metrics.pairs import FIXED, MATCHED, PairRow, Units, closest, pair_rows, regions_of
from gen3d.systems import find_model
from gen3d.tools.evaluate.measurements import measured
from gen3d.tools.evaluate.pairing import BASELINE, Match, check_grid, turned

UnitsAsked = Literal["auto", "arbitrary", "HU"]
SYNTHETIC, REGRESSION, COPY, CONSTANT = "synthetic", "regression", "best copy", "constant"
IMAGES = (SYNTHETIC, BASELINE, REGRESSION, COPY, CONSTANT)
FITS = "brain-completion"  # the shipped model whose folder holds a voxel-wise regression for each contrast
AIR_HU = -500  # an image with voxels as low as this is taken for a CT


@dataclass(frozen=True)
class Pair:
    """The files of one pair.

    Attributes:
        name: What it is called.
        real: The true image.
        fake: The synthetic one.
        given: The case's other contrasts, by name.
        lesion: A mask.
        mask: Of the brain or body.
        baseline: Another synthetic image.
    """

    name: str
    real: Path
    fake: Path
    given: Mapping[str, Path]
    lesion: Path | None = None
    mask: Path | None = None
    baseline: Path | None = None

    @property
    def contrast(self) -> str:
        """The true image's, "" where its name doesn't say."""
        return contrast_of(self.real) or ""

    @property
    def files(self) -> list[Path]:
        """All of them."""
        optional = (self.lesion, self.mask, self.baseline)
        return [self.real, self.fake, *self.given.values(), *(p for p in optional if p is not None)]


@dataclass(frozen=True)
class Loaded:
    """The arrays of one pair, (X, Y, Z), axes Right, Anterior, Superior."""

    true: Tensor
    images: Mapping[str, Tensor]
    regions: Mapping[str, Tensor]
    lesion: Tensor | None
    units: Units
    spacing: tuple[float, float, float]
    copied: str | None
    notes: tuple[str, ...]


def with_companions(match: Match) -> Pair:
    """Add the other contrasts and the lesion mask that lie in the true image's case folder.

    Raises:
        UserError: The case has several lesion masks.
    """
    real = match.real
    beside = sorted(p for p in real.parent.iterdir() if p.is_file() and p.name.lower().endswith(ENDINGS))
    contrasts = [c for p in beside if not is_lesion(p) and (c := contrast_of(p))]
    if contrast_of(real) is None:
        return Pair(match.name, real, match.fake, {})
    if len(contrasts) > len(set(contrasts)):  # several cases in one folder
        beside = [p for p in beside if p.name.startswith(_prefix(real))]
    masks = [p for p in beside if is_lesion(p)]
    if len(masks) > 1:
        raise UserError(f"{real.parent}: {len(masks)} lesion masks: {masks[0].name} and {masks[1].name}; expected one")
    others = {c: p for p in beside if not is_lesion(p) and p not in (real, match.fake) and (c := contrast_of(p))}
    others.pop(contrast_of(real) or "", None)
    return Pair(match.name, real, match.fake, others, masks[0] if masks else None)


def _prefix(path: Path) -> str:
    stem = without_ending(path)
    return stem[: len(stem) - len(stem.replace("_", "-").split("-")[-1])]


def load(pair: Pair, asked: UnitsAsked) -> Loaded:
    """Read a pair, its regions and its baselines.

    Raises:
        UserError: A file can't be read or lies on another grid, or the image is constant.
    """
    real = turned(read(pair.real, flat=True))
    true = torch.from_numpy(real.voxels)
    units: Units = ("HU" if real.voxels.min() <= AIR_HU else "arbitrary") if asked == "auto" else asked
    fake = _beside(real, read(pair.fake, flat=True))
    lesion, mask = (None if p is None else _beside(real, read_labels(p, flat=True)) for p in (pair.lesion, pair.mask))
    regions = regions_of(true, units=units, mask=mask, lesion=lesion)
    images = {SYNTHETIC: fake}
    notes = _notes(pair, true, fake, regions, units)
    if pair.baseline is not None:
        images[BASELINE] = _beside(real, read(pair.baseline, flat=True))
    first = _first(regions)
    given = _given(pair, real, notes)
    copied = closest(true, given, first) if given else None
    beside = {REGRESSION: regression(pair.contrast, given), COPY: given[copied].double() if copied else None}
    for name, other in beside.items():
        if other is not None:
            images[name] = torch.where(first, fit_scale(true[first], other[first]).apply(other), other)
    images[CONSTANT] = _constant(true, first)
    return Loaded(true, images, regions, lesion, units, real.spacing, copied, tuple(notes))


def score(pair: Pair, asked: UnitsAsked, window: tuple[float, float] | None) -> dict[str, Any]:
    """Return the figures of one pair as a JSON tree.

    Raises:
        UserError: It can't be scored.
    """
    loaded = load(pair, asked)
    rows: dict[str, list[PairRow]] = {}
    try:
        for name, image in loaded.images.items():
            rows[name] = pair_rows(
                loaded.true, image, regions=loaded.regions, units=loaded.units, window=window, more=PAIR_METRICS
            )
        heads = {name: headline(found) for name, found in rows.items()}
        taken = measured(loaded.true, loaded.images, heads, _first(loaded.regions))
    except ValueError as error:
        raise UserError(f"{pair.real} and {pair.fake}: {error}") from None
    return {
        "real": pair.real,
        "fake": pair.fake,
        "contrast": pair.contrast,
        "units": loaded.units,
        "shape": list(loaded.true.shape),
        "spacing_mm": loaded.spacing,
        "lesion": pair.lesion,
        "mask": pair.mask,
        "copied": loaded.copied,
        "empty_regions": [name for name, where in loaded.regions.items() if not where.any()],
        "notes": list(loaded.notes),
        "rows": {name: [flat(row) for row in found] for name, found in rows.items()},
        "measurements": taken,
    }


def flat(row: PairRow) -> dict[str, Any]:
    """Return the figures of a row by name, those of further metrics last."""
    figures = dict(vars(row))
    more = figures.pop("more")
    return {**figures, **more}


def headline(rows: list[PairRow]) -> PairRow:
    """Return the row that stands for a pair: the first region; scale matched, but for HU, which have a scale."""
    wanted = FIXED if rows[0].units == "HU" else MATCHED
    return next(row for row in rows if row.normalisation == wanted)


def agree(pair: Pair, asked: UnitsAsked, segmenter: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
    """Compare one network's answers to both images, and to the lesion mask where there is one.

    Raises:
        UserError: The network's answer is no segmentation.
    """
    loaded = load(pair, asked)
    try:
        rows = segmentation_agreement(segmenter, loaded.true, loaded.images[SYNTHETIC], reference=loaded.lesion)
    except ValueError as error:
        raise UserError(f"{pair.real} and {pair.fake}: {error}") from None
    return [{**row._asdict(), "drop": row.drop} for row in rows]


def regression(contrast: str, given: Mapping[str, Tensor]) -> Tensor | None:
    """Estimate a contrast voxel by voxel from the other three, (X, Y, Z); None where one is lacking.

    By ``Quadratic``, with coefficients that were fitted on the shipped completion model's own patients.
    """
    fit = read_json(find_model(FITS) / "baseline.json").get(contrast)
    if fit is None or any(name not in given for name in fit["given"]):
        return None
    return Quadratic(tuple(fit["coefficients"])).predict([unit_window(given[name]) for name in fit["given"]])


def _beside(real: Volume, other: Volume) -> Tensor:
    volume = turned(other)
    check_grid(real, volume)
    return torch.from_numpy(volume.voxels)


def _first(regions: Mapping[str, Tensor]) -> Tensor:
    first = next(iter(regions.values()))
    return first if bool(first.any()) else torch.ones_like(first)


def _constant(true: Tensor, first: Tensor) -> Tensor:
    """The brain's median inside it, the air's outside."""
    outside = true[~first]
    beyond = outside.median() if outside.numel() else true.new_zeros(())
    return torch.where(first, true[first].median(), beyond)


def _given(pair: Pair, real: Volume, notes: list[str]) -> dict[str, Tensor]:
    """The other contrasts; one that can't be used is no reason to fail."""
    found: dict[str, Tensor] = {}
    for name, path in pair.given.items():
        try:
            found[name] = _beside(real, read(path, flat=True))
        except UserError as error:
            notes.append(f"not tried as a copy: {error}")
    return found


def _notes(pair: Pair, true: Tensor, fake: Tensor, regions: Mapping[str, Tensor], units: Units) -> list[str]:
    notes = []
    if torch.equal(true, fake):
        notes.append("equals the true image voxel by voxel: is it a copy of the original?")
    if units == "arbitrary" and pair.mask is None:
        share = float(regions["brain"].double().mean())
        negative = float((true < 0).double().mean())
        if negative > 0.01:
            notes.append(f"{negative:.0%} of the true image is below 0, which counts as no brain; give --mask")
        elif share > 0.9:
            notes.append(f"{share:.0%} of the true image is above 0: not skull-stripped? give --mask")
    return notes
