"""The teacher, its center, schedules and the optimiser's parts: closed forms, and what must not move by a bit."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fewshot.distillation.teacher import Center, copy_into, update_teacher
from fewshot.distillation.training.optimiser import clip_each, parameter_groups
from fewshot.distillation.training.schedules import cosine, linear, warmup_cosine
from tests.reference import distillation_loops as loops

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SEEDS = st.integers(0, 2**20)
MOMENTA = st.floats(0, 1)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Network(nn.Module):
    """A linear layer, a buffer, and for a student a part that its teacher has not, first in order."""

    def __init__(self, seed, *, is_student=False, n_out=3):
        super().__init__()
        if is_student:
            self.predictor = nn.Linear(2, 5, bias=False).double()
        self.first, self.second = nn.Linear(2, n_out).double(), nn.Linear(2, n_out, bias=False).double()
        self.register_buffer("statistics", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("table", torch.zeros(2, dtype=torch.int64), persistent=False)
        self.fill(seed)

    def fill(self, seed):
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=97 * seed + i))
            self.statistics.copy_(normal(4, seed=97 * seed + 50))
            self.table.fill_(seed)


def values(module):
    return {name: tensor.detach().clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


# Copies


def test_a_copy_has_all_by_name_and_is_the_teachers_own():
    teacher, student = Network(1), Network(2, is_student=True)
    wanted = values(student)
    copy_into(teacher, student)
    student.fill(3)
    found = values(teacher)
    assert set(found) == {"first.weight", "first.bias", "second.weight", "statistics", "table"}
    assert all(torch.equal(found[name], wanted[name]) for name in found)


@pytest.mark.parametrize("step", [copy_into, lambda teacher, student: update_teacher(teacher, student, 0.5)])
def test_teachers_unlike_their_student_are_errors(step):
    message = "the student must have all that the teacher has, got no 'predictor.weight': build both alike"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        step(Network(1, is_student=True), Network(2))
    message = "'first.weight' must have the teacher's shape (1, 2), got (3, 2) from the student: build both alike"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        step(Network(1, n_out=1), Network(2))
    student = Network(2)
    shared = Network(1)
    shared.second.weight = student.second.weight
    message = "teacher and student must not share tensors, got one 'second.weight' for both: copy the module"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        step(shared, student)
    with pytest.raises(ValueError, match=r"got one 'first.weight' for both"):
        step(student, student)


# The running average


@given(st.integers(1, 6), MOMENTA, SEEDS)
def test_the_teacher_is_the_average_in_closed_form(n_steps, momentum, seed):
    teacher, student = Network(seed), Network(seed + 1, is_student=True)
    start, history = values(teacher), []
    for step in range(n_steps):
        student.fill(seed + 2 + step)
        history.append(values(student))
        update_teacher(teacher, student, momentum)
    found = values(teacher)
    for name in ("first.weight", "first.bias", "second.weight"):
        past = [given[name].flatten().tolist() for given in history]
        wanted = [
            loops.averaged(own, [row[i] for row in past], momentum)
            for i, own in enumerate(start[name].flatten().tolist())
        ]
        torch.testing.assert_close(found[name].flatten(), torch.tensor(wanted, dtype=torch.float64), **CLOSE)
        every = torch.stack([start[name], *(given[name] for given in history)])
        assert bool(((found[name] >= every.amin(0) - 1e-12) & (found[name] <= every.amax(0) + 1e-12)).all())
    assert all(torch.equal(found[name], history[-1][name]) for name in ("statistics", "table"))  # copied
    assert all(torch.equal(tensor, history[-1][name]) for name, tensor in values(student).items())


def test_at_momentum_1_nothing_moves_and_at_0_the_teacher_is_the_student():
    for dtype in (torch.float32, torch.float64):
        teacher, student = Network(1).to(dtype), Network(2, is_student=True).to(dtype)
        before = values(teacher)
        update_teacher(teacher, student, 1.0)
        assert all(torch.equal(parameter, before[name]) for name, parameter in teacher.named_parameters())
        update_teacher(teacher, student, 0.0)
        assert all(
            torch.equal(parameter, student.get_parameter(name)) for name, parameter in teacher.named_parameters()
        )


def test_equal_steps_compose():
    student, once, often = Network(1), Network(2), Network(2)
    update_teacher(once, student, 0.9**5)
    for _ in range(5):
        update_teacher(often, student, 0.9)
    for name, parameter in once.named_parameters():
        torch.testing.assert_close(often.get_parameter(name), parameter, **CLOSE)


def test_a_small_step_is_not_lost_to_rounding():
    teacher, student = (nn.Linear(1, 1, bias=False) for _ in range(2))
    with torch.no_grad():
        teacher.weight.fill_(1.0)
        student.weight.fill_(1.5)
        wanted = 1 + 0.5 * (1 - 0.999**1000)
    for _ in range(1000):
        update_teacher(teacher, student, 0.999)
    assert teacher.weight.item() == pytest.approx(wanted, rel=1e-5)


def test_updates_leave_no_trace_for_gradients():
    teacher, student = Network(1), Network(2)
    update_teacher(teacher, student, 0.5)
    assert all(parameter.is_leaf and parameter.grad_fn is None for parameter in teacher.parameters())
    update_teacher(nn.Identity(), nn.Identity(), 0.5)


def test_momentum_out_of_range_is_an_error():
    with pytest.raises(ValueError, match=re.escape("momentum must lie in [0, 1], got 1.5")):
        update_teacher(Network(1), Network(2), 1.5)


# The center


@given(st.integers(1, 6), MOMENTA, SEEDS)
def test_the_center_is_the_average_of_batch_means(n_steps, momentum, seed):
    center = Center(3, momentum).double()
    means = []
    for step in range(n_steps):
        logits = normal(2, 4, 5, 3, seed=seed + step)
        means.append(logits.mean((0, 1, 2)))
        center.update(logits)
    wanted = [loops.averaged(0.0, [mean[k].item() for mean in means], momentum) for k in range(3)]
    torch.testing.assert_close(center.center, torch.tensor(wanted, dtype=torch.float64), **CLOSE)
    every = torch.stack([torch.zeros(3, dtype=torch.float64), *means])
    assert bool(((center.center >= every.amin(0) - 1e-12) & (center.center <= every.amax(0) + 1e-12)).all())


def test_the_center_is_float32_saved_and_out_of_the_gradients_reach():
    center = Center(3)
    center.update(torch.full((4000, 3), 30.0, dtype=torch.float16, requires_grad=True))
    torch.testing.assert_close(center.center, torch.full((3,), 3.0))  # the sum is out of half precision's range
    assert center.center.dtype == torch.float32
    assert not center.center.requires_grad
    other = Center(3)
    other.load_state_dict(center.state_dict())
    assert torch.equal(other.center, center.center)


# Schedules


def originals(base, final, n_warmup, n_steps):
    """DINO's cosine scheduler, as an array."""
    steps = np.arange(n_steps - n_warmup)
    cosines = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))
    return np.concatenate([np.linspace(0, base, n_warmup), cosines])


@given(st.integers(1, 40), st.integers(0, 39), st.floats(0, 2), st.floats(0, 2))
def test_schedules_are_the_originals(n_steps, n_warmup, start, end):
    n_warmup = min(n_warmup, n_steps - 1)
    found = [warmup_cosine(step, n_steps, n_warmup, start, end) for step in range(n_steps)]
    np.testing.assert_allclose(found, originals(start, end, n_warmup, n_steps), rtol=1e-12, atol=1e-12)
    found = [cosine(step, n_steps, start, end) for step in range(n_steps)]
    np.testing.assert_allclose(found, originals(start, end, 0, n_steps), rtol=1e-12, atol=1e-12)
    found = [linear(step, n_warmup, start, end) for step in range(n_steps)]
    wanted = np.concatenate([np.linspace(start, end, n_warmup), np.full(n_steps - n_warmup, end)])
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_momentum_rises_from_0996_over_0998_to_almost_1():
    momenta = [cosine(step, 1000, 0.996, 1.0) for step in range(1000)]
    assert momenta[0] == 0.996
    assert momenta[500] == pytest.approx(0.998, abs=1e-15)
    assert 1 - momenta[-1] == pytest.approx(1e-8, rel=0.02)  # never quite 1
    assert momenta == sorted(momenta)
    assert cosine(1000, 1000, 0.996, 1.0) == cosine(2000, 1000, 0.996, 1.0) == 1.0


def test_the_warm_up_starts_at_0_and_meets_its_peak_twice():
    rates = [warmup_cosine(step, 100, 10, 3.0, 0.5) for step in range(101)]
    assert (rates[0], rates[9], rates[10], rates[100]) == (0.0, 3.0, 3.0, 0.5)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert warmup_cosine(0, 100, 1, 3.0, 0.5) == 0.0
    assert warmup_cosine(5, 5, 5, 3.0, 0.5) == 0.5  # nothing but warm-up


def test_the_teachers_temperature_ends_where_it_should():
    assert [linear(epoch, 30, 0.04, 0.07) for epoch in (0, 29, 30, 299)] == pytest.approx([0.04, 0.07, 0.07, 0.07])
    assert linear(0, 0, 0.04, 0.07) == 0.07
    assert linear(0, 1, 0.04, 0.07) == 0.04


# The optimiser's parts


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.norm = nn.LayerNorm(4)
        self.table = nn.ParameterDict({"bias": torch.zeros(2, 2), "weight": torch.zeros(2, 2)})
        self.fixed = nn.Parameter(torch.zeros(3, 3), requires_grad=False)


def test_parameters_are_sorted_by_decay_and_rate():
    module = Backbone()
    groups = parameter_groups(module, patch_scale=0.2)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {
        (group["is_decayed"], group["lr_scale"]): [names[id(parameter)] for parameter in group["params"]]
        for group in groups
    }
    assert found == {
        (True, 1.0): ["cls_token", "table.weight"],
        (True, 0.2): ["patch_embed.weight"],
        (False, 1.0): ["norm.weight", "norm.bias", "table.bias"],
        (False, 0.2): ["patch_embed.bias"],
    }
    assert [group.get("weight_decay") for group in groups] == [None, None, 0.0, 0.0]
    assert [len(group["params"]) for group in parameter_groups(module)] == [3, 4]


def test_an_optimiser_keeps_the_groups_keys():
    optimizer = torch.optim.AdamW(parameter_groups(Backbone(), patch_scale=0.2), lr=1.0, weight_decay=0.4)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.4, 0.4, 0.0, 0.0]
    assert [group["lr_scale"] for group in optimizer.param_groups] == [1.0, 0.2, 1.0, 0.2]


def with_gradients(*gradients):
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0.1, 5), SEEDS)
def test_each_gradient_is_clipped_on_its_own(widths, max_norm, seed):
    gradients = [normal(width, 2, seed=seed + i) for i, width in enumerate(widths)]
    parameters = with_gradients(*gradients)
    norms = clip_each(parameters, max_norm)
    for parameter, gradient, norm in zip(parameters, gradients, norms, strict=True):
        assert norm.item() == pytest.approx(math.sqrt(loops.dot(*[gradient.flatten().tolist()] * 2)), rel=1e-12)
        if norm + 1e-6 < max_norm:
            assert torch.equal(parameter.grad, gradient)
        else:  # as torch clips this parameter alone
            alone = with_gradients(gradient)
            nn.utils.clip_grad_norm_(alone, max_norm)
            torch.testing.assert_close(parameter.grad, alone[0].grad, **CLOSE)
            assert parameter.grad.norm() <= max_norm


def test_parameters_without_a_gradient_are_left_out():
    parameters = [nn.Parameter(torch.zeros(2)), *with_gradients(torch.tensor([3.0, 4.0])), nn.Parameter(torch.zeros(1))]
    assert clip_each(parameters, 1.0).tolist() == [5.0]
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.6, 0.8]))
    assert parameters[0].grad is None
    assert clip_each([nn.Parameter(torch.zeros(2))], 1.0).shape == (0,)
    assert clip_each(iter([]), 1.0).shape == (0,)


def test_clipping_does_not_wait_for_the_device():
    parameters = with_gradients(torch.zeros(3, device="meta"), torch.zeros(2, 2, device="meta"))
    assert clip_each(parameters, 3.0).shape == (2,)


def test_a_norm_that_is_not_positive_is_an_error():
    with pytest.raises(ValueError, match="max_norm must be positive, got 0"):
        clip_each([], 0)
