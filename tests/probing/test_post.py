"""Steps on features: their equations, what is fitted on what, and their words."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.probing import L2, PCA, PRESETS, Chain, SignedPower, Standardise, parse_steps
from fewshot.probing import post as post_module


def rows(n=31, d=7, seed=0, dtype=torch.float64):
    """Correlated features away from the origin, each direction of its own size."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, d).double()
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + 3).to(dtype)


def rotation(d, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


# L2 and signed power


@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_l2_gives_norm_one_or_zero_once_and_for_all_at_any_scale(seed, scale):
    x = rows(5, 3, seed)
    x[2] = 0
    y = L2()(x)
    expected = torch.ones(5).double()
    expected[2] = 0
    torch.testing.assert_close(y.norm(dim=-1), expected)
    torch.testing.assert_close(L2()(y), y)
    torch.testing.assert_close(L2()(scale * x), y)


def test_half_precision_is_widened_before_the_norm():
    x = torch.full((2, 3), 60000.0).half()
    assert L2()(x).dtype == torch.float32
    torch.testing.assert_close(L2()(x), torch.full((2, 3), 3**-0.5))


@given(st.floats(0.3, 3), st.integers(0, 99))
def test_signed_power_is_odd_monotone_and_undone_by_its_inverse(p, seed):
    x = torch.cat([rows(4, 6, seed) - 3, torch.zeros(1, 6).double()])
    y = SignedPower(p)(x)
    assert torch.equal(SignedPower(p)(-x), -y)
    assert torch.equal(y[-1], x[-1])
    order = x.flatten().argsort()
    assert bool((y.flatten()[order].diff() >= 0).all())
    torch.testing.assert_close(SignedPower(1 / p)(y), x)


def test_signed_power_is_the_square_with_the_sign_kept():
    assert SignedPower()(torch.tensor([-3.0, 0.5])).tolist() == [-9.0, 0.25]


# PCA and standardisation


def test_pca_is_that_of_scikit_learn_up_to_the_sign_of_directions():
    from sklearn.decomposition import PCA as Theirs  # noqa: N811

    x, other = rows(), rows(9, seed=4)
    for whiten in (True, False):
        ours = PCA(4, whiten=whiten).fit(x)(other).numpy()
        theirs = Theirs(4, whiten=whiten).fit(x.numpy()).transform(other.numpy())
        np.testing.assert_allclose(ours, theirs * np.sign((ours * theirs).sum(0)), atol=1e-9)


def test_whitened_training_rows_have_mean_zero_and_unit_covariance():
    x = rows(dtype=torch.float32)
    y = PCA(5).fit(x)(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.T.cov(), torch.eye(5), atol=1e-4, rtol=0)


def test_distances_after_pca_do_not_see_a_rotation_or_a_shift():
    x, q, shift = rows(), rotation(7), torch.arange(7).double()
    y, turned = PCA(4).fit(x)(x), PCA(4).fit(x @ q + shift)(x @ q + shift)
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(y, y))


def test_fewer_components_are_the_first_of_more_in_sign_too():
    x = rows()
    torch.testing.assert_close(PCA(2).fit(x)(x), PCA(5).fit(x)(x)[:, :2])


def test_the_largest_entry_of_a_direction_is_positive():
    for seed in range(8):
        fitted = PCA(6).fit(rows(seed=seed))
        assert fitted.directions is not None
        largest = fitted.directions.gather(1, fitted.directions.abs().argmax(1, keepdim=True))
        assert bool((largest > 0).all())


def test_eps_is_added_to_the_variances():
    x = rows()
    raw = PCA(4, whiten=False).fit(x)(x)
    torch.testing.assert_close(PCA(4, eps=0.3).fit(x)(x), raw / (raw.var(0) + 0.3).sqrt())


def test_rows_in_blocks_give_the_same_statistics(monkeypatch):
    x = rows()
    whole = [step.fit(x)(x) for step in (PCA(4), Standardise())]
    monkeypatch.setattr(post_module, "_N_ROWS", 10)
    for step, expected in zip((PCA(4), Standardise()), whole, strict=True):
        torch.testing.assert_close(step.fit(x)(x), expected)


def test_standardise_is_that_of_scikit_learn_and_makes_a_constant_zero():
    from sklearn.preprocessing import StandardScaler

    x, other = rows(), rows(9, seed=4)
    x[:, 2] = other[:, 2] = 0.1
    expected = StandardScaler().fit(x.numpy()).transform(other.numpy())
    expected[:, 2] = 0
    np.testing.assert_allclose(Standardise().fit(x)(other).numpy(), expected, atol=1e-9)


def test_pca_takes_the_most_components_there_are_and_no_more():
    assert PCA(6).fit(rows(7, 9))(rows(7, 9)).shape == (7, 6)
    assert PCA(7).fit(rows())(rows()).shape == (31, 7)
    for n, d, most in ((7, 9, 6), (31, 7, 7)):
        with pytest.raises(
            ValueError,
            match=f"^PCA to {most + 1} components needs more rows than that and as many features, got {n} x {d}: "
            f"ask for at most {most}$",
        ):
            PCA(most + 1).fit(rows(n, d))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whitening_refuses_directions_that_only_rounding_fills(dtype):
    x = rows()
    flat = (x[:, :3] @ rotation(7)[:3] + 40).to(dtype)
    message = (
        "PCA with whitening to 4 components: the training features vary in 3 directions only: "
        "ask for fewer components, or give eps above 0"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PCA(4).fit(flat)
    assert PCA(3).fit(flat)(flat).var(0).numpy() == pytest.approx(np.ones(3), abs=1e-4)
    assert float(PCA(4, eps=1e-3).fit(flat)(flat)[:, 3].abs().max()) < 1e-3
    assert PCA(4, whiten=False).fit(flat)(flat).shape == (31, 4)


# Chains


def test_a_chain_fits_each_step_on_what_comes_before_it_and_on_training_rows_only():
    x, other = rows(), rows(9, seed=4)
    first = L2()(x)
    pca = PCA(4).fit(first)
    expected = SignedPower(2)(L2()(pca(L2()(other))))
    fitted = Chain((L2(), PCA(4), L2(), SignedPower(2))).fit(x)
    torch.testing.assert_close(fitted(other), expected)
    torch.testing.assert_close(fitted(other[:2]), expected[:2])


def test_steps_take_views_and_regions_as_they_take_rows():
    x, views = rows(), rows(24, seed=2).view(4, 6, 7)
    fitted = parse_steps("standardise,l2,pca:5,power:2").fit(x)
    torch.testing.assert_close(fitted(views), fitted(views.flatten(0, 1)).view(4, 6, 5))


def test_the_retrieval_of_2014_written_out():
    x, other = rows(), rows(9, seed=4)
    unit = x / x.norm(dim=1, keepdim=True)
    mean = unit.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(unit.numpy().T))
    largest = vectors[:, ::-1][:, :5] / np.sqrt(variances[::-1][:5])
    y = ((other / other.norm(dim=1, keepdim=True)) - mean).numpy() @ largest
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    ours = parse_steps(PRESETS["retrieval-2014"].replace("500", "5")).fit(x)(other).numpy()
    np.testing.assert_allclose(np.abs(ours), y**2, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("none", ()),
        (" none ", ()),
        ("l2", (L2(),)),
        ("cnnaug", (L2(), SignedPower(2))),
        ("retrieval-2014", (L2(), PCA(500), L2(), SignedPower(2))),
        (" l2, pca:64:raw ,power:0.5", (L2(), PCA(64, whiten=False), SignedPower(0.5))),
        ("standardise,pca:8:1e-3,power", (Standardise(), PCA(8, eps=1e-3), SignedPower(2))),
    ],
)
def test_words_are_steps(text, steps):
    assert parse_steps(text) == Chain(steps)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("none", "features as they are"),
        ("l2,pca:9,power:3", "L2-normalised, PCA to 9, whitened, signed power 3"),
        ("standardise,pca:9:0.5,pca:2:raw", "standardised, PCA to 9, whitened (eps 0.5), PCA to 2"),
    ],
)
def test_steps_say_what_they_do(text, words):
    assert parse_steps(text).describe() == words


KNOWN = "Known: cnnaug, l2, none, pca, power, retrieval-2014, standardise"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l3", f"unknown post-processing 'l3': did you mean 'l2'? {KNOWN}"),
        ("l2,,l2", f"unknown post-processing ''. {KNOWN}"),
        ("pca", "post-processing 'pca': pca is written pca:N, pca:N:EPS or pca:N:raw"),
        ("l2:3", "post-processing 'l2:3': l2 is written l2"),
        ("pca:x", "pca needs a whole number of components, such as pca:500, got 'x'"),
        ("pca:0", "n_components must be positive, got 0"),
        ("pca:3:-1", "eps must not be negative, got -1.0"),
        ("pca:3:row", "eps of pca must be a number, got 'row'"),
        ("power:two", "power must be a number, got 'two'"),
        ("power:-2", "p must be positive, got -2.0"),
        ("l2,cnnaug", "post-processing 'cnnaug' is a whole chain: it stands alone, or is spelled out 'l2,power:2'"),
    ],
)
def test_words_that_are_no_steps_are_refused(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_steps(text)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.eye(3).long(), TypeError, "features must be a floating tensor, got torch.int64"),
        (np.eye(3), TypeError, "features must be a floating tensor, got ndarray"),
        (
            torch.ones(2, 3, 4),
            ValueError,
            "features must have shape (n, n_features), at least one of each, got (2, 3, 4): "
            "bring views to rows with flatten_views",
        ),
        (
            torch.tensor([[0.0, torch.inf]]),
            ValueError,
            "features has 0 NaN and 1 infinite entries, the first at index (0, 1): remove or repair these rows",
        ),
    ],
)
def test_features_that_cannot_be_fitted_are_refused(features, error, message):
    for step in (Chain((L2(),)), PCA(1), Standardise()):
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            step.fit(features)


def test_features_of_another_width_are_refused():
    message = "features must have 7 features a row, got 6: take both from one extractor"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PCA(2).fit(rows())(rows(d=6))
