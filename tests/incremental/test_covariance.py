"""Streaming LDA, FeCAM and distribution calibration: exact, in any order, against loops and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

import fewshot.incremental.covariances as covariances_module
import fewshot.incremental.fecam as fecam_module
from fewshot.incremental import DistributionCalibration, FeCAM, NearestClassMean, StreamingLDA
from fewshot.incremental.covariances import ClassScatters, PooledScatter, cholesky_factor, shrunk_covariance
from fewshot.incremental.distribution_calibration import calibrated_means, nearest_base
from tests.reference import incremental_loops as loops

N_FEATURES = 4
HEADS = {
    "lda": StreamingLDA(shrinkage=0.01),
    "lda-empirical": StreamingLDA(shrinkage=0.01, prior="empirical"),
    "fecam": FeCAM(),
    "fecam-power": FeCAM(tukey=0.3, shrinkage=(1.0, 0.5), n_shrinks=1),
    "fecam-common": FeCAM(covariance="common"),
    "c-fecam": FeCAM(calibrate=True, shrinkage=(1.0, 0.0), n_shrinks=1),
    "dc": DistributionCalibration(n_samples=25),
}
every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())


def make_items(seed=0, counts=(9, 7, 2, 3, 1), n_features=N_FEATURES, n_queries=11):
    """Features ≥ 0 of classes "a", "b", …, of which the last two are new; each class with its own spread."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([chr(97 + k) for k in range(len(counts))], counts)
    centers = dict(zip(sorted(set(labels)), 6 * rng.random((len(counts), n_features)), strict=True))
    X = np.array([np.abs(centers[own] + rng.normal(size=n_features) * rng.uniform(0.5, 2)) for own in labels])
    return X, labels, 6 * rng.random((n_queries, n_features))


def is_new(y):
    return np.isin(y, sorted(set(y))[-2:])


def learned(head, X, y, new=None):
    """Base classes at once, then the others at once."""
    new = is_new(y) if new is None else new
    return clone(head).fit(X[~new], y[~new]).partial_fit(X[new], y[new])


def by_label(model, queries):
    return model.class_scores(queries)[:, np.argsort(model.classes_)]


# What all heads have in common


@every_head
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), n_parts=st.integers(2, 9))
def test_order_and_parts_do_not_matter(head, seed, n_parts):
    X, y, queries = make_items(seed)
    joint = learned(head, X, y)
    model = clone(head)
    for part in np.array_split(np.random.default_rng(seed).permutation(len(y)), n_parts):
        for base in (True, False):
            rows = part[is_new(y[[*part, *range(len(y))]])[: len(part)] != base]
            if len(rows):
                model.partial_fit(X[rows], y[rows], base=base)
    assert sorted(model.base_classes_) == ["a", "b", "c"]
    tolerance = 1e-8
    if isinstance(head, DistributionCalibration):
        tolerance = 0.05  # the solver's: it may stop a step sooner; what it is given is the same
        parts, expected = (list(m._draws(m._canonical_order())) for m in (model, joint))
        np.testing.assert_allclose(torch.cat(parts), torch.cat(expected), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(by_label(model, queries), by_label(joint, queries), rtol=tolerance, atol=tolerance)


@every_head
@pytest.mark.parametrize("label", ["b", "d", "e"])
def test_removed_class_leaves_nothing_behind(head, label):
    X, y, queries = make_items(3)
    keeps_scatter = isinstance(learned(head, X, y)._statistics, PooledScatter)
    model = learned(head, X, y)
    model.predict(queries)  # fills the tables
    model.remove_class(label)
    rest = y != label
    expected = learned(head, X[rest], y[rest], is_new(y)[rest])
    assert model.classes_.tolist() == expected.classes_.tolist()
    if keeps_scatter and label != "e":
        assert not np.allclose(model.class_scores(queries), expected.class_scores(queries))
        model.partial_fit(X[:4] + 1, ["z"] * 4)  # whose scatter joins one that still has the removed class's
        expected = learned(head, X, y).partial_fit(X[:4] + 1, ["z"] * 4)
        np.testing.assert_allclose(model._statistics.pooled(), expected._statistics.pooled())
    else:
        tolerance = 0.05 if isinstance(head, DistributionCalibration) else 1e-6
        np.testing.assert_allclose(
            model.class_scores(queries), expected.class_scores(queries), rtol=tolerance, atol=tolerance
        )


@every_head
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_state_round_trip_is_exact(head, dtype):
    X, y, queries = make_items(4)
    X, queries = X.astype(dtype), queries.astype(dtype)
    model = learned(head, X, y)
    tensors = {name: tensor.clone() for name, tensor in model.tensors().items()}
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    restored = clone(head).restore(model.classes_.tolist(), tensors, N_FEATURES, model.dtype_)
    scores = restored.class_scores(queries)
    assert scores.dtype == dtype
    np.testing.assert_array_equal(scores, model.class_scores(queries))
    more, own = X[-2:] + 1, np.array(["z", "b"])
    both = [m.partial_fit(more, own).remove_class("a").class_scores(queries) for m in (restored, model)]
    np.testing.assert_array_equal(*both)
    for name, tensor in copies.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


@every_head
def test_tables_follow_the_state(head):
    X, y, queries = make_items(5)
    model = clone(head).fit(X[~is_new(y)], y[~is_new(y)])
    for rows in ([-1], [-4], [-3, -2], [0]):  # a new class of one item, another, more of it, more of a base class
        model.predict(queries)
        model.partial_fit(X[rows] + 0.5, y[rows])
        restored = clone(head).restore(model.classes_.tolist(), model.tensors(), N_FEATURES, model.dtype_)
        np.testing.assert_allclose(model.class_scores(queries), restored.class_scores(queries), rtol=1e-9, atol=1e-12)


@every_head
def test_arrays_and_tensors_agree(head):
    X, y, queries = make_items(6)
    numbers = np.unique(y, return_inverse=True)[1]
    new = is_new(y)
    array_model = learned(head, X, numbers, new)
    tensor_model = clone(head).fit(torch.from_numpy(X[~new]), torch.from_numpy(numbers[~new]))
    tensor_model.partial_fit(torch.from_numpy(X[new]), torch.from_numpy(numbers[new]))
    scores = tensor_model.class_scores(torch.from_numpy(queries))
    assert isinstance(scores, torch.Tensor)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), array_model.class_scores(queries))
    assert tensor_model.predict(torch.from_numpy(queries)).tolist() == array_model.predict(queries).tolist()
    probabilities = array_model.predict_proba(queries)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == array_model.class_scores(queries).argmax(1)).all()


@every_head
def test_labels_of_any_kind_and_rejection(head):
    X, y, queries = make_items(7)
    names = [("pair", label) if label < "c" else label for label in y]
    model = clone(head).fit(X, names)
    assert set(model.predict(queries)) <= set(names)
    model.calibrate_rejection(X, names, n_folds=3)
    far = np.full((1, N_FEATURES), 1e-3) + np.array([[0, 900.0, 0, 0]])
    if not isinstance(head, DistributionCalibration):  # whose scores say which side, not how far
        assert model.predict(far, reject=0.1)[0] == "unknown"


@every_head
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_only_classes_that_were_learned_can_win(head, seed):
    X, y, _ = make_items(seed)
    model = learned(head, X, y).remove_class("d")
    queries = np.vstack([np.zeros(N_FEATURES), np.abs(np.random.default_rng(seed).normal(0, 50, (20, N_FEATURES)))])
    assert set(model.predict(queries)) <= {"a", "b", "c", "e"}


@every_head
@pytest.mark.parametrize("X", [np.ones((3, 2)), np.zeros((2, 3))], ids=["one point", "zeros"])
def test_degenerate_items_give_finite_scores(head, X):
    model = clone(head).fit(X, np.arange(len(X)) % 2)
    model.partial_fit(X[:1], [7])
    assert np.isfinite(model.class_scores(X)).all()


@pytest.mark.parametrize(
    "head",
    [
        StreamingLDA(),
        StreamingLDA(prior="empirical"),
        FeCAM(tukey=None),
        FeCAM(tukey=None, covariance="common"),
        FeCAM(tukey=None, calibrate=True),
        DistributionCalibration(tukey=None, n_samples=30),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(head):
    """With tukey=None: the checks' features are negative, which a power does not take."""
    check_estimator(head)


@pytest.mark.parametrize("head", [FeCAM(), DistributionCalibration(n_samples=5)], ids=["fecam", "dc"])
def test_negative_features_are_refused_and_change_nothing(head):
    X, y, queries = make_items(8)
    model = learned(head, X, y)
    before = model.class_scores(queries)
    message = r"tukey=0\.5 takes a power of the features, which must not be negative, got -0\.25: set tukey=None"
    with pytest.raises(ValueError, match=message):
        model.partial_fit(np.full((1, N_FEATURES), -0.25), ["f"])
    with pytest.raises(ValueError, match=message):
        model.predict(torch.full((1, N_FEATURES), -0.25))
    np.testing.assert_array_equal(model.class_scores(queries), before)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (StreamingLDA(shrinkage=1.5), r"shrinkage must lie in \[0, 1\], got 1\.5"),
        (StreamingLDA(prior="unifrom"), "did you mean 'uniform'"),
        (FeCAM(covariance="shared"), "unknown covariance 'shared'"),
        (FeCAM(tukey=0.0), r"tukey must be positive or None, got 0\.0"),
        (FeCAM(shrinkage=(1.0, -1.0)), r"shrinkage must not be negative, got -1\.0"),
        (FeCAM(shift_weight=2.0), r"shift_weight must lie in \[0, 1\], got 2\.0"),
        (DistributionCalibration(n_nearest=0), "n_nearest must be positive, got 0"),
        (DistributionCalibration(spread=-0.1), r"spread must not be negative, got -0\.1"),
    ],
)
def test_settings_are_checked(head, message):
    with pytest.raises(ValueError, match=message):
        head.fit(np.eye(3), [0, 1, 2])


# The scatter


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_scatter_is_exact_far_from_the_origin(offset, monkeypatch):
    monkeypatch.setattr(covariances_module, "_CHUNK", 5)
    X, y, _ = make_items(9)
    _, index = np.unique(y, return_inverse=True)
    pooled, own = (kind(N_FEATURES, torch.device("cpu")) for kind in (PooledScatter, ClassScatters))
    rows = torch.from_numpy(X + offset)
    for statistics in (pooled, own):
        statistics.add(rows[:-1], torch.from_numpy(index[:-1]), 4, base=True)
        statistics.add(rows[-1:], torch.from_numpy(index[-1:]), 5, base=False)
    groups = loops.grouped(X, y)
    tolerance = 1e-12 if offset == 0 else 1e-7  # what rounding the items has left
    for statistics in (pooled, own):
        np.testing.assert_allclose(statistics.pooled(), loops.pooled_covariance(groups), rtol=tolerance, atol=tolerance)
    for k, items in enumerate(groups.values()):
        expected = loops.scatter(items) / (len(items) - 1) if len(items) > 1 else loops.pooled_covariance(groups)
        np.testing.assert_allclose(own.covariance(k, own.pooled()), expected, rtol=tolerance, atol=tolerance)


def test_base_scatters_lend_the_covariance_within_base_classes():
    X, y, _ = make_items(9)
    statistics = ClassScatters(N_FEATURES, torch.device("cpu"), base_only=True)
    index = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    for base in (True, False):
        rows = torch.from_numpy(np.flatnonzero(is_new(y) != base))
        statistics.add(torch.from_numpy(X)[rows], index[rows], 3 if base else 5, base=base)
    base_groups = loops.grouped(X[~is_new(y)], y[~is_new(y)])
    np.testing.assert_allclose(statistics.pooled(), loops.pooled_covariance(base_groups))


@pytest.mark.parametrize("excess", [0.0, 2.3e-16], ids=["exactly", "to rounding"])
def test_singular_covariance_is_refused(excess):
    matrix = torch.ones(2, 2, dtype=torch.float64)
    matrix[1, 1] += excess
    assert bool(torch.linalg.cholesky_ex(matrix).info) == (excess == 0)
    with pytest.raises(ValueError, match="the covariance of 2 features is singular and cannot be inverted: do so"):
        cholesky_factor(matrix, "do so")


# Linear discriminant analysis


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), shrinkage=st.sampled_from([1e-4, 0.1, 0.7, 1.0]), empirical=st.booleans())
def test_lda_equals_loops(seed, shrinkage, empirical):
    X, y, queries = make_items(seed)
    prior = "empirical" if empirical else "uniform"
    found = by_label(learned(StreamingLDA(shrinkage, prior), X, y), queries)
    expected = loops.lda_scores(X, y, queries, shrinkage, empirical=empirical)
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-7, atol=1e-8)  # up to a term of the row


@pytest.mark.parametrize("shrinkage", [0.0, 1e-4, 0.3])
def test_lda_equals_scikit_learn(shrinkage):
    """Theirs divides the scatter by n, ours by n - C; the shrinkage is relative to it, so that the ratio is all."""
    X, y, queries = make_items(10, counts=(12, 12, 12), n_features=5)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(3, 1 / 3)).fit(X, y)
    ours = StreamingLDA(shrinkage).fit(X, y)
    expected = theirs.decision_function(queries) * (36 - 3) / 36
    np.testing.assert_allclose(np.diff(ours.class_scores(queries)), np.diff(expected), rtol=1e-7)
    assert (ours.predict(queries) == theirs.predict(queries)).all()


@pytest.mark.parametrize("shrinkage", [1e-3, 0.3])
def test_lda_equals_scikit_learn_on_unequal_counts(shrinkage):
    X, y, queries = make_items(11, counts=(9, 7, 8, 3, 2))  # theirs warns of a class of one item
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    log_priors = np.log(theirs.priors_)
    expected = (theirs.decision_function(queries) - log_priors) * (len(X) - 5) / len(X)
    ours = [learned(StreamingLDA(shrinkage, prior), X, y) for prior in ("uniform", "empirical")]
    uniform, empirical = (by_label(model, queries) for model in ours)
    np.testing.assert_allclose(np.diff(uniform), np.diff(expected), rtol=1e-7)
    np.testing.assert_allclose(np.diff(empirical), np.diff(expected + log_priors), rtol=1e-7)


def test_lda_score_is_a_distance_and_moves_with_the_features():
    X, y, queries = make_items(12)
    model = learned(StreamingLDA(), X, y)
    means = np.array([X[y == label].mean(0) for label in "abcde"])
    scores = model.class_scores(means)
    np.testing.assert_allclose(np.diag(scores), 0, atol=1e-9)
    assert (scores <= 1e-9).all()
    np.testing.assert_allclose(
        learned(StreamingLDA(), X - 40, y).class_scores(queries - 40), model.class_scores(queries), rtol=1e-7
    )
    np.testing.assert_allclose(
        learned(StreamingLDA(), 9 * X, y).class_scores(9 * queries), model.class_scores(queries), rtol=1e-7
    )


def test_lda_score_at_a_mean_is_the_logarithm_of_the_prior():
    X, y, _ = make_items(12)
    means = np.array([X[y == label].mean(0) for label in "abcde"])
    scores = learned(StreamingLDA(prior="empirical"), X, y).class_scores(means)
    np.testing.assert_allclose(np.diag(scores), np.log(np.array([9, 7, 2, 3, 1]) / 22), rtol=1e-9)


def test_lda_of_one_shot_classes_is_the_nearest_mean():
    X, _, queries = make_items(13)
    model = StreamingLDA().fit(X[:4], [0, 1, 2, 3])
    expected = NearestClassMean(metric="euclidean").fit(X[:4], [0, 1, 2, 3]).class_scores(queries)
    np.testing.assert_allclose(model.class_scores(queries), expected)


def test_lda_without_shrinkage_needs_more_items_than_features():
    X, y, queries = make_items(14, counts=(3, 2), n_features=7)
    with pytest.raises(ValueError, match=r"covariance of 7 features is singular .* set shrinkage above 0"):
        StreamingLDA(0.0).fit(X, y).predict(queries)
    assert np.isfinite(StreamingLDA().fit(X, y).class_scores(queries)).all()


def test_published_slda_has_the_defects_that_this_one_has_not():
    rng = np.random.default_rng(15)
    labels = np.repeat(np.arange(6), 5)
    X = 3 + 2 * rng.normal(size=(6, N_FEATURES))[labels] + 0.5 * rng.normal(size=(30, N_FEATURES))
    order = rng.permutation(30)
    first, again = (loops.PublishedSLDA(N_FEATURES, 7) for _ in range(2))
    for row, turned in zip(range(30), order, strict=True):
        first.fit_one(X[row], labels[row])
        again.fit_one(X[turned], labels[turned])
    # The order matters, the covariance is too large, and class 6, of which nothing was seen, wins near the origin.
    true = loops.pooled_covariance(loops.grouped(X, labels))
    assert np.abs(first.sigma - again.sigma).max() > 0.05 * np.abs(first.sigma).max()
    assert np.trace(first.sigma) > 3 * np.trace(true)
    near = 0.01 * rng.normal(size=(9, N_FEATURES))
    assert (first.scores(near).argmax(1) == 6).all()
    ours, turned = (StreamingLDA().fit(X[rows], labels[rows]) for rows in (range(30), order))
    np.testing.assert_allclose(ours._statistics.pooled(), true, rtol=1e-12)
    np.testing.assert_allclose(ours.class_scores(near), turned.class_scores(near), rtol=1e-9)
    assert ours.class_scores(near).shape == (9, 6)


# FeCAM


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    tukey=st.sampled_from([None, 0.5, 0.3]),
    shrinkage=st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.3, 0.1)]),
    n_shrinks=st.integers(1, 2),
    kind=st.sampled_from(["per-class", "common", "calibrated"]),
)
def test_fecam_equals_loops(seed, tukey, shrinkage, n_shrinks, kind):
    X, y, queries = make_items(seed)
    covariance = "common" if kind == "common" else "per-class"
    head = FeCAM(covariance, tukey, shrinkage, n_shrinks, calibrate=kind == "calibrated")
    expected = loops.fecam_scores(
        X,
        y,
        queries,
        tukey=tukey,
        shrinkage=shrinkage,
        n_shrinks=n_shrinks,
        common=kind == "common",
        new=("d", "e") if kind == "calibrated" else (),
    )
    np.testing.assert_allclose(by_label(learned(head, X, y), queries), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("head", [FeCAM(), FeCAM(calibrate=True)], ids=["fecam", "c-fecam"])
def test_fecam_in_small_parts(head, monkeypatch):
    X, y, queries = make_items(16)
    whole = learned(head, X, y).class_scores(queries)
    monkeypatch.setattr(fecam_module, "_MAX_ENTRIES", 3 * N_FEATURES)
    monkeypatch.setattr(fecam_module, "_MAX_COVARIANCES", 2)
    np.testing.assert_allclose(learned(head, X, y).class_scores(queries), whole, rtol=1e-12)


def test_fecam_calibrates_the_means_under_a_common_covariance_too():
    X, y, queries = make_items(17)
    kept, moved = (by_label(learned(FeCAM("common", calibrate=on), X, y), queries) for on in (False, True))
    np.testing.assert_array_equal(kept[:, :3], moved[:, :3])
    assert (np.abs(kept[:, 3:] - moved[:, 3:]).max(0) > 1e-3).all()


@pytest.mark.parametrize("covariance", ["per-class", "common"])
@pytest.mark.parametrize("one_shot", [True, False])
def test_fecam_of_identity_covariance_is_the_nearest_mean_of_unit_vectors(covariance, one_shot):
    """P27: classes of one item each, or a shrinkage beyond all bounds."""
    X, y, queries = make_items(18)
    if one_shot:
        X, y = X[:5], np.arange(5)
    shrinkage = (1.0, 1.0) if one_shot else (1e12, 0.0)
    model = FeCAM(covariance, tukey=None, shrinkage=shrinkage).fit(X, y)
    plain = NearestClassMean().fit(X, y)
    np.testing.assert_allclose(model.class_scores(queries), 2 * plain.class_scores(queries) - 2, atol=1e-8)
    assert (model.predict(queries) == plain.predict(queries)).all()


@pytest.mark.parametrize("covariance", ["per-class", "common"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_fecam_distance_is_not_negative_and_zero_at_the_prototype(covariance, seed):
    """P28."""
    X, y, queries = make_items(seed)
    model = FeCAM(covariance, tukey=None).fit(X, y)
    prototypes = np.array([X[y == label].mean(0) for label in model.classes_])
    scores = model.class_scores(np.vstack([queries, prototypes]))
    assert (scores <= 0).all()
    np.testing.assert_allclose(np.diag(scores[len(queries) :]), 0, atol=1e-12)


def test_fecam_classes_do_not_touch_each_other():
    """Bit by bit, apart from a class of one item, which borrows."""
    X, y, queries = make_items(19)
    few, many = FeCAM(), FeCAM()
    few.fit(X[~is_new(y)], y[~is_new(y)])
    many.fit(X[~is_new(y)], y[~is_new(y)]).partial_fit(X[is_new(y)], y[is_new(y)])
    np.testing.assert_array_equal(many.class_scores(queries)[:, :3], few.class_scores(queries))
    many.remove_class("e").remove_class("d")
    np.testing.assert_array_equal(many.class_scores(queries), few.class_scores(queries))


@pytest.mark.parametrize("covariance", ["per-class", "common"])
def test_fecam_without_base_classes_calibrates_nothing(covariance):
    X, y, queries = make_items(20)
    found, plain = (FeCAM(covariance, calibrate=on).partial_fit(X, y).class_scores(queries) for on in (True, False))
    np.testing.assert_array_equal(found, plain)


def test_fecam_base_class_of_one_item_lends_what_it_borrows():
    """Its covariance is that within all classes, so that any class changes what new ones are lent."""
    X, y, queries = make_items(20)
    base = np.isin(y, ["a", "e"])
    head = FeCAM(calibrate=True)
    model = clone(head).fit(X[base], y[base])
    for label in ("b", "c", "d"):
        model.partial_fit(X[y == label], y[y == label])
        model.predict(queries)
    expected = loops.fecam_scores(X, y, queries, tukey=0.5, shrinkage=(1.0, 1.0), n_shrinks=2, new=("b", "c", "d"))
    np.testing.assert_allclose(by_label(model, queries), expected, rtol=1e-7, atol=1e-9)


def test_fecam_of_equal_features_asks_for_less_off_the_diagonal():
    X = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    with pytest.raises(ValueError, match=r"singular .* set shrinkage to \(1, 0\)"):
        FeCAM(tukey=None).fit(X, [0, 0, 0]).predict(X)
    assert np.isfinite(FeCAM(tukey=None, shrinkage=(1.0, 0.0)).fit(X, [0, 0, 0]).class_scores(X)).all()


def test_shrinking_twice_by_one_quadruples_the_diagonal():
    sigma = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
    twice = shrunk_covariance(shrunk_covariance(sigma, (1.0, 1.0)), (1.0, 1.0))
    assert float(twice.diagonal().mean() / sigma.diagonal().mean()) == pytest.approx(4)


# Distribution calibration


def base_moments(X, y, base):
    groups = loops.grouped(X, y)
    return [loops.mean(groups[b]) for b in base], [loops.scatter(groups[b]) / (len(groups[b]) - 1) for b in base]


@pytest.mark.parametrize("n_nearest", [1, 2, 9])
def test_dc_draws_have_the_moments_of_the_loops(n_nearest):
    X, y, _ = make_items(21, n_features=3)
    model = learned(DistributionCalibration(n_nearest, 0.4, 60_000, tukey=0.5), X, y)
    base_means, base_covariances = base_moments(np.sqrt(X), y, "abc")
    order = model._canonical_order()
    assert sorted(order[:3]) == [0, 1, 2]
    for position, rows in zip(order, model._draws(order), strict=True):
        label = model.classes_[position]
        if label in "abc":
            assert len(rows) == 60_000
            expected = [(base_means[position], base_covariances[position])]
        else:
            shots = torch.from_numpy(np.sqrt(X[y == label]))
            assert {tuple(row) for row in rows[: len(shots)].tolist()} == {tuple(row) for row in shots.tolist()}
            expected = [
                loops.calibrated_gaussian(np.array(shot), base_means, base_covariances, n_nearest, 0.4)
                for shot in rows[: len(shots)].tolist()
            ]
            rows = rows[len(shots) :]
        for part, (center, covariance) in zip(torch.chunk(rows, len(expected)), expected, strict=True):
            assert len(part) == 60_000 // len(expected)
            np.testing.assert_allclose(part.mean(0), center, atol=0.03)
            np.testing.assert_allclose(np.cov(part.T), covariance, atol=0.05)


def test_dc_without_spread_and_covariances_draws_the_calibrated_mean():
    """P29."""
    _, _, shots = make_items(22)
    base = np.array([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 9.0, 9.0]])
    model = DistributionCalibration(n_nearest=2, spread=0.0, n_samples=12, tukey=None)
    model.fit(np.repeat(base, 3, axis=0), np.repeat([0, 1, 2], 3)).partial_fit(shots[:2], [3, 3])
    order = model._canonical_order()
    parts = dict(zip(order, model._draws(order), strict=True))
    for position in range(3):
        np.testing.assert_array_equal(parts[position], np.tile(base[position], (12, 1)))
    drawn = parts[3][2:]
    centers = [loops.calibrated_gaussian(shot.numpy(), base, np.zeros((3, 4, 4)), 2, 0.0)[0] for shot in parts[3][:2]]
    np.testing.assert_allclose(drawn, np.repeat(centers, 6, axis=0), rtol=1e-12)
    shot = torch.from_numpy(shots)
    near = nearest_base(shot, torch.from_numpy(base), 2)
    expected = [loops.calibrated_gaussian(row, base, np.zeros((3, 4, 4)), 2, 0.0)[0] for row in shots]
    np.testing.assert_allclose(calibrated_means(shot, torch.from_numpy(base), near), expected)


@pytest.mark.parametrize("counts", [(6, 5), (6, 5, 4, 3)], ids=["two", "four"])
def test_dc_is_the_logistic_regression_of_its_draws(counts):
    X, y, queries = make_items(23, counts=counts)
    new = y == "b"
    model = DistributionCalibration(n_samples=30).fit(X[~new], y[~new]).partial_fit(X[new], y[new])
    order = model._canonical_order()
    parts = list(model._draws(order))
    names = np.repeat(model.classes_[order], [len(part) for part in parts])
    expected = LogisticRegression(max_iter=1000).fit(torch.cat(parts).numpy(), names)
    found = model.predict_proba(queries)[:, np.argsort(model.classes_)]
    np.testing.assert_allclose(found, expected.predict_proba(np.sqrt(queries)), rtol=1e-3, atol=1e-5)
    assert model.n_iter_ >= 1


def test_dc_draws_follow_their_seed():
    X, y, queries = make_items(24)
    head = DistributionCalibration(n_samples=9)
    same, other = (learned(clone(head).set_params(random_state=seed), X, y).class_scores(queries) for seed in (0, 1))
    np.testing.assert_array_equal(learned(head, X, y).class_scores(queries), same)
    assert not np.allclose(same, other)
    unseeded = learned(clone(head).set_params(random_state=None), X, y)
    np.testing.assert_array_equal(unseeded.class_scores(queries), unseeded.class_scores(queries))
    restored = clone(head).restore(unseeded.classes_.tolist(), unseeded.tensors(), N_FEATURES, unseeded.dtype_)
    np.testing.assert_array_equal(restored.class_scores(queries), unseeded.class_scores(queries))


def test_dc_of_more_shots_than_draws_gives_each_one():
    X, y, _ = make_items(25)
    model = learned(DistributionCalibration(n_samples=2), X, y)
    order = model._canonical_order()
    sizes = dict(zip(model.classes_[order], (len(part) for part in model._draws(order)), strict=True))
    assert sizes == {"a": 2, "b": 2, "c": 2, "d": 3 + 3, "e": 1 + 2}


def test_dc_without_base_classes_spreads_about_its_shots():
    X, y, queries = make_items(26)
    model = DistributionCalibration(spread=0.0, n_samples=4).partial_fit(X[:3], y[[0, 10, 20]])
    order = model._canonical_order()
    for part in model._draws(order):
        np.testing.assert_array_equal(part[1:], part[:1].expand(4, -1))
    assert len(model.base_classes_) == 0
    assert model.class_scores(queries).shape == (len(queries), 3)


def test_dc_keeps_covariances_of_base_classes_and_shots_of_the_others():
    X, y, _ = make_items(27)
    tensors = learned(HEADS["dc"], X, y).tensors()
    assert tensors["scatters"].shape == (3, N_FEATURES, N_FEATURES)
    np.testing.assert_allclose(tensors["support"], np.sqrt(X[is_new(y)]))


def test_dc_puts_base_classes_first_and_each_kind_in_order_of_means():
    model = DistributionCalibration(tukey=None).fit([[5.0], [3.0]], ["a", "b"]).partial_fit([[4.0], [2.0]], ["c", "d"])
    assert model._canonical_order() == [1, 0, 3, 2]
