"""Small folders of results as the tools write them, and a page taken apart, for the tests of gen3d report."""

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from gen3d.core.volume import Volume
from gen3d.data.nifti import write
from gen3d.tools.outcomes import Outcome, write_outcome, write_table

MODEL = {"name": "tiny", "system": "made up", "weights_sha256": "5a" * 32, "trained_on": {"patients": 3}}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f64540"
    "0000000049454e44ae426082"
)


def wrote(path: Path, tree: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def scan(path: Path, size: int, seed: int = 0, shape: tuple[int, int, int] | None = None) -> Path:
    """Write an image of positive noise, 1 mm."""
    voxels = np.random.default_rng(seed).random(shape or (size, size, size)).astype(np.float32)
    write(Volume(voxels, np.eye(4)), path)
    return path


def record(path: Path, facts: dict[str, Any]) -> None:
    """Write an image's sidecar."""
    tree = {"synthetic": True, "warning": "Synthetic.", "file": path.name, **facts, "model": MODEL, "gen3d": "0"}
    wrote(path.with_name(f"{path.name.removesuffix('.nii.gz')}.json"), tree)


def segmented(folder: Path, name: str, kind: str = "most likely label", **facts: Any) -> Path:
    """Write what segment does of one slice: a mask, two samples, a probability."""
    mask = np.zeros((12, 10, 1), dtype=np.uint8)
    mask[3:9, 2:7] = 1
    for suffix, said in (
        ("_seg", kind),
        ("_sample-01", "sample"),
        ("_sample-02", "sample"),
        ("_probability", "probability"),
    ):
        path = folder / name / f"{name}{suffix}.nii.gz"
        write(Volume(mask * np.float32(0.75) if said == "probability" else mask, np.eye(4)), path)
        label = {"label": "brain"} if said == "probability" else {}
        record(path, {"segmented": name, "kind": said, **label, "sources": ["raters.npz"], **facts})
    return folder


def archive(folder: Path, statuses: dict[str, str], size: int = 8) -> Path:
    """Write what synthesize does of an archive: cases, some of which failed, and the table of them.

    Of equal statuses the later case is the worse one, by what it lets expect.
    """
    for index, (name, status) in enumerate(statuses.items()):
        failed = status == "failed"
        if not failed:
            record(scan(folder / name / "flair.nii.gz", size, index), {"contrast": "t2f", "sources": ["t1.nii.gz"]})
        reason = "t1.nii.gz: no such scan" if failed else "voxels of 3.5 mm" if status == "outside" else ""
        expected = {} if failed else {"t2f": 30.0 - index}
        made = () if failed else ("t2f",)
        write_outcome(Outcome(name, name, status, reason, made=made, expected=expected), folder)  # type: ignore[arg-type]
    write_table(folder)
    return folder


def evaluated(folder: Path) -> Path:
    """Write what an evaluation does."""
    rows = [["synthetic", 14.14], ["best copy", 14.66]]
    table = {"title": "Synthetic against true", "columns": ["image", "PSNR dB"], "rows": rows, "notes": ["by case"]}
    told = {"gen3d": "0", "evaluation": "pairs", "settings": {"real": "a"}, "tables": [table]}
    wrote(folder / "results.json", {**told, "warnings": ["the synthetic images don't beat the best copy"]})
    (folder / "summary.png").write_bytes(PNG)
    return folder


def augmented(folder: Path) -> Path:
    """Write what augment does: one case that passed the gates, one that was given up."""
    scan(folder / "imagesTr" / "synth_000001_0000.nii.gz", 6)
    write(Volume(np.ones((6, 6, 6), dtype=np.uint8), np.eye(4)), folder / "labelsTr" / "synth_000001.nii.gz")
    files = {"imagesTr/synth_000001_0000.nii.gz": "aa", "labelsTr/synth_000001.nii.gz": "bb"}
    core = {"labels": "core has 112 mL; real ones 46.2 to 57.3 mL"}
    given_up = {"status": "given up", "attempts": 3, "rejected": [core, {"copy": "0.98 alike"}, core]}
    rows = [
        {"number": 1, "case": "synth_000001", "status": "accepted", "attempts": 1, "rejected": [], "sha256": files},
        {"number": 2, "case": "synth_000002", **given_up, "sha256": {}},
    ]
    for row in rows:
        row |= {"volumes_ml": {"core": 50.5} if row["sha256"] else {}, "alike": None}
        first = next(iter(row["sha256"]), "none").rpartition("/")[2]  # type: ignore[call-overload]
        tree = {"synthetic": True, "file": first, **row, "model": MODEL, "gen3d": "0"}
        wrote(folder / "provenance" / f"{row['case']}.json", tree)
    wrote(folder / "run.json", {"layout": "nnunet", "seed": 0})
    wrote(folder / "report.json", {"cases": 2, "accepted": 1, "volumes_ml": {"core": {"real": [1.0, 2.0]}}})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Page(HTMLParser):
    """Elements, links and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self.inside = ""
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = (dict(attrs).get("id") or dict(attrs).get("class") or "") if tag == "script" else tag

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[self.inside] = self.scripts.get(self.inside, "") + data
        elif self.inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [about for _, about in self.elements if name in (about.get("class") or "").split()]

    def volume(self, case: int, number: int) -> Any:
        return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(self.scripts[f"volume-{case}-{number}"])))
