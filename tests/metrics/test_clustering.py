"""Clustering scores against brute force over all matchings, and against scikit-learn."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fewshot.metrics import (
    ACCURACY_VARIANTS,
    adjusted_rand_index,
    class_scores,
    clustering_accuracy,
    contingency_table,
    matched_clusters,
    n_classes_error,
    normalized_mutual_information,
)
from tests.kits.drawing import refuses
from tests.reference import matching_loops as loops


@st.composite
def clusterings(draw, most=4):
    """Clusters, true classes and known classes; more clusters than classes or fewer; ids with gaps, some in common."""
    n_clusters, n_classes = draw(st.integers(1, most)), draw(st.integers(1, most))
    n_items = draw(st.integers(1, 14))
    class_ids = draw(st.lists(st.integers(0, 9), min_size=n_classes, max_size=n_classes, unique=True))
    cluster_ids = draw(st.lists(st.integers(0, 9), min_size=n_clusters, max_size=n_clusters, unique=True))
    truth = draw(st.lists(st.sampled_from(class_ids), min_size=n_items, max_size=n_items))
    found = draw(st.lists(st.sampled_from(cluster_ids), min_size=n_items, max_size=n_items))
    known = set(draw(st.lists(st.sampled_from(class_ids), unique=True)))
    return found, truth, known


def scores(found, truth, known=(), variant="v2"):
    table = contingency_table(torch.tensor(found), torch.tensor(truth))
    return tuple(value.item() for value in clustering_accuracy(table, sorted(known), variant=variant))


def same(found, expected):
    return found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=200)
@given(clusterings())
def test_every_variant_equals_brute_force(problem):
    for variant in ("v2", "v1", "orca"):
        assert same(scores(*problem, variant), getattr(loops, variant)(*problem)), variant
    found = scores(*problem, "v2b")
    assert any(same(found, expected) for expected in loops.all_v2b(*problem))


@settings(max_examples=10)
@given(clusterings(most=6))
def test_v2_equals_brute_force_with_up_to_six_classes(problem):
    assert same(scores(*problem), loops.v2(*problem))


@given(clusterings(), st.randoms(use_true_random=False))
def test_names_of_clusters_and_order_of_items_change_nothing(problem, random):
    found, truth, known = problem
    name = dict(zip(range(10), random.sample(range(1000), 10), strict=True))
    items = random.sample(list(zip(found, truth, strict=True)), len(found))
    moved = [c for c, _ in items], [t for _, t in items], known
    renamed = [name[c] for c in found], truth, known
    for variant in ACCURACY_VARIANTS:
        expected = scores(*problem, variant)
        assert same(scores(*moved, variant), expected), variant
        if variant != "orca":
            assert same(scores(*renamed, variant), expected), variant


@given(clusterings(), st.randoms(use_true_random=False))
def test_names_of_classes_change_nothing(problem, random):
    found, truth, known = problem
    name = dict(zip(range(10), random.sample(range(1000), 10), strict=True))
    renamed = found, [name[t] for t in truth], {name[t] for t in known}
    for variant in ("v2", "v1"):
        assert same(scores(*renamed, variant), scores(*problem, variant)), variant


@given(clusterings())
def test_old_and_new_make_up_all_and_v1_is_never_lower(problem):
    found, truth, known = problem
    v2, v1 = scores(*problem), scores(*problem, "v1")
    n_old = sum(t in known for t in truth)
    parts = [(v2[1], n_old), (v2[2], len(truth) - n_old)]
    assert all(math.isnan(share) == (n == 0) for share, n in parts)
    assert same(v2[0] * len(truth), sum(share * n for share, n in parts if n))
    assert all(0 <= share <= 1 for share in (*v1, *v2) if not math.isnan(share))
    assert v1[0] >= v2[0] - 1e-12
    counts = contingency_table(torch.tensor(found), torch.tensor(truth)).counts
    purity = counts.amax(1).sum().item() / len(truth)
    assert counts.max().item() / len(truth) - 1e-12 <= v2[0] <= purity + 1e-12
    is_same = bool((((counts > 0).sum(0) == 1).all() & ((counts > 0).sum(1) == 1).all()).item())
    assert (v2[0] == 1) == is_same


@given(clusterings(), st.data())
def test_a_new_piece_of_a_cluster_wins_no_more_than_its_size(problem, data):
    found, truth, known = problem
    chosen = data.draw(st.sampled_from(found))
    is_moved = [c == chosen and data.draw(st.booleans()) for c in found]
    split = [10 if moved else c for c, moved in zip(found, is_moved, strict=True)]
    n = len(truth)
    assert scores(split, truth, known)[0] * n <= scores(*problem)[0] * n + sum(is_moved) + 1e-9


def test_halving_every_cluster_leaves_half_of_the_items_unmatched():
    truth = [0, 1, 2] * 8
    assert scores(truth, truth, {0, 1}) == (1.0, 1.0, 1.0)
    assert scores([2 * t + i // 12 for i, t in enumerate(truth)], truth, {0, 1}) == (0.5, 0.5, 0.5)


@given(clusterings())
def test_orca_reads_old_as_v2_does_where_the_matching_is_the_identity(problem):
    found, truth, known = problem
    table = contingency_table(torch.tensor(found), torch.tensor(truth))
    each = class_scores(table, sorted(known))
    is_identity = all(
        cluster == k or (cluster == -1 and k not in found)
        for k, cluster in zip(each.class_ids.tolist(), each.cluster_ids.tolist(), strict=True)
        if k in known
    )
    if is_identity:
        assert same(scores(*problem, "orca")[1], scores(*problem)[1])


def test_a_tie_goes_to_the_known_classes():
    found, truth = [0, 0, 0, 0], [1, 1, 2, 2]
    assert scores(found, truth, {2}) == (0.5, 1.0, 0.0)
    assert scores(found, truth, {1}) == (0.5, 1.0, 0.0)
    # But never against the total.
    assert scores([0] * 5, [1, 1, 2, 2, 2], {1}) == (0.6, 0.0, 1.0)


@pytest.mark.parametrize("variant", ACCURACY_VARIANTS)
def test_nothing_to_score_is_nan(variant):
    first, second, third = scores([4, 5, 5], [4, 5, 5], {4, 5}, variant)
    assert (first, second) == (1.0, 1.0)
    assert math.isnan(third)
    first, second, third = scores([4, 5, 5], [4, 5, 5], {7}, variant)
    assert (first, third) == (1.0, 1.0)
    assert math.isnan(second)
    for n_items in (0, 2):
        padding = torch.full((n_items,), -1)
        nothing = contingency_table(padding + 4, padding)
        assert all(value.isnan() for value in clustering_accuracy(nothing, [1], variant=variant))
        assert normalized_mutual_information(nothing).isnan()
        assert adjusted_rand_index(nothing).isnan()
        assert [len(column) for column in class_scores(nothing)] == [0] * 6


@settings(max_examples=200)
@given(clusterings(most=5))
def test_information_and_rand_index_are_scikit_learns(problem):
    found, truth, _ = problem
    table = contingency_table(torch.tensor(found), torch.tensor(truth))
    assert same(normalized_mutual_information(table).item(), sk.normalized_mutual_info_score(truth, found))
    assert same(adjusted_rand_index(table).item(), sk.adjusted_rand_score(truth, found))
    assert table.counts.tolist() == sk.cluster.contingency_matrix(found, truth).tolist()
    assert (table.cluster_ids.tolist(), table.class_ids.tolist()) == (sorted(set(found)), sorted(set(truth)))


def test_large_counts_keep_their_precision():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 50, 300_000)
    found = np.where(rng.random(len(truth)) < 0.5, truth, rng.integers(0, 70, len(truth)))
    table = contingency_table(torch.from_numpy(found), torch.from_numpy(truth))
    assert adjusted_rand_index(table).item() == pytest.approx(sk.adjusted_rand_score(truth, found), abs=1e-12)
    assert same(normalized_mutual_information(table).item(), sk.normalized_mutual_info_score(truth, found))
    recall = class_scores(table).recall
    assert recall.dtype == torch.float64
    balanced = clustering_accuracy(table, range(20), variant="v2b")
    assert same(
        [value.item() for value in balanced], [part.mean().item() for part in (recall, recall[:20], recall[20:])]
    )


@given(clusterings())
def test_the_table_of_classes_gives_the_scores(problem):
    found, truth, known = problem
    table = contingency_table(torch.tensor(found), torch.tensor(truth))
    each = class_scores(table, sorted(known))
    assert each.class_ids.tolist() == sorted(set(truth))
    matched = [cluster for cluster in each.cluster_ids.tolist() if cluster >= 0]
    assert len(matched) == len(set(matched))
    for row in zip(*(column.tolist() for column in each), strict=True):
        class_id, is_known, size, cluster, recall, precision = row
        n_both = sum(t == class_id and c == cluster for t, c in zip(truth, found, strict=True))
        assert (is_known, size) == (class_id in known, truth.count(class_id))
        assert (cluster == -1) == (n_both == 0)
        assert same((recall, precision), (n_both / size, n_both / found.count(cluster) if n_both else math.nan))
    total = (each.recall * each.sizes).sum().item() / len(truth)
    assert same(total, scores(*problem)[0])


@given(st.integers(0, 2**20))
def test_a_batch_is_its_problems_one_by_one_and_padding_does_not_count(seed):
    rng = np.random.default_rng(seed)
    found, truth = torch.from_numpy(rng.integers(0, 4, (2, 3, 11))), torch.from_numpy(rng.integers(0, 5, (2, 3, 11)))
    truth[torch.from_numpy(rng.random((2, 3, 11)) < 0.3)] = -1
    found[truth < 0] = -7
    batch = contingency_table(found, truth)
    assert batch.counts.shape == (2, 3, len(batch.cluster_ids), len(batch.class_ids))
    each = class_scores(batch, [0, 3])
    for a, b in np.ndindex(2, 3):
        is_real = truth[a, b] >= 0
        alone = contingency_table(found[a, b][is_real], truth[a, b][is_real])
        assert same(normalized_mutual_information(batch)[a, b].item(), normalized_mutual_information(alone).item())
        assert same(adjusted_rand_index(batch)[a, b].item(), adjusted_rand_index(alone).item())
        for variant in ACCURACY_VARIANTS:
            together, expected = (clustering_accuracy(t, [0, 3], variant=variant) for t in (batch, alone))
            assert same([v[a, b].item() for v in together], [v.item() for v in expected]), variant
        own = class_scores(alone, [0, 3])
        is_there = torch.isin(each.class_ids, own.class_ids)
        assert torch.equal(each.cluster_ids[a, b][is_there], own.cluster_ids)
        assert torch.equal(each.sizes[a, b][is_there], own.sizes)
        assert each.recall[a, b][~is_there].isnan().all()


def test_a_batch_of_none_is_a_batch_of_none():
    nothing = torch.zeros(0, 5, dtype=torch.int64)
    assert clustering_accuracy(contingency_table(nothing, nothing), [1]).all.shape == (0,)


def test_a_pair_that_shares_no_item_is_no_match():
    counts = torch.tensor([[1, 5], [0, 1]])
    assert matched_clusters(counts, torch.tensor([True, False])).tolist() == [-1, 0]


def test_clusters_with_equal_rows_give_the_first_its_class():
    counts = torch.tensor([[2, 0], [2, 0], [0, 3]])
    assert matched_clusters(counts, torch.tensor([True, False])).tolist() == [0, 2]


def test_two_thousand_clusters_take_seconds():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 1000, 100_000)
    found = np.where(rng.random(len(truth)) < 0.5, truth, rng.integers(0, 2000, len(truth)))
    started = time.process_time()
    accuracy = clustering_accuracy(contingency_table(torch.from_numpy(found), torch.from_numpy(truth)), range(500))
    assert time.process_time() - started < 10
    assert accuracy.all.item() == pytest.approx(0.5, abs=0.01)


def test_inputs_of_other_kinds():
    found, truth = np.array([1, 1, 0], dtype=np.int32), torch.tensor([0, 0, 2], dtype=torch.uint8)
    assert contingency_table(found, truth).counts.tolist() == [[0, 1], [2, 0]]
    before = truth.clone()
    contingency_table(torch.from_numpy(found), truth)
    assert torch.equal(truth, before)


def test_refusals():
    integers = torch.tensor([0, 1])
    with refuses(TypeError, "clusters must be integers, got torch.float32"):
        contingency_table(integers.float(), integers)
    with refuses(TypeError, "labels must be integers, got torch.bool"):
        contingency_table(integers, integers.bool())
    with refuses(
        ValueError, "clusters and labels must have one entry per item, (..., n) each; got shapes (2,) and (1,)"
    ):
        contingency_table(integers, integers[:1])
    with refuses(ValueError, "clusters and labels must have one entry per item, (..., n) each; got shapes () and ()"):
        contingency_table(integers[0], integers[0])
    with refuses(ValueError, "clusters must not be negative, got -1: give outliers a cluster of their own"):
        contingency_table(integers - 1, integers)
    with refuses(
        ValueError, "unknown variant of clustering accuracy 'v3': did you mean 'v2'? Known: orca, v1, v2, v2b"
    ):
        clustering_accuracy(contingency_table(integers, integers), variant="v3")
    with refuses(ValueError, "n_classes must be at least 1, got 0"):
        n_classes_error(3, 0)


def test_the_error_of_a_number_of_classes_has_no_sign():
    assert n_classes_error(170, 200) == n_classes_error(230, 200) == 0.15
