"""Statistics of clusters, and the evidence for one of them or two."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.discovery.niw import NIWPrior, log_marginal_likelihood, posterior
from fewshot.discovery.split_merge.evidence import (
    TwoCovariance,
    collapsed_objective,
    log_merge_ratio,
    log_split_ratio,
)
from fewshot.discovery.statistics import ClusterStatistics, add_statistics, cluster_statistics
from tests.reference.evidence_loops import niw_log_evidence, two_covariance_log_evidence

seeds = st.integers(0, 2**20)


def _rows(rng, n, d):
    return rng.normal(size=(n, d)) * rng.uniform(0.3, 2, size=d) + rng.normal(size=d)


def _prior(rng, d):
    root = rng.normal(size=(d, d + 2))
    return rng.normal(size=d), rng.uniform(0.05, 3), d + rng.uniform(0.5, 9), root @ root.T + 0.1 * np.eye(d)


def _niw(mean, strength, dof, scale):
    return NIWPrior(*(torch.as_tensor(part, dtype=torch.float64) for part in (mean, strength, dof, scale)))


def _models(rng, d):
    return (
        _niw(*_prior(rng, d)),
        TwoCovariance(torch.from_numpy(rng.normal(size=d)), torch.from_numpy(rng.uniform(0, 5, size=d)), 0.6),
    )


def _statistics(rows, n_clusters=1, labels=None):
    owners = torch.zeros(len(rows), dtype=torch.int64) if labels is None else torch.as_tensor(labels)
    return cluster_statistics(torch.from_numpy(rows), owners, n_clusters)


@given(seeds)
def test_statistics_are_those_of_numpy_and_add_over_parts(seed):
    rng = np.random.default_rng(seed)
    n, d, k = 23, 4, 3
    rows, labels = 1e3 + _rows(rng, n, d), rng.integers(-1, k, size=n)
    whole = _statistics(rows, k, labels)
    for cluster in range(k):
        own = rows[labels == cluster]
        assert whole.counts[cluster] == len(own)
        if len(own):
            np.testing.assert_allclose(whole.means[cluster], own.mean(0), rtol=1e-12)
            np.testing.assert_allclose(whole.scatters[cluster], (own - own.mean(0)).T @ (own - own.mean(0)), atol=1e-9)
    for size in (1, 7, n):
        total = _statistics(rows[:0], k, labels[:0])
        for start in range(0, n, size):
            total = add_statistics(total, _statistics(rows[start : start + size], k, labels[start : start + size]))
        for part, expected in zip(total, whole, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-9)


def test_statistics_without_scatters_add_too():
    first = ClusterStatistics(torch.tensor([2.0]), torch.tensor([[1.0]]))
    assert add_statistics(first, first).scatters is None


@given(seeds, st.integers(1, 6), st.integers(0, 9))
def test_niw_evidence_is_the_chain_of_student_densities_in_any_order(seed, d, n):
    rng = np.random.default_rng(seed)
    rows, prior = _rows(rng, n, d), _prior(rng, d)
    found = float(log_marginal_likelihood(_niw(*prior), _statistics(rows))[0])
    assert found == pytest.approx(niw_log_evidence(rows, *prior), rel=1e-9, abs=1e-8)
    assert found == pytest.approx(niw_log_evidence(rng.permutation(rows), *prior), rel=1e-9, abs=1e-8)


@given(seeds, st.integers(1, 9))
def test_niw_evidence_of_one_feature_is_the_normal_inverse_gamma_one(seed, n):
    rng = np.random.default_rng(seed)
    rows, (mean, strength, dof, scale) = _rows(rng, n, 1), _prior(rng, 1)
    a, b = dof / 2, float(scale[0, 0]) / 2
    # Murphy 2007, Eqs. 198-201.
    x = rows[:, 0]
    after = b + 0.5 * ((x - x.mean()) ** 2).sum() + strength * n * (x.mean() - mean[0]) ** 2 / (2 * (strength + n))
    expected = (
        math.lgamma(a + n / 2)
        - math.lgamma(a)
        + a * math.log(b)
        - (a + n / 2) * math.log(after)
        + 0.5 * math.log(strength / (strength + n))
        - n / 2 * math.log(2 * math.pi)
    )
    assert float(_niw(mean, strength, dof, scale).log_evidence(_statistics(rows))[0]) == pytest.approx(
        expected, rel=1e-9
    )


def test_niw_evidence_is_the_mean_likelihood_under_the_prior():
    rng = np.random.default_rng(0)
    rows, dof, strength = np.array([[0.4], [-0.3]]), 5.0, 0.7
    variance = 2.0 / rng.chisquare(dof, size=400_000)
    mean = rng.normal(size=variance.shape) * np.sqrt(variance / strength)
    likelihood = np.exp(-0.5 * ((rows - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(0))
    found = _niw(np.zeros(1), strength, dof, 2 * np.eye(1)).log_evidence(_statistics(rows)).exp()
    assert float(found[0]) == pytest.approx(likelihood.mean(), abs=5 * likelihood.std() / 400_000**0.5)


@given(seeds, st.integers(1, 5))
def test_niw_evidence_changes_by_the_volume_under_an_affine_map(seed, d):
    rng = np.random.default_rng(seed)
    rows, (mean, strength, dof, scale) = _rows(rng, 11, d), _prior(rng, d)
    a, b = rng.normal(size=(d, d)) + 2 * np.eye(d), rng.normal(size=d)
    before = _niw(mean, strength, dof, scale).log_evidence(_statistics(rows))
    after = _niw(a @ mean + b, strength, dof, a @ scale @ a.T).log_evidence(_statistics(rows @ a.T + b))
    assert float(after[0]) == pytest.approx(float(before[0]) - 11 * np.linalg.slogdet(a)[1], rel=1e-7, abs=1e-6)


def test_posterior_needs_scatters():
    statistics = ClusterStatistics(torch.tensor([2.0]), torch.tensor([[1.0]]))
    with pytest.raises(
        ValueError, match="the posterior of a covariance needs scatters: gather the statistics with them"
    ):
        posterior(_niw(np.zeros(1), 1.0, 3.0, np.eye(1)), statistics)


@given(seeds, st.integers(1, 6), st.integers(1, 9))
def test_two_covariance_evidence_is_that_of_one_joint_gaussian(seed, d, n):
    rng = np.random.default_rng(seed)
    rows, mean, between = _rows(rng, n, d), rng.normal(size=d), rng.uniform(0, 5, size=d)
    model = TwoCovariance(torch.from_numpy(mean), torch.from_numpy(between), 1.0)
    found = float(model.log_evidence(_statistics(rows))[0])
    assert found == pytest.approx(two_covariance_log_evidence(rows, mean, between), rel=1e-9, abs=1e-8)


@given(seeds, st.integers(1, 4))
def test_power_counts_each_item_so_many_times(seed, times):
    rng = np.random.default_rng(seed)
    rows = _rows(rng, 5, 3)
    model = TwoCovariance(torch.zeros(3).double(), torch.from_numpy(rng.uniform(0, 5, size=3)), 1.0)
    repeated = model.log_evidence(_statistics(np.repeat(rows, times, axis=0)))
    torch.testing.assert_close(model._replace(power=float(times)).log_evidence(_statistics(rows)), repeated)


@given(seeds, st.floats(0.1, 20))
def test_ratios_are_mirror_images_and_what_the_objective_changes_by(seed, concentration):
    rng = np.random.default_rng(seed)
    rows, labels = _rows(rng, 17, 3), rng.permutation(np.arange(17) % 3)
    three = _statistics(rows, 3, labels)
    two = _statistics(rows, 2, np.minimum(labels, 1))
    for model in _models(rng, 3):
        first, second = three.at(torch.tensor([1])), three.at(torch.tensor([2]))
        split = log_split_ratio(model, first, second, concentration=concentration)
        torch.testing.assert_close(log_merge_ratio(model, first, second, concentration=concentration), -split)
        torch.testing.assert_close(log_split_ratio(model, second, first, concentration=concentration), split)
        gain = collapsed_objective(model, three, concentration=concentration) - collapsed_objective(
            model, two, concentration=concentration
        )
        torch.testing.assert_close(gain, split[0], rtol=1e-9, atol=1e-8)


def test_an_empty_cluster_adds_nothing_to_the_objective():
    rng = np.random.default_rng(0)
    rows, labels = _rows(rng, 9, 2), np.array([0, 2] * 4 + [2])
    for model in _models(rng, 2):
        whole = collapsed_objective(model, _statistics(rows, 4, labels), concentration=3.0)
        torch.testing.assert_close(
            whole, collapsed_objective(model, _statistics(rows, 2, labels // 2), concentration=3.0)
        )
