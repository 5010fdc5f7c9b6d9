"""Category discoverers: the contract that all keep, and what the peers promise."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewshot.discovery import category_discovery
from fewshot.discovery.category_discovery import CategoryDiscovery
from fewshot.discovery.kmeans import semi_supervised_kmeans
from fewshot.discovery.pim import PIM, choose_entropy_weight, fit_pim, pim_gradient
from fewshot.discovery.semi_supervised_kmeans import SemiSupervisedKMeans
from fewshot.discovery.ward import WardDiscovery, cut_tree, name_clusters, ward_tree
from fewshot.estimators.labels import CategoricalLabels

# Trainings that suit small problems.
BUILD = {
    "k-means": lambda **settings: SemiSupervisedKMeans(n_init=3).set_params(**settings),
    "pim": lambda **settings: PIM(n_init=3, n_steps=20, entropy_weight=0.5).set_params(**settings),
    "ward": lambda **settings: WardDiscovery().set_params(**settings),
}
names = pytest.mark.parametrize("name", BUILD)
with_category_discovery = pytest.mark.parametrize("name", [*BUILD, "category discovery"])


def build(name):
    return CategoryDiscovery(n_classes=6) if name == "category discovery" else BUILD[name](n_classes=6)


def pool(seed=0, n_known=3, sizes=(24, 21, 18, 16, 27, 20), n_features=5, share=0.5, dtype=np.float64):
    """Well separated classes of several sizes; -1 for rows without a label; rows are in random order."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = 8.0 * rng.normal(size=(len(sizes), n_features))[truth] + rng.normal(size=(len(truth), n_features))
    labels = np.where((truth < n_known) & (rng.random(len(truth)) < share), truth, -1)
    for known in range(n_known):
        labels[np.flatnonzero(truth == known)[0]] = known
    return rows.astype(dtype), labels, truth


@parametrize_with_checks([build() for build in BUILD.values()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@names
def test_the_pool_is_taken_apart_and_what_was_found_is_numbered_by_size(name):  # P1, P2
    rows, labels, truth = pool()
    model = BUILD[name](n_classes=6).fit(rows, labels)
    assert adjusted_rand_score(model.labels_, truth) == 1.0
    is_labelled = labels >= 0
    np.testing.assert_array_equal(model.labels_[is_labelled], labels[is_labelled])
    np.testing.assert_array_equal(model.is_labelled_, is_labelled)
    assert np.bincount(model.labels_).tolist() == [24, 21, 18, 27, 20, 16]
    assert model.labels_.dtype == np.int64
    assert (model.n_classes_, model.n_known_, model.n_features_in_) == (6, 3, 5)
    assert model.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    assert model.known_classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(model.transduction_, model.classes_[model.labels_])
    np.testing.assert_array_equal(BUILD[name](n_classes=6).fit_predict(rows, labels), model.labels_)


@names
def test_predict_agrees_with_the_pool_and_with_the_probabilities(name):  # P19, P21
    rows, labels, _ = pool(1)
    model = BUILD[name](n_classes=6).fit(rows, labels)
    np.testing.assert_array_equal(model.predict(rows), model.labels_)  # Ward's too: the classes lie far apart
    probabilities = model.predict_proba(rows)
    assert probabilities.shape == (len(rows), 6)
    assert np.all(probabilities >= 0)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(1), model.labels_)


@with_category_discovery
def test_the_pool_is_embedded_once_and_its_probabilities_are_those_of_its_classes(name, monkeypatch):
    rows, labels, _ = pool(1)
    rows[0] = rows[labels == 1][0] + 0.1  # a row that looks like another class than its label says
    labels[0] = 0
    model = build(name)
    calls = []
    embed, project = type(model)._embed, category_discovery.project
    monkeypatch.setattr(type(model), "_embed", lambda self, X: calls.append("embed") or embed(self, X))
    monkeypatch.setattr(category_discovery, "project", lambda *a, **k: calls.append("project") or project(*a, **k))
    model.fit(rows, labels)
    assert calls == {"pim": ["embed"], "category discovery": ["project"]}.get(name, [])
    own = model.predict_proba(rows)[np.arange(len(rows)), model.labels_]
    np.testing.assert_allclose(model.probability_, own, rtol=1e-6, atol=1e-12)
    assert model.labels_[0] == 0
    assert model.probability_[0] < 0.5


@with_category_discovery
def test_categorical_labels_keep_the_order_of_their_names(name):
    rows, labels, _ = pool(2)
    codes = torch.tensor(labels)
    y = CategoricalLabels(torch.where(codes < 0, -1, 3 - codes), ("no row", "-1", "owl", "crow"))
    model = build(name).fit(rows, y)
    wanted = build(name).fit(rows, np.where(labels < 0, -1, 2 - labels))
    assert model.classes_.tolist() == ["-1", "owl", "crow", "new-01", "new-02", "new-03"]
    np.testing.assert_array_equal(model.labels_, wanted.labels_)
    with pytest.raises(ValueError, match=f"X has {len(rows)} rows and y 3 labels"):
        model.fit(rows, CategoricalLabels(torch.zeros(3, dtype=torch.int64), ("crow",)))


@names
def test_predicting_in_chunks_is_predicting_at_once(name, monkeypatch):
    rows, labels, _ = pool(2)
    model = BUILD[name](n_classes=6).fit(rows, labels)
    wanted, probabilities = model.predict(rows), model.predict_proba(rows)
    monkeypatch.setattr("fewshot.estimators.base.MAX_SCORES", 40)
    np.testing.assert_array_equal(model.predict(rows), wanted)
    np.testing.assert_allclose(model.predict_proba(rows), probabilities, rtol=1e-7, atol=1e-12)


@names
def test_tensors_give_tensors_and_arrays_arrays(name):
    rows, labels, _ = pool(3)
    arrays = BUILD[name](n_classes=6).fit(rows, labels)
    tensors = BUILD[name](n_classes=6).fit(torch.tensor(rows), torch.tensor(labels))
    for attribute in ("labels_", "transduction_", "is_labelled_"):
        array, tensor = getattr(arrays, attribute), getattr(tensors, attribute)
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), array)
    for ask in ("predict", "predict_proba", "fit_predict"):
        array, tensor = getattr(arrays, ask)(rows), getattr(tensors, ask)(torch.tensor(rows))
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_allclose(tensor.numpy(), array)
    named = BUILD[name](n_classes=6).fit(torch.tensor(rows), [None if y < 0 else f"bird {y}" for y in labels])
    assert isinstance(named.transduction_, np.ndarray)
    assert isinstance(named.labels_, torch.Tensor)


@names
@pytest.mark.parametrize(
    ("given_labels", "wanted"),
    [
        ({0: 7, 1: 2, 2: 40}, [2, 7, 40, 41, 42, 43]),
        ({0: -7, 1: -5, 2: -3}, [-7, -5, -3, 0, 1, 2]),
        ({0: 1.0, 1: 2.0, 2: 3.0}, [1, 2, 3, 4, 5, 6]),
        ({0: 0.5, 1: 1.0, 2: 2.0}, [0.5, 1, 2, "new-01", "new-02", "new-03"]),
        ({0: "wren", 1: "crow", 2: "new-02"}, ["crow", "new-02", "wren", "new-01", "new-03", "new-04"]),
        ({0: ("a", 1), 1: ("b", 0), 2: ("a", 0)}, [("a", 0), ("a", 1), ("b", 0), "new-01", "new-02", "new-03"]),
        ({0: "a", 1: 1, 2: None}, {"a", 1, "new-01", "new-02", "new-03", "new-04"}),
    ],
)
def test_labels_of_any_hashable_kind_and_names_for_what_is_found(name, given_labels, wanted):
    rows, labels, truth = pool(4)
    missing = "-1" if isinstance(given_labels[0], str) and given_labels[2] else None
    y = [given_labels.get(label, missing) for label in labels.tolist()]
    model = BUILD[name](n_classes=6).fit(rows, y)
    found = model.classes_.tolist()
    assert set(found) == wanted if isinstance(wanted, set) else found == wanted
    assert len(found) == 6
    for row, label in enumerate(y):
        if label not in (None, "-1"):
            assert model.transduction_[row] == label
    assert adjusted_rand_score(model.labels_, truth) == 1.0


@names
def test_without_labels_it_is_clustering(name):
    rows, _, truth = pool(5)
    unseen = BUILD[name](n_classes=6).fit(rows)
    assert adjusted_rand_score(unseen.labels_, truth) == 1.0
    assert (unseen.n_known_, unseen.classes_.tolist()) == (0, list(range(6)))
    marked = BUILD[name](n_classes=6).fit(rows, np.full(len(rows), -1))
    np.testing.assert_array_equal(marked.labels_, unseen.labels_)
    assert np.all(np.diff(np.bincount(unseen.labels_)) <= 0)


@names
def test_with_all_labels_nothing_is_found(name):
    rows, _, truth = pool(6)
    model = BUILD[name]().fit(rows, truth)
    assert (model.n_classes_, model.n_known_) == (6, 6)
    np.testing.assert_array_equal(model.labels_, truth)


@names
@pytest.mark.parametrize("count", ["auto", "silhouette"])
def test_the_number_of_classes_is_estimated(name, count):
    rows, labels, truth = pool(7, n_known=4)
    model = BUILD[name](n_classes=count).fit(rows, labels)
    assert model.n_classes_ == 6
    assert adjusted_rand_score(model.labels_, truth) == 1.0


@names
def test_tensors_of_a_model_restore_it(name):
    rows, labels, _ = pool(8)
    model = BUILD[name](n_classes=6).fit(rows, labels)
    copy = clone(model).restore(model.classes_.tolist(), model.tensors(), 5, model.dtype_)
    np.testing.assert_array_equal(copy.predict(rows), model.predict(rows))
    np.testing.assert_array_equal(copy.predict_proba(rows), model.predict_proba(rows))
    for attribute in ("labels_", "is_labelled_", "transduction_", "classes_", "known_classes_"):
        np.testing.assert_array_equal(getattr(copy, attribute), getattr(model, attribute))
    assert (copy.n_classes_, copy.n_known_, copy.n_features_in_) == (6, 3, 5)
    pickled = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(pickled.predict(rows), model.predict(rows))


@names
def test_one_seed_one_answer_and_no_global_state(name):  # P20
    rows, labels, _ = pool(9)
    rows += 6 * np.random.default_rng(0).normal(size=rows.shape)  # hard, so that draws matter
    before = rows.copy(), labels.copy()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = BUILD[name](n_classes=7).fit(rows, labels)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(5)
    second = BUILD[name](n_classes=7).fit(rows, labels)
    np.testing.assert_array_equal(first.labels_, second.labels_)
    np.testing.assert_array_equal(first.predict_proba(rows), second.predict_proba(rows))
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(labels, before[1])


@names
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(name, dtype):
    rows, labels, truth = pool(10)
    model = BUILD[name](n_classes=6).fit(torch.tensor(rows).to(dtype), torch.tensor(labels))
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert model.dtype_ == wanted
    assert model.predict_proba(torch.tensor(rows)).dtype == wanted
    assert adjusted_rand_score(model.labels_, truth) > 0.99


DEGENERATE = {
    "all rows equal": (np.ones((12, 3)), [0, 0, 1, 1] + [-1] * 8),
    "all rows equal, no label": (np.ones((12, 3)), [-1] * 12),
    "two distinct rows": (np.repeat(np.eye(2), 6, 0), [0] + [-1] * 11),
    "constant columns": (np.c_[np.ones(30), np.arange(30.0) % 3, np.zeros(30)], [0, 1] + [-1] * 28),
    "fewer rows than features": (np.random.default_rng(0).normal(size=(8, 40)), [0, 1] + [-1] * 6),
    "one row per class": (np.random.default_rng(1).normal(size=(6, 2)), [0, 1, 2, 3, 4, 5]),
    "one row": (np.ones((1, 2)), [-1]),
    "zeros": (np.zeros((9, 2)), [3] + [-1] * 8),
    "large": (1e20 * pool()[0], pool()[1]),
    "small": (1e-20 * pool()[0], pool()[1]),
}


@names
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", ["auto", 6])
def test_degenerate_pools_give_finite_answers(name, case, dtype, count):  # P18
    rows, labels = DEGENERATE[case]
    rows, labels = rows.astype(dtype), np.array(labels)
    count = count if count == "auto" else min(count, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = BUILD[name](n_classes=count).fit(rows, labels)
    np.testing.assert_array_equal(model.labels_[labels >= 0], np.unique(labels[labels >= 0], return_inverse=True)[1])
    assert sorted(set(model.labels_)) == list(range(model.n_classes_))
    assert len(model.classes_) == model.n_classes_
    probabilities = model.predict_proba(rows)
    assert np.all(np.isfinite(probabilities))
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-5)
    if case in ("large", "small") and count == 6:
        assert adjusted_rand_score(model.labels_, pool()[2]) == 1.0


@names
def test_errors_and_warnings_say_what_is_needed(name):
    rows, labels, _ = pool(11)
    with pytest.raises(NotFittedError):
        BUILD[name]().predict(rows)
    with pytest.raises(
        ValueError, match="n_classes must be at least 1 and the number of known classes, 3, got 2: count"
    ):
        BUILD[name](n_classes=2).fit(rows, labels)
    with pytest.raises(ValueError, match="number of known classes, 0, got 0"):
        BUILD[name](n_classes=0).fit(rows)
    with pytest.raises(ValueError, match="n_classes=9 needs as many rows, got n_samples=4: give fewer classes"):
        BUILD[name](n_classes=9).fit(rows[:4])
    with pytest.raises(ValueError, match="X has 126 rows and y 5 labels: give one per row, -1 for a row without one"):
        BUILD[name]().fit(rows, labels[:5])
    with pytest.raises(ValueError, match="y must hold one hashable label per row, got \\[0\\]: mark rows without one"):
        BUILD[name]().fit(rows, labels.clip(0)[:, None] * 0)
    with pytest.raises(ValueError, match="y must hold one hashable label per row, got nan"):
        BUILD[name]().fit(rows, np.full(len(rows), np.nan))
    with pytest.raises(ValueError, match="X must have shape \\(n, n_features\\), at least one of each, got \\(0, 5\\)"):
        BUILD[name]().fit(torch.tensor(rows[:0]))
    with pytest.raises(ValueError, match="X has 1 NaN and 0 infinite entries"):
        BUILD[name]().fit(torch.tensor([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match="X has 4 features, but "):
        BUILD[name](n_classes=6).fit(rows, labels).predict(torch.tensor(rows[:, :4]))
    with pytest.raises(ValueError, match="unknown method of counting classes 'many'"):
        BUILD[name](n_classes="many").fit(rows, labels)


@pytest.mark.parametrize("name", ["k-means", "pim"])
def test_classes_without_a_row_are_left_out_with_a_warning(name):
    rows = np.repeat(np.eye(3), 5, 0)
    with pytest.warns(ConvergenceWarning, match="n_classes=5, but only 3 of them have a row: the others are left out"):
        model = BUILD[name](n_classes=5).fit(rows, [0] + [-1] * 14)
    assert model.n_classes_ == 3
    assert model.predict_proba(rows).shape == (15, 3)


# k-means


def test_the_random_state_decides_the_draws():
    rows, labels, _ = pool(9, n_features=2)
    ends = {SemiSupervisedKMeans(9, n_init=1, random_state=seed).fit(rows, labels).inertia_ for seed in range(6)}
    assert len(ends) > 1


def test_kmeans_variance_is_that_within_classes():
    rows, labels, _ = pool(12)
    model = SemiSupervisedKMeans(6).fit(rows, labels)
    within = sum(((rows[model.labels_ == k] - rows[model.labels_ == k].mean(0)) ** 2).sum() for k in range(6))
    assert np.isclose(model.inertia_, within)
    assert np.isclose(model.tensors()["variance"], within / (len(rows) - 6) / 5)
    for k in range(6):
        np.testing.assert_allclose(model.tensors()["centers"][k], rows[model.labels_ == k].mean(0))


# Ward


@given(st.integers(0, 2**20), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_cuts_are_scipys_and_scikit_learns(seed, n_clusters):
    rows = np.random.default_rng(seed).normal(size=(30, 3))
    found = cut_tree(ward_tree(torch.from_numpy(rows)), n_clusters).numpy()
    assert adjusted_rand_score(found, fcluster(linkage(rows, "ward"), n_clusters, "maxclust")) == 1.0
    assert adjusted_rand_score(found, AgglomerativeClustering(n_clusters).fit_predict(rows)) == 1.0
    assert set(found) == set(range(n_clusters))


def test_known_classes_take_the_clusters_that_hold_most_of_their_rows():
    clusters = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    labels = torch.tensor([1, 1, 0, 0, -1, -1, -1, 1])
    assert name_clusters(clusters, labels, 2).tolist() == [1, 1, 0, 0, 0, 2, 2, 1]
    together = name_clusters(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, -1]), 2)
    assert together.tolist() == [0, 0, 1, 2]  # class 1 has no cluster of its own


def test_known_classes_in_one_cluster_take_no_more_classes_than_asked_for():
    rows = np.array([[0.0], [0.1], [0.2], [0.3], [9.0], [9.1], [20.0], [20.1]])
    model = WardDiscovery(3).fit(rows, [0, 0, 1, -1, -1, -1, -1, -1])
    assert model.n_classes_ == 3
    assert model.labels_[:3].tolist() == [0, 0, 1]


def test_ward_refuses_what_does_not_fit_in_memory():
    with pytest.raises(ValueError, match="at most 20000 rows, got 20001: take a sample, or SemiSupervisedKMeans"):
        WardDiscovery(3).fit(np.zeros((20001, 1), dtype=np.float32))


# PIM


def pim_objective(rows, labels, weight, bias, entropy_weight, softmax_scale):
    """J with torch's own derivatives."""
    probs = (softmax_scale * (rows @ weight.T + bias)).softmax(1)
    entropy = torch.special.entr(probs).sum(1)
    free, known = labels < 0, labels >= 0
    value = -torch.special.entr(probs.mean(0)).sum()
    if free.any():
        value = value + entropy_weight * entropy[free].mean()
    if known.any():
        value = value - probs[known, labels[known]].log().mean()
    return value


@pytest.mark.parametrize("which", ["some", "none", "all"])
def test_pim_gradient_is_autograds(which, monkeypatch):
    rows, labels, truth = pool(13)
    rows = torch.from_numpy(rows) / 20
    labels = torch.from_numpy({"some": labels, "none": labels * 0 - 1, "all": truth}[which])
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    bias = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    wanted = pim_objective(rows, labels, weight, bias, 0.3, 2.0)
    gradients = torch.autograd.grad(wanted, (weight, bias))
    for entries in (2**21, 60):  # all rows at once, and ten at a time
        monkeypatch.setattr("fewshot.discovery.pim._MAX_ENTRIES", entries)
        value, *found = pim_gradient(rows, labels, weight.detach(), bias.detach(), 0.3, 2.0)
        assert torch.isclose(value, wanted.detach(), rtol=1e-10)
        for one, other in zip(found, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_pim_starts_from_the_nearest_center_and_learns():
    rows, labels, _ = pool(14)
    rows = torch.from_numpy(rows / 20)
    labels = torch.from_numpy(labels)
    start = semi_supervised_kmeans(rows, labels, 6, generator=torch.Generator().manual_seed(0))
    none = fit_pim(rows, labels, start.centers, n_steps=0)
    found = torch.where(labels >= 0, labels, (rows @ none.weight.T + none.bias).argmax(1))
    assert found.tolist() == start.labels.tolist()
    trained = fit_pim(rows, labels, start.centers, n_steps=100)
    assert len(trained.objective) == 100
    assert trained.objective[-1] < trained.objective[0]


def test_pim_chooses_the_weight_that_agrees_with_the_labels():
    rows, labels, _ = pool(15)
    rows += 8 * np.random.default_rng(0).normal(size=rows.shape)
    rows, labels = torch.from_numpy(rows / 30), torch.from_numpy(labels)
    seen, unseen = labels >= 0, torch.full_like(labels, -1)
    settings, candidates = {"n_steps": 200, "learning_rate": 0.1}, (30.0, 0.2, 0.7)
    centers = semi_supervised_kmeans(rows, unseen, 6, generator=torch.Generator().manual_seed(0)).centers
    heads = [fit_pim(rows, unseen, centers, entropy_weight=weight, **settings) for weight in candidates]
    agreement = [adjusted_rand_score(labels[seen], (rows @ h.weight.T + h.bias)[seen].argmax(1)) for h in heads]
    assert min(agreement) < max(agreement)
    for order in (slice(None), slice(None, None, -1)):
        generator = torch.Generator().manual_seed(0)
        chosen = choose_entropy_weight(
            rows, labels, 6, generator=generator, candidates=candidates[order], settings=settings
        )
        assert agreement[candidates.index(chosen)] == max(agreement)
    assert choose_entropy_weight(rows, unseen, 6, generator=generator, settings=settings) == 1.0
    model = PIM(6, n_steps=5, n_init=1).fit(rows, labels)
    assert model.entropy_weight_ in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    with pytest.raises(ValueError, match="entropy_weight must be a number or 'auto', got 'best'"):
        PIM(6, entropy_weight="best").fit(rows, labels)
