"""Metrics for training loops: torchmetrics' classes, right across processes, each over one of this package's functions.

This is the one module of gen3d.metrics that needs torchmetrics.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from .completion import psnr
from .features import Features, open_features
from .frechet import frechet_distance
from .kernel import kernel_distance
from .matching import Empty


class FeatureDistance(Metric):
    """Gathers the features of real and synthetic volumes; what is measured between them is said by a subclass.

    All features are kept, as float32, since small sets need them: 8 MB for 1000 volumes of 2048 features. A network
    stays on its device and is put into eval mode.

    Args:
        features: What turns volumes (B, 1, X, Y, Z) in [0, 1] into vectors: one of ``open_features`` or any network.
            None where ``update`` is always given the vectors themselves.
    """

    full_state_update = False
    is_differentiable = False
    # One row after another in one dimension, so that a process that has seen nothing can still be joined with others.
    real: list[Tensor]
    fake: list[Tensor]
    width: Tensor

    def __init__(self, features: nn.Module | Features | None = None) -> None:
        super().__init__()
        self.extract: Callable[[Tensor], Tensor] | None = (
            of_module(features) if isinstance(features, nn.Module) else features
        )
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")
        self.add_state("width", torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def update(self, volumes: Tensor, *, real: bool) -> None:
        """Take in volumes, (B, 1, X, Y, Z), or features that are ready, (B, d), all real or all synthetic.

        Raises:
            ValueError: Another shape, or another d than before.
        """
        rows = (volumes if self.extract is None or volumes.ndim == 2 else self.extract(volumes)).detach()
        if rows.ndim != 2 or int(self.width) not in (0, rows.shape[1]):
            raise ValueError(f"expected features (B, {int(self.width) or 'd'}), got {tuple(rows.shape)}")
        self.width.fill_(rows.shape[1])
        (self.real if real else self.fake).append(rows.to(self.device, torch.float32).flatten())

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return all real and all synthetic features, of all processes while these are joined, (n, d) and (m, d)."""
        gathered = (dim_zero_cat(found) if len(found) else torch.zeros(0) for found in (self.real, self.fake))
        real, fake = (found.view(-1, max(int(self.width), 1)) for found in gathered)
        return real, fake


class FrechetDistance(FeatureDistance):
    """The Frechet distance of real and synthetic features; see ``frechet_distance``."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the squared distance, float64.

        Raises:
            ValueError: Fewer than two real or two synthetic volumes.
        """
        return torch.tensor(frechet_distance(*self.rows()), dtype=torch.float64, device=self.device)


class KernelDistance(FeatureDistance):
    """The kernel distance (KID) of real and synthetic features; see ``kernel_distance``."""

    higher_is_better = False

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the unbiased distance and its standard error (nan with two volumes in a set), float64.

        Raises:
            ValueError: Fewer than two real or two synthetic volumes.
        """
        value, error = kernel_distance(*self.rows())
        found = torch.tensor([value, float("nan") if error is None else error], dtype=torch.float64, device=self.device)
        return found[0], found[1]


class PairSimilarity(Metric):
    """PSNR, SSIM, MS-SSIM and MAE of pairs of volumes of range 1, over the whole volume, averaged over the pairs."""

    full_state_update = False
    is_differentiable = False
    names = ("psnr", "ssim", "ms_ssim", "mae")
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, fake: Tensor, true: Tensor) -> None:
        """Take in pairs on [0, 1], (B, X, Y, Z) or (B, 1, X, Y, Z).

        Raises:
            ValueError: The shapes differ, or voxels are not finite.
        """
        from .ms_ssim import ms_ssim
        from .ssim import mean_ssim

        fake, true = volumes_of(fake, true)
        everywhere = torch.ones_like(true[0], dtype=torch.bool)
        scales = ms_ssim(fake, true)
        for a, b, scale in zip(fake.double(), true.double(), scales.tolist(), strict=True):
            found = (psnr(a, b), mean_ssim(a, b, everywhere), scale, float((a - b).abs().mean()))
            self.total += torch.tensor(found, dtype=torch.float64, device=self.total.device)
        self.count += len(fake)

    def compute(self) -> dict[str, Tensor]:
        """Return the four means, float64.

        Raises:
            ValueError: No pair was taken in.
        """
        if not int(self.count):
            raise ValueError("the similarity of pairs needs at least one pair")
        return dict(zip(self.names, self.total / self.count, strict=True))


class SegmentationDice(Metric):
    r"""The Dice overlap $2 |A \cap B| / (|A| + |B|)$ of each label, averaged over the volumes where either has it.

    Args:
        labels: Which labels to score; each is also the name of its result.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, labels: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.labels = labels
        self.add_state("total", torch.zeros(len(labels), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(labels), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Take in label maps, (B, X, Y, Z) or (B, 1, X, Y, Z).

        Raises:
            ValueError: The shapes differ.
        """
        predicted, true = volumes_of(predicted, true)
        for k, label in enumerate(self.labels):
            a, b = (predicted == label).flatten(1), (true == label).flatten(1)
            sizes = a.sum(1) + b.sum(1)
            self.total[k] += (2 * (a & b).sum(1) / sizes.clamp(min=1).double()).sum()
            self.count[k] += (sizes > 0).sum()

    def compute(self) -> dict[str, Tensor]:
        """Return "dice", the mean over the labels that were met, and "dice_1", ...: nan for labels never met."""
        each = torch.where(self.count > 0, self.total / self.count.clamp(min=1), float("nan"))
        return {"dice": each.nanmean(), **{f"dice_{k}": value for k, value in zip(self.labels, each, strict=True)}}


class EnergyDistance(Metric):
    """The squared generalised energy distance of sampled masks and raters', averaged over cases; see ``ged``.

    Args:
        empty: What two empty masks are to each other.
        corrected: Whether the bias of few samples and raters is taken out.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self, *, empty: Empty = "agree", corrected: bool = False) -> None:
        super().__init__()
        self.empty: Empty = empty
        self.corrected = corrected
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, samples: Tensor, raters: Tensor) -> None:
        """Take in the masks of one case, (n, X, Y, Z) and (m, X, Y, Z).

        Raises:
            ValueError: As ``ged`` does.
        """
        from .ambiguous import ged

        self.total += ged(samples, raters, empty=self.empty, corrected=self.corrected)
        self.count += 1

    def compute(self) -> Tensor:
        """Return the mean over cases, float64.

        Raises:
            ValueError: No case was taken in.
        """
        if not int(self.count):
            raise ValueError("the energy distance needs at least one case")
        return self.total / self.count


def of_module(module: nn.Module) -> Features:
    """Make features of a network, where it is."""
    place = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    return open_features("module", module=module, device=place)


def volumes_of(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Check a pair of batches and drop their only channel, -> (B, X, Y, Z)."""
    if a.shape != b.shape or a.ndim not in (4, 5) or (a.ndim == 5 and a.shape[1] != 1):
        raise ValueError(
            f"expected two batches (B, X, Y, Z) or (B, 1, X, Y, Z) of one shape, got {tuple(a.shape)}, {tuple(b.shape)}"
        )
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise ValueError("the volumes have voxels that are not finite")
    a, b = a.detach(), b.detach()
    return (a[:, 0], b[:, 0]) if a.ndim == 5 else (a, b)
