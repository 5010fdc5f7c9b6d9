"""TIM, α-TIM, transductive fine-tuning and the heads of the support, against loops, scikit-learn and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fewshot.episodic.alpha_tim import AlphaTim, alpha_by_shot
from fewshot.episodic.linear_head import CosineHead, LogisticHead
from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.episodic.solvers.adam import adam
from fewshot.episodic.solvers.logistic_dual import fit_logistic_dual
from fewshot.episodic.solvers.prototype_descent import centered_unit_episode, logit_gradient
from fewshot.episodic.tim import TimADM, TimGD, adm_assignments
from fewshot.episodic.transductive_fine_tuning import TransductiveFineTuning
from fewshot.prototypes import one_hot
from tests.reference import alpha_tim_loops, linear_head_loops, tim_loops
from tests.strategies import episodes, make_episode, numpy_of, padded

few = settings(max_examples=5, deadline=None)
weight = st.floats(0.05, 2.0)


def assert_probs(log_probs, expected, atol=1e-9):
    np.testing.assert_allclose(log_probs.exp().numpy(), expected, atol=atol, rtol=0)


# TIM, closed form


@few
@given(episodes(), weight, st.floats(0.0, 3.0), st.floats(0.0, 1.0), st.floats(2.0, 15.0))
def test_closed_form_tim_equals_the_loops(episode, a, b, c, scale):
    expected = tim_loops.tim_adm(*numpy_of(episode), weights=(a, b, c), scale=scale, n_steps=6)
    assert_probs(TimADM(a, b, c, scale, n_steps=6)(episode), expected)


@pytest.mark.parametrize("n_features", [3, 40])  # through the features; on inner products
def test_both_ways_through_a_round_equal_the_loops(n_features):
    episode = make_episode(1, n_features=n_features, n_support=11, n_queries=17, n_way=5)
    expected = tim_loops.tim_adm(*numpy_of(episode), n_steps=30)
    assert_probs(TimADM(n_steps=30)(episode), expected)


def test_closed_form_defaults_are_the_authors():
    episode = make_episode(2)
    assert_probs(TimADM()(episode), tim_loops.tim_adm(*numpy_of(episode)), 1e-8)


def test_without_marginal_and_conditional_entropy_assignments_are_probabilities():
    p = torch.softmax(torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0)
    torch.testing.assert_close(adm_assignments(p.log(), 0.0, 0.0), p)


def test_a_heavy_marginal_term_evens_the_assignments_out():
    # As b grows, q_k ∝ p_k / Σ_m p_mk: one step of Sinkhorn, whose classes are of equal size to first order.
    noise = 0.01 * torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.softmax(torch.tensor([2.0, 0.0, -1.0]).double()[:, None] + noise, 0)
    shares = adm_assignments(p.log(), 1e6, 0.0).mean(-1)
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", [TimADM(), TimGD()], ids=["closed form", "gradient"])
def test_tim_raises_the_mutual_information(method):
    def information(p):
        return tim_loops.shannon(p.mean(0)) - np.mean([tim_loops.shannon(row) for row in p])

    for seed in range(3):
        episode = make_episode(seed, n_support=8, n_queries=30, n_features=12)
        support, labels, query, n_way = numpy_of(episode)
        w = tim_loops.class_means(tim_loops.unit(support), labels, n_way)
        start = np.array(tim_loops.probabilities(tim_loops.unit(query), w, 15.0))
        assert information(method(episode).exp().numpy()) > information(start) + 0.02


def test_closed_form_tim_is_differentiable():
    episode = make_episode(3, n_way=3, n_support=4, n_queries=5, n_features=2)

    def answer(support, query):
        return TimADM(n_steps=4)(replace(episode, support=support, query=query))

    torch.autograd.gradcheck(answer, (episode.support.requires_grad_(), episode.query.requires_grad_()))


# Descent


@few
@given(episodes(), weight, st.floats(0.0, 2.0), st.floats(0.0, 1.0), st.floats(2.0, 15.0))
def test_gradient_tim_equals_the_loops(episode, a, b, c, scale):
    expected = tim_loops.tim_gd(*numpy_of(episode), weights=(a, b, c), scale=scale, learning_rate=0.01, n_steps=5)
    assert_probs(TimGD(a, b, c, scale, 0.01, 5)(episode), expected)


@few
@given(episodes(), st.floats(1.2, 8.0))
def test_alpha_tim_equals_the_loops(episode, alpha):
    expected = alpha_tim_loops.alpha_tim(*numpy_of(episode), alpha=alpha, learning_rate=0.01, n_steps=5)
    assert_probs(AlphaTim(alpha, learning_rate=0.01, n_steps=5)(episode), expected)


@few
@given(episodes(), weight, weight)
def test_transductive_fine_tuning_equals_the_loops(episode, a, c):
    expected = tim_loops.tim_gd(*numpy_of(episode), weights=(a, 0.0, c), learning_rate=1e-3, n_steps=5)
    assert_probs(TransductiveFineTuning(a, c, learning_rate=1e-3, n_steps=5)(episode), expected)


def test_descents_defaults_are_the_authors():
    episode = make_episode(4, n_way=3, n_support=5, n_queries=4, n_features=2, separation=0.3)
    problem = numpy_of(episode)
    assert TimGD() == TimGD(0.1, 1.0, 0.1, 15.0, 1e-4, 1000)
    assert AlphaTim() == AlphaTim("by-shot", 1.0, 1.0, 1.0, 15.0, 1e-4, 1000)
    expected = tim_loops.tim_gd(*problem, weights=(1, 0, 1), learning_rate=5e-5, n_steps=25)
    assert_probs(TransductiveFineTuning()(episode), expected)
    assert_probs(TimGD(n_steps=40)(episode), tim_loops.tim_gd(*problem, n_steps=40))
    assert_probs(AlphaTim(n_steps=40)(episode), alpha_tim_loops.alpha_tim(*problem, alpha=2.0, n_steps=40))


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.0, 7.0])
@pytest.mark.parametrize("is_per_episode", [False, True])
def test_the_closed_form_gradient_is_that_of_autograd(alpha, is_per_episode):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4 + 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = one_hot(torch.tensor([[0, 1, 2, 2], [1, 0, 2, 1]]), 3, torch.float64).mT
    alphas = [alpha, 3.0 if is_per_episode and alpha != 1 else alpha]

    def entropy(p, power):
        return torch.special.entr(p).sum(0) if power == 1 else (1 - (p**power).sum(0)) / (power - 1)

    p = logits.softmax(1)
    loss = -0.7 * (targets * p[..., :4].log()).sum() / 4
    for of_queries, power in zip(p[..., 4:], alphas, strict=True):
        loss = loss - 1.3 * entropy(of_queries.mean(-1), power) + 0.4 * entropy(of_queries, power).mean(-1)
    found = logit_gradient(
        logits.detach().log_softmax(1),
        targets,
        torch.full((2, 1, 4), 1 / 4).double(),
        torch.full((2, 1, 6), 1 / 6).double(),
        TimADM(0.7, 1.3, 0.4),
        torch.tensor(alphas).double() if is_per_episode and alpha != 1 else alpha,
    )
    torch.testing.assert_close(found, torch.autograd.grad(loss, logits)[0], atol=1e-7, rtol=0)


def test_adam_is_torchs():
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.linspace(-1, 1, 12).double().reshape(4, 3)
    w = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=0.03)
    for _ in range(50):
        optimizer.zero_grad()
        ((w - target) ** 4).sum().backward()
        optimizer.step()
    kept = start.clone()
    found = adam(start, lambda w: 4 * (w - target) ** 3, n_steps=50, learning_rate=0.03)
    torch.testing.assert_close(found, w.detach())
    assert torch.equal(start, kept)


@pytest.mark.parametrize(("n_support", "alpha"), [(2, 2.0), (3, 2.0), (4, 5.0), (9, 5.0), (10, 7.0), (11, 7.0)])
def test_alpha_by_shot_is_each_episodes_own(n_support, alpha):
    episode = make_episode(0, n_way=2, n_support=n_support)
    assert alpha_by_shot(episode).tolist() == alpha == alpha_tim_loops.alpha_by_shot(episode.support_labels, 2)
    given_as = str(alpha) if n_support % 2 else alpha  # as the command line has it, or as a number
    assert_probs(AlphaTim(n_steps=30)(episode), AlphaTim(given_as, n_steps=30)(episode).exp().numpy(), 1e-12)


def test_alpha_by_shot_leaves_padding_out():
    parts = [make_episode(seed, n_way=2 + seed, n_support=n) for seed, n in enumerate([2, 6, 40])]
    assert alpha_by_shot(padded(parts)[0]).tolist() == [2.0, 5.0, 7.0]


def test_alpha_1_is_tim():
    episode = make_episode(5)
    ours, tim = AlphaTim(1.0, n_steps=30), TimGD(1.0, 1.0, 1.0, n_steps=30)
    assert torch.equal(ours(episode), tim(episode))


def test_alpha_near_1_is_near_tim():
    episode = make_episode(5)
    ours, tim = AlphaTim(1.0 + 1e-6, n_steps=30), TimGD(1.0, 1.0, 1.0, n_steps=30)
    assert_probs(ours(episode), tim(episode).exp().numpy(), 1e-4)


def test_one_class_of_queries_is_split_by_tim_and_not_by_alpha_tim():
    # The imbalance that α-TIM was made for: all queries of one of four well separated classes.
    episode = make_episode(6, n_support=20, n_queries=60, n_features=32, separation=1.0, min_shot=5)
    query = episode.support[episode.support_labels == 1].mean(0) + 0.5 * torch.randn(
        60, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    episode = replace(episode, query=query, query_labels=None)
    methods = {"plain": NearestPrototype(), "tim": TimADM(), "gd": TimGD(), "alpha": AlphaTim()}
    shares = {name: float((method(episode).argmax(-1) == 1).double().mean()) for name, method in methods.items()}
    assert shares["plain"] == 1.0
    assert shares["tim"] < 0.9
    assert shares["gd"] < 0.9
    assert shares["alpha"] > 0.95


def test_the_centered_unit_episode_keeps_all_distances():
    episode = make_episode(7)
    unit = centered_unit_episode(episode)
    before = torch.nn.functional.normalize(torch.cat([episode.support, episode.query]), dim=-1)
    after = torch.cat([unit.support, unit.query])
    torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before), atol=1e-7, rtol=0)
    torch.testing.assert_close(unit.support.mean(0), torch.zeros(5).double())


# Logistic regression


@few
@given(episodes(), st.floats(0.05, 20.0), st.booleans())
def test_logistic_head_equals_the_loops(episode, inverse_penalty, is_normalized):
    expected = linear_head_loops.logistic_regression(
        *numpy_of(episode), inverse_penalty=inverse_penalty, is_normalized=is_normalized
    )
    assert_probs(LogisticHead(inverse_penalty, is_normalized)(episode), expected, 1e-7)


@pytest.mark.parametrize("n_way", [2, 3, 5])
@pytest.mark.parametrize("inverse_penalty", [1e-3, 1.0, 1e3])
def test_logistic_head_equals_scikit_learn(n_way, inverse_penalty):
    episode = make_episode(8, n_way=n_way, n_support=23, n_queries=19, n_features=7, separation=1.0)
    support, labels, query, _ = numpy_of(episode)
    factor = 2 if n_way == 2 else 1  # one weight vector in place of two
    model = LogisticRegression(C=factor * inverse_penalty, solver="newton-cg", tol=1e-9, max_iter=10_000)
    expected = model.fit(support, labels).predict_proba(query)
    assert_probs(LogisticHead(inverse_penalty, is_normalized=False)(episode), expected, 2e-6)


def test_logistic_heads_default_is_the_original():
    # [RFS]: LogisticRegression with C = 1 on features of unit length.
    episode = make_episode(9, n_way=5, n_support=25, min_shot=5, n_features=16)
    support, labels, query, _ = numpy_of(episode)
    model = LogisticRegression(tol=1e-10, max_iter=10_000).fit(tim_loops.unit(support), labels)
    assert_probs(LogisticHead()(episode), model.predict_proba(tim_loops.unit(query)), 1e-7)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("seed", range(4))
def test_the_dual_is_stationary_even_where_classes_part(scale, seed):
    # At the minimum a = y - p, and each class's a sum to 0: separable or not, tiny penalty or large.
    episode = make_episode(seed, batch=(3,), n_way=4, n_support=14, n_features=6, separation=[0.1, 3.0][seed % 2])
    kernel = scale * episode.support @ episode.support.mT
    targets = one_hot(episode.support_labels, 4, torch.float64).mT
    dual = fit_logistic_dual(kernel, targets, episode.way_mask)
    probs = dual.logits(kernel).softmax(-2)
    torch.testing.assert_close(dual.coefficients, targets - probs, atol=1e-8, rtol=0)
    torch.testing.assert_close(dual.coefficients.sum(-1), torch.zeros(3, 4).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(dual.intercepts.sum(-1), torch.zeros(3).double(), atol=1e-6, rtol=0)


def test_logistic_head_is_differentiable():
    episode = make_episode(10, n_way=3, n_support=5, n_queries=2, n_features=2)

    def answer(support, query):
        return LogisticHead()(replace(episode, support=support, query=query))

    torch.autograd.gradcheck(answer, (episode.support.requires_grad_(), episode.query.requires_grad_()))


def test_a_hard_companion_changes_no_bit():
    easy = make_episode(11, batch=(4,), n_support=10)
    factor = torch.tensor([1.0, 1.0, 1.0, 1e3]).double()[:, None, None]
    hard = replace(easy, support=factor * easy.support)
    method = LogisticHead(10.0, is_normalized=False)
    assert torch.equal(method(hard)[:3], method(easy)[:3])


# Baseline++


@few
@given(episodes(), st.floats(0.5, 10.0))
def test_cosine_head_equals_the_loops(episode, scale):
    expected = linear_head_loops.cosine_head(*numpy_of(episode), scale=scale, learning_rate=0.01, n_steps=6)
    assert_probs(CosineHead(scale, 0.01, 6)(episode), expected)


def test_cosine_heads_defaults_are_the_originals():
    episode = make_episode(12, n_way=2, n_support=3, n_queries=4, n_features=2)
    assert_probs(CosineHead()(episode), linear_head_loops.cosine_head(*numpy_of(episode)))


# Settings


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TimADM(cross_entropy_weight=0), r"^cross_entropy_weight must be positive, got 0$"),
        (lambda: TimADM(marginal_entropy_weight=-1), r"^marginal_entropy_weight must not be negative, got -1$"),
        (lambda: TimGD(conditional_entropy_weight=-1), r"^conditional_entropy_weight must not be negative, got -1$"),
        (lambda: TimGD(learning_rate=0), r"^learning_rate must be positive, got 0$"),
        (lambda: TimADM(n_steps=0), r"^n_steps must be positive, got 0$"),
        (lambda: AlphaTim(softmax_scale=0), r"^softmax_scale must be positive, got 0$"),
        (lambda: AlphaTim(alpha=-2), r"^alpha must be positive, got -2\.0$"),
        (lambda: AlphaTim(alpha="auto"), r"^alpha must be a positive number or 'by-shot', got 'auto'$"),
        (lambda: TransductiveFineTuning(n_steps=0), r"^n_steps must be positive, got 0$"),
        (lambda: LogisticHead(inverse_penalty=0), r"^inverse_penalty must be positive, got 0$"),
        (lambda: CosineHead(softmax_scale=0), r"^softmax_scale must be positive, got 0$"),
        (lambda: CosineHead(learning_rate=0), r"^learning_rate must be positive, got 0$"),
        (lambda: CosineHead(n_steps=0), r"^n_steps must be positive, got 0$"),
    ],
)
def test_settings_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
