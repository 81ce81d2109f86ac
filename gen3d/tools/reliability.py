"""How far to trust a model on a case without knowing the truth: what is there is hidden and made from the rest."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.core.system import Example, System
from gen3d.data.equalization import above_floor, floors
from gen3d.tools.sampling import expected


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
    names, prepared, present = system.config.contrasts, example["prepared"], example["present"]
    given = [i for i, there in enumerate(prepared.present) if there]
    inside = foreground(example)
    found = {}
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
        scale = prepared.scales[channel]
        width = (scale.high - scale.low) * scale.gain if scale else 1.0
        found[names[channel]] = compared(made[inside], example["voxels"][0, channel][inside], width)
    return found


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
