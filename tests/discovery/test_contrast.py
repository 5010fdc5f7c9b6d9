"""The contrastive step: losses beside loops, and a head that starts as nothing and learns what separates classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.discovery.category_discovery import CategoryDiscovery
from fewshot.discovery.contrastive.head import ProjectionHead, principal_basis
from fewshot.discovery.contrastive.losses import (
    class_spread,
    dropout_view,
    info_nce,
    noisy_view,
    prototype_concentrations,
    prototypical_contrast,
    supervised_contrast,
)
from fewshot.discovery.contrastive.training import discovery_step, draw_batch, fit_projection
from tests.reference import contrast_loops

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator(seed), dtype=torch.float64), dim=-1)


@st.composite
def pools(draw):
    """Unit rows with labels from -1, and unit prototypes, of which some may have one row or none."""
    n, n_features, n_prototypes = draw(st.integers(1, 17)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**20))
    labels = torch.randint(-1, n_prototypes, (n,), generator=generator(seed + 2))
    return unit(n, n_features, seed=seed), unit(n_prototypes, n_features, seed=seed + 1), labels


# The concentrations.


def many(n=61, n_features=3, n_prototypes=7, seed=0):
    rows, prototypes = unit(n, n_features, seed=seed), unit(n_prototypes, n_features, seed=seed + 1)
    return rows, prototypes, torch.randint(-1, n_prototypes, (n,), generator=generator(seed))


@pytest.mark.parametrize("clip", [(0.1, 0.9), (0.0, 1.0), (0.25, 0.6)])
@pytest.mark.parametrize("n", [61, 11])  # 11 rows leave prototypes with one row or none
def test_concentrations_are_those_of_the_loops(clip, n):
    rows, prototypes, labels = many(n)
    found = prototype_concentrations(rows, prototypes, labels, temperature=0.3, smoothing=4.0, clip=clip)
    wanted = contrast_loops.concentrations(rows.tolist(), prototypes.tolist(), labels.tolist(), 0.3, 4.0, clip)
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_the_defaults_are_the_authors():
    rows, prototypes, labels = many()
    wanted = prototype_concentrations(rows, prototypes, labels, temperature=1.0, smoothing=10.0, clip=(0.1, 0.9))
    assert torch.equal(prototype_concentrations(rows, prototypes, labels, temperature=1.0), wanted)


@given(pools(), st.floats(0.01, 5.0))
def test_concentrations_are_positive_and_of_the_mean_asked_for(pool, temperature):
    found = prototype_concentrations(*pool, temperature=temperature)
    assert bool((found > 0).all())
    assert math.isclose(float(found.mean()), temperature, rel_tol=1e-9)


def test_a_lone_row_has_the_largest_concentration():
    rows = torch.tensor([[0.0], [1.0], [5.0], [9.0], [7.0]])
    prototypes, labels = torch.tensor([[0.5], [7.0], [7.0], [70.0]]), torch.tensor([0, 0, 1, 1, 2])
    found = prototype_concentrations(rows, prototypes, labels, temperature=1.0, clip=(0, 1))
    assert float(found[0]) < float(found[1])
    assert found[1:].tolist() == [float(found.max())] * 3


def test_rows_on_their_prototypes_are_no_division_by_zero():
    rows, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
    assert prototype_concentrations(rows, torch.eye(3), labels, temperature=0.5).tolist() == [0.5] * 3
    rows[0] += 1.0  # now one of three has a width, the others none
    found = prototype_concentrations(rows, torch.eye(3), labels, temperature=0.5, clip=(0, 1))
    assert bool((found > 0).all())
    assert bool(prototypical_contrast(rows, torch.eye(3), labels, found).isfinite())


@given(pools(), st.floats(0.1, 100.0))
def test_concentrations_do_not_know_order_place_or_unit(pool, unit_length):
    rows, prototypes, labels = pool
    order = torch.randperm(len(rows), generator=generator(1))
    wanted = prototype_concentrations(rows, prototypes, labels, temperature=1.0)
    moved = [unit_length * (part + 3.0) for part in (rows[order], prototypes)]
    np.testing.assert_allclose(
        prototype_concentrations(*moved, labels[order], temperature=1.0), wanted, rtol=1e-6, atol=1e-9
    )


def test_many_rows_are_read_in_chunks(monkeypatch):
    rows, prototypes, labels = many()
    wanted = prototype_concentrations(rows, prototypes, labels, temperature=1.0)
    monkeypatch.setattr("fewshot.discovery.contrastive.losses._CHUNK", 7)
    np.testing.assert_allclose(prototype_concentrations(rows, prototypes, labels, temperature=1.0), wanted, **CLOSE)


# The losses.


@given(pools(), st.floats(0.05, 2.0))
def test_the_losses_are_those_of_the_loops(pool, temperature):
    rows, prototypes, labels = pool
    phi = torch.linspace(0.2, 0.9, len(prototypes), dtype=torch.float64)
    lists = [part.tolist() for part in (rows, prototypes, labels, phi)]
    np.testing.assert_allclose(
        prototypical_contrast(rows, prototypes, labels, phi), contrast_loops.prototypical(*lists), **CLOSE
    )
    np.testing.assert_allclose(
        supervised_contrast(rows, labels, temperature),
        contrast_loops.supervised(lists[0], lists[2], temperature),
        **CLOSE,
    )
    others = unit(*rows.shape, seed=5)
    np.testing.assert_allclose(
        info_nce(rows, others, temperature), contrast_loops.info_nce(lists[0], others.tolist(), temperature), **CLOSE
    )


def test_the_temperatures_are_those_of_the_papers():
    rows, labels = unit(9, 4), torch.arange(9) % 3
    assert torch.equal(supervised_contrast(rows, labels), supervised_contrast(rows, labels, 0.07))
    assert torch.equal(info_nce(rows, unit(9, 4, seed=1)), info_nce(rows, unit(9, 4, seed=1), 1.0))


@given(pools())
def test_the_losses_do_not_know_the_order_of_rows_or_the_names_of_classes(pool):
    rows, prototypes, labels = pool
    phi = torch.linspace(0.2, 0.9, len(prototypes), dtype=torch.float64)
    order, names = (torch.randperm(len(part), generator=generator(3)) for part in (rows, prototypes))
    renamed = torch.where(labels >= 0, names.argsort()[labels], -1)[order]
    np.testing.assert_allclose(
        prototypical_contrast(rows[order], prototypes[names], renamed, phi[names]),
        prototypical_contrast(rows, prototypes, labels, phi),
        **CLOSE,
    )
    np.testing.assert_allclose(
        supervised_contrast(rows[order], renamed), supervised_contrast(rows, labels), rtol=1e-9, atol=1e-9
    )
    others = unit(*rows.shape, seed=5)
    np.testing.assert_allclose(info_nce(others[order], rows[order]), info_nce(rows, others), **CLOSE)


@given(pools())
def test_gradients_reach_the_rows_and_never_the_prototypes(pool):
    rows, prototypes, labels = (part.clone() for part in pool)
    rows.requires_grad_()
    prototypes.requires_grad_()
    phi = torch.full((len(prototypes),), 0.5, dtype=torch.float64, requires_grad=True)
    loss = prototypical_contrast(rows, prototypes, labels, phi)
    (loss + supervised_contrast(rows, labels) + info_nce(rows, rows.flip(0))).backward()
    assert prototypes.grad is None
    assert phi.grad is None
    assert bool(rows.grad.isfinite().all())
    assert not prototype_concentrations(rows, prototypes, labels, temperature=1.0).requires_grad


def test_gradients_are_those_of_differences():
    rows, labels = unit(5, 3).requires_grad_(), torch.tensor([0, 1, 0, -1, 2])
    prototypes, phi = unit(3, 3, seed=1), torch.tensor([0.3, 0.5, 0.9]).double()
    assert torch.autograd.gradcheck(lambda x: prototypical_contrast(x, prototypes, labels, phi), rows)
    assert torch.autograd.gradcheck(lambda x: supervised_contrast(x, labels, 0.5), rows)
    assert torch.autograd.gradcheck(lambda x: info_nce(x, x.flip(0), 0.5), rows)


def test_a_batch_without_labels_has_no_loss_and_no_nan():
    rows = unit(4, 3).requires_grad_()
    phi = torch.ones(2).double()
    for bare in (torch.full((4,), -1), torch.arange(4)):
        supervised_contrast(rows, bare).backward()
        assert rows.grad.tolist() == [[0.0] * 3] * 4
    assert prototypical_contrast(rows, unit(2, 3), torch.full((4,), -1), phi).tolist() == 0.0


# The views.


def test_noise_has_the_covariance_within_the_classes():
    rng = np.random.default_rng(0)
    shape = np.array([[2.0, 0.0], [1.5, 0.5]])
    truth = np.arange(4000) % 4
    rows = torch.from_numpy(50.0 * rng.normal(size=(4, 2))[truth] + rng.normal(size=(4000, 2)) @ shape.T)
    labels = torch.from_numpy(np.where(truth < 3, truth, -1))
    spread = class_spread(rows, labels, 3)
    np.testing.assert_allclose(spread @ spread.mT, shape @ shape.T, rtol=0.1)
    moved = noisy_view(rows, spread, 0.5, generator=generator()) - rows
    np.testing.assert_allclose(moved.mT @ moved / 4000, 0.25 * spread @ spread.mT, rtol=0.1)
    np.testing.assert_allclose(moved.mean(0), [0.0, 0.0], atol=0.05)


def test_without_a_class_of_two_the_noise_is_round():
    rows = 100.0 + torch.randn((5000, 3), generator=generator())
    spread = class_spread(rows, torch.full((5000,), -1), 0)
    np.testing.assert_allclose(spread, 0.1**0.5 * torch.eye(3), atol=0.02)


def test_dropout_keeps_the_mean():
    rows = torch.ones((1000, 20))
    view = dropout_view(rows, 0.3, generator=generator())
    assert sorted(set(view.flatten().tolist())) == pytest.approx([0.0, 1 / 0.7])
    assert float(view.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(dropout_view(rows, 0.0, generator=generator()), rows)


# The head.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_hidden", [0, 5])
def test_an_untrained_head_is_the_identity_on_unit_rows(dtype, n_hidden):
    rows = 3 * torch.randn((13, 4), generator=generator(), dtype=dtype)
    head = ProjectionHead(torch.eye(4, dtype=dtype), n_hidden=n_hidden, generator=generator())
    found = head(rows)
    assert found.dtype == dtype
    assert torch.allclose(found, rows / rows.norm(dim=1, keepdim=True), atol=1e-6)


def test_an_untrained_head_on_all_principal_directions_keeps_inner_products():
    rows = torch.randn((40, 6), generator=generator(), dtype=torch.float64) + 2
    basis = principal_basis(rows, 6)
    np.testing.assert_allclose(basis.mT @ basis, torch.eye(6), atol=1e-12)
    frozen = rows / rows.norm(dim=1, keepdim=True)
    found = ProjectionHead(basis).project(rows)
    np.testing.assert_allclose(found @ found.mT, frozen @ frozen.mT, atol=1e-12)


def test_principal_directions_are_those_of_the_singular_values():
    rows = torch.randn((40, 6), generator=generator(), dtype=torch.float64) + 2
    frozen = rows / rows.norm(dim=1, keepdim=True)
    wanted = torch.linalg.svd(frozen).Vh[:3]
    np.testing.assert_allclose((principal_basis(rows, 3).mT @ wanted.mT).abs(), np.eye(3), atol=1e-9)


def test_a_trained_head_answers_with_unit_rows_of_the_dtype_that_came():
    head = ProjectionHead(torch.eye(4)[:, :3], n_hidden=7, generator=generator())
    with torch.no_grad():
        head.weight.normal_(generator=generator())
    rows = torch.randn((9, 4), generator=generator(), dtype=torch.float64)
    found = head.project(rows)
    assert found.shape == (9, 3)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.norm(dim=1), np.ones(9), rtol=1e-6)
    assert head(rows.half()).dtype == torch.float32
    v = torch.nn.functional.normalize(rows.float(), dim=1)[:, :3]
    wanted = v + torch.nn.functional.gelu(v @ head.hidden.T) @ head.weight.T
    np.testing.assert_allclose(found, torch.nn.functional.normalize(wanted, dim=1).detach(), atol=1e-6)


def test_a_pool_is_projected_in_chunks(monkeypatch):
    head, rows = ProjectionHead(torch.eye(4)), torch.randn((9, 4), generator=generator())
    wanted = head(rows)
    monkeypatch.setattr("fewshot.discovery.contrastive.head._CHUNK", 4)
    assert torch.equal(head.project(rows), wanted)
    assert not head.project(rows).requires_grad


def test_a_hidden_layer_asks_for_a_generator():
    message = "a head with a hidden layer starts at random, got generator=None: give a generator"
    with pytest.raises(ValueError, match=f"^{message}$"):
        ProjectionHead(torch.eye(3), n_hidden=2)


# The trainer.


def toy(n=120, n_classes=4, n_noise=12, dtype=torch.float32):
    """Classes that differ in few of many directions; half of the rows of two of them are labelled."""
    truth = torch.arange(n) % n_classes
    rows = torch.cat([2.0 * torch.eye(n_classes)[truth], torch.zeros(n, n_noise)], 1)
    rows = rows + 0.7 * torch.randn(rows.shape, generator=generator())
    labels = torch.where((truth < 2) & (torch.arange(n) % 8 < 4), 10 + 5 * truth, -1)
    return rows.to(dtype), labels, truth


def train(rows, labels, truth, seed=0, head=None, **settings):
    head = ProjectionHead(torch.eye(rows.shape[1], dtype=rows.dtype)) if head is None else head
    settings = {"n_rounds": 2, "n_steps": 15, "batch_size": 32, "discover": lambda z, y: truth, **settings}
    return head, fit_projection(head, rows, labels, **settings, generator=generator(seed))


def test_the_losses_fall_and_classes_draw_together():
    rows, labels, truth = toy()
    head, trace = train(rows, labels, truth, n_rounds=1, n_steps=80, learning_rate=1e-2, temperature=0.2)
    total = trace[0].prototypical + 0.35 * trace[0].supervised + 0.65 * trace[0].instance
    # The instance loss pushes members of a class apart, so the sum falls by less.
    for values, share in ((trace[0].prototypical, 0.9), (trace[0].supervised, 0.9), (total, 0.95)):
        assert values.shape == (80,)
        assert float(values[-10:].mean()) < share * float(values[:10].mean())

    def within(projected):
        same = truth[:, None] == truth
        products = projected @ projected.mT
        return float(products[same].mean() - products[~same].mean())

    assert within(head.project(rows)) > 1.2 * within(torch.nn.functional.normalize(rows, dim=1))


def test_one_seed_one_answer_and_no_other_random_state():
    rows, labels, truth = toy()
    before = torch.random.get_rng_state()
    first, trace = train(rows, labels, truth, dropout=0.1)
    again, same = train(rows, labels, truth, dropout=0.1)
    other, _ = train(rows, labels, truth, seed=1, dropout=0.1)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(trace[1].instance, same[1].instance)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_calls_of_one_round_are_one_call_of_two():
    rows, labels, truth = toy()
    wanted, _ = train(rows, labels, truth)
    head, draws = ProjectionHead(torch.eye(rows.shape[1])), generator()
    for _ in range(2):
        fit_projection(
            head, rows, labels, discover=lambda z, y: truth, n_rounds=1, n_steps=15, batch_size=32, generator=draws
        )
    assert torch.equal(head.weight, wanted.weight)


@pytest.mark.parametrize("supervised_weight", [0.0, 0.35, 1.0])
def test_a_round_is_adam_on_the_sum_of_the_losses(supervised_weight):
    rows, labels, truth = toy(dtype=torch.float64)
    settings = {"n_rounds": 1, "n_steps": 3, "noise": 0.0, "temperature": 0.3, "learning_rate": 0.02}
    found, (told,) = train(rows, labels, truth, supervised_weight=supervised_weight, **settings)
    frozen = torch.nn.functional.normalize(rows, dim=1)
    prototypes = torch.nn.functional.normalize(torch.stack([frozen[truth == k].mean(0) for k in range(4)]), dim=1)
    phi = prototype_concentrations(frozen, prototypes, truth, temperature=0.3)
    head, draws = ProjectionHead(torch.eye(rows.shape[1]).double()), generator()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for i in range(3):
        batch = draw_batch(labels, 32, generator=draws)
        z = head(rows[batch])
        parts = [
            prototypical_contrast(z, prototypes, truth[batch], phi),
            supervised_contrast(torch.cat([z, z]), labels[batch].repeat(2)),
            info_nce(z, z, 0.3),
        ]
        seen = [told.prototypical[i], told.supervised[i], told.instance[i]]
        np.testing.assert_allclose(seen, torch.stack(parts).detach(), rtol=1e-9)
        optimizer.zero_grad()
        (parts[0] + supervised_weight * parts[1] + (1 - supervised_weight) * parts[2]).backward()
        optimizer.step()
    np.testing.assert_allclose(found.weight.detach(), head.weight.detach(), atol=1e-7)


def test_the_weight_and_the_temperature_are_those_of_the_released_code():
    rows, labels, truth = toy()
    found, _ = train(rows, labels, truth)
    wanted, _ = train(rows, labels, truth, supervised_weight=0.35, temperature=1.0)
    assert torch.equal(found.weight, wanted.weight)


def test_views_are_noise_within_classes_and_dropout():
    rows, labels, truth = toy()
    settings = {"n_rounds": 1, "n_steps": 2}
    loss = {
        name: float(train(rows, labels, truth, **settings, **views)[1][0].instance[0])
        for name, views in {
            "none": {"noise": 0.0},
            "noise": {},
            "more": {"noise": 2.0},
            "dropout": {"noise": 0.0, "dropout": 0.5},
        }.items()
    }
    assert loss["none"] < loss["noise"] < loss["more"]
    assert loss["none"] < loss["dropout"]


def test_the_e_step_sees_the_projected_rows_and_the_shown_labels():
    rows, labels, truth = toy()
    is_held_out = (labels == 10) & (torch.arange(len(labels)) % 16 < 8)
    seen = []

    def discover(projected, given):
        seen.append((projected, given))
        return 7 * truth + 100

    told = []
    head, trace = train(
        rows, labels, truth, discover=discover, is_held_out=is_held_out, progress=lambda *words: told.append(words)
    )
    assert torch.allclose(seen[0][0], torch.nn.functional.normalize(rows, dim=1))
    assert not torch.allclose(seen[1][0], seen[0][0])
    assert torch.equal(seen[1][1], torch.where(is_held_out, -1, labels))
    assert [found.n_classes for found in trace] == [4, 4]
    assert [number for number, _ in told] == [1, 2]
    projected = head.project(rows)
    means = [projected[(labels == k) & ~is_held_out].mean(0) for k in (10, 15)]
    means = torch.nn.functional.normalize(torch.stack(means), dim=1)
    is_right = (projected[is_held_out] @ means.mT).argmax(1) == 0
    assert trace[1].held_out_accuracy == pytest.approx(float(is_right.double().mean()))


def test_a_held_out_label_is_as_good_as_none():
    rows, labels, truth = toy()
    is_held_out = (labels == 10) & (torch.arange(len(labels)) % 16 < 8)
    head, _ = train(rows, labels, truth, is_held_out=is_held_out)
    wanted, _ = train(rows, labels.masked_fill(is_held_out, -1), truth)
    assert torch.equal(head.weight, wanted.weight)


def test_without_held_out_rows_there_is_no_accuracy():
    assert train(*toy())[1][0].held_out_accuracy is None


def test_features_are_left_as_they_came_and_double_stays_double():
    rows, labels, truth = toy(dtype=torch.float64)
    copies = rows.clone(), labels.clone()
    head, trace = train(rows, labels, truth)
    assert torch.equal(rows, copies[0])
    assert torch.equal(labels, copies[1])
    assert head.project(rows).dtype == trace[0].instance.dtype == torch.float64


def test_the_length_of_rows_means_nothing():
    rows, labels, truth = toy()
    lengths = 2.0 ** (torch.arange(len(rows)) % 7)[:, None]
    head, trace = train(lengths * rows, labels, truth)
    wanted, same = train(rows, labels, truth)
    np.testing.assert_allclose(trace[0].instance, same[0].instance, rtol=1e-4)
    np.testing.assert_allclose(head.weight.detach(), wanted.weight.detach(), atol=1e-4)


def test_half_precision_is_widened():
    rows, labels, truth = toy()
    head, trace = train(rows.half(), labels, truth)
    wanted, _ = train(rows.half().float(), labels, truth)
    assert trace[0].instance.dtype == torch.float32
    assert torch.equal(head.weight, wanted.weight)


@given(st.integers(2, 30), st.integers(0, 12), st.integers(1, 12), st.integers(0, 99))
def test_a_batch_is_half_labelled_where_it_can_be(batch_size, n_labelled, n_free, seed):
    labels = torch.cat([torch.arange(n_labelled), torch.full((n_free,), -1)])
    rows = draw_batch(labels, batch_size, generator=generator(seed))
    assert len(rows.unique()) == len(rows) == min(batch_size, len(labels))
    n_drawn = int((labels[rows] >= 0).sum())
    if n_labelled >= batch_size // 2 and n_free >= batch_size - batch_size // 2:
        assert n_drawn == batch_size // 2


def test_every_row_may_be_drawn():
    labels, draws = torch.tensor([3, -1, 3, -1, 3]), generator()
    drawn = torch.cat([draw_batch(labels, 2, generator=draws) for _ in range(60)])
    assert drawn.unique().tolist() == [0, 1, 2, 3, 4]


def test_the_default_e_step_is_category_discovery_and_keeps_its_power():
    rows = 9 * torch.eye(6)[torch.arange(240) % 6] + torch.randn((240, 6), generator=generator())
    labels = torch.tensor([i % 6 if i % 6 < 3 and i < 120 else -1 for i in range(240)])
    found = CategoryDiscovery(n_rounds=7).fit(rows, labels)
    step = discovery_step(n_rounds=7)
    assert torch.equal(step(rows, labels), found.labels_)
    again = CategoryDiscovery(n_rounds=7, power=found.power_, n_dims=found.subspace_runs_[-1][0]).fit(rows, labels)
    assert torch.equal(step(rows, labels), again.labels_)
    head = ProjectionHead(torch.eye(6))
    (told,) = fit_projection(head, rows, labels, n_rounds=1, n_steps=1, generator=generator())
    assert told.n_classes == 6


def test_a_kept_power_is_handed_on(monkeypatch):
    asked = []

    class Recorder:
        power_, subspace_runs_, labels_ = 0.25, [(8, 0.5, 3), (16, 0.25, 3)], torch.zeros(4, dtype=torch.int64)

        def __init__(self, **settings):
            asked.append(settings)

        def fit(self, rows, labels):
            return self

    monkeypatch.setattr("fewshot.discovery.category_discovery.CategoryDiscovery", Recorder)
    for is_power_kept in (True, False):
        step = discovery_step(is_power_kept=is_power_kept, n_rounds=3)
        step(torch.zeros(4, 2), torch.zeros(4))
        step(torch.zeros(4, 2), torch.zeros(4))
    first, kept = {"n_rounds": 3}, {"n_rounds": 3, "power": 0.25, "n_dims": 16}
    assert asked == [first, kept, first, first]


MESSAGES = [
    ({"n_steps": 0}, "n_steps must be positive, got 0"),
    ({"n_rounds": 0}, "n_rounds must be positive, got 0"),
    ({"learning_rate": -1.0}, "learning_rate must be positive, got -1.0"),
    ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ({"noise": -0.5}, "noise must not be negative, got -0.5"),
    ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ({"supervised_weight": 1.5}, r"supervised_weight must lie in \[0, 1\], got 1.5"),
    ({"batch_size": 1}, "batch_size must be at least 2, got 1: a row alone has no negatives"),
    (
        {"discover": lambda z, y: z},
        r"the E-step must answer with one integer per row, \(120,\), got torch.float32 of shape \(120, 16\): "
        "return the class of each row",
    ),
    (
        {"is_held_out": torch.zeros(120, dtype=torch.bool)},
        r"is_held_out must mark at least one labelled row, one entry per row, got shape \(120,\) with 0 marked: "
        "mark rows whose label is not -1, or leave it out",
    ),
    (
        {"is_held_out": torch.ones(120, dtype=torch.bool)},
        "is_held_out marks rows without a label: mark labelled rows only",
    ),
    ({"is_held_out": toy()[1] == 15}, "every labelled row of class 15 is held out: leave at least one"),
]


@pytest.mark.parametrize(("settings", "message"), MESSAGES)
def test_what_is_wrong_is_said(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        train(*toy(), **settings)


def test_labels_that_do_not_fit_are_refused():
    rows, labels, truth = toy()
    message = (
        r"expected one label per row of the features \(n, n_features\), n > 0, got \(119,\) for \(120, 16\): give -1 "
        "for a row without a label"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        train(rows, labels[1:], truth)
