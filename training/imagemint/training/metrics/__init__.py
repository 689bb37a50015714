"""Measures generated images: distances in a feature space, scores of a classifier, modes.

Features are float64 [N, d] with Euclidean distances, log-probabilities are float64 [N, K]. The
Inception Score comes from torchmetrics. Its Frechet distance is not suitable, because it uses the
eigenvalues of a product of covariances, which is singular if a feature is always 0. Its kernel
distance is only for sets of equal size. Tests compare both with ours where they are correct.
"""

from imagemint.training.metrics.codes import (
    CodeAccuracy,
    chance_code_accuracy,
    code_class_accuracy,
)
from imagemint.training.metrics.distances import frechet_distance, kernel_distance
from imagemint.training.metrics.modes import (
    ModeCount,
    count_modes,
    mode_floor,
    perfect_sampler_floor,
    reverse_kl,
)
from imagemint.training.metrics.neighbours import (
    Neighbourhoods,
    compute_neighbour_radii,
    coverage,
    find_nearest_neighbours,
    measure_neighbourhoods,
    two_sample_accuracy,
)
from imagemint.training.metrics.scores import (
    ClassAccuracy,
    class_accuracy,
    inception_score,
    mode_score,
)
from imagemint.training.metrics.similarity import (
    absolute_error,
    count_scales,
    multiscale_structural_similarity,
    peak_signal_noise_ratio,
    sharpness,
    structural_similarity,
)
from imagemint.training.metrics.variety import (
    ByClass,
    class_coverage,
    nearest_spread,
    within_class_variety,
)

__all__ = [
    "ByClass",
    "ClassAccuracy",
    "CodeAccuracy",
    "ModeCount",
    "Neighbourhoods",
    "absolute_error",
    "chance_code_accuracy",
    "class_accuracy",
    "class_coverage",
    "code_class_accuracy",
    "compute_neighbour_radii",
    "count_modes",
    "count_scales",
    "coverage",
    "find_nearest_neighbours",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "measure_neighbourhoods",
    "mode_floor",
    "mode_score",
    "multiscale_structural_similarity",
    "nearest_spread",
    "peak_signal_noise_ratio",
    "perfect_sampler_floor",
    "reverse_kl",
    "sharpness",
    "structural_similarity",
    "two_sample_accuracy",
    "within_class_variety",
]
