"""Tip-Adapter and TransCLIP against loops, closed forms and other methods, with texts and without."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode, EpisodeSampler
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot import evaluate_episodes
from fewshot.episodic.bd_cspn import unit_items
from fewshot.episodic.image_text import image_text
from fewshot.episodic.simple_shot import SimpleShot
from fewshot.episodic.tip_adapter import TipAdapter, cache_logits
from fewshot.episodic.transclip import TransClip, diagonal_gaussian_logits, neighbour_graph
from fewshot.registry.episodic import build_method
from tests.reference import tip_adapter_loops, transclip_loops
from tests.strategies import episodes, make_episode, numpy_of, padded

BOTH = pytest.mark.parametrize("method", [TipAdapter, TransClip], ids=["tip-adapter", "transclip"])


def gap(found, expected):
    return float(np.abs(found.exp().numpy() - expected).max())


def cosine(x, y):
    return torch.nn.functional.normalize(x, dim=-1) @ torch.nn.functional.normalize(y, dim=-1).mT


def with_text(episode, seed=0):
    """Put cosines with the texts of ten classes before the features; return the texts of the ways as well."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(10, episode.n_features, generator=generator, dtype=episode.query.dtype)
    joined = {
        name: torch.cat([cosine(items, text), items], dim=-1)
        for name, items in (("support", episode.support), ("query", episode.query))
    }
    return replace(episode, **joined), text[episode.class_ids]


# Against the loops


@settings(max_examples=15)
@given(episodes(), st.sampled_from([0.0, 1.0, 3.0]), st.sampled_from([1.0, 5.5]), st.booleans())
def test_tip_adapter_equals_its_loop(episode, alpha, beta, has_text):
    given_episode, text = with_text(episode) if has_text else (episode, None)
    found = TipAdapter(10 if has_text else 0, alpha, beta, softmax_scale=20.0)(given_episode)
    text = None if text is None else text.numpy()
    expected = tip_adapter_loops.tip_adapter(*numpy_of(episode), text=text, alpha=alpha, beta=beta, scale=20.0)
    assert gap(found, expected) < 1e-12


@settings(max_examples=10)
@given(episodes(), st.sampled_from([0.1, 10.0]), st.sampled_from([(0.5, 50.0), (1.0, 7.0)]), st.booleans())
def test_transclip_equals_its_loop(episode, gamma, weights, has_text):
    lam, tau = weights
    given_episode, text = with_text(episode) if has_text else (episode, None)
    method = TransClip(
        10 if has_text else 0, text_weight=lam, support_weight=gamma, softmax_scale=20.0, density_temperature=tau,
        n_steps=3, n_inner_steps=2,
    )  # fmt: skip
    expected = transclip_loops.transclip(
        *numpy_of(episode), text=None if text is None else text.numpy(), lam=lam, gamma=gamma, scale=20.0, tau=tau,
        n_steps=3, n_inner=2,
    )  # fmt: skip
    assert gap(method(given_episode), expected) < 1e-9


def test_the_defaults_are_the_published_ones():
    episode = make_episode(3)
    assert gap(TipAdapter()(episode), tip_adapter_loops.tip_adapter(*numpy_of(episode))) < 1e-12
    assert gap(TransClip()(episode), transclip_loops.transclip(*numpy_of(episode))) < 1e-9


# Their parts


def test_gaussian_logits_are_log_densities_up_to_a_constant_of_the_item():
    generator = torch.Generator().manual_seed(0)
    query = unit_items(torch.randn(2, 7, 5, generator=generator, dtype=torch.float64))
    means = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    variances = torch.rand(2, 1, 5, generator=generator, dtype=torch.float64) + 0.1
    units = query.features * query.scale.mT
    normal = torch.distributions.Normal(means[:, :, None], variances[:, :, None].sqrt())
    expected = normal.log_prob(units[:, None]).sum(-1)
    found = diagonal_gaussian_logits(query, means, variances)
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1])


def test_the_graph_is_symmetric_without_loops_and_leaves_padding_out():
    query = unit_items(torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    units = (query.features * query.scale.mT).numpy()
    graph = neighbour_graph(query, 3)
    assert torch.equal(graph, graph.mT)
    for found, items in zip(graph.numpy(), units, strict=True):
        w = transclip_loops.graph(list(items), 3)
        np.testing.assert_allclose(found, (w + w.T) / 6, atol=1e-15)
    mask = torch.arange(9) < 6
    masked = neighbour_graph(query, 3, mask.expand(2, -1))
    assert not masked[:, 6:].any()
    assert not masked[:, :, 6:].any()
    alone = neighbour_graph(unit_items(query.features[:, :6]), 3)
    torch.testing.assert_close(masked[:, :6, :6], alone)


@given(episodes())
@settings(max_examples=10)
def test_votes_lie_between_nothing_and_the_items_of_a_class(episode):
    parts = image_text(episode, 0)
    votes = cache_logits(parts, episode.support_labels)
    counts = torch.bincount(episode.support_labels, minlength=episode.n_way)[:, None]
    assert (votes > 0).all()
    assert (votes <= counts + 1e-12).all()
    # a query that is a support item of its own: one full vote for its class
    same = replace(episode, query=episode.support, query_labels=None)
    own = cache_logits(image_text(same, 0), episode.support_labels).mT[
        torch.arange(len(episode.support_labels)), episode.support_labels
    ]
    assert (own >= 1 - 1e-12).all()


def test_tip_adapter_without_a_cache_is_the_texts_alone():
    episode, text = with_text(make_episode(2))
    embeddings = episode.query[:, 10:]
    expected = (100 * cosine(embeddings, text)).log_softmax(-1)
    torch.testing.assert_close(TipAdapter(10, cache_weight=0.0)(episode), expected)


def test_tip_adapter_without_texts_or_a_cache_ranks_as_the_nearest_mean_of_one_shot():
    # One unit vector a class: the nearest is the one of the largest cosine.
    episode = make_episode(4, n_support=4)
    ranks = TipAdapter(cache_weight=0.0)(episode).argsort(-1)
    assert torch.equal(ranks, SimpleShot()(episode).argsort(-1))


def test_transclip_of_many_texts_and_no_density_or_graph_is_the_texts():
    # An immense temperature silences the densities; orthogonal queries have no neighbours that pull.
    query = torch.eye(6, dtype=torch.float64)[:4]
    text = torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    support = torch.eye(6, dtype=torch.float64)[3:]
    joined = [torch.cat([cosine(items, text), items], -1) for items in (support, query)]
    ids = torch.arange(3)
    episode = Episode(support=joined[0], support_labels=ids, query=joined[1], class_ids=ids)
    found = TransClip(3, text_weight=1.0, density_temperature=1e12)(episode)
    torch.testing.assert_close(found, (100 * cosine(query, text)).log_softmax(-1), atol=1e-8, rtol=0)


# Texts are what they should be


@BOTH
def test_class_ids_pick_the_columns(method):
    episode, _ = with_text(make_episode(5))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = {
        name: torch.cat([items[:, :10][:, order], items[:, 10:]], -1)
        for name, items in (("support", episode.support), ("query", episode.query))
    }
    renamed = replace(episode, **shuffled, class_ids=order.argsort()[episode.class_ids])
    torch.testing.assert_close(method(10)(renamed).exp(), method(10)(episode).exp())


@BOTH
def test_padding_changes_nothing_with_texts(method):
    parts = [
        with_text(make_episode(seed, n_way=n_way, n_queries=n, n_features=6), seed=7)[0]
        for seed, n_way, n in [(0, 3, 7), (1, 5, 4)]
    ]
    batch, places = padded(parts)
    whole = method(10)(batch)
    for part, log_probs, (queries, ways) in zip(parts, whole, places, strict=True):
        torch.testing.assert_close(log_probs[queries][:, ways].exp(), method(10)(part).exp(), atol=1e-9, rtol=0)


@BOTH
def test_texts_help_where_the_shots_mislead(method):
    # Support items from between the classes; texts that know them.
    generator = torch.Generator().manual_seed(0)
    centers = torch.nn.functional.normalize(torch.randn(6, 32, generator=generator), dim=-1)
    labels = torch.arange(6).repeat_interleave(40)
    embeddings = centers[labels] + 0.35 * torch.randn(240, 32, generator=generator)
    pool = torch.cat([cosine(embeddings, centers), embeddings], 1)
    sampler = EpisodeSampler(labels, n_way=4, n_shot=1, n_query=10)
    outcome = evaluate_episodes(
        {"with": method(6), "without": _EmbeddingsOnly(method(0), 6)}, pool, sampler, n_episodes=60,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    difference = outcome.scores["with"].difference(outcome.scores["without"])
    assert difference.mean - difference.half_width > 0.02


class _EmbeddingsOnly:
    """A method that is not shown the columns of cosines."""

    def __init__(self, method, n_cosines):
        self.method, self.n_cosines = method, n_cosines

    def __call__(self, episode):
        return self.method(
            replace(episode, support=episode.support[..., self.n_cosines :], query=episode.query[..., self.n_cosines :])
        )


@pytest.mark.parametrize(
    ("n_cosines", "message"),
    [
        (
            15,
            "features must have columns of an image embedding after n_cosines=15 cosines, got 15 columns in all: join",
        ),
        (4, "n_cosines must count a column for each class of the pool, got 4 and class id 6: set it to the number of"),
        (
            11,
            r"the first n_cosines=11 columns must be image-text cosines in \[-1, 1\], got \d.*: put the cosines first",
        ),
    ],
)
@BOTH
def test_columns_that_cannot_be_cosines_are_refused(method, n_cosines, message):
    episode, _ = with_text(make_episode(6))
    episode = replace(episode, class_ids=torch.tensor([3, 5, 6, 2] if n_cosines < 11 else [3, 5, 10, 2]))
    episode = replace(episode, query=torch.cat([episode.query[:, :10], 3 + episode.query[:, 10:].abs()], -1))
    with pytest.raises(ValueError, match=f"^{message}"):
        method(n_cosines)(episode)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tip-adapter:n_cosines=-1", "n_cosines must not be negative, got -1"),
        ("tip-adapter:cache_weight=-1", "cache_weight must not be negative, got -1.0"),
        ("tip-adapter:sharpness=0", "sharpness must be positive, got 0.0"),
        ("transclip:softmax_scale=0", "softmax_scale must be positive, got 0.0"),
        ("transclip:text_weight=-1", "text_weight must not be negative, got -1.0"),
        ("transclip:support_weight=0", "support_weight must be positive, got 0.0"),
        ("transclip:n_inner_steps=0", "n_inner_steps must be positive, got 0"),
    ],
)
def test_settings_out_of_range_are_named(text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build_method(text)


def test_the_settings_are_said():
    assert build_method("tip-adapter:n_cosines=7").describe() == (
        "texts from 7 columns of cosines, scale 100, cache weight 1, sharpness 5.5"
    )
    assert TransClip().describe() == (
        "class means for texts, scale 100, text weight 0.5, support weight 1, 3 neighbours, densities divided by 50, "
        "10 steps of 5"
    )
