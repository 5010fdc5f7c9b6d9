"""Evaluation of sessions is a loop over draws, sessions and queries; and it shows no test row to what learns."""

import json
import math

import pytest
import torch
from fewshot_episodes import incremental_sessions

from fewshot.evaluation.sessions import evaluate_sessions
from fewshot.metrics.classification import mean_interval
from tests.kits.drawing import generator, refuses
from tests.reference import session_loops as loops

CLASS_IDS = [30, 4, 17, 8, 25, 11, 2]  # neither contiguous nor in the order of arrival
N_SESSIONS = 4


class NearestMean:
    """Class means in order of arrival; scores are negative squared distances."""

    def fit(self, X, y):
        self.classes_, self.means = y.new_empty(0), X.new_empty(0, X.shape[1])
        return self.partial_fit(X, y)

    def partial_fit(self, X, y):
        new = y.unique()
        self.classes_ = torch.cat([self.classes_, new])
        self.means = torch.cat([self.means, torch.stack([X[y == c].mean(0) for c in new])])
        return self

    def decision_function(self, X):
        return -((X[:, None] - self.means) ** 2).sum(-1)


class Reversed(NearestMean):
    """The same in NumPy, its columns in another order."""

    def partial_fit(self, X, y):
        super().partial_fit(X, y)
        self.classes_, self.means = self.classes_.flip(0), self.means.flip(0)
        return self

    def decision_function(self, X):
        return super().decision_function(X).numpy()


def pool(n_per_class=11):
    seeded = generator(0)
    place = torch.arange(len(CLASS_IDS)).repeat(n_per_class)
    centers = 1.2 * torch.randn(len(CLASS_IDS), 3, generator=seeded, dtype=torch.float64)
    features = centers[place] + torch.randn(len(place), 3, generator=seeded, dtype=torch.float64)
    return features, torch.tensor(CLASS_IDS)[place]


def drawn(labels, n_draws=3, seed=1, **options):
    shared = generator(seed)
    options = {"class_order": "random"} | options
    return [incremental_sessions(labels, 2, 2, 2, **options, generator=shared) for _ in range(n_draws)]


FEATURES, LABELS = pool()
DRAWS = drawn(LABELS)


def evaluate(build=NearestMean, *, draws=DRAWS, **options):
    return evaluate_sessions(build, FEATURES, LABELS, draws, **options)


def test_scores_equal_a_loop_over_draws_sessions_and_queries():
    results = evaluate()
    assert (results.n_draws, results.n_sessions, results.n_new_classes.tolist()) == (3, N_SESSIONS, [2, 2, 2, 1])
    found = results.per_session()
    for number, draw in enumerate(DRAWS):
        pairs = [(session.support_index.tolist(), session.query_index.tolist()) for session in draw]
        expected = loops.nearest_mean_sessions(FEATURES.tolist(), LABELS.tolist(), pairs)
        for i, one in enumerate(expected):
            known = [True] * len(one["highest_seen"]) + [False] * len(one["highest_unseen"])
            highest = one["highest_seen"] + one["highest_unseen"]
            wanted = loops.scores(one["truth"], one["answers"], one["session_of"], one["novel_answers"] if i else None)
            wanted["auroc"] = loops.auroc(highest, known)
            wanted["fpr_at_95"] = loops.false_positive_rate_at(highest, known, 0.95)
            assert wanted.keys() == found.keys()
            for name, value in wanted.items():
                assert found[name][number, i].item() == pytest.approx(value, nan_ok=True), (name, i)
            each = [
                loops.accuracy_of_session(*(one[k] for k in ("truth", "answers", "session_of")), j) for j in range(4)
            ]
            assert results.session_accuracy[number, i].tolist() == pytest.approx(each, nan_ok=True)
    assert results.auroc[:, -1].isnan().all()
    assert not results.auroc[:, :-1].isnan().any()
    assert 0.3 < results.scores.overall.mean() < 0.95  # neither chance nor perfect, so that mistakes show


def same(one, other):
    for name, values in one.per_session().items():
        torch.testing.assert_close(values, other.per_session()[name], equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batches_change_nothing(batch_size):
    same(evaluate(), evaluate(batch_size=batch_size))


def test_the_columns_may_come_in_any_order_and_as_an_array():
    same(evaluate(), evaluate(Reversed))


def test_two_classes_may_be_scored_as_scikit_learn_does():
    class Difference(NearestMean):
        def decision_function(self, X):
            scores = super().decision_function(X)
            return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    class Both(Difference):
        def class_scores(self, X):
            return NearestMean.decision_function(self, X)

    expected, found = evaluate(), evaluate(Difference)
    same(expected, evaluate(Both))
    torch.testing.assert_close(found.scores, expected.scores, equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(found.auroc[:, 0], expected.auroc[:, 0])  # only the margin of the two is known
    assert torch.equal(found.auroc[:, 1:-1], expected.auroc[:, 1:-1])


def test_each_draw_starts_afresh_and_draws_may_be_a_generator():
    whole = evaluate(draws=iter(DRAWS))
    same(whole, evaluate())
    last = evaluate(draws=DRAWS[2:])
    torch.testing.assert_close(last.scores.overall[0], whole.scores.overall[2], rtol=0, atol=0)


def test_no_test_row_is_shown_to_what_learns():
    shown = []

    class Recorder(NearestMean):
        def fit(self, X, y):
            shown.append(("fit", X, y))
            # A fresh start: what fit does here goes through partial_fit of the parent.
            self.classes_, self.means = y.new_empty(0), X.new_empty(0, X.shape[1])
            return super().partial_fit(X, y)

        def partial_fit(self, X, y):
            shown.append(("partial_fit", X, y))
            return super().partial_fit(X, y)

    evaluate(Recorder, draws=DRAWS[:1])
    assert [name for name, _, _ in shown] == ["fit"] + ["partial_fit"] * 3
    tested = FEATURES[DRAWS[0][-1].query_index]
    for (_, X, y), session in zip(shown, DRAWS[0], strict=True):
        assert torch.equal(X, FEATURES[session.support_index])
        assert torch.equal(y, LABELS[session.support_index])
        assert not (X[:, None] == tested).all(-1).any()


def test_the_answers_are_given_without_gradients():
    class Watched(NearestMean):
        def decision_function(self, X):
            assert not torch.is_grad_enabled()
            return super().decision_function(X)

        def partial_fit(self, X, y):
            assert torch.is_grad_enabled()
            return super().partial_fit(X, y)

    evaluate(Watched)


def test_progress_counts_draws_and_sessions():
    seen = []
    evaluate(progress=lambda draw, session: seen.append((draw, session)))
    assert seen == [(draw, session) for draw in range(3) for session in range(N_SESSIONS)]


# -------------------------------------------------------------------------------------------------------------- summary


def test_the_summary_is_over_sessions():
    results = evaluate()
    overall, harmonic = results.scores.overall, results.scores.harmonic_mean
    summary = results.summary()
    assert [*summary] == ["average_accuracy", "performance_drop", "average_harmonic_mean", "generalized_accuracy"]
    torch.testing.assert_close(summary["average_accuracy"], overall.mean(1))
    torch.testing.assert_close(summary["performance_drop"], overall[:, 0] - overall[:, 3])
    torch.testing.assert_close(summary["average_harmonic_mean"], harmonic[:, 1:].mean(1))
    for values, accuracies in zip(summary["generalized_accuracy"], results.session_accuracy.tolist(), strict=True):
        assert values.item() == pytest.approx(loops.generalized_accuracy(accuracies, 1))
    intervals = results.mean_interval()
    assert intervals["base"] == tuple(mean_interval(results.scores.base[:, i]) for i in range(N_SESSIONS))
    assert results.summary_interval()["performance_drop"] == mean_interval(overall[:, 0] - overall[:, 3])


def test_differences_are_paired():
    class FirstClass(NearestMean):
        def decision_function(self, X):
            return -torch.arange(len(self.classes_)).expand(len(X), -1).double()

    ours, theirs = evaluate(), evaluate(FirstClass)
    found = ours.difference(theirs)["overall"]
    assert found == tuple(mean_interval((ours.scores.overall - theirs.scores.overall)[:, i]) for i in range(N_SESSIONS))
    assert all(interval.mean > 0 for interval in found)


def test_everything_is_ready_for_json():
    results = evaluate(draws=DRAWS[:2])
    read = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert (read["n_draws"], read["n_sessions"], read["n_new_classes"]) == (2, N_SESSIONS, [2, 2, 2, 1])
    assert read["per_session"]["new"][0] == {"mean": None, "half_width": None}
    interval = mean_interval(results.scores.new[:, 2])
    assert read["per_session"]["new"][2] == {"mean": interval.mean, "half_width": interval.half_width}
    assert read["draws"]["overall"] == results.scores.overall.tolist()
    assert read["draws"]["session_accuracy"][1][0][1:] == [None] * 3
    assert read["summary"].keys() == results.summary().keys()
    assert all(seconds > 0 for row in read["draws"]["learning_seconds"] for seconds in row)
    one = evaluate(draws=DRAWS[:1]).to_dict()["summary"]["average_accuracy"]
    assert one["half_width"] is None
    assert math.isfinite(one["mean"])


# ---------------------------------------------------------------------------------------------- the published session 0


def test_the_better_of_two_only_where_it_is_asked_for():
    draws = drawn(LABELS, class_order=CLASS_IDS)
    plain = evaluate(draws=draws)
    assert plain.published_session0 is None
    base = torch.tensor(CLASS_IDS[:2])
    right = (LABELS[:, None] == base).double()
    for logits, is_better in ((right, True), (-right, False)):
        results = evaluate(draws=draws, trained_logits=logits)
        same(results, plain)
        own = plain.scores.overall
        assert results.published_session0.tolist() == ([1.0] * 3 if is_better else own[:, 0].tolist())
        summary = results.summary()
        assert summary["performance_drop"].tolist() == plain.summary()["performance_drop"].tolist()
        drop = results.published_session0 - own[:, -1]
        assert summary["published_performance_drop"].tolist() == drop.tolist()
        average = (results.published_session0 + own[:, 1:].sum(1)) / N_SESSIONS
        assert summary["published_average_accuracy"].tolist() == pytest.approx(average.tolist())
        assert "published_session0" in results.to_dict()["summary"]
    for shape in ((77, 3), (76, 2)):
        message = (
            f"trained_logits must have one row per label and one column per base class, (77, 2), got shape {shape}"
        )
        with refuses(ValueError, message):
            evaluate(draws=draws, trained_logits=torch.zeros(shape))
    with refuses(ValueError, "trained_logits need the same base classes in the same order, but draw 1 has others"):
        evaluate(trained_logits=right)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused():
    with refuses(ValueError, "features must have one row for each of the 77 labels, got 76 rows"):
        evaluate_sessions(NearestMean, FEATURES[1:], LABELS, DRAWS)
    with refuses(ValueError, "batch_size must be at least 1, got 0"):
        evaluate(batch_size=0)
    with refuses(ValueError, "evaluation needs at least one draw of sessions, got none"):
        evaluate(draws=[])
    with refuses(
        ValueError,
        "draws must bring equally many classes per session: draw 0 brings [2, 2, 2, 1], draw 1 [2, 2]",
    ):
        evaluate(draws=[DRAWS[0], DRAWS[1][:2]])
    with refuses(ValueError, "session 0 of draw 0 has rows of other classes: was it drawn from these labels?"):
        evaluate_sessions(NearestMean, FEATURES, LABELS.roll(1), DRAWS)
    leaking = [*DRAWS[0][:2], DRAWS[0][2]._replace(support_index=DRAWS[0][2].query_index[-3:]), DRAWS[0][3]]
    with refuses(ValueError, "session 2 of draw 0 learns from rows that are test rows"):
        evaluate(draws=[leaking])


def test_an_estimator_that_does_not_keep_its_contract_is_refused():
    class Forgetful(NearestMean):
        def partial_fit(self, X, y):
            self.classes_, self.means = y.new_empty(0), X.new_empty(0, X.shape[1])
            return super().partial_fit(X, y)

    class Flat(NearestMean):
        def decision_function(self, X):
            return super().decision_function(X)[:, :1]

    class Undefined(NearestMean):
        def decision_function(self, X):
            return super().decision_function(X) * torch.nan

    draws = drawn(LABELS, 1, class_order=CLASS_IDS)
    with refuses(
        ValueError,
        "the estimator's classes_ must be the 4 classes that it was shown, [4, 8, 17, 30], got [8, 17]",
    ):
        evaluate(Forgetful, draws=draws)
    n_asked = len(draws[0][-1].query_index)
    with refuses(
        ValueError, f"the estimator must give one score per query and class, ({n_asked}, 2), got ({n_asked}, 1)"
    ):
        evaluate(Flat, draws=draws)
    with refuses(ValueError, f"the estimator gave {2 * n_asked} NaN scores after 2 classes"):
        evaluate(Undefined, draws=draws)
