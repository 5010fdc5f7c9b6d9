"""The Episode checks itself; an EpisodeIndex looks its features up."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode, EpisodeIndex, MetaDatasetSampler
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kits.drawing import SAMPLERS, SEEDS, generator, listed, pool_of, refuses

# ------------------------------------------------------------------------------------------------------------- Episode

N_WAY, N_SUPPORT, N_QUERIES, N_FEATURES = 3, 7, 5, 4
SUPPORT_LABELS, QUERY_LABELS, CLASS_IDS = [2, 0, 1, 0, 2, 2, 1], [1, 1, 0, 2, 1], [4, 9, 11]


def parts(batch=(), dtype=torch.float32):
    """Keyword arguments of a valid episode, its sizes pairwise distinct."""
    g = generator(1)
    return {
        "support": torch.randn(*batch, N_SUPPORT, N_FEATURES, generator=g).to(dtype),
        "support_labels": torch.tensor(SUPPORT_LABELS).expand(*batch, -1),
        "query": torch.randn(*batch, N_QUERIES, N_FEATURES, generator=g).to(dtype),
        "class_ids": torch.tensor(CLASS_IDS).expand(*batch, -1),
        "query_labels": torch.tensor(QUERY_LABELS).expand(*batch, -1),
    }


def ragged_parts():
    """Two episodes: the first with 3 ways, 7 support items, 5 queries; the second with 2, 5 and 4."""
    return parts((2,)) | {
        "support_labels": torch.tensor([SUPPORT_LABELS, [1, 0, 0, 1, 1, -1, -1]]),
        "class_ids": torch.tensor([CLASS_IDS, [5, 6, -1]]),
        "query_labels": torch.tensor([QUERY_LABELS, [1, 0, 1, 0, -1]]),
        "query_mask": torch.tensor([[True] * 5, [True] * 4 + [False]]),
    }


@pytest.mark.parametrize("batch", [(), (2,), (2, 6), (1, 1)])
def test_an_episode_knows_its_sizes_in_any_batch(batch):
    episode = Episode(**parts(batch))
    assert episode.batch_shape == torch.Size(batch)
    assert (episode.n_way, episode.n_queries, episode.n_features) == (N_WAY, N_QUERIES, N_FEATURES)
    assert episode.support.shape == (*batch, N_SUPPORT, N_FEATURES)
    assert not episode.is_ragged
    assert bool(episode.way_mask.all())
    assert episode.way_mask.shape == (*batch, N_WAY)
    assert Episode(**parts(batch) | {"query_labels": None}).query_labels is None


def test_a_batch_may_be_empty():
    assert Episode(**{name: tensor[:0] for name, tensor in parts((2,)).items()}).batch_shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_widened_and_nothing_else(dtype):
    given_parts = parts(dtype=dtype)
    episode = Episode(**given_parts)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    for name in ("support", "query"):
        assert getattr(episode, name).dtype == wanted
        assert torch.equal(getattr(episode, name), given_parts[name].to(wanted))
    if dtype == wanted:
        assert episode.support is given_parts["support"]  # no copy


def test_to_moves_features_and_keeps_labels():
    episode = Episode(**ragged_parts())
    double = episode.to(dtype=torch.float64)
    assert double.support.dtype == double.query.dtype == torch.float64
    assert torch.equal(double.query, episode.query.double())
    assert double.support_labels.dtype == double.class_ids.dtype == torch.int64
    assert torch.equal(double.query_mask, episode.query_mask)
    assert episode.support.dtype == torch.float32
    away = episode.to("meta")
    assert all(getattr(away, field.name).is_meta for field in fields(Episode))
    bare = Episode(**parts() | {"query_labels": None}).to("meta", torch.float64)
    assert bare.query_labels is None
    assert bare.query_mask is None
    assert bare.query.dtype == torch.float64
    assert episode.to(dtype=torch.float16).query.dtype == torch.float32  # widened at the door, as ever


def test_an_episode_can_be_made_of_meta_tensors():
    away = {name: tensor.to("meta") for name, tensor in parts((2, 6), torch.bfloat16).items()}
    episode = Episode(**away)
    assert episode.batch_shape == (2, 6)
    assert episode.query.is_meta
    assert episode.query.dtype == torch.float32
    with refuses(TypeError, "class_ids must be int64, got torch.int32: convert it with .long()"):
        Episode(**away | {"class_ids": away["class_ids"].int()})


@pytest.mark.parametrize("name", [field.name for field in fields(Episode)])
def test_an_episode_is_immutable(name):
    episode = Episode(**parts())
    with pytest.raises(FrozenInstanceError):
        setattr(episode, name, None)
    with pytest.raises(FrozenInstanceError):
        delattr(episode, name)


def test_an_episode_is_compared_by_identity_and_made_by_keyword():
    episode = Episode(**parts())
    assert episode == episode
    assert episode != Episode(**parts())
    assert len({episode, episode}) == 1
    with pytest.raises(TypeError):
        Episode(*parts().values())


def test_making_an_episode_leaves_its_input_alone():
    before, after = ragged_parts(), ragged_parts()
    Episode(**after)
    assert all(torch.equal(before[name], after[name]) for name in before)


BATCH, MASK = parts((2,)), torch.ones(N_QUERIES, dtype=torch.bool)


WRONG_TYPES = [
    ({"support": [[0.0]]}, "support must be a torch.Tensor, got list: wrap it in torch.as_tensor"),
    ({"query": np.zeros((5, 4))}, "query must be a torch.Tensor, got ndarray: wrap it in torch.as_tensor"),
    ({"support": torch.ones(7, 4).long()}, "support must be floating point, got torch.int64: convert it with .float()"),
    (
        {"query": torch.ones(5, 4, dtype=torch.complex64)},
        "query must be floating point, got torch.complex64: convert it with .float()",
    ),
    (
        {"support_labels": torch.tensor(SUPPORT_LABELS).int()},
        "support_labels must be int64, got torch.int32: convert it with .long()",
    ),
    (
        {"class_ids": torch.tensor(CLASS_IDS).float()},
        "class_ids must be int64, got torch.float32: convert it with .long()",
    ),
    (
        {"query_labels": torch.tensor(QUERY_LABELS).bool()},
        "query_labels must be int64, got torch.bool: convert it with .long()",
    ),
    ({"query_mask": MASK.byte()}, "query_mask must be bool, got torch.uint8"),
]
WRONG_VALUES = [
    ({"class_ids": torch.tensor(4)}, "class_ids must have shape (..., n_way) with n_way >= 1, got ()"),
    ({"class_ids": torch.zeros(0).long()}, "class_ids must have shape (..., n_way) with n_way >= 1, got (0,)"),
    ({"support": torch.ones(4)}, "support and query must have shape (..., n_items, n_features), got (4,) and (5, 4)"),
    ({"query": torch.ones(4)}, "support and query must have shape (..., n_items, n_features), got (7, 4) and (4,)"),
    ({"support": torch.ones(7, 6)}, "support must have shape (7, 4) to match the others, got (7, 6)"),
    ({"query": torch.ones(5, 4, device="meta")}, "query is on meta, class_ids on cpu: move them together"),
    ({"class_ids": torch.ones(3, device="meta").long()}, "support is on cpu, class_ids on meta: move them together"),
    ({"query": torch.ones(5, 4).double()}, "support is torch.float32, query torch.float64: use one dtype"),
    (
        {"query": torch.ones(0, 4), "query_labels": None},
        "an episode needs at least one query and one feature, got query of shape (0, 4)",
    ),
    (
        {"support_labels": torch.tensor([0, 1, 2, 3, 0, 0, 0])},
        "support_labels must lie in [0, n_way=3), got values from 0 to 3",
    ),
    (
        {"support_labels": torch.tensor([0, 1, 2, -1, 0, 0, 0])},
        "support_labels must lie in [0, n_way=3), got values from -1 to 2",
    ),
    ({"query_labels": torch.tensor([1, 1, 4, 3, 1])}, "query_labels must lie in [0, n_way=3), got values from 1 to 4"),
    (
        {"query_labels": torch.tensor([0, 1, -1, 2, 1])},
        "query_labels must lie in [0, n_way=3), got values from -1 to 2",
    ),
    (
        {"class_ids": torch.tensor([-1, 4, 9])},
        "class_ids must be at least 0, got -1: -1 marks an absent way, in a ragged batch only (one with a query_mask)",
    ),
    (
        {"support_labels": torch.tensor([2, 0, 2, 0, 2, 2, 0])},
        "way 1 (class id 9) has no support item: give each class at least one, or leave the class out of class_ids",
    ),
]
WRONG_IN_A_BATCH = [
    ({"support": torch.ones(7, 4)}, "support must have shape (2, 7, 4) to match the others, got (7, 4)"),
    (
        {"support_labels": BATCH["support_labels"][:, :6]},
        "support_labels must have shape (2, 7) to match the others, got (2, 6)",
    ),
    ({"query": torch.ones(3, 5, 4)}, "query must have shape (2, 5, 4) to match the others, got (3, 5, 4)"),
    ({"query_labels": torch.zeros(5).long()}, "query_labels must have shape (2, 5) to match the others, got (5,)"),
    ({"query_mask": MASK}, "query_mask must have shape (2, 5) to match the others, got (5,)"),
    (
        {"query": torch.ones(2, 5, 0), "support": torch.ones(2, 7, 0)},
        "an episode needs at least one query and one feature, got query of shape (2, 5, 0)",
    ),
    (
        {"support_labels": torch.tensor([SUPPORT_LABELS, [0, 0, 0, 1, 1, 1, 1]])},
        "way 2 of episode (1,) (class id 11) has no support item: "
        "give each class at least one, or leave the class out of class_ids",
    ),
]
WRONG_IN_A_RAGGED_BATCH = [
    (
        {"support_labels": torch.tensor([SUPPORT_LABELS, [1, 0, 0, 1, 1, -2, -1]])},
        "support_labels must lie in [0, n_way=3), got values from -2 to 2",
    ),
    (
        {"query_labels": torch.tensor([QUERY_LABELS, [1, 0, 1, 3, -1]])},
        "query_labels must lie in [0, n_way=3), got values from -1 to 3",
    ),
    (
        {"class_ids": torch.tensor([CLASS_IDS, [5, 6, -2]])},
        "class_ids must be at least -1, got -2: -1 marks an absent way, in a ragged batch only (one with a query_mask)",
    ),
    (
        {"class_ids": torch.tensor([CLASS_IDS, [5, 6, 8]])},
        "way 2 of episode (1,) (class id 8) has no support item: "
        "give each class at least one, or leave the class out of class_ids",
    ),
    (
        {"query_mask": None},
        "class_ids must be at least 0, got -1: -1 marks an absent way, in a ragged batch only (one with a query_mask)",
    ),
]


@pytest.mark.parametrize(
    ("kind", "base", "changes", "message"),
    [
        *[(TypeError, parts(), *row) for row in WRONG_TYPES],
        *[(ValueError, parts(), *row) for row in WRONG_VALUES],
        *[(ValueError, BATCH, *row) for row in WRONG_IN_A_BATCH],
        *[(ValueError, ragged_parts(), *row) for row in WRONG_IN_A_RAGGED_BATCH],
        (
            ValueError,
            parts((2, 1)),
            {"support_labels": torch.tensor([[[1] * 7], [SUPPORT_LABELS]])},
            "way 0 of episode (0, 0) (class id 4) has no support item: "
            "give each class at least one, or leave the class out of class_ids",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_an_episode_says_what_is_wrong(kind, base, changes, message):
    Episode(**base)
    with refuses(kind, message):
        Episode(**base | changes)


def test_a_ragged_batch_carries_its_padding():
    episode = Episode(**ragged_parts())
    assert episode.is_ragged
    assert episode.n_way == N_WAY
    assert episode.way_mask.tolist() == [[True] * 3, [True, True, False]]
    whole = Episode(**parts() | {"query_mask": MASK})
    assert whole.is_ragged


# ------------------------------------------------------------------------------------------------------------- gather


@pytest.mark.parametrize("has_buffer", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gather_looks_the_features_up(dtype, has_buffer):
    index = SAMPLERS["balanced"].sample(5, generator=generator(12))
    features = torch.randn(36, 4, generator=generator(13), dtype=dtype)
    buffer = torch.empty(5 * (6 + 9) * 4 + 17, dtype=dtype) if has_buffer else None
    for part in (index, index.rows(1, 3)):  # a buffer is used again, by a smaller batch too
        episode = part.gather(features, buffer)
        assert torch.equal(episode.support, features[part.support_index])
        assert torch.equal(episode.query, features[part.query_index])
        assert torch.equal(episode.support_labels, part.support_labels)
        assert torch.equal(episode.query_labels, part.query_labels)
        assert torch.equal(episode.class_ids, part.class_ids)
        assert not episode.is_ragged
        assert episode.query.dtype == dtype
        if has_buffer:
            assert episode.support.data_ptr() == buffer.data_ptr()


@pytest.mark.parametrize("n_episodes", [1, 4])
def test_padding_that_every_episode_has_is_cut_without_a_trace(n_episodes):
    index = SAMPLERS["balanced"].sample(n_episodes, generator=generator(12))
    features = torch.randn(36, 4, generator=generator(13))
    wider = EpisodeIndex(*(torch.nn.functional.pad(tensor, (0, 2), value=-1) for tensor in index))
    one, other = index.gather(features), wider.gather(features)
    assert not other.is_ragged
    assert other.query_mask is None
    for name in ("support", "support_labels", "query", "query_labels", "class_ids"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_gather_widens_half_and_refuses_integers():
    index = SAMPLERS["balanced"].sample(2, generator=generator())
    features = torch.randn(36, 4, generator=generator()).half()
    assert torch.equal(index.gather(features).query, features[index.query_index].float())
    with refuses(TypeError, "support must be floating point, got torch.int64: convert it with .float()"):
        index.gather(features.long())


@pytest.mark.parametrize("name", SAMPLERS)
def test_gather_follows_the_device_of_the_features(name):
    sampler = SAMPLERS[name]  # labels on the CPU
    index = sampler.sample(3, generator=generator())
    here, away = index.gather(torch.zeros(147, 5)), index.gather(torch.zeros(147, 5, device="meta"))
    for field in fields(Episode):
        tensor, other = getattr(here, field.name), getattr(away, field.name)
        assert (tensor is None) == (other is None)
        if tensor is not None:
            assert other.is_meta
            assert other.shape == tensor.shape


@settings(max_examples=60)
@given(SEEDS, st.booleans(), st.integers(1, 5))
def test_gather_trims_padding_and_loses_nothing(seed, has_buffer, n_episodes):
    # The classes are large enough for max_query, so that the drawn width of the queries is the full width.
    sizes = [40, 9, 4, 33, 25, 60]
    sampler = MetaDatasetSampler(pool_of(sizes), min_way=2, max_query=5)
    features = torch.randn(sum(sizes), 3, generator=generator(14))
    index = sampler.sample(60, generator=generator(seed % 7))
    start = seed % 55
    part = index.rows(start, start + n_episodes)
    buffer = torch.empty(n_episodes * (500 + 30) * 3) if has_buffer else None
    episode = part.gather(features, buffer)
    rows = listed(part)
    n_support, _, n_queries, _, n_way = (max(len(row[field]) for row in rows) for field in range(5))
    assert (episode.n_queries, episode.n_way) == (n_queries, n_way)
    if n_queries < part.query_index.shape[1]:
        assert episode.support.shape[-2] == n_support
    assert episode.is_ragged or len({(len(s), len(q), len(c)) for s, _, q, _, c in rows}) == 1
    mask = torch.ones_like(episode.query_labels, dtype=torch.bool) if not episode.is_ragged else episode.query_mask
    for i, (support, support_labels, query, query_labels, class_ids) in enumerate(rows):
        is_support = episode.support_labels[i] >= 0
        assert torch.equal(episode.support[i][is_support], features[support])
        assert episode.support_labels[i][is_support].tolist() == support_labels
        assert torch.equal(episode.query[i][mask[i]], features[query])
        assert episode.query_labels[i].tolist() == query_labels + [-1] * int((~mask[i]).sum())
        assert episode.class_ids[i][episode.way_mask[i]].tolist() == class_ids
