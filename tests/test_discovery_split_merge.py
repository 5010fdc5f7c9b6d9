"""Split and merge: what it keeps, what it finds, and that its trace adds up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.discovery.evidence import TwoCovariance, collapsed_objective
from fewshot.discovery.parting import part_in_two
from fewshot.discovery.prior import niw_prior
from fewshot.discovery.reach import reach_n_components
from fewshot.discovery.split_merge import (
    Partition,
    _each_once,
    discover_components,
    hard_em,
    near_pairs,
    start_partition,
)
from fewshot.discovery.statistics import cluster_statistics
from tests.discovery_mixtures import separated

seeds = st.integers(0, 2**20)


def _model(n_features, between=25.0, power=1.0):
    return TwoCovariance(torch.zeros(n_features).double(), torch.full((n_features,), between).double(), power)


@st.composite
def pools(draw):
    """Draw any pool: duplicates, constant columns, few items, some classes labelled."""
    rng = np.random.default_rng(draw(seeds))
    n, d, n_known = draw(st.integers(6, 60)), draw(st.integers(1, 6)), draw(st.integers(0, 3))
    rows = rng.normal(size=(n, d)) * draw(st.sampled_from([0.0, 0.3, 5.0]))
    rows[:, rng.random(d) < 0.2] = 1.5
    labels = np.where(rng.random(n) < 0.6, -1, rng.integers(0, max(1, n_known), size=n))
    labels = np.full(n, -1) if n_known == 0 else labels
    labels[:n_known] = np.arange(n_known)
    return torch.from_numpy(rows), torch.from_numpy(labels), n_known


def _same(first, second):
    """Whether two partitions are one up to names."""
    pairs = {(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@given(pools(), st.sampled_from(["two-covariance", "niw"]), st.booleans(), st.integers(0, 4))
@settings(max_examples=60)
def test_labelled_rows_stay_and_the_trace_adds_up(pool, kind, is_stochastic, n_more):
    rows, labels, n_known = pool
    model = _model(rows.shape[1]) if kind == "two-covariance" or n_known == 0 else niw_prior(rows, labels, n_known)
    generator = torch.Generator().manual_seed(3)
    start = start_partition(rows, labels, n_known, n_known + n_more, generator=generator)
    found = discover_components(
        rows, labels, n_known, model, start=start, generator=generator if is_stochastic else None, n_rounds=6
    )
    is_labelled = labels >= 0
    assert torch.equal(found.labels[is_labelled], labels[is_labelled])
    counts = torch.bincount(found.labels, minlength=found.n_components)
    assert len(counts) == found.n_components <= max(len(rows), n_known)
    assert found.n_components >= max(1, n_known)
    assert (counts > 0).all()
    previous = found.rounds[0].n_classes_before
    for done in found.rounds:
        assert done.n_classes_before == previous
        previous += done.n_sheds + done.n_splits - done.n_merges - done.n_purged
        assert done.n_classes == previous
        assert math.isfinite(done.evidence)
        assert math.isfinite(done.log_posterior)
    assert found.n_components in {done.n_classes for done in found.rounds}
    for number, done in enumerate(found.rounds):
        own = [proposal for proposal in found.proposals if proposal.round == number and proposal.is_accepted]
        kinds = [proposal.kind for proposal in own]
        assert (kinds.count("shed"), kinds.count("split"), kinds.count("merge")) == (
            done.n_sheds,
            done.n_splits,
            done.n_merges,
        )
    for proposal in found.proposals:
        known = [parent for parent in proposal.parents if parent < n_known]
        assert (proposal.kind == "shed") == (proposal.kind != "merge" and len(known) == 1)
        assert len(known) < 2  # two labelled classes are never held against each other
        assert len(set(proposal.parents)) == len(proposal.parents)
        if not is_stochastic:
            assert not proposal.is_accepted or proposal.log_ratio > 0
    merged = [(p.round, parent) for p in found.proposals if p.kind == "merge" and p.is_accepted for parent in p.parents]
    assert len(merged) == len(set(merged))


@given(seeds)
def test_parting_keeps_bound_rows_together_and_its_score_is_that_of_its_halves(seed):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(40, 3)) + 6 * rng.integers(0, 2, size=(40, 1)))
    owners, is_bound = torch.arange(40) % 2, torch.from_numpy(rng.random(40) < 0.3)
    model = _model(3)
    parts = part_in_two(rows, owners, is_bound, 2, model)
    assert not (parts.is_second & is_bound).any()
    for component in range(2):
        own = owners == component
        whole = collapsed_objective(model, cluster_statistics(rows[own], torch.zeros(20).long(), 1))
        halves = cluster_statistics(rows[own], parts.is_second[own].long(), 2)
        if parts.log_ratio[component].isfinite():
            torch.testing.assert_close(collapsed_objective(model, halves) - whole, parts.log_ratio[component])


def test_parting_finds_the_two_clusters_of_every_component_at_once():
    rng = np.random.default_rng(0)
    owners, side = torch.arange(300) % 3, torch.arange(300) // 3 % 2
    centers = torch.tensor([[0.0, 0], [40, 0], [0, 40]]).double()[owners]
    rows = centers + torch.from_numpy(rng.normal(size=(300, 2))) + 9 * side[:, None]
    parts = part_in_two(rows, owners, torch.zeros(300, dtype=torch.bool), 3, _model(2))
    assert (parts.log_ratio > 0).all()
    for component in range(3):
        own = owners == component
        assert _same(parts.is_second[own].long(), side[own])


def test_what_is_too_small_to_part_is_said_to_be():
    rows, labels = torch.tensor([[0.0], [9.0], [9.5]]).double(), torch.tensor([0, -1, -1])
    found = discover_components(rows[:2], labels[:2], 1, _model(1))
    assert (found.proposals[0].log_ratio, found.proposals[0].reason) == (
        -math.inf,
        "no two parts of two items each",
    )


@given(seeds, st.integers(1, 8), st.integers(1, 5), st.integers(0, 5))
@settings(max_examples=40)
def test_well_separated_classes_are_found_from_any_start(seed, n_features, n_known, n_new):
    rows, truth, labels = separated(seed, n_features=n_features, n_known=n_known, n_new=n_new)
    n_classes = n_known + n_new
    for n_start in (n_known, n_classes, 2 * n_classes, 3 * n_classes):
        start = start_partition(rows, labels, n_known, n_start, generator=torch.Generator().manual_seed(seed))
        found = discover_components(rows, labels, n_known, _model(n_features, between=400.0), start=start)
        assert found.n_components == n_classes
        assert _same(found.labels, truth)


@given(seeds, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=15)
def test_well_separated_classes_are_found_under_a_niw_prior(seed, n_known, n_new):
    rows, truth, labels = separated(seed, n_features=3, n_known=n_known, n_new=n_new)
    found = discover_components(rows, labels, n_known, niw_prior(rows, labels, n_known))
    assert _same(found.labels, truth)


@given(seeds)
@settings(max_examples=15)
def test_row_order_rotation_and_shift_change_names_at_most(seed):
    rng = np.random.default_rng(seed)
    rows, _, labels = separated(seed, n_features=4, n_known=2, n_new=3, distance=5.0)
    model = TwoCovariance(torch.zeros(4).double(), torch.full((4,), 9.0).double(), 0.8)
    found = discover_components(rows, labels, 2, model)
    order = torch.from_numpy(rng.permutation(len(rows)))
    assert _same(discover_components(rows[order], labels[order], 2, model).labels, found.labels[order])
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(4, 4)))[0])
    shift = torch.from_numpy(rng.normal(size=4))
    moved = discover_components(rows @ rotation + shift, labels, 2, model._replace(mean=shift))
    assert _same(moved.labels, found.labels)


def test_rows_are_untouched_and_no_global_state_is_used():
    rows, _, labels = separated(0, n_features=3, n_known=2, n_new=2)
    copies, state = (rows.clone(), labels.clone()), torch.get_rng_state()
    first = discover_components(rows, labels, 2, _model(3), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(99)
    second = discover_components(rows, labels, 2, _model(3), generator=torch.Generator().manual_seed(1))
    torch.set_rng_state(state)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(rows, copies[0])
    assert torch.equal(labels, copies[1])


def test_coins_fall_with_the_probability_of_the_ratio():
    from fewshot.discovery.split_merge import _Search

    rows = torch.zeros((1, 1)).double()
    search = _Search(rows, torch.tensor([-1]), 0, _model(1), 1.0, 3, torch.Generator().manual_seed(0))
    for log_ratio, share in ((-1.2, math.exp(-1.2)), (0.4, 1.0), (-math.inf, 0.0)):
        taken = search.accept(torch.full((10_000,), log_ratio, dtype=torch.float64)).double().mean()
        assert abs(float(taken) - share) <= 4 * math.sqrt(share * (1 - share) / 10_000)
    search.generator = None
    assert search.accept(torch.tensor([1e-12, 0.0, -1e-12])).tolist() == [True, False, False]


def test_each_component_merges_once_with_its_best_partner():
    first, second = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 2, 3])
    ratio = torch.tensor([5.0, 7.0, 9.0, 8.0])
    assert _each_once(ratio, ratio > 0, first, second, 4).tolist() == [False, False, True, False]
    tied = torch.full((4,), 3.0)
    assert _each_once(tied, tied > 0, first, second, 4).tolist() == [True, False, False, False]


def test_neighbours_never_pair_a_component_with_itself_nor_two_labelled_ones():
    means = torch.zeros((4, 2)).double()
    pairs = list(zip(*(index.tolist() for index in near_pairs(means, 2, 3)), strict=True))
    assert pairs == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert len(near_pairs(means[:1], 0, 3)[0]) == 0


def test_hard_em_is_the_loop():
    rng = np.random.default_rng(5)
    rows, start = rng.normal(size=(60, 2)) * 3, rng.integers(0, 4, size=60)
    labels = np.where(np.arange(60) < 6, np.arange(60) % 2, -1)
    start = np.where(labels >= 0, labels, start)
    z = start.copy()
    for _ in range(3):
        means = [rows[z == k].mean(0) for k in range(4)]
        shares = [np.mean(z == k) for k in range(4)]
        for i in range(60):
            if labels[i] < 0:
                scores = [math.log(shares[k]) - 0.5 * ((rows[i] - means[k]) ** 2).sum() for k in range(4)]
                z[i] = int(np.argmax(scores))
    assert len(np.unique(z)) == 4
    found = hard_em(
        torch.from_numpy(rows),
        torch.from_numpy(labels),
        2,
        Partition(torch.from_numpy(start), torch.arange(4)),
        n_steps=3,
    )
    assert found.labels.tolist() == z.tolist()


def test_empty_components_are_purged_but_labelled_ones_are_not():
    rows, labels = torch.tensor([[0.0], [0.1], [9.0]]).double(), torch.tensor([0, -1, 1])
    settled = hard_em(rows, labels, 2, Partition(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 7, 8])))
    assert settled.ids.tolist() == [0, 1]


@pytest.mark.parametrize("n_components", [2, 3, 5, 8])
def test_a_number_that_is_asked_for_is_reached(n_components):
    rows, _, labels = separated(4, n_features=3, n_known=2, n_new=3)
    model = _model(3, between=100.0)
    found = discover_components(rows, labels, 2, model)
    assert found.n_components == 5
    reached = reach_n_components(rows, labels, 2, model, found.partition, n_components)
    assert len(reached.ids) == n_components
    assert torch.equal(reached.labels[labels >= 0], labels[labels >= 0])
    if n_components == 5:
        assert torch.equal(reached.labels, found.labels)


def test_a_number_that_cannot_be_reached_stops_short():
    rows, labels = torch.zeros((6, 2)).double(), torch.full((6,), -1)
    start = start_partition(rows, labels, 0)
    assert len(reach_n_components(rows, labels, 0, _model(2), start, 4).ids) == 1
