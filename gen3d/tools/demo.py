"""``make demo``: the shipped model makes the hidden FLAIR of a patient it has not seen, and is scored on the truth.

Run as ``python -m gen3d.tools.demo``; leaves ``demo/``.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gen3d.core.checkpoint import read_index, read_json
from gen3d.core.error import UserError
from gen3d.core.volume import Case, Volume
from gen3d.data.atomic import appearing
from gen3d.data.layout import TITLES, read_case
from gen3d.data.nifti import read
from gen3d.data.phantom import write_phantom
from gen3d.metrics import CompletionScore, Quadratic, best_copy, score_completion, unit_window
from gen3d.metrics.completion import match_scale
from gen3d.systems import find_model
from gen3d.tools.info import trained_on
from gen3d.tools.preview import Panel, draw
from gen3d.tools.progress import progress_bar
from gen3d.tools.synthesize import synthesize

MODEL, UNSEEN, UNUSED_SEED, HIDDEN = "brain-completion", "brats/TCGA-DU-7294", 9001, "t2f"
BASELINE, REGRESSION = "baseline.json", "regression"
SQUARED = "same network, squared error alone"
RECORDED = f"{SQUARED} (recorded)"


def demo(out: Path = Path("demo"), model: str | Path = MODEL, hidden: str = HIDDEN) -> Path:
    """Hide a contrast of an unseen case, synthesize it, score it beside the baselines, and return the picture's path.

    Args:
        out: Where results go.
        model: A completion model. ``baseline.json`` in its folder gives the regression's coefficients,
            ``{"t2f": {"given": ["t1n", "t1c", "t2w"], "coefficients": [...]}}``, and under ``recorded``, by case and
            contrast, the scores of a network of the same size trained by squared error alone on other patients;
            ``regression/`` in it is such a network.
        hidden: Which contrast.

    Raises:
        UserError: There is no such model or the folder can't be written.
    """
    console = Console()
    folder = find_model(model)
    console.print(f"[bold]{model}[/]: trained on {trained_on(read_index(folder))}, a demonstration; not for diagnosis.")
    source, words = unseen_case(out)
    case = read_case(source)
    console.print(f"The patient: {case.name}, {words}. {TITLES[hidden]} is hidden and made anew from the others.")
    console.print("This takes a minute or two on a CPU.")
    since = time.monotonic()
    made = filled_in(source, out, model, hidden)
    console.print(f"Made in {time.monotonic() - since:.0f} s, loading and writing included: {made}")
    true, given = case.volumes[hidden], {name: v for name, v in case.volumes.items() if name != hidden}
    synthetic = read(made)
    with progress_bar("scoring", 4) as advance:
        scores = {"gen3d, expected image": scored(case, true, tensor(synthetic))}
        advance(1, "regression network")
        scores |= network_baseline(source, folder, case, true, hidden)
        advance(2, "voxel-wise regression")
        scores |= voxel_baselines(folder, case, true, given, hidden)
        advance(4, "done")
    console.print(table(scores, f"Hidden {TITLES[hidden]} of {case.name}"))
    console.print(reading(scores))
    if RECORDED in scores:
        console.print(
            "Recorded: a network of the same size, trained for the squared error alone in a cross-validation, without "
            "this patient. Its weights do not ship; its scores of this patient do."
        )
    picture = out / f"{case.name}-comparison.png"
    compare(picture, case, given, true, synthetic, hidden)
    console.print(f"See {picture}")
    console.print("Go on with: source .venv/bin/activate, then gen3d")
    return picture


def unseen_case(out: Path) -> tuple[Path, str]:
    """Return a case that no shipped model was trained on, and what it is."""
    homes = [Path(__file__).resolve().parents[2] / "../shared/data", Path("../shared/data")]
    named = os.environ.get("GEN3D_DATA")
    for home in [Path(named)] if named else homes:
        if (home / UNSEEN).is_dir():
            return (home / UNSEEN).resolve(), "a real test case that the model has not seen"
    words = f"simulated (seed {UNUSED_SEED}, never trained on): no {UNSEEN} in GEN3D_DATA or ../shared/data"
    return write_phantom(out / "input", UNUSED_SEED, (182, 218, 182), 1.0, lesion="tumour"), words


def filled_in(source: Path, out: Path, model: str | Path, hidden: str) -> Path:
    """Synthesize the hidden contrast with a progress bar; return its file."""
    with progress_bar("synthesize", 100) as advance:
        paths = synthesize(
            source, out, model, [hidden], check=False, advance=lambda share, words: advance(int(100 * share), words)
        )
    return paths[0]


def tensor(volume: Volume) -> Tensor:
    """Return a volume's voxels."""
    return torch.from_numpy(volume.voxels)


def scored(case: Case, true: Volume, guess: Tensor) -> CompletionScore:
    """Score one estimate of the hidden contrast."""
    return score_completion(tensor(true), guess, tensor(case.lesion) if case.lesion else None)


def network_baseline(source: Path, folder: Path, case: Case, true: Volume, hidden: str) -> dict[str, CompletionScore]:
    """Score the regression network in the model's folder; without one, return what was recorded for the case."""
    if not (folder / REGRESSION).is_dir():
        recorded = read_json(folder / BASELINE).get("recorded", {}) if (folder / BASELINE).is_file() else {}
        row = recorded.get(case.name, {}).get(hidden)
        return {RECORDED: CompletionScore(**row)} if row else {}
    with tempfile.TemporaryDirectory() as temporary:
        made = synthesize(source, temporary, folder / REGRESSION, [hidden], check=False)
        return {SQUARED: scored(case, true, tensor(read(made[0])))}


def voxel_baselines(
    folder: Path, case: Case, true: Volume, given: Mapping[str, Volume], hidden: str
) -> dict[str, CompletionScore]:
    """Score the voxel-wise regression, if the model's folder has its coefficients, and the best copy."""
    rows = {}
    if (folder / BASELINE).is_file():
        fit = read_json(folder / BASELINE)[hidden]
        quadratic = Quadratic(tuple(fit["coefficients"]))
        guess = quadratic.predict([unit_window(tensor(given[name])) for name in fit["given"]])
        rows["voxel-wise quadratic regression"] = scored(case, true, guess)
    lesion = tensor(case.lesion) if case.lesion else None
    rows["best copy of a given contrast"] = best_copy(tensor(true), [tensor(v) for v in given.values()], lesion)
    return rows


def table(scores: Mapping[str, CompletionScore], title: str) -> Table:
    """Return the scores as a table, the best of each column in bold."""
    columns = ("brain PSNR, dB", "SSIM", "lesion PSNR, dB", "whole PSNR, dB")
    rows = {name: (s.brain, s.ssim, s.lesion, s.whole) for name, s in scores.items()}
    best = [max(values, default=0.0) for values in zip(*rows.values(), strict=True)]
    view = Table("", *columns, title=title, title_justify="left")
    for name, values in rows.items():
        view.add_row(name, *(cell(v, b, digits) for v, b, digits in zip(values, best, (2, 3, 2, 2), strict=True)))
    return view


def cell(value: float, best: float, digits: int) -> str:
    """Write one score."""
    if value != value:
        return "none"
    return f"[bold green]{value:.{digits}f}[/]" if value == best else f"{value:.{digits}f}"


def reading(scores: Mapping[str, CompletionScore]) -> str:
    """Say how to read the table."""
    (_, ours), *others = scores.items()
    name, rival = max(others, key=lambda row: row[1].brain)
    gain = ours.brain - rival.brain
    return (
        f"Higher is better. The brain's PSNR counts most: ours is {gain:+.2f} dB against the best row beside it "
        f"({name}); 1 dB is {100 * (1 - 10**-0.1):.0f} % of the squared error. The whole volume's PSNR is flattered by "
        "its background."
    )


def compare(path: Path, case: Case, given: Mapping[str, Volume], true: Volume, synthetic: Volume, hidden: str) -> None:
    """Draw what was given, the truth, the synthetic contrast on the truth's scale, and their difference."""
    brain = tensor(true) > 0
    b = tensor(synthetic)
    matched = torch.where(brain, match_scale(b, tensor(true)[brain], b[brain]), 0.0).numpy()
    low, high = 0.0, float(torch.quantile(tensor(true)[brain][::7], 0.995))
    name = TITLES[hidden]

    def panel(voxels: object, title: str, kind: str = "image", *, made: bool = True) -> Panel:
        ends = (low, high) if kind == "image" else (-high / 2, high / 2)
        return Panel(Volume(voxels, true.affine), title, made, kind, ends)  # type: ignore[arg-type]

    panels: Sequence[Panel] = [
        *(Panel(v, f"{TITLES[n]}, given") for n, v in given.items()),
        panel(true.voxels, f"{name}, hidden truth", made=False),
        panel(matched, f"{name}, synthetic"),
        panel((matched - true.voxels) * brain.numpy(), "synthetic - truth", "difference"),
    ]
    footer = f"Framed columns are synthetic, by {MODEL}; not for diagnosis. The truth was never shown to the model."
    lesion = case.lesion.voxels > 0 if case.lesion else None
    with appearing(path) as temporary:
        draw(temporary, panels, f"{case.name}: {name} hidden and made anew", footer, brain.numpy(), lesion)


def main() -> int:
    """Run the demo; return the exit status."""
    try:
        demo()
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
