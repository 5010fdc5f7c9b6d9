"""Episodes of variable way and shot, in Meta-Dataset's manner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fewshot_episodes.draws import distinct_indices
from fewshot_episodes.episode import EpisodeIndex
from fewshot_episodes.pool import compacted, draw_batches, pick_items, without_small_classes

__all__ = ["MetaDatasetSampler", "support_counts"]


class MetaDatasetSampler:
    """Draws episodes whose ways and shots vary as the class sizes do; ragged batches are padded.

    The number of ways is uniform in [min_way, max_way]; each class gives the same number of queries, at most
    ``max_query`` and at most half of the smallest class of the episode; the support set is a random share of what is
    left, distributed roughly as the class sizes are. Support and query are disjoint.

    Parameters
    ----------
    labels : Tensor (n,), integer
        The pool's labels, not negative.
    min_way, max_way : int
        Range of the number of ways; ``max_way`` is lowered to the number of classes. Default 5 and 50.
    max_query : int
        Most queries per class. Default 10.
    max_support : int
        Most support items per episode. Default 500.
    max_support_per_class : int
        Most that one class counts for when the size of the support set is drawn. Default 100.
    on_small_class : {"error", "skip"}
        What to do about a class with fewer than two items.
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
        If a setting is out of range, a class has fewer than two items, or fewer than ``min_way`` classes are left.

    Source
    ------
    Triantafillou et al., "Meta-Dataset", ICLR 2020, Section 3.2; defaults of the released configuration, whose class
    hierarchies (ImageNet's, Omniglot's) are not used here.

    Examples
    --------
    >>> sampler = MetaDatasetSampler(torch.arange(200) % 8, min_way=3)
    >>> index = sampler.sample(6, generator=torch.Generator().manual_seed(0))
    >>> index.class_ids.shape[1]
    8
    """

    is_disjoint = True

    def __init__(
        self,
        labels: Tensor,
        *,
        min_way: int = 5,
        max_way: int = 50,
        max_query: int = 10,
        max_support: int = 500,
        max_support_per_class: int = 100,
        on_small_class: str = "error",
        class_names: Sequence[str] | None = None,
    ) -> None:
        if max_query < 1:
            raise ValueError(f"max_query must be at least 1, got {max_query}")
        self._pool, self.skipped_class_ids = without_small_classes(
            labels, 2, "one support item + one query", on_small_class=on_small_class, class_names=class_names
        )
        self.n_items = len(labels)
        self.min_way, self.max_way = min_way, min(max_way, len(self._pool.sizes))
        self.max_query, self.max_support, self.max_support_per_class = max_query, max_support, max_support_per_class
        if not 1 <= min_way <= self.max_way:
            raise ValueError(
                f"min_way = {min_way} must lie in [1, {self.max_way}], the smaller of max_way and the number of classes"
            )
        if max_support < self.max_way:
            raise ValueError(f"max_support = {max_support} cannot give each of {self.max_way} ways an item")

    def describe(self) -> str:
        """Describe the protocol in words."""
        return (
            f"{self.min_way} to {self.max_way} ways, shots as the class sizes (at most {self.max_support} in all), "
            f"at most {self.max_query} queries per class (Meta-Dataset), support and query disjoint"
        )

    def sample(self, n_episodes: int, *, generator: torch.Generator) -> EpisodeIndex:
        """Draw a batch of episodes at once, padded to the largest widths that the settings allow."""
        classes = self._draw_classes(n_episodes, generator)
        sizes = torch.where(classes >= 0, self._pool.sizes[classes], 0)
        n_query = self._query_counts(sizes)
        share = torch.rand(n_episodes, 1, dtype=torch.float64, generator=generator)
        tilt = torch.rand(sizes.shape, dtype=torch.float64, generator=generator)
        n_support = support_counts(
            sizes,
            n_query,
            share,
            math.log(0.5) + tilt * math.log(4.0),
            max_support=self.max_support,
            max_support_per_class=self.max_support_per_class,
        )
        drawn = pick_items(self._pool, classes, n_support, n_query, is_disjoint=True, generator=generator)
        return compacted(drawn, self.max_support, self.max_way * self.max_query)

    def batches(self, n_episodes: int, batch_size: int, *, generator: torch.Generator) -> Iterator[EpisodeIndex]:
        """Draw ``n_episodes`` episodes, handed out ``batch_size`` at a time; they do not depend on ``batch_size``."""
        return draw_batches(self, n_episodes, batch_size, generator=generator)

    def _draw_classes(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Draw classes (n_episodes, max_way), ascending, -1 past each episode's own number of ways."""
        coins = torch.rand(n_episodes, dtype=torch.float64, generator=generator)
        n_way = self.min_way + (coins * (self.max_way - self.min_way + 1)).long()
        # One row that asks for max_way fixes the width of the block.
        n_way_and_widest = torch.cat([n_way, n_way.new_tensor([self.max_way])])
        n_classes = torch.full_like(n_way_and_widest, len(self._pool.sizes))
        classes = distinct_indices(n_way_and_widest, n_classes, generator=generator)[:-1]
        last = torch.iinfo(classes.dtype).max
        in_order = torch.where(classes >= 0, classes, last).sort(-1).values
        return torch.where(in_order < last, in_order, -1)

    def _query_counts(self, sizes: Tensor) -> Tensor:
        smallest = torch.where(sizes > 0, sizes, torch.iinfo(sizes.dtype).max).amin(-1, keepdim=True)
        return torch.where(sizes > 0, (smallest // 2).clamp(max=self.max_query), 0)


def support_counts(
    sizes: Tensor,
    n_query: Tensor,
    share: Tensor,
    log_weights: Tensor,
    *,
    max_support: int = 500,
    max_support_per_class: int = 100,
) -> Tensor:
    """Distribute a support set over the classes roughly as their sizes are.

    Parameters
    ----------
    sizes, n_query : Tensor (..., n_way), int64
        Items and queries of each class; 0 for an absent way.
    share : Tensor (..., 1), float64
        In [0, 1): how much of what the queries left goes into the support set.
    log_weights : Tensor (..., n_way), float64
        In [log 1/2, log 2): by how much each class's share is tilted.
    max_support, max_support_per_class : int
        Most support items in all; most that one class counts for in the total.

    Returns
    -------
    Tensor (..., n_way), int64
        At least 1 for a real way and at most what the queries left; 0 for an absent way.
    """
    is_real, left = sizes > 0, sizes - n_query
    contribution = (share * left.clamp(max=max_support_per_class) + 1).floor() * is_real
    total = contribution.sum(-1, keepdim=True).clamp(max=max_support)
    weights = sizes * log_weights.exp()
    to_spread = total - is_real.sum(-1, keepdim=True)
    wanted = (weights / weights.sum(-1, keepdim=True) * to_spread).floor().long() + 1
    return torch.where(is_real, torch.minimum(wanted, left), 0)
