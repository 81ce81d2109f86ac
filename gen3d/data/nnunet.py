"""Datasets of nnU-Net (several channels a case) and of the Medical Segmentation Decathlon (one image a case)."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from gen3d.core.volume import Naming
from gen3d.data.aliases import Vocabulary
from gen3d.data.nifti import without_ending
from gen3d.data.study import Study, images_in

FOLDERS = ("imagesTr", "imagesTs")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_ALONE = {"ct": "ct", "mri": "mri", "mr": "mri"}


def is_dataset(source: Path) -> bool:
    """Say whether a folder is such a dataset, or one of its folders of images."""
    return source.name in FOLDERS or any((source / name).is_dir() for name in FOLDERS)


def find(source: Path, vocabulary: Vocabulary) -> list[Study]:
    """Return the studies of a dataset, or of one of its folders of images, or of one image."""
    if source.is_file():
        case = _case_of(source)
        beside = images_in(source.parent)
        mine = [p for p in beside if _case_of(p) == case] if _is_nnunet(beside) else [source]
        return _studies(source.parent, mine, vocabulary, nnunet=_is_nnunet(beside))
    if source.name in FOLDERS:
        images = images_in(source)
        return _studies(source, images, vocabulary, nnunet=_is_nnunet(images))
    there = {folder: images_in(folder) for name in FOLDERS if (folder := source / name).is_dir()}
    nnunet = any(_is_nnunet(images) for images in there.values())
    wanted = there if nnunet else dict(list(there.items())[:1])  # the Decathlon's test images are nobody's training
    return [s for folder, images in wanted.items() for s in _studies(folder, images, vocabulary, nnunet=nnunet)]


def _is_nnunet(images: list[Path]) -> bool:
    channels: dict[str, set[str]] = defaultdict(set)
    for path in images:
        match = _CHANNEL.fullmatch(without_ending(path))
        if not match:
            return False
        channels[match[1]].add(match[2])
    first = [numbers for numbers in channels.values() if "0000" in numbers]
    return len(first) * 2 > len(channels)


def _case_of(path: Path) -> str:
    match = _CHANNEL.fullmatch(without_ending(path))
    return match[1] if match else without_ending(path)


def _studies(folder: Path, images: list[Path], vocabulary: Vocabulary, *, nnunet: bool) -> list[Study]:
    labels = folder.parent / folder.name.replace("images", "labels")
    if not nnunet:
        return [_decathlon(path, labels) for path in images]
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    twice: dict[str, str] = {}
    for path in images:
        case, number = _case_of(path), without_ending(path)[-4:]
        if number in cases[case]:
            words = f"2 files for channel {number}: {cases[case][number].name} and {path.name}"
            twice[case] = f"{folder}: {words}; expected one; move the other elsewhere"
        cases[case][number] = path
    numbers = sorted({number for channels in cases.values() for number in channels})
    names, problem, notes = _channel_names(folder.parent / "dataset.json", numbers, vocabulary)
    return [
        _nnunet(case, channels, labels, names, twice.get(case) or problem, notes) for case, channels in cases.items()
    ]


def _decathlon(path: Path, labels: Path) -> Study:
    name = without_ending(path)
    return Study(name, path, {"mri": path}, Path(name), name, Naming("", {"mri": name}), _labels(labels, path))


def _nnunet(
    case: str,
    channels: Mapping[str, Path],
    labels: Path,
    names: Mapping[str, str],
    problem: str,
    notes: tuple[str, ...],
) -> Study:
    first = next(iter(channels.values()))
    ending = first.name[len(without_ending(first)) :].lower()
    files = {names[number]: path for number, path in channels.items() if number in names}
    if not files and not problem:
        problem = f"{first}: no known contrast among the channels {', '.join(channels)}; {'; '.join(notes)}"
    numbered = {contrast: number for number, contrast in names.items()}
    naming = Naming(f"{case}_", numbered, ending)
    lesion = _labels(labels, first.with_name(f"{case}{first.name[len(without_ending(first)) :]}"))
    return Study(case, first, files, Path(case), case, naming, lesion, problem=problem, notes=notes)


def _labels(folder: Path, image: Path) -> Path | None:
    path = folder / image.name
    return path if path.is_file() else None


def _channel_names(
    dataset: Path, numbers: list[str], vocabulary: Vocabulary
) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """Channel number to contrast, what is wrong with that, and what was left out."""
    told, problem = _told(dataset)
    names: dict[str, str] = {}
    notes: list[str] = []
    for number in numbers:
        said = told.get(int(number), "")
        mine = vocabulary.own_meanings(number)
        known = mine or vocabulary.meanings(said) or tuple(filter(None, [_ALONE.get(said.strip().lower())]))
        what = f"'{said}' is" if said else "no name in dataset.json, so"
        if len(known) != 1:
            notes.append(f"channel {number}: {what} no contrast that is known; an aliases file can say (--aliases)")
        elif known[0] in names.values():
            notes.append(f"channel {number}: is {known[0]} as well as an earlier channel; left out")
        else:
            names[number] = known[0]
    return names, "" if names else problem, tuple(notes)


def _told(dataset: Path) -> tuple[dict[int, str], str]:
    mend = "or map the numbers in an aliases file (--aliases), as t1c: ['0000']"
    try:
        tree = json.loads(dataset.read_text(encoding="utf-8-sig"))
        channels = tree.get("channel_names") or tree.get("modality") or {}
        return {int(number): str(name) for number, name in channels.items()}, ""
    except FileNotFoundError:
        return {}, f"{dataset}: no such file; expected it to say in channel_names what 0000 is; add it, {mend}"
    except (OSError, ValueError, AttributeError):
        return {}, f"{dataset}: can't be read; expected JSON with channel_names such as {{'0': 'T1'}}; mend it, {mend}"
