"""Dice of hippocampal masks that models draw on test images: most likely label over samples, and by one call.

Usage: python -m benchmarks.hippocampus_segment score NAME MODEL [--samples 5] [--cases 38] [--split validation]
           [--store FILE]
       python -m benchmarks.hippocampus_segment table [--store FILE]

Every test case (configs/splits.yaml), the whole image as it is, as ``gen3d segment`` does it. NAME, N samples: the most
likely label by the mean of N samples' probabilities; NAME, one sample: each sample by itself, mean over them; NAME, one
call: ``expected``, for cDAL the one-step prediction, the first call of its walk. A plain network's one call is called
NAME; row "plain" is what others are compared with. ``--split validation``: the fifth of the training split that a
model kept out, to choose by, with a --store of its own. Writes benchmarks/results/hippocampus_segment.json and .md.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.error import UserError
from gen3d.core.randomness import derive
from gen3d.data.splits import is_test
from gen3d.data.studies import find_studies, read_study
from gen3d.metrics.paired import paired_interval
from gen3d.metrics.segmentation import dice
from gen3d.tools.sampling import choose_walk, network_calls, open_model
from gen3d.tools.segment import is_certain
from gen3d.tools.segment_masks import one_call, sampled_masks

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
STORE = ROOT / "benchmarks" / "results" / "hippocampus_segment.json"
PLAIN = "plain"
LABELS = ("anterior", "posterior")


def cases_of(split: str, system: Any, count: int) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Yield name, example and true labels, (X, Y, Z) on the model's axes, of each case of a split."""
    studies = find_studies(DATA / "hippocampus")
    if split == "test":
        chosen = [study for study in studies if is_test("hippocampus", study.name)]
    else:
        kept_out = set(system.provenance["validation"])
        chosen = [study for study in studies if study.name in kept_out]
    for study in chosen[:count]:
        example = system.example(system.prepare(read_study(study)))
        yield study.name, example, np.asarray(example["prepared"].lesion)


def scores(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the Dice of each label and their mean."""
    each = {
        name: dice(torch.from_numpy(labels == number), torch.from_numpy(truth == number))
        for number, name in enumerate(LABELS, 1)
    }
    return {name: round(value, 5) for name, value in {**each, "mean": float(np.mean(list(each.values())))}.items()}


def averaged(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score."""
    return {name: round(float(np.mean([row[name] for row in rows])), 5) for name in rows[0]}


def score(options: argparse.Namespace) -> None:
    """Score one model's rows and add them to the store."""
    model = open_model(options.model, "cpu")
    system: Any = model.system
    walk = choose_walk(system)
    calls = network_calls(walk.sampler, walk.steps)
    count = 0 if is_certain(system) else options.samples
    found: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}

    def take(row: str, case: str, scored: dict[str, float], begin: float) -> None:
        found.setdefault(row, {})[case] = scored
        seconds[row] = seconds.get(row, 0.0) + time.process_time() - begin

    once = options.name if system.name == "segmenter" else f"{options.name}, one call"
    many, single = f"{options.name}, {count} samples", f"{options.name}, one sample"
    with torch.inference_mode():
        for name, example, truth in cases_of(options.split, system, options.cases):
            begin = time.process_time()
            with suppress(UserError):  # a model without probabilities by one call has no such row
                take(once, name, scores(one_call(system, example).likely, truth), begin)
            if count:
                begin = time.process_time()
                masks = sampled_masks(system, example, [derive("hippocampus", name, n) for n in range(count)])
                take(many, name, scores(masks.likely, truth), begin)
                take(single, name, averaged([scores(sample, truth) for sample in masks.samples]), begin)
    asked = {once: 1, many: calls * count, single: calls}
    training = system.provenance.get("training", {})
    facts = {"cpu_minutes": training.get("cpu_minutes"), "steps": training.get("steps"), "weights": model.sha256}
    size = sum(parameter.numel() for parameter in system.parameters())
    rows = {
        row: {
            **facts,
            "calls": asked[row],
            "parameters": size,
            "cpu_seconds": round(seconds[row] / len(cases) / (count if row == single else 1), 2),
            "cases": cases,
        }
        for row, cases in found.items()
    }
    save(options.store, rows)
    for row, facts in rows.items():
        print(f"{row}: mean Dice {np.mean([case['mean'] for case in facts['cases'].values()]):.4f}", flush=True)


def save(path: Path, rows: Mapping[str, Any]) -> None:
    """Add rows to the store, whole or not at all."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**stored, **rows}, separators=(",", ":")) + "\n")
    part.replace(path)


def told(value: float | None, digits: int = 1) -> str:
    """Return a number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def in_words(pairs: list[float]) -> str:
    """Return the mean of paired differences and its interval."""
    apart = paired_interval(pairs)
    return f"{apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"


def line(name: str, found: Mapping[str, Any], plain: Mapping[str, Any], most: int) -> str:
    """Return a row of the table: the intervals are those of the paired differences to the plain row."""
    cases = found["cases"]
    mean = {key: np.mean([case[key] for case in cases.values()]) for key in (*LABELS, "mean")}
    apart = {key: [cases[case][key] - plain[case][key] for case in cases if case in plain] for key in mean}
    differences = ["-" if name == PLAIN or not pairs else in_words(pairs) for pairs in apart.values()]
    short = "" if len(cases) == most else f" (n = {len(cases)})"
    return (
        f"| {name}{short} | {told(found['cpu_minutes'])} | {found['calls']} | {told(found['cpu_seconds'], 2)} | "
        f"{mean['anterior']:.4f} | {mean['posterior']:.4f} | {mean['mean']:.4f} | {' | '.join(differences)} |"
    )


def table(options: argparse.Namespace) -> None:
    """Write the results as Markdown beside the store."""
    stored = json.loads(options.store.read_text())
    most = max(len(found["cases"]) for found in stored.values())
    plain = stored.get(PLAIN, {"cases": {}})["cases"]
    lines = [
        "# Masks of hippocampi",
        "",
        f"{most} test cases, the whole image as it is. Dice of each label, mean over cases; the label is the most",
        "likely one by the mean of the samples' probabilities, or by one call; of one sample, the mean over several.",
        f'Differences are paired, to row "{PLAIN}", with 95 % intervals (Student).',
        "CPU minutes are those of training; calls of the network and CPU seconds those of one case. Written by",
        "`python -m benchmarks.hippocampus_segment table`.",
        "",
        "| | CPU minutes | calls | CPU s | anterior | posterior | mean | "
        "anterior to plain | posterior to plain | mean to plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(line(name, found, plain, most) for name, found in stored.items()),
    ]
    options.store.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("score")
    one.add_argument("name")
    one.add_argument("model")
    one.add_argument("--samples", type=int, default=5)
    one.add_argument("--cases", type=int, default=1000)
    one.add_argument("--split", choices=("test", "validation"), default="test")
    one.set_defaults(run=score)
    other = commands.add_parser("table")
    other.set_defaults(run=table)
    for command in (one, other):
        command.add_argument("--store", type=Path, default=STORE)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
