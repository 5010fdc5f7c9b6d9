"""MetaDatasetSampler."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from fewshot_episodes import MetaDatasetSampler
from fewshot_episodes.meta_dataset import support_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.kits.drawing import SAMPLERS, SEEDS, assert_follows, generator, listed, pool_of, refuses, uniform
from tests.reference.sampler_loop import meta_dataset_counts

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
        "ask for less, or leave small classes out (on_small_class=skip)"
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
