"""Losses of distillation: beside loops, in closed form, unchanged where they must be, the teacher a constant."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import kl_div
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot.distillation.instance_losses import (
    bag_log_probabilities,
    instance_cross_entropy,
    literal_inter_level,
    match_instances,
)
from fewshot.distillation.losses import (
    AVERAGINGS,
    cluster_cross_entropy,
    entropy,
    kl_divergence,
    pair_weights,
    queue_contrast,
)
from tests.reference import distillation_loops as loops

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SEEDS = st.integers(0, 2**20)
SMALL = st.integers(1, 5)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_probs(*shape, seed=0, scale=2.0):
    return (scale * normal(*shape, seed=seed)).log_softmax(-1)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(normal(*shape, seed=seed), dim=-1)


def permutation(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


class Sizes(TorchDispatchMode):
    """Notes the size of every tensor that is made, views apart, and the names of the operations."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes() // result.element_size())
            self.names.append(func.overloadpacket.__name__)
        return result


# Pairs


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5), st.sampled_from(AVERAGINGS))
def test_pair_weights_are_those_of_the_loops(n_teacher, n_global, n_local, averaging):
    if n_teacher == n_global + n_local == 1:
        return
    found = pair_weights(n_teacher, n_global, n_local, averaging, like=torch.zeros(1, dtype=torch.float64))
    assert found.shape == (n_teacher, n_global + n_local)
    assert found.sum().item() == pytest.approx(1, abs=1e-14)
    wanted = loops.pair_weights(n_teacher, n_global, n_local, averaging)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), **CLOSE)


def test_global_pairs_have_half_of_the_weight_in_mugs_and_a_ninth_in_dino():
    # 2 global and 10 local views: 2 large and 20 small pairs; 2 and 8: 2 and 16.
    mugs = pair_weights(2, 2, 10, "halves")
    assert mugs[0, 1].item() == 0.25
    torch.testing.assert_close(mugs[:, 2:], torch.full((2, 10), 1 / 40))
    torch.testing.assert_close(pair_weights(2, 2, 8)[0, 1:], torch.full((9,), 1 / 18))


def test_without_local_views_the_global_pairs_have_all():
    assert torch.equal(pair_weights(2, 2, 0, "halves"), torch.tensor([[0.0, 0.5], [0.5, 0.0]]))
    assert torch.equal(pair_weights(1, 1, 2, "halves"), torch.tensor([[0.0, 0.5, 0.5]]))


def test_pair_weights_have_the_device_and_at_least_float32():
    assert pair_weights(2, 2, 1, like=torch.zeros(1, dtype=torch.float16)).dtype == torch.float32
    assert pair_weights(2, 2, 1, "halves", like=torch.zeros(1, device="meta")).is_meta


def test_no_pair_is_an_error():
    message = (
        "there must be a pair of different views, got 1 of the teacher and 1 global and 0 local ones of the student: "
        "take two global views"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pair_weights(1, 1, 0)
    with pytest.raises(ValueError, match="unknown averaging 'half': did you mean 'halves'"):
        pair_weights(2, 2, 0, "half")


# Clustering


@given(SMALL, SMALL, SMALL, st.integers(1, 7), SEEDS)
def test_clustering_is_that_of_the_loops(n_u, n_v, n_b, n_k, seed):
    teacher, student = log_probs(n_u, n_b, n_k, seed=seed), log_probs(n_v, n_b, n_k, seed=seed + 1)
    found = cluster_cross_entropy(teacher, student)
    wanted = [[loops.cluster_loss(p, q) for q in student.exp().tolist()] for p in teacher.exp().tolist()]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), **CLOSE)
    assert bool((found >= entropy(teacher).mean(-1)[:, None] - 1e-12).all())  # Gibbs


def test_clustering_is_the_teachers_entropy_where_the_student_agrees():
    teacher = log_probs(1, 4, 6)
    found = cluster_cross_entropy(teacher, teacher)
    torch.testing.assert_close(found[0, 0], entropy(teacher).mean(), **CLOSE)
    assert (cluster_cross_entropy(teacher, log_probs(1, 4, 6, seed=1)) - found).item() > 0.1


@pytest.mark.parametrize("n_prototypes", [7, 1024])
def test_a_student_without_preference_has_ln_k(n_prototypes):
    student = torch.zeros(2, 3, n_prototypes, dtype=torch.float64).log_softmax(-1)
    found = cluster_cross_entropy(log_probs(1, 3, n_prototypes), student)
    torch.testing.assert_close(found, torch.full_like(found, math.log(n_prototypes)), **CLOSE)


def test_the_weighted_sum_of_pairs_is_the_half_half_mean():
    teacher, student = log_probs(2, 3, 5), log_probs(6, 3, 5, seed=1)
    found = (pair_weights(2, 2, 4, "halves", like=student) * cluster_cross_entropy(teacher, student)).sum()
    p, q = teacher.exp().tolist(), student.exp().tolist()
    large = (loops.cluster_loss(p[0], q[1]) + loops.cluster_loss(p[1], q[0])) / 2
    small = sum(loops.cluster_loss(p[u], q[v]) for u in (0, 1) for v in (2, 3, 4, 5)) / 8
    assert found.item() == pytest.approx((large + small) / 2, rel=1e-12)


@given(SEEDS)
def test_order_of_images_and_of_crops_is_irrelevant_to_clustering(seed):
    teacher, student = log_probs(2, 5, 4, seed=seed), log_probs(6, 5, 4, seed=seed + 1)
    pairs = pair_weights(2, 2, 4, "halves", like=student)
    wanted = (pairs * cluster_cross_entropy(teacher, student)).sum()
    images, local = permutation(5, seed), 2 + permutation(4, seed)
    crops = torch.cat([torch.tensor([0, 1]), local])
    swapped = torch.tensor([1, 0, 2, 3, 4, 5])
    for p, q in (
        (teacher[:, images], student[:, images]),
        (teacher, student[crops]),
        (teacher.flip(0), student[swapped]),
    ):
        torch.testing.assert_close((pairs * cluster_cross_entropy(p, q)).sum(), wanted, **CLOSE)


@given(SEEDS, st.floats(-50, 50))
def test_constants_added_to_logits_change_nothing(seed, constant):
    teacher, student, center = normal(1, 3, 5, seed=seed), normal(2, 3, 5, seed=seed + 1), normal(5, seed=seed + 2)
    shift = normal(5, seed=seed + 3)
    wanted = cluster_cross_entropy(((teacher - center) / 0.04).log_softmax(-1), (student / 0.1).log_softmax(-1))
    moved = ((teacher + shift) - (center + shift)) / 0.04
    found = cluster_cross_entropy(moved.log_softmax(-1), ((student + constant) / 0.1).log_softmax(-1))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


# InfoNCE with a queue


@given(SMALL, SMALL, SMALL, st.integers(0, 9), st.floats(0.05, 2), SEEDS)
def test_contrast_is_that_of_the_loops(n_u, n_v, n_b, n_q, temperature, seed):
    predictions, targets = unit(n_v, n_b, 6, seed=seed), unit(n_u, n_b, 6, seed=seed + 1)
    queue = unit(n_q, 6, seed=seed + 2)
    found = queue_contrast(predictions, targets, queue, temperature)
    wanted = [
        [loops.info_nce(p, t, queue.tolist(), temperature) for p in predictions.tolist()] for t in targets.tolist()
    ]
    # torch's softplus drops terms under e^-20
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=3e-9)
    assert bool((found >= 0).all())
    assert bool((found <= math.log1p(n_q) + 2 / temperature).all())


@pytest.mark.parametrize("n_negatives", [1, 17, 512])
def test_contrast_of_rows_that_are_all_the_same(n_negatives):
    row = unit(1, 8)
    found = queue_contrast(row[None], row[None], row.expand(n_negatives, 8), 0.2)
    assert found.item() == pytest.approx(math.log1p(n_negatives), rel=1e-12)


def test_contrast_with_orthogonal_negatives():
    rows = torch.eye(9, dtype=torch.float64)
    found = queue_contrast(rows[None, :1], rows[None, :1], rows[1:], 0.2)
    assert found.item() == pytest.approx(math.log1p(8 * math.exp(-5)), rel=1e-9)


def test_contrast_without_entries_is_nothing_and_has_no_gradient():
    predictions = unit(2, 3, 4).requires_grad_()
    found = queue_contrast(predictions, unit(1, 3, 4), torch.zeros(0, 4, dtype=torch.float64), 0.2)
    found.sum().backward()
    assert torch.equal(found, torch.zeros(1, 2, dtype=torch.float64))
    assert torch.equal(predictions.grad, torch.zeros_like(predictions))


@given(SEEDS)
def test_contrast_falls_with_the_target_and_rises_with_each_negative(seed):
    p, t, queue = unit(1, 1, 5, seed=seed), unit(1, 1, 5, seed=seed + 1), unit(4, 5, seed=seed + 2)
    loss = queue_contrast(p, t, queue, 0.2)
    assert bool(queue_contrast(p, torch.nn.functional.normalize(t + 0.1 * p, dim=-1), queue, 0.2) <= loss)
    for i in range(4):
        nearer = queue.clone()
        nearer[i] = torch.nn.functional.normalize(queue[i] + 0.1 * p[0, 0], dim=0)
        assert bool(queue_contrast(p, t, nearer, 0.2) >= loss)
        assert bool(queue_contrast(p, t, torch.cat([queue, nearer[i : i + 1]]), 0.2) >= loss)
    torch.testing.assert_close(queue_contrast(p, t, queue[permutation(4, seed)], 0.2), loss, **CLOSE)


def test_the_queue_is_summed_once_for_all_teacher_views():
    with Sizes() as sizes:
        queue_contrast(unit(3, 5, 4), unit(7, 5, 4), unit(1000, 4), 0.2)
    assert sizes.names.count("logsumexp") == 1
    assert sizes.largest == 3 * 5 * 1000


# Entropy and divergence


@given(SMALL, st.integers(1, 7), SEEDS)
def test_entropy_and_divergence_are_those_of_the_loops(n, n_k, seed):
    p, q = log_probs(n, n_k, seed=seed), log_probs(n, n_k, seed=seed + 1)
    wanted = [loops.entropy(row) for row in p.exp().tolist()]
    torch.testing.assert_close(entropy(p), torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    wanted = [loops.kl(own, other) for own, other in zip(p.exp().tolist(), q.exp().tolist(), strict=True)]
    torch.testing.assert_close(kl_divergence(p, q), torch.tensor(wanted, dtype=torch.float64), **CLOSE)
    assert bool((kl_divergence(p, q) >= -1e-12).all())
    assert torch.equal(kl_divergence(p, p), torch.zeros(n, dtype=torch.float64))


def test_probabilities_of_0_count_as_nothing():
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log().requires_grad_()
    q = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64).log().requires_grad_()
    assert entropy(p).item() == pytest.approx(math.log(2))
    assert kl_divergence(p, q).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert kl_divergence(q, p.detach().log_softmax(-1)).item() == pytest.approx(loops.kl([0.25, 0.75], [0.5, 0.5]))
    assert cluster_cross_entropy(p[None, None], log_probs(1, 1, 3)).isfinite().all()
    (entropy(p) + kl_divergence(p, q)).backward()
    assert bool(p.grad.isfinite().all() & q.grad.isfinite().all())


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_losses_stay_finite_for_extreme_logits(scale):
    teacher, student = ((scale * normal(2, 3, 5, seed=seed, dtype=torch.float32)).log_softmax(-1) for seed in (0, 1))
    student.requires_grad_()
    bag = bag_log_probabilities(student, torch.full((2, 3), 1 / 3).log())
    losses = cluster_cross_entropy(teacher, student), kl_divergence(teacher, student), kl_divergence(bag, student[:, 0])
    sum(loss.sum() for loss in losses).backward()
    assert all(bool(value.isfinite().all()) for value in (*losses, entropy(student), student.grad))


# Instances


@given(SMALL, SMALL, SMALL, SMALL, SMALL, SEEDS)
def test_matches_are_those_of_the_loops(n_u, n_v, n_b, n_n, n_m, seed):
    student, teacher = normal(n_v, n_b, n_n, 3, seed=seed), normal(n_u, n_b, n_m, 3, seed=seed + 1)
    found = match_instances(student, teacher)
    assert found.dtype == torch.int64
    for u in range(n_u):
        for v in range(n_v):
            for b in range(n_b):
                assert found[u, v, b].tolist() == loops.match(student[v, b].tolist(), teacher[u, b].tolist())


def test_equal_views_match_in_place_and_a_permuted_grid_is_found_again():
    tokens = normal(2, 3, 49, 16)
    assert torch.equal(match_instances(tokens[:1], tokens[:1]), torch.arange(49).expand(1, 1, 3, 49))
    order = permutation(49, 0)
    found = match_instances(tokens[:, :, order], tokens)
    assert all(torch.equal(found[u, u], order.expand(3, 49)) for u in (0, 1))


@given(SEEDS, st.floats(1e-3, 1e3))
def test_the_length_of_tokens_is_irrelevant_to_matches(seed, scale):
    student, teacher = normal(2, 3, 4, 6, seed=seed), normal(1, 3, 5, 6, seed=seed + 1)
    lengths = normal(1, 3, 5, 1, seed=seed + 2).exp()
    assert torch.equal(match_instances(scale * student, lengths * teacher), match_instances(student, teacher))


def test_matches_have_no_gradient():
    assert not match_instances(normal(1, 2, 3, 4).requires_grad_(), normal(1, 2, 3, 4).requires_grad_()).requires_grad


@given(SMALL, SMALL, SMALL, SMALL, SMALL, st.integers(1, 6), SEEDS)
def test_instance_cross_entropy_is_that_of_the_loops(n_u, n_v, n_b, n_n, n_m, n_k, seed):
    teacher, student = log_probs(n_u, n_b, n_m, n_k, seed=seed), log_probs(n_v, n_b, n_n, n_k, seed=seed + 1)
    matches = torch.randint(n_m, (n_u, n_v, n_b, n_n), generator=torch.Generator().manual_seed(seed))
    found = instance_cross_entropy(teacher, student, matches)
    p, q = teacher.exp().tolist(), student.exp().tolist()
    wanted = [[loops.instance_loss(p[u], q[v], matches[u, v].tolist()) for v in range(n_v)] for u in range(n_u)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), **CLOSE)


def test_the_teachers_distributions_are_not_copied_for_each_match():
    n_u, n_v, n_b, n_n, n_m, n_k = 2, 5, 3, 6, 4, 500
    teacher, student = log_probs(n_u, n_b, n_m, n_k), log_probs(n_v, n_b, n_n, n_k)
    matches = torch.zeros(n_u, n_v, n_b, n_n, dtype=torch.int64)
    with Sizes() as sizes:
        instance_cross_entropy(teacher, student, matches)
    assert sizes.largest == max(teacher.numel(), student.numel()) == student.numel()  # the student itself, as a view


# Bags


@given(SMALL, SMALL, st.integers(1, 6), SEEDS)
def test_a_bag_is_that_of_the_loops(n_b, n_n, n_k, seed):
    instances, weights = log_probs(n_b, n_n, n_k, seed=seed), log_probs(n_b, n_n, seed=seed + 1)
    found = bag_log_probabilities(instances, weights).exp()
    wanted = [loops.bag(z, a) for z, a in zip(instances.exp().tolist(), weights.exp().tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(found.sum(-1), torch.ones(n_b, dtype=torch.float64), **CLOSE)
    low, high = instances.exp().aminmax(dim=-2)
    assert bool(((found >= low - 1e-12) & (found <= high + 1e-12)).all())


def test_a_bag_keeps_no_order_and_no_count():
    instances, weights = log_probs(7, 5), log_probs(7)
    wanted = bag_log_probabilities(instances, weights)
    order = permutation(7, 0)
    torch.testing.assert_close(bag_log_probabilities(instances[order], weights[order]), wanted, **CLOSE)
    twice = bag_log_probabilities(instances.repeat(2, 1), weights.repeat(2) - math.log(2))
    torch.testing.assert_close(twice, wanted, **CLOSE)
    even = bag_log_probabilities(instances, torch.full((7,), 1 / 7, dtype=torch.float64).log())
    torch.testing.assert_close(even.exp(), instances.exp().mean(0), **CLOSE)


def test_an_instance_of_weight_0_is_not_in_the_bag():
    instances = log_probs(3, 5).requires_grad_()
    found = bag_log_probabilities(instances, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log())
    torch.testing.assert_close(found.exp(), instances[:2].exp().mean(0), **CLOSE)
    found.exp()[0].backward()
    assert torch.equal(instances.grad[2], torch.zeros(5, dtype=torch.float64))
    assert bool(instances.grad.isfinite().all())


def test_a_bag_like_its_image_has_no_divergence_from_it():
    image = log_probs(4, 6)
    bag = bag_log_probabilities(image[:, None].expand(4, 9, 6), torch.full((4, 9), 1 / 9, dtype=torch.float64).log())
    torch.testing.assert_close(kl_divergence(image, bag), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)


# The released form


@given(SMALL, SMALL, SMALL, SEEDS)
def test_the_literal_form_is_that_of_the_loops(n_v, n_b, n_n, seed):
    image, instances = normal(n_v, n_b, 6, seed=seed), normal(n_v, n_b, n_n, 6, seed=seed + 1)
    found = literal_inter_level(image, instances, student_temperature=0.3)
    pairs = zip(image.tolist(), instances.tolist(), strict=True)
    wanted = [loops.literal_inter_level(*pair, 0.3) for pair in pairs]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), **CLOSE)


def test_the_literal_form_is_torchs_pointwise_divergence_where_that_is_a_number():
    image, instances = normal(1, 4, 6) / 10, normal(1, 4, 3, 6, seed=1) / 10
    target = instances.sum(-2) / 0.1
    assert kl_div(image / 0.1, target, reduction="none").isnan().any()
    assert 0.2 < (target < 0).double().mean() < 0.8
    found = literal_inter_level(image, instances.abs())
    wanted = kl_div(image / 0.1, instances.abs().sum(-2) / 0.1, reduction="none").mean()
    torch.testing.assert_close(found[0], wanted, **CLOSE)


def test_the_literal_form_has_a_finite_gradient_on_both_sides():
    image, instances = normal(1, 4, 6).requires_grad_(), normal(1, 4, 3, 6, seed=1).requires_grad_()
    literal_inter_level(image, instances).backward()
    assert all(bool(side.grad.isfinite().all()) and bool(side.grad.any()) for side in (image, instances))


# Gradients and precision

CASES = {
    "clustering": (cluster_cross_entropy, log_probs(2, 3, 5), log_probs(4, 3, 5, seed=1)),
    "contrast": (lambda t, p: queue_contrast(p, t, unit(6, 4, seed=9), 0.2), unit(2, 3, 4), unit(4, 3, 4, seed=1)),
    "queue": (lambda q, p: queue_contrast(p, unit(2, 3, 4), q, 0.2), unit(6, 4, seed=9), unit(4, 3, 4, seed=1)),
    "divergence": (kl_divergence, log_probs(3, 5), log_probs(3, 5, seed=1)),
    "instances": (
        lambda t, s: instance_cross_entropy(t, s, torch.zeros(2, 4, 3, 6, dtype=torch.int64)),
        log_probs(2, 3, 5, 7),
        log_probs(4, 3, 6, 7, seed=1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_gradient_reaches_the_teacher(name):
    loss, teacher, student = CASES[name]
    teacher, student = teacher.clone().requires_grad_(), student.clone().requires_grad_()
    loss(teacher, student).sum().backward()
    assert teacher.grad is None
    assert bool(student.grad.isfinite().all())
    assert bool(student.grad.any())


@pytest.mark.parametrize("name", CASES)
def test_the_students_gradient_is_that_of_differences(name):
    loss, teacher, student = CASES[name]
    assert torch.autograd.gradcheck(lambda s: loss(teacher, s), student.clone().requires_grad_())


def test_a_bag_passes_gradients_to_instances_and_weights():
    inputs = log_probs(2, 3, 4).requires_grad_(), log_probs(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(bag_log_probabilities, inputs)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(name, dtype):
    loss, teacher, student = CASES[name]
    teacher, student = teacher.to(dtype), student.to(dtype)
    found, wanted = loss(teacher, student), loss(teacher.float(), student.float())
    assert found.dtype == (torch.float64 if wanted.dtype == torch.float64 else torch.float32)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["clustering", "divergence", "instances"])
def test_autocast_changes_nothing(name):
    loss, teacher, student = CASES[name]
    teacher, student = teacher.float(), student.float()
    wanted = loss(teacher, student)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(teacher, student), wanted)


def test_the_widest_dtype_decides():
    predictions, targets, queue = unit(2, 3, 4), unit(1, 3, 4, seed=1), unit(5, 4, seed=2).float()
    found = queue_contrast(predictions, targets, queue, 0.2)
    assert torch.equal(found, queue_contrast(predictions, targets, queue.double(), 0.2))


def test_autocast_does_not_change_contrast_or_matches():
    predictions, targets, queue = unit(4, 3, 8).float(), unit(2, 3, 8, seed=1).float(), unit(50, 8, seed=2).float()
    tokens = normal(2, 3, 49, 16, dtype=torch.float32)
    contrast, matches = queue_contrast(predictions, targets, queue, 0.2), match_instances(tokens, tokens.flip(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(queue_contrast(predictions, targets, queue, 0.2), contrast)
        assert torch.equal(match_instances(tokens, tokens.flip(0)), matches)


def test_losses_stay_on_the_device():
    def on_meta(*shape):
        return torch.zeros(shape, device="meta")

    tokens = on_meta(2, 3, 5, 6)
    assert cluster_cross_entropy(on_meta(2, 3, 4), on_meta(5, 3, 4)).shape == (2, 5)
    assert queue_contrast(on_meta(5, 3, 4), on_meta(2, 3, 4), on_meta(7, 4), 0.2).shape == (2, 5)
    assert instance_cross_entropy(tokens, on_meta(4, 3, 8, 6), match_instances(on_meta(4, 3, 8, 6), tokens)).is_meta
    assert bag_log_probabilities(tokens, on_meta(2, 3, 5)).shape == (2, 3, 6)
    assert literal_inter_level(on_meta(2, 3, 6), tokens).is_meta
