"""The evaluation loop: an incremental classifier on draws of sessions, scored after each session."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from fewshot_episodes import Session
from torch import Tensor

from fewshot.evaluation.sessions.results import SessionResults
from fewshot.metrics import (
    SessionScores,
    auroc,
    confusion_matrix,
    false_positive_rate_at,
    session_accuracies,
    session_scores,
)

__all__ = ["SessionEstimator", "SessionProgress", "evaluate_sessions"]

# Called after each session with the number of the draw and of the session, both from 0.
SessionProgress = Callable[[int, int], None]


class SessionEstimator(Protocol):
    """A classifier that learns classes session by session; ``classes_`` names the columns of its scores.

    Where it has ``class_scores``, these are used in place of ``decision_function``: they keep shape (n, 2) for two
    classes, for which scikit-learn's ``decision_function`` returns the difference (n,).
    """

    classes_: Any

    def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
        """Learn the base session."""

    def partial_fit(self, X: Any, y: Any) -> Any:  # noqa: N803
        """Learn a later session."""

    def decision_function(self, X: Any) -> Any:  # noqa: N803
        """Score (n, n_features) against every class learned: (n, n_classes), the higher the likelier."""


class _Measured(NamedTuple):
    """Scores of one session; stacked, first over sessions and then over draws."""

    scores: Tensor
    open_set: Tensor
    session_accuracy: Tensor
    seconds: Tensor


def evaluate_sessions(
    build: Callable[[], SessionEstimator],
    features: Tensor,
    labels: Tensor,
    draws: Iterable[Sequence[Session]],
    *,
    batch_size: int = 4096,
    trained_logits: Tensor | None = None,
    progress: SessionProgress | None = None,
) -> SessionResults:
    """Evaluate an incremental classifier after each session, on queries of all classes seen so far.

    Parameters
    ----------
    build : callable
        Builds a new estimator, once per draw: ``fit`` learns the base session, ``partial_fit`` each later one, and the
        class of the highest score is predicted. It is given tensors on the device of the features.
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        The labels that the sessions were drawn from. The estimator sees those of support rows only.
    draws : iterable of sequences of Session
        Each as from :func:`fewshot_episodes.incremental_sessions`, with equally many classes per session.
    batch_size : int
        Queries per chunk. Bounds the memory; changes no result of an estimator that scores each query alone.
    trained_logits : Tensor (n, n_base), optional
        A trained classifier's logits of all rows, columns in the order of the base session's ``new_class_ids``, which
        must be the same in all draws. Needed for ``published_session0``.
    progress : callable, optional
        Called after each session with the numbers of draw and session.

    Returns
    -------
    SessionResults

    Raises
    ------
    ValueError
        If there is no draw, draws differ in classes per session, a session was drawn from other labels or learns from
        a test row, or an estimator knows other classes than it was shown or does not return one score per query and
        class.

    Notes
    -----
    Session 0 is measured with the same estimator as the later ones. Nothing is selected on test rows, except
    ``published_session0``.

    Source
    ------
    [TEEN] released code: test set of a session, base and new accuracy, and the better of two classifiers in session 0.

    Examples
    --------
    >>> from fewshot_episodes import incremental_sessions
    >>> class LastSeen:
    ...     def fit(self, X, y):
    ...         self.classes_ = y.unique()
    ...     def partial_fit(self, X, y):
    ...         self.classes_ = torch.cat([self.classes_, y.unique()])
    ...     def decision_function(self, X):
    ...         return X[:, self.classes_]
    >>> labels = torch.arange(60) % 6
    >>> draw = incremental_sessions(labels, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    >>> evaluate_sessions(LastSeen, torch.eye(6)[labels], labels, [draw]).scores.harmonic_mean.tolist()
    [[nan, 1.0, 1.0]]
    """
    if len(features) != len(labels):
        raise ValueError(f"features must have one row for each of the {len(labels)} labels, got {len(features)} rows")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    labels = labels.cpu()
    measured: list[_Measured] = []
    first: Sequence[Session] = ()
    session0: list[Tensor] = []
    for number, draw in enumerate(draws):
        first = first or draw
        _check_draw(number, draw, first, labels)
        if trained_logits is not None:
            _check_trained(number, draw[0], first[0], trained_logits, len(labels))
            session0.append(_session0_accuracy(trained_logits, labels, draw[0]))
        measured.append(_measure_draw(build(), features, labels, draw, batch_size, number, progress))
    if not measured:
        raise ValueError("evaluation needs at least one draw of sessions, got none")
    scores, open_set, session_accuracy, seconds = map(torch.stack, zip(*measured, strict=True))
    named = SessionScores(*scores.unbind(-1))
    return SessionResults(
        scores=named,
        auroc=open_set[..., 0],
        fpr_at_95=open_set[..., 1],
        session_accuracy=session_accuracy,
        n_new_classes=torch.tensor(_n_new(first)),
        learning_seconds=seconds[..., 0],
        answering_seconds=seconds[..., 1],
        published_session0=torch.stack(session0).maximum(named.overall[:, 0]) if session0 else None,
    )


def _measure_draw(
    estimator: SessionEstimator,
    features: Tensor,
    labels: Tensor,
    draw: Sequence[Session],
    batch_size: int,
    number: int,
    progress: SessionProgress | None,
) -> _Measured:
    class_sessions = torch.repeat_interleave(torch.arange(len(draw)), torch.tensor(_n_new(draw)))
    found = []
    for i, session in enumerate(draw):
        started = time.perf_counter()
        rows = session.support_index
        learn = estimator.partial_fit if i else estimator.fit
        learn(features[rows.to(features.device)], labels[rows].to(features.device))
        learned = time.perf_counter()
        unknown = draw[-1].query_index
        unknown = unknown[~torch.isin(labels[unknown], session.seen_class_ids)]
        rows = torch.cat([session.query_index, unknown])
        n_base = len(draw[0].seen_class_ids)
        answers = _answers(estimator, features, rows, session.seen_class_ids, n_base, batch_size)
        seconds = torch.tensor([learned - started, time.perf_counter() - learned], dtype=torch.float64)
        found.append(_measure(answers, labels, session, class_sessions, len(draw), seconds))
        if progress is not None:
            progress(number, i)
    return _Measured(*map(torch.stack, zip(*found, strict=True)))


class _Answers(NamedTuple):
    """Predictions and highest scores of queries, those of seen classes first: three tensors (n,)."""

    predictions: Tensor
    novel_predictions: Tensor
    highest: Tensor


@torch.no_grad()
def _answers(
    estimator: SessionEstimator, features: Tensor, rows: Tensor, class_ids: Tensor, n_base: int, batch_size: int
) -> _Answers:
    """Predict the classes of queries as positions in ``class_ids``, in which the base classes come first."""
    columns = _columns(estimator, class_ids)
    parts = []
    for batch in torch.split(rows, batch_size):
        values = _class_scores(estimator, features[batch.to(features.device)], len(class_ids))
        values = values[:, columns.to(values.device)]
        highest, predictions = values.max(-1)
        novel = values[:, n_base:].argmax(-1) + n_base if len(class_ids) > n_base else predictions
        parts.append(_Answers(predictions.cpu(), novel.cpu(), highest.cpu()))
    return _Answers(*map(torch.cat, zip(*parts, strict=True)))


def _class_scores(estimator: SessionEstimator, queries: Tensor, n_classes: int) -> Tensor:
    """Score queries against every class: (n, n_classes)."""
    score = getattr(estimator, "class_scores", estimator.decision_function)
    values = torch.as_tensor(score(queries))
    if n_classes == 2 and values.dim() == 1:
        values = torch.stack([-values, values], dim=1) / 2
    if values.shape != (len(queries), n_classes):
        raise ValueError(
            f"the estimator must give one score per query and class, {(len(queries), n_classes)}, "
            f"got {tuple(values.shape)}"
        )
    if bool(values.isnan().any()):
        raise ValueError(f"the estimator gave {int(values.isnan().sum())} NaN scores after {n_classes} classes")
    return values


def _measure(
    answers: _Answers,
    labels: Tensor,
    session: Session,
    class_sessions: Tensor,
    n_sessions: int,
    seconds: Tensor,
) -> _Measured:
    n_queries, n_seen = len(session.query_index), len(session.seen_class_ids)
    ascending, place = session.seen_class_ids.sort()
    truth = place[torch.searchsorted(ascending, labels[session.query_index])]
    confusions = confusion_matrix(torch.stack(answers[:2])[:, :n_queries], truth.expand(2, -1), n_seen)
    class_sessions = class_sessions[:n_seen]
    scores = session_scores(confusions[0], class_sessions, novel_confusion=confusions[1])
    is_known = torch.arange(len(answers.highest)) < n_queries
    open_set = [measure(answers.highest, is_known) for measure in (auroc, false_positive_rate_at)]
    accuracies = session_accuracies(confusions[0], class_sessions, n_sessions)
    return _Measured(torch.stack(scores), torch.stack(open_set), accuracies, seconds)


def _columns(estimator: SessionEstimator, class_ids: Tensor) -> Tensor:
    """Return the column of the decision function for each class."""
    known, column = torch.as_tensor(estimator.classes_).cpu().sort()
    if not torch.equal(known, class_ids.sort().values):
        raise ValueError(
            f"the estimator's classes_ must be the {len(class_ids)} classes that it was shown, "
            f"{reprlib.repr(class_ids.sort().values.tolist())}, got {reprlib.repr(known.tolist())}"
        )
    return column[torch.searchsorted(known, class_ids)]


def _session0_accuracy(logits: Tensor, labels: Tensor, session: Session) -> Tensor:
    rows = session.query_index
    answers = session.new_class_ids[logits[rows.to(logits.device)].argmax(-1).cpu()]
    return (answers == labels[rows]).double().mean()


def _n_new(draw: Sequence[Session]) -> list[int]:
    return [len(session.new_class_ids) for session in draw]


def _check_draw(number: int, draw: Sequence[Session], first: Sequence[Session], labels: Tensor) -> None:
    if not draw or _n_new(draw) != _n_new(first):
        raise ValueError(
            f"draws must bring equally many classes per session: draw 0 brings {_n_new(first)}, "
            f"draw {number} {_n_new(draw)}"
        )
    for i, session in enumerate(draw):
        if bool(torch.isin(session.support_index, draw[-1].query_index).any()):
            raise ValueError(f"session {i} of draw {number} learns from rows that are test rows")
        parts = ((session.support_index, session.new_class_ids), (session.query_index, session.seen_class_ids))
        if not all(bool(torch.isin(labels[rows], class_ids).all()) for rows, class_ids in parts):
            raise ValueError(f"session {i} of draw {number} has rows of other classes: was it drawn from these labels?")


def _check_trained(number: int, session: Session, first: Session, trained_logits: Tensor, n_rows: int) -> None:
    if not torch.equal(session.new_class_ids, first.new_class_ids):
        raise ValueError(f"trained_logits need the same base classes in the same order, but draw {number} has others")
    wanted = (n_rows, len(session.new_class_ids))
    if trained_logits.shape != wanted:
        raise ValueError(
            f"trained_logits must have one row per label and one column per base class, {wanted}, "
            f"got shape {tuple(trained_logits.shape)}"
        )
