"""Prepared cases on disk, read through memory maps: a patch costs a patch, not a volume."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Placement, Prepared, Scale
from gen3d.data.equalization import Measured, knots

_FORMAT = 2


def fingerprint(settings: object, files: Iterable[Path] = ()) -> str:
    """Return a digest of preprocessing settings and of the source files' names, sizes and times of change.

    Args:
        settings: Anything whose ``repr`` says all, such as a dict of numbers, strings and frozen dataclasses.
        files: What the case is read from; folders count with the files directly in them.
    """
    stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(_files(files))]
    return hashlib.sha256(repr((_FORMAT, settings, stats)).encode()).hexdigest()


def build(
    prepared: Iterable[Prepared], folder: Path, *, mark: str = "", dtype: type[np.floating[Any]] = np.float16
) -> list[Prepared]:
    """Store prepared cases one by one, each whole or not at all, and return them as memory maps.

    Args:
        prepared: May be a generator: one case is held at a time.
        folder: One folder per case is made in it.
        mark: The cases' fingerprint.
        dtype: Of the stored voxels.

    Raises:
        UserError: if two cases have one name, or the disk refuses.
    """
    stored: dict[str, Prepared] = {}
    for case in prepared:
        if case.name in stored:
            raise UserError(f"{folder}: two cases are called {case.name}; expected different names; rename one")
        stored[case.name] = store(case, folder, mark=mark, dtype=dtype)
    return list(stored.values())


def refresh(
    sources: Mapping[str, Iterable[Path]],
    folder: Path,
    settings: object,
    make: Callable[[str], Prepared],
    *,
    dtype: type[np.floating[Any]] = np.float16,
) -> list[Prepared]:
    """Return every case of ``sources`` as a memory map, made anew only where settings or source files have changed.

    Args:
        sources: Key of each case to the files that it is read from (none for a phantom, whose key says all).
        folder: Of the cache; other cases in it are left alone.
        settings: Of the preprocessing, see ``fingerprint``.
        make: Reads and prepares the case of a key.
        dtype: Of the stored voxels.
    """
    cases = []
    for key, files in sources.items():
        mark = fingerprint((settings, key, np.dtype(dtype).name), files)
        place = Path(folder) / hashlib.sha256(key.encode()).hexdigest()[:16]
        fresh = _mark(place) == mark
        cases.append(load_case(place) if fresh else store(make(key), folder, mark=mark, dtype=dtype, entry=place.name))
    return cases


def store(
    case: Prepared,
    folder: Path,
    *,
    mark: str = "",
    dtype: type[np.floating[Any]] = np.float16,
    entry: str = "",
) -> Prepared:
    """Store one case as ``folder/entry`` (by default its name), whole or not at all, and return it as a memory map.

    Raises:
        UserError: The folder can't be written.
    """
    final = Path(folder) / (entry or case.name)
    temporary = final.with_name(f".{os.getpid()}.{final.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        case = replace(case, voxels=np.asarray(case.voxels, dtype=dtype))
        np.save(temporary / "voxels.npy", case.voxels)
        if case.lesion is not None:
            np.save(temporary / "lesion.npy", case.lesion)
        if case.raters is not None:
            np.save(temporary / "raters.npy", case.raters)
        record = _record(case) | {"mark": mark, "quantiles": knots(case).tolist()}
        (temporary / "case.json").write_text(json.dumps(record))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{final}: cannot be stored ({reason}); free space or move the cache") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_case(final)


def load(folder: Path) -> list[Prepared]:
    """Open every case of a cache, sorted by name, voxels and mask as read-only memory maps.

    Raises:
        UserError: if there is none.
    """
    places = [place.parent for place in Path(folder).glob("*/case.json") if not place.parent.name.startswith(".")]
    if not places:
        raise UserError(f"{folder}: no cached case in it; expected the folder of a cache; build it first")
    return sorted((load_case(place) for place in places), key=lambda case: case.name)


def load_case(place: Path) -> Prepared:
    """Open one stored case.

    Raises:
        UserError: An older version stored it.
    """
    record = json.loads((place / "case.json").read_text())
    if "quantiles" not in record:
        raise UserError(
            f"{place}: stored by an older gen3d, lacks the quantiles of each contrast; build the cache again"
        )
    lesion, raters = place / "lesion.npy", place / "raters.npy"
    return Measured(
        record["name"],
        record["patient"],
        np.load(place / "voxels.npy", mmap_mode="r"),
        np.array(record["present"], dtype=bool),
        np.load(lesion, mmap_mode="r") if lesion.exists() else None,
        tuple(record["spacing"]),
        tuple(scale and Scale(**scale) for scale in record["scales"]),
        _placement(record["placement"]),
        None if record.get("days") is None else np.array(record["days"], dtype=np.float64),
        raters=np.load(raters, mmap_mode="r") if raters.exists() else None,
        quantiles=np.array(record["quantiles"]),
    )


def _files(paths: Iterable[Path]) -> list[Path]:
    return [f for p in map(Path, paths) for f in (p.iterdir() if p.is_dir() else [p]) if f.is_file()]


def _mark(place: Path) -> str | None:
    try:
        return str(json.loads((place / "case.json").read_text())["mark"])
    except (OSError, ValueError, KeyError):
        return None


def _record(case: Prepared) -> dict[str, Any]:
    placement = case.placement
    return {
        "name": case.name,
        "patient": case.patient,
        "present": [bool(p) for p in case.present],
        "spacing": list(case.spacing),
        "scales": [scale and asdict(scale) for scale in case.scales],
        "placement": placement and {**vars(placement), "affine": np.asarray(placement.affine).tolist()},
        "days": None if case.days is None else case.days.tolist(),
    }


def _placement(record: dict[str, Any] | None) -> Placement | None:
    if record is None:
        return None
    shape, start, size = (tuple(record[k]) for k in ("shape", "start", "size"))
    return Placement(shape, np.array(record["affine"]), record["axes"], start, size)
