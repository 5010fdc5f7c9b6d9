"""A labelled pool sorted by class, and how the items of drawn classes are picked from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fewshot_episodes.draws import distinct_indices
from fewshot_episodes.episode import EpisodeIndex, concatenate
from fewshot_episodes.errors import SettingError

__all__ = ["BLOCK_SIZE", "ClassPool", "Sampler", "class_pool", "draw_batches", "pick_items"]

# Episodes are drawn in blocks of this many, whatever the batch size, so that one seed gives one list of episodes.
BLOCK_SIZE = 256


class ClassPool(NamedTuple):
    """The items of a pool, class by class.

    Attributes
    ----------
    items : Tensor (n,), int64
        Rows of the pool, sorted by class.
    starts, sizes : Tensor (n_classes,), int64
        Where each class begins in ``items``, and how many it has.
    class_ids : Tensor (n_classes,), int64
        The pool's own labels, ascending.
    """

    items: Tensor
    starts: Tensor
    sizes: Tensor
    class_ids: Tensor

    def only(self, is_kept: Tensor) -> ClassPool:
        """Return the pool with only these classes."""
        return self._replace(starts=self.starts[is_kept], sizes=self.sizes[is_kept], class_ids=self.class_ids[is_kept])


class Sampler(Protocol):
    """A sampler of episodes."""

    def sample(self, n_episodes: int, *, generator: torch.Generator) -> EpisodeIndex:
        """Draw a batch of episodes at once."""


def class_pool(labels: Tensor) -> ClassPool:
    """Sort a pool by class.

    Parameters
    ----------
    labels : Tensor (n,), integer
        Not negative.

    Raises
    ------
    TypeError, ValueError
        If the labels are not a vector of non-negative integers.
    """
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.dim() != 1 or len(labels) == 0:
        raise ValueError(f"labels must have shape (n,) with n >= 1, got {tuple(labels.shape)}")
    labels = labels.cpu().long()
    if int(labels.min()) < 0:
        raise ValueError("labels must not be negative: leave unlabelled rows (-1) out of the pool")
    class_ids, sizes = torch.unique(labels, return_counts=True)
    return ClassPool(labels.argsort(stable=True), sizes.cumsum(0) - sizes, sizes, class_ids)


def without_small_classes(
    labels: Tensor, needed: int, why: str, *, on_small_class: str, class_names: Sequence[str] | None
) -> tuple[ClassPool, tuple[int, ...]]:
    """Sort a pool by class, and leave out or refuse classes with fewer than ``needed`` items.

    Parameters
    ----------
    labels : Tensor (n,), integer
    needed : int
    why : str
        The need in words, for the message; names settings in braces, as `SettingError` takes them.
    on_small_class : {"error", "skip"}
    class_names : sequence of str or None
        For the message, by label.

    Returns
    -------
    ClassPool
    tuple of int
        The classes left out.

    Raises
    ------
    ValueError
        If a class is too small and ``on_small_class`` is "error", or it is neither word.
    """
    if on_small_class not in ("error", "skip"):
        raise SettingError("{on_small_class} must be one of error, skip; got {0!r}", on_small_class)
    pool = class_pool(labels)
    is_small = pool.sizes < needed
    small = pool.class_ids[is_small].tolist()
    if small and on_small_class == "error":
        name = f"class {small[0]}" if class_names is None else f"class {class_names[small[0]]!r}"
        others = f" (and {len(small) - 1} more such classes)" if len(small) > 1 else ""
        raise SettingError(
            f"{{0}} has {{1}} items, fewer than {why} = {{2}}{others}: "
            "ask for less, or leave small classes out ({on_small_class}=skip)",
            name,
            int(pool.sizes[is_small][0]),
            needed,
        )
    return pool.only(~is_small), tuple(small)


def pick_items(
    pool: ClassPool,
    classes: Tensor,
    n_support: Tensor,
    n_query: Tensor,
    *,
    is_disjoint: bool,
    generator: torch.Generator,
) -> EpisodeIndex:
    """Pick support and query items of the drawn classes.

    Parameters
    ----------
    classes : Tensor (n_episodes, n_way), int64
        Positions in the pool's list of classes; -1 marks an absent way.
    n_support, n_query : Tensor (n_episodes, n_way), int64
        How many of each; 0 for an absent way.
    is_disjoint : bool
        Draw queries from what the support left.

    Returns
    -------
    EpisodeIndex
        Flat over the ways, padding still in place.
    """
    sizes = torch.where(classes >= 0, pool.sizes[classes], 0)
    support = distinct_indices(n_support, sizes, generator=generator)
    has_queries = n_query > 0
    n_left = (sizes - n_support if is_disjoint else sizes)[has_queries]
    drawn = distinct_indices(n_query[has_queries], n_left, generator=generator)
    if is_disjoint:
        drawn = torch.where(drawn >= 0, past_support(drawn, support[has_queries]), -1)
    query = drawn.new_full((*n_query.shape, drawn.shape[-1]), -1)
    query[has_queries] = drawn
    class_ids = torch.where(classes >= 0, pool.class_ids[classes], -1)
    return EpisodeIndex(*_flat_items(pool, classes, support), *_flat_items(pool, classes, query), class_ids)


def past_support(rank: Tensor, support: Tensor) -> Tensor:
    """Turn ranks among the items that are not support into positions among all items of the class.

    The i-th smallest support position s_i has s_i - i others below it: it precedes the item of rank r if s_i - i <= r.

    Parameters
    ----------
    rank : Tensor (..., n_query), int64
    support : Tensor (..., n_shot), int64
        Distinct positions; -1 marks padding.
    """
    last = torch.iinfo(support.dtype).max
    in_order = torch.where(support >= 0, support, last).sort(-1).values
    others_below = in_order - torch.arange(support.shape[-1], device=support.device)
    return rank + torch.searchsorted(others_below, rank, right=True)


def _flat_items(pool: ClassPool, classes: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Turn positions (n_episodes, n_way, width) within classes into pool rows and episode-local labels."""
    is_real = positions >= 0
    starts = pool.starts[classes.clamp(min=0)][..., None]
    index = torch.where(is_real, pool.items[starts + positions.clamp(min=0)], -1)
    way = torch.arange(classes.shape[-1], device=classes.device)[:, None]
    return index.flatten(1), torch.where(is_real, way, -1).flatten(1)


def compacted(index: EpisodeIndex, n_support: int, n_queries: int) -> EpisodeIndex:
    """Move padding to the end of each row, and cut or pad the rows to the given widths."""
    support_index, support_labels = _pad_last(index.support_index, index.support_labels, n_support)
    query_index, query_labels = _pad_last(index.query_index, index.query_labels, n_queries)
    return EpisodeIndex(support_index, support_labels, query_index, query_labels, index.class_ids)


def _pad_last(index: Tensor, labels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    if index.shape[-1] == width and bool((index >= 0).all()):
        return index, labels
    missing = (0, max(0, width - index.shape[-1]))
    order = (index < 0).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    return F.pad(index.gather(-1, order), missing, value=-1), F.pad(labels.gather(-1, order), missing, value=-1)


def draw_batches(
    sampler: Sampler, n_episodes: int, batch_size: int, *, generator: torch.Generator
) -> Iterator[EpisodeIndex]:
    """Draw ``n_episodes`` episodes and hand them out ``batch_size`` at a time.

    The episodes do not depend on ``batch_size``, and the first of a long run are those of a short one.

    Raises
    ------
    ValueError
        If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    held: list[EpisodeIndex] = []
    n_held = 0
    for start in range(0, n_episodes, batch_size):
        n_wanted = min(batch_size, n_episodes - start)
        while n_held < n_wanted:
            held.append(sampler.sample(BLOCK_SIZE, generator=generator))
            n_held += BLOCK_SIZE
        joined = concatenate(held)
        yield joined.rows(0, n_wanted)
        held, n_held = [joined.rows(n_wanted, n_held)], n_held - n_wanted
