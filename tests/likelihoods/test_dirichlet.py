"""Dirichlet classes against scipy, the loops and the M-step's own equation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from fewshot.em import e_step, objective, proportions, run_em
from fewshot.episodic.em_dirichlet import EMDirichlet, simplex_likelihood
from fewshot.likelihoods.dirichlet import (
    digamma_trigamma,
    dirichlet_likelihood,
    dirichlet_log_likelihood,
    fit_dirichlet,
    mm_step,
    simplex_log_features,
)
from tests.reference import em_loops as loops
from tests.strategies import moved, numpy_of, one_of, padded


def cosine_episode(seed, *, batch=(), n_way=4, n_shot=3, n_queries=9):
    """CLIP-like cosines, one column a class, the own class a little higher; the last class has no query."""
    rng = np.random.default_rng(seed)
    support_labels = rng.permuted(np.tile(np.repeat(np.arange(n_way), n_shot), (*batch, 1)), axis=-1)
    query_labels = rng.integers(0, max(1, n_way - 1), size=(*batch, n_queries))

    def cosines(labels):
        noise = 0.05 * rng.normal(size=(*labels.shape, n_way))
        return torch.from_numpy(0.2 + noise + 0.06 * np.eye(n_way)[labels])

    return Episode(
        support=cosines(support_labels),
        support_labels=torch.from_numpy(support_labels),
        query=cosines(query_labels),
        class_ids=torch.arange(n_way).expand(*batch, -1).clone(),
        query_labels=torch.from_numpy(query_labels),
    )


def mean_logs(draw, n_features):
    """Draw ȳ of items that differ, from nearly deterministic to nearly uniform."""
    seed, concentration = draw(st.integers(0, 999)), draw(st.sampled_from([0.1, 1.0, 30.0]))
    items = np.random.default_rng(seed).dirichlet(np.full(n_features, concentration), size=6)
    return np.log(items + 1e-15).mean(0)


# Special functions


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-7)])
def test_digamma_and_trigamma_equal_scipy(dtype, tolerance):
    x = torch.logspace(-3, 5, 4001, dtype=torch.float64).to(dtype)
    for found, order in zip(digamma_trigamma(x), (0, 1), strict=True):
        expected = special.polygamma(order, x.double().numpy()) if order else special.digamma(x.double().numpy())
        error = np.abs(found.double().numpy() - expected) / (1 + np.abs(expected))
        assert found.dtype == dtype
        assert error.max() < tolerance


def test_digamma_leaves_its_input_alone():
    x = torch.tensor([0.5, 2.0])
    digamma_trigamma(x)
    assert x.tolist() == [0.5, 2.0]


def test_log_likelihood_equals_scipy():
    rng = np.random.default_rng(0)
    z, alpha = rng.dirichlet(np.ones(5), size=(2, 7)), rng.gamma(1.0, size=(2, 3, 5)) + 0.05
    found = dirichlet_log_likelihood(torch.from_numpy(np.log(z)), torch.from_numpy(alpha))
    assert found.shape == (2, 7, 3)
    for b in range(2):
        expected = np.stack([stats.dirichlet(a).logpdf(z[b].T) for a in alpha[b]], axis=1)
        np.testing.assert_allclose(found[b], expected, rtol=1e-11, atol=1e-11)


def test_an_absent_feature_does_not_count_in_the_density():
    z = torch.tensor([[0.2, 0.3, 0.5]]).double().log()
    alpha = torch.tensor([[2.0, 0.7, 1.5]]).double()
    wide = torch.tensor([[2.0, 0.0, 0.7, 1.5]]).double()
    of_wide = torch.cat([z[:, :1], torch.zeros(1, 1).double(), z[:, 1:]], dim=-1)
    torch.testing.assert_close(dirichlet_log_likelihood(of_wide, wide), dirichlet_log_likelihood(z, alpha))


def test_simplex_features_equal_the_loop():
    cosines = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, size=(6, 5)))
    for scale, floor in [(30.0, 1e-15), (3.0, 1e-3)]:
        expected = loops.simplex_features(cosines.numpy(), scale, floor)
        np.testing.assert_allclose(
            simplex_log_features(cosines, scale, simplex_floor=floor), expected, rtol=1e-12, atol=1e-14
        )
    mask = torch.tensor([True, False, True, True, False])
    absent = simplex_log_features(cosines, 30.0, way_mask=mask)
    torch.testing.assert_close(absent[:, mask], simplex_log_features(cosines[:, mask], 30.0))
    torch.testing.assert_close(absent[:, ~mask].exp(), torch.full((6, 2), 1e-15).double())


# The M-step


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 5e-3)])
def test_fit_equals_scipys_root(dtype, tolerance):
    # float32 is as good as ȳ is rounded: the condition number of the fit is what the looser bound allows for.
    @given(st.data(), st.integers(2, 7))
    def check(data, n_features):
        mean_log = mean_logs(data.draw, n_features)
        expected = loops.dirichlet_m_step_scipy(mean_log)
        found = fit_dirichlet(torch.from_numpy(mean_log).to(dtype))
        assert found.dtype == dtype
        assert (found > 0).all()
        if expected.sum() < 1e3:
            np.testing.assert_allclose(found, expected, rtol=tolerance)

    check()


@pytest.mark.parametrize("magnitude", [1e-3, 1e-1, 1.0, 1e1, 1e3])
def test_fit_finds_the_alpha_that_made_its_statistics(magnitude):
    # ψ(α) - ψ(Σ α) = ȳ by construction, at every magnitude, from every start.
    generator = torch.Generator().manual_seed(0)
    alpha = magnitude * (0.2 + torch.rand(3, 4, 6, generator=generator).double())
    alpha = alpha * (5e3 / alpha.sum(-1, keepdim=True)).clamp(max=1)
    mean_log = torch.digamma(alpha) - torch.digamma(alpha.sum(-1, keepdim=True))
    for start in (None, torch.ones_like(alpha), 1.3 * alpha, 1e2 * torch.ones_like(alpha)):
        found = fit_dirichlet(mean_log, start=start)
        torch.testing.assert_close(found, alpha, rtol=1e-6, atol=0)
        residual = torch.digamma(found) - torch.digamma(found.sum(-1, keepdim=True)) - mean_log
        assert (residual.abs() < 1e-9 * (1 + mean_log.abs())).all()


def test_rows_do_not_depend_on_their_companions(monkeypatch):
    rng = np.random.default_rng(2)
    rows = torch.from_numpy(np.log(rng.dirichlet(np.full(5, 0.5), size=(8, 4))).mean(1))
    rows[3] = np.log(0.2)  # identical items: runs to the bound, long after the others
    together = fit_dirichlet(rows)
    for row, expected in zip(rows, together, strict=True):
        torch.testing.assert_close(fit_dirichlet(row), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(fit_dirichlet(rows.view(2, 4, 5)).view(8, 5), together, rtol=1e-12, atol=0)
    monkeypatch.setattr("fewshot.likelihoods.dirichlet._CHUNK", 11)  # two rows at once
    torch.testing.assert_close(fit_dirichlet(rows), together, rtol=1e-12, atol=0)


@pytest.mark.parametrize("start", [None, 1.0])
def test_masked_features_are_as_if_they_were_not_there(start):
    rng = np.random.default_rng(3)
    narrow = torch.from_numpy(np.log(rng.dirichlet(np.ones(3), size=(4, 5))).mean(1))
    mask = torch.tensor([True, False, True, True, False]).expand(4, 5)
    wide = torch.full((4, 5), 7.0).double()
    wide[:, [0, 2, 3]] = narrow
    first = None if start is None else torch.full_like(wide, start)
    found = fit_dirichlet(wide, feature_mask=mask, start=first)
    torch.testing.assert_close(found[:, [0, 2, 3]], fit_dirichlet(narrow), rtol=1e-9, atol=0)
    assert (found[:, [1, 4]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_items_reach_the_bound(dtype):
    # The likelihood grows for ever: the best α of the bounded sum solves ψ(α_i) - ȳ_i = the same for all i.
    for z in ([0.2, 0.5, 0.3], [1 - 2e-6, 1e-6, 1e-6], [1.0, 1e-15, 1e-15], [1 / 3, 1 / 3, 1 / 3]):
        mean_log = torch.tensor(z, dtype=torch.float64).log().to(dtype)
        for bound in (1e4, 50.0):
            alpha = fit_dirichlet(mean_log, max_concentration=bound)
            assert alpha.isfinite().all()
            assert (alpha > 0).all()
            assert float(alpha.sum()) == pytest.approx(bound, rel=1e-3)
            level = torch.digamma(alpha.double()) - mean_log.double()
            torch.testing.assert_close(
                level, level.mean().expand(3), rtol=0, atol=1e-6 if dtype.itemsize == 8 else 0.02
            )


def test_one_feature_is_finite():
    assert fit_dirichlet(torch.zeros(2, 1)).isfinite().all()


def test_a_given_number_of_steps_and_tolerance_are_kept():
    mean_log = torch.tensor([-0.1, -4.0, -6.0]).double()
    exact = torch.from_numpy(loops.dirichlet_m_step_scipy(mean_log.numpy()))
    one, few = (fit_dirichlet(mean_log, start=torch.ones(3).double(), n_steps=n) for n in (1, 3))
    assert (few - exact).abs().max() < (one - exact).abs().max()
    assert (one - exact).abs().max() > 1e-3
    assert torch.equal(fit_dirichlet(mean_log, start=torch.ones(3).double(), tolerance=1e9), one)


def test_gradients_are_those_of_the_solution():
    rng = np.random.default_rng(4)
    rows = torch.from_numpy(np.log(rng.dirichlet(np.full(4, 2.0), size=(3, 6))).mean(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda mean_log: fit_dirichlet(mean_log, tolerance=1e-12), [rows])
    # The implicit function theorem: d α / d ȳ = ( diag ψ'(α) - ψ'(Σ α) 11ᵀ )⁻¹.
    row = rows[0].detach()
    alpha = fit_dirichlet(row).numpy()
    jacobian = np.linalg.inv(np.diag(special.polygamma(1, alpha)) - special.polygamma(1, alpha.sum()))
    np.testing.assert_allclose(torch.autograd.functional.jacobian(fit_dirichlet, row), jacobian, rtol=1e-6)


def test_gradients_at_the_bound_and_of_masked_features_are_zero():
    mean_log = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.3]]).double().log().requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, True]])
    fit_dirichlet(mean_log, feature_mask=mask)[:, :].square().sum().backward()
    assert mean_log.grad.isfinite().all()
    assert (mean_log.grad[0] == 0).all()
    assert mean_log.grad[1, 1] == 0
    assert (mean_log.grad[1, [0, 2]] != 0).all()


@given(st.data(), st.integers(2, 7), st.sampled_from([1e-8, 1e-4, 1e-2, 0.5, 20.0]))
def test_mm_step_equals_the_loop_and_climbs_to_the_fit(data, n_features, magnitude):
    # P15, P19; from α as small as 1e-8 on, where the curvature's formula cancels (pitfall 9).
    mean_log = mean_logs(data.draw, n_features)
    shape = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(0.5, 1.5, n_features)
    alpha, rows = torch.from_numpy(magnitude * shape), torch.from_numpy(mean_log)
    np.testing.assert_allclose(mm_step(alpha, rows), loops.dirichlet_mm_step(mean_log, alpha.numpy()), rtol=1e-6)
    gains = []
    for _ in range(30):
        gains.append(loops.dirichlet_gain(mean_log, alpha.numpy()))
        alpha = mm_step(alpha, rows)
        assert (alpha > 0).all()
    assert np.diff(gains).min() > -1e-9 * (1 + max(map(abs, gains)))
    best = loops.dirichlet_gain(mean_log, fit_dirichlet(rows).numpy())
    assert best >= gains[-1] - 1e-9 * (1 + abs(best))


def test_mm_converges_to_the_fit():
    # P19.
    mean_log = torch.from_numpy(np.log(np.random.default_rng(5).dirichlet(np.full(4, 0.7), size=(3, 9))).mean(1))
    alpha = torch.ones_like(mean_log)
    for _ in range(2000):
        alpha = mm_step(alpha, mean_log)
    torch.testing.assert_close(alpha, fit_dirichlet(mean_log), rtol=1e-6, atol=0)


@pytest.mark.parametrize("small", [1e-7, 1e-4, 5e-3, 0.02])
def test_small_alpha_does_not_cancel_in_float32(small):
    # Pitfall 9: at 1e-4 the formula's curvature c is 3.56 instead of π²/6, at 1e-6 5e4. At b = 0 a step gives 1 / √c.
    alpha = torch.tensor([small, 5.0, 5.0])
    mean_log = torch.tensor([float(special.digamma(1 + small) - special.digamma(10 + small)), -0.7, -0.8])
    expected = loops.dirichlet_mm_step(mean_log.double().numpy(), alpha.double().numpy())
    assert expected[0] == pytest.approx(math.sqrt(6) / math.pi, rel=0.03)
    np.testing.assert_allclose(mm_step(alpha, mean_log), expected, rtol=2e-5 if small < 0.01 else 3e-3)


# The whole algorithm


def loop_u(episode, *, softmax_scale, class_balance, temperature, **options):
    return loops.gem_dirichlet(
        *numpy_of(episode),
        softmax_scale=softmax_scale,
        class_balance=class_balance,
        temperature=temperature,
        **options,
    )[-1]


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_em_dirichlet_equals_the_loop(seed, hard):
    episode = cosine_episode(seed)
    for n_layers in (1, 2, 4):
        method = EMDirichlet("cosines", 20.0, 1.7, 1.3, n_layers, is_hard=hard)
        rho, t = [1.7] * n_layers, [1.3] * n_layers
        expected = loop_u(episode, softmax_scale=20.0, class_balance=rho, temperature=t, hard=hard)
        np.testing.assert_allclose(method(episode).exp(), expected, atol=1e-7)
        found = method(episode.to(dtype=torch.float32))
        np.testing.assert_allclose(found.exp(), expected, atol=2e-3)


def test_batches_padding_and_columns_by_class_id():
    # One pool of cosines with 9 columns; each episode takes those of its class ids, in their order.
    episodes = [cosine_episode(seed, n_way=n_way, n_queries=n) for seed, n_way, n in [(0, 3, 7), (1, 4, 5), (2, 2, 8)]]
    generator = torch.Generator().manual_seed(0)
    parts = []
    for episode in episodes:
        columns = torch.randperm(9, generator=generator)[: episode.n_way]
        wide = moved(
            episode,
            lambda cosines, columns=columns: (
                torch.full((len(cosines), 9), 0.3).double().index_copy(1, columns, cosines)
            ),
        )
        parts.append(replace(wide, class_ids=columns))
    method = EMDirichlet("cosines", n_layers=4)
    batch, places = padded(parts)
    whole = method(batch)
    for n, (episode, part, (queries, ways)) in enumerate(zip(episodes, parts, places, strict=True)):
        schedule = {"softmax_scale": 30.0, "class_balance": [1.0] * 4, "temperature": [1.0] * 4}
        expected = loop_u(episode, **schedule)
        np.testing.assert_allclose(method(part).exp(), expected, atol=1e-7)
        np.testing.assert_allclose(whole[n][queries][:, ways].exp(), expected, atol=1e-7)
    two = cosine_episode(5, batch=(3, 2))
    for index in [(0, 0), (2, 1)]:
        np.testing.assert_allclose(method(two)[index].exp(), method(one_of(two, index)).exp(), atol=1e-9)


def test_labels_and_columns_permute_together():
    # P15.
    episode = cosine_episode(3)
    ways = torch.tensor([2, 0, 3, 1])
    inverse = ways.argsort()
    renamed = replace(moved(episode, lambda z: z[:, inverse]), support_labels=ways[episode.support_labels])
    renamed = replace(renamed, query_labels=None)
    method = EMDirichlet("cosines", n_layers=4)
    np.testing.assert_allclose(method(renamed)[:, ways].exp(), method(episode).exp(), atol=1e-9)


def test_a_class_without_a_column_is_named():
    episode = replace(cosine_episode(0), class_ids=torch.tensor([0, 1, 2, 7]))
    message = (
        r"^features given as cosines need a column per class: class id 7 came with 4 columns; "
        r"use inputs='embeddings' for other features$"
    )
    with pytest.raises(ValueError, match=message):
        EMDirichlet("cosines")(episode)


def on_simplex(episode, scale=20.0):
    support, query = (simplex_log_features(z, scale) for z in (episode.support, episode.query))
    return dirichlet_likelihood(support, episode.support_labels, query)


def test_objective_equals_the_loop():
    episode = cosine_episode(4)
    support, labels, query, n_way = numpy_of(episode)
    likelihood = on_simplex(episode)
    u, assigned = (
        torch.randn(9, n_way, generator=torch.Generator().manual_seed(s)).double().softmax(-1) for s in (0, 1)
    )
    alpha = likelihood.m_step(u, likelihood.initial_state().parameters)
    expected = loops.dirichlet_objective(
        support, labels, query, assigned.numpy(), alpha.numpy(), class_balance=0.7, temperature=1.4, softmax_scale=20.0
    )
    found = objective(likelihood, alpha, assigned.log(), 0.7, 1.4)
    assert float(found) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("rho", "t"), [(0.0, 1.0), (1.0, 1.0), (2.5, 1.6), (0.5, 0.7)])
def test_no_block_update_raises_the_objective(rho, t):
    # P12: also with five MM steps in place of the fit.
    likelihood = on_simplex(cosine_episode(5, batch=(3,)))
    for is_mm in (False, True):
        parameters, log_prior = likelihood.initial_state()
        trace = []
        for _ in range(8):
            log_u = e_step(likelihood.class_logits(parameters), log_prior, rho, t)
            trace.append(objective(likelihood, parameters, log_u, rho, t))
            u = log_u.exp()
            if is_mm:
                sums = likelihood.support_sums + u.mT @ likelihood.query
                mean_log = sums / (likelihood.counts + u.sum(-2))[..., None]
                for _ in range(5):
                    parameters = mm_step(parameters, mean_log)
            else:
                parameters = likelihood.m_step(u, parameters)
            log_prior = (proportions(u) + 1e-300).log()
            trace.append(objective(likelihood, parameters, log_u, rho, t))
        rises = torch.stack(trace).diff(dim=0)
        assert rises.max() < 1e-8
        assert rises.min() < -1e-3


@pytest.mark.parametrize("is_ragged", [False, True], ids=["dense", "ragged"])
def test_gradients_of_the_whole(is_ragged):
    episode = cosine_episode(6, n_way=3, n_queries=4)
    if is_ragged:
        narrow = moved(cosine_episode(7, n_way=2, n_queries=5), lambda cosines: cosines[:, [0, 1, 1]])
        episode = padded([episode, narrow])[0]
        episode = moved(episode, lambda cosines: cosines[..., [0, 1, 2, 0, 1]].clamp(0, 0.5))
    real = episode.query_mask if is_ragged else torch.ones(4, dtype=torch.bool)

    def last(class_balance, temperature, softmax_scale, support, query):
        likelihood = simplex_likelihood(replace(episode, support=support, query=query), softmax_scale)
        return run_em(likelihood, class_balance, temperature).log_responsibilities.exp()[real]

    rho, t, scale = torch.tensor([1.0, 0.5]), torch.tensor([1.5, 1.2]), torch.tensor(15.0)
    inputs = [value.double().requires_grad_() for value in (rho, t, scale, episode.support, episode.query)]
    assert torch.autograd.gradcheck(last, inputs, atol=1e-5, rtol=1e-3)
