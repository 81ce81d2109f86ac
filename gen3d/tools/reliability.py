"""How far to trust a model on a case without knowing the truth: what is there is hidden and made from the rest."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d.core.checkpoint import INDEX, read_index, write_json
from gen3d.core.error import UserError
from gen3d.core.system import Example, System
from gen3d.core.volume import Case, Prepared
from gen3d.data.equalization import above_floor, floors
from gen3d.systems import load
from gen3d.tools.progress import say, shown_progress
from gen3d.tools.sampling import expected, to_device

WEIGHTING = {"t1n": "T1", "t1c": "T1", "t2w": "T2", "t2f": "T2"}
FEW = 4  # cases that are enough to know what is usual of a model


@dataclass(frozen=True)
class Hidden:
    """How well a contrast that is there was made from the others.

    Attributes:
        psnr: In dB over the foreground, of the contrast's own window (percentiles 0.1 to 99.9).
        explained: Share of its variance in the foreground that was foretold, 1 - MSE / variance; 0 is what a constant
            reaches.
    """

    psnr: float
    explained: float


def reliability(
    system: System, example: Example, advance: Callable[[int, str], None] = lambda done, name: None
) -> dict[str, Hidden]:
    """Hide each contrast that is there in turn and compare its expected image with it.

    Args:
        system: A completion model.
        example: A whole volume's, on the system's device.
        advance: Told how many are done and which one is being hidden.

    Returns:
        One entry for each contrast that the model can make from the others that are there.
    """
    return {name: hidden for name, _, _, hidden in hidden_in_turn(system, example, advance)}


def hidden_in_turn(
    system: System, example: Example, advance: Callable[[int, str], None] = lambda done, name: None
) -> Iterator[tuple[str, Tensor, Tensor, Hidden]]:
    """Yield each contrast that can be made from the others: its name, as made and as it is, (X, Y, Z), and a score."""
    names, prepared, present = system.config.contrasts, example["prepared"], example["present"]
    given = [i for i, there in enumerate(prepared.present) if there]
    inside = foreground(example)
    for done, channel in enumerate(given):
        others = [names[i] for i in given if i != channel]
        try:
            system.accept(others, [names[channel]])
        except UserError:
            continue
        advance(done, names[channel])
        left = present.clone()
        left[:, channel] = False
        asked = {**example, "present": left, "target": ~left}
        made = system.finish(expected(system, asked, system.condition(asked)), asked)[0, channel]
        true, scale = example["voxels"][0, channel], prepared.scales[channel]
        width = (scale.high - scale.low) * scale.gain if scale else 1.0
        yield names[channel], made, true, compared(made[inside], true[inside], width)


@torch.inference_mode()
def usual_psnr(
    system: System, cases: Iterable[Case | Prepared], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return each contrast's mean PSNR in dB when it is hidden and made from all others, over cases."""
    found: dict[str, list[float]] = {}
    for case in cases:
        for name, hidden in reliability(system, to_device(system.example(case), torch.device(device))).items():
            found.setdefault(name, []).append(hidden.psnr)
    return {name: round(float(np.mean(values)), 3) for name, values in found.items()}


def write_usual(folder: Path, cases: Sequence[Prepared], device: torch.device) -> None:
    """Add what is usual of a saved completion model, over the first few of some cases, to its provenance."""
    system = load(folder).to(device)
    index = read_index(folder)
    cases = cases[:FEW]
    count = f"{len(cases)} case{'' if len(cases) == 1 else 's'}"
    say(f"measuring the usual error on {count}, each contrast hidden in turn; the model is saved and works without")
    with shown_progress("measuring", len(cases)) as advance:

        def counted() -> Iterator[Prepared]:
            for done, case in enumerate(cases):
                advance(done, case.name)
                yield case

        index["provenance"]["usual_psnr"] = usual_psnr(system, counted(), device)
    write_json(folder / INDEX, index)


def expected_psnr(found: Mapping[str, Hidden], usual: Mapping[str, float], missing: Iterable[str]) -> dict[str, float]:
    """Guess the PSNR in dB of what can't be compared: the contrast's usual one, shifted as its kin that are there are.

    Some contrasts are made better than others whoever the patient is; what a hidden one tells of a case is how far it
    lies from its own usual. A scanner's odd T1 weighting spoils all T1-weighted contrasts alike, so those of the
    contrast's own weighting are asked where there are any.

    Args:
        found: Of the contrasts that are there, hidden in turn.
        usual: Of the model, from ``usual_psnr``.
        missing: What is asked about; what the model has no usual value of is left out, as all is where nothing was
            found.
    """
    gaps = {name: hidden.psnr - usual[name] for name, hidden in found.items() if name in usual}
    guesses = {}
    for name in missing:
        kin = [gap for other, gap in gaps.items() if WEIGHTING.get(other, other) == WEIGHTING.get(name)]
        if name in usual and gaps:
            guesses[name] = usual[name] + float(np.mean(kin or list(gaps.values())))
    return guesses


def compared(made: Tensor, true: Tensor, width: float) -> Hidden:
    """Score voxels against the true ones; ``width`` is the window's."""
    mse = float((made.double() - true.double()).square().mean())
    variance = float(true.double().var())
    psnr = 10 * torch.log10(torch.tensor(width**2 / max(mse, 1e-12), dtype=torch.float64))
    return Hidden(float(psnr), 1 - mse / max(variance, 1e-12))


def foreground(example: Example) -> Tensor:
    """Return the mask (X, Y, Z) of what is above zero intensity in any contrast that is there."""
    prepared, voxels = example["prepared"], example["voxels"]
    zeros = torch.from_numpy(floors(prepared))[None].to(voxels.device)
    mask = above_floor(voxels, zeros, example["present"])[0, 0]
    return mask if bool(mask.any()) else ~mask
