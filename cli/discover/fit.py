"""Running a discoverer, and what it found as plain tensors and lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.estimators.labels import new_names

from .pool import DiscoveryPool

__all__ = ["AUTO", "METHODS", "Found", "find_classes"]

AUTO = "auto"
_CHUNK = 4096
# The estimator of each word, and the file it lies in, which is loaded when it is asked for.
METHODS = {
    "discovery": ("fewshot.discovery.category_discovery", "CategoryDiscovery"),
    "kmeans": ("fewshot.discovery.semi_supervised_kmeans", "SemiSupervisedKMeans"),
    "pim": ("fewshot.discovery.pim", "PIM"),
    "ward": ("fewshot.discovery.ward", "WardDiscovery"),
}


class Found(NamedTuple):
    """What a discoverer found; all tensors on the CPU.

    Attributes
    ----------
    method : str
        The estimator and its settings.
    names : list of str
        Of the classes, the known ones first.
    n_known : int
    labels : Tensor (n,), int64
        The class of each row.
    probability : Tensor (n,)
        How likely the model thinks that class.
    outlier_score : Tensor (n,), or None
        Near 1: far from its class.
    component_ids : list of int, or None
        The running id of each class, by which ``proposals`` name them.
    trace, proposals : list of NamedTuple
        Rounds and moves; empty for a method that has none.
    warnings : list of str
    """

    method: str
    names: list[str]
    n_known: int
    labels: Tensor
    probability: Tensor
    outlier_score: Tensor | None
    component_ids: list[int] | None
    trace: Sequence[Any]
    proposals: Sequence[Any]
    warnings: list[str]

    @property
    def n_classes(self) -> int:
        """How many classes there are, the known ones included."""
        return len(self.names)


def find_classes(data: DiscoveryPool, settings: Mapping[str, Any], tell: Callable[[str], None] | None = None) -> Found:
    """Run the method that the settings name; ``tell`` is given words on how far it is, if the method says.

    Raises
    ------
    ValueError
        If the method cannot do what is asked.
    """
    model = _build(settings)
    method = " ".join(repr(model).split())
    if tell is not None and "progress" in model.get_params():
        model.set_params(progress=lambda *told: tell(", ".join(map(str, told))))
    features = data.pool.features.to(settings["device"])
    model.fit(features, data.shown.to(settings["device"]))
    labels = torch.as_tensor(model.labels_).cpu().long()
    names = [data.pool.class_names[label] for label in torch.unique(data.shown[data.shown >= 0]).tolist()]
    scores, components = getattr(model, "outlier_score_", None), getattr(model, "component_ids_", None)
    return Found(
        method=method,
        names=names + new_names(names, int(model.n_classes_) - len(names)),
        n_known=len(names),
        labels=labels,
        probability=_probability(model, features, labels),
        outlier_score=None if scores is None else torch.as_tensor(scores).cpu(),
        component_ids=None if components is None else torch.as_tensor(components).tolist(),
        trace=list(getattr(model, "trace_", ())),
        proposals=list(getattr(model, "proposals_", ())),
        warnings=list(getattr(model, "warnings_", ())),
    )


def _build(settings: Mapping[str, Any]) -> Any:
    module, name = METHODS[settings["method"]]
    estimator = getattr(import_module(module), name)
    wanted = {name: settings[name] for name in ("n_classes", "power")} | {"random_state": settings["seed"]}
    return estimator(**{key: value for key, value in wanted.items() if key in signature(estimator).parameters})


def _probability(model: Any, features: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of each row's class, (n,)."""
    parts = zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True)
    return torch.cat(
        [torch.as_tensor(model.predict_proba(rows)).cpu().gather(1, own[:, None])[:, 0] for rows, own in parts]
    )
