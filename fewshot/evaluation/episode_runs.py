"""Methods compared on few-shot episodes of a pool: a run for each regime and number of shots, and its records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from fewshot_episodes import EpisodeSampler, MetaDatasetSampler

from fewshot.checks import SettingError
from fewshot.episodic.method import Method
from fewshot.episodic.simple_shot import SimpleShot
from fewshot.evaluation.episode_experiment import EpisodeExperiment, Regime
from fewshot.evaluation.episodes import Evaluation, evaluate_episodes
from fewshot.evaluation.fitted_methods import (
    FittedMethod,
    check_columns,
    check_unseen,
    fitted_by_name,
    warn_of_other_features,
)
from fewshot.features import FeatureSet
from fewshot.metrics.comparison import Standing
from fewshot.registry.episodic import build_method

__all__ = ["EpisodeDifference", "EpisodeProgress", "EpisodeRecord", "EpisodeResults", "EpisodeRun", "run_episodes"]

# Called as a run begins and after each batch: the run in words (empty if it is the only one), the number of episodes
# done and each method's running mean accuracy.
EpisodeProgress = Callable[[str, int, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """One method's result in one run.

    Attributes
    ----------
    method, settings : str
        The method as it was named, and its settings in words.
    is_transductive : bool
    n_way, n_shot, query_distribution, n_effective_way, n_query, n_query_total, dirichlet_concentration
        Of the run, as in `EpisodeExperiment`; None where they are drawn or do not apply.
    is_disjoint : bool
        Whether no query is a support item.
    protocol : str
        The draw of the episodes in words.
    accuracy, half_width : float
        Mean over the episodes, and the half-width of its 95 % interval.
    n_episodes, n_queries, n_leaked, n_leaking_episodes, episode_hash
        See `fewshot.evaluation.episodes.Evaluation`.
    skipped_classes : tuple of str
        Classes with too few items.
    seconds : float
        Wall-clock time in the method.
    warnings : tuple of str
    behind_best : Standing
        The paired difference to the best method of the run.
    """

    method: str
    settings: str
    is_transductive: bool
    n_way: int | None
    n_shot: int | None
    query_distribution: str | None
    n_effective_way: int | None
    n_query: int | None
    n_query_total: int | None
    dirichlet_concentration: float | None
    is_disjoint: bool
    protocol: str
    accuracy: float
    half_width: float
    n_episodes: int
    n_queries: int
    n_leaked: int
    n_leaking_episodes: int
    episode_hash: str
    skipped_classes: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]
    behind_best: Standing

    @property
    def regime(self) -> tuple[str | None, int | None]:
        """The query distribution and the number of ways with queries."""
        return self.query_distribution, self.n_effective_way


class EpisodeDifference(NamedTuple):
    """The paired difference of a method's accuracy to that of the first method, in one run, with its 95 % interval."""

    method: str
    against: str
    query_distribution: str | None
    n_effective_way: int | None
    n_shot: int | None
    mean: float
    half_width: float

    @property
    def regime(self) -> tuple[str | None, int | None]:
        """The query distribution and the number of ways with queries."""
        return self.query_distribution, self.n_effective_way


class EpisodeRun(NamedTuple):
    """The outcome at one regime and number of shots.

    Attributes
    ----------
    regime : Regime
    n_way, n_shot : int or None
        None for a protocol that draws them.
    is_disjoint : bool
    protocol : str
        The draw of the episodes in words.
    skipped_classes : tuple of str
        Classes with too few items.
    evaluation : Evaluation
    """

    regime: Regime
    n_way: int | None
    n_shot: int | None
    is_disjoint: bool
    protocol: str
    skipped_classes: tuple[str, ...]
    evaluation: Evaluation

    def records(self, methods: Mapping[str, Method]) -> list[EpisodeRecord]:
        """Return the record of each method."""
        standings = self.evaluation.behind_best()
        return [self._record(name, method, standings[name]) for name, method in methods.items()]

    def _record(self, name: str, method: Method, standing: Standing) -> EpisodeRecord:
        scores, evaluation = self.evaluation.scores[name], self.evaluation
        mean, half_width = scores.interval
        return EpisodeRecord(
            method=name,
            settings=method.describe(),
            is_transductive=method.is_transductive,
            n_way=self.n_way,
            n_shot=self.n_shot,
            **self.regime._asdict(),
            is_disjoint=self.is_disjoint,
            protocol=self.protocol,
            accuracy=mean,
            half_width=half_width,
            n_episodes=evaluation.n_episodes,
            n_queries=evaluation.n_queries,
            n_leaked=evaluation.n_leaked,
            n_leaking_episodes=evaluation.n_leaking_episodes,
            episode_hash=evaluation.episode_hash,
            skipped_classes=self.skipped_classes,
            seconds=scores.seconds,
            warnings=scores.warnings,
            behind_best=standing,
        )

    def differences(self) -> list[EpisodeDifference]:
        """Return the paired difference of each method to the first one."""
        first, *others = self.evaluation.scores
        return [
            EpisodeDifference(
                name,
                first,
                self.regime.query_distribution,
                self.regime.n_effective_way,
                self.n_shot,
                *self.evaluation.scores[name].difference(self.evaluation.scores[first]),
            )
            for name in others
        ]


class EpisodeResults(NamedTuple):
    """The outcome of `run_episodes`.

    Attributes
    ----------
    methods : dict of str to Method
        The methods that ran, by name.
    runs : tuple of EpisodeRun
    """

    methods: dict[str, Method]
    runs: tuple[EpisodeRun, ...]

    def records(self) -> list[EpisodeRecord]:
        """Return the record of each method in each run, run by run."""
        return [record for run in self.runs for record in run.records(self.methods)]

    def differences(self) -> list[EpisodeDifference]:
        """Return the paired differences to the first method, run by run."""
        return [difference for run in self.runs for difference in run.differences()]


def run_episodes(
    pool: FeatureSet,
    experiment: EpisodeExperiment | None = None,
    *,
    methods: Mapping[str, Method] | None = None,
    fitted: Sequence[FittedMethod] = (),
    base_features: FeatureSet | None = None,
    progress: EpisodeProgress | None = None,
) -> EpisodeResults:
    """Compare methods on the same few-shot episodes of a pool.

    Parameters
    ----------
    pool : FeatureSet
        All rows labelled; the methods run on the device of its features.
    experiment : EpisodeExperiment, optional
    methods : mapping of str to Method, optional
        Methods under the names that ``experiment.methods`` has for them; others are built from their text.
    fitted : sequence of FittedMethod
        Methods fitted on other classes, such as `trained_unem` and `fewshot.tuning.tuned_method` read them; each runs
        in place of the method of its name, or else after the others.
    base_features : FeatureSet, optional
        Features of other (base) classes, whose mean ``simpleshot`` subtracts before it normalises.
    progress : callable, optional

    Returns
    -------
    EpisodeResults

    Raises
    ------
    ValueError
        If a method is not known, a fitted one has seen some of the classes, or a setting does not fit the pool.

    Examples
    --------
    >>> from fewshot.features import load_features
    >>> experiment = EpisodeExperiment(methods=("nearest-prototype", "unem"), n_shot=(1,), n_episodes=40)
    >>> results = run_episodes(load_features("digits"), experiment)
    >>> [(record.method, round(record.accuracy, 2)) for record in results.records()]
    [('nearest-prototype', 0.77), ('unem', 0.82)]
    >>> results.differences()[0].mean > 0
    True
    """
    experiment = experiment or EpisodeExperiment()
    table = _methods(experiment, methods or {}, fitted, base_features, pool)
    runs = []
    samplers = experiment.samplers(pool)
    for (regime, n_shot), sampler in samplers.items():
        label = _label(regime, n_shot, len(experiment.regimes()), len(samplers))
        evaluation = _evaluated(table, pool, sampler, experiment, label, progress)
        skipped = tuple(pool.class_names[class_id] for class_id in sampler.skipped_class_ids)
        n_way = sampler.n_way if isinstance(sampler, EpisodeSampler) else None
        runs.append(EpisodeRun(regime, n_way, n_shot, sampler.is_disjoint, sampler.describe(), skipped, evaluation))
    return EpisodeResults(table, tuple(runs))


def _methods(
    experiment: EpisodeExperiment,
    given: Mapping[str, Method],
    fitted: Sequence[FittedMethod],
    base_features: FeatureSet | None,
    pool: FeatureSet,
) -> dict[str, Method]:
    """Return the methods to run, on the device of the pool."""
    ready = {text: given[text] for text in experiment.methods if text in given}
    if base_features is not None:
        ready["simpleshot"] = _centered(base_features, pool, experiment)
    by_name = fitted_by_name(fitted)
    for each in fitted:
        check_unseen(each, pool.class_names, allow_seen_classes=experiment.allow_seen_classes)
        warn_of_other_features(each, pool.source)
        ready[each.text] = each.method
    methods = {text: ready[text] if text in ready else build_method(text) for text in _texts(experiment, by_name)}
    check_columns(methods, pool)
    for method in methods.values():
        if isinstance(method, torch.nn.Module):
            method.to(pool.features.device)
    return methods


def _texts(experiment: EpisodeExperiment, fitted: Mapping[str, FittedMethod]) -> list[str]:
    """Return the methods to run: fitted ones in place of those of their names, or else after the others."""
    placed = [fitted[text].text if text in fitted else text for text in experiment.methods]
    return list(dict.fromkeys([*placed, *(each.text for each in fitted.values())]))


def _centered(base: FeatureSet, pool: FeatureSet, experiment: EpisodeExperiment) -> Method:
    """Return SimpleShot with the mean of the base classes."""
    if "simpleshot" not in experiment.methods:
        raise SettingError("{base_features} gives a mean to the method simpleshot: add it to {methods}")
    if base.features.shape[1] != pool.features.shape[1]:
        raise SettingError(
            "{base_features} has {0} features a row, the features to evaluate {1}: take both from one extractor",
            base.features.shape[1],
            pool.features.shape[1],
        )
    return SimpleShot(base.features.mean(0))


def _evaluated(
    methods: Mapping[str, Method],
    pool: FeatureSet,
    sampler: EpisodeSampler | MetaDatasetSampler,
    experiment: EpisodeExperiment,
    label: str,
    progress: EpisodeProgress | None,
) -> Evaluation:
    def report(n_done: int, means: Mapping[str, float]) -> None:
        if progress is not None:
            progress(label, n_done, means)

    report(0, {})
    return evaluate_episodes(
        methods,
        pool.features,
        sampler,
        n_episodes=experiment.n_episodes,
        batch_size=experiment.batch_size,
        generator=torch.Generator().manual_seed(experiment.seed),
        progress=report,
    )


def _label(regime: Regime, n_shot: int | None, n_regimes: int, n_runs: int) -> str:
    parts = [*([str(regime)] if n_regimes > 1 else []), *([f"{n_shot}-shot"] if n_runs > 1 else [])]
    return ", ".join(parts)
