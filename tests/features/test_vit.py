"""Published ViT checkpoints: every layout loads whole and gives a plain ViT's numbers; every other file is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.backbones.vit import build_dino, build_ibot, build_mugs
from fewshot.features.frozen import Extractor
from fewshot.features.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from tests.kits.vit import LAYOUTS, PATCH, SIDE, SIZE, WIDTH, backbone_state, dino_training, own_state
from tests.reference.vit_loop import normed_tokens_of_blocks

ensure_torchvision()
pytest.importorskip("timm", reason="the networks are timm's")
BUILD = {"mugs": build_mugs, "dino": build_dino, "ibot": build_ibot}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def image(seed=0, size=SIZE):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def features(built, images):
    with torch.inference_mode():
        return built.network.eval()(images).numpy()


def saved(folder, checkpoint, name="weights.pth"):
    path = folder / name
    torch.save(checkpoint, path)
    return path


# What loads


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_loads_and_gives_the_plain_loops_class_token(kind, tmp_path):
    family, make, key, layout = LAYOUTS[kind]
    checkpoint = make()
    built = BUILD[family](None, saved(tmp_path, checkpoint), size=SIZE, checkpoint_key=key)
    expected = normed_tokens_of_blocks(own_state(checkpoint, key), image()[0])[-1][:1]
    np.testing.assert_allclose(features(built, image()), expected, **TOLERANCE)
    assert built.about["layout"] == layout


def test_recipes_are_class_token_last_four_class_tokens_and_class_token_with_mean_patch(tmp_path):
    state = backbone_state(depth=5)
    path = saved(tmp_path, state)
    blocks = normed_tokens_of_blocks(state, image()[0])
    expected = {
        "cls": blocks[-1][0],
        "last4-cls": np.concatenate([tokens[0] for tokens in blocks[1:]]),
        "cls+mean_patch": np.concatenate([blocks[-1][0], blocks[-1][1:].mean(0)]),
    }
    for recipe, vector in expected.items():
        built = build_dino(None, path, size=SIZE, recipe=recipe)
        np.testing.assert_allclose(features(built, image())[0], vector, **TOLERANCE)
        assert built.spec == {"family": "dino", "name": f"dino:vit_width{WIDTH}_depth5_patch8", "recipe": recipe}


def test_a_head_has_64_channels_whatever_the_width(tmp_path):
    state = backbone_state(width=128)
    built = build_dino(None, saved(tmp_path, state), size=SIZE)
    np.testing.assert_allclose(
        features(built, image())[0], normed_tokens_of_blocks(state, image()[0])[-1][0], **TOLERANCE
    )


@pytest.mark.parametrize("position", ["dino", "timm"])
def test_at_another_size_the_position_embedding_follows_the_rule_asked_for(position, tmp_path):
    state, size = backbone_state(), PATCH * 5 + 3
    built = build_dino(None, saved(tmp_path, state), size=size, position=position)
    patches = state["pos_embed"][:, 1:].reshape(1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
    if position == "timm":
        patches = interpolate(patches, size=(5, 5), mode="bicubic", antialias=True)
    else:
        patches = interpolate(patches, scale_factor=(5.1 / SIDE, 5.1 / SIDE), mode="bicubic")
    resized = torch.cat([state["pos_embed"][:, :1], patches.permute(0, 2, 3, 1).reshape(1, 25, WIDTH)], 1)
    expected = normed_tokens_of_blocks({**state, "pos_embed": resized}, image(size=size)[0])[-1][0]
    np.testing.assert_allclose(features(built, image(size=size))[0], expected, **TOLERANCE)


def test_teacher_is_the_default_and_student_has_weights_of_its_own(tmp_path):
    path = saved(tmp_path, dino_training())
    default, teacher, student = (
        features(build_dino(None, path, size=SIZE, **options), image())
        for options in ({}, {"checkpoint_key": "teacher"}, {"checkpoint_key": "student"})
    )
    assert np.array_equal(default, teacher)
    assert not np.allclose(default, student, atol=0.1)


def test_pth_and_safetensors_of_one_network_have_one_key_and_recipes_have_several(tmp_path):
    state = backbone_state(relation=True)
    save_file(state, tmp_path / "weights.safetensors")
    pth, safetensors = saved(tmp_path, {"state_dict": state}), tmp_path / "weights.safetensors"
    a, b = (Extractor(build_mugs(None, path, size=SIZE)) for path in (pth, safetensors))
    c = Extractor(build_mugs(None, pth, size=SIZE, recipe="cls+mean_patch"))
    assert a.key == b.key != c.key
    assert (a.n_features, c.n_features) == (WIDTH, 2 * WIDTH)


def test_half_precision_weights_are_widened(tmp_path):
    state = {name: value.half() for name, value in backbone_state().items()}
    built = build_dino(None, saved(tmp_path, state), size=PATCH * 4)
    assert {value.dtype for value in built.network.state_dict().values()} == {torch.float32}


def test_preprocessing_is_that_of_the_evaluation_scripts(tmp_path):
    built = build_ibot(None, saved(tmp_path, backbone_state()), size=SIZE)
    assert built.preprocess == Preprocess((SIZE, SIZE), "short", 0.875, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    assert 224 / built.preprocess.crop_fraction == 256


def test_random_weights_follow_the_seed_and_leave_other_draws_alone():
    before = torch.get_rng_state()
    a, b, c = (build_mugs("vit_tiny", "random", size=32, seed=seed) for seed in (3, 3, 4))
    states = [built.network.state_dict() for built in (a, b, c)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["vit.blocks.0.attn.qkv.weight"], states[2]["vit.blocks.0.attn.qkv.weight"])
    assert len(states[0]) == 150
    assert a.spec["name"] == "mugs:vit_tiny_patch16"
    assert a.about["layout"] == "random initialisation"


# What is refused


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


def refused(family, checkpoint, message, folder, name=None, **options):
    path = saved(folder, checkpoint)
    with pytest.raises(ValueError, match=f"^{re.escape(message.replace('FILE', str(path)))}$"):
        BUILD[family](name, path, **{"size": SIZE, **options})


FAULTS = {
    "a tensor of a block is missing": (
        without(backbone_state(), "blocks.1.mlp.fc1.bias"),
        "FILE: expected the network's 30 tensors, got 1 missing: blocks.1.mlp.fc1.bias",
    ),
    "a block has a tensor too many": (
        {**backbone_state(), "blocks.0.attn.relative": torch.zeros(5)},
        "FILE: expected the network's 30 tensors, got 1 left over: blocks.0.attn.relative",
    ),
    "a tensor has another shape": (
        {**backbone_state(), "norm.bias": torch.zeros(65)},
        "FILE: expected the network's 30 tensors, got 1 mis-shaped: norm.bias (65,) for (64,)",
    ),
    "a whole block is missing": (
        {name: value for name, value in backbone_state(depth=3).items() if not name.startswith("blocks.1.")},
        "FILE: expected the network's 42 tensors, got 12 missing: blocks.1.norm1.weight, blocks.1.norm1.bias, "
        "blocks.1.attn.qkv.weight and 9 more",
    ),
    "an unknown tensor beside it": (
        {**backbone_state(), "fc.weight": torch.zeros(5, WIDTH)},
        "FILE: expected the tensors of a DINO backbone, got 1 left over: fc.weight",
    ),
    "it is no ViT": (
        {"layer1.0.conv1.weight": torch.zeros(5)},
        "FILE: expected the tensors of a DINO backbone, got 1 left over: layer1.0.conv1.weight",
    ),
    "it has no class token": (
        without(backbone_state(), "cls_token"),
        "FILE: expected a ViT, got a checkpoint without cls_token",
    ),
    "its width is no multiple of 64": (
        backbone_state(width=96),
        "FILE: expected patch_embed.proj.weight of shape (width, 3, patch, patch), width a multiple of 64, "
        "got (96, 3, 8, 8)",
    ),
    "its grid is not square": (
        {**backbone_state(), "pos_embed": torch.zeros(1, 8, WIDTH)},
        "FILE: expected pos_embed of shape (1, 1 + side * side, 64), got (1, 8, 64)",
    ),
    "it is a DINOv2": (
        {**backbone_state(), "blocks.0.ls1.gamma": torch.ones(WIDTH)},
        "FILE: looks like a DINOv2 ViT (it has blocks.0.ls1.gamma): use timm:vit_small_patch14_dinov2 or its like",
    ),
    "it is a DINOv2 as trained": (
        {"teacher": {"backbone.blocks.0.0.norm1.bias": torch.ones(5), "dino_head.mlp.0.bias": torch.ones(5)}},
        "FILE: looks like a DINOv2 ViT (it has blocks.0.0.norm1.bias): use timm:vit_small_patch14_dinov2 or its like",
    ),
    "it is an EsViT": (
        {"teacher": {"layers.0.blocks.0.norm1.weight": torch.ones(5), "head.mlp.0.bias": torch.ones(5)}},
        "FILE: looks like a Swin Transformer, as of EsViT and CMD (it has layers.0.blocks.0.norm1.weight): use esvit",
    ),
    "no key holds weights": (
        {"epoch": 7, "student": backbone_state()},
        "FILE: expected weights under 'teacher', 'state_dict', 'model' or at the top level of the checkpoint, "
        "got epoch, student: name the key that holds them",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_exactly_a_backbone_is_refused_by_name(fault, tmp_path):
    checkpoint, message = FAULTS[fault]
    refused("dino", checkpoint, message, tmp_path)


def test_another_familys_file_is_refused_with_the_family_it_belongs_to(tmp_path):
    refused(
        "mugs",
        backbone_state(),
        "FILE: expected the tensors of a Mugs backbone, got 12 missing: relation_blocks.0.attn.proj.bias, "
        "relation_blocks.0.attn.proj.weight, relation_blocks.0.attn.qkv.bias and 9 more. It has the layout of "
        "DINO backbone (use dino) or iBOT backbone (use ibot)",
        tmp_path,
    )
    refused(
        "dino",
        {**backbone_state(), "head.weight": torch.zeros(5, WIDTH), "head.bias": torch.zeros(5)},
        "FILE: expected the tensors of a DINO backbone, got 2 left over: head.bias, head.weight. It has the layout of "
        "timm ViT with a classifier (use timm)",
        tmp_path,
    )
    refused(
        "dino",
        backbone_state(mask=True),
        "FILE: expected the tensors of a DINO backbone, got 1 left over: masked_embed. It has the layout of "
        "iBOT backbone, student (use ibot)",
        tmp_path,
    )


@pytest.mark.parametrize("kind", [kind for kind, (_, _, _, layout) in LAYOUTS.items() if "training" in layout])
def test_one_extra_tensor_too_few_or_too_many_is_named(kind, tmp_path):
    family, make, key, layout = LAYOUTS[kind]
    checkpoint = make()
    holder = checkpoint.get(key, checkpoint.get("state_dict", checkpoint))
    extra = [name for name in holder if re.search(r"relation|head", name)][-1]
    short = re.sub(r"^(module\.)?(backbone\.)?", "", extra)
    value = holder.pop(extra)
    refused(
        family,
        checkpoint,
        f"FILE: expected the tensors of a {layout}, got 1 missing: {short}",
        tmp_path,
        checkpoint_key=key,
    )
    holder[extra] = value
    holder["neck.bias"] = value
    refused(
        family,
        checkpoint,
        f"FILE: expected the tensors of a {layout}, got 1 left over: neck.bias",
        tmp_path,
        checkpoint_key=key,
    )


def test_a_name_must_agree_with_the_weights(tmp_path):
    message = (
        "FILE: expected {}, got a ViT of width {}, depth {} and patches of 8 pixels: "
        "leave the name out, or choose another file"
    )
    refused("dino", backbone_state(), message.format("vit_small", 64, 2), tmp_path, name="vit_small")
    refused(
        "dino", backbone_state(width=192), message.format("vit_tiny_patch8", 192, 2), tmp_path, name="vit_tiny_patch8"
    )
    tiny = backbone_state(width=192, depth=12)
    refused("dino", tiny, message.format("vit_tiny_patch16", 192, 12), tmp_path, name="vit_tiny_patch16")
    for name in ("vit_tiny", "vit_tiny_patch8"):
        assert build_dino(name, tmp_path / "weights.pth", size=SIZE).spec["name"] == "dino:vit_tiny_patch8"


@pytest.mark.parametrize(
    ("name", "weights", "options", "message"),
    [
        (None, None, {}, "dino needs weights: give a published checkpoint, or 'random' with a name like vit_small"),
        (None, "random", {}, "random weights need a name such as dino:vit_small, got none: nothing else says it"),
        (
            "vit_smal",
            "random",
            {},
            "unknown ViT 'vit_smal': did you mean 'vit_small'? Known: vit_base, vit_large, vit_small, vit_tiny",
        ),
        ("vit_tiny_patch14", "random", {}, "unknown size of patches '14': did you mean '16'? Known: 16, 8"),
        ("vit_tiny", "random", {"size": 15}, "size must be at least a patch of 16 pixels, got 15"),
        (
            None,
            "random",
            {"recipe": "cls4"},
            "unknown recipe 'cls4': did you mean 'cls'? Known: cls, cls+mean_patch, last4-cls",
        ),
        (
            None,
            "random",
            {"position": "din"},
            "unknown rule of position embeddings 'din': did you mean 'dino'? Known: ",
        ),
    ],
)
def test_wrong_options_are_told_before_any_work(name, weights, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build_dino(name, weights, **options)


def test_four_class_tokens_need_four_blocks(tmp_path):
    message = "recipe 'last4-cls' needs at least 4 blocks, got 3: use 'cls'"
    refused("dino", backbone_state(depth=3), message, tmp_path, recipe="last4-cls")
