"""Backbones to start a distillation from: what loads gives a plain network's tokens, what does not is told by name."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate

from fewshot.distillation.training.state import TrainingState
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.images.preprocess import Preprocess
from fewshot.image_distillation.backbones import (
    BackboneDescription,
    build_backbone,
    load_training,
    rebuild_backbone,
    save_distilled,
    save_training,
)
from fewshot.image_distillation.timm_backbone import backbone_of
from tests.kits.swin import SIZE as SWIN_SIZE
from tests.kits.swin import SWIN_LAYOUTS, own_swin, swin_state
from tests.kits.swin import WINDOW as SWIN_WINDOW
from tests.kits.vit import (
    DEPTH,
    LAYOUTS,
    PATCH,
    SIDE,
    SIZE,
    WIDTH,
    backbone_state,
    mugs_training,
    own_state,
    wrapped_state,
)
from tests.reference.swin_loop import maps_of_blocks
from tests.reference.vit_loop import normed_tokens_of_blocks

if ensure_torchvision() == "absent":
    pytest.skip("torchvision is not installed", allow_module_level=True)
timm = pytest.importorskip("timm", reason="the networks are timm's")

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
VIT = ("vit_small_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3})
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
)
CNN = ("test_resnet", {})
# Name, options, size, prefix tokens, tokens of the grid, width, heads.
NETWORKS = {
    "vit": (*VIT, 32, 1, 16, 48, 3),
    "swin": (*SWIN, 32, 0, 64, 16, 4),
    "cnn": (*CNN, 64, 0, 4, 96, 1),
    "bare vit": (VIT[0], {**VIT[1], "class_token": False, "global_pool": "avg", "fc_norm": False}, 32, 0, 16, 48, 3),
}


def images(size, n=2, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def saved(folder, checkpoint, name="weights.pth"):
    path = folder / name
    torch.save(checkpoint, path)
    return path


def tokens_of(backbone, views):
    with torch.inference_mode():
        return backbone.eval()(views)


def built(kind, **settings):
    name, options, size, *_ = NETWORKS[kind]
    return build_backbone(name, **{"size": size, "options": options, **settings})


# Files


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("is_named", [False, True])
def test_every_vit_layout_gives_the_plain_loops_tokens(kind, is_named, tmp_path):
    family, make, key, _ = LAYOUTS[kind]
    checkpoint = make()
    sizes = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": WIDTH // 64}
    named = {"name": "vit_tiny_patch16_224", "options": sizes} if is_named else {"name": None}
    found = build_backbone(init=saved(tmp_path, checkpoint), checkpoint_key=key, **named)
    tokens = tokens_of(found.backbone, images(SIZE, 1))
    expected = normed_tokens_of_blocks(own_state(checkpoint, key), images(SIZE, 1)[0])[-1]
    np.testing.assert_allclose(tokens.image[0], expected[0], **TOLERANCE)
    np.testing.assert_allclose(tokens.instances[0], expected[1:], **TOLERANCE)
    assert found.description.size == SIZE
    assert (found.relation is not None) is (family == "mugs")


@pytest.mark.parametrize("kind", SWIN_LAYOUTS)
def test_every_swin_layout_gives_the_plain_loops_tokens(kind, tmp_path):
    make, key, _ = SWIN_LAYOUTS[kind]
    checkpoint = make()
    found = build_backbone(None, saved(tmp_path, checkpoint), checkpoint_key=key)
    tokens = tokens_of(found.backbone, images(SWIN_SIZE, 1))
    expected = maps_of_blocks(own_swin(checkpoint, key), images(SWIN_SIZE, 1)[0], SWIN_WINDOW)[-1]
    np.testing.assert_allclose(tokens.instances[0], expected.reshape(4, -1), **TOLERANCE)
    np.testing.assert_allclose(tokens.image[0], expected.mean((0, 1)), **TOLERANCE)
    assert (found.description.recipe, found.relation) == ("mean", None)


def test_a_mugs_files_relation_block_comes_along_under_its_own_names(tmp_path):
    checkpoint = mugs_training()
    relation = build_backbone(None, saved(tmp_path, checkpoint)).relation
    prefix = "backbone.relation_blocks.0."
    expected = {name: value for name, value in checkpoint["teacher"].items() if name.startswith(prefix)}
    assert {f"{prefix}{name}" for name in relation} == set(expected)
    assert len(relation) == 12
    assert all(torch.equal(value, expected[f"{prefix}{name}"]) for name, value in relation.items())
    with torch.device("meta"):
        from fewshot.distillation.relation import RelationBlock

        assert set(RelationBlock(WIDTH, 1).state_dict()) == set(relation)


def test_at_another_size_the_position_embedding_of_a_file_follows_dinos_rule(tmp_path):
    state, size = backbone_state(), PATCH * 5
    found = build_backbone(None, saved(tmp_path, state), size=size)
    patches = state["pos_embed"][:, 1:].reshape(1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
    patches = interpolate(patches, scale_factor=(5.1 / SIDE, 5.1 / SIDE), mode="bicubic")
    resized = torch.cat([state["pos_embed"][:, :1], patches.permute(0, 2, 3, 1).reshape(1, 25, WIDTH)], 1)
    expected = normed_tokens_of_blocks({**state, "pos_embed": resized}, images(size, 1)[0])[-1]
    np.testing.assert_allclose(tokens_of(found.backbone, images(size, 1)).instances[0], expected[1:], **TOLERANCE)
    assert found.preprocess.size == (size, size)


def distilled_swin(folder):
    first = built("swin")
    path = folder / "student.safetensors"
    save_distilled(path, first.backbone, first.description, recipe="mean", preprocess=first.preprocess, training={})
    return None, path, {}


def timms_swin(folder):
    model = timm.create_model(SWIN[0], num_classes=5, **SWIN[1])
    return SWIN[0], saved(folder, model.state_dict()), SWIN[1]


def esvits_swin(folder):
    return None, saved(folder, swin_state()), {}


@pytest.mark.parametrize("make", [distilled_swin, timms_swin, esvits_swin])
def test_a_swins_file_keeps_its_windows_at_another_size(make, tmp_path):
    name, path, options = make(tmp_path)
    own, small, large = (build_backbone(name, path, size=size, options=options) for size in (None, 12, 48))
    assert {block.window_size for block in own.backbone.trunk.network.layers[-1].blocks} <= {(2, 2), (4, 4)}
    for views in (images(12), images(48)):
        expected = tokens_of(own.backbone, views).raw
        assert torch.equal(tokens_of(small.backbone, views).raw, expected)
        assert torch.equal(tokens_of(large.backbone, views).raw, expected)
    assert (small.preprocess.size, large.preprocess.size) == ((12, 12), (48, 48))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timms_own_file_with_its_classifier_gives_its_tokens_before_pooling(name, tmp_path):
    model = timm.create_model(name, num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    found = build_backbone(name, tmp_path / "weights.safetensors", image="mean")
    views = images(160)
    with torch.inference_mode():
        expected = model.forward_features(views)
    expected = expected[:, 1:] if name == "test_vit" else expected.flatten(2).mT
    torch.testing.assert_close(tokens_of(found.backbone, views).instances, expected, rtol=1e-5, atol=1e-5)
    assert found.preprocess.mean == timm.get_pretrained_cfg(name).mean


def test_a_plain_vit_of_timms_needs_no_name(tmp_path):
    model = timm.create_model(VIT[0], num_classes=5, img_size=24, patch_size=8, embed_dim=64, depth=2, num_heads=1)
    found = build_backbone(None, saved(tmp_path, model.state_dict()))
    with torch.inference_mode():
        expected = model.eval().forward_features(images(24))
    torch.testing.assert_close(tokens_of(found.backbone, images(24)).image, expected[:, 0])


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_published_weights_are_timms_at_its_size_and_with_its_preprocessing(kind, tmp_path, monkeypatch):
    name, options, *_ = NETWORKS[kind]
    made = {**options, "depth": 1} if kind == "vit" else options
    model = timm.create_model(name, num_classes=1000, **made).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(
        "fewshot.features.backbones.timm_models.fetch_from_hub", lambda *_: tmp_path / "weights.safetensors"
    )
    found = build_backbone(name, "published", options=made, image="mean")
    with torch.inference_mode():
        expected = model.forward_features(images(224, 1))
    expected = expected[:, 1:] if kind == "vit" else expected.flatten(1, 2)
    torch.testing.assert_close(tokens_of(found.backbone, images(224, 1)).instances, expected, rtol=1e-4, atol=1e-5)
    config = timm.get_pretrained_cfg(name)
    assert found.preprocess.mean == config.mean
    assert found.description.init == f"published: {config.architecture}.{config.tag}"
    if kind == "swin":
        small = build_backbone(name, "published", options=made, size=8)
        assert torch.equal(tokens_of(small.backbone, images(224, 1)).raw, tokens_of(found.backbone, images(224, 1)).raw)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_distilled_file_is_gone_on_from(kind, tmp_path):
    first = built(kind, seed=3)
    path = tmp_path / "student.safetensors"
    preprocess = Preprocess((32, 32), crop_fraction=1.0, mean=(0.1, 0.2, 0.3))
    recipe = first.backbone.image
    save_distilled(path, first.backbone, first.description, recipe=recipe, preprocess=preprocess, training={})
    again = build_backbone(None, path)
    size = NETWORKS[kind][2]
    before, after = (tokens_of(one.backbone, images(size)) for one in (first, again))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert again.preprocess == Preprocess((size, size), crop_fraction=1.0, mean=(0.1, 0.2, 0.3))
    half = build_backbone(None, path, size=size // 2)
    assert tokens_of(half.backbone, images(size // 2)).instances.shape[1] == NETWORKS[kind][4] // 4


# From a name


@pytest.mark.parametrize("kind", NETWORKS)
def test_tokens_before_and_after_the_final_norm_are_timms(kind):
    name, options, size, n_prefix, n_tokens, width, n_heads = NETWORKS[kind]
    backbone = built(kind).backbone
    found = (backbone.n_prefix, backbone.width, backbone.n_heads, backbone.image)
    assert found == (n_prefix, width, n_heads, "token" if n_prefix else "mean")
    extra = {} if kind == "cnn" else {"img_size": size}
    model = timm.create_model(name, num_classes=0, **options, **extra).eval()
    tensors = {**backbone.trunk.network.state_dict()}
    tensors |= {f"norm.{key}": value for key, value in backbone.norm.state_dict().items()}
    model.load_state_dict(tensors)
    tokens = tokens_of(backbone, images(size))
    with torch.inference_mode():
        whole = model.forward_features(images(size))
        normed = {"swin": lambda: whole.flatten(1, 2), "cnn": lambda: whole.flatten(2).mT}.get(kind, lambda: whole)()
        assert tokens.raw.shape == (2, n_prefix + n_tokens, width)
        torch.testing.assert_close(backbone.norm(tokens.raw), normed)
        torch.testing.assert_close(tokens.instances, normed[:, n_prefix:])
        assert torch.equal(tokens.raw, normed) is (kind == "cnn")


@pytest.mark.parametrize("kind", NETWORKS)
def test_local_views_pass_and_everything_is_trained(kind):
    _, _, size, n_prefix, n_tokens, width, _ = NETWORKS[kind]
    backbone = built(kind).backbone.train()
    tokens = backbone(images(size // 2, n=3))
    assert tokens.raw.shape == (3, n_prefix + n_tokens // 4, width)
    (tokens.image.square().sum() + tokens.instances.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_the_mean_may_stand_for_an_image_that_has_a_class_token():
    tokens = tokens_of(built("vit", image="mean").backbone, images(32))
    torch.testing.assert_close(tokens.image, tokens.instances.mean(1))
    assert built("vit", image="mean").description.recipe == "mean"


@pytest.mark.parametrize("kind", NETWORKS)
def test_random_weights_follow_the_seed_and_leave_other_draws_alone(kind):
    before = torch.get_rng_state()
    first, again, other = (built(kind, seed=seed).backbone.state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_loading_a_file_leaves_other_draws_alone(tmp_path):
    files = (
        (None, saved(tmp_path, backbone_state(), "a.pth")),
        (None, saved(tmp_path, swin_state(), "b.pth")),
        ("test_vit", saved(tmp_path, timm.create_model("test_vit", num_classes=7).state_dict(), "c.pth")),
    )
    before = torch.get_rng_state()
    for name, path in files:
        build_backbone(name, path)
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_paths_are_dropped_only_if_that_is_asked_for(kind):
    size = NETWORKS[kind][2]
    for drop_path, is_same in ((0.0, True), (0.5, False)):
        backbone = built(kind, drop_path=drop_path).backbone.train()
        raw = [backbone(images(size, n=8)).raw for _ in range(2)]
        assert torch.equal(*raw) is is_same


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_description_survives_json_and_makes_the_same_network(kind):
    first = built(kind, seed=1)
    other = rebuild_backbone(
        BackboneDescription(**json.loads(json.dumps(first.description._asdict()))), drop_path=0.3, seed=2
    )
    other.load_state_dict(first.backbone.state_dict())
    views = images(NETWORKS[kind][2])
    assert torch.equal(tokens_of(first.backbone, views).image, tokens_of(other, views).image)


def test_a_network_that_is_made_again_drops_the_paths_that_it_is_told_to():
    other = rebuild_backbone(built("vit").description, drop_path=0.5).train()
    assert not torch.equal(*(other(images(32, n=8)).raw for _ in range(2)))


def test_a_tag_is_no_part_of_an_architecture(tmp_path):
    first = build_backbone(f"{VIT[0]}.augreg_in1k", size=32, options=VIT[1])
    assert first.description.name == VIT[0]
    path = tmp_path / "student.safetensors"
    save_distilled(path, first.backbone, first.description, recipe="mean", preprocess=first.preprocess, training={})
    assert build_backbone(f"{VIT[0]}.augreg_in1k", path).description.name == VIT[0]


def test_a_tuple_of_options_is_a_list_as_json_has_it():
    name, options, size, *_ = NETWORKS["swin"]
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    assert build_backbone(name, size=size, options=tuples).description.options == options


# What is refused


class NormFirst(nn.Module):
    """Has a norm that is not its last layer."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.LayerNorm(3), nn.Linear(3, 3)

    def forward_features(self, images):
        return self.last(self.norm(images.flatten(2).mT))


def test_a_norm_that_is_not_the_last_layer_is_not_taken():
    with pytest.raises(ValueError, match=r"^NormFirst does not end with its LayerNorm 'norm', so that its tokens be"):
        backbone_of(NormFirst().eval(), 4, "mean")


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


FAULTS = {
    "a whole block is missing": (
        {name: value for name, value in backbone_state(depth=3).items() if not name.startswith("blocks.1.")},
        None,
        "FILE: expected the network's 42 tensors, got 12 missing: blocks.1.norm1.weight, blocks.1.norm1.bias, "
        "blocks.1.attn.qkv.weight and 9 more",
    ),
    "a relation block in part": (
        without(backbone_state(relation=True), "relation_blocks.0.norm1.bias"),
        None,
        "FILE: expected the tensors of a Mugs backbone, got 1 missing: relation_blocks.0.norm1.bias",
    ),
    "another width than the name's": (
        backbone_state(),
        "vit_tiny_patch16_224",
        "FILE: expected the network's 150 tensors, got 120 missing: blocks.2.norm1.weight, blocks.2.norm1.bias, "
        "blocks.2.attn.qkv.weight and 117 more; 30 mis-shaped: cls_token (1, 1, 64) for (1, 1, 192), "
        "pos_embed (1, 2, 64) for (1, 2, 192), patch_embed.proj.weight (64, 3, 8, 8) for (192, 3, 16, 16) "
        "and 27 more",
    ),
    "a Swin under another name": (
        swin_state(),
        "swin_tiny_patch4_window7_224",
        "FILE: expected the network's 171 tensors, got 94 missing: layers.1.blocks.1.norm1.weight, "
        "layers.1.blocks.1.norm1.bias, layers.1.blocks.1.attn.relative_position_bias_table and 91 more; ",
    ),
    "a DINOv2": (
        {**backbone_state(), "blocks.0.ls1.gamma": torch.ones(WIDTH)},
        None,
        "FILE: looks like a DINOv2 ViT (it has blocks.0.ls1.gamma): use timm:vit_small_patch14_dinov2 or its like",
    ),
    "a CNN without a name": (
        {"layer1.0.conv1.weight": torch.zeros(5)},
        None,
        "FILE: expected a checkpoint of Mugs, DINO, iBOT, EsViT or CMD, or what fewshot distill wrote, got one with "
        "layer1.0.conv1.weight: give the name of the timm model that it belongs to",
    ),
    "a CNN under another's name": (
        {"layer1.0.conv1.weight": torch.zeros(5)},
        "test_resnet",
        "FILE does not fit timm's 'test_resnet.r160_in1k': Error(s) in loading state_dict for ResNet: Missing key(s) "
        'in state_dict: "conv1.0.weight"',
    ),
    "no key holds weights": (
        {"epoch": 7, "student": backbone_state()},
        None,
        "FILE: expected weights under 'teacher', 'state_dict', 'model' or at the top level of the checkpoint, "
        "got epoch, student: name the key that holds them",
    ),
    "heads alone": (
        without(wrapped_state(1, {}), "backbone.cls_token"),
        None,
        "FILE: expected a checkpoint of Mugs, DINO, iBOT, EsViT or CMD, or what fewshot distill wrote, got one with "
        "pos_embed, patch_embed.proj.weight, patch_embed.proj.bias and 26 more: give the name of the timm model that "
        "it belongs to",
    ),
}


def message_of(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_refused_by_name(fault, tmp_path):
    checkpoint, name, expected = FAULTS[fault]
    path = saved(tmp_path, checkpoint)
    with pytest.raises(ValueError, match=f"^{re.escape(expected.replace('FILE', str(path)))}") as error:
        build_backbone(name, path)
    message_of(error)


def test_a_files_architecture_is_not_changed_by_options(tmp_path):
    first = built("vit")
    path = tmp_path / "student.safetensors"
    save_distilled(path, first.backbone, first.description, recipe="token", preprocess=first.preprocess, training={})
    with pytest.raises(ValueError, match=r"options \(depth\) need a name: leave them out, or give both$"):
        build_backbone(None, path, options={"depth": 3})
    with pytest.raises(
        ValueError, match=r"expected vit_base_patch16_224 with options .*, got vit_small_patch16_224 wit"
    ):
        build_backbone("vit_base_patch16_224", path)
    assert build_backbone(VIT[0], path, options=VIT[1]).description.name == VIT[0]


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        (None, {}, ValueError, "init='random' needs the name of a timm model such as vit_small_patch16_224, got none"),
        ("vit_smal", {}, ValueError, "unknown timm model 'vit_smal': did you mean "),
        ("vit_small_patch16_224", {"drop_path": 1.0}, ValueError, "drop_path must lie in [0, 1), got 1.0"),
        ("vit_small_patch16_224", {"image": "cls"}, ValueError, "unknown embedding of images 'cls'. Known: mean, toke"),
        (
            "vit_tiny_patch16_224",
            {"size": 40},
            ValueError,
            "size must be a multiple of the patch's 16 pixels, got 40",
        ),
        (
            "vit_tiny_patch16_224",
            {"options": {"dept": 3}},
            ValueError,
            "timm cannot make 'vit_tiny_patch16_224' with {'img_size': 224, 'weight_init': 'jax', 'dept': 3, 'dynamic_",
        ),
        (
            "vit_tiny_patch16_224",
            {"options": {"num_heads": 5}},
            ValueError,
            "timm cannot make 'vit_tiny_patch16_224' with {'img_size': 224, 'weight_init': 'jax', 'num_heads': 5, 'd",
        ),
        ("vit_tiny_patch16_224", {"options": {"act_layer": torch.nn.GELU}}, TypeError, "options must be what JSON can"),
        (
            "vit_tiny_patch16_224",
            {"size": 32, "options": {"global_pool": "avg"}},
            ValueError,
            "this ViT has its final norm after pooling, its tokens none: pass the option fc_norm=False",
        ),
        ("vit_small_patch16_224", {"init": "nowhere.pth"}, FileNotFoundError, "no such checkpoint: nowhere.pth"),
    ],
)
def test_wrong_settings_are_told(name, settings, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}") as caught:
        build_backbone(name, **settings)
    message_of(caught)


def test_another_kind_of_our_own_file_is_told(tmp_path):
    path = tmp_path / "run.safetensors"
    save_training(path, TrainingState(3, {"center": torch.zeros(2)}, {}))
    message = f"{path}: expected 'distilled', got 'distillation-state': pass a file saved as 'distilled'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_backbone(None, path)


# What a run goes on from


def test_a_state_comes_back_to_the_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "student.norm.weight": torch.randn(5, generator=generator),
        "trace": torch.randn(3, 2, generator=generator, dtype=torch.float64),
        "n_pushed": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(4, generator=generator).bfloat16(),
        "generator": generator.get_state(),
        "none yet": torch.zeros(0, 3),
    }
    metadata = {"seed": 1, "method": "mugs", "monitor": {"n_bad": 2}, "shares": [0.1, 0.2]}
    path = tmp_path / "run.safetensors"
    save_training(path, TrainingState(12, tensors, metadata))
    found = load_training(path)
    assert (found.step, found.metadata, set(found.tensors)) == (12, metadata, set(tensors))
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert all(found.tensors[name].dtype == value.dtype for name, value in tensors.items())


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "run.safetensors"
    save_training(path, TrainingState(1, {"a": torch.zeros(2)}, {}))
    with pytest.raises(TypeError):
        save_training(path, TrainingState(2, {"a": torch.ones(2)}, {"stream": object()}))
    tied = torch.ones(2)
    with pytest.raises(RuntimeError):
        save_training(path, TrainingState(2, {"a": tied, "b": tied}, {}))
    assert load_training(path).step == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_distilled_file_is_no_state(tmp_path):
    first = built("vit")
    path = tmp_path / "student.safetensors"
    save_distilled(path, first.backbone, first.description, recipe="token", preprocess=first.preprocess, training={})
    message = f"{path}: expected 'distillation-state', got 'distilled': pass a file saved as 'distillation-state'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_training(path)


def test_narrow_networks_at_random_are_not_almost_constant():
    """Xavier's standard deviation of a square layer of width d is 1/√d; timm's default is 0.02 for any width."""
    options = {"patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2}
    std = {
        name: build_backbone("vit_tiny_patch16_224", size=16, options={**options, **init})
        .backbone.trunk.network.blocks[0]
        .attn.proj.weight.std()
        .item()
        for name, init in {"ours": {}, "timm's": {"weight_init": ""}}.items()
    }
    assert std == pytest.approx({"ours": 1 / 8, "timm's": 0.02}, rel=0.1)
