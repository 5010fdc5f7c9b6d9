"""The best of a cell, and what cannot be told from it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.metrics.classification import Interval, mean_interval
from fewshot.metrics.comparison import Scored, Standing, behind_best, standings
from tests.reference.comparison_loops import behind_best_loops, half_width_of

MATRICES = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 75), min_size=n, max_size=n), min_size=1, max_size=5)
)


@given(MATRICES)
def test_behind_best_equals_the_loops(counts):
    accuracies = [torch.tensor(row, dtype=torch.float64) / 75 for row in counts]
    found = behind_best(accuracies)
    expected = behind_best_loops([row.tolist() for row in accuracies])
    for standing, (mean, half_width, is_tie) in zip(found, expected, strict=True):
        assert standing.mean == pytest.approx(mean, abs=1e-12)
        assert standing.half_width == pytest.approx(half_width, abs=1e-12)
        if abs(mean - half_width) > 1e-9:
            assert standing.is_tie == is_tie
        assert standing.is_paired
        assert standing.mean >= 0
    best = max(range(len(counts)), key=lambda row: sum(counts[row]))
    assert found[best] == Standing(0.0, 0.0, True)


def test_hard_episodes_cancel():
    # One better by a hundredth in each episode, of accuracies that spread over everything.
    hard = torch.linspace(0, 0.9, 50, dtype=torch.float64)
    worse = behind_best([hard, hard + 0.01])[0]
    assert worse.mean == pytest.approx(0.01)
    assert worse.half_width == pytest.approx(0, abs=1e-12)
    assert not worse.is_tie
    own = mean_interval(hard).half_width
    unpaired = standings([Scored(mean_interval(hard), "a"), Scored(mean_interval(hard + 0.01), "b")])[0]
    assert unpaired.half_width == pytest.approx(own * math.sqrt(2))
    assert unpaired.is_tie
    assert not unpaired.is_paired


def test_a_shift_of_all_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    rows = list(torch.rand(4, 30, dtype=torch.float64, generator=generator))
    for one, other in zip(behind_best(rows), behind_best([row + 0.25 for row in rows]), strict=True):
        assert one.mean == pytest.approx(other.mean)
        assert one.half_width == pytest.approx(other.half_width)


def test_half_precision_is_widened():
    rows = [torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.3])]
    mean, half_width, _ = behind_best(rows)[0]
    exact = [float(b) - float(a) for a, b in zip(*rows, strict=True)]
    assert (mean, half_width) == (pytest.approx(sum(exact) / 2, rel=1e-12), pytest.approx(half_width_of(exact)))


def test_nothing_is_told_apart_by_one_episode():
    better, worse = behind_best([torch.tensor([0.9]), torch.tensor([0.1])])
    assert math.isnan(worse.half_width)
    assert worse.is_tie
    assert better.mean == 0


def test_runs_are_paired_where_both_kept_their_episodes():
    a, b, c = (
        torch.tensor(values, dtype=torch.float64) for values in ([0.5, 0.7, 0.6], [0.6, 0.9, 0.7], [0.1, 0.5, 0.2])
    )
    together = behind_best([a, b, c])
    apart = [Scored(mean_interval(row), run, None, row) for row, run in zip((a, b, c), "xyz", strict=True)]
    assert standings(apart) == together
    one_lost = [apart[0], apart[1], apart[2]._replace(accuracy=None)]
    found = standings(one_lost)
    assert found[:2] == together[:2]
    (mean_b, width_b), (mean_c, width_c) = mean_interval(b), mean_interval(c)
    assert found[2] == Standing(mean_b - mean_c, math.hypot(width_b, width_c), is_paired=False)


def test_what_ran_with_the_best_keeps_its_paired_standing():
    kept = Standing(0.02, 0.01, is_paired=True)
    rows = [
        Scored(Interval(0.80, 0.05), "one", kept),
        Scored(Interval(0.82, 0.05), "one", Standing(0.0, 0.0, True)),
        Scored(Interval(0.81, 0.05), "two", Standing(0.0, 0.0, True)),
    ]
    found = standings(rows)
    assert found[0] is kept
    assert found[1] == Standing(0.0, 0.0, True)
    # Best of its own run, which is not the best of all.
    assert (found[2].is_paired, found[2].mean) == (False, pytest.approx(0.01))
    # With a better one from elsewhere, what the first was measured against no longer counts.
    better = standings([*rows, Scored(Interval(0.9, 0.01), "three")])
    assert better[0] == Standing(pytest.approx(0.1), pytest.approx(math.hypot(0.05, 0.01)), False)
    assert better[3] == Standing(0.0, 0.0, True)


def test_ties_hold_as_often_as_the_interval_says():
    # Two equal methods: "behind" in about one run of twenty.
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(400, 2, 200, dtype=torch.float64, generator=generator)
    behind = sum(not all(standing.is_tie for standing in behind_best(list(pair))) for pair in draws)
    assert 400 * 0.05 - 3 * math.sqrt(400 * 0.05 * 0.95) < behind < 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
