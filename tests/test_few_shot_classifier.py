"""`FewShotClassifier`: scikit-learn's contract, labels of any kind, query sets, and "unknown"."""

from __future__ import annotations

import copy
import re
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fewshot
from fewshot import METHODS, UNEM, FewShotClassifier, SimpleShot, build_method

IN_PARTS = "rows of one query set are answered together: a part of them is another query set"
NOTHING_ASKED = "fit_predict is called with a label for every row, which leaves nothing to answer"


def justified(estimator):
    """Return the checks of scikit-learn that fail, and why."""
    is_transductive = METHODS[estimator.method].is_transductive
    return {"check_fit_score_takes_y": NOTHING_ASKED} | (
        {"check_methods_subset_invariance": IN_PARTS} if is_transductive else {}
    )


@parametrize_with_checks(
    [FewShotClassifier(), FewShotClassifier("simpleshot"), FewShotClassifier("bd-cspn", max_queries=50)],
    expected_failed_checks=justified,
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def problem(seed=0, counts=(4, 1, 6), n_queries=17, n_features=5, dtype=np.float64):
    """Return support, labels in random order, queries and their classes; classes lie apart."""
    rng = np.random.default_rng(seed)
    means = 9 * rng.normal(size=(len(counts), n_features))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    truth = rng.integers(0, len(counts), n_queries)
    support, query = (means[rows] + rng.normal(size=(len(rows), n_features)) for rows in (labels, truth))
    return support.astype(dtype), labels, query.astype(dtype), truth


@pytest.mark.parametrize("method", ["unem", "simpleshot", "tim:n_steps=20", "laplacian-shot"])
def test_the_answer_is_that_of_the_method(method):
    support, labels, query, truth = problem()
    model = FewShotClassifier(method).fit(support, labels)
    episode = Episode(
        support=torch.tensor(support), support_labels=torch.tensor(labels), query=torch.tensor(query),
        class_ids=torch.arange(3),
    )  # fmt: skip
    wanted = build_method(method)(episode).detach()
    np.testing.assert_allclose(model.predict_log_proba(query), wanted.numpy(), rtol=1e-10)
    np.testing.assert_allclose(model.predict_proba(query), wanted.exp().numpy(), rtol=1e-10)
    np.testing.assert_array_equal(model.predict(query), wanted.argmax(-1).numpy())
    assert (model.predict(query) == truth).mean() > 0.9
    assert model.is_transductive_ == METHODS[method.partition(":")[0]].is_transductive


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["wren", "crow", "owl"], ["crow", "owl", "wren"]),
        ([40, 7, -3], [-3, 7, 40]),
        ([0.5, 2.0, -1.5], [-1.5, 0.5, 2.0]),
        ([("b", 1), ("a", 2), ("a", 1)], [("a", 1), ("a", 2), ("b", 1)]),
        (["crow", 3, ("x",)], None),
        ([frozenset({1}), frozenset({2}), "a"], None),
    ],
)
def test_labels_of_any_hashable_kind_come_back_as_they_went_in(names, wanted):
    support, labels, query, truth = problem()
    model = FewShotClassifier().fit(support, [names[label] for label in labels])
    assert set(model.classes_.tolist()) == set(names)
    if wanted:
        assert model.classes_.tolist() == wanted
    answers = model.predict(query).tolist()
    assert answers == [names[label] for label in truth]
    assert model.score(query, answers) == 1.0
    probabilities = model.predict_proba(query)
    assert [model.classes_[column] for column in probabilities.argmax(1)] == answers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_give_tensors_in_their_dtype(dtype):
    support, labels, query, truth = (torch.tensor(array) for array in problem())
    model = FewShotClassifier().fit(support.to(dtype), labels)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert model.dtype_ == model.predict_proba(query.to(dtype)).dtype == wide
    assert torch.equal(model.predict(query.to(dtype)), truth)
    assert model.known_p_values(query.to(dtype)).dtype == wide
    named = model.fit(support.to(dtype), ["abc"[label] for label in labels.tolist()])
    assert isinstance(named.predict(query.to(dtype)), np.ndarray)
    mixed = FewShotClassifier().fit(support.numpy(), labels)  # arrays and tensors may meet
    np.testing.assert_array_equal(mixed.predict(query.float()), truth)


def test_inductive_rows_are_answered_alone_and_transductive_ones_together():
    support, labels, query, _ = problem(3)
    query = query / 4
    alone, together = (FewShotClassifier(method).fit(support, labels) for method in ("simpleshot", "unem"))
    np.testing.assert_allclose(alone.predict_proba(query[:4]), alone.predict_proba(query)[:4], rtol=1e-12)
    assert np.abs(together.predict_proba(query[:4]) - together.predict_proba(query)[:4]).max() > 1e-3


def test_large_query_sets_are_dealt_out_in_turn_to_parts():
    support, labels, query, _ = problem(4, n_queries=23)
    found = FewShotClassifier(max_queries=8).fit(support, labels).predict_proba(query)
    whole = FewShotClassifier().fit(support, labels)
    for part in range(3):  # 23 rows in parts of at most 8
        np.testing.assert_allclose(found[part::3], whole.predict_proba(query[part::3]), rtol=1e-12)
    exact = FewShotClassifier(max_queries=23).fit(support, labels)
    np.testing.assert_array_equal(exact.predict_proba(query), whole.predict_proba(query))


@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_unequal_shots_give_probabilities(seed, counts):
    support, labels, query, _ = problem(seed, counts)
    probabilities = FewShotClassifier().fit(support, labels).predict_proba(query)
    assert probabilities.shape == (len(query), len(counts))
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-9)


@pytest.mark.parametrize("marker", [-1, None, "-1", np.int64(-1)])
@pytest.mark.parametrize("is_tensor", [False, True])
def test_fit_predict_answers_the_rows_without_a_label(marker, is_tensor):
    support, labels, query, truth = problem(5)
    rows, known = np.concatenate([query, support]), ["crow", "owl", "wren"]
    y = [marker] * len(query) + [known[label] for label in labels]
    model = FewShotClassifier()
    found = model.fit_predict(torch.tensor(rows) if is_tensor else rows, y)
    assert found.tolist() == [known[label] for label in [*truth, *labels]]
    assert model.transduction_ is found
    apart = FewShotClassifier().fit(support, [known[label] for label in labels])
    shares = np.asarray(model.label_distributions_)
    np.testing.assert_allclose(shares[: len(query)], apart.predict_proba(query), rtol=1e-9)
    np.testing.assert_array_equal(shares[len(query) :], np.eye(3)[labels])
    np.testing.assert_array_equal(model.predict(query), apart.predict(query))


def test_fit_predict_takes_arrays_of_numbers_and_of_strings():
    support, labels, query, truth = problem(6)
    rows, wanted = np.concatenate([support, query]), [*labels, *truth]
    y = np.concatenate([labels, np.full(len(query), -1)])
    assert FewShotClassifier().fit_predict(rows, y).tolist() == wanted
    assert FewShotClassifier().fit_predict(torch.tensor(rows), torch.tensor(y)).tolist() == wanted
    texts = np.array([str(label) for label in y])  # NumPy makes "-1" of a -1 among strings
    assert FewShotClassifier().fit_predict(rows, texts).tolist() == [str(label) for label in wanted]


def test_what_is_of_no_class_is_unknown():
    support, labels, query, truth = problem(7, counts=(12, 9, 14), n_queries=60, n_features=8)
    far = -50.0 * support.mean(0, keepdims=True) + np.eye(8)[:3]
    model = FewShotClassifier(reject=0.1).fit(support, labels)
    answers = model.predict(np.concatenate([far, query]))
    assert answers[:3].tolist() == [-1, -1, -1]
    is_known = answers[3:] != -1
    assert is_known.mean() > 0.75
    np.testing.assert_array_equal(answers[3:][is_known], truth[is_known])
    p_values = model.known_p_values(np.concatenate([far, query]))
    np.testing.assert_array_equal(answers == -1, p_values <= 0.1)
    assert p_values[:3].tolist() == [1 / 36] * 3
    plain = FewShotClassifier().fit(support, labels)
    found, kept = model.predict_proba(np.concatenate([far, query])), plain.predict_proba(query[is_known])
    np.testing.assert_allclose(found[3:][is_known], kept, rtol=1e-9)  # those that are unknown do not sway the others
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-9)
    assert -1 not in plain.predict(far)
    names = ["crow", "owl", "wren"]
    named = clone(model).fit(support, [names[label] for label in labels])
    assert named.predict(np.concatenate([far, query]))[:3].tolist() == ["unknown"] * 3
    assert clone(named).set_params(unknown="?").fit(support, names[:1] * 12 + names[1:] * 11 + names[2:]).unknown == "?"
    together = named.fit_predict(np.concatenate([support, far]), [*(names[label] for label in labels), -1, -1, -1])
    assert together[-3:].tolist() == ["unknown"] * 3


def test_too_few_items_for_a_share_are_said():
    support, labels, query, _ = problem(8, counts=(1, 3, 3))
    with pytest.warns(UserWarning, match="no row can be called unknown") as caught:
        model = FewShotClassifier(reject=0.1).fit(support, labels)
    assert str(caught[0].message) == (
        "no row can be called unknown at reject=0.1: 6 labelled items of classes with two or more calibrate it, which "
        "allow 1/7 at least: give more items, or a larger share"
    )
    assert -1 not in model.predict(-query)
    FewShotClassifier(reject=1 / 7).fit(support, labels)


def test_minus_one_beside_numbers_from_zero_is_said():
    support, labels, _, _ = problem(9, counts=(2, 2, 2, 2))
    message = "-1 in y is taken as a class of its own: fit_predict takes it as a row to answer"
    for y in (labels - 1, ["abcd"[label] if label else -1 for label in labels]):
        with pytest.warns(UserWarning, match=f"^{message}$"):
            FewShotClassifier().fit(support, y)
    FewShotClassifier().fit(support, labels - 2)  # -2 and -1 are classes
    FewShotClassifier().fit(support, np.where(labels == 0, -1, 1))


X, Y, _, _ = problem()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: FewShotClassifier().fit(X[:3], ["crow"] * 3),
            "at least two classes are needed to choose between, got 1 class, 'crow': give labelled items of another",
        ),
        (
            lambda: FewShotClassifier().fit_predict(X[:3], [-1, -1, -1]),
            "at least two classes are needed to choose between, got 0 classes: no row has a label: give labelled items "
            "of another",
        ),
        (
            lambda: FewShotClassifier().fit_predict(X, Y),
            "fit_predict needs rows to answer, got a label for every row: mark these by -1 in y",
        ),
        (
            lambda: FewShotClassifier().fit(X, Y).predict(torch.empty(0, 5)),
            "no rows to answer: X must hold at least one query, got 0",
        ),
        (
            lambda: FewShotClassifier().fit(torch.tensor(X), list(Y[:4])),
            "X has 11 rows and y 4 labels: give one label per row",
        ),
        (
            lambda: FewShotClassifier().fit(X, [[0]] * 11),
            "y must hold one hashable label per row, got [0]",
        ),
        (lambda: FewShotClassifier().fit(X, Y).score(X, Y[:4]), "X has 11 rows and y 4 labels: give one label per row"),
        (
            lambda: FewShotClassifier(reject=0).fit(X, Y),
            "reject must lie in (0, 1), the share of known items that may be called unknown, or be None for none, "
            "got 0",
        ),
        (
            lambda: FewShotClassifier(reject=0.2, unknown=2).fit(X, Y),
            "unknown=2 is the label of a class: choose another answer for rows of no class",
        ),
        (
            lambda: FewShotClassifier("tip-adapter:n_cosines=4").fit(X, Y),
            "the method takes 4 columns as image-text cosines, one for each class in order, and there are 3 classes: ",
        ),
        (lambda: FewShotClassifier(max_queries=0).fit(X, Y).predict(X), "max_queries must be positive, got 0"),
    ],
)
def test_errors_say_what_is_needed(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()


def test_other_errors():
    with pytest.raises(ValueError, match=r"unknown method 'unm': did you mean 'unem'\?"):
        FewShotClassifier("unm").fit(X, Y)
    with pytest.raises(ValueError, match="0 sample"):
        FewShotClassifier().fit(X, Y).predict(np.empty((0, 5)))
    with pytest.raises(NotFittedError):
        FewShotClassifier().predict(X)
    with pytest.raises(ValueError, match="X has 4 features, but FewShotClassifier is expecting 5"):
        FewShotClassifier().fit(X, Y).predict(X[:, :4])
    rows = torch.tensor(X)
    rows[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"X .*NaN"):
        FewShotClassifier().fit(rows, Y)


def test_it_works_in_pipelines_and_searches():
    support, labels, query, truth = problem(10, counts=(8, 6, 7), n_queries=30)
    names = np.array(["crow", "owl", "wren"])
    pipeline = make_pipeline(StandardScaler(), FewShotClassifier("simpleshot"))
    assert pipeline.fit(support, names[labels]).score(query, names[truth]) == 1.0
    search = GridSearchCV(FewShotClassifier(), {"method": ["unem", "simpleshot", "tim:n_steps=5"]}, cv=3)
    search.fit(support, names[labels])
    assert search.best_score_ > 0.9
    assert search.best_estimator_.predict(query).tolist() == names[truth].tolist()


def test_methods_may_be_objects():
    support, labels, query, truth = problem(11)
    for method in (SimpleShot(), UNEM.from_preset()):
        model = clone(FewShotClassifier(method)).fit(support, labels)
        np.testing.assert_array_equal(model.predict(query), truth)
    by_name = FewShotClassifier("unem").fit(support, labels).predict_proba(query)
    np.testing.assert_array_equal(model.predict_proba(query), by_name)


def test_score_counts_with_weights():
    model = FewShotClassifier("simpleshot").fit(X, Y)
    wrong = (Y + 1) % 3
    mixed = np.where(np.arange(11) < 4, Y, wrong)
    assert model.score(X, mixed) == pytest.approx(4 / 11)
    assert model.score(X, mixed, sample_weight=np.arange(11) < 4) == 1.0
    assert model.score(torch.tensor(X), torch.tensor(mixed)) == pytest.approx(4 / 11)


def test_fitting_again_forgets_and_inputs_stay():
    support, labels, query, _ = problem(12)
    before = copy.deepcopy((support, labels, query))
    model = FewShotClassifier().fit(support, labels)
    first = model.predict_proba(query)
    model.fit(support[:, :3], labels)
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.fit(support, labels).predict_proba(query), first)
    for old, new in zip(before, (support, labels, query), strict=True):
        np.testing.assert_array_equal(old, new)


def test_it_is_a_public_name():
    assert fewshot.FewShotClassifier is FewShotClassifier


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_answers_come_back_where_the_rows_are():
    support, labels, query, truth = problem(13)
    model = FewShotClassifier(reject=0.3).fit(torch.tensor(support).cuda(), labels)
    assert model.predict(torch.tensor(query).cuda()).is_cuda
    assert model.predict_proba(torch.tensor(query)).device.type == "cpu"
    assert (model.predict(query) == truth).mean() > 0.5


# --- containers of labels --------------------------------------------------------------------------------------------


def columns(labels):
    """The same labels, None where one is missing, in every container that is at hand."""
    yield list(labels)
    yield np.array(labels, dtype=object)
    for name, build in (("pandas", "Series"), ("polars", "Series"), ("pyarrow", "array")):
        if find_spec(name) is not None:
            yield getattr(import_module(name), build)(labels)
    if find_spec("pandas") is not None:
        yield import_module("pandas").Series(labels, dtype="string")
        yield import_module("pandas").Categorical(labels)


def test_labels_in_any_container_have_one_answer():
    X = np.array([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9], [0.9, 0.2]])
    for y in columns(["crow", "jay", None, None]):
        assert FewShotClassifier("simpleshot").fit_predict(X, y).tolist() == ["crow", "jay", "crow", "jay"], type(y)
    for y in columns(["crow", "jay", "crow", "jay"]):
        model = FewShotClassifier("simpleshot").fit(X, y)
        assert model.predict(X).tolist() == ["crow", "jay", "crow", "jay"], type(y)
        assert model.score(X, y) == 1.0


def test_a_missing_label_in_fit_is_named():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"^y has no label in row 1: leave rows without one out$"):
        FewShotClassifier("simpleshot").fit(np.eye(3), pandas.Series(["crow", None, "jay"]))


def test_score_ravels_a_column_and_compares_like_with_like():
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    model = FewShotClassifier("simpleshot").fit(X, y)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        assert model.score(X, y[:, None]) == model.score(X, y)
    with pytest.raises(ValueError, match=r"^y holds text, and the classes are numbers: give labels of the kind that"):
        model.score(X, y.astype(str))


def test_features_that_overflow_are_refused_and_no_probability_is_nan():
    X = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    y = np.arange(30) % 3
    model = FewShotClassifier("unem").fit(1e20 * X, y)
    with pytest.raises(
        ValueError, match=r"^the method has no probabilities for 30 of 30 queries: features as large as"
    ):
        model.predict_proba(1e20 * X)
