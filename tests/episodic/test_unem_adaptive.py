"""Adaptive UNEM: its statistics, schedules and gate against loops; what it promises; how it learns."""

from dataclasses import replace

import pytest
import torch
from fewshot_episodes import Episode
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.episodic.unem.adaptive import UNEMAdaptive
from fewshot.episodic.unem.adaptive_training import GateExample, fit_gate, fit_schedules, gate_example, present_share
from fewshot.episodic.unem.regime_statistics import episode_statistics, solution_statistics
from fewshot.likelihoods.gaussian import gaussian_likelihood, with_precision
from fewshot.likelihoods.scatter import residual_scatter
from fewshot.shipped import adaptive_unem, load_unem_adaptive, save_unem_adaptive
from tests.reference import adaptive_loops as loops
from tests.strategies import episodes, make_episode, moved, numpy_of, padded


def random_model(seed=0):
    """Return a small model whose every number matters."""
    model = UNEMAdaptive(2, n_hidden=3, n_gate_hidden=5).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model.requires_grad_(False)


def numbers_of(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def in_units(episode, form):
    gaussian = gaussian_likelihood(episode, form=form)
    scatter = residual_scatter(gaussian, episode.n_features)
    return with_precision(gaussian, 1 / scatter.variance), scatter.trace / scatter.variance


@pytest.mark.parametrize("form", ["direct", "gram"])
@settings(max_examples=15)
@given(episode=episodes(), seed=st.integers(0, 99))
def test_statistics_are_those_of_the_loops(form, episode, seed):
    gaussian, trace = in_units(episode, form)
    parts = numpy_of(episode)
    found = episode_statistics(gaussian, trace)
    torch.testing.assert_close(found, found.new_tensor(loops.episode_statistics(*parts)))
    generator = torch.Generator().manual_seed(seed)
    log_u, log_first = (
        torch.randn(2, episode.n_queries, episode.n_way, generator=generator, dtype=torch.float64)
        .mul(3)
        .log_softmax(-1)
        .unbind()
    )
    found = solution_statistics(gaussian, trace, log_u, log_first)
    expected = loops.solution_statistics(*parts, log_u.exp().numpy(), log_first.exp().numpy())
    torch.testing.assert_close(found, found.new_tensor(expected))


@settings(max_examples=15)
@given(episode=episodes(), seed=st.integers(0, 99))
def test_answers_and_weights_are_those_of_the_loops(episode, seed):
    model = random_model(seed)
    expected, weights = loops.adaptive(numbers_of(model), *numpy_of(episode))
    torch.testing.assert_close(model(episode).exp(), torch.from_numpy(expected))
    torch.testing.assert_close(model.regime_weights(episode).flatten(), torch.from_numpy(weights))


def test_the_shipped_model_is_the_one_of_the_loops():
    model, episode = adaptive_unem().double(), make_episode(5, n_queries=13)
    expected, _ = loops.adaptive(numbers_of(model), *numpy_of(episode))
    torch.testing.assert_close(model(episode).exp(), torch.from_numpy(expected))


def test_padding_leaves_answers_and_weights_alone():
    model = random_model()
    parts = [make_episode(0), make_episode(1, n_way=3, n_queries=11)]
    batch, places = padded(parts)
    for row, (part, (queries, ways)) in enumerate(zip(parts, places, strict=True)):
        torch.testing.assert_close(model(batch)[row][queries][:, ways], model(part))
        torch.testing.assert_close(model.regime_weights(batch)[row], model.regime_weights(part))


def test_degenerate_episodes_have_finite_answers():
    model = adaptive_unem()
    alone = Episode(
        support=torch.eye(3)[:1], support_labels=torch.tensor([0]), query=torch.eye(3), class_ids=torch.arange(1)
    )
    assert torch.equal(model(alone), torch.zeros(3, 1))
    same = moved(make_episode(0, dtype=torch.float32), torch.zeros_like)
    one = replace(make_episode(0, dtype=torch.float32), query=torch.ones(1, 5), query_labels=None)
    for episode in (same, one):
        assert model(episode).exp().sum(-1).sub(1).abs().max() < 1e-5


def test_many_queries_need_no_matrix_of_them():
    # 20,000 x 20,000 numbers would be 1.6 GB: the residuals' inner products are taken over the features.
    likelihood = gaussian_likelihood(make_episode(0, n_queries=50), form="direct")
    wide = gaussian_likelihood(make_episode(0, n_queries=50), form="gram")
    for found, expected in zip(likelihood.residual_squares(), wide.residual_squares(), strict=True):
        torch.testing.assert_close(found, expected)
    episode = make_episode(1, n_queries=20_000, dtype=torch.float32)
    assert adaptive_unem()(episode).shape == (20_000, 4)


def test_lengths_count_where_there_are_few_features():
    # In the plane, classes of one direction each: at unit length the first, at the origin, has none.
    support, query = torch.tensor([[0.0, 0.0], [4.0, 4.0]]), torch.tensor([[0.5, 0.1], [3.0, 4.0], [4.0, 3.0]])
    episode = Episode(support=support, support_labels=torch.tensor([0, 1]), query=query, class_ids=torch.arange(2))
    assert adaptive_unem()(episode).argmax(-1).tolist() == [0, 1, 1]
    raw, unit = adaptive_unem().prepare(episode)
    assert torch.equal(raw.statistics, unit.statistics)


# The regime


def queries_of(n_present, seed=0, separation=1.0):
    """Twenty classes in 40 dimensions, queries of the first ones."""
    generator = torch.Generator().manual_seed(seed)
    centers = separation * torch.randn(8, 20, 40, generator=generator)
    support_labels = torch.arange(20).repeat_interleave(5).expand(8, -1)
    query_labels = torch.randint(0, n_present, (8, 60), generator=generator)

    def items(labels):
        return centers.gather(1, labels[..., None].expand(-1, -1, 40)) + 2 * torch.randn(
            8, labels.shape[1], 40, generator=generator
        )

    return Episode(
        support=items(support_labels),
        support_labels=support_labels,
        query=items(query_labels),
        class_ids=torch.arange(20).expand(8, -1),
        query_labels=query_labels,
    )


def test_the_gate_tells_few_classes_from_all():
    weights = {n: adaptive_unem().regime_weights(queries_of(n)).sum(-2).mean(0) for n in (1, 20)}
    assert weights[1][3:].sum() > 0.9  # the schedules of few and of hardly any classes
    assert weights[20][:3].sum() > 0.9  # prototypes, and the schedules of all and of half


# Learning


def regimes(n=4):
    return [queries_of(n_present, seed) for n_present in (20, 9, 5, 1) for seed in range(n)]


def test_present_share_is_the_perplexity():
    assert present_share(torch.tensor([[0, 0], [1, 1]]), 2) == pytest.approx(0.5)
    assert present_share(torch.tensor([0, 1, 2]), 6) == pytest.approx(0.5)


def learned(seed=0, n_steps=12, n_gate_steps=60, told=None):
    """Train a small model; returns it and its losses."""
    torch.manual_seed(0)
    model = UNEMAdaptive(n_hidden=4, n_gate_hidden=8)
    generator = torch.Generator().manual_seed(seed)
    batches = [model.prepare_view(episode) for episode in regimes()]
    schedules = fit_schedules(model, batches, generator=generator, n_steps=n_steps, progress=told)
    examples = [gate_example(model, episode) for episode in regimes()]
    return model, schedules, fit_gate(model, examples, generator=generator, n_steps=n_gate_steps, progress=told)


def test_learning_lowers_the_loss_of_schedules_and_gate():
    told = []
    model, schedules, gate = learned(told=lambda what, step, loss: told.append((what, step)))
    assert (schedules.shape, gate.shape) == ((4, 12), (60,))
    for losses in (*schedules, gate):
        assert losses[-4:].mean() < losses[:4].mean() - 0.005
    assert (told[0], told[-1], len(told)) == (("schedule 1 of 4", 1), ("gate", 60), 4 * 12 + 60)
    assert model.describe().startswith("trained on 128 episodes")


def test_one_seed_learns_one_model():
    def numbers(seed):
        return torch.cat([value.flatten() for value in learned(seed, 2, 3)[0].state_dict().values()])

    assert torch.equal(numbers(0), numbers(0))
    assert not torch.equal(numbers(0), numbers(1))


def test_a_gate_example_is_what_the_answers_say():
    model, episode = random_model(), queries_of(3).to(dtype=torch.float64)
    solutions = model.solutions(model.prepare(episode))
    found = gate_example(model, episode)
    assert torch.equal(found.statistics, solutions.statistics)
    for answer, log_right, accuracy in zip(solutions.log_probs, found.log_right, found.accuracy, strict=True):
        for row, labels in enumerate(episode.query_labels):
            own = torch.stack([answer[row, n, label] for n, label in enumerate(labels)])
            assert torch.equal(log_right[row], own)
            assert float(accuracy[row]) == pytest.approx(float((answer[row].argmax(-1) == labels).double().mean()))


def test_the_gate_learns_to_fall_back_to_prototypes():
    # The schedules are sure and mostly wrong, the prototypes unsure and mostly right.
    torch.manual_seed(0)
    model = UNEMAdaptive(2, n_hidden=2, n_gate_hidden=3)
    statistics = torch.randn(32, model.gate_hidden.in_features)
    log_right = torch.tensor([0.4, 0.5, 0.5, 0.3, 0.5, 0.5]).log()[:, None, None].expand(-1, 32, 20)
    accuracy = torch.tensor([0.9, 0.4, 0.4, 0.4, 0.4, 0.4])[:, None].expand(-1, 32)
    example = GateExample(statistics, log_right, accuracy)
    fit_gate(model, [example], generator=torch.Generator(), n_steps=300, learning_rate=0.03)
    assert model.log_weights(statistics).exp()[:, 0].min() > 0.9


def test_schedules_learn_from_their_regimes_alone():
    torch.manual_seed(0)
    model = UNEMAdaptive(n_hidden=2, n_gate_hidden=2)
    several = [model.prepare_view(episode) for episode in regimes(2)[:-2]]  # nothing of one class
    with pytest.raises(ValueError, match=r"^no batch has queries of 0% to 21% of its ways: add batches that do$"):
        fit_schedules(model, several, generator=torch.Generator(), n_steps=1)


def test_what_cannot_be_learned_from_is_refused():
    model, generator = UNEMAdaptive(), torch.Generator()
    batch = model.prepare_view(queries_of(3))
    with pytest.raises(ValueError, match=r"^training needs at least one batch of episodes with query_labels$"):
        fit_schedules(model, [], generator=generator)
    with pytest.raises(ValueError, match=r"^training needs episodes with query_labels$"):
        fit_schedules(model, [batch._replace(query_labels=None)], generator=generator)
    with pytest.raises(ValueError, match=r"^training needs a schedule for each of 4 regimes, got 2$"):
        fit_schedules(UNEMAdaptive(2), [batch], generator=generator)
    with pytest.raises(ValueError, match=r"^the gate needs at least one example to learn from$"):
        fit_gate(model, [], generator=generator)
    with pytest.raises(ValueError, match=r"^n_steps must be positive, got 0$"):
        fit_gate(model, [gate_example(model, queries_of(3))], generator=generator, n_steps=0)


# Disk


def test_a_model_comes_back_from_disk(tmp_path):
    model = random_model().float()
    model.origin = "made up"
    save_unem_adaptive(model, tmp_path / "m.safetensors")
    loaded, episode = load_unem_adaptive(tmp_path / "m.safetensors"), make_episode(2)
    assert torch.equal(loaded(episode), model(episode))
    assert loaded.describe() == "made up; 2 schedules of 10 layers and plain prototypes on two views, gated"


def test_a_foreign_file_is_named(tmp_path):
    from fewshot.storage import save_tensors

    path = tmp_path / "m.safetensors"
    save_tensors(path, {"a": torch.ones(1)}, kind="unem-adaptive", metadata={"settings": {}, "origin": ""})
    with pytest.raises(ValueError, match=r"m\.safetensors is not a whole model of adaptive UNEM"):
        load_unem_adaptive(path)


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"^n_hidden must be positive, got 0$"):
        UNEMAdaptive(n_hidden=0)
