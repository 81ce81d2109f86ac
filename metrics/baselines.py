"""What a completion model must beat: voxel-wise regression on the given contrasts, and the best copy of one of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from .completion import CompletionScore, quantiles, score_completion, window


def unit_window(voxels: Tensor) -> Tensor:
    """Put an image on [0, 1] by its own 0.1 and 99.9 percentile, which is what the regression expects, (X, Y, Z)."""
    low, high = quantiles(voxels, [0.001, 0.999])
    return window(voxels.float(), low, high)


def quadratic_features(given: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the features of each voxel where the first contrast is above 0, one column at a time, (voxels,).

    In this order: the n contrasts, (X, Y, Z) each, their 3x3x3 means, their n (n + 1) / 2 products, and 1.
    """
    brain = given[0] > 0
    columns = [v[brain] for v in given]
    yield from columns
    for v in given:
        padded = nnf.pad(v[None, None], [1] * 6, mode="replicate")
        yield nnf.avg_pool3d(padded, 3, stride=1)[0, 0][brain]
    for i, first in enumerate(columns):
        for second in columns[i:]:
            yield first * second
    yield torch.ones_like(columns[0])


@dataclass(frozen=True)
class Quadratic:
    """Voxel-wise quadratic regression of one contrast on others.

    Attributes:
        coefficients: One for each feature of ``quadratic_features``; plain numbers, ready for JSON.
    """

    coefficients: tuple[float, ...]

    def predict(self, given: Sequence[Tensor]) -> Tensor:
        """Estimate the missing contrast on [0, 1], 0 outside the brain.

        Args:
            given: The given contrasts in the order of the fit, each through ``unit_window``, (X, Y, Z).

        Raises:
            ValueError: The number of contrasts is not that of the fit.
        """
        n = len(given)
        if len(self.coefficients) != 2 * n + n * (n + 1) // 2 + 1:
            raise ValueError(
                f"{len(self.coefficients)} coefficients were fitted for another number of contrasts than {n}"
            )
        features = zip(self.coefficients, quadratic_features(given), strict=True)
        guess = torch.zeros_like(given[0])
        guess[given[0] > 0] = torch.stack([c * column for c, column in features]).sum(0)
        return guess


class QuadraticFit:
    r"""Gathers cases one at a time and solves $(X^T X + \lambda I) w = X^T y$ over all of them.

    Args:
        every: Take each n-th voxel of the brain.
        ridge: The small $\lambda$ that keeps empty features harmless.
    """

    def __init__(self, *, every: int = 7, ridge: float = 1e-3) -> None:
        self.every = every
        self.ridge = ridge
        self.gram: Tensor | None = None
        self.moment: Tensor | None = None

    def add(self, given: Sequence[Tensor], target: Tensor) -> None:
        """Take in one case: images through ``unit_window``, (X, Y, Z)."""
        x = torch.stack([column[:: self.every] for column in quadratic_features(given)], 1).double()
        y = target[given[0] > 0][:: self.every].double()
        gram, moment = x.T @ x, x.T @ y
        self.gram = gram if self.gram is None else self.gram + gram
        self.moment = moment if self.moment is None else self.moment + moment

    def solve(self) -> Quadratic:
        """Return the regression over all cases taken in.

        Raises:
            ValueError: No case was taken in.
        """
        if self.gram is None or self.moment is None:
            raise ValueError("a regression needs at least one case")
        ridge = self.ridge * torch.eye(len(self.gram)).to(self.gram)
        return Quadratic(tuple(torch.linalg.solve(self.gram + ridge, self.moment).tolist()))


def best_copy(true: Tensor, given: Sequence[Tensor], lesion: Tensor | None = None) -> CompletionScore:
    """Score the given contrast that, taken as it is, comes closest to the true one by PSNR in the brain, (X, Y, Z)."""
    return max((score_completion(true, v, lesion) for v in given), key=lambda score: score.brain)
