"""Session scores against a hand-made matrix, a naive loop, scikit-learn and the published tables."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fewshot.metrics.classification import auroc, false_positive_rate_at, harmonic_mean
from fewshot.metrics.sessions import (
    SessionScores,
    average_accuracy,
    average_harmonic_mean,
    confusion_matrix,
    generalized_accuracy,
    performance_drop,
    session_accuracies,
    session_scores,
)
from tests.kits.drawing import refuses
from tests.reference import session_loops as loops


@st.composite
def answered(draw):
    """Batches of true classes, answers and answers among new classes, and the session of each class."""
    seed, n_base = draw(st.integers(0, 2**20)), draw(st.integers(1, 3))
    n_seen = n_base + draw(st.sampled_from([0, 1, 3, 4]))
    n_queries = draw(st.integers(1, 30).filter(lambda n: n not in (n_seen, 2, 3)))
    rng = np.random.default_rng(seed)
    truth, answers = rng.integers(0, n_seen, (2, 2, 3, n_queries))
    answers = np.where(rng.random(truth.shape) < 0.4, truth, answers)
    novel_answers = rng.integers(min(n_base, n_seen - 1), n_seen, truth.shape)
    later = np.sort(rng.integers(1, 4, n_seen - n_base))
    class_sessions = rng.permutation(np.concatenate([np.zeros(n_base, dtype=int), later]))
    return tuple(map(torch.from_numpy, (truth, answers, novel_answers, class_sessions)))


def same(found, expected):
    return found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=100)
@given(answered())
def test_scores_equal_the_loop_over_queries(problem):
    truth, answers, novel_answers, class_sessions = problem
    n_seen = len(class_sessions)
    confusion, novel_confusion = (confusion_matrix(said, truth, n_seen) for said in (answers, novel_answers))
    found = session_scores(confusion, class_sessions, novel_confusion=novel_confusion)
    each = session_accuracies(confusion, class_sessions, 4)
    assert each.shape == (2, 3, 4)
    session_of = dict(enumerate(class_sessions.tolist()))
    for a, b in np.ndindex(2, 3):
        one = [values[a, b].tolist() for values in (truth, answers, novel_answers)]
        expected = loops.scores(*one[:2], session_of, one[2])
        for name, values in found._asdict().items():
            assert values.shape == (2, 3)
            assert values.dtype == torch.float64
            assert same(values[a, b].item(), expected[name]), name
        for j in range(4):
            assert same(each[a, b, j].item(), loops.accuracy_of_session(*one[:2], session_of, j))


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(answered())
def test_the_confusion_matrix_is_scikit_learns_and_padding_does_not_count(problem):
    truth, answers, _, class_sessions = problem
    n_seen = len(class_sessions)
    found = confusion_matrix(answers, truth, n_seen)
    padding = torch.full((2, 3, 2), -1)
    padded = confusion_matrix(torch.cat([padding + 1, answers], -1), torch.cat([padding, truth], -1), n_seen)
    assert torch.equal(padded, found)
    for a, b in np.ndindex(2, 3):
        expected = sk.confusion_matrix(truth[a, b], answers[a, b], labels=range(n_seen))
        assert found[a, b].tolist() == expected.tolist()


@given(answered())
def test_what_is_lost_of_the_new_classes_went_to_base_or_to_another_new_class(problem):
    # P23 of teen.md
    truth, answers, _, class_sessions = problem
    confusion = confusion_matrix(answers, truth, len(class_sessions))
    scores = session_scores(confusion, class_sessions)
    is_new = class_sessions > 0
    rows = confusion[..., is_new, :].sum((-2, -1)).double()
    micro_new = confusion.diagonal(dim1=-2, dim2=-1)[..., is_new].sum(-1) / rows
    lost = scores.new_to_base_rate + scores.new_to_new_rate
    torch.testing.assert_close(1 - micro_new.double(), lost, atol=1e-7, rtol=0, equal_nan=True)
    low, high = torch.minimum(scores.base, scores.new), torch.maximum(scores.base, scores.new)
    bounded = (scores.harmonic_mean >= low - 1e-12) & (scores.harmonic_mean <= torch.minimum(high, 2 * low) + 1e-12)
    assert bool((bounded | scores.harmonic_mean.isnan()).all())
    order = torch.randperm(len(class_sessions), generator=torch.Generator().manual_seed(0))
    shuffled = session_scores(confusion[..., order, :][..., order], class_sessions[order])
    for mine, other in zip(scores, shuffled, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)


#                    answers:  a  b | c  d | e
HAND_MADE = torch.tensor([[[7, 1,  2, 0,  0],    # a  base
                           [1, 5,  1, 1,  2],    # b  base
                           [4, 0,  5, 1,  0],    # c  session 1
                           [1, 1,  2, 4,  2],    # d  session 1
                           [6, 4,  1, 0,  9]]])  # e  session 2, twice as many queries  # fmt: skip
SESSIONS = torch.tensor([0, 0, 1, 1, 2])


def test_scores_of_a_hand_made_matrix():
    among_new = torch.tensor([[[9, 1, 0, 0, 0], [0, 9, 1, 0, 0], [0, 0, 8, 1, 1], [0, 0, 2, 6, 2], [0, 0, 0, 0, 20]]])
    found = session_scores(HAND_MADE, SESSIONS, novel_confusion=among_new)
    new = (0.5 + 0.4 + 0.45) / 3
    expected = SessionScores(
        overall=30 / 60,
        base=(0.7 + 0.5) / 2,
        new=new,
        harmonic_mean=2 * 0.6 * new / (0.6 + new),
        new_to_base_rate=(4 + 2 + 10) / 40,
        new_to_new_rate=(1 + 4 + 1) / 40,
        base_to_new_rate=(2 + 4) / 20,
        gap=0.6 - new,
        old_current_harmonic_mean=2 * 0.525 * 0.45 / (0.525 + 0.45),
        novel_only_harmonic_mean=2 * 0.6 * 0.8 / 1.4,
    )
    for name, values in found._asdict().items():
        assert values.tolist() == pytest.approx([getattr(expected, name)]), name
    assert session_accuracies(HAND_MADE, SESSIONS, 3).tolist() == [pytest.approx([0.6, 0.45, 0.45])]


def test_session_0_has_no_new_classes():
    scores = session_scores(torch.tensor([[3, 1], [0, 4]]), torch.tensor([0, 0]))
    assert (scores.overall.item(), scores.base.item(), scores.base_to_new_rate.item()) == (0.875, 0.875, 0.0)
    undefined = {name for name, value in scores._asdict().items() if value.isnan()}
    assert undefined == {*SessionScores._fields} - {"overall", "base", "base_to_new_rate"}


def test_nothing_right_is_zero_and_not_undefined():
    scores = session_scores(torch.tensor([[0, 3], [2, 0]]), torch.tensor([0, 1]))
    assert (scores.harmonic_mean.item(), scores.old_current_harmonic_mean.item()) == (0.0, 0.0)
    assert math.isnan(scores.novel_only_harmonic_mean.item())
    assert harmonic_mean(torch.tensor([0.0, torch.nan]), torch.tensor([0.0, 0.0])).isnan().tolist() == [False, True]


# --------------------------------------------------------------------------------------------------- published tables

# NC-FSCIL's own logs (teen.md §3.4): base, new, and the harmonic mean to two decimals.
NC_FSCIL = {
    "CIFAR100": (
        [79.55, 78.63, 77.98, 77.60, 75.98, 74.45, 75.18, 73.98],
        [44.00, 41.60, 36.47, 31.95, 31.32, 33.97, 31.31, 29.30],
        [56.66, 54.41, 49.70, 45.26, 44.36, 46.65, 44.21, 41.98],
    ),
    "miniImageNet": (
        [78.68, 75.98, 74.10, 74.95, 76.18, 76.18, 75.55, 76.30],
        [54.20, 48.10, 42.73, 40.55, 34.88, 32.00, 32.09, 31.33],
        [64.19, 58.91, 54.20, 52.63, 47.85, 45.07, 45.05, 44.42],
    ),
    "CUB200": (
        [76.89, 77.62, 78.63, 77.23, 77.13, 76.85, 76.29, 76.61, 75.94, 76.19],
        [66.67, 45.41, 42.59, 45.88, 41.72, 44.11, 44.99, 41.16, 42.66, 43.07],
        [71.42, 57.30, 55.25, 57.56, 54.15, 56.05, 56.60, 53.55, 54.63, 55.03],
    ),
}


@pytest.mark.parametrize("name", NC_FSCIL)
def test_published_harmonic_means(name):
    base, new, published = (torch.tensor(row, dtype=torch.float64) for row in NC_FSCIL[name])
    # Two classes of 10,000 queries each make a confusion matrix with exactly these recalls.
    right = torch.stack([base, new], -1).mul(100).round().long()
    confusion = torch.diag_embed(right) + torch.diag_embed(10_000 - right).flip(-1)
    scores = session_scores(confusion, torch.tensor([0, 1]))
    torch.testing.assert_close(100 * scores.harmonic_mean, published, atol=0.0051, rtol=0)
    with_base = torch.cat([torch.tensor([torch.nan]), 100 * scores.harmonic_mean])
    torch.testing.assert_close(average_harmonic_mean(with_base), published.mean(), atol=0.0051, rtol=0)


# teen.md §3.1-3.3: accuracy per session, average, performance drop.
TABLES = {
    "mini iCaRL": ([61.31, 46.32, 42.94, 37.63, 30.49, 24.00, 20.89, 18.80, 17.21], 33.29, 44.10),
    "mini cosine": ([70.37, 65.45, 61.41, 58.00, 54.81, 51.89, 49.10, 47.27, 45.63], 55.99, 24.74),
    "mini TEEN": ([73.53, 70.55, 66.37, 63.23, 60.53, 57.95, 55.24, 53.44, 52.08], 61.44, 21.45),
    "CIFAR TOPIC": ([64.10, 55.88, 47.07, 45.16, 40.11, 36.38, 33.96, 31.55, 29.37], 42.62, 34.73),
    "CIFAR TEEN": ([74.92, 72.65, 68.74, 65.01, 62.01, 59.29, 57.90, 54.76, 52.64], 63.10, 22.28),
    "CUB FACT": ([75.90, 73.23, 70.84, 66.13, 65.56, 62.15, 61.74, 59.83, 58.41, 57.89, 56.94], 64.42, 18.96),
    "CUB TEEN": ([77.26, 76.13, 72.81, 68.16, 67.77, 64.40, 63.25, 62.29, 61.19, 60.32, 59.31], 66.63, 17.95),
}


@pytest.mark.parametrize("name", TABLES)
def test_published_averages_and_drops(name):
    row, average, drop = TABLES[name]
    overall = torch.tensor([row, [0.0] * len(row)], dtype=torch.float64)
    assert average_accuracy(overall).tolist() == pytest.approx([average, 0.0], abs=0.0051)
    assert performance_drop(overall).tolist() == pytest.approx([drop, 0.0], abs=1e-9)


# ------------------------------------------------------------------------------------------------ generalized accuracy


@pytest.mark.parametrize("base_weight", [0, 2, 7.5, 12])
def test_generalized_accuracy_is_the_integral(base_weight):
    rng = np.random.default_rng(3)
    accuracies = np.where(np.tri(4), rng.random((2, 4, 4)), np.nan)
    expected = [loops.generalized_accuracy(one, base_weight) for one in accuracies.tolist()]
    assert generalized_accuracy(torch.from_numpy(accuracies), base_weight).tolist() == pytest.approx(expected, abs=1e-6)


def test_generalized_accuracy_keeps_what_is_undefined_and_refuses_a_negative_weight():
    accuracies = torch.tensor([[0.5, torch.nan], [torch.nan, 0.5]])
    assert generalized_accuracy(accuracies, 1).isnan()
    assert generalized_accuracy(torch.tensor([[0.5]]), 3).item() == 0.5
    with refuses(ValueError, "base_weight must not be negative, got -1"):
        generalized_accuracy(accuracies, -1)


# ---------------------------------------------------------------------------------------------------- known or unknown


@st.composite
def rankings(draw):
    """Scores with many ties, infinities now and then, and which are positive: at least one of either kind."""
    n = draw(st.integers(2, 40).filter(lambda n: n != 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    scores = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), (3, 2, n)) / 4
    is_positive = rng.random((3, 2, n)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    is_positive[..., 0], is_positive[..., 1] = True, False
    return torch.from_numpy(scores), torch.from_numpy(rng.permuted(is_positive, axis=-1))


@settings(max_examples=50)
@given(rankings(), st.sampled_from([0.95, 0.5, 0.07, 0.8, 1.0]))
def test_auroc_and_false_positive_rate_are_those_of_pairs_and_of_scikit_learn(problem, rate):
    scores, is_positive = problem
    area, passed = auroc(scores, is_positive), false_positive_rate_at(scores, is_positive, rate)
    assert area.dtype == passed.dtype == torch.float64
    for a, b in np.ndindex(3, 2):
        one, positive = scores[a, b].numpy(), is_positive[a, b].numpy()
        assert area[a, b].item() == pytest.approx(loops.auroc(one, positive))
        assert area[a, b].item() == pytest.approx(sk.roc_auc_score(positive, one))
        assert passed[a, b].item() == pytest.approx(loops.false_positive_rate_at(one, positive, rate))
        fpr, tpr, _ = sk.roc_curve(positive, one, drop_intermediate=False)
        assert passed[a, b].item() == pytest.approx(fpr[tpr >= rate][0])
    torch.testing.assert_close(auroc(-scores, is_positive), 1 - area)
    torch.testing.assert_close(auroc(scores.exp(), is_positive), area)


def test_the_share_of_positives_is_not_missed_by_rounding():
    # 0.07 · 100 is 7.000000000000001 in floating point; seven of a hundred are enough.
    scores = torch.arange(200, 0, -1).float()
    is_positive = torch.zeros(200, dtype=torch.bool)
    is_positive[:7] = True
    is_positive[107:] = True
    assert false_positive_rate_at(scores, is_positive, 0.07).item() == 0.0


def test_the_threshold_is_among_the_positives_even_where_they_score_least():
    scores = torch.tensor([-torch.inf, 1.0, -torch.inf, 0.0])
    is_positive = torch.tensor([True, True, False, False])
    assert false_positive_rate_at(scores, is_positive, 0.5).item() == 0.0
    assert false_positive_rate_at(scores, is_positive).item() == 1.0
    assert auroc(scores, is_positive).item() == (0.5 + 0 + 1 + 1) / 4


@pytest.mark.parametrize("measure", [auroc, false_positive_rate_at])
@pytest.mark.parametrize("is_positive", [True, False])
def test_undefined_without_either_kind(measure, is_positive):
    assert measure(torch.tensor([1.0, 2.0]), torch.tensor([is_positive] * 2)).isnan()


@pytest.mark.parametrize("rate", [0.0, 1.01, math.nan])
def test_other_rates_are_refused(rate):
    with refuses(ValueError, f"true_positive_rate must lie in (0, 1], got {rate}"):
        false_positive_rate_at(torch.ones(2), torch.tensor([True, False]), rate)
