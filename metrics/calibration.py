"""Do the samples' votes predict the raters'? Reliability diagram, calibration error and Brier score."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .matching import binary_pair

Where = Literal["either", "samples"]


class Bin(NamedTuple):
    """One point of a reliability diagram; its means are None where it holds no voxel."""

    low: float
    high: float
    predicted: float | None
    observed: float | None
    voxels: float


@dataclass(frozen=True)
class Calibration:
    """Sums over voxels, by bins of equal width of the predicted share; those of several cases add up with ``+``.

    Attributes:
        count: Voxels in each bin; whole numbers, but for an expectation.
        predicted: Sum of the predicted shares in each bin.
        observed: Sum of the observed shares in each bin.
        squares: Sum over all voxels of the squared difference between the predicted share and a rater's vote.
    """

    count: tuple[float, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    squares: float

    def __add__(self, other: "Calibration") -> "Calibration":
        """Pool the voxels of two.

        Raises:
            ValueError: Their bins differ.
        """
        if len(self.count) != len(other.count):
            raise ValueError(f"{len(self.count)} bins cannot be pooled with {len(other.count)}")
        return Calibration(
            tuple(a + b for a, b in zip(self.count, other.count, strict=True)),
            tuple(a + b for a, b in zip(self.predicted, other.predicted, strict=True)),
            tuple(a + b for a, b in zip(self.observed, other.observed, strict=True)),
            self.squares + other.squares,
        )

    @property
    def voxels(self) -> float:
        """How many voxels were counted; one counted for several left-out raters counts as often."""
        return sum(self.count)

    @property
    def bins(self) -> tuple[Bin, ...]:
        """The reliability diagram."""
        width, rows = 1 / len(self.count), zip(self.count, self.predicted, self.observed, strict=True)
        means = [(p / n if n else None, o / n if n else None, n) for n, p, o in rows]
        return tuple(Bin(i * width, (i + 1) * width, *row) for i, row in enumerate(means))

    @property
    def ece(self) -> float | None:
        r"""Expected calibration error, $\sum_b \frac{n_b}{n} |p_b - o_b|$; None if no voxel was counted."""
        if not self.voxels:
            return None
        return sum(abs(p - o) for p, o in zip(self.predicted, self.observed, strict=True)) / self.voxels

    @property
    def brier(self) -> float | None:
        """Mean squared difference between the predicted share and each rater's vote; None if no voxel was counted."""
        return self.squares / self.voxels if self.voxels else None

    @property
    def reason(self) -> str | None:
        """Why error and score are None, if they are."""
        return None if self.voxels else "nobody disagrees: there is no voxel to count"


def calibration(samples: Tensor, raters: Tensor, *, bins: int = 10, where: Where = "either") -> Calibration:
    r"""Compare the share of samples that hold a voxel with the share of raters that do.

    A voxel in bin $\min(\lfloor p B \rfloor, B - 1)$ has p, its share of samples, against o, its share of raters.
    The Brier score is the mean over voxels and raters of $(p - y)^2 = (p - o)^2 + o (1 - o)$. Voxels on which all
    agree, nearly all of the background, are not counted.

    Args:
        samples: (n, X, Y, Z).
        raters: (m, X, Y, Z).
        bins: Of the predicted share.
        where: Which voxels count. "either": those on which raters or samples disagree, or one set with the other. It
            catches what all samples miss, but has a price: where all samples agree, only the raters' dissent lets a
            voxel in, so the outer bins of even a perfect model lean to the middle. "samples": those on which samples
            disagree, a choice that does not look at the raters.

    Raises:
        ValueError: No bin, another choice of voxels, or as ``binary_pair`` does.

    References:
        Guo et al. (2017), section 2. https://arxiv.org/abs/1706.04599
        Brier (1950), Monthly Weather Review 78.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins; expected at least 1")
    if where not in ("either", "samples"):
        raise ValueError(f"where '{where}': expected either or samples")
    samples, raters = binary_pair(samples, raters)
    votes, ayes = tally(samples), tally(raters)
    counted = divided(votes, len(samples))
    if where == "either":
        counted |= divided(ayes, len(raters)) | ((votes > 0) != (ayes > 0))
    return reliability(votes[counted], len(samples), ayes[counted], len(raters), bins)


def tally(masks: Tensor) -> Tensor:
    """Count the votes for each voxel, (n, X, Y, Z) -> int16 (X, Y, Z), the quickest type to add up."""
    return masks.sum(0, dtype=torch.int16)


def divided(votes: Tensor, voters: int) -> Tensor:
    """Return where some vote for and some against."""
    return (votes > 0) & (votes < voters)


def reliability(votes: Tensor, voters: int, ayes: Tensor, raters: int, bins: int) -> Calibration:
    """Sum up voxels, (voxels,), by whole numbers of votes, so that a share on a bin's edge is always in the upper."""
    votes, ayes = votes.long(), ayes.long()
    place = (votes * bins).div(voters, rounding_mode="floor").clamp_max(bins - 1)
    predicted, observed = votes.double() / voters, ayes.double() / raters
    squares = (predicted - observed).square() + observed * (1 - observed)
    return Calibration(
        tuple(torch.bincount(place, minlength=bins).tolist()),
        tuple(torch.bincount(place, predicted, minlength=bins).tolist()),
        tuple(torch.bincount(place, observed, minlength=bins).tolist()),
        float(squares.sum()),
    )
