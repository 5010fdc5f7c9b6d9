"""Scores of a discovery against brute force, and what is said of a class against plain loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from fewshot.discovery.profiles import (
    balanced_rows,
    distance_to_mean,
    first_of_each,
    lineages,
    mean_directions,
    nearest_known,
    place_beside,
)
from fewshot.evaluation.discovery import evaluate_discovery
from tests.kits.discovery import Proposal
from tests.kits.drawing import generator, refuses
from tests.reference import matching_loops as loops

SCORES = {"v2": loops.v2, "v1": loops.v1, "orca": loops.orca}


@st.composite
def discoveries(draw):
    """Found classes as a discoverer numbers them, true ids with gaps, and what was shown; one row at least is free."""
    ids = sorted(draw(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True)))
    known = sorted(draw(st.lists(st.sampled_from(ids), unique=True)))
    n_found = len(known) + draw(st.integers(0 if known else 1, 2))
    n = draw(st.integers(1, 14))
    truth = known + [draw(st.sampled_from(ids)) for _ in range(n)]
    shown = known + [t if t in known and draw(st.booleans()) else -1 for t in truth[len(known) : -1]] + [-1]
    free = [draw(st.integers(0, n_found - 1)) for _ in truth]
    found = [known.index(s) if s >= 0 else f for s, f in zip(shown, free, strict=True)]
    return found, truth, shown, known


def scored(found, truth, shown, known):
    """Return the free rows' clusters, a known one under the id of its class, and their true classes."""
    free = [i for i, label in enumerate(shown) if label < 0]
    ids = [known[found[i]] if found[i] < len(known) else 100 + found[i] for i in free]
    return ids, [truth[i] for i in free]


@given(discoveries())
def test_all_old_and_new_equal_brute_force_over_the_free_rows(problem):
    found, truth, shown, known = problem
    scores = evaluate_discovery(found, truth, shown)
    clusters, classes = scored(*problem)
    for name, loop in SCORES.items():
        expected = loop(clusters, classes, set(known))
        assert [value.item() for value in scores.accuracy[name]] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert (scores.n_scored, scores.n_old) == (len(classes), sum(c in known for c in classes))
    assert scores.n_new == scores.n_scored - scores.n_old
    assert scores.normalized_mutual_information == pytest.approx(
        sk.normalized_mutual_info_score(classes, clusters), abs=1e-12
    )
    assert scores.adjusted_rand_index == pytest.approx(sk.adjusted_rand_score(classes, clusters), abs=1e-12)


@given(discoveries())
def test_the_table_counts_and_numbers_found_classes_as_the_discoverer_does(problem):
    found, truth, shown, _ = problem
    scores = evaluate_discovery(found, truth, shown)
    table, classes = scores.confusion, scores.classes
    for row, cluster in enumerate(table.cluster_ids.tolist()):
        for column, class_id in enumerate(table.class_ids.tolist()):
            own = [f == cluster and t == class_id and s < 0 for f, t, s in zip(found, truth, shown, strict=True)]
            assert table.counts[row, column] == sum(own)
    assert set(table.cluster_ids.tolist()) == {f for f, s in zip(found, shown, strict=True) if s < 0}
    for class_id, cluster, recall, size in zip(
        classes.class_ids.tolist(), classes.cluster_ids.tolist(), classes.recall.tolist(), classes.sizes.tolist(),
        strict=True,
    ):  # fmt: skip
        there = [f == cluster for f, t, s in zip(found, truth, shown, strict=True) if t == class_id and s < 0]
        assert (size, recall) == (len(there), pytest.approx(sum(there) / len(there)))


@given(discoveries(), st.randoms(use_true_random=False))
def test_names_of_new_classes_and_the_order_of_rows_change_nothing(problem, random):
    found, truth, shown, known = problem
    n_known, order = len(known), list(range(len(found)))
    names = list(range(n_known, max([*found, n_known]) + 1))
    random.shuffle(names)
    random.shuffle(order)
    renamed = [f if f < n_known else names[f - n_known] for f in found]
    other = evaluate_discovery(*([values[i] for i in order] for values in (renamed, truth, shown)))
    told, other_told = evaluate_discovery(found, truth, shown).to_dict(), other.to_dict()
    for name in (
        "accuracy",
        "normalized_mutual_information",
        "adjusted_rand_index",
        "n_found",
        "n_classes",
        "n_scored",
    ):
        assert told[name] == pytest.approx(other_told[name]) if name != "accuracy" else told[name] == other_told[name]


def test_a_known_class_counts_as_a_class_even_without_a_free_row():
    scores = evaluate_discovery([0, 1, 2, 2], truth=[3, 5, 5, 9], shown=[3, 5, -1, -1])
    assert (scores.n_found, scores.n_classes, scores.n_classes_error) == (3, 3, 0.0)
    assert scores.classes.class_ids.tolist() == [5, 9]
    found = evaluate_discovery([0, 1, 2, 2], truth=[3, 5, 5, 9], shown=[3, 5, -1, -1], n_found=6)
    assert (found.n_found, found.n_classes_error) == (6, 1.0)


def test_rows_of_unknown_truth_are_not_scored():
    scores = evaluate_discovery([0, 0, 1, 1], truth=[2, 2, -1, 4], shown=[2, -1, -1, -1])
    assert (scores.n_scored, scores.accuracy["v2"].all.item()) == (2, 1.0)


@pytest.mark.parametrize(("truth", "empty"), [([2, 2, 2], "new"), ([2, 4, 4], "old")])
def test_what_is_empty_is_nan_and_none_in_json(truth, empty):
    scores = evaluate_discovery([0, 0, 1], truth=truth, shown=[2, -1, -1])
    assert math.isnan(getattr(scores.accuracy["v2"], empty).item())
    told = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert told["accuracy"]["v2"][empty] is None
    assert None not in [value for name, value in told["accuracy"]["v2"].items() if name != empty]


def test_what_does_not_fit_is_refused():
    with refuses(ValueError, "no unlabelled row has a true class: there is nothing to score"):
        evaluate_discovery([0, 0], [1, 1], [1, 1])
    with refuses(ValueError, "clusters must not be negative, got -1"):
        evaluate_discovery([0, -1], [1, 1], [1, -1])
    with refuses(
        ValueError, "clusters, truth and shown must have one entry per row, (n,) each, got shapes (2,), (1,), (2,)"
    ):
        evaluate_discovery([0, 1], [1], [1, -1])
    with refuses(
        ValueError,
        "row 1 was shown as class 0, but is of class 1: give labels and truth in the same numbers",
    ):
        evaluate_discovery([0, 0, 1], [0, 1, 1], [0, 0, -1])


# --- what is shown of a class -----------------------------------------------------------------------------------------


def random_rows(seed=0, n=37, n_features=5, n_classes=4):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(n, n_features))), torch.tensor(rng.integers(0, n_classes, n))


def test_means_and_distances_equal_loops(monkeypatch):
    monkeypatch.setattr("fewshot.discovery.profiles._CHUNK", 8)
    features, labels = random_rows()
    directions = mean_directions(features, labels, 6)
    units = [row / np.linalg.norm(row) for row in features.numpy()]
    for k in range(4):
        total = sum(unit for unit, label in zip(units, labels.tolist(), strict=True) if label == k)
        np.testing.assert_allclose(directions[k].numpy(), total / np.linalg.norm(total), rtol=1e-12)
    assert directions[4:].abs().sum() == 0
    expected = [1 - unit @ directions[label].numpy() for unit, label in zip(units, labels.tolist(), strict=True)]
    np.testing.assert_allclose(distance_to_mean(features, labels, directions).numpy(), expected, atol=1e-12)
    assert mean_directions(features.float(), labels, 6).dtype == torch.float32


def test_the_nearest_known_class_is_another_one():
    directions = mean_directions(*random_rows(n_classes=5, n=60), 5)
    nearest, cosine = nearest_known(directions, 3)
    for k in range(5):
        cosines = {j: float(directions[k] @ directions[j]) for j in range(3) if j != k}
        assert nearest[k] == max(cosines, key=cosines.__getitem__)
        assert cosine[k].item() == pytest.approx(max(cosines.values()))
    assert nearest_known(directions, 0)[0].tolist() == [-1] * 5
    nearest, cosine = nearest_known(directions, 1)
    assert nearest.tolist() == [-1, 0, 0, 0, 0]
    assert cosine[0].isnan()


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 4)), min_size=1, max_size=15), st.integers(0, 4))
def test_the_first_of_each_equal_a_loop(rows, n_rows):
    labels, scores = torch.tensor([row[0] for row in rows]), torch.tensor([float(row[1]) for row in rows])
    expected = []
    for k in range(4):
        own = [i for i, row in enumerate(rows) if row[0] == k]
        expected += sorted(own, key=lambda i: (rows[i][1], i))[:n_rows]
    assert first_of_each(labels, scores, n_rows).tolist() == expected


def test_a_draw_of_rows_leaves_no_class_out():
    labels = torch.tensor([0] * 5000 + [1] * 7 + [2] * 2)
    rows = balanced_rows(labels, 100, generator=generator())
    assert len(rows) == 100
    assert torch.equal(rows, rows.unique())
    counts = torch.bincount(labels[rows], minlength=3)
    assert counts[1] >= 3
    assert counts[2] == 2
    assert torch.equal(balanced_rows(labels, 100, generator=generator()), rows)
    assert balanced_rows(labels[:9], 100, generator=generator()).tolist() == list(range(9))
    spread = balanced_rows(torch.zeros(1000, dtype=torch.int64), 300, generator=generator())
    assert 400 < spread.double().mean() < 600


def test_rows_without_a_place_go_beside_their_neighbours(monkeypatch):
    monkeypatch.setattr("fewshot.discovery.profiles._CHUNK", 4)
    features, _ = random_rows(n=23)
    features *= torch.linspace(0.1, 5, 23)[:, None]
    rows, places = torch.tensor([1, 4, 9, 16, 20]), torch.tensor(np.random.default_rng(1).normal(size=(5, 2)))
    placed = place_beside(features, rows, places)
    units = [row / np.linalg.norm(row) for row in features.numpy()]
    for i in range(23):
        near = sorted(range(5), key=lambda j: -float(units[i] @ units[int(rows[j])]))[:3]
        expected = places[rows.tolist().index(i)] if i in rows else places[near].mean(0)
        torch.testing.assert_close(placed[i], expected)
    assert place_beside(features, rows[:2], places[:2]).shape == (23, 2)


def test_lineages_follow_accepted_moves_to_the_start():
    moves = [
        Proposal(0, "shed", (0,), (0, 2), 1.0, True, ""),
        Proposal(0, "split", (1,), (1, 4), -1.0, False, ""),
        Proposal(1, "split", (2,), (2, 5), 1.0, True, ""),
        Proposal(2, "merge", (5, 7), (5,), 1.0, True, ""),
        Proposal(3, "split", (5,), (8, 9), 1.0, True, ""),
        Proposal(4, "merge", (1, 9), (1,), 1.0, True, ""),
    ]
    steps = [[tuple(step) for step in of_class] for of_class in lineages(moves, [0, 1, 2, 4, 5, 8])]
    assert steps[0] == steps[3] == []
    assert steps[1] == [(4, "merge", 1, (1, 9))]
    assert steps[2] == [(0, "shed", 2, (0,))]
    assert steps[4] == [(2, "merge", 5, (5, 7)), (1, "split", 5, (2,)), (0, "shed", 2, (0,))]
    assert steps[5] == [(3, "split", 8, (5,)), *steps[4]]
