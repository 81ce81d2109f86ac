"""Metrics of synthetic images and masks.

They know torch and numpy and nothing of gen3d; README.md says which is where.

A new one is one function in a file of its own. ``NAME(true, fake, where)`` in ``NAME.py`` is found here and becomes a
column of ``gen3d evaluate pairs``; ``gen3d.metrics.running`` (torchmetrics' classes, for training loops) is imported by
itself.
"""

from importlib import import_module
from inspect import isfunction, signature
from pkgutil import iter_modules

from .agreement import Agreement, segmentation_agreement
from .ambiguous import (
    AmbiguousScores,
    ambiguous_scores,
    collective_insight,
    combined_sensitivity,
    diversity_agreement,
    ged,
)
from .baselines import Quadratic, QuadraticFit, best_copy, quadratic_features, unit_window
from .blur import blur_index
from .calibration import Calibration, calibration
from .completion import CompletionScore, psnr, score_completion
from .concordance import RadiomicAgreement, concordance, radiomic_agreement
from .copies import CopyRate, copy_rate, repeat_rate, thumbnails
from .features import Features, open_features
from .frechet import Moments, bootstrap_frechet, frechet_distance, frechet_from_moments
from .kernel import KernelDistance, kernel_distance, kernel_distance_subsets
from .longitudinal import ForecastSkill, VolumeChange, forecast_skill, skill, volume_change_error
from .manifold import Manifold, manifold
from .matching import matched_iou, maximum_dice_matching
from .ms_ssim import MeanPairwise, kernel_for, mean_pairwise_ms_ssim, ms_ssim
from .pairs import PairMetric, PairRow, nrmse, pair_rows
from .radiomic_frechet import normalised, radiomic_frechet
from .radiomics import feature_names, radiomic_features
from .raters import leave_one_out, majority, majority_of_others, single_rater
from .resampling import Interval, SameSize, bootstrap, same_size, small_sample_warning
from .segmentation import SegmentationScore, segmentation_scores
from .ssim import mean_ssim

_names = [file.name for file in iter_modules(__path__) if file.name != "running"]
_named = {name: getattr(import_module(f"{__name__}.{name}"), name, None) for name in _names}
PAIR_METRICS: dict[str, PairMetric] = {
    name: metric
    for name, metric in _named.items()
    if isfunction(metric) and list(signature(metric).parameters) == ["true", "fake", "where"]
}

__all__ = [
    "PAIR_METRICS",
    "Agreement",
    "AmbiguousScores",
    "Calibration",
    "CompletionScore",
    "CopyRate",
    "Features",
    "ForecastSkill",
    "Interval",
    "KernelDistance",
    "Manifold",
    "MeanPairwise",
    "Moments",
    "PairMetric",
    "PairRow",
    "Quadratic",
    "QuadraticFit",
    "RadiomicAgreement",
    "SameSize",
    "SegmentationScore",
    "VolumeChange",
    "ambiguous_scores",
    "best_copy",
    "blur_index",
    "bootstrap",
    "bootstrap_frechet",
    "calibration",
    "collective_insight",
    "combined_sensitivity",
    "concordance",
    "copy_rate",
    "diversity_agreement",
    "feature_names",
    "forecast_skill",
    "frechet_distance",
    "frechet_from_moments",
    "ged",
    "kernel_distance",
    "kernel_distance_subsets",
    "kernel_for",
    "leave_one_out",
    "majority",
    "majority_of_others",
    "manifold",
    "matched_iou",
    "maximum_dice_matching",
    "mean_pairwise_ms_ssim",
    "mean_ssim",
    "ms_ssim",
    "normalised",
    "nrmse",
    "open_features",
    "pair_rows",
    "psnr",
    "quadratic_features",
    "radiomic_agreement",
    "radiomic_features",
    "radiomic_frechet",
    "repeat_rate",
    "same_size",
    "score_completion",
    "segmentation_agreement",
    "segmentation_scores",
    "single_rater",
    "skill",
    "small_sample_warning",
    "thumbnails",
    "unit_window",
    "volume_change_error",
]
