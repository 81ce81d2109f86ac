"""The segmentation network of a downstream comparison: small, the same in every arm; its training and its Dice."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.core.randomness import derive, seed_of
from gen3d.core.training import CHECKPOINT, MODEL, TrainConfig, Trainer
from gen3d.core.volume import Prepared
from gen3d.data.studies import read_study
from gen3d.data.study import Study
from gen3d.metrics.segmentation import dice
from gen3d.nn.unet import UNetConfig
from gen3d.segmentation.plain import Plain, PlainConfig
from gen3d.systems import load
from gen3d.tools.segment_masks import one_call

FOLD, WIDTH, MULTIPLIERS = 2, 24, (1, 2, 3)
LARGEST, DIVISOR = 64, 8  # voxels of a patch along an axis at most; it is folded once and halved twice


def small_network(generator: Any) -> Plain:
    """Return an untrained network for the images and labels of a configuration of pairs.

    Examples are flipped as the generator's are; their grey values get a random gain, shift, gamma and noise.
    """
    x, y, z = (max(min(n, LARGEST) // DIVISOR * DIVISOR, DIVISOR) if n > 1 else 1 for n in generator.canvas)
    classes, cell = 1 + len(generator.labels), math.prod(FOLD if n > 1 else 1 for n in (x, y, z))
    shape = UNetConfig(
        in_channels=cell * (classes + len(generator.contrasts)),
        out_channels=cell * classes,
        width=WIDTH,
        multipliers=MULTIPLIERS,
        blocks=1,
        groups=4,
    )
    return Plain(
        PlainConfig(
            contrasts=generator.contrasts,
            axes=generator.axes,
            patch=(x, y, z),
            labels=generator.labels,
            flips=generator.flips,
            gamma=0.2,
            fold=FOLD,
            network=shape,
        )
    )


def as_cases(system: Plain, studies: Sequence[Study]) -> list[Prepared]:
    """Read and prepare studies."""
    return [system.prepare(read_study(study)) for study in studies]


def fitted(
    system: Plain, cases: Sequence[Prepared], weights: Sequence[float], config: TrainConfig, run: Path, device: str
) -> tuple[Plain, float]:
    """Train a network of a system's configuration from weights that follow from the seed; with its CPU seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(derive(config.seed, "weights")))
        fresh = Plain(system.config)
    trainer = Trainer(fresh, cases, config, run, device=device, weights=weights)
    for _ in trainer.train():
        pass
    trained: Any = load(run / MODEL).to(device).eval()
    (run / CHECKPOINT).unlink(missing_ok=True)
    return trained, trainer.cpu_seconds


def scored(system: Plain, studies: Sequence[Study], device: str) -> dict[str, dict[str, float]]:
    """Return the Dice of each label of each study, whole images as they are."""
    found = {}
    for study in studies:
        example = system.example(system.prepare(read_study(study)))
        truth = torch.from_numpy(np.asarray(example["prepared"].lesion))
        likely = torch.from_numpy(one_call(system, {**example, "image": example["image"].to(device)}).likely)
        found[study.name] = {
            name: round(dice(likely == number, truth == number), 5)
            for number, name in enumerate(system.config.labels, 1)
        }
    return found
