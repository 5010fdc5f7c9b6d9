"""The space and the prior that labels set, and whether they agree with the labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.decomposition import PCA

from fewshot.discovery.niw import NIWPrior
from fewshot.discovery.space import fit_space, ledoit_wolf, principal_space, project, whiten_within, within_covariance
from fewshot.discovery.split_merge import evidence_power as power_module
from fewshot.discovery.split_merge.evidence import TwoCovariance, log_split_ratio
from fewshot.discovery.split_merge.evidence_check import EvidenceCheck, check_evidence, niw_prior
from fewshot.discovery.split_merge.evidence_power import (
    _crossing,
    find_power,
    held_out_classes,
    surplus,
    two_covariance,
)
from fewshot.discovery.split_merge.splits import propose_splits
from fewshot.discovery.statistics import cluster_statistics
from tests.kits.mixtures import anisotropic, separated

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
    basis, variances = whiten_within(rows, labels, 3)
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
    parts = propose_splits(rows, truth, torch.zeros(len(rows), dtype=torch.bool), 10, evidence)
    return int((pairs > 0).sum()), int((parts.log_ratio < 0).sum())


@pytest.mark.parametrize(("n_features", "n_dims", "n"), SETTINGS)
def test_true_pairs_stay_apart_and_true_classes_whole(n_features, n_dims, n):
    projected, truth, labels = _setting(n_features, n_dims, n)
    assert _apart_and_whole(projected, truth, niw_prior(projected, labels, 10)) == (9, 10)
    projected = projected - projected.mean(0)
    power = find_power(projected, labels, 10, generator=torch.Generator().manual_seed(0), n_repeats=1).power
    basis, variances = whiten_within(projected, labels, 10)
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
        "the model would split 3 of 10 labelled classes in two, so it will find too many classes: lower power, or give "
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
    hidden = held_out_classes(rows - rows.mean(0), labels, 5, n_repeats=3, generator=torch.Generator().manual_seed(0))
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


def _four_classes(n=24):
    """Return centered rows of four classes six apart, each with a shape of its own, and labels of half of them."""
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(4), n)
    scales = np.exp(0.5 * rng.normal(size=(4, 4)))
    rows = 6 / 2**0.5 * np.eye(4)[truth] + scales[truth] * rng.normal(size=(4 * n, 4))
    labels = np.where(rng.random(4 * n) < 0.5, truth, -1)
    return torch.from_numpy(rows - rows.mean(0)), torch.from_numpy(labels)


def test_a_hiding_knows_the_shape_of_the_classes_kept_alone():
    rows, labels = _four_classes()
    for hiding in held_out_classes(rows, labels, 4, n_repeats=1, generator=torch.Generator().manual_seed(0)):
        is_kept = hiding.labels >= 0
        residuals = torch.cat([rows[labels == k] - rows[labels == k].mean(0) for k in set(labels[is_kept].tolist())])
        basis = torch.linalg.lstsq(rows, hiding.features).solution
        within = basis.mT @ ledoit_wolf(residuals, len(residuals) - 2) @ basis
        torch.testing.assert_close(within, torch.eye(4).double(), atol=1e-4, rtol=0)


def test_surplus_counts_lost_and_found_classes_in_shares_of_the_hidden():
    rows, labels = _four_classes()
    hiding = held_out_classes(rows, labels, 4, n_repeats=1, generator=torch.Generator().manual_seed(0))[0]
    assert surplus(hiding, 1.0) == 0.0
    assert surplus(hiding, 1.0, concentration=1e-300) == -1.0  # none of the hidden is found
    assert surplus(hiding, 1e-6) == -1.0
    assert surplus(hiding, 1.0, concentration=1e300) > 1.0


def _search(monkeypatch, curve, n_known=4, **settings):
    """Find a power where the surplus is a known function of log η; return the search and the calls."""
    calls = []
    monkeypatch.setattr(power_module, "surplus", lambda _, power, **__: calls.append(power) or curve(math.log(power)))
    rows = torch.arange(2.0 * n_known)[:, None]
    told = []
    labels, generator = torch.arange(2 * n_known) % n_known, torch.Generator().manual_seed(0)
    found = find_power(rows, labels, n_known, generator=generator, progress=told.append, **settings)
    assert told == list(range(1, len(found.curve) + 1))
    return found, calls


@pytest.mark.parametrize("answer", [0.03, 0.11, 0.3, 0.57, 0.93])
def test_a_straight_curve_is_crossed_where_it_is_zero(monkeypatch, answer):
    found, _ = _search(monkeypatch, lambda log_power: 3 * (log_power - math.log(answer)))
    assert found.power == pytest.approx(answer, rel=0.01)
    assert len(found.curve) <= 8


@pytest.mark.parametrize("answer", [0.03, 0.11, 0.3, 0.57, 0.93])
def test_a_step_is_bracketed_by_its_bisections(monkeypatch, answer):
    found, _ = _search(monkeypatch, lambda log_power: math.copysign(1.0, log_power - math.log(answer)), n_bisections=4)
    tried = sorted(power for power, _ in found.curve)
    assert max(power for power in tried if power < answer) / min(power for power in tried if power > answer) > 0.95
    assert abs(math.log(found.power / answer)) < 0.4


def test_a_curve_without_a_zero_ends_at_a_bound(monkeypatch):
    found, _ = _search(monkeypatch, lambda _: 1.0, least=0.07)
    assert found.power == pytest.approx(0.07)
    assert [power for power, _ in found.curve] == pytest.approx([0.4, 0.2, 0.1, 0.07])
    found, _ = _search(monkeypatch, lambda _: -1.0, least=0.07)
    assert [power for power, _ in found.curve] == pytest.approx([0.4, 0.8, 1.0])
    assert found.power == 1.0


@pytest.mark.parametrize(("near", "n_tried"), [(0.4, 1), (0.2, 2), (math.sqrt(0.02), 4)])
def test_a_surplus_of_nearly_none_is_the_answer_wherever_it_comes(monkeypatch, near, n_tried):
    """At the guess, at its half, and in the middle between that and a quarter."""

    def curve(log_power):
        gap = log_power - math.log(near)
        return 0.02 if abs(gap) < 1e-9 else math.copysign(1.0, gap)

    found, _ = _search(monkeypatch, curve)
    assert found.power == pytest.approx(near)
    assert len(found.curve) == n_tried


@pytest.mark.parametrize(("n_known", "n_hidings"), [(4, 6), (20, 6), (30, 4), (60, 2)])
def test_as_many_halves_are_hidden_as_make_fifty_classes(monkeypatch, n_known, n_hidings):
    _, calls = _search(monkeypatch, lambda _: 0.0, n_known=n_known)
    assert calls == pytest.approx([0.4] * n_hidings)


def test_the_crossing_is_that_of_the_line_through_the_four_nearest():
    line = [(math.exp(x), 2 * (x + 1)) for x in (-2.0, -1.5, -0.6, -0.2)]
    assert _crossing([(1e-9, 50.0), *line, (1e9, -70.0)], -1.2) == pytest.approx(math.exp(-1))
    bent = [(math.exp(x), y) for x, y in ((-2.0, 1.0), (-1.5, 2.0), (-0.6, 3.0), (-0.2, 4.0))]
    assert _crossing(bent, -1.2) == pytest.approx(math.exp(-2.0))  # no farther than what was tried
    assert _crossing([(power, -value) for power, value in bent], -1.2) == pytest.approx(math.exp(-1.2))


def test_without_two_labels_of_a_class_the_spread_within_is_a_tenth():
    rows = torch.tensor([[3.0, 1.0], [-3.0, -1.0]]).double()
    torch.testing.assert_close(within_covariance(rows, torch.tensor([0, -1]), 1), 0.5 * torch.eye(2).double())


def test_directions_without_variance_are_left_out():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(30, 2)) @ rng.normal(size=(2, 6)))
    assert principal_space(rows, 5, normalize=False).basis.shape == (6, 2)
    assert principal_space(rows, 1, normalize=False).basis.shape == (6, 1)


def test_the_prior_has_the_strength_asked_for_and_the_most_likely_freedom():
    rng = np.random.default_rng(0)
    labels = torch.arange(240) % 4
    rows = 9 * torch.from_numpy(rng.normal(size=(4, 3)))[labels] + torch.from_numpy(rng.normal(size=(240, 3)))
    prior = niw_prior(rows, labels, 4, mean_strength=0.3)
    assert float(prior.mean_strength) == 0.3
    expected = within_covariance(rows, labels, 4)
    torch.testing.assert_close(prior.scale / (prior.dof - 3 - 1), expected)  # Σ is that on average
    classes = cluster_statistics(rows, labels, 4)
    found = [
        float(niw_prior(rows, labels, 4, mean_strength=0.3, factors=[factor]).log_evidence(classes).sum())
        for factor in (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
    ]
    assert float(prior.log_evidence(classes).sum()) == max(found)


def test_checks_count_whole_classes_and_pairs_of_nearest():
    rng = np.random.default_rng(0)
    # Two classes on top of each other, one in two parts, one of three items far away.
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 20 + [3] * 3 + [-1] * 10)
    centers = torch.zeros((73, 2)).double()
    centers[40:50, 0], centers[50:60, 0], centers[60:63, 1], centers[63:] = 100, 120, 300, 1000
    rows = centers + torch.from_numpy(rng.normal(size=(73, 2)))
    model = TwoCovariance(torch.zeros(2).double(), torch.full((2,), 1e4).double(), 1.0)
    assert check_evidence(rows, labels, 4, model) == EvidenceCheck(n_whole=2, n_classes=3, n_apart=2, n_pairs=4)


def test_shrinkage_stops_at_a_multiple_of_the_identity():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(9):
        rows = rng.normal(size=(4, 3))
        expected, share = sklearn_ledoit_wolf(rows, assume_centered=True)
        np.testing.assert_allclose(ledoit_wolf(torch.from_numpy(rows), 4.0), expected, rtol=1e-9, atol=1e-12)
        shares.append(share)
    assert max(shares) == 1.0


def test_one_pair_of_labelled_rows_makes_no_singular_covariance():
    rows = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 1.0], [0.0, 5.0, 9.0]]).double()
    gap = rows[0] - rows[1]
    found = within_covariance(rows, torch.tensor([0, 0, -1]), 1)
    expected = 0.5 * torch.outer(gap, gap) + 1e-6 * 0.5 * 14 / 3 * torch.eye(3).double()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (torch.linalg.cholesky_ex(found).info == 0).all()
