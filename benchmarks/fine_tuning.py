"""Whether fine-tuning helps a patient that nothing has seen: base models of the other kind alone, every rotation.

Usage: python -m benchmarks.fine_tuning [bases|rotations|curve|table ...] [--runs FOLDER] [--kinds ...] [--rows ...]

``bases``: two base models on the budget of configs/completion_brain_small.yaml: simulated brains and multiple
sclerosis, simulated brains and tumours. ``rotations``: for each patient, the base of the other kind is fine-tuned on
all others of the patient's kind, as ``gen3d train completion_brain_small data=ARCHIVE init=BASE`` does (one of several
is held out to stop; with a single one nothing is, and the steps are fixed), in rows: all weights; three times the
steps at three times the learning rate; adapters of rank 4; all weights with simulated brains kept among the training
cases and twice the steps; the same for a network that is trained by squared error alone (``model.mean_share=1``);
lesions weighted; and in each the voxel-wise regression on the same patients. ``curve``: fine-tuned on one, two and
three tumour patients, nothing held out, fixed steps. ``table`` writes benchmarks/results/fine_tuning.md. Scores are of
the left-out patient, each contrast from the other three.

Writes benchmarks/results/fine_tuning.json, run by run; runs that are there already are kept.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.volume import Prepared
from gen3d.metrics.paired import paired_interval
from gen3d.tools.held_out import AFTER, case_rows, regressions
from gen3d.tools.sampling import open_model
from gen3d.tools.train import read_experiment, run_training
from gen3d.tools.training_cases import Source, real_cases, stored

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "fine_tuning.json"
CONFIG = ROOT / "configs" / "completion_brain_small.yaml"
KINDS = {"brats": "ms", "ms": "brats"}  # kind of the patients to the kind that their base has seen
SIMULATED = ["data.phantoms.count=12", "data.phantoms.weight=0.3", "train.steps=400"]
ROWS = {
    "all weights": [],
    "all weights, 600 steps at 1e-3": ["train.steps=600", "train.lr=1e-3"],
    "adapters": ["train.adapter=4"],
    "all weights, simulated brains kept": SIMULATED,
    "squared error alone, simulated brains kept": [
        *SIMULATED,
        "model.mean_share=1.0",
        "train.validation_levels=[.inf]",
    ],
    "lesions weighted": ["model.lesion=4", "model.lesion_patches=0.5"],
}
BLIND = ["data.validation=0"]
FIXED = [*BLIND, "train.steps=150"]
RIVAL = "base"


def data() -> str:
    """Return where the scans are."""
    return os.environ.setdefault("GEN3D_DATA", str(ROOT.parent / "shared" / "data"))


def train_base(seen: str, runs: Path) -> Path:
    """Train the base that has seen simulated brains and one kind of patients, unless it is there."""
    run = runs / f"base_{seen}"
    if not (run / "model").is_dir():
        source = f"[{{path: {data()}/{seen}, dataset: {seen}, weight: 0.6}}]"
        overrides = [f"data.sources={source}", "data.phantoms.weight=0.4", "data.use_test_cases=true"]
        run_training(CONFIG, [*overrides, f"data.cache={runs / 'cache'}"], run)
    return run / "model"


def fine_tune(kind: str, patients: Sequence[str], options: Sequence[str], run: Path, runs: Path) -> Path:
    """Fine-tune a kind's base on some patients; return the trained model, used or rejected."""
    others = sorted({path.name for path in Path(data(), kind).iterdir() if path.is_dir()} - set(patients))
    base = train_base(KINDS[kind], runs)
    overrides = [f"data={data()}/{kind}", f"init={base}", f"data.hold_out={json.dumps(others)}"]
    run_training(CONFIG, [*overrides, f"data.cache={runs / 'cache'}", *options], run)
    return run / ("model" if (run / "model").is_dir() else "rejected")


def cases(kind: str, runs: Path) -> dict[str, Prepared]:
    """Return all patients of a kind, prepared."""
    base = open_model(train_base(KINDS[kind], runs), "cpu").system
    config = replace(read_experiment(CONFIG).data, cache=str(runs / "cache"))
    return {study.name: stored(study, config, base) for study in real_cases(Source(f"{data()}/{kind}"), config)}


def scored(kind: str, patient: str, training: Sequence[str], folder: Path, runs: Path) -> dict[str, Any]:
    """Score a model, its base and the voxel-wise regression on a patient that none has seen."""
    everyone = cases(kind, runs)
    models = {RIVAL: open_model(train_base(KINDS[kind], runs), "cpu"), AFTER: open_model(folder, "cpu")}
    contrasts = models[AFTER].system.config.contrasts
    rows = case_rows(everyone[patient], contrasts, models, regressions([everyone[p] for p in training], contrasts))
    facts = json.loads((folder / "model_index.json").read_text())["provenance"]["training"]
    told = ("best_step", "stopped_at", "turned", "cpu_minutes", "computed_in", "lr", "adapter")
    return {
        "training": list(training),
        "used": folder.name == "model",
        **{key: facts[key] for key in told if key in facts},
        "steps": facts.get("best_step", facts["steps"]),
        "scores": {row.contrast: {name: score._asdict() for name, score in row.scores.items()} for row in rows},
    }


def keep(section: str, name: str, make: Any) -> None:
    """Add a result to the file unless it is there."""
    tree = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if name in tree.get(section, {}):
        return
    made = make()
    tree = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    tree.setdefault(section, {})[name] = made
    RESULT.write_text(json.dumps(tree, indent=1) + "\n")


def rotations(runs: Path, kinds: Sequence[str], rows: Sequence[str]) -> None:
    """Leave each patient out once, in every row."""
    for kind in kinds:
        patients = list(cases(kind, runs))
        for row in rows:
            for patient in patients:
                others = [p for p in patients if p != patient]
                more = list(ROWS[row])
                if len(others) == 1:
                    more += BLIND if any(option.startswith("train.steps") for option in more) else FIXED
                run = runs / row.replace(" ", "_") / patient

                def make(others=others, more=more, run=run, kind=kind, patient=patient) -> dict[str, Any]:  # type: ignore[no-untyped-def]
                    return scored(kind, patient, others, fine_tune(kind, others, more, run, runs), runs)

                keep("rotations", f"{row}/{kind}/{patient}", make)


def curve(runs: Path) -> None:
    """Fine-tune on one, two and three tumour patients: every patient left out, one choice of the others for each."""
    patients = list(cases("brats", runs))
    for index, patient in enumerate(patients):
        others = [p for p in patients if p != patient]
        for count in (1, 2, 3):
            choices = list(combinations(others, count))
            training = choices[index % len(choices)]
            run = runs / "curve" / f"{patient}-{count}"

            def make(training=training, run=run, patient=patient) -> dict[str, Any]:  # type: ignore[no-untyped-def]
                return scored("brats", patient, training, fine_tune("brats", training, FIXED, run, runs), runs)

            keep("curve", f"{count}/{patient}", make)


def differences(results: Sequence[dict[str, Any]], measure: str, rival: str = RIVAL) -> list[float]:
    """Return what fine-tuning gained, by patient and contrast."""
    pairs = [(s[AFTER][measure], s[rival][measure]) for result in results for s in result["scores"].values()]
    return [after - before for after, before in pairs if np.isfinite(after) and np.isfinite(before)]


def mean(results: Sequence[dict[str, Any]], name: str, measure: str) -> float:
    """Return a method's mean score."""
    return float(np.nanmean([s[name][measure] for result in results for s in result["scores"].values()]))


def spelled(values: Sequence[float]) -> str:
    """Write a mean gain with its interval."""
    gain = paired_interval(values)
    return f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"


def table() -> str:
    """Return all rotations and the curve as Markdown."""
    tree = json.loads(RESULT.read_text())
    lines = [
        "Brain PSNR (dB), each contrast from the other three, of a patient that neither base nor fine-tuning has seen; "
        "gains paired over its four contrasts, 95 % intervals (Student's t).",
        "",
        "| fine-tuned | left out | trained on | base | after | gain | lesion gain | voxel-wise regression "
        "| best step | CPU minutes |",
        "|---" * 10 + "|",
    ]
    for name, result in tree["rotations"].items():
        row, _, patient = name.split("/")
        lesion = differences([result], "lesion")
        cells = [
            *(row, patient, str(len(result["training"]))),
            *(f"{mean([result], method, 'brain'):.2f}" for method in (RIVAL, AFTER)),
            spelled(differences([result], "brain")),
            f"{np.mean(lesion):+.2f}" if lesion else "none",
            f"{mean([result], 'voxel-wise regression', 'brain'):.2f}",
            f"{result['steps']}",
            f"{result['cpu_minutes']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| fine-tuned | kind | gain over all its rotations | patients better | lesion gain |",
        "|---" * 5 + "|",
    ]
    for row in ROWS:
        for kind in KINDS:
            mine = [r for name, r in tree["rotations"].items() if name.startswith(f"{row}/{kind}/")]
            if mine:
                better = sum(float(np.mean(differences([r], "brain"))) > 0 for r in mine)
                values = [differences(mine, measure) for measure in ("brain", "lesion")]
                lines.append(
                    f"| {row} | {kind} | {spelled(values[0])} | {better} of {len(mine)} | {spelled(values[1])} |"
                )
    if "curve" in tree:
        lines += ["", "| studies trained on | base | after | gain | patients better |", "|---" * 5 + "|"]
        for count in (1, 2, 3):
            mine = [r for name, r in tree["curve"].items() if name.startswith(f"{count}/")]
            if mine:
                better = sum(float(np.mean(differences([r], "brain"))) > 0 for r in mine)
                both = " | ".join(f"{mean(mine, method, 'brain'):.2f}" for method in (RIVAL, AFTER))
                gain = spelled(differences(mine, "brain"))
                lines.append(f"| {count} | {both} | {gain} | {better} of {len(mine)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["bases", "rotations", "curve", "table"])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "fine_tuning")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    torch.manual_seed(0)
    for part in options.parts:
        if part == "bases":
            [train_base(seen, options.runs) for seen in KINDS.values()]
        elif part == "rotations":
            rotations(options.runs, options.kinds, options.rows)
        elif part == "curve":
            curve(options.runs)
        else:
            (RESULTS / "fine_tuning.md").write_text(table() + "\n")
            print(table())


if __name__ == "__main__":
    main()
