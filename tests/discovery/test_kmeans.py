"""Semi-supervised k-means: equal to plain loops, never NaN, and what it promises of draws, objective and inertia."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fewshot.discovery.centers import center_log_probabilities, inertia, nearest_centers
from fewshot.discovery.kmeans import kmeans_plus_plus, semi_supervised_kmeans
from tests.reference import kmeans_loops

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(seed, n=41, n_features=3, n_known=2, n_classes=5, share=0.5, dtype=torch.float64):
    """Rows of overlapping classes, some of the first ones labelled; each known class at least once."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % n_classes)
    rows = 2.0 * rng.normal(size=(n_classes, n_features))[truth] + rng.normal(size=(n, n_features))
    labels = np.where((truth < n_known) & (rng.random(n) < share), truth, -1)
    for known in range(n_known):
        labels[np.flatnonzero(truth == known)[0]] = known
    return torch.from_numpy(rows).to(dtype), torch.from_numpy(labels)


@st.composite
def pools(draw):
    """Any pool: duplicates, constant columns, more clusters than distinct rows, none or all labelled."""
    n, n_features = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    rows = rng.normal(size=(n, n_features))
    if draw(st.booleans()):
        rows = rows[rng.integers(0, draw(st.integers(1, 4)), n) % n]
    if draw(st.booleans()):
        rows[:, 0] = 3.0
    n_known = draw(st.integers(0, min(n, 4)))
    labels = np.concatenate([np.arange(n_known), rng.integers(-1, max(n_known, 0), n - n_known)])
    n_clusters = n_known + draw(st.integers(0 if n_known else 1, 5))
    return torch.from_numpy(rows), torch.from_numpy(labels), n_clusters


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5))
def test_equal_to_the_loops_from_the_same_centers(seed, n_steps):
    rows, labels = pool(seed)
    start = torch.cat([rows[torch.nonzero(labels == k)[:1, 0]] for k in range(2)] + [rows[[3, 5]], rows[:1] + 50.0])
    found = semi_supervised_kmeans(
        rows, labels, 5, generator=generator(), n_steps=n_steps, tolerance=0.0, initial_centers=start
    )
    wanted, centers, trace = kmeans_loops.kmeans(rows.tolist(), labels.tolist(), start.tolist(), n_steps)
    assert found.labels.tolist() == wanted
    np.testing.assert_allclose(found.centers, centers, **CLOSE)
    np.testing.assert_allclose(found.objective, trace[: len(found.objective)], **CLOSE)
    assert math.isclose(found.inertia, kmeans_loops.inertia(rows.tolist(), centers, wanted), rel_tol=1e-9)


def test_without_labels_it_is_scikit_learns():
    rows, _ = pool(3, n=200)
    start = rows[[0, 7, 50, 90]]
    found = semi_supervised_kmeans(
        rows, torch.full((200,), -1), 4, generator=generator(), tolerance=0.0, n_steps=300, initial_centers=start
    )
    wanted = KMeans(4, init=start.numpy(), n_init=1, tol=0.0, max_iter=300).fit(rows.numpy())
    assert found.labels.tolist() == wanted.labels_.tolist()
    np.testing.assert_allclose(found.centers, wanted.cluster_centers_, **CLOSE)
    assert math.isclose(found.inertia, wanted.inertia_, rel_tol=1e-9)


@settings(max_examples=60, deadline=None)
@given(pools())
def test_promises_on_any_pool(problem):  # P1, P2, P18, P30
    rows, labels, n_clusters = problem
    found = semi_supervised_kmeans(rows, labels, n_clusters, generator=generator(), n_init=3)
    is_labelled = labels >= 0
    assert found.labels[is_labelled].tolist() == labels[is_labelled].tolist()
    assert 0 <= int(found.labels.min()) <= int(found.labels.max()) < n_clusters
    assert bool(found.centers.isfinite().all())
    objective = found.objective.tolist()
    assert all(after <= before * (1 + 1e-9) + 1e-9 for before, after in pairwise(objective))
    wanted = kmeans_loops.inertia(rows.tolist(), found.centers.tolist(), found.labels.tolist())
    assert math.isclose(found.inertia, wanted, rel_tol=1e-9, abs_tol=1e-15)
    assert found.inertia <= objective[-1] * (1 + 1e-9) + 1e-9
    distances = torch.cdist(rows, found.centers).square()
    gap = distances.gather(1, found.labels[:, None])[:, 0] - distances.amin(1)
    assert bool((gap[~is_labelled] <= 1e-9).all())


def test_no_cluster_stays_empty_while_a_row_is_off_its_center():
    rows = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
    far = torch.tensor([[0.0], [100.0], [200.0]])
    found = semi_supervised_kmeans(rows, torch.full((5,), -1), 3, generator=generator(), initial_centers=far)
    assert len(found.labels.unique()) == 3
    few = semi_supervised_kmeans(rows[[0, 0, 0, 2, 2]], torch.full((5,), -1), 4, generator=generator())
    assert len(few.labels.unique()) == 2
    assert few.inertia == 0.0
    assert len(few.objective) < 5  # and nobody waits for it


def test_a_cluster_that_stays_empty_keeps_its_center():
    rows, start = torch.tensor([[0.0], [0.0], [4.0], [4.0]]), torch.tensor([[0.0], [4.0], [72.0]])
    found = semi_supervised_kmeans(rows, torch.full((4,), -1), 3, generator=generator(), initial_centers=start)
    assert found.centers.flatten().tolist() == [0.0, 4.0, 72.0]


@pytest.mark.parametrize("tolerance", [1.0, 0.1, 1e-2, 1e-3])
def test_a_run_ends_when_centers_move_little_beside_the_variance(tolerance):
    rows, labels = pool(11, n=150)
    start = rows[:5]
    found = semi_supervised_kmeans(rows, labels, 5, generator=generator(), tolerance=tolerance, initial_centers=start)
    limit, before = tolerance * float(rows.var(0, correction=0).mean()), start
    for step in range(1, 100):
        after = torch.tensor(kmeans_loops.kmeans(rows.tolist(), labels.tolist(), start.tolist(), step)[1])
        if float((after - before).square().sum()) <= limit:
            break
        before = after
    assert len(found.objective) == step


def test_a_run_does_not_end_with_a_refill():
    rows = torch.cat([torch.tensor([-1.0, 1.0]).repeat(2000), torch.tensor([30.0, 31.0])])[:, None]
    start = torch.tensor([[0.0], [-500.0]])
    found = semi_supervised_kmeans(rows, torch.full((4002,), -1), 2, generator=generator(), initial_centers=start)
    np.testing.assert_allclose(found.centers, [[0.0], [30.5]], atol=1e-4)


def test_labelled_centers_start_at_the_class_means_and_the_objective_says_so():  # P31
    rows, labels = pool(1, n_known=5)
    found = semi_supervised_kmeans(rows, labels, 5, generator=generator(), n_steps=1)
    means = [
        kmeans_loops.mean([x for x, y in zip(rows.tolist(), labels.tolist(), strict=True) if y == k]) for k in range(5)
    ]
    _, _, trace = kmeans_loops.kmeans(rows.tolist(), labels.tolist(), means, 1)
    np.testing.assert_allclose(found.objective, trace, **CLOSE)


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(0, 1000))
def test_draws_never_pick_a_labelled_row_nor_one_on_a_center(problem, seed):  # P31
    rows, labels, _ = problem
    is_free = labels < 0
    if not is_free.any():
        return
    centers = rows[~is_free][:3]
    drawn = kmeans_plus_plus(rows, centers, 4, generator=generator(seed), is_candidate=is_free).tolist()
    taken = [tuple(c) for c in centers.tolist()]
    free = {tuple(x) for x in rows[is_free].tolist()}
    for row in drawn:
        assert bool(is_free[row])
        if free - set(taken):
            assert tuple(rows[row].tolist()) not in taken
        taken.append(tuple(rows[row].tolist()))


def test_rows_are_drawn_in_proportion_to_the_squared_distance():
    rows = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    source = generator(5)
    drawn = [int(kmeans_plus_plus(rows, rows[:1], 1, generator=source)[0]) for _ in range(1500)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    wanted = np.array([0.0, 1.0, 4.0, 16.0]) / 21
    assert np.all(np.abs(shares - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / len(drawn)))


def test_the_first_row_is_drawn_uniformly_and_the_second_far_from_it():
    rows = torch.tensor([[0.0], [0.0], [1.0]])
    source = generator(2)
    firsts, seconds = zip(
        *(kmeans_plus_plus(rows, rows[:0], 2, generator=source).tolist() for _ in range(900)), strict=True
    )
    assert np.all(np.abs(np.bincount(firsts, minlength=3) / 900 - 1 / 3) < 4 * math.sqrt(2 / 9 / 900))
    assert all((first == 2) != (second == 2) for first, second in zip(firsts, seconds, strict=True))


def test_the_second_row_is_drawn_by_its_distance_to_the_first():
    rows = torch.tensor([[-7.0], [7.0], [0.0]])
    source = generator(3)
    pairs = [kmeans_plus_plus(rows, rows[:0], 2, generator=source).tolist() for _ in range(900)]
    far = [second == 1 for first, second in pairs if first == 0]
    assert abs(np.mean(far) - 0.8) < 4 * math.sqrt(0.16 / len(far))


def test_more_runs_are_never_worse():
    rows, labels = pool(2, n=120, n_classes=9)
    ends = [
        semi_supervised_kmeans(rows, labels, 9, generator=generator(4), n_init=n_init).inertia
        for n_init in (1, 2, 5, 20)
    ]
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] < ends[0]


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_unit_of_features_changes_nothing(scale, dtype):  # P15, P18
    rows, labels = pool(6, dtype=dtype)
    plain = semi_supervised_kmeans(rows, labels, 5, generator=generator())
    scaled = semi_supervised_kmeans(rows * scale, labels, 5, generator=generator())
    assert scaled.labels.tolist() == plain.labels.tolist()
    assert scaled.centers.dtype == dtype
    np.testing.assert_allclose(scaled.centers / scale, plain.centers, rtol=1e-4, atol=1e-5)
    assert math.isclose(scaled.inertia / scale**2, plain.inertia, rel_tol=1e-4)


def test_far_from_the_origin_nothing_cancels():
    rows, labels = pool(7, dtype=torch.float32)
    plain = semi_supervised_kmeans(rows, labels, 5, generator=generator())
    moved = semi_supervised_kmeans(rows + 1024.0, labels, 5, generator=generator())
    assert moved.labels.tolist() == plain.labels.tolist()
    assert math.isclose(moved.inertia, plain.inertia, rel_tol=1e-3)


def test_having_each_row_twice_changes_no_center():  # P17
    rows, labels = pool(8)
    start = rows[:5]
    settings = {"generator": generator(), "initial_centers": start, "n_steps": 7, "tolerance": 0.0}
    once = semi_supervised_kmeans(rows, labels, 5, **settings)
    twice = semi_supervised_kmeans(rows.repeat(2, 1), labels.repeat(2), 5, **settings)
    np.testing.assert_allclose(twice.centers, once.centers, **CLOSE)


def test_block_by_block_is_all_at_once(monkeypatch):  # P13
    rows, labels = pool(9)
    whole = semi_supervised_kmeans(rows, labels, 5, generator=generator())
    monkeypatch.setattr("fewshot.discovery.centers._MAX_ENTRIES", 35)
    parts = semi_supervised_kmeans(rows, labels, 5, generator=generator())
    assert parts.labels.tolist() == whole.labels.tolist()
    np.testing.assert_allclose(parts.centers, whole.centers, **CLOSE)
    np.testing.assert_allclose(inertia(rows, parts.centers, parts.labels), whole.inertia, **CLOSE)


def test_one_seed_one_answer_and_no_global_state():  # P20
    rows, labels = pool(10)
    before = rows.clone(), labels.clone(), torch.get_rng_state()
    first = semi_supervised_kmeans(rows, labels, 6, generator=generator(3))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = semi_supervised_kmeans(rows, labels, 6, generator=generator(3))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.centers, second.centers)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(rows, before[0])
    assert torch.equal(labels, before[1])


@given(st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_nearest_centers_by_differences(seed):
    rng = np.random.default_rng(seed)
    rows, centers = 10.0 ** rng.integers(-18, 18) * rng.normal(size=(2, 9, 4)) + rng.normal()
    distances, labels = nearest_centers(torch.from_numpy(rows), torch.from_numpy(centers[:5]))
    wanted = ((rows[:, None] - centers[None, :5]) ** 2).sum(-1)
    assert labels.tolist() == wanted.argmin(1).tolist()
    np.testing.assert_allclose(distances, wanted.min(1), rtol=1e-7)


def test_probabilities_are_those_of_equal_spherical_gaussians():
    rows, centers = (
        torch.randn(7, 3, generator=generator(1)).double(),
        torch.randn(4, 3, generator=generator(2)).double(),
    )
    found = center_log_probabilities(rows, centers, torch.tensor(0.7, dtype=torch.float64)).exp()
    density = np.exp(-((rows[:, None] - centers) ** 2).sum(-1).numpy() / 1.4)
    np.testing.assert_allclose(found, density / density.sum(1, keepdims=True), rtol=1e-9)
    certain = center_log_probabilities(rows, centers, torch.tensor(0.0).double()).exp()
    assert certain.amax(1).tolist() == [1.0] * 7
