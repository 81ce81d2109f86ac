"""Forecasts of simulated follow-ups of test hippocampi against the copied last visit: error, volumes, calibration.

Usage: python -m benchmarks.hippocampus_forecast score NAME MODEL [--samples 16] [--cases 38]
       python -m benchmarks.hippocampus_forecast score classical MODEL    (copy and lines; MODEL measures the volumes)
       python -m benchmarks.hippocampus_forecast table

Every test case, three earlier visits at regular or irregular times of which 0, 1 or 2 are missing, the fourth is
forecast. The follow-ups are those of gen3d/data/simulated_change.py, drawn by the case's name; no training item has
such a key. One segmentation network, that of MODEL or of --segmenter, measures truth, copy and forecast alike.
Writes benchmarks/results/hippocampus_forecast.json, one row after the other.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gen3d
from gen3d.core.precision import choose_precision, use_precision
from gen3d.core.randomness import derive
from gen3d.data.blur import blurred
from gen3d.data.simulated_change import draw_missing, simulate
from gen3d.data.splits import is_test
from gen3d.data.studies import find_studies, read_study
from gen3d.metrics.paired import paired_interval
from gen3d.metrics.ssim import ssim_map
from gen3d.tools.sampling import choose_walk, drawn
from gen3d.tools.volume_spread import WHOLE, interval_80

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"
STORE = RESULTS / "hippocampus_forecast.json"
SETTINGS = [(timing, missing) for timing in ("regular", "irregular") for missing in (0, 1, 2)]
Forecasts = Callable[[dict[str, Any], str], Tensor]  # example, key -> (samples, 1, X, Y, Z)


def questions(system: Any, count: int) -> Iterator[tuple[str, int, str, dict[str, Any], Tensor]]:
    """Yield timing, missing visits, case, the example, and the true visit (1, 1, X, Y, Z)."""
    studies = [s for s in find_studies(DATA / "hippocampus") if is_test("hippocampus", s.name)][:count]
    for study in studies:
        prepared = system.prepare(read_study(study))
        scan = torch.from_numpy(np.array(prepared.voxels[0], np.float32))
        mask = torch.from_numpy(np.array(prepared.lesion))
        for timing, missing in SETTINGS:
            change = replace(system.config.change, regular=float(timing == "regular"))
            key = derive("benchmark", study.name, timing)
            found = simulate(scan, mask, change, key, spacing=prepared.spacing)
            valid = draw_missing(len(found.days) - 1, missing, key)
            example = {
                "visits": found.visits[:-1][valid][None],
                "days": torch.from_numpy(found.days[:-1])[valid][None],
                "valid": torch.ones(1, int(valid.sum()), dtype=torch.bool),
                "query": torch.tensor([found.days[-1]], dtype=torch.float64),
            }
            yield timing, missing, study.name, example, found.visits[-1][None, None]


def copied(example: dict[str, Any], key: str) -> Tensor:
    """Return the last visit."""
    last: Tensor = example["visits"][:, -1:]
    return last


def smoothed(example: dict[str, Any], key: str) -> Tensor:
    """Return the last visit without most of its noise: a Gaussian of 0.6 voxels, as the simulated anatomy has it."""
    return blurred(copied(example, key), 0.6)


def averaged(example: dict[str, Any], key: str) -> Tensor:
    """Return the mean of all visits."""
    mean: Tensor = example["visits"].mean(1, keepdim=True)
    return mean


def straight(example: dict[str, Any], key: str) -> Tensor:
    """Return each voxel's least-squares line through the visits at the day that is asked for; the copy, of one."""
    visits, days = example["visits"][0], example["days"][0]
    if len(days) == 1:
        return copied(example, key)
    t = days - days.mean()
    slope = (t.view(-1, 1, 1, 1) * visits).sum(0) / t.square().sum()
    line: Tensor = visits.mean(0) + slope * (example["query"][0] - days.mean())
    return line.float()[None, None]


def by_one_call(system: Any) -> Forecasts:
    """Return the expected forecast."""
    return lambda example, key: system.expected(example)


def by_samples(system: Any, count: int) -> Forecasts:
    """Return samples."""
    walk = choose_walk(system)

    @torch.no_grad()
    def forecasts(example: dict[str, Any], key: str) -> Tensor:
        condition = system.condition(example)
        parts = [drawn(system, example, condition, derive(key, n), walk) for n in range(count)]
        return torch.cat([system.finish(part, example) for part in parts])

    return forecasts


def volumes(segmenter: Any, voxels: Tensor) -> Tensor:
    """Return the voxels of both structures together, (B,)."""
    return (segmenter.structures(voxels) > 0).flatten(1).sum(1).double()


def scored(system: Any, segmenter: Any, forecasts: Forecasts, count: int) -> dict[str, Any]:
    """Return every case's scores in every setting, and processor seconds a forecast."""
    low, high = system.config.intensity.to
    rows: list[dict[str, Any]] = []
    seconds = 0.0
    for timing, missing, case, example, truth in questions(system, count):
        begin = time.process_time()
        made = forecasts(example, case)
        seconds += time.process_time() - begin
        mean, wanted = made.mean(0, keepdim=True), (truth - low) / (high - low)
        unit = (mean - low) / (high - low)
        real, own = float(volumes(segmenter, truth)), volumes(segmenter, made)
        volume = float(own.mean()) if len(made) > 1 else float(own)
        row = {
            "timing": timing,
            "missing": missing,
            "case": case,
            "last": float(volumes(segmenter, copied(example, ""))),
        }
        row |= {"visits": example["visits"].shape[1], "ahead": float(example["query"][0] - example["days"][0, -1])}
        row |= {"nrmse": 100 * float((unit - wanted).square().mean().sqrt())}
        row |= {"ssim": float(ssim_map(unit[0, 0], wanted[0, 0]).mean()), "volume": volume, "true_volume": real}
        rows.append(row | ({"volumes": own.tolist()} if len(made) > 1 else {}))
    return {"rows": rows, "cpu_seconds": round(seconds / max(len(rows), 1), 2)}


def load(model: str) -> Any:
    """Load a model as gen3d forecast does on this CPU."""
    system = gen3d.load(model).eval()
    use_precision(system, choose_precision("cpu").dtype)
    return system


def save(name: str, found: dict[str, Any]) -> None:
    """Add one row to the results."""
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    STORE.write_text(json.dumps({**stored, name: found}, indent=None, separators=(",", ":")) + "\n")


def score(options: argparse.Namespace) -> None:
    """Score one model's rows, or the classical ones."""
    system = load(options.model)
    segmenter = load(options.segmenter) if options.segmenter else system
    minutes = system.provenance.get("training", {}).get("cpu_minutes", 0)
    if options.name == "classical":
        lines = {"copied last visit": copied, "the same, smoothed": smoothed, "mean of the visits": averaged}
        for name, way in {**lines, "a line through each voxel": straight}.items():
            save(name, {**scored(system, segmenter, way, options.cases), "cpu_minutes": 0, "calls": 0})
        return
    calls = system.config.sampling.steps * (2 if getattr(system.config, "guidance", 1) != 1 else 1)
    if hasattr(system, "encoder") and system.name == "forecast":
        one = scored(system, segmenter, by_one_call(system), options.cases)
        known = {"volume_spread": system.provenance.get("volume_spread", {})}
        save(f"{options.name}, expected", {**one, **known, "cpu_minutes": minutes, "calls": 1})
    if not options.samples:
        return
    many = scored(system, segmenter, by_samples(system, options.samples), options.cases)
    facts = {"cpu_minutes": minutes, "calls": calls, "samples": options.samples}
    kind = "one sample" if options.samples == 1 else f"mean of {options.samples} samples"
    save(f"{options.name}, {kind}", {**many, **facts})


def coverage(rows: list[dict[str, Any]], known: dict[str, Any]) -> float:
    """Return the share of true volumes inside the 80 % interval that gen3d forecast tells, or of the samples."""
    inside = []
    for row in rows:
        if "volumes" in row:
            low, high = np.quantile(row["volumes"], (0.1, 0.9))
        else:
            ends = interval_80(known, WHOLE, row["volume"], row["visits"], row["ahead"])
            low, high = ends or (float("nan"), float("nan"))
        inside.append(low <= row["true_volume"] <= high)
    return float(np.mean(inside))


def volume_error(row: dict[str, Any]) -> float:
    """Return how wrong a volume is, in percent of the true one."""
    return 100 * abs(row["volume"] - row["true_volume"]) / max(row["true_volume"], 1)


def table() -> None:
    """Write the results as Markdown."""
    stored = json.loads(STORE.read_text())
    copy = stored["copied last visit"]["rows"]
    cases = len({row["case"] for row in copy})
    lines = [
        "# Forecasts of simulated follow-ups",
        "",
        f"{cases} test cases, three earlier visits of which some are missing, the fourth is forecast. NRMSE is the",
        "root mean square error over the width of the grey scale, in percent; both images hold noise of the scan's",
        "own level, so that a perfect guess of the anatomy still has most of it. Volumes are of both structures, by",
        "one segmentation network for truth, copy and forecast alike; their error is the mean absolute one in",
        "percent. In brackets: the 95 % interval of the paired difference to the copy. Written by `python -m",
        "benchmarks.hippocampus_forecast table`.",
        "",
    ]
    for timing, missing in SETTINGS:
        lines += [
            f"**{timing} times, {missing} of 3 visits missing**",
            "",
            "| | CPU minutes | calls | NRMSE, % | SSIM | volume error, % |",
            "|---|---|---|---|---|---|",
        ]
        mine = {
            name: [r for r in found["rows"] if (r["timing"], r["missing"]) == (timing, missing)]
            for name, found in stored.items()
        }
        before = {r["case"]: r for r in mine["copied last visit"]}
        for name, rows in mine.items():
            pairs = [(r, before[r["case"]]) for r in rows if r["case"] in before]
            error = paired_interval([a["nrmse"] - b["nrmse"] for a, b in pairs])
            volume = paired_interval([volume_error(a) - volume_error(b) for a, b in pairs])
            mean = {key: np.mean([r[key] for r in rows]) for key in ("nrmse", "ssim")}
            own = name == "copied last visit"
            told = "" if own else f" [{error.low:+.2f}, {error.high:+.2f}]"
            also = "" if own else f" [{volume.low:+.1f}, {volume.high:+.1f}]"
            short = "" if len(rows) == cases else f" (n = {len(rows)})"
            facts = stored[name]
            lines.append(
                f"| {name}{short} | {facts['cpu_minutes']:.1f} | {facts['calls']} | {mean['nrmse']:.2f}{told} | "
                f"{mean['ssim']:.3f} | {np.mean([volume_error(r) for r in rows]):.1f}{also} |"
            )
        lines.append("")
    lines += ["**Calibration**: true volumes inside the 80 % interval of the forecast volume", ""]
    for name, found in stored.items():
        rows, known = found["rows"], found.get("volume_spread", {})
        if known or "volumes" in rows[0]:
            each = [
                coverage([r for r in rows if (r["timing"], r["missing"]) == setting], known) for setting in SETTINGS
            ]
            told = ", ".join(f"{100 * share:.0f}" for share in each)
            lines.append(f"- {name}: {100 * coverage(rows, known):.0f} % (setting by setting: {told})")
    (RESULTS / "hippocampus_forecast.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("score")
    one.add_argument("name")
    one.add_argument("model")
    one.add_argument("--samples", type=int, default=16)
    one.add_argument("--cases", type=int, default=1000)
    one.add_argument("--segmenter")
    one.set_defaults(run=score)
    commands.add_parser("table").set_defaults(run=lambda options: table())
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
