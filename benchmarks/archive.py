"""An archive of 20 studies, good, odd and broken, by one command: ``python -m benchmarks.archive [--kills N]``.

Made from ../shared/data by links, so that nothing is copied but what is changed: six real studies without one contrast,
four turned to other axes, three cut to thick slices, one with a contrast rotated by 5 degrees and moved, one of a head
with its skull, one truncated, one empty, one with NaN, one CT by mistake, one complete. Prints cases.csv and says where
an outcome is not the expected one. The rotated study is scored against the same study in register.

``--kills N`` kills the command at N seeded moments, each time starts it again, and compares the
folder at the end with an undisturbed one, byte by byte; then two parts and a merge.

Writes benchmarks/results/archive.json: the outcome of each study, seconds and peak memory a study.
"""

import argparse
import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform

from gen3d.data.layout import contrast_of, is_lesion

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "archive.json"
DATA = Path(os.environ.get("GEN3D_DATA") or ROOT.parent / "shared" / "data").resolve()
BRATS = ("BraTS-GLI-00001-000", "BraTS-MET-00110-000", "TCGA-DU-7294", "TCGA-FG-6692")
MS = ("patient07", "patient19")
EXPECTED = {
    **{f"{i:02d}-{name}": ("made", "outside") for i, name in enumerate((*BRATS, *MS), 1)},
    **{f"{i:02d}-turned-{codes}": ("made", "outside") for i, codes in enumerate(("LAS", "SAL", "PIR", "ASR"), 7)},
    **{f"{i:02d}-thick-{mm}mm": ("outside",) for i, mm in enumerate((3, 5, 6), 11)},
    "14-rotated": ("made", "outside"),
    "15-skull": ("outside",),
    "16-truncated": ("failed",),
    "17-empty": ("failed",),
    "18-nan": ("failed",),
    "19-ct": ("outside", "failed"),
    "20-complete": ("complete",),
}


def scans(case: str) -> dict[str, Path]:
    """Return the files of a real study by contrast."""
    folder = DATA / ("ms" if case in MS else "brats") / case
    found = {contrast_of(path): path for path in sorted(folder.glob("*.nii.gz")) if not is_lesion(path)}
    return {name: path for name, path in found.items() if name}


def linked(folder: Path, files: Sequence[Path]) -> Path:
    """Make a study of links."""
    folder.mkdir(parents=True)
    for path in files:
        (folder / path.name).symlink_to(path)
    return folder


def changed(folder: Path, files: Sequence[Path], change: Callable[[nib.Nifti1Image], nib.Nifti1Image]) -> Path:
    """Make a study of changed scans."""
    folder.mkdir(parents=True)
    for path in files:
        nib.save(change(nib.load(path)), folder / path.name)
    return folder


def turned(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """Reverse and permute the axes; every voxel stays where it is."""
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    return image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), wanted))


def thick(image: nib.Nifti1Image, count: int) -> nib.Nifti1Image:
    """Average ``count`` neighbouring slices."""
    voxels = image.get_fdata(dtype=np.float32)
    z = voxels.shape[2] // count * count
    means = voxels[..., :z].reshape(*voxels.shape[:2], -1, count).mean(-1)
    scaling = np.diag([1.0, 1.0, count, 1.0])
    scaling[2, 3] = (count - 1) / 2
    return nib.Nifti1Image(means, image.affine @ scaling)


def moved(image: nib.Nifti1Image, degrees: float = 5.0, shift: Sequence[float] = (4.0, -3.0, 5.0)) -> nib.Nifti1Image:
    """Show the head turned about the third axis and moved, in voxels, as if the patient had moved in between."""
    voxels = image.get_fdata(dtype=np.float32)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    middle = (np.array(voxels.shape) - 1) / 2
    found = affine_transform(voxels, turn, middle - turn @ (middle + np.array(shift)), order=1)
    affine = image.affine.copy()
    affine[:3, 3] += 0.5  # another scan, another grid
    return nib.Nifti1Image(np.where(found < 1, 0, found), affine)


def build(folder: Path) -> None:
    """Make the archive."""
    whole = scans("TCGA-DU-7294")
    without = [path for name, path in whole.items() if name != "t2f"]
    for i, case in enumerate((*BRATS, *MS), 1):
        left_out = ("t1n", "t1c", "t2w", "t2f", "t2f", "t1n")[i - 1]
        linked(folder / f"{i:02d}-{case}", [path for name, path in scans(case).items() if name != left_out])
    for i, codes in enumerate(("LAS", "SAL", "PIR", "ASR"), 7):
        changed(folder / f"{i:02d}-turned-{codes}", without, lambda image, codes=codes: turned(image, codes))
    for i, count in enumerate((3, 5, 6), 11):
        changed(folder / f"{i:02d}-thick-{count}mm", without, lambda image, count=count: thick(image, count))
    rotated = linked(folder / "14-rotated", [p for p in without if contrast_of(p) != "t2w"])
    nib.save(moved(nib.load(whole["t2w"])), rotated / whole["t2w"].name)
    (folder / "15-skull").mkdir()
    (folder / "15-skull" / "t1.nii.gz").symlink_to(DATA / "formats" / "chris_t1.nii.gz")
    for name, make in (("16-truncated", lambda data: data[: len(data) // 2]), ("17-empty", lambda data: b"")):
        linked(folder / name, without[1:])
        (folder / name / without[0].name).write_bytes(make(without[0].read_bytes()))
    linked(folder / "18-nan", without[1:])
    image = nib.load(without[0])
    voxels = image.get_fdata(dtype=np.float32)
    voxels[100:110, 100:110, 60:70] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), folder / "18-nan" / without[0].name)
    (folder / "19-ct").mkdir()
    (folder / "19-ct" / "t1.nii.gz").symlink_to(DATA / "ct" / "example_ct.nii.gz")
    linked(folder / "20-complete", list(whole.values()))


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """Return the one command."""
    line = [sys.executable, "-m", "gen3d.cli", "synthesize", "-i", str(folder), "-o", str(out), "--align"]
    return [*line, *more]


def contents(out: Path) -> dict[str, bytes]:
    """Return every file."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def brain_psnr(made: Path, true: Path) -> float:
    """Score as shared/tools/score_completion.py does: on the true scan's scale by median and IQR, over its brain."""
    b, a = (nib.load(path).get_fdata() for path in (made, true))
    inside, (low, high) = a > 0, np.quantile(a, [0.001, 0.999])
    (qa, ma, ra), (qb, mb, rb) = (np.quantile(v[inside], [0.25, 0.5, 0.75]) for v in (a, b))
    b = (b[inside] - mb) / (rb - qb) * (ra - qa) + ma
    return float(-10 * np.log10(np.mean(((np.clip(b, low, high) - np.clip(a[inside], low, high)) / (high - low)) ** 2)))


def killed(folder: Path, out: Path, kills: int, seconds: float) -> int:
    """Kill the command at seeded moments of the time that a whole run takes, then let it finish; return the kills."""
    draw, count = random.Random(0), 0
    for _ in range(kills):
        run = subprocess.Popen(command(folder, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run.wait(draw.uniform(5, max(6.0, 1.5 * seconds / (kills + 1))))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            count += run.wait() == -signal.SIGKILL
    subprocess.run(command(folder, out), check=False, capture_output=True)
    return count


def main() -> None:
    """Build, run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "archive", Path(place) / "out"
        build(folder)
        begin = time.monotonic()
        done = subprocess.run(command(folder, out), check=False, text=True, capture_output=True)
        seconds = time.monotonic() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(done.stdout, done.stderr, (out / "cases.csv").read_text(), sep="\n")
        rows = list(csv.DictReader((out / "cases.csv").read_text().replace(f"{folder}/", "").splitlines()))
        odd = {r["case"]: r["status"] for r in rows if r["status"] not in EXPECTED.get(r["case"], ())}
        odd |= dict.fromkeys(EXPECTED.keys() - {r["case"] for r in rows}, "missing")
        true = scans("TCGA-DU-7294")["t2f"]
        scored = {name: brain_psnr(next((out / name).glob("*flair.nii.gz")), true) for name in ("14-rotated",)}
        linked(
            folder.with_name("register") / "in-register", [p for n, p in scans("TCGA-DU-7294").items() if n != "t2f"]
        )
        subprocess.run(
            command(folder.with_name("register"), folder.with_name("out-register")), check=False, capture_output=True
        )
        scored["in register"] = brain_psnr(next(folder.with_name("out-register").rglob("*flair.nii.gz")), true)
        tree = {
            "exit": done.returncode,
            "unexpected": odd,
            "seconds_a_study": round(seconds / len(rows), 1),
            "peak_gb": round(peak, 2),
            "brain_psnr_flair": {name: round(value, 2) for name, value in scored.items()},
            "cases": rows,
        }
        if options.kills:
            tree["killed"] = killed(folder, Path(place) / "again", options.kills, seconds)
            tree["equal_after_kills"] = contents(Path(place) / "again") == contents(out)
            for i in (1, 2):
                subprocess.run(
                    command(folder, Path(place) / "parts", "--part", f"{i}/2"), check=False, capture_output=True
                )
            (Path(place) / "parts" / "cases.csv").unlink()
            merge = [sys.executable, "-m", "gen3d.cli", "synthesize", "--merge", "-o", str(Path(place) / "parts")]
            subprocess.run(merge, check=True, capture_output=True)
            tree["parts_equal_one_run"] = contents(Path(place) / "parts") == contents(out)
    RESULT.write_text(json.dumps(tree, indent=1) + "\n")
    print(json.dumps({key: value for key, value in tree.items() if key != "cases"}, indent=1))


if __name__ == "__main__":
    main()
