"""How good generated images are: distances in a feature space, scores of a classifier, modes.

Features are float64 [N, d], distances between them Euclidean; log-probabilities are float64 [N, K].
What torchmetrics has already is taken from it (kernel distance, Inception Score). Its Frechet
distance is not: it takes the eigenvalues of a product of covariances, which features that never
fire make singular; a test holds the two against each other where both are sound.
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
    coverage,
    nearest_distances,
    nearest_neighbours,
    neighbour_radii,
    neighbourhoods,
    two_sample_accuracy,
)
from imagemint.training.metrics.scores import (
    ClassAccuracy,
    class_accuracy,
    inception_score,
    mode_score,
)

__all__ = [
    "ClassAccuracy",
    "CodeAccuracy",
    "ModeCount",
    "Neighbourhoods",
    "chance_code_accuracy",
    "class_accuracy",
    "code_class_accuracy",
    "count_modes",
    "coverage",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mode_floor",
    "mode_score",
    "nearest_distances",
    "nearest_neighbours",
    "neighbour_radii",
    "neighbourhoods",
    "perfect_sampler_floor",
    "reverse_kl",
    "two_sample_accuracy",
]
