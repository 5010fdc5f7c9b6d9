"""The scores of a discovery by the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fewshot.evaluation.discovery.scores import DiscoveryScores

__all__ = ["TrueClass", "named_confusion", "true_classes"]


class TrueClass(NamedTuple):
    """A true class, and the found class that it is matched with.

    Attributes
    ----------
    name : str
    is_known : bool
    n_rows : int
        Unlabelled rows of the class.
    found_as : str, or None
        The found class that it is matched with; None if it has none.
    recall, precision : float
        Shares of its rows, and of the rows of the found class, that both have; NaN where they are not defined.
    """

    name: str
    is_known: bool
    n_rows: int
    found_as: str | None
    recall: float
    precision: float


def true_classes(scores: DiscoveryScores, true_names: Sequence[str], found_names: Sequence[str]) -> list[TrueClass]:
    """Return each true class that has unlabelled rows.

    Parameters
    ----------
    scores : DiscoveryScores
    true_names : sequence of str
        By the class ids of the truth.
    found_names : sequence of str
        By the numbers of the found classes.

    Examples
    --------
    >>> from fewshot.evaluation.discovery import evaluate_discovery
    >>> scores = evaluate_discovery([0, 0, 1, 1], truth=[0, 0, 1, 1], shown=[0, -1, -1, -1])
    >>> [(row.name, row.n_rows, row.found_as) for row in true_classes(scores, ["crow", "jay"], ["crow", "new-01"])]
    [('crow', 1, 'crow'), ('jay', 2, 'new-01')]
    """
    table = scores.classes
    columns = (table.class_ids, table.is_known, table.sizes, table.cluster_ids, table.recall, table.precision)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        TrueClass(true_names[class_id], is_known, size, None if cluster < 0 else found_names[cluster], *shares)
        for class_id, is_known, size, cluster, *shares in rows
    ]


def named_confusion(
    scores: DiscoveryScores, true_names: Sequence[str], found_names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return the counts of unlabelled rows by found class and true class; counts of 0 are left out.

    Examples
    --------
    >>> from fewshot.evaluation.discovery import evaluate_discovery
    >>> scores = evaluate_discovery([0, 0, 1, 1], truth=[0, 1, 1, 1], shown=[0, -1, -1, -1])
    >>> named_confusion(scores, ["crow", "jay"], ["crow", "new-01"])
    {'crow': {'jay': 1}, 'new-01': {'jay': 2}}
    """
    table = scores.confusion
    names = [true_names[class_id] for class_id in table.class_ids.tolist()]
    return {
        found_names[cluster]: {name: count for name, count in zip(names, counts, strict=True) if count}
        for cluster, counts in zip(table.cluster_ids.tolist(), table.counts.tolist(), strict=True)
    }
