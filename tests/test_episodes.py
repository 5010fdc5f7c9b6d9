"""Episodes and their samplers, held to exact laws, brute force and the loops of ``tests/reference``."""

import hashlib
import math
import struct
from collections import Counter
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields
from itertools import combinations, islice, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from episodes import Episode, EpisodeHash, EpisodeIndex, EpisodeSampler, MetaDatasetSampler
from episodes.meta_dataset import support_counts
from episodes.pool import class_pool, compacted
from tests.reference.sampler_loop import largest_remainder_counts, meta_dataset_counts

SEEDS = st.integers(0, 2**32 - 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@contextmanager
def refuses(kind, message):
    with pytest.raises(kind) as error:
        yield
    assert str(error.value) == message


def assert_follows(draws, probabilities):
    """Chi-square of hashable draws against a dict of exact probabilities; the seed is fixed, so is the answer."""
    observed = dict.fromkeys(probabilities, 0)
    for draw in draws:
        observed[draw] += 1  # an impossible outcome is a KeyError
    expected = [len(draws) * p for p in probabilities.values()]
    assert min(expected) > 5
    assert stats.chisquare(list(observed.values()), expected).pvalue > 1e-3


def uniform(outcomes):
    outcomes = list(outcomes)
    return dict.fromkeys(outcomes, 1 / len(outcomes))


def pool_of(sizes, class_ids=None, seed=0):
    """Shuffled labels with ``sizes[i]`` items of the i-th class."""
    class_ids = range(len(sizes)) if class_ids is None else class_ids
    labels = torch.tensor([i for i, size in zip(class_ids, sizes, strict=True) for _ in range(size)])
    return labels[torch.randperm(len(labels), generator=generator(seed))]


def listed(index):
    """Episodes as plain lists, padding left out."""

    def real(tensor):
        return [[value for value in row if value != -1] for row in tensor.tolist()]

    return list(zip(*(real(tensor) for tensor in index), strict=True))


def joined(batches):
    return [episode for index in batches for episode in listed(index)]


def hash_of(batches):
    fingerprint = EpisodeHash()
    for index in batches:
        fingerprint.update(index)
    return fingerprint.hexdigest()


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


# ---------------------------------------------------------------------------------------------- EpisodeSampler: what


@st.composite
def samplers(draw):
    """A sampler of any kind over a pool that suffices, and its labels."""
    n_way = draw(st.integers(1, 4))
    n_shot = draw(st.integers(1, 3))
    n_effective_way = draw(st.none() | st.integers(1, n_way))
    distribution = draw(st.sampled_from(["balanced", "uniform", "dirichlet"]))
    protocol = draw(st.sampled_from(["disjoint", "disjoint", "unem-official"]))
    n_query = draw(st.integers(1, 4)) if distribution == "balanced" else None
    n_classes = n_way + draw(st.integers(0, 2))
    needed = n_shot + (n_query or 2)
    sizes = draw(st.lists(st.integers(needed, needed + 5), min_size=n_classes, max_size=n_classes))
    class_ids = draw(st.lists(st.integers(0, 1000), min_size=n_classes, max_size=n_classes, unique=True))
    total = None
    if n_query is None:
        total = draw(st.integers(1, sum(sorted(size - n_shot for size in sizes)[: n_effective_way or n_way])))
    labels = pool_of(sizes, class_ids, draw(st.integers(0, 99)))
    sampler = EpisodeSampler(
        labels,
        n_way,
        n_shot,
        n_query,
        n_query_total=total,
        query_distribution=distribution,
        n_effective_way=n_effective_way,
        dirichlet_concentration=draw(st.sampled_from([1e-3, 0.5, 2.0])),
        protocol=protocol,
    )
    return sampler, labels.tolist()


@settings(max_examples=200)
@given(samplers(), SEEDS, st.integers(1, 9))
def test_every_episode_obeys_its_settings(problem, seed, n_episodes):
    # P17 of unem.md
    sampler, labels = problem
    n_way, n_shot, n_effective_way = sampler.n_way, sampler.n_shot, sampler.n_effective_way
    index = sampler.sample(n_episodes, generator=generator(seed))
    assert index.n_episodes == n_episodes
    assert all(tensor.dtype == torch.int64 for tensor in index)
    assert index.support_index.shape == index.support_labels.shape == (n_episodes, n_way * n_shot)
    assert index.query_index.shape == index.query_labels.shape == (n_episodes, sampler.n_queries)
    n_leaked = 0
    for support, support_labels, query, query_labels, class_ids in zip(*(t.tolist() for t in index), strict=True):
        assert class_ids == sorted(set(class_ids))
        assert len(class_ids) == n_way
        assert set(class_ids) <= set(labels)
        assert [labels[item] for item in support] == [class_ids[way] for way in support_labels]
        assert [labels[item] for item in query] == [class_ids[way] for way in query_labels]
        assert Counter(support_labels) == dict.fromkeys(range(n_way), n_shot)
        assert len(set(support)) == len(support)
        assert len(set(query)) == len(query) == sampler.n_queries
        effective = Counter(query_labels)
        assert len(effective) <= n_effective_way
        if sampler.query_distribution == "balanced":
            assert len(effective) == n_effective_way
            assert set(effective.values()) == {sampler.n_query}
        n_leaked += len(set(support) & set(query))
    assert index.n_leaked == n_leaked
    if sampler.is_disjoint:
        assert n_leaked == 0


@settings(max_examples=25)
@given(samplers(), SEEDS)
def test_one_seed_one_list_of_episodes(problem, seed):
    sampler, _ = problem
    before = torch.get_rng_state()
    shared = generator(seed)
    first, second = sampler.sample(40, generator=shared), sampler.sample(40, generator=shared)
    again = sampler.sample(40, generator=generator(seed))
    assert listed(first) == listed(again)
    assert torch.equal(torch.get_rng_state(), before)
    assert listed(first) != listed(second)


# ----------------------------------------------------------------------------------------- EpisodeSampler: how likely


def test_every_choice_of_classes_and_effective_ways_is_equally_likely():
    sampler = EpisodeSampler(pool_of([4, 9, 3, 6, 5]), 3, 1, 1, n_effective_way=2)
    index = sampler.sample(12_000, generator=generator(1))
    draws = []
    for class_ids, query_labels in zip(index.class_ids.tolist(), index.query_labels.tolist(), strict=True):
        draws.append((tuple(class_ids), tuple(sorted(class_ids[way] for way in query_labels))))
    assert_follows(draws, uniform((c, e) for c in combinations(range(5), 3) for e in combinations(c, 2)))


@pytest.mark.parametrize("protocol", ["disjoint", "unem-official"])
def test_every_support_and_query_of_a_class_is_equally_likely(protocol):
    # Six items, 2 shots, 2 queries: 15 supports, and 6 (from what is left) or 15 (from all) queries with each.
    sampler = EpisodeSampler(torch.zeros(6).long(), 1, 2, 2, protocol=protocol)
    index = sampler.sample(12_000, generator=generator(2))
    draws = [
        (tuple(sorted(support)), tuple(sorted(query)))
        for support, query in zip(index.support_index.tolist(), index.query_index.tolist(), strict=True)
    ]
    pairs = list(combinations(range(6), 2))
    assert_follows(
        draws, uniform((s, q) for s, q in product(pairs, pairs) if protocol == "unem-official" or not set(s) & set(q))
    )


def test_uniform_queries_are_a_uniform_subset_of_what_all_ways_have_left():
    # 3 and 4 items, one shot each: 12 supports, C(5, 2) = 10 query sets with each.
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    sampler = EpisodeSampler(labels, 2, 1, n_query_total=2, query_distribution="uniform")
    index = sampler.sample(20_000, generator=generator(3))
    draws = [
        (tuple(support), tuple(sorted(query)))
        for support, query in zip(index.support_index.tolist(), index.query_index.tolist(), strict=True)
    ]
    supports = list(product(range(3), range(3, 7)))
    assert_follows(draws, uniform((s, q) for s in supports for q in combinations(sorted({*range(7)} - {*s}), 2)))


def test_uniform_queries_are_drawn_from_the_effective_ways_alone():
    sampler = EpisodeSampler(
        pool_of([30, 60, 90]), 3, 5, n_query_total=20, n_effective_way=1, query_distribution="uniform"
    )
    index = sampler.sample(3000, generator=generator(4))
    assert bool((index.query_labels == index.query_labels[:, :1]).all())
    assert_follows(index.query_labels[:, 0].tolist(), uniform(range(3)))  # ways, not items, are equally likely


@pytest.mark.parametrize(("concentration", "largest", "n_empty"), [(2.0, 0.378, 0.006), (1.0, 0.460, 0.14)])
def test_dirichlet_queries_are_as_skewed_as_measured(concentration, largest, n_empty):
    # unem.md 3.1, 5 ways and 75 queries: within half a unit of the last digit, and 4 standard errors of a difference.
    n = 6000
    sampler = EpisodeSampler(
        pool_of([80] * 5), 5, 1, n_query_total=75, query_distribution="dirichlet", dirichlet_concentration=concentration
    )
    counts = torch.nn.functional.one_hot(sampler.sample(n, generator=generator(5)).query_labels, 5).sum(1)
    shares, empty = counts.amax(-1) / 75, (counts == 0).sum(-1).double()
    for values, published, half_unit in (
        (shares, largest, 0.0005),
        (empty, n_empty, 0.0005 if n_empty < 0.1 else 0.005),
    ):
        assert abs(float(values.mean()) - published) < half_unit + 4 * float(values.std()) * (2 / n) ** 0.5


def test_dirichlet_counts_follow_numpys_shares_and_the_rational_rounding():
    n, sizes, n_shot, total = 3000, [13, 45, 22], 2, 30
    sampler = EpisodeSampler(
        pool_of(sizes), 3, n_shot, n_query_total=total, query_distribution="dirichlet", dirichlet_concentration=0.6
    )
    index = sampler.sample(n, generator=generator(6))
    ours = torch.nn.functional.one_hot(index.query_labels, 3).sum(1).numpy()
    shares = np.random.default_rng(6).dirichlet([0.6] * 3, size=n)
    theirs = np.array([largest_remainder_counts(row, total, [size - n_shot for size in sizes]) for row in shares])
    for way in range(3):
        values = sorted({*ours[:, way], *theirs[:, way]})
        table = [[(drawn[:, way] <= value).sum() for value in values] for drawn in (ours, theirs)]
        assert np.abs(np.subtract(*table)).max() / n < 1.95 * (2 / n) ** 0.5  # Kolmogorov-Smirnov, level 1e-3


@pytest.mark.parametrize(("n_shot", "published"), [(1, 0.017), (5, 0.083), (10, 0.169), (20, 0.336)])
@pytest.mark.parametrize("distribution", ["balanced", "uniform"])
def test_the_leaking_protocol_leaks_as_its_closed_form_says(n_shot, published, distribution):
    # Every query is a support item with probability n_shot / N. CUB: 50 classes of 60, 5 effective ways, 75 queries;
    # the published rates are one measurement on classes of about 60, hence the loose comparison.
    n = 400
    how = {"n_query": 15} if distribution == "balanced" else {"n_query_total": 75}
    sampler = EpisodeSampler(
        pool_of([60] * 50),
        50,
        n_shot,
        n_effective_way=5,
        query_distribution=distribution,
        protocol="unem-official",
        **how,
    )
    index = sampler.sample(n, generator=generator(7))
    leaked = [len({*s} & {*q}) for s, q in zip(index.support_index.tolist(), index.query_index.tolist(), strict=True)]
    assert index.n_leaked == sum(leaked)
    expected, rate = n_shot / 60, np.mean(leaked) / 75
    assert abs(rate - expected) < 4 * np.std(leaked) / 75 / n**0.5
    assert rate == pytest.approx(published, abs=0.01)
    if distribution == "balanced":  # per class hypergeometric: 15 queries, 60 items of which n_shot are support
        assert np.var(leaked) == pytest.approx(5 * stats.hypergeom(60, n_shot, 15).var(), rel=0.3)


# ------------------------------------------------------------------------------------------------- batches and hashes

SAMPLERS = {
    "balanced": EpisodeSampler(pool_of([9, 8, 12, 7]), 3, 2, 3),
    "uniform": EpisodeSampler(
        pool_of([9, 8, 12, 7]), 3, 2, n_query_total=7, query_distribution="uniform", n_effective_way=2
    ),
    "dirichlet": EpisodeSampler(pool_of([9, 8, 12, 7]), 3, 2, n_query_total=7, query_distribution="dirichlet"),
    "meta-dataset": MetaDatasetSampler(pool_of([4, 60, 9, 25, 33, 14, 2]), min_way=2, max_query=5),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_episodes_do_not_depend_on_the_batch_size(sampler):
    def run(n_episodes, batch_size):
        return list(sampler.batches(n_episodes, batch_size, generator=generator(8)))

    whole = run(500, 500)
    expected = joined(whole)
    assert len(expected) == 500
    assert len({str(episode) for episode in expected}) > 490  # no block is handed out twice
    for batch_size in (1, 7, 64, 300, 10_000):
        batches = run(500, batch_size)
        assert [index.n_episodes for index in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert joined(batches) == expected
        assert hash_of(batches) == hash_of(whole)
    for short in (1, 100, 256, 257):
        assert joined(run(short, 64)) == expected[:short]
    assert joined(islice(sampler.batches(500, 64, generator=generator(8)), 2)) == expected[:128]
    assert joined(sampler.batches(500, 500, generator=generator(9))) != expected
    assert run(0, 5) == []


def test_the_hash_is_the_sha256_of_the_items():
    index = EpisodeIndex(
        support_index=torch.tensor([[3, 1, -1], [6, 5, 2]]),
        support_labels=torch.tensor([[0, 1, -1], [0, 1, 1]]),
        query_index=torch.tensor([[4, -1, 0, -1], [8, 7, 9, -1]]),
        query_labels=torch.tensor([[0, -1, 1, -1], [0, 1, 1, -1]]),
        class_ids=torch.tensor([[2, 3], [4, 5]]),
    )
    items = [-2, 3, 1, -2, 4, 0, -2, 6, 5, 2, -2, 8, 7, 9]
    expected = hashlib.sha256(struct.pack(f"<{len(items)}q", *items)).hexdigest()[:12]
    assert hash_of([index]) == hash_of([index.rows(0, 1), index.rows(1, 2)]) == expected
    assert hash_of([compacted(index, 11, 6)]) == expected  # padding is ignored
    assert hash_of([index.rows(1, 2), index.rows(0, 1)]) != expected
    moved = index._replace(support_index=torch.tensor([[3, -1, -1], [6, 5, 2]]), query_index=index.query_index.clone())
    moved.query_index[0] = torch.tensor([1, 4, 0, -1])  # the same items, one moved from support to query
    assert hash_of([moved]) != expected


def test_rows_are_a_slice_of_every_field():
    index = SAMPLERS["balanced"].sample(9, generator=generator(10))
    assert listed(index.rows(2, 7)) == listed(index)[2:7]
    assert index.rows(2, 7).n_episodes == 5


# ----------------------------------------------------------------------------------------------------------- the pool


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"])
def test_labels_may_be_any_integers_in_any_order(dtype):
    labels = torch.tensor([40, 10, 20, 20, 10, 40, 40, 10, 20, 10])
    sampler = EpisodeSampler(labels.to(getattr(torch, dtype)), 2, 1, 2)
    index = sampler.sample(30, generator=generator(11))
    expected = EpisodeSampler(labels, 2, 1, 2).sample(30, generator=generator(11))
    assert listed(index) == listed(expected)
    assert {*index.class_ids.flatten().tolist()} == {10, 20, 40}
    assert torch.equal(labels[index.query_index], index.class_ids.gather(1, index.query_labels))


def test_labels_may_be_a_list_or_an_array():
    labels = [1, 0, 1, 0, 1, 0]
    expected = EpisodeSampler(torch.tensor(labels), 2, 1, 2).sample(5, generator=generator())
    for other in (labels, np.array(labels), np.array(labels, dtype=np.int16)):
        assert listed(EpisodeSampler(other, 2, 1, 2).sample(5, generator=generator())) == listed(expected)


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.tensor([0.0, 1.0]), TypeError, "labels must be integers, got torch.float32"),
        (torch.tensor([0.0, 1.0]).half(), TypeError, "labels must be integers, got torch.float16"),
        (torch.tensor([0, 1]).to(torch.complex64), TypeError, "labels must be integers, got torch.complex64"),
        (torch.tensor([True, False]), TypeError, "labels must be integers, got torch.bool"),
        (
            torch.tensor([0, -1, 1]),
            ValueError,
            "labels must not be negative: leave unlabelled rows (-1) out of the pool",
        ),
        (torch.tensor([[0, 1]]), ValueError, "labels must have shape (n,) with n >= 1, got (1, 2)"),
        (torch.tensor(3), ValueError, "labels must have shape (n,) with n >= 1, got ()"),
        (torch.zeros(0).long(), ValueError, "labels must have shape (n,) with n >= 1, got (0,)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("make", [lambda y: EpisodeSampler(y, 2, 1, 1), MetaDatasetSampler], ids=["n-way", "meta"])
def test_other_labels_are_refused(make, labels, kind, message):
    with refuses(kind, message):
        make(labels)


@given(st.lists(st.sampled_from([10, 20, 40, 7]), min_size=1, max_size=30))
def test_the_pool_is_the_labels_sorted_by_class(labels):
    pool = class_pool(torch.tensor(labels))
    assert pool.class_ids.tolist() == sorted(set(labels))
    for class_id, start, size in zip(pool.class_ids, pool.starts, pool.sizes, strict=True):
        rows = [row for row, label in enumerate(labels) if label == class_id]
        assert pool.items[start : start + size].tolist() == rows


# ------------------------------------------------------------------------------------------ small classes and settings

SMALL = pool_of([6, 3, 9, 4, 8], [10, 20, 40, 41, 45])
NAMES = {10: "owl", 20: "crow", 40: "tit", 41: "jay", 45: "kite"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"n_shot": 2, "n_query": 2},
            "class 20 has 3 items, fewer than n_shot + n_query = 4: "
            "ask for less, or leave small classes out (on_small_class: skip)",
        ),
        (
            {"n_shot": 2, "n_query": 3, "class_names": NAMES},
            "class 'crow' has 3 items, fewer than n_shot + n_query = 5 (and 1 more such classes): "
            "ask for less, or leave small classes out (on_small_class: skip)",
        ),
        (
            {"n_shot": 3, "n_query_total": 1, "query_distribution": "uniform"},
            "class 20 has 3 items, fewer than n_shot + 1 query = 4: "
            "ask for less, or leave small classes out (on_small_class: skip)",
        ),
        (
            {"n_shot": 2, "n_query": 4, "protocol": "unem-official"},
            "class 20 has 3 items, fewer than the larger of n_shot and n_query = 4: "
            "ask for less, or leave small classes out (on_small_class: skip)",
        ),
        (
            {"n_shot": 7, "n_query_total": 4, "query_distribution": "dirichlet", "protocol": "unem-official"},
            "class 10 has 6 items, fewer than the larger of n_shot and 1 query = 7 (and 2 more such classes): "
            "ask for less, or leave small classes out (on_small_class: skip)",
        ),
    ],
)
def test_a_small_class_is_named_with_its_count(chosen, message):
    with refuses(ValueError, message):
        EpisodeSampler(SMALL, 2, **chosen)
    EpisodeSampler(SMALL, 1, **chosen | {"on_small_class": "skip"})


def test_a_small_class_is_named_by_its_label_in_a_list_of_names():
    with refuses(
        ValueError,
        "class 'b' has 1 items, fewer than n_shot + n_query = 2: "
        "ask for less, or leave small classes out (on_small_class: skip)",
    ):
        EpisodeSampler(torch.tensor([0, 0, 2, 2, 1]), 2, 1, 1, class_names=["a", "b", "c"])


def test_skipped_classes_are_listed_and_never_drawn():
    sampler = EpisodeSampler(SMALL, 3, 2, 3, on_small_class="skip")
    assert sampler.skipped_class_ids == (20, 41)
    index = sampler.sample(50, generator=generator())
    assert bool((index.class_ids == torch.tensor([10, 40, 45])).all())
    assert torch.equal(SMALL[index.support_index], index.class_ids.gather(1, index.support_labels))
    assert EpisodeSampler(SMALL, 5, 1, 2, on_small_class="skip").skipped_class_ids == ()
    with refuses(ValueError, "n_way = 4 exceeds the 3 classes of the pool after leaving 2 small ones out"):
        EpisodeSampler(SMALL, 4, 2, 3, on_small_class="skip")


def test_exactly_enough_items_are_enough():
    labels = pool_of([5, 5])
    index = EpisodeSampler(labels, 2, 2, 3).sample(20, generator=generator())
    used = torch.cat([index.support_index, index.query_index], dim=1).sort(-1).values
    assert bool((used == torch.arange(10)).all())
    whole = EpisodeSampler(labels, 2, 2, n_query_total=6, query_distribution="uniform")
    used = torch.cat(whole.sample(20, generator=generator())[:3:2], dim=1).sort(-1).values
    assert bool((used == torch.arange(10)).all())
    for distribution in ("uniform", "dirichlet"):
        leaking = EpisodeSampler(
            labels, 2, 2, n_query_total=10, query_distribution=distribution, protocol="unem-official"
        )
        used = leaking.sample(20, generator=generator()).query_index.sort(-1).values
        assert bool((used == torch.arange(10)).all())
    with refuses(
        ValueError,
        "the 2 smallest classes have 6 items left for queries, fewer than n_query_total = 7: "
        "ask for fewer queries, or for more effective ways",
    ):
        EpisodeSampler(labels, 2, 2, n_query_total=7, query_distribution="uniform")


BOTH = "takes n_query (queries per class) and not n_query_total"
TOTAL = "takes n_query_total (queries in all, the counts per class being drawn) and not n_query"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"n_way": 0}, "n_way must be at least 1, got 0"),
        ({"n_shot": 0}, "n_shot must be at least 1, got 0"),
        ({"n_shot": -2}, "n_shot must be at least 1, got -2"),
        ({"n_query": 0}, "n_query must be at least 1, got 0"),
        (
            {"n_query": None, "n_query_total": 0, "query_distribution": "uniform"},
            "n_query_total must be at least 1, got 0",
        ),
        ({"n_effective_way": 0}, "n_effective_way must be at least 1, got 0"),
        ({"n_effective_way": 4}, "n_effective_way = 4 exceeds n_way = 3"),
        ({"dirichlet_concentration": 0.0}, "dirichlet_concentration must be positive, got 0.0"),
        ({"dirichlet_concentration": math.nan}, "dirichlet_concentration must be positive, got nan"),
        ({"query_distribution": "even"}, "query_distribution must be one of balanced, uniform, dirichlet; got 'even'"),
        ({"protocol": "leaky"}, "protocol must be one of disjoint, unem-official; got 'leaky'"),
        ({"on_small_class": "drop"}, "on_small_class must be one of error, skip; got 'drop'"),
        ({"n_query": None}, f"query_distribution='balanced' {BOTH}; got n_query=None, n_query_total=None"),
        ({"n_query_total": 9}, f"query_distribution='balanced' {BOTH}; got n_query=2, n_query_total=9"),
        (
            {"n_query": None, "n_query_total": 9},
            f"query_distribution='balanced' {BOTH}; got n_query=None, n_query_total=9",
        ),
        ({"query_distribution": "uniform"}, f"query_distribution='uniform' {TOTAL}; got n_query=2, n_query_total=None"),
        (
            {"query_distribution": "dirichlet", "n_query_total": 9},
            f"query_distribution='dirichlet' {TOTAL}; got n_query=2, n_query_total=9",
        ),
        (
            {"query_distribution": "uniform", "n_query": None},
            f"query_distribution='uniform' {TOTAL}; got n_query=None, n_query_total=None",
        ),
        ({"n_way": 6}, "n_way = 6 exceeds the 5 classes of the pool"),
        (
            {"n_query": None, "n_query_total": 15, "query_distribution": "dirichlet", "n_effective_way": 2},
            "the 2 smallest classes have 5 items left for queries, fewer than n_query_total = 15: "
            "ask for fewer queries, or for more effective ways",
        ),
        (
            {"n_query": None, "n_query_total": 14, "query_distribution": "uniform", "protocol": "unem-official"},
            "the 3 smallest classes have 13 items left for queries, fewer than n_query_total = 14: "
            "ask for fewer queries, or for more effective ways",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_settings_that_cannot_be_are_refused(chosen, message):
    valid = {"n_way": 3, "n_shot": 1, "n_query": 2}
    EpisodeSampler(SMALL, **valid)
    with refuses(ValueError, message):
        EpisodeSampler(SMALL, **valid | chosen)


@pytest.mark.parametrize(
    ("sampler", "n_queries", "description"),
    [
        (EpisodeSampler(SMALL, 3, 1, 2), 6, "3-way 1-shot, 2 queries per class, support and query disjoint"),
        (
            EpisodeSampler(SMALL, 3, 1, 2, n_effective_way=2, protocol="unem-official"),
            4,
            "3-way 1-shot, 2 queries per class of 2 of the ways, support and query may overlap (unem-official)",
        ),
        (
            EpisodeSampler(SMALL, 3, 2, n_query_total=7, query_distribution="uniform"),
            7,
            "3-way 2-shot, 7 queries in all, uniform over the pooled items, support and query disjoint",
        ),
        (
            EpisodeSampler(SMALL, 3, 2, n_query_total=5, query_distribution="dirichlet", n_effective_way=3),
            5,
            "3-way 2-shot, 5 queries in all, Dirichlet(2) shares, support and query disjoint",
        ),
    ],
    ids=["balanced", "effective", "uniform", "dirichlet"],
)
def test_a_sampler_says_what_it_draws(sampler, n_queries, description):
    assert sampler.describe() == description
    assert sampler.n_queries == n_queries
    assert sampler.sample(2, generator=generator()).query_index.shape == (2, n_queries)


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


# ------------------------------------------------------------------------------------------------- MetaDatasetSampler


@settings(max_examples=300)
@given(st.lists(st.integers(2, 1500), min_size=1, max_size=12), st.integers(0, 2), SEEDS, st.data())
def test_support_counts_equal_the_loop(sizes, n_absent, seed, data):
    max_query = data.draw(st.integers(1, 12))
    max_support = data.draw(st.integers(len(sizes), 600))
    max_per_class = data.draw(st.sampled_from([1, 20, 100, 5000]))
    rng = np.random.default_rng(seed)
    share, tilt = rng.random(), rng.random(len(sizes))
    shots, n_query = meta_dataset_counts(sizes, share, tilt, max_query, max_support, max_per_class)
    absent = [0] * n_absent
    counts = support_counts(
        torch.tensor(sizes + absent),
        torch.tensor([n_query] * len(sizes) + absent),
        torch.tensor([share], dtype=torch.float64),
        torch.from_numpy(np.append(math.log(0.5) + tilt * (math.log(2.0) - math.log(0.5)), np.zeros(n_absent))),
        max_support=max_support,
        max_support_per_class=max_per_class,
    )
    assert counts.dtype == torch.int64
    assert counts.tolist() == shots + absent


def test_support_counts_take_any_batch_shape():
    rng = np.random.default_rng(15)
    sizes = torch.from_numpy(rng.integers(2, 300, size=(2, 3, 5)))
    n_query = (sizes.amin(-1, keepdim=True) // 2).clamp(max=10).expand(-1, -1, 5)
    share, tilt = rng.random((2, 3, 1)), rng.random((2, 3, 5))
    counts = support_counts(
        sizes, n_query, torch.from_numpy(share), torch.from_numpy(math.log(0.5) + tilt * math.log(4.0))
    )
    for where in np.ndindex(2, 3):
        expected, _ = meta_dataset_counts(sizes[where].tolist(), float(share[where][0]), tilt[where])
        assert counts[where].tolist() == expected


@settings(max_examples=150)
@given(st.data(), SEEDS)
def test_every_meta_dataset_episode_obeys_its_settings(data, seed):
    sizes = data.draw(st.lists(st.integers(2, 45), min_size=2, max_size=7))
    class_ids = data.draw(st.lists(st.integers(0, 500), min_size=len(sizes), max_size=len(sizes), unique=True))
    labels = pool_of(sizes, class_ids, seed % 100)
    min_way = data.draw(st.integers(1, len(sizes)))
    max_way = data.draw(st.integers(min_way, 50))
    max_query = data.draw(st.integers(1, 12))
    max_support = data.draw(st.integers(min(max_way, len(sizes)), 60))
    sampler = MetaDatasetSampler(labels, min_way=min_way, max_way=max_way, max_query=max_query, max_support=max_support)
    n_episodes, widest = 20, min(max_way, len(sizes))
    index = sampler.sample(n_episodes, generator=generator(seed))
    assert index.support_index.shape == index.support_labels.shape == (n_episodes, max_support)
    assert index.query_index.shape == index.query_labels.shape == (n_episodes, widest * max_query)
    assert index.class_ids.shape == (n_episodes, widest)
    assert index.n_leaked == 0
    for items, ways in ((index.support_index, index.support_labels), (index.query_index, index.query_labels)):
        assert torch.equal(items >= 0, ways >= 0)
        assert bool(((items[:, 1:] < 0) | (items[:, :-1] >= 0)).all())  # padding comes last
    assert bool(((index.class_ids[:, 1:] < 0) | (index.class_ids[:, :-1] >= 0)).all())
    assert listed(sampler.sample(n_episodes, generator=generator(seed))) == listed(index)
    size_of, label_of = dict(zip(class_ids, sizes, strict=True)), labels.tolist()
    for support, support_labels, query, query_labels, ways in listed(index):
        assert ways == sorted(set(ways))
        assert min_way <= len(ways) <= max_way
        assert len({*support, *query}) == len(support) + len(query)
        assert [label_of[item] for item in support] == [ways[way] for way in support_labels]
        assert [label_of[item] for item in query] == [ways[way] for way in query_labels]
        n_query = min(max_query, min(size_of[way] for way in ways) // 2)
        assert Counter(query_labels) == dict.fromkeys(range(len(ways)), n_query)
        assert {*support_labels} == {*range(len(ways))}
        assert len(support) <= max_support


def test_meta_dataset_draws_ways_and_classes_uniformly():
    sampler = MetaDatasetSampler(pool_of([4, 9, 3, 6, 5]), min_way=2, max_way=4, max_query=1)
    index = sampler.sample(10_000, generator=generator(16))
    law = {ways: 1 / 3 / math.comb(5, n_way) for n_way in (2, 3, 4) for ways in combinations(range(5), n_way)}
    assert_follows([tuple(way for way in row if way >= 0) for row in index.class_ids.tolist()], law)


def test_the_size_of_a_meta_dataset_support_is_uniform():
    # One way of 60 items: floor(share min(30, 50) + 1) of them, uniform on 1, ..., 30.
    sampler = MetaDatasetSampler(torch.zeros(60).long(), min_way=1, max_support_per_class=30)
    index = sampler.sample(6000, generator=generator(17))
    assert_follows((index.support_index >= 0).sum(-1).tolist(), uniform(range(1, 31)))
    assert bool(((index.query_index >= 0).sum(-1) == 10).all())


def test_meta_dataset_shots_are_tilted_by_up_to_four():
    # Two classes of a size: log(w_1 / w_2) is a difference of two uniforms on an interval of length log 4.
    sampler = MetaDatasetSampler(pool_of([200, 200]), min_way=2)
    index = sampler.sample(3000, generator=generator(18))
    shots = torch.stack([(index.support_labels == way).sum(-1) for way in (0, 1)]).double() - 1
    shots = shots[:, shots.sum(0) > 120]
    log_ratio = (shots[0] / shots[1]).log() / math.log(4)
    assert len(log_ratio) > 1000
    assert stats.kstest(log_ratio.numpy(), stats.triang(0.5, loc=-1, scale=2).cdf).pvalue > 1e-3


def test_meta_dataset_leaves_global_randomness_alone_and_moves_on():
    before, shared = torch.get_rng_state(), generator(19)
    sampler = SAMPLERS["meta-dataset"]
    assert listed(sampler.sample(5, generator=shared)) != listed(sampler.sample(5, generator=shared))
    assert torch.equal(torch.get_rng_state(), before)


def test_meta_dataset_skips_small_classes():
    labels = pool_of([4, 1, 6, 1, 3], [10, 20, 30, 40, 50])
    message = (
        "class 20 has 1 items, fewer than one support item + one query = 2 (and 1 more such classes): "
        "ask for less, or leave small classes out (on_small_class: skip)"
    )
    with refuses(ValueError, message):
        MetaDatasetSampler(labels, min_way=2)
    sampler = MetaDatasetSampler(labels, min_way=2, on_small_class="skip")
    assert sampler.skipped_class_ids == (20, 40)
    index = sampler.sample(50, generator=generator())
    assert {*index.class_ids.flatten().tolist()} == {-1, 10, 30, 50}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"min_way": 0}, "min_way = 0 must lie in [1, 4], the smaller of max_way and the number of classes"),
        ({"min_way": 5}, "min_way = 5 must lie in [1, 4], the smaller of max_way and the number of classes"),
        (
            {"min_way": 3, "max_way": 2},
            "min_way = 3 must lie in [1, 2], the smaller of max_way and the number of classes",
        ),
        ({"max_support": 3}, "max_support = 3 cannot give each of 4 ways an item"),
        ({"max_query": 0}, "max_query must be at least 1, got 0"),
        ({"on_small_class": "drop"}, "on_small_class must be one of error, skip; got 'drop'"),
    ],
)
def test_meta_dataset_settings_that_cannot_be_are_refused(chosen, message):
    labels = pool_of([4, 5, 6, 7])
    MetaDatasetSampler(labels, min_way=2)
    with refuses(ValueError, message):
        MetaDatasetSampler(labels, **{"min_way": 2} | chosen)


def test_meta_dataset_says_what_it_draws():
    assert SAMPLERS["meta-dataset"].describe() == (
        "2 to 7 ways, shots as the class sizes (at most 500 in all), at most 5 queries per class (Meta-Dataset), "
        "support and query disjoint"
    )
    assert SAMPLERS["meta-dataset"].is_disjoint
