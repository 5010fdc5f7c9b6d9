"""Mugs and CMD: their losses against loops, their wiring, and what reaches which network."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from fewshot.distillation.backbone import TokenBackbone
from fewshot.distillation.cmd import CMD, CMDOutputs, CMDSettings, InstanceGroup
from fewshot.distillation.distiller import seeded_draws
from fewshot.distillation.mugs import Mugs, MugsOutputs, MugsSettings
from fewshot.distillation.relation import RelationBlock
from fewshot.distillation.stream import ViewBatch
from fewshot.features.backbones.torchvision_gate import require_torchvision
from tests.kits.token_bags import WIDTH, BagStream, TokenBags, bag_backbone
from tests.reference.mugs_cmd_loops import cmd_losses, mugs_losses

MUGS = MugsSettings(n_prototypes=13, capacity=16, n_neighbours=3, hidden=24, n_out=9, predictor_hidden=20)
CMD_ = CMDSettings(n_prototypes=13, hidden=24, bottleneck=9)
N_IMAGES, N_GLOBAL, N_LOCAL = 5, 2, 3


def draw(*shape, seed=0, unit=False):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(rows, dim=-1) if unit else rows


def make_batch(method_name, seed=0, batch_size=8, n_local=0):
    bags = TokenBags.make(200)
    batch = BagStream(bags, n_train=200, batch_size=batch_size, seed=seed, is_shared=method_name == "cmd").batch(0)
    if n_local:
        generator = torch.Generator().manual_seed(seed)
        local = torch.stack([bags.view(torch.arange(batch_size), generator)[:, :7] for _ in range(n_local)])
        batch = batch._replace(local=local)
    return batch


def make_method(name, **changes):
    if name == "mugs":
        return Mugs(bag_backbone(), replace(MUGS, **changes))
    return CMD(bag_backbone(), replace(CMD_, **changes))


def run_step(method, batch, teacher_temperature=0.04):
    outputs = method.embed(batch, method.student)
    return outputs, method.compare(outputs, teacher_temperature)


# Losses against loops


def mugs_outputs(n_views, seed):
    return MugsOutputs(
        instance=draw(n_views, N_IMAGES, 9, seed=seed, unit=True).float(),
        local_group=draw(n_views, N_IMAGES, 9, seed=seed + 1, unit=True).float(),
        group=draw(n_views, N_IMAGES, 13, seed=seed + 2).tanh().float(),
        image=draw(n_views, N_IMAGES, WIDTH, seed=seed + 3).float(),
        patch_means=draw(n_views, N_IMAGES, WIDTH, seed=seed + 4).float(),
    )


def arrays(outputs):
    return {name: getattr(outputs, name).numpy() for name in ("instance", "local_group", "group")}


@pytest.mark.parametrize("n_local", [0, N_LOCAL])
def test_mugs_losses_are_those_of_the_loops(n_local):
    method = make_method("mugs", loss_weights=(1.0, 0.5, 0.25))
    teacher, student = mugs_outputs(2, seed=10), mugs_outputs(N_GLOBAL + n_local, seed=20)
    queues = {"instance": draw(11, 9, seed=30, unit=True), "local_group": draw(12, 9, seed=31, unit=True)}
    method.instance_queue.push(queues["instance"].float())
    method.local_group_queue.push(queues["local_group"].float())
    center = draw(13, seed=32) / 10
    method.center.center.copy_(center)
    outputs = method.embed(make_batch("mugs"), method.student)
    outputs = outputs._replace(teacher=teacher, student=student, n_global=N_GLOBAL)
    found = method.compare(outputs, 0.05)
    expected = mugs_losses(
        arrays(teacher),
        arrays(student),
        {name: rows.numpy() for name, rows in queues.items()},
        center.numpy(),
        N_GLOBAL,
        temperature=0.2,
        student_temperature=0.1,
        teacher_temperature=0.05,
    )
    for name, value in expected.items():
        assert found.parts[name].item() == pytest.approx(value, rel=1e-5)
    weighed = expected["instance"] + 0.5 * expected["local_group"] + 0.25 * expected["group"]
    assert found.total.item() == pytest.approx(weighed / 1.75, rel=1e-5)


def cmd_outputs(sizes, seed):
    """Outputs of groups of views, (views, instances) each, and the same as the loops take them."""
    groups = []
    for i, (n_views, n) in enumerate(sizes):
        weights = draw(n_views, N_IMAGES, n, seed=seed + 10 * i).log_softmax(-1)
        tokens = draw(n_views, N_IMAGES, n, WIDTH, seed=seed + 10 * i + 1)
        logits = draw(n_views, N_IMAGES, n, 13, seed=seed + 10 * i + 2).tanh()
        groups.append(InstanceGroup(tokens, logits, weights))
    n_all = sum(n_views for n_views, _ in sizes)
    outputs = CMDOutputs(
        draw(n_all, N_IMAGES, WIDTH, seed=seed + 3), draw(n_all, N_IMAGES, 13, seed=seed + 4).tanh(), tuple(groups)
    )
    views = [(group, i) for group in groups for i in range(len(group.tokens))]
    as_arrays = [
        {
            "logits": outputs.logits[v].numpy(),
            "regions": group.logits[i].numpy(),
            "tokens": group.tokens[i].numpy(),
            "weights": group.log_weights[i].exp().numpy(),
        }
        for v, (group, i) in enumerate(views)
    ]
    return outputs, as_arrays


@pytest.mark.parametrize("sizes", [((2, 7),), ((2, 7), (3, 4))], ids=["global", "global and local"])
def test_cmd_losses_are_those_of_the_loops(sizes):
    method = make_method("cmd", inter_weight=0.3)
    teacher, taught = cmd_outputs(((2, 7),), seed=100)
    student, seen = cmd_outputs(sizes, seed=200)
    centers = draw(13, seed=32) / 10, draw(13, seed=33) / 10
    method.center.center.copy_(centers[0])
    method.instance_center.center.copy_(centers[1])
    outputs = method.embed(make_batch("cmd"), method.student)
    found = method.compare(outputs._replace(teacher=teacher, student=student), 0.05)
    expected = cmd_losses(taught, seen, [c.numpy() for c in centers], student_temperature=0.1, teacher_temperature=0.05)
    for name, value in expected.items():
        assert found.parts[name].item() == pytest.approx(value, rel=1e-5)
    inter = expected["teacher_bag"] + expected["student_bag"]
    assert found.total.item() == pytest.approx((expected["image"] + expected["region"]) / 2 + 0.3 * inter, rel=1e-5)


def test_cmd_options_change_what_is_minimised_and_not_what_is_told():
    teacher, _ = cmd_outputs(((2, 7),), seed=100)
    student, _ = cmd_outputs(((2, 7), (3, 4)), seed=200)
    found = {}
    for name, changes in {
        "default": {},
        "off": {"teacher_bag": "off"},
        "both": {"student_direction": "both"},
    }.items():
        method = make_method("cmd", **changes)
        outputs = method.embed(make_batch("cmd"), method.student)
        found[name] = method.compare(outputs._replace(teacher=teacher, student=student), 0.05)
    default, off, both = found.values()
    assert off.parts["teacher_bag"] == default.parts["teacher_bag"]
    assert (default.total - off.total).item() == pytest.approx(0.1 * default.parts["teacher_bag"].item(), rel=1e-5)
    assert both.parts["student_bag"] > default.parts["student_bag"]


# Wiring


@pytest.mark.parametrize("name", ["mugs", "cmd"])
def test_every_student_weight_that_trains_gets_a_gradient_and_no_teacher_weight_does(name):
    method = make_method(name, **({"pool": "attention"} if name == "cmd" else {})).train()
    fill_memories(method)
    _, comparison = run_step(method, make_batch(name, n_local=2))
    comparison.total.backward()
    for parameter_name, parameter in method.student.named_parameters():
        if not parameter.requires_grad:
            assert "last_layer" in parameter_name
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.teacher.parameters())


def fill_memories(method):
    if isinstance(method, Mugs):
        for i, memory in enumerate((method.student_memory, method.teacher_memory)):
            memory.push(draw(16, WIDTH, seed=i).float())
        for i, queue in enumerate((method.instance_queue, method.local_group_queue)):
            queue.push(draw(16, 9, seed=2 + i, unit=True).float())


@pytest.mark.parametrize("name", ["mugs", "cmd"])
def test_the_teacher_is_a_copy_that_stays_in_evaluation_mode(name):
    method = make_method(name).train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())
    own = {parameter.data_ptr() for parameter in method.student.parameters()}
    student = dict(method.student.named_parameters())
    for parameter_name, parameter in method.teacher.named_parameters():
        assert torch.equal(parameter, student[parameter_name])
        assert parameter.data_ptr() not in own


@pytest.mark.parametrize("name", ["mugs", "cmd"])
def test_making_a_method_draws_nothing_from_the_global_generator(name):
    backbone = bag_backbone()
    before = torch.get_rng_state()
    methods = [Mugs(backbone, MUGS, seed=s) if name == "mugs" else CMD(backbone, CMD_, seed=s) for s in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    first, second, third = (method.student.state_dict() for method in methods)
    assert all(torch.equal(first[key], second[key]) for key in first if "extra" not in key)
    assert any(not torch.equal(first[key], third[key]) for key in first if "extra" not in key)


@pytest.mark.parametrize("name", ["mugs", "cmd"])
def test_permuted_images_and_swapped_global_views_change_no_loss(name):
    method = make_method(name).eval()
    fill_memories(method)
    batch = make_batch(name, n_local=2)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    permuted = ViewBatch(*(views[:, order] for views in batch[:3]), batch.is_weak[order])
    swapped = ViewBatch(batch.teacher.flip(0), batch.student.flip(0), batch.local.flip(0), batch.is_weak)
    expected = run_step(method, batch)[1]
    for other in (permuted, swapped):
        found = run_step(method, other)[1]
        for part, value in expected.parts.items():
            assert found.parts[part].item() == pytest.approx(value.item(), rel=1e-5)


def test_mugs_begins_with_local_groups_when_both_memories_are_full():
    method, batch = make_method("mugs"), make_batch("mugs")
    n_weak = int(batch.is_weak.sum())
    assert 0 < n_weak < 8
    for n_seen in range(1, 40):
        outputs, comparison = run_step(method, batch)
        were_full = (n_seen - 1) * n_weak >= 16 and (n_seen - 1) * 8 >= 16
        assert ("local_group" in comparison.parts) == were_full
        assert (outputs.student.local_group is not None) == were_full
        method.remember(outputs)
        if were_full:
            return
    raise AssertionError("the memories never filled")


def test_mugs_remembers_targets_weak_images_and_means_of_patches():
    method, batch = make_method("mugs"), make_batch("mugs", n_local=2)
    outputs, comparison = run_step(method, batch)
    comparison.total.backward()
    method.remember(outputs)
    assert torch.equal(method.instance_queue.entries(), outputs.teacher.instance.flatten(0, 1))
    assert torch.equal(method.teacher_memory.entries(), outputs.teacher.patch_means[0])
    assert torch.equal(method.student_memory.entries(), outputs.student.patch_means[0][batch.is_weak].detach())
    tokens = method.teacher.backbone(batch.teacher[0])
    torch.testing.assert_close(outputs.teacher.patch_means[0], tokens.instances.mean(1))
    torch.testing.assert_close(method.center.center, 0.1 * outputs.teacher.group.mean((0, 1)))


def test_a_batch_is_neither_its_own_negative_nor_its_own_neighbour():
    method, batch = make_method("mugs"), make_batch("mugs")
    method.student_memory.push(draw(16, WIDTH, seed=1).float())
    method.teacher_memory.push(draw(16, WIDTH, seed=2).float())
    before = {name: value.clone() for name, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
    run_step(method, batch)
    after = method.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_student_and_teacher_ask_a_memory_of_their_own():
    method, batch = make_method("mugs"), make_batch("mugs")
    fill_memories(method)
    first = run_step(method, batch)[0]
    method.student_memory.push(draw(16, WIDTH, seed=8).float())
    second = run_step(method, batch)[0]
    assert torch.equal(first.teacher.local_group, second.teacher.local_group)
    assert not torch.equal(first.student.local_group, second.student.local_group)
    method.teacher_memory.push(draw(16, WIDTH, seed=9).float())
    third = run_step(method, batch)[0]
    assert not torch.equal(second.teacher.local_group, third.teacher.local_group)
    assert torch.equal(second.student.local_group, third.student.local_group)


@pytest.mark.parametrize("local_query", ["tokens", "patches"])
def test_mugs_looks_for_neighbours_with_the_mean_it_was_told(local_query):
    method = make_method("mugs", local_query=local_query).eval()
    memory = method.teacher_memory
    memory.push(draw(16, WIDTH, seed=1).float())
    views = make_batch("mugs").teacher
    asked = []
    method.teacher.backbone.eval()

    class Spy:
        def nearest(self, queries, n_neighbours):
            asked.append(queries)
            return memory.nearest(queries, n_neighbours)

    with torch.no_grad():
        method.teacher([views], Spy())
        tokens = method.teacher.backbone(views.flatten(0, 1))
    mean = tokens.raw.mean(1) if local_query == "tokens" else tokens.instances.mean(1)
    torch.testing.assert_close(asked[0], mean.unflatten(0, views.shape[:2]))


def test_the_order_of_neighbours_does_not_matter():
    network = make_method("mugs").student.eval()
    queries, neighbours = draw(2, 4, WIDTH).float(), draw(2, 4, 3, WIDTH, seed=1).float()

    class Given:
        def __init__(self, rows):
            self.rows = rows

        def nearest(self, queries, n_neighbours):
            return self.rows

    first, second = (network._relate(queries, Given(rows)) for rows in (neighbours, neighbours[:, :, [2, 0, 1]]))
    torch.testing.assert_close(first, second)
    alone = network._relate(queries, Given(neighbours[:, :, :0]))
    block = network.backbone.norm(network.relation(queries.flatten(0, 1)[:, None])[:, 0])
    torch.testing.assert_close(alone.flatten(0, 1), block)


def test_only_a_mugs_student_predicts():
    method = make_method("mugs")
    for head in ("instance_head", "local_group_head"):
        student, teacher = (getattr(network, head) for network in (method.student, method.teacher))
        assert student.predictor[0].out_features == MUGS.predictor_hidden
        assert teacher.predictor is None


def test_cmd_moves_each_center_towards_its_own_logits():
    method = make_method("cmd")
    outputs, _ = run_step(method, make_batch("cmd"))
    method.remember(outputs)
    torch.testing.assert_close(method.center.center, 0.1 * outputs.teacher.logits.mean((0, 1)))
    torch.testing.assert_close(method.instance_center.center, 0.1 * outputs.teacher.groups[0].logits.mean((0, 1, 2)))


def test_a_shared_head_is_one_head():
    method = make_method("cmd", is_head_shared=True)
    assert method.student.instance_head is method.student.image_head
    assert method.teacher.instance_head is method.teacher.image_head
    assert method.teacher.image_head is not method.student.image_head


def test_memory_is_what_the_reference_computes():
    method = Mugs(bag_backbone(), MUGS)
    assert method.memory_bytes() == 2 * 16 * 9 * 4 + 2 * 16 * WIDTH * 4
    assert CMD(bag_backbone(), CMD_).memory_bytes() == 0


def test_the_relation_block_is_a_vits_block():
    pytest.importorskip("PIL", reason="timm is not installed")
    require_torchvision("timm")
    from timm.models.vision_transformer import Block

    with seeded_draws(0):
        theirs = Block(24, 3, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)).eval()
    ours = RelationBlock(24, 3)
    ours.load_state_dict(theirs.state_dict())
    tokens = draw(4, 7, 24).float()
    torch.testing.assert_close(ours(tokens), theirs(tokens))


def test_backbones_embed_images_by_the_class_token_or_the_mean():
    bags = TokenBags.make(20).view(torch.arange(6), torch.Generator().manual_seed(0))
    by_token, by_mean = bag_backbone()(bags), bag_backbone(image="mean")(bags)
    assert torch.equal(by_token.raw, by_mean.raw)
    normed = bag_backbone().norm(by_token.raw)
    torch.testing.assert_close(by_token.image, normed[:, 0])
    torch.testing.assert_close(by_mean.image, normed[:, 1:].mean(1))
    assert by_token.instances.shape == (6, 12, WIDTH)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_prototypes": 0}, "n_prototypes must be positive, got 0"),
        ({"n_neighbours": 17}, "n_neighbours must be at most the memory's capacity, got 17 for 16"),
        (
            {"loss_weights": (0.0, 0.0, 0.0)},
            "loss_weights must be three numbers from 0 (instance, local group, group), not all 0, got (0.0, 0.0, 0.0)",
        ),
        ({"loss_weights": (1.0, float("nan"), 1.0)}, "loss_weights must be three numbers from 0"),
        ({"local_query": "token"}, "unknown query of the memory 'token': did you mean 'tokens'?"),
    ],
)
def test_mugs_refuses_bad_settings(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(MUGS, **changes)


@pytest.mark.parametrize("changes", [{"pool": "sum"}, {"student_direction": "sym"}, {"teacher_bag": "on"}])
def test_cmd_refuses_unknown_words(changes):
    with pytest.raises(ValueError, match=f"unknown .* '{next(iter(changes.values()))}'"):
        replace(CMD_, **changes)


def test_a_backbone_without_class_token_refuses_to_read_it():
    with pytest.raises(ValueError, match="image='token' needs a class token, and this backbone has none: use"):
        TokenBackbone(nn.Identity(), nn.Identity(), width=8, n_prefix=0)


def test_the_loops_know_closed_forms():
    flat = np.zeros((2, 3, 8))
    row = np.eye(4)[0][None, None].repeat(2, 0).repeat(3, 1)
    outputs = {"instance": row, "local_group": row, "group": flat}
    found = mugs_losses(
        outputs,
        outputs,
        {"instance": np.eye(4)[:1].repeat(5, 0), "local_group": np.eye(4)[1:2].repeat(5, 0)},
        np.zeros(8),
        2,
        temperature=0.2,
        student_temperature=0.1,
        teacher_temperature=0.04,
    )
    assert found["instance"] == pytest.approx(np.log(6))
    assert found["local_group"] == pytest.approx(np.log(1 + 5 * np.exp(-5)))
    assert found["group"] == pytest.approx(np.log(8))
