"""The experiment of ``fewshot probe``: linear classifiers, neighbours and retrieval on one split of a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from fewshot_episodes.stratified import stratified_split
from torch import Tensor

from fewshot.checks import SettingError, check_choice
from fewshot.evaluation.held_out import check_test_rows, matched_labels
from fewshot.features import FeatureSet
from fewshot.metrics import mean_class_accuracy
from fewshot.probing import LinearSVM, LogisticRegression, neighbour_scores, parse_steps, retrieval_scores
from fewshot.probing.logistic import C_GRID

__all__ = [
    "LEAVE_ONE_OUT",
    "PROBES",
    "RETRIEVAL_MODES",
    "ProbeComparison",
    "ProbeData",
    "ProbeExperiment",
    "ProbeProgress",
    "ProbeRun",
    "run_probes",
]

LEAVE_ONE_OUT = "leave-one-out"
RETRIEVAL_MODES = (LEAVE_ONE_OUT, "gallery")

# Called after each fit of a probe with its name, the fits done, of how many, and the best held-out accuracy so far.
ProbeProgress = Callable[[str, int, int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeExperiment:
    """Settings of a comparison of probes on frozen features.

    Attributes
    ----------
    methods : tuple of str
        Names of `PROBES`.
    post : str
        Post-processing fitted on the training rows, see `fewshot.probing.parse_steps`.
    c, loss, multi_class
        Of svm, see `fewshot.probing.LinearSVM`.
    logistic_c : float, optional
        C of logistic. Default: selected on a tenth of the training rows.
    k : tuple of int
        Neighbours of knn; a result for each.
    temperature : float
        Divides the cosines of knn.
    retrieval_mode : {"leave-one-out", "gallery"}
        Each test row is searched among the other test rows, or among the training rows.
    test_fraction : float
        In (0, 1): share of each class to hold out, without test rows of their own.
    seed : int
        Decides the rows held out, for the test and to select C of logistic.

    Raises
    ------
    SettingError, ValueError
        If a method is unknown or given twice, or a word is unknown.
    """

    methods: tuple[str, ...] = ("svm",)
    post: str = "l2"
    c: float = 1.0
    loss: str = "squared-hinge"
    multi_class: str = "one-vs-rest"
    logistic_c: float | None = None
    k: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    retrieval_mode: str = LEAVE_ONE_OUT
    test_fraction: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for method in self.methods:
            check_choice("method", method, PROBES)
            if self.methods.count(method) > 1:
                raise SettingError("{methods} {0} is given twice", method)
        parse_steps(self.post)
        check_choice("retrieval mode", self.retrieval_mode, RETRIEVAL_MODES)
        self.svm()

    def svm(self) -> LinearSVM:
        """Return the linear support vector machine of the settings."""
        return LinearSVM(self.c, self.loss, self.multi_class)

    @property
    def needs_training_classes(self) -> bool:
        """Whether test classes must be training classes: always, except for leave-one-out retrieval alone."""
        return self.methods != ("retrieval",) or self.retrieval_mode != LEAVE_ONE_OUT


class ProbeRun(NamedTuple):
    """Scores of one probe.

    Attributes
    ----------
    method : str
    settings : str
        In words.
    scores : dict of str to float
        Accuracy and its mean over classes; or Rank-1, Rank-5, mAP and recall@4.
    options : dict of str to float
        C, the number of neighbours, or the test rows without a row to find.
    """

    method: str
    settings: str
    scores: dict[str, float]
    options: dict[str, float]

    def to_dict(self) -> dict[str, str | float]:
        """Return one flat row of JSON values."""
        return {"method": self.method, "settings": self.settings} | self.scores | self.options


@dataclass(frozen=True, slots=True, eq=False)
class ProbeComparison:
    """Results of all probes on the same rows.

    Attributes
    ----------
    experiment : ProbeExperiment
    train, test : FeatureSet
        The two sides, before post-processing.
    has_test : bool
        Whether test rows were given.
    post : str
        The post-processing in words.
    runs : tuple of ProbeRun
    notes : tuple of str
        Rows and classes that a score leaves out.
    """

    experiment: ProbeExperiment
    train: FeatureSet
    test: FeatureSet
    has_test: bool
    post: str
    runs: tuple[ProbeRun, ...]
    notes: tuple[str, ...]

    def protocol(self, pool: str = "the pool", test: str = "the test rows") -> str:
        """Describe the protocol, with names of the inputs."""
        if self.has_test:
            return f"trained on {pool}, tested on {test}"
        share = f"{100 * self.experiment.test_fraction:g} % of the rows of each class"
        return f"{share} held out at random (seed {self.experiment.seed})"


class ProbeData(NamedTuple):
    """Post-processed rows; labels number the training classes, for leave-one-out retrieval alone the test classes."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    n_classes: int


def run_probes(
    pool: FeatureSet,
    experiment: ProbeExperiment | None = None,
    *,
    test: FeatureSet | None = None,
    progress: ProbeProgress | None = None,
) -> ProbeComparison:
    """Compare probes on the same training and test rows.

    Parameters
    ----------
    pool : FeatureSet
        All rows labelled; the probes run on the device of its features.
    experiment : ProbeExperiment
    test : FeatureSet, optional
        Test rows, of the same extractor; classes are matched by name. Default: a share of the pool is held out.
    progress : callable, optional
        Called after each fit of logistic's selection of C.

    Raises
    ------
    SettingError, ValueError
        If the settings do not fit the pool.

    Examples
    --------
    >>> from fewshot.features import load_features
    >>> comparison = run_probes(load_features("digits"), ProbeExperiment(methods=("knn",), k=(5,)))
    >>> comparison.runs[0].scores["accuracy"] > 0.95
    True
    """
    experiment = experiment or ProbeExperiment()
    has_test = test is not None
    train, test = _split(pool, experiment) if test is None else (pool, test)
    check_test_rows(train, test)
    steps = parse_steps(experiment.post)
    fitted = steps.fit(train.features)
    test_labels = matched_labels(train, test) if experiment.needs_training_classes else test.labels
    data = ProbeData(fitted(train.features), train.labels, fitted(test.features), test_labels, train.n_classes)
    runs = tuple(run for name in experiment.methods for run in PROBES[name].run(experiment, data, progress))
    notes = tuple(_notes(train, test, runs, is_matched=experiment.needs_training_classes))
    return ProbeComparison(experiment, train, test, has_test, steps.describe(), runs, notes)


def _split(pool: FeatureSet, experiment: ProbeExperiment) -> tuple[FeatureSet, FeatureSet]:
    generator = torch.Generator().manual_seed(experiment.seed)
    held_out = stratified_split(pool.labels, experiment.test_fraction, generator=generator)
    return pool.select_rows(~held_out), pool.select_rows(held_out)


def _notes(train: FeatureSet, test: FeatureSet, runs: tuple[ProbeRun, ...], *, is_matched: bool) -> list[str]:
    """Describe the classes and rows that a score leaves out."""
    missing = sorted(set(train.class_names) - set(test.class_names)) if is_matched else []
    notes = []
    if missing:
        notes.append(
            f"{len(missing)} of the {train.n_classes} training classes have no test rows, such as {missing[0]!r}: they "
            "do not count in the mean per class"
        )
    n_unanswerable = sum(int(run.options.get("n_unanswerable", 0)) for run in runs)
    if n_unanswerable:
        notes.append(
            f"{n_unanswerable:,} test rows have no other row of their class to find: they do not count in retrieval"
        )
    return notes


def _svm(experiment: ProbeExperiment, data: ProbeData, progress: ProbeProgress | None) -> list[ProbeRun]:
    machine = experiment.svm()
    scores = machine.fit(data.train, data.train_labels)(data.test)
    return [ProbeRun("svm", machine.describe(), _accuracies(scores, data), {"c": experiment.c})]


def _logistic(experiment: ProbeExperiment, data: ProbeData, progress: ProbeProgress | None) -> list[ProbeRun]:
    regression = LogisticRegression(C_GRID if experiment.logistic_c is None else (experiment.logistic_c,))
    n_fits = len(regression.c_grid)
    fitted, c = regression.fit(
        data.train,
        data.train_labels,
        generator=torch.Generator().manual_seed(experiment.seed),
        progress=None if progress is None else lambda n_done, best: progress("logistic", n_done, n_fits, best),
    )
    settings = regression.describe() + ("" if n_fits == 1 else f": C = {c:.3g}")
    return [ProbeRun("logistic", settings, _accuracies(fitted(data.test), data), {"c": c})]


def _neighbours(experiment: ProbeExperiment, data: ProbeData, progress: ProbeProgress | None) -> list[ProbeRun]:
    scores = neighbour_scores(
        data.test, data.train, data.train_labels, experiment.k, temperature=experiment.temperature
    )
    settings = f"weighted vote of the nearest training rows in cosine, temperature {experiment.temperature:g}"
    return [
        ProbeRun("knn", settings, _accuracies(of_k, data), {"k": k})
        for k, of_k in zip(experiment.k, scores, strict=True)
    ]


def _retrieval(experiment: ProbeExperiment, data: ProbeData, progress: ProbeProgress | None) -> list[ProbeRun]:
    is_leave_one_out = experiment.retrieval_mode == LEAVE_ONE_OUT
    gallery, labels = (data.test, data.test_labels) if is_leave_one_out else (data.train, data.train_labels)
    scores = retrieval_scores(data.test, data.test_labels, gallery, labels, is_leave_one_out=is_leave_one_out)
    among = f"the other {len(gallery) - 1:,} test rows" if is_leave_one_out else f"{len(gallery):,} training rows"
    settings = f"each of {len(data.test):,} test rows looked for among {among}, by Euclidean distance"
    return [ProbeRun("retrieval", settings, scores.means(), {"n_unanswerable": scores.n_unanswerable})]


def _accuracies(scores: Tensor, data: ProbeData) -> dict[str, float]:
    predictions = scores.argmax(-1)
    return {
        "accuracy": float((predictions == data.test_labels).double().mean()),
        "mean_class_accuracy": float(mean_class_accuracy(predictions, data.test_labels, data.n_classes)),
    }


class Probe(NamedTuple):
    """A probe: its function, and the settings of `ProbeExperiment` that are of use to it alone."""

    run: Callable[[ProbeExperiment, ProbeData, ProbeProgress | None], list[ProbeRun]]
    options: tuple[str, ...]


PROBES: dict[str, Probe] = {
    "svm": Probe(_svm, ("c", "loss", "multi_class")),
    "logistic": Probe(_logistic, ("logistic_c",)),
    "knn": Probe(_neighbours, ("k", "temperature")),
    "retrieval": Probe(_retrieval, ("retrieval_mode",)),
}
