"""Checkpoints of EsViT and CMD: every layout loads whole and gives a plain Swin's numbers; other files are refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fewshot.features.backbones.esvit import build_esvit
from fewshot.features.backbones.swin_layouts import SwinArchitecture, named_swin, swin_architecture_of
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.frozen import Extractor, weights_hash
from fewshot.features.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from tests.kits.swin import HEADS, SIZE, SWIN_LAYOUTS, WIDTH, WINDOW, Swin, esvit_training, own_swin, swin_state
from tests.kits.vit import backbone_state
from tests.reference.swin_loop import maps_of_blocks

ensure_torchvision()
timm = pytest.importorskip("timm", reason="the networks are timm's")
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def image(seed=0, size=SIZE):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def features(built, images):
    with torch.inference_mode():
        return built.network.eval()(images)[0].numpy()


def saved(folder, checkpoint, name="weights.pth"):
    path = folder / name
    torch.save(checkpoint, path)
    return path


# What loads


@pytest.mark.parametrize("kind", SWIN_LAYOUTS)
def test_every_layout_loads_and_gives_the_plain_loops_mean_token(kind, tmp_path):
    make, key, layout = SWIN_LAYOUTS[kind]
    checkpoint = make()
    built = build_esvit(None, saved(tmp_path, checkpoint), checkpoint_key=key)
    expected = maps_of_blocks(own_swin(checkpoint, key), image()[0], WINDOW)[-1].mean((0, 1))
    np.testing.assert_allclose(features(built, image()), expected, **TOLERANCE)
    assert built.about["layout"] == layout
    assert built.spec == {"family": "esvit", "name": "esvit:swin_width8_depths2-1-2_window4", "recipe": "mean"}


def test_the_last_four_blocks_means_stand_in_their_order_and_only_the_last_stages_are_normalised(tmp_path):
    built = build_esvit(None, saved(tmp_path, swin_state()), recipe="last4-mean")
    maps = maps_of_blocks(own_swin(swin_state(), ""), image()[0], WINDOW)
    expected = np.concatenate([tokens.mean((0, 1)) for tokens in maps[-4:]])
    assert len(expected) == WIDTH * (1 + 2 + 4 + 4)
    np.testing.assert_allclose(features(built, image()), expected, **TOLERANCE)


def test_of_faint_images_too_since_norms_have_the_originals_eps(tmp_path):
    faint = image() / 500
    state = {**swin_state(), "patch_embed.proj.bias": torch.zeros(WIDTH)}
    expected = maps_of_blocks(own_swin(state, ""), faint[0], WINDOW)[-1].mean((0, 1))
    np.testing.assert_allclose(features(build_esvit(None, saved(tmp_path, state)), faint), expected, **TOLERANCE)


def test_published_sizes_have_the_published_numbers_of_features():
    assert str(named_swin("swin_tiny_window14")) == "swin_tiny_window14"
    for recipe, n_features in (("mean", 768), ("last4-mean", 384 + 384 + 768 + 768)):
        built = build_esvit("swin_tiny_window14", "random", recipe=recipe)
        with torch.inference_mode():
            assert built.network.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, n_features)
    tables = {len(value) for name, value in built.network.state_dict().items() if name.endswith("bias_table")}
    assert tables == {27 * 27, 13 * 13}
    n_parameters = sum(value.numel() for value in built.network.parameters())
    assert 27e6 < n_parameters < 29e6


def test_preprocessing_is_that_of_the_evaluation_scripts():
    built = build_esvit("swin_tiny", "random")
    assert built.preprocess == Preprocess((224, 224), "short", 0.875, "bicubic", IMAGENET_MEAN, IMAGENET_STD)


@given(
    width=st.integers(1, 5).map(lambda n: 8 * n),
    depths=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    last=st.integers(1, 3),
    window=st.integers(1, 9),
    patch=st.integers(1, 5),
)
def test_sizes_are_read_off_the_shapes(width, depths, last, window, patch):
    grids = [last * 2 ** (len(depths) - 1 - stage) for stage in range(len(depths))]
    windows = tuple(min(max(window, last), grid) for grid in grids)
    heads = tuple(1 + stage for stage in range(len(depths)))
    with torch.device("meta"):
        state = Swin(width, depths, heads, windows, patch).state_dict()
    found = swin_architecture_of(state, "FILE")
    assert found == SwinArchitecture(width, tuple(depths), heads, windows, patch)
    assert found.size == grids[0] * patch


def test_another_size_keeps_the_windows_and_the_weights(tmp_path):
    path = saved(tmp_path, swin_state())
    own, larger = build_esvit(None, path), build_esvit(None, path, size=2 * SIZE)
    assert (own.preprocess.size, larger.preprocess.size) == ((SIZE, SIZE), (2 * SIZE, 2 * SIZE))
    assert weights_hash(own.network) == weights_hash(larger.network)
    # Every map of a stage is a multiple of its windows: four windows of the last stage, not one larger.
    doubled = image(size=2 * SIZE)
    blocks = larger.network.swin.layers[-1].blocks
    assert all(block.window_size == (2, 2) for block in blocks)
    assert features(larger, doubled).shape == (WIDTH * 4,)


def test_teacher_is_the_default_and_student_has_weights_of_its_own(tmp_path):
    path = saved(tmp_path, esvit_training())
    default, teacher, student = (
        features(build_esvit(None, path, **options), image())
        for options in ({}, {"checkpoint_key": "teacher"}, {"checkpoint_key": "student"})
    )
    assert np.array_equal(default, teacher)
    assert not np.allclose(default, student, atol=0.1)


def test_pth_and_safetensors_of_one_network_have_one_key_and_recipes_have_several(tmp_path):
    save_file(swin_state(), tmp_path / "weights.safetensors")
    pth, safetensors = saved(tmp_path, {"model": swin_state()}), tmp_path / "weights.safetensors"
    a, b = (Extractor(build_esvit(None, path)) for path in (pth, safetensors))
    c = Extractor(build_esvit(None, pth, recipe="last4-mean"))
    assert a.key == b.key != c.key
    assert (a.n_features, c.n_features) == (4 * WIDTH, 11 * WIDTH)


def test_random_weights_follow_the_seed_and_leave_other_draws_alone():
    before = torch.get_rng_state()
    hashes = [weights_hash(build_esvit("swin_tiny", "random", seed=seed).network) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    assert hashes[0] == hashes[1] != hashes[2]


# What is refused


def refused(checkpoint, message, folder, name=None, **options):
    path = saved(folder, checkpoint)
    with pytest.raises(ValueError, match=f"^{re.escape(message.replace('FILE', str(path)))}$"):
        build_esvit(name, path, **options)


def without(*names):
    return {name: value for name, value in swin_state().items() if name not in names}


TABLE = "layers.0.blocks.1.attn.relative_position_bias_table"
FAULTS = {
    "a merge is missing": (
        without("layers.0.downsample.reduction.weight"),
        "FILE: expected the network's 77 tensors, got 1 missing: layers.0.downsample.reduction.weight",
    ),
    "a whole block is missing": (
        {name: value for name, value in swin_state(depths=(2, 2, 2)).items() if "layers.1.blocks.0." not in name},
        "FILE: expected layers.1.blocks.0.attn.relative_position_bias_table of shape ((2 window - 1)^2, heads), "
        "got none",
    ),
    "a block of another window, which timm would resize": (
        {**swin_state(), TABLE: torch.zeros(25, HEADS[0])},
        f"FILE: expected the network's 77 tensors, got 1 mis-shaped: {TABLE} (25, 2) for (49, 2)",
    ),
    "a tensor of another width": (
        {**swin_state(), "norm.bias": torch.zeros(31)},
        "FILE: expected the network's 77 tensors, got 1 mis-shaped: norm.bias (31,) for (32,)",
    ),
    "windows of no Swin": (
        swin_state(windows=(2, 4, 2)),
        "FILE: expected windows of (2, 2, 2) tokens in the stages of a Swin, got (2, 4, 2)",
    ),
    "a table of no window": (
        {**swin_state(), "layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(48, 2)},
        "FILE: expected layers.0.blocks.0.attn.relative_position_bias_table of shape ((2 window - 1)^2, heads), "
        "got (48, 2)",
    ),
    "no patches": (
        without("patch_embed.proj.weight"),
        "FILE: expected patch_embed.proj.weight of shape (width, 3, patch, patch), got none",
    ),
    "a table of positions too many": (
        {**swin_state(), "layers.0.extra.relative_position_bias_table": torch.zeros(49, 2)},
        "FILE: expected the network's 77 tensors, got 1 left over: layers.0.extra.relative_position_bias_table",
    ),
    "an absolute position embedding": (
        {**swin_state(), "absolute_pos_embed": torch.zeros(1, 64, 8)},
        "FILE: expected the tensors of an EsViT backbone, got 1 left over: absolute_pos_embed",
    ),
    "a classifier": (
        {**swin_state(), "head.weight": torch.zeros(5, 32)},
        "FILE: expected the tensors of an EsViT backbone, got 1 left over: head.weight",
    ),
    "a ViT": (backbone_state(), "FILE: looks like a ViT (it has cls_token): use mugs, dino or ibot"),
    "no transformer": (
        {"layer1.0.conv1.weight": torch.zeros(5)},
        "FILE: expected a Swin Transformer of EsViT or CMD, with tensors such as layers.0.blocks.0.norm1.weight, "
        "got layer1.0.conv1.weight",
    ),
    "no key holds weights": (
        {"epoch": 7, "student": swin_state()},
        "FILE: expected weights under 'teacher', 'state_dict', 'model' or at the top level of the checkpoint, "
        "got epoch, student: name the key that holds them",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_exactly_a_backbone_is_refused_by_name(fault, tmp_path):
    checkpoint, message = FAULTS[fault]
    refused(checkpoint, message, tmp_path)


def test_a_region_head_in_part_is_named(tmp_path):
    checkpoint = esvit_training()
    del checkpoint["teacher"]["head_dense.last_layer.weight_g"]
    message = "FILE: expected the tensors of an EsViT training, got 1 missing: head_dense.last_layer.weight_g"
    refused(checkpoint, message, tmp_path)


def test_timms_own_file_is_refused_since_its_norms_are_others(tmp_path):
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=32, embed_dim=8, depths=(1, 1), num_heads=(2, 2)
    )
    message = (
        "FILE: looks like timm's Swin (it has layers.1.downsample.reduction.weight): "
        "use timm:swin_tiny_patch4_window7_224"
    )
    refused(model.state_dict(), message, tmp_path)


def test_a_name_must_agree_with_the_weights(tmp_path):
    message = (
        "FILE: expected swin_tiny, got swin_width8_depths2-1-2_window4: leave the name out, or choose another file"
    )
    refused(swin_state(), message, tmp_path, name="swin_tiny")
    with torch.device("meta"):
        state = Swin(*named_swin("swin_base_window14")).state_dict()
    assert str(swin_architecture_of(state, "FILE")) == "swin_base_window14"


@pytest.mark.parametrize(
    ("name", "weights", "options", "message"),
    [
        (None, None, {}, "esvit needs weights: give a published checkpoint, or 'random' with a name like swin_tiny"),
        (None, "random", {}, "random weights need a name such as esvit:swin_tiny, got none: nothing else says it"),
        ("swin_tin", "random", {}, "unknown Swin Transformer 'swin_tin': did you mean 'swin_tiny'? Known: "),
        ("swin_tiny_window8", "random", {}, "unknown size of windows '8'. Known: 14, 7"),
        ("swin_tiny", "random", {"size": 230}, "size must be a multiple of the patch's 4 pixels, got 230"),
        (None, "random", {"recipe": "cls"}, "unknown recipe 'cls'. Known: last4-mean, mean"),
    ],
)
def test_wrong_options_are_told_before_any_work(name, weights, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build_esvit(name, weights, **options)


def test_four_means_need_four_blocks(tmp_path):
    message = "recipe 'last4-mean' needs at least 4 blocks, got 3: use 'mean'"
    refused(swin_state(depths=(1, 1, 1)), message, tmp_path, recipe="last4-mean")
