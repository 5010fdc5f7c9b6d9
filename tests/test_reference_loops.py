"""The loops are the truth for the fast code, so here they are held to closed forms, scipy and scikit-learn."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import digamma, polygamma, softmax
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestCentroid

from tests.reference import em_loops as loops
from tests.reference import sampler_loop

N_WAY, N_SHOT, N_QUERY, N_FEATURES = 4, 2, 13, 3


def gaussian_episode(seed=0, n_shot=N_SHOT, n_empty=1):
    """Overlapping classes; the last ``n_empty`` have no query."""
    rng = np.random.default_rng(seed)
    centers = 1.5 * rng.normal(size=(N_WAY, N_FEATURES))
    support_labels = rng.permutation(np.repeat(np.arange(N_WAY), n_shot))
    query_labels = rng.integers(0, N_WAY - n_empty, size=N_QUERY)
    support = centers[support_labels] + rng.normal(size=(len(support_labels), N_FEATURES))
    query = centers[query_labels] + rng.normal(size=(N_QUERY, N_FEATURES))
    return support, support_labels, query, N_WAY


def cosine_episode(seed=0, n_shot=3):
    """CLIP-like cosines (n, n_way), the own class a little higher."""
    rng = np.random.default_rng(seed)
    support_labels = rng.permutation(np.repeat(np.arange(N_WAY), n_shot))
    query_labels = rng.integers(0, N_WAY - 1, size=N_QUERY)

    def cosines(labels):
        return 0.2 + 0.05 * rng.normal(size=(len(labels), N_WAY)) + 0.06 * np.eye(N_WAY)[labels]

    return cosines(support_labels), support_labels, cosines(query_labels), N_WAY


def final_means(episode, u, scale=1.0):
    support, support_labels, query, _ = episode
    return loops.weighted_class_averages(scale * support, support_labels, scale * query, u)


# ---------------------------------------------------------------------------------------------- inductive and Gaussian


def test_nearest_prototype_agrees_with_scikit_learn():
    support, support_labels, query, n_way = gaussian_episode()
    log_probs = loops.nearest_prototype(support, support_labels, query, n_way)
    expected = NearestCentroid().fit(support, support_labels).predict(query)
    np.testing.assert_array_equal(log_probs.argmax(1), expected)
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1.0, atol=1e-14)


def test_a_class_without_support_is_named():
    support, support_labels, query, n_way = gaussian_episode()
    with pytest.raises(ValueError, match=r"^class 4 of 5 has no support item, so it has no prototype$"):
        loops.nearest_prototype(support, support_labels, query, n_way + 1)


def test_simple_shot_ignores_item_norms_and_keeps_zero_finite():
    support, support_labels, query, n_way = gaussian_episode()
    center = np.array([0.3, -0.2, 0.1])
    log_probs = loops.simple_shot(support, support_labels, query, n_way, center=center)
    stretched = center + (query - center) * np.linspace(0.5, 3.0, N_QUERY)[:, None]
    np.testing.assert_allclose(
        loops.simple_shot(support, support_labels, stretched, n_way, center=center), log_probs, atol=1e-12
    )
    query[2] = center
    assert np.isfinite(loops.simple_shot(support, support_labels, query, n_way, center=center)).all()


def test_first_layer_is_the_nearest_prototype_whatever_the_schedule():
    # P9; at scale 1 and T = 1 the probabilities are equal too.
    support, support_labels, query, n_way = gaussian_episode()
    expected = loops.nearest_prototype(support, support_labels, query, n_way)
    for rho, t in [(0.0, 1.0), (7.0, 1.0), (3.0, 0.4), (0.2, 5.0)]:
        (u,) = loops.gem_gaussian(
            support, support_labels, query, n_way, class_balance=[rho], temperature=[t], scale=1.7
        )
        np.testing.assert_array_equal(u.argmax(1), expected.argmax(1))
    (u,) = loops.gem_gaussian(support, support_labels, query, n_way, class_balance=[9.0], temperature=[1.0], scale=1.0)
    np.testing.assert_allclose(u, np.exp(expected), atol=1e-14)


def test_second_layer_is_the_posterior_of_scikit_learns_mixture():
    episode = gaussian_episode()
    support, support_labels, query, n_way = episode
    u1, u2 = loops.gem_gaussian(*episode, class_balance=[1.0, 1.0], temperature=[1.0, 1.0], scale=1.0)
    mixture = GaussianMixture(n_way, covariance_type="spherical")
    mixture.weights_ = u1.mean(0)
    mixture.means_ = final_means(episode, u1)
    mixture.precisions_cholesky_ = np.ones(n_way)
    # 1e-6 is the floor inside ln(pi + eps).
    np.testing.assert_allclose(u2, mixture.predict_proba(query), atol=2e-6)
    constant = 0.5 * N_FEATURES * math.log(2 * math.pi)
    own = stats.multivariate_normal(cov=np.eye(N_FEATURES)).logpdf(support - mixture.means_[support_labels])
    expected = mixture.score_samples(query).sum() + own.sum() + constant * (len(query) + len(support))
    found = loops.mixture_log_likelihood(support, support_labels, query, mixture.weights_, mixture.means_)
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("rho", "t", "scale"), [(0.0, 1.0, 1.0), (1.0, 1.0, 0.8), (2.5, 1.8, 1.3), (0.4, 0.6, 1.1)])
def test_gaussian_objective_never_rises_and_ends_where_it_is_flat(rho, t, scale):
    # P12: after every block update, for one fixed (lambda, T).
    episode = gaussian_episode(seed=1)
    support, support_labels, query, _ = episode
    layers = loops.gem_gaussian(
        *episode, class_balance=[rho] * 200, temperature=[t] * 200, scale=scale, proportion_floor=1e-300
    )

    def value(u, means):
        return loops.gaussian_objective(
            support, support_labels, query, u, means, class_balance=rho, temperature=t, scale=scale
        )

    trace = []
    for u, following in pairwise(layers[:41]):
        means = final_means(episode, u, scale)
        trace += [value(u, means), value(following, means)]
    assert max(np.diff(trace)) < 1e-10
    assert trace[0] - trace[-1] > 1e-3

    # Independent of the E-step's formula: at the end J does not change to first order along the simplex nor in theta.
    u = layers[-1]
    means = final_means(episode, u, scale)
    rng = np.random.default_rng(3)
    for _ in range(5):
        towards = rng.normal(size=u.shape)
        towards = u * (towards - (u * towards).sum(1, keepdims=True))
        slope = (value(u + 1e-5 * towards, means) - value(u - 1e-5 * towards, means)) / 2e-5
        assert abs(slope) < 1e-6
        away = rng.normal(size=means.shape)
        slope = (value(u, means + 1e-5 * away) - value(u, means - 1e-5 * away)) / 2e-5
        assert abs(slope) < 1e-6


def test_em_never_lowers_the_semi_supervised_mixture_likelihood():
    # P13: lambda = |Q|, T = 1; and -J is its lower bound, tight where u is the posterior.
    episode = gaussian_episode(seed=2)
    support, support_labels, query, _ = episode
    layers = loops.gem_gaussian(
        *episode, class_balance=[1.0] * 60, temperature=[1.0] * 60, scale=1.2, proportion_floor=1e-300
    )
    trace = []
    for u, following in pairwise(layers):
        proportions, means = u.mean(0), final_means(episode, u, 1.2)
        trace.append(loops.mixture_log_likelihood(support, support_labels, query, proportions, means, scale=1.2))
        bound = -loops.gaussian_objective(
            support, support_labels, query, following, means, class_balance=1.0, temperature=1.0, scale=1.2
        )
        assert bound >= trace[-1] - 1e-10
        assert (
            bound
            <= loops.mixture_log_likelihood(support, support_labels, query, following.mean(0), means, scale=1.2) + 1e-10
        )
    assert min(np.diff(trace)) > -1e-10
    assert trace[-1] - trace[0] > 0.1


def test_an_empty_class_is_penalised_by_the_floor():
    # Pitfall 8: ln(pi + eps) is -13.8 at most for eps = 1e-6.
    support, support_labels, query, n_way = gaussian_episode(seed=0)
    support[support_labels == 3] += 60.0
    u1, u2 = loops.gem_gaussian(
        support, support_labels, query, n_way, class_balance=[0.0, 110.0], temperature=[1.0, 90.0], scale=1.0
    )
    assert u1[:, 3].max() < 1e-300
    means = final_means((support, support_labels, query, n_way), u1)
    logits = -((query[:, None] - means) ** 2).sum(-1) / 2 + 110.0 * np.log(u1.mean(0) + 1e-6)
    assert u2[:, 3].min() > 0.0
    np.testing.assert_allclose(np.log(u2), np.log(softmax(logits / 90.0, axis=1)), atol=1e-11)


def test_gaussian_invariances():
    # P4, P5, P6, P7, P8 and P2 in one schedule.
    support, support_labels, query, n_way = gaussian_episode(seed=4)
    rho, t, s = np.array([1.0, 3.0, 0.7]), np.array([1.5, 2.0, 1.1]), 0.9
    rng = np.random.default_rng(0)

    def last(support, support_labels, query, class_balance=rho, temperature=t, scale=s):
        return loops.gem_gaussian(
            support, support_labels, query, n_way, class_balance=class_balance, temperature=temperature, scale=scale
        )[-1]

    u = last(support, support_labels, query)
    np.testing.assert_allclose(u.sum(1), 1.0, atol=1e-14)
    order = rng.permutation(len(support))
    rotation = stats.ortho_group.rvs(N_FEATURES, random_state=0)
    renamed = rng.permutation(n_way)
    for same in [
        last(support[order], support_labels[order], query),
        last(support @ rotation + 5.0, support_labels, query @ rotation + 5.0),
        last(3.0 * support, support_labels, 3.0 * query, scale=s / 3.0),
        last(support, support_labels, query, 4.0 * rho, 4.0 * t, 2.0 * s),
        last(np.tile(support, (2, 1)), np.tile(support_labels, 2), np.tile(query, (2, 1)))[:N_QUERY],
        last(support, renamed[support_labels], query)[:, renamed],
    ]:
        np.testing.assert_allclose(same, u, atol=1e-11)


def test_limits_of_the_two_knobs():
    # P10 and P11.
    episode = gaussian_episode(seed=5)
    u = loops.gem_gaussian(*episode, class_balance=[0.0] * 3, temperature=[1e9] * 3, scale=1.0)[-1]
    np.testing.assert_allclose(u, 1.0 / N_WAY, atol=1e-7)
    u = loops.gem_gaussian(*episode, class_balance=[300.0] * 10, temperature=[1.0] * 10, scale=1.0)[-1]
    assert u.max(0).round(6).tolist().count(1.0) == 1


def test_soft_kmeans_and_paddle_are_their_special_cases():
    support, support_labels, query, n_way = gaussian_episode(seed=6)
    layers = loops.soft_kmeans(support, support_labels, query, n_way, n_iter=3)
    assert len(layers) == 3
    means = final_means((support, support_labels, query, n_way), layers[-2])
    squared = ((query[:, None] - means) ** 2).sum(-1)
    np.testing.assert_allclose(layers[-1], softmax(-squared / 2, axis=1), atol=1e-13)

    # Per-dimension scaling makes PADDLE blind to units and offsets; a constant dimension is left alone.
    units, offset = np.array([10.0, 0.1, 3.0]), np.array([1.0, -2.0, 30.0])
    u = loops.paddle(support, support_labels, query, n_way, n_iter=5)[-1]
    other = loops.paddle(support * units + offset, support_labels, query * units + offset, n_way, n_iter=5)[-1]
    np.testing.assert_allclose(other, u, atol=1e-11)
    np.testing.assert_allclose(np.ptp(query * loops.inverse_query_range(query), axis=0), 1.0)
    query[:, 1] = 2.0
    assert loops.inverse_query_range(query)[1] == 1.0


# ------------------------------------------------------------------------------------------------------------ Dirichlet


def test_dirichlet_density_agrees_with_scipy():
    rng = np.random.default_rng(0)
    alpha = rng.gamma(2.0, size=(3, 5)) + 0.2
    z = rng.dirichlet(np.ones(5), size=4)
    expected = np.stack([stats.dirichlet(a).logpdf(z.T) for a in alpha], axis=1)
    np.testing.assert_allclose(loops.dirichlet_log_likelihood(np.log(z), alpha), expected, atol=1e-11)


def test_simplex_features_are_floored_logarithms():
    cosines = np.array([[0.3, 0.2, -0.9]])
    np.testing.assert_allclose(loops.simplex_features(cosines, 30.0, 0.0), np.log(softmax(30 * cosines)), rtol=1e-12)
    assert loops.simplex_features(cosines, 1e4, 1e-15)[0, 2] == pytest.approx(math.log(1e-15))


@pytest.mark.parametrize("value", [-1e12, -50.0, -2.3, -2.0, -0.5772156649015329, 0.0, 3.0, 30.0])
def test_inverse_digamma(value):
    assert digamma(loops.inverse_digamma(value)) == pytest.approx(value, rel=1e-13, abs=1e-13)


def test_curvature_meets_its_limit_and_its_formula():
    assert loops.mm_curvature(0.0) == pytest.approx(math.pi**2 / 6, rel=1e-14)
    assert loops.mm_curvature(1e-7) == pytest.approx(math.pi**2 / 6 - 4 / 3 * 1.2020569031595942e-7, rel=1e-14)
    assert loops.mm_curvature(0.1 - 1e-12) == pytest.approx(loops.mm_curvature(0.1), rel=1e-10)
    # Steps 2 and 3 need the parabola to lie above ln Gamma(x+1), so c(a) is above psi'(a+1), and falls with a.
    grid = [loops.mm_curvature(a) for a in np.geomspace(1e-8, 1e3, 60)]
    assert max(np.diff(grid)) < 0
    assert all(c > polygamma(1, a + 1.0) for c, a in zip(grid, np.geomspace(1e-8, 1e3, 60), strict=True))


def dirichlet_problems():
    """Mean logarithms of real draws, from sparse to concentrated, and the coordinates near the floor of 1e-15."""
    rng = np.random.default_rng(0)
    for alpha in [[0.3, 0.2, 0.5, 0.1], [1.0, 1.0, 1.0], [0.05, 6.0, 1.2, 0.7, 0.02], [40.0, 11.0, 3.0]]:
        yield np.log(rng.dirichlet(alpha, size=30) + 1e-15).mean(0)
    yield np.array([-0.05, -8.0, -33.0, -34.5])


@pytest.mark.parametrize("ybar", list(dirichlet_problems()))
def test_dirichlet_m_step(ybar):
    # P15: stationary; the maximum by an unrelated optimiser; each MM step raises F and the steps end there too.
    solved = loops.dirichlet_m_step_scipy(ybar)
    assert (solved > 0).all()
    np.testing.assert_allclose(digamma(solved) - digamma(solved.sum()), ybar, rtol=1e-11)

    best = minimize(lambda log_a: -loops.dirichlet_gain(ybar, np.exp(log_a)), np.zeros(len(ybar)), tol=1e-12)
    assert loops.dirichlet_gain(ybar, solved) >= -best.fun - 1e-10
    assert loops.dirichlet_gain(ybar, solved) == pytest.approx(-best.fun, rel=1e-6)

    alpha, gains = np.ones(len(ybar)), []
    for _ in range(50):
        gains.append(loops.dirichlet_gain(ybar, alpha))
        alpha = loops.dirichlet_mm_step(ybar, alpha)
    assert min(np.diff(gains)) > -1e-11
    np.testing.assert_allclose(loops.dirichlet_m_step_mm(ybar, np.ones(len(ybar)), 8000), solved, rtol=1e-6)


def test_coinciding_items_have_no_finite_dirichlet():
    z = np.array([0.7, 0.2, 0.1])
    with pytest.raises(ValueError, match="no finite maximum"):
        loops.dirichlet_m_step_scipy(np.log(z))
    spread = (np.log(z) + np.log([0.6, 0.3, 0.1])) / 2
    assert np.isfinite(loops.dirichlet_m_step_scipy(spread)).all()


@pytest.mark.parametrize(("rho", "t"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.6)])
def test_dirichlet_objective_never_rises_and_ends_where_it_is_flat(rho, t):
    # P12 for the other variant; the M-step of layer l+1 is repeated here from u_l.
    episode = cosine_episode(seed=1)
    cosines_s, support_labels, cosines_q, _ = episode
    n_layers = 25
    layers = loops.gem_dirichlet(
        *episode,
        class_balance=[rho] * n_layers,
        temperature=[t] * n_layers,
        softmax_scale=20.0,
        proportion_floor=1e-300,
    )
    log_z_s = loops.simplex_features(cosines_s, 20.0, 1e-15)
    log_z_q = loops.simplex_features(cosines_q, 20.0, 1e-15)

    def value(u, alpha):
        return loops.dirichlet_objective(
            cosines_s, support_labels, cosines_q, u, alpha, class_balance=rho, temperature=t, softmax_scale=20.0
        )

    def fit(u):
        ybar = loops.dirichlet_statistics(log_z_s, support_labels, log_z_q, u)
        return np.array([loops.dirichlet_m_step_scipy(row) for row in ybar])

    trace = []
    for u, following in pairwise(layers[:7]):
        alpha = fit(u)
        trace += [value(u, alpha), value(following, alpha)]
    assert max(np.diff(trace)) < 1e-9
    assert trace[0] - trace[-1] > 1e-3

    u = layers[-1]
    np.testing.assert_allclose(u, layers[-2], atol=1e-4)
    alpha = fit(u)
    nudge = np.random.default_rng(0).normal(size=alpha.shape)
    slope = (value(u, alpha * (1 + 1e-5 * nudge)) - value(u, alpha * (1 - 1e-5 * nudge))) / 2e-5
    assert abs(slope) < 1e-4


def test_dirichlet_first_layer_follows_the_text():
    # M-step from the CLIP probabilities, the prior of the same u, then the E-step: written once more, vectorised.
    cosines_s, support_labels, cosines_q, n_way = cosine_episode(seed=2)
    z_s, z_q = softmax(25 * cosines_s, axis=1), softmax(25 * cosines_q, axis=1)
    y = np.eye(n_way)[support_labels]
    ybar = (z_q.T @ np.log(z_q) + y.T @ np.log(z_s)) / (z_q.sum(0) + y.sum(0))[:, None]
    alpha = np.array([loops.dirichlet_m_step_mm(row, np.ones(n_way), 20000) for row in ybar])
    logits = np.stack([stats.dirichlet(a).logpdf((z_q / z_q.sum(1, keepdims=True)).T) for a in alpha], axis=1)
    expected = softmax((logits + 1.5 * np.log(z_q.mean(0))) / 2.0, axis=1)
    (u,) = loops.gem_dirichlet(
        cosines_s, support_labels, cosines_q, n_way, class_balance=[1.5], temperature=[2.0], softmax_scale=25.0
    )
    np.testing.assert_allclose(u, expected, atol=1e-5)


def test_dirichlet_with_few_mm_steps():
    # P12 holds with 5 MM steps an M-step; many of them are the exact M-step; one shot stays finite with them.
    episode = cosine_episode(seed=4)
    cosines_s, support_labels, cosines_q, n_way = episode
    options = {"class_balance": [1.2] * 12, "temperature": [1.1] * 12, "softmax_scale": 20.0}
    exact = loops.gem_dirichlet(*episode, **options)
    many = loops.gem_dirichlet(*episode, n_mm_steps=1500, **{**options, "class_balance": [1.2], "temperature": [1.1]})
    np.testing.assert_allclose(many[0], exact[0], atol=1e-5)

    log_z_s, log_z_q = (loops.simplex_features(c, 20.0, 1e-15) for c in (cosines_s, cosines_q))
    alpha, u = np.ones((n_way, n_way)), softmax(20.0 * cosines_q, axis=1)
    trace = []
    for following in loops.gem_dirichlet(*episode, n_mm_steps=5, proportion_floor=1e-300, **options):
        ybar = loops.dirichlet_statistics(log_z_s, support_labels, log_z_q, u)
        alpha = np.array([loops.dirichlet_m_step_mm(row, a, 5) for row, a in zip(ybar, alpha, strict=True)])
        for assigned in (u, following):
            value = loops.dirichlet_objective(
                cosines_s,
                support_labels,
                cosines_q,
                assigned,
                alpha,
                class_balance=1.2,
                temperature=1.1,
                softmax_scale=20.0,
            )
            trace.append(value)
        log_prior = np.log(u.mean(0) + 1e-300)
        expected = softmax((loops.dirichlet_log_likelihood(log_z_q, alpha) + 1.2 * log_prior) / 1.1, axis=1)
        np.testing.assert_allclose(following, expected, atol=1e-10)
        u = following
    assert max(np.diff(trace)) < 1e-9
    one_shot = cosine_episode(seed=1, n_shot=1)
    assert np.isfinite(loops.gem_dirichlet(*one_shot, n_mm_steps=50, hard=True, **options)[-1]).all()


def test_dirichlet_classes_and_columns_permute_together_and_hard_differs():
    # P15.
    cosines_s, support_labels, cosines_q, n_way = cosine_episode(seed=3)
    options = {"class_balance": [1.0, 2.0], "temperature": [1.0, 1.3], "softmax_scale": 15.0}
    soft = loops.gem_dirichlet(cosines_s, support_labels, cosines_q, n_way, **options)
    order = np.array([2, 0, 3, 1])
    moved = loops.gem_dirichlet(
        cosines_s[:, order], np.argsort(order)[support_labels], cosines_q[:, order], n_way, **options
    )
    np.testing.assert_allclose(moved[-1], soft[-1][:, order], atol=1e-9)
    hard = loops.gem_dirichlet(cosines_s, support_labels, cosines_q, n_way, hard=True, **options)
    np.testing.assert_array_equal(hard[0], soft[0])
    assert np.abs(hard[1] - soft[1]).max() > 1e-3
    assert ((hard[1] > 0) & (hard[1] < 1)).any()


# --------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_double_softmax_is_bounded_and_log_k_at_uniform(n_way):
    # P21.
    labels = np.array([0, n_way - 1, 1])
    uniform = np.full((3, n_way), 1.0 / n_way)
    assert loops.double_softmax_loss(uniform, labels) == pytest.approx(math.log(n_way), rel=1e-14)
    right, wrong = np.eye(n_way)[labels], np.eye(n_way)[(labels + 1) % n_way]
    top = math.log(math.e + n_way - 1)
    assert loops.double_softmax_loss(right, labels) == pytest.approx(top - 1, rel=1e-14)
    assert loops.double_softmax_loss(wrong, labels) == pytest.approx(top, rel=1e-14)


def test_known_constants_of_the_losses():
    assert loops.double_softmax_loss(np.eye(20)[[4]], [4]) == pytest.approx(2.078, abs=5e-4)
    assert loops.double_softmax_loss(np.eye(2)[[0]], [0]) == pytest.approx(0.3133, abs=5e-5)
    assert loops.double_softmax_loss(np.full((1, 2), 0.5), [1]) == pytest.approx(0.6931, abs=5e-5)
    assert loops.nll_loss(np.log([[0.2, 0.8], [0.5, 0.5]]), [1, 0]) == pytest.approx(
        -(math.log(0.8) + math.log(0.5)) / 2
    )


# ------------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("queries", [{"n_query": 4}, {"n_query_total": 11}])
def test_loop_sampler_cuts_disjoint_episodes(queries):
    labels = [c for c in (7, 3, 11, 20, 5) for _ in range(6 + c)]
    sampler = sampler_loop.LoopEpisodeSampler(labels, 4, 3, 50, n_effective_way=2, seed=1, **queries)
    episodes = list(sampler)
    assert len(episodes) == len(sampler) == 50
    for episode in episodes:
        assert len(set(episode.support_index + episode.query_index)) == 12 + len(episode.query_index)
        assert episode.class_ids == sorted(set(episode.class_ids))
        assert [labels[i] for i in episode.support_index] == [episode.class_ids[k] for k in episode.support_labels]
        assert [labels[i] for i in episode.query_index] == [episode.class_ids[k] for k in episode.query_labels]
        assert np.bincount(episode.support_labels).tolist() == [3] * 4
        assert len(set(episode.query_labels)) <= 2
        if "n_query" in queries:
            assert sorted(np.bincount(episode.query_labels, minlength=4).tolist()) == [0, 0, 4, 4]
        else:
            assert len(episode.query_index) == 11
    assert len({tuple(episode.class_ids) for episode in episodes}) == 5
    again = sampler_loop.LoopEpisodeSampler(labels, 4, 3, 50, n_effective_way=2, seed=1, **queries)
    assert list(again) == episodes


def test_meta_dataset_counts_by_hand():
    # q = min(10, 12//2) = 6; r = 34, 6, 24; total = 17+1 + 3+1 + 12+1 = 35; w = 40, 12, 30 (log w = 0 at u = 1/2);
    # 32/82 of them: 15.6, 4.7, 11.7 -> 16, 5, 12.
    assert sampler_loop.meta_dataset_counts([40, 12, 30], 0.5, [0.5, 0.5, 0.5]) == ([16, 5, 12], 6)
    # q = 1; r = 39, 1; total = 39 + 1; w = 20, 4; 38/24 of them: 31.7, 6.3 -> 32, 7, and 7 is capped by r = 1.
    assert sampler_loop.meta_dataset_counts([40, 2], 0.9999, [0.0, 0.9999]) == ([32, 1], 1)
    assert sampler_loop.meta_dataset_counts([30, 30], 0.0, [0.1, 0.7]) == ([1, 1], 10)
    shots, n_query = sampler_loop.meta_dataset_counts([600] * 30, 0.99, [0.5] * 30)
    assert (shots, n_query) == ([16] * 30, 10)


@pytest.mark.parametrize(
    ("shares", "total", "limits", "expected"),
    [
        ([0.5, 0.25, 0.25], 8, [9, 9, 9], [4, 2, 2]),
        ([1, 1, 1], 8, [9, 9, 9], [3, 3, 2]),
        ([6, 3, 1], 10, [4, 9, 9], [4, 5, 1]),  # 6 of 6:3:1 -> 4 | 6 in 3:1 -> 4.5, 1.5: the first of equal remainders
        ([8, 1, 1], 12, [3, 5, 9], [3, 5, 4]),  # 9 in 1:1 -> 4.5, 4.5: the first again
        ([1, 0], 5, [2, 9], [2, 3]),
        ([0.2, 0.3], 7, [3, 4], [3, 4]),
        ([1, 2], 0, [3, 3], [0, 0]),
    ],
)
def test_largest_remainders_by_hand(shares, total, limits, expected):
    assert sampler_loop.largest_remainder_counts(shares, total, limits) == expected


def test_largest_remainders_on_random_problems():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(1, 8))
        shares = rng.dirichlet(np.full(n, 0.4))
        limits = rng.integers(0, 20, size=n).tolist()
        total = int(rng.integers(0, sum(limits) + 1))
        counts = sampler_loop.largest_remainder_counts(shares.tolist(), total, limits)
        assert sum(counts) == total
        assert all(0 <= count <= limit for count, limit in zip(counts, limits, strict=True))
        # Proportional water filling: classes strictly below their limit share one level, to within one item.
        level = [count / share for count, share, limit in zip(counts, shares, limits, strict=True) if count < limit]
        slack = [1.0 / share for count, share, limit in zip(counts, shares, limits, strict=True) if count < limit]
        assert all(
            a - da <= b + db for a, da in zip(level, slack, strict=True) for b, db in zip(level, slack, strict=True)
        )
    with pytest.raises(ValueError, match=r"^6 items asked of classes that can give 5$"):
        sampler_loop.largest_remainder_counts([1, 1], 6, [2, 3])
