"""Semi-supervised Gaussian mixtures: against scikit-learn, against loops, and what must hold of any data."""

import copy
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from fewshot.discovery.mixture.cholesky import cholesky_with_jitter
from fewshot.discovery.mixture.fit import fit_mixture
from fewshot.discovery.mixture.forms import FORMS
from fewshot.discovery.mixture.start import state_from_means, state_from_partition, state_from_responsibilities
from fewshot.discovery.mixture.state import MixtureState, assign, log_densities, log_responsibilities
from fewshot.discovery.niw import NIWPrior
from tests.reference import mixture_loops as loops

CLOSED = ("spherical", "diagonal", "tied", "full")
every_form = pytest.mark.parametrize("form", FORMS)
every_closed_form = pytest.mark.parametrize("form", CLOSED)
soft_and_hard = pytest.mark.parametrize("is_hard", [False, True], ids=["soft", "hard"])


def make_pool(seed=0, *, n=60, n_features=3, n_components=4, n_known=2, separation=2.0, dtype=torch.float64):
    """Correlated classes of their own shape; half of each known class is labelled. And a partition to start from."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(n_components), rng.integers(0, n_components, n - n_components)])
    shapes = rng.normal(size=(n_components, n_features, n_features)) / np.sqrt(n_features)
    centers = separation * rng.normal(size=(n_components, n_features)) + 5
    noise = np.einsum("nd,nde->ne", rng.normal(size=(n, n_features)), shapes[truth])
    labels = np.where((truth < n_known) & ((rng.random(n) < 0.5) | (np.arange(n) < n_components)), truth, -1)
    partition = np.where(labels >= 0, labels, np.where(rng.random(n) < 0.6, truth, rng.integers(0, n_components, n)))
    features = torch.from_numpy(centers[truth] + noise + 0.3 * rng.normal(size=(n, n_features))).to(dtype)
    return features, torch.from_numpy(labels), torch.from_numpy(partition)


def make_prior(features, *, strength=0.3, extra_dof=3.0, seed=1):
    d = features.shape[1]
    root = torch.from_numpy(np.random.default_rng(seed).normal(size=(d, d)))
    scale = (root @ root.mT + torch.eye(d, dtype=torch.float64)) * features.double().var()
    numbers = [torch.tensor(value, dtype=torch.float64) for value in (strength, d + extra_dof)]
    return NIWPrior(features.double().mean(0) + 0.1, *numbers, scale)


def full_covariances(form, state):
    k, d = state.means.shape
    covariances = state.covariances
    eye = torch.eye(d, dtype=torch.float64)
    if form == "low-rank":
        return covariances[..., :-1] @ covariances[..., :-1].mT + torch.diag_embed(covariances[..., -1])
    shapes = {
        "spherical": lambda: covariances[:, None, None] * eye,
        "diagonal": lambda: torch.diag_embed(covariances),
        "tied": lambda: covariances.expand(k, d, d),
        "full": lambda: covariances,
    }
    return shapes[form]()


def start_and_fit(features, labels, partition, k, *, form, prior=None, floor=0.0, rank=2, **settings_):
    start = state_from_partition(
        features, partition, k, form=form, rank=rank, prior=prior, covariance_floor=floor,
        sample_weight=settings_.get("sample_weight"), chunk_size=settings_.get("chunk_size"),
    )  # fmt: skip
    return fit_mixture(features, labels, start, form=form, prior=prior, covariance_floor=floor, **settings_)


def assert_same_state(found, wanted, rtol=1e-8, atol=1e-10):
    for field, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(field, other, rtol=rtol, atol=atol)


# Truth from outside


@every_closed_form
@pytest.mark.parametrize("seed", [0, 1])
def test_scikit_learn_agrees_without_labels(form, seed):
    features, _, partition = make_pool(seed, n=90, n_features=4)
    start = state_from_partition(features, partition, 4, form=form)
    precisions = np.linalg.inv(start.covariances) if form in ("tied", "full") else 1 / start.covariances.numpy()
    theirs = GaussianMixture(
        4, covariance_type={"diagonal": "diag"}.get(form, form), tol=0, max_iter=12, reg_covar=1e-6,
        weights_init=start.log_weights.exp().numpy(), means_init=start.means.numpy(), precisions_init=precisions,
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning):
        theirs.fit(features.numpy())
    free = torch.full((90,), -1)
    ours = fit_mixture(features, free, start, form=form, n_steps=12, tolerance=0)
    np.testing.assert_allclose(ours.state.means, theirs.means_, rtol=1e-6)
    np.testing.assert_allclose(ours.state.covariances, theirs.covariances_, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(ours.state.log_weights.exp(), theirs.weights_, rtol=1e-6)
    assert ours.objective[-2].item() / 90 == pytest.approx(theirs.lower_bound_, rel=1e-9)
    assert ours.objective[-1].item() / 90 == pytest.approx(theirs.score(features.numpy()), rel=1e-9)
    np.testing.assert_array_equal(ours.labels, theirs.predict(features.numpy()))
    np.testing.assert_allclose(
        log_responsibilities(features, ours.state, form=form).exp(), theirs.predict_proba(features.numpy()), atol=1e-9
    )
    np.testing.assert_allclose(
        assign(features, ours.state, form=form).log_densities, theirs.score_samples(features.numpy()), rtol=1e-9
    )


@every_closed_form
@soft_and_hard
@pytest.mark.parametrize("with_prior", [True, False], ids=["map", "ml"])
def test_loops_agree(form, is_hard, with_prior):
    features, labels, partition = make_pool(3, n=29)
    prior = make_prior(features) if with_prior else None
    weights = torch.linspace(0.5, 2, 29, dtype=torch.float64)
    ours = start_and_fit(
        features, labels, partition, 4, form=form, prior=prior, floor=1e-3, is_hard=is_hard, n_steps=5, tolerance=0,
        weight_concentration=1.5, sample_weight=weights, drop_empty=False,
    )  # fmt: skip
    theirs, trace = loops.fit(
        features.numpy(), labels.tolist(), partition.tolist(), 4, form=form,
        prior=None if prior is None else [field.numpy() for field in prior], a=1.5, floor=1e-3, is_hard=is_hard,
        item_weights=weights.tolist(), n_steps=5,
    )  # fmt: skip
    np.testing.assert_allclose(ours.state.log_weights.exp(), theirs[0], rtol=1e-9)
    np.testing.assert_allclose(ours.state.means, theirs[1], rtol=1e-9)
    np.testing.assert_allclose(full_covariances(form, ours.state), theirs[2], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(ours.objective[1:], trace[1:], rtol=1e-9)


@soft_and_hard
@pytest.mark.parametrize("with_prior", [True, False], ids=["map", "ml"])
def test_the_low_rank_step_is_factor_analysis(is_hard, with_prior):
    features, labels, partition = make_pool(4, n=31, n_features=5)
    prior = make_prior(features) if with_prior else None
    start = state_from_partition(features, partition, 4, form="low-rank", rank=2, prior=prior)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5, 3)))
    start = start._replace(covariances=start.covariances + torch.cat([noise[..., :2], noise[..., 2:].square()], -1))
    found = fit_mixture(
        features, labels, start, form="low-rank", prior=prior, is_hard=is_hard, covariance_floor=0.01, n_steps=1
    ).state
    old = [start.log_weights.exp().tolist(), start.means.numpy(), full_covariances("low-rank", start).numpy()]
    shares = loops.e_step(features.numpy(), labels.tolist(), old, is_hard)
    plain = None if prior is None else [field.numpy() for field in prior]
    _, means, covariances = loops.m_step(features.numpy(), shares, plain, 1.0, "full", 0.0, [1.0] * 31)
    np.testing.assert_allclose(found.means, means, rtol=1e-9)
    for k in range(4):
        n = shares[:, k].sum() + (0 if prior is None else prior.dof.item() + 5 + 2)
        packed = start.covariances[k].numpy()
        factors, psi = loops.factor_step(covariances[k] * n, n, packed[:, :2], packed[:, 2])
        np.testing.assert_allclose(found.covariances[k, :, :2], factors, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.covariances[k, :, 2], psi + (0.01 if prior is None else 0), rtol=1e-8)


@every_form
def test_densities_are_those_of_the_full_covariances(form):
    features, _, partition = make_pool(5, n=31, n_features=5)
    state = state_from_partition(features, partition, 4, form=form, rank=2, covariance_floor=0.1)
    found = log_densities(features, state, form=form, chunk_size=7)
    wanted = torch.distributions.MultivariateNormal(state.means, full_covariances(form, state)).log_prob(
        features[:, None]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    in_float32 = log_densities(features.float(), state, form=form)
    assert in_float32.dtype == torch.float32
    torch.testing.assert_close(in_float32.double(), wanted, rtol=1e-4, atol=1e-3)


def test_low_rank_of_all_factors_finds_the_full_gaussian():
    features, labels, partition = make_pool(6, n=80, n_components=1, n_known=0)
    found = start_and_fit(features, labels, partition, 1, form="low-rank", rank=2, n_steps=200, tolerance=0)
    centered = features - features.mean(0)
    covariance = full_covariances("low-rank", found.state)[0]
    torch.testing.assert_close(covariance, centered.mT @ centered / 80, rtol=1e-3, atol=1e-3)


# P4: the three edges of semi-supervision


@every_closed_form
@soft_and_hard
def test_all_labelled_is_one_step_to_the_class_posteriors(form, is_hard):
    features, _, partition = make_pool(7, n=41)
    prior = make_prior(features)
    found = start_and_fit(
        features, partition, partition, 4, form=form, prior=prior, is_hard=is_hard, n_steps=3, tolerance=0
    )
    start = state_from_partition(features, partition, 4, form=form, prior=prior)
    assert_same_state(found.state, start)
    assert torch.equal(found.labels, partition)
    for k in range(4):
        own = features[partition == k]
        wanted = (prior.mean_strength * prior.mean + own.sum(0)) / (prior.mean_strength + len(own))
        torch.testing.assert_close(found.state.means[k], wanted, rtol=1e-10, atol=1e-10)


@every_closed_form
def test_one_component_is_one_gaussian(form):
    features = make_pool(8, n=37)[0]
    found = start_and_fit(features, torch.full((37,), -1), torch.zeros(37).long(), 1, form=form, n_steps=2)
    covariance = torch.cov(features.mT, correction=0)
    restricted = {
        "spherical": covariance.diagonal().mean() * torch.eye(3, dtype=torch.float64),
        "diagonal": torch.diag(covariance.diagonal()),
    }
    torch.testing.assert_close(found.state.means[0], features.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        full_covariances(form, found.state)[0], restricted.get(form, covariance), rtol=1e-10, atol=1e-10
    )


@every_form
@soft_and_hard
def test_labelled_rows_keep_their_component(form, is_hard):
    features, labels, partition = make_pool(9, separation=0.1)
    found = start_and_fit(features, labels, partition, 4, form=form, floor=1e-3, is_hard=is_hard, n_steps=15)
    assert torch.equal(found.labels[labels >= 0], labels[labels >= 0])
    by_itself = assign(features, found.state, form=form).components
    assert torch.equal(found.labels[labels < 0], by_itself[labels < 0])
    assert (by_itself != found.labels).any()  # or the test says nothing


# P5: the objective never falls


@every_form
@soft_and_hard
@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**16),
    with_prior=st.booleans(),
    concentration=st.sampled_from([1.0, 1.0, 2.5]),
    n_known=st.integers(0, 3),
    n_features=st.integers(2, 6),
)
def test_objective_never_falls(form, is_hard, seed, with_prior, concentration, n_known, n_features):
    features, labels, partition = make_pool(seed, n=90, n_features=n_features, n_known=n_known, separation=1.0)
    prior = make_prior(features) if with_prior or form == "full" else None
    found = start_and_fit(
        features, labels, partition, 4, form=form, prior=prior, is_hard=is_hard, n_steps=25, tolerance=0,
        weight_concentration=concentration,
    )  # fmt: skip
    same = found.n_components[1:] == found.n_components[:-1]
    gains = (found.objective[1:] - found.objective[:-1])[same]
    assert bool((gains >= -1e-8 * (1 + found.objective[1:][same].abs())).all())
    assert found.objective[-1] > found.objective[0] + 1


# P13, P17, P14-like: parts, copies, order


@every_form
@soft_and_hard
def test_chunks_do_not_matter(form, is_hard):
    features, labels, partition = make_pool(10)
    wanted, *others = (
        start_and_fit(
            features, labels, partition, 4, form=form, floor=1e-3, is_hard=is_hard, n_steps=4, tolerance=0,
            chunk_size=size,
        )
        for size in (60, 1, 7)
    )  # fmt: skip
    for other in others:
        assert_same_state(other.state, wanted.state)
        assert torch.equal(other.labels, wanted.labels)
        torch.testing.assert_close(other.objective, wanted.objective, rtol=1e-10, atol=1e-8)


@every_form
@soft_and_hard
def test_a_copy_of_every_row_and_a_weight_of_two_are_the_same(form, is_hard):
    features, labels, partition = make_pool(11)
    options = {"form": form, "floor": 1e-3, "is_hard": is_hard, "n_steps": 4, "tolerance": 0}
    once = start_and_fit(features, labels, partition, 4, **options)
    copies = start_and_fit(*(torch.cat([t, t]) for t in (features, labels, partition)), 4, **options)
    twice = start_and_fit(features, labels, partition, 4, sample_weight=torch.full((60,), 2.0), **options)
    for other in (copies, twice):
        assert_same_state(other.state, once.state)
        torch.testing.assert_close(other.objective, 2 * once.objective, rtol=1e-10, atol=1e-8)


@every_form
def test_order_of_rows_and_scale_and_shift_do_not_matter(form):
    features, labels, partition = make_pool(12)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    options = {"form": form, "n_steps": 6, "tolerance": 0}
    found = start_and_fit(features, labels, partition, 4, **options)
    other = start_and_fit(features[order], labels[order], partition[order], 4, **options)
    assert torch.equal(other.labels, found.labels[order])
    moved = start_and_fit(3 * features - 40, labels, partition, 4, **options)
    assert torch.equal(moved.labels, found.labels)
    torch.testing.assert_close(moved.state.means, 3 * found.state.means - 40, rtol=1e-8, atol=1e-8)
    gap = found.objective[-1] - moved.objective[-1]
    assert gap.item() == pytest.approx(60 * 3 * np.log(3), rel=1e-8)


@every_form
def test_zero_weight_is_no_row(form):
    features, labels, partition = make_pool(13)
    weights = torch.ones(60, dtype=torch.float64)
    weights[30:] = 0
    options = {"form": form, "floor": 1e-3, "n_steps": 4, "tolerance": 0, "drop_empty": False}
    found = start_and_fit(features, labels, partition, 4, sample_weight=weights, **options)
    wanted = start_and_fit(features[:30], labels[:30], partition[:30], 4, **options)
    assert_same_state(found.state, wanted.state)


# Starts


def test_the_three_starts_agree():
    features, labels, partition = make_pool(14)
    one_hot = torch.nn.functional.one_hot(partition, 4).double()
    for form in FORMS:
        wanted = state_from_partition(features, partition, 4, form=form)
        assert_same_state(state_from_responsibilities(features, one_hot, form=form), wanted)
    means = torch.stack([features[partition == k].mean(0) for k in range(4)])
    nearest = torch.where(labels >= 0, labels, torch.cdist(features, means).argmin(1))
    assert_same_state(state_from_means(features, labels, means), state_from_partition(features, nearest, 4), rtol=1e-12)


@pytest.mark.parametrize("scale", [2.0**-80, 2.0**60])
def test_the_nearest_mean_is_found_at_any_scale(scale):
    features, labels, partition = make_pool(14, dtype=torch.float32)
    means = torch.stack([features[partition == k].mean(0) for k in range(4)])
    wanted = state_from_means(features, labels, means, covariance_floor=0.0)
    found = state_from_means(features * scale, labels, means * scale, covariance_floor=0.0)
    torch.testing.assert_close(found.means / scale, wanted.means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.covariances / scale**2, wanted.covariances, rtol=1e-4, atol=1e-5)


def test_a_component_without_rows_starts_over_all_of_them():
    features, _, partition = make_pool(15)
    found = state_from_partition(features, partition.clamp(max=2), 4, form="full")
    variance = features.var(0, correction=0).mean()
    torch.testing.assert_close(found.means[3], features.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        found.covariances[3], torch.eye(3, dtype=torch.float64) * (variance + 1e-6), rtol=1e-6, atol=1e-9
    )


# Components without rows


@soft_and_hard
@every_form
def test_empty_components_go_unless_a_label_names_them(form, is_hard):
    features, labels, partition = make_pool(16, n_known=1)
    far = torch.tensor([[1e4], [-1e4], [3e4]], dtype=torch.float64).expand(3, 3)
    start = state_from_partition(features, partition, 4, form=form, covariance_floor=1e-3)
    extra = start.covariances if form == "tied" else torch.cat([start.covariances, start.covariances[:3]])
    start = MixtureState(torch.zeros(7, dtype=torch.float64), torch.cat([start.means, far]), extra)
    labels = torch.where(labels >= 0, labels + 4, -1)  # the class is bound to component 4, which lies far off
    found = fit_mixture(features, labels, start, form=form, is_hard=is_hard, covariance_floor=1e-3, tolerance=0)
    assert found.n_components[0] == 7
    assert found.n_components[-1] == 5  # components 5 and 6 are gone
    assert len(found.state.means) == 5
    assert found.labels[labels >= 0].eq(4).all()
    kept = fit_mixture(
        features, torch.full((60,), -1), start, form=form, is_hard=is_hard, drop_empty=False, covariance_floor=1e-3
    )
    torch.testing.assert_close(kept.state.means[-1], far[-1])
    assert bool(kept.state.log_weights.isfinite().all())


def with_far_component(features, partition):
    """A tied start with a fifth component where no row is, and hardly a weight for it."""
    start = state_from_partition(features, partition, 4)
    log_weights = torch.cat([start.log_weights, torch.tensor([-60.0])])
    return start._replace(log_weights=log_weights, means=torch.cat([start.means, start.means[:1] + 1e3]))


def test_dropping_a_component_is_not_convergence():
    features, labels, partition = make_pool(16, n_known=1)
    found = fit_mixture(features, labels, with_far_component(features, partition))
    assert found.n_components.tolist()[:2] == [5, 4]
    assert abs(found.objective[1] - found.objective[0]) < 1e-6
    assert found.objective[-1] > found.objective[0] + 1


def test_a_component_that_a_label_of_no_weight_names_stays():
    features, labels, partition = make_pool(16, n_known=1)
    weights = torch.ones(60)
    labels[7], weights[7] = 4, 0
    found = fit_mixture(features, labels, with_far_component(features, partition), sample_weight=weights)
    assert found.n_components.eq(5).all()
    assert found.labels[7] == 4


# P18, P19: whatever the data


def check_sound(found, form, n):
    k = len(found.state.means)
    assert all(bool(field.isfinite().all()) for field in found.state)
    assert bool(found.objective.isfinite().all())
    assert found.labels.shape == (n,)
    assert found.labels.ge(0).all()
    assert found.labels.lt(k).all()
    assert found.state.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-12)


HARSH = {
    "all rows equal": lambda x: x[:1].expand(len(x), -1).clone(),
    "few distinct points": lambda x: x[torch.arange(len(x)) % 2],
    "a constant column": lambda x: torch.cat([x, torch.full((len(x), 1), 7.0).to(x)], 1),
    "fewer rows than features": lambda x: x.repeat(1, 12)[:, :31],
    "tiny": lambda x: x * 1e-20,
    "huge": lambda x: x * 1e20,
    "zeros": lambda x: torch.zeros_like(x),
    "one far row": lambda x: torch.cat([x[:-1], x[-1:] * 1e6]),
}


@every_form
@soft_and_hard
@pytest.mark.parametrize("harm", HARSH.values(), ids=HARSH.keys())
@pytest.mark.parametrize(
    ("dtype", "floor"), [(torch.float32, 1e-6), (torch.float32, None), (torch.float32, 0.0), (torch.float64, 0.0)]
)
def test_harsh_data_gives_finite_answers(form, is_hard, dtype, harm, floor):
    features, labels, partition = make_pool(17, n=24, dtype=dtype)
    features = harm(features)
    prior = None
    if floor is None:
        d = features.shape[1]
        scale = torch.eye(d, dtype=torch.float64) * features.double().square().mean().clamp(min=1e-6)
        numbers = [torch.tensor(value, dtype=torch.float64) for value in (0.01, d + 2.0)]
        prior = NIWPrior(features.double().mean(0), *numbers, scale)
    found = start_and_fit(
        features, labels, partition, 4, form=form, is_hard=is_hard, n_steps=6, tolerance=0, floor=floor or 0.0,
        prior=prior, rank=1,
    )  # fmt: skip
    check_sound(found, form, 24)
    assert full_covariances(form, found.state).diagonal(dim1=-2, dim2=-1).min() >= (-1e-5 * features.double().var())
    if form in ("spherical", "diagonal"):
        assert found.state.covariances.min() >= 0
    rows = log_responsibilities(features, found.state, form=form)
    assert rows.dtype == dtype
    torch.testing.assert_close(rows.exp().sum(1), torch.ones(24, dtype=dtype), rtol=0, atol=1e-6)


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_widened(form, dtype):
    features, labels, partition = make_pool(18, dtype=dtype)
    found = start_and_fit(features, labels, partition, 4, form=form, floor=1e-3, n_steps=5)
    wide = start_and_fit(features.float(), labels, partition, 4, form=form, floor=1e-3, n_steps=5)
    assert_same_state(found.state, wide.state)
    assert log_responsibilities(features, found.state, form=form).dtype == torch.float32


@every_form
def test_one_row_per_class_and_nothing_unlabelled(form):
    features = make_pool(19, n=5)[0]
    labels = torch.arange(5)
    found = start_and_fit(features, labels, labels, 5, form=form)
    check_sound(found, form, 5)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.state.means, features, rtol=1e-8, atol=1e-8)


@every_form
def test_float32_far_from_the_origin_keeps_its_digits(form):
    features, labels, partition = make_pool(20, n=300, separation=4.0)
    options = {"form": form, "n_steps": 5, "tolerance": 0, "floor": 1e-6}
    wanted = start_and_fit((features + 1000.123).float().double(), labels[:300], partition, 4, **options)
    found = start_and_fit((features + 1000.123).float(), labels, partition, 4, **options)
    torch.testing.assert_close(
        full_covariances(form, found.state), full_covariances(form, wanted.state), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(found.state.means, wanted.state.means, rtol=0, atol=1.2e-5)
    assert torch.equal(found.labels, wanted.labels)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**16), n=st.integers(5, 30), n_features=st.integers(1, 9), form=st.sampled_from(list(FORMS))
)
def test_covariances_have_cholesky_factors_and_counts_sum(seed, n, n_features, form):
    features, labels, partition = make_pool(seed, n=n, n_features=n_features)
    prior = make_prior(features)
    found = start_and_fit(features, labels, partition, 4, form=form, prior=prior, rank=1, n_steps=5)
    assert torch.linalg.cholesky_ex(full_covariances(form, found.state)).info.eq(0).all()
    assert found.state.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert log_responsibilities(features, found.state, form=form).le(1e-12).all()


def test_jitter_leaves_sound_companions_alone():
    good, bad = torch.diag(torch.tensor([1e-9, 1.0]).double()), torch.ones(2, 2).double()
    zero, worse = torch.zeros(2, 2).double(), torch.tensor([[1.0, 1.1], [1.1, 1.0]]).double()
    factors = cholesky_with_jitter(torch.stack([good, bad, zero, worse]))
    assert torch.equal(factors[0], torch.linalg.cholesky(good))
    products = factors @ factors.mT
    torch.testing.assert_close(products[1], bad + 1e-6 * torch.eye(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(products[2], 1e-18 * torch.eye(2).double(), rtol=1e-9, atol=1e-24)
    added = products[3][0, 0] - 1
    assert 0.1 < added < 0.2001 * 1.05  # doubled past 0.1, not far past
    torch.testing.assert_close(products[3][0, 1], worse[0, 1])
    barely = torch.tensor([[1, 1], [1, 1 + torch.finfo(torch.float64).eps]], dtype=torch.float64)
    assert torch.linalg.cholesky_ex(barely).info == 0  # a pivot of rounding error is none
    torch.testing.assert_close(cholesky_with_jitter(barely)[1, 1].item(), 2e-6**0.5, rtol=1e-3, atol=0)
    assert cholesky_with_jitter(torch.full((2, 2), torch.nan).double()).shape == (2, 2)  # and comes to an end


# Doors


def test_inputs_and_global_random_state_are_untouched():
    features, labels, partition = make_pool(21)
    start = state_from_partition(features, partition, 4)
    before = copy.deepcopy((features, labels, start))
    state = torch.random.get_rng_state()
    once, again = (fit_mixture(features, labels, start) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(features, before[0])
    assert torch.equal(labels, before[1])
    assert_same_state(start, before[2], rtol=0, atol=0)
    assert_same_state(once.state, again.state, rtol=0, atol=0)


def test_stopping_and_progress():
    features, labels, partition = make_pool(22)
    start = state_from_partition(features, partition, 4)
    seen = []
    found = fit_mixture(features, labels, start, tolerance=1e-3, progress=lambda *news: seen.append(news))
    assert found.is_converged
    gains = (found.objective[1:] - found.objective[:-1]) / 60
    assert gains[-1] < 1e-3
    assert gains[:-1].ge(1e-3).all()
    assert seen == list(enumerate(found.objective.tolist()))
    assert not fit_mixture(features, labels, start, tolerance=0, n_steps=2).is_converged
    none = fit_mixture(features, labels, start, n_steps=0)
    assert_same_state(none.state, start)
    assert len(none.objective) == 1


def test_a_memory_mapped_tensor_will_do(tmp_path):
    features, labels, partition = make_pool(23, dtype=torch.float32)
    np.save(tmp_path / "x.npy", features.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    found = start_and_fit(mapped, labels, partition, 4, form="tied", chunk_size=7)
    wanted = start_and_fit(features, labels, partition, 4, form="tied", chunk_size=7)
    assert_same_state(found.state, wanted.state, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "diag"}, "unknown form of covariance 'diag': did you mean 'diagonal'?"),
        ({"features": torch.zeros(60, 4)}, "features must be (n, 3), as the means of start; got (60, 4)"),
        ({"labels": torch.zeros(5).long()}, "labels and sample_weight must be (60,), got labels (5,), no weights"),
        (
            {"sample_weight": torch.ones(5)},
            "labels and sample_weight must be (60,), got labels (60,), sample_weight (5,)",
        ),
        (
            {"labels": torch.full((60,), 4)},
            "labels must lie below the 4 components of start, got 4: number classes from 0",
        ),
        ({"weight_concentration": 0.5}, "weight_concentration must be at least 1, got 0.5"),
        ({"covariance_floor": -1.0}, "covariance_floor must not be negative, got -1.0"),
        (
            {"features": torch.full((60, 3), torch.nan, dtype=torch.float64)},
            "the objective of the mixture is nan: features and start must be finite",
        ),
    ],
)
def test_messages(changes, message):
    features, labels, partition = make_pool(24)
    given_ = {"features": features, "labels": labels, "start": state_from_partition(features, partition, 4)} | changes
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        fit_mixture(**given_)


def test_rank_and_prediction_messages():
    features, _, partition = make_pool(25)
    with pytest.raises(ValueError, match="rank must lie in 1 … 3, the number of features, got 4"):
        state_from_partition(features, partition, 4, form="low-rank", rank=4)
    state = state_from_partition(features, partition, 4)
    with pytest.raises(ValueError, match=r"features must be \(n, 3\), as the mixture's means; got \(60, 2\)"):
        assign(features[:, :2], state, form="tied")
    assert assign(features[:0], state, form="tied").components.shape == (0,)
