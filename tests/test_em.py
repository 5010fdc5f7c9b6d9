"""Generalized EM and its Gaussian classes against the loops, closed forms and the invariances of the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode
from hypothesis import given
from hypothesis import strategies as st

from fewshot.em import e_step, hard_assignments, objective, proportions, run_em
from fewshot.episodic.em_gaussian import EMGaussian
from fewshot.likelihoods.gaussian import gaussian_likelihood, is_gram_cheaper, with_precision
from fewshot.likelihoods.scatter import effective_variance
from tests.reference import em_loops as loops
from tests.strategies import episodes, make_episode, moved, numpy_of, one_of, padded, schedules

FORMS = ("direct", "gram")
each_form = pytest.mark.parametrize("form", FORMS)


def run(episode, schedule, form="auto", **options):
    class_balance, temperature, scale = schedule
    likelihood = gaussian_likelihood(episode, precision=scale**2, form=form)
    return run_em(
        likelihood,
        torch.as_tensor(class_balance, dtype=episode.query.dtype),
        torch.as_tensor(temperature, dtype=episode.query.dtype),
        **options,
    )


def responsibilities(episode, schedule, form="auto", **options):
    return run(episode, schedule, form, **options).log_responsibilities.exp()


def loop_layers(episode, schedule, **options):
    class_balance, temperature, scale = schedule
    return loops.gem_gaussian(
        *numpy_of(episode), class_balance=class_balance, temperature=temperature, scale=scale, **options
    )


def assert_close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=tolerance)


# Steps


@given(schedules(n_layers=1), st.integers(0, 99))
def test_e_step_equals_the_loop(schedule, seed):
    (rho,), (t,), _ = schedule
    generator = torch.Generator().manual_seed(seed)
    logits, log_prior = (5 * torch.randn(*shape, 4, generator=generator).double() for shape in [(3, 7), (3,)])
    found = e_step(logits, log_prior, rho, torch.tensor(t, dtype=torch.float64))
    for n, (row, prior) in enumerate(zip(logits.numpy(), log_prior.numpy(), strict=True)):
        assert_close(found[n].exp(), loops.e_step(row, prior, rho, t), 1e-13)


def test_e_step_takes_one_temperature_and_balance_an_episode():
    logits, prior = torch.randn(3, 5, 4).double(), torch.randn(3, 4).double()
    rho, t = torch.tensor([0.0, 1.0, 3.0]).double(), torch.tensor([0.5, 1.0, 2.0]).double()
    found = e_step(logits, prior, rho, t)
    for n in range(3):
        torch.testing.assert_close(found[n], e_step(logits[n], prior[n], float(rho[n]), float(t[n])))


def test_an_absent_way_is_assigned_nothing_and_the_others_as_without_it():
    logits, prior = torch.randn(3, 5, 4).double(), torch.randn(3, 4).double()
    mask = torch.tensor([True, False, True, True])
    found = e_step(logits, prior, 1.5, 0.5, mask.expand(3, 4))
    assert (found[..., 1] == -torch.inf).all()
    torch.testing.assert_close(found[..., mask], e_step(logits[..., mask], prior[..., mask], 1.5, 0.5))


def test_no_layers_are_refused():
    episode = Episode(
        support=torch.eye(2), support_labels=torch.tensor([0, 1]), query=torch.eye(2), class_ids=torch.tensor([0, 1])
    )
    with pytest.raises(ValueError, match=r"^EM needs at least one layer, got class_balance and temperature of none$"):
        run_em(gaussian_likelihood(episode, precision=1.0), torch.empty(0), torch.empty(0))


def test_proportions_are_of_real_queries():
    u = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    assert proportions(u).tolist() == pytest.approx([1.75 / 3, 1.25 / 3])
    assert proportions(u, torch.tensor([True, False, True])).tolist() == [0.375, 0.625]
    assert proportions(u, torch.zeros(3, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_hard_assignments_are_the_first_largest():
    u = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    assert hard_assignments(u).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


# The whole algorithm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@each_form
def test_every_layer_equals_the_loop(form, dtype, tolerance):
    @given(episodes(dtype=dtype), schedules())
    def check(episode, schedule):
        rho, t, scale = schedule
        for n_layers, expected in enumerate(loop_layers(episode, schedule), start=1):
            found = responsibilities(episode, (rho[:n_layers], t[:n_layers], scale), form)
            assert_close(found, expected, tolerance)

    check()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_both_forms_agree_far_from_the_origin_too(offset, dtype, tolerance):
    # P18. float32 at an offset of 100 has steps of 8e-6: both forms, and the loop, get the same rounded features.
    @given(episodes(n_batch_dims=1), schedules())
    def check(episode, schedule):
        far = moved(episode, lambda features: (features + offset).to(dtype))
        direct, gram = (responsibilities(far, schedule, form) for form in FORMS)
        assert_close(gram, direct, tolerance)
        if offset:
            # float32 errs by 3.6e-5 at most in a thousand draws: where two classes are nearly level.
            margin = 4 if dtype == torch.float32 else 2
            assert_close(direct[0], loop_layers(one_of(far, 0), schedule)[-1], margin * tolerance)

    check()


def test_the_floor_is_the_argument():
    episode, schedule = make_episode(0), ([4.0] * 3, [1.0] * 3, 1.5)
    for floor in (1e-6, 1e-2):
        expected = loop_layers(episode, schedule, proportion_floor=floor)[-1]
        assert_close(responsibilities(episode, schedule, proportion_floor=floor), expected)
    assert_close(responsibilities(episode, schedule), loop_layers(episode, schedule, proportion_floor=1e-6)[-1])


@each_form
def test_hard_assignments_enter_the_m_step_alone(form):
    episode = make_episode(1)
    support, labels, query, n_way = numpy_of(episode)
    means = loops.class_means(support, labels, n_way)
    first = loops.e_step(loops.gaussian_log_density(query, means), np.zeros(n_way), 1.0, 1.0)
    hard = loops.harden(first)
    means = loops.weighted_class_averages(support, labels, query, hard)
    log_prior = np.log(loops.class_proportions(hard) + 1e-6)
    second = loops.e_step(loops.gaussian_log_density(query, means), log_prior, 1.0, 1.0)
    found = responsibilities(episode, ([1.0] * 2, [1.0] * 2, 1.0), form, is_hard=True)
    assert_close(found, second)


@each_form
def test_schedules_may_differ_between_the_episodes_of_a_batch(form):
    episode = make_episode(2, batch=(2,))
    rho = torch.tensor([[1.0, 2.0, 0.5], [0.0, 4.0, 1.0]]).double()
    t = torch.tensor([[1.0, 2.0, 1.5], [3.0, 0.5, 1.0]]).double()
    whole = run_em(gaussian_likelihood(episode, form=form), rho, t).log_responsibilities
    for n in range(2):
        alone = run_em(gaussian_likelihood(episode, form=form), rho[n], t[n]).log_responsibilities
        torch.testing.assert_close(whole[n], alone[n])


# The objective


@given(episodes(), schedules(n_layers=2), st.integers(0, 99))
def test_objective_equals_the_loop(episode, schedule, seed):
    (rho, other), (t, _), scale = schedule
    support, labels, query, n_way = numpy_of(episode)
    generator = torch.Generator().manual_seed(seed)
    u, assigned = (
        torch.randn(episode.n_queries, n_way, generator=generator).double().mul(3).softmax(-1) for _ in range(2)
    )
    means = loops.weighted_class_averages(scale * support, labels, scale * query, u.numpy())
    for balance in (rho, other):
        expected = loops.gaussian_objective(
            support, labels, query, assigned.numpy(), means, class_balance=balance, temperature=t, scale=scale
        )
        for form in FORMS:
            likelihood = gaussian_likelihood(episode, precision=scale**2, form=form)
            parameters = likelihood.m_step(u, likelihood.initial_state().parameters)
            found = objective(likelihood, parameters, assigned.log(), balance, t)
            assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-9)


@each_form
def test_the_objective_does_not_see_padding(form):
    parts = [make_episode(0, n_way=3, n_queries=6, n_features=6), make_episode(1, n_support=9, n_features=6)]
    schedule = ([1.0, 2.0, 0.5], [1.5, 1.0, 2.0], 0.8)
    whole = run(padded(parts)[0], schedule, form, with_objective=True).objective
    for n, part in enumerate(parts):
        alone = run(part, schedule, form, with_objective=True).objective
        torch.testing.assert_close(whole[:, n], alone, rtol=1e-10, atol=1e-10)


@each_form
def test_the_trace_is_the_objective_of_each_layer(form):
    episode, schedule = make_episode(3), ([1.0, 2.0, 0.5], [1.5, 1.0, 2.0], 0.8)
    support, labels, query, n_way = numpy_of(episode)
    layers = loop_layers(episode, schedule)
    means = [0.8 * loops.class_means(support, labels, n_way)]
    means += [loops.weighted_class_averages(0.8 * support, labels, 0.8 * query, u) for u in layers]
    expected = [
        loops.gaussian_objective(support, labels, query, u, m, class_balance=rho, temperature=t, scale=0.8)
        for u, m, rho, t in zip(layers, means, schedule[0], schedule[1], strict=False)
    ]
    found = run(episode, schedule, form, with_objective=True)
    np.testing.assert_allclose(found.objective, expected, rtol=1e-11)
    assert run(episode, schedule, form).objective is None


@each_form
def test_no_block_update_raises_the_objective(form):
    # P12, for one fixed λ and T. Across layers with different ones it does not hold (P20).
    @given(episodes(n_batch_dims=1), schedules(n_layers=1))
    def check(episode, schedule):
        (rho,), (t,), scale = schedule
        likelihood = gaussian_likelihood(episode, precision=scale**2, form=form)
        parameters, log_prior = likelihood.initial_state()
        trace = []
        for _ in range(8):
            log_u = e_step(likelihood.class_logits(parameters), log_prior, rho, t)
            trace.append(objective(likelihood, parameters, log_u, rho, t))
            parameters = likelihood.m_step(log_u.exp(), parameters)
            log_prior = (proportions(log_u.exp()) + 1e-300).log()
            trace.append(objective(likelihood, parameters, log_u, rho, t))
        rises = torch.stack(trace).diff(dim=0)
        assert rises.max() < 1e-10
        assert rises.min() < -1e-3

    check()


@given(episodes(separation=0.7), st.floats(0.3, 1.5))
def test_em_never_lowers_the_semi_supervised_mixture_likelihood(episode, scale):
    # P13: λ = |Q|, T = 1.
    support, labels, query, _ = numpy_of(episode)
    trace = []
    for n_layers in range(1, 8):
        u = responsibilities(episode, ([1.0] * n_layers, [1.0] * n_layers, scale), proportion_floor=1e-300).numpy()
        means = loops.weighted_class_averages(scale * support, labels, scale * query, u)
        trace.append(loops.mixture_log_likelihood(support, labels, query, u.mean(0), means, scale=scale))
    assert np.diff(trace).min() > -1e-10


# What changes nothing, and limits


@each_form
def test_invariances(form):
    @given(episodes(), schedules(), st.integers(0, 99))
    def check(episode, schedule, seed):
        rho, t, scale = schedule
        u = responsibilities(episode, schedule, form)
        assert_close(u.sum(-1), np.ones(episode.n_queries), 1e-13)  # P1
        # P5: rigid motion. P6: (cZ, s/c).
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.linalg.qr(torch.randn(episode.n_features, episode.n_features, generator=generator).double()).Q
        assert_close(responsibilities(moved(episode, lambda z: z @ rotation + 7), schedule, form), u)
        assert_close(responsibilities(moved(episode, lambda z: 3 * z), (rho, t, scale / 3), form), u)
        # P7: (s², λ, T) times c.
        many = ([4 * value for value in rho], [4 * value for value in t], 2 * scale)
        assert_close(responsibilities(episode, many, form), u)
        # P8: the same episode, every item twice.
        twice = Episode(
            support=torch.cat([episode.support] * 2),
            support_labels=torch.cat([episode.support_labels] * 2),
            query=torch.cat([episode.query] * 2),
            class_ids=episode.class_ids,
        )
        assert_close(responsibilities(twice, schedule, form)[: episode.n_queries], u)
        # P9: one layer is the nearest prototype, whatever λ and T are.
        expected = loops.nearest_prototype(*numpy_of(episode)).argmax(-1)
        np.testing.assert_array_equal(responsibilities(episode, (rho[:1], t[:1], scale), form).argmax(-1), expected)

    check()


@given(episodes(n_batch_dims=1), st.floats(1e-3, 1e3))
def test_relative_scale_follows_the_features(episode, factor):
    # P6 in the library's own unit, and the absolute scale for contrast.
    scaled = moved(episode, lambda z: factor * z)
    torch.testing.assert_close(EMGaussian()(scaled).exp(), EMGaussian()(episode).exp(), rtol=0, atol=1e-9)
    absolute, follows = EMGaussian(0.5, is_relative=False), EMGaussian(0.5 / factor, is_relative=False)
    torch.testing.assert_close(follows(scaled).exp(), absolute(episode).exp(), rtol=0, atol=1e-9)


def test_limits_of_the_two_knobs():
    # P10: T → ∞ without prior. P11: λ → ∞ leaves one class, λ = 0 many.
    episode = make_episode(5, n_way=5, n_queries=60, n_support=11)
    u = responsibilities(episode, ([0.0] * 3, [1e9] * 3, 1.0))
    assert_close(u, np.full((60, 5), 0.2), 1e-7)
    u = responsibilities(episode, ([300.0] * 10, [1.0] * 10, 1.0))
    assert u.mean(0).gt(1e-3).sum() == 1
    u = responsibilities(episode, ([0.0] * 10, [1.0] * 10, 1.0))
    assert u.mean(0).gt(1e-3).sum() == 5


def test_first_balance_is_dead():
    # P16: there is no prior before the first assignment.
    episode, t = make_episode(6), [1.3] * 3
    assert torch.equal(
        responsibilities(episode, ([0.0, 2.0, 1.0], t, 1.0)), responsibilities(episode, ([9.0, 2.0, 1.0], t, 1.0))
    )


# Gradients


@pytest.mark.parametrize("is_ragged", [False, True], ids=["dense", "ragged"])
@each_form
def test_gradients(form, is_ragged):
    if is_ragged:
        parts = [make_episode(seed, n_way=2 + seed, n_support=5, n_features=3, n_queries=4 + seed) for seed in (0, 1)]
        episode = padded(parts)[0]
    else:
        episode = make_episode(7, n_queries=4, n_features=3, n_way=2, n_support=5)
    real = episode.query_mask if is_ragged else torch.ones(episode.n_queries, dtype=torch.bool)
    inputs = (
        torch.tensor([0.5, 1.0, 2.0]).double(),
        torch.tensor([1.5, 1.0, 2.0]).double(),
        torch.tensor(0.7).double(),
        episode.support,
        episode.query,
    )

    def last(class_balance, temperature, precision, support, query):
        fields = {name: getattr(episode, name) for name in ("support_labels", "class_ids", "query_mask")}
        changed = Episode(support=support, query=query, **fields)
        likelihood = gaussian_likelihood(changed, precision=precision, form=form)
        return run_em(likelihood, class_balance, temperature).log_responsibilities.exp()[real]

    assert torch.autograd.gradcheck(last, [tensor.clone().requires_grad_() for tensor in inputs])


# Flags


def test_collapse_is_flagged():
    episode = make_episode(8, batch=(2,))
    is_collapsed = run(episode, ([0.0] + [300.0] * 9, [1.0] * 10, 1.0)).is_collapsed
    assert is_collapsed.tolist() == [True, True]
    assert run(episode, ([0.0] * 10, [1.0] * 10, 1.0)).is_collapsed.tolist() == [False, False]
    # A single query is always of one class.
    one = make_episode(8, n_queries=1)
    assert not run(one, ([0.0, 300.0], [1.0, 1.0], 9.0)).is_collapsed


def test_hard_beginnings_are_flagged():
    near, far = make_episode(9), make_episode(9, separation=60.0)
    assert not run(near, ([1.0] * 2, [1.0] * 2, 0.1)).is_one_hot
    assert run(far, ([1.0] * 2, [1.0] * 2, 1.0)).is_one_hot
    # One doubtful query is enough to make EM worth while; a padding row is no query.
    doubtful = Episode(
        support=torch.tensor([[0.0], [100.0]]),
        support_labels=torch.tensor([0, 1]),
        query=torch.tensor([[1.0], [99.0], [50.0]]),
        class_ids=torch.arange(2),
    )
    assert not run(doubtful, ([1.0], [1.0], 1.0)).is_one_hot
    assert run(replace(doubtful, query_mask=torch.tensor([True, True, False])), ([1.0], [1.0], 1.0)).is_one_hot


# The unit of scale


def naive_effective_variance(support, labels, query, n_way):
    """tr(C²) / tr(C) from residuals to the nearest prototype, each divided by its own sampling error."""
    means = loops.class_means(support, labels, n_way)
    counts = [sum(labels == k) for k in range(n_way)]
    residuals = []
    for z in query:
        k = int(np.argmin([np.sum((z - mean) ** 2) for mean in means]))
        residuals.append((z - means[k]) / np.sqrt(1 + 1 / counts[k]))
    n = len(residuals)
    trace = sum(r @ r for r in residuals) / n
    pairs = [(residuals[i] @ residuals[j]) ** 2 for i in range(n) for j in range(n) if i != j]
    return max(np.mean(pairs) / trace if pairs else 0.0, trace / query.shape[1])


@given(episodes())
def test_effective_variance_equals_the_loop(episode):
    expected = naive_effective_variance(*numpy_of(episode))
    for form in FORMS:
        likelihood = gaussian_likelihood(episode, form=form, precision=3.0)
        assert float(effective_variance(likelihood, episode.n_features)) == pytest.approx(expected, rel=1e-10)
        scaled = gaussian_likelihood(moved(episode, lambda z: 5 * z), form=form)
        assert float(effective_variance(scaled, episode.n_features)) == pytest.approx(25 * expected, rel=1e-10)


@each_form
def test_effective_variance_of_padding_and_of_too_little(form):
    parts = [make_episode(0, n_way=3, n_queries=6, n_features=4), make_episode(1, n_support=9, n_features=4)]
    whole = effective_variance(gaussian_likelihood(padded(parts)[0], form=form), 4)
    for part, found in zip(parts, whole, strict=True):
        assert float(found) == pytest.approx(naive_effective_variance(*numpy_of(part)), rel=1e-10)
    one = make_episode(2, n_queries=1)
    found = float(effective_variance(gaussian_likelihood(one, form=form), one.n_features))
    assert found == pytest.approx(naive_effective_variance(*numpy_of(one)), rel=1e-10)
    same = moved(one, torch.zeros_like)
    assert float(effective_variance(gaussian_likelihood(same, form=form), one.n_features)) == 1.0


@pytest.mark.parametrize("variances", [(4.0,) * 6, (9.0, 4.0, 1.0, 1.0, 0.25, 0.25)], ids=["isotropic", "anisotropic"])
def test_effective_variance_of_known_gaussians(variances):
    # The closed form tr(C²) / tr(C); classes far apart, prototypes of many shots.
    generator = torch.Generator().manual_seed(0)
    deviation = torch.tensor(variances).sqrt()

    def items(labels):
        noise = torch.randn(len(labels), len(variances), generator=generator)
        return (100.0 * torch.eye(3, len(variances))[labels] + noise * deviation).double()

    support_labels, query_labels = torch.arange(3).repeat(200), torch.arange(3).repeat(300)
    episode = Episode(
        support=items(support_labels),
        support_labels=support_labels,
        query=items(query_labels),
        class_ids=torch.arange(3),
    )
    expected = sum(v**2 for v in variances) / sum(variances)
    for form in FORMS:
        found = float(effective_variance(gaussian_likelihood(episode, form=form), len(variances)))
        assert found == pytest.approx(expected, rel=0.1)


# The door


def test_the_cheaper_form_is_taken_and_an_unknown_one_refused():
    episode = make_episode(0)
    assert is_gram_cheaper(75, 640, 20, 10)
    assert not is_gram_cheaper(2000, 32, 5, 10)
    assert type(gaussian_likelihood(episode, n_layers=1)).__name__ == "GaussianDirect"
    with pytest.raises(ValueError, match=r"^unknown form 'grams': did you mean 'gram'\? Known: auto, direct, gram$"):
        gaussian_likelihood(episode, form="grams")


@pytest.mark.parametrize("is_ragged", [False, True], ids=["dense", "ragged"])
def test_pieces_make_the_same_whole(is_ragged, monkeypatch):
    if is_ragged:
        episode = padded([make_episode(seed, n_way=2 + seed, n_queries=5 + seed) for seed in range(3)])[0]
    else:
        episode = make_episode(0, batch=(2, 3))
    schedule = ([1.0] * 3, [1.0] * 3, 0.7)
    at_once = responsibilities(episode, schedule, "gram")
    monkeypatch.setattr("fewshot.likelihoods.gaussian._PIECE_BYTES", {"cpu": 1, "cuda": 1})
    assert_close(responsibilities(episode, schedule, "gram"), at_once, 1e-13)


@each_form
def test_with_precision_is_the_likelihood_made_with_it(form):
    episode = make_episode(1, batch=(3,))
    precision = torch.tensor([0.5, 1.0, 2.0]).double()
    rho, t = torch.ones(3).double(), torch.ones(3).double()
    made = run_em(gaussian_likelihood(episode, precision=precision, form=form), rho, t).log_responsibilities
    changed = run_em(with_precision(gaussian_likelihood(episode, form=form), precision), rho, t).log_responsibilities
    assert torch.equal(made, changed)
    for n in range(3):
        scale = float(precision[n]) ** 0.5
        assert_close(made[n].exp(), loop_layers(one_of(episode, n), ([1.0] * 3, [1.0] * 3, scale))[-1])
