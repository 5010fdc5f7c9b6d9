"""Semi-supervised k-means as an estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.centers import center_log_probabilities
from fewshot.discovery.estimator import CategoryDiscoverer, Discovered
from fewshot.discovery.kmeans import semi_supervised_kmeans

__all__ = ["SemiSupervisedKMeans"]


class SemiSupervisedKMeans(CategoryDiscoverer):
    """Semi-supervised k-means: the baseline of category discovery.

    Parameters
    ----------
    n_classes : int or str
        Known and found classes together, or a method of `estimate_n_classes`.
    n_init, n_steps, tolerance
        As in `semi_supervised_kmeans`.
    random_state : int

    Attributes
    ----------
    inertia_ : float
        Σ of squared distances to the centers.

    Notes
    -----
    Where fewer rows are distinct than classes are asked for, the classes without a row are left out, with a warning.
    `predict` is the nearest center; `predict_proba` takes the classes for Gaussians of equal weight and equal,
    spherical spread: the softmax of -‖x - c‖²/(2σ²), where σ² is the mean within-class variance of a feature,
    inertia / ((n - n_classes) · n_features).

    Source
    ------
    [GCD] §3.3.

    Examples
    --------
    >>> rows = [[0.0], [1.0], [10.0], [11.0], [30.0]]
    >>> model = SemiSupervisedKMeans(n_classes=3).fit(rows, ["crow", None, None, None, None])
    >>> model.transduction_.tolist()
    ['crow', 'crow', 'new-01', 'new-01', 'new-02']
    >>> model.classes_[model.predict([[28.0]])].tolist()
    ['new-02']
    """

    _centers: Tensor
    _variance: Tensor

    def __init__(
        self,
        n_classes: int | str = "auto",
        n_init: int = 10,
        n_steps: int = 100,
        tolerance: float = 1e-4,
        random_state: int = 0,
    ) -> None:
        self.n_classes = n_classes
        self.n_init = n_init
        self.n_steps = n_steps
        self.tolerance = tolerance
        self.random_state = random_state

    def _discover(self, features: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> Discovered:
        n_classes = self._count(features, labels, n_known, generator)
        found = semi_supervised_kmeans(
            features,
            labels,
            n_classes,
            generator=generator,
            n_init=self.n_init,
            n_steps=self.n_steps,
            tolerance=self.tolerance,
        )
        self.inertia_ = found.inertia
        dof = max(1, len(features) - n_classes) * features.shape[1]
        variance = torch.tensor(found.inertia / dof, dtype=torch.float64, device=features.device)
        self._set_state({"centers": found.centers, "variance": variance})
        return Discovered(found.labels, features)

    def _reorder(self, order: Tensor) -> None:
        self._centers = self._centers[order]

    def _log_probs(self, rows: Tensor) -> Tensor:
        return center_log_probabilities(rows, self._centers, self._variance)

    def _class_state(self) -> dict[str, Tensor]:
        return {"centers": self._centers, "variance": self._variance}

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        self._centers, self._variance = tensors["centers"], tensors["variance"]
