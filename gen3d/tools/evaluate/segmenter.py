"""A fixed segmentation network from a TorchScript file, which brings its own preprocessing and runs no Python."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gen3d.core.error import UserError
from gen3d.metrics.feature_networks import read_script


def open_segmenter(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the network as a function from voxels (X, Y, Z) to labels (X, Y, Z).

    It is given voxels as they are in the file, (1, 1, X, Y, Z) float32 with axes Right, Anterior, Superior, and answers
    with logits: (1, classes, X, Y, Z), or (1, 1, X, Y, Z) of one class against the background.

    Raises:
        UserError: There is no such file, or it is no TorchScript network.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a segmentation network saved by torch.jit.save")
    try:
        network = read_script(path).eval()
    except ValueError as error:
        raise UserError(str(error)) from None

    def segment(voxels: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                logits: Tensor = network(voxels[None, None].float())
        except RuntimeError as error:
            told = str(error).strip().splitlines()[-1]
            raise UserError(f"{path}: can't segment {tuple(voxels.shape)} voxels: {told}") from None
        return (logits[0, 0] > 0).long() if logits.shape[1] == 1 else logits[0].argmax(0)

    return segment
