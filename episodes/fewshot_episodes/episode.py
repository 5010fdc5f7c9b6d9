"""The two types that travel: which items an episode uses, and the episode itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Episode", "EpisodeHash", "EpisodeIndex"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Episode:
    """A few-shot problem, or a batch of them: labelled support items and the queries to answer.

    It checks itself once, at birth. Half-precision features are widened to float32.

    Parameters
    ----------
    support : Tensor (..., n_support, n_features)
        Features of the labelled items, floating point.
    support_labels : Tensor (..., n_support), int64
        In [0, n_way). In a ragged batch, -1 marks a padding row.
    query : Tensor (..., n_queries, n_features)
        Features of the items to classify; ``n_queries`` is the total over the classes.
    class_ids : Tensor (..., n_way), int64
        The pool's own name of each way. In a ragged batch, -1 marks an absent way.
    query_labels : Tensor (..., n_queries), int64, optional
        In [0, n_way), for scoring only: no method reads them. In a ragged batch, -1 marks a padding row.
    query_mask : Tensor (..., n_queries), bool, optional
        False marks a padding row. None, the usual case, means that every query is real.

    Raises
    ------
    TypeError
        If a tensor has the wrong kind of dtype.
    ValueError
        If shapes or devices do not match, a label is out of range, or a class has no support item.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.ones(3, 2), class_ids=torch.tensor([7, 9]))
    >>> episode.n_way, episode.n_queries, episode.n_features, episode.batch_shape
    (2, 3, 2, torch.Size([]))
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    class_ids: Tensor
    query_labels: Tensor | None = None
    query_mask: Tensor | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _check_shapes(self)
        if not self.support.is_meta:
            _check_labels(self)
        for name in ("support", "query"):
            features = getattr(self, name)
            if features.dtype in (torch.float16, torch.bfloat16):
                object.__setattr__(self, name, features.float())

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions: ``()`` for one episode."""
        return self.class_ids.shape[:-1]

    @property
    def n_way(self) -> int:
        """Classes to choose from, padding ways included: a fact of the shape."""
        return self.class_ids.shape[-1]

    @property
    def n_queries(self) -> int:
        """Queries in all, padding rows included."""
        return self.query.shape[-2]

    @property
    def n_features(self) -> int:
        """Feature dimension."""
        return self.query.shape[-1]

    @property
    def is_ragged(self) -> bool:
        """Whether the episode carries padding."""
        return self.query_mask is not None

    @property
    def way_mask(self) -> Tensor:
        """Tensor (..., n_way), bool: which ways are real."""
        return self.class_ids >= 0

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Episode:
        """Return the episode on another device, its features in another dtype."""
        return replace(
            self,
            support=self.support.to(device=device, dtype=dtype),
            query=self.query.to(device=device, dtype=dtype),
            support_labels=self.support_labels.to(device),
            class_ids=self.class_ids.to(device),
            query_labels=None if self.query_labels is None else self.query_labels.to(device),
            query_mask=None if self.query_mask is None else self.query_mask.to(device),
        )


def _check_types(episode: Episode) -> None:
    for name in ("support", "query"):
        tensor = getattr(episode, name)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}: wrap it in torch.as_tensor")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}: convert it with .float()")
    for name in ("support_labels", "class_ids", "query_labels"):
        tensor = getattr(episode, name)
        if tensor is not None and tensor.dtype != torch.int64:
            raise TypeError(f"{name} must be int64, got {tensor.dtype}: convert it with .long()")
    if episode.query_mask is not None and episode.query_mask.dtype != torch.bool:
        raise TypeError(f"query_mask must be bool, got {episode.query_mask.dtype}")


def _check_dimensions(episode: Episode) -> None:
    """Check that there is a way, and that items are rows."""
    n_way = episode.class_ids.shape[-1:]
    if len(n_way) == 0 or n_way[0] == 0:
        raise ValueError(
            f"class_ids must have shape (..., n_way) with n_way >= 1, got {tuple(episode.class_ids.shape)}"
        )
    if episode.support.dim() < 2 or episode.query.dim() < 2:
        raise ValueError(
            "support and query must have shape (..., n_items, n_features), "
            f"got {tuple(episode.support.shape)} and {tuple(episode.query.shape)}"
        )


def _check_shapes(episode: Episode) -> None:
    _check_dimensions(episode)
    batch = episode.class_ids.shape[:-1]
    n_support, n_queries, n_features = *episode.support.shape[-2:-1], *episode.query.shape[-2:]
    expected = {
        "support": (*batch, n_support, n_features),
        "support_labels": (*batch, n_support),
        "query": (*batch, n_queries, n_features),
        "query_labels": (*batch, n_queries),
        "query_mask": (*batch, n_queries),
    }
    for name, shape in expected.items():
        _check_tensor(name, getattr(episode, name), shape, episode.class_ids.device)
    if episode.support.dtype != episode.query.dtype:
        raise ValueError(f"support is {episode.support.dtype}, query {episode.query.dtype}: use one dtype")
    if n_queries == 0 or n_features == 0:
        raise ValueError(f"an episode needs at least one query and one feature, got query of shape {expected['query']}")


def _check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    """Check the shape of a tensor, and that it is where the class ids are."""
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape} to match the others, got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, class_ids on {device}: move them together")


def _check_labels(episode: Episode) -> None:
    lowest = -1 if episode.is_ragged else 0
    if bool((episode.class_ids < lowest).any()):
        raise ValueError(
            f"class_ids must be at least {lowest}, got {int(episode.class_ids.min())}: "
            "-1 marks an absent way, in a ragged batch only (one with a query_mask)"
        )
    for name in ("support_labels", "query_labels"):
        labels = getattr(episode, name)
        if labels is None or labels.numel() == 0:
            continue
        low, high = (int(end) for end in labels.aminmax())
        if low < lowest or high >= episode.n_way:
            raise ValueError(f"{name} must lie in [0, n_way={episode.n_way}), got values from {low} to {high}")
    _check_each_way_has_support(episode)


def _check_each_way_has_support(episode: Episode) -> None:
    n_support = torch.zeros_like(episode.class_ids)
    is_real = episode.support_labels >= 0
    n_support.scatter_add_(-1, episode.support_labels.clamp(min=0), is_real.long())
    is_empty = (n_support == 0) & episode.way_mask
    if bool(is_empty.any()):
        *where, way = torch.nonzero(is_empty)[0].tolist()
        place = f" of episode {tuple(where)}" if where else ""
        raise ValueError(
            f"way {way}{place} (class id {int(episode.class_ids[(*where, way)])}) has no support item: "
            "give each class at least one, or leave the class out of class_ids"
        )


class EpisodeIndex(NamedTuple):
    """Which items of a pool a batch of episodes uses.

    Attributes
    ----------
    support_index : Tensor (n_episodes, n_support), int64
        Rows of the pool; -1 marks padding.
    support_labels : Tensor (n_episodes, n_support), int64
        Episode-local labels in [0, n_way); -1 marks padding.
    query_index : Tensor (n_episodes, n_queries), int64
        Rows of the pool; -1 marks padding.
    query_labels : Tensor (n_episodes, n_queries), int64
        Episode-local labels in [0, n_way); -1 marks padding.
    class_ids : Tensor (n_episodes, n_way), int64
        The pool's own label of each way, ascending; -1 marks an absent way.
    """

    support_index: Tensor
    support_labels: Tensor
    query_index: Tensor
    query_labels: Tensor
    class_ids: Tensor

    @property
    def n_episodes(self) -> int:
        """Episodes in this batch."""
        return self.class_ids.shape[0]

    @property
    def n_leaked(self) -> int:
        """Queries that are also support items of their own episode."""
        is_real = self.query_index >= 0
        is_in_support = (self.query_index[:, :, None] == self.support_index[:, None, :]).any(-1)
        return int((is_in_support & is_real).sum())

    def rows(self, start: int, stop: int) -> EpisodeIndex:
        """Return the episodes ``start`` to ``stop`` of this batch."""
        return EpisodeIndex(*(tensor[start:stop] for tensor in self))

    def gather(self, features: Tensor, buffer: Tensor | None = None) -> Episode:
        """Look the features up.

        Parameters
        ----------
        features : Tensor (n, n_features)
            The pool's features.
        buffer : Tensor, optional
            Flat storage of at least ``n_episodes * (n_support + n_queries) * n_features`` values to write into, so that
            a long run does not allocate anew for each batch. The episode is then valid until the buffer is used again.

        Returns
        -------
        Episode
            On the device of ``features``.
        """
        trimmed = _trimmed(self) if _has_padding(self) else self
        is_ragged = trimmed is not self and _has_padding(trimmed)
        index, labels, query_index, query_labels, class_ids = (tensor.to(features.device) for tensor in trimmed)
        items = torch.cat([index.flatten(), query_index.flatten()]).clamp_(min=0)
        out = None if buffer is None else buffer[: len(items) * features.shape[1]].view(len(items), -1)
        picked = torch.index_select(features, 0, items, out=out) if out is not None else features[items]
        n_support = index.numel()
        return Episode(
            support=picked[:n_support].view(*index.shape, -1),
            support_labels=labels,
            query=picked[n_support:].view(*query_index.shape, -1),
            class_ids=class_ids,
            query_labels=query_labels,
            query_mask=query_labels >= 0 if is_ragged else None,
        )


def concatenate(parts: Sequence[EpisodeIndex]) -> EpisodeIndex:
    """Join batches of episodes of equal widths."""
    return parts[0] if len(parts) == 1 else EpisodeIndex(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _has_padding(index: EpisodeIndex) -> bool:
    return any(bool((tensor < 0).any()) for tensor in index)


def _trimmed(index: EpisodeIndex) -> EpisodeIndex:
    """Cut the padding that no episode of the batch uses."""
    n_support, n_queries, n_way = (
        int((tensor >= 0).sum(-1).max()) for tensor in (index.support_index, index.query_index, index.class_ids)
    )
    return EpisodeIndex(
        index.support_index[:, :n_support],
        index.support_labels[:, :n_support],
        index.query_index[:, :n_queries],
        index.query_labels[:, :n_queries],
        index.class_ids[:, :n_way],
    )


class EpisodeHash:
    """A short fingerprint of drawn episodes, the same for any batch size: equal hashes, equal episodes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, index: EpisodeIndex) -> None:
        """Add the episodes of one batch."""
        separator = index.support_index.new_full((index.n_episodes, 1), -2)
        items = torch.cat([separator, index.support_index, separator, index.query_index], dim=1)
        self._hash.update(items[items != -1].cpu().numpy().tobytes())

    def hexdigest(self) -> str:
        """Return the first twelve hexadecimal digits."""
        return self._hash.hexdigest()[:12]
