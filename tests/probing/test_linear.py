"""Linear probes against scikit-learn, closed forms, and what their equations promise."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot.features import load_features
from fewshot.metrics.classification import mean_class_accuracy
from fewshot.probing import (
    L2,
    LinearProbe,
    LinearSVM,
    LogisticRegression,
    flatten_views,
    pairwise_votes,
    reduce_views,
    stratified_split,
)
from fewshot.probing.logistic import C_GRID

FOLDER = Path(os.environ.get("FEWSHOT_DATA", Path(__file__).parents[3] / "shared" / "data"))
CUB = FOLDER / "cub50_efficientnet_lite2.npz"


def classes(n_classes=4, n_each=9, d=6, seed=0, spread=1.0):
    """Gaussian classes, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_classes).repeat(n_each)[torch.randperm(n_classes * n_each, generator=generator)]
    centers = spread * torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    return centers[labels] + torch.randn(len(labels), d, generator=generator, dtype=torch.float64), labels


def seeded():
    return torch.Generator().manual_seed(3)


def exact(**settings):
    return LinearSVM(**{"tolerance": 1e-10, "max_iter": 10**6, **settings})


# The support vector machine


@pytest.mark.parametrize("loss", ["hinge", "squared-hinge"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_one_vs_rest_is_that_of_scikit_learn(loss, has_bias, n_classes):
    from sklearn.svm import LinearSVC

    (x, y), other = classes(n_classes), classes(seed=1)[0]
    theirs = LinearSVC(C=0.7, loss=loss.replace("-", "_"), fit_intercept=has_bias, tol=1e-10, max_iter=10**6)
    expected = theirs.fit(x.numpy(), y.numpy()).decision_function(other.numpy())
    expected = np.stack([-expected, expected], 1) if n_classes == 2 else expected
    probe = exact(c=0.7, loss=loss, has_bias=has_bias).fit(x, y)
    np.testing.assert_allclose(probe(other).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("loss", ["hinge", "squared-hinge"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_one_vs_one_is_that_of_scikit_learn(loss, n_classes):
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.svm import LinearSVC

    (x, y), other = classes(n_classes), classes(seed=1)[0]
    theirs = OneVsOneClassifier(LinearSVC(C=0.7, loss=loss.replace("-", "_"), tol=1e-10, max_iter=10**6))
    theirs.fit(x.numpy(), y.numpy())
    scores = exact(c=0.7, loss=loss, multi_class="one-vs-one").fit(x, y)(other)
    assert scores.argmax(-1).tolist() == theirs.predict(other.numpy()).tolist()
    if n_classes > 2:
        np.testing.assert_allclose(scores.numpy(), theirs.decision_function(other.numpy()), atol=1e-6)


def test_the_default_is_that_of_scikit_learn():
    from sklearn.svm import LinearSVC

    x, y = classes()
    theirs = LinearSVC(random_state=0).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(LinearSVM().fit(x, y)(x).numpy(), theirs.decision_function(x.numpy()), atol=1e-4)


@pytest.mark.parametrize("loss", ["hinge", "squared-hinge"])
def test_two_points_are_separated_as_on_paper(loss):
    """At x = ±a, w = min(1 / a, 2 C a) for the hinge, 4 C a / (1 + 4 C a²) for its square."""
    a, c = 0.5, 0.4
    x, y = torch.tensor([[-a], [a]]).double(), torch.tensor([0, 1])
    weight = {"hinge": 2 * c * a, "squared-hinge": 4 * c * a / (1 + 4 * c * a**2)}[loss]
    probe = exact(c=c, loss=loss, has_bias=False).fit(x, y)
    torch.testing.assert_close(probe.weights, torch.tensor([[-weight], [weight]]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", ["hinge", "squared-hinge"])
@pytest.mark.parametrize("multi_class", ["one-vs-rest", "one-vs-one"])
def test_order_and_scale_and_twice_all_rows_do_not_matter(loss, multi_class):
    x, y = classes()
    order = torch.randperm(len(x), generator=seeded())
    settings = {"loss": loss, "multi_class": multi_class, "has_bias": False}
    weights = exact(c=0.5, **settings).fit(x, y).weights
    for found in (
        exact(c=0.5, **settings).fit(x[order], y[order]).weights,
        exact(c=0.25, **settings).fit(x.repeat(2, 1), y.repeat(2)).weights,
        exact(c=0.5 / 9, **settings).fit(3 * x, y).weights * 3,
    ):
        torch.testing.assert_close(found, weights, atol=1e-5, rtol=1e-4)


def test_a_fit_leaves_the_global_random_state_alone_and_repeats_itself():
    x, y = classes()
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (LinearSVM(loss="hinge").fit(x, y).weights for _ in range(2))
    assert torch.equal(first, second)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "linear SVM, squared-hinge loss, one-vs-rest, C = 1"),
        (
            {"c": 0.2, "loss": "hinge", "multi_class": "one-vs-one", "has_bias": False},
            "linear SVM, hinge loss, one-vs-one, C = 0.2, no bias",
        ),
    ],
)
def test_a_machine_says_what_it_is(settings, words):
    assert LinearSVM(**settings).describe() == words


# Votes and views


def test_votes_are_a_loop_over_pairs_and_sum_to_their_number():
    margins = torch.randn(5, 3, 10, generator=seeded())
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    expected = torch.zeros(5, 3, 5)
    for problem, (i, j) in enumerate(pairs):
        for a in range(5):
            for b in range(3):
                expected[a, b, j if margins[a, b, problem] > 0 else i] += 1
    votes = pairwise_votes(margins, 5)
    assert torch.equal(votes, expected)
    assert bool((votes.sum(-1) == 10).all())


def test_tied_votes_go_to_the_class_of_the_larger_margins():
    probe = LinearProbe(torch.eye(3).double(), torch.zeros(3).double(), 3, is_one_vs_one=True)
    # Class 0 beats 2, 2 beats 1, 1 beats 0: one vote each; their margins sum to 1, -2 and 1 + ... in turn.
    scores = probe(torch.tensor([[1.0, -4.0, 2.0], [4.0, -1.0, 2.0], [2.0, -1.0, 4.0]]))
    assert scores.argmax(-1).tolist() == [0, 1, 2]
    assert bool(((scores - 1).abs() < 1 / 3).all())


def test_the_sum_over_views_is_the_margin_of_the_summed_views():
    x, y = classes()
    probe = LinearSVM(has_bias=False).fit(x, y)
    views = classes(3, 8, seed=5)[0].view(8, 3, 6)
    torch.testing.assert_close(probe.view_scores(views), probe(views.sum(1)))
    torch.testing.assert_close(probe.view_scores(views, "mean"), probe(views.mean(1)))


@pytest.mark.parametrize("multi_class", ["one-vs-rest", "one-vs-one"])
@pytest.mark.parametrize("reduce", ["sum", "max", "mean"])
def test_views_are_reduced_before_the_vote(multi_class, reduce):
    x, y = classes()
    probe = LinearSVM(multi_class=multi_class).fit(x, y)
    views = classes(3, 8, seed=5)[0].view(8, 3, 6)
    margins = getattr(np, reduce)((views.numpy() @ probe.weights.numpy().T) + probe.bias.numpy(), axis=1)
    expected = torch.from_numpy(margins)
    found = probe.view_scores(views, reduce)
    if multi_class == "one-vs-rest":
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found.round(), pairwise_votes(expected, 4))


def test_views_train_as_rows_of_their_own():
    views, labels = torch.arange(24.0).view(4, 3, 2), torch.tensor([5, 6, 7, 8])
    rows, repeated = flatten_views(views, labels)
    for item in range(4):
        for view in range(3):
            assert torch.equal(rows[3 * item + view], views[item, view])
            assert repeated[3 * item + view] == labels[item]


def test_an_unknown_reduction_is_refused():
    with pytest.raises(
        ValueError, match=r"^unknown reduction of views 'sun': did you mean 'sum'\? Known: max, mean, sum$"
    ):
        reduce_views(torch.zeros(2, 3), "sun")


# Logistic regression


@pytest.mark.parametrize("n_classes", [2, 4])
def test_logistic_regression_at_one_c_has_the_probabilities_of_scikit_learn(n_classes):
    from sklearn.linear_model import LogisticRegression as Theirs

    (x, y), other = classes(n_classes), classes(seed=1)[0]
    theirs = Theirs(C=0.3, tol=1e-10, max_iter=10000).fit(x.numpy(), y.numpy())
    probe, c = LogisticRegression((0.3,), tolerance=1e-10, max_iter=10000).fit(x, y, generator=seeded())
    assert c == 0.3
    np.testing.assert_allclose(probe(other).softmax(-1).numpy(), theirs.predict_proba(other.numpy()), atol=1e-6)


def test_c_is_chosen_on_held_out_training_rows_and_the_last_fit_has_them_all():
    from sklearn.linear_model import LogisticRegression as Theirs

    x, y = classes(3, 40, d=20, spread=0.35)
    grid = (30.0, 0.01, 1e-6, 0.3)
    held_out = stratified_split(y, 0.1, generator=seeded()).numpy()
    seen = {
        c: Theirs(C=c, tol=1e-8, max_iter=5000).fit(x.numpy()[~held_out], y.numpy()[~held_out]) for c in sorted(grid)
    }
    accuracy = {c: fitted.score(x.numpy()[held_out], y.numpy()[held_out]) for c, fitted in seen.items()}
    best = min(c for c in grid if accuracy[c] == max(accuracy.values()))
    assert accuracy[best] > max(accuracy[c] for c in grid if c != best)
    trace = []
    regression = LogisticRegression(grid, tolerance=1e-8, max_iter=5000)
    probe, c = regression.fit(x, y, generator=seeded(), progress=lambda *now: trace.append(now))
    assert c == best
    expected = Theirs(C=best, tol=1e-8, max_iter=5000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(probe(x).softmax(-1).numpy(), expected.predict_proba(x.numpy()), atol=1e-5)
    running = [max(accuracy[c] for c in sorted(grid)[: n + 1]) for n in range(4)]
    assert trace == [(n + 1, pytest.approx(value)) for n, value in enumerate(running)]


def test_the_smallest_of_equally_good_c_is_taken():
    x, y = classes(3, 20, spread=30.0)
    assert LogisticRegression((50.0, 5.0, 500.0)).fit(x, y, generator=seeded())[1] == 5.0


def test_the_grid_is_that_of_dinov2():
    assert len(C_GRID) == 45
    assert C_GRID[0] == pytest.approx(1e-6)
    assert C_GRID[-1] == pytest.approx(1e5)
    assert np.diff(np.log10(C_GRID)) == pytest.approx(np.full(44, 0.25))


def test_logistic_regression_says_what_it_is():
    assert LogisticRegression().describe() == (
        "multinomial logistic regression, C chosen of 45 values on 10 % of the training rows"
    )
    assert LogisticRegression((2.0,)).describe() == "multinomial logistic regression, C = 2"


# What is refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearSVM(c=0), "c must be positive, got 0"),
        (lambda: LinearSVM(loss="hinges"), "unknown loss 'hinges': did you mean 'hinge'? Known: hinge, squared-hinge"),
        (
            lambda: LinearSVM(multi_class="ovr"),
            "unknown multi_class 'ovr'. Known: one-vs-one, one-vs-rest",
        ),
        (lambda: LogisticRegression(()), "c_grid must hold at least one value of C, got none"),
        (lambda: LogisticRegression((1.0, -1.0)), "c must be positive, got -1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), "labels must be 3 integers, one a row, got torch.int64 of shape (2,)"),
        (torch.tensor([0.0, 1.0, 1.0]), "labels must be 3 integers, one a row, got torch.float32 of shape (3,)"),
        (torch.tensor([0, -1, 1]), "labels must be 0, 1, ..., got -1: leave unlabelled rows out"),
        (torch.tensor([0, 2, 2]), "labels must number the classes without a gap: class 1 has no row"),
        (torch.tensor([0, 0, 0]), "labels must hold at least two classes, got 1"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(labels, message):
    for fit in (LinearSVM().fit, lambda x, y: LogisticRegression().fit(x, y, generator=seeded())):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            fit(torch.eye(3), labels)


def test_features_of_another_width_are_refused_by_a_probe():
    probe = LinearSVM().fit(*classes())
    message = "features must have 6 features a row, got 5: take both from one extractor"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        probe(torch.zeros(2, 5))


def test_scores_have_the_dtype_of_the_features_and_half_is_widened():
    probe = LinearSVM().fit(*classes())
    for dtype, expected in ((torch.float64,) * 2, (torch.float32,) * 2, (torch.float16, torch.float32)):
        assert probe(torch.zeros(2, 6, dtype=dtype)).dtype == expected


# Stratified split


def test_a_split_takes_its_share_of_each_class_and_leaves_each_one_row():
    labels = torch.tensor([3] * 1 + [0] * 2 + [7] * 5 + [1] * 20)[torch.randperm(28, generator=seeded())]
    for fraction, counts in ((0.1, (0, 1, 1, 2)), (0.5, (0, 1, 2, 10)), (0.99, (0, 1, 4, 19))):
        held_out = stratified_split(labels, fraction, generator=seeded())
        assert tuple(int(held_out[labels == label].sum()) for label in (3, 0, 7, 1)) == counts


def test_a_split_is_decided_by_the_seed_and_every_row_has_its_chance():
    labels = torch.tensor([0, 1] * 6)
    draws = [stratified_split(labels, 0.5, generator=torch.Generator().manual_seed(seed)) for seed in (*range(200), 0)]
    assert torch.equal(draws[0], draws[-1])
    share = torch.stack(draws).double().mean(0)
    assert bool(((share - 0.5).abs() < 0.15).all())


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        ([0, 0, 1], 1.0, "fraction must lie between 0 and 1, got 1.0"),
        ([0, 0, 1], 0.0, "fraction must lie between 0 and 1, got 0.0"),
        ([0, 1, 2], 0.5, "no class has two rows, one for each side of the split: give a test set of its own"),
    ],
)
def test_a_split_that_cannot_be_is_refused(labels, fraction, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stratified_split(torch.tensor(labels), fraction, generator=seeded())


# Real features


@pytest.mark.skipif(not CUB.exists(), reason="needs cub50_efficientnet_lite2.npz in the folder named by FEWSHOT_DATA")
def test_the_machine_on_fifty_birds_is_scikit_learns_by_hand():
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import normalize
    from sklearn.svm import LinearSVC

    train, test = load_features(f"{CUB}:train"), load_features(f"{CUB}:test")
    assert train.class_names == test.class_names
    theirs = LinearSVC(C=2).fit(normalize(train.features.numpy()), train.labels.numpy())
    answers = theirs.predict(normalize(test.features.numpy()))
    expected = balanced_accuracy_score(test.labels.numpy(), answers)
    ours = LinearSVM(c=2).fit(L2()(train.features), train.labels)(L2()(test.features)).argmax(-1)
    assert float(mean_class_accuracy(ours, test.labels, 50)) == pytest.approx(expected, abs=0.01)
    assert expected > 0.75
