"""The classes of a pool as a discoverer finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.split_merge.trace import Proposal, Round
from fewshot.estimators.labels import CategoricalLabels
from fewshot.evaluation.discovery.pool import DiscoveryPool
from fewshot.evaluation.discovery.settings import DiscoveryExperiment
from fewshot.registry.discovery import build_discoverer, discoverer_options

__all__ = ["FoundClasses", "find_classes"]


class FoundClasses(NamedTuple):
    """The known classes and those found beside them; all tensors on the CPU.

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
        The probability of that class by the method's own model.
    outlier_score : Tensor (n,), or None
        Near 1: far from its class. None: the method has none.
    component_ids : list of int, or None
        The running id of each class, by which ``proposals`` name them.
    trace : list of Round
        Empty for a method without rounds, as are the proposals.
    proposals : list of Proposal
    warnings : list of str
    """

    method: str
    names: list[str]
    n_known: int
    labels: Tensor
    probability: Tensor
    outlier_score: Tensor | None
    component_ids: list[int] | None
    trace: list[Round]
    proposals: list[Proposal]
    warnings: list[str]

    @property
    def n_classes(self) -> int:
        """The number of classes, the known ones included."""
        return len(self.names)


def find_classes(
    data: DiscoveryPool, experiment: DiscoveryExperiment, *, progress: Callable[[str], None] | None = None
) -> FoundClasses:
    """Fit the discoverer of an experiment, on the device of the features.

    Parameters
    ----------
    data : DiscoveryPool
    experiment : DiscoveryExperiment
    progress : callable, optional
        Called with words on the stage, if the method reports it.

    Raises
    ------
    ValueError
        If the method refuses a setting.
    """
    model = _discoverer(experiment)
    method = " ".join(repr(model).split())
    if progress is not None and "progress" in model.get_params():
        model.set_params(progress=lambda *stage: progress(", ".join(map(str, stage))))
    model.fit(data.pool.features, CategoricalLabels(data.shown, data.pool.class_names))
    return FoundClasses(
        method=method,
        names=model.classes_.tolist(),
        n_known=model.n_known_,
        labels=torch.as_tensor(model.labels_).cpu().long(),
        probability=torch.as_tensor(model.probability_).cpu(),
        **_trace_of(model),
    )


def _discoverer(experiment: DiscoveryExperiment) -> Any:
    settings = {"n_classes": experiment.n_classes, "power": experiment.power, "random_state": experiment.seed}
    known = discoverer_options(experiment.method)
    return build_discoverer(experiment.method, **{name: value for name, value in settings.items() if name in known})


def _trace_of(model: Any) -> dict[str, Any]:
    """Return the attributes that only some methods have."""
    scores, components = getattr(model, "outlier_score_", None), getattr(model, "component_ids_", None)
    return {
        "outlier_score": None if scores is None else torch.as_tensor(scores).cpu(),
        "component_ids": None if components is None else torch.as_tensor(components).tolist(),
        "trace": list(getattr(model, "trace_", ())),
        "proposals": list(getattr(model, "proposals_", ())),
        "warnings": list(getattr(model, "warnings_", ())),
    }
