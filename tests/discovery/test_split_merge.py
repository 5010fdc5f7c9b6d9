"""Split and merge: what it keeps, what it finds, and that its trace adds up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.discovery.split_merge.evidence import TwoCovariance, collapsed_objective
from fewshot.discovery.split_merge.evidence_check import niw_prior
from fewshot.discovery.split_merge.partition import Partition, hard_em, start_partition
from fewshot.discovery.split_merge.search import _each_once, _Search, _touched, discover_components, near_pairs
from fewshot.discovery.split_merge.splits import propose_splits, two_means
from fewshot.discovery.split_merge.target_count import adjust_to_n_components
from fewshot.discovery.split_merge.trace import proposals_of
from fewshot.discovery.statistics import cluster_statistics
from tests.kits.mixtures import separated
from tests.reference.evidence_loops import two_covariance_log_evidence

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
    parts = propose_splits(rows, owners, is_bound, 2, model)
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
    parts = propose_splits(rows, owners, torch.zeros(300, dtype=torch.bool), 3, _model(2))
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
    reached = adjust_to_n_components(rows, labels, 2, model, found.partition, n_components)
    assert len(reached.ids) == n_components
    assert torch.equal(reached.labels[labels >= 0], labels[labels >= 0])
    if n_components == 5:
        assert torch.equal(reached.labels, found.labels)


def test_a_number_that_cannot_be_reached_stops_short():
    rows, labels = torch.zeros((6, 2)).double(), torch.full((6,), -1)
    start = start_partition(rows, labels, 0)
    assert len(adjust_to_n_components(rows, labels, 0, _model(2), start, 4).ids) == 1


def _around(*centers, n=20, spread=1.0):
    """Return ``n`` rows round each center, and the number of the center of each."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(len(centers)), n)
    rows = np.array(centers, dtype=float)[owners] + spread * rng.normal(size=(len(owners), len(centers[0])))
    return torch.from_numpy(rows), torch.from_numpy(owners)


@pytest.mark.parametrize("patience", [1, 2])
def test_coins_stop_for_want_of_patience_and_the_best_partition_is_the_answer(patience):
    rng = np.random.default_rng(2)
    rows, labels, model = 2 * torch.from_numpy(rng.normal(size=(40, 2))), torch.full((40,), -1), _model(2, 4.0)
    lost, stopped = 0.0, 0
    for seed in range(10):
        coins = torch.Generator().manual_seed(seed)
        found = discover_components(rows, labels, 0, model, concentration=10.0, generator=coins, patience=patience)
        values = [done.evidence for done in found.rounds]
        best = int(np.argmax(values))
        parts = [rows[found.labels == k].numpy() for k in range(found.n_components)]
        each = [math.lgamma(len(z)) + two_covariance_log_evidence(z, np.zeros(2), np.full(2, 4.0)) for z in parts]
        assert len(parts) * math.log(10.0) + sum(each) == pytest.approx(values[best], abs=1e-6)
        assert found.n_components == found.rounds[best].n_classes
        assert found.is_converged or len(values) - 1 - best == patience
        lost = max(lost, values[best] - values[-1])
        stopped += not found.is_converged
    assert lost > 0.1  # somewhere the last partition is not the best
    assert stopped > 0


def test_each_round_of_coins_asks_every_component_and_no_id_comes_twice():
    rng = np.random.default_rng(4)
    rows = torch.from_numpy(rng.normal(size=(60, 2)) * 2)
    labels = torch.where(torch.arange(60) < 4, torch.arange(60) % 2, -1)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        found = discover_components(
            rows, labels, 2, _model(2, 4.0), generator=generator, patience=99, n_rounds=8, concentration=3.0
        )
        for number, done in enumerate(found.rounds):
            parted = [p.parents[0] for p in found.proposals if p.round == number and p.kind != "merge"]
            assert len(parted) == len(set(parted)) == done.n_classes_before
        made = [p.children[1] for p in found.proposals if p.is_accepted and p.kind != "merge"]
        assert len(made) == len({0, 1, *made}) - 2
        assert {*found.component_ids.tolist()} <= {0, 1, *made}
        for proposal in found.proposals:
            if proposal.is_accepted:
                assert proposal.children[0] == min(proposal.parents)
            else:
                assert proposal.children == ()


def test_what_no_row_has_entered_or_left_is_not_asked_again():
    rows, truth = _around((0, 0), (400, 0), (0, 40), (0, 60))
    labels = torch.where((truth < 2) & (torch.arange(80) % 2 == 0), truth, -1)
    found = discover_components(rows, labels, 2, _model(2, between=400.0))
    assert len(found.rounds) > 2
    assert [p.round for p in found.proposals if p.parents == (1,)] == [0]


@given(seeds)
def test_components_are_touched_where_their_rows_are_others(seed):
    rng = np.random.default_rng(seed)
    ids = [np.sort(rng.choice(9, size=k, replace=False)) for k in (4, 5)]
    owners = [rng.integers(0, 4, size=12), rng.integers(0, 5, size=12)]
    owners[1] = np.where(rng.random(12) < 0.7, np.searchsorted(ids[1], ids[0][owners[0]]).clip(0, 4), owners[1])
    old, new = (
        {int(i): set(np.flatnonzero(index[own] == i)) for i in index} for index, own in zip(ids, owners, strict=True)
    )
    expected = [new[int(i)] != old.get(int(i), set()) for i in ids[1]]
    before, after = (Partition(torch.from_numpy(own), torch.from_numpy(i)) for own, i in zip(owners, ids, strict=True))
    assert _touched(before, after).tolist() == expected


def test_what_was_parted_in_a_round_is_not_merged_in_it():
    rows, owners = _around((0, 0), (0.1, 0), (50, 0))
    search = _Search(rows, torch.full((60,), -1), 0, _model(2), 1.0, 3, None, n_ids=10)
    partition = Partition(owners, torch.tensor([3, 7, 9]))
    kept, n_merges = search.merge(0, partition, torch.tensor([[3, 7]]))
    assert (kept.ids.tolist(), n_merges) == ([3, 7, 9], 0)
    refused = {p.parents: p for p in search.proposals}[3, 7]
    assert (refused.log_ratio, refused.reason, refused.children) == (-math.inf, "parted in this round", ())
    merged, n_merges = search.merge(1, partition, torch.tensor([[7, 9]]))
    assert (merged.ids.tolist(), n_merges, merged.labels.tolist()) == ([3, 9], 1, [0] * 40 + [1] * 20)
    accepted = [(p.parents, p.children) for p in search.proposals if p.is_accepted]
    assert accepted == [((3, 7), (3,))]


def test_reasons_are_told():
    one, two = torch.zeros((7, 1), dtype=torch.int64), torch.zeros((7, 2), dtype=torch.int64)
    kinds = ["split", "merge", "shed", "merge", "split", "merge", "shed"]
    ratio = torch.tensor([-math.inf, -math.inf, 2.0, 2.0, -2.0, 0.0, -1.0])
    taken = torch.tensor([False, False, True, False, True, False, False])
    assert [p.reason for p in proposals_of(0, kinds, one, two, ratio, taken)] == [
        "no two parts of two items each",
        "parted in this round",
        "log ratio 2.0, above 0",
        "log ratio 2.0, above 0, but one of the two had a better partner",
        "log ratio -2.0, accepted by chance",
        "log ratio 0.0, not above 0",
        "log ratio -1.0, not above 0",
    ]


def test_concentration_moves_every_ratio_and_the_objective_by_its_logarithm():
    rows, truth = _around((0, 0), (30, 0), (60, 0), (90, 0))
    labels = torch.where((truth < 1) & (torch.arange(80) % 2 == 0), 0, -1)
    start = Partition(torch.where(truth == 3, 2 + torch.arange(80) % 2, truth.clamp(max=1)), torch.arange(4))
    runs = [
        discover_components(rows, labels, 1, _model(2, 900.0), start=start, concentration=value, n_rounds=1)
        for value in (1.0, math.exp(2.0))
    ]
    assert torch.equal(runs[0].labels, runs[1].labels)
    pairs = list(zip(*(run.proposals for run in runs), strict=True))
    assert {one.kind for one, _ in pairs if math.isfinite(one.log_ratio)} == {"shed", "split", "merge"}
    for one, other in pairs:
        if math.isfinite(one.log_ratio):
            assert other.log_ratio - one.log_ratio == pytest.approx(-2.0 if one.kind == "merge" else 2.0)
    assert runs[1].rounds[0].evidence - runs[0].rounds[0].evidence == pytest.approx(2.0 * runs[0].n_components)


def test_the_last_round_of_the_trace_has_the_likelihood_of_the_loop():
    rows, truth = _around((0, 0, 0), (7, 0, 0), (0, 9, 0), n=15)
    found = discover_components(rows, torch.where(truth < 1, 0, -1), 1, _model(3))
    expected = 0.0
    for k in range(found.n_components):
        own = rows[found.labels == k].numpy()
        for x in own:
            expected += math.log(len(own) / 45) - 0.5 * ((x - own.mean(0)) ** 2 + math.log(2 * math.pi)).sum()
    assert found.is_converged
    assert found.rounds[-1].log_posterior == pytest.approx(expected, rel=1e-9)


def test_a_round_that_only_merged_has_not_settled():
    rows, truth = _around((0, 0), (300, 0))
    start = Partition(torch.where(truth == 1, 1 + torch.arange(40) % 2, 0), torch.arange(3))
    labels = torch.full((40,), -1)
    once, twice = (
        discover_components(rows, labels, 0, _model(2, 1e4), start=start, n_rounds=n_rounds) for n_rounds in (1, 20)
    )
    assert once.rounds[0][1:4] == (0, 0, 1)
    assert (once.is_converged, twice.is_converged, len(twice.rounds)) == (False, True, 2)


def test_a_start_is_drawn_from_unlabelled_rows_alone():
    rows = torch.cat([torch.tensor([[-500.0], [500.0]]).repeat(10, 1), torch.linspace(-1, 1, 10)[:, None]])
    labels = torch.where(torch.arange(30) < 20, 0, -1)
    for seed in range(10):
        start = start_partition(rows, labels, 1, 2, generator=torch.Generator().manual_seed(seed))
        assert start.labels[:20].tolist() == [0] * 20
        assert (start.labels[20:] == 1).any()


def test_neighbours_are_the_nearest():
    means = torch.tensor([[0.0], [10.0], [11.0], [30.0]])
    pairs = list(zip(*(index.tolist() for index in near_pairs(means, 0, 1)), strict=True))
    assert pairs == [(0, 1), (1, 2), (2, 3)]


def test_the_way_to_a_number_starts_with_the_strongest_evidence():
    rows, owners = _around((0, 0), (60, 0), (63, 0), (200, 0), (214, 0))
    labels = torch.full((100,), -1)
    parted = Partition(torch.tensor([0, 1, 1, 2, 2])[owners], torch.tensor([2, 5, 8]))
    found = adjust_to_n_components(rows, labels, 0, _model(2, 1e4), parted, 4)
    assert _same(found.labels, torch.tensor([0, 1, 1, 2, 3])[owners])
    assert found.ids.tolist() == [2, 5, 8, 9]
    apart = Partition(owners, torch.arange(5))
    assert _same(adjust_to_n_components(rows, labels, 0, _model(2, 1e4), apart, 4).labels, owners - (owners > 1).long())
    assert len(adjust_to_n_components(rows, labels, 0, _model(2, 1e4), parted, 5).ids.unique()) == 5


@pytest.mark.parametrize("n_components", [3, 5, 9])
def test_no_row_would_leave_what_was_reached(n_components):
    rows = 3 * torch.from_numpy(np.random.default_rng(0).normal(size=(150, 2)))
    labels = torch.where(torch.arange(150) < 6, torch.arange(150) % 3, -1)
    start = start_partition(rows, labels, 3, 6, generator=torch.Generator().manual_seed(0))
    reached = adjust_to_n_components(rows, labels, 3, _model(2, 9.0), start, n_components).labels.numpy()
    means = np.stack([rows.numpy()[reached == k].mean(0) for k in range(n_components)])
    shares = np.bincount(reached) / 150
    scores = np.log(shares) - 0.5 * ((rows.numpy()[:, None] - means) ** 2).sum(2)
    assert (scores.argmax(1) == reached)[6:].all()


def test_two_means_of_which_one_has_no_row_stay_so():
    rows, owners = _around((3, 0), (5, 40), n=8)
    is_second = torch.arange(16) >= 12  # in the second component alone
    bound = torch.zeros(16, dtype=torch.bool)
    found = two_means(rows, owners, bound, is_second, 2, n_steps=10)
    assert not found[:8].any()
    assert found[8:].any()


def test_the_widest_direction_is_the_start():
    rows, truth = _around((-6, 0, 0, 0), (6, 0, 0, 0))
    rows = torch.cat([rows, rows.flip(1) + 90])
    owners, free = torch.arange(80) // 40, torch.zeros(80, dtype=torch.bool)
    parts = propose_splits(rows, owners, free, 2, _model(4), n_axes=1, n_steps=0)
    for component in (0, 1):
        assert _same(parts.is_second[owners == component].long(), truth)


def test_what_may_leave_starts_on_one_side_of_the_labelled_rows():
    rows, truth = _around((0.0,), (20.0,), (200.0,), n=10)
    parts = propose_splits(rows, torch.zeros_like(truth), truth == 0, 1, _model(1), n_axes=1, n_steps=0)
    assert torch.equal(parts.is_second, truth > 0)


def test_parting_is_the_loop():
    rng = np.random.default_rng(0)
    rows = rng.exponential(size=(50, 2)) ** 2 * [5.0, 1.0]
    centered = rows - rows.mean(0)
    side = centered @ np.linalg.eigh(centered.T @ centered)[1][:, -1] > 0
    n_moving = 0
    for _ in range(10):
        centers = np.stack([rows[~side].mean(0), rows[side].mean(0)])
        before, side = side, ((rows[:, None] - centers) ** 2).sum(2).argmin(1) == 1
        n_moving += (side != before).any()
    assert 1 < n_moving < 10
    free = torch.zeros(50, dtype=torch.bool)
    parts = propose_splits(torch.from_numpy(rows), free.long(), free, 1, _model(2), n_axes=1)
    assert _same(parts.is_second, torch.from_numpy(side))


def test_a_labelled_class_without_a_row_keeps_its_place():
    rows, labels = torch.tensor([[0.0], [0.1], [9.0]]).double(), torch.tensor([0, -1, 2])
    settled = hard_em(rows, labels, 3, Partition(torch.tensor([0, 3, 2]), torch.arange(4)))
    assert settled.ids.tolist() == [0, 1, 2, 3]
    assert settled.labels.tolist() == [0, 3, 2]


def test_what_is_purged_before_the_merges_is_told():
    rows, owners = _around((0, 0), (90, 0))
    search = _Search(rows, torch.full((40,), -1), 0, _model(2), 1.0, 3, None)
    after = search.round(0, Partition(2 * owners, torch.tensor([0, 4, 5])), torch.zeros(3, dtype=torch.bool))
    assert after.ids.tolist() == [0, 5]
    assert search.rounds[0][:6] == (3, 0, 0, 0, 1, 2)


def test_chunks_change_nothing(monkeypatch):
    from fewshot.discovery import statistics
    from fewshot.discovery.split_merge import search as split_merge
    from fewshot.discovery.split_merge import splits as parting

    rows, _, labels = separated(3, n_features=3, n_known=2, n_new=2)
    whole = discover_components(rows, labels, 2, _model(3))
    for module, size in ((parting, 7), (split_merge, 1), (statistics, 7)):
        monkeypatch.setattr(module, "_CHUNK", size)
    found = discover_components(rows, labels, 2, _model(3))
    assert torch.equal(found.labels, whole.labels)
    assert found.rounds[-1].log_posterior == pytest.approx(whole.rounds[-1].log_posterior, rel=1e-9)
