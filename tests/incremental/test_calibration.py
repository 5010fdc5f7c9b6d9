"""Prototype calibration: the reference's properties P1 to P16, and the rule without a setting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.incremental.calibration import (
    anchor_weights,
    calibrate_prototypes,
    debiased_norms,
    fit_base_prior,
    posterior_prototypes,
)
from tests.reference import teen_loops
from tests.strategies import sizes


@st.composite
def prototypes(draw, batches=((), (2,), (3, 2))):
    """Base and new prototypes in float64."""
    n_base, n_new, n_features = sizes(draw, (2, 6), (1, 5), (2, 8))
    batch = draw(st.sampled_from(batches))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    base = torch.from_numpy(3 * rng.normal(size=(*batch, n_base, n_features)))
    return base, torch.from_numpy(rng.normal(size=(*batch, n_new, n_features)))


unit = torch.nn.functional.normalize


def delta(base, new, **settings):
    return calibrate_prototypes(base, new, shift_weight=1.0, **settings)


@given(prototypes(batches=((),)), st.floats(0, 30), st.floats(0, 1), st.booleans())
def test_equals_the_loop(problem, softmax_scale, shift_weight, renormalize_delta):
    base, new = problem
    settings = (softmax_scale, shift_weight, renormalize_delta)
    fast = calibrate_prototypes(
        base, new, softmax_scale=softmax_scale, shift_weight=shift_weight, renormalize_delta=renormalize_delta
    )
    np.testing.assert_allclose(fast, teen_loops.calibrate(base.numpy(), new.numpy(), *settings), atol=1e-12)


@given(prototypes(batches=((2,), (3, 2))))
def test_a_batch_is_its_members(problem):
    base, new = problem
    whole = calibrate_prototypes(base, new)
    for place in np.ndindex(*base.shape[:-2]):
        torch.testing.assert_close(whole[place], calibrate_prototypes(base[place], new[place]), rtol=0, atol=1e-14)


@given(prototypes())
def test_no_shift_leaves_the_direction_and_full_shift_is_the_blend(problem):  # P1, P2
    base, new = problem
    torch.testing.assert_close(calibrate_prototypes(base, new, shift_weight=0.0), unit(new, dim=-1), rtol=0, atol=0)
    blend = unit(anchor_weights(new, base) @ unit(base, dim=-1), dim=-1)
    torch.testing.assert_close(delta(base, new), blend, rtol=0, atol=1e-14)


@given(prototypes())
def test_weights_are_a_mean_so_the_blend_is_no_longer_than_one(problem):  # P4
    base, new = problem
    weights = anchor_weights(new, base)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=0, atol=1e-14)
    assert bool((delta(base, new, renormalize_delta=False).norm(dim=-1) <= 1 + 1e-14).all())


@given(prototypes(), st.floats(0, 1))
def test_the_length_follows_from_the_angle(problem, shift_weight):  # P5
    base, new = problem
    calibrated = calibrate_prototypes(base, new, shift_weight=shift_weight)
    cosines = (unit(new, dim=-1) * delta(base, new)).sum(-1)
    alpha = 1 - shift_weight
    squared = alpha**2 + shift_weight**2 + 2 * alpha * shift_weight * cosines
    torch.testing.assert_close(calibrated.square().sum(-1), squared, rtol=0, atol=1e-14)


@given(prototypes(batches=((),)))
def test_the_direction_moves_along_the_geodesic(problem):  # P6
    base, new = problem
    path = torch.stack([unit(calibrate_prototypes(base, new, shift_weight=w), dim=-1) for w in np.linspace(0, 1, 9)])
    to_blend, to_own = (path * path[-1]).sum(-1), (path * path[0]).sum(-1)
    assert bool((to_blend.diff(dim=0) >= -1e-12).all())
    assert bool((to_own.diff(dim=0) <= 1e-12).all())
    angles = torch.arccos(to_own.clamp(-1, 1)) + torch.arccos(to_blend.clamp(-1, 1))
    torch.testing.assert_close(angles, angles[:1].expand_as(angles), rtol=0, atol=1e-6)


@given(prototypes())
def test_an_infinite_scale_takes_the_nearest_and_zero_takes_all(problem):  # P7, P8
    base, new = problem
    anchors = unit(base, dim=-1)
    nearest = (unit(new, dim=-1) @ anchors.mT).argmax(-1)
    wanted = anchors.gather(-2, nearest[..., None].expand(*nearest.shape, base.shape[-1]))
    torch.testing.assert_close(delta(base, new, softmax_scale=1e9), wanted, rtol=0, atol=1e-9)
    mean = unit(anchors.mean(-2, keepdim=True), dim=-1).expand_as(new)
    torch.testing.assert_close(delta(base, new, softmax_scale=0.0), mean, rtol=0, atol=1e-10)


@given(prototypes(), st.randoms(use_true_random=False))
def test_permutations_scales_and_rotations(problem, random):  # P9, P10, P11
    base, new = problem
    rng = np.random.default_rng(random.randrange(1000))
    wanted = calibrate_prototypes(base, new)

    def check(changed, expected):
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-12)

    order_base, order_new = rng.permutation(base.shape[-2]), rng.permutation(new.shape[-2])
    check(calibrate_prototypes(base[..., order_base, :], new[..., order_new, :]), wanted[..., order_new, :])
    scales = torch.from_numpy(rng.uniform(0.1, 9, size=base.shape[-2]))[:, None]
    check(calibrate_prototypes(scales * base, 7.0 * new), wanted)
    rotation = torch.linalg.qr(torch.from_numpy(rng.normal(size=(base.shape[-1],) * 2))).Q
    check(calibrate_prototypes(base @ rotation, new @ rotation), wanted @ rotation)


@given(prototypes())
def test_companions_do_not_matter(problem):  # P12
    base, new = problem
    together = calibrate_prototypes(base, new)
    alone = torch.cat([calibrate_prototypes(base, new[..., n : n + 1, :]) for n in range(new.shape[-2])], dim=-2)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-14)


def test_what_it_is_not():  # P13, P14, and no shift invariance
    rng = np.random.default_rng(3)
    base, new = (torch.from_numpy(rng.normal(size=(n, 4))) for n in (3, 2))
    once = calibrate_prototypes(base, new)
    twice_there = calibrate_prototypes(torch.cat([base, base[:1]]), new, softmax_scale=1.0)
    assert float((twice_there - calibrate_prototypes(base, new, softmax_scale=1.0)).abs().max()) > 1e-3
    assert float((calibrate_prototypes(base, once) - once).abs().max()) > 1e-3
    assert float((calibrate_prototypes(base + 1, new + 1) - once).abs().max()) > 1e-3


@given(prototypes(), st.floats(0, 50))
def test_one_base_class_is_the_blend(problem, softmax_scale):  # P15
    base, new = problem
    only = base[..., :1, :]
    wanted = unit(only, dim=-1).expand_as(new)
    torch.testing.assert_close(delta(only, new, softmax_scale=softmax_scale), wanted, rtol=0, atol=1e-14)


@given(prototypes(), st.floats(0, 1))
def test_a_class_on_a_base_class_stays_there(problem, shift_weight):  # P16
    base, _ = problem
    new = base[..., :1, :]
    stays = calibrate_prototypes(base, new, softmax_scale=1e9, shift_weight=shift_weight)
    torch.testing.assert_close(stays, unit(new, dim=-1), rtol=0, atol=1e-9)


def test_zero_prototypes_and_large_scales_are_finite():
    zero = torch.zeros(1, 3)
    base = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    blend = calibrate_prototypes(base, zero, shift_weight=0.5)
    torch.testing.assert_close(blend, torch.tensor([[0.5**1.5, 0.5**1.5, 0.0]]))  # uniform weights, half of the blend
    antipodal = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    cancelled = calibrate_prototypes(antipodal, torch.tensor([[0.0, 1.0, 0.0]]), shift_weight=0.5)
    torch.testing.assert_close(cancelled, torch.tensor([[0.0, 0.5, 0.0]]))
    assert bool(calibrate_prototypes(base, torch.randn(4, 3), softmax_scale=1e30).isfinite().all())


@pytest.mark.parametrize(
    ("base", "settings", "message"),
    [
        (torch.zeros(0, 3), {}, "calibration needs at least one base class, got none"),
        (torch.eye(3), {"softmax_scale": -1.0}, "softmax_scale must not be negative, got -1.0: it multiplies cosines"),
        (torch.eye(3), {"shift_weight": 1.5}, r"shift_weight must lie in \[0, 1\], got 1.5: it is the share of the"),
    ],
)
def test_bad_settings_are_refused(base, settings, message):
    with pytest.raises(ValueError, match=message):
        calibrate_prototypes(base, torch.eye(3), **settings)


def test_meta_tensors_and_half_the_precision_stay_what_they_are():
    for dtype in (torch.float32, torch.float64):
        made = calibrate_prototypes(*(torch.zeros(2, n, 3, dtype=dtype, device="meta") for n in (4, 5)))
        assert made.device.type == "meta"
        assert made.dtype == dtype
        assert made.shape == (2, 5, 3)


def test_the_length_of_a_mean_of_few_shots_is_put_right_on_average():
    generator = torch.Generator().manual_seed(0)
    mean, spread, n_shots = torch.full((50,), 0.6), 1.0, 3
    shots = mean + spread * torch.randn((4000, n_shots, 50), generator=generator)
    squared = debiased_norms(shots.mean(1), torch.full((4000,), float(n_shots)), 50 * spread**2).square()
    assert float(squared.mean()) == pytest.approx(float(mean @ mean), rel=0.01)
    assert float(shots.mean(1).square().sum(1).mean()) > 1.8 * float(mean @ mean)


def test_a_length_below_the_noise_keeps_its_floor():
    norms = debiased_norms(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0]), 100.0, floor=0.25)
    torch.testing.assert_close(norms, torch.tensor([0.5]))


@given(prototypes(batches=((),)), st.floats(0, 20), st.floats(0, 1), st.integers(0, 1000))
def test_posterior_equals_the_loop(problem, softmax_scale, restoration, seed):
    base, new = problem
    rng = np.random.default_rng(seed)
    n_items = torch.from_numpy(rng.integers(2, 40, size=len(base)).astype(float))
    n_shots = torch.from_numpy(rng.integers(1, 9, size=len(new)).astype(float))
    trace = float(rng.uniform(0.1, 50))
    prior = fit_base_prior(base, n_items, trace, softmax_scale=softmax_scale)
    known = teen_loops.prior(base.numpy(), n_items.tolist(), trace, softmax_scale)
    for name, value in known.items():
        assert float(getattr(prior, name)) == pytest.approx(value, rel=1e-8, abs=1e-9), name
    fast = posterior_prototypes(base, new, n_shots, prior, softmax_scale=softmax_scale, restoration=restoration)
    slow = teen_loops.posterior(
        base.numpy(), new.numpy(), n_shots.tolist(), n_items.tolist(), trace, softmax_scale, restoration
    )
    if float(prior.squared_norm) > 1e-6:  # else the signal's share is that of rounding
        np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-9)


@given(prototypes(batches=((2,), (3, 2))))
def test_posterior_of_a_batch_is_its_members(problem):
    base, new = problem
    n_items, n_shots = torch.full(base.shape[:-1], 30.0), torch.full(new.shape[:-1], 5.0)

    def answer(place):
        prior = fit_base_prior(base[place], n_items[place], 4.0)
        return posterior_prototypes(base[place], new[place], n_shots[place], prior)

    whole = answer(...)
    for place in np.ndindex(*base.shape[:-2]):
        torch.testing.assert_close(whole[place], answer(place), rtol=1e-10, atol=1e-12)


def test_many_base_classes_are_left_out_in_parts_with_one_answer(monkeypatch):
    rng = np.random.default_rng(0)
    base = torch.from_numpy(rng.normal(size=(23, 5)))
    whole = fit_base_prior(base, torch.full((23,), 9.0, dtype=torch.float64), 2.0)
    monkeypatch.setattr("fewshot.incremental.calibration._CHUNK", 7)
    for one, other in zip(whole, fit_base_prior(base, torch.full((23,), 9.0).double(), 2.0), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_with_many_shots_the_posterior_is_the_mean_itself():
    rng = np.random.default_rng(1)
    base, new = (torch.from_numpy(rng.normal(size=(n, 6))) for n in (5, 3))
    prior = fit_base_prior(base, torch.full((5,), 50.0), 3.0)
    far = posterior_prototypes(base, new, torch.full((3,), 1e9), prior)
    torch.testing.assert_close(far, unit(new, dim=-1), rtol=0, atol=1e-6)


def test_the_prior_recovers_how_many_shots_it_is_worth():
    # Class means drawn about a common center with variance τ² per feature: with a scale of 0 all anchors weigh alike,
    # the blend is the center's estimate, and κ = trΣ / τ²_total = (d σ²) / (d τ²).
    generator = torch.Generator().manual_seed(0)
    n_base, n_items, n_features, spread, within = 400, 20, 30, 0.5, 1.5
    means = 2.0 + spread * torch.randn((n_base, n_features), generator=generator, dtype=torch.float64)
    noise = within / n_items**0.5 * torch.randn(means.shape, generator=generator, dtype=torch.float64)
    counts = torch.full((n_base,), float(n_items), dtype=torch.float64)
    prior = fit_base_prior(means + noise, counts, n_features * within**2, softmax_scale=0.0)
    assert float(prior.prior_shots) == pytest.approx(within**2 / spread**2, rel=0.05)
    assert float(prior.gain) == pytest.approx(1.0, abs=0.01)
    assert float(prior.squared_norm) == pytest.approx(float(means.square().sum(1).mean()), rel=0.01)


def test_one_base_class_teaches_no_prior():
    with pytest.raises(ValueError, match="needs two base classes or more to learn from, got 1: learn the base"):
        fit_base_prior(torch.ones(1, 3), torch.ones(1), 1.0)


def test_base_classes_drowned_in_noise_teach_what_the_loop_says():
    base = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    prior = fit_base_prior(base, torch.ones(3, dtype=torch.float64), 100.0)
    for name, value in teen_loops.prior(base.numpy(), [1, 1, 1], 100.0, 16.0).items():
        assert float(getattr(prior, name)) == pytest.approx(value, rel=1e-9), name
    assert float(prior.prior_shots) == pytest.approx(1e6)


def test_base_classes_that_are_all_alike_and_free_of_noise_teach_something_finite():
    for value in (0.0, 1.0):
        prior = fit_base_prior(torch.full((3, 2), value), torch.ones(3), 0.0)
        assert all(bool(entry.isfinite()) for entry in prior)


def test_an_estimate_of_nothing_but_noise_stays_finite_and_short():
    # Orthogonal base means within noise three times as long: no signal is left of lengths, nor of what foretells.
    base = torch.eye(8, dtype=torch.float64)[:4]
    prior = fit_base_prior(base, torch.full((4,), 2.0, dtype=torch.float64), 18.0)
    assert float(prior.squared_norm) == 0
    new = torch.randn((3, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = posterior_prototypes(base, new, torch.ones(3), prior, restoration=1.0).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 2.0, dtype=torch.float64))  # no more than the floor allows
