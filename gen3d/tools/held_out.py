"""What training was worth: a model and the one that it started from, on patients that were kept out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d.core.checkpoint import write_json
from gen3d.core.system import System
from gen3d.core.volume import Prepared
from gen3d.data.equalization import floors
from gen3d.metrics import CompletionScore, Quadratic, QuadraticFit, score_completion, unit_window
from gen3d.metrics.paired import Paired, paired_interval
from gen3d.tools.progress import say, shown_progress
from gen3d.tools.reliability import foreground
from gen3d.tools.sampling import OpenModel, expected, open_model, to_device

AFTER, REGRESSION = "after", "voxel-wise regression"
FEW = 5  # patients from which an interval is over patients


@dataclass(frozen=True)
class Row:
    """One contrast of one kept-out case, made from all its others by each method."""

    case: str
    patient: str
    contrast: str
    scores: Mapping[str, CompletionScore]


@dataclass(frozen=True)
class Comparison:
    """Scores on kept-out patients.

    Attributes:
        base: Name of the model that training started from; None where it started from nothing.
        trained_on: How many patients.
        rows: By case and contrast.
    """

    base: str | None
    trained_on: int
    rows: Sequence[Row]

    @property
    def rival(self) -> str:
        """What the trained model must beat: its base, or the voxel-wise regression."""
        return self.base or REGRESSION

    def gain(self, measure: str = "brain") -> Paired | None:
        """Return how much better the trained model is than its rival, paired, over patients or, of few, over all rows.

        None where nothing can be compared, as without any lesion.
        """
        gains: dict[str, list[float]] = {}
        for row in self.rows:
            difference = getattr(row.scores[AFTER], measure) - getattr(row.scores[self.rival], measure)
            if np.isfinite(difference):
                gains.setdefault(row.patient, []).append(difference)
        if not gains:
            return None
        flat = [value for values in gains.values() for value in values]
        return paired_interval([float(np.mean(v)) for v in gains.values()] if len(gains) >= FEW else flat)

    @property
    def worse(self) -> bool:
        """Whether the trained model is no better than its rival in the brain."""
        gain = self.gain()
        return gain is None or gain.mean <= 0

    def markdown(self) -> str:
        """Return means by contrast as a table, with the gains below it."""
        methods = list(self.rows[0].scores)
        contrasts = list(dict.fromkeys(row.contrast for row in self.rows))
        lines = [
            f"Brain PSNR (dB) / SSIM / lesion PSNR (dB), each contrast from the others; {self.patients} held out, "
            f"{self.trained_on} trained on.",
            "",
            f"| contrast | {' | '.join(methods)} |",
            "|---" * (1 + len(methods)) + "|",
        ]
        for name in (*contrasts, "mean"):
            mine = [row.scores for row in self.rows if name in (row.contrast, "mean")]
            lines.append(f"| {name} | {' | '.join(cell([scores[m] for scores in mine]) for m in methods)} |")
        return "\n".join([*lines, "", *self.gains()])

    @property
    def patients(self) -> str:
        """Say how many are held out."""
        count = len({row.patient for row in self.rows})
        return f"{count} patient{'' if count == 1 else 's'}"

    def gains(self) -> list[str]:
        """Say how much was gained, with intervals."""
        over = "patients" if len({row.patient for row in self.rows}) >= FEW else "contrasts of so few patients"
        said = []
        for measure, words in (("brain", "brain PSNR"), ("lesion", "lesion PSNR"), ("ssim", "SSIM")):
            gain = self.gain(measure)
            digits, unit = (4, "") if measure == "ssim" else (2, " dB")
            if gain:
                ends = f"[{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]"
                said.append(
                    f"{words} against {self.rival}: {gain.mean:+.{digits}f}{unit} {ends} "
                    f"(95 % over {gain.n} {over}; the same patients chose when to stop)."
                )
        return said

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        rows = [
            {
                **{"case": row.case, "patient": row.patient, "contrast": row.contrast},
                "scores": {name: finite(score._asdict()) for name, score in row.scores.items()},
            }
            for row in self.rows
        ]
        gains = {
            measure: gain and finite(gain._asdict())
            for measure in ("brain", "lesion", "ssim")
            for gain in [self.gain(measure)]
        }
        write_json(path, {"base": self.base, "trained_on": self.trained_on, "gains": gains, "rows": rows})


def finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures for JSON, which has no nan and no infinity."""
    return {name: value if np.isfinite(value) else None for name, value in figures.items()}


def cell(scores: Sequence[CompletionScore]) -> str:
    """Write mean scores; lesions only where there are any."""
    lesions = [score.lesion for score in scores if np.isfinite(score.lesion)]
    lesion = f"{np.mean(lesions):.2f}" if lesions else "none"
    return f"{np.mean([s.brain for s in scores]):.2f} / {np.mean([s.ssim for s in scores]):.3f} / {lesion}"


def compare(
    model: Path, base: str | None, training: Sequence[Prepared], held_out: Sequence[Prepared], device: torch.device
) -> Comparison:
    """Score a trained completion model, its base and a voxel-wise regression fitted on the same training patients.

    Args:
        model: The trained model's folder.
        base: What training started from, if anything.
        training: The cases trained on.
        held_out: Those of patients that were kept out.
        device: Where networks compute.
    """
    before = open_model(base, str(device)) if base else None
    opened = {**({before.name: before} if before else {}), AFTER: open_model(model, str(device))}
    contrasts = opened[AFTER].system.config.contrasts
    count = len(held_out)
    say(f"comparing with {before.name if before else REGRESSION} on {count} case{'' if count == 1 else 's'} held out")
    with shown_progress("scoring", count + 1) as advance:
        fits = regressions(training, contrasts)
        rows = []
        for done, case in enumerate(held_out):
            advance(done, case.name)
            rows += case_rows(case, contrasts, opened, fits)
    return Comparison(before.name if before else None, len({case.patient for case in training}), rows)


def case_rows(
    case: Prepared, contrasts: Sequence[str], models: Mapping[str, OpenModel], fits: Mapping[str, Quadratic]
) -> list[Row]:
    """Score every method on every contrast of a case."""
    images = raised(case)
    lesion = None if case.lesion is None else torch.from_numpy(np.array(case.lesion))
    rows = []
    for channel, name in enumerate(contrasts):
        if not case.present[channel]:
            continue
        guesses = {title: filled(model, case, channel) for title, model in models.items()}
        given = [unit_window(image) for other, image in enumerate(images) if other != channel]
        guesses[REGRESSION] = fits[name].predict(given)
        scores = {title: score_completion(images[channel], guess, lesion) for title, guess in guesses.items()}
        rows.append(Row(case.name, case.patient, name, scores))
    return rows


@torch.inference_mode()
def filled(model: OpenModel, case: Prepared, channel: int) -> Tensor:
    """Return the expected image of a contrast from all others, 0 at and outside the darkest of the brain, (X, Y, Z)."""
    system: System = model.system
    example = to_device(system.example(case), model.device)
    present = example["present"].clone()
    present[:, channel] = False
    asked = {**example, "present": present, "target": ~present}
    made = system.finish(expected(system, asked, system.condition(asked)), asked)[0, channel]
    made = (made - float(floors(case)[channel])).clamp_min(0)
    return torch.where(foreground(asked), made, 0.0).float().cpu()


def raised(case: Prepared) -> list[Tensor]:
    """Return the contrasts of a case with zero intensity at 0, as the scores expect, (X, Y, Z) each."""
    voxels = torch.from_numpy(np.array(case.voxels, dtype=np.float32))
    images = voxels - torch.from_numpy(floors(case))[:, None, None, None]
    return list(torch.where(images > 1e-3, images, 0.0))


def regressions(cases: Sequence[Prepared], contrasts: Sequence[str]) -> dict[str, Quadratic]:
    """Fit the voxel-wise regression of each contrast on all others, over complete cases."""
    fits = {name: QuadraticFit() for name in contrasts}
    for case in cases:
        if all(case.present):
            images = [unit_window(image) for image in raised(case)]
            for channel, name in enumerate(contrasts):
                fits[name].add([image for other, image in enumerate(images) if other != channel], images[channel])
    return {name: fit.solve() for name, fit in fits.items()}
