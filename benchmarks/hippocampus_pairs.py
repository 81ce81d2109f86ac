"""Are synthetic hippocampi with masks like real ones: ``python -m benchmarks.hippocampus_pairs MODEL [-n 200]``.

Real ones are the 38 test cases (configs/splits.yaml), which no model has seen. Asked are: what the gates refuse;
whether volumes have the real distribution (Kolmogorov-Smirnov), told those of a random training case as ``gen3d
augment`` does, and told nothing; the copy rate beside that of the test cases, by ``gen3d evaluate generation`` and by
the model's own gate; the distance of radiomic features beside real against real; and whether image and mask agree: the
Dice that hippocampus-segment, one call, reaches on synthetic pairs, beside real ones. Writes
benchmarks/results/hippocampus_pairs.json and .md.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.hippocampus_segment import DATA, scores
from gen3d.core.error import UserError
from gen3d.data.splits import is_test
from gen3d.data.studies import find_studies, read_study
from gen3d.data.study import Study
from gen3d.tools.augment.augment import augment
from gen3d.tools.augment.gates import known_of
from gen3d.tools.augment.merge import kolmogorov_smirnov
from gen3d.tools.evaluate.generation import evaluate_generation
from gen3d.tools.sampling import choose_walk, drawn_together, open_model
from gen3d.tools.segment_masks import one_call

RESULT = Path(__file__).parent / "results" / "hippocampus_pairs.json"
FREE = 64  # draws that are told nothing


def linked(studies: Sequence[Study], folder: Path) -> Path:
    """Make a folder of scans alone."""
    folder.mkdir()
    for study in studies:
        (folder / study.files["mri"].name).symlink_to(study.files["mri"].resolve())
    return folder


def volumes(studies: Sequence[Study]) -> np.ndarray:
    """Return mL of each label, (cases, labels)."""
    found = []
    for study in studies:
        mask = read_study(study).lesion
        assert mask is not None
        found.append([float((mask.voxels == n).sum() * np.prod(mask.spacing)) / 1000 for n in (1, 2)])
    return np.array(found)


def agreement(studies: Sequence[Study]) -> float:
    """Return the mean Dice of hippocampus-segment, one call."""
    segmenter: Any = open_model("hippocampus-segment", "cpu").system
    rows = []
    for study in studies:
        example = segmenter.example(segmenter.prepare(read_study(study)))
        rows.append(scores(one_call(segmenter, example).likely, np.asarray(example["prepared"].lesion))["mean"])
    return fmean(rows)


@torch.inference_mode()
def untold(system: Any, count: int) -> np.ndarray:
    """Return mL of each label of pairs that are drawn without a word."""
    found, example = [], system.blank()
    for start in range(0, count, 8):
        keys = [f"untold/{number}" for number in range(start, start + 8)]
        coords = drawn_together(system, example, system.condition(example), keys, choose_walk(system))
        labels = system.finish(coords, example)[:, -1]
        found += [
            [float((one == n).sum()) * float(np.prod(system.config.spacing)) / 1000 for n in (1, 2)] for one in labels
        ]
    return np.array(found)


def compared(name: str, made: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """Return mean and deviation of each label's volume and the two-sample test."""
    rows = {}
    for number, label in enumerate(("anterior", "posterior")):
        distance, p = kolmogorov_smirnov(real[:, number].tolist(), made[:, number].tolist())
        ends = (float(made[:, number].mean()), float(made[:, number].std(ddof=1)))
        rows[label] = {"mean_ml": ends[0], "std_ml": ends[1], "ks_distance": distance, "ks_p": p}
    return {"set": name, "n": len(made), **rows}


def refused_by_gate(system: Any, studies: Sequence[Study]) -> int:
    """Count scans that the model's copy gate refuses."""
    known = known_of(system)
    images = [system.example(system.prepare(read_study(study)))["voxels"] for study in studies]
    return sum(float((known.fingerprints @ known.fingerprint(image)[0]).max()) > known.alike for image in images)


def measured(model: str, count: int) -> dict[str, Any]:
    """Draw a set and compare it with the test cases."""
    opened = open_model(model, "cpu")
    studies = find_studies(DATA / "hippocampus")
    test = [study for study in studies if is_test("hippocampus", study.name)]
    training = [study for study in studies if not is_test("hippocampus", study.name)]
    if {study.name for study in test} & set(opened.system.provenance["names"]):
        raise UserError(f"{model}: has seen test cases")
    with tempfile.TemporaryDirectory() as place:
        begin = time.process_time()
        report = augment(model, count, Path(place) / "set", seed=0)
        seconds = time.process_time() - begin
        made = find_studies(Path(place) / "set")
        sides = [
            linked(group, Path(place) / name) for name, group in (("real", test), ("fake", made), ("train", training))
        ]
        found = evaluate_generation(sides[0], sides[1], Path(place) / "evaluation", train=sides[2])
        real = volumes(test)
        facts = {
            "model": opened.name,
            "asked": count,
            "report": {name: report[name] for name in ("accepted", "given_up", "draws", "rejected", "duplicates")},
            "seconds_a_pair": seconds / max(report["accepted"], 1),
            "volumes": [
                compared("test cases", real, real),
                compared("training cases", volumes(training), real),
                compared("synthetic, told a training case's volumes", volumes(made), real),
                compared("synthetic, told nothing", untold(opened.system, FREE), real),
            ],
            "copies": {name: found.facts["copies"][name] for name in ("rate", "interval_95", "expected", "threshold")},
            "gate_refuses_test_cases": refused_by_gate(opened.system, test),
            "tables": [{"columns": table.columns, "rows": table.rows} for table in found.tables],
            "agreement": {"synthetic": agreement(made), "test cases": agreement(test)},
            "test_cases": len(test),
        }
    return json.loads(json.dumps(facts, default=list))


def as_table(facts: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    report, copies, agreement = facts["report"], facts["copies"], facts["agreement"]
    refused = ", ".join(f"{n} by {gate}" for gate, n in report["rejected"].items())
    low, high = (f"{end:.1%}" for end in copies["interval_95"][:2])
    lines = [
        f"{report['accepted']} synthetic pairs (of {facts['asked']}; {report['draws']} draws, refused: {refused}; "
        f"{report['duplicates']} duplicates; {facts['seconds_a_pair']:.2f} CPU seconds a pair) beside "
        f"{facts['test_cases']} test cases. `python -m benchmarks.hippocampus_pairs {facts['model']}`",
        "",
        "| volumes | n | anterior, mL | posterior, mL | KS against test cases: anterior | posterior |",
        "|---|---|---|---|---|---|",
    ]
    for row in facts["volumes"]:
        sides = [row[label] for label in ("anterior", "posterior")]
        ends = [f"{side['mean_ml']:.2f} ± {side['std_ml']:.2f}" for side in sides]
        apart = [f"{side['ks_distance']:.3f} (p {side['ks_p']:.2g})" for side in sides]
        lines.append(f"| {row['set']} | {row['n']} | {' | '.join(ends)} | {' | '.join(apart)} |")
    lines += [
        "",
        f"- Copies: {copies['rate']:.1%} [{low}, {high}] of the pairs lie nearer to a training scan than all but "
        f"{copies['expected']:.1%} of the test cases do; the model's own gate refuses "
        f"{facts['gate_refuses_test_cases']} of {facts['test_cases']} test cases.",
        f"- Image and mask agree: hippocampus-segment, one call, reaches Dice {agreement['synthetic']:.3f} on "
        f"synthetic pairs, {agreement['test cases']:.3f} on test cases.",
        "",
    ]
    for table in facts["tables"]:
        lines += [f"| {' | '.join(table['columns'])} |", f"|{'---|' * len(table['columns'])}"]
        for row in table["rows"]:
            cells = [f"{cell:.4g}" if isinstance(cell, float) else "–" if cell is None else str(cell) for cell in row]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-n", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    facts = measured(asked.model, asked.n)
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(as_table(facts))
    print(as_table(facts))


if __name__ == "__main__":
    main()
