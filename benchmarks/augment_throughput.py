"""How fast ``gen3d augment`` makes pairs: ``python -m benchmarks.augment_throughput MODEL [-n 150] [--device cpu]``.

Rows: one process, two parts side by side, Ray with two workers; each makes the same cases into a folder of its own,
which are then compared byte by byte. Seconds are the clock's for the whole command: imports, opening the model,
starting Ray and merging count. One thread for each process. CPU seconds count child processes but not Ray's workers,
which are not ours.

The last line turns the rate into what a million accepted volumes take. Writes
benchmarks/results/augment_throughput.json and .md; other work on the machine slows all of it, so the load is noted.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "augment_throughput.json"
WAYS = ("one process", "two parts", "Ray, 2 workers")
MILLION = 1_000_000


def commands(way: str, model: str, count: int, out: Path, device: str) -> list[list[str]]:
    """Return what is started side by side."""
    base = [sys.executable, "-m", "gen3d.cli", "augment", "--model", model, "-n", str(count), "-o", str(out)]
    base += ["--device", device]
    if way == "two parts":
        return [[*base, "--part", f"{part}/2"] for part in (1, 2)]
    return [[*base, "--engine", "ray", "--workers", "2"] if way.startswith("Ray") else base]


def seconds(way: str, model: str, count: int, out: Path, device: str) -> tuple[float, float]:
    """Make a data set; return clock and CPU seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin, before = time.perf_counter(), os.times()
    started = [
        subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL)
        for c in commands(way, model, count, out, device)
    ]
    statuses = [process.wait() for process in started]
    if any(statuses):
        raise SystemExit(f"{way}: a command failed")
    if way == "two parts":
        merge = [sys.executable, "-m", "gen3d.cli", "augment", "--merge", "-o", str(out)]
        subprocess.run(merge, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return time.perf_counter() - begin, sum(after[2:4]) - sum(before[2:4])


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def measured(model: str, count: int, device: str) -> dict[str, Any]:
    """Time each way and compare the folders."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for number, way in enumerate(WAYS):
            if way.startswith("Ray") and importlib.util.find_spec("ray") is None:
                print("Ray is not installed: its row is left out")
                continue
            load = os.getloadavg()[0]
            whole, cpu = seconds(way, model, count, Path(place) / str(number), device)
            rate = 60 * count / whole
            rows.append({"way": way, "seconds": whole, "cpu_seconds": cpu, "load": load, "cases_a_minute": rate})
            print(f"{way}: {whole:.1f} s, {rate:.1f} cases a minute")
        folders = [contents(Path(place) / str(number)) for number in range(len(rows))]
        for row, folder in zip(rows, folders, strict=True):
            row["same_bytes"] = folder == folders[0]
        report = json.loads(folders[0]["report.json"])
        run = json.loads(folders[0]["run.json"])
        images = [len(data) for name, data in folders[0].items() if name.endswith(".nii.gz")]
        others = [len(data) for name, data in folders[0].items() if name.startswith(("provenance", "manifest"))]
    return {
        "model": run["model"],
        "cases": count,
        "accepted": report["accepted"],
        "draws": report["draws"],
        "rejected": report["rejected"],
        "steps": run["steps"],
        "bytes_a_case": (sum(images) + sum(others)) / max(report["accepted"], 1),
        "files_a_case": (len(images) + report["cases"]) / max(report["accepted"], 1),
        "device": device,
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "rows": rows,
    }


def planned(facts: dict[str, Any]) -> dict[str, float]:
    """Return what a million accepted cases take at the rate of one process."""
    accepted_a_case = facts["accepted"] / facts["cases"]
    rate = facts["rows"][0]["cases_a_minute"] * accepted_a_case
    return {
        "process_hours": MILLION / rate / 60,
        "terabytes": MILLION * facts["bytes_a_case"] / 1e12,
        "million_files": facts["files_a_case"],
    }


def as_table(facts: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = [
        f"# Throughput of gen3d augment: {facts['model']['name']}, {facts['device']}",
        "",
        f"{facts['cases']} cases, {facts['accepted']} accepted, {facts['draws']} draws of {facts['steps']} steps; one "
        f"thread a process, {facts['machine']['cpus']} CPUs. `python -m benchmarks.augment_throughput`",
        "",
        "| way | seconds | cases a minute | CPU seconds | load before | same bytes |",
        "|---|---|---|---|---|---|",
    ]
    for row in facts["rows"]:
        numbers = f"{row['seconds']:.1f} | {row['cases_a_minute']:.0f}"
        same = "yes" if row["same_bytes"] else "NO"
        lines.append(f"| {row['way']} | {numbers} | {row['cpu_seconds']:.1f} | {row['load']:.1f} | {same} |")
    plan = planned(facts)
    lines += [
        "",
        f"A million accepted cases at the rate of one process: {plan['process_hours']:,.0f} process hours, "
        f"{plan['terabytes']:.2f} TB, {plan['million_files']:.1f} million files.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-n", type=int, default=150)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    facts = measured(asked.model, asked.n, asked.device)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(as_table(facts))
    print(as_table(facts))


if __name__ == "__main__":
    main()
