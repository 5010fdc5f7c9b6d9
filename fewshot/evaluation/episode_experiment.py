"""Settings of a comparison on few-shot episodes, and their samplers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from fewshot_episodes import EpisodeSampler, MetaDatasetSampler
from fewshot_episodes.sampler import PROTOCOLS

from fewshot.checks import SettingError
from fewshot.features import FeatureSet

__all__ = ["DRAWN_BY_META_DATASET", "META_DATASET", "EpisodeExperiment", "Regime", "regimes"]

META_DATASET = "meta-dataset"
N_QUERY, N_QUERY_TOTAL, DIRICHLET_CONCENTRATION = 15, 75, 2.0
# Settings that the protocol of Meta-Dataset draws from the class sizes.
DRAWN_BY_META_DATASET = (
    "n_way",
    "n_shot",
    "n_query",
    "n_query_total",
    "query_distribution",
    "n_effective_way",
    "dirichlet_concentration",
)


class Regime(NamedTuple):
    """How the queries of a run are drawn; all None for a protocol that decides it itself."""

    query_distribution: str | None = None
    n_effective_way: int | None = None
    n_query: int | None = None
    n_query_total: int | None = None
    dirichlet_concentration: float | None = None

    def __str__(self) -> str:
        return f"{self.query_distribution}, {self.n_effective_way} ways with queries"

    def sampler(
        self, pool: FeatureSet, n_way: int, n_shot: int, *, protocol: str = "disjoint", on_small_class: str = "error"
    ) -> EpisodeSampler:
        """Return the sampler of these episodes of a pool."""
        concentration = self.dirichlet_concentration
        return EpisodeSampler(
            pool.labels,
            n_way,
            n_shot,
            self.n_query,
            n_query_total=self.n_query_total,
            query_distribution=self.query_distribution or "balanced",
            n_effective_way=self.n_effective_way,
            dirichlet_concentration=DIRICHLET_CONCENTRATION if concentration is None else concentration,
            protocol=protocol,
            on_small_class=on_small_class,
            class_names=pool.class_names,
        )


def regimes(
    query_distribution: tuple[str, ...],
    n_effective_way: tuple[int, ...],
    *,
    n_query: int | None,
    n_query_total: int | None,
    dirichlet_concentration: float,
) -> tuple[Regime, ...]:
    """Return a regime for each distribution and number of ways with queries.

    The balanced distribution takes ``n_query``, the queries per class (default 15), the others ``n_query_total``, the
    queries in all (default 75). Where all are of one kind, a number of the other kind is passed on to the sampler,
    which refuses it.
    """
    is_mixed = len({distribution == "balanced" for distribution in query_distribution}) > 1

    def counts(*, is_balanced: bool) -> tuple[int | None, int | None]:
        per_class, in_all = n_query, n_query_total
        if is_mixed:
            per_class, in_all = (per_class, None) if is_balanced else (None, in_all)
        if per_class is None and in_all is None:
            return (N_QUERY, None) if is_balanced else (None, N_QUERY_TOTAL)
        return per_class, in_all

    return tuple(
        Regime(
            distribution,
            ways,
            *counts(is_balanced=distribution == "balanced"),
            dirichlet_concentration if distribution == "dirichlet" else None,
        )
        for distribution in query_distribution
        for ways in n_effective_way
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeExperiment:
    """Settings of a comparison of methods on the same few-shot episodes.

    There is a run for each query distribution, number of effective ways and number of shots.

    Attributes
    ----------
    methods : tuple of str
        ``name`` or ``name:option=value,...``, as `fewshot.build_method` takes them.
    n_way : int
        Classes per episode.
    n_shot : tuple of int
        Support items per class.
    n_query : int, optional
        Queries per class, for the balanced distribution. Default 15.
    n_query_total : int, optional
        Queries in all, for the distributions that draw the counts per class. Default 75.
    query_distribution : tuple of {"balanced", "uniform", "dirichlet"}
        See `fewshot.EpisodeSampler`.
    n_effective_way : tuple of int, optional
        Classes of an episode that have queries. Default ``n_way``.
    dirichlet_concentration : float
    protocol : {"disjoint", "unem-official", "meta-dataset"}
        The first two as in `fewshot.EpisodeSampler`. ``meta-dataset``: ways and shots vary as the class sizes do
        (`fewshot.MetaDatasetSampler`), and none of the settings above but the methods applies.
    n_episodes : int
        Episodes per run.
    batch_size : int
        Most episodes at once. Sets the peak memory and changes no result.
    on_small_class : {"error", "skip"}
        Refuse a class with too few items, or leave it out.
    allow_seen_classes : bool
        Evaluate fitted methods on classes with the names of those that they were fitted on.
    seed : int
        Decides the episodes.

    Raises
    ------
    SettingError
        If a list is empty or has something twice, a number is out of range, the protocol is not known, or a setting
        would have no effect.

    Examples
    --------
    >>> experiment = EpisodeExperiment(query_distribution=("balanced", "dirichlet"), n_effective_way=(2, 5))
    >>> [str(regime) for regime in experiment.regimes()][:3]
    ['balanced, 2 ways with queries', 'balanced, 5 ways with queries', 'dirichlet, 2 ways with queries']
    >>> experiment.regimes()[2].n_query_total
    75
    """

    methods: tuple[str, ...] = ("unem",)
    n_way: int = 5
    n_shot: tuple[int, ...] = (1, 5, 10)
    n_query: int | None = None
    n_query_total: int | None = None
    query_distribution: tuple[str, ...] = ("balanced",)
    n_effective_way: tuple[int, ...] | None = None
    dirichlet_concentration: float = DIRICHLET_CONCENTRATION
    protocol: str = "disjoint"
    n_episodes: int = 1000
    batch_size: int = 64
    on_small_class: str = "error"
    allow_seen_classes: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("methods", "n_shot", "query_distribution"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SettingError(f"{{{name}}} needs one value or more, each once, got {{0}}", values)
        for name in ("n_episodes", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingError(f"{{{name}}} must be at least 1, got {{0}}", getattr(self, name))
        if self.protocol not in (*PROTOCOLS, META_DATASET):
            known = ", ".join((*PROTOCOLS, META_DATASET))
            raise SettingError("{protocol} must be one of {0}; got {1!r}", known, self.protocol)
        self._check_of_use()

    def _check_of_use(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        changed = [name for name in DRAWN_BY_META_DATASET if getattr(self, name) != defaults[name]]
        if self.protocol == META_DATASET and changed:
            useless = ", ".join(f"{{{name}}}" for name in changed)
            raise SettingError(
                f"{{protocol}}=meta-dataset draws ways, shots and queries as the class sizes: leave out {useless}"
            )
        if "dirichlet" not in self.query_distribution and "dirichlet_concentration" in changed:
            raise SettingError("{dirichlet_concentration} needs {query_distribution}=dirichlet")

    def regimes(self) -> tuple[Regime, ...]:
        """Return the ways of drawing queries, one for each distribution and number of effective ways."""
        if self.protocol == META_DATASET:
            return (Regime(),)
        return regimes(
            self.query_distribution,
            self.n_effective_way or (self.n_way,),
            n_query=self.n_query,
            n_query_total=self.n_query_total,
            dirichlet_concentration=self.dirichlet_concentration,
        )

    def samplers(self, pool: FeatureSet) -> dict[tuple[Regime, int | None], EpisodeSampler | MetaDatasetSampler]:
        """Return the sampler of each run, by regime and number of shots.

        Raises
        ------
        SettingError
            If a setting does not fit the pool, see `fewshot.EpisodeSampler`.
        """
        small = self.on_small_class
        if self.protocol == META_DATASET:
            return {
                (Regime(), None): MetaDatasetSampler(pool.labels, on_small_class=small, class_names=pool.class_names)
            }
        return {
            (regime, n_shot): regime.sampler(pool, self.n_way, n_shot, protocol=self.protocol, on_small_class=small)
            for regime in self.regimes()
            for n_shot in self.n_shot
        }
