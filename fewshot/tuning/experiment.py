"""A method's options chosen on validation classes in one call: settings, regimes, candidates and search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from fewshot_episodes import EpisodeSampler

from fewshot.checks import SettingError
from fewshot.evaluation.episode_experiment import DIRICHLET_CONCENTRATION, Regime, regimes
from fewshot.evaluation.fitted_methods import check_columns
from fewshot.features import FeatureSet
from fewshot.registry.episodic import build_method
from fewshot.tuning.grids import Candidate, Value, count_combinations, tuning_candidates
from fewshot.tuning.search import Tuning, TuningProgress, tune

__all__ = ["TuningExperiment", "TuningResult", "run_tuning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningExperiment:
    """Settings of the choice of a method's options.

    Attributes
    ----------
    method : str
        ``name`` or ``name:option=value,...``; options given here are held at their values.
    grid : mapping of str to sequence, optional
        Values to try for each option. Default: the method's own, see `fewshot.tuning.grids.default_grid`.
    n_candidates : int
        At most so many combinations: of more, the default and others drawn at random.
    n_way, n_shot, query_distribution, n_effective_way, n_query, n_query_total, dirichlet_concentration
        Of the episodes, as in `fewshot.evaluation.EpisodeExperiment`; the accuracy is averaged over all regimes.
    n_episodes : int
        Per regime and number of shots.
    batch_size : int
        Most episodes at once. Sets the peak memory and changes no result.
    on_small_class : {"error", "skip"}
    seed : int
        Decides the episodes, and which combinations are tried.
    candidates : tuple of Candidate
        The combinations to try, the default first; follows from the settings.
    n_combinations : int
        The number of all of them.

    Raises
    ------
    ValueError
        If the method or the grid does not fit, see `fewshot.tuning_candidates`.

    Examples
    --------
    >>> TuningExperiment(method="soft-kmeans", grid={"n_layers": [1, 5]}).candidates[1].method
    'soft-kmeans:n_layers=1'
    """

    method: str
    grid: Mapping[str, Sequence[Value]] | None = None
    n_candidates: int = 100
    n_way: int = 5
    n_shot: tuple[int, ...] = (1, 5)
    query_distribution: tuple[str, ...] = ("balanced", "dirichlet")
    n_effective_way: tuple[int, ...] | None = None
    n_query: int | None = None
    n_query_total: int | None = None
    dirichlet_concentration: float = DIRICHLET_CONCENTRATION
    n_episodes: int = 200
    batch_size: int = 64
    on_small_class: str = "error"
    seed: int = 0
    candidates: tuple[Candidate, ...] = field(init=False, repr=False, compare=False)
    n_combinations: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("n_shot", "query_distribution"):
            if not getattr(self, name):
                raise SettingError(f"{{{name}}} needs at least one value")
        generator = torch.Generator().manual_seed(self.seed)
        found = tuning_candidates(self.method, self.grid, n_candidates=self.n_candidates, generator=generator)
        object.__setattr__(self, "candidates", tuple(found))
        object.__setattr__(self, "n_combinations", count_combinations(self.method, self.grid))

    @property
    def n_regimes(self) -> int:
        """How many regimes and numbers of shots the accuracy is averaged over."""
        return len(self._regimes()) * len(self.n_shot)

    def _regimes(self) -> tuple[Regime, ...]:
        return regimes(
            self.query_distribution,
            self.n_effective_way or (self.n_way,),
            n_query=self.n_query,
            n_query_total=self.n_query_total,
            dirichlet_concentration=self.dirichlet_concentration,
        )

    def samplers(self, pool: FeatureSet) -> dict[str, EpisodeSampler]:
        """Return a sampler for each regime and number of shots, by its description."""
        found = (
            regime.sampler(pool, self.n_way, n_shot, on_small_class=self.on_small_class)
            for regime in self._regimes()
            for n_shot in self.n_shot
        )
        return {sampler.describe().rpartition(", ")[0]: sampler for sampler in found}


class TuningResult(NamedTuple):
    """The outcome of `run_tuning`.

    Attributes
    ----------
    tuning : Tuning
    samplers : dict of str to EpisodeSampler
        By regime, in the order in which they ran.
    """

    tuning: Tuning
    samplers: dict[str, EpisodeSampler]


def run_tuning(
    pool: FeatureSet, experiment: TuningExperiment, *, progress: TuningProgress | None = None
) -> TuningResult:
    """Choose a method's options by episodes of validation classes, see `fewshot.tune`.

    Parameters
    ----------
    pool : FeatureSet
        Rows of the validation classes, all labelled, and of no others.
    experiment : TuningExperiment
    progress : callable, optional
        Called after each batch with the regime and the episodes done in it, once for each candidate.

    Raises
    ------
    ValueError
        If a setting does not fit the pool.

    Examples
    --------
    >>> from fewshot.features import load_features
    >>> digits = load_features("digits").select_classes(range(5))
    >>> experiment = TuningExperiment(method="soft-kmeans", grid={"n_layers": [3]}, n_shot=(1,), n_episodes=30)
    >>> run_tuning(digits, experiment).tuning.default.candidate.method
    'soft-kmeans:n_layers=100'
    """
    check_columns({experiment.method: build_method(experiment.method)}, pool)
    samplers = experiment.samplers(pool)
    found = tune(
        experiment.candidates,
        pool.features,
        samplers,
        n_episodes=experiment.n_episodes,
        batch_size=experiment.batch_size,
        generator=torch.Generator().manual_seed(experiment.seed),
        progress=progress,
    )
    return TuningResult(found, samplers)
