"""Evaluation is a loop over episodes, only faster; and it says what it noticed."""

import math

import pytest
import torch
from fewshot_episodes import Episode, EpisodeSampler, MetaDatasetSampler

from fewshot.episodic.em_gaussian import EMGaussian
from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.episodic.unem.model import UNEM
from fewshot.evaluation.episodes import EpisodeScores, evaluate_episodes
from fewshot.metrics.classification import episode_accuracy, mean_interval

N_CLASSES, N_FEATURES = 6, 5


def pool(separation=1.0, n_per_class=30, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N_CLASSES).repeat(n_per_class)
    centers = separation * torch.randn(N_CLASSES, N_FEATURES, generator=generator)
    features = centers[labels] + torch.randn(len(labels), N_FEATURES, generator=generator)
    return features.to(dtype), labels


def evaluate(methods, *, sampler=None, n_episodes=23, batch_size=7, seed=3, separation=1.0, **options):
    features, labels = pool(separation)
    sampler = EpisodeSampler(labels, n_way=4, n_shot=2, n_query=5) if sampler is None else sampler
    generator = torch.Generator().manual_seed(seed)
    return evaluate_episodes(
        methods, features, sampler, n_episodes=n_episodes, batch_size=batch_size, generator=generator, **options
    )


METHODS = {"prototypes": NearestPrototype(), "em": EMGaussian(), "unem": UNEM(4)}


def accuracies_by_loops(method, sampler, n_episodes, seed):
    """Answer one episode at a time, gathered by hand, and count by hand."""
    features, labels = pool()
    found, n_leaked, n_queries = [], 0, 0
    # Drawn all at once: batches must not change the draws.
    for index in sampler.batches(n_episodes, n_episodes, generator=torch.Generator().manual_seed(seed)):
        for n in range(index.n_episodes):
            support, query = (rows[n][rows[n] >= 0] for rows in (index.support_index, index.query_index))
            class_ids = index.class_ids[n][index.class_ids[n] >= 0]
            places = {int(class_id): k for k, class_id in enumerate(class_ids)}
            support_labels = torch.tensor([places[int(label)] for label in labels[support]])
            episode = Episode(
                support=features[support], support_labels=support_labels, query=features[query], class_ids=class_ids
            )
            with torch.no_grad():
                answers = class_ids[method(episode).argmax(-1)]
            found.append(
                sum(int(a) == int(label) for a, label in zip(answers, labels[query], strict=True)) / len(query)
            )
            n_leaked += len(set(query.tolist()) & set(support.tolist()))
            n_queries += len(query)
    return found, n_queries, n_leaked


def samplers():
    _, labels = pool()
    return {
        "balanced": EpisodeSampler(labels, n_way=4, n_shot=2, n_query=5),
        "dirichlet": EpisodeSampler(
            labels, n_way=4, n_shot=2, n_query_total=11, query_distribution="dirichlet", n_effective_way=3
        ),
        "meta-dataset": MetaDatasetSampler(labels),
        "leaking": EpisodeSampler(labels, n_way=4, n_shot=12, n_query=9, protocol="unem-official"),
    }


@pytest.mark.parametrize("name", ["balanced", "dirichlet", "meta-dataset", "leaking"])
def test_scores_equal_a_loop_over_episodes(name):
    sampler = samplers()[name]
    outcome = evaluate(METHODS, sampler=sampler, n_episodes=13, batch_size=4)
    assert outcome.n_episodes == 13
    for method_name, method in METHODS.items():
        expected, n_queries, n_leaked = accuracies_by_loops(method, sampler, 13, seed=3)
        assert outcome.scores[method_name].accuracy.tolist() == pytest.approx(expected, abs=1e-6)
        assert outcome.n_queries == n_queries
        assert outcome.n_leaked == n_leaked
        assert outcome.scores[method_name].seconds > 0
    assert outcome.sampling_seconds > 0
    assert (outcome.n_leaked > 0) == (name == "leaking")


@pytest.mark.parametrize("name", ["balanced", "meta-dataset"])
def test_batch_size_and_pieces_change_nothing(name, monkeypatch):
    outcomes = [evaluate(METHODS, sampler=samplers()[name], n_episodes=11, batch_size=size) for size in (1, 4, 11, 64)]
    monkeypatch.setattr("fewshot.evaluation.episodes._CACHE_BYTES", 1)
    outcomes.append(evaluate(METHODS, sampler=samplers()[name], n_episodes=11, batch_size=4))
    for outcome in outcomes[1:]:
        assert outcome.episode_hash == outcomes[0].episode_hash
        for method_name in METHODS:
            assert outcome.scores[method_name].accuracy.tolist() == outcomes[0].scores[method_name].accuracy.tolist()


def test_seeds_are_what_decides():
    one, same, other = (evaluate(METHODS, seed=seed) for seed in (1, 1, 2))
    assert one.episode_hash == same.episode_hash != other.episode_hash
    assert torch.equal(one.scores["em"].accuracy, same.scores["em"].accuracy)
    # A method's scores do not depend on which others run.
    alone = evaluate({"em": EMGaussian()}, seed=1)
    assert alone.episode_hash == one.episode_hash
    assert torch.equal(alone.scores["em"].accuracy, one.scores["em"].accuracy)


def test_progress_is_the_running_mean():
    seen = []
    outcome = evaluate(METHODS, n_episodes=10, batch_size=4, progress=lambda n, means: seen.append((n, dict(means))))
    assert [n for n, _ in seen] == [4, 8, 10]
    for n, means in seen:
        for name, mean in means.items():
            assert mean == pytest.approx(float(outcome.scores[name].accuracy[:n].double().mean()))
    assert set(seen[0][1]) == set(METHODS)


def test_features_and_models_are_not_changed():
    features, labels = pool()
    copy = features.clone()
    sampler = EpisodeSampler(labels, n_way=4, n_shot=2, n_query=5)
    model = UNEM(2)
    evaluate_episodes({"unem": model}, features, sampler, n_episodes=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(features, copy)
    assert all(torch.equal(mine, fresh) for mine, fresh in zip(model.parameters(), UNEM(2).parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_methods_run_in_the_dtype_of_the_features_and_record_nothing(dtype):
    features, labels = pool(dtype=dtype)
    sampler = EpisodeSampler(labels, n_way=4, n_shot=2, n_query=5)
    seen = []

    class Spy:
        is_transductive = False

        def __call__(self, episode):
            seen.append((episode.query.dtype, torch.is_inference_mode_enabled()))
            return NearestPrototype()(episode)

        def describe(self):
            return "spy"

    evaluate_episodes({"spy": Spy()}, features, sampler, n_episodes=3, generator=torch.Generator().manual_seed(0))
    assert seen == [(torch.float32 if dtype == torch.float16 else dtype, True)]


# Intervals


def test_interval_by_its_formula():
    # Mean 0.5, squared deviations 0.09 + 0.01 + 0.01 + 0.09 over n - 1 = 3.
    interval = mean_interval(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    assert interval.mean == pytest.approx(0.5)
    assert interval.half_width == pytest.approx(1.96 * math.sqrt(0.2 / 3) / 2, rel=1e-6)
    alone = mean_interval(torch.tensor([0.25]))
    assert alone.mean == 0.25
    assert math.isnan(alone.half_width)


def test_differences_are_paired():
    one = EpisodeScores(torch.tensor([0.1, 0.9, 0.5, 0.3]), 1.0, ())
    other = EpisodeScores(one.accuracy - torch.tensor([0.1, 0.2, 0.1, 0.2]), 1.0, ())
    assert one.interval == mean_interval(one.accuracy)
    difference = one.difference(other)
    assert difference.mean == pytest.approx(0.15)
    # Much narrower than the scores' own: the episodes' difficulty cancels.
    assert difference.half_width == pytest.approx(1.96 * math.sqrt(0.01 / 3) / 2, rel=1e-5)
    assert other.difference(one).mean == pytest.approx(-0.15)


def test_accuracy_is_of_real_queries_over_all_ways():
    log_probs = torch.tensor([[[0.1, 0.9], [0.7, 0.3], [0.6, 0.4]], [[0.2, 0.8], [0.1, 0.9], [1.0, 0.0]]]).log()
    labels = torch.tensor([[1, 1, -1], [1, -1, -1]])
    assert episode_accuracy(log_probs, labels).tolist() == [0.5, 1.0]


# Warnings


def warnings_of(method, separation=1.0, n_episodes=20):
    return evaluate({"em": method}, separation=separation, n_episodes=n_episodes).scores["em"].warnings


def test_collapse_is_told():
    method = EMGaussian(scale=1e-3, class_balance=50.0, n_layers=30, is_relative=False)
    assert warnings_of(method) == (
        "in 20 of 20 episodes one class took all queries: unless your queries do come from one class, "
        "lower class_balance or raise scale",
    )


def test_one_hot_beginnings_are_told():
    method = EMGaussian(scale=1e4, is_relative=False)
    assert warnings_of(method) == (
        "in 20 of 20 episodes the first assignments were all one-hot, so that EM could not change them: lower scale",
    )


def test_well_behaved_methods_are_silent():
    assert warnings_of(EMGaussian()) == ()
    assert warnings_of(NearestPrototype()) == ()


def test_one_in_a_hundred_is_not_told():
    class Sometimes:
        """Says that the first episodes of a batch collapsed."""

        is_transductive = True

        def __init__(self, n_bad):
            self.n_bad = n_bad

        def __call__(self, episode):
            return self.solve(episode).log_responsibilities

        def solve(self, episode):
            is_collapsed = torch.arange(episode.batch_shape[0]) < self.n_bad
            return EMGaussian().solve(episode)._replace(is_collapsed=is_collapsed)

        def describe(self):
            return ""

    def told(n_bad):
        outcome = evaluate({"em": Sometimes(n_bad)}, n_episodes=200, batch_size=200)
        return outcome.scores["em"].warnings

    assert told(2) == ()
    assert told(3)[0].startswith("in 3 of 200 episodes one class took all queries: ")


# The door


@pytest.mark.parametrize(
    ("methods", "options", "got"),
    [
        ({}, {}, "got 0 methods, n_episodes=23, batch_size=7"),
        (METHODS, {"n_episodes": 0}, "got 3 methods, n_episodes=0, batch_size=7"),
        (METHODS, {"batch_size": 0}, "got 3 methods, n_episodes=23, batch_size=0"),
    ],
)
def test_nothing_to_evaluate_is_an_error(methods, options, got):
    message = f"^evaluation needs at least one method, episode and episode per batch, {got}$"
    with pytest.raises(ValueError, match=message):
        evaluate(methods, **options)


def test_features_that_are_not_one_row_a_label_are_refused():
    features, labels = pool()
    sampler = EpisodeSampler(labels, n_way=4, n_shot=2, n_query=5)
    for wrong in (features[:-1], features.repeat(2, 1)):
        message = rf"^features must have one row for each of the sampler's 180 labels, got {len(wrong)} rows$"
        with pytest.raises(ValueError, match=message):
            evaluate_episodes(
                {"em": EMGaussian()}, wrong, sampler, n_episodes=3, generator=torch.Generator().manual_seed(0)
            )


def test_probabilities_that_are_no_numbers_are_refused():
    features = 1e20 * torch.randn((60, 8), generator=torch.Generator().manual_seed(0))
    sampler = EpisodeSampler(torch.arange(60) % 6, n_way=3, n_shot=1, n_query=4)
    with pytest.raises(ValueError, match=r"^the method has no probabilities for .* queries: features as"):
        evaluate_episodes(
            {"unem": UNEM.from_preset()}, features, sampler, n_episodes=3, generator=torch.Generator().manual_seed(0)
        )
