"""Incremental classifiers: the contract that all keep, and what the prototype ones promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewshot.incremental import TEEN, NearestClassMean
from fewshot.incremental.neighbours import nearest
from fewshot.models import load_classifier, save_classifier
from fewshot.registry.incremental import INCREMENTAL_METHODS, build_classifier
from tests.reference import teen_loops

# Settings that suit small problems: thousands of projections would take long, and scikit-learn feeds negative features.
SMALL: dict[str, dict[str, object]] = {
    "ranpac": {"n_projections": 60, "ridge": 1.0},
    "ranpac-cosine": {"n_projections": 60, "ridge": 1.0},
    "ridge-rbf": {"n_expanded": 30},
    "fecam": {"tukey": None},
    "fecam-calibrated": {"tukey": None},
    "distribution-calibration": {"tukey": None, "n_samples": 15},
}
# Heads whose scores of a class depend on the items of the others too.
COUPLED = ("lda", "distribution-calibration", "ridge", "ridge-rbf", "ranpac", "ranpac-cosine")
# Up to what shots in another order may move scores: a solver stops within its own tolerance.
TOLERANCE = {"distribution-calibration": 0.05}
# Heads that take something from the items of the first call alone.
FIRST_CALL_COUNTS = ("ridge-rbf",)


def build(name):
    return build_classifier(name).set_params(**SMALL.get(name, {}))


def problem(seed=0, n_base=5, n_new=3, n_features=7, n_items=12, n_shots=4, dtype=np.float64):
    """Positive features of base classes with many items and new ones with few, and queries of all."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(2.0, size=(n_base + n_new, n_features))

    def items(classes):
        return np.abs(means[classes] + 0.4 * rng.normal(size=(len(classes), n_features))).astype(dtype)

    base = np.repeat(np.arange(n_base), n_items)
    new = np.repeat(np.arange(n_base, n_base + n_new), n_shots)
    query = np.repeat(np.arange(n_base + n_new), 3)
    return (items(base), base), (items(new), new), (items(query), query)


def learned(name, seed=0, **sizes):
    (base, base_labels), (new, new_labels), (query, _) = problem(seed, **sizes)
    return build(name).fit(base, base_labels).partial_fit(new, new_labels), query


def scores_by_label(model, query):
    return dict(zip(model.classes_.tolist(), model.class_scores(query).T, strict=True))


def close(one, other, tolerance=1e-9):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


names = pytest.mark.parametrize("name", INCREMENTAL_METHODS)


@parametrize_with_checks([build(name) for name in INCREMENTAL_METHODS])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@names
def test_shots_in_any_order_and_parts_give_the_same(name):  # P12, P18, P24, P25
    (base, base_labels), (new, new_labels), (query, _) = problem()
    wanted = scores_by_label(build(name).fit(base, base_labels).partial_fit(new, new_labels), query)
    rng = np.random.default_rng(5)
    one_by_one = build(name).fit(base, base_labels)
    for row in rng.permutation(len(new)):
        one_by_one.partial_fit(new[row : row + 1], new_labels[row : row + 1])
        one_by_one.class_scores(query[:2])  # what is worked out on the way must not stick
    found = scores_by_label(one_by_one, query)
    assert set(found) == set(wanted)
    for label in wanted:
        close(found[label], wanted[label], TOLERANCE.get(name, 1e-9))


@names
def test_the_base_session_in_parts_gives_the_same(name):
    if name in FIRST_CALL_COUNTS:
        pytest.skip("this head draws its centers from the first call's items")
    (base, base_labels), (new, new_labels), (query, _) = problem()
    wanted = scores_by_label(build(name).fit(base, base_labels).partial_fit(new, new_labels), query)
    model = build(name)
    for rows in np.array_split(np.random.default_rng(1).permutation(len(base)), 6):
        model.partial_fit(base[rows], base_labels[rows], base=True)
    found = scores_by_label(model.partial_fit(new, new_labels), query)
    for label in wanted:
        close(found[label], wanted[label], TOLERANCE.get(name, 1e-9))
    assert sorted(model.base_classes_) == sorted(set(base_labels))


@names
def test_a_removed_class_leaves_no_trace_in_predictions(name):  # P20, P30
    model, query = learned(name)
    before = model.predict(query)
    model.partial_fit(query[:4] * 1.1, [99] * 4)
    model.class_scores(query)
    model.remove_class(99)
    assert 99 not in model.classes_
    if name not in COUPLED:
        np.testing.assert_array_equal(model.predict(query), before)
    model.remove_class(2)
    assert 2 not in model.predict(query)
    assert model.class_scores(query).shape == (len(query), 7)
    with pytest.raises(ValueError, match="no class 99 to remove: the 7 known ones are in classes_"):
        model.remove_class(99)


@names
def test_adding_a_class_changes_no_other_score(name):  # P19
    if name in COUPLED:
        pytest.skip("this head's weights of a class depend on the other classes")
    model, query = learned(name)
    before = scores_by_label(model, query)
    model.partial_fit(query[:4] * 1.1, [99] * 4)
    for label, scores in scores_by_label(model, query).items():
        if label in before:
            close(scores, before[label], 1e-12)


@names
def test_tensors_give_tensors_and_arrays_arrays(name):
    (base, base_labels), (new, new_labels), (query, _) = problem()
    arrays = build(name).fit(base, base_labels).partial_fit(new, new_labels)
    tensors = build(name).fit(torch.tensor(base), torch.tensor(base_labels))
    tensors.partial_fit(torch.tensor(new), torch.tensor(new_labels))
    for ask in ("class_scores", "decision_function", "predict_proba", "predict", "highest_score"):
        array, tensor = getattr(arrays, ask)(query), getattr(tensors, ask)(torch.tensor(query))
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        close(tensor.numpy(), array)
    close(arrays.predict_proba(query).sum(1), 1.0)


@names
def test_labels_of_any_hashable_kind(name):
    (base, base_labels), (new, new_labels), (query, labels) = problem()
    known = {0: "wren", 1: ("tit", "blue"), 2: 7, 3: frozenset("x"), 4: 2.5, 5: True, 6: "", 7: b"b"}
    model = build(name).fit(base, [known[label] for label in base_labels])
    model.partial_fit(new, [known[label] for label in new_labels])
    assert set(model.classes_) == set(known.values())
    plain, _ = learned(name)
    back = {value: key for key, value in known.items()}
    agreed = np.mean(
        [back[label] == other for label, other in zip(model.predict(query), plain.predict(query), strict=True)]
    )
    assert agreed == 1.0
    assert len(labels) == len(query)


@names
def test_clone_starts_anew_and_saved_state_answers_the_same(name, tmp_path):  # P19
    (base, base_labels), (new, new_labels), (query, _) = problem(dtype=np.float32)
    words = np.array([f"class {label}" for label in range(9)])
    model = build(name).fit(base, words[base_labels])
    model.calibrate_rejection(base, words[base_labels], n_folds=3)
    save_classifier(model, tmp_path / "m.safetensors", {"extractor_key": "1f"})
    loaded, source = load_classifier(tmp_path / "m.safetensors")
    assert source == {"extractor_key": "1f"}
    assert repr(loaded) == repr(model)
    for one in (model, loaded):  # next month's job goes on from today's file
        one.partial_fit(new, words[new_labels])
    np.testing.assert_array_equal(loaded.class_scores(query), model.class_scores(query))
    np.testing.assert_array_equal(loaded.predict(query, reject=0.2), model.predict(query, reject=0.2))
    np.testing.assert_array_equal(loaded.base_classes_, model.base_classes_)
    assert not hasattr(clone(model), "classes_")


@names
def test_learning_by_float32_agrees_with_float64_but_for_near_ties(name):  # P21
    wide, query = learned(name, seed=3)
    (base, base_labels), (new, new_labels), _ = problem(3)
    narrow = build(name).fit(base.astype(np.float32), base_labels).partial_fit(new.astype(np.float32), new_labels)
    scores = np.sort(wide.class_scores(query), axis=1)
    is_clear = scores[:, -1] - scores[:, -2] > 1e-3 * np.abs(scores).max()
    assert is_clear.mean() > 0.5
    np.testing.assert_array_equal(narrow.predict(query.astype(np.float32))[is_clear], wide.predict(query)[is_clear])


@names
def test_bad_rows_are_refused_before_anything_changes(name):
    model, query = learned(name)
    before = model.class_scores(query)
    bad = torch.tensor(query[:2])
    bad[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"X has 1 NaN and 0 infinite entries, the first at index \(1, 2\)"):
        model.partial_fit(bad, [1, 99])
    with pytest.raises(ValueError, match="X has 2 rows and y 3 labels: give one label per row"):
        model.partial_fit(torch.tensor(query[:2]), [1, 2, 99])
    with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 7"):
        model.partial_fit(torch.tensor(query[:2, :3]), [1, 99])
    np.testing.assert_array_equal(model.class_scores(query), before)


@names
def test_options_as_words(name):
    defaults = INCREMENTAL_METHODS[name].options()
    assert defaults
    assert {key: value for key, value in build_classifier(name).get_params().items() if key in defaults} == defaults


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ten", "unknown method 'ten': did you mean 'teen'"),
        ("teen:shift=1", "unknown option of teen 'shift'"),
        ("teen:softmax_scale=x", "teen:softmax_scale must be a number, got 'x'"),
        ("fecam:shrinkage=1", r"fecam:shrinkage must be 2 numbers joined by \+, got '1'"),
        ("ncm:shot_debias=yes", "ncm:shot_debias must be true or false, got 'yes'"),
    ],
)
def test_wrong_words_are_answered(text, message):
    with pytest.raises(ValueError, match=message):
        build_classifier(text)


# Rejection


@names
def test_about_the_asked_share_of_known_items_is_rejected_and_strangers_more(name):
    rng = np.random.default_rng(0)
    means = rng.gamma(1.0, size=(6, 20)) * 3
    base_labels = np.repeat(np.arange(5), 60)

    def items(labels):
        return np.abs(means[labels] + 0.5 * rng.normal(size=(len(labels), 20)))

    base = items(base_labels)
    model = build(name).fit(base, base_labels).calibrate_rejection(base, base_labels)
    known, strangers = items(np.repeat(np.arange(5), 100)), items(np.full(100, 5))
    assert 0.03 < np.mean(model.predict(known, reject=0.1) == -1) < (0.3 if name in COUPLED else 0.2)
    assert np.mean(model.predict(strangers, reject=0.1) == -1) > 0.5
    np.testing.assert_array_equal(
        model.predict(known, reject=0.1, unknown=9) == 9, model.predict(known, reject=0.1) == -1
    )


def test_the_threshold_is_a_quantile_of_held_out_scores():
    (base, base_labels), _, _ = problem(n_items=10)
    model = NearestClassMean().fit(base, base_labels).calibrate_rejection(base, base_labels, n_folds=10)
    # Ten folds of ten items each: every fold holds out one item per class, so each score is that of a class mean of
    # nine; which nine others is drawn, so bound it by the leave-one-out scores of the item's own class.
    loop = []
    for row, label in enumerate(base_labels):
        rest = (np.arange(len(base)) != row) & (base_labels == label)
        loop.append(teen_loops.cosine(base[row], base[rest].mean(0)))
    for reject in (0.1, 0.5):
        assert model.rejection_threshold(reject) >= np.quantile(loop, reject) - 1e-9  # the best class, not only its own
    assert model.rejection_threshold(0.5) == pytest.approx(np.quantile(loop, 0.5), abs=0.02)


def test_rejection_needs_its_calibration_and_a_share():
    model, query = learned("ncm")
    with pytest.raises(ValueError, match="reject needs calibrate_rejection"):
        model.predict(query, reject=0.1)
    with pytest.raises(ValueError, match=r"reject must lie in \(0, 1\)"):
        model.predict(query, reject=1.0)
    with pytest.raises(ValueError, match="n_folds = 50 rows or more, got none"):
        model.calibrate_rejection(*problem()[0], n_folds=50)
    model.calibrate_rejection(*problem()[0])
    with pytest.raises(ValueError, match="unknown=3 is the label of a class"):
        model.predict(query, reject=0.1, unknown=3)


# Nearest class mean


@given(st.integers(0, 500))
def test_euclidean_is_scikit_learns_nearest_centroid(seed):
    (base, base_labels), (new, new_labels), (query, _) = problem(seed)
    model = NearestClassMean("euclidean").fit(base, base_labels).partial_fit(new, new_labels)
    other = NearestCentroid().fit(np.concatenate([base, new]), np.concatenate([base_labels, new_labels]))
    np.testing.assert_array_equal(model.predict(query), other.predict(query))
    distances = ((query[:, None] - other.centroids_) ** 2).sum(-1)
    close(model.class_scores(query), -0.5 * distances)


@pytest.mark.parametrize("normalize_before_mean", [False, True])
@pytest.mark.parametrize("center", [None, "base", "vector"])
def test_cosine_means_by_hand(normalize_before_mean, center):
    (base, base_labels), (new, new_labels), (query, _) = problem()
    shift = {None: np.zeros(7), "base": base.mean(0), "vector": np.arange(7.0)}[center]
    settings = {"normalize_before_mean": normalize_before_mean, "center": shift if center == "vector" else center}
    model = NearestClassMean(**settings)
    if normalize_before_mean and center == "base":
        with pytest.raises(ValueError, match="center='base' moves while base items arrive"):
            model.fit(base, base_labels)
        return
    model.fit(base, base_labels).partial_fit(new, new_labels)
    rows, labels = np.concatenate([base, new]) - shift, np.concatenate([base_labels, new_labels])
    if normalize_before_mean:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for label, scores in scores_by_label(model, query).items():
        mean = rows[labels == label].mean(0)
        close(scores, [teen_loops.cosine(item - shift, mean) for item in query])


def test_debiased_lengths_by_hand():
    (base, base_labels), (new, new_labels), (query, _) = problem()
    model = NearestClassMean(shot_debias=True).fit(base, base_labels).partial_fit(new, new_labels)
    scatter = sum(((base[base_labels == b] - base[base_labels == b].mean(0)) ** 2).sum() for b in range(5))
    trace = scatter / (len(base) - 5)
    scores = scores_by_label(model, query)
    for label in (5, 6, 7):
        mean = new[new_labels == label].mean(0)
        length = np.sqrt(max(mean @ mean - trace / 4, mean @ mean / 4))
        close(scores[label], query @ mean / np.linalg.norm(query, axis=1) / length)
    close(scores[0], scores_by_label(learned("ncm")[0], query)[0])


# TEEN


@pytest.mark.parametrize("settings", [{}, {"shift_weight": 0.1}, {"softmax_scale": 4.0, "renormalize_delta": False}])
def test_teen_is_the_loop(settings):
    (base, base_labels), (new, new_labels), (query, _) = problem()
    model = TEEN(**settings).fit(base, base_labels).partial_fit(new, new_labels)
    anchors = np.array([base[base_labels == label].mean(0) for label in range(5)])
    fresh = np.array([new[new_labels == label].mean(0) for label in range(5, 8)])
    full = {"softmax_scale": 16.0, "shift_weight": 0.5, "renormalize_delta": True} | settings
    vectors = [*anchors, *teen_loops.calibrate(anchors, fresh, **full)]
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    wanted = np.array([unit @ teen_loops.unit(vector) for vector in vectors]).T
    close(model.class_scores(query), wanted)


def test_teen_auto_is_the_loop():
    (base, base_labels), (new, new_labels), (query, _) = problem(n_items=9)
    model = TEEN("auto").fit(base, base_labels).partial_fit(new, new_labels)
    anchors = np.array([base[base_labels == label].mean(0) for label in range(5)])
    fresh = np.array([new[new_labels == label].mean(0) for label in range(5, 8)])
    trace = ((base - anchors[base_labels]) ** 2).sum() / (len(base) - 5)
    vectors = teen_loops.posterior(anchors, fresh, [4] * 3, [9] * 5, trace, 16.0, 2 / 3)
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    close(model.class_scores(query)[:, 5:], unit @ vectors.T, 1e-7)


def test_without_base_classes_teen_is_the_nearest_class_mean():
    (base, base_labels), _, (query, _) = problem()
    for shift_weight in (0.5, "auto"):
        model = TEEN(shift_weight).partial_fit(base, base_labels)
        assert len(model.base_classes_) == 0
        close(model.class_scores(query), NearestClassMean().fit(base, base_labels).class_scores(query))


def test_no_shift_is_the_nearest_class_mean():  # P1
    (base, base_labels), (new, new_labels), (query, _) = problem()
    model = TEEN(0.0).fit(base, base_labels).partial_fit(new, new_labels)
    np.testing.assert_array_equal(model.predict(query), learned("ncm")[0].predict(query))


def test_more_shots_of_a_base_class_move_what_stands_on_it():
    (base, base_labels), (new, new_labels), (query, _) = problem()
    late = TEEN().fit(base[1:], base_labels[1:]).partial_fit(new, new_labels)
    late.class_scores(query)
    late.partial_fit(base[:1], base_labels[:1])
    close(late.class_scores(query), learned("teen")[0].class_scores(query))


def test_the_logit_scale_changes_no_answer():  # P17
    (base, base_labels), _, (query, _) = problem()
    cold, warm = (TEEN(logit_scale=scale).fit(base, base_labels) for scale in (1.0, 32.0))
    np.testing.assert_array_equal(cold.predict(query), warm.predict(query))
    assert warm.predict_proba(query).max() > cold.predict_proba(query).max()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TEEN(shift_weight=1.5), r"shift_weight must lie in \[0, 1\] or be 'auto', got 1.5"),
        (TEEN(shift_weight="atuo"), "unknown shift_weight 'atuo': did you mean 'auto'"),
        (TEEN(center="new"), "unknown center 'new'"),
        (NearestClassMean(metric="cos"), "unknown metric 'cos': did you mean 'cosine'"),
        (NearestClassMean(metric="euclidean", shot_debias=True), "shot_debias corrects cosines"),
    ],
)
def test_bad_settings_are_refused_when_learning_begins(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(np.eye(3), [0, 1, 2])


# Very many classes


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_search_among_many_gives_the_same_answers(metric, monkeypatch):
    rng = np.random.default_rng(0)
    rows, vectors = (torch.from_numpy(rng.normal(size=(n, 8))).float() for n in (50, 400))
    wanted = rows @ vectors.mT if metric == "cosine" else -0.5 * torch.cdist(rows.double(), vectors.double()).square()
    for has_faiss in (True, False):
        if not has_faiss:
            monkeypatch.setattr("fewshot.incremental.neighbours.find_spec", lambda name: None)
        scores, positions = nearest(rows, vectors, metric=metric)
        np.testing.assert_array_equal(positions, wanted.argmax(1))
        np.testing.assert_allclose(scores, wanted.max(1).values, rtol=1e-5, atol=1e-5)


def test_predict_takes_the_search_where_classes_are_many(monkeypatch):
    model, query = learned("teen")
    wanted = model.predict(query)
    monkeypatch.setattr("fewshot.incremental.ncm.MANY_CLASSES", 8)
    asked = []

    def spy(*arguments, **options):
        asked.append(options)
        return nearest(*arguments, **options)

    monkeypatch.setattr("fewshot.incremental.ncm.nearest", spy)
    np.testing.assert_array_equal(model.predict(query), wanted)
    assert len(asked) == 1


# Files


def test_a_label_that_json_cannot_say_is_refused(tmp_path):
    model = NearestClassMean().fit(np.eye(2), [("a",), ("b",)])
    with pytest.raises(TypeError, match=r"labels must be strings or numbers to be saved, got \('a',\)"):
        save_classifier(model, tmp_path / "m.safetensors")


def test_a_center_of_ones_own_is_kept(tmp_path):
    (base, base_labels), _, (query, _) = problem()
    model = NearestClassMean(center=np.arange(7.0)).fit(base, base_labels)
    save_classifier(model, tmp_path / "m.safetensors")
    close(load_classifier(tmp_path / "m.safetensors")[0].class_scores(query), model.class_scores(query), 0)


def test_a_file_of_something_else_is_refused(tmp_path):
    from fewshot.storage import save_tensors

    save_tensors(tmp_path / "m.safetensors", {"x": torch.zeros(1)}, kind="classifier", metadata={"class": "TEEN"})
    with pytest.raises(ValueError, match=r"is not a whole classifier .*: learn it again with `fewshot learn`"):
        load_classifier(tmp_path / "m.safetensors")


# What is worked out once and kept


PROTOTYPES = [name for name in INCREMENTAL_METHODS if name.startswith(("ncm", "teen"))]
prototype_names = pytest.mark.parametrize("name", PROTOTYPES)


def same_scores(model, other, query):
    found, wanted = scores_by_label(model, query), scores_by_label(other, query)
    assert set(found) == set(wanted)
    for label in wanted:
        close(found[label], wanted[label])


@prototype_names
def test_a_late_base_session_moves_what_was_learned_before(name):
    (base, base_labels), (new, new_labels), (query, _) = problem()
    early = base_labels < 3
    model = build(name).fit(base[early], base_labels[early]).partial_fit(new, new_labels)
    model.class_scores(query)
    model.partial_fit(base[~early], base_labels[~early], base=True)
    same_scores(model, learned(name)[0], query)


@prototype_names
@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("removed", [(2,), (5, 6), (7, 0)])
def test_removing_classes_is_never_having_learned_them(name, removed, scored):
    (base, base_labels), (new, new_labels), (query, _) = problem()
    model = build(name).fit(base, base_labels).partial_fit(new[:-1], new_labels[:-1])
    if scored:
        model.class_scores(query)
    model.partial_fit(new[-1:], new_labels[-1:])  # a row made again before the removal, whose position then moves
    for label in removed:
        model.remove_class(label)
    old, late = ~np.isin(base_labels, removed), ~np.isin(new_labels, removed)
    same_scores(model, build(name).fit(base[old], base_labels[old]).partial_fit(new[late], new_labels[late]), query)
    model.partial_fit(query[:2], [11, 11])
    assert model.class_scores(query).shape == (len(query), 9 - len(removed))


@prototype_names
def test_search_among_many_knows_the_metric(name, monkeypatch):
    model, query = learned(name)
    wanted, scores = model.predict(query), model.highest_score(query)
    monkeypatch.setattr("fewshot.incremental.ncm.MANY_CLASSES", 1)
    np.testing.assert_array_equal(model.predict(query), wanted)
    close(model.highest_score(query), scores, 1e-5)


@pytest.mark.parametrize("model", [NearestClassMean(shot_debias=True), TEEN("auto")])
def test_base_classes_of_one_item_say_nothing_of_noise(model):
    (base, base_labels), (new, new_labels), (query, _) = problem(n_items=1)
    model.fit(base, base_labels).partial_fit(new, new_labels)  # without noise a mean is its class's, whatever it is of
    same_scores(model, learned("ncm", n_items=1)[0], query)


def test_nothing_to_center_on_and_nothing_to_point_at():
    (base, base_labels), _, (query, _) = problem()
    model = NearestClassMean(center="base").partial_fit(base, base_labels)
    same_scores(model, NearestClassMean().fit(base, base_labels), query)
    zeros = NearestClassMean(shot_debias=True).partial_fit(np.zeros((4, 7)), [0, 0, 1, 1])
    close(zeros.class_scores(query), 0.0, 0)


@pytest.mark.parametrize(("n_base", "softmax_scale"), [(5, 4.0), (2, 16.0)])
def test_teen_auto_is_the_loop_with_other_scales_and_the_fewest_classes(n_base, softmax_scale):
    (base, base_labels), (new, new_labels), (query, _) = problem(n_base=n_base)
    model = TEEN("auto", softmax_scale).fit(base, base_labels).partial_fit(new, new_labels)
    anchors = np.array([base[base_labels == label].mean(0) for label in range(n_base)])
    fresh = np.array([new[new_labels == label].mean(0) for label in range(n_base, n_base + 3)])
    trace = ((base - anchors[base_labels]) ** 2).sum() / (len(base) - n_base)
    vectors = teen_loops.posterior(anchors, fresh, [4] * 3, [12] * n_base, trace, softmax_scale, 2 / 3)
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    close(model.class_scores(query)[:, n_base:], unit @ vectors.T, 1e-7)


def test_too_few_base_classes_change_nothing():
    one, query = learned("ncm", n_base=1)
    (base, base_labels), (new, new_labels), _ = problem(n_base=1)
    same_scores(TEEN("auto").fit(base, base_labels).partial_fit(new, new_labels), one, query)
    same_scores(TEEN(1.0).partial_fit(new, new_labels), NearestClassMean().fit(new, new_labels), query)


def test_rejection_counts_known_classes_alone_and_fit_forgets_it():
    (base, base_labels), (new, new_labels), (query, _) = problem()
    model = NearestClassMean().fit(base, base_labels)
    wanted = model.calibrate_rejection(base, base_labels).rejection_threshold(0.3)
    rows, labels = np.concatenate([base, new, new]), np.concatenate([base_labels, new_labels, new_labels])
    assert model.calibrate_rejection(rows, labels).rejection_threshold(0.3) == wanted
    with pytest.raises(ValueError, match="reject needs calibrate_rejection"):
        model.fit(base, base_labels).predict(query, reject=0.3)


def test_restoring_leaves_the_callers_tensors_alone():
    (base, base_labels), _, (query, _) = problem()
    model = NearestClassMean().fit(base, base_labels).calibrate_rejection(base, base_labels)
    tensors = model.tensors()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    other = NearestClassMean().restore(range(5), tensors, 7, torch.float64)
    other.partial_fit(query[:1], [0])
    assert set(tensors) == set(before)
    assert all(torch.equal(tensors[name], before[name]) for name in before)


@pytest.mark.parametrize("begin", ["fit", "partial_fit"])
def test_what_cannot_be_learned_leaves_no_label_behind(begin, monkeypatch):
    (base, base_labels), (new, new_labels), (query, _) = problem()
    model = NearestClassMean().fit(base, base_labels)
    before = model.class_scores(query)

    def broken(*_, **__):
        raise MemoryError

    with monkeypatch.context() as broke:
        broke.setattr(model, "_learn", broken)
        with pytest.raises(MemoryError):
            model.partial_fit(new, new_labels)
    np.testing.assert_array_equal(model.class_scores(query), before)
    fresh = NearestClassMean(metric="cos")
    with pytest.raises(ValueError, match="unknown metric"):
        getattr(fresh, begin)(base, base_labels)
    assert not hasattr(fresh, "classes_")


def test_a_pair_of_numbers_in_words_keeps_its_order():
    assert build_classifier("fecam:shrinkage=2+0.5").get_params()["shrinkage"] == (2.0, 0.5)


@names
def test_probabilities_follow_from_scores(name):
    model, query = learned(name)
    for rows in (query, torch.tensor(query)):
        probabilities = model.predict_proba(rows)
        from_scores = model.probabilities_of(model.class_scores(rows))
        assert type(from_scores) is type(probabilities)
        np.testing.assert_array_equal(from_scores, probabilities)
