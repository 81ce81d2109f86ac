"""Studies in plain folders: one case's files in each, or several cases' files side by side."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gen3d.core.volume import Naming
from gen3d.data.aliases import Reading, Vocabulary, is_plain
from gen3d.data.layout import CONTRASTS, naming_like, patient_of
from gen3d.data.nifti import without_ending
from gen3d.data.study import ALIASES_HELP, Study, few, images_in, is_mask, masks_among, own_name


class Named(NamedTuple):
    """A file and how its name is understood."""

    path: Path
    reading: Reading

    @property
    def contrast(self) -> str | None:
        """What it is, where that is clear."""
        return self.reading.contrasts[0] if len(self.reading.contrasts) == 1 else None


def folders_below(folder: Path, *, seen: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield a folder and all visible ones below it, sorted; links are followed, but never round in a circle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    yield folder
    try:
        children = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError:
        return
    for child in children:
        yield from folders_below(child, seen=seen | {real})


def studies_in(folder: Path, source: Path, vocabulary: Vocabulary) -> list[Study]:
    """Return the studies whose files lie directly in ``folder``, which is ``source`` or lies below it.

    Files of one prefix are one case, named as the folder. Where a contrast occurs twice, or the prefixes have nothing
    in common, every prefix is a case: A_t1, A_flair, B_t1, ...
    """
    images = images_in(folder)
    named = understood([p for p in images if not is_mask(p)], vocabulary)
    if not named:
        return []
    masks = [p for p in images if is_mask(p)]
    known = {one.path for one in named}
    unknown = [p for p in images if p not in known and not is_mask(p)]
    below = Path(own_name(folder)) if folder == source else folder.relative_to(source)
    groups = _groups(named)
    if len(groups) == 1:
        return [_study(own_name(folder), folder, below, named, masks, left_out(unknown, vocabulary))]
    home = Path() if folder == source else below
    owners = {key: group[0].reading.owner for key, group in groups.items()}
    first = next(iter(groups))  # is told of what is nobody's
    return [
        _study(
            owners[key],
            group[0].path,
            home / owners[key],
            group,
            [p for p in masks if _owner(p, owners) == key],
            left_out([p for p in unknown if (_owner(p, owners) or first) == key], vocabulary),
        )
        for key, group in groups.items()
    ]


def left_out(paths: Sequence[Path], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Say of files that no contrast is known of why that is."""
    return tuple(f"{path.name}: {vocabulary.unknown(without_ending(path))}" for path in paths)


def strangers(folder: Path) -> str:
    """Return the folder's name with the scans in it, where nothing is taken from it; nothing where it has none."""
    names = [path.name for path in images_in(folder) if not is_mask(path)]
    return f"{own_name(folder)} ({few(names, 1)})" if names else ""


def single_file(path: Path, vocabulary: Vocabulary) -> list[Study]:
    """Return the study of one file whose name says what it shows, named as what stands before; none if it doesn't."""
    named = understood([path], vocabulary)
    name = named[0].reading.owner or without_ending(path) if named else ""
    return [_study(name, path, Path(name), named, [])] if named else []


def understood(paths: Sequence[Path], vocabulary: Vocabulary) -> list[Named]:
    """Return the files whose names say what they show.

    Where a name can be understood in two ways, the one wins whose prefix more files share, the longest prefix where all
    do: beside P_T1_T2 the file P_T1_FLAIR is a FLAIR of P_T1; alone, its contrast is not clear.
    """
    readings = {path: found for path in paths if (found := vocabulary.readings(without_ending(path)))}
    shared = Counter(owner for found in readings.values() for owner in {r.owner.casefold() for r in found})
    named = []
    for path, found in readings.items():
        most = max(shared[r.owner.casefold()] for r in found)
        best = [r for r in found if shared[r.owner.casefold()] == most]
        if 1 < most == len(readings):
            best.sort(key=lambda reading: -len(reading.owner))
        sure = [r for r in best if not r.doubtful] if most == 1 else best[:1]
        contrasts = tuple(sorted({c for r in sure for c in r.contrasts}))
        named.append(Named(path, best[0]._replace(contrasts=contrasts)))
    return named


def naming_of(named: Sequence[Named], name: str) -> Naming:
    """Return the naming of a case with these files; where their names say nothing, "name-t2f.nii.gz"."""
    order = {contrast: at for at, contrast in enumerate(CONTRASTS)}
    clear = sorted((n for n in named if n.contrast), key=lambda n: order.get(n.contrast or "", len(order)))
    if not clear:
        return Naming(f"{name}-")
    own = {n.contrast: (n.reading.prefix, n.reading.word) for n in clear if n.contrast}
    first = clear[0].path
    return naming_like(own, first.name[len(without_ending(first)) :].lower())


def _groups(named: list[Named]) -> Mapping[str, list[Named]]:
    groups: dict[str, list[Named]] = defaultdict(list)
    for one in named:
        groups[one.reading.owner.casefold()].append(one)
    shortest = min(groups, key=len)
    several = Counter(one.contrast for one in named if one.contrast)
    related = all(_continues(owner, shortest) for owner in groups)
    apart = any(count > 1 for count in several.values()) or not (related or all(o.isdecimal() for o in groups))
    return groups if shortest and apart else {shortest: named}


def _owner(mask: Path, owners: Mapping[str, str]) -> str | None:
    stem = without_ending(mask).casefold()
    return max((key for key in owners if _continues(stem, key)), key=len, default=None)


def _continues(name: str, start: str) -> bool:
    return name.startswith(start) and not name[len(start) :][:1].isalnum()


def _study(
    name: str, source: Path, place: Path, named: list[Named], masks: list[Path], unknown: tuple[str, ...] = ()
) -> Study:
    files: dict[str, Path] = {}
    used: list[Named] = []
    problems: list[str] = []
    lesion, mask, notes = masks_among(masks)
    folder = source if source.is_dir() else source.parent
    by_contrast: dict[str, list[Named]] = defaultdict(list)
    for one in named:
        if one.contrast:
            by_contrast[one.contrast].append(one)
        else:
            what = " or ".join(one.reading.contrasts)
            notes += (f"{one.path.name}: '{one.reading.word}' may be {what}; left out; {ALIASES_HELP}",)
    for contrast, several in sorted(by_contrast.items()):
        plain = [one for one in several if is_plain(one.reading.word)]
        chosen = plain if len(plain) == 1 else several
        names = " and ".join(one.path.name for one in several)
        if len(chosen) > 1:
            words = f"{len(several)} files for contrast {contrast}: {names}"
            problems.append(f"{folder}: {words}; expected one; move the other elsewhere")
            continue
        files[contrast] = chosen[0].path
        used.append(chosen[0])
        notes += tuple(f"{o.path.name}: looks like {contrast} too; left out" for o in several if o is not chosen[0])
    if not files and not problems:
        problems.append(f"{folder}: no contrast is clear: {notes[-1]}")
    return Study(
        name,
        source,
        files,
        place,
        patient_of(name),
        naming_of(used, name),
        lesion,
        mask,
        next(iter(problems), ""),
        notes,
        left_out=unknown,
    )
