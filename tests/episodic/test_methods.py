"""Every method that the registry knows, held to what a method of an episode promises (`fewshot.episodic.method`)."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fewshot_episodes import Episode
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.episodic.em_gaussian import EMGaussian
from fewshot.episodic.method import EMMethod
from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.episodic.paddle import Paddle
from fewshot.episodic.simple_shot import SimpleShot
from fewshot.registry.episodic import METHODS, build_method
from tests.kits.rounding import rounding
from tests.reference import em_loops as loops
from tests.strategies import episodes, make_episode, moved, numpy_of, one_of, padded

# What leaves a method's answers alone. The list is complete: anything not named changes them.
IGNORES = {
    "nearest-prototype": {"translation", "rotation"},
    "simpleshot": {"rotation", "scale"},
    "logistic-regression": {"rotation", "scale"},
    "baseline++": {"scale"},
    "tim": {"rotation", "scale"},
    "tim-gd": {"scale"},
    "alpha-tim": {"scale"},
    "transductive-fine-tuning": {"scale"},
    "bd-cspn": {"rotation", "scale"},
    "laplacian-shot": {"rotation", "scale"},
    "pt-map": {"scale"},
    "pt-map-balanced": {"scale"},
    "tip-adapter": {"rotation", "scale"},
    "transclip": {"scale"},
    "soft-kmeans": {"translation", "scale", "units"},
    "paddle": {"translation", "scale", "units"},
    "em-gaussian": {"translation", "rotation", "scale"},
    "em-dirichlet": {"translation", "rotation", "scale"},
    "hard-em-dirichlet": {"translation", "rotation", "scale"},
    "unem": {"translation", "rotation", "scale"},
    "unem-adaptive": {"rotation", "scale"},
    "unem-dirichlet": {"translation", "rotation", "scale"},
}
TENSORS = ("support", "support_labels", "query", "class_ids", "query_labels")

each_method = pytest.mark.parametrize("name", sorted(METHODS))
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
# Shorter than the defaults, to save time; the rest of a method's settings are what the registry gives.
SHORTER = {
    **{name: {"n_layers": n} for name, n in [("soft-kmeans", 20), ("paddle", 20), ("em-dirichlet", 3)]},
    "hard-em-dirichlet": {"n_layers": 3},
    "tim": {"n_steps": 20},
    "tim-gd": {"n_steps": 40, "learning_rate": 1e-3},
    "alpha-tim": {"n_steps": 40, "learning_rate": 1e-3},
    "baseline++": {"n_steps": 40},
}


def few(check):
    """Run a property on a few drawn examples: what varies most is the method."""
    return settings(max_examples=4)(check)


@cache
def built(name):
    return METHODS[name].build(**SHORTER.get(name, {}))


@torch.no_grad()
def answer(name, episode):
    return built(name)(episode)


# Features, queries and layers of the drawn episodes: the longest chain of sums behind a probability.
N_TERMS = 32
# How much more of an error a method makes than its sums do. Cosines and costs are multiplied by 10, and networks choose
# among answers at a temperature of some 0.1. α of a saturated simplex, where one feature is nearly 1, is the root of a
# function whose slope vanishes there.
CONDITION = dict.fromkeys(
    ("bd-cspn", "laplacian-shot", "pt-map", "pt-map-balanced", "tip-adapter", "transclip", "unem-adaptive"), 10.0
) | dict.fromkeys(("em-dirichlet", "hard-em-dirichlet", "unem-dirichlet"), 130.0)


def tolerance(name, dtype):
    """Return what rounding may do to a probability."""
    return rounding(N_TERMS, dtype, condition=CONDITION.get(name, 1.0))


def assert_same(found, expected, atol=1e-9):
    """Equal probabilities."""
    torch.testing.assert_close(found.exp(), expected.exp(), rtol=0, atol=atol)


def with_labels(episode, ways):
    """Call class k of the episode ``ways[k]`` instead."""
    class_ids = torch.empty_like(episode.class_ids)
    class_ids[..., ways] = episode.class_ids
    return replace(episode, support_labels=ways[episode.support_labels], class_ids=class_ids, query_labels=None)


def test_the_table_covers_the_registry():
    assert set(IGNORES) == set(METHODS)


# What an answer is


@each_dtype
@each_method
def test_rows_are_log_probabilities(name, dtype):
    @few
    @given(episodes(n_batch_dims=2, dtype=dtype))
    def check(episode):
        log_probs = answer(name, episode)
        assert log_probs.shape == (*episode.batch_shape, episode.n_queries, episode.n_way)
        assert log_probs.dtype == dtype
        assert (log_probs <= 0).all()
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:-1], dtype=dtype))

    check()


@each_method
def test_well_separated_classes_are_told_apart(name):
    # Random directions in many dimensions: far apart in every way that a method measures distances. Every class has
    # queries, at one and at several shots.
    for seed, n_support in [(0, 4), (1, 8), (2, 40)]:
        episode = make_episode(
            seed, batch=(5,), n_support=n_support, n_queries=60, n_features=64, separation=12.0, min_shot=n_support // 4
        )
        method = built(name)
        if name == "pt-map-balanced":  # the last way has no query
            method = METHODS[name].build(prior=torch.nn.functional.one_hot(episode.query_labels, 4).sum(-2))
        right = method(episode).argmax(-1) == episode.query_labels
        assert right.float().mean() > 0.99


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@each_method
def test_half_precision_is_widened_to_float32(name, half):
    episode = make_episode(0).to(dtype=half)
    log_probs = answer(name, episode)
    assert log_probs.dtype == torch.float32
    assert torch.equal(log_probs, answer(name, make_episode(0).to(dtype=half).to(dtype=torch.float32)))


@each_method
def test_methods_stay_on_the_device_of_the_episode(name):
    # `meta` has no data: whatever falls back to the CPU fails.
    devices = ["meta", "cuda"] if torch.cuda.is_available() else ["meta"]
    for device in devices:
        method = METHODS[name].build()  # anew: a module moves in place
        if isinstance(method, torch.nn.Module):
            method.to(device)
        for episode in (make_episode(0, dtype=torch.float32), padded([make_episode(0), make_episode(1, n_way=3)])[0]):
            log_probs = method(episode.to(device))
            assert log_probs.device.type == device
            assert log_probs.dtype == episode.query.dtype
            if device == "cuda":
                real = episode.query_mask if episode.is_ragged else ...
                assert_same(log_probs.cpu()[real], answer(name, episode)[real], 1e-4)


# What changes an answer, and what does not


@each_dtype
@each_method
def test_a_batch_is_its_episodes_one_by_one(name, dtype):
    @few
    @given(episodes(n_batch_dims=2, dtype=dtype))
    def check(episode):
        n, m = episode.batch_shape
        whole = answer(name, episode)
        for i in range(n):
            assert_same(answer(name, one_of(episode, i)), whole[i], tolerance(name, dtype))
            for j in range(m):
                assert_same(answer(name, one_of(episode, (i, j))), whole[i, j], tolerance(name, dtype))

    check()


@each_dtype
@each_method
def test_companions_do_not_matter(name, dtype):
    @few
    @given(episodes(n_batch_dims=1, dtype=dtype), st.sampled_from([0.0, 1e-3, 1e3]))
    def check(episode, scale):
        factor = torch.full((*episode.batch_shape, 1, 1), scale, dtype=dtype)
        factor[0] = 1
        other = replace(episode, support=factor * episode.support, query=factor * episode.query)
        assert_same(answer(name, other)[0], answer(name, episode)[0], tolerance(name, dtype))

    check()


@each_method
def test_permutations(name):
    @few
    @given(episodes(n_batch_dims=1), st.integers(0, 99))
    def check(episode, seed):
        generator = torch.Generator().manual_seed(seed)
        log_probs = answer(name, episode)
        ways, queries, items = (
            torch.randperm(n, generator=generator)
            for n in (episode.n_way, episode.n_queries, episode.support.shape[-2])
        )
        assert_same(answer(name, with_labels(episode, ways))[..., ways], log_probs)
        assert_same(answer(name, replace(episode, query=episode.query[:, queries])), log_probs[:, queries])
        shuffled = replace(episode, support=episode.support[:, items], support_labels=episode.support_labels[:, items])
        assert_same(answer(name, shuffled), log_probs)

    check()


@pytest.mark.parametrize("change", ["translation", "rotation", "scale", "units"])
@each_method
def test_only_the_promised_changes_of_the_features_are_ignored(name, change):
    largest = 0.0
    for seed in range(4):
        episode = make_episode(seed, separation=1.0)
        generator = torch.Generator().manual_seed(seed)
        matrix, offset = torch.eye(episode.n_features).double(), torch.zeros(episode.n_features).double()
        if change == "translation":
            offset = 3 * torch.randn(episode.n_features, generator=generator).double()
        elif change == "rotation":
            matrix = torch.linalg.qr(torch.randn(matrix.shape, generator=generator).double()).Q
        elif change == "scale":
            matrix = 5 * matrix
        else:
            matrix = torch.diag(torch.logspace(-1, 1, episode.n_features).double())
        changed = moved(episode, lambda features, matrix=matrix, offset=offset: features @ matrix + offset)
        largest = max(largest, float((answer(name, changed).exp() - answer(name, episode).exp()).abs().max()))
    assert (largest < 1e-9) == (change in IGNORES[name]), largest
    assert not 1e-9 < largest < 1e-3


@each_method
def test_methods_are_pure(name):
    episode = make_episode(3, batch=(2,))
    copy = Episode(**{field: getattr(episode, field).clone() for field in TENSORS})
    first = answer(name, episode)
    assert all(torch.equal(getattr(episode, field), getattr(copy, field)) for field in TENSORS)
    assert torch.equal(answer(name, episode), first)
    assert torch.equal(answer(name, copy), first)


@each_method
def test_query_labels_are_not_seen(name):
    episode = make_episode(4, batch=(2,))
    log_probs = answer(name, episode)
    assert torch.equal(answer(name, replace(episode, query_labels=None)), log_probs)
    assert torch.equal(answer(name, replace(episode, query_labels=3 - episode.query_labels)), log_probs)


@each_method
def test_transductive_is_what_depends_on_the_other_queries(name):
    change = 0.0
    for seed in range(3):
        episode = make_episode(seed, separation=0.5)
        query = episode.query.clone()
        query[1:] = query[1:].flip(-1) + 1
        changed = answer(name, replace(episode, query=query))[0].exp() - answer(name, episode)[0].exp()
        change = max(change, float(changed.abs().max()))
    assert METHODS[name].is_transductive == built(name).is_transductive == (change > 1e-3)
    assert METHODS[name].is_transductive or change < 1e-12


# Input at the edge


def _degenerate(kind, dtype):
    e = make_episode(5, n_support=4, dtype=dtype)
    support, query = e.support, e.query
    if kind == "one way":
        one = make_episode(5, n_way=1, n_support=3, dtype=dtype)
        return replace(one, query_labels=None)
    if kind == "one way, one shot, one query":
        return make_episode(5, n_way=1, n_support=1, n_queries=1, dtype=dtype)
    if kind == "one query":
        return replace(e, query=query[:1], query_labels=None)
    if kind == "one feature":
        return replace(e, query=query[:, :1], support=support[:, :1])
    if kind == "identical points":
        return replace(e, support=support[:1].expand(4, -1), query=support[:1].expand(9, -1))
    if kind == "identical queries":
        return replace(e, query=query[:1].expand(9, -1))
    if kind == "queries are support items":
        return replace(e, query=support[[0, 0, 1, 1, 2, 2, 3, 3, 0]])
    if kind == "identical support":
        return replace(e, support=support[:1].expand(4, -1))
    if kind == "constant features":
        keep = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0], dtype=dtype)
        return replace(e, support=support * keep + 7 * (1 - keep), query=query * keep + 7 * (1 - keep))
    if kind == "zero vectors":
        return replace(e, support=torch.zeros_like(support), query=torch.zeros_like(query))
    if kind == "some zero vectors":
        mask = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=dtype)[:, None]
        return replace(e, support=support * mask, query=query * torch.cat([mask, mask, mask[:1]]))
    if kind == "queries of one class":
        return replace(e, query=query + 20 * support[:1])
    factor = {"one shot": 1.0, "huge": 1e4, "tiny": 1e-4, "offset": 1.0}[kind]
    offset = 1e3 if kind == "offset" else 0.0
    return replace(e, support=factor * support + offset, query=factor * query + offset)


DEGENERATE = (
    *("one shot", "one way", "one way, one shot, one query", "one query", "one feature", "identical points"),
    *("identical queries", "queries are support items", "identical support", "constant features", "zero vectors"),
    *("some zero vectors", "queries of one class", "huge", "tiny", "offset"),
)


@each_dtype
@pytest.mark.parametrize("kind", DEGENERATE)
@each_method
def test_degenerate_input_stays_finite(name, kind, dtype):
    log_probs = answer(name, _degenerate(kind, dtype))
    assert log_probs.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:-1], dtype=dtype))
    if kind in ("identical points", "zero vectors") and "hard" not in name:  # which has to break the tie
        assert_same(log_probs, torch.full_like(log_probs, 1 / log_probs.shape[-1]).log(), 1e-3)


@each_dtype
@each_method
def test_padding_changes_nothing(name, dtype):
    @few
    @given(st.integers(0, 99))
    def check(seed):
        parts = [
            make_episode(seed, n_way=3, n_support=5, n_queries=7, n_features=6, dtype=dtype),
            make_episode(seed + 1, n_way=5, n_support=8, n_queries=4, n_features=6, dtype=dtype),
            make_episode(seed + 2, n_way=2, n_support=4, n_queries=9, n_features=6, dtype=dtype),
        ]
        batch, places = padded(parts, seed=seed)
        whole = answer(name, batch)
        for part, log_probs, (queries, ways) in zip(parts, whole, places, strict=True):
            assert_same(log_probs[queries][:, ways], answer(name, part), 10 * tolerance(name, dtype))
            is_absent = torch.ones(batch.n_way, dtype=torch.bool).index_fill(0, ways, False)
            assert (log_probs[queries][:, is_absent] == -torch.inf).all()

    check()


@each_method
def test_padding_changes_no_flag(name):
    if not isinstance(built(name), EMMethod):
        return
    parts = [
        make_episode(0, n_way=3, n_queries=1, n_features=6),  # one query can not collapse
        make_episode(1, n_way=2, n_support=4, n_queries=5, n_features=6),
        make_episode(2, n_way=3, separation=40.0, n_features=6),
    ]
    with torch.no_grad():
        whole = built(name).solve(padded(parts)[0])
        for index, part in enumerate(parts):
            alone = built(name).solve(part)
            assert bool(whole.is_collapsed[index]) == bool(alone.is_collapsed)
            assert bool(whole.is_one_hot[index]) == bool(alone.is_one_hot)


# Single methods against their loops


@given(episodes(), st.floats(0.2, 3.0))
def test_fixed_methods_equal_their_loops(episode, scale):
    problem = numpy_of(episode)
    center = episode.query.mean(0)
    pairs = [
        (NearestPrototype(), np.exp(loops.nearest_prototype(*problem))),
        (SimpleShot(), np.exp(loops.simple_shot(*problem))),
        (SimpleShot(center), np.exp(loops.simple_shot(*problem, center=center.numpy()))),
        (Paddle(1.7, n_layers=6), loops.paddle(*problem, class_balance=1.7, n_iter=6)[-1]),
        (
            EMGaussian(scale, 0.7, 1.3, n_layers=4, is_relative=False),
            loops.gem_gaussian(*problem, class_balance=[0.7] * 4, temperature=[1.3] * 4, scale=scale)[-1],
        ),
    ]
    for method, expected in pairs:
        np.testing.assert_allclose(method(episode).exp().numpy(), expected, atol=1e-10)


def test_defaults_of_the_registry_are_the_papers():
    # [PADDLE] released configuration: alpha / |Q| = 75 / 75, 100 iterations; soft k-means: no prior, the same number.
    episode = make_episode(6)
    problem = numpy_of(episode)
    for name, class_balance in [("paddle", 1.0), ("soft-kmeans", 0.0)]:
        u = loops.paddle(*problem, class_balance=class_balance, n_iter=100)[-1]
        np.testing.assert_allclose(METHODS[name].build()(episode).exp().numpy(), u, atol=1e-9)


def test_a_ranges_of_a_single_value_is_left_alone():
    episode = make_episode(7)
    query = episode.query.clone()
    query[:, 2] = 4.0
    episode = replace(episode, query=query)
    u = loops.paddle(*numpy_of(episode), n_iter=5)[-1]
    np.testing.assert_allclose(Paddle(n_layers=5)(episode).exp().numpy(), u, atol=1e-10)


# The registry


@each_method
def test_methods_are_built_from_words_with_their_defaults(name):
    words = ",".join(f"{option}={str(value).lower()}" for option, value in METHODS[name].options().items())
    for text in (name, f"{name}:{words}"):
        assert build_method(text).describe() == METHODS[name].build().describe()
    assert METHODS[name].summary
    assert METHODS[name].reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("padle", r"^unknown method 'padle': did you mean 'paddle'\? Known: alpha-tim, "),
        ("paddle:layers=3", r"^unknown option of paddle 'layers': did you mean 'n_layers'\? Known: class_balance, n_"),
        ("paddle:n_layers=x", r"^paddle:n_layers must be a whole number, got 'x'$"),
        ("em-dirichlet:is_hard=1", r"^em-dirichlet:is_hard must be true or false, got '1'$"),
        ("em-gaussian:scale=0", r"^scale must be positive, got 0\.0$"),
        ("em-gaussian:class_balance=-1", r"^class_balance must not be negative, got -1\.0$"),
        ("em-gaussian:temperature=nan", r"^em-gaussian:temperature must be a number, got 'nan'$"),
        ("em-dirichlet:n_layers=0", r"^n_layers must be positive, got 0$"),
        ("paddle:n_layers=0", r"^n_layers must be positive, got 0$"),
        ("paddle:class_balance=-1", r"^class_balance must not be negative, got -1\.0$"),
        (
            "em-dirichlet:inputs=cosine",
            r"^unknown inputs 'cosine': did you mean 'cosines'\? Known: cosines, embeddings$",
        ),
    ],
)
def test_wrong_words_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        build_method(text)
