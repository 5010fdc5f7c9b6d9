"""Estimates of the number of classes: the search, the scores, and what every method promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.mixture import GaussianMixture

from fewshot.discovery.count_scores import bic_scorer, hidden_class_scorer, hold_out_classes, silhouette
from fewshot.discovery.kmeans import semi_supervised_kmeans
from fewshot.discovery.n_classes import N_CLASSES_METHODS, default_bounds, estimate_n_classes, search_counts

methods = pytest.mark.parametrize("method", [name for name in N_CLASSES_METHODS if name != "split-merge"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(seed=0, n_classes=9, n_known=5, n_each=30, n_features=6, spread=6.0):
    """Well separated classes of spread 1; half of the rows of the known ones are labelled."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(n_classes), n_each))
    rows = spread * rng.normal(size=(n_classes, n_features))[truth] + rng.normal(size=(len(truth), n_features))
    labels = np.where((truth < n_known) & (rng.random(len(truth)) < 0.5), truth, -1)
    return torch.from_numpy(rows), torch.from_numpy(labels)


def peaked(peak, calls):
    """A score that rises to its peak and falls, for three seeds that differ in height alone."""

    def score(number):
        calls.append(number)
        return -abs(np.log(number / peak)) * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    return score


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 400))
def test_the_search_finds_a_single_peak_and_scores_each_number_once(peak, low, width):  # P27
    calls = []
    found = search_counts(peaked(peak, calls), (low, low + width))
    wanted = min(max(peak, low), low + width)
    assert found.n_classes == wanted
    assert found.interval == (wanted, wanted)
    assert len(calls) == len(set(calls)) == len(found.curve) <= 45
    assert found.curve[:, 0].tolist() == sorted(calls)
    assert set(calls) <= set(range(low, low + width + 1))


@given(st.integers(0, 2**20), st.integers(2, 20), st.integers(21, 200))
def test_doubling_the_bound_keeps_an_inner_optimum(seed, peak, high):  # P29
    noise = np.random.default_rng(seed).normal(size=1000) * 0.01

    def score(number):
        return torch.tensor([-abs(np.log(number / peak)) + noise[number]], dtype=torch.float64)

    near, far = search_counts(score, (1, high)), search_counts(score, (1, 2 * high))
    if near.n_classes < high / 2:
        assert far.n_classes == near.n_classes
    assert float(far.curve[:, 1].max()) >= float(near.curve[:, 1].max()) or near.n_classes >= high / 2


def test_the_search_passes_a_dip_but_not_five_numbers_in_a_row():
    def score(peak):
        heights = {8: 1.0, peak: 2.0}
        return lambda number: torch.tensor([heights.get(number, -float(number))], dtype=torch.float64)

    assert search_counts(score(32), (8, 500)).n_classes == 32  # 11, 16, 23 lie between
    found = search_counts(score(128), (8, 500))  # and 11, 16, 23, 32, 45
    assert found.n_classes == 8
    assert float(found.curve[:, 0].max()) == 45


def test_the_curve_holds_means_deviations_and_the_best_of_each_seed():
    def score(number):
        return torch.tensor([-abs(number - 3.0), -3.0 * abs(number - 5.0)], dtype=torch.float64)

    found = search_counts(score, (2, 6))
    assert found.curve[:, 0].tolist() == [2, 3, 4, 5, 6]
    np.testing.assert_allclose(found.curve[:, 1], [-5, -3, -2, -1, -3])
    np.testing.assert_allclose(found.curve[:, 2], [4, 3, 1, 1, 0])
    assert (found.n_classes, found.interval) == (5, (3, 5))


@methods
def test_separate_classes_are_counted(method):
    rows, labels = mixture()
    found = estimate_n_classes(rows, labels, method=method, generator=generator(), n_seeds=3)
    assert found.n_classes == 9
    assert found.interval[0] <= 9 <= found.interval[1]


@methods
def test_the_answer_keeps_to_bounds_seed_and_hands_off(method):  # P20, P27, P29
    rows, labels = mixture(1, n_each=15, spread=2.0)
    before, state = (rows.clone(), labels.clone()), torch.get_rng_state()
    first = estimate_n_classes(rows, labels, method=method, bounds=(5, 14), generator=generator(2), n_seeds=2)
    again = estimate_n_classes(rows, labels, method=method, bounds=(5, 14), generator=generator(2), n_seeds=2)
    assert isinstance(first.n_classes, int)
    assert 5 <= first.n_classes <= 14
    assert first.n_classes == again.n_classes
    assert torch.equal(first.curve, again.curve)
    wide = estimate_n_classes(rows, labels, method=method, bounds=(5, 28), generator=generator(2), n_seeds=2)
    shared = {number: score for number, score, _ in wide.curve.tolist()}
    assert all(shared[number] == score for number, score, _ in first.curve.tolist() if number in shared)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(rows, before[0])
    assert torch.equal(labels, before[1])


@methods
def test_the_unit_of_features_changes_nothing(method):
    rows, labels = mixture(2, n_classes=6, n_known=4, n_each=15)
    rows = rows.float()
    found = [
        estimate_n_classes(
            scale * rows, labels, method=method, bounds=(4, 9), generator=generator(), n_seeds=2
        ).n_classes
        for scale in (1.0, 1e20, 1e-20)
    ]
    assert found == [6, 6, 6]


def test_auto_is_hidden_classes_from_four_known_ones_on():
    for n_known, name in ((4, "hidden-classes"), (3, "silhouette")):
        rows, labels = mixture(3, n_known=n_known, n_each=12)
        auto, named = (
            estimate_n_classes(rows, labels, method=method, bounds=(4, 8), generator=generator(), n_seeds=2).curve
            for method in ("auto", name)
        )
        assert torch.equal(auto, named)


def test_nothing_to_estimate():
    rows = torch.arange(6.0)[:, None].repeat(4, 2)
    labels = torch.arange(6).repeat(4)
    assert estimate_n_classes(rows, labels, generator=generator()).n_classes == 6
    apart = torch.randn(60, 2, generator=generator())
    found = estimate_n_classes(apart, torch.arange(60) % 6, generator=generator())
    assert (found.n_classes, len(found.curve)) == (6, 0)
    assert estimate_n_classes(torch.ones(30, 2), torch.full((30,), -1), generator=generator()).n_classes == 1
    found = estimate_n_classes(rows[:1], labels[:1] - 1, generator=generator())
    assert (found.n_classes, tuple(found.curve.shape), found.interval) == (1, (0, 3), (1, 1))


def test_default_bounds_come_from_the_data():
    assert default_bounds(torch.randn(100, 3, generator=generator()), 0) == (2, 20)
    assert default_bounds(torch.randn(100, 3, generator=generator()), 7) == (7, 20)
    assert default_bounds(torch.randn(100, 3, generator=generator()), 30) == (30, 30)
    assert default_bounds(torch.randn(4, 3, generator=generator()).repeat(25, 1), 3) == (3, 4)


def test_errors_say_what_is_needed():
    rows, labels = mixture()
    with pytest.raises(ValueError, match="bounds must be at least the 5 known classes and ascend, got \\(4, 9\\)"):
        estimate_n_classes(rows, labels, bounds=(4, 9), generator=generator())
    with pytest.raises(ValueError, match="ascend, got \\(9, 8\\)"):
        estimate_n_classes(rows, labels, bounds=(9, 8), generator=generator())
    with pytest.raises(ValueError, match="unknown method of counting classes 'silhouete': did you mean 'silhouette'"):
        estimate_n_classes(rows, labels, method="silhouete", generator=generator())
    few = labels.where(labels < 2, -1)
    with pytest.raises(
        ValueError, match="holding out classes needs at least 3 known ones, got 2: use method='silhouette'"
    ):
        estimate_n_classes(rows, few, method="hidden-classes", generator=generator())


def test_a_large_pool_is_sampled_and_keeps_each_known_class(monkeypatch):
    rows, labels = mixture(4, n_each=40)
    rare = labels.clone()
    rare[rare == 4] = -1
    rare[7] = 4  # one row of its own
    seen = []
    monkeypatch.setitem(N_CLASSES_METHODS, "silhouette", lambda *pool: seen.append(pool))
    estimate_n_classes(rows, rare, method="silhouette", n_rows=60, generator=generator(), n_seeds=2)
    some, known, bounds, _, _ = seen[0]
    assert 60 <= len(some) <= 65
    assert set(known.tolist()) == {-1, 0, 1, 2, 3, 4}
    assert bounds == (5, len(some) // 5)
    pairs = {(tuple(row), label) for row, label in zip(rows.tolist(), rare.tolist(), strict=True)}
    drawn = {(tuple(row), label) for row, label in zip(some.tolist(), known.tolist(), strict=True)}
    assert drawn <= pairs
    assert len(drawn) == len(some)


@given(st.integers(3, 12), st.integers(0, 2**20))
@settings(max_examples=30)
def test_half_of_the_known_classes_are_hidden_whole(n_known, seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(np.concatenate([np.arange(n_known), rng.integers(-1, n_known, 40)]))
    shown, is_hidden = hold_out_classes(labels, generator(seed))
    hidden = set(labels[is_hidden].tolist())
    assert len(hidden) == max(2, n_known // 2)
    assert bool((shown[is_hidden] == -1).all())
    assert bool((shown[labels < 0] == -1).all())
    assert hidden.isdisjoint(labels[shown >= 0].tolist())
    kept = sorted(set(range(n_known)) - hidden)
    assert [kept[k] for k in shown[shown >= 0].tolist()] == labels[shown >= 0].tolist()


@given(st.integers(0, 2**20), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_silhouette_is_scikit_learns(seed, n_clusters):
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(25, 3)), rng.permutation(np.arange(25) % n_clusters * 3)
    labels[:1] = 100  # alone
    distances = torch.cdist(torch.from_numpy(rows), torch.from_numpy(rows))
    for unit in (1.0, 1e12):
        assert abs(silhouette(unit * distances, torch.from_numpy(labels)) - silhouette_score(rows, labels)) < 1e-9


def test_hidden_classes_are_judged_by_their_labels_and_the_silhouette():
    rows, labels = mixture(6, n_each=12, spread=1.5)
    shown, is_hidden = hold_out_classes(labels, generator(3))
    score = hidden_class_scorer(rows, labels, generator(3), n_init=2)
    for number in (6, 9, 13):
        found = semi_supervised_kmeans(rows, shown, number, generator=generator(8), n_init=2).labels
        wanted = adjusted_rand_score(labels[is_hidden], found[is_hidden]) + silhouette_score(rows.numpy(), found)
        assert abs(score(number, generator(8)) - wanted) < 1e-9


def test_bic_is_scikit_learns():
    rows, _ = mixture(5, n_classes=4, n_known=0, spread=8.0)
    score = bic_scorer(rows, torch.full((len(rows),), -1), generator())
    for number in (1, 4):
        model = GaussianMixture(number, covariance_type="diag", n_init=8, tol=1e-6, max_iter=500, random_state=0)
        wanted = -model.fit(rows.numpy()).bic(rows.numpy()) / 2 / len(rows)
        assert abs(score(number, generator(1)) - wanted) < 1e-3
