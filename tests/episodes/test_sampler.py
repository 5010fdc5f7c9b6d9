"""What EpisodeSampler draws, how likely, and what it refuses."""

import hashlib
import math
import struct
from collections import Counter
from itertools import combinations, islice, product

import numpy as np
import pytest
import torch
from fewshot_episodes import EpisodeIndex, EpisodeSampler, MetaDatasetSampler
from fewshot_episodes.pool import class_pool, compacted
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.kits.drawing import (
    SAMPLERS,
    SEEDS,
    assert_follows,
    generator,
    hash_of,
    joined,
    listed,
    pool_of,
    refuses,
    uniform,
)
from tests.reference.sampler_loop import largest_remainder_counts

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
            "ask for less, or leave small classes out (on_small_class=skip)",
        ),
        (
            {"n_shot": 2, "n_query": 3, "class_names": NAMES},
            "class 'crow' has 3 items, fewer than n_shot + n_query = 5 (and 1 more such classes): "
            "ask for less, or leave small classes out (on_small_class=skip)",
        ),
        (
            {"n_shot": 3, "n_query_total": 1, "query_distribution": "uniform"},
            "class 20 has 3 items, fewer than n_shot + 1 query = 4: "
            "ask for less, or leave small classes out (on_small_class=skip)",
        ),
        (
            {"n_shot": 2, "n_query": 4, "protocol": "unem-official"},
            "class 20 has 3 items, fewer than the larger of n_shot and n_query = 4: "
            "ask for less, or leave small classes out (on_small_class=skip)",
        ),
        (
            {"n_shot": 7, "n_query_total": 4, "query_distribution": "dirichlet", "protocol": "unem-official"},
            "class 10 has 6 items, fewer than the larger of n_shot and 1 query = 7 (and 2 more such classes): "
            "ask for less, or leave small classes out (on_small_class=skip)",
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
        "ask for less, or leave small classes out (on_small_class=skip)",
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
