"""Ridge classifiers: exact after a stream, equal to scikit-learn's, and what few shots do to a linear head."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import check_estimator

from fewshot.incremental import NearestClassMean, RanPAC, RecursiveRidge
from fewshot.incremental import gram as gram_module
from fewshot.incremental.expansions import median_distance, rbf_features, relu_features
from fewshot.incremental.gram import ridge_solution
from fewshot.incremental.ranpac import held_out_ridge
from fewshot.incremental.ridge import RidgeState, recursive_ridge_update
from tests.reference import ridge_loops

N_FEATURES, N_EXPANDED = 7, 23
COUNTS = (13, 9, 11, 3, 5)
N_BASE = 3

MODELS = {
    "ridge": partial(RecursiveRidge, ridge=0.3),
    "ridge balanced": partial(RecursiveRidge, ridge=0.3, balanced=True),
    "ridge relu": partial(RecursiveRidge, ridge=0.3, expansion="relu", n_expanded=N_EXPANDED),
    "ridge rbf": partial(RecursiveRidge, ridge=0.3, expansion="rbf", n_expanded=N_EXPANDED),
    "ridge rbf balanced": partial(RecursiveRidge, expansion="rbf", n_expanded=N_EXPANDED, bandwidth=2.5, balanced=True),
    "ranpac": partial(RanPAC, N_EXPANDED, ridge=2.0),
    "ranpac cosine balanced": partial(RanPAC, N_EXPANDED, ridge=2.0, head="cosine", balanced=True),
    "ranpac auto": partial(RanPAC, N_EXPANDED, ridge="auto"),
}
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())


def problem(seed=0):
    """Items, their classes, which items come first (the base session), and queries."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    means = 2 * rng.normal(size=(len(COUNTS), N_FEATURES))
    x = means[labels] + rng.normal(size=(len(labels), N_FEATURES))
    return x, labels, labels < N_BASE, 2 * rng.normal(size=(6, N_FEATURES))


def joint(build, x, labels, is_base):
    return build().fit(x[is_base], labels[is_base]).partial_fit(x[~is_base], labels[~is_base])


# ------------------------------------------------------------------------------------------------------- pure steps


def test_expansions_equal_the_loops():
    x, *_ = problem()
    rng = np.random.default_rng(1)
    projection, centers = rng.normal(size=(N_FEATURES, N_EXPANDED)), rng.normal(size=(N_EXPANDED, N_FEATURES))
    items = torch.from_numpy(x)
    fast = relu_features(items, torch.from_numpy(projection))
    np.testing.assert_allclose(fast, ridge_loops.relu_expansion(x, projection), atol=1e-12)
    fast = rbf_features(items, torch.from_numpy(centers), 2.5)
    np.testing.assert_allclose(fast, ridge_loops.rbf_expansion(x, centers, 2.5), atol=1e-12)


@pytest.mark.parametrize(("points", "median"), [([[2.0]], 1.0), ([[2.0], [2.0]], 1.0), ([[0.0], [3.0], [4.0]], 3.0)])
def test_median_distance(points, median):
    assert median_distance(torch.tensor(points)) == median


@pytest.mark.parametrize("sizes", [(41,), (1,) * 41, (20, 3, 18)])
def test_recursive_update_equals_the_joint_solution(sizes):
    x, labels, *_ = problem()
    n_classes = len(COUNTS)
    X, Y = torch.from_numpy(x), torch.nn.functional.one_hot(torch.from_numpy(labels)).double()
    state = RidgeState(torch.eye(N_FEATURES).double() / 0.3, torch.zeros(N_FEATURES, n_classes).double())
    for rows, targets in zip(torch.split(X, sizes), torch.split(Y, sizes), strict=True):
        state = recursive_ridge_update(state, rows, targets)
    inverse = np.linalg.inv(x.T @ x + 0.3 * np.eye(N_FEATURES))
    np.testing.assert_allclose(state.inverse_gram, inverse, atol=1e-10)
    np.testing.assert_allclose(state.weights, ridge_loops.ridge_weights(x, labels, n_classes, 0.3), atol=1e-10)
    np.testing.assert_allclose(state.weights, ridge_loops.recursive_weights(x, labels, n_classes, 0.3), atol=1e-10)


def test_recursive_update_takes_new_classes_and_batches():
    x, labels, is_base, _ = problem()
    order = np.argsort(~is_base, kind="stable")
    X, Y = torch.from_numpy(x[order]), torch.nn.functional.one_hot(torch.from_numpy(labels[order])).double()
    n_first, start = int(is_base.sum()), torch.eye(N_FEATURES).double() / 0.3
    first = recursive_ridge_update(
        RidgeState(start, torch.zeros(N_FEATURES, N_BASE).double()), X[:n_first], Y[:n_first, :N_BASE]
    )
    wider = RidgeState(first.inverse_gram, torch.nn.functional.pad(first.weights, (0, len(COUNTS) - N_BASE)))
    last = recursive_ridge_update(wider, X[n_first:], Y[n_first:])
    np.testing.assert_allclose(last.weights, ridge_loops.ridge_weights(x, labels, len(COUNTS), 0.3), atol=1e-10)
    batch = RidgeState(*(torch.stack([entry, 2 * entry]) for entry in wider))
    several = recursive_ridge_update(batch, X[n_first:].expand(2, -1, -1), Y[n_first:].expand(2, -1, -1))
    torch.testing.assert_close(several.weights[0], last.weights)


def test_solution_says_when_ridge_is_too_small():
    gram = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"ridge = 1e-12 is not positive definite in torch.float32, .* 2.4e-07 here"):
        ridge_solution(gram, torch.ones(2, 1), 1e-12)


# ------------------------------------------------------------------------------------------------- the joint solution


def test_equals_scikit_learn():
    x, labels, is_base, queries = problem()
    model = joint(partial(RecursiveRidge, ridge=0.3), x, labels, is_base)
    other = Ridge(alpha=0.3, fit_intercept=False).fit(x, np.eye(len(COUNTS))[labels])
    np.testing.assert_allclose(model.class_scores(queries), other.predict(queries), atol=1e-9)


@pytest.mark.parametrize("kind", ["relu", "rbf", "ranpac"])
@pytest.mark.parametrize("balanced", [False, True])
def test_equals_the_loops(kind, balanced):
    x, labels, is_base, queries = problem()
    if kind == "ranpac":
        model = joint(partial(RanPAC, N_EXPANDED, ridge=2.0, balanced=balanced), x, labels, is_base)
    else:
        build = partial(RecursiveRidge, 2.0, kind, N_EXPANDED, balanced=balanced)
        model = joint(build, x, labels, is_base)
    state = {name: tensor.numpy() for name, tensor in model.tensors().items()}
    if kind == "rbf":
        expand = partial(ridge_loops.rbf_expansion, centers=state["centres"], sigma=float(state["bandwidth"]))
    else:
        expand = partial(ridge_loops.relu_expansion, projection=state["projection"])
    item_weights = ridge_loops.balanced_weights(labels.tolist(), [k < N_BASE for k in range(len(COUNTS))])
    weights = ridge_loops.ridge_weights(expand(x), labels, len(COUNTS), 2.0, item_weights if balanced else None)
    np.testing.assert_allclose(model.class_scores(queries), expand(queries) @ weights, atol=1e-9)


def test_cosine_head_scores_the_same_weights_by_direction():
    x, labels, is_base, queries = problem()
    model = joint(partial(RanPAC, N_EXPANDED, ridge=2.0, head="cosine"), x, labels, is_base)
    projection = model.tensors()["projection"].numpy()
    phi, h = ridge_loops.relu_expansion(x, projection), ridge_loops.relu_expansion(queries, projection)
    weights = ridge_loops.ridge_weights(phi, labels, len(COUNTS), 2.0)
    cosines = [[a @ w / np.linalg.norm(a) / np.linalg.norm(w) for w in weights.T] for a in h]
    np.testing.assert_allclose(model.class_scores(queries), cosines, atol=1e-9)


def test_balanced_is_scikit_learn_s_where_counts_are_even_and_nothing_for_the_base_session_alone():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(5), (8, 8, 8, 2, 2))
    x, queries = rng.normal(size=(len(labels), N_FEATURES)), rng.normal(size=(6, N_FEATURES))
    plain, balanced = partial(RecursiveRidge, ridge=0.3), partial(RecursiveRidge, ridge=0.3, balanced=True)
    model = joint(balanced, x, labels, labels < 3)
    item_weights = len(labels) / (5 * np.bincount(labels)[labels])
    other = Ridge(alpha=0.3, fit_intercept=False).fit(x, np.eye(5)[labels], sample_weight=item_weights)
    np.testing.assert_allclose(model.class_scores(queries), other.predict(queries), atol=1e-9)
    alone = [build().fit(x, labels).class_scores(queries) for build in (plain, balanced)]
    np.testing.assert_allclose(*alone, atol=1e-9)


@every_model
@pytest.mark.parametrize("seed", [0, 1])
def test_one_by_one_in_any_order_equals_joint(build, seed):
    """P24."""
    x, labels, is_base, queries = problem(seed)
    together = joint(build, x, labels, is_base)
    one_by_one = build().fit(x[is_base], labels[is_base])
    for i in np.random.default_rng(seed).permutation(np.flatnonzero(~is_base)):
        one_by_one.partial_fit(x[i : i + 1], labels[i : i + 1])
    columns = np.argsort(one_by_one.classes_)
    np.testing.assert_allclose(one_by_one.class_scores(queries)[:, columns], together.class_scores(queries), atol=1e-9)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", ["none", "relu"])
def test_base_items_may_come_one_by_one_too(kind, balanced):
    x, labels, is_base, queries = problem()
    build = partial(RecursiveRidge, 0.3, kind, N_EXPANDED, balanced=balanced)
    together, streamed = joint(build, x, labels, is_base), build()
    for i in np.random.default_rng(0).permutation(len(x)):
        streamed.partial_fit(x[i : i + 1], labels[i : i + 1], base=bool(is_base[i]))
    columns = np.argsort(streamed.classes_)
    np.testing.assert_allclose(streamed.class_scores(queries)[:, columns], together.class_scores(queries), atol=1e-9)
    assert set(streamed.base_classes_) == set(range(N_BASE))


def test_expanded_features_are_held_in_parts(monkeypatch):
    x, labels, is_base, queries = problem()
    whole = joint(MODELS["ranpac cosine balanced"], x, labels, is_base)
    most = []
    add = gram_module.GramStatistics._add_products
    monkeypatch.setattr(gram_module, "_MAX_EXPANDED", 4 * N_EXPANDED + 1)
    monkeypatch.setattr(
        gram_module.GramStatistics,
        "_add_products",
        lambda self, rows, *rest: (most.append(len(rows)), add(self, rows, *rest)),
    )
    parts = joint(MODELS["ranpac cosine balanced"], x, labels, is_base)
    assert max(most) == 4
    np.testing.assert_allclose(parts.class_scores(queries), whole.class_scores(queries), atol=1e-9)


def test_ridge_may_be_changed_later():
    x, labels, is_base, queries = problem()
    model = joint(MODELS["ranpac"], x, labels, is_base)
    first = model.class_scores(queries)
    model.set_params(ridge=50.0)
    other = joint(partial(RanPAC, N_EXPANDED, ridge=50.0), x, labels, is_base)
    np.testing.assert_array_equal(model.class_scores(queries), other.class_scores(queries))
    assert not np.allclose(first, other.class_scores(queries))
    assert model.ridge_ == 50.0
    model.set_params(ridge="auto")
    with pytest.raises(ValueError, match="ridge='auto' chooses on the base session, and came after it: fit again"):
        model.predict(queries)


# ----------------------------------------------------------------------------------------------- what is chosen, drawn


def test_centers_are_drawn_from_all_base_items():
    x, labels, *_ = problem()
    drawn = {
        tuple(center)
        for seed in range(12)
        for center in RecursiveRidge(expansion="rbf", n_expanded=8, random_state=seed)
        .fit(x, labels)
        .tensors()["centres"]
        .tolist()
    }
    assert drawn <= {tuple(item) for item in x.tolist()}
    assert len(drawn) > 30
    few = RecursiveRidge(expansion="rbf", n_expanded=100).fit(x, labels)
    assert {tuple(center) for center in few.tensors()["centres"].tolist()} == {tuple(item) for item in x.tolist()}


def test_bandwidth():
    x, labels, is_base, queries = problem()
    model = RecursiveRidge(expansion="rbf", n_expanded=100).fit(x, labels)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(x) for b in x[:i]]
    assert model.bandwidth_ == pytest.approx(np.median(distances), rel=0.01)
    assert RecursiveRidge(expansion="rbf", bandwidth=5.0).fit(x, labels).bandwidth_ == 5.0
    scaled = joint(MODELS["ridge rbf"], 100 * x, labels, is_base).class_scores(100 * queries)
    np.testing.assert_allclose(scaled, joint(MODELS["ridge rbf"], x, labels, is_base).class_scores(queries), atol=1e-9)
    with pytest.raises(AttributeError, match="bandwidth_ is there for expansion='rbf' alone"):
        _ = RecursiveRidge().fit(x, labels).bandwidth_


def test_relu_projections_are_as_in_the_originals():
    x, labels, *_ = problem()
    acil = RecursiveRidge(expansion="relu", n_expanded=4000).fit(x, labels).tensors()["projection"]
    bound = N_FEATURES**-0.5
    assert acil.shape == (N_FEATURES, 4000)
    assert acil.abs().max() <= bound
    assert acil.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    ranpac = RanPAC(500).fit(x, labels).tensors()["projection"]
    assert ranpac.std().item() == pytest.approx(1.0, rel=0.05)
    assert ranpac.abs().max() > 3


def test_ridge_held_out_equals_the_loops():
    x, labels, *_ = problem()
    phi, ridges = 3 * x, (1e-2, 1.0, 30.0, 1e3, 1e5)
    for seed in range(5):
        held_out = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:8].tolist()
        errors = ridge_loops.held_out_errors(phi, labels.tolist(), len(COUNTS), ridges, held_out)
        chosen = held_out_ridge(
            torch.from_numpy(x),
            torch.from_numpy(labels),
            lambda rows: 3 * rows,
            generator=torch.Generator().manual_seed(seed),
            ridges=ridges,
        )
        assert chosen == ridges[int(np.argmin(errors))]


def test_ridges_too_small_are_passed_over():
    items, labels = torch.ones(20, 2).double(), torch.arange(20) % 2
    generator = torch.Generator().manual_seed(0)
    chosen = held_out_ridge(items, labels, lambda rows: rows, generator=generator, ridges=(1e-30, 1.0))
    assert chosen == 1.0
    with pytest.raises(ValueError, match="each of the 1 ridges is too small"):
        held_out_ridge(items, labels, lambda rows: rows, generator=generator, ridges=(1e-30,))


def test_auto_is_chosen_once():
    x, labels, is_base, queries = problem()
    model = RanPAC(N_EXPANDED, ridge="auto").fit(x[is_base], labels[is_base])
    chosen = model.ridge_
    fixed = RanPAC(N_EXPANDED, ridge=chosen).fit(x[is_base], labels[is_base])
    np.testing.assert_array_equal(model.class_scores(queries), fixed.class_scores(queries))
    assert model.partial_fit(1000 * x[~is_base], labels[~is_base]).ridge_ == chosen


def test_a_first_call_that_fails_leaves_nothing_behind():
    x, labels, is_base, queries = problem()
    model = RanPAC(N_EXPANDED, ridge="auto")
    with pytest.raises(ValueError, match="two items or more, got n_samples = 1: set ridge to a number"):
        model.partial_fit(x[-1:], labels[-1:])
    model.partial_fit(x[is_base], labels[is_base], base=True)
    assert model.classes_.tolist() == list(range(N_BASE))
    np.testing.assert_array_equal(
        model.class_scores(queries), MODELS["ranpac auto"]().fit(x[is_base], labels[is_base]).class_scores(queries)
    )


# --------------------------------------------------------------------------------------------------------- forgetting


@every_model
def test_unlearning_every_item_of_a_class_equals_never_having_learned_it(build):
    x, labels, is_base, queries = problem()
    model = joint(build, x, labels, is_base)
    others = labels != 4
    reference = joint(build, x[others], labels[others], is_base[others])
    before = model.class_scores(queries)
    model.unlearn(x[~others][:2], labels[~others][:2])
    assert model.class_scores(queries).shape == before.shape
    assert not np.allclose(model.class_scores(queries), before)
    model.unlearn(x[~others][2:], labels[~others][2:])
    assert model.classes_.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(model.class_scores(queries), reference.class_scores(queries), atol=1e-9)


def test_unlearning_some_items():
    x, labels, is_base, queries = problem()
    model = joint(MODELS["ridge balanced"], x, labels, is_base)
    keep = np.arange(len(x)) % 4 != 0
    model.unlearn(x[~keep], labels[~keep])
    reference = joint(MODELS["ridge balanced"], x[keep], labels[keep], is_base[keep])
    np.testing.assert_allclose(model.class_scores(queries), reference.class_scores(queries), atol=1e-9)


def test_unlearning_what_was_not_learned_is_an_error_and_changes_nothing():
    x, labels, is_base, queries = problem()
    model = joint(MODELS["ranpac"], x, labels, is_base)
    before = model.class_scores(queries)
    with pytest.raises(ValueError, match="no class 9 to unlearn"):
        model.unlearn(x[:1], [9])
    with pytest.raises(ValueError, match=r"position 3 of classes_ has 3 rows, and 4 others were to be taken out"):
        model.unlearn(x[:4], [3] * 4)
    with pytest.raises(ValueError, match=r"position 3 of classes_ has 3 rows, and 3 others were to be taken out"):
        model.unlearn(x[:3], [3] * 3)
    np.testing.assert_array_equal(model.class_scores(queries), before)


def test_removing_a_class_leaves_its_items_as_items_of_no_class():
    x, labels, is_base, queries = problem()
    model = joint(MODELS["ridge"], x, labels, is_base).remove_class(1)
    targets = np.eye(len(COUNTS))[labels][:, [0, 2, 3, 4]]
    other = Ridge(alpha=0.3, fit_intercept=False).fit(x, targets)
    np.testing.assert_allclose(model.class_scores(queries), other.predict(queries), atol=1e-9)
    assert model.classes_.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("name", ["ridge balanced", "ranpac cosine balanced"])
def test_removing_all_new_classes_of_a_balanced_model_is_exact(name):
    x, labels, is_base, queries = problem()
    model = joint(MODELS[name], x, labels, is_base)
    model.predict(queries)
    model.remove_class(3).remove_class(4)
    base = MODELS[name]().fit(x[is_base], labels[is_base])
    np.testing.assert_allclose(model.class_scores(queries), base.class_scores(queries), atol=1e-9)
    for label in range(N_BASE):
        model.remove_class(label)
    model.partial_fit(x[is_base], labels[is_base], base=True)
    np.testing.assert_allclose(model.class_scores(queries), base.class_scores(queries), atol=1e-9)


# ------------------------------------------------------------------------------------------------ estimator's contract


@every_model
def test_never_predicts_a_class_that_was_not_added(build):
    """P30."""
    x, labels, is_base, _ = problem()
    queries = np.concatenate([10 * np.random.default_rng(5).normal(size=(200, N_FEATURES)), np.zeros((1, N_FEATURES))])
    model = build().fit(x[is_base], labels[is_base] * 10)
    assert set(model.predict(queries)) <= {0, 10, 20}
    model.partial_fit(x[labels == 4], labels[labels == 4] * 10)
    assert set(model.predict(queries)) <= {0, 10, 20, 40}
    assert np.isfinite(model.predict_proba(queries)).all()
    assert model.class_scores(queries).shape == (201, 4)


@every_model
def test_state_round_trip(build):
    x, labels, is_base, queries = problem()
    model = joint(build, x, labels, is_base)
    copy = build(random_state=99).restore(model.classes_.tolist(), model.tensors(), N_FEATURES, model.dtype_)
    np.testing.assert_array_equal(copy.class_scores(queries), model.class_scores(queries))
    more = joint(build, x, labels, is_base).partial_fit(x[:2] + 5, [7, 7])
    for each in (model, copy):
        each.partial_fit(x[:2] + 5, [7, 7])
        np.testing.assert_array_equal(each.class_scores(queries), more.class_scores(queries))
    assert copy.base_classes_.tolist() == list(range(N_BASE))


@every_model
def test_tensors_give_what_arrays_give(build):
    x, labels, is_base, queries = problem()
    arrays = joint(build, x, labels, is_base)
    tensors = joint(build, torch.from_numpy(x), torch.from_numpy(labels), torch.from_numpy(is_base))
    scores = tensors.class_scores(torch.from_numpy(queries))
    assert isinstance(scores, torch.Tensor)
    np.testing.assert_array_equal(scores, arrays.class_scores(queries))
    single = build().fit(torch.from_numpy(x).float(), labels.tolist())
    assert single.class_scores(torch.from_numpy(queries).float()).dtype == torch.float32


@every_model
def test_scikit_learn_s_checks(build):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(build(), on_fail=None)
    failed = [(result["check_name"], result["exception"]) for result in results if result["status"] == "failed"]
    assert not failed


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(RecursiveRidge, ridge=0.0), "ridge must be positive, got 0.0"),
        (partial(RecursiveRidge, expansion="rfb"), "unknown expansion 'rfb': did you mean 'rbf'?"),
        (partial(RecursiveRidge, n_expanded=0), "n_expanded must be positive, got 0"),
        (partial(RecursiveRidge, bandwidth=-1.0), "bandwidth must be positive, got -1.0"),
        (partial(RecursiveRidge, bandwidth="mean"), "unknown bandwidth 'mean'"),
        (partial(RecursiveRidge, logit_scale=0.0), "logit_scale must be positive"),
        (partial(RanPAC, n_projections=0), "n_projections must be positive, got 0"),
        (partial(RanPAC, ridge="atuo"), "unknown ridge 'atuo': did you mean 'auto'?"),
        (partial(RanPAC, ridge=-1.0), "ridge must be positive, got -1.0"),
        (partial(RanPAC, head="cosin"), "unknown head 'cosin': did you mean 'cosine'?"),
        (partial(RanPAC, logit_scale=0.0), "logit_scale must be positive"),
    ],
)
def test_settings_are_checked(build, message):
    x, labels, *_ = problem()
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        build().fit(x, labels)


# --------------------------------------------------------------------------------------------------- few-shot failure


def test_linear_head_misses_few_shot_classes_and_cosine_and_balance_find_them():
    """§4.3, with fewer items."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(30, 64, generator=generator)

    def draw(classes, n_items):
        labels = torch.arange(30)[classes].repeat_interleave(n_items)
        return means[labels] + 1.5 * torch.randn(len(labels), 64, generator=generator), labels

    (base, base_labels), (new, new_labels) = draw(slice(20), 150), draw(slice(20, 30), 5)
    queries, answers = draw(slice(30), 30)

    def accuracy(model):
        is_right = (model.predict(queries) == answers).float()
        return float(is_right[answers < 20].mean()), float(is_right[answers >= 20].mean())

    def learned(model):
        return model.fit(base, base_labels).partial_fit(new, new_labels)

    model = learned(RanPAC(1000))
    base_accuracy, new_accuracy = accuracy(model)
    assert base_accuracy > 0.9
    assert new_accuracy < 0.15
    assert accuracy(model.set_params(head="cosine"))[1] > 0.7
    assert accuracy(model.set_params(head="linear", ridge=1e6))[1] < 0.01
    assert accuracy(model.set_params(head="cosine"))[1] > 0.7
    assert accuracy(learned(RanPAC(1000, ridge=1e6, balanced=True)))[1] > 0.7
    kernel = {balanced: learned(RecursiveRidge(expansion="rbf", balanced=balanced)) for balanced in (False, True)}
    assert accuracy(kernel[False])[1] < 0.05
    assert accuracy(kernel[True])[1] > 0.7
    assert accuracy(learned(NearestClassMean()))[1] > 0.8
