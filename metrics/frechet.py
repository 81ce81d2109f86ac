"""The Frechet distance between two sets of features, as in FID, from streaming moments."""

import torch
from torch import Tensor

from .resampling import Interval, bootstrap, centred_interval, draws, two_sets


class Moments:
    """The mean and covariance of features that arrive in pieces, in float64 on the CPU.

    Rows are kept while there are at most d of them, since the distance is then quicker and more exact; from there on
    count, mean and scatter, which are d by d. Any order of pieces and merges gives the same moments.

    Args:
        dim: The number of feature dimensions, d.

    References:
        Chan, Golub and LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self._pieces: list[Tensor] = []
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Return the moments of features, (n, d).

        Raises:
            ValueError: Another shape, or NaN.
        """
        if features.ndim != 2:
            raise ValueError(f"expected features (n, d), got a tensor of shape {tuple(features.shape)}")
        moments = cls(features.shape[1])
        moments.add(features)
        return moments

    @classmethod
    def from_covariance(cls, count: int, mean: Tensor, covariance: Tensor) -> "Moments":
        """Return moments known otherwise, say from an earlier run: ``mean`` (d,), ``covariance`` (d, d), n - 1."""
        moments = cls(len(mean))
        moments.count, moments._mean = count, mean.detach().double().cpu()
        moments._scatter = covariance.detach().double().cpu() * (count - 1)
        return moments

    def add(self, features: Tensor) -> None:
        """Take in more features, (n, d).

        Raises:
            ValueError: Another shape or d, or NaN.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"expected features (n, {self.dim}), got a tensor of shape {tuple(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError("features hold NaN or infinite values; check the scans and the network that read them")
        rows = features.detach().double().cpu()
        if self._scatter is None and self.count + len(rows) <= self.dim:
            self._pieces.append(rows)
            self.count += len(rows)
        elif len(rows):
            self._join(len(rows), *_mean_and_scatter(rows))

    def merge(self, other: "Moments") -> None:
        r"""Take in what another process gathered.

        $S = S_a + S_b + \frac{n_a n_b}{n_a + n_b} (\mu_a - \mu_b) (\mu_a - \mu_b)^T$ for the scatter matrices.

        Raises:
            ValueError: Another d.
        """
        if other.dim != self.dim:
            raise ValueError(f"features have {self.dim} and {other.dim} dimensions; take both from the same network")
        if other._scatter is None:
            for rows in list(other._pieces):
                self.add(rows)
        else:
            self._join(other.count, other.mean, other._scatter)

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.count:
            own_mean, own_scatter = self.mean, self.scatter
            step, total = mean - own_mean, self.count + count
            scatter = own_scatter + scatter + (self.count * count / total) * torch.outer(step, step)
            mean = own_mean + step * (count / total)
        self.count, self._mean, self._scatter, self._pieces = self.count + count, mean, scatter, []

    @property
    def rows(self) -> Tensor | None:
        """The features themselves while they are kept, (n, d)."""
        if self._scatter is not None:
            return None
        return torch.cat(self._pieces) if self._pieces else torch.zeros(0, self.dim, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """The mean, (d,); ValueError where nothing was taken in."""
        self._need(1)
        rows = self.rows
        return rows.mean(0) if rows is not None else self._mean  # type: ignore[return-value]

    @property
    def scatter(self) -> Tensor:
        """The sum of squares and products about the mean, (d, d); ValueError where nothing was taken in."""
        self._need(1)
        return self._scatter if self._scatter is not None else _mean_and_scatter(torch.cat(self._pieces))[1]

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, (d, d): the scatter over n - 1; ValueError with fewer than 2 rows."""
        self._need(2)
        return self.scatter / (self.count - 1)

    def _need(self, least: int) -> None:
        if self.count < least:
            raise ValueError(f"got {self.count} rows of features; expected at least {least}; give more scans")


def frechet_distance(a: Tensor | Moments, b: Tensor | Moments) -> float:
    r"""Return the squared Frechet distance between the Gaussians of two sets of features.

    $|\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})$, the quantity that FID names,
    with covariances over n - 1. Where a set has at most d rows, X, the last trace is the nuclear norm
    $\|X_c Y_c^T\|_* / \sqrt{(n - 1)(m - 1)}$ of a small matrix, or of $X_c \Sigma_b X_c^T$'s square root; else that of
    a symmetric matrix, $(\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2}$. It is biased upwards by about d / n: compare
    only at one n and d, with the value of real against real (``same_size``) beside it.

    Args:
        a: Features (n, d), or their moments.
        b: Features (m, d), or their moments.

    Raises:
        ValueError: Fewer than 2 rows, NaN, or another d.

    References:
        Dowson and Landau (1982). https://doi.org/10.1016/0047-259X(82)90077-X
        Heusel et al. (2017), equation 6. https://arxiv.org/abs/1706.08500
    """
    a, b = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    if a.dim != b.dim:
        raise ValueError(f"features have {a.dim} and {b.dim} dimensions; take both from the same network")
    for x in (a, b):
        x._need(2)
    distance = (a.mean - b.mean).square().sum() + _variance(a) + _variance(b) - 2 * _cross_trace(a, b)
    return max(float(distance), 0.0)


def frechet_from_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Return the squared Frechet distance between two Gaussians: means (d,), covariances (d, d)."""
    mean_a, cov_a, mean_b, cov_b = (x.detach().double() for x in (mean_a, cov_a, mean_b, cov_b))
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * _trace_of_root(cov_a, cov_b)
    return max(float(distance), 0.0)


def bootstrap_frechet(a: Tensor, b: Tensor, *, resamples: int = 100, level: float = 0.95, seed: int = 0) -> Interval:
    """Estimate the sampling spread of the Frechet distance at these numbers of scans.

    Both sets are drawn anew with replacement. That repeats rows, which lowers the rank of the covariances and moves the
    distance upwards, so the percentile interval is shifted to have its median at the distance of the sets themselves,
    and cut at 0: the spread at this N, its bias not removed. With few scans, n + m < 2 d, each draw costs a singular
    value decomposition of n by m numbers only, from the scans' common Gram matrix.

    Args:
        a: Features, (n, d).
        b: Features, (m, d).
        resamples: How many times both are drawn.
        level: The share of the draws that the interval holds.
        seed: Two calls with one seed draw the same rows.

    Raises:
        ValueError: Fewer than 2 rows, NaN, another d, a level outside (0, 1), or fewer than 2 resamples.
    """
    a, b = two_sets(a, b)
    n, m, d = len(a), len(b), a.shape[1]
    if n + m >= 2 * d:
        interval = bootstrap(frechet_distance, a, b, resamples=resamples, level=level, seed=seed)
    else:
        joint = torch.cat([a, b])
        joint = joint - joint.mean(0)
        gram = joint @ joint.T
        values = [
            _from_gram(gram, i.bincount(minlength=n).to(a), j.bincount(minlength=m).to(a))
            for i, j in draws(n, m, resamples, seed)
        ]
        interval = centred_interval(values, frechet_distance(a, b), level)
    return Interval(max(interval.low, 0.0), interval.high)


def _mean_and_scatter(rows: Tensor) -> tuple[Tensor, Tensor]:
    mean = rows.mean(0)
    centred = rows - mean
    return mean, centred.T @ centred


def _centred(moments: Moments) -> Tensor | None:
    """Return a factor X of the covariance, X^T X, where rows are kept, (n, d)."""
    rows = moments.rows
    return None if rows is None else (rows - rows.mean(0)) / (moments.count - 1) ** 0.5


def _variance(moments: Moments) -> Tensor:
    factor = _centred(moments)
    return moments.covariance.trace() if factor is None else factor.square().sum()


def _cross_trace(a: Moments, b: Moments) -> Tensor:
    """Return tr (Sa Sb)^(1/2) by whichever form is the smallest."""
    x, y = _centred(a), _centred(b)
    if x is not None and y is not None:
        return torch.linalg.svdvals(x @ y.T).sum()
    if x is not None:
        return _root_sum(x @ b.covariance @ x.T)
    if y is not None:
        return _root_sum(y @ a.covariance @ y.T)
    return _trace_of_root(a.covariance, b.covariance)


def _trace_of_root(cov_a: Tensor, cov_b: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov_a)
    factor = vectors * values.clamp(min=0).sqrt()
    return _root_sum(factor.T @ cov_b @ factor)


def _root_sum(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).clamp(min=0).sqrt().sum()


def _from_gram(gram: Tensor, times_a: Tensor, times_b: Tensor) -> float:
    """Return the distance of redrawn sets from the scans' products, (n + m, n + m), and how often each was drawn."""
    n = len(times_a)
    total_a, total_b = times_a.sum(), times_b.sum()
    share_a, share_b = times_a / total_a, times_b / total_b
    apart = torch.cat([share_a, -share_b])
    squares = gram.diagonal()
    variance_a = (times_a @ squares[:n] - total_a * (share_a @ gram[:n, :n] @ share_a)) / (total_a - 1)
    variance_b = (times_b @ squares[n:] - total_b * (share_b @ gram[n:, n:] @ share_b)) / (total_b - 1)
    rows, columns = times_a.nonzero()[:, 0], times_b.nonzero()[:, 0]
    cross = gram[:n, n:]
    centred = cross - share_a @ cross - (cross @ share_b)[:, None] + share_a @ cross @ share_b
    drawn = centred[rows[:, None], columns] * (times_a[rows].sqrt()[:, None] * times_b[columns].sqrt())
    root = torch.linalg.svdvals(drawn).sum() / ((total_a - 1) * (total_b - 1)).sqrt()
    return max(float(apart @ gram @ apart + variance_a + variance_b - 2 * root), 0.0)
