"""BD-CSPN, LaplacianShot, PT-MAP and the transport under it, against loops, closed forms and POT."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.episodic.bd_cspn import BDCSPN, unit_items
from fewshot.episodic.laplacian_shot import LaplacianShot, nearest_neighbours
from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.episodic.pt_map import PTMAP
from fewshot.episodic.solvers.sinkhorn import estimate_shares, sinkhorn
from fewshot.registry import build_method
from tests.reference import bd_cspn_loops, laplacian_shot_loops, pt_map_loops
from tests.strategies import episodes, make_episode, numpy_of, one_of, padded


def problem(seed, *, batch=(), n_items=11, n_classes=4, scale=3.0):
    """Scores of items and shares of classes, both random."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(*batch, n_items, n_classes, generator=generator, dtype=torch.float64)
    shares = torch.rand(*batch, n_classes, generator=generator, dtype=torch.float64) + 0.1
    return scores, shares / shares.sum(-1, keepdim=True)


def gap(found, expected):
    return float(np.abs(found.exp().numpy() - expected).max())


# BD-CSPN


@settings(max_examples=12)
@given(episodes(), st.sampled_from([0, 1, 2, 40]), st.sampled_from([3.0, 10.0]), st.booleans())
def test_bd_cspn_equals_its_loop(episode, n_confident, scale, is_centered):
    center = episode.query.mean(0) / 3 if is_centered else None
    expected = bd_cspn_loops.bd_cspn(
        *numpy_of(episode),
        epsilon=scale,
        n_confident=n_confident,
        center=0.0 if center is None else center.numpy(),
    )
    assert gap(BDCSPN(scale, n_confident, center)(episode), expected) < 1e-10


def test_unit_items_are_the_items_shifted():
    features = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors, weights = features[:, :3].flip(-1), features[:, :3, :1] * features[..., :1].mT
    items = unit_items(features)._replace(shift=0.3 * features[:, :1])
    shifted = features / features.norm(dim=-1, keepdim=True) + items.shift
    torch.testing.assert_close(items.dot(vectors), vectors @ shifted.mT)
    torch.testing.assert_close(items.combine(weights), weights @ shifted)
    cosines = torch.cosine_similarity(vectors[:, :, None], shifted[:, None], dim=-1)
    torch.testing.assert_close(items.cosines(vectors), cosines)


def test_a_shift_of_all_queries_is_undone_where_classes_are_balanced():
    # Queries are the support, moved: after the shift each lies on its own class's side again.
    episode = make_episode(2, n_way=3, n_support=3, n_features=40, separation=5.0)
    unit = torch.nn.functional.normalize(episode.support, dim=-1)
    moved = Episode(support=unit, support_labels=episode.support_labels, query=unit, class_ids=episode.class_ids)
    assert BDCSPN()(moved).argmax(-1).equal(episode.support_labels)


# LaplacianShot


@settings(max_examples=12)
@given(episodes(), st.sampled_from([1, 3, 40]), st.sampled_from([0.0, 0.7, 2.0]), st.booleans(), st.booleans())
def test_laplacian_shot_equals_its_loop(episode, n_neighbours, weight, is_rectified, is_centered):
    center = episode.query.mean(0) / 3 if is_centered else None
    expected = laplacian_shot_loops.laplacian_shot(
        *numpy_of(episode),
        weight=weight,
        n_neighbours=n_neighbours,
        n_steps=6,
        is_rectified=is_rectified,
        center=0.0 if center is None else center.numpy(),
    )
    assert gap(LaplacianShot(weight, n_neighbours, 6, is_rectified, center)(episode), expected) < 1e-10


def test_without_a_pull_it_is_the_nearest_prototype_of_unit_vectors():
    episode = make_episode(3, batch=(2,))
    normalize = torch.nn.functional.normalize
    unit = replace(episode, support=normalize(episode.support, dim=-1), query=normalize(episode.query, dim=-1))
    found = LaplacianShot(laplacian_weight=0.0, is_rectified=False)(episode)
    torch.testing.assert_close(found, (2 * NearestPrototype()(unit)).log_softmax(-1))


def test_neighbours_are_those_of_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    x = np.random.default_rng(0).normal(size=(12, 3))
    graph = neighbors.NearestNeighbors(n_neighbors=4).fit(x).kneighbors_graph().toarray()  # itself not counted
    found = nearest_neighbours(-torch.cdist(*[torch.from_numpy(x)] * 2), 4)
    np.testing.assert_array_equal(found.numpy(), graph)


def test_equal_neighbours_count_alike_and_padding_is_nobodys():
    x = torch.tensor([0.0, 1.0, -1.0, 5.0, 0.5, 0.5, 0.5])
    nearness = -(x[:, None] - x).abs()
    mask = torch.arange(7) < 4
    expected = [[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    found = nearest_neighbours(nearness, 1, mask)[:4].long()
    assert found[:, :4].tolist() == expected
    assert not found[:, 4:].any()
    for n_neighbours in (3, 4, 5, 6, 9):  # as many as there are, or more
        everyone = nearest_neighbours(nearness, n_neighbours, mask)[:4].long()
        assert everyone[:, :4].equal(1 - torch.eye(4, dtype=torch.int64))
        assert not everyone[:, 4:].any()
    assert nearest_neighbours(nearness, 6).equal(~torch.eye(7, dtype=torch.bool))


def test_a_query_that_points_away_from_all_ways_is_not_given_to_an_absent_one():
    # cos is 0 to an absent way, and less to both real ones.
    support, query = (
        torch.eye(3)[:2].double(),
        torch.tensor([[1.0, 0.2, 0.0], [0.2, 1.0, 0.0], [-1.0, -1.1, 0.3]]).double(),
    )
    plain = Episode(support=support, support_labels=torch.arange(2), query=query, class_ids=torch.arange(2))
    wide = replace(plain, class_ids=torch.tensor([0, 1, -1]), query_mask=torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(BDCSPN(1.0)(wide)[:, :2], BDCSPN(1.0)(plain))


def test_steps_lower_the_energy_where_the_graph_is_symmetric():
    episode = make_episode(4, n_queries=14)
    everyone = {"n_neighbours": 13, "is_rectified": False}  # a complete graph: symmetric, and psd but for a constant
    query = torch.nn.functional.normalize(episode.query, dim=-1).numpy()
    support = torch.nn.functional.normalize(episode.support, dim=-1).numpy()
    means = np.array(bd_cspn_loops.class_means(support, episode.support_labels.numpy(), episode.n_way))
    a = ((query[:, None] - means) ** 2).sum(-1)
    w = 1 - np.eye(14)
    energies = [
        laplacian_shot_loops.energy(LaplacianShot(0.3, n_steps=n, **everyone)(episode).exp().numpy(), a, w, 0.3)
        for n in range(1, 9)
    ]
    assert (np.diff(energies) < 1e-12).all()
    assert energies[-1] < energies[0] - 1e-3


# Sinkhorn


@settings(max_examples=15)
@given(st.integers(0, 999), st.sampled_from([0.1, 3.0, 8.0]))
def test_transport_equals_the_textbook_loop(seed, scale):
    scores, shares = problem(seed, scale=scale)
    found = sinkhorn(scores, shares, tolerance=1e-13)
    assert bool(found.is_converged)
    assert gap(found.log_plan, pt_map_loops.sinkhorn(scores.numpy(), shares.numpy(), tolerance=1e-12)) < 1e-9
    torch.testing.assert_close(found.log_plan.exp().mean(0), shares, atol=1e-12, rtol=0)


def test_transport_equals_pot():
    ot = pytest.importorskip("ot")
    scores, shares = problem(5, n_items=20, n_classes=6)
    even = np.full(20, 1 / 20)
    expected = ot.sinkhorn(even, shares.numpy(), -scores.numpy(), reg=1.0, method="sinkhorn_log", stopThr=1e-14)
    assert gap(sinkhorn(scores, shares, tolerance=1e-13).log_plan, 20 * expected) < 1e-8


def test_two_classes_in_closed_form():
    # Two kinds of items, as many of each, half the mass to each class: v_0 - v_1 solves a quadratic equation.
    x, y = 3.0, 1.0
    scores = torch.tensor([[x, 0.0], [y, 0.0]], dtype=torch.float64)
    found = sinkhorn(scores, torch.tensor([0.5, 0.5], dtype=torch.float64), tolerance=1e-14)
    first = 1 / (1 + np.exp(-(x - y) / 2))  # by symmetry the threshold is half-way
    np.testing.assert_allclose(found.log_plan.exp().numpy(), [[first, 1 - first], [1 - first, first]], atol=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 999))
def test_each_problem_stops_by_itself(seed):
    scores, shares = problem(seed, batch=(3, 2), n_items=9)
    scores = scores * torch.tensor([0.01, 1.0, 20.0], dtype=torch.float64)[:, None, None, None]
    whole = sinkhorn(scores, shares)
    for i in range(3):
        for j in range(2):
            alone = sinkhorn(scores[i, j], shares[i, j])
            assert int(alone.n_steps) == int(whole.n_steps[i, j])
            torch.testing.assert_close(alone.log_plan, whole.log_plan[i, j], atol=1e-12, rtol=1e-12)
    assert bool((whole.n_steps[0] < whole.n_steps[2]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_classes_converge_in_few_steps_and_overflow_nothing(dtype):
    # Each item prefers its own class by a factor of exp(cost): Sinkhorn's own steps take thousands.
    generator = torch.Generator().manual_seed(0)
    cost = torch.tensor([20.0, 80.0, 400.0, 4000.0], dtype=dtype)[:, None, None]
    kind = torch.randint(0, 4, (4, 30), generator=generator)
    noise = torch.rand(4, 30, 5, generator=generator).to(dtype)
    scores = cost * (torch.nn.functional.one_hot(kind, 5).to(dtype) + 0.3 * noise)
    found = sinkhorn(scores, torch.full((4, 5), 0.2, dtype=dtype))
    assert found.log_plan.isfinite().all()
    assert found.is_converged[:3].all()
    assert found.n_steps[:3].max() < 150
    assert ((found.error <= 1e-6) == found.is_converged).all()


def test_it_says_where_it_has_not_converged():
    scores, shares = problem(1, batch=(2,), scale=6.0)
    scores[0] = 0
    short = sinkhorn(scores, shares, max_steps=2)
    assert short.is_converged.tolist() == [True, False]
    assert short.error[1] > 1e-3
    assert short.n_steps.tolist() == [0, 2]
    torch.testing.assert_close(short.error, (short.log_plan.exp().mean(-2) - shares).abs().amax(-1))
    on = sinkhorn(scores, shares, potentials=sinkhorn(scores, shares).potentials)
    assert on.n_steps.tolist() == [0, 0]


def test_no_share_means_nothing_and_padding_has_no_part():
    scores, shares = problem(2, n_classes=4)
    shares = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    found = sinkhorn(scores, shares, tolerance=1e-12)
    assert (found.log_plan[:, 1] == -torch.inf).all()
    rest = sinkhorn(scores[:, [0, 2, 3]], shares[[0, 2, 3]], tolerance=1e-12)
    torch.testing.assert_close(found.log_plan[:, [0, 2, 3]], rest.log_plan, atol=1e-9, rtol=0)
    mask = torch.arange(14) < 11
    wide = torch.cat([scores, 50 * torch.ones(3, 4, dtype=torch.float64)])
    torch.testing.assert_close(
        sinkhorn(wide, shares, item_mask=mask, tolerance=1e-12).log_plan[:11], found.log_plan, atol=1e-9, rtol=0
    )


def test_the_gradient_is_that_of_the_solution():
    scores, shares = problem(3, batch=(2,), n_items=6, n_classes=3, scale=2.0)

    def plan(scores, logits):
        return sinkhorn(scores, logits.softmax(-1), tolerance=1e-14).log_plan

    inputs = (scores.requires_grad_(), shares.log().requires_grad_())
    assert torch.autograd.gradcheck(plan, inputs, atol=1e-5)


def test_estimated_shares_are_the_maximum_likelihood_and_need_no_transport():
    scores, even = problem(4, n_items=40, n_classes=3, scale=1.5)
    shares = estimate_shares(scores, even, n_steps=2000)
    log_likelihood = (scores + shares.log()).logsumexp(-1).sum()
    for other in (even, torch.roll(shares, 1), 0.99 * shares + 0.01 / 3):
        assert (scores + other.log()).logsumexp(-1).sum() < log_likelihood
    assert int(sinkhorn(scores, shares).n_steps) == 0


def test_wrong_settings_of_the_transport_are_named():
    scores, shares = problem(0)
    with pytest.raises(ValueError, match=r"^tolerance must be positive, got 0$"):
        sinkhorn(scores, shares, tolerance=0)
    with pytest.raises(ValueError, match=r"^max_steps must be positive, got 0$"):
        sinkhorn(scores, shares, max_steps=0)


# PT-MAP


@settings(max_examples=12, deadline=None)
@given(episodes(), st.sampled_from(["balanced", "estimated", "given"]), st.sampled_from([0.5, 1.0]))
def test_pt_map_equals_its_loop(episode, prior, power):
    prior = torch.arange(1.0, 1 + episode.n_way).double() if prior == "given" else prior
    method = PTMAP(prior, power, cost_scale=4.0, step_size=0.3, n_steps=5, tolerance=1e-12)
    shares = prior if isinstance(prior, str) else prior.numpy()
    expected = pt_map_loops.pt_map(*numpy_of(episode), prior=shares, power=power, cost=4.0, alpha=0.3, n_steps=5)
    assert gap(method(episode), expected) < 1e-8


@pytest.mark.parametrize("prior", ["balanced", "given"])
def test_pt_map_keeps_the_shares_it_is_given(prior):
    episode = make_episode(6, batch=(3,), n_queries=16)
    shares = torch.tensor([0.25] * 4 if prior == "balanced" else [0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    found = PTMAP(prior if prior == "balanced" else 7 * shares).transport(episode)
    assert found.is_converged.all()
    torch.testing.assert_close(found.log_plan.exp().mean(-2), shares.expand(3, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_without_queries_does_not_die_out(dtype):
    found = PTMAP(n_steps=200).transport(_skewed([40, 20, 20, 0, 0]).to(dtype=dtype))
    assert found.log_plan.isfinite().all()
    assert found.is_converged
    assert (found.log_plan.exp().mean(-2)[3:] < 1e-3).all()


def test_one_query_more_changes_little():
    # With marginals that do not add up, the published code never converges on 76 queries.
    episode = make_episode(7, n_way=5, n_support=10, n_queries=76, n_features=30, separation=2.0, min_shot=2)
    fewer = replace(episode, query=episode.query[:75], query_labels=None)
    one_more, plan = PTMAP("balanced").transport(episode), PTMAP("balanced").transport(fewer)
    assert one_more.is_converged
    assert plan.is_converged
    assert float((one_more.log_plan.exp()[:75] - plan.log_plan.exp()).abs().max()) < 0.2
    assert max(int(one_more.n_steps), int(plan.n_steps)) < 30


def _skewed(counts):
    """Return well separated classes with so many queries each."""
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    generator = torch.Generator().manual_seed(8)
    centers = 6 * torch.randn(5, 40, generator=generator)
    support_labels = torch.arange(5).repeat_interleave(5)

    def items(labels):
        return centers[labels] + torch.randn(len(labels), 40, generator=generator)

    return Episode(
        support=items(support_labels),
        support_labels=support_labels,
        query=items(labels),
        class_ids=torch.arange(5),
        query_labels=labels,
    )


def test_the_balanced_prior_is_wrong_on_the_excess_and_the_others_are_not():
    counts = [45, 15, 9, 4, 2]
    episode = _skewed(counts)

    def accuracy(prior):
        return float((PTMAP(prior)(episode).argmax(-1) == episode.query_labels).float().mean())

    assert accuracy("balanced") < 0.7
    assert accuracy(torch.tensor(counts).float()) > 0.99
    assert accuracy("estimated") > 0.99


def test_pt_map_of_negative_features_is_finite_and_of_others_the_papers():
    episode = make_episode(9)
    assert PTMAP()(episode).isfinite().all()
    positive = replace(episode, support=episode.support.abs(), query=episode.query.abs())
    rooted = replace(episode, support=episode.support.abs().sqrt(), query=episode.query.abs().sqrt())
    torch.testing.assert_close(PTMAP()(positive), PTMAP(power=1.0)(rooted))


# All of them

METHODS = [
    BDCSPN(),
    BDCSPN(n_confident=2),
    LaplacianShot(),
    LaplacianShot(is_rectified=False),
    PTMAP(),
    PTMAP("balanced"),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.describe())
def test_padding_changes_nothing_for_any_setting(method):
    parts = [
        make_episode(1, n_way=3, n_support=5, n_queries=7, n_features=6),
        make_episode(2, n_way=5, n_support=8, n_queries=4, n_features=6),
        make_episode(3, n_way=2, n_support=4, n_queries=9, n_features=6),
        make_episode(4, n_way=2, n_support=3, n_queries=8, n_features=6, separation=0.1),  # some point away from both
    ]
    batch, places = padded(parts)
    for part, log_probs, (queries, ways) in zip(parts, method(batch), places, strict=True):
        torch.testing.assert_close(log_probs[queries][:, ways].exp(), method(part).exp(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.describe())
def test_gradients_exist_and_are_those_of_finite_differences(method):
    episode = make_episode(11, n_way=3, n_support=4, n_queries=5, n_features=6)
    if isinstance(method, PTMAP):
        method = replace(method, tolerance=1e-13, n_steps=3)

    def probabilities(query):
        return method(replace(episode, query=query)).exp()

    assert torch.autograd.gradcheck(probabilities, episode.query.clone().requires_grad_(), atol=1e-4)


def test_a_feature_that_is_zero_has_a_finite_gradient():
    episode = make_episode(12)
    query = episode.query.clamp(min=0).requires_grad_()
    PTMAP()(replace(episode, query=query)).exp()[:, 0].sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BDCSPN(0), r"^softmax_scale must be positive, got 0$"),
        (lambda: BDCSPN(n_confident=-1), r"^n_confident must not be negative, got -1$"),
        (lambda: LaplacianShot(-0.1), r"^laplacian_weight must not be negative, got -0\.1$"),
        (lambda: LaplacianShot(n_neighbours=0), r"^n_neighbours must be positive, got 0$"),
        (lambda: LaplacianShot(n_steps=0), r"^n_steps must be positive, got 0$"),
        (lambda: PTMAP("even"), r"^unknown prior 'even'\. Known: balanced, estimated$"),
        (lambda: PTMAP(power=0), r"^power must be positive, got 0$"),
        (lambda: PTMAP(step_size=1.5), r"^step_size must be at most 1, got 1\.5$"),
        (
            lambda: PTMAP(torch.ones(3))(make_episode(0)),
            r"^prior must give one share for each of the 4 ways, got shape \(3,\)$",
        ),
        (
            lambda: PTMAP(torch.tensor([1.0, -1.0, 1.0, 1.0]))(make_episode(0)),
            r"^prior must have shares of at least 0 and a positive sum, got \[1\.0, -1\.0, 1\.0, 1\.0\]$",
        ),
    ],
)
def test_wrong_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_given_shares_may_differ_by_episode():
    episode = make_episode(13, batch=(2,))
    prior = torch.tensor([[1.0, 1.0, 1.0, 1.0], [4.0, 2.0, 1.0, 1.0]]).double()
    whole = PTMAP(prior)(episode)
    for index in range(2):
        torch.testing.assert_close(whole[index], PTMAP(prior[index])(one_of(episode, index)), atol=1e-9, rtol=1e-9)


# --- few queries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bd-cspn", "laplacian-shot", "pt-map-balanced"])
@pytest.mark.parametrize("n_queries", [1, 2, 3])
def test_fewer_queries_than_ways_are_answered_by_what_they_are(name, n_queries):
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn((4, 12), generator=generator, dtype=torch.float64)
    support = means.repeat_interleave(3, 0) + torch.randn((12, 12), generator=generator, dtype=torch.float64)
    labels = torch.arange(4).repeat_interleave(3)
    wanted = torch.randint(0, 4, (20, n_queries), generator=generator)
    query = means[wanted] + 0.1 * torch.randn((20, n_queries, 12), generator=generator, dtype=torch.float64)
    episode = Episode(
        support=support.expand(20, 12, 12), support_labels=labels.expand(20, 12), query=query,
        class_ids=torch.arange(4).expand(20, 4),
    )  # fmt: skip
    assert torch.equal(build_method(name)(episode).argmax(-1), wanted)


@pytest.mark.parametrize("method", [BDCSPN(), PTMAP(prior="balanced")], ids=["bd-cspn", "pt-map-balanced"])
def test_in_a_padded_batch_each_episode_is_shifted_or_not_by_its_own_queries(method):
    generator = torch.Generator().manual_seed(1)
    support = torch.randn((6, 5), generator=generator, dtype=torch.float64)
    query = torch.randn((4, 5), generator=generator, dtype=torch.float64)
    labels, ids = torch.arange(3).repeat(2), torch.arange(3)
    for n_queries in (2, 4):
        alone = Episode(support=support, support_labels=labels, query=query[:n_queries], class_ids=ids)
        mask = torch.arange(4) < n_queries
        padded = Episode(support=support, support_labels=labels, query=query, class_ids=ids, query_mask=mask)
        torch.testing.assert_close(method(padded)[:n_queries], method(alone), rtol=1e-6, atol=1e-6)
