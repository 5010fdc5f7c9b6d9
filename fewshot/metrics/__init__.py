"""Scores: pure functions of predictions and labels, and the uncertainty of their means.

- `fewshot.metrics.classification`: accuracy and its interval, accuracy by class, AUROC, FPR@95, average precision.
- `fewshot.metrics.sessions`: class-incremental sessions, from one confusion matrix over all classes seen so far.
- `fewshot.metrics.contingency`, `fewshot.metrics.clustering`: clusterings against known classes.
- `fewshot.metrics.comparison`: methods on the same episodes, by paired differences.
"""

from fewshot.metrics.classification import (
    AP_VARIANTS,
    Interval,
    auroc,
    average_precision,
    class_accuracy,
    episode_accuracy,
    false_positive_rate_at,
    harmonic_mean,
    mean_class_accuracy,
    mean_interval,
)
from fewshot.metrics.clustering import (
    ACCURACY_VARIANTS,
    ClassScores,
    ClusteringAccuracy,
    adjusted_rand_index,
    class_scores,
    clustering_accuracy,
    n_classes_error,
    normalized_mutual_information,
)
from fewshot.metrics.comparison import Scored, Standing, behind_best, standings
from fewshot.metrics.contingency import ContingencyTable, contingency_table, matched_clusters
from fewshot.metrics.sessions import (
    SessionScores,
    average_accuracy,
    average_harmonic_mean,
    confusion_matrix,
    generalized_accuracy,
    performance_drop,
    session_accuracies,
    session_scores,
)

__all__ = [
    "ACCURACY_VARIANTS",
    "AP_VARIANTS",
    "ClassScores",
    "ClusteringAccuracy",
    "ContingencyTable",
    "Interval",
    "Scored",
    "SessionScores",
    "Standing",
    "adjusted_rand_index",
    "auroc",
    "average_accuracy",
    "average_harmonic_mean",
    "average_precision",
    "behind_best",
    "class_accuracy",
    "class_scores",
    "clustering_accuracy",
    "confusion_matrix",
    "contingency_table",
    "episode_accuracy",
    "false_positive_rate_at",
    "generalized_accuracy",
    "harmonic_mean",
    "matched_clusters",
    "mean_class_accuracy",
    "mean_interval",
    "n_classes_error",
    "normalized_mutual_information",
    "performance_drop",
    "session_accuracies",
    "session_scores",
    "standings",
]
