"""Whole problems for property tests. All sizes of a problem differ, so that a swapped axis cannot pass."""

from dataclasses import replace

import numpy as np
import torch
from fewshot_episodes import Episode
from hypothesis import strategies as st


def sizes(draw, *bounds):
    """Draw one size from each (low, high), pairwise distinct."""
    found = []
    for low, high in bounds:
        found.append(draw(st.sampled_from([size for size in range(low, high + 1) if size not in found])))
    return found


def make_episode(
    seed, *, batch=(), n_way=4, n_support=7, n_queries=9, n_features=5, separation=1.5, dtype=torch.float64, min_shot=1
):
    """Gaussian classes of spread 1 around centers of spread ``separation``.

    Each class has ``min_shot`` support items or more, in random order; the last class never has a query.
    """
    rng = np.random.default_rng(seed)
    clamped = np.tile(np.repeat(np.arange(n_way), min_shot), (*batch, 1))
    free = rng.integers(0, n_way, size=(*batch, n_support - clamped.shape[-1]))
    support_labels = rng.permuted(np.concatenate([clamped, free], axis=-1), axis=-1)
    query_labels = rng.integers(0, max(1, n_way - 1), size=(*batch, n_queries))
    centers = separation * rng.normal(size=(*batch, n_way, n_features))

    def items(labels):
        own = np.take_along_axis(centers, labels[..., None], axis=-2)
        return torch.from_numpy(own + rng.normal(size=own.shape)).to(dtype)

    class_ids = rng.permuted(np.tile(np.arange(3, 3 + n_way), (*batch, 1)), axis=-1)
    return Episode(
        support=items(support_labels),
        support_labels=torch.from_numpy(support_labels),
        query=items(query_labels),
        class_ids=torch.from_numpy(class_ids),
        query_labels=torch.from_numpy(query_labels),
    )


@st.composite
def episodes(draw, *, n_batch_dims=0, dtype=torch.float64, min_shot=1, separation=1.5):
    """Draw an episode with ``n_batch_dims`` leading dimensions; its query labels are what it was made from."""
    n_way, n_queries, n_features, *batch = sizes(draw, (2, 5), (5, 12), (3, 8), *[(2, 6)] * n_batch_dims)
    n_support = draw(st.integers(min_shot * n_way, min_shot * n_way + 4))
    while n_support in (n_way, n_queries, n_features, *batch):
        n_support += 1
    return make_episode(
        draw(st.integers(0, 2**20)),
        batch=tuple(batch),
        n_way=n_way,
        n_support=n_support,
        n_queries=n_queries,
        n_features=n_features,
        separation=separation,
        dtype=dtype,
        min_shot=min_shot,
    )


@st.composite
def schedules(draw, n_layers=None):
    """Draw λ/|Q| and T of each layer and a scale, everything moderate: lists, lists and a float."""
    n_layers = draw(st.integers(1, 5)) if n_layers is None else n_layers

    def numbers(low, high):
        return draw(st.lists(st.floats(low, high), min_size=n_layers, max_size=n_layers))

    return numbers(0.0, 6.0), numbers(0.3, 4.0), draw(st.floats(0.3, 2.0))


def padded(parts, *, seed=0):
    """Put episodes of one number of features but different sizes into one ragged batch.

    Padding rows and absent ways stand anywhere and hold finite nonsense. Returns the batch and, for each episode, where
    its queries and its ways went.
    """
    generator = torch.Generator().manual_seed(seed)
    n_way, n_support, n_queries = (
        2 + max(count) for count in zip(*((e.n_way, e.support.shape[-2], e.n_queries) for e in parts), strict=True)
    )
    rows_of, places = [], []
    for e in parts:
        ways, rows, queries = (
            torch.randperm(wide, generator=generator)[:narrow]
            for wide, narrow in [(n_way, e.n_way), (n_support, e.support.shape[-2]), (n_queries, e.n_queries)]
        )

        def nonsense(n, like=e):
            return 50 * torch.randn(n, like.n_features, generator=generator).to(like.query)

        is_query = torch.zeros(n_queries, dtype=torch.bool).index_fill(0, queries, True)
        rows_of.append(
            {
                "support": nonsense(n_support).index_copy(0, rows, e.support),
                "support_labels": torch.full((n_support,), -1).index_copy(0, rows, ways[e.support_labels]),
                "query": nonsense(n_queries).index_copy(0, queries, e.query),
                "query_labels": torch.full((n_queries,), -1).index_copy(0, queries, ways[e.query_labels]),
                "query_mask": is_query,
                "class_ids": torch.full((n_way,), -1).index_copy(0, ways, e.class_ids),
            }
        )
        places.append((queries, ways))
    return Episode(**{name: torch.stack([row[name] for row in rows_of]) for name in rows_of[0]}), places


def moved(episode, function):
    """Apply a function to the features of support and queries."""
    return replace(episode, support=function(episode.support), query=function(episode.query))


def one_of(episode, index):
    """Take one episode, or some, out of a batch."""
    fields = ("support", "support_labels", "query", "class_ids", "query_labels", "query_mask")
    values = {name: getattr(episode, name) for name in fields}
    return Episode(**{name: None if tensor is None else tensor[index] for name, tensor in values.items()})


def numpy_of(episode):
    """Give an episode the way the loops take it: support, labels, query, n_way."""
    support, labels, query = (tensor.numpy() for tensor in (episode.support, episode.support_labels, episode.query))
    return support.astype(np.float64), labels, query.astype(np.float64), episode.n_way
