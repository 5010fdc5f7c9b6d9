"""Found classes × the truth → the numbers of a table of category discovery, over the unlabelled rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.metrics import (
    ACCURACY_VARIANTS,
    ClassScores,
    ClusteringAccuracy,
    ContingencyTable,
    adjusted_rand_index,
    class_scores,
    clustering_accuracy,
    contingency_table,
    n_classes_error,
    normalized_mutual_information,
)

__all__ = ["DiscoveryScores", "evaluate_discovery"]


class DiscoveryScores(NamedTuple):
    """How well a discovery fits the truth, over the unlabelled rows; NaN where there is nothing to score.

    Attributes
    ----------
    n_scored, n_old, n_new : int
        Unlabelled rows whose class is known to the judge; those of known classes; those of novel ones.
    accuracy : mapping
        All, Old and New by each of `fewshot.metrics.clustering.ACCURACY_VARIANTS`; "v2" is what tables show.
    normalized_mutual_information, adjusted_rand_index : float
    n_found, n_classes : int
        Classes that were found, the known ones included, and classes that there are.
    n_classes_error : float
        ``|n_found - n_classes| / n_classes``.
    classes : ClassScores
        A row for each class with unlabelled rows; its ``cluster_ids`` are those of ``confusion``.
    confusion : ContingencyTable
        Counts of the classes (columns) in the found classes (rows). ``cluster_ids`` number found classes as the
        discovery did.
    """

    n_scored: int
    n_old: int
    n_new: int
    accuracy: Mapping[str, ClusteringAccuracy]
    normalized_mutual_information: float
    adjusted_rand_index: float
    n_found: int
    n_classes: int
    n_classes_error: float
    classes: ClassScores
    confusion: ContingencyTable

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; an undefined number is None."""
        return {
            **{name: getattr(self, name) for name in ("n_scored", "n_old", "n_new", "n_found", "n_classes")},
            "n_classes_error": self.n_classes_error,
            "accuracy": {name: _plain(found) for name, found in self.accuracy.items()},
            "normalized_mutual_information": _number(self.normalized_mutual_information),
            "adjusted_rand_index": _number(self.adjusted_rand_index),
            "classes": _plain(self.classes),
            "confusion": _plain(self.confusion),
        }


def evaluate_discovery(
    clusters: Tensor | Sequence[int],
    truth: Tensor | Sequence[int],
    shown: Tensor | Sequence[int],
    *,
    n_found: int | None = None,
) -> DiscoveryScores:
    """Score a discovery on the rows whose label it was not shown.

    Parameters
    ----------
    clusters : Tensor (n,), int64
        The class found for each row: ``labels_`` of a discoverer, in which number k below the number of known classes
        stands for the k-th of these in ascending order.
    truth : Tensor (n,), int64
        The true class of each row; -1 where nobody knows it, and the row is not scored.
    shown : Tensor (n,), int64
        The labels that the discoverer saw: a class id of ``truth``, or -1 = unlabelled.
    n_found : int, optional
        How many classes were found: ``n_classes_``. Default: those that have a row.

    Returns
    -------
    DiscoveryScores

    Raises
    ------
    ValueError
        If the three differ in length, no row is left to score, a cluster is negative, or a row was shown another
        label than its true one.

    Notes
    -----
    The known classes are those of which a row was shown. Rows that were shown count nowhere but in the number of
    classes. Old and New are NaN where no scored row is of a known or of a novel class. New names for the found classes
    above the known ones change nothing.

    Source
    ------
    [GCD] Sec. 4.1 and the released code: one matching over all unlabelled rows, Old and New read off it.

    Examples
    --------
    >>> scores = evaluate_discovery([0, 0, 1, 1, 2], truth=[4, 4, 7, 7, 7], shown=[4, -1, -1, -1, -1])
    >>> [value.item() for value in scores.accuracy["v2"]]
    [0.75, 1.0, 0.6666666666666666]
    >>> scores.n_found, scores.n_classes, scores.n_classes_error
    (3, 2, 0.5)
    """
    clusters, truth, shown = (torch.as_tensor(values).cpu().long() for values in (clusters, truth, shown))
    _check(clusters, truth, shown)
    known = torch.unique(shown[shown >= 0])
    class_ids = torch.unique(torch.cat([known, truth[truth >= 0]]))
    is_scored = (shown < 0) & (truth >= 0)
    if not bool(is_scored.any()):
        raise ValueError("no unlabelled row has a true class: there is nothing to score")
    numbers = _numbered(int(clusters.max()) + 1, known, class_ids)
    table = contingency_table(numbers[clusters[is_scored]], truth[is_scored])
    n_found = len(torch.unique(clusters)) if n_found is None else n_found
    is_old = torch.isin(truth[is_scored], known)
    return DiscoveryScores(
        n_scored=len(is_old),
        n_old=int(is_old.sum()),
        n_new=int((~is_old).sum()),
        accuracy={name: clustering_accuracy(table, known, variant=name) for name in ACCURACY_VARIANTS},
        normalized_mutual_information=float(normalized_mutual_information(table)),
        adjusted_rand_index=float(adjusted_rand_index(table)),
        n_found=n_found,
        n_classes=len(class_ids),
        n_classes_error=n_classes_error(n_found, len(class_ids)),
        classes=_with_clusters(class_scores(table, known), numbers),
        confusion=table._replace(cluster_ids=torch.searchsorted(numbers, table.cluster_ids)),
    )


def _check(clusters: Tensor, truth: Tensor, shown: Tensor) -> None:
    if not clusters.shape == truth.shape == shown.shape or clusters.dim() != 1 or len(clusters) == 0:
        shapes = ", ".join(str(tuple(values.shape)) for values in (clusters, truth, shown))
        raise ValueError(f"clusters, truth and shown must have one entry per row, (n,) each, got shapes {shapes}")
    if int(clusters.min()) < 0:
        raise ValueError(f"clusters must not be negative, got {int(clusters.min())}")
    wrong = torch.nonzero((shown >= 0) & (truth >= 0) & (shown != truth))[:, 0]
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"row {row} was shown as class {int(shown[row])}, but is of class {int(truth[row])}: give labels and truth "
            "in the same numbers"
        )


def _numbered(n_clusters: int, known: Tensor, class_ids: Tensor) -> Tensor:
    """Return (n_clusters,) the class id of each known cluster, and numbers above all class ids for the others."""
    n_new = max(0, n_clusters - len(known))
    return torch.cat([known, int(class_ids[-1]) + 1 + torch.arange(n_new)])


def _with_clusters(scores: ClassScores, numbers: Tensor) -> ClassScores:
    """Return scores whose clusters are numbered as the discovery did."""
    found = torch.searchsorted(numbers, scores.cluster_ids.clamp(min=0))
    return scores._replace(cluster_ids=torch.where(scores.cluster_ids < 0, -1, found))


def _plain(found: NamedTuple) -> dict[str, Any]:
    """Return a tuple of tensors as lists and numbers, NaN as None."""
    return {name: _number(values.tolist()) for name, values in found._asdict().items()}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
