"""The semi-supervised Gaussian mixture as an estimator: scikit-learn's without labels, a naive loop with them."""

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.utils.estimator_checks import parametrize_with_checks

import fewshot
from fewshot.discovery import SemiSupervisedGaussianMixture
from fewshot.discovery.mixture.start import state_from_partition
from tests.discovery.test_mixture import full_covariances, make_pool
from tests.reference import mixture_loops as loops

FORMS = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}
every_type = pytest.mark.parametrize("covariance_type", FORMS)


def start_of(features, partition, covariance_type):
    """A start from a partition, in scikit-learn's words."""
    state = state_from_partition(features, partition, 4, form=FORMS[covariance_type], covariance_floor=1e-6)
    covariances = state.covariances
    precisions = torch.linalg.inv(covariances) if covariance_type in ("full", "tied") else 1 / covariances
    return {
        "weights_init": state.log_weights.exp().numpy(),
        "means_init": state.means.numpy(),
        "precisions_init": precisions.numpy(),
    }


# scikit-learn's checks that set n_components=1 and pass two labels or more, which is an error here: a labelled class
# needs its component.
ONE_COMPONENT = dict.fromkeys(
    (
        "check_dont_overwrite_parameters",
        "check_fit2d_1feature",
        "check_fit2d_predict1d",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
    ),
    "n_components=1 with several labelled classes is an error",
)


@parametrize_with_checks(
    [SemiSupervisedGaussianMixture(), SemiSupervisedGaussianMixture(covariance_type="diag")],
    expected_failed_checks=lambda estimator: ONE_COMPONENT,
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("tol", "max_iter"), [(1e-3, 100), (0, 7), (0, 1)])
@every_type
def test_without_labels_it_is_scikit_learns(covariance_type, tol, max_iter):
    features, _, partition = make_pool(1, n=90, n_features=4)
    rows = features.numpy()
    settings = {"covariance_type": covariance_type, "tol": tol, "max_iter": max_iter}
    settings |= start_of(features, partition, covariance_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = GaussianMixture(4, **settings).fit(rows)
        ours = SemiSupervisedGaussianMixture(4, **settings).fit(rows)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    for name in ("weights_", "means_", "covariances_", "lower_bound_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-9)
    for ask in ("predict", "predict_proba", "score_samples", "score", "bic", "aic"):
        np.testing.assert_allclose(getattr(ours, ask)(rows), getattr(theirs, ask)(rows), rtol=1e-6, atol=1e-9)


@every_type
def test_labelled_rows_are_held_to_their_class(covariance_type):
    features, labels, partition = make_pool(3, n=41, separation=0.7)
    labels[20:28] = torch.tensor([0, 1]).repeat(4)  # whatever the rows look like
    model = SemiSupervisedGaussianMixture(
        4, covariance_type=covariance_type, tol=0, max_iter=5, **start_of(features, partition, covariance_type)
    )
    with pytest.warns(ConvergenceWarning, match=r"EM did not converge in max_iter=5 iterations: raise max_iter or tol"):
        model.fit(features.numpy(), labels.numpy())
    (weights, means, covariances), trace = loops.fit(
        features.numpy(), labels.tolist(), partition.tolist(), 4, form=FORMS[covariance_type], prior=None, a=1.0,
        floor=1e-6, is_hard=False, item_weights=[1.0] * 41, n_steps=5,
    )  # fmt: skip
    np.testing.assert_allclose(model.weights_, weights, rtol=1e-8)
    np.testing.assert_allclose(model.means_, means, rtol=1e-8)
    np.testing.assert_allclose(
        full_covariances(FORMS[covariance_type], model._state), covariances, rtol=1e-7, atol=1e-10
    )
    assert model.lower_bound_ == pytest.approx(trace[-2] / 41, rel=1e-9)
    is_labelled = labels.numpy() >= 0
    np.testing.assert_array_equal(model.labels_[is_labelled], labels.numpy()[is_labelled])
    assert (model.predict(features.numpy()) != model.labels_).any()  # or the labels decide nothing


@pytest.mark.parametrize("covariance_type", [*FORMS, "low-rank"])
def test_tensors_give_tensors_and_arrays_arrays(covariance_type):
    features, labels, _ = make_pool(4, n=80)
    model = SemiSupervisedGaussianMixture(4, covariance_type=covariance_type, max_iter=500)
    arrays, tensors = model.fit(features.numpy(), labels.numpy()), clone(model).fit(features, labels)
    for name in ("weights_", "means_", "covariances_", "labels_"):
        assert isinstance(getattr(tensors, name), torch.Tensor)
        np.testing.assert_allclose(getattr(tensors, name).numpy(), getattr(arrays, name))
    for ask in ("predict", "predict_proba", "score_samples"):
        array, tensor = getattr(arrays, ask)(features.numpy()), getattr(tensors, ask)(features)
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(tensor.numpy(), array)
    halves = clone(model).set_params(reg_covar=1e-3).fit(features.half(), labels)
    assert halves.predict_proba(features.half()).dtype == torch.float32
    assert tensors.bic(features) == pytest.approx(arrays.bic(features.numpy()))


def test_names_of_any_kind_and_of_what_is_found():
    features, labels, _ = make_pool(5, n=80, separation=6.0)
    names = [{0: "wren", 1: "crow"}.get(label) for label in labels.tolist()]
    model = SemiSupervisedGaussianMixture(4, reg_covar=1e-3).fit(features, names)
    assert (model.classes_.tolist(), model.n_known_) == (["crow", "wren", "new-01", "new-02"], 2)
    for row, name in enumerate(names):
        assert name in (None, model.classes_[model.labels_[row]])
    assert SemiSupervisedGaussianMixture().fit(features, names).classes_.tolist() == ["crow", "wren"]
    assert len(SemiSupervisedGaussianMixture().fit(features).means_) == 1
    assert fewshot.SemiSupervisedGaussianMixture is SemiSupervisedGaussianMixture


def test_low_rank_of_full_rank_counts_no_more_parameters_than_its_entries():
    features, labels, _ = make_pool(6, n=80, n_features=5)
    model = SemiSupervisedGaussianMixture(2, covariance_type="low-rank", rank=2, max_iter=500).fit(features, labels)
    assert model.covariances_.shape == (2, 5, 3)
    n_parameters = (model.bic(features) - model.aic(features)) / (np.log(80) - 2)
    assert n_parameters == pytest.approx(2 * (5 * 3 - 1) + 2 * 5 + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance_type": "diagonal"}, "unknown covariance_type 'diagonal': did you mean 'diag'?"),
        ({"n_components": 1}, "n_components must be at least 1 and the number of labelled classes, 2, got 1"),
        ({"n_components": 61}, "n_components=61 needs as many rows, got n_samples=60: give fewer components"),
        ({"tol": -1}, "tol must not be negative, got -1"),
        ({"reg_covar": -1}, "reg_covar must not be negative, got -1"),
        ({"max_iter": 0}, "max_iter must be at least 1, got 0"),
        ({"n_components": 3, "means_init": np.zeros((2, 3))}, "means_init must have shape (3, 3), got (2, 3)"),
        ({"covariance_type": "low-rank", "precisions_init": np.zeros(2)}, "precisions_init has no low-rank form"),
    ],
)
def test_messages(settings, message):
    features, labels, _ = make_pool(7)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        SemiSupervisedGaussianMixture(**settings).fit(features, labels)
