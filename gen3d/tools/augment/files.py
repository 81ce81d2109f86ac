"""The folder of a synthetic data set while it grows: whole files only, one run alone, what is finished is kept."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.error import UserError
from gen3d.core.volume import Volume
from gen3d.data.nifti import write
from gen3d.tools.augment.layouts import image_paths, label_path, sidecars, written
from gen3d.tools.augment.pair import Pair
from gen3d.tools.record import description, record
from gen3d.tools.run_record import RUN, read_run, same_run
from gen3d.tools.sampling import OpenModel

MANIFEST, RECORDS = "manifest.jsonl", "provenance"
ROW = ("number", "case", "status", "attempts", "rejected", "volumes_ml", "alike", "fingerprint", "sha256")
Row = dict[str, Any]
Part = tuple[int, int]


def stage_of(out: Path, part: Part) -> Path:
    """Return where a part keeps files that are not whole yet."""
    return out / f".part-{part[0]}-of-{part[1]}"


def manifest_of(out: Path, part: Part) -> Path:
    """Return the file in which a part lists its cases, a JSON line each."""
    return out / f"manifest-part-{part[0]}-of-{part[1]}.jsonl"


@contextmanager
def staged(stage: Path, out: Path, last: str = "") -> Iterator[Path]:
    """Yield an empty folder, whose files move to their places below ``out`` when the block ends well.

    Args:
        stage: The folder; what a killed run left in it vanishes.
        out: Where they go.
        last: The file that moves after all others, so that it says that they are there.

    Raises:
        UserError: The file system refuses.
    """
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        yield stage
        names = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
        for name in sorted(names, key=lambda name: (name.as_posix() == last, name)):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / name, out / name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        words = "free space and run it again, finished cases are kept; or choose another -o"
        raise UserError(f"{out}: can't be written ({reason}); {words}") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def begin(out: Path, settings: Mapping[str, Any], part: Part) -> None:
    """Take a folder for a run, or go on with the same one.

    Raises:
        UserError: It is a file, holds another run, or what gen3d augment did not write.
    """
    check_run(out, settings)
    text = written(settings)
    if not (out / RUN).is_file():
        with staged(stage_of(out, part), out) as folder:
            (folder / RUN).write_text(text)


def check_run(out: Path, settings: Mapping[str, Any]) -> None:
    """Check that a folder is free or of the same run.

    Raises:
        UserError: It is not.
    """
    if same_run(out, settings):
        return
    foreign = sorted(p.name for p in out.iterdir() if not p.name.startswith(".part-")) if out.is_dir() else []
    if foreign:
        raise UserError(f"{out}: holds {foreign[0]}, which gen3d augment did not write; choose another -o")


def settings_of(out: Path) -> dict[str, Any]:
    """Return what was asked in a folder.

    Raises:
        UserError: Nothing was.
    """
    tree = read_run(out)
    if tree is None or "layout" not in tree:
        raise UserError(f"{out / RUN}: not there or damaged; expected the folder of an earlier gen3d augment")
    return tree


def write_pair(
    folder: Path, layout: str, case: str, pair: Pair, model: OpenModel, window: Sequence[float], run: Mapping[str, Any]
) -> dict[str, str]:
    """Write the images and the mask of a case and return the SHA-256 of each file by its path.

    Images are int16, 0 to 1000 over the model's window; the mask is uint8.
    """
    contrasts = run["contrasts"]
    paths = image_paths(layout, case, contrasts)
    for path, image, contrast in zip(paths, grey(pair.images, window), contrasts, strict=True):
        write(Volume(image, pair.affine), folder / path, description=description(model, contrast))
    mask = label_path(layout, case)
    labels = pair.labels.astype(np.uint8 if len(run["labels"]) < 256 else np.int16)
    write(Volume(labels, pair.affine), folder / mask, description=description(model, "mask"))
    for path, text in sidecars(layout, case, contrasts).items():
        (folder / path).write_text(text)
    return {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in (*paths, mask)}


def grey(images: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Return images on the model's grey scale as int16, 0 to 1000 over its window."""
    low, high = (np.float32(end) for end in window)
    scaled: np.ndarray = np.rint(((images - low) * (1000 / (high - low))).clip(0, 1000)).astype(np.int16)
    return scaled


def write_row(folder: Path, row: Row, model: OpenModel, facts: Mapping[str, Any]) -> str:
    """Write the record of a case, whether it was accepted or given up, and return its path below the data set."""
    path = Path(RECORDS) / f"{row['case']}.json"
    (folder / RECORDS).mkdir(exist_ok=True)
    first = next(iter(row["sha256"]), "none")
    (folder / path).write_text(written(record(Path(first), model, {**row, **facts})))
    return path.as_posix()


def read_row(out: Path, case: str) -> Row | None:
    """Return what became of a case that is finished and whose files are there, else None."""
    try:
        tree = json.loads((out / RECORDS / f"{case}.json").read_text())
        row = {name: tree[name] for name in ROW}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return row if all((out / path).is_file() for path in row["sha256"]) else None


def line(row: Row) -> str:
    """Return a row of a manifest."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_lines(paths: Iterable[Path]) -> dict[int, Row]:
    """Return the rows of manifests by number; a line that a killed run cut short is left out."""
    rows: dict[int, Row] = {}
    for path in paths:
        for text in path.read_text().splitlines():
            try:
                row = json.loads(text)
                rows[int(row["number"])] = row
            except (ValueError, KeyError, TypeError):
                continue
    return dict(sorted(rows.items()))


def packed(fingerprint: np.ndarray) -> str:
    """Return a fingerprint (d,) float16 as text."""
    return base64.b64encode(fingerprint.astype("<f2").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """Return the fingerprint of a text, (d,) float32."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32)
