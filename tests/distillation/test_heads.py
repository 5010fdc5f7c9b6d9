"""Heads beside loops, their parameters as the originals name them, and the weights of instances in a bag."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fewshot.distillation.heads import POOLINGS, ContrastHead, InstancePooling, PrototypeHead
from fewshot.distillation.instance_losses import bag_log_probabilities
from fewshot.distillation.teacher import copy_into
from tests.reference import distillation_loops as loops

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SEEDS = st.integers(0, 2**20)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def prototype_head(**settings):
    return PrototypeHead(5, 7, hidden=11, bottleneck=3, generator=generator(), **settings).double()


def contrast_head(predictor_hidden=None):
    head = ContrastHead(5, hidden=11, n_out=3, predictor_hidden=predictor_hidden, generator=generator())
    return head.double()


def randomized(module):
    """Give every parameter, biases too, numbers of order 1."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return module


def layers(sequential):
    linears = [layer for layer in sequential if isinstance(layer, nn.Linear)]
    return [(layer.weight.tolist(), None if layer.bias is None else layer.bias.tolist()) for layer in linears]


# Prototypes


def test_logits_are_those_of_the_loops():
    head, features = randomized(prototype_head(is_norm_frozen=False)), normal(2, 4, 5)
    found = head(features)
    lengths = head.last_layer.parametrizations.weight.original0.flatten().tolist()
    prototypes = head.last_layer.parametrizations.weight.original1.tolist()
    for b in range(2):
        for n in range(4):
            row = loops.unit(loops.mlp(features[b, n].tolist(), layers(head.projector)))
            wanted = [g * loops.dot(loops.unit(c), row) for g, c in zip(lengths, prototypes, strict=True)]
            torch.testing.assert_close(found[b, n], torch.tensor(wanted, dtype=torch.float64), **CLOSE)


def test_untouched_logits_are_cosines_with_prototypes_of_unit_length():
    head = prototype_head()
    torch.testing.assert_close(head.last_layer.weight.norm(dim=1), torch.ones(7, dtype=torch.float64), **CLOSE)
    found = head(1e3 * normal(50, 5))
    assert bool((found.abs() <= 1 + 1e-12).all())
    assert head.last_layer.bias is None


@given(SEEDS, st.floats(1e-3, 1e3))
def test_the_length_of_what_is_compared_is_irrelevant(seed, scale):
    head = prototype_head()
    head.projector = nn.Identity()
    rows = normal(4, 3, seed=seed)
    torch.testing.assert_close(head(scale * rows), head(rows), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("is_norm_frozen", [True, False])
def test_lengths_of_prototypes_learn_only_if_asked(is_norm_frozen):
    head = prototype_head(is_norm_frozen=is_norm_frozen)
    head(normal(4, 5)).square().sum().backward()
    norms = head.last_layer.parametrizations.weight.original0
    assert (norms.grad is None) == is_norm_frozen
    learning = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert all(bool(p.grad.isfinite().all() & p.grad.any()) for p in head.parameters() if p.grad is not None)


def test_prototype_parameters_have_these_names_and_the_old_ones_load():
    head = prototype_head()
    projector = {f"projector.{i}.{what}" for i in (0, 2, 4) for what in ("weight", "bias")}
    last = {f"last_layer.parametrizations.weight.original{i}" for i in (0, 1)}
    assert set(head.state_dict()) == projector | last
    given = {name: normal(*tensor.shape, seed=3) for name, tensor in head.state_dict().items() if name in projector}
    head.load_state_dict({**given, "last_layer.weight_g": normal(7, 1), "last_layer.weight_v": normal(7, 3)})
    wanted = normal(7, 1) * torch.nn.functional.normalize(normal(7, 3), dim=1)
    torch.testing.assert_close(head.last_layer.weight.detach(), wanted, **CLOSE)


def test_a_head_can_be_copied():
    head = prototype_head()
    other = copy.deepcopy(head)
    assert torch.equal(other(normal(4, 5)), head(normal(4, 5)))
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert not torch.equal(other(normal(4, 5)), head(normal(4, 5)))


def test_heads_have_the_published_sizes():
    def n_parameters(module):
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        assert round(n_parameters(ContrastHead(384, predictor_hidden=4096)) / 1e6, 2) == 7.60
        assert round(n_parameters(ContrastHead(384)) / 1e6, 2) == 5.51
        group = PrototypeHead(384, 65536)
    assert round(n_parameters(group) / 1e6, 2) == 22.35


# Contrast


@pytest.mark.parametrize("predictor_hidden", [None, 13])
def test_rows_are_those_of_the_loops(predictor_hidden):
    head, features = randomized(contrast_head(predictor_hidden)), normal(4, 5)
    found = head(features)
    for n in range(4):
        wanted = loops.unit(loops.mlp(features[n].tolist(), layers(head.projector)))
        if predictor_hidden:
            wanted = loops.unit(loops.mlp(wanted, layers(head.predictor)))
        torch.testing.assert_close(found[n], torch.tensor(wanted, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4, dtype=torch.float64), **CLOSE)


def test_a_teachers_contrast_head_is_a_students_without_the_predictor():
    student, teacher = contrast_head(13), contrast_head()
    names = {f"projector.{i}.weight" for i in (0, 2, 4)}
    assert set(teacher.state_dict()) == names
    assert set(student.state_dict()) == names | {"predictor.0.weight", "predictor.2.weight"}
    randomized(student)
    copy_into(teacher, student)
    student.predictor = None
    assert torch.equal(teacher(normal(4, 5)), student(normal(4, 5)))


# Beginnings


def test_weights_begin_as_the_originals():
    head = PrototypeHead(200, 300, hidden=400, bottleneck=256, generator=generator())
    for layer in (head.projector[0], head.projector[2], head.projector[4]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not layer.bias.any()
    contrast = ContrastHead(200, hidden=400, n_out=256, predictor_hidden=500, generator=generator())
    assert contrast.projector[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert contrast.predictor[0].weight.std().item() == pytest.approx(0.036, rel=0.02)  # measured on the released code
    assert contrast.predictor[0].weight.abs().max().item() == pytest.approx(1 / 16, rel=1e-3)  # uniform


def builders(draws):
    return (
        PrototypeHead(4, 6, hidden=5, bottleneck=3, generator=draws),
        ContrastHead(4, hidden=5, n_out=3, predictor_hidden=6, generator=draws),
        InstancePooling("attention", 4, 5, generator=draws),
    )


def test_a_generator_decides_the_weights_and_nothing_else_is_drawn():
    before = torch.get_rng_state()
    first, again, other = builders(generator(1)), builders(generator(1)), builders(generator(2))
    assert torch.equal(torch.get_rng_state(), before)
    for one, same, different in zip(first, again, other, strict=True):
        for name, weight in one.named_parameters():
            assert torch.equal(weight, same.get_parameter(name))
            is_random = weight.ndim > 1 and not name.endswith("original0")
            assert torch.equal(weight, different.get_parameter(name)) != is_random
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for one, same in zip(builders(None), first, strict=True):
            assert all(torch.equal(weight, same.get_parameter(name)) for name, weight in one.named_parameters())


# Precision


def test_the_comparison_with_prototypes_is_float32_where_autocast_is_on():
    head = PrototypeHead(5, 7, hidden=11, bottleneck=3, generator=generator())
    features = normal(4, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, projected = head(features), head.projector(features)
    assert (found.dtype, projected.dtype) == (torch.float32, torch.bfloat16)
    head.projector = nn.Identity()
    assert torch.equal(found, head(projected))


def test_contrast_rows_have_unit_length_where_autocast_is_on():
    for head in (contrast_head().float(), contrast_head(13).float()):
        with torch.autocast("cpu", torch.bfloat16):
            found = head(normal(4, 5, dtype=torch.float32))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(4), rtol=1e-6, atol=0)


def test_heads_of_half_precision_run():
    features = normal(4, 5, dtype=torch.bfloat16)
    assert contrast_head(13).bfloat16()(features).dtype == torch.float32
    assert InstancePooling("attention", 5, generator=generator()).bfloat16()(features).dtype == torch.float32
    assert InstancePooling("mean", 5)(features).dtype == torch.float32
    assert prototype_head()(normal(4, 5)).dtype == torch.float64


# Weights of instances


def pooled(kind, instances, logits, mask=None):
    pooling = InstancePooling(kind, instances.shape[-1], 6, generator=generator()).double()
    return randomized(pooling)(instances, logits, mask=mask)


def bag_input(*lead, n=5, seed=0):
    return normal(*lead, n, 4, seed=seed), normal(*lead, n, 3, seed=seed + 1)


@given(st.sampled_from(POOLINGS), st.integers(1, 6), SEEDS)
def test_weights_are_a_distribution_that_keeps_no_order(kind, n, seed):
    instances, logits = bag_input(2, 3, n=n, seed=seed)
    found = pooled(kind, instances, logits)
    assert found.shape == (2, 3, n)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64), **CLOSE)
    order = torch.randperm(n, generator=generator(seed))
    permuted = pooled(kind, instances[:, :, order], logits[:, :, order])
    torch.testing.assert_close(permuted, found[:, :, order], **CLOSE)


@pytest.mark.parametrize("kind", POOLINGS)
def test_every_instance_twice_leaves_the_bag_as_it_is(kind):
    instances, logits = bag_input()
    log_probs = logits.log_softmax(-1)
    wanted = bag_log_probabilities(log_probs, pooled(kind, instances, logits))
    weights = pooled(kind, instances.repeat(2, 1), logits.repeat(2, 1))
    torch.testing.assert_close(bag_log_probabilities(log_probs.repeat(2, 1), weights), wanted, **CLOSE)


@pytest.mark.parametrize("kind", POOLINGS)
def test_padding_weighs_nothing(kind):
    instances, logits = bag_input(2)
    padding = normal(2, 3, 4, seed=8), 1e3 * normal(2, 3, 3, seed=9).abs()
    mask = torch.tensor([True] * 5 + [False] * 3)
    found = pooled(kind, torch.cat([instances, padding[0]], 1), torch.cat([logits, padding[1]], 1), mask)
    torch.testing.assert_close(found[:, :5], pooled(kind, instances, logits), **CLOSE)
    assert torch.equal(found[:, 5:].exp(), torch.zeros(2, 3, dtype=torch.float64))


def test_the_mean_weighs_all_alike_and_has_nothing_to_learn():
    instances, _ = bag_input()
    found = InstancePooling("mean", 4)(instances)
    torch.testing.assert_close(found.exp(), torch.full((5,), 0.2, dtype=torch.float64), **CLOSE)
    assert not list(InstancePooling("mean", 4).parameters()) + list(InstancePooling("max", 4).parameters())


def test_attention_is_that_of_the_loops_and_learns():
    instances, _ = bag_input()
    pooling = randomized(InstancePooling("attention", 4, 6).double())
    wanted = loops.gated_attention(
        instances.tolist(),
        pooling.content.weight.tolist(),
        pooling.gate.weight.tolist(),
        pooling.score.weight[0].tolist(),
    )
    torch.testing.assert_close(pooling(instances).exp(), torch.tensor(wanted, dtype=torch.float64), **CLOSE)
    pooling(instances)[0].backward()
    assert all(bool(parameter.grad.any()) for parameter in pooling.parameters())


def test_max_takes_the_instance_with_the_largest_logit_without_a_gradient():
    instances, logits = bag_input(2)
    logits[0, 3, 1], logits[1, 0, 2] = 9.0, 9.0
    found = InstancePooling("max", 4)(instances, logits.requires_grad_())
    assert found.exp().tolist() == [[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]
    assert not found.requires_grad
    with torch.no_grad():
        logits[0, 1, 0] = 9.0
    assert InstancePooling("max", 4)(instances, logits)[0].exp().tolist() == pytest.approx([0, 0.5, 0, 0.5, 0])


def test_wrong_poolings_are_errors():
    message = "pooling 'max' picks an instance by its logits, got logits=None: pass them"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        InstancePooling("max", 4)(normal(5, 4))
    with pytest.raises(ValueError, match=r"^unknown pooling 'men': did you mean 'mean'\? Known: attention, max, mean$"):
        InstancePooling("men", 4)
