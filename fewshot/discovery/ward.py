"""Ward's hierarchical clustering, cut where it agrees best with the known classes."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.centers import center_log_probabilities, inertia
from fewshot.discovery.count_scores import sampled_silhouette
from fewshot.discovery.estimator import CategoryDiscoverer, Discovered
from fewshot.discovery.n_classes import default_bounds, search_counts
from fewshot.metrics import adjusted_rand_index, contingency_table, matched_clusters
from fewshot.prototypes import class_means

__all__ = ["WardDiscovery", "cut_tree", "name_clusters", "ward_tree"]

# The distances of so many rows take 1.6 GB.
_MAX_ROWS = 20_000


def ward_tree(features: Tensor) -> Tensor:
    """Merge, one after the other, the two clusters whose union adds least to the squared distances to the means.

    Parameters
    ----------
    features : Tensor (n, n_features)

    Returns
    -------
    Tensor (n - 1, 2), int64
        The two nodes of each merge. Rows are nodes 0..n - 1, merge i makes node n + i.

    Raises
    ------
    ValueError
        If there are more than 20,000 rows: all n(n - 1)/2 distances are held in float64.

    Source
    ------
    Ward, "Hierarchical Grouping to Optimize an Objective Function", JASA 58, 1963; SciPy's ``linkage``.
    """
    from scipy.cluster.hierarchy import linkage  # type: ignore[import-untyped]

    if len(features) > _MAX_ROWS:
        raise ValueError(
            f"Ward's clustering holds the distances of all pairs: at most {_MAX_ROWS} rows, got {len(features)}: "
            "take a sample, or SemiSupervisedKMeans"
        )
    if len(features) < 2:
        return torch.zeros((0, 2), dtype=torch.int64, device=features.device)
    merges = linkage(features.double().cpu().numpy(), method="ward")[:, :2]
    return torch.from_numpy(merges).to(features.device, torch.int64)


def cut_tree(tree: Tensor, n_clusters: int) -> Tensor:
    """Return the clusters (n,), int64 in [0, n_clusters), that are left when that many remain.

    Examples
    --------
    >>> cut_tree(torch.tensor([[0, 1], [3, 2]]), 2).tolist()
    [1, 1, 0]
    """
    n = len(tree) + 1
    parent = torch.arange(2 * n - 1, device=tree.device)
    merges = torch.arange(n - n_clusters, device=tree.device)
    parent[tree[merges]] = (n + merges)[:, None].expand(-1, 2)
    for _ in range(n.bit_length()):
        parent = parent[parent]
    clusters: Tensor = torch.unique(parent[:n], return_inverse=True)[1]
    return clusters


def name_clusters(clusters: Tensor, labels: Tensor, n_known: int) -> Tensor:
    """Give each known class the cluster that holds most of its labelled rows, one each, and labelled rows their class.

    Parameters
    ----------
    clusters : Tensor (n,), int64
        From 0.
    labels : Tensor (n,), int64
        -1 for a row without a label.
    n_known : int

    Returns
    -------
    Tensor (n,), int64
        Classes: the known ones, then the clusters that no known class has. A known class without a cluster of its own
        has its labelled rows alone.
    """
    table = contingency_table(clusters, labels)
    own = matched_clusters(table.counts, torch.ones_like(table.class_ids, dtype=torch.bool))
    classes = torch.nonzero(own >= 0)[:, 0]
    number = torch.full((int(clusters.max()) + 1,), -1, device=clusters.device)
    number[table.cluster_ids[own[classes]]] = table.class_ids[classes]
    is_free = number < 0
    number[is_free] = n_known + torch.arange(int(is_free.sum()), device=clusters.device)
    return torch.where(labels >= 0, labels, number[clusters])


class WardDiscovery(CategoryDiscoverer):
    """Ward's clustering of all rows without labels; labels choose the cut and name the clusters.

    Parameters
    ----------
    n_classes : int or str
        Known and found classes together; a method of `estimate_n_classes`; or "auto": where two classes or more are
        known, the cut of the highest adjusted Rand index of the labels plus silhouette (labels do not guide the merges,
        so all of them can judge).
    random_state : int
        For what estimates the number of classes; the clustering draws nothing.

    Notes
    -----
    Where a cluster holds several known classes, one of them has it and the others keep
    their labelled rows alone; as many fewer clusters are cut, so that there are ``n_classes`` in all. `predict` is the
    nearest class mean, which for a row of the pool may be another class than ``labels_`` says; `predict_proba` is as in
    `SemiSupervisedKMeans`. At most 20,000 rows.

    Source
    ------
    [CMS]: Ward's clustering, the number of classes by accuracy on labelled rows; from a description. Its mean-shift
    training is not here; features are taken as they are.

    Examples
    --------
    >>> rows = [[0.0], [1.0], [10.0], [11.0], [30.0], [31.0]]
    >>> model = WardDiscovery(n_classes=3).fit(rows, [7, -1, -1, -1, 5, -1])
    >>> model.transduction_.tolist()
    [7, 7, 8, 8, 5, 5]
    """

    _means: Tensor
    _variance: Tensor

    def __init__(self, n_classes: int | str = "auto", random_state: int = 0) -> None:
        self.n_classes = n_classes
        self.random_state = random_state

    def _discover(self, features: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> Discovered:
        tree = ward_tree(features)
        if self.n_classes == "auto" and n_known >= 2 and bool((labels < 0).any()):
            n_classes = _best_cut(tree, features, labels, n_known, generator)
        else:
            n_classes = self._count(features, labels, n_known, generator)
        found = _classes(tree, labels, n_known, n_classes)
        n_found = int(found.max()) + 1
        means = class_means(features, found, n_found)
        dof = max(1, len(features) - n_found) * features.shape[1]
        variance = torch.tensor(inertia(features, means, found) / dof, dtype=torch.float64, device=features.device)
        self._set_state({"means": means, "variance": variance})
        return Discovered(found, features)

    def _reorder(self, order: Tensor) -> None:
        self._means = self._means[order]

    def _log_probs(self, rows: Tensor) -> Tensor:
        return center_log_probabilities(rows, self._means, self._variance)

    def _class_state(self) -> dict[str, Tensor]:
        return {"means": self._means, "variance": self._variance}

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        self._means, self._variance = tensors["means"], tensors["variance"]


def _best_cut(tree: Tensor, features: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> int:
    """Return the number of clusters that agree best with the labels and are best apart."""
    judge = sampled_silhouette(features, generator)

    def score(n_clusters: int) -> Tensor:
        clusters = cut_tree(tree, n_clusters)
        return adjusted_rand_index(contingency_table(clusters, labels)).reshape(1) + judge(clusters)

    return search_counts(score, default_bounds(features, n_known)).n_classes


def _classes(tree: Tensor, labels: Tensor, n_known: int, n_classes: int) -> Tensor:
    """Return the classes (n,) of the finest cut that makes no more than ``n_classes`` of them."""
    for n_clusters in range(n_classes, 1, -1):
        found = name_clusters(cut_tree(tree, n_clusters), labels, n_known)
        if int(found.max()) < n_classes:
            return found
    return name_clusters(cut_tree(tree, 1), labels, n_known)
