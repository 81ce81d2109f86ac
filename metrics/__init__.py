"""Metrics of synthetic images. They know torch and numpy and nothing of gen3d.

A new one is one function in a file of its own and one line here.
"""

from .baselines import Quadratic, QuadraticFit, best_copy, quadratic_features, unit_window
from .completion import CompletionScore, mean_ssim, psnr, score_completion

__all__ = [
    "CompletionScore",
    "Quadratic",
    "QuadraticFit",
    "best_copy",
    "mean_ssim",
    "psnr",
    "quadratic_features",
    "score_completion",
    "unit_window",
]
