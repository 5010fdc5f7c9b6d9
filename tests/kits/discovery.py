"""What the tests of ``fewshot discover`` share: pools whose classes are columns, and a discoverer that knows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator

import fewshot.discovery
from fewshot.discovery.split_merge.trace import Proposal, Round
from fewshot.estimators.labels import CategoricalLabels, label_array, new_names
from fewshot.features import FeatureSet
from fewshot.registry.discovery import DISCOVERY_METHODS


class ColumnDiscovery(BaseEstimator):
    """The class of a row is the column of its largest feature: what it answers can be told without running it.

    Column k is known class k; columns without a label are new classes, in order. Known class 0 sheds the first of
    them, all others split off that one.
    """

    def __init__(self, n_classes: Any = "auto", random_state: int = 0) -> None:
        self.n_classes = n_classes
        self.random_state = random_state

    def fit(self, X: torch.Tensor, y: CategoricalLabels) -> ColumnDiscovery:
        names, y = y.present()[0], y.codes
        known = torch.unique(y[y >= 0])
        columns = X.argmax(1)
        new = torch.tensor([c for c in torch.unique(columns).tolist() if c not in known.tolist()], dtype=torch.int64)
        self.columns = torch.cat([known, new])
        n_known, n = len(known), len(self.columns)
        place = torch.full((X.shape[1],), -1)
        place[self.columns] = torch.arange(n)
        self.labels_ = place[torch.where(y >= 0, y, columns)]
        self.n_classes_, self.n_known_ = n, n_known
        self.classes_ = label_array([*names, *new_names(names, n - n_known)])
        self.probability_ = (2 * X[:, self.columns]).softmax(1).gather(1, self.labels_[:, None])[:, 0]
        self.outlier_score_ = 1 - self.probability_
        self.component_ids_ = list(range(n))
        self.trace_ = [
            Round(n_known, 1, 0, 0, 0, n_known + 1, -9.5, -9.0),
            Round(n_known + 1, 0, 1, 0, 0, n, -8.0, -7.0),
        ]
        self.proposals_ = [
            Proposal(0, "shed", (0,), (0, n_known), 3.5, True, ""),
            Proposal(0, "split", (1,), (n + 5, n + 6), -2.0, False, "not likelier"),
            Proposal(1, "split", (n_known,), tuple(range(n_known, n)), 2.5, True, ""),
        ]
        self.warnings_ = ["made up"] if self.random_state == 99 else []
        return self


class PlainDiscovery(ColumnDiscovery):
    """The same without what a simple method lacks."""

    def fit(self, X: torch.Tensor, y: CategoricalLabels) -> PlainDiscovery:
        super().fit(X, y)
        for name in ("outlier_score_", "component_ids_", "trace_", "proposals_", "warnings_"):
            delattr(self, name)
        return self


def column_pool(
    sizes: dict[str, int], *, n_unlabelled: dict[str, int] | None = None, seed: int = 0, **source: Any
) -> tuple[FeatureSet, list[str]]:
    """Return a pool of rows near 3 e_k for the k-th class, the last ``n_unlabelled`` of each without label; the truth.

    A class all of whose rows are unlabelled has no name in the pool.
    """
    generator, hidden = np.random.default_rng(seed), n_unlabelled or {}
    truth = [name for name, size in sizes.items() for _ in range(size)]
    column = {name: number for number, name in enumerate(sizes)}
    rows = np.array([3.0 * np.eye(len(sizes))[column[name]] for name in truth])
    rows += generator.uniform(-0.5, 0.5, rows.shape)
    shown = [
        name if number < size - hidden.get(name, 0) else None for name, size in sizes.items() for number in range(size)
    ]
    names = tuple(name for name in sizes if name in shown)
    labels = torch.tensor([-1 if name is None else names.index(name) for name in shown])
    ids = tuple(f"{name}/{number:03}.png" for name, size in sizes.items() for number in range(size))
    return FeatureSet(torch.tensor(rows).float(), labels, names, source, ids), truth


class TalkingDiscovery(ColumnDiscovery):
    """The same, saying how far it is."""

    def __init__(self, n_classes: Any = "auto", random_state: int = 0, progress: Any = None) -> None:
        super().__init__(n_classes, random_state)
        self.progress = progress

    def fit(self, X: torch.Tensor, y: CategoricalLabels) -> TalkingDiscovery:
        self.progress("4 dimensions", 2)
        super().fit(X, y)
        return self


def use_discoverer(patch: pytest.MonkeyPatch, method: str, discoverer: type) -> None:
    """Let a name of the registry stand for another class."""
    patch.setattr(fewshot.discovery, discoverer.__name__, discoverer, raising=False)
    patch.setitem(DISCOVERY_METHODS, method, DISCOVERY_METHODS[method]._replace(class_name=discoverer.__name__))
