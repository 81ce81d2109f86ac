"""What a model in training makes so far: a picture and scores, on a patient kept out where there is one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gen3d.core.error import UserError
from gen3d.core.randomness import derive
from gen3d.core.system import Example, System
from gen3d.core.volume import Prepared, Volume, centred_affine
from gen3d.data.layout import titled
from gen3d.segmentation.cases import Segmentation
from gen3d.tools.preview import Panel, draw, limits
from gen3d.tools.progress import say
from gen3d.tools.reliability import foreground, hidden_in_turn
from gen3d.tools.sampling import choose_walk, drawn, to_device
from gen3d.tools.scans import thousandths
from gen3d.tools.segment_masks import one_call, pairwise_dice, sampled_masks

FOLDER, MASKS, SHARES = "samples", 4, np.linspace(0.01, 0.99, 99)
Made = tuple[list[Panel], dict[str, float], np.ndarray | None]  # columns, scores, what the planes cut
Show = Callable[[int], tuple[dict[str, float], Path] | None]


def shown(system: System, case: Prepared, run: Path, *, seed: int, device: torch.device) -> Show:
    """Return what draws with the weights of the moment into RUN/samples/step-NNNNNN.png and scores what it drew.

    A completion model makes each contrast of the case from the others (``quality/psnr t2f``, in dB); a segmenter draws
    masks of it (``quality/dice``, of the most likely one); a generator draws a scan, from the same noise every time
    (``quality/grey scale off``: the mean difference of its percentiles from the case's, as a share of the window).
    Models of visits and measurements draw nothing.
    """
    key = derive(seed, "samples", case.name)

    def show(step: int) -> tuple[dict[str, float], Path] | None:
        system.eval()
        try:
            with torch.inference_mode():
                made = pictures(system, case, key, device)
        except RuntimeError as error:  # such as too little memory for a whole volume, which is no reason to stop
            say(f"step {step}: no picture: {' '.join(str(error).split())[:200]}")
            made = None
        finally:
            system.train()
        if made is None:
            return None
        panels, scores, focus = made
        path = run / FOLDER / f"step-{step:06d}.png"
        told = ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path, panels, f"{system.name}, step {step}", told, np.ones(panels[0].volume.shape, dtype=bool), focus)
        return {f"quality/{name}": round(value, 5) for name, value in scores.items()}, path

    return show


def pictures(system: System, case: Prepared, key: str, device: torch.device) -> Made | None:
    """Return the panels and scores of what a system can make of a case, None where it can make nothing."""
    if isinstance(system, Segmentation):
        return masks(system, case, key, device)
    if hasattr(system, "blank"):
        try:
            return scan(system, case, key, to_device(system.blank(), device))  # type: ignore[operator]
        except UserError:  # it is led by what it is given
            return None
    example = system.example(case)
    return contrasts(system, case, to_device(example, device)) if "present" in example else None


def contrasts(system: System, case: Prepared, example: Example) -> Made | None:
    """Return each contrast that is there, made from the others, beside the true one."""
    panels: list[Panel] = []
    scores, inside = {}, foreground(example).cpu().numpy()
    for name, made, true, hidden in hidden_in_turn(system, example):
        ours, theirs = (thousandths(image.float().cpu().numpy(), system.window(name)) for image in (made, true))
        grey = limits(theirs, "image")
        panels += [
            Panel(placed(system, case, np.where(inside, ours, 0)), titled(name), synthetic=True, limits=grey),
            Panel(placed(system, case, theirs), f"{titled(name)}, true", limits=grey),
        ]
        scores[f"psnr {name}"] = hidden.psnr
    return (panels, scores, None) if panels else None


def masks(system: Segmentation, case: Prepared, key: str, device: torch.device) -> Made:
    """Return an image, its mask and the most likely mask."""
    example = to_device(system.example(case), device)
    keys = [derive(key, index) for index in range(MASKS)]
    certain = hasattr(system, "expected")
    likely = (one_call(system, example) if certain else sampled_masks(system, example, keys)).likely
    rated = case.raters[~(case.raters == 255).all((1, 2, 3))][0] if case.raters is not None else case.lesion
    image = Panel(placed(system, case, np.asarray(case.voxels[0], dtype=np.float32)), "image")
    count = len(system.config.labels)
    drawn_one = Panel(placed(system, case, likely), "most likely", True, limits=(0, count))
    if rated is None:
        return [image, drawn_one], {}, None
    true = Panel(placed(system, case, np.asarray(rated)), "drawn by a person", limits=(0, count))
    dice = float(pairwise_dice(np.stack([likely, rated]), count)[0, 1])
    return [image, true, drawn_one], {"dice": dice}, np.asarray(rated) > 0


def scan(system: System, case: Prepared, key: str, example: Example) -> Made:
    """Return a new scan beside a real one."""
    voxels = system.finish(drawn(system, example, system.condition(example), key, choose_walk(system)), example)[0]
    name = system.config.contrasts[0]
    made, true = (
        thousandths(np.asarray(image, dtype=np.float32), system.window(name))
        for image in (voxels[0].float().cpu(), case.voxels[0])
    )
    off = np.abs(np.quantile(made, SHARES) - np.quantile(true, SHARES)).mean() / 1000
    panels = [Panel(placed(system, case, made), titled(name), synthetic=True)]
    if made.shape == true.shape:
        panels.append(Panel(placed(system, case, true), f"{titled(name)}, a real one"))
    return panels, {"grey scale off": float(off)}, None


def placed(system: System, case: Prepared, voxels: np.ndarray) -> Volume:
    """Return an array on a model's axes as a volume."""
    return Volume(voxels, centred_affine(system.config.axes, voxels.shape, case.spacing))
