"""The experiment of ``fewshot calibrate``: incremental methods on the same class-incremental sessions of a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fewshot_episodes import SESSION_PROTOCOLS, incremental_sessions
from torch import Tensor

from fewshot.checks import SettingError, check_choice
from fewshot.evaluation.sessions.draws import (
    Draws,
    SessionSizes,
    joined_rows,
    listed_sessions,
    session_sizes,
)
from fewshot.evaluation.sessions.loop import evaluate_sessions
from fewshot.evaluation.sessions.results import SessionResults
from fewshot.features import FeatureSet
from fewshot.metrics import Interval, mean_interval
from fewshot.registry.incremental import build_classifier

__all__ = [
    "ALL",
    "BASE_SHARE",
    "CLASS_ORDERS",
    "CUSTOM",
    "N_SHOT",
    "N_WAY",
    "RunProgress",
    "SessionComparison",
    "SessionExperiment",
    "SessionRun",
    "run_sessions",
]

ALL, CUSTOM = "all", "custom"
CLASS_ORDERS = ("file", "random")
BASE_SHARE, N_WAY, N_SHOT = 0.6, 5, 5

# Called at the start of a run and after each session with the run's label, the sessions done, and of how many.
RunProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExperiment:
    """Settings of a comparison of incremental methods on class-incremental sessions.

    Attributes
    ----------
    methods : tuple of str
        Each a name of ``fewshot.INCREMENTAL_METHODS``, with options as in ``"teen:shift_weight=0.3"``. Paired
        differences are to the first.
    protocol : str
        A published split of `fewshot_episodes.SESSION_PROTOCOLS`: sets base classes, classes per session and number of
        sessions, and the default of ``n_shot``. Or ``"custom"``.
    n_base : int, optional
        Classes of the base session. Default 60 % of the classes.
    n_way : int or "all", optional
        New classes per later session; "all": one session of all of them. Default 5.
    n_shot : tuple of int, optional
        Training rows of each new class; a run for each. Default (5,), or the protocol's.
    n_sessions : int, optional
        Sessions after the base session. Default: until the classes run out.
    n_draws : int
        Draws of the rows; intervals are over these.
    class_order : {"file", "random"}
        Whether the base classes are the pool's first, or others in each draw.
    test_fraction : float
        In (0, 1): share of each base class's rows that are queries, without test rows of their own. Of a new class, all
        rows but its shots.
    seed : int
        Decides the draws.

    Raises
    ------
    SettingError, ValueError
        If settings exclude each other, or a method is unknown or given twice.
    """

    methods: tuple[str, ...] = ("ncm", "teen", "teen-auto")
    protocol: str = CUSTOM
    n_base: int | None = None
    n_way: int | str | None = None
    n_shot: tuple[int, ...] | None = None
    n_sessions: int | None = None
    n_draws: int = 10
    class_order: str = "file"
    test_fraction: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for method in self.methods:
            build_classifier(method)
            if self.methods.count(method) > 1:
                raise SettingError("{methods}: {0} is given twice", method)
        check_choice("protocol", self.protocol, [*SESSION_PROTOCOLS, CUSTOM])
        check_choice("class order", self.class_order, CLASS_ORDERS)
        if isinstance(self.n_way, str):
            check_choice("number of ways", self.n_way, [ALL])
        if self.n_draws < 1:
            raise SettingError("{n_draws} must be at least 1, got {0}", self.n_draws)
        if self.protocol != CUSTOM and self._own_sizes():
            raise SettingError("{protocol} {0} sets the classes: leave out " + self._own_sizes(), self.protocol)

    def sizes(self, n_classes: int) -> SessionSizes:
        """Return the sizes of the sessions of a pool of ``n_classes``.

        Raises
        ------
        SettingError
            If the protocol needs more classes.
        """
        if self.protocol != CUSTOM:
            n_base, n_way, n_shot, n_sessions = SESSION_PROTOCOLS[self.protocol]
            n_needed = n_base + n_sessions * n_way
            if n_needed > n_classes:
                raise SettingError(
                    "{protocol} {0} needs {1} classes, {pool} has {2}: leave it out, and give {n_base} and {n_way}",
                    self.protocol,
                    n_needed,
                    n_classes,
                )
            return SessionSizes(n_base, n_way, self.n_shot or (n_shot,), n_sessions)
        n_base = self.n_base or max(1, min(round(BASE_SHARE * n_classes), n_classes - 1))
        n_way = max(1, n_classes - n_base) if isinstance(self.n_way, str) else self.n_way or N_WAY
        return SessionSizes(n_base, n_way, self.n_shot or (N_SHOT,), self.n_sessions)

    def draw(self, rows: FeatureSet, is_test: Tensor | None, sizes: SessionSizes, n_shot: int) -> Draws:
        """Draw the sessions of one number of shots, queries from the rows marked by ``is_test`` (n,) if given."""
        generator = torch.Generator().manual_seed(self.seed)
        return [
            incremental_sessions(
                rows.labels,
                sizes.n_base,
                sizes.n_way,
                n_shot,
                n_sessions=sizes.n_sessions,
                is_test=is_test,
                test_fraction=self.test_fraction,
                class_order="random" if self.class_order == "random" else None,
                class_names=rows.class_names,
                generator=generator,
            )
            for _ in range(self.n_draws)
        ]

    def _own_sizes(self) -> str:
        """List the placeholders of the sizes that were set."""
        sizes = {"n_base": self.n_base, "n_way": self.n_way, "n_sessions": self.n_sessions}
        return ", ".join(f"{{{name}}}" for name, value in sizes.items() if value is not None)


class SessionRun(NamedTuple):
    """Results of one method with one number of shots.

    Attributes
    ----------
    method : str
        As in the settings.
    classifier : str
        The classifier with its options.
    n_shot : int or None
        None with published lists, which set it.
    results : SessionResults
    """

    method: str
    classifier: str
    n_shot: int | None
    results: SessionResults

    @property
    def average_auroc(self) -> Interval:
        """AUROC of seen classes against those of later sessions, averaged over all sessions but the last."""
        return mean_interval(self.results.auroc[:, :-1].mean(1))

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        head = {"method": self.method, "settings": self.classifier, "n_shot": self.n_shot}
        return head | self.results.to_dict() | {"average_auroc": self.average_auroc._asdict()}


@dataclass(frozen=True, slots=True)
class SessionComparison:
    """Results of all methods on the same draws.

    Attributes
    ----------
    experiment : SessionExperiment
    sizes : SessionSizes or None
        None with published lists.
    runs : tuple of SessionRun
        By number of shots, then method, in the order of the settings.
    classes : str
        Number of classes of each session in words.
    has_test : bool
        Whether test rows were given.
    """

    experiment: SessionExperiment
    sizes: SessionSizes | None
    runs: tuple[SessionRun, ...]
    classes: str
    has_test: bool

    def differences(self) -> dict[tuple[int | None, str], Mapping[str, tuple[Interval, ...]]]:
        """Return the paired differences to the first method by shots and method: each score, session by session."""
        first = self.experiment.methods[0]
        reference = {run.n_shot: run.results for run in self.runs if run.method == first}
        return {
            (run.n_shot, run.method): run.results.difference(reference[run.n_shot])
            for run in self.runs
            if run.method != first
        }

    def difference_rows(self) -> list[dict[str, Any]]:
        """Return the paired differences as JSON values, a row for each method and number of shots."""
        return [
            {
                "method": method,
                "against": self.experiment.methods[0],
                "n_shot": n_shot,
                "per_session": {name: [interval._asdict() for interval in row] for name, row in scores.items()},
            }
            for (n_shot, method), scores in self.differences().items()
        ]

    def protocol(self, test: str = "the test rows", index_files: str = "the index files") -> str:
        """Describe the protocol in clauses separated by semicolons, with names of the inputs."""
        if self.sizes is None:
            return f"{self.classes}; rows as listed in {index_files}; tested on {test}"
        own, shots = self.experiment, ", ".join(map(str, self.sizes.n_shot))
        order = "in the file's order" if own.class_order == "file" else "in a random order in each draw"
        held_out = (
            f"asked about {100 * own.test_fraction:g} % of the rows of each base class, and all rows of a new class "
            "but its shots"
        )
        clauses = [
            f"{'' if own.protocol == CUSTOM else f'{own.protocol}: '}{self.classes}",
            f"{shots} {'shot' if shots == '1' else 'shots'} of each new class, classes {order}",
            f"{own.n_draws:,} {'draw' if own.n_draws == 1 else 'draws'} of the rows (seed {own.seed})",
            f"tested on {test}" if self.has_test else held_out,
        ]
        return "; ".join(clauses)


def run_sessions(
    pool: FeatureSet,
    experiment: SessionExperiment | None = None,
    *,
    test: FeatureSet | None = None,
    index_lines: Sequence[Sequence[str]] | None = None,
    progress: RunProgress | None = None,
) -> SessionComparison:
    """Compare incremental methods on the same draws of sessions.

    Parameters
    ----------
    pool : FeatureSet
        All rows labelled; the classifiers run on the device of its features.
    experiment : SessionExperiment
    test : FeatureSet, optional
        Query rows, of the same extractor; classes are matched by name. Default: rows of the pool that no session
        learns from.
    index_lines : sequence of sequence of str, optional
        Published lists of the rows of each session, as from `read_index_files`: they set classes and shots, and need
        ``test``.
    progress : callable, optional
        Called at the start of a run and after each session.

    Raises
    ------
    SettingError, ValueError
        If the settings do not fit the pool.

    Examples
    --------
    >>> from fewshot.features import load_features
    >>> settings = SessionExperiment(methods=("ncm",), n_draws=2, n_way=2)
    >>> comparison = run_sessions(load_features("digits"), settings)
    >>> comparison.classes, tuple(comparison.runs[0].results.scores.base.shape)
    ('6 base classes, then 2 sessions of 2 new ones', (2, 3))
    """
    experiment = experiment or SessionExperiment()
    sizes = experiment.sizes(pool.n_classes) if index_lines is None else None
    rows, is_test = joined_rows(pool, test)
    draws: dict[int | None, Draws] = {}
    if index_lines is not None:
        draws[None] = [listed_sessions(rows, is_test, index_lines)]
    if sizes is not None:
        draws |= {n_shot: experiment.draw(rows, is_test, sizes, n_shot) for n_shot in sizes.n_shot}
    runs = tuple(
        _run(rows, own, method, n_shot, progress) for n_shot, own in draws.items() for method in experiment.methods
    )
    classes = session_sizes(next(iter(draws.values()))[0])
    return SessionComparison(experiment, sizes, runs, classes, has_test=test is not None)


def _run(rows: FeatureSet, draws: Draws, method: str, n_shot: int | None, progress: RunProgress | None) -> SessionRun:
    label = method if n_shot is None else f"{method}, {n_shot}-shot"
    n_sessions = len(draws[0])

    def report(n_done: int) -> None:
        if progress is not None:
            progress(label, n_done, len(draws) * n_sessions)

    report(0)
    results = evaluate_sessions(
        lambda: build_classifier(method),
        rows.features,
        rows.labels,
        draws,
        progress=lambda draw, session: report(draw * n_sessions + session + 1),
    )
    return SessionRun(method, repr(build_classifier(method)), n_shot, results)
