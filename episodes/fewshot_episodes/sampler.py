"""N-way K-shot episodes, a whole batch at once, from labels alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fewshot_episodes.draws import dirichlet_shares, distinct_indices, pooled_counts, proportional_counts
from fewshot_episodes.episode import EpisodeIndex
from fewshot_episodes.errors import SettingError
from fewshot_episodes.pool import ClassPool, compacted, draw_batches, pick_items, without_small_classes

__all__ = ["PROTOCOLS", "QUERY_DISTRIBUTIONS", "EpisodeSampler"]

QUERY_DISTRIBUTIONS = ("balanced", "uniform", "dirichlet")
PROTOCOLS = ("disjoint", "unem-official")


class EpisodeSampler:
    """Draws n-way k-shot episodes from a labelled pool.

    Support and query items of an episode are disjoint, unless the protocol is named that leaks.

    Parameters
    ----------
    labels : Tensor (n,), integer
        The pool's labels, not negative.
    n_way : int
        Classes per episode, drawn uniformly.
    n_shot : int
        Support items per class.
    n_query : int, optional
        Query items **per class**, for ``query_distribution="balanced"``.
    n_query_total : int, optional
        Query items **in all**, for the distributions that draw the counts per class: 75 in UNEM and α-TIM.
    query_distribution : {"balanced", "uniform", "dirichlet"}
        ``balanced``: ``n_query`` of each effective way. ``uniform``: drawn from the pooled items of the effective ways
        (UNEM). ``dirichlet``: class shares drawn from a symmetric Dirichlet distribution (α-TIM).
    n_effective_way : int, optional
        Ways that have queries at all, drawn uniformly from the ways; default: all of them. 5 in UNEM's protocol.
    dirichlet_concentration : float
        Parameter of the Dirichlet distribution; the smaller, the more skewed. Default 2, as in α-TIM.
    protocol : {"disjoint", "unem-official"}
        ``unem-official`` draws support and query independently from the same items, as the released code of UNEM,
        PADDLE and α-TIM does, so that some queries are support items: for reproducing their tables only.
    on_small_class : {"error", "skip"}
        What to do about a class with too few items. Skipped classes are listed in ``skipped_class_ids``.
    class_names : sequence of str, optional
        Names for error messages, by label.

    Attributes
    ----------
    n_items : int
        Labels in the pool.
    skipped_class_ids : tuple of int
        Classes left out because they are too small.

    Raises
    ------
    ValueError
        If a setting is out of range, both or neither of ``n_query`` and ``n_query_total`` fit the distribution, a class
        is too small, or too few classes are left.

    Source
    ------
    [UNEM] protocol of the released code (uniform, 5 effective ways, 75 queries in all). [ATIM] Dirichlet protocol
    (concentration 2, 75 queries), with our own rounding: largest remainder, capped at what a class has.

    Examples
    --------
    >>> labels = torch.arange(100) % 5
    >>> sampler = EpisodeSampler(labels, n_way=3, n_shot=2, n_query=4)
    >>> index = sampler.sample(7, generator=torch.Generator().manual_seed(0))
    >>> tuple(index.support_index.shape), tuple(index.query_index.shape)
    ((7, 6), (7, 12))
    """

    def __init__(
        self,
        labels: Tensor,
        n_way: int,
        n_shot: int,
        n_query: int | None = None,
        *,
        n_query_total: int | None = None,
        query_distribution: str = "balanced",
        n_effective_way: int | None = None,
        dirichlet_concentration: float = 2.0,
        protocol: str = "disjoint",
        on_small_class: str = "error",
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.n_way, self.n_shot, self.n_query, self.n_query_total = n_way, n_shot, n_query, n_query_total
        self.n_effective_way = n_way if n_effective_way is None else n_effective_way
        self.query_distribution, self.dirichlet_concentration = query_distribution, dirichlet_concentration
        self.protocol = protocol
        _check_settings(self)
        self._pool, self.skipped_class_ids = without_small_classes(
            labels, self._needed, self._needed_why, on_small_class=on_small_class, class_names=class_names
        )
        self.n_items = len(labels)
        _check_pool(self, self._pool)

    @property
    def is_disjoint(self) -> bool:
        """Whether no query can be a support item."""
        return self.protocol == "disjoint"

    @property
    def _needed(self) -> int:
        n_query = self.n_query or 1
        return self.n_shot + n_query if self.is_disjoint else max(self.n_shot, n_query)

    @property
    def _needed_why(self) -> str:
        n_query = "1 query" if self.n_query is None else "{n_query}"
        return f"{{n_shot}} + {n_query}" if self.is_disjoint else f"the larger of {{n_shot}} and {n_query}"

    @property
    def n_queries(self) -> int:
        """Queries of an episode, in all."""
        return self.n_query_total or (self.n_query or 0) * self.n_effective_way

    def describe(self) -> str:
        """Describe the protocol in words."""
        counts = {
            "balanced": f"{self.n_query} queries per class",
            "uniform": f"{self.n_query_total} queries in all, uniform over the pooled items",
            "dirichlet": f"{self.n_query_total} queries in all, Dirichlet({self.dirichlet_concentration:g}) shares",
        }[self.query_distribution]
        ways = "" if self.n_effective_way == self.n_way else f" of {self.n_effective_way} of the ways"
        overlap = "support and query disjoint" if self.is_disjoint else "support and query may overlap (unem-official)"
        return f"{self.n_way}-way {self.n_shot}-shot, {counts}{ways}, {overlap}"

    def sample(self, n_episodes: int, *, generator: torch.Generator) -> EpisodeIndex:
        """Draw a batch of episodes at once; `batches` cuts the same episodes for any batch size.

        Parameters
        ----------
        n_episodes : int
            At least 1.
        generator : torch.Generator
            On the CPU, so that one seed gives the same episodes whatever the device of the features.

        Returns
        -------
        EpisodeIndex
        """
        classes, is_effective = self._draw_classes(n_episodes, generator)
        drawn = pick_items(
            self._pool,
            classes,
            torch.full_like(classes, self.n_shot),
            self._query_counts(classes, is_effective, generator),
            is_disjoint=self.is_disjoint,
            generator=generator,
        )
        return compacted(drawn, self.n_way * self.n_shot, self.n_queries)

    def batches(self, n_episodes: int, batch_size: int, *, generator: torch.Generator) -> Iterator[EpisodeIndex]:
        """Draw ``n_episodes`` episodes, handed out ``batch_size`` at a time; they do not depend on ``batch_size``."""
        return draw_batches(self, n_episodes, batch_size, generator=generator)

    def _draw_classes(self, n_episodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw classes (n_episodes, n_way), ascending, and which of them have queries."""

        def subsets(count: int, size: int) -> Tensor:
            counts = torch.full((n_episodes,), count)
            return distinct_indices(counts, torch.full_like(counts, size), generator=generator)

        classes = subsets(self.n_way, len(self._pool.sizes)).sort(-1).values
        is_effective = torch.zeros_like(classes, dtype=torch.bool)
        return classes, is_effective.scatter(-1, subsets(self.n_effective_way, self.n_way), value=True)

    def _query_counts(self, classes: Tensor, is_effective: Tensor, generator: torch.Generator) -> Tensor:
        if self.n_query is not None:
            return self.n_query * is_effective.long()
        available = (self._pool.sizes[classes] - (self.n_shot if self.is_disjoint else 0)) * is_effective
        if self.query_distribution == "uniform":
            return pooled_counts(self.n_queries, available, generator=generator)
        shares = dirichlet_shares(self.dirichlet_concentration * is_effective.double(), generator=generator)
        return proportional_counts(shares, self.n_queries, available)


def _check_settings(sampler: EpisodeSampler) -> None:
    _check_ranges(sampler)
    for name, known in (("query_distribution", QUERY_DISTRIBUTIONS), ("protocol", PROTOCOLS)):
        if getattr(sampler, name) not in known:
            raise SettingError(f"{{{name}}} must be one of {', '.join(known)}; got {{0!r}}", getattr(sampler, name))
    _check_query_counts(sampler)


def _check_ranges(sampler: EpisodeSampler) -> None:
    for name in ("n_way", "n_shot", "n_effective_way", "n_query", "n_query_total"):
        value = getattr(sampler, name)
        if value is not None and value < 1:
            raise SettingError(f"{{{name}}} must be at least 1, got {{0}}", value)
    if sampler.n_effective_way > sampler.n_way:
        raise SettingError("{n_effective_way} = {0} exceeds {n_way} = {1}", sampler.n_effective_way, sampler.n_way)
    if not sampler.dirichlet_concentration > 0:
        raise SettingError("{dirichlet_concentration} must be positive, got {0}", sampler.dirichlet_concentration)


def _check_query_counts(sampler: EpisodeSampler) -> None:
    """Check that the number of queries is given per class where the classes are balanced, and in all otherwise."""
    is_balanced = sampler.query_distribution == "balanced"
    needed, other = ("n_query", "n_query_total") if is_balanced else ("n_query_total", "n_query")
    if getattr(sampler, needed) is None or getattr(sampler, other) is not None:
        meaning = "queries per class" if is_balanced else "queries in all, the counts per class being drawn"
        raise SettingError(
            f"{{query_distribution}}={{0!r}} takes {{{needed}}} ({meaning}) and not {{{other}}}; "
            "got {n_query}={1}, {n_query_total}={2}",
            sampler.query_distribution,
            sampler.n_query,
            sampler.n_query_total,
        )


def _check_pool(sampler: EpisodeSampler, pool: ClassPool) -> None:
    n_classes = len(pool.sizes)
    if n_classes < sampler.n_way:
        skipped = f" after leaving {len(sampler.skipped_class_ids)} small ones out" if sampler.skipped_class_ids else ""
        raise SettingError("{n_way} = {0} exceeds the {1} classes of the pool{2}", sampler.n_way, n_classes, skipped)
    if sampler.n_query is not None:
        return
    available = pool.sizes - (sampler.n_shot if sampler.is_disjoint else 0)
    fewest = int(available.sort().values[: sampler.n_effective_way].sum())
    if fewest < sampler.n_queries:
        raise SettingError(
            "the {0} smallest classes have {1} items left for queries, fewer than {n_query_total} = {2}: "
            "ask for fewer queries, or for more effective ways",
            sampler.n_effective_way,
            fewest,
            sampler.n_queries,
        )
