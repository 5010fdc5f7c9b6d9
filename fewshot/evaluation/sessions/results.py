"""Results of class-incremental sessions, and their means and intervals over the draws."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.metrics import (
    Interval,
    SessionScores,
    average_accuracy,
    average_harmonic_mean,
    generalized_accuracy,
    mean_interval,
    performance_drop,
)

__all__ = ["SessionResults"]


class SessionResults(NamedTuple):
    """Scores of one classifier on draws of sessions; an undefined score is NaN.

    Attributes
    ----------
    scores : SessionScores
        Each field (n_draws, n_sessions), float64.
    auroc, fpr_at_95 : Tensor (n_draws, n_sessions), float64
        Of the highest score as detector of seen classes: queries of seen classes are positive, those of classes that
        only later sessions bring negative; NaN in the last session.
    session_accuracy : Tensor (n_draws, n_sessions, n_sessions), float64
        At [draw, t, j] the accuracy after session t on the classes that session j brought; NaN for j > t.
    n_new_classes : Tensor (n_sessions,), int64
        New classes of each session; the first number is the base session's.
    learning_seconds, answering_seconds : Tensor (n_draws, n_sessions), float64
        Wall-clock time in the estimator.
    published_session0 : Tensor (n_draws,), float64, or None
        The published codes' accuracy of session 0: of the trained classifier or of the estimator, **whichever is better
        on the test rows**. Only where the trained classifier's logits were given; it enters no other score.
    """

    scores: SessionScores
    auroc: Tensor
    fpr_at_95: Tensor
    session_accuracy: Tensor
    n_new_classes: Tensor
    learning_seconds: Tensor
    answering_seconds: Tensor
    published_session0: Tensor | None

    @property
    def n_draws(self) -> int:
        """Draws of the sessions."""
        return self.auroc.shape[0]

    @property
    def n_sessions(self) -> int:
        """Sessions of a draw, the base session included."""
        return self.auroc.shape[1]

    def per_session(self) -> dict[str, Tensor]:
        """Return the scores by name, each (n_draws, n_sessions)."""
        return self.scores._asdict() | {"auroc": self.auroc, "fpr_at_95": self.fpr_at_95}

    def summary(self) -> dict[str, Tensor]:
        """Return the scores over all sessions of a draw by name, each (n_draws,).

        The entries that begin with ``published_`` take ``published_session0`` for session 0 and so compare two
        classifiers; they exist only where it does.
        """
        overall, n_new = self.scores.overall, self.n_new_classes
        base_weight = int(n_new[0]) // int(n_new[1]) if self.n_sessions > 1 else 0
        summary = {
            "average_accuracy": average_accuracy(overall),
            "performance_drop": performance_drop(overall),
            "average_harmonic_mean": average_harmonic_mean(self.scores.harmonic_mean),
            "generalized_accuracy": generalized_accuracy(self.session_accuracy, base_weight),
        }
        if self.published_session0 is not None:
            published = torch.cat([self.published_session0[:, None], overall[:, 1:]], dim=1)
            summary["published_session0"] = self.published_session0
            summary["published_average_accuracy"] = average_accuracy(published)
            summary["published_performance_drop"] = performance_drop(published)
        return summary

    def mean_interval(self) -> dict[str, tuple[Interval, ...]]:
        """Return mean and 95 % interval over the draws, by name, one per session."""
        return {name: tuple(map(mean_interval, values.T)) for name, values in self.per_session().items()}

    def summary_interval(self) -> dict[str, Interval]:
        """Return mean and 95 % interval over the draws of each entry of the summary."""
        return {name: mean_interval(values) for name, values in self.summary().items()}

    def difference(self, other: SessionResults) -> dict[str, tuple[Interval, ...]]:
        """Return mean and 95 % interval of the paired difference, self minus other, on the same draws."""
        theirs = other.per_session()
        return {
            name: tuple(map(mean_interval, (values - theirs[name]).T)) for name, values in self.per_session().items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all results as JSON values; an undefined number is None."""
        draws = {
            **self.per_session(),
            "session_accuracy": self.session_accuracy,
            "learning_seconds": self.learning_seconds,
            "answering_seconds": self.answering_seconds,
            **self.summary(),
        }
        return {
            "n_draws": self.n_draws,
            "n_sessions": self.n_sessions,
            "n_new_classes": self.n_new_classes.tolist(),
            "per_session": {name: [_plain(i._asdict()) for i in row] for name, row in self.mean_interval().items()},
            "summary": {name: _plain(interval._asdict()) for name, interval in self.summary_interval().items()},
            "draws": {name: _plain(values.tolist()) for name, values in draws.items()},
        }


def _plain(value: Any) -> Any:
    """Replace NaN, which JSON cannot hold, by None."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
