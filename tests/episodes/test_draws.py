"""The random index maths of the draws, held to exact distributions, closed forms and the rational loop."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from fewshot_episodes.draws import dirichlet_shares, distinct_indices, pooled_counts, proportional_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.kits.drawing import SEEDS, assert_follows, generator, uniform
from tests.reference.sampler_loop import largest_remainder_counts

# ---------------------------------------------------------------------------------------------------- distinct indices


@st.composite
def counts_and_sizes(draw):
    shape = draw(st.sampled_from([(), (1,), (7,), (2, 3), (2, 1, 3)]))
    n = int(np.prod(shape))
    sizes = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    counts = [draw(st.integers(0, size)) for size in sizes]
    return torch.tensor(counts).view(shape), torch.tensor(sizes).view(shape)


@given(counts_and_sizes(), SEEDS)
def test_distinct_indices_are_distinct_in_range_and_padded(problem, seed):
    counts, sizes = problem
    drawn = distinct_indices(counts, sizes, generator=generator(seed))
    width = int(counts.max())
    assert drawn.shape == (*counts.shape, width)
    assert drawn.dtype == torch.int64
    assert drawn.is_contiguous()
    for row, count, size in zip(drawn.reshape(counts.numel(), width), counts.flatten(), sizes.flatten(), strict=True):
        real, padding = row[:count].tolist(), row[count:].tolist()
        assert len(set(real)) == count
        assert all(0 <= index < size for index in real)
        assert padding == [-1] * (width - int(count))


def test_distinct_indices_are_uniform_over_subsets():
    n = 20_000
    drawn = distinct_indices(torch.full((n,), 2), torch.full((n,), 5), generator=generator())
    assert_follows([tuple(row) for row in drawn.sort(-1).values.tolist()], uniform(combinations(range(5), 2)))


def test_distinct_indices_are_uniform_in_rows_shorter_than_their_neighbours():
    # Companions of another count and size: the marginal inclusion probability stays count / size, the pairs uniform.
    n, counts, sizes = 12_000, torch.tensor([2, 0, 5, 3]), torch.tensor([4, 3, 5, 7])
    drawn = distinct_indices(counts.expand(n, 4), sizes.expand(n, 4), generator=generator(1))
    assert_follows([tuple(sorted(row)) for row in drawn[:, 0, :2].tolist()], uniform(combinations(range(4), 2)))
    assert_follows([tuple(sorted(row)) for row in drawn[:, 3, :3].tolist()], uniform(combinations(range(7), 3)))
    assert bool((drawn[:, 2].sort(-1).values == torch.arange(5)).all())
    assert bool((drawn[:, 1] == -1).all())


def test_rows_are_drawn_independently():
    n = 20_000
    drawn = distinct_indices(torch.ones(n, 2).long(), torch.full((n, 2), 3), generator=generator(2))[..., 0]
    assert_follows([tuple(row) for row in drawn.tolist()], uniform(product(range(3), repeat=2)))


def test_huge_sets_cost_only_their_subset():
    drawn = distinct_indices(torch.tensor([3, 2]), torch.tensor([2**40, 2**52]), generator=generator())
    assert bool((drawn[:, :2] > 2**20).all())  # a fixed seed: high positions are reached, and odd ones
    assert bool((drawn[:, :2] % 2**16 > 0).all())  # a coin of 24 bits gives multiples of 2^16 here
    assert bool((drawn < torch.tensor([[2**40], [2**52]])).all())


# ------------------------------------------------------------------------------------------------------- pooled counts


@st.composite
def totals_and_sizes(draw):
    n_episodes, n_way = draw(st.sampled_from([(1, 1), (1, 4), (3, 2), (2, 5)]))
    row = st.lists(st.integers(0, 9), min_size=n_way, max_size=n_way).filter(any)
    sizes = draw(st.lists(row, min_size=n_episodes, max_size=n_episodes))
    return draw(st.integers(1, min(sum(row) for row in sizes))), torch.tensor(sizes)


@given(totals_and_sizes(), SEEDS)
def test_pooled_counts_sum_to_the_total_within_the_sizes(problem, seed):
    total, sizes = problem
    counts = pooled_counts(total, sizes, generator=generator(seed))
    assert counts.shape == sizes.shape
    assert bool((counts >= 0).all())
    assert bool((counts <= sizes).all())
    assert counts.sum(-1).tolist() == [total] * len(sizes)


def test_pooled_counts_take_everything_when_everything_is_asked():
    sizes = torch.tensor([[3, 0, 7, 1], [5, 4, 0, 2]])
    assert torch.equal(pooled_counts(11, sizes, generator=generator()), sizes)


def test_pooled_counts_follow_the_multivariate_hypergeometric_law():
    sizes, total, n = [2, 0, 3, 1], 3, 20_000
    counts = pooled_counts(total, torch.tensor([sizes]).expand(n, -1), generator=generator(3))
    outcomes = [c for c in product(*(range(size + 1) for size in sizes)) if sum(c) == total]
    law = {c: float(stats.multivariate_hypergeom.pmf(c, sizes, total)) for c in outcomes}
    assert_follows([tuple(row) for row in counts.tolist()], law)


def test_pooled_counts_have_hypergeometric_moments():
    # N items of which the class has m: mean q m / N, variance q (m/N) (1 - m/N) (N - q) / (N - 1).
    sizes, q, n = torch.tensor([40, 10, 25, 60, 13]), 75, 4000
    counts = pooled_counts(q, sizes.expand(n, -1), generator=generator(4)).double()
    share, total = sizes / sizes.sum(), int(sizes.sum())
    variance = (q * share * (1 - share) * (total - q) / (total - 1)).double()
    law = stats.multivariate_hypergeom(sizes.tolist(), q)
    np.testing.assert_allclose(variance, np.diag(law.cov()), rtol=1e-6)
    assert bool(((counts.mean(0) - q * share).abs() < 4 * (variance / n).sqrt()).all())
    np.testing.assert_allclose(counts.T.cov(), law.cov(), atol=4 * float(variance.max()) * (2 / n) ** 0.5)


# ---------------------------------------------------------------------------------------------------- Dirichlet shares


@pytest.mark.parametrize(
    "concentration",
    [
        [2.0] * 5,
        [1.0] * 4,
        [0.1, 0.1, 0.1],
        [0.7, 3.0, 12.0, 0.2],
        [0.01] * 5,
        [1e-3] * 5,  # gammas of these underflow
        [1e-5] * 5,
        [1e-3, 2e-3, 4e-3],
        [300.0, 200.0],
    ],
    ids=str,
)
def test_dirichlet_shares_have_dirichlet_moments(concentration):
    # mean a_k / A, covariance (m_k [k = j] - m_k m_j) / (A + 1)
    n, a = 10_000, torch.tensor(concentration, dtype=torch.float64)
    shares = dirichlet_shares(a.expand(n, -1), generator=generator(5))
    mean = a / a.sum()
    covariance = (torch.diag(mean) - mean.outer(mean)) / (a.sum() + 1)
    assert bool(((shares.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt()).all())
    centered = shares - mean
    products = centered[:, :, None] * centered[:, None, :]
    assert bool(((products.mean(0) - covariance).abs() < 4 * products.std(0) / n**0.5 + 1e-12).all())
    np.testing.assert_allclose(shares.sum(-1), 1.0, atol=1e-14)


def test_dirichlet_shares_have_beta_marginals():
    a = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    shares = dirichlet_shares(a.expand(5000, -1), generator=generator(6))
    for share, own in zip(shares.T, a.tolist(), strict=True):
        assert stats.kstest(share.numpy(), stats.beta(own, float(a.sum()) - own).cdf).pvalue > 1e-3


@pytest.mark.parametrize("scale", [1e-250, 1e-12, 1e-4, 1e-2, 1.0, 1e12])
def test_ways_without_concentration_have_no_share_and_others_some(scale):
    is_real = torch.tensor([True, False, True, True, False])
    shares = dirichlet_shares(scale * is_real.double().expand(2000, 5), generator=generator(7))
    assert bool(shares.isfinite().all())
    assert bool((shares[:, ~is_real] == 0).all())
    assert bool((shares[:, is_real] >= 1e-300).all())
    np.testing.assert_allclose(shares.sum(-1), 1.0, atol=1e-14)


# ------------------------------------------------------------------------------------------------- proportional counts


@st.composite
def random_shares(draw):
    """Shares without ties or simple ratios, limits (some 0), a total they can hold."""
    rng = np.random.default_rng(draw(SEEDS))
    n_way = draw(st.integers(1, 7))
    limits = draw(st.lists(st.integers(0, 30), min_size=n_way, max_size=n_way))
    shares = rng.dirichlet(np.full(n_way, draw(st.sampled_from([0.05, 0.5, 2.0, 50.0])))).clip(1e-30)
    shares[rng.random(n_way) < draw(st.sampled_from([0.0, 0.3]))] = 0.0
    shares[rng.integers(n_way)] = rng.random() + 0.1
    able = sum(limit for limit, share in zip(limits, shares, strict=True) if share > 0)
    return shares.tolist(), draw(st.integers(0, able)), limits


def fast_counts(shares, total, limits):
    return proportional_counts(torch.tensor(shares, dtype=torch.float64), total, torch.tensor(limits)).tolist()


@settings(max_examples=300)
@given(random_shares())
def test_proportional_counts_equal_the_rational_loop(problem):
    shares, total, limits = problem
    assert fast_counts(shares, total, limits) == largest_remainder_counts(shares, total, limits)


@st.composite
def awkward_shares(draw):
    """Ties, simple ratios and extremes, as hypothesis likes them."""
    n_way = draw(st.integers(1, 6))
    value = st.sampled_from([0.0, 1e-300, 1e-12, 0.1, 0.25, 0.5, 1.0, 1e6, 1e300]) | st.floats(1e-3, 1.0)
    shares = draw(st.lists(value, min_size=n_way, max_size=n_way).filter(any))
    limits = draw(st.lists(st.integers(0, 100), min_size=n_way, max_size=n_way))
    able = sum(limit for limit, share in zip(limits, shares, strict=True) if share > 0)
    return shares, draw(st.integers(0, able)), limits


@settings(max_examples=300)
@given(awkward_shares())
def test_proportional_counts_sum_to_the_total_and_keep_order(problem):
    shares, total, limits = problem
    counts = fast_counts(shares, total, limits)
    assert sum(counts) == total
    assert all(0 <= count <= limit for count, limit in zip(counts, limits, strict=True))
    assert all(count == 0 for count, share in zip(counts, shares, strict=True) if share == 0)
    ways = list(zip(shares, limits, counts, strict=True))
    for (share, limit, count), (other, other_limit, other_count) in product(ways, ways):
        if share > other * (1 + 1e-9) and limit >= other_limit:
            assert count >= other_count


@pytest.mark.parametrize(
    ("shares", "total", "limits", "expected"),
    [
        ([1.0, 1e-300, 1e-300], 5, [10, 10, 10], [5, 0, 0]),  # one class takes all
        ([1.0, 1e-300, 1e-300], 12, [10, 10, 10], [10, 1, 1]),  # ... that it has
        ([1.0, 1e-300, 2e-300], 16, [10, 10, 10], [10, 2, 4]),  # the rest in proportion, however small
        ([1.0, 1e-150, 1e-300], 15, [10, 3, 10], [10, 3, 2]),  # filled one after the other
        ([1.0, 1e-300], 20, [10, 10], [10, 10]),
        ([1e-300, 1e-300], 4, [3, 3], [2, 2]),
        ([0.5, 0.5, 0.0], 4, [2, 2, 9], [2, 2, 0]),
        ([0.25, 0.25, 0.25, 0.25], 6, [9, 9, 9, 9], [2, 2, 1, 1]),  # ties: the first ones
        ([0.2, 0.8], 0, [9, 9], [0, 0]),
        ([1.0], 7, [7], [7]),
    ],
)
def test_proportional_counts_by_hand(shares, total, limits, expected):
    assert fast_counts(shares, total, limits) == expected


@pytest.mark.parametrize("concentration", [1e-5, 1e-3, 1e-2, 1.0])
def test_shares_of_any_concentration_can_be_counted(concentration):
    # Most draws give one class nearly all, more than its 30 items.
    shares = dirichlet_shares(torch.full((5000, 5), concentration, dtype=torch.float64), generator=generator(8))
    counts = proportional_counts(shares, 75, torch.full((5000, 5), 30))
    assert bool((counts.sum(-1) == 75).all())
    assert bool(((counts >= 0) & (counts <= 30)).all())


def test_proportional_counts_take_any_batch_shape():
    rng = np.random.default_rng(9)
    shares, limits = torch.from_numpy(rng.dirichlet(np.ones(4), size=(2, 3))), torch.tensor([9, 2, 5, 20])
    counts = proportional_counts(shares, 13, limits.expand(2, 3, 4))
    assert counts.dtype == torch.int64
    for where in np.ndindex(2, 3):
        assert counts[where].tolist() == fast_counts(shares[where].tolist(), 13, limits.tolist())


# ---------------------------------------------------------------------------------------------------------- randomness


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: distinct_indices(torch.tensor([3, 2]), torch.tensor([9, 8]), generator=g),
        lambda g: pooled_counts(5, torch.tensor([[4, 9, 3]]), generator=g),
        lambda g: dirichlet_shares(torch.tensor([2.0, 0.5], dtype=torch.float64), generator=g),
    ],
    ids=["distinct_indices", "pooled_counts", "dirichlet_shares"],
)
def test_only_the_generator_decides(draw):
    before = torch.get_rng_state()
    first, again = draw(generator(10)), draw(generator(10))
    shared = generator(10)
    assert torch.equal(first, again)
    assert torch.equal(draw(shared), first)
    assert any(not torch.equal(draw(shared), first) for _ in range(3))
    assert torch.equal(torch.get_rng_state(), before)
