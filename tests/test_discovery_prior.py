"""The space and the prior that labels set, and whether they agree with the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.decomposition import PCA

from fewshot.discovery.evidence import TwoCovariance, log_split_ratio
from fewshot.discovery.niw import NIWPrior
from fewshot.discovery.parting import part_in_two
from fewshot.discovery.power import find_power, hidings, two_covariance
from fewshot.discovery.prior import EvidenceCheck, check_evidence, niw_prior
from fewshot.discovery.space import fit_space, ledoit_wolf, principal_space, project, round_within
from fewshot.discovery.statistics import cluster_statistics
from tests.discovery_mixtures import anisotropic, separated

seeds = st.integers(0, 2**20)


@given(seeds)
@settings(max_examples=20)
def test_principal_directions_are_those_of_scikit_learn(seed):
    rows = np.random.default_rng(seed).normal(size=(40, 7)) * np.arange(1, 8)
    space = principal_space(torch.from_numpy(rows), 3, normalize=False)
    expected = PCA(3).fit(rows)
    np.testing.assert_allclose(space.variances, expected.explained_variance_ * 39 / 40, rtol=1e-9)
    found = project(space, torch.from_numpy(rows), normalize=False).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected.transform(rows)), atol=1e-9)


@given(seeds, st.floats(-20, 20))
@settings(max_examples=20)
def test_unit_rows_do_not_depend_on_their_length(seed, exponent):
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(30, 5))).float()
    space = principal_space(rows, 3)
    torch.testing.assert_close(project(space, rows * 10.0**exponent), project(space, rows), rtol=1e-4, atol=1e-5)


@given(seeds)
@settings(max_examples=20)
def test_shrinkage_is_that_of_scikit_learn(seed):
    rows = np.random.default_rng(seed).normal(size=(25, 6)) * np.arange(1, 7)
    expected, _ = sklearn_ledoit_wolf(rows, assume_centered=True)
    np.testing.assert_allclose(ledoit_wolf(torch.from_numpy(rows), 25.0), expected, rtol=1e-9)


@given(seeds)
@settings(max_examples=20)
def test_the_space_is_round_within_classes_and_diagonal_over_all_rows(seed):
    rows, _, labels = separated(seed, n_features=4, n_known=3, n_new=1, distance=5.0)
    rows = (rows - rows.mean(0)) @ torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 4)))
    basis, variances = round_within(rows, labels, 3)
    mapped = rows @ basis
    residuals = torch.cat([rows[labels == k] - rows[labels == k].mean(0) for k in range(3)])
    within = ledoit_wolf(residuals, len(residuals) - 3)
    torch.testing.assert_close(basis.mT @ within @ basis, torch.eye(4).double(), atol=1e-4, rtol=0)
    total = mapped.mT @ mapped / len(mapped)
    torch.testing.assert_close(total, torch.diag(variances), rtol=1e-6, atol=1e-6 * float(variances[0]))
    assert (variances[:-1] >= variances[1:]).all()


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20])
def test_spaces_of_degenerate_pools_are_finite(scale):
    rows = torch.full((12, 5), 1.0) * scale
    labels = torch.tensor([0, 0, 1] + [-1] * 9)
    space = fit_space(rows, labels, 2)
    assert space.basis.shape == (5, 1)
    assert project(space, rows).isfinite().all()
    assert all(part.isfinite().all() for part in space)


# 12 settings: features as they are or reduced, and items per class.
SETTINGS = [
    (n_features, n_dims, n)
    for n in (30, 150, 600)
    for n_features, n_dims in ((64, 64), (768, 32), (768, 64), (768, 128))
]
_pools: dict[tuple[int, int], tuple[torch.Tensor, ...]] = {}


def _setting(n_features, n_dims, n):
    """Return rows of ten classes in a space of ``n_dims``, classes and labels of half of the rows of all classes."""
    if (n_features, n) not in _pools:
        rows, truth, labels = anisotropic(0, n_classes=10, n_rows=10 * n, n_features=n_features, n_known=10)
        _pools[n_features, n] = (project(principal_space(rows, 128), rows), truth, labels)
    projected, truth, labels = _pools[n_features, n]
    return projected[:, :n_dims], truth, labels


def _apart_and_whole(rows, truth, evidence):
    """Count the true pairs (of 9) that stay apart, and the true classes (of 10) that stay whole."""
    classes = cluster_statistics(rows, truth, 10)
    pairs = log_split_ratio(evidence, classes.at(torch.arange(9)), classes.at(torch.arange(1, 10)))
    parts = part_in_two(rows, truth, torch.zeros(len(rows), dtype=torch.bool), 10, evidence)
    return int((pairs > 0).sum()), int((parts.log_ratio < 0).sum())


@pytest.mark.parametrize(("n_features", "n_dims", "n"), SETTINGS)
def test_true_pairs_stay_apart_and_true_classes_whole(n_features, n_dims, n):
    projected, truth, labels = _setting(n_features, n_dims, n)
    assert _apart_and_whole(projected, truth, niw_prior(projected, labels, 10)) == (9, 10)
    projected = projected - projected.mean(0)
    power = find_power(projected, labels, 10, generator=torch.Generator().manual_seed(0), n_repeats=1).power
    basis, variances = round_within(projected, labels, 10)
    assert _apart_and_whole(projected @ basis.float(), truth, two_covariance(variances, power)) == (9, 10)


@pytest.mark.parametrize(("n_features", "n_dims", "n"), [(64, 64, 150), (768, 128, 600)])
def test_the_prior_of_the_released_code_merges_true_pairs_and_the_check_says_so(n_features, n_dims, n):
    projected, truth, labels = _setting(n_features, n_dims, n)
    mean = projected.double().mean(0)
    released = NIWPrior(mean, *(torch.tensor(v).double() for v in (1e-4, 769.0)), 0.005 * torch.eye(n_dims).double())
    assert _apart_and_whole(projected, truth, released)[0] == 0
    warning = check_evidence(projected, labels, 10, released).warning
    assert warning is not None
    assert warning.startswith(
        "the model would merge 10 of 10 pairs of nearest labelled classes, so it will find too few"
    )


def test_checks_say_what_is_wrong_and_what_to_do():
    assert EvidenceCheck(8, 10, 3, 10).warning is None
    assert EvidenceCheck(7, 10, 10, 10).warning == (
        "the model would part 3 of 10 labelled classes in two, so it will find too many classes: lower power, or give "
        "fewer n_dims"
    )
    assert EvidenceCheck(10, 10, 2, 10).warning == (
        "the model would merge 8 of 10 pairs of nearest labelled classes, so it will find too few classes: raise "
        "power, or use features that tell these classes apart"
    )


def test_checks_need_classes_of_four_items_and_a_second_class():
    rows = torch.randn((7, 2), generator=torch.Generator().manual_seed(0))
    assert check_evidence(rows, torch.tensor([0, 0, 0, -1, -1, -1, -1]), 1, two_covariance(torch.ones(2) * 5)) == (
        0,
        0,
        0,
        0,
    )


def test_hiding_halves_hides_every_class_once_and_numbers_the_kept_ones_first():
    rows, _, labels = separated(1, n_features=3, n_known=5, n_new=1)
    hidden = hidings(rows - rows.mean(0), labels, 5, n_repeats=3, generator=torch.Generator().manual_seed(0))
    assert len(hidden) == 6
    for first, second in zip(hidden[::2], hidden[1::2], strict=True):
        kept = [set(labels[hiding.labels >= 0].tolist()) for hiding in (first, second)]
        assert [len(classes) for classes in kept] == [3, 3]
        assert len(kept[0] & kept[1]) == 1  # of five classes two are hidden at a time
        for hiding in (first, second):
            assert torch.equal(hiding.all_labels >= 0, labels >= 0)
            is_kept = hiding.labels >= 0
            assert torch.equal(hiding.all_labels[is_kept], hiding.labels[is_kept])
            assert hiding.labels.unique().tolist() == [-1, 0, 1, 2]
            assert (hiding.all_labels[~is_kept & (labels >= 0)] >= hiding.n_kept).all()


def test_a_power_at_which_hidden_classes_are_found_once_is_the_answer():
    rows, _, labels = separated(2, n_features=4, n_known=4, n_new=3)
    found = find_power(rows - rows.mean(0), labels, 4, generator=torch.Generator().manual_seed(0), guess=1.0)
    assert found.power == 1.0
    assert found.curve == [(1.0, 0.0)]


def test_power_is_low_where_known_classes_have_two_modes():
    """Each class is two clusters three deviations apart: at full power a hidden class would be found twice."""
    rng = np.random.default_rng(3)
    rows, truth, labels = separated(3, n_features=6, n_known=6, n_new=4, distance=40.0)
    offset = torch.from_numpy(rng.normal(size=(10, 6)))
    offset *= 2.5 / offset.norm(dim=1, keepdim=True)
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], size=len(rows)))
    rows = rows + sign[:, None] * offset[truth]
    found = find_power(
        rows - rows.mean(0), labels, 6, generator=torch.Generator().manual_seed(0), n_repeats=1, guess=1.0
    )
    assert found.curve[0][1] > 0.3
    assert found.power < 0.8
    assert all(value > 0 for power, value in found.curve if power > 2 * found.power)


def test_two_covariance_takes_what_is_above_the_spread_within():
    model = two_covariance(torch.tensor([3.0, 1.0, 0.5]), 0.3)
    assert isinstance(model, TwoCovariance)
    assert (model.between.tolist(), model.power) == ([2.0, 0.0, 0.0], 0.3)
