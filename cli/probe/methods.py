"""What each method of ``fewshot probe`` makes of training and test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.metrics.classification import mean_class_accuracy
from fewshot.probing import LinearSVM, LogisticRegression, neighbour_scores, retrieval_scores
from fewshot.probing.logistic import C_GRID

from ..shared import output

__all__ = ["LEAVE_ONE_OUT", "PROBES", "ProbeData"]

LEAVE_ONE_OUT = "leave-one-out"
Row = dict[str, Any]


class ProbeData(NamedTuple):
    """Post-processed rows, and labels that number the training classes, or, for leave-one-out, the test classes."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    n_classes: int


def _svm(settings: Mapping[str, Any], data: ProbeData) -> list[Row]:
    machine = LinearSVM(settings["c"], settings["loss"], settings["multi_class"])
    scores = machine.fit(data.train, data.train_labels)(data.test)
    return [_classified("svm", scores, data) | {"settings": machine.describe(), "c": settings["c"]}]


def _logistic(settings: Mapping[str, Any], data: ProbeData) -> list[Row]:
    regression = LogisticRegression(C_GRID if settings["logistic_c"] is None else (settings["logistic_c"],))
    with output.Progress("fits", is_quiet=settings["is_quiet"]) as progress:
        progress.start("logistic", len(regression.c_grid))
        fitted, c = regression.fit(
            data.train,
            data.train_labels,
            generator=torch.Generator().manual_seed(settings["seed"]),
            progress=lambda n_done, best: progress.update(n_done, f"held out {100 * best:.1f} %"),
        )
    words = regression.describe() + ("" if len(regression.c_grid) == 1 else f": C = {c:.3g}")
    return [_classified("logistic", fitted(data.test), data) | {"settings": words, "c": c}]


def _neighbours(settings: Mapping[str, Any], data: ProbeData) -> list[Row]:
    scores = neighbour_scores(
        data.test, data.train, data.train_labels, settings["k"], temperature=settings["temperature"]
    )
    words = f"weighted vote of the nearest training rows in cosine, temperature {settings['temperature']:g}"
    return [
        _classified("knn", of_k, data) | {"settings": words, "k": k}
        for k, of_k in zip(settings["k"], scores, strict=True)
    ]


def _retrieval(settings: Mapping[str, Any], data: ProbeData) -> list[Row]:
    is_leave_one_out = settings["retrieval_mode"] == LEAVE_ONE_OUT
    gallery, labels = (data.test, data.test_labels) if is_leave_one_out else (data.train, data.train_labels)
    scores = retrieval_scores(data.test, data.test_labels, gallery, labels, is_leave_one_out=is_leave_one_out)
    among = f"the other {len(gallery) - 1:,} test rows" if is_leave_one_out else f"{len(gallery):,} training rows"
    words = f"each of {len(data.test):,} test rows looked for among {among}, by Euclidean distance"
    return [{"method": "retrieval", "settings": words, "n_unanswerable": scores.n_unanswerable} | scores.means()]


def _classified(name: str, scores: Tensor, data: ProbeData) -> Row:
    answers = scores.argmax(-1)
    return {
        "method": name,
        "accuracy": float((answers == data.test_labels).double().mean()),
        "mean_class_accuracy": float(mean_class_accuracy(answers, data.test_labels, data.n_classes)),
    }


PROBES: dict[str, Callable[[Mapping[str, Any], ProbeData], list[Row]]] = {
    "svm": _svm,
    "logistic": _logistic,
    "knn": _neighbours,
    "retrieval": _retrieval,
}
