"""How close are a model's hippocampi to real ones, and are they copies? Real against real stands beside every figure.

Usage: python benchmarks/hippocampus_generation.py MODEL [--count N] [--name wdm]

Draws as many volumes as there are test cases, as ``gen3d generate`` does by default, and compares them with the test
cases by ``gen3d evaluate generation``; copies are looked for in the training cases. Writes
results/hippocampus_NAME.json and .md.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from gen3d.data.layout import find_cases
from gen3d.data.nifti import without_ending
from gen3d.data.splits import is_test
from gen3d.tools.evaluate.generation import evaluate_generation
from gen3d.tools.evaluate.report import deliver, markdown
from gen3d.tools.generate import generate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FEATURES = ("radiomic", "random3d")


def sides(data: Path, place: Path) -> tuple[Path, Path]:
    """Link the training and the test cases into folders of their own."""
    folders = {False: place / "training", True: place / "test"}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for path in find_cases(data / "hippocampus"):
        (folders[is_test("hippocampus", without_ending(path))] / path.name).symlink_to(path.resolve())
    return folders[False], folders[True]


def main() -> None:
    """Draw, compare and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--count", type=int, help="volumes to draw [as many as test cases]")
    parser.add_argument("--name", default="wdm", help="of the files that are written [wdm]")
    options = parser.parse_args()
    data = Path(os.environ.get("GEN3D_DATA", ROOT.parent / "shared" / "data"))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        training, test = sides(data, place)
        generate(options.model, place / "fake", options.count or len(list(test.iterdir())))
        report = evaluate_generation(test, place / "fake", place / "out", train=training, features=FEATURES)
        deliver(report, place / "out")
        tree = json.loads((place / "out" / "results.json").read_text())
    for key in ("real", "fake", "train"):
        tree["settings"].pop(key)
    tree.pop("reference")
    table = report.tables[0]
    words = [markdown(table), "", *(f"- {line}" for line in (*table.notes, *report.warnings))]
    (RESULTS / f"hippocampus_{options.name}.json").write_text(json.dumps(tree, indent=1) + "\n")
    (RESULTS / f"hippocampus_{options.name}.md").write_text("\n".join(words) + "\n")
    print("\n".join(words))


if __name__ == "__main__":
    main()
